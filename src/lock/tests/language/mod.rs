//! The line language of the golden scripts: how a line becomes a command, and how outcomes, events
//! and views become lines. Ids are small numbers, stamps and durations are milliseconds.

pub(crate) mod parse;
pub(crate) mod show;

//! One decoder each: a function of bytes that panics when something is wrong.

pub(crate) mod codec;
pub(crate) mod config;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod log;
pub(crate) mod names;
pub(crate) mod peers;
pub(crate) mod snapshot;

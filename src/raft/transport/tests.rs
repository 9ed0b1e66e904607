//! Two ends of the transport against each other, and each against a peer that misbehaves.

mod calls;
mod fake;
mod frames;
mod golden;
mod hello;
mod rpcs;
mod silence;

//! The machine. (Being written; this is the shape the other parts compile against.)

/// The whole replicated state.
#[derive(Debug, Default)]
pub struct Machine {}

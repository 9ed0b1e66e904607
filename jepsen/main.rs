//! Placeholder while the tree is laid out.

fn main() {}

//! The log against openraft's own suite, crashes at every operation, and damage.

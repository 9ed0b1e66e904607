//! A resource that remembers the highest token and refuses lower ones, as every resource should.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

#[derive(Default)]
pub(super) struct Resource(Mutex<BTreeMap<String, u64>>);

impl Resource {
    /// The highest token if the write comes too late.
    pub(super) fn write(&self, name: &str, token: u64) -> Result<(), u64> {
        let mut highest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = highest.entry(name.to_owned()).or_default();
        if token < *highest {
            return Err(*highest);
        }
        *highest = token;
        Ok(())
    }
}

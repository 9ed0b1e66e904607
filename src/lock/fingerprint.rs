//! Fingerprints of commands, to notice a request id that comes back with another command.
//!
//! FNV-1a (Fowler, Noll, Vo) with 64 bits over a canonical byte form. It guards against mistakes,
//! not against an adversary: whoever knows a request id may use it anyway.

use crate::command::{Acquire, LeaseTerm, Mode, OpenSession};
use crate::ids::Metadata;

struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Texts carry their length, so that neighbours cannot trade characters.
    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn metadata(&mut self, metadata: &Metadata) {
        for (key, value) in metadata.entries() {
            self.text(key);
            self.text(value);
        }
    }
}

/// All that the acquire asks for; not its wait, which a repeat may choose anew, and not the lease
/// id, which is minted for each try.
pub(crate) fn of_acquire(acquire: &Acquire) -> u64 {
    let mut hash = Fnv::new();
    hash.bytes(b"acquire");
    hash.text(acquire.name.as_str());
    hash.text(acquire.owner.as_str());
    hash.number(match acquire.mode {
        Mode::Exclusive => 0,
        Mode::Shared => 1,
    });
    match acquire.term {
        LeaseTerm::Ttl(ttl) => hash.number(ttl.ms()),
        LeaseTerm::Forever => hash.bytes(b"forever"),
        LeaseTerm::Session(id) => hash.bytes(&id.0.to_le_bytes()),
    }
    hash.number(acquire.grace.ms());
    hash.metadata(&acquire.metadata);
    hash.0
}

/// All that the session asks for; not its id, which is minted for each try.
pub(crate) fn of_open_session(open: &OpenSession) -> u64 {
    let mut hash = Fnv::new();
    hash.bytes(b"session");
    hash.text(open.owner.as_str());
    hash.number(open.ttl.ms());
    hash.metadata(&open.metadata);
    hash.0
}

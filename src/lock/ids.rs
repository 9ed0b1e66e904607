//! Validated identifiers and texts of the core.
//!
//! A value of these types is valid by construction, also when it is decoded: `serde` goes through
//! the same checks. Identifiers that give rights (lease and session ids) never show themselves in
//! `Debug` output beyond their first eight digits, so that a log line cannot hand over a lock.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a text or number is not a valid identifier; the text can be shown to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(pub String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! random_id {
    ($name:ident, $what:literal) => {
        #[doc = concat!("A random 128-bit ", $what, ", written as 32 lower-case hexadecimal digits.")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        // Aligned as a u64: each lock is indexed by such ids several times.
        #[repr(Rust, packed(8))]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", { self.0 })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:08x}…", self.0 >> 96)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                if text.len() != 32 || !digits {
                    return Err(Invalid(
                        concat!("a ", $what, " is 32 lower-case hexadecimal digits").to_string(),
                    ));
                }
                u128::from_str_radix(text, 16).map(Self).map_err(|e| Invalid(e.to_string()))
            }
        }
    };
}

random_id!(LeaseId, "lease id");
random_id!(SessionId, "session id");

/// The UUID under which a client may repeat a request without repeating its effect (P7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
// As the ids above.
#[repr(Rust, packed(8))]
pub struct RequestId(pub u128);

/// A fencing token (P2): greater than every token granted before it, and below 2^53.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Token(pub u64);

/// A position in the sequence of everything that happened; each event has its own.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Revision(pub u64);

macro_rules! bounded_text {
    ($name:ident, $what:literal, $bytes_max:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length (in bytes of UTF-8) and the absence of control characters.
            pub fn new(text: &str) -> Result<Self, Invalid> {
                if text.is_empty() || text.len() > $bytes_max {
                    return Err(Invalid(format!(
                        concat!("a ", $what, " has 1 to {} bytes, this one has {}"),
                        $bytes_max,
                        text.len()
                    )));
                }
                if text.chars().any(char::is_control) {
                    return Err(Invalid(
                        concat!("a ", $what, " has no control characters").to_string(),
                    ));
                }
                Ok(Self(text.into()))
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> String {
                text.0.as_ref().into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl core::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

bounded_text!(
    LockName,
    "lock name",
    limits::NAME_BYTES_MAX,
    "The name of a lock; it may hold slashes. Cloning shares the text."
);
bounded_text!(
    Owner,
    "owner",
    limits::OWNER_BYTES_MAX,
    "Free text that tells people who holds or waits."
);
bounded_text!(
    RecordKey,
    "record key",
    limits::RECORD_KEY_BYTES_MAX,
    "Under what a record of the cluster itself is kept."
);
bounded_text!(Reason, "reason", limits::REASON_BYTES_MAX, "Why somebody force-released a lock.");

/// A small text that a lock carries for whoever reads it: an address, a version, a checkpoint. It
/// may be empty and may hold any characters. Cloning shares the text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Value(Arc<str>);

impl Value {
    /// Checks the length, in bytes of UTF-8.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        if text.len() > limits::VALUE_BYTES_MAX {
            return Err(Invalid(format!(
                "a value has at most {} bytes, this one has {}",
                limits::VALUE_BYTES_MAX,
                text.len()
            )));
        }
        Ok(Self(text.into()))
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Value {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::new(&text)
    }
}

impl From<Value> for String {
    fn from(value: Value) -> String {
        value.0.as_ref().into()
    }
}

/// What a record of the cluster itself says; only the shell knows its form. Never shown, because it
/// may be the hash of a secret.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct RecordValue(Arc<[u8]>);

impl RecordValue {
    /// Checks the length.
    pub fn new(bytes: &[u8]) -> Result<Self, Invalid> {
        if bytes.len() > limits::RECORD_BYTES_MAX {
            return Err(Invalid(format!(
                "a record has at most {} bytes, this one has {}",
                limits::RECORD_BYTES_MAX,
                bytes.len()
            )));
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes themselves.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for RecordValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl TryFrom<Vec<u8>> for RecordValue {
    type Error = Invalid;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Invalid> {
        Self::new(&bytes)
    }
}

impl From<RecordValue> for Vec<u8> {
    fn from(value: RecordValue) -> Self {
        value.0.as_ref().into()
    }
}

/// Some of the permits of a lock, and how many there are; 1 ≤ count ≤ limit ≤ 100,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u32, u32)", into = "(u32, u32)")]
pub struct Permits {
    count: u32,
    limit: u32,
}

impl Permits {
    /// Checks the bounds.
    pub fn new(count: u64, limit: u64) -> Result<Self, Invalid> {
        let max = limits::PERMITS_MAX;
        match (u32::try_from(count), u32::try_from(limit)) {
            (Ok(count), Ok(limit))
                if (1..=max).contains(&limit) && (1..=limit).contains(&count) =>
            {
                Ok(Self { count, limit })
            }
            (Ok(_) | Err(_), Ok(_) | Err(_)) => Err(Invalid(format!(
                "permits are 1 to limit, and the limit is 1 to {max}, not {count} of {limit}"
            ))),
        }
    }

    /// How many of them.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Of how many.
    pub fn limit(self) -> u32 {
        self.limit
    }
}

impl TryFrom<(u32, u32)> for Permits {
    type Error = Invalid;

    fn try_from((count, limit): (u32, u32)) -> Result<Self, Invalid> {
        Self::new(u64::from(count), u64::from(limit))
    }
}

impl From<Permits> for (u32, u32) {
    fn from(permits: Permits) -> Self {
        (permits.count, permits.limit)
    }
}

/// What the holder wants others to see (a job link, a host): text by text, at most 4 KiB in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Metadata(Option<Arc<BTreeMap<String, String>>>);

impl Metadata {
    /// The entries in key order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|map| map.iter()).map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

impl TryFrom<BTreeMap<String, String>> for Metadata {
    type Error = Invalid;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, Invalid> {
        let bytes: usize = map.iter().map(|(k, v)| k.len().saturating_add(v.len())).sum();
        if bytes > limits::METADATA_BYTES_MAX {
            return Err(Invalid(format!(
                "metadata has at most {} bytes, this has {bytes}",
                limits::METADATA_BYTES_MAX
            )));
        }
        Ok(Self((!map.is_empty()).then(|| Arc::new(map))))
    }
}

impl From<Metadata> for BTreeMap<String, String> {
    fn from(metadata: Metadata) -> Self {
        metadata.0.map(|map| map.as_ref().clone()).unwrap_or_default()
    }
}

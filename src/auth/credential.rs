//! A credential: what proves an identity, and what that identity may do. Kept as a record of the
//! cluster, so that every node decides by the same ones.

use std::fmt::Write as _;

use oarlock_core::time::LeaseTime;
use serde::{Deserialize, Serialize};

use crate::auth::key::{Hash, ID_DIGITS};
use crate::auth::right::{Right, Scope, Verb, allow};

/// The keys of the records begin so.
pub const RECORDS: &str = "auth/";
/// Ids of certificates begin so; those of tokens are hexadecimal digits.
pub const CERTIFICATE: &str = "cert-";
/// Longest name of an identity, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Rights of one credential; each costs a comparison with every call.
pub const RIGHTS_MAX: usize = 32;
/// Version of the text in a record.
const VERSION: u32 = 1;

/// What proves the identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A key whose secret has this hash.
    Key(Hash),
    /// A client certificate of the configured authority with the identity's name.
    Certificate,
}

/// How much one identity may use, at each node unless something else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    /// Requests a second, with as many at once after a second of rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// Calls that wait for a lock at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u32>,
    /// Streams open at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    /// Locks held or waited for at once, in the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks: Option<u32>,
    /// Sessions open at once, in the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
}

/// An identity with its proof and its rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Names the record; public.
    pub id: String,
    /// Of the identity; several keys may have the same, for instance while one replaces another.
    pub name: String,
    pub proof: Proof,
    pub rights: Vec<Right>,
    /// By the lease clock.
    pub expires_at: Option<LeaseTime>,
    pub quotas: Quotas,
}

/// As it is written down. Persisted; fields are added with a new version only.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    rights: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at_us: Option<u64>,
    #[serde(default)]
    quotas: Quotas,
}

/// Whether a text may be the name of an identity.
pub fn is_name(text: &str) -> bool {
    let plain = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'_' | b'-');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// Whether a text has the form of a credential's id. Any other may be a secret in the wrong place,
/// and is written nowhere.
pub fn is_id(text: &str) -> bool {
    let digit = |it: u8| matches!(it, b'0'..=b'9' | b'a'..=b'f');
    match text.strip_prefix(CERTIFICATE) {
        Some(name) => is_name(name),
        None => text.len() == ID_DIGITS && text.bytes().all(digit),
    }
}

impl Credential {
    /// The key of its record.
    pub fn record(&self) -> String {
        format!("{RECORDS}{}", self.id)
    }

    /// Whether it is over at that time.
    pub fn is_expired(&self, now: LeaseTime) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether its rights are enough.
    pub fn may(&self, verb: Verb, scope: Scope<'_>) -> bool {
        allow(&self.rights, verb, scope)
    }

    /// The text of its record.
    pub fn encode(&self) -> String {
        let hash = match &self.proof {
            Proof::Key(hash) => Some(hex(hash)),
            Proof::Certificate => None,
        };
        let written = Written {
            version: VERSION,
            name: self.name.clone(),
            hash,
            rights: self.rights.iter().map(ToString::to_string).collect(),
            expires_at_us: self.expires_at.map(|at| at.0),
            quotas: self.quotas,
        };
        serde_json::to_string(&written).unwrap_or_default()
    }

    /// Reads a record; `None` if it is of another version, or none at all.
    pub fn decode(key: &str, text: &[u8]) -> Option<Self> {
        let id = key.strip_prefix(RECORDS)?;
        let written: Written = serde_json::from_slice(text).ok()?;
        let rights = written.rights.iter().map(|text| text.parse().ok()).collect::<Option<_>>()?;
        let proof = match &written.hash {
            Some(digits) => Proof::Key(hash_of(digits)?),
            None => Proof::Certificate,
        };
        (written.version == VERSION).then(|| Self {
            id: id.to_owned(),
            name: written.name,
            proof,
            rights,
            expires_at: written.expires_at_us.map(LeaseTime),
            quotas: written.quotas,
        })
    }
}

/// The hexadecimal digits of a hash.
pub fn hex(hash: &Hash) -> String {
    hash.iter().fold(String::new(), |mut digits, byte| {
        let _infallible = write!(digits, "{byte:02x}");
        digits
    })
}

/// Reads a hash from its hexadecimal digits.
pub fn hash_of(digits: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() || !digits.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::auth::key::Key;

    pub(crate) fn credential(key: &Key, name: &str, rights: &[&str]) -> Credential {
        Credential {
            id: key.id.clone(),
            name: name.to_owned(),
            proof: Proof::Key(key.hash()),
            rights: rights.iter().map(|text| text.parse().expect("a right")).collect(),
            expires_at: Some(LeaseTime(5)),
            quotas: Quotas { requests_per_second: Some(7), ..Quotas::default() },
        }
    }

    #[test]
    fn a_record_reads_back_and_holds_no_secret() {
        let key = Key::new(1, 0xabcd << 80);
        let kept = credential(&key, "ci", &["acquire:a\"/", "admin"]);
        let text = kept.encode();
        assert!(!text.contains("abcd00"), "{text}");
        assert_eq!(Credential::decode(&kept.record(), text.as_bytes()), Some(kept.clone()));
        let certificate = Credential { proof: Proof::Certificate, ..kept.clone() };
        let read = Credential::decode(&certificate.record(), certificate.encode().as_bytes());
        assert_eq!(read, Some(certificate));
        // Kept for ever: what was written must be read.
        let golden = r#"{"version":1,"name":"ci","hash":"#;
        assert!(text.starts_with(golden), "{text}");
        for bad in ["", "{}", &text.replace("\"version\":1", "\"version\":2")] {
            assert_eq!(Credential::decode(&kept.record(), bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn an_id_is_not_taken_for_a_secret() {
        let key = Key::new(1, 0xabcd << 80);
        for good in [&key.id, "cert-ci"] {
            assert!(is_id(good), "{good}");
        }
        let word = key.word();
        for bad in ["", "cert-", "cert-a b", &word, &word[25..], &key.id[1..]] {
            assert!(!is_id(bad), "{bad}");
        }
    }

    #[test]
    fn names_are_plain() {
        for good in ["ci", "team-a.deploy_2", &"n".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a b", "a/b", "ü", &"n".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}

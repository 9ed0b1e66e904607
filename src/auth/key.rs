//! The word that proves an identity: `oarkey1-<id>-<secret>`.
//!
//! The id is public: it finds the credential and names it in lists. The secret has 128 bits of
//! chance; the cluster keeps its hash alone, and so many bits need neither salt nor a slow hash.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Form and version of the word.
const VERSION: &str = "oarkey1";
pub(super) const ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 32;

/// The hash of a secret.
pub type Hash = [u8; 32];

/// An access token, as its holder has it. Shows nothing of its secret but to whom it is written.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// 16 hexadecimal digits.
    pub id: String,
    secret: u128,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Key {
    /// From two random numbers; of the first one 64 bits are used.
    pub fn new(id: u128, secret: u128) -> Self {
        let id = format!("{:016x}", id & u128::from(u64::MAX));
        Self { id, secret }
    }

    /// What may be kept of it.
    pub fn hash(&self) -> Hash {
        Sha256::digest(self.secret.to_be_bytes()).into()
    }

    /// The word itself, to be shown once.
    pub fn word(&self) -> String {
        format!("{VERSION}-{}-{:032x}", self.id, self.secret)
    }
}

/// The word is none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAKey;

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "this is not an access token: it is one word that begins with `oarkey1-`, as `oarlock \
             tokens create` prints it",
        )
    }
}

impl std::error::Error for NotAKey {}

impl FromStr for Key {
    type Err = NotAKey;

    fn from_str(word: &str) -> Result<Self, NotAKey> {
        let rest = word.trim().strip_prefix(VERSION).and_then(|rest| rest.strip_prefix('-'));
        let (id, secret) = rest.and_then(|rest| rest.split_once('-')).ok_or(NotAKey)?;
        let digits = |text: &str, count| {
            text.len() == count && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !digits(id, ID_DIGITS) || !digits(secret, SECRET_DIGITS) {
            return Err(NotAKey);
        }
        let secret = u128::from_str_radix(secret, 16).map_err(|_| NotAKey)?;
        Ok(Self { id: id.to_owned(), secret })
    }
}

/// Compares in a time that does not depend on where they differ.
pub fn same(left: &Hash, right: &Hash) -> bool {
    let differing = left.iter().zip(right).fold(0, |all, (l, r)| all | (l ^ r));
    std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_word_that_reads_back_and_shows_no_secret() {
        let key = Key::new(7 << 40, 0xabc << 90);
        let word = key.word();
        assert_eq!(word.parse(), Ok(key.clone()));
        assert_eq!(format!("{word}\n").parse(), Ok(key.clone()), "copied with its line");
        assert!(!format!("{key:?}").contains("abc"), "{key:?}");
        for bad in ["", "oarkey1", &word[1..], &word[..word.len() - 1], &word.to_uppercase()] {
            assert_eq!(bad.parse::<Key>(), Err(NotAKey), "{bad}");
        }
        // The secrets of both kinds of words must not be taken for each other.
        assert!(format!("oarlock1-{}", &word[8..]).parse::<Key>().is_err());
    }

    #[test]
    fn hashes_are_the_same_only_in_full() {
        let hash = Key::new(1, 2).hash();
        assert!(same(&hash, &Key::new(9, 2).hash()));
        for at in 0..hash.len() {
            let mut other = hash;
            other[at] ^= 1;
            assert!(!same(&hash, &other), "byte {at}");
        }
    }
}

//! The word that invites one machine: `oarlock1-<cluster id>-<node id>-<secret>`.
//!
//! Whoever has it can add one node to the cluster, so it is shown once, to whoever asked for it; the
//! cluster keeps the hash of its secret alone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::service::replicator::NodeId;

/// Form and version of the word.
const VERSION: &str = "oarlock1";

/// 128 bits that nobody can guess. Shows nothing of itself.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub u128);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Secret {
    /// What may be kept of it: of so many bits the hash needs neither salt nor delay.
    pub fn hash(self) -> [u8; 32] {
        Sha256::digest(self.0.to_be_bytes()).into()
    }
}

/// An invitation, as the machine that joins is given it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    pub cluster_id: u128,
    pub node_id: NodeId,
    pub secret: Secret,
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}-{:032x}-{}-{:032x}", self.cluster_id, self.node_id, self.secret.0)
    }
}

/// The word is none of these; told to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAToken;

impl fmt::Display for NotAToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "this is not a join token: it is one word that begins with `oarlock1-`, as \
             `oarlock members add` prints it",
        )
    }
}

impl std::error::Error for NotAToken {}

impl FromStr for JoinToken {
    type Err = NotAToken;

    fn from_str(word: &str) -> Result<Self, NotAToken> {
        let parts: Vec<&str> = word.trim().split('-').collect();
        let [VERSION, cluster, node, secret] = parts[..] else { return Err(NotAToken) };
        let digits = |text: &str| {
            let all = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            all.then(|| u128::from_str_radix(text, 16).ok()).flatten().ok_or(NotAToken)
        };
        Ok(Self {
            cluster_id: digits(cluster)?,
            node_id: node.parse().map_err(|_| NotAToken)?,
            secret: Secret(digits(secret)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_that_reads_back_and_shows_no_secret() {
        let token = JoinToken { cluster_id: 7 << 100, node_id: 4, secret: Secret(0xabc << 90) };
        let word = token.to_string();
        assert!(!word.contains(char::is_whitespace), "{word}");
        assert_eq!(word.parse(), Ok(token.clone()));
        assert_eq!(format!(" {word}\n").parse(), Ok(token.clone()), "copied with its line");
        let hex = format!("{:x}", token.secret.0);
        assert!(word.contains(&hex) && !format!("{token:?}").contains(&hex));
        assert_ne!(token.secret.hash()[..16], token.secret.0.to_be_bytes());
        for bad in
            ["", "oarlock1", &word[1..], &word[..word.len() - 1], &word.replace("-4-", "-x-")]
        {
            assert_eq!(bad.parse::<JoinToken>(), Err(NotAToken), "{bad}");
        }
    }
}

//! Who this node is: written once at birth, read at every start.
//!
//! A node without this file was never born; one whose file is damaged does not guess. Ids are never
//! reused, so an identity is never overwritten.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::raft::store::codec::{self, CodecError};
use crate::raft::store::files;
use crate::raft::types::Member;

const FILE_NAME: &str = "identity";
/// Kind and seed of the frame; the seed ties it to this file.
const KIND: u8 = 0x49;
const SEED: u32 = 0x4944_454e;

/// Persisted: the form changes only with the frame's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Minted once, when the cluster formed.
    pub cluster_id: u128,
    /// Fixed by configuration, never reused.
    pub node_id: u64,
    /// Minted at this node's birth: tells this disk from another one under the same node id.
    pub instance_id: u128,
    /// The members at birth, by node id.
    pub first_members: BTreeMap<u64, Member>,
}

/// Why there is no identity to go by.
#[derive(Debug)]
pub enum IdentityError {
    /// The file could not be read or written.
    Io(PathBuf, io::Error),
    /// The file is there and says nothing reliable.
    Damaged(PathBuf, CodecError),
    /// A second birth was tried in the same directory.
    Born(PathBuf),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "identity file {}: {error}", path.display()),
            Self::Damaged(path, error) => write!(
                f,
                "the identity file {} cannot be trusted ({error}); restore it from a copy of this \
                 very node, or remove the node from the cluster and rejoin it, with an empty \
                 directory, under a new id",
                path.display()
            ),
            Self::Born(path) => write!(
                f,
                "{} exists already: this directory belongs to a node that was born before",
                path.display()
            ),
        }
    }
}

impl std::error::Error for IdentityError {}

impl Identity {
    /// Reads the identity of a data directory; `None` if the node was never born.
    pub fn read(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = dir.join(FILE_NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(IdentityError::Io(path, error)),
        };
        match Self::parse(&bytes) {
            Ok(identity) => Ok(Some(identity)),
            Err(error) => Err(IdentityError::Damaged(path, error)),
        }
    }

    /// Writes the identity at birth, durably.
    pub fn write(&self, dir: &Path) -> Result<(), IdentityError> {
        let path = dir.join(FILE_NAME);
        if path.exists() {
            return Err(IdentityError::Born(path));
        }
        let mut bytes = Vec::new();
        codec::frame(KIND, SEED, &mut bytes, |payload| codec::encode_into(self, payload));
        let written =
            std::fs::create_dir_all(dir).and_then(|()| files::replace_file(&path, &bytes));
        written.map_err(|error| IdentityError::Io(path, error))
    }

    fn parse(bytes: &[u8]) -> Result<Self, CodecError> {
        let frame = codec::parse(bytes, SEED)?;
        if frame.bytes != bytes.len() || frame.kind != KIND {
            return Err(CodecError::Payload("it is not an identity".to_owned()));
        }
        codec::decode(frame.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let member = Member { peer_address: "a:1".into(), ..Member::default() };
        Identity {
            cluster_id: 7 << 100,
            node_id: 3,
            instance_id: 9 << 90,
            first_members: BTreeMap::from([(3, member)]),
        }
    }

    #[test]
    fn an_identity_is_read_back_and_never_replaced() {
        let dir = tempfile::tempdir().expect("directory");
        assert!(Identity::read(dir.path()).expect("read").is_none());
        identity().write(dir.path()).expect("write");
        assert_eq!(Identity::read(dir.path()).expect("read"), Some(identity()));
        assert!(matches!(identity().write(dir.path()), Err(IdentityError::Born(_))));
    }

    #[test]
    fn a_damaged_identity_is_refused_at_every_bit() {
        let dir = tempfile::tempdir().expect("directory");
        identity().write(dir.path()).expect("write");
        let path = dir.path().join(FILE_NAME);
        let good = std::fs::read(&path).expect("read");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).expect("write");
            let error = Identity::read(dir.path()).expect_err("refused");
            assert!(error.to_string().contains("rejoin"), "bit {bit}: {error}");
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).expect("write");
            assert!(Identity::read(dir.path()).is_err(), "{length} bytes");
        }
    }
}

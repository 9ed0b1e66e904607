//! Who this node is: written once at birth, verified at every start.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::raft::store::codec::{self, CodecError};
use crate::raft::store::files::replace_file;
use crate::raft::types::Member;
use crate::service::replicator::NodeId;

const KIND_IDENTITY: u8 = 0x41;
const KIND_INVITED: u8 = 0x4a;
const FILE_NAME: &str = "identity";

/// The identity of a node in its cluster. Persisted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub cluster_id: u128,
    pub node_id: NodeId,
    /// Who formed the cluster, with the instance of each.
    pub members: Vec<(NodeId, Member)>,
    /// Whether the log of this node ever held anything. If it did and is empty now, the vote is
    /// lost with it and the node must not take part.
    pub joined: bool,
    /// Whether it came by an invitation and is none of those who formed the cluster. In the file the
    /// kind of the frame says so.
    #[serde(skip)]
    pub invited: bool,
}

impl Identity {
    /// Reads the identity of a data directory; `None` for one that was never born.
    pub fn load(dir: &Path) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(dir.join(FILE_NAME)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let decoded = codec::parse(&bytes, 0).and_then(|frame| {
            let invited = frame.kind == KIND_INVITED;
            if !(invited || frame.kind == KIND_IDENTITY) || frame.bytes != bytes.len() {
                return Err(CodecError::Payload("it is not an identity".to_owned()));
            }
            codec::decode(frame.payload).map(|identity| Self { invited, ..identity })
        });
        decoded.map(Some).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the identity file of {} is damaged ({error}); this node cannot prove who it \
                     is: move the directory away and let it join under a new id",
                    dir.display()
                ),
            )
        })
    }

    /// Writes the identity so that a crash leaves the old or the new one.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let mut bytes = Vec::new();
        let kind = if self.invited { KIND_INVITED } else { KIND_IDENTITY };
        codec::frame(kind, 0, &mut bytes, |out| codec::encode_into(self, out));
        replace_file(&dir.join(FILE_NAME), &bytes)
    }

    /// Whether it asked to join and was not let in yet, as far as is written down: it knows itself
    /// alone.
    pub fn is_pending(&self) -> bool {
        self.invited && !self.joined && self.members.len() == 1
    }

    /// The instance id of this node.
    pub fn instance_id(&self) -> u128 {
        let own = self.members.iter().find(|(id, _)| *id == self.node_id);
        own.map_or(0, |(_, member)| member.instance_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_identity_is_refused_at_every_bit_and_length() {
        let dir = tempfile::tempdir().expect("directory");
        assert!(Identity::load(dir.path()).expect("load").is_none());
        let member = Member { instance_id: 9 << 90, ..Member::default() };
        let identity = Identity {
            cluster_id: 7,
            node_id: 3,
            members: vec![(3, member)],
            ..Identity::default()
        };
        identity.save(dir.path()).expect("save");
        assert_eq!(Identity::load(dir.path()).expect("load"), Some(identity.clone()));
        let invited = Identity { invited: true, ..identity };
        assert!(invited.is_pending());
        invited.save(dir.path()).expect("save");
        assert_eq!(Identity::load(dir.path()).expect("load"), Some(invited));
        let path = dir.path().join(FILE_NAME);
        let good = std::fs::read(&path).expect("read");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).expect("write");
            let error = Identity::load(dir.path()).expect_err("refused");
            assert!(error.to_string().contains("under a new id"), "bit {bit}: {error}");
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).expect("write");
            assert!(Identity::load(dir.path()).is_err(), "{length} bytes");
        }
    }
}

//! The one place that names bincode: bytes of everything persisted or sent between nodes.
//!
//! A record is framed as `[version u8][kind u8][length u32 LE][payload][CRC32C u32 LE]`; the
//! checksum covers all that precedes it and a seed of the caller, which ties a record to its
//! place. bincode cannot add fields, so a changed form is a new version or a new enum variant.

use std::fmt;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version byte of every frame written by this build.
pub const VERSION: u8 = 1;

/// Largest value that decodes: bounds what a damaged length can make us allocate.
const DECODE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of a frame around its payload.
pub const FRAME_BYTES: usize = 10;

/// Why bytes could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodecError {
    /// Fewer bytes than the frame says, or than a frame has.
    Short,
    /// The checksum does not match.
    Checksum,
    /// Written by a version that this build does not know.
    Version(u8),
    /// The checksum matches and the payload still does not decode.
    Payload(String),
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("the record is cut short"),
            Self::Checksum => f.write_str("the record's checksum does not match"),
            Self::Version(found) => write!(
                f,
                "format {found} was written by a newer oarlock (this one knows {VERSION}): upgrade this node"
            ),
            Self::Payload(why) => write!(f, "the record does not decode: {why}"),
        }
    }
}

impl std::error::Error for CodecError {}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

const fn config() -> Configuration<LittleEndian, Varint, Limit<DECODE_BYTES_MAX>> {
    bincode::config::standard().with_limit::<DECODE_BYTES_MAX>()
}

/// Encodes a value of our own types; these always encode.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(value, &mut bytes);
    bytes
}

/// Appends the encoding of a value.
pub fn encode_into<T: Serialize>(value: &T, bytes: &mut Vec<u8>) {
    let config = bincode::config::standard();
    let result = bincode::serde::encode_into_std_write(value, bytes, config);
    assert!(result.is_ok(), "a value of our own types encodes: {result:?}");
}

/// Decodes a whole value; trailing bytes are refused.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bincode::serde::decode_from_slice(bytes, config()) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok(_) => Err(CodecError::Payload("bytes are left over".to_owned())),
        Err(error) => Err(CodecError::Payload(error.to_string())),
    }
}

/// Appends a framed record; `fill` writes its payload.
pub fn frame(kind: u8, seed: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[VERSION, kind, 0, 0, 0, 0]);
    fill(out);
    let length = u32::try_from(out.len() - start - 6).unwrap_or(u32::MAX);
    out[start + 2..start + 6].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c_append(seed, &out[start..]);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// A record read from the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is; meaning is the caller's.
    pub kind: u8,
    /// The payload.
    pub payload: &'a [u8],
    /// Bytes of the whole frame.
    pub bytes: usize,
    /// Its checksum, to seed the next one.
    pub checksum: u32,
}

/// Reads the frame at the front of `bytes`.
pub fn parse(bytes: &[u8], seed: u32) -> Result<Frame<'_>, CodecError> {
    let header = bytes.first_chunk::<6>().ok_or(CodecError::Short)?;
    let length = u32::from_le_bytes([header[2], header[3], header[4], header[5]]) as usize;
    let end = 6_usize.checked_add(length).ok_or(CodecError::Short)?;
    let covered = bytes.get(..end).ok_or(CodecError::Short)?;
    let found = bytes[end..].first_chunk::<4>().ok_or(CodecError::Short)?;
    let checksum = crc32c::crc32c_append(seed, covered);
    if u32::from_le_bytes(*found) != checksum {
        return Err(CodecError::Checksum);
    }
    if header[0] != VERSION {
        return Err(CodecError::Version(header[0]));
    }
    Ok(Frame { kind: header[1], payload: &covered[6..], bytes: end + 4, checksum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_frame_are_fixed() {
        let mut out = Vec::new();
        frame(7, 0, &mut out, |payload| payload.extend_from_slice(b"oar"));
        assert_eq!(out[..9], [1, 7, 3, 0, 0, 0, b'o', b'a', b'r']);
        let frame = parse(&out, 0).expect("it parses");
        assert_eq!((frame.kind, frame.payload, frame.bytes), (7, &b"oar"[..], 13));
    }

    #[test]
    fn damage_and_a_wrong_place_are_noticed() {
        let mut out = Vec::new();
        frame(7, 5, &mut out, |payload| payload.extend_from_slice(b"oar"));
        assert_eq!(parse(&out, 6), Err(CodecError::Checksum));
        assert_eq!(parse(&out[..12], 5), Err(CodecError::Short));
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad, 5).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_says_to_upgrade() {
        let mut out = vec![2, 7, 0, 0, 0, 0];
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        assert_eq!(parse(&out, 0), Err(CodecError::Version(2)));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&(1_u64, "lock"));
        assert_eq!(decode::<(u64, String)>(&bytes), Ok((1, "lock".to_owned())));
        bytes.push(0);
        assert!(decode::<(u64, String)>(&bytes).is_err());
    }

    #[test]
    fn a_huge_length_allocates_nothing() {
        assert!(decode::<Vec<u8>>(&[253, 255, 255, 255, 255, 255, 255, 255, 255]).is_err());
    }

    /// A change of these bytes is a change of the format: logs and peers of other builds would no
    /// longer be understood. It needs a new version, not a new expectation.
    #[test]
    fn the_bytes_of_a_log_entry_are_fixed() {
        use oarlock_core::command::{Acquire, Command, Entry, LeaseTerm, Mode};
        use oarlock_core::ids::{LeaseId, LockName, Metadata, Owner, RequestId};
        use oarlock_core::time::{Grace, LeaseTime, LockDelay, Ttl, Wait};

        let acquire = Acquire {
            lease_id: LeaseId(0x0102),
            name: LockName::new("a/b").expect("a name"),
            owner: Owner::new("me").expect("an owner"),
            mode: Mode::Shared,
            term: LeaseTerm::Ttl(Ttl::new(1000).expect("a TTL")),
            wait: Wait::new(0).expect("a wait"),
            grace: Grace::new(5000).expect("a grace"),
            request_id: Some(RequestId(7)),
            metadata: Metadata::default(),
            lock_delay: LockDelay::new(0).expect("a lock-delay"),
        };
        let commands = vec![
            (LeaseTime(5), Command::Acquire(acquire)),
            (LeaseTime(6), Command::Release { lease_id: LeaseId(9) }),
        ];
        let entry = Entry { level: 1, wall_ms: 250, commands };
        let bytes = encode(&entry);
        let hex: String =
            bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        assert_eq!(hex, "01fa020501fb020103612f62026d650100fbe80300fb881301070000060609");
        assert_eq!(decode::<Entry>(&bytes), Ok(entry));
    }
}

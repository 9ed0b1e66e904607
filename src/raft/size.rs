//! How large commands and entries are in the log, without encoding them, and which a full disk refuses.
//!
//! An entry is written, sent and applied as one, so it needs a bound in bytes: one that does not
//! fit into a frame between peers would stop replication for good.

use oarlock_core::command::Command;
use oarlock_core::ids::{LockName, Metadata, Owner, RequestId};

/// Commands of one entry, in encoded bytes, unless a single one is larger. At more, all that comes
/// behind the entry waits longer for disk and network; at less, a burst takes more entries.
pub(crate) const ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Whatever a command, a claim or an entry of metadata has besides texts: ids, times, lengths.
const FIXED_BYTES: usize = 128;
const CLAIM_BYTES: usize = 64;
const TEXT_LENGTH_BYTES: usize = 3;

/// At least as many bytes as the command takes in the log, stamp included; not many more.
pub(crate) fn command_bytes(command: &Command) -> usize {
    let texts = match command {
        Command::Acquire(acquire) => {
            name(&acquire.name) + owner(&acquire.owner) + metadata(&acquire.metadata)
        }
        Command::AcquireMany(many) => {
            let claims = many.claims.iter().map(|claim| name(&claim.name) + CLAIM_BYTES);
            claims.sum::<usize>() + owner(&many.owner) + metadata(&many.metadata)
        }
        Command::OpenSession(open) => owner(&open.owner) + metadata(&open.metadata),
        Command::HandOver(give) => owner(&give.owner) + metadata(&give.metadata),
        Command::ForceRelease { name: of, reason, .. } => name(of) + reason.as_str().len(),
        Command::SetValue { name: of, value, .. } => {
            name(of) + value.as_ref().map_or(0, |value| value.as_str().len())
        }
        Command::DeleteValue { name: of } => name(of),
        Command::PutRecord { key, value, .. } => {
            key.as_str().len() + value.as_ref().map_or(0, |value| value.as_bytes().len())
        }
        Command::Advance
        | Command::Attach { .. }
        | Command::Detach { .. }
        | Command::DetachAll
        | Command::Renew { .. }
        | Command::Release { .. }
        | Command::RenewSession { .. }
        | Command::CloseSession { .. } => 0,
    };
    FIXED_BYTES + texts
}

/// What a full disk refuses: all that makes the state grow.
pub(crate) fn takes_room(command: &Command, is_known: impl Fn(RequestId) -> bool) -> bool {
    let request_id = match command {
        Command::Acquire(acquire) => acquire.request_id,
        Command::AcquireMany(many) => many.request_id,
        Command::OpenSession(open) => open.request_id,
        Command::SetValue { value: Some(_), .. } => None,
        Command::Advance
        | Command::Attach { .. }
        | Command::Detach { .. }
        | Command::DetachAll
        | Command::Renew { .. }
        | Command::Release { .. }
        | Command::ForceRelease { .. }
        | Command::RenewSession { .. }
        | Command::CloseSession { .. }
        | Command::SetValue { value: None, .. }
        | Command::DeleteValue { .. }
        // Few, and who mends a cluster must be able to.
        | Command::PutRecord { .. }
        | Command::HandOver(_) => return false,
    };
    // A repeat makes nothing, and must not be told that nothing was done.
    !request_id.is_some_and(is_known)
}

fn name(name: &LockName) -> usize {
    name.as_str().len()
}

fn owner(owner: &Owner) -> usize {
    owner.as_str().len()
}

fn metadata(metadata: &Metadata) -> usize {
    metadata.entries().map(|(key, value)| key.len() + value.len() + 2 * TEXT_LENGTH_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use oarlock_core::command::{
        Acquire, AcquireMany, Claim, Expected, ForceTarget, HandOver, LeaseTerm, Mode, OpenSession,
    };
    use oarlock_core::ids::{
        LeaseId, Permits, Reason, RecordKey, RecordValue, RequestId, Revision, SessionId, Token,
        Value,
    };
    use oarlock_core::limits::{
        GRACE_MS_MAX, LOCK_DELAY_MS_MAX, LOCKS_PER_ACQUIRE_MAX, METADATA_BYTES_MAX, NAME_BYTES_MAX,
        OWNER_BYTES_MAX, PERMITS_MAX, REASON_BYTES_MAX, RECORD_BYTES_MAX, RECORD_KEY_BYTES_MAX,
        TTL_MS_MAX, VALUE_BYTES_MAX, WAIT_MS_MAX,
    };
    use oarlock_core::time::{Grace, LeaseTime, LockDelay, Ttl, Wait};

    use super::*;
    use crate::raft::store::codec;

    /// As many entries as fit: those with the shortest keys and no values cost most beside texts.
    fn most_metadata() -> Metadata {
        let mut map = BTreeMap::new();
        let mut bytes = 0;
        let letters = || (b'!'..=b'~').map(char::from);
        for text in letters().flat_map(|a| letters().map(move |b| format!("{a}{b}"))) {
            bytes += text.len();
            if bytes > METADATA_BYTES_MAX {
                break;
            }
            map.insert(text, String::new());
        }
        Metadata::try_from(map).expect("metadata")
    }

    fn term() -> LeaseTerm {
        LeaseTerm::Session(SessionId(u128::MAX))
    }

    /// The largest of every kind that has texts.
    fn largest() -> Vec<Command> {
        let name = LockName::new(&"n".repeat(NAME_BYTES_MAX)).expect("a name");
        let owner = Owner::new(&"o".repeat(OWNER_BYTES_MAX)).expect("an owner");
        let lease_id = LeaseId(u128::MAX);
        let request_id = Some(RequestId(u128::MAX));
        let limit = u64::from(PERMITS_MAX);
        let mode = Mode::Permits(Permits::new(limit, limit).expect("permits"));
        let lock_delay = LockDelay::new(LOCK_DELAY_MS_MAX).expect("a lock-delay");
        let (wait, grace) = (Wait::new(WAIT_MS_MAX), Grace::new(GRACE_MS_MAX));
        let (wait, grace) = (wait.expect("a wait"), grace.expect("a grace"));
        let metadata = most_metadata();
        let claim = Claim { lease_id, name: name.clone(), mode, lock_delay };
        let value = Value::new(&"v".repeat(VALUE_BYTES_MAX)).expect("a value");
        vec![
            Command::Acquire(Acquire {
                lease_id,
                name: name.clone(),
                owner: owner.clone(),
                mode,
                term: term(),
                wait,
                grace,
                request_id,
                metadata: metadata.clone(),
                lock_delay,
            }),
            Command::AcquireMany(AcquireMany {
                claims: vec![claim; LOCKS_PER_ACQUIRE_MAX],
                owner: owner.clone(),
                term: term(),
                wait,
                grace,
                request_id,
                metadata: metadata.clone(),
            }),
            Command::OpenSession(OpenSession {
                session_id: SessionId(u128::MAX),
                owner: owner.clone(),
                ttl: Ttl::new(TTL_MS_MAX).expect("a ttl"),
                request_id,
                metadata: metadata.clone(),
            }),
            Command::HandOver(HandOver {
                lease_id,
                new_lease_id: lease_id,
                owner,
                term: term(),
                request_id,
                metadata,
            }),
            Command::ForceRelease {
                name: name.clone(),
                target: ForceTarget::Token(Token(u64::MAX)),
                reason: Reason::new(&"r".repeat(REASON_BYTES_MAX)).expect("a reason"),
                lock_delay: Some(lock_delay),
            },
            Command::SetValue { name: name.clone(), lease_id, value: Some(value) },
            Command::DeleteValue { name },
            Command::PutRecord {
                key: RecordKey::new(&"k".repeat(RECORD_KEY_BYTES_MAX)).expect("a key"),
                value: RecordValue::new(&[7; RECORD_BYTES_MAX]).ok(),
                expected: Expected::At(Revision(u64::MAX)),
            },
            Command::Renew { lease_id },
            Command::CloseSession { session_id: SessionId(u128::MAX) },
        ]
    }

    #[test]
    fn no_command_takes_more_bytes_in_the_log_than_it_is_counted_for() {
        for command in largest() {
            let encoded = codec::encode(&(LeaseTime(u64::MAX), &command)).len();
            let counted = command_bytes(&command);
            assert!(encoded <= counted, "{encoded} bytes, counted {counted}: {command:?}");
            assert!(counted <= 2 * encoded + FIXED_BYTES, "{encoded} bytes, counted {counted}");
            assert!(counted < ENTRY_BYTES_MAX);
        }
    }
}

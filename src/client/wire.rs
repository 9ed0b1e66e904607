//! The JSON of the native HTTP API, shared by server and client.
//!
//! Requests refuse unknown fields and duplicate keys, so that a misspelt `ttl_ms` is never a
//! silent default. Answers are read leniently: a newer server may say more than this client knows.

mod many;
mod members;
mod mode;
mod records;
#[cfg(feature = "schema")]
mod schema;
mod tokens;

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::stream::Why;
pub use many::{AcquireManyRequest, ClaimRequest, HandOverRequest, Leases};
pub use members::{Invitation, InvitationRequest, Members, MembersChanged, ReplaceRequest};
pub use mode::Mode;
pub use records::{History, PastGrant, Value, ValueDeleted, ValueRequest};
pub use tokens::{
    AccessToken, AccessTokenInfo, AccessTokenRequest, AccessTokenRevoked, AccessTokens,
    FirstTokenRequest,
};

/// Free texts that the holder wants others to see.
pub type Metadata = BTreeMap<String, String>;

/// How long a lease lives: absent, `null` (no expiry, asked for explicitly) or milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TtlMs {
    #[default]
    Absent,
    Forever,
    Ms(u64),
}

impl TtlMs {
    /// For `skip_serializing_if`.
    fn is_absent(&self) -> bool {
        *self == Self::Absent
    }
}

impl Serialize for TtlMs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent | Self::Forever => serializer.serialize_unit(),
            Self::Ms(ms) => serializer.serialize_u64(*ms),
        }
    }
}

impl<'de> Deserialize<'de> for TtlMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;
        impl Visitor<'_> for Seen {
            type Value = TtlMs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("ttl_ms as a whole number of milliseconds, or null for no expiry")
            }

            fn visit_unit<E: de::Error>(self) -> Result<TtlMs, E> {
                Ok(TtlMs::Forever)
            }

            fn visit_u64<E: de::Error>(self, ms: u64) -> Result<TtlMs, E> {
                Ok(TtlMs::Ms(ms))
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

/// Reads an object of texts and refuses a key that comes twice, which serde's own map would not.
fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Metadata>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Option<Metadata>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("metadata as an object of strings")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Self::Value, A::Error> {
            let mut map = Metadata::new();
            while let Some((key, value)) = pairs.next_entry::<String, String>()? {
                if map.contains_key(&key) {
                    return Err(de::Error::custom("a key of metadata comes twice"));
                }
                map.insert(key, value);
            }
            Ok(Some(map))
        }
    }
    deserializer.deserialize_any(Pairs)
}

/// Body of `POST /v1/locks/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AcquireRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "TtlMs::is_absent")]
    pub ttl_ms: TtlMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// With mode `permits`: how many, 1 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u64>,
    /// With mode `permits`: how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// How long the lock stays closed if this holder is lost rather than released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_delay_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// A UUID with hyphens; also as the `Idempotency-Key` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "metadata")]
    pub metadata: Option<Metadata>,
}

/// A held lease, as its holder sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lease {
    pub lease_id: String,
    pub lock: String,
    pub mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    pub owner: String,
    pub token: u64,
    /// `None` for a lease without expiry.
    pub ttl_ms: Option<u64>,
    pub remaining_ms: Option<u64>,
    pub waited_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    #[serde(default)]
    pub metadata: Metadata,
}

/// Answer of `GET /v1/leases/{id}`; a lease that ended is a problem `lease-gone`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum LeaseState {
    Held(Lease),
    Waiting {
        lease_id: String,
        lock: String,
        owner: String,
        mode: Mode,
        /// 1 for the next in line.
        position: u64,
        waiting_ms: u64,
    },
}

/// An answer that may come from a node's own state, with its age if so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Aged<T> {
    #[serde(flatten)]
    pub body: T,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness_ms: Option<Staleness>,
}

/// Answer of `DELETE /v1/leases/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Released {
    pub released: bool,
    pub lease_id: String,
    pub lock: String,
    /// `None` if it was still waiting.
    pub token: Option<u64>,
}

/// A holder as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Holder {
    pub owner: String,
    pub mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    pub token: u64,
    /// Wall clock of the grant, for people; RFC 3339.
    pub since: String,
    pub held_ms: u64,
    /// Since the last renewal, or the grant.
    #[serde(default)]
    pub renewed_ms_ago: u64,
    /// `None` for a lease without expiry.
    pub remaining_ms: Option<u64>,
    pub in_session: bool,
    #[serde(default)]
    pub metadata: Metadata,
}

/// A waiter as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Waiter {
    pub owner: String,
    pub mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    pub position: u64,
    pub waiting_ms: u64,
    /// Whether its connection is known to live.
    pub attached: bool,
    #[serde(default)]
    pub metadata: Metadata,
}

/// Answer of `GET /v1/locks/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lock {
    pub lock: String,
    pub held: bool,
    pub holders: Vec<Holder>,
    pub holder_count: u64,
    pub waiters: Vec<Waiter>,
    pub queue_length: u64,
    /// The newest token of this lock while it is remembered.
    pub last_token: Option<u64>,
    /// No token above it was ever granted, to any lock.
    pub token_ceiling: u64,
    pub revision: Option<u64>,
    /// What somebody who asks now has to wait for; only when one lock is inspected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// The value that the lock carries; not in listings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness_ms: Option<Staleness>,
}

/// Answer of `GET /v1/locks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Locks {
    pub locks: Vec<Lock>,
    /// Pass it on as `?cursor=` for the next page; `None` on the last.
    pub cursor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness_ms: Option<Staleness>,
}

/// How old a stale answer may be: a number of milliseconds, or `"unknown"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staleness {
    Ms(u64),
    Unknown,
}

impl Serialize for Staleness {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ms(ms) => serializer.serialize_u64(*ms),
            Self::Unknown => serializer.serialize_str("unknown"),
        }
    }
}

impl<'de> Deserialize<'de> for Staleness {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Seen {
            Ms(u64),
            Text(String),
        }
        match Seen::deserialize(deserializer)? {
            Seen::Ms(ms) => Ok(Self::Ms(ms)),
            Seen::Text(text) if text == "unknown" => Ok(Self::Unknown),
            Seen::Text(_) => Err(de::Error::custom("staleness_ms is a number or \"unknown\"")),
        }
    }
}

/// Answer of `DELETE /v1/locks/{name}`: what was taken, empty if it had ended already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ForceReleased {
    pub lock: String,
    pub released: Vec<Taken>,
}

/// One grant that a force release ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Taken {
    pub token: Option<u64>,
}

/// Body of `POST /v1/sessions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    pub owner: String,
    pub ttl_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "metadata")]
    pub metadata: Option<Metadata>,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Session {
    pub session_id: String,
    pub owner: String,
    pub ttl_ms: u64,
    pub remaining_ms: u64,
    /// How many leases, held or waiting, live with it.
    pub leases: u64,
    #[serde(default)]
    pub metadata: Metadata,
}

/// Answer of `DELETE /v1/sessions/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionClosed {
    pub closed: bool,
    pub session_id: String,
    pub leases_ended: u64,
}

/// Body of `POST /v1/fence`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FenceRequest {
    pub name: String,
    pub token: u64,
}

/// Answer of `POST /v1/fence` while the token is held; else it is a problem `token-stale`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fence {
    pub held: bool,
    pub lock: String,
    pub token: u64,
    pub remaining_ms: Option<u64>,
    pub note: String,
}

/// A body of a call that takes none: nothing, or `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Answer of `GET /v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cluster {
    pub cluster_id: Option<String>,
    pub node_id: u64,
    pub leader_id: Option<u64>,
    pub term: u64,
    pub members: Vec<Member>,
    pub last_log_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    /// Time since a majority last acknowledged the leader, as far as this node knows.
    pub quorum_age_ms: Option<u64>,
    pub ready: bool,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Member {
    pub id: u64,
    pub api_address: String,
    pub peer_address: String,
    pub voter: bool,
    /// Entries it has not yet acknowledged; only the leader knows.
    pub lag_entries: Option<u64>,
}

/// Who shall lead. Without a node the voter that is closest behind takes over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LeaderRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u64>,
}

/// Who leads since leadership was transferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Leader {
    pub leader_id: u64,
}

/// Whether a refused call happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Certainly not: it may be repeated.
    NotDone,
    /// Nobody can tell: repeat it with the same request id, or look.
    Unknown,
}

/// Every error: `application/problem+json` (RFC 9457). `type` is a stable code such as `lock-held`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// A sentence that a person can act on.
    pub detail: String,
    pub outcome: Fate,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders: Option<Vec<Holder>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_length: Option<u64>,
    /// How a lease or session ended: `released`, `expired`, `forced`, `session-closed`,
    /// `session-expired`, `wait-timeout`, `abandoned` or `handed-over`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Of `lock-held` and `wait-timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Box<Why>>,
    /// Of `revision-gone`: the oldest revision that may be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_revision: Option<u64>,
    /// Of a deadlock: who waits for whom, beginning and ending with the one who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycle: Option<Vec<CycleStep>>,
}

/// One session of a circle of waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CycleStep {
    /// Who waits.
    pub owner: String,
    /// For which lock.
    pub waits_for: String,
    /// Who holds it, or waits for it first.
    pub held_by: String,
}

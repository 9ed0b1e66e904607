//! The JSON of what streams tell and of why a lock cannot be had. Field names carry units.

use serde::{Deserialize, Serialize};

use crate::wire::{Holder, Lease, Mode};

/// One event of `GET /v1/watch`. No event carries a lease id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WatchEvent {
    /// `granted`, `queued`, `left-queue`, `released`, `expired`, `forced`, `abandoned`,
    /// `handed-over`, `session-closed`, `session-expired`, `reopened` or `value-changed`.
    #[serde(rename = "type")]
    pub kind: String,
    pub lock: String,
    pub revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Of `queued`: waiters, this one included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_length: Option<u64>,
    /// Of `left-queue`: how the waiter left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
    /// Of `granted`: whether it came from the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<bool>,
}

/// Events were dropped before they could be sent: look at the locks again, then go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Gap {
    pub oldest_revision: u64,
}

/// The last event of a stream that this node ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct End {
    pub why: String,
}

/// A place in the queue, told when it changes, at most once a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Place {
    pub lock: String,
    /// 1 for the next in line.
    pub position: u64,
    /// A guess from the recent hold times; `None` while nothing is known.
    pub estimate_ms: Option<u64>,
    pub why: Why,
}

/// The grant that `GET /v1/hold/{name}` keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Held {
    #[serde(flatten)]
    pub lease: Lease,
    pub note: String,
}

/// The last event of a hold whose lease is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lost {
    pub lock: String,
    pub how: String,
}

/// What stands between a request and its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    Held,
    Queue,
    LockDelay,
    Free,
}

/// Why a lock cannot be had now, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Why {
    pub cause: Cause,
    /// The same as a sentence.
    pub text: String,
    pub holders: Vec<Holder>,
    /// Waiters that would be served first.
    pub ahead: u64,
    /// While the lock is in its lock-delay.
    pub reopens_in_ms: Option<u64>,
    /// A guess from the recent hold times; `None` while nothing is known.
    pub estimate_ms: Option<u64>,
}

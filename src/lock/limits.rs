//! Every bound of the core, in one place. Raising one is a change of behaviour: it needs a new
//! `level`, because all replicas must decide alike.

/// Longest lock name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 512;
/// Longest owner text, in bytes of UTF-8.
pub const OWNER_BYTES_MAX: usize = 256;
/// Longest reason of a force release, in bytes of UTF-8.
pub const REASON_BYTES_MAX: usize = 1024;
/// Keys and values of one metadata object together, in bytes.
pub const METADATA_BYTES_MAX: usize = 4096;
/// Shortest TTL: below it, one slow disk write could cost a lease.
pub const TTL_MS_MIN: u64 = 100;
/// Longest TTL, one day; longer holds ask for no expiry at all, explicitly.
pub const TTL_MS_MAX: u64 = 86_400_000;
/// Longest wait in a queue, one hour.
pub const WAIT_MS_MAX: u64 = 3_600_000;
/// Longest grace of a waiter whose connection is gone, five minutes.
pub const GRACE_MS_MAX: u64 = 300_000;
/// Grace of a waiter that asked for none: covers a fail-over and a client's retry.
pub const GRACE_MS_DEFAULT: u64 = 5_000;
/// Waiters of one lock.
pub const QUEUE_LENGTH_MAX: usize = 100_000;
/// Shared holders of one lock.
pub const HOLDERS_MAX: usize = 100_000;
/// Leases, held or waiting, of the whole cluster.
pub const LEASES_MAX: usize = 10_000_000;
/// Open sessions of the whole cluster.
pub const SESSIONS_MAX: usize = 1_000_000;
/// Leases of one session. Not above [`EXPIRIES_PER_ADVANCE_MAX`], so that a session ends whole.
pub const LEASES_PER_SESSION_MAX: usize = 1_000;
/// Leases that one advance of the clock may end; bounds the work of one command.
pub const EXPIRIES_PER_ADVANCE_MAX: usize = 1_024;
/// Ended answers kept for repeats of their request id; beyond it new request ids are refused.
pub const ANSWERS_MAX: usize = 2_000_000;
/// How long, in lease time, an ended answer is kept at the least.
pub const ANSWER_KEPT_MS: u64 = 60_000;
/// Ended leases without a request id that are kept so that a late renewal learns how they ended.
pub const RECENT_ENDS_MAX: usize = 131_072;
/// Tokens stay below 2^53 so that every JSON reader keeps them exact.
pub const TOKEN_MAX: u64 = (1 << 53) - 1;
/// Commands in one log entry; a batch beyond it waits for the next entry.
pub const COMMANDS_PER_ENTRY_MAX: usize = 4_096;

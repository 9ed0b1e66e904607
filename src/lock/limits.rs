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
/// Bytes of text after which a page of a listing ends, with the lock that reached them.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Permits of one lock.
pub const PERMITS_MAX: u32 = 100_000;
/// Longest lock-delay, one hour.
pub const LOCK_DELAY_MS_MAX: u64 = 3_600_000;
/// Longest value of a lock, in bytes of UTF-8.
pub const VALUE_BYTES_MAX: usize = 4096;
/// Locks that carry a value, of the whole cluster.
pub const VALUES_MAX: usize = 100_000;
/// Longest key of a record of the cluster itself, in bytes of UTF-8.
pub const RECORD_KEY_BYTES_MAX: usize = 128;
/// Longest record of the cluster itself, in bytes.
pub const RECORD_BYTES_MAX: usize = 4096;
/// Records of the cluster itself.
pub const RECORDS_MAX: usize = 10_000;
/// Ended grants that the history keeps; older ones make room.
pub const HISTORY_MAX: usize = 65_536;
/// Locks that one request may ask for together.
pub const LOCKS_PER_ACQUIRE_MAX: usize = 64;
/// Places in locks that one search for a deadlock may look at, and as many leases of the sessions
/// that it reaches; beyond it the wait is admitted. More makes the longest command longer.
pub const DEADLOCK_WALK_MAX: usize = 10_000;
/// Leases, held or waiting, of the whole cluster, and locks that a lock-delay keeps closed: each of
/// those keeps the place of the lease that was lost.
pub const LEASES_MAX: usize = 10_000_000;
/// Open sessions of the whole cluster.
pub const SESSIONS_MAX: usize = 1_000_000;
/// Leases of one session, which end together.
pub const LEASES_PER_SESSION_MAX: usize = 1_000;
/// Leases that one `Advance` may end: some milliseconds of work on every node, in which commands of
/// others wait. A session, or a request for several locks, ends whole and may go beyond it alone.
pub const EXPIRIES_PER_ADVANCE_MAX: usize = 256;
/// Leases that any other command may end before it runs. Whoever comes while very many leases are
/// due pays for few of them, whatever the number of commands in an entry; the rest is left to
/// `Advance`.
pub const EXPIRIES_PER_COMMAND_MAX: usize = 8;
/// Request ids of what lives, waits or is remembered; beyond it new ones are refused.
pub const ANSWERS_MAX: usize = 2_000_000;
/// How long, in lease time, an ended answer is kept at the least.
pub const ANSWER_KEPT_MS: u64 = 60_000;
/// Ended leases without a request id that are kept so that a late renewal learns how they ended.
pub const RECENT_ENDS_MAX: usize = 131_072;
/// Tokens stay below 2^53 so that every JSON reader keeps them exact.
pub const TOKEN_MAX: u64 = (1 << 53) - 1;
/// How far a restored cluster counts above every token that may have been given (P2).
pub const TOKEN_JUMP: u64 = 1 << 40;
/// Commands in one log entry; a batch beyond it waits for the next entry.
pub const COMMANDS_PER_ENTRY_MAX: usize = 4_096;
/// Ended answers in one row. More makes each write larger, fewer makes more rows.
pub const ANSWERS_PER_CHUNK: usize = 128;
/// Chunks of ended answers that one advance may forget; far more than one advance can fill.
pub const CHUNKS_FORGOTTEN_PER_ADVANCE_MAX: usize = 16;

/// The bounds that a machine is run with: always the constants above, except in tests that could
/// not reach those. They are not part of the state, so replicas must be built with the same ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// See [`QUEUE_LENGTH_MAX`].
    pub queue_length_max: usize,
    /// See [`HOLDERS_MAX`].
    pub holders_max: usize,
    /// See [`LEASES_MAX`].
    pub leases_max: usize,
    /// See [`SESSIONS_MAX`].
    pub sessions_max: usize,
    /// See [`LEASES_PER_SESSION_MAX`].
    pub leases_per_session_max: usize,
    /// See [`VALUES_MAX`].
    pub values_max: usize,
    /// See [`RECORDS_MAX`].
    pub records_max: usize,
    /// See [`HISTORY_MAX`].
    pub history_max: usize,
    /// See [`DEADLOCK_WALK_MAX`].
    pub deadlock_walk_max: usize,
    /// See [`EXPIRIES_PER_ADVANCE_MAX`].
    pub expiries_per_advance_max: usize,
    /// See [`EXPIRIES_PER_COMMAND_MAX`].
    pub expiries_per_command_max: usize,
    /// See [`ANSWERS_MAX`].
    pub answers_max: usize,
    /// See [`ANSWER_KEPT_MS`].
    pub answer_kept_ms: u64,
    /// See [`RECENT_ENDS_MAX`].
    pub recent_ends_max: usize,
    /// See [`ANSWERS_PER_CHUNK`].
    pub answers_per_chunk: usize,
    /// See [`CHUNKS_FORGOTTEN_PER_ADVANCE_MAX`].
    pub chunks_forgotten_per_advance_max: usize,
    /// See [`TOKEN_MAX`].
    pub token_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_length_max: QUEUE_LENGTH_MAX,
            holders_max: HOLDERS_MAX,
            leases_max: LEASES_MAX,
            sessions_max: SESSIONS_MAX,
            leases_per_session_max: LEASES_PER_SESSION_MAX,
            values_max: VALUES_MAX,
            records_max: RECORDS_MAX,
            history_max: HISTORY_MAX,
            deadlock_walk_max: DEADLOCK_WALK_MAX,
            expiries_per_advance_max: EXPIRIES_PER_ADVANCE_MAX,
            expiries_per_command_max: EXPIRIES_PER_COMMAND_MAX,
            answers_max: ANSWERS_MAX,
            answer_kept_ms: ANSWER_KEPT_MS,
            recent_ends_max: RECENT_ENDS_MAX,
            answers_per_chunk: ANSWERS_PER_CHUNK,
            chunks_forgotten_per_advance_max: CHUNKS_FORGOTTEN_PER_ADVANCE_MAX,
            token_max: TOKEN_MAX,
        }
    }
}

/// A size as the number that outcomes and views carry.
pub(crate) fn count(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

//! The rules of oarlock's locks: a pure, deterministic machine.
//!
//! ```text
//!   log entry {level, wall_ms, [(at, command), …]}
//!        │
//!        ▼ machine::Machine::apply
//!   for each command:  clock = max(clock, at) ─ end what is due ─ forget what is old ─ run it
//!        │                         │                                     │
//!        ▼                         ▼                                     ▼
//!   outcomes (answer callers)   events (wake waiters and watchers)   changed rows (are stored)
//! ```
//!
//! No clock, no randomness, no input or output, no floating point, no hash order: ids and time come
//! in with the entry. `apply` is total, so whatever decodes can be applied, and it never panics;
//! the one thing it refuses is an entry of a level that it does not know, and then the node halts.
//! P1 to P10 are the promises of `docs/guarantees.md`.
//!
//! # Terms
//!
//! A *lock* is a name that is held, waited for, closed, or carries a value; a free one is forgotten.
//! A *lease* is one claim on one lock; it *waits* in the lock's queue, or is *held*, which is a
//! *grant* with a *token*, and then it *ends*. A *session* keeps leases alive that have no deadline of their own. A waiter is
//! *attached* while its connection is not known to be gone, else *detached*; a grant to a detached
//! waiter is *unclaimed* until the waiter attaches, repeats its request, or renews. *Lease time* is
//! the replicated clock. What ended is *remembered* for a while.
//!
//! # The rules
//!
//! - **Advance.** The clock never goes back. What is due ends in (deadline, id) order, leases before
//!   sessions, before each command: at most `EXPIRIES_PER_ADVANCE_MAX` leases before an `Advance`,
//!   at most `EXPIRIES_PER_COMMAND_MAX` before any other; what is left stays held, and renewable.
//!   A session ends whole; where it is the first that is due, an `Advance` ends it whatever its
//!   size. Everything that ends so, and every grant that follows, carries the clock after the move.
//! - **Acquire.** Granted at once if the lock's holders and the queue leave room; refused if they do
//!   not and the caller does not wait; else queued. Nobody overtakes (P8). A known request id, or a
//!   known lease id, is a *repeat* if it asks for the same, and is answered from the present state
//!   (P7); if it asks for something else it is refused. A refusal is not remembered.
//! - **Settle.** Whenever somebody left a lock, the next in line is granted as long as the holders
//!   leave room: one exclusive, or shared ones up to the next exclusive.
//! - **Permits.** Holders may have some of a limit that all of them name; another limit is refused
//!   while one is held or waited for. A large request is not overtaken by small ones (P8).
//! - **Lock-delay.** A lock whose holder expired stays closed for the lease's lock-delay; one whose
//!   holder was forced, for what remained of the lease unless the command says otherwise. Nobody is
//!   granted meanwhile and waiters keep their places; then the queue settles. A later lock-delay
//!   never shortens an earlier one. A grant that nobody ever claimed in its grace closes nothing:
//!   nobody was told of it. A closed lock keeps the place of the lost lease within `LEASES_MAX`.
//! - **Values.** Who holds a lock may write its value, which outlives the grant until it is written
//!   again or deleted, and carries the token under which it was written.
//! - **Records** are of the cluster itself and apart from all locks: changed by compare and set alone,
//!   in no list, watch or history.
//! - **History.** Ended grants are kept in one bounded ring; nothing is decided by it.
//! - **Re-acquire.** A session that holds a lock may take it again in the same mode, past the queue:
//!   one more lease on the same grant and token, which ends with its last lease.
//! - **Several locks** asked for together are granted in one step, with consecutive tokens, or wait
//!   together in all queues from one position of the log; some of them are never held alone.
//! - **Hand-over.** The holder ends its grant and begins somebody else's in the same step.
//! - **Deadlock.** A wait or hand-over of a session that would close a circle of waits is refused.
//! - **Detached waiters** keep their place for their grace. Granted meanwhile, they hold for a grace
//!   counted from the grant, or their TTL if that is shorter, until claimed.
//! - **Renewal** never shortens (P3). A renewal of a session's lease renews the session.
//! - **Release** is keyed by the lease id and may be repeated. A force release ends grants, not
//!   waiters.
//! - **Sessions.** When one ends, all its leases and places in queues end first, then the queues
//!   settle: nothing is granted to a session on its way out.
//! - **Memory.** Ends with a request id are kept for `ANSWER_KEPT_MS` of lease time at the least;
//!   if `ANSWERS_MAX` are kept, new request ids are refused. Ends without one are kept likewise but
//!   make room for newer ones.
//!
//! # Invariants
//!
//! [`machine::Machine::check`] checks them; scripts, the model and the simulation do so after every
//! step.
//!
//! 1. The holders of a lock are one exclusive lease, or any number of shared ones, or leases whose
//!    permits together are within the limit that all of them name (P1).
//! 2. Tokens only grow: none is above the ceiling, each lock's newest is its `last_token`, and none
//!    is ever given twice (P2).
//! 3. A lock that is remembered is held, waited for, closed, or carries a value.
//! 4. A lease either holds, and its lock says so, or stands in its lock's queue, once.
//! 5. The next in line of a queue could not hold beside the holders, unless the lock is closed or no
//!    token is left (P4, P8).
//! 6. A session and its leases know each other.
//! 7. Each lease and each session has at most one deadline in the index, and it is the current one;
//!    a held lease's own deadline is never before its last renewal plus its TTL (P3).
//! 8. Each request id of what lives or is remembered leads there, and to nothing else (P7).
//! 9. Nothing both lives and is remembered as ended; ends are remembered in the order in which
//!    they happened, indexed, in full chunks but the last.
//! 10. Every bound of [`limits`] is kept; leases and closed locks share one.
//! 11. The rows are the state: drained changes add up to the image, and a machine made of the image
//!     goes on like the one that wrote it (by test, not by `check`).
//! 12. All claims for permits of one lock, held or waiting, name the same limit.
//! 13. A closed lock has its reopening in the index; a value's token was granted to its own lock.
//! 14. What was asked for together and waits, waits in all its queues; its first lease has the
//!     deadline and is attached or not.
//! 15. A grant that is held by several leases is held by one session, in one mode, and its lowest
//!     lease id stands among the holders.
//! 16. No record has a revision above the last one given, and no two have the same.
#![no_std]
#![warn(missing_docs)]

extern crate alloc;

mod acquire;
mod changes;
mod check;
pub mod command;
mod deadlines;
mod deadlock;
mod delay;
pub mod event;
mod handover;
pub mod history;
pub mod ids;
pub mod image;
pub mod limits;
pub mod machine;
mod many;
pub mod outcome;
pub mod planted;
pub mod query;
mod queue;
mod reacquire;
pub mod records;
mod release;
mod requests;
mod restored;
mod sessions;
mod table;
pub mod time;
mod values;

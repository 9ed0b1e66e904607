//! Bugs put in on purpose, so that the tests can show that they would see them.
//!
//! They are compiled under the feature `proof` alone; without it [`planted`] is `false` for the
//! compiler, and nothing of them is left. One process has one of them or none: its outermost part
//! (the binary, or a test) reads a name from [`VARIABLE`] and chooses it once; this module reads
//! nothing. `tests/planted` says which promise each breaks and which layer has to notice.

#[cfg(feature = "proof")]
use alloc::format;
use alloc::string::String;

/// The variable of the environment that names the bug.
pub const VARIABLE: &str = "OARLOCK_PLANTED";

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $bug:ident,)+) => {
        /// What is wrong on purpose.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$bug,)+];

            /// What is wrong, in a few words.
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$bug => concat!($($what),+).trim_ascii(),)+
                }
            }
        }
    };
}

bugs! {
    // P1: exclusion.
    /// A reader joins the writer that holds.
    ReaderJoinsWriter,
    /// Of two who take a free lock in a row the second holds as well.
    SecondWriterWins,
    /// Of the permits that are held only those taken last are counted.
    OnlyTheLastPermitsCount,
    /// A lock that a lock-delay keeps closed is granted to who asks anew.
    ClosedLockIsGranted,
    /// A request for several locks is given each of them as it comes free.
    SeveralAreTakenOneByOne,
    /// Permits of another limit are taken beside those that are held.
    AnyLimitIsTaken,
    /// While no leader is known a node decides about a lock from its own state.
    FollowerGrants,
    // P2: fencing.
    /// With a lock that is forgotten the newest token goes back.
    TokenIsGivenBack,
    /// A state read from rows counts tokens from the highest that is held.
    ImageRestartsTokens,
    /// A restored cluster goes on with the tokens of its backup.
    RestoreRepeatsTokens,
    /// A restored cluster jumps above the backup alone, not above what was seen since.
    RestoreForgetsWhatWasSeen,
    /// A force release of a token that ended takes the present holder.
    ForceTakesAnyToken,
    // P3: leases.
    /// A lease ends when 99 % of its time is over.
    EndsOnePercentEarly,
    /// A renewal leaves the deadline by which leases are ended.
    RenewalIsNotCounted,
    /// What falls due within an entry ends before its commands run.
    EndsBeforeTheEntry,
    /// The lease clock runs on without a majority.
    OutagesCount,
    /// A new leader gives every lease its whole time anew.
    NewLeaderRenewsAll,
    /// A replica judges what is due by its own clock.
    ReplicaReadsItsClock,
    /// The leader stamps the time of day.
    WallClockStamps,
    /// A waiter that was granted while away is told before it is back, and loses the grant.
    ToldBeforeAttached,
    // P4: progress.
    /// What is due beyond the bound of one advance is never ended.
    BeyondTheBoundIsForgotten,
    /// The expiry of a holder lets nobody in.
    DeadHolderWakesNobody,
    /// What falls due is ended 400 ms late.
    DueEndsLate,
    /// After its first leadership a node ends nothing any more.
    TimersEndWithLeadership,
    /// The task that ends what is due panics when first something is.
    ExpiryPanics,
    /// A lock that is free and not waited for is remembered.
    IdleLocksAreKept,
    // P5: durability.
    /// A group of the log is acknowledged without its sync.
    AcknowledgedBeforeSync,
    /// A vote is answered before it is synced.
    VoteBeforeSync,
    /// A snapshot gets its name before its bytes are synced.
    SnapshotNamedBeforeSync,
    /// Purged segments are removed with no sync in between.
    PurgesAreNotOrdered,
    /// Damage in the middle of the log is cut away like a torn end.
    DamageIsCutAway,
    /// An installed snapshot moves the position and leaves the state in memory as it was.
    InstallKeepsTheState,
    /// Snapshots lack those who wait.
    ImageLacksWaiters,
    /// A node that lost its disk takes part under its old id.
    EmptiedNodeVotes,
    /// An entry of a level that is not known is skipped.
    UnknownLevelIsSkipped,
    /// An order depends on where things lie in memory.
    OrderByAddress,
    /// The last row of each batch is not written to the view.
    RowIsNotWritten,
    /// At every fourth entry the view gets the position without the rows that lead to it.
    PositionWithoutRows,
    /// A node that does not lead forgets the newest grant of the past of each lock.
    FollowerForgetsThePast,
    /// Appends that arrive in a burst overtake each other.
    AppendsOvertake,
    // P6: reads.
    /// A read asks no majority.
    ReadAsksNobody,
    /// A read trusts what a majority said up to half a minute ago.
    ReadTrustsAnOldQuorum,
    /// A follower answers reads from its own state.
    FollowerAnswersReads,
    // P7: once.
    /// A request id that is known is taken for a new one.
    RepeatIsNew,
    /// A state read from rows knows no request ids.
    ImageForgetsRequests,
    /// Ends are forgotten after a hundredth of their time.
    EndIsForgottenEarly,
    /// Another command under a known request id is taken for its repeat.
    OtherCommandIsARepeat,
    /// A repeated release ends the grant of somebody else.
    RepeatedReleaseEndsAnother,
    // P8: order.
    /// The last waiter is served first.
    LastIsServedFirst,
    /// Requests for permits pass the queue.
    SmallPermitsOvertake,
    /// Readers pass a writer that waits.
    ReadersOvertake,
    /// A waiter whose grace is over keeps its place.
    AbandonedWaiterStays,
    /// A grant to a waiter that is away need not be claimed.
    UnclaimedIsKept,
    /// A session is granted a lock on its way out.
    EndingSessionIsGranted,
    // P9: nothing hangs, nothing lies.
    /// Who waits is not woken by the grant.
    GrantWakesNobody,
    /// Calls have a hundred times their deadline.
    CallsHaveNoDeadline,
    /// A call that may have been done is answered as not done at its deadline.
    TimeoutIsNotDone,
    /// A proposal that was under way when the leader changed is answered as not done.
    DiscardedIsNotDone,
    /// A refusal names who asks as the holder.
    RefusalNamesTheAsker,
    /// The streams of all waiters are woken ten times a second.
    StreamsAreAllWoken,
    /// An unreachable cluster is no error to the command line.
    UnreachableIsSuccess,
    /// To look at a lease ends it.
    LookingReleases,
    /// Who renews a lease that lives is told that it is gone.
    LivingIsGone,
    /// The client goes on with a connection that was lost.
    LostConnectionIsKept,
}

/// Whether this process has the bug.
#[cfg(not(feature = "proof"))]
pub const fn planted(_bug: Bug) -> bool {
    false
}

/// Whether this process has the bug.
#[cfg(feature = "proof")]
pub fn planted(bug: Bug) -> bool {
    chosen() == Some(bug)
}

/// Which bug this process has.
#[cfg(feature = "proof")]
pub fn chosen() -> Option<Bug> {
    let number = CHOSEN.load(core::sync::atomic::Ordering::Relaxed);
    Bug::ALL.get(number.checked_sub(1)?).copied()
}

/// The place of the chosen bug among all of them, counted from one; zero for none.
#[cfg(feature = "proof")]
static CHOSEN: core::sync::atomic::AtomicUsize = core::sync::atomic::AtomicUsize::new(0);

/// Chooses the bug of this process; choosing it again changes nothing. The error says that there is
/// none of this name, so that a misspelt one is not taken for a bug that nobody notices.
#[cfg(feature = "proof")]
pub fn choose(name: Option<String>) -> Result<(), String> {
    let Some(name) = name else { return Ok(()) };
    let place = Bug::ALL.iter().position(|bug| format!("{bug:?}") == name);
    let place = place.ok_or_else(|| format!("no planted bug is called {name:?}"))?;
    CHOSEN.store(place.saturating_add(1), core::sync::atomic::Ordering::Relaxed);
    Ok(())
}

/// Refuses any name: nothing is planted in this build.
#[cfg(not(feature = "proof"))]
pub fn choose(name: Option<String>) -> Result<(), String> {
    match name {
        None => Ok(()),
        Some(name) => Err(alloc::format!("{name}: build with the feature `proof` to plant bugs")),
    }
}

//! Every planted bug: the promise it breaks, the peers' defect it repeats, and the layer that has to
//! notice, with the words in which that layer says so.

use oarlock_core::planted::Bug;

/// Who notices.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Layer {
    /// The simulation, by the complaint of one of these judges.
    Seeds(&'static [&'static str]),
    /// The golden script of this name.
    Script(&'static str),
    /// The naive model of the core.
    Model,
    /// Cuts of the power and flipped bits: the test, and what it says.
    Cuts(&'static str, &'static str),
    /// A module against its neighbours' stand-ins: the test, and what it says.
    Part(&'static str, &'static str),
    /// The same, of the Rust client.
    Client(&'static str, &'static str),
    /// Real processes: the test, and what it says.
    Nodes(&'static str, &'static str),
    /// Rounds of faults against real processes: these faults, and what the run says.
    Rounds(&'static str, &'static str),
}

impl Layer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Seeds(_) => "simulation",
            Self::Script(_) => "scripts",
            Self::Model => "model",
            Self::Cuts(..) => "cuts and flips",
            Self::Part(..) => "parts",
            Self::Client(..) => "client",
            Self::Nodes(..) => "real nodes",
            Self::Rounds(..) => "rounds of faults",
        }
    }
}

/// A bug and who notices it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) bug: Bug,
    pub(crate) promise: &'static str,
    /// The peers' defect, by its number in `docs/peers-defects.md`; empty for none.
    pub(crate) row: &'static str,
    pub(crate) layer: Layer,
}

const fn case(bug: Bug, promise: &'static str, row: &'static str, layer: Layer) -> Case {
    Case { bug, promise, row, layer }
}

const CUT: &str = "a_cut_at_any_call_keeps_what_was_acknowledged_singly";
const CUT_OF_SNAPSHOTS: &str = "a_cut_at_any_call_leaves_the_newest_snapshot_and_the_one_before_it";
const VIEW: &str = "the_view_is_whole_at_every_batch_boundary";
const FLIP: &str = "a_flipped_bit_is_recovered_from_exactly_or_refused";

/// Of the short form: spread over promises and layers, and noticed soon.
pub(crate) const SHORT: [Bug; 10] = [
    Bug::ReaderJoinsWriter,
    Bug::ImageRestartsTokens,
    Bug::OutagesCount,
    Bug::TimersEndWithLeadership,
    Bug::PurgesAreNotOrdered,
    Bug::ReadAsksNobody,
    Bug::RepeatIsNew,
    Bug::FollowerForgetsThePast,
    Bug::EndingSessionIsGranted,
    Bug::DiscardedIsNotDone,
];

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    case(Bug::ReaderJoinsWriter, "P1", "F4", Layer::Seeds(&["exclusion", "core"])),
    case(Bug::SecondWriterWins, "P1", "F6", Layer::Nodes("f6_of_a_thousand_acquires_at_once_exactly_one_holds", "left: ")),
    case(Bug::OnlyTheLastPermitsCount, "P1", "", Layer::Seeds(&["exclusion", "core"])),
    case(Bug::ClosedLockIsGranted, "P1", "", Layer::Script("a_lock_delay_keeps_the_other_holders")),
    case(Bug::SeveralAreTakenOneByOne, "P1", "F17", Layer::Seeds(&["core", "exclusion"])),
    case(Bug::AnyLimitIsTaken, "P1", "F16", Layer::Script("f16_another_limit_is_refused_while_permits_are_held_or_waited_for")),
    case(Bug::FollowerGrants, "P1", "F2", Layer::Seeds(&["tokens", "durable", "once"])),
    case(Bug::TokenIsGivenBack, "P2", "F14", Layer::Seeds(&["tokens", "reads"])),
    case(Bug::ImageRestartsTokens, "P2", "", Layer::Seeds(&["replicas", "tokens"])),
    case(Bug::RestoreRepeatsTokens, "P2", "F23", Layer::Nodes("a_restored_cluster_has_every_lock_and_repeats_no_token_however_often_it_is_restored", "left: ")),
    case(Bug::RestoreForgetsWhatWasSeen, "P2", "F23", Layer::Nodes("a_restored_cluster_has_every_lock_and_repeats_no_token_however_often_it_is_restored", "left: ")),
    case(Bug::ForceTakesAnyToken, "P2", "", Layer::Script("a_forced_token_that_ended_already_changes_nothing")),
    case(Bug::EndsOnePercentEarly, "P3", "", Layer::Seeds(&["expiry", "belief", "reads"])),
    case(Bug::RenewalIsNotCounted, "P3", "", Layer::Seeds(&["expiry", "belief", "reads", "core"])),
    case(Bug::EndsBeforeTheEntry, "P3", "", Layer::Model),
    case(Bug::OutagesCount, "P3", "F9", Layer::Seeds(&["expiry", "belief", "reads"])),
    case(Bug::NewLeaderRenewsAll, "P3", "F9", Layer::Nodes("f9_twenty_leader_changes_lose_no_live_lock_and_free_the_dead_one", " ms were left, now ")),
    case(Bug::ReplicaReadsItsClock, "P3", "F1, F19", Layer::Seeds(&["replicas"])),
    case(Bug::WallClockStamps, "P3", "", Layer::Seeds(&["progress", "late", "expiry", "belief", "reads"])),
    case(Bug::ToldBeforeAttached, "P3", "", Layer::Part("a_waiter_thought_gone_attaches_before_it_is_told", "not for its grace")),
    case(Bug::BeyondTheBoundIsForgotten, "P4", "", Layer::Script("an_advance_ends_a_bounded_number_of_leases")),
    case(Bug::DeadHolderWakesNobody, "P4", "F3", Layer::Seeds(&["core", "progress", "late"])),
    case(Bug::DueEndsLate, "P4", "", Layer::Seeds(&["progress", "late"])),
    case(Bug::TimersEndWithLeadership, "P4", "", Layer::Seeds(&["progress", "late"])),
    case(Bug::ExpiryPanics, "P4", "", Layer::Seeds(&["panicked"])),
    case(Bug::IdleLocksAreKept, "P4", "F14", Layer::Seeds(&["core"])),
    case(Bug::AcknowledgedBeforeSync, "P5", "", Layer::Seeds(&["start", "replicas", "durable"])),
    case(Bug::VoteBeforeSync, "P5", "", Layer::Cuts(CUT, "OARLOCK_CRASH_POINT")),
    case(Bug::SnapshotNamedBeforeSync, "P5", "", Layer::Cuts(CUT_OF_SNAPSHOTS, "OARLOCK_CRASH_POINT")),
    case(Bug::PurgesAreNotOrdered, "P5", "", Layer::Cuts(CUT, "is missing")),
    case(Bug::DamageIsCutAway, "P5", "", Layer::Cuts(FLIP, "a silent difference")),
    case(Bug::InstallKeepsTheState, "P5", "", Layer::Seeds(&["replicas"])),
    case(Bug::ImageLacksWaiters, "P5", "", Layer::Seeds(&["replicas", "fatal", "start"])),
    case(Bug::EmptiedNodeVotes, "P5", "", Layer::Nodes("a_node_with_an_emptied_directory_does_not_vote_and_says_how_to_rejoin", "node 2 still runs")),
    case(Bug::UnknownLevelIsSkipped, "P5", "", Layer::Part("an_entry_of_an_unknown_level_ends_the_process", "assertion failed: applied.is_err()")),
    case(Bug::OrderByAddress, "P5", "", Layer::Seeds(&["replicas"])),
    case(Bug::RowIsNotWritten, "P5", "", Layer::Part(VIEW, "the rows are no state")),
    case(Bug::PositionWithoutRows, "P5", "", Layer::Part(VIEW, "left: [(Meta, ")),
    case(Bug::FollowerForgetsThePast, "P5", "F19", Layer::Rounds("transfer,restart", "the nodes do not come to agree")),
    case(Bug::AppendsOvertake, "P5", "", Layer::Part("pipelined_appends_keep_their_order", "in order")),
    case(Bug::ReadAsksNobody, "P6", "", Layer::Seeds(&["reads"])),
    case(Bug::ReadTrustsAnOldQuorum, "P6", "", Layer::Seeds(&["reads"])),
    case(Bug::FollowerAnswersReads, "P6", "", Layer::Seeds(&["reads"])),
    case(Bug::RepeatIsNew, "P7", "F10", Layer::Seeds(&["once", "core"])),
    case(Bug::ImageForgetsRequests, "P7", "", Layer::Seeds(&["core", "once", "replicas"])),
    case(Bug::EndIsForgottenEarly, "P7", "", Layer::Seeds(&["once"])),
    case(Bug::OtherCommandIsARepeat, "P7", "", Layer::Script("a_request_id_for_another_command_is_refused")),
    case(Bug::RepeatedReleaseEndsAnother, "P7", "F5", Layer::Seeds(&["belief", "reads"])),
    case(Bug::LastIsServedFirst, "P8", "", Layer::Seeds(&["fifo"])),
    case(Bug::SmallPermitsOvertake, "P8", "F18", Layer::Seeds(&["fifo"])),
    case(Bug::ReadersOvertake, "P8", "", Layer::Seeds(&["fifo"])),
    case(Bug::AbandonedWaiterStays, "P8", "F11", Layer::Seeds(&["core", "progress", "late"])),
    case(Bug::UnclaimedIsKept, "P8", "F11", Layer::Script("a_grant_to_a_detached_waiter_is_lost_after_its_grace")),
    case(Bug::EndingSessionIsGranted, "P8", "F12", Layer::Script("f12_an_ending_session_is_not_granted_on_its_way_out")),
    case(Bug::GrantWakesNobody, "P9", "F3", Layer::Part("a_dead_holders_lock_goes_to_the_next_within_the_bound", "not granted: ")),
    case(Bug::CallsHaveNoDeadline, "P9", "F21", Layer::Nodes("without_a_majority_every_call_ends_and_says_what_is_known", "it does not hang")),
    case(Bug::TimeoutIsNotDone, "P9", "", Layer::Part("a_leader_that_hangs_leaves_the_outcome_unknown_and_a_read_not_done", "Err(NoLeader)")),
    case(Bug::DiscardedIsNotDone, "P9", "", Layer::Part("a_refused_proposal_is_not_done_and_a_discarded_one_is_unknown", "assertion failed: matches!(heard.await")),
    case(Bug::RefusalNamesTheAsker, "P9", "F22", Layer::Nodes("f22_a_refusal_names_the_holder_and_not_the_one_who_asks", "left: ")),
    case(Bug::StreamsAreAllWoken, "P9", "F15", Layer::Part("f15_of_5000_waiting_streams_a_hand_over_wakes_one_and_a_round_a_second_the_rest", "wakes for one round")),
    case(Bug::UnreachableIsSuccess, "P9", "F20", Layer::Nodes("f20_f21_an_unreachable_cluster_is_an_error_within_the_deadline", "left: Some(0)")),
    case(Bug::LookingReleases, "P9", "F7", Layer::Nodes("f7_a_lock_is_not_released_by_a_get_or_by_a_stranger", "right: \"me\"")),
    case(Bug::LivingIsGone, "P9", "", Layer::Seeds(&["expiry"])),
    case(Bug::LostConnectionIsKept, "P9", "F13", Layer::Client("f13_a_release_that_loses_its_connection_does_not_poison_the_client", "channel closed")),
];

//! How far each peer is known to have come, so that a disk that went back to an old image is noticed.
//!
//! A node that acknowledged a vote or an entry has it durably, and what is committed is never taken
//! back. One that connects with less has lost what it promised to keep: it could vote twice in a
//! term, or help to elect a leader that lacks acknowledged entries. It is refused, and stops when it
//! hears why.
//!
//! Known is what a node told this one since this process started, as a voter or as a follower. What
//! a leader has on its own disk it acknowledges to nobody. What is remembered here is not on disk:
//! a node whose peers have all restarted since is not found out.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::raft::types::{LogId, Vote};
use crate::service::replicator::NodeId;

/// A refusal that begins so tells the node that hears it to stop. Part of the protocol.
pub(super) const WENT_BACK: &str = "its disk went back to an earlier state";

/// So does one that begins so: its id is never used again. Part of the protocol.
pub(super) const REMOVED: &str = "it was removed from this cluster";

/// Whether a refusal for good says that the node was removed.
pub(crate) fn is_removal(why: &str) -> bool {
    why.starts_with(REMOVED)
}

/// What a node has durably. Part of the protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// A number by chance, another for each start of the process.
    pub process: u64,
    pub vote: Option<Vote>,
    /// The newest entry.
    pub last: Option<LogId>,
}

/// What a peer acknowledged.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Acknowledged {
    pub(super) vote: Option<Vote>,
    /// Must be committed, or it may yet be taken back.
    pub(super) last: Option<LogId>,
}

impl Acknowledged {
    fn with(self, other: Self) -> Self {
        let vote = if other.vote > self.vote { other.vote } else { self.vote };
        Self { vote, last: self.last.max(other.last) }
    }
}

/// Processes of one peer that are remembered as ended.
const PAST_MAX: usize = 8;

/// What is known of one peer.
#[derive(Default)]
struct Known {
    /// The process that said hello last, and those before it.
    process: u64,
    past: Vec<u64>,
    /// By that process: its hellos may be older than this, because they travel by themselves.
    current: Acknowledged,
    /// By those before it: every later one must have it.
    settled: Acknowledged,
}

type OwnMark = Box<dyn Fn() -> Mark + Send + Sync>;

pub(super) struct Marks {
    own: OnceLock<OwnMark>,
    known: Mutex<BTreeMap<NodeId, Known>>,
    /// Why a peer refused this node for good; empty while none did.
    refused: watch::Sender<String>,
}

impl Default for Marks {
    fn default() -> Self {
        let (own, known) = (OnceLock::new(), Mutex::default());
        Self { own, known, refused: watch::Sender::new(String::new()) }
    }
}

impl Marks {
    pub(super) fn set_own(&self, own: OwnMark) {
        let _only_once = self.own.set(own);
    }

    /// What this node has; `None` before it knows.
    pub(super) fn own(&self) -> Option<Mark> {
        self.own.get().map(|own| own())
    }

    /// The process of a peer that said hello last acknowledged this.
    pub(super) fn acknowledged(&self, by: NodeId, what: Acknowledged) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(by).or_default();
        known.current = known.current.with(what);
    }

    /// Why a peer with this mark is not the one it was.
    pub(super) fn check(&self, peer: NodeId, mark: Option<Mark>) -> Result<(), String> {
        let Some(mark) = mark else { return Ok(()) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(peer).or_default();
        // A process that runs loses nothing, and what one says that ended is only late.
        if known.process == mark.process || known.past.contains(&mark.process) {
            return Ok(());
        }
        let before = known.settled.with(known.current);
        if mark.vote >= before.vote && mark.last >= before.last {
            known.past.insert(0, std::mem::replace(&mut known.process, mark.process));
            known.past.truncate(PAST_MAX);
            known.settled = before;
            known.current = Acknowledged::default();
            return Ok(());
        }
        let show = |vote: Option<Vote>, last: Option<LogId>| {
            let vote = vote.map_or("no vote".to_owned(), |vote| format!("vote {vote}"));
            let last = last.map_or("no entry".to_owned(), |last| format!("entry {last}"));
            format!("{vote} and {last}")
        };
        Err(format!(
            "{WENT_BACK}: node {peer} acknowledged {} and comes back with {}",
            show(before.vote, before.last),
            show(mark.vote, mark.last)
        ))
    }

    /// A peer refused this node.
    pub(super) fn was_refused(&self, why: &str) {
        if why.starts_with(WENT_BACK) || why.starts_with(REMOVED) {
            self.refused.send_replace(why.to_owned());
        }
    }

    /// Why a peer refused this node for good, if one did.
    pub(super) fn refusal(&self) -> Option<String> {
        let why = self.refused.borrow();
        (!why.is_empty()).then(|| why.clone())
    }

    /// Waits for such a refusal.
    pub(super) async fn refused(&self) -> String {
        let mut refused = self.refused.subscribe();
        loop {
            if let Some(why) = self.refusal() {
                return why;
            }
            // The sender lives as long as this does.
            let _changed = refused.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::raft::presence;
    use crate::raft::store::files;
    use crate::raft::store::log::{LogOptions, LogStore};
    use crate::raft::store::snapshots::Snapshots;
    use crate::raft::transport::peers::Local;
    use crate::raft::types::SnapshotMeta;

    fn mark(process: u64, term: u64, index: u64) -> Mark {
        let leader = openraft::impls::leader_id_adv::LeaderId::new(term, 1);
        let last = LogId::new(leader.to_committed(), index);
        Mark { process, vote: Some(Vote::new(term, 1)), last: Some(last) }
    }

    fn acknowledges(marks: &Marks, mark: Mark) {
        let Mark { vote, last, .. } = mark;
        marks.acknowledged(2, Acknowledged { vote, last });
    }

    #[test]
    fn who_comes_back_with_less_than_it_acknowledged_is_refused() {
        let marks = Marks::default();
        assert_eq!(marks.check(2, Some(mark(1, 1, 1))), Ok(()), "nothing is known of it");
        acknowledges(&marks, mark(1, 3, 10));
        acknowledges(&marks, Mark { last: None, ..mark(1, 5, 0) });
        acknowledges(&marks, mark(1, 4, 9));
        for less in [
            Mark { process: 2, ..Mark::default() },
            mark(2, 3, 10),
            Mark { last: mark(2, 3, 9).last, ..mark(2, 5, 0) },
            Mark { last: None, ..mark(2, 6, 20) },
        ] {
            let why = marks.check(2, Some(less)).expect_err("refused");
            assert!(why.starts_with(WENT_BACK), "{why}");
        }
        let same = Mark { last: mark(2, 4, 9).last, ..mark(2, 5, 0) };
        assert_eq!(marks.check(2, Some(same)), Ok(()), "exactly that");
        let why = marks.check(2, Some(mark(3, 4, 9))).expect_err("an earlier process had more");
        assert!(why.starts_with(WENT_BACK), "{why}");
        assert_eq!(marks.check(3, Some(Mark::default())), Ok(()), "another node");
        assert_eq!(marks.check(2, None), Ok(()), "it does not say");
    }

    #[test]
    fn a_hello_that_was_overtaken_by_acknowledgements_is_none_of_a_disk_that_went_back() {
        let marks = Marks::default();
        assert_eq!(marks.check(2, Some(mark(1, 5, 10))), Ok(()));
        acknowledges(&marks, mark(1, 6, 12));
        assert_eq!(marks.check(2, Some(mark(1, 5, 10))), Ok(()), "over another connection");
        assert_eq!(marks.check(2, Some(mark(7, 6, 12))), Ok(()), "the next process");
        acknowledges(&marks, mark(7, 6, 14));
        assert_eq!(marks.check(2, Some(mark(1, 5, 10))), Ok(()), "of the process that ended");
        assert_eq!(marks.check(2, Some(mark(7, 6, 12))), Ok(()), "and nothing changed by it");
    }

    /// It installed a snapshot, and the power failed before its log was purged up to there.
    #[test]
    fn a_snapshot_that_is_ahead_of_the_log_is_no_disk_that_went_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = files::on_disk(&dir.path().join("log")).expect("a directory");
        let fatal = Arc::new(|why: &str| panic!("{why}"));
        let log = LogStore::open(files, LogOptions::default(), Box::new(|_, _| {}), fatal);
        let log = log.expect("a log");
        let snapshots = Snapshots::open(&dir.path().join("snapshots"), 7, None);
        let snapshots = Arc::new(snapshots.expect("a directory"));
        let installed = mark(0, 3, 40).last;
        let meta = SnapshotMeta { last_log_id: installed, ..SnapshotMeta::default() };
        let file = snapshots.begin(meta, 0).and_then(|file| file.finish(0)).expect("a snapshot");
        snapshots.put(&file).expect("a name");

        let at_the_leader = Marks::default();
        assert_eq!(at_the_leader.check(2, Some(Mark { process: 1, ..Mark::default() })), Ok(()));
        at_the_leader.acknowledged(2, Acknowledged { vote: None, last: installed });
        let local = Local::new(2, Vec::new(), None);
        presence::show(&log, Some(snapshots), &local, 2);
        assert_eq!(at_the_leader.check(2, local.welcome().mark), Ok(()));
    }

    #[test]
    fn only_a_disk_that_went_back_or_a_removal_is_a_refusal_for_good() {
        for why in [WENT_BACK, REMOVED] {
            let marks = Marks::default();
            marks.was_refused(&format!("{why}: …"));
            assert!(marks.refusal().is_some(), "{why}");
        }
        let marks = Marks::default();
        marks.was_refused("it looks for node 3, this is node 2");
        assert_eq!(marks.refusal(), None);
    }
}

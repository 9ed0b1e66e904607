//! A cluster that begins with the state of another one's backup.
//!
//! ```text
//!  plant  (oarlock restore)  backup -> verified -> tokens jump -> seed in an empty data directory
//!  sow    (first start)      birth as ever -> seed -> snapshot of the new cluster -> vote and log
//! ```
//! A backup is a snapshot file. Restored, it becomes the snapshot of the lowest first member at a
//! position of its own, and the others, empty, get it through Raft. The new cluster has a new id:
//! whatever is left of the old one can neither hear it nor be heard. Which tokens the old cluster
//! gave after the backup only its operator knows, so the operator has to say (P2).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use oarlock_core::ids::Token;
use oarlock_core::machine::Machine;
use openraft::Membership;
use openraft::storage::RaftLogStorage;
use openraft::vote::RaftLeaderId;

use crate::raft::store::codec;
use crate::raft::store::files::{Disk, Files};
use crate::raft::store::identity::Identity;
use crate::raft::store::log::LogStore;
use crate::raft::store::snapshot::{Header, SnapshotFile, SnapshotWriter};
use crate::raft::store::snapshots::Snapshots;
use crate::raft::store::view::row_hash;
use crate::raft::store::writer::load;
use crate::raft::types::{LogId, Member, SnapshotMeta, StoredMembership, Vote};
use crate::service::replicator::NodeId;

/// Where a planted seed waits for the first start, in the data directory.
const FOLDER: &str = "restore";
const SEED: &str = "seed.osnap";
const UNFINISHED: &str = "seed.tmp";
/// The term in which a restored state was, as it were, committed: the first.
const TERM: u64 = 1;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The cluster it was taken from.
    pub cluster_id: u128,
    /// Log position it stands at.
    pub applied_index: u64,
    /// Rows of the state.
    pub rows: u64,
    /// Locks that are held, waited for, closed, or carry a value.
    pub locks: u64,
    /// No token above it was granted before the backup.
    pub token_ceiling: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Which tokens the old cluster may have given after the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// None above this one, as the operator knows from the resources.
    UpTo(u64),
    /// None that anybody has seen: this backup is restored for the first time, and the cluster it
    /// came from is gone for good.
    FirstRestore,
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn open_backup(path: &Path) -> io::Result<SnapshotFile> {
    let because =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(because)?;
    SnapshotFile::of_any_cluster(Arc::new(file)).map_err(because)
}

fn summary(file: &SnapshotFile, machine: &Machine) -> Summary {
    Summary {
        cluster_id: file.cluster_id(),
        applied_index: file.meta().last_log_id.map_or(0, |id| id.index),
        rows: file.row_count(),
        locks: machine.totals().locks,
        token_ceiling: machine.token_ceiling().0,
        bytes: file.bytes(),
    }
}

/// Reads and verifies all of a backup.
pub fn inspect(path: &Path) -> io::Result<Summary> {
    let file = open_backup(path)?;
    Ok(summary(&file, &whole(&file)?))
}

/// The machine in a backup, every invariant checked: the file may come from anywhere.
fn whole(file: &SnapshotFile) -> io::Result<Machine> {
    let (machine, _) = load(file)?;
    machine.check().map_err(|broken| {
        let why = format!("the backup cannot be used: its state contradicts itself: {broken}");
        io::Error::new(io::ErrorKind::InvalidData, why)
    })?;
    Ok(machine)
}

/// Puts a backup into a data directory without a state, for the first start of a new cluster.
/// Returns what it holds and the new ceiling: every token of the new cluster is above it. No part of
/// a state is left behind when it fails.
pub fn plant(dir: &Path, backup: &Path, given: Given) -> io::Result<(Summary, u64)> {
    refuse_unless_empty(dir)?;
    let file = open_backup(backup)?;
    let mut machine = whole(&file)?;
    let found = summary(&file, &machine);
    let above = match given {
        Given::UpTo(token) => Token(token),
        Given::FirstRestore => machine.token_ceiling(),
    };
    let ceiling = machine.restored(above).ok_or_else(|| {
        refused(format!(
            "no tokens are left above {}: a token stays below 2^53",
            above.0.max(found.token_ceiling)
        ))
    })?;
    let files: Arc<dyn Files> = Arc::new(Disk::open(&dir.join(FOLDER))?);
    if files.list()?.iter().any(|name| name == UNFINISHED) {
        files.remove(UNFINISHED)?;
    }
    let header = Header::new(
        file.cluster_id(),
        file.meta().clone(),
        u64::try_from(machine.rows().count()).unwrap_or(u64::MAX),
    );
    let writer = SnapshotWriter::create(&files, UNFINISHED.to_owned(), header)?;
    let seed = write_rows(writer, &machine)?;
    seed.persist(SEED)?;
    files.sync_dir()?;
    Ok((found, ceiling.0))
}

fn refuse_unless_empty(dir: &Path) -> io::Result<()> {
    if has_seed(dir)? {
        return Err(refused(format!(
            "{} holds a restored state already, which waits for the first start; to restore another \
             one remove {}",
            dir.display(),
            dir.join(FOLDER).display()
        )));
    }
    for name in ["identity", "log", "snapshots", "state"] {
        if dir.join(name).try_exists()? {
            return Err(refused(format!(
                "{} is in use (it holds `{name}`): a backup is restored into a new cluster only, \
                 with empty data directories on all nodes",
                dir.display()
            )));
        }
    }
    Ok(())
}

fn write_rows(mut writer: SnapshotWriter, machine: &Machine) -> io::Result<SnapshotFile> {
    let mut sum = 0_u64;
    for (key, row) in machine.rows() {
        let (key, row) = (codec::encode(&key), codec::encode(&row));
        sum = sum.wrapping_add(row_hash(&key, &row));
        writer.push(&key, &row)?;
    }
    writer.finish(sum)
}

/// Whether a restored state waits here for the first start. One that cannot be looked at is an error:
/// without it an empty cluster would be born, and its tokens would begin anew.
fn has_seed(dir: &Path) -> io::Result<bool> {
    let seed = dir.join(FOLDER).join(SEED);
    seed.try_exists().map_err(|error| {
        io::Error::new(error.kind(), format!("look for {}: {error}", seed.display()))
    })
}

/// A restored state can only begin on the node that forms the cluster.
pub fn refuse_unless_lowest(
    node_id: NodeId,
    first_members: &BTreeMap<NodeId, Member>,
) -> io::Result<()> {
    match first_members.keys().next() {
        Some(&lowest) if lowest != node_id => Err(refused(format!(
            "a cluster is formed by its first member with the lowest id: restore the backup on node \
             {lowest}, and start node {node_id} with an empty directory"
        ))),
        Some(_) | None => Ok(()),
    }
}

/// At every start: refuses a seed where it cannot grow, forgets one whose cluster runs already. Says
/// whether one is yet to be sown.
pub fn check(
    dir: &Path,
    joined: bool,
    node_id: NodeId,
    first_members: &BTreeMap<NodeId, Member>,
) -> io::Result<bool> {
    if joined {
        return clear(dir).map(|()| false);
    }
    let waits = has_seed(dir)?;
    if waits {
        refuse_unless_lowest(node_id, first_members)?;
    }
    Ok(waits)
}

/// Makes the planted state that of the cluster which was just born, before Raft starts. False where
/// nothing was planted. It has to be written down that the node joined before Raft may use the
/// log: until then this is repeated after a crash.
pub async fn sow(dir: &Path, identity: &Identity, log: &LogStore) -> io::Result<bool> {
    if identity.joined || !has_seed(dir)? {
        return Ok(false);
    }
    let seed = open_backup(&dir.join(FOLDER).join(SEED))?;
    let leader = Vote::new(TERM, identity.node_id).leader_id().to_committed();
    let index = seed.meta().last_log_id.map_or(1, |id| id.index.max(1));
    let at = LogId::new(leader, index);
    if !log.is_empty() && log.bounds() != (Some(at), Some(at)) {
        return Err(io::Error::other(
            "a restored state waits for the first start, but the log is in use already: restore again, \
             with empty data directories on all nodes",
        ));
    }
    let (machine, _) = load(&seed)?;
    let nodes: BTreeMap<NodeId, Member> = identity.members.iter().cloned().collect();
    let voters = nodes.keys().copied().collect();
    let membership = Membership::new(vec![voters], nodes).map_err(io::Error::other)?;
    let meta = SnapshotMeta {
        last_log_id: Some(at),
        last_membership: StoredMembership::new(Some(at), membership),
    };
    let snapshots = Snapshots::open(&dir.join("snapshots"), identity.cluster_id, None)?;
    let file = write_rows(snapshots.begin(meta, seed.row_count())?, &machine)?;
    snapshots.put(&file)?;
    // The log says that the snapshot counts, so it comes after it; one stream, so the vote's sync
    // stands for both.
    let mut log = log.clone();
    log.purge(at).await?;
    log.save_vote(&Vote::new(TERM, identity.node_id)).await?;
    tracing::info!(rows = file.row_count(), position = %at, "the cluster begins with a restored state");
    Ok(true)
}

/// Forgets what was planted, once the identity says that the log is in use.
pub fn clear(dir: &Path) -> io::Result<()> {
    if !has_seed(dir)? {
        return Ok(());
    }
    std::fs::remove_dir_all(dir.join(FOLDER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::store::log::{LogOptions, LogStore};
    use oarlock_core::command::{Command, Entry, LEVEL};
    use oarlock_core::time::LeaseTime;

    fn identity() -> Identity {
        let members = vec![(1, Member::default()), (2, Member::default())];
        Identity { cluster_id: 7, node_id: 1, members, ..Identity::default() }
    }

    fn log(dir: &Path) -> LogStore {
        let files = Disk::open(&dir.join("log")).expect("a directory");
        let fatal = Arc::new(|why: &str| panic!("{why}"));
        LogStore::open(Arc::new(files), LogOptions::default(), Box::new(|_, _| {}), fatal)
            .expect("a log")
    }

    /// A backup of a machine whose clock moved.
    fn backup(dir: &Path) -> std::path::PathBuf {
        let mut machine = Machine::new();
        let commands = vec![(LeaseTime(9), Command::Advance)];
        machine.apply(&Entry { level: LEVEL, wall_ms: 0, commands }).expect("a known level");
        let at = LogId::new(Vote::new(5, 3).leader_id().to_committed(), 40);
        let meta = SnapshotMeta { last_log_id: Some(at), ..SnapshotMeta::default() };
        let files: Arc<dyn Files> = Arc::new(Disk::open(dir).expect("a directory"));
        let header = Header::new(99, meta, machine.rows().count() as u64);
        let writer = SnapshotWriter::create(&files, "part".to_owned(), header).expect("a file");
        write_rows(writer, &machine).expect("rows").persist("a.backup").expect("a name");
        dir.join("a.backup")
    }

    fn current(dir: &Path) -> SnapshotFile {
        let snapshots = Snapshots::open(&dir.join("snapshots"), 7, None).expect("the directory");
        snapshots.current().expect("a snapshot of the new cluster")
    }

    #[tokio::test]
    async fn a_power_cut_while_a_restored_state_is_sown_costs_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let backup = backup(&dir.path().join("elsewhere"));
        let dir = dir.path();
        let (held, ceiling) = plant(dir, &backup, Given::UpTo(1_000)).expect("it is planted");
        assert_eq!((held.cluster_id, held.applied_index), (99, 40));
        assert_eq!(ceiling, 1_000 + oarlock_core::limits::TOKEN_JUMP);
        // Cut before the log was told: the snapshot is there, the log is empty.
        assert!(sow(dir, &identity(), &log(dir)).await.expect("it is sown"));
        std::fs::remove_dir_all(dir.join("log")).expect("the log is lost");
        for cut in ["after the snapshot", "after the log"] {
            let log = log(dir);
            let members = BTreeMap::from([(1, Member::default()), (2, Member::default())]);
            let waits = check(dir, false, 1, &members).expect("it is the lowest");
            assert!(waits, "{cut}: the identity does not say that it joined");
            assert!(sow(dir, &identity(), &log).await.expect(cut), "{cut}");
            let file = current(dir);
            let at = file.meta().last_log_id;
            assert_eq!(at.map(|id| (id.leader_id.term, id.index)), Some((1, 40)), "{cut}");
            assert_eq!(log.bounds(), (at, at), "{cut}");
            assert!(!log.is_empty(), "{cut}: the vote is there");
            let (machine, position) = load(&file).expect("rows");
            assert_eq!(machine.token_ceiling().0, ceiling, "{cut}");
            assert_eq!(machine.now(), LeaseTime(9), "{cut}: the lease clock goes on");
            assert_eq!(position.membership.voter_ids().collect::<Vec<_>>(), [1, 2], "{cut}");
        }
        let waits = check(dir, true, 1, &BTreeMap::new()).expect("its cluster runs");
        assert!(!waits, "once the identity is written");
        assert!(!has_seed(dir).expect("it can be looked at"));
    }

    #[tokio::test]
    async fn a_log_in_use_is_not_sown_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let backup = backup(&dir.path().join("elsewhere"));
        plant(dir.path(), &backup, Given::FirstRestore).expect("it is planted");
        let log = log(dir.path());
        let mut writer = log.clone();
        writer.save_vote(&Vote::new(3, 2)).await.expect("a vote");
        let why = sow(dir.path(), &identity(), &log).await.expect_err("refused");
        assert!(why.to_string().contains("in use already"), "{why}");
        let joined = Identity { joined: true, ..identity() };
        let sown =
            sow(dir.path(), &joined, &log).await.expect("what runs has no more to do with it");
        assert!(!sown);
    }

    #[test]
    fn a_seed_that_cannot_be_looked_at_is_not_taken_for_none() {
        let dir = tempfile::tempdir().expect("a directory");
        // What is no directory cannot be looked into, even by root.
        std::fs::write(dir.path().join(FOLDER), b"a file").expect("a file");
        let members = BTreeMap::from([(1, Member::default())]);
        assert!(check(dir.path(), false, 1, &members).is_err());
    }

    #[test]
    fn an_unfinished_restore_is_begun_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let backup = backup(&dir.path().join("elsewhere"));
        let folder = dir.path().join(FOLDER);
        std::fs::create_dir_all(&folder).expect("a directory");
        std::fs::write(folder.join(UNFINISHED), b"half").expect("a file");
        plant(dir.path(), &backup, Given::FirstRestore).expect("it is planted");
        assert!(has_seed(dir.path()).expect("it can be looked at"));
    }
}

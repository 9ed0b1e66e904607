//! What is done to a cluster: one file for each kind of fault, begun and ended apart, so that
//! faults can overlap. Each proves that it happened; one that left no evidence fails the run.

mod clock_rate;
mod corrupt;
mod disk_full;
mod kill;
mod loss;
mod old_image;
mod partition;
mod pause;
mod power;
mod rebuild;
mod restart;
mod slow_disk;
mod slow_link;
mod sync_fails;
mod transfer;
mod wall_jump;
mod wipe;

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use oarlock_jepsen::chance::Chance;
use tokio::time::Instant;

use crate::cluster::Cluster;

/// Pause between two looks for evidence, and how many there are.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
const LOOKS_MAX: usize = 600;

/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// kill -9 of the leader, a follower, or all
    Kill,
    /// SIGSTOP of the leader, a follower, or a majority, for longer than an election takes
    Pause,
    /// The leader, a follower or a minority hears and reaches nobody
    Partition,
    /// One node's packets are lost on the way out, or on the way in
    OneWay,
    /// Each node reaches only its neighbours in a ring
    Ring,
    /// A third of the packets between the nodes is lost
    Loss,
    /// What nodes send takes up to 1.2 s
    SlowLink,
    /// SIGTERM and start again, one node after the other
    Restart,
    /// Leadership is handed over on request; comes as the first fault only
    Transfer,
    /// A node loses its state view and rebuilds it from snapshot and log
    Rebuild,
    /// kill -9 of the leader, a follower, or all, in the middle of a sync that is lost
    Power,
    /// Every sync fails, of the leader, a follower, or all
    SyncFails,
    /// Every sync takes up to 1.5 s
    SlowDisk,
    /// The disk has no room, or less than the reserve
    DiskFull,
    /// A bit of the log of one node flips while the node is down
    Corrupt,
    /// A node comes back with an empty directory
    Wipe,
    /// The disk of a follower goes back to an image of a moment ago; comes as the first fault only
    OldImage,
    /// Monotonic clocks run 0.9 % fast or slow, or stand still
    ClockRate,
    /// Wall clocks jump by hours
    WallJump,
}

/// What a fault is done to. Two that are done to the same cannot overlap: ending one would end the
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Links,
    Process,
    Disk,
    Clock,
    Wall,
}

impl Kind {
    fn part(self) -> Part {
        match self {
            Self::Partition | Self::OneWay | Self::Ring | Self::Loss | Self::SlowLink => {
                Part::Links
            }
            Self::Kill | Self::Pause | Self::Restart | Self::Transfer => Part::Process,
            Self::Rebuild
            | Self::Power
            | Self::SyncFails
            | Self::SlowDisk
            | Self::DiskFull
            | Self::Corrupt
            | Self::Wipe
            | Self::OldImage => Part::Disk,
            Self::ClockRate => Part::Clock,
            Self::WallJump => Part::Wall,
        }
    }

    /// Whether both may be under way at once.
    pub(crate) fn can_overlap(self, other: Self) -> bool {
        match self.part() {
            Part::Process => self != other,
            Part::Links | Part::Disk | Part::Clock | Part::Wall => self.part() != other.part(),
        }
    }

    /// Whether it needs links that can be cut.
    pub(crate) fn needs_links(self) -> bool {
        self.part() == Part::Links
    }

    /// Whether it needs the proxy: namespaces drop packets, and delay none.
    pub(crate) fn needs_proxy(self) -> bool {
        self == Self::SlowLink
    }

    /// Whether the node's program must have faults inside.
    pub(crate) fn needs_orders(self) -> bool {
        match self {
            Self::Power
            | Self::SyncFails
            | Self::SlowDisk
            | Self::ClockRate
            | Self::WallJump
            | Self::DiskFull => true,
            Self::Kill
            | Self::Pause
            | Self::Partition
            | Self::OneWay
            | Self::Ring
            | Self::Loss
            | Self::SlowLink
            | Self::Restart
            | Self::Transfer
            | Self::Rebuild
            | Self::Corrupt
            | Self::Wipe
            | Self::OldImage => false,
        }
    }

    /// Whether it needs a cluster that is whole to begin with.
    pub(crate) fn begins_first(self) -> bool {
        matches!(self, Self::OldImage | Self::Transfer)
    }

    /// What a node says of it, where orders make it.
    fn evidence(self) -> Option<&'static str> {
        match self {
            Self::Power => Some("syncs_held"),
            Self::SlowDisk => Some("syncs_slowed"),
            Self::DiskFull => Some("writes_refused"),
            Self::ClockRate => Some("clock_gained_us"),
            Self::Kill
            | Self::Pause
            | Self::Partition
            | Self::OneWay
            | Self::Ring
            | Self::Loss
            | Self::SlowLink
            | Self::Restart
            | Self::Transfer
            | Self::Rebuild
            | Self::SyncFails
            | Self::Corrupt
            | Self::Wipe
            | Self::OldImage
            | Self::WallJump => None,
        }
    }

    /// Whether its end waits for something that other faults may hold back, so that they end first.
    /// An old image goes before whatever would start its node on it again.
    fn ends_late(self) -> bool {
        match self.part() {
            Part::Disk => !matches!(self, Self::Rebuild | Self::Power | Self::OldImage),
            Part::Clock | Part::Wall => true,
            Part::Links | Part::Process => false,
        }
    }
}

/// What a fault under way has to remember.
enum Kept {
    Nothing,
    /// How long the log of each target was.
    Logged(Vec<usize>),
    Flip(corrupt::Flip),
    Aside(wipe::Aside),
    Newest(PathBuf),
    /// What the power cut took.
    LostBytes(u64),
    /// How far the wall clock of each target jumped.
    JumpedMs(Vec<i64>),
}

/// A fault under way.
pub(crate) struct Active {
    kind: Kind,
    /// Whom it hit, for the report.
    pub(crate) what: String,
    targets: Vec<usize>,
    kept: Kept,
    /// What each node said of it before: only what is new is evidence.
    before: Vec<i64>,
    /// Whether there was anything to do it to: a process that another fault had ended is not killed.
    has_hit: bool,
    began: Instant,
}

impl Active {
    /// How the kind is called.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// In which order faults end.
    pub(crate) fn ends_late(&self) -> bool {
        self.kind.ends_late()
    }
}

/// Begins a fault.
pub(crate) async fn begin(
    kind: Kind,
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<Active, String> {
    let mut kept = Kept::Nothing;
    let (began, before) = (Instant::now(), said(cluster, kind.evidence()));
    let ran: Vec<bool> = (0..cluster.nodes()).map(|node| cluster.runs(node)).collect();
    let (what, targets) = match kind {
        Kind::Kill => kill::begin(cluster, chance).await?,
        Kind::Pause => pause::begin(cluster, chance).await?,
        Kind::Partition => partition::isolate(cluster, chance).await?,
        Kind::OneWay => partition::one_way(cluster, chance).await?,
        Kind::Ring => partition::ring(cluster).await?,
        Kind::Loss => loss::begin(cluster)?,
        Kind::SlowLink => slow_link::begin(cluster, chance).await?,
        Kind::Restart => restart::begin(cluster).await?,
        Kind::Transfer => transfer::begin(cluster, chance).await?,
        Kind::Rebuild => rebuild::begin(cluster, chance).await?,
        Kind::Power => {
            let (what, targets, lost) = power::begin(cluster, chance, &before).await?;
            kept = Kept::LostBytes(lost);
            (what, targets)
        }
        Kind::SyncFails => sync_fails::begin(cluster, chance).await?,
        Kind::SlowDisk => slow_disk::begin(cluster, chance).await?,
        Kind::DiskFull => {
            let (what, targets, logged) = disk_full::begin(cluster, chance).await?;
            kept = Kept::Logged(logged);
            (what, targets)
        }
        Kind::Corrupt => {
            let (what, node, flip) = corrupt::begin(cluster, chance).await?;
            kept = Kept::Flip(flip);
            (what, vec![node])
        }
        Kind::Wipe => {
            let (what, node, aside) = wipe::begin(cluster, chance).await?;
            kept = Kept::Aside(aside);
            (what, vec![node])
        }
        Kind::OldImage => {
            let (what, node, newest) = old_image::begin(cluster, chance).await?;
            kept = Kept::Newest(newest);
            (what, vec![node])
        }
        Kind::ClockRate => clock_rate::begin(cluster, chance).await?,
        Kind::WallJump => {
            let (what, targets, jumped_ms) = wall_jump::begin(cluster, chance)?;
            kept = Kept::JumpedMs(jumped_ms);
            (what, targets)
        }
    };
    let has_hit = match (kind, &kept) {
        (Kind::Power, Kept::LostBytes(0)) => false,
        (Kind::Kill | Kind::Pause | Kind::Restart | Kind::Power, _) => {
            targets.iter().any(|&node| ran[node])
        }
        _ => true,
    };
    Ok(Active { kind, what, targets, kept, before, has_hit, began })
}

/// What each node says under a name.
fn said(cluster: &mut Cluster, name: Option<&str>) -> Vec<i64> {
    let nodes = 0..cluster.nodes();
    nodes.map(|node| name.map_or(0, |name| cluster.said(node, name))).collect()
}

/// Whether a number that a node tells is evidence: it is not the one from before, and not the one
/// of a process that has only just begun.
fn is_new(now: i64, before: i64) -> bool {
    now != 0 && now != before
}

/// Ends it, brings back what it took, and looks for its evidence. False if there is none and there
/// could not be: a cut between processes that another fault had ended keeps nothing from arriving,
/// and none of them is killed once more.
pub(crate) async fn end(
    active: &Active,
    cluster: &mut Cluster,
    alone: bool,
) -> Result<bool, String> {
    let mut bit = active.has_hit;
    let (targets, before) = (&active.targets, &active.before);
    let ended = match (active.kind, &active.kept) {
        (Kind::Kill | Kind::Rebuild | Kind::Power, _) => {
            targets.iter().try_for_each(|&node| cluster.launch_if_down(node))
        }
        (Kind::Pause, _) => pause::end(cluster, targets, active.began).await,
        (Kind::Partition | Kind::OneWay | Kind::Ring | Kind::Loss | Kind::SlowLink, _) => {
            match cluster.links().heal()? {
                0 if alone => Err("it kept nothing from arriving: it was no fault".to_owned()),
                kept => {
                    bit = kept > 0;
                    Ok(())
                }
            }
        }
        (Kind::SyncFails, _) => sync_fails::end(cluster, targets).await,
        (Kind::SlowDisk, _) => slow_disk::end(cluster, targets, before).await,
        (Kind::DiskFull, Kept::Logged(logged)) => {
            disk_full::end(cluster, targets, logged, before).await
        }
        (Kind::Corrupt, Kept::Flip(flip)) => corrupt::end(cluster, targets[0], flip).await,
        (Kind::Wipe, Kept::Aside(aside)) => wipe::end(cluster, targets[0], aside).await,
        (Kind::OldImage, Kept::Newest(newest)) => old_image::end(cluster, targets[0], newest),
        (Kind::ClockRate, _) => clock_rate::end(cluster, targets, before).await,
        (Kind::WallJump, Kept::JumpedMs(ms)) => wall_jump::end(cluster, targets, ms).await,
        (
            Kind::Restart
            | Kind::Transfer
            | Kind::DiskFull
            | Kind::Corrupt
            | Kind::Wipe
            | Kind::OldImage
            | Kind::WallJump,
            _,
        ) => Ok(()),
    };
    ended.map(|()| bit).map_err(|why| format!("{}: {why}", active.what))
}

/// The leader, a follower, or another set, by chance; and how to call it.
async fn someone(
    cluster: &Cluster,
    chance: &mut Chance,
    many: &'static str,
    count: usize,
) -> (&'static str, Vec<usize>) {
    let nodes = cluster.nodes();
    let leader = cluster.leader_if_known().await.unwrap_or(0);
    let shift = 1 + usize::try_from(chance.below(nodes as u64 - 1)).unwrap_or(0);
    match chance.below(3) {
        0 => ("leader", vec![leader]),
        1 => ("follower", vec![(leader + shift) % nodes]),
        _ => (many, (0..count).map(|n| (leader + n) % nodes).collect()),
    }
}

/// Waits until every target says that something came of its orders since they were given.
async fn wait_for_evidence(
    cluster: &mut Cluster,
    targets: &[usize],
    before: &[i64],
    name: &str,
) -> Result<(), String> {
    for &node in targets {
        let mut looks = 0;
        while !is_new(cluster.said(node, name), before[node]) {
            looks += 1;
            if looks > LOOKS_MAX {
                return Err(format!("node {node} left no evidence of {name}"));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
    Ok(())
}

/// Waits until a node refused to start, for a reason that says these words.
async fn refuses_to_start(
    cluster: &mut Cluster,
    node: usize,
    logged: usize,
    words: &[&str],
) -> Result<(), String> {
    // Another fault may have killed it before it could refuse.
    cluster.launch_if_killed(node)?;
    let code = cluster.wait_ended(node).await?;
    let log = cluster.log_since(node, logged);
    if code == 0 || !words.iter().all(|word| log.contains(word)) {
        return Err(format!("node {node} ended with {code} and does not say {words:?}:\n{log}"));
    }
    Ok(())
}

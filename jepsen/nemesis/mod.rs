//! What is done to a cluster: one file for each kind of fault, begun and ended apart, so that
//! faults can overlap. Each proves that it happened; one that left no evidence fails the run.

mod clock_rate;
mod corrupt;
mod disk_full;
mod kill;
mod loss;
mod members;
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
    /// A machine joins by invitation and one that was a member is removed; comes as the first fault only
    Members,
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
    Membership,
}

/// When a fault ends, of several under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Soon,
    /// After those that may hold back what its end waits for.
    Late,
    /// When nothing else holds anything back.
    Last,
}

/// What has to be known of a kind before it is begun, and to end it.
struct Traits {
    part: Part,
    end: End,
    /// Whether the node's program must have faults inside.
    by_order: bool,
    /// What a node says that took the order, where it says anything.
    evidence: Option<&'static str>,
    /// Whether it needs a cluster that is whole to begin with.
    first: bool,
}

impl Traits {
    const fn of(part: Part) -> Self {
        Self { part, end: End::Soon, by_order: false, evidence: None, first: false }
    }

    const fn late(self) -> Self {
        Self { end: End::Late, ..self }
    }

    const fn by_order(self, evidence: Option<&'static str>) -> Self {
        Self { by_order: true, evidence, ..self }
    }

    const fn first(self) -> Self {
        Self { first: true, ..self }
    }
}

impl Kind {
    fn traits(self) -> Traits {
        match self {
            Self::Kill | Self::Pause | Self::Restart => Traits::of(Part::Process),
            Self::Transfer => Traits::of(Part::Process).first(),
            Self::Partition | Self::OneWay | Self::Ring | Self::Loss | Self::SlowLink => {
                Traits::of(Part::Links)
            }
            Self::Rebuild => Traits::of(Part::Disk),
            Self::Power => Traits::of(Part::Disk).by_order(Some("syncs_held")),
            Self::SyncFails => Traits::of(Part::Disk).by_order(None).late(),
            Self::SlowDisk => Traits::of(Part::Disk).by_order(Some("syncs_slowed")).late(),
            Self::DiskFull => Traits::of(Part::Disk).by_order(Some("writes_refused")).late(),
            Self::Corrupt | Self::Wipe => Traits::of(Part::Disk).late(),
            // Ends before whatever would start its node on the old image again.
            Self::OldImage => Traits::of(Part::Disk).first(),
            Self::ClockRate => Traits::of(Part::Clock).by_order(Some("clock_gained_us")).late(),
            Self::WallJump => Traits::of(Part::Wall).by_order(None).late(),
            Self::Members => Traits { end: End::Last, ..Traits::of(Part::Membership).first() },
        }
    }

    /// Whether both may be under way at once.
    pub(crate) fn can_overlap(self, other: Self) -> bool {
        match self.traits().part {
            Part::Process => self != other,
            Part::Links | Part::Disk | Part::Clock | Part::Wall | Part::Membership => {
                self.traits().part != other.traits().part
            }
        }
    }

    /// Whether it needs links that can be cut.
    pub(crate) fn needs_links(self) -> bool {
        self.traits().part == Part::Links
    }

    /// Whether it needs the proxy: namespaces drop packets, and delay none.
    pub(crate) fn needs_proxy(self) -> bool {
        self == Self::SlowLink
    }

    /// Whether the node's program must have faults inside.
    pub(crate) fn needs_orders(self) -> bool {
        self.traits().by_order
    }

    /// Whether it needs a cluster that is whole to begin with.
    pub(crate) fn begins_first(self) -> bool {
        self.traits().first
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
    Change(members::Change),
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
    pub(crate) fn end(&self) -> End {
        self.kind.traits().end
    }
}

/// Begins a fault.
pub(crate) async fn begin(
    kind: Kind,
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<Active, String> {
    let mut kept = Kept::Nothing;
    let (began, before) = (Instant::now(), said(cluster, kind.traits().evidence));
    let ran: Vec<bool> = (0..cluster.machines()).map(|node| cluster.runs(node)).collect();
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
        Kind::Members => {
            let (what, asked) = members::begin(cluster, chance).await?;
            kept = Kept::Change(asked);
            (what, Vec::new())
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
    let machines = 0..cluster.machines();
    machines.map(|node| name.map_or(0, |name| cluster.said(node, name))).collect()
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
    active: &mut Active,
    cluster: &mut Cluster,
    alone: bool,
) -> Result<bool, String> {
    let mut bit = active.has_hit;
    let (targets, before) = (&active.targets, &active.before);
    let ended = match (active.kind, &mut active.kept) {
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
        (Kind::SlowDisk, _) => {
            end_order(slow_disk::ORDER, active.kind, cluster, targets, before).await
        }
        (Kind::DiskFull, Kept::Logged(logged)) => {
            disk_full::end(cluster, targets, logged, before).await
        }
        (Kind::Corrupt, Kept::Flip(flip)) => corrupt::end(cluster, targets[0], flip).await,
        (Kind::Wipe, Kept::Aside(aside)) => wipe::end(cluster, targets[0], aside).await,
        (Kind::OldImage, Kept::Newest(newest)) => old_image::end(cluster, targets[0], newest),
        (Kind::ClockRate, _) => {
            end_order(clock_rate::ORDER, active.kind, cluster, targets, before).await
        }
        (Kind::Members, Kept::Change(change)) => members::end(cluster, change).await,
        (Kind::WallJump, Kept::JumpedMs(ms)) => wall_jump::end(cluster, targets, ms).await,
        (
            Kind::Restart
            | Kind::Transfer
            | Kind::DiskFull
            | Kind::Corrupt
            | Kind::Wipe
            | Kind::OldImage
            | Kind::WallJump
            | Kind::Members,
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
    let members = cluster.members();
    let leader = cluster.leader_if_known().await;
    let at = members.iter().position(|node| Some(*node) == leader).unwrap_or(0);
    let nth = |n: usize| members[(at + n) % members.len()];
    let shift = 1 + usize::try_from(chance.below(members.len() as u64 - 1)).unwrap_or(0);
    match chance.below(3) {
        0 => ("leader", vec![nth(0)]),
        1 => ("follower", vec![nth(shift)]),
        _ => (many, (0..count.min(members.len())).map(nth).collect()),
    }
}

/// Gives every target the same order.
fn order(
    cluster: &mut Cluster,
    targets: &[usize],
    name: &'static str,
    value: &impl ToString,
) -> Result<(), String> {
    targets.iter().try_for_each(|&node| cluster.orders(node)?.give(name, value))
}

/// Takes an order back, once every target says that something came of it.
async fn end_order(
    name: &'static str,
    kind: Kind,
    cluster: &mut Cluster,
    targets: &[usize],
    before: &[i64],
) -> Result<(), String> {
    for &node in targets {
        cluster.launch_if_down(node)?;
    }
    if let Some(evidence) = kind.traits().evidence {
        wait_for_evidence(cluster, targets, before, evidence).await?;
    }
    targets.iter().try_for_each(|&node| cluster.orders(node)?.withdraw(name))
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

//! This machine, for a node of one configuration: what must be right before it is started.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock_client::{Client, ClientError, Identity, Options};
use rustix::fs::{statfs, statvfs};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Finding, certificates, fail, pass, warn};
use crate::config::Config;

/// A disk that does not answer within this time is not one for a log.
const DISK_DEADLINE: Duration = Duration::from_secs(10);
/// Syncs that are measured, and for how long at most.
const SYNCS: usize = 50;
const SYNCS_MAX: Duration = Duration::from_secs(2);
/// One record of the log, about.
const SYNC_BYTES: usize = 4096;

/// Descriptors besides those of clients: peers, log, state, snapshots.
const DESCRIPTORS_OWN: u64 = 256;

/// Over this long the clocks are compared.
const CLOCKS_OVER: Duration = Duration::from_secs(1);
/// What leases allow between two clocks is 1 %; NTP slews by 500 parts in a million at most.
const CLOCKS_FAIL_PPM: u64 = 10_000;
const CLOCKS_WARN_PPM: u64 = 1_000;

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// Kinds of file systems by the numbers that Linux gives them.
#[rustfmt::skip]
const FILE_SYSTEMS: &[(i64, &str)] = &[
    (0xef53, "ext4"), (0x5846_5342, "xfs"), (0x9123_683e, "btrfs"), (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"), (0x794c_7630, "overlay"), (0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs"),
    (0x6969, "nfs"), (0xff53_4d42, "cifs"), (0xfe53_4d42, "smb2"), (0x6573_5546, "fuse"),
];

pub(super) async fn examine(path: &Path, ca: Option<&Path>) -> Vec<Finding> {
    let config = match Config::load(Some(path)) {
        Ok(config) => config,
        Err(errors) => {
            let advice = "correct the file or the variables; cluster/sample.toml has every setting";
            return vec![fail("configuration", errors.to_string(), advice), open_files(None)];
        }
    };
    let read = format!("{} is valid: node {}", path.display(), config.node_id);
    let mut findings = vec![pass("configuration", read)];
    findings.extend(of_disk(&config).await);
    findings.push(open_files(Some(&config)));
    findings.push(clocks().await);
    findings.push(protection(&config));
    let answered = if config.is_open_to_anybody() {
        anonymous(&config, ca).await
    } else {
        Anonymous::NotAsked
    };
    findings.push(access(&config, answered));
    findings.extend(certificates::examine(&config));
    findings.push(peers(&config).await);
    findings
}

/// The directory, or what is there of the way to it: doctor makes none.
fn nearest(data_dir: &Path) -> PathBuf {
    let there = data_dir.ancestors().find(|dir| dir.exists());
    let there = there.filter(|dir| !dir.as_os_str().is_empty());
    there.unwrap_or(Path::new(".")).to_owned()
}

async fn of_disk(config: &Config) -> Vec<Finding> {
    let config = config.clone();
    let looking = tokio::task::spawn_blocking(move || {
        let dir = nearest(&config.data_dir);
        let mut findings = vec![kind(&dir), space(&dir, &config)];
        findings.extend(writing(&dir, &config));
        findings
    });
    match timeout(DISK_DEADLINE, looking).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![fail("disk", error.to_string(), "please report this")],
        Err(_) => {
            let found = format!("no answer within {DISK_DEADLINE:?}");
            vec![fail("disk", found, "look at the disk and at the kernel's messages")]
        }
    }
}

fn kind(dir: &Path) -> Finding {
    let number = match statfs(dir) {
        Ok(stat) => stat.f_type,
        Err(error) => {
            let found = format!("{}: {error}", dir.display());
            return fail("file system", found, "correct data_dir");
        }
    };
    let known = FILE_SYSTEMS.iter().find(|(of, _)| *of == number).map(|(_, name)| *name);
    let found = format!("{} is on {}", dir.display(), known.unwrap_or("another file system"));
    match known {
        Some("tmpfs" | "ramfs") => fail(
            "file system",
            found,
            "memory forgets with the power: what was acknowledged would be lost; use a disk",
        ),
        Some("nfs" | "cifs" | "smb2" | "fuse") => warn(
            "file system",
            found,
            "a sync is as good as the server's, and its outage is this node's; prefer a local disk",
        ),
        Some("overlay") => warn(
            "file system",
            found,
            "the layer of a container goes with the container; mount a volume",
        ),
        _ => pass("file system", found),
    }
}

fn space(dir: &Path, config: &Config) -> Finding {
    let stat = match statvfs(dir) {
        Ok(stat) => stat,
        Err(error) => return fail("disk space", error.to_string(), "correct data_dir"),
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{} MiB free", free >> 20);
    // With the reserve in place as much again must be free, and two segments are made in advance.
    let needed = config.reserve_bytes;
    let plenty = needed.saturating_mul(4).saturating_add(config.log_segment_bytes * 4);
    match free {
        _ if free < needed => fail(
            "disk space",
            found,
            "with less than reserve_bytes free no new lock is granted: make room",
        ),
        _ if free < plenty => warn(
            "disk space",
            found,
            "log and snapshots grow to a few times reserve_bytes: make room",
        ),
        _ => pass("disk space", found),
    }
}

/// Who may write and read there, and how long a sync takes.
fn writing(dir: &Path, config: &Config) -> Vec<Finding> {
    let probe = dir.join(format!(".oarlock-doctor-{}", std::process::id()));
    let measured = measure(&probe);
    let _was_never_made = fs::remove_file(&probe);
    let took = match measured {
        Ok(took) => took,
        Err(error) => {
            let found = format!("{}: {error}", dir.display());
            let advice = "run as the user of the service; make the directory its own and writable";
            return vec![fail("permissions", found, advice)];
        }
    };
    vec![permissions(dir, config), syncs(&took, config)]
}

fn measure(probe: &Path) -> std::io::Result<Vec<Duration>> {
    let mut file = File::options().write(true).create_new(true).open(probe)?;
    let (began, mut took) = (Instant::now(), Vec::with_capacity(SYNCS));
    while took.is_empty() || (took.len() < SYNCS && began.elapsed() < SYNCS_MAX) {
        let start = Instant::now();
        file.write_all(&[0; SYNC_BYTES])?;
        file.sync_data()?;
        took.push(start.elapsed());
    }
    took.sort_unstable();
    Ok(took)
}

fn permissions(dir: &Path, config: &Config) -> Finding {
    let mode = fs::metadata(dir).map(|found| found.permissions().mode() & 0o777);
    match mode {
        Ok(mode) if dir != config.data_dir => {
            let found = format!("{} can be made ({mode:o} above it)", config.data_dir.display());
            pass("permissions", found)
        }
        Ok(mode) if mode & 0o077 != 0 => warn(
            "permissions",
            format!("others may look into {} ({mode:o})", dir.display()),
            "the log holds lease ids, which are rights to release: chmod 700",
        ),
        Ok(mode) => pass("permissions", format!("{} is for its owner ({mode:o})", dir.display())),
        Err(error) => fail("permissions", error.to_string(), "correct data_dir"),
    }
}

/// Of the sorted times.
fn syncs(took: &[Duration], config: &Config) -> Finding {
    let (Some(most), median) = (took.last().copied(), took[took.len() / 2]) else {
        return fail("sync", "nothing was measured", "please report this");
    };
    let found = format!("{} syncs: median {median:.1?}, most {most:.1?}", took.len());
    let heartbeat = Duration::from_millis(config.heartbeat_interval_ms);
    if median > Duration::from_millis(config.election_timeout_min_ms) {
        fail("sync", found, "a sync takes longer than an election: use another disk")
    } else if most > heartbeat {
        warn("sync", found, "some syncs take longer than a heartbeat: is the disk shared or busy?")
    } else {
        pass("sync", found)
    }
}

fn open_files(config: Option<&Config>) -> Finding {
    // No limit is more than enough.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let clients = config.map_or(0, |config| u64::try_from(config.connections_max).unwrap_or(0));
    let found = format!("{limit} descriptors in this shell, {clients} connections configured");
    if limit < DESCRIPTORS_OWN {
        fail("open files", found, "a node needs at least 256: raise `ulimit -n` or LimitNOFILE=")
    } else if limit < clients.saturating_add(DESCRIPTORS_OWN) {
        warn(
            "open files",
            found,
            "raise `ulimit -n` or LimitNOFILE= above connections_max, or lower that; a service has \
             a limit of its own",
        )
    } else {
        pass("open files", found)
    }
}

/// Whether the clock that leases are counted by runs like the others of this machine.
async fn clocks() -> Finding {
    let read = || [ClockId::Monotonic, ClockId::MonotonicRaw, ClockId::Boottime].map(now);
    let before = read();
    tokio::time::sleep(CLOCKS_OVER).await;
    let after = read();
    let passed = [0, 1, 2].map(|clock| after[clock].saturating_sub(before[clock]));
    compare(passed[0], passed[1], passed[2])
}

fn now(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn compare(monotonic: Duration, raw: Duration, boot: Duration) -> Finding {
    let apart = |other: Duration| {
        let apart_ns = monotonic.abs_diff(other).as_nanos();
        u64::try_from(apart_ns * 1_000_000 / monotonic.as_nanos().max(1)).unwrap_or(u64::MAX)
    };
    let (raw_ppm, boot_ppm) = (apart(raw), apart(boot));
    let found =
        format!("the monotonic clock is {raw_ppm} ppm from raw, {boot_ppm} ppm from boot time");
    if boot_ppm > CLOCKS_FAIL_PPM {
        warn(
            "clocks",
            found,
            "the machine was suspended meanwhile: do not suspend machines with nodes",
        )
    } else if raw_ppm > CLOCKS_FAIL_PPM {
        fail(
            "clocks",
            found,
            "leases allow 1 % between two clocks: look at adjtimex and the hypervisor",
        )
    } else if raw_ppm > CLOCKS_WARN_PPM {
        warn("clocks", found, "more than NTP slews: look at adjtimex and the hypervisor")
    } else {
        pass("clocks", found)
    }
}

/// What a call is answered that shows nothing of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anonymous {
    NotAsked,
    LetIn,
    Refused,
    Silent,
}

/// Asks the node of this configuration, which may run: the first credential of a cluster closes it,
/// whatever the configuration says.
async fn anonymous(config: &Config, ca: Option<&Path>) -> Anonymous {
    let mut identity = Identity::default();
    if !config.tls_cert.is_empty() {
        // Mostly the authority of its clients signed the node, too.
        let authority = ca.unwrap_or_else(|| Path::new(&config.tls_client_ca));
        let authority = fs::read(authority).ok();
        let with = authority.and_then(|text| Identity::default().with_tls(&text, None).ok());
        let Some(with) = with else { return Anonymous::Silent };
        identity = with;
    }
    let (host, port) = config.api_address.rsplit_once(':').unwrap_or((&config.api_address, ""));
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        own => own,
    };
    let endpoints = vec![format!("{host}:{port}")];
    let client = Client::new(Options { endpoints, deadline: CONNECT_DEADLINE, identity });
    match client.list_stale("", None).await {
        Ok(_) => Anonymous::LetIn,
        Err(ClientError::Refused(problem)) if problem.status == 401 => Anonymous::Refused,
        Err(_) => Anonymous::Silent,
    }
}

/// Whether those who reach the node are asked who they are.
fn access(config: &Config, anonymous: Anonymous) -> Finding {
    const CLOSE: &str = "set auth_required = true on all nodes, restart them, and run `oarlock tokens \
                         init` on one of them; clients then bring a token or a certificate";
    let peers_clear = config.peer_tls_cert.is_empty() && !Config::is_loopback(&config.peer_address);
    let wide = &config.api_address;
    let unsaid = anonymous == Anonymous::Refused && !config.auth_required;
    if anonymous == Anonymous::LetIn {
        fail("access", format!("{wide} is open to other machines and asks nobody"), CLOSE)
    } else if anonymous == Anonymous::Silent {
        let found = format!(
            "{wide} is for other machines, and open to them until there is a token; no node \
             answered here that would tell"
        );
        warn("access", found, CLOSE)
    } else if unsaid && !peers_clear {
        pass("access", "everybody is asked who they are, since there are tokens")
    } else if (config.auth_required || unsaid) && peers_clear {
        warn(
            "access",
            format!("tokens are asked for, and {} takes anybody for a node", config.peer_address),
            "set peer_tls_cert, its key and peer_tls_ca on all nodes (`oarlock pki` makes them)",
        )
    } else if config.auth_required {
        pass("access", "everybody is asked who they are")
    } else {
        pass("access", "only this machine reaches the API; tokens close it once there are some")
    }
}

/// Who protects the listeners.
fn protection(config: &Config) -> Finding {
    let clear = |encrypted: bool, name: &'static str| (!encrypted).then_some(name);
    let clients = clear(!config.tls_cert.is_empty(), "clients");
    let peers = clear(!config.peer_tls_cert.is_empty(), "peers");
    let clear: Vec<&str> = clients.into_iter().chain(peers).collect();
    match clear.join(" and ") {
        clear if clear.is_empty() => pass("protection", "all that is said is encrypted"),
        clear if config.insecure_bind => warn(
            "protection",
            format!("insecure_bind is set, and {clear} speak in clear"),
            "let only a private network reach their ports, or give them certificates (`oarlock pki`)",
        ),
        clear => pass("protection", format!("{clear} speak in clear, on loopback alone")),
    }
}

/// Whether the others can be reached from here, all at once.
async fn peers(config: &Config) -> Finding {
    let others = config.members.iter().filter(|member| member.id != config.node_id);
    let asked: Vec<_> = others
        .map(|member| {
            let address = member.peer_address.clone();
            tokio::spawn(async move {
                let reached = timeout(CONNECT_DEADLINE, TcpStream::connect(&address)).await;
                matches!(reached, Ok(Ok(_))).then_some(()).ok_or(address)
            })
        })
        .collect();
    let (count, mut missed) = (asked.len(), Vec::new());
    for answer in asked {
        if let Ok(Err(address)) = answer.await {
            missed.push(address);
        }
    }
    if missed.is_empty() {
        return pass("peers", format!("all {count} others listen"));
    }
    let found = format!("{} of {count} others do not listen: {}", missed.len(), missed.join(", "));
    warn("peers", found, "do they run? are names, ports and firewalls right?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn clocks_apart_are_found_and_suspension_is_told_apart() {
        let off = |ppm: u64| SECOND + Duration::from_micros(ppm);
        assert_eq!(compare(SECOND, off(200), SECOND).verdict, Verdict::Pass);
        assert_eq!(compare(SECOND, off(2_000), SECOND).verdict, Verdict::Warn);
        assert_eq!(compare(SECOND, off(20_000), SECOND).verdict, Verdict::Fail);
        let slept = compare(SECOND, SECOND, SECOND * 3);
        assert!(slept.found.contains("2000000 ppm") && slept.verdict == Verdict::Warn, "{slept:?}");
    }

    #[test]
    fn syncs_are_judged_by_heartbeats_and_elections() {
        let config = Config::default();
        let ms = Duration::from_millis;
        let judged = |took: &[Duration]| syncs(took, &config).verdict;
        assert_eq!(judged(&[ms(1), ms(2), ms(3)]), Verdict::Pass);
        assert_eq!(judged(&[ms(1), ms(2), ms(150)]), Verdict::Warn);
        assert_eq!(judged(&[ms(1), ms(600), ms(700)]), Verdict::Fail);
    }

    #[test]
    fn a_wide_api_that_asks_nobody_fails_and_peers_in_clear_are_warned_of() {
        let judged_as = |text: &str, answered: Anonymous| {
            access(&Config::parse(text, []).expect("valid"), answered)
        };
        let judged = |text: &str| judged_as(text, Anonymous::NotAsked);
        let wide = "api_address = \"0.0.0.0:7400\"\ntls_cert = \"a\"\ntls_key = \"b\"\n";
        let open = judged_as(wide, Anonymous::LetIn);
        assert_eq!(open.verdict, Verdict::Fail, "{open:?}");
        assert!(open.advice.is_some_and(|it| it.contains("auth_required")), "{open:?}");
        assert_eq!(judged(&format!("{wide}auth_required = true")).verdict, Verdict::Pass);
        assert_eq!(judged("").verdict, Verdict::Pass, "on loopback");
        assert_eq!(judged_as(wide, Anonymous::Refused).verdict, Verdict::Pass, "there are tokens");
        assert_eq!(judged_as(wide, Anonymous::Silent).verdict, Verdict::Warn, "who knows");
        let peers = "auth_required = true\ninsecure_bind = true\ninsecure_peers = true\n\
                     peer_address = \"0.0.0.0:7401\"";
        assert_eq!(judged(peers).verdict, Verdict::Warn);
        let tokens = peers.replace("auth_required = true\n", "api_address = \"0.0.0.0:7400\"\n");
        assert_eq!(judged_as(&tokens, Anonymous::Refused).verdict, Verdict::Warn, "peers in clear");
    }

    #[test]
    fn the_memory_file_system_of_linux_is_no_disk() {
        let shm = kind(Path::new("/dev/shm"));
        assert_eq!(shm.verdict, Verdict::Fail, "{shm:?}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_judged_by_the_one_above_it() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(nearest(&dir.path().join("a/b")), dir.path());
        assert_eq!(nearest(Path::new("not-there")), Path::new("."));
    }
}

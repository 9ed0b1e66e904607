//! What to run, and the bounds of that.

use std::time::Duration;

use oarlock_client::Identity;

/// Longest measured time; a benchmark is no soak test.
pub const DURATION_MAX: Duration = Duration::from_mins(10);
/// Most operations of a run that ends by their number: hours at any rate that was ever seen.
pub const OPERATIONS_MAX: u64 = 1_000_000_000;
/// Most live locks and leases of sessions together: half of what a cluster holds, for others may use it too.
pub const HELD_MAX: u64 = 5_000_000;
/// Most clients; each has a connection, and a process usually may open some thousands.
pub const CLIENTS_MAX: u16 = 8192;
/// Highest rate; the pacer would be busier than the cluster.
pub const RATE_MAX: u32 = 200_000;
/// Most sessions of the session workload.
pub const SESSIONS_MAX: u32 = 100_000;
/// Longest time between two renewals of one kept lease or session, a quarter of its TTL.
pub(super) const RENEWAL_GAP_MAX: Duration = Duration::from_secs(150);
/// TTL of what is renewed over and over.
pub(super) const KEPT_TTL: Duration = Duration::from_mins(10);

/// What each client does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Acquire and release a lock of its own.
    Pairs,
    /// Acquire and release one lock that all share, waiting in its queue.
    Contended,
    /// Renew a lease of its own.
    Renew,
    /// Renew sessions of its own, each with many leases.
    RenewSessions,
    /// All of these and reads, by turns.
    Mixed,
    /// Pairs, while somebody kills the leader.
    Failover,
    /// Acquire and release a lock whose name was never used before.
    Names,
    /// Nothing: what the cluster costs at rest.
    Idle,
}

impl Workload {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Contended => "contended",
            Self::Renew => "renew",
            Self::RenewSessions => "renew-sessions",
            Self::Mixed => "mixed",
            Self::Failover => "failover",
            Self::Names => "names",
            Self::Idle => "idle",
        }
    }

    /// Renews something again and again that ends if its turn comes too seldom.
    fn keeps(self) -> bool {
        match self {
            Self::Renew | Self::RenewSessions | Self::Mixed => true,
            Self::Pairs | Self::Contended | Self::Failover | Self::Names | Self::Idle => false,
        }
    }
}

/// When a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After so many operations of all clients together.
    Operations(u64),
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the clients connect to, by turns; the first of them is the leader's if `leader_only`.
    pub endpoints: Vec<String>,
    /// Who asks.
    pub identity: Identity,
    /// All clients at the first endpoint while it answers.
    pub leader_only: bool,
    pub workload: Workload,
    pub clients: u16,
    /// Operations in a second that are meant to begin, of all clients together; `None` for as fast
    /// as each answer comes.
    pub rate_per_s: Option<u32>,
    pub warmup: Duration,
    pub until: Until,
    /// Locks that are held meanwhile, created beforehand.
    pub live_locks: u64,
    /// Held by sessions of 1,000 leases each, instead of by leases with a TTL of their own.
    pub live_in_sessions: bool,
    /// Of the session workload, all clients together; at least one for each client.
    pub sessions: u32,
    pub leases_per_session: u16,
    /// Of one request, not counting its wait.
    pub deadline: Duration,
    /// Addresses of the members, for their metrics.
    pub members: Vec<String>,
    /// Node processes whose CPU and memory are read from /proc.
    pub pids: Vec<u32>,
}

impl Plan {
    /// Says what of it cannot be run, in words of the command line.
    pub fn check(&self) -> Result<(), String> {
        if let Until::Elapsed(time) = self.until
            && !(Duration::from_millis(100)..=DURATION_MAX).contains(&time)
        {
            return Err("--duration is at least 100 ms and at most 10 minutes".to_owned());
        }
        if self.warmup > DURATION_MAX {
            return Err("--warmup is at most 10 minutes".to_owned());
        }
        let is_timed = matches!(self.until, Until::Elapsed(_));
        if self.workload == Workload::Idle && (!is_timed || self.rate_per_s.is_some()) {
            return Err("--workload idle has neither --operations nor --rate".to_owned());
        }
        let sessions = u64::from(self.sessions) * u64::from(self.leases_per_session);
        let in_sessions = if self.workload == Workload::RenewSessions { sessions } else { 0 };
        if self.live_locks + in_sessions > HELD_MAX {
            return Err(format!(
                "{} leases are too many, at most {HELD_MAX}: a lower --live, --sessions or \
                 --session-leases",
                self.live_locks + in_sessions
            ));
        }
        let Some(rate) = self.rate_per_s else { return Ok(()) };
        let kept = self.kept() / u64::from(rate.max(1));
        if self.workload.keeps() && kept > RENEWAL_GAP_MAX.as_secs() {
            return Err(format!(
                "at --rate {rate} each of {} would be renewed every {kept} s and end before: a \
                 higher --rate, or fewer --clients or --sessions",
                self.kept()
            ));
        }
        Ok(())
    }

    /// Leases or sessions that take turns in being renewed.
    fn kept(&self) -> u64 {
        match self.workload {
            Workload::RenewSessions => self.sessions.into(),
            // Only some of the turns are renewals.
            Workload::Mixed => u64::from(self.clients) * 4,
            Workload::Pairs
            | Workload::Contended
            | Workload::Renew
            | Workload::Failover
            | Workload::Names
            | Workload::Idle => self.clients.into(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bench) fn plan() -> Plan {
        Plan {
            identity: Identity::default(),
            endpoints: vec!["127.0.0.1:1".to_owned()],
            leader_only: false,
            workload: Workload::Pairs,
            clients: 64,
            rate_per_s: None,
            warmup: Duration::ZERO,
            until: Until::Elapsed(Duration::from_secs(10)),
            live_locks: 0,
            live_in_sessions: false,
            sessions: 64,
            leases_per_session: 100,
            deadline: Duration::from_secs(1),
            members: Vec::new(),
            pids: Vec::new(),
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_option_to_change() {
        let refused = |plan: Plan, word: &str| {
            let why = plan.check().expect_err("it cannot be run");
            assert!(why.contains(word), "{word} is not in: {why}");
        };
        assert_eq!(plan().check(), Ok(()));
        let hour = Until::Elapsed(Duration::from_hours(1));
        refused(Plan { until: hour, ..plan() }, "--duration");
        refused(Plan { until: Until::Elapsed(Duration::ZERO), ..plan() }, "--duration");
        refused(Plan { warmup: Duration::from_hours(1), ..plan() }, "--warmup");
        refused(Plan { live_locks: HELD_MAX + 1, ..plan() }, "--live");
        let workload = Workload::RenewSessions;
        refused(Plan { workload, leases_per_session: 1_000, sessions: 6_000, ..plan() }, "leases");
        let idle = Plan { workload: Workload::Idle, ..plan() };
        assert_eq!(idle.check(), Ok(()));
        refused(Plan { until: Until::Operations(1), ..idle }, "idle");
        refused(
            Plan { workload: Workload::Renew, rate_per_s: Some(1), clients: 1_000, ..plan() },
            "--rate",
        );
        assert_eq!(Plan { workload, rate_per_s: Some(1), ..plan() }.check(), Ok(()));
    }
}

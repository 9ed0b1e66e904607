//! A replicator of one node without log or disk: applies at once, under tokio's clock, so that
//! surfaces can be tested with paused time. Promises nothing over a restart.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use oarlock_core::command::{Command, Entry, LEVEL};
use oarlock_core::machine::Machine;
use oarlock_core::outcome::Outcome;
use oarlock_core::time::LeaseTime;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::service::members::{MemberChange, MembersRefusal};
use crate::service::replicator::{
    Backup, Call, ClusterStatus, ForwardError, Leadership, MemberStatus, NodeId, ProposeError,
    Replicator, Reply, Transfer, Upcalls,
};

/// The wall clock at the start, for display: 2026-01-01. A constant, so that tests repeat.
const BORN_WALL_MS: u64 = 1_767_225_600_000;
const NODE_ID: NodeId = 1;

/// Locks of one process.
pub struct Solo {
    born: Instant,
    machine: Mutex<Machine>,
    upcalls: OnceLock<Weak<dyn Upcalls>>,
    leadership: watch::Sender<Leadership>,
}

impl Solo {
    /// An empty machine that leads from the start.
    pub fn new() -> Arc<Self> {
        let leadership = Leadership { leader_id: Some(NODE_ID), term: 1, serving_here: true };
        Arc::new(Self {
            born: Instant::now(),
            machine: Mutex::new(Machine::new()),
            upcalls: OnceLock::new(),
            leadership: watch::Sender::new(leadership),
        })
    }

    /// Who hears of events; set once, before the first proposal.
    pub fn attach(&self, upcalls: Weak<dyn Upcalls>) {
        let _set_before = self.upcalls.set(upcalls);
    }

    /// Pretends a change of leadership.
    pub fn set_leadership(&self, leadership: Leadership) {
        self.leadership.send_replace(leadership);
    }

    /// Applies a command now. Events are told under the machine's mutex, which keeps their order.
    pub fn apply(&self, command: Command) -> Result<Outcome, ProposeError> {
        let mut machine = self.machine();
        let at = self.lease_now();
        let wall_ms = BORN_WALL_MS.saturating_add(at.0 / 1000);
        let entry = Entry { level: LEVEL, wall_ms, commands: vec![(at, command)] };
        let applied = machine
            .apply(&entry)
            .map_err(|_| ProposeError::NotDone("the machine does not know its own level"))?;
        if let Some(upcalls) = self.upcalls.get().and_then(Weak::upgrade) {
            upcalls.applied(applied.events, &applied.outcomes);
        }
        let outcome = applied.outcomes.into_iter().next();
        outcome.ok_or(ProposeError::Unknown("no outcome"))
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replicator for Solo {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let leadership = *self.leadership.borrow();
        if !leadership.serving_here {
            return Err(ProposeError::NotLeader(leadership.leader_id));
        }
        self.apply(command)
    }

    fn propose_detached(&self, command: Command) {
        if self.leadership.borrow().serving_here {
            let _nobody_waits = self.apply(command);
        }
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        let leadership = *self.leadership.borrow();
        if leadership.serving_here {
            Ok(())
        } else {
            Err(ProposeError::NotLeader(leadership.leader_id))
        }
    }

    async fn transfer_leader(&self, to: Option<NodeId>) -> Result<Transfer, ProposeError> {
        // The only voter there is.
        let here = to == Some(NODE_ID);
        Ok(if here { Transfer::To(NODE_ID) } else { Transfer::NoSuchVoter })
    }

    async fn backup(&self, applied_index: u64) -> Result<Backup, ProposeError> {
        let state = format!("{:?}", self.machine().totals()).into_bytes();
        let bytes = state.len() as u64;
        let read_at = move |buffer: &mut [u8], offset: u64| {
            let rest = usize::try_from(offset).ok().and_then(|at| state.get(at..at + buffer.len()));
            let rest = rest.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            buffer.copy_from_slice(rest);
            Ok(())
        };
        Ok(Backup { applied_index, bytes, read_at: Box::new(read_at) })
    }

    async fn change_members(
        &self,
        change: MemberChange,
    ) -> Result<Result<(), MembersRefusal>, ProposeError> {
        // There is one, and it stays; but surfaces are tested with all that can be refused.
        Ok(match change {
            MemberChange::Add(_) | MemberChange::Promote(NODE_ID) => Ok(()),
            MemberChange::Promote(node_id) | MemberChange::Replace { new: node_id, .. } => {
                Err(MembersRefusal::Behind { node_id, entries: Some(7) })
            }
            MemberChange::Remove { force: true, .. } => Err(MembersRefusal::Busy),
            MemberChange::Remove { .. } => Err(MembersRefusal::TooFew { left: 0 }),
        })
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn with_machine<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.machine())
    }

    fn lease_now(&self) -> LeaseTime {
        let micros = self.born.elapsed().as_micros();
        LeaseTime(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn forward(
        &self,
        _to: NodeId,
        _by: Option<String>,
        _call: Call,
    ) -> impl Future<Output = Result<Reply, ForwardError>> + Send {
        std::future::ready(Err(ForwardError::NotSent("there is no other node".to_owned())))
    }

    fn status(&self) -> ClusterStatus {
        let leadership = *self.leadership.borrow();
        ClusterStatus {
            cluster_id: Some(1),
            node_id: NODE_ID,
            leader_id: leadership.leader_id,
            term: leadership.term,
            last_log_index: 0,
            applied_index: 0,
            snapshot_index: 0,
            members: vec![MemberStatus {
                id: NODE_ID,
                api_address: "127.0.0.1:7400".to_owned(),
                peer_address: "127.0.0.1:7401".to_owned(),
                voter: true,
                instance_id: 1,
                lag_entries: Some(0),
            }],
            quorum_age: Some(Duration::ZERO),
        }
    }

    fn staleness(&self) -> Option<Duration> {
        self.leadership.borrow().serving_here.then_some(Duration::ZERO)
    }
}

//! The state machine as openraft wants it: hands entries to the core, in order and once, and tells
//! everybody what came of them. No rule of locks lives here.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::{Stream, StreamExt};
use oarlock_core::event::Event;
use oarlock_core::machine::Machine;
use oarlock_core::outcome::Outcome;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use crate::raft::store::log::Fatal;
use crate::raft::store::snapshot::{SnapshotFile, Snapshots};
use crate::raft::store::view::{Loaded, View};
use crate::raft::types::{LogEntry, LogId, Outcomes, SnapshotMeta, StoredMembership, TypeConfig};

/// Hears the events of each applied entry, in log order, on every node.
pub type EventSink = Box<dyn Fn(&[Event], &[Outcome]) + Send + Sync>;

/// The machine with the position in the log that it stands for.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) machine: Machine,
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// Whether `applied` or the membership moved since the view last wrote.
    pub(crate) moved: bool,
}

/// This node's replica of the state. Clones share it.
#[derive(Clone, Default)]
pub struct MachineHandle {
    state: Arc<Mutex<State>>,
    sink: Arc<OnceLock<EventSink>>,
}

impl MachineHandle {
    fn new(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), sink: Arc::default() }
    }

    // The standard mutex: `apply` and every look at the state are short, and none awaits. Poison
    // means that a panic interrupted `apply`; the process is ending then.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the machine; apply waits meanwhile.
    pub fn with<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.state().machine)
    }

    /// Says who hears events; once, before Raft runs.
    pub fn on_events(&self, sink: EventSink) {
        let _only_once = self.sink.set(sink);
    }
}

/// What openraft drives.
pub struct StateMachine {
    handle: MachineHandle,
    view: Arc<View>,
    snapshots: Arc<Snapshots>,
    fatal: Fatal,
}

impl StateMachine {
    /// Starts from what the view loaded.
    pub fn new(
        loaded: Loaded,
        view: Arc<View>,
        snapshots: Arc<Snapshots>,
        fatal: Fatal,
    ) -> io::Result<Self> {
        let Loaded { machine, applied, membership } = loaded;
        let handle = MachineHandle::new(State { machine, applied, membership, moved: false });
        view.follow(handle.clone())?;
        Ok(Self { handle, view, snapshots, fatal })
    }

    /// The replica, for readers.
    pub fn handle(&self) -> MachineHandle {
        self.handle.clone()
    }

    fn apply_one(&self, entry: &LogEntry) -> io::Result<Outcomes> {
        let mut state = self.handle.state();
        assert!(state.applied < Some(entry.log_id), "an entry is applied once");
        let applied = match &entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Membership(membership) => {
                state.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                None
            }
            EntryPayload::Normal(proposal) => match state.machine.apply(&proposal.0) {
                Ok(applied) => Some(applied),
                Err(unknown) => {
                    (self.fatal)(&unknown.to_string());
                    return Err(io::Error::other(unknown.to_string()));
                }
            },
        };
        state.applied = Some(entry.log_id);
        state.moved = true;
        drop(state);
        let Some(applied) = applied else { return Ok(Outcomes::default()) };
        if let Some(sink) = self.handle.sink.get() {
            sink(&applied.events, &applied.outcomes);
        }
        Ok(Outcomes(applied.outcomes))
    }
}

/// Ends the process if apply panics: its state may be half changed, and no other node's is.
struct PanicGuard<'a>(&'a Fatal);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)("apply panicked; this is a bug, please report it with the log above");
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.handle.state();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let outcomes = {
                let _guard = PanicGuard(&self.fatal);
                self.apply_one(&entry)?
            };
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        self.view.wake();
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { view: Arc::clone(&self.view), snapshots: Arc::clone(&self.snapshots) }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let (view, snapshots) = (Arc::clone(&self.view), Arc::clone(&self.snapshots));
        let (handle, meta) = (self.handle.clone(), meta.clone());
        let install = move || {
            let kept = snapshots.adopt(snapshot, &meta)?;
            view.replace(&kept, &handle)
        };
        tokio::task::spawn_blocking(install).await.map_err(io::Error::other)?
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>> {
        Ok(self.snapshots.newest().map(|file| SnapshotOf::<TypeConfig, SnapshotFile> {
            meta: file.meta().clone(),
            snapshot: file,
        }))
    }
}

/// Builds one snapshot from the view, on a blocking thread; apply goes on meanwhile.
pub struct Builder {
    view: Arc<View>,
    snapshots: Arc<Snapshots>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotFile>> {
        let (view, snapshots) = (Arc::clone(&self.view), Arc::clone(&self.snapshots));
        let build = move || view.snapshot(&snapshots);
        let file = tokio::task::spawn_blocking(build).await.map_err(io::Error::other)??;
        Ok(SnapshotOf::<TypeConfig, SnapshotFile> { meta: file.meta().clone(), snapshot: file })
    }
}

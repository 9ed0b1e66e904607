//! The batcher in front of a log that the test lands by hand, entry by entry.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use oarlock_core::command::{Entry, LEVEL};
use oarlock_core::ids::{LeaseId, LockName, Value};
use oarlock_core::planted;
use openraft::errors::ForwardToLeader;
use openraft::raft::ClientWriteResponse;
use openraft::vote::RaftLeaderId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::raft::types::LogId;

type Landed = Callback<ClientWriteResult<TypeConfig>>;
type Heard = oneshot::Receiver<Result<Outcome, ProposeError>>;

/// An entry on its way.
struct Proposed {
    leader: CommittedLeaderId,
    entry: Entry,
    landed: Landed,
}

/// Hands every entry to the test, until the test is gone.
struct Hands(mpsc::Sender<Proposed>);

impl EntryLog for Hands {
    async fn write(&self, leader: CommittedLeaderId, entry: Entry, landed: Landed) -> bool {
        self.0.send(Proposed { leader, entry, landed }).await.is_ok()
    }
}

impl Proposed {
    fn commands(&self) -> Vec<&Command> {
        self.entry.commands.iter().map(|(_, command)| command).collect()
    }

    /// Applies it.
    fn land(self) {
        let outcomes = Outcomes(vec![Outcome::Done; self.entry.commands.len()]);
        self.end(Ok(outcomes));
    }

    fn end(self, result: Result<Outcomes, ClientWriteError<TypeConfig>>) {
        use openraft::raft::responder::Responder;
        let log_id = LogId::new(self.leader, 1);
        self.landed.on_complete(result.map(|data| ClientWriteResponse {
            log_id,
            data,
            membership: None,
        }));
    }
}

/// A running batcher, and what comes out of it.
struct Bench {
    batcher: Arc<Batcher>,
    entries: mpsc::Receiver<Proposed>,
    /// Until when the leader is in touch with a majority, from the start.
    in_touch: Arc<Mutex<Duration>>,
    /// What all members know.
    level: Arc<AtomicU16>,
    running: JoinHandle<()>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.running.abort();
    }
}

const YEAR: Duration = Duration::from_hours(24 * 365);

fn leader(term: u64) -> CommittedLeaderId {
    type Id = <TypeConfig as openraft::RaftTypeConfig>::LeaderId;
    Id::new(term, 1).to_committed()
}

fn release(id: u128) -> Command {
    Command::Release { lease_id: LeaseId(id) }
}

impl Bench {
    fn new() -> Self {
        planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
        let in_touch = Arc::new(Mutex::new(YEAR));
        let (started, until) = (clock::now(), Arc::clone(&in_touch));
        let level = Arc::new(AtomicU16::new(1));
        let known_to_all = Arc::clone(&level);
        let batcher = Batcher::new(
            LeaseClock::new(Duration::from_secs(1)),
            Box::new(move || started + *until.lock().expect("unpoisoned")),
            Box::new(move || known_to_all.load(Ordering::Relaxed)),
            clock::wall_ms,
            Box::new(|_, _| {}),
        );
        let (sender, entries) = mpsc::channel(16);
        let running = tokio::spawn(Arc::clone(&batcher).run(Hands(sender)));
        Self { batcher, entries, in_touch, level, running }
    }

    /// A bench whose leadership has begun.
    async fn open() -> Self {
        let mut bench = Self::new();
        bench.lead(1).await;
        bench
    }

    async fn lead(&mut self, term: u64) {
        let begun = self.batcher.begin(leader(term), LeaseTime(1_000_000), 0);
        let first = self.next().await;
        assert_eq!((first.commands(), first.leader), (vec![&Command::DetachAll], leader(term)));
        first.land();
        assert_eq!(begun.await, Ok(Ok(Outcome::Done)));
        self.batcher.open(leader(term));
    }

    async fn next(&mut self) -> Proposed {
        // Paused time moves only when nothing else is left to do.
        let next = tokio::time::timeout(Duration::from_hours(1), self.entries.recv()).await;
        next.expect("an entry goes out").expect("the batcher runs")
    }

    /// Lets everything run that can, and says that no entry went out.
    async fn nothing_flies(&mut self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let more = self.entries.try_recv();
        assert!(more.is_err(), "another entry went out: {:?}", more.map(|it| it.entry));
    }

    fn submit(&self, command: Command) -> Heard {
        let (reply, heard) = oneshot::channel();
        self.batcher.submit(command, Some(reply)).expect("it is taken");
        heard
    }

    fn submit_many(&self, ids: std::ops::Range<u128>) -> Vec<Heard> {
        ids.map(|id| self.submit(release(id))).collect()
    }
}

fn not_leader<T>() -> Result<T, ProposeError> {
    Err(ProposeError::NotLeader(None))
}

#[tokio::test(start_paused = true)]
async fn what_has_arrived_joins_the_entry_that_goes_out() {
    let mut bench = Bench::open().await;
    bench.nothing_flies().await;
    let _first = bench.submit(release(0));
    // The batcher is awake; these are ready and stand behind it.
    for id in 1..=3 {
        let batcher = Arc::clone(&bench.batcher);
        tokio::spawn(async move { batcher.submit(release(id), None) });
    }
    let entry = bench.next().await;
    assert_eq!(entry.commands(), [&release(0), &release(1), &release(2), &release(3)]);
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_when_nothing_is_in_flight() {
    let mut bench = Bench::open().await;
    for id in 0..3 {
        let begun = clock::now();
        let heard = bench.submit(release(id));
        let entry = bench.next().await;
        assert_eq!(clock::now(), begun, "not even a millisecond");
        assert_eq!(entry.commands(), [&release(id)]);
        assert_eq!(entry.entry.level, LEVEL);
        entry.land();
        assert_eq!(heard.await, Ok(Ok(Outcome::Done)));
    }
}

#[tokio::test(start_paused = true)]
async fn renewals_wait_for_company_only_closely_after_an_entry() {
    let renew = |id| Command::Renew { lease_id: LeaseId(id) };
    let mut bench = Bench::open().await;
    let flown_at = clock::now();
    let _heard = bench.submit(renew(1));
    bench.nothing_flies().await;
    let _heard = bench.submit(renew(2));
    let entry = bench.next().await;
    assert_eq!(entry.commands(), [&renew(1), &renew(2)]);
    assert_eq!(clock::now() - flown_at, RENEWALS_APART);
    entry.land();

    let _heard = bench.submit(renew(3));
    bench.nothing_flies().await;
    let (begun, _heard) = (clock::now(), bench.submit(release(4)));
    let entry = bench.next().await;
    assert_eq!(entry.commands(), [&renew(3), &release(4)], "whatever else comes takes them along");
    assert_eq!(clock::now(), begun);
    entry.land();

    let many: Vec<_> = (0..32).map(|id| bench.submit(renew(id))).collect();
    let entry = bench.next().await;
    assert_eq!((entry.commands().len(), clock::now()), (many.len(), begun), "many do not wait");
    entry.land();

    tokio::time::sleep(RENEWALS_APART).await;
    let (begun, _heard) = (clock::now(), bench.submit(renew(5)));
    assert_eq!(bench.next().await.commands(), [&renew(5)]);
    assert_eq!(clock::now(), begun, "nor does one that comes later");
}

#[tokio::test(start_paused = true)]
async fn entries_are_written_at_the_level_that_all_members_know() {
    let mut bench = Bench::open().await;
    let mut written = Vec::new();
    for known in [LEVEL, LEVEL + 1, LEVEL] {
        bench.level.store(known, Ordering::Relaxed);
        let heard = bench.submit(release(1));
        let entry = bench.next().await;
        written.push(entry.entry.level);
        entry.land();
        assert_eq!(heard.await, Ok(Ok(Outcome::Done)));
    }
    assert_eq!(written, [LEVEL, LEVEL + 1, LEVEL + 1], "it never falls within a leadership");
    bench.batcher.end();
    let _begun = bench.batcher.begin(leader(2), LeaseTime(2_000_000), LEVEL);
    assert_eq!(bench.next().await.entry.level, LEVEL, "the next one decides anew");
}

/// What was logged.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("unpoisoned").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_rise_at_the_first_entry_of_a_leadership_is_told_once_from_where_to_where() {
    let logged = Logged::default();
    let writer = logged.clone();
    let told = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(told.finish());
    let mut bench = Bench::new();
    bench.level.store(LEVEL + 1, Ordering::Relaxed);
    let _begun = bench.batcher.begin(leader(1), LeaseTime(0), LEVEL);
    let first = bench.next().await;
    assert_eq!(first.entry.level, LEVEL + 1);
    first.land();
    bench.batcher.open(leader(1));
    let _heard = bench.submit(release(1));
    assert_eq!(bench.next().await.entry.level, LEVEL + 1);
    let text = String::from_utf8(logged.0.lock().expect("unpoisoned").clone()).expect("text");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("the log rises")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(lines[0].contains(&format!("from={LEVEL} to={}", LEVEL + 1)), "{text}");
}

#[tokio::test(start_paused = true)]
async fn commands_that_come_while_an_entry_is_in_flight_share_the_next_one() {
    let mut bench = Bench::open().await;
    let _first = bench.submit(release(0));
    let entry = bench.next().await;
    let later = bench.submit_many(1..FURTHER_ENTRY_COMMANDS_MIN as u128);
    bench.nothing_flies().await;
    entry.land();
    let entry = bench.next().await;
    let expected: Vec<_> = (1..FURTHER_ENTRY_COMMANDS_MIN as u128).map(release).collect();
    assert_eq!(entry.commands(), expected.iter().collect::<Vec<_>>(), "all of them, in order");
    assert!(entry.entry.commands.is_sorted_by_key(|(at, _)| *at), "stamps do not decrease");
    entry.land();
    for heard in later {
        assert_eq!(heard.await, Ok(Ok(Outcome::Done)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_further_entry_needs_many_commands_and_there_are_three_at_most() {
    let mut bench = Bench::open().await;
    let many = FURTHER_ENTRY_COMMANDS_MIN as u128;
    let _first = bench.submit(release(0));
    let first = bench.next().await;
    let _waiting = bench.submit_many(1..many);
    bench.nothing_flies().await;
    let _full = bench.submit(release(many));
    let second = bench.next().await;
    assert_eq!(second.entry.commands.len(), FURTHER_ENTRY_COMMANDS_MIN);
    let _more = bench.submit_many(0..many);
    let third = bench.next().await;
    let _too_many = bench.submit_many(0..10 * many);
    bench.nothing_flies().await;
    second.land();
    let fourth = bench.next().await;
    assert_eq!(fourth.entry.commands.len(), 10 * FURTHER_ENTRY_COMMANDS_MIN);
    drop((first, third, fourth));
}

#[tokio::test(start_paused = true)]
async fn a_lost_leadership_says_not_done_of_what_waited_and_unknown_of_what_was_proposed() {
    let mut bench = Bench::open().await;
    let proposed = bench.submit(release(0));
    let entry = bench.next().await;
    let waited = bench.submit(release(1));
    bench.batcher.end();
    assert_eq!(waited.await, Ok(not_leader()));
    let (reply, _heard) = oneshot::channel();
    assert_eq!(bench.batcher.submit(release(2), Some(reply)), not_leader(), "nobody leads here");

    // Nothing of it goes out under the next leadership, though the entry lands only then.
    let begun = bench.batcher.begin(leader(2), LeaseTime(0), 0);
    drop(entry);
    assert!(proposed.await.is_err(), "a dropped reply stands for unknown");
    let first = bench.next().await;
    assert_eq!((first.commands(), first.leader), (vec![&Command::DetachAll], leader(2)));
    first.land();
    assert_eq!(begun.await, Ok(Ok(Outcome::Done)));
    bench.nothing_flies().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_proposal_is_not_done_and_a_discarded_one_is_unknown() {
    let mut bench = Bench::open().await;
    let heard = bench.submit(release(0));
    let refused = ClientWriteError::ForwardToLeader(ForwardToLeader::empty());
    bench.next().await.end(Err(refused));
    assert_eq!(heard.await, Ok(not_leader()));
    let heard = bench.submit(release(1));
    let entry = bench.next().await;
    entry.end(Err(ClientWriteError::LogEntryDiscarded(ForwardToLeader::empty())));
    assert!(matches!(heard.await, Ok(Err(ProposeError::Unknown(_)))));
}

#[tokio::test(start_paused = true)]
async fn commands_are_taken_only_once_the_first_one_of_the_leadership_is_applied() {
    let mut bench = Bench::new();
    let refused = |bench: &Bench| {
        let (reply, _heard) = oneshot::channel();
        assert_eq!(bench.batcher.submit(release(0), Some(reply)), not_leader());
    };
    refused(&bench);
    let _begun = bench.batcher.begin(leader(1), LeaseTime(0), 0);
    refused(&bench);
    bench.batcher.open(leader(2));
    refused(&bench);
    bench.next().await.land();
    bench.batcher.open(leader(1));
    let _heard = bench.submit(release(0));
    assert_eq!(bench.next().await.commands(), [&release(0)]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_holds_so_many_commands_and_so_many_bytes() {
    let mut bench = Bench::open().await;
    let _first = bench.submit(release(0));
    let first = bench.next().await;
    // Enough for the bound of commands; they fly while the first is in flight, 32 at a time.
    let mut flying = vec![bench.batcher.inbox().in_flight];
    let count = COMMANDS_PER_ENTRY_MAX as u128 + 5;
    let _small = bench.submit_many(0..count);
    let entry = bench.next().await;
    assert_eq!(entry.entry.commands.len(), COMMANDS_PER_ENTRY_MAX);
    entry.land();
    first.land();
    let rest = bench.next().await;
    assert_eq!(rest.entry.commands.len(), 5);
    flying.push(bench.batcher.inbox().in_flight);
    assert_eq!(flying, [1, 1]);

    let text = "v".repeat(oarlock_core::limits::VALUE_BYTES_MAX);
    let large = Command::SetValue {
        name: LockName::new("n").expect("a name"),
        lease_id: LeaseId(1),
        value: Some(Value::new(&text).expect("a value")),
    };
    let fit = ENTRY_BYTES_MAX / command_bytes(&large);
    assert!(fit < COMMANDS_PER_ENTRY_MAX);
    let _large: Vec<_> = (0..=fit).map(|_| bench.submit(large.clone())).collect();
    let entry = bench.next().await;
    assert_eq!(entry.entry.commands.len(), fit, "as many as fit into the bytes of an entry");
    drop((entry, rest));
    assert_eq!(bench.next().await.commands(), [&large]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded_but_for_what_makes_room() {
    let mut bench = Bench::open().await;
    let _in_flight: Vec<Heard> = bench.submit_many(0..1);
    let _first = bench.next().await;
    let _second = (bench.submit_many(0..32), bench.next().await);
    let _third = (bench.submit_many(0..32), bench.next().await);
    let _queued = bench.submit_many(0..QUEUED_COMMANDS_MAX as u128);
    let refuses = |bench: &Bench| {
        let (reply, _heard) = oneshot::channel();
        matches!(bench.batcher.submit(release(0), Some(reply)), Err(ProposeError::NotDone(_)))
    };
    assert!(refuses(&bench));
    takes_what_makes_room(&bench);

    // In bytes as well.
    let mut bench = Bench::open().await;
    let _in_flight = (bench.submit(release(0)), bench.next().await);
    let _second = (bench.submit_many(0..32), bench.next().await);
    let _third = (bench.submit_many(0..32), bench.next().await);
    let text = "v".repeat(oarlock_core::limits::VALUE_BYTES_MAX);
    let large = Command::SetValue {
        name: LockName::new("n").expect("a name"),
        lease_id: LeaseId(1),
        value: Some(Value::new(&text).expect("a value")),
    };
    let fit = QUEUED_BYTES_MAX / command_bytes(&large);
    let _queued: Vec<_> = (0..fit).map(|_| bench.submit(large.clone())).collect();
    let (reply, _heard) = oneshot::channel();
    let answer = bench.batcher.submit(large, Some(reply));
    assert!(matches!(answer, Err(ProposeError::NotDone(_))), "{answer:?}");
    // What is nearly full takes the smallest command of a client until nothing fits.
    let mut heard = Vec::new();
    let full = loop {
        let (reply, answered) = oneshot::channel();
        heard.push(answered);
        if let Err(refused) = bench.batcher.submit(release(0), Some(reply)) {
            break refused;
        }
    };
    assert!(matches!(full, ProposeError::NotDone(_)), "{full:?}");
    takes_what_makes_room(&bench);
}

/// Commands of nobody's that the queue must not be too full for.
fn takes_what_makes_room(bench: &Bench) {
    for command in [Command::Detach { lease_id: LeaseId(1) }, Command::Advance] {
        let taken = bench.batcher.submit(command.clone(), None);
        assert_eq!(taken, Ok(()), "{command:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_majority_refuses_what_waits_behind_its_entries() {
    let mut bench = Bench::open().await;
    let proposed = bench.submit(release(0));
    let entry = bench.next().await;
    let waiting = bench.submit(release(1));
    let detach = Command::Detach { lease_id: LeaseId(1) };
    bench.batcher.submit(detach.clone(), None).expect("taken");
    bench.batcher.refuse_if_cut_off();
    bench.nothing_flies().await;
    *bench.in_touch.lock().expect("unpoisoned") = Duration::ZERO;
    bench.batcher.refuse_if_cut_off();
    assert_eq!(waiting.await, Ok(not_leader()), "it was never proposed");
    // The majority is back, under the same leader: what was proposed happens, once.
    entry.land();
    assert_eq!(proposed.await, Ok(Ok(Outcome::Done)));
    assert_eq!(bench.next().await.commands(), [&detach], "nobody repeats a detach");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_takes_no_more_leaves_nobody_waiting() {
    let mut bench = Bench::open().await;
    let (_dropped, closed) = mpsc::channel(1);
    let entries = std::mem::replace(&mut bench.entries, closed);
    drop(entries);
    let in_the_entry = bench.submit(release(0));
    assert!(in_the_entry.await.is_err(), "its outcome is unknown");
    let (reply, _heard) = oneshot::channel();
    assert_eq!(bench.batcher.submit(release(1), Some(reply)), not_leader());
}

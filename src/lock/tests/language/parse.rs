//! From script lines to commands, questions and limits. A line that makes no sense panics with the
//! line, because a script is part of the test.

use std::collections::BTreeMap;

use oarlock_core::command::{
    Acquire, AcquireMany, Claim, Command, Expected, ForceTarget, HandOver, LeaseTerm, Mode,
    OpenSession,
};
use oarlock_core::ids::{
    LeaseId, LockName, Metadata, Owner, Permits, Reason, RecordKey, RecordValue, RequestId,
    Revision, SessionId, Token, Value,
};
use oarlock_core::limits::{GRACE_MS_DEFAULT, Limits};
use oarlock_core::time::{Grace, LeaseTime, LockDelay, Ttl, Wait};

/// The words of one line: those without `=` in order, the others by name.
pub(crate) struct Words<'a> {
    pub(crate) plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
    line: &'a str,
}

impl<'a> Words<'a> {
    pub(crate) fn new(line: &'a str) -> Self {
        let mut words = Self { plain: Vec::new(), named: BTreeMap::new(), line };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => {
                    assert!(words.named.insert(name, value).is_none(), "{name} twice: {line}");
                }
                None => words.plain.push(word),
            }
        }
        words
    }

    pub(crate) fn plain(&self, index: usize) -> &'a str {
        self.plain.get(index).unwrap_or_else(|| panic!("a word is missing: {}", self.line))
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<&'a str> {
        self.named.remove(name)
    }

    pub(crate) fn done(self) {
        let unknown: Vec<&str> = self.named.into_keys().collect();
        assert!(unknown.is_empty(), "unknown {unknown:?}: {}", self.line);
    }
}

pub(crate) fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

/// `5s`, `300ms`, `2m`, `1h`.
fn duration_ms(text: &str) -> u64 {
    let split = text.find(|c: char| !c.is_ascii_digit());
    let (digits, unit) = text.split_at(split.unwrap_or_else(|| panic!("no unit: {text}")));
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => panic!("unknown unit: {text}"),
    };
    number::<u64>(digits) * factor
}

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).expect("a valid lock name")
}

fn owner(text: &str) -> Owner {
    Owner::new(text).expect("a valid owner")
}

fn metadata(text: Option<&str>) -> Metadata {
    let pairs = text.into_iter().flat_map(|text| text.split(','));
    let map: BTreeMap<String, String> = pairs
        .map(|pair| pair.split_once(':').expect("key:value"))
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect();
    Metadata::try_from(map).expect("valid metadata")
}

/// `@1000 acquire db id=1 …` without its `@`.
pub(crate) fn command(line: &str) -> (LeaseTime, Command) {
    let (at, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no command: {line}"));
    let mut words = Words::new(rest);
    let lease_id = |words: &Words| LeaseId(number(words.plain(1)));
    let session_id = |words: &Words| SessionId(number(words.plain(1)));
    let command = match words.plain(0) {
        "advance" => Command::Advance,
        "acquire" => Command::Acquire(acquire(&mut words)),
        "attach" => Command::Attach { lease_id: lease_id(&words) },
        "detach" => Command::Detach { lease_id: lease_id(&words) },
        "detach-all" => Command::DetachAll,
        "renew" => Command::Renew { lease_id: lease_id(&words) },
        "release" => Command::Release { lease_id: lease_id(&words) },
        "force" => Command::ForceRelease {
            name: name(words.plain(1)),
            target: match words.take("token") {
                Some(token) => ForceTarget::Token(Token(number(token))),
                None => ForceTarget::All,
            },
            reason: Reason::new(words.take("reason").unwrap_or("because")).expect("a reason"),
            // The simple scripts are about something else than the default lock-delay.
            lock_delay: match words.take("delay") {
                Some("remaining") => None,
                delay => Some(lock_delay(delay)),
            },
        },
        "set" => Command::SetValue {
            name: name(words.plain(1)),
            lease_id: LeaseId(number(words.plain(2))),
            value: words.take("value").map(|text| Value::new(text).expect("a valid value")),
        },
        "many" => Command::AcquireMany(many(&mut words)),
        "hand-over" => Command::HandOver(hand_over(&mut words)),
        "put" => Command::PutRecord {
            key: RecordKey::new(words.plain(1)).expect("a valid key"),
            value: words.take("value").map(record_value),
            expected: match words.take("expect") {
                None => Expected::Anything,
                Some("absent") => Expected::Absent,
                Some(revision) => Expected::At(Revision(number(revision))),
            },
        },
        "unset" => Command::DeleteValue { name: name(words.plain(1)) },
        "open" => Command::OpenSession(open(&mut words)),
        "renew-session" => Command::RenewSession { session_id: session_id(&words) },
        "close" => Command::CloseSession { session_id: session_id(&words) },
        other => panic!("unknown command {other}: {line}"),
    };
    words.done();
    (LeaseTime::default().plus_ms(number(at)), command)
}

fn record_value(text: &str) -> RecordValue {
    RecordValue::new(text.as_bytes()).expect("a valid record")
}

fn acquire(words: &mut Words) -> Acquire {
    let id = words.take("id").expect("an acquire has an id");
    let name = name(words.plain(1));
    acquire_of(words, "acquire", id, &name)
}

fn acquire_of(words: &mut Words, what: &str, id: &str, name: &LockName) -> Acquire {
    let session = words.take("session");
    let term = match (session, words.take("ttl")) {
        (Some(session), None) => LeaseTerm::Session(SessionId(number(session))),
        (None, Some("none")) => LeaseTerm::Forever,
        (None, ttl) => {
            let ttl_ms = duration_ms(ttl.unwrap_or("10s"));
            LeaseTerm::Ttl(Ttl::new(ttl_ms).expect("a valid TTL"))
        }
        (Some(_), Some(_)) => panic!("a session's lease has no TTL: {what}"),
    };
    Acquire {
        lease_id: LeaseId(number(id)),
        name: name.clone(),
        owner: owner(words.take("owner").unwrap_or(&format!("client-{id}"))),
        mode: mode(words.take("mode")),
        term,
        wait: Wait::new(words.take("wait").map_or(0, duration_ms)).expect("a valid wait"),
        grace: Grace::new(words.take("grace").map_or(GRACE_MS_DEFAULT, duration_ms))
            .expect("a valid grace"),
        request_id: words.take("request").map(|id| RequestId(number(id))),
        metadata: metadata(words.take("metadata")),
        lock_delay: lock_delay(words.take("delay")),
    }
}

/// `many a:1 b:2:shared …`: names with the lease ids and modes, the rest as of an acquire.
fn many(words: &mut Words) -> AcquireMany {
    let mut claims = Vec::new();
    for word in words.plain.iter().skip(1) {
        let mut parts = word.split(':');
        let mut part = || parts.next();
        claims.push(Claim {
            name: name(part().expect("a name")),
            lease_id: LeaseId(number(part().expect("an id"))),
            mode: mode(part()),
            lock_delay: lock_delay(None),
        });
    }
    let one = acquire_of(words, "many", &{ claims[0].lease_id.0 }.to_string(), &claims[0].name);
    AcquireMany {
        claims,
        owner: one.owner,
        term: one.term,
        wait: one.wait,
        grace: one.grace,
        request_id: one.request_id,
        metadata: one.metadata,
    }
}

fn hand_over(words: &mut Words) -> HandOver {
    let lease_id = LeaseId(number(words.plain(1)));
    let id = words.take("id").expect("a new lease id");
    let one = acquire_of(words, "hand-over", id, &name("unused"));
    HandOver {
        lease_id,
        new_lease_id: LeaseId(number(id)),
        owner: one.owner,
        term: one.term,
        request_id: one.request_id,
        metadata: one.metadata,
    }
}

fn mode(text: Option<&str>) -> Mode {
    match text {
        None | Some("exclusive") => Mode::Exclusive,
        Some("shared") => Mode::Shared,
        Some(of) => {
            let (count, limit) = of.split_once('/').unwrap_or_else(|| panic!("mode {of}"));
            Mode::Permits(Permits::new(number(count), number(limit)).expect("permits"))
        }
    }
}

fn lock_delay(text: Option<&str>) -> LockDelay {
    LockDelay::new(text.map_or(0, duration_ms)).expect("a valid lock-delay")
}

fn open(words: &mut Words) -> OpenSession {
    let id = words.take("id").expect("a session has an id");
    OpenSession {
        session_id: SessionId(number(id)),
        owner: owner(words.take("owner").unwrap_or(&format!("client-{id}"))),
        ttl: Ttl::new(duration_ms(words.take("ttl").unwrap_or("10s"))).expect("a valid TTL"),
        request_id: words.take("request").map(|id| RequestId(number(id))),
        metadata: metadata(words.take("metadata")),
    }
}

/// `limits queue_length_max=2 …`: what is not named stays as it is in production.
pub(crate) fn limits(line: &str) -> Limits {
    let mut words = Words::new(line);
    let mut limits = Limits::default();
    let mut set = |name: &str, bound: &mut usize| {
        if let Some(value) = words.take(name) {
            *bound = number(value);
        }
    };
    set("queue_length_max", &mut limits.queue_length_max);
    set("holders_max", &mut limits.holders_max);
    set("leases_max", &mut limits.leases_max);
    set("sessions_max", &mut limits.sessions_max);
    set("leases_per_session_max", &mut limits.leases_per_session_max);
    set("expiries_per_advance_max", &mut limits.expiries_per_advance_max);
    set("expiries_per_command_max", &mut limits.expiries_per_command_max);
    set("deadlock_walk_max", &mut limits.deadlock_walk_max);
    set("values_max", &mut limits.values_max);
    set("records_max", &mut limits.records_max);
    set("history_max", &mut limits.history_max);
    set("answers_max", &mut limits.answers_max);
    set("recent_ends_max", &mut limits.recent_ends_max);
    set("answers_per_chunk", &mut limits.answers_per_chunk);
    set("chunks_forgotten_per_advance_max", &mut limits.chunks_forgotten_per_advance_max);
    if let Some(value) = words.take("token_max") {
        limits.token_max = number(value);
    }
    words.done();
    limits
}

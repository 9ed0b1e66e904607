//! What must hold whatever happens, one file each, written apart from the code it judges: from the
//! events that the nodes applied, in the order of the log, and from what clients were told.

mod belief;
mod delay;
mod durable;
mod exclusion;
mod expiry;
mod fifo;
mod forced;
mod handover;
mod late;
mod metadata;
mod once;
mod reads;
mod refusals;
mod sessions;
mod tokens;
mod values;
mod votes;
mod watch;

use std::collections::BTreeMap;

use oarlock::raft::types::Vote;
use oarlock::service::replicator::Call;
use oarlock_core::command::{Command, Mode};
use oarlock_core::event::{Event, EventKind};
use oarlock_core::ids::{LeaseId, LockName, SessionId, Token};
use oarlock_core::outcome::{EndReason, Ended, Grant, Outcome, ValueInfo};
use oarlock_core::query::LockView;

use crate::evidence::Evidence;

/// An applied entry, shown once, when the first node applied it.
pub(crate) struct Entry<'a> {
    pub(crate) index: u64,
    pub(crate) at_ms: u64,
    /// The calm time before it, which [`Invariant::passes`] counts.
    pub(crate) calm_ms: u64,
    pub(crate) events: &'a [Event],
    pub(crate) outcomes: &'a [Outcome],
}

impl<'a> Entry<'a> {
    pub(crate) fn grants(&self) -> impl Iterator<Item = &'a Grant> {
        self.events.iter().filter_map(|event| match &event.kind {
            EventKind::Granted { grant, .. } => Some(grant.as_ref()),
            _ => None,
        })
    }

    pub(crate) fn ends(&self) -> impl Iterator<Item = &'a Ended> {
        self.events.iter().filter_map(|event| match &event.kind {
            EventKind::Ended { ended, .. } => Some(ended),
            _ => None,
        })
    }

    pub(crate) fn expiries(&self) -> impl Iterator<Item = &'a Ended> {
        let expired = |how| matches!(how, EndReason::Expired | EndReason::SessionExpired);
        self.ends().filter(move |ended| ended.token.is_some() && expired(ended.how))
    }
}

/// An answer to a client, with the simulated times of question and answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) client: u64,
    pub(crate) asked_at: u64,
    pub(crate) answered_at: u64,
    /// What was asked for, where a refusal would promise that it never happens.
    pub(crate) about: Option<About>,
    pub(crate) what: Told,
}

/// Something that happens once or never.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    /// The claim with this label.
    Claim(String),
    Release(LeaseId),
    Open(SessionId),
}

impl About {
    pub(crate) fn of(call: &Call) -> Option<Self> {
        let Call::Propose(command) = call else { return None };
        match command {
            Command::Acquire(it) => Some(Self::Claim(it.owner.as_str().to_owned())),
            Command::AcquireMany(it) => Some(Self::Claim(it.owner.as_str().to_owned())),
            Command::HandOver(it) => Some(Self::Claim(it.owner.as_str().to_owned())),
            Command::Release { lease_id } => Some(Self::Release(*lease_id)),
            Command::OpenSession(it) => Some(Self::Open(it.session_id)),
            _ => None,
        }
    }
}

/// What the client may conclude.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// The claim with this label (its owner text, used for one request only) holds. The first
    /// request with it was sent at that moment.
    Granted {
        label: String,
        first_asked_at: u64,
        repeats: bool,
        grants: Vec<Grant>,
    },
    Renewed {
        lease_id: LeaseId,
        ttl_ms: u64,
    },
    /// A session lives: opened or renewed.
    Session {
        session_id: SessionId,
        ttl_ms: u64,
    },
    SessionClosed {
        session_id: SessionId,
    },
    /// The client begins to write this text.
    Writes {
        name: LockName,
        text: String,
    },
    Written {
        name: LockName,
        value: Box<ValueInfo>,
    },
    /// An operator took these grants away.
    Forced {
        ended: Vec<Ended>,
    },
    /// Told by the client itself when it asks to end a lease: from now on it trusts no more.
    GivesUp {
        lease_id: LeaseId,
    },
    Released {
        lease_id: LeaseId,
    },
    Gone {
        lease_id: LeaseId,
    },
    Fence {
        name: LockName,
        token: Token,
        held: bool,
    },
    Look(Box<LockView>),
    Refused(String),
    /// Neither done nor not done.
    Unknown(String),
}

/// What a watcher was shown.
pub(crate) enum Seen<'a> {
    Event(&'a Event),
    /// What lies before this revision was missed, and the watcher was told.
    Gap(u64),
    /// Nothing more is to come: the newest revision of the node that it watches.
    End(u64),
}

/// The reason of a force release that closes the lock for what remained of the lease, and of one
/// that closes it for so many milliseconds.
pub(crate) const FORCED_GENTLY: &str = "for what remains";
pub(crate) const FORCED_FOR_MS: &str = "for ms ";

/// Under these keys clients put their label and the lock-delay into the metadata of a request.
pub(crate) const LABEL_KEY: &str = "label";
pub(crate) const DELAY_KEY: &str = "delay_ms";

/// What a grant's metadata says under a key.
pub(crate) fn noted<'a>(grant: &'a Grant, key: &str) -> Option<&'a str> {
    grant.metadata.entries().find(|(its, _)| *its == key).map(|(_, text)| text)
}

/// One rule. It remembers what it needs.
pub(crate) trait Invariant: Send {
    fn name(&self) -> &'static str;

    fn applied(&mut self, _entry: &Entry<'_>) -> Result<(), String> {
        Ok(())
    }

    fn answered(&mut self, _answer: &Answer) -> Result<(), String> {
        Ok(())
    }

    fn voted(&mut self, _node: u64, _vote: Vote) -> Result<(), String> {
        Ok(())
    }

    fn restarted(&mut self, _node: u64, _vote: Option<Vote>) -> Result<(), String> {
        Ok(())
    }

    fn watched(&mut self, _watcher: u64, _seen: &Seen<'_>) -> Result<(), String> {
        Ok(())
    }

    fn outage(&mut self, _from_ms: u64, _upto_ms: u64) {}

    /// So much calm time went by: somebody served, and nothing kept a majority from working.
    fn passes(&mut self, _calm_ms: u64) -> Result<(), String> {
        Ok(())
    }

    fn rest(&mut self) -> Result<(), String> {
        Ok(())
    }
}

pub(crate) fn all(evidence: &Evidence) -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(exclusion::Exclusion::default()),
        Box::new(tokens::Tokens::default()),
        Box::new(fifo::Fifo::default()),
        Box::new(once::Once::default()),
        Box::new(expiry::Expiry::default()),
        Box::new(late::Late::new(evidence.clone())),
        Box::new(durable::Durable::default()),
        Box::new(belief::Belief::default()),
        Box::new(reads::Reads::default()),
        Box::new(refusals::Refusals::default()),
        Box::new(metadata::Metadata),
        Box::new(votes::Votes::default()),
        Box::new(delay::Delay::new(evidence.clone())),
        Box::new(forced::Forced::new(evidence.clone())),
        Box::new(handover::HandOver::new(evidence.clone())),
        Box::new(sessions::Sessions::new(evidence.clone())),
        Box::new(values::Values::new(evidence.clone())),
        Box::new(watch::Watch::new(evidence.clone())),
    ]
}

/// Whether these may hold one lock together.
pub(crate) fn compatible(modes: &[Mode]) -> bool {
    if modes.len() < 2 {
        return true;
    }
    let shared = modes.iter().all(|mode| *mode == Mode::Shared);
    let permits: Option<Vec<(u32, u32)>> = modes
        .iter()
        .map(|mode| match mode {
            Mode::Permits(permits) => Some((permits.count(), permits.limit())),
            Mode::Exclusive | Mode::Shared => None,
        })
        .collect();
    shared
        || permits.is_some_and(|permits| {
            let limit = permits[0].1;
            permits.iter().all(|(_, its)| *its == limit)
                && permits.iter().map(|(count, _)| count).sum::<u32>() <= limit
        })
}

/// Holders of each lock, by token.
pub(crate) type Holders = BTreeMap<LockName, BTreeMap<Token, Mode>>;

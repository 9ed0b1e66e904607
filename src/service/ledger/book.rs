//! The book of the ledger: what counts for whom, and which calls are under way for it.
//!
//! A call books what it takes under its request id, so that a repeat that comes while nobody knows
//! the first one's fate shares that booking. What calls left in doubt, and what nobody has heard of for
//! long, stands at the front of an order by time, so that looking after it costs no more than what is
//! looked at. Knows no machine: who looks there tells the book what was found.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::ids::{LeaseId, RequestId, SessionId};
use oarlock_core::time::LeaseTime;

/// How long an identity that is over its quota waits for the next look: it may ask as often as it
/// likes, and each look costs an entry of the log.
const LOOK_EVERY_MS: u64 = 1_000;
/// Things looked at in one look; the rest stays for the next. Some milliseconds of the machine.
const LOOKED_AT_MAX: usize = 1_000;
/// Of what a living call booked: its call will tell.
const LIVING: LeaseTime = LeaseTime(u64::MAX);

/// Something that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    Lease(LeaseId),
    Session(SessionId),
}

/// When something is written down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: LeaseTime,
    pub(super) term: u64,
}

/// What makes two calls the same: their request id, or without one the first thing that they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Request(RequestId),
    First(Thing),
}

/// How a call ended.
#[derive(Debug)]
pub(super) enum Fate {
    /// These are there.
    Granted(Vec<Thing>),
    /// By this call nothing came to be.
    Nothing,
    Doubt,
}

#[derive(Debug)]
struct Entry {
    whose: String,
    /// When it was last known to be there, or its last call ended.
    heard_at: LeaseTime,
    /// Of the leadership that wrote it down.
    term: u64,
    /// Of the calls that booked it, until one of them was granted.
    key: Option<Key>,
}

/// What one identity has.
#[derive(Debug, Default)]
struct Account {
    leases: u32,
    sessions: u32,
    /// All of it, the longest unheard of first.
    order: BTreeSet<(LeaseTime, Thing)>,
    look_at: LeaseTime,
}

impl Account {
    fn count(&mut self, thing: Thing) -> &mut u32 {
        match thing {
            Thing::Lease(_) => &mut self.leases,
            Thing::Session(_) => &mut self.sessions,
        }
    }
}

/// The calls of one key, and what they booked together.
#[derive(Debug)]
struct Calls {
    things: Vec<Thing>,
    living: u32,
    in_doubt: bool,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    entries: BTreeMap<Thing, Entry>,
    accounts: BTreeMap<String, Account>,
    calls: BTreeMap<(String, Key), Calls>,
}

impl Book {
    /// Whether the leadership of that term knows the session, and so everything taken under it.
    pub(super) fn knows_session(&self, session_id: SessionId, term: u64) -> bool {
        let entry = self.entries.get(&Thing::Session(session_id));
        entry.is_some_and(|entry| entry.term == term)
    }

    pub(super) fn knows(&self, thing: Thing) -> bool {
        self.entries.contains_key(&thing)
    }

    /// It is there now, and theirs.
    pub(super) fn put(&mut self, whose: &str, thing: Thing, at: Moment) {
        self.insert(whose, thing, at.now, at.term, None);
    }

    fn insert(
        &mut self,
        whose: &str,
        thing: Thing,
        heard_at: LeaseTime,
        term: u64,
        key: Option<Key>,
    ) {
        // Out of the call that booked it, too: nobody strikes it there once it has no key.
        self.strike(thing);
        self.entries.insert(thing, Entry { whose: whose.to_owned(), heard_at, term, key });
        let account = self.accounts.entry(whose.to_owned()).or_default();
        account.order.insert((heard_at, thing));
        *account.count(thing) += 1;
    }

    fn remove(&mut self, thing: Thing) -> Option<Entry> {
        let entry = self.entries.remove(&thing)?;
        if let Some(account) = self.accounts.get_mut(&entry.whose) {
            account.order.remove(&(entry.heard_at, thing));
            let count = account.count(thing);
            *count = count.saturating_sub(1);
            if account.order.is_empty() {
                self.accounts.remove(&entry.whose);
            }
        }
        Some(entry)
    }

    /// It is not there, or no longer.
    pub(super) fn strike(&mut self, thing: Thing) {
        let Some(Entry { whose, key: Some(key), .. }) = self.remove(thing) else { return };
        let named = (whose, key);
        if let Some(calls) = self.calls.get_mut(&named) {
            calls.things.retain(|it| *it != thing);
            if calls.things.is_empty() && calls.living == 0 {
                self.calls.remove(&named);
            }
        }
    }

    fn heard(&mut self, thing: Thing, heard_at: LeaseTime) {
        let Some(entry) = self.entries.get_mut(&thing) else { return };
        let before = std::mem::replace(&mut entry.heard_at, heard_at);
        if let Some(account) = self.accounts.get_mut(&entry.whose) {
            account.order.remove(&(before, thing));
            account.order.insert((heard_at, thing));
        }
    }

    /// Books what a call takes, all or nothing; the key is what [`Self::settle`] needs. `None` if that
    /// would be more than `limit`.
    pub(super) fn book(
        &mut self,
        whose: &str,
        key: Key,
        things: &[Thing],
        limit: u32,
        at: Moment,
    ) -> Option<Key> {
        let first = *things.first()?;
        let mut named = (whose.to_owned(), key);
        if let Some(calls) = self.calls.get_mut(&named) {
            if calls.things.len() == things.len() {
                calls.living += 1;
                for thing in calls.things.clone() {
                    self.heard(thing, LIVING);
                }
                return Some(key);
            }
            // Something else under the same request id counts by itself.
            named.1 = Key::First(first);
        }
        let booked = |it: &Entry| it.whose == whose;
        let is_new = |thing: &&Thing| !self.entries.get(thing).is_some_and(booked);
        let new: Vec<Thing> = things.iter().filter(is_new).copied().collect();
        let more = u32::try_from(new.len()).unwrap_or(u32::MAX);
        let count = self.accounts.get_mut(whose).map_or(0, |account| *account.count(first));
        if more > 0 && count.saturating_add(more) > limit {
            return None;
        }
        let key = named.1;
        for thing in &new {
            self.insert(whose, *thing, LIVING, at.term, Some(key));
        }
        if !new.is_empty() {
            self.calls.insert(named, Calls { things: new, living: 1, in_doubt: false });
        }
        Some(key)
    }

    /// A call ended. What it booked stays while it may be there, or may yet come to be by another call
    /// of the same key.
    pub(super) fn settle(&mut self, whose: &str, key: Key, fate: Fate, at: Moment) {
        let named = (whose.to_owned(), key);
        if let Fate::Granted(granted) = fate {
            for thing in self.calls.remove(&named).map(|calls| calls.things).unwrap_or_default() {
                self.remove(thing);
            }
            for thing in granted {
                self.put(whose, thing, at);
            }
            return;
        }
        // Without it another one was granted.
        let Some(calls) = self.calls.get_mut(&named) else { return };
        calls.living = calls.living.saturating_sub(1);
        calls.in_doubt |= matches!(fate, Fate::Doubt);
        if calls.living > 0 {
            return;
        }
        let (things, in_doubt) = (calls.things.clone(), calls.in_doubt);
        if things.is_empty() || !in_doubt {
            self.calls.remove(&named);
        }
        for thing in things {
            if in_doubt {
                self.heard(thing, at.now);
            } else {
                self.remove(thing);
            }
        }
    }

    /// What of an identity may not be there, the most doubtful first, and nothing that a living call
    /// will tell. Nothing at all if it was looked at a short while ago.
    pub(super) fn doubtful(&mut self, whose: &str, now: LeaseTime) -> Vec<Thing> {
        let Some(account) = self.accounts.get_mut(whose).filter(|it| it.look_at <= now) else {
            return Vec::new();
        };
        account.look_at = now.plus_ms(LOOK_EVERY_MS);
        let known = account.order.iter().take_while(|(heard_at, _)| *heard_at < LIVING);
        known.take(LOOKED_AT_MAX).map(|(_, thing)| *thing).collect()
    }

    /// The look failed: the next one need not wait.
    pub(super) fn look_again(&mut self, whose: &str) {
        if let Some(account) = self.accounts.get_mut(whose) {
            account.look_at = LeaseTime::default();
        }
    }

    /// What the machine said about something that was in doubt.
    pub(super) fn looked_at(&mut self, thing: Thing, is_gone: bool, now: LeaseTime) {
        let Some(entry) = self.entries.get_mut(&thing).filter(|it| it.heard_at < LIVING) else {
            return;
        };
        if is_gone {
            self.strike(thing);
            return;
        }
        // The machine knows the request from now on, and a repeat of it books nothing.
        if let Some(key) = entry.key.take() {
            let named = (entry.whose.clone(), key);
            self.calls.remove(&named);
        }
        self.heard(thing, now);
    }
}

#[cfg(test)]
mod tests;

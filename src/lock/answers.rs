//! Memory of what ended: so that a repeated request has one effect (P7), a repeated release the
//! same answer, and a late renewal learns how its lease ended.
//!
//! Ends come in lease-time order, so the memory is a queue of chunks. A chunk is one row of the
//! image: thousands of ends a second cost a few row writes. A chunk is forgotten whole, once its
//! youngest record has been kept for the promised time.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::ids::{LeaseId, RequestId, SessionId};
use crate::limits::ANSWER_KEPT_MS;
use crate::outcome::{EndReason, Ended};
use crate::table::Request;
use crate::time::LeaseTime;

/// Records of one chunk. Larger chunks are rewritten more often, smaller ones are more rows.
pub(crate) const CHUNK_RECORDS: usize = 128;

/// Something that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A lease, held or waiting.
    Lease { ended: Ended, request: Option<Request> },
    /// A session.
    Session { session_id: SessionId, how: EndReason, ended_at: LeaseTime, request: Option<Request> },
}

impl Record {
    pub(crate) fn ended_at(&self) -> LeaseTime {
        match self {
            Self::Lease { ended, .. } => ended.ended_at,
            Self::Session { ended_at, .. } => *ended_at,
        }
    }

    pub(crate) fn request(&self) -> Option<Request> {
        match self {
            Self::Lease { request, .. } | Self::Session { request, .. } => *request,
        }
    }
}

/// Where a record is: chunk number and place in it.
type Place = (u64, usize);

/// One queue of ends, indexed by everything that may ask.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    chunks: VecDeque<(u64, Vec<Record>)>,
    pub(crate) next_chunk: u64,
    leases: BTreeMap<LeaseId, Place>,
    sessions: BTreeMap<SessionId, Place>,
    requests: BTreeMap<RequestId, Place>,
    count: usize,
}

impl Memory {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = (u64, &Vec<Record>)> {
        self.chunks.iter().map(|(number, records)| (*number, records))
    }

    pub(crate) fn chunk(&self, number: u64) -> Option<&Vec<Record>> {
        let first = self.chunks.front()?.0;
        let place = usize::try_from(number.checked_sub(first)?).ok()?;
        self.chunks.get(place).map(|(_, records)| records)
    }

    fn at(&self, place: Place) -> Option<&Record> {
        self.chunk(place.0)?.get(place.1)
    }

    pub(crate) fn lease(&self, id: LeaseId) -> Option<&Ended> {
        match self.at(*self.leases.get(&id)?)? {
            Record::Lease { ended, .. } => Some(ended),
            Record::Session { .. } => None,
        }
    }

    pub(crate) fn session(&self, id: SessionId) -> Option<EndReason> {
        match self.at(*self.sessions.get(&id)?)? {
            Record::Session { how, .. } => Some(*how),
            Record::Lease { .. } => None,
        }
    }

    pub(crate) fn request(&self, id: RequestId) -> Option<&Record> {
        self.at(*self.requests.get(&id)?)
    }

    /// Remembers an end; answers the number of the chunk that changed.
    pub(crate) fn push(&mut self, record: Record) -> u64 {
        let full = self.chunks.back().is_none_or(|(_, records)| records.len() >= CHUNK_RECORDS);
        if full {
            self.chunks.push_back((self.next_chunk, Vec::new()));
            self.next_chunk = self.next_chunk.saturating_add(1);
        }
        let number = self.next_chunk.saturating_sub(1);
        let place = (number, self.chunks.back().map_or(0, |(_, records)| records.len()));
        self.index(&record, place);
        if let Some((_, records)) = self.chunks.back_mut() {
            records.push(record);
        }
        number
    }

    /// Puts a loaded chunk back; chunks come in number order.
    pub(crate) fn load(&mut self, number: u64, records: Vec<Record>) {
        for (place, record) in records.iter().enumerate() {
            self.index(record, (number, place));
        }
        self.chunks.push_back((number, records));
    }

    fn index(&mut self, record: &Record, place: Place) {
        self.count += 1;
        match record {
            Record::Lease { ended, .. } => {
                self.leases.insert(ended.lease_id, place);
            }
            Record::Session { session_id, .. } => {
                self.sessions.insert(*session_id, place);
            }
        }
        if let Some((id, _)) = record.request() {
            self.requests.insert(id, place);
        }
    }

    /// The moment from which the oldest chunk may be forgotten.
    pub(crate) fn forget_at(&self) -> Option<LeaseTime> {
        let youngest = self.chunks.front()?.1.last()?;
        Some(youngest.ended_at().plus_ms(ANSWER_KEPT_MS))
    }

    /// Forgets the oldest chunk; answers its number.
    pub(crate) fn forget_oldest(&mut self) -> Option<u64> {
        let (number, records) = self.chunks.pop_front()?;
        for record in &records {
            match record {
                Record::Lease { ended, .. } => {
                    self.leases.remove(&ended.lease_id);
                }
                Record::Session { session_id, .. } => {
                    self.sessions.remove(session_id);
                }
            }
            if let Some((id, _)) = record.request() {
                self.requests.remove(&id);
            }
        }
        self.count = self.count.saturating_sub(records.len());
        Some(number)
    }
}

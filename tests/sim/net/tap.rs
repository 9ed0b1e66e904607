//! Listens to what is written to a stream, frame by frame: which stream it is, which votes were
//! granted in it, and what may be said again on a later connection.

use std::collections::BTreeSet;

use oarlock::raft::store::codec;
use oarlock::raft::transport::wire::{
    Hello, KIND_HELLO, KIND_REQUEST, KIND_RESPONSE, Purpose, Request, Response,
};
use oarlock::raft::types::Vote;

/// Bytes of one connection that are kept to be said again.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// An answer to the request of that number, and the vote that it grants.
pub(super) struct Answer {
    pub(super) number: u64,
    pub(super) vote: Option<Vote>,
}

/// The frames of one direction so far.
#[derive(Default)]
pub(super) struct Tap {
    rest: Vec<u8>,
    pub(super) purpose: Option<Purpose>,
    /// Requests for a vote, whose answers come in the other direction.
    pub(super) asks: BTreeSet<u64>,
    kept: Vec<Vec<u8>>,
    kept_bytes: usize,
}

impl Tap {
    /// Takes what was written, and gives the answers that it completed.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Vec<Answer> {
        self.rest.extend_from_slice(bytes);
        let mut answers = Vec::new();
        while let Ok(frame) = codec::parse(&self.rest, 0) {
            let (length, kind, payload) = (frame.bytes, frame.kind, frame.payload.to_vec());
            let whole: Vec<u8> = self.rest.drain(..length).collect();
            let Some((number, message)) = payload.split_first_chunk::<8>() else { continue };
            let number = u64::from_le_bytes(*number);
            match kind {
                KIND_HELLO => {
                    self.purpose = codec::decode(message).ok().map(|hello: Hello| hello.purpose);
                    self.keep(whole);
                }
                KIND_REQUEST => self.request(number, message, whole),
                KIND_RESPONSE => answers.push(Answer { number, vote: granted(message) }),
                _ => {}
            }
        }
        answers
    }

    /// Raft's own requests may come again at any time. A forwarded call may not, unless it has a
    /// request id: no TCP says anything twice.
    fn request(&mut self, number: u64, message: &[u8], whole: Vec<u8>) {
        if self.purpose != Some(Purpose::Control) {
            return self.keep(whole);
        }
        match codec::decode(message) {
            Ok(Request::Vote(_)) => {
                self.asks.insert(number);
                self.keep(whole);
            }
            Ok(Request::Append(_) | Request::PreVote(_) | Request::Transfer(_)) => self.keep(whole),
            _ => {}
        }
    }

    fn keep(&mut self, frame: Vec<u8>) {
        if self.kept_bytes + frame.len() <= KEPT_BYTES_MAX {
            self.kept_bytes += frame.len();
            self.kept.push(frame);
        } else {
            // Nothing after a gap: a snapshot would be refused for it, which shows nothing.
            self.kept_bytes = KEPT_BYTES_MAX;
        }
    }

    /// What may be said again: a hello and at least one request.
    pub(super) fn take_kept(&mut self) -> Option<Vec<Vec<u8>>> {
        (self.kept.len() > 1).then(|| std::mem::take(&mut self.kept))
    }
}

/// The vote that an answer grants; of a pre-vote, too, so whoever asks looks at the request.
fn granted(message: &[u8]) -> Option<Vote> {
    match codec::decode::<Response>(message) {
        Ok(Response::Vote(answer)) if answer.vote_granted => Some(answer.vote),
        _ => None,
    }
}

//! Credentials as they come and go: created and revoked at the leader, through the log.
//!
//! The node that a client asks mints the key and shows it; what travels on, to the leader and into
//! the log, is the hash. Revoking writes over the record before it deletes it: a node that hears of
//! the records only by a snapshot must see that they changed, and a deletion has no revision.

use std::sync::Arc;
use std::time::Duration;

use oarlock_core::command::Expected;
use oarlock_core::ids::RecordKey;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::auth::book::Book;
use crate::auth::credential::{CERTIFICATE, Credential, Proof, Quotas, RECORDS};
use crate::auth::key::{Hash, Key};
use crate::auth::right::Right;
use crate::service::REQUEST_DEADLINE;
use crate::service::error::ServiceError;
use crate::service::gate::Caller;
use crate::service::handle::Service;
use crate::service::replicator::{Call, Replicator, Reply, ReplyBody};

/// Credentials that a cluster keeps. Half of all records, so that members always find room.
pub const CREDENTIALS_MAX: usize = 5_000;
/// Longest time to live; beyond it, none at all says the same.
pub const TTL_MS_MAX: u64 = 10 * 366 * 24 * 60 * 60 * 1000;
/// Shortest time to live.
pub const TTL_MS_MIN: u64 = 1_000;

/// A node that was asked hears of the change within this time, or answers all the same.
const HEARING_MAX: Duration = Duration::from_secs(2);

/// How often it looks.
const HEARING_PAUSE: Duration = Duration::from_millis(5);

/// What stands in a record while it is being deleted.
const REVOKED: &str = "revoked";

/// What is asked about credentials. Sent between nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokensCall {
    Create {
        id: String,
        name: String,
        /// Without one it is for a certificate.
        hash: Option<Hash>,
        /// As they are written.
        rights: Vec<String>,
        ttl_ms: Option<u64>,
        waiting: Option<u32>,
        streams: Option<u32>,
        requests_per_second: Option<u32>,
        /// This and the next hold for the whole cluster.
        locks: Option<u32>,
        sessions: Option<u32>,
        /// Nobody who could be asked is there yet.
        first: bool,
    },
    Revoke {
        id: String,
    },
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokensReply {
    Created,
    /// Whether it was there.
    Revoked {
        existed: bool,
    },
    Refused(TokensRefusal),
}

/// Why the credentials stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokensRefusal {
    /// One of that id, or for that certificate.
    Exists,
    /// Nobody could administer the cluster without it.
    LastAdmin,
    TooMany {
        limit: u64,
    },
    /// Its rights do not fit into a record.
    TooLarge,
}

/// A credential that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    /// For whoever shows a certificate with that name, instead of a key.
    pub certificate: bool,
    pub rights: Vec<Right>,
    pub ttl_ms: Option<u64>,
    pub quotas: Quotas,
}

fn unexpected(why: &str) -> ServiceError {
    ServiceError::Unknown(format!("a credential cannot be kept: {why}"))
}

impl<R: Replicator> Service<R> {
    /// Makes a credential: its id, and its key if it has one.
    pub async fn create_credential(
        &self,
        caller: &Caller,
        wanted: Wanted,
        first: bool,
    ) -> Result<Result<(String, Option<Key>), TokensRefusal>, ServiceError> {
        let key = (!wanted.certificate).then(|| Key::new((self.ids)(), (self.ids)()));
        let certificate = || format!("{CERTIFICATE}{}", wanted.name);
        let id = key.as_ref().map_or_else(certificate, |key| key.id.clone());
        let call = creation(id.clone(), key.as_ref().map(Key::hash), wanted, first);
        match self.ask_tokens(caller, call).await? {
            TokensReply::Created => {
                self.heard(&id, true).await;
                Ok(Ok((id, key)))
            }
            TokensReply::Refused(refusal) => Ok(Err(refusal)),
            TokensReply::Revoked { .. } => Err(unexpected("another answer came back")),
        }
    }

    /// Revokes a credential; whether there was one.
    pub async fn revoke_credential(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Result<bool, TokensRefusal>, ServiceError> {
        match self.ask_tokens(caller, TokensCall::Revoke { id: id.to_owned() }).await? {
            TokensReply::Revoked { existed } => {
                self.heard(id, false).await;
                Ok(Ok(existed))
            }
            TokensReply::Refused(refusal) => Ok(Err(refusal)),
            TokensReply::Created => Err(unexpected("another answer came back")),
        }
    }

    /// Waits until this node knows a credential, or no longer does: whoever asked here goes on here.
    async fn heard(&self, id: &str, there: bool) {
        let hearing = async {
            while self.knows_credential(id) != there {
                sleep(HEARING_PAUSE).await;
            }
        };
        let _others_hear_of_it_as_well = timeout(HEARING_MAX, hearing).await;
    }

    async fn ask_tokens(
        &self,
        caller: &Caller,
        call: TokensCall,
    ) -> Result<TokensReply, ServiceError> {
        match self.call_as(caller, Call::Tokens(call), REQUEST_DEADLINE).await?.body {
            ReplyBody::Tokens(reply) => Ok(reply),
            _ => Err(unexpected("another answer came back")),
        }
    }

    /// The credentials as this node knows them, with what is left of each in milliseconds.
    pub fn credentials(&self) -> Vec<(Arc<Credential>, Option<u64>)> {
        let now = self.replicator.lease_now();
        let book = self.read_book();
        let left = |it: &Arc<Credential>| it.expires_at.map(|at| at.ms_since(now));
        book.all().map(|it| (Arc::clone(it), left(it))).collect()
    }

    fn read_book(&self) -> Book {
        self.replicator.with_machine(|machine| {
            let records = machine.cluster_records(RECORDS);
            Book::read(records.map(|(key, it)| (key.as_str(), it.value.as_bytes())))
        })
    }

    /// Answers a call about credentials, as leader.
    pub(super) async fn tokens(&self, call: TokensCall) -> Result<Reply, ServiceError> {
        // One decision at a time: two that each see the other's administrator stay would leave none.
        let turn = self.tokens_turn.acquire().await;
        let _turn = turn.map_err(|_never_closed| ServiceError::ShuttingDown)?;
        // What is decided here is decided by all that was acknowledged before.
        self.replicator.read_barrier().await?;
        let reply = match call {
            TokensCall::Revoke { id } => self.revoke(&id).await?,
            create @ TokensCall::Create { .. } => self.create(create).await?,
        };
        Ok(Reply { now: self.replicator.lease_now(), body: ReplyBody::Tokens(reply) })
    }

    async fn create(&self, call: TokensCall) -> Result<TokensReply, ServiceError> {
        if matches!(call, TokensCall::Create { first: true, .. }) {
            self.permit_first()?;
        }
        let now = self.replicator.lease_now();
        let Some(credential) = read(call, now) else {
            return Err(unexpected("a node of another version asks for it"));
        };
        let limit = CREDENTIALS_MAX;
        if self.read_book().len() >= limit {
            let limit = u64::try_from(limit).unwrap_or(u64::MAX);
            return Ok(TokensReply::Refused(TokensRefusal::TooMany { limit }));
        }
        let text = credential.encode();
        if text.len() > oarlock_core::limits::RECORD_BYTES_MAX {
            return Ok(TokensReply::Refused(TokensRefusal::TooLarge));
        }
        if !self.put(&credential.record(), Some(&text), Expected::Absent).await? {
            return Ok(TokensReply::Refused(TokensRefusal::Exists));
        }
        if credential.expires_at.is_some() {
            self.alarm.look();
        }
        tracing::info!(audit = true, id = credential.id, name = credential.name, "token created");
        Ok(TokensReply::Created)
    }

    async fn revoke(&self, id: &str) -> Result<TokensReply, ServiceError> {
        let under = format!("{RECORDS}{id}");
        let Ok(key) = RecordKey::new(&under) else {
            return Ok(TokensReply::Revoked { existed: false });
        };
        let there = self.replicator.with_machine(|machine| machine.cluster_record(&key).is_some());
        if !there {
            return Ok(TokensReply::Revoked { existed: false });
        }
        let (book, now) = (self.read_book(), self.replicator.lease_now());
        if book.has_admin(now, None) && !book.has_admin(now, Some(id)) {
            return Ok(TokensReply::Refused(TokensRefusal::LastAdmin));
        }
        self.put(&under, Some(REVOKED), Expected::Anything).await?;
        tracing::info!(audit = true, id, "token revoked");
        self.put(&under, None, Expected::Anything).await?;
        Ok(TokensReply::Revoked { existed: true })
    }
}

fn creation(id: String, hash: Option<Hash>, wanted: Wanted, first: bool) -> TokensCall {
    let Wanted { name, rights, ttl_ms, quotas, certificate: _ } = wanted;
    let Quotas { requests_per_second, waiting, streams, locks, sessions } = quotas;
    TokensCall::Create {
        id,
        name,
        hash,
        rights: rights.iter().map(ToString::to_string).collect(),
        ttl_ms,
        waiting,
        streams,
        requests_per_second,
        locks,
        sessions,
        first,
    }
}

fn read(call: TokensCall, now: oarlock_core::time::LeaseTime) -> Option<Credential> {
    let TokensCall::Create {
        id,
        name,
        hash,
        rights,
        ttl_ms,
        waiting,
        streams,
        requests_per_second,
        locks,
        sessions,
        first: _,
    } = call
    else {
        return None;
    };
    let quotas = Quotas { requests_per_second, waiting, streams, locks, sessions };
    let rights = rights.iter().map(|text| text.parse().ok()).collect::<Option<Vec<Right>>>()?;
    let proof = hash.map_or(Proof::Certificate, Proof::Key);
    let expires_at = ttl_ms.map(|ms| now.plus_ms(ms));
    Some(Credential { id, name, proof, rights, expires_at, quotas })
}

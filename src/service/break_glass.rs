//! The way back in for an operator who has lost every administrator's token: a key whose hash stands
//! in the configuration of a node, so that whoever may write that file may administer the cluster.
//!
//! It has all rights, belongs to no record, and is asked for only when no credential of the cluster
//! fits what was shown. Every use is logged as a warning and told to whoever keeps the audit. The
//! leader takes the word of the node that let it in: that node is a member and has a vote.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::auth::credential::{Credential, Proof, Quotas};
use crate::auth::key::{Hash, Key, same};
use crate::auth::right::Right;
use crate::service::demands;
use crate::service::error::ServiceError;
use crate::service::gate::Known;
use crate::service::handle::Service;
use crate::service::replicator::{Call, Replicator};

/// Stands where the id of a credential does; no record has it.
pub(super) const ID: &str = "break-glass";

/// Hears what was asked with the key.
pub type Told = Box<dyn Fn(&str) + Send + Sync>;

/// The key of this node, if it has one. The lock is the standard one: never held across an await.
#[derive(Default)]
pub(super) struct BreakGlass {
    key: RwLock<Option<Arc<Known>>>,
    told: OnceLock<Told>,
}

impl fmt::Debug for BreakGlass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakGlass").field("key", &self.key()).finish_non_exhaustive()
    }
}

fn credential(hash: Hash) -> Credential {
    Credential {
        id: ID.to_owned(),
        name: ID.to_owned(),
        proof: Proof::Key(hash),
        rights: Right::all(),
        expires_at: None,
        quotas: Quotas::default(),
    }
}

impl BreakGlass {
    pub(super) fn key(&self) -> Option<Arc<Known>> {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whose key that is, if it is this one.
    pub(super) fn opened_by(&self, key: &Key) -> Option<Arc<Known>> {
        let known = self.key()?;
        let Proof::Key(hash) = &known.credential.proof else { return None };
        same(hash, &key.hash()).then(|| Arc::clone(&known))
    }

    /// Somebody uses it.
    pub(super) fn tell(&self, asked: fmt::Arguments<'_>) {
        let asked = asked.to_string();
        tracing::warn!(audit = true, asked, "THE BREAK-GLASS TOKEN OF THIS NODE WAS USED");
        if let Some(told) = self.told.get() {
            told(&asked);
        }
    }
}

impl<R: Replicator> Service<R> {
    /// Sets, changes or takes away the key; whether that was a change. Whoever is in by another one
    /// is no longer.
    pub fn set_break_glass(&self, hash: Option<Hash>) -> bool {
        let fresh = hash.map(|hash| Arc::new(Known::new(credential(hash))));
        let kept = &self.gate.break_glass.key;
        let mut kept = kept.write().unwrap_or_else(PoisonError::into_inner);
        let is_same = match (kept.as_ref(), fresh.as_ref()) {
            (Some(kept), Some(fresh)) => kept.credential == fresh.credential,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if is_same {
            return false;
        }
        *kept = fresh;
        drop(kept);
        self.gate.tell_news();
        true
    }

    /// Who hears of its use; set once.
    pub fn on_break_glass(&self, told: Told) {
        let _set_before = self.gate.break_glass.told.set(told);
    }

    /// A call that a member let in by the key of its own configuration.
    pub(super) fn admit_break_glass(&self, call: &Call) -> Result<(), ServiceError> {
        if demands::are_none(call) {
            return Ok(());
        }
        if demands::is_first_credential(call) {
            return self.permit_first();
        }
        demands::met(&credential([0; 32]), call)
    }
}

//! A state that goes on from a backup instead of from its log: it does not know what was done since.

use alloc::vec::Vec;

use crate::ids::{LeaseId, Revision, SessionId, Token};
use crate::limits::TOKEN_JUMP;
use crate::machine::Machine;
use crate::planted::{Bug, planted};
use crate::table::{Lease, LeaseState};

impl Machine {
    /// Makes the state of a backup one that may go on, whatever was done since it was taken:
    ///
    /// - No token is given again that was given before the backup or, up to `above`, after it (P2).
    /// - Revisions go on so far above the old ones that a watcher of the old cluster is told of a
    ///   gap. By as much as the tokens, because a second restore has to name a higher one.
    /// - Every held lease and every session has its whole TTL again, because it may have been renewed
    ///   until the end (P3).
    /// - The records of the old cluster are forgotten: they are about other nodes.
    ///
    /// Answers the new ceiling of tokens. `None`, and nothing changed, when so many do not exist.
    pub fn restored(&mut self, above: Token) -> Option<Token> {
        let ceiling = self.jump_tokens(above)?;
        self.revision = Revision(self.revision.0.saturating_add(ceiling.0));
        self.forget_records();
        let claimed = |lease: &Lease| match &lease.state {
            LeaseState::Held(held) => held.claim_until.is_none(),
            LeaseState::Waiting(_) => false,
        };
        let leases = self.table.leases.iter().filter(|(_, lease)| claimed(lease));
        let leases: Vec<LeaseId> = leases.map(|(id, _)| *id).collect();
        let sessions: Vec<SessionId> = self.sessions.open.keys().copied().collect();
        for lease_id in leases {
            let _renewed = self.renew(lease_id);
        }
        for session_id in sessions {
            self.extend_session(session_id);
        }
        Some(ceiling)
    }

    fn jump_tokens(&mut self, above: Token) -> Option<Token> {
        if planted(Bug::RestoreRepeatsTokens) {
            return Some(self.token_last);
        }
        let above = if planted(Bug::RestoreForgetsWhatWasSeen) { Token(0) } else { above };
        let highest = self.token_last.max(above);
        let target = highest.0.checked_add(TOKEN_JUMP)?;
        if target >= self.limits.token_max {
            return None;
        }
        self.token_last = Token(target);
        Some(self.token_last)
    }
}

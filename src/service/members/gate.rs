//! Who may join: decided from the invitation, the word that was shown, and the lease clock alone.

use std::fmt;

use oarlock_core::time::LeaseTime;

use crate::service::members::TokenProblem;
use crate::service::members::token::JoinToken;

/// An invitation as the cluster keeps it, under the id that it is for. Persisted as text: version,
/// hash, expiry in lease time, and the instance that used it or `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invitation {
    pub(super) hash: [u8; 32],
    pub(super) expires_at: LeaseTime,
    pub(super) instance_id: Option<u128>,
}

const VERSION: &str = "1";

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION} ")?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, " {} ", self.expires_at.0)?;
        match self.instance_id {
            Some(instance_id) => write!(f, "{instance_id:032x}"),
            None => f.write_str("-"),
        }
    }
}

impl Invitation {
    /// `None` for a text of another version, or that is none.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let parts: Vec<&str> = std::str::from_utf8(bytes).ok()?.split(' ').collect();
        let [VERSION, hex, expires_at, instance_id] = parts[..] else { return None };
        let mut hash = [0; 32];
        if hex.len() != 2 * hash.len() || !hex.is_ascii() {
            return None;
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
        }
        let instance_id = match instance_id {
            "-" => None,
            digits => Some(u128::from_str_radix(digits, 16).ok()?),
        };
        Some(Self { hash, expires_at: LeaseTime(expires_at.parse().ok()?), instance_id })
    }
}

/// What the decision is made from.
pub(super) struct Gate {
    pub(super) cluster_id: u128,
    pub(super) invitation: Option<Invitation>,
    pub(super) removed: bool,
    pub(super) now: LeaseTime,
}

impl Gate {
    /// The invitation bound to that instance, which must be kept before anything follows from it;
    /// `None` if it is bound to it already. Expiry ends what nobody used: who was let in may ask
    /// again when its answer was lost.
    pub(super) fn admit(
        &self,
        token: &JoinToken,
        instance_id: u128,
    ) -> Result<Option<Invitation>, TokenProblem> {
        if token.cluster_id != self.cluster_id {
            return Err(TokenProblem::OtherCluster);
        }
        if self.removed {
            return Err(TokenProblem::Removed);
        }
        let invitation = self.invitation.as_ref().ok_or(TokenProblem::Unknown)?;
        if !same(&invitation.hash, &token.secret.hash()) {
            return Err(TokenProblem::Unknown);
        }
        match invitation.instance_id {
            Some(bound) if bound == instance_id => Ok(None),
            Some(_) => Err(TokenProblem::Used),
            None if self.now >= invitation.expires_at => Err(TokenProblem::Expired),
            None => Ok(Some(Invitation { instance_id: Some(instance_id), ..invitation.clone() })),
        }
    }
}

/// Takes as long whatever differs, so that the time says nothing about the hash.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let differs = a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b));
    std::hint::black_box(differs) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::members::token::Secret;

    const TOKEN: JoinToken = JoinToken { cluster_id: 7, node_id: 4, secret: Secret(99 << 80) };

    fn gate(instance_id: Option<u128>) -> Gate {
        let hash = TOKEN.secret.hash();
        let invitation = Some(Invitation { hash, expires_at: LeaseTime(1_000), instance_id });
        Gate { cluster_id: 7, invitation, removed: false, now: LeaseTime(999) }
    }

    #[test]
    fn an_invitation_lets_in_one_instance_for_good() {
        let bound = gate(None).admit(&TOKEN, 5).expect("it fits").expect("it is bound now");
        assert_eq!(bound.instance_id, Some(5));
        assert_eq!(bound.hash, TOKEN.secret.hash());
        assert_eq!(gate(Some(5)).admit(&TOKEN, 5), Ok(None), "a repeat by the same");
        assert_eq!(gate(Some(5)).admit(&TOKEN, 6), Err(TokenProblem::Used), "by another");
    }

    #[test]
    fn an_invitation_ends_unless_it_was_used() {
        let late = |instance_id| Gate { now: LeaseTime(1_000), ..gate(instance_id) };
        assert_eq!(late(None).admit(&TOKEN, 5), Err(TokenProblem::Expired));
        assert_eq!(late(Some(5)).admit(&TOKEN, 5), Ok(None), "its answer may have been lost");
        assert_eq!(late(Some(5)).admit(&TOKEN, 6), Err(TokenProblem::Used));
    }

    #[test]
    fn a_word_of_another_cluster_or_with_another_secret_opens_nothing() {
        let foreign = JoinToken { cluster_id: 8, ..TOKEN };
        assert_eq!(gate(None).admit(&foreign, 5), Err(TokenProblem::OtherCluster));
        for bit in 0..128 {
            let guess = JoinToken { secret: Secret(TOKEN.secret.0 ^ (1 << bit)), ..TOKEN };
            assert_eq!(gate(None).admit(&guess, 5), Err(TokenProblem::Unknown));
            assert_eq!(gate(Some(5)).admit(&guess, 5), Err(TokenProblem::Unknown), "also used");
        }
        let nobody = Gate { invitation: None, ..gate(None) };
        assert_eq!(nobody.admit(&TOKEN, 5), Err(TokenProblem::Unknown));
        let removed = Gate { removed: true, ..gate(Some(5)) };
        assert_eq!(removed.admit(&TOKEN, 5), Err(TokenProblem::Removed));
    }

    #[test]
    fn the_text_of_an_invitation_is_fixed() {
        let hash = std::array::from_fn(|at| u8::try_from(at).expect("small"));
        let open = Invitation { hash, expires_at: LeaseTime(12), instance_id: None };
        let used = Invitation { instance_id: Some(1 << 100), ..open.clone() };
        let digits = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        assert_eq!(open.to_string(), format!("1 {digits} 12 -"));
        assert_eq!(used.to_string(), format!("1 {digits} 12 00000010000000000000000000000000"));
        for it in [open, used] {
            assert_eq!(Invitation::parse(it.to_string().as_bytes()), Some(it));
        }
        for bad in ["", "2 00 1 -", &format!("1 {digits} x -"), &format!("1 {digits}0 1 -")] {
            assert_eq!(Invitation::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}

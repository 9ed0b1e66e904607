//! All credentials of the cluster at one moment, found by what a caller shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use oarlock_core::time::LeaseTime;

use crate::auth::credential::{CERTIFICATE, Credential, Proof};
use crate::auth::key::{Key, same};
use crate::auth::right::{Scope, Verb};

/// The credentials by id. Made anew when one of them changes, and never changed.
#[derive(Debug, Default)]
pub struct Book {
    by_id: BTreeMap<String, Arc<Credential>>,
    /// Records that this build cannot read. They prove nothing, but somebody meant to restrict.
    unreadable: usize,
}

impl Book {
    /// From keys and texts of records.
    pub fn read<'a>(records: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut book = Self::default();
        for (key, text) in records {
            match Credential::decode(key, text) {
                Some(credential) => {
                    book.by_id.insert(credential.id.clone(), Arc::new(credential));
                }
                None => book.unreadable += 1,
            }
        }
        book
    }

    /// Whether there is none, not even one that is over or cannot be read.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.unreadable == 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len() + self.unreadable
    }

    /// All of them, in the order of their ids.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Credential>> {
        self.by_id.values()
    }

    /// The one with that id, be it over or not.
    pub fn find(&self, id: &str) -> Option<&Arc<Credential>> {
        self.by_id.get(id)
    }

    /// Whose key this is. The work is the same for an id that nobody has.
    pub fn of_key(&self, key: &Key) -> Option<&Arc<Credential>> {
        let found = self.by_id.get(&key.id);
        let kept = match found.map(|it| &it.proof) {
            Some(Proof::Key(hash)) => *hash,
            Some(Proof::Certificate) | None => [0; 32],
        };
        let proves = same(&kept, &key.hash());
        found.filter(|it| proves && matches!(it.proof, Proof::Key(_)))
    }

    /// Whose certificate has this name.
    pub fn of_certificate(&self, name: &str) -> Option<&Arc<Credential>> {
        let found = self.by_id.get(&format!("{CERTIFICATE}{name}"));
        found.filter(|it| it.proof == Proof::Certificate)
    }

    /// Whether somebody, besides the one with that id, may administer at that time.
    pub fn has_admin(&self, now: LeaseTime, besides: Option<&str>) -> bool {
        let others = self.all().filter(|it| besides != Some(it.id.as_str()));
        others.filter(|it| !it.is_expired(now)).any(|it| it.may(Verb::Admin, Scope::Any))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::credential::tests::credential;

    fn book(credentials: &[Credential]) -> Book {
        let records: Vec<_> = credentials.iter().map(|it| (it.record(), it.encode())).collect();
        Book::read(records.iter().map(|(key, text)| (key.as_str(), text.as_bytes())))
    }

    #[test]
    fn a_key_is_known_by_all_of_it() {
        let (key, other) = (Key::new(1, 2), Key::new(1, 3));
        let ours = credential(&key, "ci", &["admin"]);
        let book = book(std::slice::from_ref(&ours));
        assert_eq!(book.of_key(&key).map(|it| it.name.as_str()), Some("ci"));
        assert!(book.of_key(&other).is_none(), "the id alone proves nothing");
        assert!(book.of_key(&Key::new(9, 2)).is_none(), "nor does the secret");
        assert!(book.of_certificate("ci").is_none(), "a key is not a certificate");
        assert!(book.has_admin(LeaseTime(4), None) && !book.has_admin(LeaseTime(5), None));
        assert!(!book.has_admin(LeaseTime(4), Some(&ours.id)));
    }

    #[test]
    fn a_certificate_is_not_a_key() {
        let key = Key::new(1, 2);
        let id = format!("{CERTIFICATE}ci");
        let ours = Credential { id, proof: Proof::Certificate, ..credential(&key, "ci", &[]) };
        let book = book(&[ours]);
        assert!(book.of_certificate("ci").is_some() && book.of_certificate("cj").is_none());
        assert!(book.of_key(&key).is_none());
    }

    #[test]
    fn a_record_that_cannot_be_read_still_closes_the_door() {
        let book = Book::read([("auth/1", &b"version 9"[..])].into_iter());
        assert!(!book.is_empty() && book.len() == 1);
    }
}

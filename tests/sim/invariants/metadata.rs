//! What a client gave with its request is what everybody is shown with the grant.

use oarlock_core::outcome::Grant;

use super::{Answer, Entry, Invariant, LABEL_KEY, Told, noted};

pub(super) struct Metadata;

fn judge(grant: &Grant, label: &str) -> Result<(), String> {
    match noted(grant, LABEL_KEY) {
        Some(noted) if noted == label && grant.owner.as_str() == label => Ok(()),
        noted => Err(format!("{label} has {noted:?} and the owner {}", grant.owner)),
    }
}

impl Invariant for Metadata {
    fn name(&self) -> &'static str {
        "metadata"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        entry.grants().try_for_each(|grant| judge(grant, grant.owner.as_str()))
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        match &answer.what {
            Told::Granted { label, grants, .. } => {
                grants.iter().try_for_each(|grant| judge(grant, label))
            }
            Told::Look(view) => {
                let label = |holder: &oarlock_core::outcome::Holder| {
                    let mut entries = holder.metadata.entries();
                    entries.any(|(key, text)| key == LABEL_KEY && text == holder.owner.as_str())
                };
                match view.holders.iter().find(|holder| !label(holder)) {
                    Some(holder) => Err(format!("{} is shown with {holder:?}", view.name)),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

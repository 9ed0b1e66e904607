//! Records of the cluster itself in the naive model: every write ever, the newest of each key counts.

use oarlock_core::command::Expected;
use oarlock_core::ids::{RecordKey, RecordValue, Revision};
use oarlock_core::outcome::{Outcome, Rejection};
use oarlock_core::records::Record;

use super::{Naive, rejected};

impl Naive {
    pub(super) fn put(
        &mut self,
        key: &RecordKey,
        value: Option<&RecordValue>,
        expected: Expected,
    ) -> Outcome {
        let at = self.records.iter().position(|(known, _)| known == key);
        let revision = at.map(|at| self.records[at].1.revision);
        match (expected, revision) {
            (Expected::Anything, _) | (Expected::Absent, None) => {}
            (Expected::At(wanted), Some(found)) if wanted == found => {}
            (Expected::Absent | Expected::At(_), _) => {
                return rejected(Rejection::RecordChanged { revision });
            }
        }
        if value.is_some() && at.is_none() && self.records.len() == self.limits.records_max {
            return rejected(Rejection::RecordsFull { limit: self.limits.records_max as u64 });
        }
        self.records.retain(|(known, _)| known != key);
        let Some(value) = value else { return Outcome::RecordPut(None) };
        self.puts += 1;
        let record = Record { value: value.clone(), revision: Revision(self.puts) };
        self.records.push((key.clone(), record));
        Outcome::RecordPut(Some(Revision(self.puts)))
    }

    pub(crate) fn records(&self, prefix: &str) -> impl Iterator<Item = (&RecordKey, &Record)> {
        let mut all: Vec<_> = self.records.iter().map(|(key, record)| (key, record)).collect();
        all.sort_by_key(|(key, _)| key.as_str());
        all.retain(|(key, _)| key.as_str().starts_with(prefix));
        all.into_iter()
    }
}

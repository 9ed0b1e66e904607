//! The locks that all clients work on, under one prefix.

use crate::chance::Chance;
use crate::history::{Ask, Mode};

/// Permits of each lock that has some.
const PERMITS: u32 = 3;

/// Locks of three kinds: held alone or together, held by permits, and queued for.
#[derive(Debug, Clone)]
pub struct Locks {
    prefix: String,
    /// Held alone or together.
    plain: u64,
    permits: u64,
    queues: u64,
}

impl Locks {
    /// So many locks that so many clients meet often and do not only wait.
    pub fn new(prefix: &str, clients: u16) -> Self {
        let clients = u64::from(clients);
        Self {
            prefix: prefix.to_owned(),
            plain: (clients * 5 / 4).max(2),
            permits: (clients / 8).max(1),
            queues: (clients / 16).max(1),
        }
    }

    pub fn names(&self) -> Vec<String> {
        let of = |kind: &str, count: u64| -> Vec<String> {
            (0..count).map(|number| self.name(kind, number)).collect()
        };
        [of("lock", self.plain), of("permits", self.permits), of("queue", self.queues)].concat()
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn name(&self, kind: &str, number: u64) -> String {
        format!("{}{kind}-{number}", self.prefix)
    }

    pub(super) fn exclusive(&self, chance: &mut Chance) -> Ask {
        Ask { lock: self.name("lock", chance.below(self.plain)), mode: Mode::Exclusive }
    }

    pub(super) fn shared(&self, chance: &mut Chance) -> Ask {
        Ask { mode: Mode::Shared, ..self.exclusive(chance) }
    }

    pub(super) fn permits(&self, chance: &mut Chance) -> Ask {
        let count = u32::try_from(1 + chance.below(u64::from(PERMITS))).unwrap_or(1);
        let mode = Mode::Permits { count, limit: PERMITS };
        Ask { lock: self.name("permits", chance.below(self.permits)), mode }
    }

    pub(super) fn queue(&self, chance: &mut Chance) -> Ask {
        Ask { lock: self.name("queue", chance.below(self.queues)), mode: Mode::Exclusive }
    }

    pub(super) fn any(&self, chance: &mut Chance) -> String {
        let names = self.names();
        let at = usize::try_from(chance.below(names.len() as u64)).unwrap_or(0);
        names.into_iter().nth(at).unwrap_or_default()
    }
}

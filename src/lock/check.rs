//! Checks every invariant of the state. For tests, the simulation, and every image that is loaded.

use alloc::format;
use alloc::string::{String, ToString};

use crate::command::Mode;
use crate::machine::Machine;
use crate::table::{Due, LeaseState};

impl Machine {
    /// The first invariant that does not hold, as a sentence. Costs time in proportion to the
    /// state.
    pub fn check(&self) -> Result<(), String> {
        self.check_locks()?;
        self.check_leases()?;
        self.check_sessions()?;
        self.check_deadlines()
    }

    fn check_locks(&self) -> Result<(), String> {
        for (name, lock) in &self.table.locks {
            if lock.is_free() {
                return Err(format!("I1: free lock {name} was not collected"));
            }
            let mut exclusive = 0_usize;
            for (token, id) in lock.holders.iter() {
                let lease =
                    self.table.leases.get(&id).ok_or(format!("I2: {name}: ghost holder"))?;
                exclusive += usize::from(lease.mode == Mode::Exclusive);
                let held = matches!(&lease.state, LeaseState::Held { token: t, .. } if *t == token);
                if !held || &lease.name != name {
                    return Err(format!("I2: holder of {name} does not hold it"));
                }
                if token > self.meta.last_token || Some(token) > lock.row.last_token {
                    return Err(format!("I3: {name}: token {} above the counter", token.0));
                }
            }
            if exclusive > 0 && lock.holders.len() > 1 {
                return Err(format!("I4: {name} is held exclusively and by others"));
            }
            if let Some((_, front)) = lock.queue.first_key_value() {
                let lease = self.table.leases.get(front).ok_or("I5: ghost waiter")?;
                let room = lock.holders.len() < self.limits.holders;
                let tokens = self.meta.last_token.0 < self.limits.token;
                if room && tokens && lock.admits(lease.mode) {
                    return Err(format!("I6: the front waiter of {name} could hold it"));
                }
            }
            if lock.row.revision > self.meta.revision {
                return Err(format!("I7: {name} changed in the future"));
            }
        }
        Ok(())
    }

    fn check_leases(&self) -> Result<(), String> {
        let mut waiting = 0;
        for (id, lease) in &self.table.leases {
            let lock = self.table.locks.get(&lease.name).ok_or("I8: lease without a lock")?;
            let linked = match &lease.state {
                LeaseState::Waiting { ticket, .. } => {
                    waiting += 1;
                    *ticket < self.meta.next_ticket && lock.queue.get(ticket) == Some(id)
                }
                LeaseState::Held { token, granted_at, .. } => {
                    lock.holders.get(*token) == Some(*id) && *granted_at <= self.meta.clock
                }
            };
            if !linked {
                return Err(format!("I9: lease {id:?} is not linked to {}", lease.name));
            }
            if let Some(session) = lease.session_id() {
                let session = self.table.sessions.get(&session).ok_or("I10: lease outlived it")?;
                if !session.leases.contains(id) {
                    return Err("I10: a session does not know its lease".to_string());
                }
            }
            if self.ended_lease(*id).is_some() {
                return Err(format!("I11: lease {id:?} lives and has ended"));
            }
        }
        if waiting != self.table.waiting_count {
            return Err("I12: the count of waiters is off".to_string());
        }
        Ok(())
    }

    fn check_sessions(&self) -> Result<(), String> {
        for (id, session) in &self.table.sessions {
            for lease in &session.leases {
                let back = self.table.leases.get(lease).and_then(crate::table::Lease::session_id);
                if back != Some(*id) {
                    return Err(format!("I13: session {id:?} claims a lease of others"));
                }
            }
            if self.ended_session(*id).is_some() {
                return Err(format!("I14: session {id:?} lives and has ended"));
            }
        }
        Ok(())
    }

    fn check_deadlines(&self) -> Result<(), String> {
        let leases =
            self.table.leases.iter().filter_map(|(id, l)| Some((l.due()?, Due::Lease(*id))));
        let sessions =
            self.table.sessions.iter().map(|(id, s)| (s.row.deadline, Due::Session(*id)));
        let mut count = 0;
        for deadline in leases.chain(sessions) {
            count += 1;
            if !self.table.deadlines.contains(&deadline) {
                return Err(format!("I15: deadline {deadline:?} is not scheduled"));
            }
        }
        if count != self.table.deadlines.len() {
            return Err("I15: a deadline belongs to nobody".to_string());
        }
        Ok(())
    }
}

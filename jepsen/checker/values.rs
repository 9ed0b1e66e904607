//! Values: a read shows what a holder wrote, under the token of its grant, and never one that was
//! overwritten before the read began (P6).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::claims::Claims;
use crate::history::{Answer, Call, Mode, Operation, Outcome};

/// One write: who, when, and when it was known to be done.
struct Write<'a> {
    request: u64,
    value: u64,
    operation: &'a Operation,
}

impl Write<'_> {
    fn done_at(&self) -> Option<Duration> {
        matches!(self.operation.outcome, Outcome::Ok(_)).then_some(self.operation.returned_at)
    }
}

/// The writes to one lock.
#[derive(Default)]
struct Writes<'a> {
    by_value: BTreeMap<u64, Write<'a>>,
    /// Of each request in the order of their calls.
    by_request: BTreeMap<u64, Vec<u64>>,
    /// When a write under the token of who held alone was known, the highest so far.
    known: Vec<(Duration, u64)>,
    first_done_at: Option<Duration>,
}

pub(super) fn are_the_last_written(
    operations: &[Operation],
    claims: &Claims<'_>,
) -> Result<(), String> {
    let writes = writes(operations, claims);
    let none = Writes::default();
    for operation in operations {
        if let (Call::GetValue { lock }, Outcome::Ok(Answer::Value(read))) =
            (&operation.call, &operation.outcome)
        {
            let of_lock = writes.get(lock.as_str()).unwrap_or(&none);
            of_lock
                .explain(operation, *read, (lock, claims))
                .map_err(|why| format!("a read of a value {why}: {operation:?}"))?;
        }
    }
    Ok(())
}

fn writes<'a>(operations: &'a [Operation], claims: &Claims<'_>) -> BTreeMap<&'a str, Writes<'a>> {
    let mut writes: BTreeMap<&str, Writes<'_>> = BTreeMap::new();
    for operation in operations {
        let Call::SetValue { request, lock, value } = &operation.call else { continue };
        let of_lock = writes.entry(lock).or_default();
        let write = Write { request: *request, value: *value, operation };
        let first = of_lock.first_done_at.into_iter().chain(write.done_at()).min();
        of_lock.first_done_at = first;
        if let (Some(at), Some(claim)) = (write.done_at(), claims.get(&(*request, lock.as_str()))) {
            // Those who hold together may write in any order.
            if claim.mode == Mode::Exclusive {
                of_lock.known.push((at, claim.token));
            }
        }
        of_lock.by_request.entry(*request).or_default().push(*value);
        of_lock.by_value.insert(*value, write);
    }
    for of_lock in writes.values_mut() {
        of_lock.known.sort_unstable();
        let mut highest = 0;
        for (_, token) in &mut of_lock.known {
            highest = highest.max(*token);
            *token = highest;
        }
    }
    writes
}

impl Writes<'_> {
    fn explain(
        &self,
        read: &Operation,
        shown: Option<(u64, u64)>,
        (lock, claims): (&str, &Claims<'_>),
    ) -> Result<(), String> {
        let before = self.known.partition_point(|(at, _)| *at < read.called_at);
        let highest = before.checked_sub(1).and_then(|at| self.known.get(at)).map_or(0, |it| it.1);
        let Some((value, token)) = shown else {
            // No client here deletes one.
            let missed = self.first_done_at.is_some_and(|at| at < read.called_at);
            return if missed { Err("missed every write".to_owned()) } else { Ok(()) };
        };
        if token < highest {
            return Err(format!("missed a write under token {highest}"));
        }
        let write = self.by_value.get(&value);
        let Some(write) = write.filter(|it| it.operation.called_at <= read.returned_at) else {
            return Err("shows what nobody had written".to_owned());
        };
        let writer = claims.get(&(write.request, lock));
        if writer.is_some_and(|claim| claim.token != token) {
            return Err("shows another token than its writer's".to_owned());
        }
        // Under one token only its own client writes.
        let of_writer = self.by_request.get(&write.request).into_iter().flatten();
        let mut others = of_writer.filter_map(|value| self.by_value.get(value));
        let missed = others.any(|other| {
            other.value != write.value
                && write.done_at().is_some_and(|at| at < other.operation.called_at)
                && other.done_at().is_some_and(|at| at < read.called_at)
        });
        if missed { Err("shows what had been overwritten".to_owned()) } else { Ok(()) }
    }
}

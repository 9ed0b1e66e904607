//! A history in Jepsen's own form, so that Jepsen's checkers can read it: one map a line, for each
//! invocation and each completion, in time order.
//!
//! As there, a process makes one call at a time and is gone once a call of it ended as `:info`, that
//! is unknown; the client goes on as another process. Faults are `:info` of the process `:nemesis`.
//! Keys of our own follow Jepsen's: the locks asked for, the request, the session, the TTL.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::history::{Answer, Call, Mode, Operation, Outcome, Records};

/// One line, but for its index, which its place in time gives it.
struct Line {
    at: Duration,
    client: Option<u64>,
    ends_process: bool,
    text: String,
}

/// The whole history.
pub fn history(records: &Records) -> String {
    let mut lines: Vec<Line> = Vec::new();
    for operation in &records.operations {
        lines.push(invocation(operation));
        lines.push(completion(operation));
    }
    for fault in &records.faults {
        for (at, function) in [(fault.began_at, "start"), (fault.ended_at, "stop")] {
            let text = format!(":type :info, :f :{function}, :value {}", quoted(&fault.what));
            lines.push(Line { at, client: None, ends_process: false, text });
        }
    }
    // Stable, so that what took no time keeps its order.
    lines.sort_by_key(|line| line.at);
    let clients = records.operations.iter().map(|operation| operation.client + 1).max();
    let clients = clients.unwrap_or(0);
    let mut processes: BTreeMap<u64, u64> = BTreeMap::new();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let process = line.client.map(|client| *processes.entry(client).or_insert(client));
        let named = process.map_or(":nemesis".to_owned(), |process| process.to_string());
        let nanos = line.at.as_nanos();
        let _infallible =
            writeln!(text, "{{:index {index}, :process {named}, {}, :time {nanos}}}", line.text);
        if let (Some(client), Some(process), true) = (line.client, process, line.ends_process) {
            processes.insert(client, process + clients);
        }
    }
    text
}

fn invocation(operation: &Operation) -> Line {
    let text = format!(
        ":type :invoke, :f :{}, :value {}{}",
        operation.kind(),
        subject(&operation.call, None),
        details(&operation.call)
    );
    Line { at: operation.called_at, client: Some(operation.client), ends_process: false, text }
}

fn completion(operation: &Operation) -> Line {
    let (kind, answer, error) = match &operation.outcome {
        Outcome::Ok(answer) => ("ok", Some(answer), String::new()),
        Outcome::Failed(refusal) => ("fail", None, format!(", :error :{}", keyword(&refusal.kind))),
        Outcome::Unknown(why) => ("info", None, format!(", :error {}", quoted(why))),
    };
    let text = format!(
        ":type :{kind}, :f :{}, :value {}{}{error}",
        operation.kind(),
        subject(&operation.call, answer),
        details(&operation.call)
    );
    let ends_process = matches!(operation.outcome, Outcome::Unknown(_));
    Line { at: operation.returned_at, client: Some(operation.client), ends_process, text }
}

/// `[lock value]`, as Jepsen's independent keys are written; several of them for several locks.
fn subject(call: &Call, answer: Option<&Answer>) -> String {
    let pair = |lock: &str, value: Option<u64>| format!("[{} {}]", quoted(lock), number(value));
    match (call, answer) {
        (Call::Acquire { asks, .. }, answer) => {
            let tokens = if let Some(Answer::Granted { tokens, .. }) = answer {
                tokens.as_slice()
            } else {
                &[]
            };
            let pairs: Vec<String> = asks
                .iter()
                .enumerate()
                .map(|(at, ask)| pair(&ask.lock, tokens.get(at).copied()))
                .collect();
            if let [only] = pairs.as_slice() {
                only.clone()
            } else {
                format!("[{}]", pairs.join(" "))
            }
        }
        (Call::Look { lock }, Some(Answer::Seen(seen))) => {
            let holders: Vec<String> =
                seen.holders.iter().map(|(token, _)| token.to_string()).collect();
            format!("[{} [{}]]", quoted(lock), holders.join(" "))
        }
        (Call::GetValue { lock }, Some(Answer::Value(value))) => {
            pair(lock, value.map(|(value, _)| value))
        }
        (Call::SetValue { lock, value, .. }, _) => pair(lock, Some(*value)),
        (Call::Fence { lock, token }, _) => pair(lock, Some(*token)),
        (
            Call::Renew { lock, .. }
            | Call::Release { lock, .. }
            | Call::Look { lock }
            | Call::GetValue { lock },
            _,
        ) => pair(lock, None),
        (
            Call::OpenSession { session, .. }
            | Call::RenewSession { session, .. }
            | Call::CloseSession { session },
            _,
        ) => number(Some(*session)),
    }
}

fn details(call: &Call) -> String {
    match call {
        Call::Acquire { request, asks, wait_ms, ttl_ms, session } => {
            let modes: Vec<String> = asks.iter().map(|ask| mode(ask.mode)).collect();
            format!(
                ", :request {request}, :modes [{}], :wait-ms {wait_ms}, :ttl-ms {}, :session {}",
                modes.join(" "),
                number(*ttl_ms),
                number(*session)
            )
        }
        Call::Renew { request, ttl_ms, .. } => format!(", :request {request}, :ttl-ms {ttl_ms}"),
        Call::Release { request, .. } | Call::SetValue { request, .. } => {
            format!(", :request {request}")
        }
        Call::OpenSession { ttl_ms, .. } | Call::RenewSession { ttl_ms, .. } => {
            format!(", :ttl-ms {ttl_ms}")
        }
        Call::CloseSession { .. }
        | Call::Look { .. }
        | Call::Fence { .. }
        | Call::GetValue { .. } => String::new(),
    }
}

fn mode(mode: Mode) -> String {
    match mode {
        Mode::Exclusive => ":exclusive".to_owned(),
        Mode::Shared => ":shared".to_owned(),
        Mode::Permits { count, limit } => format!("[:permits {count} {limit}]"),
    }
}

fn number(value: Option<u64>) -> String {
    value.map_or("nil".to_owned(), |value| value.to_string())
}

/// A string as EDN writes it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// What a keyword may hold.
fn keyword(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let word: String = text.chars().map(plain).collect();
    if word.is_empty() { "refused".to_owned() } else { word }
}

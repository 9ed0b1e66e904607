//! `oarlock watch`: what happens to locks, as it happens.
//!
//! The client resumes a stream that broke, at another node if need be. In JSON each line is one
//! event as the API sends it.

use std::fmt::Write as _;

use clap::Args;
use oarlock_client::StreamEvent;

use crate::cli::locks::Target;
use crate::cli::{Failure, print, stop_signal};

/// Example: oarlock watch deploy/
#[derive(Debug, Args)]
pub(super) struct Watch {
    /// Only locks whose names start with this
    #[arg(default_value = "")]
    prefix: String,
    /// Begin with this revision instead of now, if the node still knows it
    #[arg(long, value_name = "REVISION")]
    from_revision: Option<u64>,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub(super) async fn run(target: &Target, watch: Watch) -> Result<(), Failure> {
    let client = target.client();
    let mut events = client.watch(&watch.prefix, watch.from_revision);
    let stopped = stop_signal();
    tokio::pin!(stopped);
    let mut left = watch.count;
    while left != Some(0) {
        tokio::select! {
            () = &mut stopped => return Ok(()),
            event = events.next() => {
                let event = event?;
                if target.is_json() {
                    print(&format!("{}\n", event.data));
                } else {
                    print(&line(&event));
                }
                left = left.map(|left| left - 1);
            }
        }
    }
    Ok(())
}

fn line(event: &StreamEvent) -> String {
    if event.kind == "gap" {
        let oldest = &event.data["oldest_revision"];
        return format!("events were lost before revision {oldest}; look with `oarlock list`\n");
    }
    let text = |field: &str| event.data[field].as_str().unwrap_or_default().to_owned();
    let mut line = format!("{:<16} {:<32}", event.kind, text("lock"));
    for (field, word) in [("token", "token"), ("queue_length", "waiting"), ("held_ms", "held ms")] {
        if let Some(number) = event.data[field].as_u64() {
            let _infallible = write!(line, "  {word} {number}");
        }
    }
    for field in ["owner", "how", "reason"] {
        let text = text(field);
        if !text.is_empty() {
            let _infallible = write!(line, "  {field} {text}");
        }
    }
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_a_gap_says_what_to_do() {
        let event = |kind: &str, data: &str| StreamEvent {
            kind: kind.to_owned(),
            revision: Some(7),
            data: serde_json::from_str(data).expect("JSON"),
        };
        let granted = line(&event("granted", r#"{"lock":"a","token":5,"owner":"me"}"#));
        assert!(granted.starts_with("granted") && granted.ends_with("  token 5  owner me\n"));
        assert!(line(&event("gap", r#"{"oldest_revision":9}"#)).contains("oarlock list"));
    }
}

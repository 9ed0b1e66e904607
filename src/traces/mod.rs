//! What a request went through, told to a collector of OpenTelemetry; nothing at all in a build without
//! the feature `otel`.
//!
//! ```text
//!  api: a request arrives -> Entrance::request -> Span, the parent from its `traceparent`
//!       what works on it runs inside `Span::around`
//!         service: traces::step(Forward | Propose | Wait | Confirm) -> Span, a child of the one around it
//!  node: a peer's call arrives -> Traces::forwarded -> a trace of its own
//!  Span dropped -> queue of the SDK, bounded -> its thread -> collector (plain HTTP)
//! ```
//!
//! No globals: the tracer travels with the span that a task runs inside, so that a node of a test or of
//! the simulation, which has none, makes none. A span can be told a [`Fact`] and nothing else. That has
//! no room for ids of leases, sessions and requests, for tokens, owners and texts: whoever reads traces
//! gets no right and no data with them. *Absent:* decisions; anything that waits for the collector.

#[cfg(feature = "otel")]
mod collector;
#[cfg(feature = "otel")]
mod on;
#[cfg(feature = "otel")]
mod variables;
#[cfg(feature = "otel")]
pub use on::{Entrance, Span, Traces, carried, step, tell};

#[cfg(not(feature = "otel"))]
mod off;
#[cfg(not(feature = "otel"))]
pub use off::{Entrance, Span, Traces, carried, step, tell};

use oarlock_core::ids::LockName;

/// Whether this build can trace.
pub const IS_BUILT_IN: bool = cfg!(feature = "otel");

/// What the configuration says of traces.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Of the collector; empty for none, and then no traces unless a variable names one.
    pub endpoint: &'a str,
    /// Of the traces that begin here, so many are kept.
    pub sample_ratio: f64,
    pub service_name: &'a str,
    pub node_id: u64,
}

/// A part of the work on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A follower asks the leader.
    Forward,
    /// A command on its way through the log: queued, replicated, committed, applied.
    Propose,
    /// A place in the queue of a lock.
    Wait,
    /// A majority confirms that the leader leads, for a read.
    Confirm,
}

/// What a span may be told. Texts are fixed ones of ours, or the name of a lock.
#[derive(Debug, Clone, Copy)]
pub enum Fact<'a> {
    Lock(&'a LockName),
    /// How many locks one command names.
    Locks(usize),
    Command(&'static str),
    Outcome(&'static str),
    /// The node that is asked.
    Leader(u64),
    Term(u64),
    /// In the queue; 1 is next.
    Position(u64),
}

/// What is wrong with the endpoint of a collector, as a sentence.
pub fn problem(endpoint: &str) -> Option<String> {
    if !IS_BUILT_IN {
        return Some(format!(
            "traces_endpoint {endpoint:?} asks for traces, and this build has none: build with \
             `--features otel`, or leave traces_endpoint empty."
        ));
    }
    authority(endpoint).is_none().then(|| {
        format!(
            "the endpoint of traces (traces_endpoint, OTEL_EXPORTER_OTLP_ENDPOINT) is http://host:port, not \
             {endpoint:?}: a collector on this machine or on a \
             private network takes the traces in clear, and encrypts what it passes on."
        )
    })
}

/// `host:port` of a plain URL.
fn authority(endpoint: &str) -> Option<String> {
    let url: hyper::Uri = endpoint.parse().ok()?;
    let host = url.host().filter(|host| !host.is_empty())?;
    let has_user = url.authority()?.as_str().contains('@');
    let is_plain = url.scheme_str() == Some("http") && !has_user && url.query().is_none();
    is_plain.then(|| format!("{host}:{}", url.port_u16().unwrap_or(80)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_traces_refuses_an_endpoint_and_one_with_them_a_bad_one() {
        let good = problem("http://127.0.0.1:4318");
        if !IS_BUILT_IN {
            assert!(good.expect("it has none").contains("--features otel"));
            return;
        }
        assert_eq!(good, None);
        for bad in ["https://otel:4318", "otel:4318", "127.0.0.1:4318", "http://", "http://a@b:1"] {
            assert!(problem(bad).is_some_and(|why| why.contains("http://host:port")), "{bad}");
        }
    }

    #[test]
    fn the_collector_is_found_in_its_url() {
        assert_eq!(authority("http://otel:4318/v1/traces").as_deref(), Some("otel:4318"));
        assert_eq!(authority("http://[::1]:4318").as_deref(), Some("[::1]:4318"));
        assert_eq!(authority("http://otel").as_deref(), Some("otel:80"));
    }
}

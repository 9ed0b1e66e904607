//! The same without the feature `otel`: nothing, and what is around a span is the thing itself.

use std::net::SocketAddr;
use std::pin::Pin;

use hyper::{HeaderMap, Method};

use super::{Fact, Settings, Step};

/// No traces.
#[derive(Debug, Clone, Default)]
pub struct Traces(());

/// Of requests that nobody traces.
#[derive(Debug, Clone, Default)]
pub struct Entrance(());

/// No span.
#[derive(Debug, Default)]
pub struct Span(());

impl Traces {
    /// Starts nothing. A variable that asks for traces is no setting of ours alone, so it is answered by
    /// a warning; the setting was refused before.
    pub fn start(settings: &Settings<'_>) -> Result<Self, String> {
        debug_assert!(settings.endpoint.is_empty(), "the configuration was checked");
        let asks = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
        if let Some(asks) = asks.into_iter().find(|name| std::env::var_os(name).is_some()) {
            tracing::warn!("{asks} asks for traces, and this build has none (`--features otel`)");
        }
        Ok(Self(()))
    }

    /// For the requests of one listener.
    pub fn entrance(&self, _is_encrypted: bool, _at: Option<SocketAddr>) -> Entrance {
        Entrance(())
    }

    /// The work itself.
    pub fn forwarded<T>(
        &self,
        work: Pin<Box<dyn Future<Output = T> + Send>>,
    ) -> Pin<Box<dyn Future<Output = T> + Send>> {
        work
    }

    /// There is nothing to send.
    pub fn finish(self) -> impl Future<Output = ()> {
        std::future::ready(())
    }
}

impl Entrance {
    /// No span.
    pub fn request(&self, _method: &Method, _route: Option<&'static str>, _: &HeaderMap) -> Span {
        Span(())
    }
}

impl Span {
    pub fn is_open(&self) -> bool {
        false
    }

    pub fn tell(&self, _fact: Fact<'_>) {}

    pub fn answered(&self, _status: u16) {}

    /// The work itself.
    pub fn around<F: Future>(&self, work: F) -> F {
        work
    }
}

/// No span.
pub fn step(_step: Step) -> Span {
    Span(())
}

pub fn tell(_fact: Fact<'_>) {}

/// The work itself.
pub fn carried<F: Future>(work: F) -> F {
    work
}

//! Traces over the SDK of OpenTelemetry. A request that is not sampled has no span, no more than in a
//! build without traces; what is around it and inside it then asks once and goes on.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use hyper::{HeaderMap, Method};
use opentelemetry::context::{FutureExt, WithContext};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::collector::Collector;
use super::{Fact, Settings, Step, problem, variables};

/// What is still queued at a stop has so long to reach the collector.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The traces of one node.
#[derive(Clone, Default)]
pub struct Traces(Option<(SdkTracerProvider, Teller)>);

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Traces({})", if self.0.is_some() { "on" } else { "off" })
    }
}

/// Makes the spans of one node. It stands in the context of each of them, for those below it.
#[derive(Clone)]
struct Teller(Arc<(SdkTracer, u64)>);

impl Teller {
    /// A span if that is to be kept, told whose it is.
    fn open(&self, name: &'static str, kind: SpanKind, parent: &Context) -> Span {
        let (tracer, node_id) = &*self.0;
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        let mut span = tracer.build_with_context(builder, parent);
        if !span.is_recording() {
            return Span(None);
        }
        span.set_attribute(KeyValue::new("oarlock.node_id", number(*node_id)));
        Span(Some(Context::new().with_value(self.clone()).with_span(span)))
    }
}

impl Traces {
    /// Begins to send traces, if settings or variables name a collector. Must be called inside the
    /// runtime of the node.
    pub fn start(settings: &Settings<'_>) -> Result<Self, String> {
        let Some(endpoint) = variables::endpoint(settings) else { return Ok(Self(None)) };
        let Some(authority) = super::authority(&endpoint) else {
            return Err(problem(&endpoint).unwrap_or_default());
        };
        variables::check()?;
        let deadline = variables::deadline()?;
        let client = Collector::new(authority.clone(), deadline);
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .with_timeout(deadline)
            .with_http_client(client)
            .build()
            .map_err(|error| format!("traces: {error}"))?;
        let mut provider =
            SdkTracerProvider::builder().with_resource(variables::resource(settings));
        if let Some(sampler) = variables::sampler(settings)? {
            provider = provider.with_sampler(sampler);
        }
        let provider = provider.with_batch_exporter(exporter).build();
        let teller = Teller(Arc::new((provider.tracer("oarlock"), settings.node_id)));
        tracing::info!(collector = authority, "traces are sent");
        Ok(Self(Some((provider, teller))))
    }

    /// For the requests of one listener.
    pub fn entrance(&self, is_encrypted: bool, at: Option<SocketAddr>) -> Entrance {
        let teller = self.0.as_ref().map(|(_, teller)| teller.clone());
        Entrance { teller, scheme: if is_encrypted { "https" } else { "http" }, at }
    }

    /// Around the work on a peer's call. What the peer knows of the trace does not travel with it.
    pub fn forwarded<T: Send + 'static>(&self, work: Boxed<T>) -> Boxed<T> {
        let Some((_, teller)) = &self.0 else { return work };
        let span = teller.open("answer a follower", SpanKind::Server, &Context::new());
        if span.0.is_none() {
            return work;
        }
        Box::pin(async move { span.around(work).await })
    }

    /// Sends what is queued, and gives up after two seconds.
    pub async fn finish(self) {
        let Some((provider, _)) = self.0 else { return };
        let ended =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_DEADLINE));
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the last traces may be lost"),
            Err(error) => tracing::debug!(%error, "sending the last traces panicked"),
        }
    }
}

/// Where requests of clients come in.
#[derive(Clone, Default)]
pub struct Entrance {
    teller: Option<Teller>,
    scheme: &'static str,
    at: Option<SocketAddr>,
}

impl Entrance {
    /// A span for a request, below the one that its headers name. Never with its path, which may hold
    /// the id of a lease.
    pub fn request(
        &self,
        method: &Method,
        route: Option<&'static str>,
        headers: &HeaderMap,
    ) -> Span {
        let Some(teller) = &self.teller else { return Span(None) };
        let parent =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        let span = teller.open("HTTP", SpanKind::Server, &parent);
        let Some(told) = span.inner() else { return span };
        let known = known(method);
        let name = known.unwrap_or("HTTP");
        told.update_name(route.map_or_else(|| name.to_owned(), |route| format!("{name} {route}")));
        told.set_attribute(KeyValue::new("http.request.method", known.unwrap_or("_OTHER")));
        told.set_attribute(KeyValue::new("url.scheme", self.scheme));
        if let Some(route) = route {
            told.set_attribute(KeyValue::new("http.route", route));
        }
        if let Some(at) = self.at {
            told.set_attribute(KeyValue::new("server.address", at.ip().to_string()));
            told.set_attribute(KeyValue::new("server.port", i64::from(at.port())));
        }
        span
    }
}

/// Methods have to be few in names of spans, and a client may send any.
fn known(method: &Method) -> Option<&'static str> {
    let all = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    all.into_iter().find(|known| method.as_str() == *known)
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(hyper::header::HeaderName::as_str).collect()
    }
}

/// An open span, or none. It ends when this is dropped.
#[derive(Default)]
pub struct Span(Option<Context>);

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(span) = self.inner() {
            span.end();
        }
    }
}

impl Span {
    fn inner(&self) -> Option<opentelemetry::trace::SpanRef<'_>> {
        self.0.as_ref().map(TraceContextExt::span)
    }

    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    pub fn tell(&self, fact: Fact<'_>) {
        if let Some(span) = self.inner() {
            span.set_attribute(attribute(fact));
        }
    }

    /// What a request was answered.
    pub fn answered(&self, status: u16) {
        let Some(span) = self.inner() else { return };
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            span.set_attribute(KeyValue::new("error.type", status.to_string()));
            span.set_status(Status::error(""));
        }
    }

    /// Work whose steps are below this span.
    pub fn around<F: Future>(&self, work: F) -> Either<F, WithContext<F>> {
        match &self.0 {
            None => Either::Left(work),
            Some(context) => Either::Right(work.with_context(context.clone())),
        }
    }
}

/// A step below the span that this runs inside; none if it runs inside none.
pub fn step(step: Step) -> Span {
    let (name, kind) = match step {
        Step::Forward => ("forward to leader", SpanKind::Client),
        Step::Propose => ("propose", SpanKind::Internal),
        Step::Wait => ("wait in queue", SpanKind::Internal),
        Step::Confirm => ("confirm leadership", SpanKind::Internal),
    };
    let open = |context: &Context| Some(context.get::<Teller>()?.open(name, kind, context));
    Context::map_current(open).unwrap_or_default()
}

/// Tells the span that this runs inside, if there is one.
pub fn tell(fact: Fact<'_>) {
    Context::map_current(|context| {
        if context.get::<Teller>().is_some() {
            context.span().set_attribute(attribute(fact));
        }
    });
}

/// Work that goes on below the span that this runs inside, after that has ended.
pub fn carried<F: Future>(work: F) -> Either<F, WithContext<F>> {
    let here = Context::map_current(|context| context.get::<Teller>().map(|_| context.clone()));
    match here {
        None => Either::Left(work),
        Some(context) => Either::Right(work.with_context(context)),
    }
}

fn attribute(fact: Fact<'_>) -> KeyValue {
    match fact {
        Fact::Lock(name) => KeyValue::new("oarlock.lock", name.as_str().to_owned()),
        Fact::Locks(count) => {
            KeyValue::new("oarlock.locks", i64::try_from(count).unwrap_or(i64::MAX))
        }
        Fact::Command(kind) => KeyValue::new("oarlock.command", kind),
        Fact::Outcome(kind) => KeyValue::new("oarlock.outcome", kind),
        Fact::Leader(id) => KeyValue::new("oarlock.leader_id", number(id)),
        Fact::Term(term) => KeyValue::new("oarlock.term", number(term)),
        Fact::Position(position) => KeyValue::new("oarlock.position", number(position)),
    }
}

/// Numbers of attributes have a sign.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

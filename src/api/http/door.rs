//! The door of this surface: what a request shows of who sends it, and which verb each call needs.
//!
//! Whoever may not use a verb at all is refused before a body is read. Over which names it is given
//! is decided by the service, which every call passes.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, Method, StatusCode};

use super::error::Refusal;
use super::listen::Peer;
use super::routes::{App, Route};
use crate::auth::right::Verb;
use crate::service::error::ServiceError;
use crate::service::gate::Shown;
use crate::service::replicator::Replicator;

/// The path that makes the first token.
pub(super) const INIT: &str = "/v1/tokens/init";

/// The name in the client certificate that the connection was made with.
#[derive(Debug, Clone)]
pub(super) struct Certificate(pub(super) Arc<str>);

impl Route {
    /// Any of these verbs opens the call; none is needed where there are none: for what tells
    /// nothing about locks, and for what brings its own proof.
    pub(super) fn verbs(self, method: &Method) -> &'static [Verb] {
        match self {
            // The first token is for whoever sits at the machine, while there is no administrator.
            Self::Index
            | Self::Livez
            | Self::Readyz
            | Self::OpenApi
            | Self::TokensInit
            | Self::Nowhere => &[],
            Self::Lock if *method == Method::DELETE => &[Verb::Force],
            Self::Locks | Self::Lock if *method == Method::POST => &[Verb::Acquire],
            Self::Value if matches!(*method, Method::PUT | Method::DELETE) => &[Verb::Acquire],
            Self::Lease
            | Self::LeaseRenew
            | Self::LeaseHandOver
            | Self::Sessions
            | Self::Session
            | Self::SessionRenew
            | Self::Hold => &[Verb::Acquire],
            Self::Locks
            | Self::Lock
            | Self::Metrics
            | Self::History
            | Self::Grant
            | Self::Cluster
            | Self::Watch => &[Verb::Inspect],
            Self::Value | Self::Fence => &[Verb::Inspect, Verb::Acquire],
            Self::ClusterLeader
            | Self::Members
            | Self::Member
            | Self::MemberPromote
            | Self::MemberReplace
            | Self::Tokens
            | Self::Token
            | Self::Backup => &[Verb::Admin],
        }
    }
}

impl Route {
    /// Whether it is for those who run the cluster: what a listener of its own may serve alone.
    pub(super) fn is_administration(self) -> bool {
        matches!(self, Self::Metrics | Self::TokensInit)
            || self.verbs(&Method::POST) == [Verb::Admin]
    }
}

impl Refusal {
    pub(super) fn other_listener() -> Self {
        let detail = "administration and metrics have a listener of their own at this node: ask at the \
                      admin_address of its configuration";
        let (status, title) = (StatusCode::MISDIRECTED_REQUEST, "This listener is for clients");
        Self::new(status, "other-listener", title, detail.to_owned())
    }
}

/// Finds out who asks, and refuses who may not do such a thing at all.
pub(super) fn enter<R: Replicator>(
    app: &mut App<R>,
    route: Route,
    request: &Request,
) -> Result<(), Refusal> {
    if !app.service.is_gate_closed() {
        return Ok(());
    }
    let verbs = route.verbs(request.method());
    if verbs.is_empty() {
        return Ok(());
    }
    let asked = format_args!("{} {}", request.method(), route.pattern());
    app.caller = app.service.identify(shown(request)?, asked)?;
    app.service.count_request(&app.caller, app.clock.time())?;
    Ok(app.service.permit_one_of(&app.caller, verbs, asked)?)
}

/// The header wins over the certificate: it was sent for this request.
fn shown(request: &Request) -> Result<Shown<'_>, Refusal> {
    let mut headers = request.headers().get_all(AUTHORIZATION).iter();
    let Some(header) = headers.next() else {
        let certificate = request.extensions().get::<Certificate>();
        return Ok(certificate.map_or(Shown::Nothing, |it| Shown::Certificate(&it.0)));
    };
    let bearer = header.to_str().ok().and_then(|text| text.split_once(' '));
    match bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) {
        Some((_, word)) if headers.next().is_none() => Ok(Shown::Key(word)),
        Some(_) | None => Err(ServiceError::Unauthenticated(
            "the Authorization header is `Bearer` and one access token".to_owned(),
        )
        .into()),
    }
}

/// What proxies and browsers leave in the requests that they pass on or make.
const TRACES: [&str; 8] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "via",
    "origin",
    "sec-fetch-site",
];

/// Whether a request was made on the machine of this node itself, and not passed on to it by a
/// proxy or made by a page in a browser, as far as that can be seen.
pub(super) fn is_local(peer: Option<&Peer>, headers: &HeaderMap) -> bool {
    let passed_on = TRACES.into_iter().any(|name| headers.contains_key(name));
    let mut names = headers.get_all(HOST).iter();
    let by_its_name = names.all(|host| host.to_str().is_ok_and(is_this_machine));
    let here = peer.is_some_and(|Peer(from)| from.ip().to_canonical().is_loopback());
    here && by_its_name && !passed_on
}

/// Whether a host, with or without a port, is the loopback: under no other name is a node asked by
/// who sits at its machine, and a name of somebody else's may lead here.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|it| it.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn only_who_asks_the_loopback_by_its_name_sits_at_the_machine() {
        let from = Peer("127.0.0.1:5".parse().expect("an address"));
        let local = |pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                (HeaderName::from_static(name), value.parse().expect("a value"))
            });
            is_local(Some(&from), &pairs.collect())
        };
        for host in ["localhost", "localhost:7400", "127.0.0.1:7400", "[::1]:7400", "[::1]"] {
            assert!(local(&[("host", host)]), "{host}");
        }
        for host in ["locks.example:7400", "10.0.0.1:7400", "localhost.example", ""] {
            assert!(!local(&[("host", host)]), "{host}");
        }
        assert!(local(&[]), "no browser leaves it out");
        for trace in TRACES {
            assert!(!local(&[("host", "localhost"), (trace, "x")]), "{trace}");
        }
        let elsewhere = Peer("10.0.0.2:5".parse().expect("an address"));
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        assert!(!is_local(Some(&elsewhere), &headers) && !is_local(None, &headers));
    }
}

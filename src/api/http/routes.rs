//! Paths and methods. Every answer passes here: counted by route, and told who leads.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use axum::routing::any;

use super::error::Refusal;
use super::{
    backup, door, hold, leases, locks, many, members, node, records, sessions, tokens, watch,
};
use crate::observe::neighbour;
use crate::observe::stopwatch::Stopwatch;
use crate::service::error::ServiceError;
use crate::service::gate::Caller;
use crate::service::replicator::{Call, Replicator, Reply};
use crate::service::{NodeState, Service, deadline_of};
use crate::traces::Entrance;

/// Writes the page of `/metrics`.
pub type MetricsPage = Arc<dyn Fn(&NodeState) -> String + Send + Sync>;

/// What the handlers share.
pub struct App<R: Replicator> {
    pub service: Arc<Service<R>>,
    pub metrics: MetricsPage,
    /// Who asks. Each request has its own copy of this, and finds out before anything else is done.
    pub caller: Caller,
    /// What quotas are counted by.
    pub(super) clock: Stopwatch,
    /// Whether administration and metrics are asked for at another listener.
    is_for_clients: bool,
    /// Whether a connection within this machine comes from a process of the node's own user.
    pub(super) is_own: fn(SocketAddr, SocketAddr) -> bool,
    /// Where the traces of requests begin.
    entrance: Entrance,
}

impl<R: Replicator> App<R> {
    /// Asked by nobody yet.
    pub fn new(service: Arc<Service<R>>, metrics: MetricsPage) -> Self {
        let (caller, clock) = (Caller::default(), Stopwatch::start());
        Self {
            service,
            metrics,
            caller,
            clock,
            is_for_clients: false,
            is_own: neighbour::is_own,
            entrance: Entrance::default(),
        }
    }

    /// For a listener whose requests are traced.
    #[must_use]
    pub fn traced(mut self, entrance: Entrance) -> Self {
        self.entrance = entrance;
        self
    }

    /// For a listener beside one for administration and metrics.
    #[must_use]
    pub fn for_clients(mut self) -> Self {
        self.is_for_clients = true;
        self
    }
}

impl<R: Replicator> Clone for App<R> {
    fn clone(&self) -> Self {
        Self {
            service: Arc::clone(&self.service),
            metrics: Arc::clone(&self.metrics),
            caller: self.caller.clone(),
            clock: self.clock,
            is_for_clients: self.is_for_clients,
            is_own: self.is_own,
            entrance: self.entrance.clone(),
        }
    }
}

/// One path of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Index,
    Livez,
    Readyz,
    Metrics,
    OpenApi,
    Locks,
    Lock,
    Lease,
    LeaseRenew,
    LeaseHandOver,
    Sessions,
    Session,
    SessionRenew,
    Fence,
    Value,
    History,
    Grant,
    Cluster,
    ClusterLeader,
    Members,
    Member,
    MemberPromote,
    MemberReplace,
    Tokens,
    TokensInit,
    Token,
    Backup,
    Watch,
    Hold,
    Nowhere,
}

impl Route {
    /// Every path that exists.
    #[cfg(test)]
    pub(super) const ALL: &[Self] = &[
        Self::Index,
        Self::Livez,
        Self::Readyz,
        Self::Metrics,
        Self::OpenApi,
        Self::Locks,
        Self::Lock,
        Self::Lease,
        Self::LeaseRenew,
        Self::LeaseHandOver,
        Self::Sessions,
        Self::Session,
        Self::SessionRenew,
        Self::Fence,
        Self::Value,
        Self::History,
        Self::Grant,
        Self::Cluster,
        Self::ClusterLeader,
        Self::Members,
        Self::Member,
        Self::MemberPromote,
        Self::MemberReplace,
        Self::Tokens,
        Self::TokensInit,
        Self::Token,
        Self::Backup,
        Self::Watch,
        Self::Hold,
    ];

    /// For metrics: a bounded number of values, and never a name.
    pub(super) fn pattern(self) -> &'static str {
        match self {
            Self::Index => "/",
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::OpenApi => "/openapi.json",
            Self::Locks => "/v1/locks",
            Self::Lock => "/v1/locks/{name}",
            Self::Lease => "/v1/leases/{id}",
            Self::LeaseRenew => "/v1/leases/{id}/renew",
            Self::LeaseHandOver => "/v1/leases/{id}/hand-over",
            Self::Sessions => "/v1/sessions",
            Self::Session => "/v1/sessions/{id}",
            Self::SessionRenew => "/v1/sessions/{id}/renew",
            Self::Fence => "/v1/fence",
            Self::Value => "/v1/values/{name}",
            Self::History => "/v1/history/{name}",
            Self::Grant => "/v1/history",
            Self::Cluster => "/v1/cluster",
            Self::ClusterLeader => "/v1/cluster/leader",
            Self::Members => "/v1/members",
            Self::Member => "/v1/members/{id}",
            Self::MemberPromote => "/v1/members/{id}/promote",
            Self::MemberReplace => "/v1/members/{id}/replace",
            Self::Tokens => "/v1/tokens",
            Self::TokensInit => "/v1/tokens/init",
            Self::Token => "/v1/tokens/{id}",
            Self::Backup => "/v1/backup",
            Self::Watch => "/v1/watch",
            Self::Hold => "/v1/hold/{name}",
            Self::Nowhere => "unknown",
        }
    }

    pub(super) fn allow(self) -> &'static str {
        match self {
            Self::Lock => "GET, HEAD, POST, DELETE",
            Self::Value => "GET, HEAD, PUT, DELETE",
            Self::Lease | Self::Session => "GET, HEAD, DELETE",
            Self::Locks | Self::Members | Self::Tokens => "GET, HEAD, POST",
            Self::Member | Self::Token => "DELETE",
            Self::LeaseRenew
            | Self::LeaseHandOver
            | Self::SessionRenew
            | Self::Sessions
            | Self::Fence
            | Self::ClusterLeader
            | Self::MemberPromote
            | Self::MemberReplace
            | Self::TokensInit
            | Self::Backup => "POST",
            Self::Index
            | Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::OpenApi
            | Self::History
            | Self::Grant
            | Self::Cluster
            | Self::Watch
            | Self::Hold
            | Self::Nowhere => "GET, HEAD",
        }
    }
}

/// The paths of the native API.
pub fn router<R: Replicator>(app: App<R>) -> Router {
    let at = |route: Route| {
        any(move |State(app): State<App<R>>, request: Request| answer(app, route, request))
    };
    Router::new()
        .route("/", at(Route::Index))
        .route("/livez", at(Route::Livez))
        .route("/readyz", at(Route::Readyz))
        .route("/metrics", at(Route::Metrics))
        .route("/openapi.json", at(Route::OpenApi))
        .route("/v1/locks", at(Route::Locks))
        .route(locks::PREFIX, at(Route::Lock))
        .route("/v1/locks/{*name}", at(Route::Lock))
        .route("/v1/leases/{id}", at(Route::Lease))
        .route("/v1/leases/{id}/renew", at(Route::LeaseRenew))
        .route("/v1/leases/{id}/hand-over", at(Route::LeaseHandOver))
        .route("/v1/sessions", at(Route::Sessions))
        .route("/v1/sessions/{id}", at(Route::Session))
        .route("/v1/sessions/{id}/renew", at(Route::SessionRenew))
        .route("/v1/fence", at(Route::Fence))
        .route(records::VALUES, at(Route::Value))
        .route("/v1/values/{*name}", at(Route::Value))
        .route("/v1/history", at(Route::Grant))
        .route(records::HISTORY, at(Route::History))
        .route("/v1/history/{*name}", at(Route::History))
        .route("/v1/cluster", at(Route::Cluster))
        .route("/v1/cluster/leader", at(Route::ClusterLeader))
        .route("/v1/members", at(Route::Members))
        .route("/v1/members/{id}", at(Route::Member))
        .route("/v1/members/{id}/promote", at(Route::MemberPromote))
        .route("/v1/members/{id}/replace", at(Route::MemberReplace))
        .route("/v1/tokens", at(Route::Tokens))
        .route("/v1/tokens/init", at(Route::TokensInit))
        .route("/v1/tokens/{id}", at(Route::Token))
        .route("/v1/backup", at(Route::Backup))
        .route("/v1/watch", at(Route::Watch))
        .route("/v1/hold/{*name}", at(Route::Hold))
        .fallback(move |State(app): State<App<R>>, request: Request| {
            answer(app, Route::Nowhere, request)
        })
        .with_state(app)
}

async fn answer<R: Replicator>(mut app: App<R>, route: Route, request: Request) -> Response {
    let stopwatch = Stopwatch::start();
    let template = (route != Route::Nowhere).then(|| route.pattern());
    let span = app.entrance.request(request.method(), template, request.headers());
    let answered = span.around(let_in(&mut app, route, request)).await;
    let mut response = answered.unwrap_or_else(Into::into);
    name_leader(&app, response.headers_mut());
    let status = response.status().as_u16();
    span.answered(status);
    app.service.observer().answered(route.pattern(), status, stopwatch.time());
    response
}

/// Answers a request of somebody who may ask it.
async fn let_in<R: Replicator>(
    app: &mut App<R>,
    route: Route,
    request: Request,
) -> Result<Response, Refusal> {
    if app.is_for_clients && route.is_administration() {
        return Err(Refusal::other_listener());
    }
    door::enter(app, route, &request)?;
    dispatch(app, route, request).await
}

fn name_leader<R: Replicator>(app: &App<R>, headers: &mut HeaderMap) {
    if let Some(id) = app.service.leadership().leader_id {
        headers.insert(HeaderName::from_static("oarlock-leader"), HeaderValue::from(id));
    }
}

async fn dispatch<R: Replicator>(
    app: &App<R>,
    route: Route,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    // hyper sends the head of the same answer.
    let method = if parts.method == Method::HEAD { Method::GET } else { parts.method.clone() };
    let refused = || Err(Refusal::method_not_allowed(route.allow()));
    match (route, method) {
        (Route::Nowhere, _) => Err(Refusal::not_found()),
        (Route::Index, Method::GET) => Ok(node::index()),
        (Route::Livez, Method::GET) => Ok(node::live()),
        (Route::Readyz, Method::GET) => node::ready(app),
        (Route::Metrics, Method::GET) => Ok(node::metrics(app)),
        (Route::OpenApi, Method::GET) => Ok(node::openapi()),
        (Route::Cluster, Method::GET) => node::cluster(app, &parts),
        (Route::ClusterLeader, Method::POST) => node::transfer_leader(app, &parts, body).await,
        (Route::Members | Route::Member | Route::MemberPromote | Route::MemberReplace, method) => {
            members::answer(app, (route, method), &parts, body).await
        }
        (Route::Tokens | Route::TokensInit | Route::Token, method) => {
            tokens::answer(app, (route, method), &parts, body).await
        }
        (Route::Backup, Method::POST) => backup::take(app, &parts, body).await,
        (Route::Watch, Method::GET) => watch::open(app, &parts),
        (Route::Hold, Method::GET) => hold::open(app, &parts),
        (Route::Locks, Method::GET) => locks::list(app, &parts).await,
        (Route::Locks, Method::POST) => many::acquire(app, &parts, body).await,
        (Route::Lock, Method::GET) => locks::inspect(app, &parts).await,
        (Route::Lock, Method::POST) => locks::acquire(app, &parts, body).await,
        (Route::Lock, Method::DELETE) => locks::force_release(app, &parts, body).await,
        (Route::Lease, Method::GET) => leases::look(app, &parts).await,
        (Route::Lease, Method::DELETE) => leases::release(app, &parts, body).await,
        (Route::LeaseRenew, Method::POST) => leases::renew(app, &parts, body).await,
        (Route::LeaseHandOver, Method::POST) => many::hand_over(app, &parts, body).await,
        (Route::Sessions, Method::POST) => sessions::open(app, &parts, body).await,
        (Route::Session, Method::GET) => sessions::look(app, &parts).await,
        (Route::Session, Method::DELETE) => sessions::close(app, &parts, body).await,
        (Route::SessionRenew, Method::POST) => sessions::renew(app, &parts, body).await,
        (Route::Fence, Method::POST) => locks::fence(app, &parts, body).await,
        (Route::Value | Route::History | Route::Grant, method) => {
            records::answer(app, (route, method), &parts, body).await
        }
        (
            Route::Index
            | Route::Livez
            | Route::Readyz
            | Route::Metrics
            | Route::OpenApi
            | Route::Locks
            | Route::Lock
            | Route::Lease
            | Route::LeaseRenew
            | Route::LeaseHandOver
            | Route::Sessions
            | Route::Session
            | Route::SessionRenew
            | Route::Fence
            | Route::Cluster
            | Route::ClusterLeader
            | Route::Backup
            | Route::Watch
            | Route::Hold,
            _,
        ) => refused(),
    }
}

impl<R: Replicator> App<R> {
    /// Asks the leader, and keeps the deadline that fits the call.
    pub(super) async fn ask(&self, call: Call) -> Result<Reply, Refusal> {
        let deadline = deadline_of(&call);
        Ok(self.service.call_as(&self.caller, call, deadline).await?)
    }
}

/// A reply of another kind than its call asks for: a node of another version, or a bug of ours.
pub(super) fn unexpected() -> Refusal {
    let why = "the answer of the leader does not fit the request".to_owned();
    ServiceError::Unknown(why).into()
}

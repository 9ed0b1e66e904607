//! The two listeners of a node, and what encrypts them: certificates are read at the start, and again
//! when their files change or at SIGHUP, for the handshakes that follow.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::{DRAIN_DEADLINE, HAND_OVER_DEADLINE, NodeError, hand_over};
use crate::api::http;
use crate::config::Config;
use crate::observe::metrics::Metrics;
use crate::raft::replicator::RaftReplicator;
use crate::raft::transport::inbound::{self, Handlers};
use crate::raft::transport::peers::Local;
use crate::raft::transport::stream::{Connector, Tcp};
use crate::raft::transport::tls::{Secured, SecuredListener};
use crate::service::{NodeState, Service};
use crate::shutdown::Stop;
use crate::tls::material::{Callers, Files, Material, Unusable};
use crate::tls::validity::now_s;
use crate::traces::Traces;

/// How often certificate files are looked at: a new one is used within this time.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Connections of those who run the cluster; apart from those of clients, which cannot use them up.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// The certificates of both listeners, as far as they have any.
pub(super) struct Secure {
    pub(super) api: Option<Arc<Material>>,
    peers: Option<Secured>,
}

impl Secure {
    /// Reads what is configured.
    pub(super) fn read(config: &Config) -> Result<Self, NodeError> {
        let unusable = |error: Unusable| NodeError(format!("use the certificates: {error}"));
        let api = (!config.tls_cert.is_empty()).then(|| {
            let files = Files::of(
                &config.tls_cert,
                &config.tls_key,
                &config.tls_client_ca,
                &config.tls_revoked,
            );
            Material::read(files, Callers::Known, b"http/1.1")
        });
        let peers = (!config.peer_tls_cert.is_empty()).then(|| {
            let files = Files::of(
                &config.peer_tls_cert,
                &config.peer_tls_key,
                &config.peer_tls_ca,
                &config.peer_tls_revoked,
            );
            Material::read(files, Callers::Certified, b"oarlock/1")
        });
        let cluster_name = config.cluster_name.as_str().into();
        let peers = peers.transpose().map_err(unusable)?;
        let peers = peers.map(|material| Secured { material, cluster_name });
        let secure = Self { api: api.transpose().map_err(unusable)?, peers };
        for (setting, address, encrypted) in [
            ("api_address", &config.api_address, secure.api.is_some()),
            ("admin_address", &config.admin_address, secure.api.is_some()),
            ("peer_address", &config.peer_address, secure.peers.is_some()),
        ] {
            if !encrypted && !address.is_empty() && !Config::is_loopback(address) {
                tracing::warn!(
                    address,
                    "{setting} is open to other machines without TLS (insecure_bind): whoever is on \
                     that network can read all traffic, with every token in it, and change it"
                );
            }
        }
        if config.is_open_to_anybody() {
            tracing::warn!(
                address = config.api_address,
                "api_address is open to other machines and auth_required is not set: until a first \
                 token is made, whoever reaches it may take, force and release every lock, and change \
                 the members; set auth_required = true on all nodes, then `oarlock tokens init`"
            );
        }
        if config.auth_required
            && secure.peers.is_none()
            && !Config::is_loopback(&config.peer_address)
        {
            tracing::warn!(
                address = config.peer_address,
                "TOKENS PROTECT NOTHING from whoever reaches peer_address (insecure_peers): anybody \
                 there is taken for a node of the cluster"
            );
        }
        Ok(secure)
    }

    /// How peers are reached.
    pub(super) fn connector(&self) -> Arc<dyn Connector> {
        match &self.peers {
            Some(secured) => Arc::new(secured.clone()),
            None => Arc::new(Tcp),
        }
    }

    /// Listens to peers, and keeps the certificates up.
    pub(super) fn listen_to_peers(
        &self,
        tasks: &mut JoinSet<()>,
        listener: TcpListener,
        (local, handlers): (&Arc<Local>, &Arc<Handlers>),
        metrics: &Arc<Metrics>,
    ) {
        let (local, handlers) = (Arc::clone(local), Arc::clone(handlers));
        if let Some(secured) = self.peers.clone() {
            let listener = SecuredListener::new(listener, secured);
            tasks.spawn(inbound::listen(listener, local, handlers));
        } else {
            tasks.spawn(inbound::listen(listener, local, handlers));
        }
        let peers = self.peers.iter().map(|secured| ("peers", Arc::clone(&secured.material)));
        let api = self.api.iter().map(|material| ("api", Arc::clone(material)));
        let all: Vec<_> = api.chain(peers).map(Watched::new).collect();
        // Also without any: the signal would end a node that does not listen to it.
        tasks.spawn(refresh(all, Arc::clone(metrics)));
    }
}

/// The certificate of a listener, and what was said about it.
struct Watched {
    of: &'static str,
    material: Arc<Material>,
    /// Why the newest files cannot be used.
    complaint: String,
    /// For how many days it was good when that was last told.
    told_days: Option<i64>,
}

impl Watched {
    fn new((of, material): (&'static str, Arc<Material>)) -> Self {
        Self { of, material, complaint: String::new(), told_days: None }
    }

    async fn look(&mut self) {
        let reading = Arc::clone(&self.material);
        let read = tokio::task::spawn_blocking(move || reading.refresh()).await;
        let certificate = self.material.path().display();
        match read {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => tracing::info!(%certificate, "new certificates are in use"),
            Ok(Err(error)) if self.complaint != error.0 => {
                tracing::error!(
                    %certificate, %error,
                    "changed certificates cannot be used; those read before stay in use"
                );
                self.complaint.clone_from(&error.0);
                return;
            }
            Ok(Err(_)) => return,
            Err(error) => tracing::error!(%error, "reading certificates panicked"),
        }
        self.complaint.clear();
    }

    /// Warns once a day, and once more when it is over.
    fn judge(&mut self, now_s: i64, metrics: &Metrics) {
        let validity = self.material.validity();
        let left_s = validity.left_s(now_s);
        metrics.certificate(self.of, left_s);
        let days = left_s.div_euclid(86_400);
        let is_news = self.told_days.is_none_or(|told| days != told);
        let certificate = self.material.path().display();
        if left_s <= 0 && is_news {
            tracing::error!(
                %certificate, of = self.of,
                "this certificate is over: whoever checks it refuses this node; renew it now \
                 (`oarlock pki node`), it is used within seconds"
            );
        } else if validity.from_s > now_s && is_news {
            tracing::error!(
                %certificate, of = self.of,
                "this certificate is not valid yet: set the clock of this machine, or renew it"
            );
        } else if validity.is_nearly_over(now_s) && is_news {
            tracing::warn!(
                %certificate, of = self.of, days,
                "this certificate runs out soon: renew it (`oarlock pki node`)"
            );
        } else {
            return;
        }
        self.told_days = Some(days);
    }
}

/// Reads the certificates again, now and then and when it is told to; for ever.
async fn refresh(mut all: Vec<Watched>, metrics: Arc<Metrics>) {
    let mut told = signal(SignalKind::hangup()).ok();
    loop {
        for watched in &mut all {
            watched.look().await;
            watched.judge(now_s(), &metrics);
        }
        let hangup = async {
            match &mut told {
                Some(told) => told.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = hangup => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The sockets of a node.
pub(super) struct Listeners {
    pub(super) api: TcpListener,
    /// Of its own for administration and metrics, if that is configured.
    pub(super) admin: Option<TcpListener>,
    pub(super) peers: TcpListener,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> Result<Self, NodeError> {
        let admin = match config.admin_address.as_str() {
            "" => None,
            address => Some(bind(address, "admin_address").await?),
        };
        Ok(Self {
            api: bind(&config.api_address, "api_address").await?,
            admin,
            peers: bind(&config.peer_address, "peer_address").await?,
        })
    }
}

async fn bind(address: &str, setting: &str) -> Result<TcpListener, NodeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        NodeError(format!(
            "listen on {address} ({setting}): {error}; stop whatever uses it or choose another address"
        ))
    })
}

/// Serves clients until the stop; then hands leadership over while their calls are answered.
pub(super) async fn serve_http(
    (listener, admin): (TcpListener, Option<TcpListener>),
    tls: Option<Arc<Material>>,
    config: &Config,
    (service, metrics, traces): (&Arc<Service<RaftReplicator>>, &Arc<Metrics>, &Traces),
    replicator: &Arc<RaftReplicator>,
    stop: &Stop,
) {
    let page = Arc::clone(metrics);
    let page = Arc::new(move |state: &NodeState| page.render(state));
    let entrance =
        |listener: &TcpListener| traces.entrance(tls.is_some(), listener.local_addr().ok());
    let app = http::App::new(Arc::clone(service), page).traced(entrance(&listener));
    let limits =
        http::Limits { connections_max: config.connections_max, stop_grace: DRAIN_DEADLINE };
    let stopped = async {
        stop.wait().await;
        // Hand over first: a call that arrives meanwhile is still answered, by the next leader.
        let handing_over = tokio::time::timeout(HAND_OVER_DEADLINE, hand_over(replicator));
        if handing_over.await.is_err() {
            tracing::warn!("nobody took leadership over in time; the others will elect");
        }
        service.drain();
    };
    let Some(admin) = admin else {
        return http::serve_over(listener, http::router(app), limits, tls, stopped).await;
    };
    let few = http::Limits { connections_max: ADMIN_CONNECTIONS_MAX, ..limits };
    let for_clients = http::router(app.clone().for_clients());
    let for_admins = http::router(app.traced(entrance(&admin)));
    tokio::join!(
        http::serve_over(listener, for_clients, limits, tls.clone(), stopped),
        http::serve_over(admin, for_admins, few, tls.clone(), stop.wait()),
    );
}

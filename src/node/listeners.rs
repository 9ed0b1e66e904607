//! The two listeners of a node, and what encrypts them: certificates are read at the start, and again
//! when their files change or at SIGHUP, for the handshakes that follow.

use std::path::PathBuf;
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

/// How often certificate files are looked at: a new one is used within this time.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The certificates of both listeners, as far as they have any.
pub(super) struct Secure {
    pub(super) api: Option<Arc<Material>>,
    peers: Option<Secured>,
}

fn files(certificate: &str, key: &str, authority: &str) -> Files {
    let authority = (!authority.is_empty()).then(|| PathBuf::from(authority));
    Files { certificate: certificate.into(), key: key.into(), authority }
}

impl Secure {
    /// Reads what is configured.
    pub(super) fn read(config: &Config) -> Result<Self, NodeError> {
        let unusable = |error: Unusable| NodeError(format!("use the certificates: {error}"));
        let api = (!config.tls_cert.is_empty()).then(|| {
            let files = files(&config.tls_cert, &config.tls_key, &config.tls_client_ca);
            Material::read(files, Callers::Known, b"http/1.1")
        });
        let peers = (!config.peer_tls_cert.is_empty()).then(|| {
            let files = files(&config.peer_tls_cert, &config.peer_tls_key, &config.peer_tls_ca);
            Material::read(files, Callers::Certified, b"oarlock/1")
        });
        let cluster_name = config.cluster_name.as_str().into();
        let peers = peers.transpose().map_err(unusable)?;
        let peers = peers.map(|material| Secured { material, cluster_name });
        let secure = Self { api: api.transpose().map_err(unusable)?, peers };
        for (setting, address, encrypted) in [
            ("api_address", &config.api_address, secure.api.is_some()),
            ("peer_address", &config.peer_address, secure.peers.is_some()),
        ] {
            if !encrypted && !Config::is_loopback(address) {
                tracing::warn!(
                    address,
                    "{setting} is open to other machines without TLS (insecure_bind): whoever is on \
                     that network can read all traffic, with every token in it, and change it"
                );
            }
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
    ) {
        let (local, handlers) = (Arc::clone(local), Arc::clone(handlers));
        if let Some(secured) = self.peers.clone() {
            let listener = SecuredListener::new(listener, secured);
            tasks.spawn(inbound::listen(listener, local, handlers));
        } else {
            tasks.spawn(inbound::listen(listener, local, handlers));
        }
        let peers = self.peers.iter().map(|secured| &secured.material);
        let all: Vec<_> = self.api.iter().chain(peers).cloned().collect();
        // Also without any: the signal would end a node that does not listen to it.
        tasks.spawn(refresh(all));
    }
}

/// Reads the certificates again, now and then and when it is told to; for ever.
async fn refresh(all: Vec<Arc<Material>>) {
    let mut told = signal(SignalKind::hangup()).ok();
    let mut complaints = vec![String::new(); all.len()];
    loop {
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
        for (material, complaint) in all.iter().zip(&mut complaints) {
            let reading = Arc::clone(material);
            let read = tokio::task::spawn_blocking(move || reading.refresh()).await;
            let certificate = material.path().display();
            match read {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => tracing::info!(%certificate, "new certificates are in use"),
                Ok(Err(error)) if *complaint != error.0 => {
                    tracing::error!(
                        %certificate, %error,
                        "changed certificates cannot be used; those read before stay in use"
                    );
                    complaint.clone_from(&error.0);
                    continue;
                }
                Ok(Err(_)) => continue,
                Err(error) => tracing::error!(%error, "reading certificates panicked"),
            }
            complaint.clear();
        }
    }
}

pub(super) async fn bind(address: &str, setting: &str) -> Result<TcpListener, NodeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        NodeError(format!(
            "listen on {address} ({setting}): {error}; stop whatever uses it or choose another address"
        ))
    })
}

/// Serves clients until the stop; then hands leadership over while their calls are answered.
pub(super) async fn serve_http(
    (listener, tls): (TcpListener, Option<Arc<Material>>),
    config: &Config,
    service: &Arc<Service<RaftReplicator>>,
    metrics: &Arc<Metrics>,
    replicator: &Arc<RaftReplicator>,
    stop: &Stop,
) {
    let page = Arc::clone(metrics);
    let page = Arc::new(move |state: &NodeState| page.render(state));
    let app = http::App::new(Arc::clone(service), page);
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
    http::serve_over(listener, http::router(app), limits, tls, stopped).await;
}

//! The accept loop: connections, their caps and deadlines, and an orderly stop.
//!
//! Deadlines of reading and writing are in `patience`, of bodies in `body`, of calls in the
//! service. A connection whose client goes away drops the call that it carried.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::Response;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use super::door::{self, Certificate};
use super::patience::{Patient, Turns};
use super::sse;
use crate::tls::explain::explain;
use crate::tls::material::Material;
use crate::tls::name::client_in;
use crate::tls::revoked::Over;

/// Bytes that the head of one request may have. The longest name, encoded, takes 1.5 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Pause after a failed accept, which mostly means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a peer may leave data unacknowledged, in milliseconds; a network hiccup is shorter.
const DEAD_PEER_MS: u32 = 10_000;
/// A TLS handshake takes a few round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// What a client is being answered when its certificate runs out may be said to its end.
const CERTIFICATE_GRACE: Duration = Duration::from_secs(1);
/// Told to a connection above the cap.
const FULL: &str = r#"{"type":"overloaded","title":"This node is at a bound","status":503,"detail":"too many connections; ask another node","outcome":"not_done"}"#;

/// Bounds of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections open at once; each costs a task, a file descriptor and about 20 KiB.
    pub connections_max: usize,
    /// How long requests may run on after the stop.
    pub stop_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_max: 20_000, stop_grace: Duration::from_secs(5) }
    }
}

/// Where a request came from; set on the calls that are audited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Where it arrived; set on the call that is for the machine of the node alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here(pub(super) SocketAddr);

/// The same without TLS.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    serve_over(listener, router, limits, None, stop).await;
}

/// Serves until `stop` is ready, then lets requests end within the grace.
pub async fn serve_over(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    tls: Option<Arc<Material>>,
    stop: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let (stopping, _) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let (router, stopping) = (router.clone(), stopping.subscribe());
                    let here = stream.local_addr().ok();
                    let of = Of { peer, router, certificate: None, over: None, here };
                    connections.spawn(connection(stream, of, tls.clone(), stopping, slot));
                }
                Err(_full) => refuse(stream),
            },
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.stop_grace, all_ended).await.is_err() {
        tracing::warn!(open = connections.len(), "close connections that outlived the grace");
    }
    connections.shutdown().await;
}

/// A courtesy that must not cost a task: what the socket does not take at once is lost.
fn refuse(mut stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{FULL}",
        FULL.len()
    );
    let mut send = std::pin::pin!(stream.write(answer.as_bytes()));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let _whatever = send.as_mut().poll(&mut context);
}

/// The end of a request, whenever that is.
struct Turn(Turns);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.next();
    }
}

/// A stream is served until its body ends: until then the connection is not idle.
fn kept(answer: Response, turn: Turn) -> Response {
    answer.map(|body| {
        Body::from_stream(body.into_data_stream().inspect(move |_| {
            let _kept_until_the_end = &turn;
        }))
    })
}

/// While a call waits nothing is sent, so a client whose machine is gone would not be noticed: the
/// kernel asks after ten silent seconds, and gives up within another fifteen.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(stream, 3)
}

/// What a connection knows of its requests.
struct Of {
    peer: SocketAddr,
    router: Router,
    certificate: Option<Certificate>,
    /// The connection ends with what its client showed.
    over: Option<BoxFuture<'static, Over>>,
    /// This end of the connection.
    here: Option<SocketAddr>,
}

async fn connection(
    stream: TcpStream,
    of: Of,
    tls: Option<Arc<Material>>,
    stopping: watch::Receiver<bool>,
    _slot: OwnedSemaphorePermit,
) {
    let peer = of.peer;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "set TCP_NODELAY");
    }
    // Unacknowledged data breaks the connection after this time: a dead peer would otherwise keep a
    // hold alive until the kernel's send buffer is full.
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, DEAD_PEER_MS) {
        tracing::debug!(%peer, %error, "set TCP_USER_TIMEOUT");
    }
    if let Err(error) = keep_alive(&stream) {
        tracing::debug!(%peer, %error, "probe a silent connection");
    }
    let Some(tls) = tls else { return requests(stream, of, stopping).await };
    let changes = tls.changes();
    let shaking = TlsAcceptor::from(tls.server()).accept(stream);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, shaking).await {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates();
            let name = chain.and_then(|chain| client_in(chain.first()?));
            let certificate = name.map(|name| Certificate(name.into()));
            let shown = chain.map(|chain| changes.over(chain.to_vec()));
            let Some(over) = shown.map_or(Some(None), |over| over.map(Some)) else {
                tracing::warn!(%peer, "a client's certificate does not say how long it is good");
                return;
            };
            requests(stream, Of { certificate, over, ..of }, stopping).await;
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%peer, why = explain(&error), "a client was refused at the TLS handshake");
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake broke off"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
}

/// Answers the requests of one connection.
async fn requests<S>(stream: S, of: Of, mut stopping: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Of { peer, router, certificate, over, here } = of;
    let turns = Turns::default();
    let io = TokioIo::new(Patient::new(stream, turns.clone()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        turns.next();
        // Where an audited call comes from, or one that is for the machine of the node alone.
        if request.method() == Method::DELETE || request.uri().path() == door::INIT {
            request.extensions_mut().insert(Peer(peer));
        }
        if let Some(here) = here.filter(|_| request.uri().path() == door::INIT) {
            request.extensions_mut().insert(Here(here));
        }
        if let Some(certificate) = &certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        let answer = router.clone().call(request.map(Body::new));
        let turns = turns.clone();
        async move {
            let answer = answer.await;
            let turn = Turn(turns);
            answer.map(|answer| if sse::is_stream(&answer) { kept(answer, turn) } else { answer })
        }
    });
    let connection = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .header_read_timeout(None)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let told_to_stop = async { stopping.wait_for(|stopping| *stopping).await.is_ok() };
    let over = async {
        match over {
            Some(over) => over.await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        why = over => {
            let why = match why {
                Over::RanOut => "ran out",
                Over::Revoked => "was revoked",
            };
            tracing::info!(%peer, "a client's certificate {why}: its connection ends");
            connection.as_mut().graceful_shutdown();
            // What streams or waits does not end by itself.
            let last = tokio::time::timeout(CERTIFICATE_GRACE, connection.as_mut()).await;
            last.unwrap_or(Ok(()))
        }
        _ = told_to_stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "serve a connection");
    }
}

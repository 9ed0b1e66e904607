//! Peers over mutual TLS: both ends show a certificate of the configured authority that names one
//! node of one cluster. Whoever has none is refused before anything that it says is read.
//!
//! ```text
//!  connect: the certificate must be that of the node that is looked for
//!  accept:  it must name a node of this cluster; `inbound` compares it with the hello
//! ```
//! A connection ends with the certificate of its other end; who has a new one by then connects anew.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::raft::transport::stream::{Acceptor, Connector, Stream};
use crate::service::replicator::NodeId;
use crate::tls::explain::explain;
use crate::tls::material::Material;
use crate::tls::name;
use crate::tls::revoked::{Changes, Over};

/// A handshake takes a few round trips; who connects gives up by then.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(2);
/// Handshakes going on at once; beyond it whoever comes waits in the backlog. Many, because strangers
/// that say nothing hold one each.
const HANDSHAKES_MAX: usize = 1_024;
/// Hosts whose last refusal is remembered, so that each reason is logged once.
const HOSTS_MAX: usize = 256;

/// What both directions need.
#[derive(Clone)]
pub struct Secured {
    pub material: Arc<Material>,
    /// Part of the names in the certificates.
    pub cluster_name: Arc<str>,
}

/// The connection is good for as long as the certificate of the other end.
fn halves<S>(
    stream: S,
    chain: Option<Vec<CertificateDer<'static>>>,
    changes: Changes,
    certified: NodeId,
) -> io::Result<Stream>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let over = chain
        .and_then(|chain| changes.over(chain))
        .ok_or_else(|| refused("its certificate does not say how long it is good".to_owned()))?;
    let (reader, writer) = tokio::io::split(stream);
    let reader = Bounded { reader, over, ended: None };
    Ok(Stream { reader: Box::new(reader), writer: Box::new(writer), certified: Some(certified) })
}

/// A reader that fails from some moment on, also while nothing comes; with it the connection ends.
struct Bounded<R> {
    reader: R,
    over: BoxFuture<'static, Over>,
    ended: Option<Over>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Bounded<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended.is_none()
            && let Poll::Ready(over) = self.over.as_mut().poll(context)
        {
            self.ended = Some(over);
        }
        if let Some(over) = self.ended {
            let why = match over {
                Over::RanOut => "the certificate of the other end ran out while it was connected",
                Over::Revoked => "the certificate of the other end was revoked",
            };
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Connector for Secured {
    fn connect(&self, to: NodeId, address: String) -> BoxFuture<'static, io::Result<Stream>> {
        let Self { material, cluster_name } = self.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = name::of_node(to, &cluster_name);
            let server = ServerName::try_from(name).map_err(io::Error::other)?;
            let changes = material.changes();
            let client = material.client().ok_or(io::ErrorKind::NotFound)?;
            let shaken = TlsConnector::from(client).connect(server, stream).await;
            let why = |error: io::Error| match error.kind() {
                io::ErrorKind::InvalidData => refused(explain(&error)),
                _ => error,
            };
            let stream = shaken.map_err(why)?;
            let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
            halves(stream, chain, changes, to)
        }
        .boxed()
    }
}

/// A peer listener that speaks TLS. Handshakes go on beside each other, so that a slow one holds up
/// nobody.
pub struct SecuredListener {
    listener: TcpListener,
    secured: Secured,
    shaking: JoinSet<(String, io::Result<Stream>)>,
    /// The last reason of each host.
    refused: BTreeMap<String, String>,
}

impl SecuredListener {
    /// Takes connections of that listener.
    pub fn new(listener: TcpListener, secured: Secured) -> Self {
        Self { listener, secured, shaking: JoinSet::new(), refused: BTreeMap::new() }
    }

    async fn next(&mut self) -> io::Result<(Stream, String)> {
        loop {
            tokio::select! {
                Some(shaken) = self.shaking.join_next(), if !self.shaking.is_empty() => {
                    match shaken {
                        Ok((from, Ok(stream))) => return Ok((stream, from)),
                        Ok((from, Err(error))) => self.note(&from, &error),
                        Err(error) => tracing::error!(%error, "a TLS handshake panicked"),
                    }
                }
                accepted = self.listener.accept(), if self.shaking.len() < HANDSHAKES_MAX => {
                    let (stream, from) = accepted?;
                    let secured = self.secured.clone();
                    self.shaking.spawn(async move {
                        let shaken = timeout(HANDSHAKE_DEADLINE, shake(stream, &secured)).await;
                        (from.to_string(), shaken.unwrap_or_else(|late| Err(late.into())))
                    });
                }
            }
        }
    }

    fn note(&mut self, from: &str, error: &io::Error) {
        let host = from.rsplit_once(':').map_or(from, |(host, _)| host);
        let why = explain(error);
        if self.refused.get(host) == Some(&why) {
            return;
        }
        tracing::warn!(from, why, "a peer was refused at the TLS handshake");
        if self.refused.len() >= HOSTS_MAX {
            self.refused.clear();
        }
        self.refused.insert(host.to_owned(), why);
    }
}

async fn shake(stream: TcpStream, secured: &Secured) -> io::Result<Stream> {
    stream.set_nodelay(true)?;
    let changes = secured.material.changes();
    let stream = TlsAcceptor::from(secured.material.server()).accept(stream).await?;
    let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
    let certificate = chain.as_ref().and_then(|chain| chain.first());
    let node = certificate.and_then(|it| name::node_in(it, &secured.cluster_name));
    let node = node.ok_or_else(|| {
        refused(format!(
            "its certificate names no node of this cluster (node-<id>.{}.oarlock): is it of another \
             cluster, or of a client? `oarlock pki node` makes the right one",
            secured.cluster_name
        ))
    })?;
    halves(stream, chain, changes, node)
}

impl Acceptor for SecuredListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        self.next().boxed()
    }
}

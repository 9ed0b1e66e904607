//! Where byte streams come from: TCP, or whatever takes its place (TLS, a simulated network).

use std::io;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::service::replicator::NodeId;

/// Both directions of a connection.
pub struct Stream {
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// The node that its certificate names, where certificates are asked for.
    pub certified: Option<NodeId>,
}

/// Makes connections to peers. Whoever calls sets the deadline, by dropping the future.
pub trait Connector: Send + Sync + 'static {
    /// Connects to that node at a `host:port`. An error of the kind `InvalidData` says that who
    /// answered is not that node.
    fn connect(&self, to: NodeId, address: String) -> BoxFuture<'static, io::Result<Stream>>;
}

/// Takes connections of peers.
pub trait Acceptor: Send + 'static {
    /// The next connection, and where it comes from, for the log.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>>;
}

/// Plain TCP.
pub struct Tcp;

fn halves(stream: TcpStream) -> io::Result<Stream> {
    // Frames are gathered before they are written; waiting for more would only delay them.
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    Ok(Stream { reader: Box::new(reader), writer: Box::new(writer), certified: None })
}

impl Connector for Tcp {
    fn connect(&self, _to: NodeId, address: String) -> BoxFuture<'static, io::Result<Stream>> {
        async move { halves(TcpStream::connect(address).await?) }.boxed()
    }
}

impl Acceptor for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        async move {
            let (stream, from) = TcpListener::accept(self).await?;
            Ok((halves(stream)?, from.to_string()))
        }
        .boxed()
    }
}

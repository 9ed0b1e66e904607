//! A connection to a node before anything is said on it: TCP, with TLS where the identity has it. The
//! one place that decides whether a token may go there.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::error::ClientError;
use crate::identity::Identity;
use crate::tls::shake;

/// Making a connection, and the handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// What bytes go over.
#[derive(Debug)]
pub enum Socket {
    /// In clear.
    Plain(TcpStream),
    /// Over TLS.
    Secured(Box<TlsStream<TcpStream>>),
}

/// Why a token is not sent, and what to do.
fn leaks(address: &str) -> ClientError {
    ClientError::Insecure(format!(
        "{address} is another machine, and nothing encrypts the way there: the access token was not \
         sent. Give the node a certificate and name its authority (--ca, `Identity::with_tls`), or \
         say that the network is private (--insecure, `Identity::insecure`)"
    ))
}

/// Whether an address can be seen to be of another machine, without asking for it.
fn is_elsewhere(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok_and(|ip| !ip.to_canonical().is_loopback())
}

impl Identity {
    /// Connects to the node at that `host:port`. Refuses, for good, where the token of this identity
    /// would go in clear to another machine.
    pub async fn connect(&self, address: &str) -> Result<Socket, ClientError> {
        if self.would_leak() && is_elsewhere(address) {
            return Err(leaks(address));
        }
        let failed =
            |error: &dyn std::fmt::Display| ClientError::Unreachable(format!("{address}: {error}"));
        let connecting = timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
        let stream = connecting.map_err(|_| failed(&"no connection in time"))?;
        let stream = stream.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        // A name may lead anywhere.
        let there = stream.peer_addr().map_err(|error| failed(&error))?;
        if self.would_leak() && !there.ip().to_canonical().is_loopback() {
            return Err(leaks(address));
        }
        let Some(tls) = self.tls() else { return Ok(Socket::Plain(stream)) };
        let shaking = timeout(CONNECT_DEADLINE, shake(tls, address, stream)).await;
        let stream = shaking.map_err(|_| failed(&"no TLS handshake in time"))?;
        Ok(Socket::Secured(Box::new(stream.map_err(|error| failed(&error))?)))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secured(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secured(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Secured(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secured(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}

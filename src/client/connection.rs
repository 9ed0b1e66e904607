//! One HTTP/1.1 connection that is kept alive.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use oarlock_core::planted::{Bug, planted};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::ClientError;
use crate::identity::Identity;
use crate::socket::Socket;

/// Largest answer that is read; a page of a listing is far below it.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why a request brought no answer.
pub(crate) enum Lost {
    /// Nothing left this process.
    NotSent(String),
    /// It was sent, at least in part.
    Sent(String),
    /// It must not be sent there, now or later.
    Leaks(String),
}

/// A connection to one node.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    address: String,
    authorization: Option<HeaderValue>,
}

async fn speak<S>(stream: S) -> hyper::Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with the sender, or when the node closes it.
    tokio::spawn(connection);
    Ok(sender)
}

impl Connection {
    pub(crate) async fn open(address: &str, identity: &Identity) -> Result<Self, Lost> {
        let socket = identity.connect(address).await.map_err(|error| match error {
            ClientError::Insecure(why) => Lost::Leaks(why),
            ClientError::Unreachable(why)
            | ClientError::Unknown(why)
            | ClientError::Protocol(why) => Lost::NotSent(why),
            ClientError::Refused(problem) => Lost::NotSent(problem.detail),
        })?;
        let not_sent = |error: &dyn std::fmt::Display| Lost::NotSent(format!("{address}: {error}"));
        let sender = match socket {
            Socket::Plain(stream) => speak(stream).await,
            Socket::Secured(stream) => speak(*stream).await,
        };
        let sender = sender.map_err(|error| not_sent(&error))?;
        Ok(Self {
            sender,
            address: address.to_owned(),
            authorization: identity.authorization().cloned(),
        })
    }

    fn head(&self, request: Builder) -> Builder {
        let request = request.header(HOST, &self.address);
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed() || planted(Bug::LostConnectionIsKept)
    }

    pub(crate) async fn ask(
        &mut self,
        method: &Method,
        path: &str,
        body: &Bytes,
    ) -> Result<(StatusCode, Bytes), Lost> {
        let request = self
            .head(Request::builder().method(method).uri(path))
            .header("content-type", "application/json")
            .body(Full::new(body.clone()))
            .map_err(|error| Lost::NotSent(error.to_string()))?;
        self.sender.ready().await.map_err(|error| Lost::NotSent(error.to_string()))?;
        let lost = |error: &dyn std::fmt::Display| Lost::Sent(format!("{}: {error}", self.address));
        let response = self.sender.send_request(request).await.map_err(|e| lost(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|e| lost(&e))?.to_bytes()))
    }

    /// Asks for something whose body is read as it comes, for as long as it goes on.
    pub(crate) async fn stream(&mut self, request: Builder) -> Result<Response<Incoming>, Lost> {
        let request = self.head(request);
        let not_sent = |error: &dyn std::fmt::Display| Lost::NotSent(error.to_string());
        let request = request.body(Full::default()).map_err(|e| not_sent(&e))?;
        self.sender.ready().await.map_err(|e| not_sent(&e))?;
        let lost = |error: &dyn std::fmt::Display| Lost::Sent(format!("{}: {error}", self.address));
        self.sender.send_request(request).await.map_err(|e| lost(&e))
    }
}

//! The way to the collector: one plain HTTP request for each batch, on the runtime of the node, asked
//! for by the thread of the SDK. That thread alone waits for it.
//!
//! A collector that is away or refuses costs what is in the batch, and one line in the log until it
//! takes one again. The headers of a request may hold a key, so no line shows them.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

/// What is read of an answer; it says how many spans were refused, and why, in a few words.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[derive(Debug)]
pub(super) struct Collector {
    /// `host:port`.
    authority: String,
    deadline: Duration,
    runtime: Handle,
    is_away: AtomicBool,
}

impl Collector {
    /// Must be made inside the runtime that is to send.
    pub(super) fn new(authority: String, deadline: Duration) -> Self {
        Self { authority, deadline, runtime: Handle::current(), is_away: AtomicBool::new(false) }
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (authority, deadline) = (self.authority.clone(), self.deadline);
        // Sockets and timers need the runtime, and this is another thread.
        let sending = async move { tokio::time::timeout(deadline, post(authority, request)).await };
        match self.runtime.spawn(sending).await? {
            Ok(answer) => answer,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Says once that batches are lost, and once that they are no longer.
    fn note(&self, sent: &Result<Response<Bytes>, HttpError>) {
        let trouble = match sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        let was_away = self.is_away.swap(trouble.is_some(), Ordering::Relaxed);
        match trouble {
            Some(why) if !was_away => tracing::warn!(
                collector = self.authority,
                why,
                "traces do not reach the collector: they are dropped until it takes some again"
            ),
            None if was_away => {
                tracing::info!(collector = self.authority, "the collector takes traces again");
            }
            Some(_) | None => {}
        }
    }
}

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Boxed<'b, Result<Response<Bytes>, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let sent = self.send(request).await;
            self.note(&sent);
            sent
        })
    }
}

/// Over a connection of its own: a batch comes every few seconds.
async fn post(
    authority: String,
    mut request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
    *request.uri_mut() = path;
    request.headers_mut().insert(HOST, HeaderValue::from_str(&authority)?);
    let stream = TcpStream::connect(&authority).await?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (head, body) = requests.send_request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok::<_, Box<dyn Error + Send + Sync>>(Response::from_parts(head, body))
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}

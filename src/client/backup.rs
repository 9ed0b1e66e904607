//! Reading `POST /v1/backup`: the state of a cluster, piece by piece.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Collected};
use hyper::body::{Body, Incoming};
use hyper::{Method, Request};
use tokio::time::timeout;

use crate::client::{Client, read};
use crate::connection::{Connection, Lost};
use crate::error::ClientError;

/// A node writes its state out before the first byte is sent, which takes its time.
const ANSWER_DEADLINE: Duration = Duration::from_secs(150);
/// A copy of which nothing came for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A copy on its way.
pub struct Backup {
    /// Bytes of the whole.
    pub bytes: u64,
    /// Bytes read so far.
    pub done: u64,
    /// The node that sends it.
    pub address: String,
    body: Incoming,
    _connection: Connection,
}

impl Client {
    /// Asks the first node that answers for a copy of the state, which has all that was
    /// acknowledged before the call. The deadline of the options is for finding that node; the copy
    /// itself may take longer.
    pub async fn backup(&self) -> Result<Backup, ClientError> {
        let mut why = "no endpoint is known".to_owned();
        for address in &self.options().endpoints {
            // Who does not even say that it lives is not waited for that long.
            let lives = async {
                let mut connection = Connection::open(address, &self.options().identity).await?;
                connection.ask(&Method::GET, "/livez", &Bytes::new()).await?;
                Ok::<_, Lost>(connection)
            };
            let lives = timeout(self.options().deadline, lives).await;
            let opening = async {
                let mut connection = match lives {
                    Ok(lives) => lives?,
                    Err(_) => return Err(Lost::NotSent(format!("{address}: no answer in time"))),
                };
                let response = connection.stream(Request::post("/v1/backup")).await?;
                Ok::<_, Lost>((connection, response))
            };
            match timeout(ANSWER_DEADLINE, opening).await {
                Ok(Ok((connection, response))) if response.status().is_success() => {
                    let body = response.into_body();
                    let bytes = body.size_hint().exact().unwrap_or_default();
                    let address = address.clone();
                    return Ok(Backup { bytes, done: 0, address, body, _connection: connection });
                }
                Ok(Ok((_, response))) => {
                    let status = response.status();
                    let collected = timeout(SILENCE_MAX, response.into_body().collect()).await;
                    let bytes = collected.ok().and_then(Result::ok).map(Collected::to_bytes);
                    match read::<()>(status, &bytes.unwrap_or_default()) {
                        Err(error) if status.is_client_error() => return Err(error),
                        Err(error) => why = format!("{address}: {error}"),
                        Ok(()) => {}
                    }
                }
                Ok(Err(Lost::Leaks(text))) => return Err(ClientError::Insecure(text)),
                Ok(Err(Lost::NotSent(text) | Lost::Sent(text))) => why = text,
                Err(_) => why = format!("{address}: no answer in time"),
            }
        }
        Err(ClientError::Unreachable(why))
    }
}

impl Backup {
    fn lost(&self, why: &str) -> ClientError {
        let Self { address, done, bytes, .. } = self;
        ClientError::Unreachable(format!("{address}: {why} after {done} of {bytes} bytes"))
    }

    /// The next piece, or `None` at the end. A copy that ends early is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let Ok(frame) = timeout(SILENCE_MAX, self.body.frame()).await else {
                return Err(self.lost("the copy stopped"));
            };
            match frame {
                None if self.done == self.bytes => return Ok(None),
                None | Some(Err(_)) => return Err(self.lost("the copy broke off")),
                Some(Ok(frame)) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    self.done += piece.len() as u64;
                    return Ok(Some(piece));
                }
            }
        }
    }
}

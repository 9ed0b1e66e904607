//! Just enough HTTP/1.1 for the load generator: one request at a time over one connection, which
//! moves on to the next node when it fails.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use oarlock_client::{ClientError, Identity, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::bench::plan::Plan;

/// Longest answer that is expected: that of 64 locks taken together, or a page of metrics.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// The page of `/metrics` of one node; nothing if it does not answer within about that time.
pub(super) async fn metrics_page(
    address: &str,
    identity: &Identity,
    deadline: Duration,
) -> Option<String> {
    let place = Place { endpoints: Arc::from([address.to_owned()]), identity: identity.clone() };
    Connection::new(&place, 0, deadline).metrics().await.ok()
}

/// Where connections lead, and who asks.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) endpoints: Arc<[String]>,
    pub(super) identity: Identity,
}

impl Place {
    pub(super) fn of(plan: &Plan) -> Self {
        Self { endpoints: plan.endpoints.as_slice().into(), identity: plan.identity.clone() }
    }
}

/// An id of a lease or a session.
pub(super) type Id = u128;

/// Why a request brought no result.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The cluster answered no. Nothing changed.
    Refused(String),
    /// No answer, or one that leaves it open: it may have happened.
    Lost(String),
}

impl Trouble {
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Refused(why) | Self::Lost(why) => why,
        }
    }
}

/// What an acquire asks for besides its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) ttl: Duration,
    pub(super) wait: Duration,
}

pub(super) struct Connection {
    place: Place,
    /// The line of each request that says who asks; empty for nobody.
    authorization: String,
    at: usize,
    stream: Option<Socket>,
    /// Of each answer, not counting its wait.
    deadline: Duration,
    buffer: Vec<u8>,
}

impl Connection {
    /// Begins at the endpoint of that number; made when first used.
    pub(super) fn new(place: &Place, at: usize, deadline: Duration) -> Self {
        let bearer = place.identity.bearer();
        let authorization = bearer.map(|it| format!("authorization: {it}\r\n")).unwrap_or_default();
        let (place, buffer) = (place.clone(), Vec::with_capacity(4096));
        Self { place, authorization, at, stream: None, deadline, buffer }
    }

    pub(super) async fn acquire(
        &mut self,
        name: &str,
        owner: usize,
        terms: Terms,
    ) -> Result<Id, Trouble> {
        let (ttl_ms, wait_ms) = (terms.ttl.as_millis(), terms.wait.as_millis());
        let body =
            format!("{{\"owner\":\"bench-{owner}\",\"ttl_ms\":{ttl_ms},\"wait_ms\":{wait_ms}}}");
        let path = format!("/v1/locks/{name}");
        let answer = self.ask("POST", &path, &body, terms.wait).await?;
        ids(&answer, "lease_id").next().ok_or_else(|| Trouble::Lost("no lease id".to_owned()))
    }

    /// Takes all of them in one step, for a TTL or within a session.
    pub(super) async fn acquire_many(
        &mut self,
        names: impl Iterator<Item = String>,
        keeper: Keeper,
    ) -> Result<Vec<Id>, Trouble> {
        let mut body = match keeper {
            Keeper::Ttl(ttl) => {
                format!("{{\"owner\":\"bench\",\"ttl_ms\":{},\"locks\":[", ttl.as_millis())
            }
            Keeper::Session(id) => format!("{{\"session_id\":\"{id:032x}\",\"locks\":["),
        };
        let mut count = 0;
        for name in names {
            let comma = if count == 0 { "" } else { "," };
            let _infallible = write!(body, "{comma}{{\"name\":\"{name}\"}}");
            count += 1;
        }
        body.push_str("]}");
        let answer = self.ask("POST", "/v1/locks", &body, Duration::ZERO).await?;
        let leases: Vec<Id> = ids(&answer, "lease_id").collect();
        if leases.len() == count {
            return Ok(leases);
        }
        Err(Trouble::Lost(format!("{} leases for {count} locks", leases.len())))
    }

    pub(super) async fn open_session(&mut self, ttl: Duration) -> Result<Id, Trouble> {
        let body = format!("{{\"owner\":\"bench\",\"ttl_ms\":{}}}", ttl.as_millis());
        let answer = self.ask("POST", "/v1/sessions", &body, Duration::ZERO).await?;
        ids(&answer, "session_id").next().ok_or_else(|| Trouble::Lost("no session id".to_owned()))
    }

    pub(super) async fn renew(&mut self, lease: Id) -> Result<(), Trouble> {
        self.simple("POST", &format!("/v1/leases/{lease:032x}/renew")).await
    }

    pub(super) async fn renew_session(&mut self, session: Id) -> Result<(), Trouble> {
        self.simple("POST", &format!("/v1/sessions/{session:032x}/renew")).await
    }

    pub(super) async fn release(&mut self, lease: Id) -> Result<(), Trouble> {
        self.simple("DELETE", &format!("/v1/leases/{lease:032x}")).await
    }

    pub(super) async fn close_session(&mut self, session: Id) -> Result<(), Trouble> {
        self.simple("DELETE", &format!("/v1/sessions/{session:032x}")).await
    }

    pub(super) async fn read(&mut self, name: &str) -> Result<(), Trouble> {
        self.simple("GET", &format!("/v1/locks/{name}")).await
    }

    pub(super) async fn metrics(&mut self) -> Result<String, Trouble> {
        self.ask("GET", "/metrics", "", Duration::ZERO).await
    }

    async fn simple(&mut self, method: &str, path: &str) -> Result<(), Trouble> {
        self.ask(method, path, "", Duration::ZERO).await.map(drop)
    }

    async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
        wait: Duration,
    ) -> Result<String, Trouble> {
        let asked = timeout(self.deadline + wait, self.exchange(method, path, body)).await;
        let result = asked.unwrap_or_else(|_| Err(Trouble::Lost("no answer in time".to_owned())));
        if let Err(Trouble::Lost(why)) = result {
            // Whatever went wrong: another node may do better.
            let endpoint = self.endpoint().to_owned();
            self.at += 1;
            self.stream = None;
            return Err(Trouble::Lost(format!("{endpoint}: {why}")));
        }
        result
    }

    fn endpoint(&self) -> &str {
        &self.place.endpoints[self.at % self.place.endpoints.len()]
    }

    async fn exchange(&mut self, method: &str, path: &str, body: &str) -> Result<String, Trouble> {
        if self.stream.is_none() {
            let connected = self.place.identity.connect(self.endpoint()).await;
            self.stream = Some(connected.map_err(|error| match error {
                ClientError::Insecure(why) => Trouble::Refused(why),
                other => lost(&other),
            })?);
        }
        let (host, authorization) = (self.endpoint(), &self.authorization);
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{authorization}content-length: {length}\r\n\r\n{body}"
        );
        let Some(stream) = &mut self.stream else {
            return Err(Trouble::Lost("no connection".to_owned()));
        };
        stream.write_all(request.as_bytes()).await.map_err(|e| lost(&e))?;
        // Over TLS what was written is not yet sent.
        stream.flush().await.map_err(|e| lost(&e))?;
        self.buffer.clear();
        loop {
            let read = stream.read_buf(&mut self.buffer).await.map_err(|e| lost(&e))?;
            if read == 0 {
                return Err(Trouble::Lost("the connection ended".to_owned()));
            }
            if self.buffer.len() > ANSWER_BYTES_MAX {
                return Err(Trouble::Lost("too long an answer".to_owned()));
            }
            if let Some((status, body)) = answer(&self.buffer)? {
                return judged(status, body);
            }
        }
    }
}

/// What keeps leases alive.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keeper {
    Ttl(Duration),
    Session(Id),
}

fn lost(error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Lost(error.to_string())
}

/// Status and body, once all of it is there.
fn answer(bytes: &[u8]) -> Result<Option<(u16, String)>, Trouble> {
    let no_http = || Trouble::Lost("not an answer of oarlock".to_owned());
    let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| no_http())?;
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    let length = length.ok_or_else(no_http)?;
    let Some(body) = bytes[end + 4..].get(..length) else { return Ok(None) };
    let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(no_http)?;
    Ok(Some((status, String::from_utf8_lossy(body).into_owned())))
}

fn judged(status: u16, body: String) -> Result<String, Trouble> {
    match status {
        200 => Ok(body),
        // No leader, or lost track: another node, or a later moment, may know better.
        503 | 504 => Err(Trouble::Lost(format!("{status} {body}"))),
        _ => Err(Trouble::Refused(format!("{status} {body}"))),
    }
}

/// The ids in an answer, in its order.
fn ids<'a>(answer: &'a str, field: &str) -> impl Iterator<Item = Id> + 'a {
    let key = format!("\"{field}\":\"");
    let places: Vec<usize> = answer.match_indices(&key).map(|(at, _)| at + key.len()).collect();
    places.into_iter().filter_map(|at| Id::from_str_radix(answer.get(at..at + 32)?, 16).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_all_of_it_is_there() {
        let whole = b"HTTP/1.1 409 Conflict\r\nContent-Length: 4\r\n\r\nheld".as_slice();
        for length in 0..whole.len() {
            assert!(answer(&whole[..length]).expect("so far it is HTTP").is_none(), "{length}");
        }
        let (status, body) = answer(whole).expect("it is HTTP").expect("it is whole");
        assert_eq!((status, body.as_str()), (409, "held"));
        assert!(matches!(judged(status, body), Err(Trouble::Refused(why)) if why == "409 held"));
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "no length");
        assert!(answer(b"SSH-2.0\r\ncontent-length: 0\r\n\r\n").is_err(), "no status");
    }

    #[test]
    fn only_what_may_have_happened_is_called_lost() {
        for (status, is_lost) in
            [(400, false), (409, false), (410, false), (503, true), (504, true)]
        {
            let trouble = judged(status, String::new()).expect_err("no success");
            assert_eq!(matches!(trouble, Trouble::Lost(_)), is_lost, "{status}");
        }
    }

    #[test]
    fn ids_are_found_in_their_order() {
        let both: [Id; 2] = [7, 1 << 100];
        let answer = both.map(|id| format!(r#"{{"lease_id":"{id:032x}"}}"#)).join(",");
        assert_eq!(ids(&answer, "lease_id").collect::<Vec<_>>(), both);
        assert_eq!(ids(r#"{"lease_id":"12"}"#, "lease_id").count(), 0);
    }
}

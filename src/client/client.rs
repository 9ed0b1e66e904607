//! The client: finds a node that answers, repeats what was lost, and gives up by its deadline.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use oarlock_core::planted::{Bug, planted};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::connection::{Connection, Lost};
use crate::error::ClientError;
use crate::identity::Identity;
use crate::time::{Trust, since_boot};
use crate::wire::{
    AcquireRequest, Cluster, Fate, ForceReleased, Leader, LeaderRequest, Lease, Lock, Locks,
    Problem, Released, Session, SessionClosed, SessionRequest,
};

/// First pause between two tries; doubles up to [`PAUSE_MAX`], with a random part.
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two tries.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What stays as it is in a path. The slash separates the parts of a name.
pub(crate) const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// What stays as it is in a query.
pub(crate) const QUERY: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port` of some nodes, in the order in which they are tried.
    pub endpoints: Vec<String>,
    /// How long one call may take, not counting the wait that it asks for.
    pub deadline: Duration,
    /// Who asks, where the cluster wants to know.
    pub identity: Identity,
}

impl Default for Options {
    fn default() -> Self {
        let endpoints = [7400, 7410, 7420].map(|port| format!("127.0.0.1:{port}")).into();
        Self { endpoints, deadline: Duration::from_secs(15), identity: Identity::default() }
    }
}

/// A client of one cluster. Its calls go over one connection, one after the other.
pub struct Client {
    options: Options,
    // An async mutex: held over the call, so that calls of one client keep their order.
    connection: Mutex<(usize, Option<Connection>)>,
}

pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) body: Bytes,
    /// Whether a second time has no second effect.
    pub(crate) repeatable: bool,
    pub(crate) deadline: Duration,
}

impl Client {
    /// A client; connections are made when they are needed.
    pub fn new(options: Options) -> Self {
        Self { options, connection: Mutex::new((0, None)) }
    }

    /// Takes a lock, or waits for it as long as the request says. The request gets a request id
    /// if it has none, so that a lost answer costs no second lock. Also says how long the grant
    /// may be believed: if the request brings an id, it may be a repeat of one that was sent nobody
    /// knows when, so the time that it waited is not counted; renew then, before relying on it.
    pub async fn acquire(
        &self,
        name: &str,
        mut request: AcquireRequest,
    ) -> Result<(Lease, Trust), ClientError> {
        let trust = trust_by(&mut request.request_id);
        let sent_at = since_boot();
        let wait = Duration::from_millis(request.wait_ms.unwrap_or(0));
        let path = lock_path(name);
        let body = encode(&request)?;
        let deadline = self.options.deadline + wait;
        let call = Call { method: Method::POST, path: &path, body, repeatable: true, deadline };
        let lease: Lease = self.call(call).await?;
        let trust = trust(sent_at, &lease);
        Ok((lease, trust))
    }

    /// Renews a lease; also says how long it may be believed from now on.
    pub async fn renew(&self, lease_id: &str) -> Result<(Lease, Trust), ClientError> {
        let sent_at = since_boot();
        let path = format!("/v1/leases/{}/renew", utf8_percent_encode(lease_id, QUERY));
        let lease: Lease = self.simple(Method::POST, &path, true).await?;
        let trust = Trust::of_repeat(sent_at, &lease);
        Ok((lease, trust))
    }

    /// Gives a lease back, or leaves the queue.
    pub async fn release(&self, lease_id: &str) -> Result<Released, ClientError> {
        let path = format!("/v1/leases/{}", utf8_percent_encode(lease_id, QUERY));
        self.simple(Method::DELETE, &path, true).await
    }

    /// Shows one lock.
    pub async fn inspect(&self, name: &str, stale: bool) -> Result<Lock, ClientError> {
        let path = format!("{}{}", lock_path(name), if stale { "?consistency=stale" } else { "" });
        self.simple(Method::GET, &path, true).await
    }

    /// One page of the locks whose names start with a prefix.
    pub async fn list(
        &self,
        prefix: &str,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<Locks, ClientError> {
        let mut path =
            format!("/v1/locks?prefix={}&limit={limit}", utf8_percent_encode(prefix, QUERY));
        if let Some(cursor) = cursor {
            path.push_str("&cursor=");
            path.extend(utf8_percent_encode(cursor, QUERY));
        }
        self.simple(Method::GET, &path, true).await
    }

    /// One page of the locks whose names start with a prefix, as the node itself knows them.
    pub async fn list_stale(
        &self,
        prefix: &str,
        cursor: Option<&str>,
    ) -> Result<Locks, ClientError> {
        let prefix = utf8_percent_encode(prefix, QUERY);
        let mut path = format!("/v1/locks?prefix={prefix}&consistency=stale");
        if let Some(cursor) = cursor {
            path.push_str("&cursor=");
            path.extend(utf8_percent_encode(cursor, QUERY));
        }
        self.simple(Method::GET, &path, true).await
    }

    /// Takes a lock from the grant with this token, or from all holders. It then stays closed for
    /// the lock-delay, or for what remained of the lease.
    pub async fn force_release(
        &self,
        name: &str,
        token: Option<u64>,
        reason: &str,
        lock_delay_ms: Option<u64>,
    ) -> Result<ForceReleased, ClientError> {
        let target = token.map_or_else(|| "all=true".to_owned(), |token| format!("token={token}"));
        let reason = utf8_percent_encode(reason, QUERY);
        let mut path = format!("{}?{target}&reason={reason}", lock_path(name));
        if let Some(ms) = lock_delay_ms {
            path.push_str("&lock_delay_ms=");
            path.push_str(&ms.to_string());
        }
        // Taking from all again could take from somebody who came meanwhile.
        self.simple(Method::DELETE, &path, token.is_some()).await
    }

    /// Opens a session.
    pub async fn open_session(&self, mut request: SessionRequest) -> Result<Session, ClientError> {
        request.request_id.get_or_insert_with(|| uuid::Uuid::new_v4().to_string());
        let deadline = self.options.deadline;
        let (method, body) = (Method::POST, encode(&request)?);
        self.call(Call { method, path: "/v1/sessions", body, repeatable: true, deadline }).await
    }

    /// Renews a session, and with it all its leases.
    pub async fn renew_session(&self, session_id: &str) -> Result<Session, ClientError> {
        let path = format!("/v1/sessions/{}/renew", utf8_percent_encode(session_id, QUERY));
        self.simple(Method::POST, &path, true).await
    }

    /// Closes a session, and with it all its leases.
    pub async fn close_session(&self, session_id: &str) -> Result<SessionClosed, ClientError> {
        let path = format!("/v1/sessions/{}", utf8_percent_encode(session_id, QUERY));
        self.simple(Method::DELETE, &path, true).await
    }

    /// What a node knows of its cluster.
    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
        self.simple(Method::GET, "/v1/cluster", true).await
    }

    /// Hands leadership to that node, or to the voter that is closest behind.
    pub async fn transfer_leader(&self, node_id: Option<u64>) -> Result<Leader, ClientError> {
        let body = encode(&LeaderRequest { node_id })?;
        self.send(Method::POST, "/v1/cluster/leader", body, node_id.is_some()).await
    }

    /// The metrics of the node that answers, in the form of Prometheus.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let (method, body, deadline) = (Method::GET, Bytes::new(), self.options.deadline);
        let call = Call { method, path: "/metrics", body, repeatable: true, deadline };
        let (status, page) = self.answered(&call).await?;
        if !status.is_success() {
            return read(status, &page);
        }
        Ok(String::from_utf8_lossy(&page).into_owned())
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) async fn simple<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        repeatable: bool,
    ) -> Result<T, ClientError> {
        self.send(method, path, Bytes::new(), repeatable).await
    }

    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        repeatable: bool,
    ) -> Result<T, ClientError> {
        let deadline = self.options.deadline;
        self.call(Call { method, path, body, repeatable, deadline }).await
    }

    pub(crate) async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, ClientError> {
        let (status, body) = self.answered(&call).await?;
        read(status, &body)
    }

    async fn answered(&self, call: &Call<'_>) -> Result<(StatusCode, Bytes), ClientError> {
        let mut last = Progress { doubt: false, why: "no endpoint is known".to_owned() };
        let tries = self.try_until_answered(call, &mut last);
        let answered = timeout(call.deadline, tries).await;
        match answered {
            Ok(answer) => answer,
            Err(_) if last.doubt => Err(ClientError::Unknown(last.why)),
            Err(_) => Err(ClientError::Unreachable(last.why)),
        }
    }

    async fn try_until_answered(
        &self,
        call: &Call<'_>,
        last: &mut Progress,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let changes = call.method != Method::GET;
        let mut pause = PAUSE_MIN;
        let mut slot = self.connection.lock().await;
        for attempt in 0_usize.. {
            if attempt > 0 && attempt.is_multiple_of(self.options.endpoints.len().max(1)) {
                sleep(jitter(pause)).await;
                pause = PAUSE_MAX.min(pause * 2);
            }
            let before = std::mem::replace(&mut last.doubt, changes);
            match self.once(call, &mut slot).await {
                Ok((StatusCode::SERVICE_UNAVAILABLE, body)) => {
                    let unknown = body.windows(9).any(|part| part == b"\"unknown\"");
                    if changes && unknown && !call.repeatable {
                        return Ok((StatusCode::SERVICE_UNAVAILABLE, body));
                    }
                    last.doubt = before || (changes && unknown);
                    "no node had a leader".clone_into(&mut last.why);
                }
                Ok((StatusCode::GATEWAY_TIMEOUT, body)) if !call.repeatable => {
                    return Ok((StatusCode::GATEWAY_TIMEOUT, body));
                }
                Ok((StatusCode::GATEWAY_TIMEOUT, _)) => {
                    "the node lost track of the request".clone_into(&mut last.why);
                }
                Ok(answer) => return Ok(answer),
                Err(Lost::NotSent(why)) => {
                    last.doubt = before;
                    last.why = why;
                }
                Err(Lost::Leaks(why)) if before => return Err(ClientError::Unknown(why)),
                Err(Lost::Leaks(why)) => return Err(ClientError::Insecure(why)),
                Err(Lost::Sent(why)) if changes && !call.repeatable => {
                    return Err(ClientError::Unknown(why));
                }
                Err(Lost::Sent(why)) => last.why = why,
            }
            // Whatever went wrong: another node may do better.
            if !planted(Bug::LostConnectionIsKept) {
                *slot = (slot.0.wrapping_add(1), None);
            }
        }
        Err(ClientError::Unreachable(last.why.clone()))
    }

    async fn once(
        &self,
        call: &Call<'_>,
        slot: &mut (usize, Option<Connection>),
    ) -> Result<(StatusCode, Bytes), Lost> {
        if !slot.1.as_ref().is_some_and(Connection::is_open) {
            let count = self.options.endpoints.len();
            let address = self.options.endpoints.get(slot.0 % count.max(1));
            let address =
                address.ok_or_else(|| Lost::NotSent("no endpoint is known".to_owned()))?;
            slot.1 = Some(Connection::open(address, &self.options.identity).await?);
        }
        match &mut slot.1 {
            Some(connection) => connection.ask(&call.method, call.path, &call.body).await,
            None => Err(Lost::NotSent("no connection".to_owned())),
        }
    }
}

/// Gives a request an id if it has none; how to believe its answer follows from that.
pub(crate) fn trust_by(request_id: &mut Option<String>) -> fn(Duration, &Lease) -> Trust {
    if request_id.is_some() {
        return Trust::of_repeat;
    }
    *request_id = Some(uuid::Uuid::new_v4().to_string());
    Trust::of_grant
}

struct Progress {
    doubt: bool,
    why: String,
}

fn lock_path(name: &str) -> String {
    format!("/v1/locks/{}", utf8_percent_encode(name, PATH))
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Bytes, ClientError> {
    let encoded = serde_json::to_vec(value);
    encoded.map(Bytes::from).map_err(|error| ClientError::Protocol(error.to_string()))
}

pub(crate) fn read<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, ClientError> {
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|e| ClientError::Protocol(e.to_string()));
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) if status.is_server_error() && problem.outcome == Fate::Unknown => {
            Err(ClientError::Unknown(problem.detail))
        }
        Ok(problem) => Err(ClientError::Refused(Box::new(problem))),
        Err(_) => {
            let start = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
            Err(ClientError::Protocol(format!("status {status}: {start}")))
        }
    }
}

/// Between half of the pause and all of it, so that clients do not come back in step.
pub(crate) fn jitter(pause: Duration) -> Duration {
    let mut byte = [255; 1];
    let _full_pause_without_chance = getrandom::fill(&mut byte);
    pause / 2 + pause * u32::from(byte[0]) / 510
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_core::planted;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const GRANT: &str = r#"{"lease_id":"0123456789abcdef0123456789abcdef","lock":"a","mode":"exclusive","owner":"me","token":7,"ttl_ms":1000,"remaining_ms":990,"waited_ms":0,"metadata":{}}"#;

    /// Answers each request with the next of these; an empty one cuts the connection.
    async fn node(answers: Vec<(u16, String)>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let task = tokio::spawn(async move {
            let mut heard = Vec::new();
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let mut bytes = vec![0; 4096];
                let count = stream.read(&mut bytes).await.expect("a request");
                let mut text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                if !text.contains("request_id") && text.starts_with("POST") {
                    let count = stream.read(&mut bytes).await.expect("its body");
                    text.push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
                heard.push(text);
                if status > 0 {
                    let answer = format!(
                        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    stream.write_all((answer + &body).as_bytes()).await.expect("written");
                }
            }
            heard
        });
        (address, task)
    }

    fn client(endpoints: Vec<String>) -> Client {
        Client::new(Options { endpoints, ..Options::default() })
    }

    fn request() -> AcquireRequest {
        serde_json::from_str(r#"{"owner":"me","ttl_ms":1000}"#).expect("a request")
    }

    fn request_id(text: &str) -> String {
        let start = text.find("\"request_id\":\"").expect("it has one") + 14;
        text[start..start + 36].to_owned()
    }

    #[test]
    fn pauses_between_two_tries_are_spread() {
        let drawn: Vec<Duration> = (0..200).map(|_| jitter(PAUSE_MAX)).collect();
        assert!(drawn.iter().all(|pause| (PAUSE_MAX / 2..=PAUSE_MAX).contains(pause)));
        let (least, most) = (drawn.iter().min(), drawn.iter().max());
        assert!(
            most.zip(least)
                .is_some_and(|(most, least)| most.saturating_sub(*least) > PAUSE_MAX / 4)
        );
    }

    #[tokio::test]
    async fn a_lost_answer_is_asked_for_again_under_the_same_request_id() {
        let (address, node) = node(vec![(0, String::new()), (200, GRANT.to_owned())]).await;
        let (lease, _) = client(vec![address]).acquire("a", request()).await.expect("granted");
        assert_eq!(lease.token, 7);
        let heard = node.await.expect("it ended");
        assert_eq!(request_id(&heard[0]), request_id(&heard[1]));
    }

    #[tokio::test]
    async fn a_node_that_is_down_or_without_a_leader_is_passed_over() {
        let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let down = gone.local_addr().expect("an address").to_string();
        drop(gone);
        let no_leader =
            r#"{"type":"no-leader","title":"t","status":503,"detail":"d","outcome":"not_done"}"#;
        let (lame, _) = node(vec![(503, no_leader.to_owned())]).await;
        let (good, _) = node(vec![(200, GRANT.to_owned())]).await;
        let granted = client(vec![down, lame, good]).acquire("a", request()).await;
        assert_eq!(granted.expect("granted").0.token, 7);
    }

    #[tokio::test]
    async fn a_refusal_is_final_and_tells_why() {
        let held = r#"{"type":"lock-held","title":"t","status":409,"detail":"held by b","outcome":"not_done"}"#;
        let (address, _) = node(vec![(409, held.to_owned())]).await;
        let refused = client(vec![address]).acquire("a", request()).await;
        let Err(ClientError::Refused(problem)) = refused else { panic!("{refused:?}") };
        assert_eq!(problem.kind, "lock-held");
    }

    fn with_token(endpoints: Vec<String>, identity: fn(Identity) -> Identity) -> Client {
        let token = Identity::default().with_token("oarkey1-secret").expect("a token");
        Client::new(Options { endpoints, identity: identity(token), ..Options::default() })
    }

    #[tokio::test]
    async fn f95_a_token_is_not_sent_in_clear_to_another_machine() {
        // Addresses for documentation: whatever is sent there arrives nowhere.
        for elsewhere in ["192.0.2.1:7400", "[2001:db8::1]:7400", "[::ffff:192.0.2.1]:7400"] {
            let client = with_token(vec![elsewhere.to_owned()], |it| it);
            let refused = client.cluster().await;
            let Err(ClientError::Insecure(why)) = refused else { panic!("{refused:?}") };
            assert!(why.contains(elsewhere) && why.contains("--ca"), "{why}");
        }
        let released = r#"{"released":true,"lease_id":"0","lock":"a","token":7}"#;
        let (address, node) = node(vec![(200, released.to_owned())]).await;
        with_token(vec![address], |it| it).release("0").await.expect("the loopback is no network");
        assert!(node.await.expect("it ended")[0].contains("Bearer oarkey1-secret"));
        // Asked for in so many words it is tried; nobody is there.
        let options = with_token(vec!["192.0.2.1:7400".to_owned()], Identity::insecure).options;
        assert!(!options.identity.would_leak());
    }

    #[tokio::test]
    async fn a_token_that_must_not_be_sent_leaves_what_was_sent_before_in_doubt() {
        let (address, _node) = node(vec![(0, String::new())]).await;
        let client = with_token(vec![address, "192.0.2.1:7400".to_owned()], |it| it);
        let lost = client.acquire("a", request()).await;
        assert!(matches!(lost, Err(ClientError::Unknown(_))), "{lost:?}");
    }

    #[tokio::test]
    async fn f13_a_release_that_loses_its_connection_does_not_poison_the_client() {
        planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
        let released = r#"{"released":true,"lease_id":"0","lock":"a","token":7}"#;
        let answers =
            [(0, ""), (0, ""), (200, released), (200, GRANT)].map(|(s, b)| (s, b.to_owned()));
        let (address, node) = node(answers.into()).await;
        let client = client(vec![address]);
        assert!(client.release("0").await.expect("released").released);
        assert_eq!(client.acquire("a", request()).await.expect("granted").0.token, 7);
        assert_eq!(node.await.expect("it ended").len(), 4);
    }
}

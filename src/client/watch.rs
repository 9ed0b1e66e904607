//! Reading `GET /v1/watch`: a small reader of server-sent events that resumes where it stopped.
//!
//! A stream that breaks, ends or falls silent is opened again at the next node with the last
//! revision seen, so that an event is neither lost nor told twice. What cannot be resumed is said:
//! the server answers `revision-gone`, or sends a `gap`.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::{BodyExt, Collected};
use hyper::Request;
use hyper::body::Incoming;
use percent_encoding::utf8_percent_encode;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, PAUSE_MAX, PAUSE_MIN, QUERY, jitter, read};
use crate::connection::{Connection, Lost};
use crate::error::ClientError;

/// A node writes at least a comment every 10 s; one that was silent for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Longest pause before a stream is opened again that broke: a node that ends each one at once is not
/// asked more often.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest event; a node's own are far shorter.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEvent {
    /// Its type, such as `granted`.
    pub kind: String,
    /// Where the stream may be resumed.
    pub revision: Option<u64>,
    /// The JSON that came with it.
    pub data: serde_json::Value,
}

/// Events of the locks whose names start with a prefix.
pub struct Watch<'a> {
    client: &'a Client,
    path: String,
    last: Option<u64>,
    turn: usize,
    open: Option<Open>,
}

struct Open {
    // Dropping it would close the stream.
    _connection: Connection,
    body: Incoming,
    reader: Reader,
}

impl Client {
    /// Watches the locks whose names start with a prefix, from a revision on or from now on.
    pub fn watch(&self, prefix: &str, from_revision: Option<u64>) -> Watch<'_> {
        let mut path = format!("/v1/watch?prefix={}", utf8_percent_encode(prefix, QUERY));
        if let Some(revision) = from_revision {
            path.push_str("&from_revision=");
            path.push_str(&revision.to_string());
        }
        Watch { client: self, path, last: None, turn: 0, open: None }
    }
}

impl Watch<'_> {
    /// The next event. Waits for ever while nodes answer; fails once none has for the deadline,
    /// which begins when the stream breaks, however long it was silent before.
    pub async fn next(&mut self) -> Result<StreamEvent, ClientError> {
        loop {
            let Some(open) = &mut self.open else {
                self.connect(Instant::now() + self.client.options().deadline).await?;
                continue;
            };
            if let Some(event) = open.reader.ready.pop_front() {
                if event.kind != "end" {
                    self.last = event.revision.or(self.last);
                    return Ok(event);
                }
            } else if let Ok(Some(Ok(frame))) = timeout(SILENCE_MAX, open.body.frame()).await {
                let data = frame.into_data().unwrap_or_default();
                open.reader.take(&data).map_err(ClientError::Protocol)?;
                continue;
            }
            self.open = None;
            sleep(jitter(PAUSE)).await;
        }
    }

    async fn connect(&mut self, until: Instant) -> Result<(), ClientError> {
        let mut why = "no endpoint is known".to_owned();
        let mut pause = PAUSE_MIN;
        let endpoints = &self.client.options().endpoints;
        for attempt in 0_usize.. {
            // As every call of the client does between two tries.
            if attempt > 0 && attempt.is_multiple_of(endpoints.len().max(1)) {
                sleep(jitter(pause).min(until.saturating_duration_since(Instant::now()))).await;
                pause = PAUSE_MAX.min(pause * 2);
            }
            if Instant::now() >= until {
                break;
            }
            let address = endpoints.get(self.turn % endpoints.len().max(1));
            self.turn = self.turn.wrapping_add(1);
            let Some(address) = address else { break };
            let opening = async {
                let mut connection =
                    Connection::open(address, &self.client.options().identity).await?;
                let mut request =
                    Request::get(self.path.as_str()).header("accept", "text/event-stream");
                if let Some(id) = self.last {
                    request = request.header("last-event-id", id);
                }
                let (head, body) = connection.stream(request).await?.into_parts();
                Ok::<_, Lost>((connection, head.status, body))
            };
            let left = until.saturating_duration_since(Instant::now());
            match timeout(left, opening).await {
                Ok(Ok((connection, status, body))) if status.is_success() => {
                    let reader = Reader::default();
                    self.open = Some(Open { _connection: connection, body, reader });
                    return Ok(());
                }
                Ok(Ok((_, status, body))) => {
                    let collected = timeout(left, body.collect()).await;
                    let bytes = collected.ok().and_then(Result::ok).map(Collected::to_bytes);
                    let refused = read::<()>(status, &bytes.unwrap_or_default());
                    // Whoever lacks a leader or drains says 503; another node may do better.
                    match refused {
                        Err(error) if status.is_client_error() => return Err(error),
                        Err(error) => why = error.to_string(),
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

/// Makes events of bytes, however they are cut.
#[derive(Default)]
struct Reader {
    bytes: Vec<u8>,
    kind: String,
    revision: Option<u64>,
    data: String,
    ready: VecDeque<StreamEvent>,
}

impl Reader {
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.bytes.extend_from_slice(bytes);
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            self.line(line.trim_end_matches(['\n', '\r']))?;
        }
        if self.bytes.len() + self.data.len() > EVENT_BYTES_MAX {
            return Err(format!("an event is longer than {EVENT_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() {
            return self.end();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "id" => self.revision = value.parse().ok(),
            "data" => self.data.push_str(value),
            // A comment, or a field that a newer server knows.
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
        let revision = self.revision.take();
        if data.is_empty() {
            return Ok(());
        }
        let data = serde_json::from_str(&data).map_err(|error| format!("{kind}: {error}"))?;
        self.ready.push_back(StreamEvent { kind, revision, data });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Options;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const TWO: &str = ": ping\n\nid: 7\nevent: granted\ndata: {\"lock\":\"a\"}\n\nevent: gap\ndata: {\"oldest_revision\":9}\n\n";

    #[test]
    fn events_are_read_however_their_bytes_are_cut() {
        for size in 1..TWO.len() {
            let mut reader = Reader::default();
            TWO.as_bytes().chunks(size).for_each(|part| reader.take(part).expect("events"));
            let kinds: Vec<_> =
                reader.ready.iter().map(|e| (e.kind.as_str(), e.revision)).collect();
            assert_eq!(kinds, [("granted", Some(7)), ("gap", None)]);
        }
        assert!(Reader::default().take(b"data: nonsense\n\n").is_err());
    }

    /// What a node does with one connection.
    enum Turn {
        /// Takes the request and hangs up.
        HangsUp,
        /// Sends an event of this revision, is silent for this long, and hangs up.
        Tells(u64, Duration),
    }

    /// A node that does these one after the other, and then tells what it was asked.
    async fn node(turns: Vec<Turn>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let task = tokio::spawn(async move {
            let mut asked = Vec::new();
            for turn in turns {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let mut bytes = vec![0; 4096];
                let count = stream.read(&mut bytes).await.expect("a request");
                asked.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
                let Turn::Tells(revision, silence) = turn else { continue };
                let event = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nid: {revision}\nevent: released\ndata: {{}}\n\n"
                );
                stream.write_all(event.as_bytes()).await.expect("written");
                sleep(silence).await;
            }
            asked
        });
        (address, task)
    }

    #[tokio::test]
    async fn a_broken_stream_is_resumed_after_the_last_revision_seen() {
        let turns = vec![Turn::Tells(7, Duration::ZERO), Turn::Tells(8, Duration::ZERO)];
        let (address, node) = node(turns).await;
        let options = Options { endpoints: vec![address], ..Options::default() };
        let client = Client::new(options);
        let mut watch = client.watch("a/b", Some(5));
        assert_eq!(watch.next().await.expect("an event").revision, Some(7));
        assert_eq!(watch.next().await.expect("an event").revision, Some(8));
        let asked = node.await.expect("it ended");
        assert!(asked[0].starts_with("GET /v1/watch?prefix=a%2Fb&from_revision=5 "), "{asked:?}");
        assert!(asked[1].contains("last-event-id: 7\r\n"), "{asked:?}");
    }

    #[tokio::test]
    async fn a_stream_that_breaks_after_a_long_silence_is_tried_again_until_the_deadline() {
        let deadline = Duration::from_millis(500);
        let turns = vec![
            Turn::Tells(7, 2 * deadline),
            Turn::HangsUp,
            Turn::HangsUp,
            Turn::Tells(8, Duration::ZERO),
        ];
        let (address, node) = node(turns).await;
        let client =
            Client::new(Options { endpoints: vec![address], deadline, ..Options::default() });
        let mut watch = client.watch("", None);
        assert_eq!(watch.next().await.expect("an event").revision, Some(7));
        assert_eq!(watch.next().await.expect("an event").revision, Some(8));
        let asked = node.await.expect("it ended");
        assert!(asked[1..].iter().all(|it| it.contains("last-event-id: 7\r\n")), "{asked:?}");
        // The node is gone: it was asked again for as long as that may take, and no longer.
        let broke = Instant::now();
        let lost = watch.next().await;
        assert!(matches!(lost, Err(ClientError::Unreachable(_))), "{lost:?}");
        assert!(broke.elapsed() >= deadline, "{:?}", broke.elapsed());
    }
}

//! A small HTTP/1.1 client with a deadline, one connection for each request, that can also go away
//! before the answer.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

/// An answer: status and JSON body (null if there is none).
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn number(&self, field: &str) -> u64 {
        self.body[field].as_u64().unwrap_or_default()
    }
}

/// Sends a request and leaves without reading the answer.
pub(crate) fn send_only(
    address: &str,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes())?;
    Ok(stream)
}

/// The body of an answer that is not JSON.
pub(crate) fn page(address: &str, path: &str, deadline: Duration) -> std::io::Result<String> {
    let text = whole(send_only(address, "GET", path, "")?, deadline)?;
    let (_, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok(body.to_owned())
}

/// Asks once; an error is a connection that failed or broke, or no answer within the deadline.
pub(crate) fn ask(
    address: &str,
    method: &str,
    path: &str,
    body: &str,
    deadline: Duration,
) -> std::io::Result<Answer> {
    let text = whole(send_only(address, method, path, body)?, deadline)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.get(9..12).and_then(|code| code.parse().ok());
    let status = status.ok_or(std::io::ErrorKind::InvalidData)?;
    Ok(Answer { status, body: serde_json::from_str(body).unwrap_or(Value::Null) })
}

/// Everything up to the end of the connection.
fn whole(mut stream: TcpStream, deadline: Duration) -> std::io::Result<String> {
    let until = Instant::now() + deadline;
    let mut bytes = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => break,
            count => bytes.extend_from_slice(&part[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

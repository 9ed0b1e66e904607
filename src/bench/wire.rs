//! Just enough HTTP/1.1 for the load generator: one request at a time over one connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest answer that is expected.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Connection {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(endpoint: &str) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{endpoint}: {error}");
        let stream = TcpStream::connect(endpoint).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self { stream, host: endpoint.to_owned(), buffer: Vec::with_capacity(4096) })
    }

    /// Waits in the queue for up to a minute; answers the lease id.
    pub(super) async fn acquire(&mut self, name: &str, number: usize) -> Result<String, String> {
        let body = format!("{{\"owner\":\"bench-{number}\",\"ttl_ms\":60000,\"wait_ms\":60000}}");
        let answer = self.ask("POST", &format!("/v1/locks/{name}"), &body).await?;
        let start = answer.find("\"lease_id\":\"").ok_or("no lease id")? + 12;
        Ok(answer.get(start..start + 32).ok_or("a short lease id")?.to_owned())
    }

    pub(super) async fn renew(&mut self, lease: &str) -> Result<(), String> {
        self.ask("POST", &format!("/v1/leases/{lease}/renew"), "{}").await.map(|_| ())
    }

    pub(super) async fn release(&mut self, lease: &str) -> Result<(), String> {
        self.ask("DELETE", &format!("/v1/leases/{lease}"), "").await.map(|_| ())
    }

    async fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<String, String> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await.map_err(|e| e.to_string())?;
            if read == 0 || self.buffer.len() > ANSWER_BYTES_MAX {
                return Err("the connection ended".to_owned());
            }
            let text = String::from_utf8_lossy(&self.buffer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .and_then(|(_, value)| value.trim().parse::<usize>().ok());
            if body.len() < length.ok_or("an answer without a length")? {
                continue;
            }
            let status = head.get(9..12).unwrap_or_default();
            return if status == "200" { Ok(body.to_owned()) } else { Err(body.to_owned()) };
        }
    }
}

//! A collector for tests: takes OTLP over HTTP on a free port, keeps every byte, and reads spans out of
//! them by hand, so that nothing of the exporter judges the exporter.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// One span as it was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    /// 1 internal, 2 server, 3 client.
    pub(crate) kind: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) attribute_count: usize,
}

/// A request to export.
#[derive(Debug, Clone)]
pub(crate) struct Export {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone)]
pub(crate) struct Collector {
    pub(crate) url: String,
    exports: Arc<Mutex<Vec<Export>>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let exports = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&exports);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(export) = take(stream) {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(export);
                }
            }
        });
        Self { url, exports }
    }

    pub(crate) fn exports(&self) -> Vec<Export> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.exports().iter().flat_map(|export| spans(&export.body)).collect()
    }
}

/// Reads one request and answers that all is well.
fn take(mut stream: TcpStream) -> Option<Export> {
    let mut bytes = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&part[..count]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let length: usize = length.unwrap_or_default();
        if bytes.len() >= end + 4 + length {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
            return Some(Export { head, body: bytes[end + 4..].to_vec() });
        }
    }
}

/// What a field of a protobuf message holds.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Fields of a message, in order; of fixed width they have no number worth reading here.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut bytes)),
            1 => Value::Bytes(split(&mut bytes, 8)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).expect("a length");
                Value::Bytes(split(&mut bytes, length))
            }
            5 => Value::Bytes(split(&mut bytes, 4)),
            other => panic!("no such wire type: {other}"),
        };
        found.push((tag >> 3, value));
    }
    found
}

fn split<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    taken
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = split(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

/// The messages under a field.
fn under(bytes: &[u8], field: u64) -> Vec<&[u8]> {
    let found = fields(bytes).into_iter().filter_map(|(number, value)| match value {
        Value::Bytes(bytes) if number == field => Some(bytes),
        Value::Bytes(_) | Value::Number(_) => None,
    });
    found.collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Request, resources, scopes, spans: `opentelemetry/proto/trace/v1/trace.proto`.
fn spans(body: &[u8]) -> Vec<Span> {
    let mut found = Vec::new();
    for resource_spans in under(body, 1) {
        let resource = under(resource_spans, 1).first().copied().unwrap_or_default();
        let service = attributes(&under(resource, 1)).remove("service.name").unwrap_or_default();
        for scope_spans in under(resource_spans, 2) {
            found.extend(under(scope_spans, 2).into_iter().map(|bytes| span(bytes, &service)));
        }
    }
    found
}

fn span(bytes: &[u8], service: &str) -> Span {
    let one = |field| under(bytes, field).first().copied().unwrap_or_default();
    let kind = fields(bytes).into_iter().find_map(|(number, value)| match value {
        Value::Number(kind) if number == 6 => Some(kind),
        Value::Bytes(_) | Value::Number(_) => None,
    });
    let told = under(bytes, 9);
    Span {
        service: service.to_owned(),
        trace: hex(one(1)),
        id: hex(one(2)),
        parent: hex(one(4)),
        name: text(one(5)),
        kind: kind.unwrap_or_default(),
        attributes: attributes(&told),
        attribute_count: told.len(),
    }
}

fn attributes(pairs: &[&[u8]]) -> BTreeMap<String, String> {
    let pair = |pair: &&[u8]| {
        let value = under(pair, 2).first().copied().unwrap_or_default();
        let value = fields(value).into_iter().next().map(|(number, value)| match value {
            Value::Number(value) => value.to_string(),
            Value::Bytes(bytes) if number == 1 => text(bytes),
            Value::Bytes(bytes) => hex(bytes),
        });
        (text(under(pair, 1).first().copied().unwrap_or_default()), value.unwrap_or_default())
    };
    pairs.iter().map(pair).collect()
}

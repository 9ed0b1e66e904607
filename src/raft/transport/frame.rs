//! Frames over a byte stream, in both directions.
//!
//! A frame is the codec's: `[version u8][kind u8][length u32][request id u64, message][CRC32C u32]`.
//! Reading allocates for what arrived, never for what a length claims, and gives up on a peer that
//! is silent, between frames or inside one. Writing gathers what is queued into one write and gives
//! up on a peer that does not read.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::raft::store::codec;

/// Version, kind and length in front of a payload.
const HEADER_BYTES: usize = 6;

/// Space for one read. Larger saves calls while much arrives, smaller saves memory for each peer.
const READ_BYTES: usize = 64 * 1024;

/// A peer that sends nothing for this long inside a frame is cut: no network pauses like that.
const STALL_DEADLINE: Duration = Duration::from_secs(10);

/// Frames are gathered into one write up to about this size.
const WRITE_BYTES: usize = 256 * 1024;

/// One gathered write may take this long before the peer counts as stuck.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Reads frames. Dropping a pending read loses nothing.
pub(super) struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    frame_bytes_max: usize,
    silence_max: Duration,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// `silence_max` is how long nothing may arrive between two frames.
    pub(super) fn new(reader: R, frame_bytes_max: usize, silence_max: Duration) -> Self {
        Self { reader, buffer: BytesMut::new(), frame_bytes_max, silence_max }
    }

    /// Other bounds from now on, once it is known what the connection is for.
    pub(super) fn set_bounds(&mut self, frame_bytes_max: usize, silence_max: Duration) {
        self.frame_bytes_max = frame_bytes_max;
        self.silence_max = silence_max;
    }

    /// The stream below, for tests that speak for a peer.
    #[cfg(test)]
    pub(super) fn stream_mut(&mut self) -> &mut R {
        &mut self.reader
    }

    /// The next message and its request id. `UnexpectedEof` means that the peer hung up between
    /// two frames, `InvalidData` that it sent what is not a message of this kind.
    pub(super) async fn next<T: DeserializeOwned>(&mut self, kind: u8) -> io::Result<(u64, T)> {
        loop {
            let length = self.frame_bytes()?;
            if let Some(length) = length.filter(|length| self.buffer.len() >= *length) {
                let message = decode(&self.buffer[..length], kind);
                self.buffer.advance(length);
                return message;
            }
            self.fill().await?;
        }
    }

    /// Length of the frame at the front, once it is known.
    fn frame_bytes(&self) -> io::Result<Option<usize>> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let payload = u32::from_le_bytes([header[2], header[3], header[4], header[5]]) as usize;
        let length = payload.saturating_add(codec::FRAME_BYTES);
        if length > self.frame_bytes_max {
            return Err(bad(format!(
                "a frame of {length} bytes is over the bound of {}",
                self.frame_bytes_max
            )));
        }
        Ok(Some(length))
    }

    async fn fill(&mut self) -> io::Result<()> {
        let inside = !self.buffer.is_empty();
        let deadline = if inside { STALL_DEADLINE } else { self.silence_max };
        self.buffer.reserve(READ_BYTES);
        let read = timeout(deadline, self.reader.read_buf(&mut self.buffer)).await;
        match read {
            Ok(Ok(0)) if inside => Err(bad("the connection ended inside a frame".to_owned())),
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let place = if inside { "inside a frame" } else { "between two frames" };
                let text = format!("the peer was silent for {deadline:?} {place}");
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }
}

fn bad(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn decode<T: DeserializeOwned>(bytes: &[u8], kind: u8) -> io::Result<(u64, T)> {
    let frame = codec::parse(bytes, 0)?;
    if frame.kind != kind {
        return Err(bad(format!("a frame of kind {:#x} came instead of {kind:#x}", frame.kind)));
    }
    let (id, message) = frame.payload.split_first_chunk::<8>().ok_or(codec::CodecError::Short)?;
    Ok((u64::from_le_bytes(*id), codec::decode(message)?))
}

/// Writes what is queued until the queue is closed or the peer takes nothing.
pub(super) async fn write_frames(
    mut queue: mpsc::Receiver<Vec<u8>>,
    mut writer: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut gathered = Vec::new();
    while let Some(mut frame) = queue.recv().await {
        gathered.clear();
        gathered.shrink_to(2 * WRITE_BYTES);
        // A frame that came alone is written as it is.
        while frame.len() + gathered.len() < WRITE_BYTES
            && let Ok(next) = queue.try_recv()
        {
            gathered.extend_from_slice(&frame);
            frame = next;
        }
        if !gathered.is_empty() {
            gathered.extend_from_slice(&frame);
        }
        let bytes = if gathered.is_empty() { &frame } else { &gathered };
        write_all(&mut writer, bytes).await?;
    }
    Ok(())
}

/// Writes bytes, unless the peer takes none for too long.
pub(super) async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = timeout(WRITE_DEADLINE, writer.write(rest)).await;
        let written = written.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "the peer does not read what is sent")
        })??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = &rest[written..];
    }
    // Streams over others (TLS) may hold bytes back.
    writer.flush().await
}

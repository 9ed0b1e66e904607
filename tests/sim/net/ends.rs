//! The ends of the streams, as the transport holds them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use oarlock::raft::transport::stream::{Acceptor, Connector, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::{Greeting, Net};
use crate::trace::{hash, lock};

/// Bytes on their way in one direction of a stream; then the writer waits.
const WINDOW_BYTES: usize = 256 * 1024;

pub(super) struct SimConnector {
    pub(super) net: Net,
    pub(super) node: u64,
}

impl Connector for SimConnector {
    fn connect(&self, _to: u64, address: String) -> BoxFuture<'static, io::Result<Stream>> {
        let (reply, heard) = oneshot::channel();
        let to = address.trim_start_matches("node-").trim_end_matches(":1").parse();
        let mut state = lock(&self.net.state);
        let (from, delay) = (self.node, state.random.within(1, 5));
        let greeting = Greeting { from, to: to.unwrap_or(0), at: self.net.now.ms() + delay, reply };
        state.greetings.push(greeting);
        async move { heard.await.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionReset.into())) }
            .boxed()
    }
}

/// The listener of a node.
pub(crate) struct SimAcceptor {
    pub(super) net: Net,
    pub(super) node: u64,
}

impl Acceptor for SimAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        std::future::poll_fn(|context| {
            let mut state = lock(&self.net.state);
            let door = state.doors.entry(self.node).or_default();
            let Some(accepted) = door.backlog.pop_front() else {
                door.acceptor = Some(context.waker().clone());
                return Poll::Pending;
            };
            Poll::Ready(Ok(accepted))
        })
        .boxed()
    }
}

pub(super) struct PipeEnd {
    pub(super) net: Net,
    pub(super) id: u64,
}

pub(super) struct Reader(pub(super) PipeEnd);

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0.net.state);
        let Some(pipe) = state.pipes.get_mut(&self.0.id) else { return Poll::Ready(Ok(())) };
        if pipe.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let taken = buffer.remaining().min(pipe.arrived.len());
        if taken == 0 && !pipe.ended {
            pipe.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let bytes: Vec<u8> = pipe.arrived.drain(..taken).collect();
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(pipe) = lock(&self.0.net.state).pipes.get_mut(&self.0.id) {
            pipe.reader_gone = true;
            pipe.arrived.clear();
        }
    }
}

pub(super) struct Writer(pub(super) PipeEnd);

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (net, id) = (&self.0.net, self.0.id);
        let mut state = lock(&net.state);
        let Some(pipe) = state.pipes.get_mut(&id).filter(|pipe| !pipe.broken) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if pipe.flying_bytes + pipe.arrived.len() >= WINDOW_BYTES {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (from, to) = (pipe.from, pipe.to);
        net.trace.note("send", &[id, from, to], hash(bytes));
        state.send(id, net.now.ms(), bytes.to_vec());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let now = self.0.net.now.ms();
        lock(&self.0.net.state).send(self.0.id, now, Vec::new());
    }
}

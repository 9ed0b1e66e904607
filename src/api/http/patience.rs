//! How long a connection may keep us waiting, by what it is doing.
//!
//! ```text
//!  idle  -> bytes -> head -> request complete -> serving -> answered -> idle
//!  75 s              5 s                         (its own deadlines)
//! ```
//!
//! hyper's own header timeout would count the idle time between two requests, too. The timer of
//! reads is set back only when it must ring earlier than it would, or has rung too early: a busy
//! connection moves the moment it waits for, and touches the timer about once in that time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// From the first byte of a request to the end of its headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the client may refuse to take more of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Counts the beginnings and ends of requests: even while none is served.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<AtomicU64>);

impl Turns {
    pub(super) fn next(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// What the read timer stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Nothing,
    Idle(u64),
    Head(u64),
}

/// A stream that loses patience: its reads and writes fail when their time is over.
pub(super) struct Patient<S> {
    stream: S,
    turns: Turns,
    /// The turn in which bytes of a head were read.
    head_began: Option<u64>,
    awaits: Awaits,
    /// When patience ends; the timer rings then or earlier.
    gives_up_at: Instant,
    read_timer: Pin<Box<Sleep>>,
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, turns: Turns) -> Self {
        let read_timer = Box::pin(sleep(IDLE_TIMEOUT));
        Self {
            stream,
            turns,
            head_began: None,
            awaits: Awaits::Nothing,
            gives_up_at: read_timer.deadline(),
            read_timer,
            write_timer: None,
        }
    }

    fn wait_for_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let turn = self.turns.now();
        let (awaits, patience) = if turn % 2 == 1 {
            (Awaits::Nothing, Duration::ZERO)
        } else if self.head_began == Some(turn) {
            (Awaits::Head(turn), HEAD_TIMEOUT)
        } else {
            (Awaits::Idle(turn), IDLE_TIMEOUT)
        };
        if awaits != self.awaits && awaits != Awaits::Nothing {
            self.gives_up_at = sleep(patience).deadline();
            if self.gives_up_at < self.read_timer.deadline() {
                self.read_timer.as_mut().reset(self.gives_up_at);
            }
        }
        self.awaits = awaits;
        if awaits == Awaits::Nothing {
            return Poll::Pending;
        }
        while self.read_timer.as_mut().poll(context).is_ready() {
            if self.read_timer.deadline() >= self.gives_up_at {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let until = self.gives_up_at;
            self.read_timer.as_mut().reset(until);
        }
        Poll::Pending
    }

    fn bound_write<T>(
        &mut self,
        context: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.write_timer = None;
            return wrote;
        }
        let fresh = || Box::pin(sleep(WRITE_TIMEOUT));
        let timer = self.write_timer.get_or_insert_with(fresh);
        timer.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            return self.wait_for_more(context);
        }
        let turn = self.turns.now();
        if turn.is_multiple_of(2) && buffer.filled().len() > before {
            self.head_began = Some(turn);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound_write(context, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bound_write(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::advance;

    use super::*;

    /// A request at 0, 40 and 80 s, silence for 74 s more, and one byte of a head.
    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_outlives_its_timer_and_a_silent_one_does_not() {
        let (mut client, server) = duplex(64);
        let turns = Turns::default();
        let mut server = Patient::new(server, turns.clone());
        let reading = tokio::spawn(async move {
            let mut byte = [0];
            let mut read = 0;
            loop {
                match server.read(&mut byte).await {
                    Ok(_) => read += 1,
                    Err(error) => return (read, error.kind(), Instant::now()),
                }
                if read <= 3 {
                    turns.next();
                    turns.next();
                }
            }
        });
        let began = Instant::now();
        for pause_s in [0, 40, 40, 74] {
            advance(Duration::from_secs(pause_s)).await;
            client.write_all(b"x").await.expect("somebody listens");
            tokio::task::yield_now().await;
        }
        let (read, kind, at) = reading.await.expect("a reader");
        assert_eq!((read, kind), (4, io::ErrorKind::TimedOut));
        let (head_began, patient) = (Duration::from_secs(154), HEAD_TIMEOUT);
        let gave_up = at - began;
        assert!(
            (head_began + patient..head_began + patient + IDLE_TIMEOUT / 10).contains(&gave_up)
        );
    }
}

//! The end of a connection: what must still be sent, and what the peer still sends meanwhile.
//!
//! Closing a socket while the peer still sends makes the kernel answer with a reset, which destroys unsent data and
//! what the peer has not read yet: the tail of the last stream, or the reason of the end. So the end is announced,
//! flushed and shut down, and then input is read and discarded until the peer has ended as well. Streams and handles do
//! not wait for any of it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::driver::Closed;
use super::websocket::{CloseStatus, Websocket};
use crate::wire::limits::CONNECTION_WINDOW;
use crate::wire::{Frame, Violation};

/// State of a connection that is ending.
pub(super) struct Ending {
    pub(super) why: Closed,
    /// Deadline; the rest is lost.
    until: Instant,
    /// Without input until then the peer is dead.
    quiet_until: Instant,
    saying: Saying,
    peer: Peer,
    discarded: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saying {
    Flush,
    Shutdown,
    Said,
}

/// Whether to wait for the peer's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Talks,
    /// It has ended, or need not be waited for.
    Ended,
}

/// Longest a farewell may take when no answer is expected: the peer has ended itself, or is dead.
const FAREWELL: Duration = Duration::from_secs(1);
/// Longest for the reason of an end that cuts all streams: it is queued behind the kernel's buffers, and a peer that
/// sends without reading must get to it first. Far below a daemon's own grace.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Longest for the tail of streams that ended well: own buffers and the kernel's, a quarter of a MiB unsent and a
/// window in flight, on a long lossy path.
const LAST_BYTES: Duration = Duration::from_secs(30);
/// A peer that is silent for this long is dead, as during the connection's life.
const SILENCE: Duration = Duration::from_secs(20);
/// Most bytes discarded: what credit lets a peer have in flight. A peer that sends more does not read.
const DISCARD_MAX: u64 = CONNECTION_WINDOW;
/// Reads in a row before other tasks of this thread get a turn.
const READ_RUN: usize = 64;

// === impl Ending ===

impl Ending {
    /// Queues the farewell. `None`: there is no peer to send it to.
    pub(super) fn begin(
        why: &Closed,
        farewell: impl IntoIterator<Item = Frame>,
        websocket: &mut Websocket,
    ) -> Option<Self> {
        let (status, longest, peer) = match why {
            Closed::Transport(_) => return None,
            Closed::ByPeer | Closed::Violation(Violation::Dead(_)) => {
                (CloseStatus::Normal, FAREWELL, Peer::Ended)
            }
            Closed::Violation(_) | Closed::Websocket(_) => {
                (CloseStatus::Protocol, LAST_WORDS, Peer::Talks)
            }
            Closed::Asked(..) => (CloseStatus::Normal, LAST_WORDS, Peer::Talks),
            Closed::Drained => (CloseStatus::Normal, LAST_BYTES, Peer::Talks),
        };
        for frame in farewell {
            websocket.queue(frame);
        }
        websocket.queue_close(status);
        let now = Instant::now();
        Some(Self {
            why: why.clone(),
            until: now + longest,
            quiet_until: now + SILENCE,
            saying: Saying::Flush,
            peer,
            discarded: 0,
        })
    }

    /// Ready when the socket may be dropped.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        websocket: &mut Websocket,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<()> {
        let heard = self.poll_discard(cx, websocket);
        match self.poll_say(cx, websocket) {
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(())) if self.peer == Peer::Ended => return Poll::Ready(()),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if self.discarded > DISCARD_MAX {
            return Poll::Ready(());
        }
        if heard {
            self.quiet_until = Instant::now() + SILENCE;
        }
        timer.as_mut().reset(self.until.min(self.quiet_until));
        timer.poll(cx)
    }

    fn poll_say(
        &mut self,
        cx: &mut Context<'_>,
        websocket: &mut Websocket,
    ) -> Poll<std::io::Result<()>> {
        if self.saying == Saying::Flush {
            ready!(websocket.poll_flush(cx))?;
            self.saying = Saying::Shutdown;
        }
        if self.saying == Saying::Shutdown {
            ready!(websocket.poll_shutdown(cx))?;
            self.saying = Saying::Said;
        }
        Poll::Ready(Ok(()))
    }

    /// True when something arrived.
    fn poll_discard(&mut self, cx: &mut Context<'_>, websocket: &mut Websocket) -> bool {
        let before = self.discarded;
        for _ in 0..READ_RUN {
            if self.peer == Peer::Ended {
                return self.discarded > before;
            }
            match websocket.poll_discard(cx) {
                Poll::Pending => return self.discarded > before,
                Poll::Ready(None) => self.peer = Peer::Ended,
                Poll::Ready(Some(n)) => self.discarded += n as u64,
            }
        }
        cx.waker().wake_by_ref();
        true
    }
}

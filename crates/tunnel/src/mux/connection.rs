//! The websocket below a session: what is read from it, and what is written to it, by its driver or by a stream's task.
//!
//! A stream's task that has queued what fills a write sends it itself, unless another task is writing: no task has to be
//! woken for it, on another thread perhaps. What the socket does not accept is left to the driver, which the socket
//! wakes.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::driver::Closed;
use super::shared::Shared;
use super::websocket::{FRAME_FULL, Message, Websocket};
use crate::wire::limits::DATA_MAX;

/// The websocket, and the state of writing to it. Its lock is held while the socket is called, and never waited for:
/// see [`Shared::hold`].
pub(super) struct Connection {
    pub(super) websocket: Websocket,
    /// The socket did not accept everything yet.
    pub(super) flushing: bool,
    /// HELLO has been queued. It is always the first frame.
    pub(super) greeted: bool,
    pub(super) unwritable: Option<Unwritable>,
    /// The session is over, and only its driver writes.
    pub(super) over: bool,
    /// The driver's: the socket wakes it, whichever task wrote.
    waker: Option<Waker>,
}

/// The socket accepts nothing any more. What the peer sent before is read anyway: answers of one that was killed, or
/// its farewell.
pub(super) struct Unwritable {
    pub(super) why: Closed,
    /// Deadline of the end.
    pub(super) until: Instant,
}

/// Result of one run of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Nothing,
    Some,
    /// There may be more, but the readers go first.
    Enough,
}

/// Most payload gathered before a flush: under load TLS records are full, when idle one frame leaves at once. It is
/// also what a keystroke may find ahead of itself in our own buffers.
const GATHER: usize = 96 * 1024;
/// What TLS below a driver must accept in one piece beyond GATHER: headers of very many small frames, an answer of the
/// websocket.
const GATHER_HEADERS: usize = 32 * 1024;
/// Most bytes of one write of a driver. TLS that buffers less turns the rest into records and system calls of a few
/// bytes.
pub const WRITE_MAX: usize = GATHER + GATHER_HEADERS;
/// Queued bytes that are worth a write of their own. With less a stream's task leaves it to the driver, which gathers
/// what all streams have.
pub(super) const WORTH_A_WRITE: usize = GATHER / 2;
/// Time limit for reading what arrived before the socket broke: it is in the kernel already, and ends there.
const LAST_READ: Duration = Duration::from_secs(1);
/// Messages read in a row before frames are written.
const READ_RUN: usize = 64;
/// Bytes read in a row before their readers get a turn: while all is still in the processor's cache, and before streams
/// have to copy waiting data.
const READ_RUN_BYTES: usize = 4 * FRAME_FULL;

// === impl Connection ===

impl Connection {
    pub(super) fn new(websocket: Websocket) -> Self {
        Self {
            websocket,
            flushing: false,
            greeted: false,
            unwritable: None,
            over: false,
            waker: None,
        }
    }

    /// The driver is polled with this waker.
    pub(super) fn driven_by(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|w| w.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    /// Reads until nothing is there, or enough was read. Its readers are woken once.
    pub(super) fn poll_in(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
    ) -> Result<Taken, Closed> {
        let taken = self.poll_take(shared, cx);
        if taken != Ok(Taken::Nothing) {
            shared.lock().dispatch();
        }
        taken
    }

    fn poll_take(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Result<Taken, Closed> {
        let (mut taken_bytes, mut urgent) = (0, false);
        for n in 0..READ_RUN {
            if taken_bytes >= READ_RUN_BYTES {
                return Ok(Taken::Enough);
            }
            let message = match self.websocket.poll_message(cx) {
                Poll::Pending if n == 0 => return Ok(Taken::Nothing),
                // Further writes can wait until the waiting task has had its turn.
                Poll::Pending if urgent => return Ok(Taken::Enough),
                Poll::Pending => return Ok(Taken::Some),
                Poll::Ready(message) => message.map_err(Closed::from)?,
            };
            match message {
                Message::Binary(bytes) => {
                    taken_bytes += bytes.len();
                    let now = shared.now();
                    let mut state = shared.lock();
                    let taken = state.session.receive(bytes, now);
                    if state.session.is_urgent() {
                        // There may be more of it behind. If there is none this costs nothing.
                        taken_bytes = taken_bytes.max(READ_RUN_BYTES - 1);
                        urgent = state.session.has_bulk();
                    }
                    drop(state);
                    taken.map_err(Closed::Violation)?;
                }
                Message::Close => return Err(Closed::ByPeer),
            }
        }
        Ok(Taken::Some)
    }

    /// Writes until the socket is full or nothing is left; a socket that breaks is noted. True when something was
    /// written, a backlog has been flushed, or it broke: each changes the deadlines.
    pub(super) fn poll_out(&mut self, shared: &Shared, cx: &mut Context<'_>) -> bool {
        if self.unwritable.is_some() {
            return false;
        }
        self.poll_write(shared, cx).unwrap_or_else(|why| {
            let until = Instant::now() + LAST_READ;
            self.unwritable = Some(Unwritable { why, until });
            true
        })
    }

    fn poll_write(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let mut wrote = false;
        loop {
            // Also writes the websocket's own answers.
            match self.websocket.poll_flush(cx) {
                Poll::Pending => {
                    self.flushing = true;
                    shared.lock().blocked = true;
                    return Ok(wrote);
                }
                Poll::Ready(result) => result.map_err(|e| Closed::Transport(e.to_string()))?,
            }
            wrote |= std::mem::take(&mut self.flushing);
            if self.gather(shared, GATHER) == 0 {
                return Ok(wrote);
            }
            wrote = true;
        }
    }

    /// Queues what the session has to send, up to this many bytes. The lock is taken once, and a writer that has room
    /// again is woken once: waking per piece would run the writer, on another core, into this very lock.
    pub(super) fn gather(&mut self, shared: &Shared, most: usize) -> usize {
        let mut state = shared.lock();
        let now = shared.now();
        let mut gathered = 0;
        while gathered + DATA_MAX <= most
            && let Some(frame) = state.session.transmit(now)
        {
            gathered += self.websocket.queue(frame);
        }
        state.blocked = false;
        state.dispatch();
        self.greeted |= gathered > 0;
        gathered
    }

    /// Writes from a stream's task. False: the driver has to.
    pub(super) fn send_now(&mut self, shared: &Shared) -> bool {
        if self.over || !self.greeted {
            return false;
        }
        let Some(waker) = self.waker.clone() else {
            return false;
        };
        self.poll_out(shared, &mut Context::from_waker(&waker));
        self.unwritable.is_none()
    }
}

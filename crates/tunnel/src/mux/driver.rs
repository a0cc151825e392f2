//! Moves messages between a session and its websocket.
//!
//! One future does everything, so reading never waits for writing: each turn reads what there is, writes what the
//! socket accepts, and checks the time. The lock is taken per message and never held across a wait.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::clock::Clock;
use super::ending::Ending;
use super::shared::{Handle, Incoming, Shared};
use super::websocket::{FRAME_FULL, Message, Websocket, WebsocketError};
use crate::wire::limits::DATA_MAX;
use crate::wire::{Code, Config, Frame, Session, Side, Violation};

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// One side sent GOAWAY and no stream was left.
    Drained,
    /// This side asked for it.
    Asked(Code, String),
    /// The peer closed the websocket.
    ByPeer,
    /// The transport broke.
    Transport(String),
    /// The peer does not speak the agreed websocket.
    Websocket(&'static str),
    /// The peer broke the protocol, or is dead.
    Violation(Violation),
}

/// The future that drives a connection. Ends when the socket may be closed: a while after [`Handle::closed`], when the
/// peer has received everything sent before, or its time for that is over.
pub struct Driver {
    websocket: Websocket,
    shared: Arc<Shared>,
    timer: Pin<Box<Sleep>>,
    flushing: bool,
    /// HELLO has been queued. It is always the first frame.
    greeted: bool,
    unwritable: Option<Unwritable>,
    ending: Option<Ending>,
}

/// The socket accepts nothing any more. What the peer sent before is read anyway: answers of one that was killed, or
/// its farewell.
struct Unwritable {
    why: Closed,
    /// Deadline of the end.
    until: Instant,
}

/// Result of one run of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
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
/// Time limit for reading what arrived before the socket broke: it is in the kernel already, and ends there.
const LAST_READ: Duration = Duration::from_secs(1);
/// Messages read in a row before frames are written.
const READ_RUN: usize = 64;
/// Bytes read in a row before their readers get a turn: while all is still in the processor's cache, and before streams
/// have to copy waiting data.
const READ_RUN_BYTES: usize = 4 * FRAME_FULL;
/// Turns of the loop before other tasks of this thread get one.
const TURNS: usize = 16;

/// Starts a session on a websocket whose handshake is done. The driver must be polled.
pub fn session(websocket: Websocket, side: Side, config: Config) -> (Handle, Incoming, Driver) {
    session_on(Clock::new(), websocket, side, config)
}

/// [`session`] with a clock of the caller's.
pub(super) fn session_on(
    clock: Clock,
    websocket: Websocket,
    side: Side,
    config: Config,
) -> (Handle, Incoming, Driver) {
    let shared = Shared::new(clock, |now| Session::new(side, config, now));
    let driver = Driver {
        websocket,
        shared: Arc::clone(&shared),
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        flushing: false,
        greeted: false,
        unwritable: None,
        ending: None,
    };
    let handle = Handle {
        shared: Arc::clone(&shared),
    };
    (handle, Incoming { shared }, driver)
}

// === impl Driver ===

impl Driver {
    /// Reads until nothing is there, or enough was read. Its readers are woken once.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Result<Taken, Closed> {
        let taken = self.poll_take(cx);
        if taken != Ok(Taken::Nothing) {
            self.shared.lock().dispatch();
        }
        taken
    }

    fn poll_take(&mut self, cx: &mut Context<'_>) -> Result<Taken, Closed> {
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
                    let now = self.shared.now();
                    let mut state = self.shared.lock();
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

    /// Writes until the socket is full or nothing is left. True when something was written, or a backlog has been
    /// flushed: either changes the deadlines.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let mut wrote = false;
        if self.unwritable.is_some() {
            return Ok(wrote);
        }
        loop {
            // Also writes the websocket's own answers.
            match self.websocket.poll_flush(cx) {
                Poll::Pending => {
                    self.flushing = true;
                    return Ok(wrote);
                }
                Poll::Ready(result) => result.map_err(|e| Closed::Transport(e.to_string()))?,
            }
            wrote |= std::mem::take(&mut self.flushing);
            if self.gather(GATHER) == 0 {
                return Ok(wrote);
            }
            wrote = true;
        }
    }

    /// Queues what the session has to send, up to this many bytes. The lock is taken once, and a writer that has room
    /// again is woken once: waking per piece would run the writer, on another core, into this very lock.
    fn gather(&mut self, most: usize) -> usize {
        let mut state = self.shared.lock();
        let now = self.shared.now();
        let mut gathered = 0;
        while gathered + DATA_MAX <= most
            && let Some(frame) = state.session.transmit(now)
        {
            gathered += self.websocket.queue(frame);
        }
        state.dispatch();
        self.greeted |= gathered > 0;
        gathered
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        self.shared.clock.look();
        let next = {
            let mut state = self.shared.lock();
            // Whatever this turn waits for, the application can always wake it.
            state.driver = Some(cx.waker().clone());
            if let Some((code, words)) = state.close_asked.clone() {
                return Err(Closed::Asked(code, words));
            }
            let now = self.shared.now();
            let alive = state.session.tick(now);
            state.dispatch();
            alive.map_err(Closed::Violation)?;
            if state.session.is_drained() && !self.flushing {
                return Err(Closed::Drained);
            }
            // Due frames are checked again as soon as the socket accepts bytes.
            let can_send = !self.flushing && self.unwritable.is_none();
            state.session.next_deadline(can_send)
        };
        let mut next = self.shared.clock.instant(next);
        if let Some(Unwritable { why, until }) = &self.unwritable {
            if Instant::now() >= *until {
                return Err(why.clone());
            }
            next = next.min(*until);
        }
        // A timer that fires early just checks again. Resetting it to a later time on each turn costs more.
        if next < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(next);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            self.websocket.rest();
            // Due pings leave with this turn's `poll_out`; wake for the deadline after them.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        for _ in 0..TURNS {
            // Time first: it registers the waker, so that requests of the application while the socket is written are
            // not missed.
            self.poll_time(cx)?;
            // Then output, which a person may be waiting for: a run of reading takes a tenth of a millisecond.
            let wrote = self.poll_out(cx).unwrap_or_else(|why| {
                let until = Instant::now() + LAST_READ;
                self.unwritable = Some(Unwritable { why, until });
                true
            });
            let read = self.poll_in(cx)?;
            match read {
                Taken::Nothing if !wrote => {
                    self.websocket.wait();
                    return Ok(());
                }
                Taken::Nothing | Taken::Some => {}
                Taken::Enough => break,
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Informs this side immediately, and queues the message for the peer.
    fn begin_ending(&mut self, why: &Closed) {
        let farewell = {
            let mut state = self.shared.lock();
            // Streams that were looked at are not safe to repeat elsewhere, however this ends.
            let last = state.session.last_stream();
            state.close(why.clone());
            match why {
                Closed::Violation(v) => Some(state.session.farewell(v)),
                Closed::Asked(code, words) => Some(Frame::GoAway(last, *code, 0, words.clone())),
                Closed::Websocket(_) => {
                    Some(Frame::GoAway(last, Code::Protocol, 0, why.to_string()))
                }
                Closed::Drained | Closed::ByPeer | Closed::Transport(_) => None,
            }
        };
        // HELLO goes first in any case.
        if !self.greeted {
            self.gather(DATA_MAX);
        }
        self.ending = Ending::begin(why, farewell, &mut self.websocket);
    }
}

impl Future for Driver {
    type Output = Closed;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Closed> {
        let this = self.get_mut();
        if this.ending.is_none() {
            let Err(why) = this.poll_turns(cx) else {
                return Poll::Pending;
            };
            this.begin_ending(&why);
            if this.ending.is_none() {
                return Poll::Ready(why);
            }
        }
        let Some(ending) = &mut this.ending else {
            return Poll::Pending;
        };
        ready!(ending.poll(cx, &mut this.websocket, this.timer.as_mut()));
        Poll::Ready(ending.why.clone())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Without its driver a connection is over; streams must not wait for it.
        let why = Closed::Transport("its driver was stopped".into());
        self.shared.lock().close(why);
    }
}

impl From<WebsocketError> for Closed {
    fn from(e: WebsocketError) -> Self {
        match e {
            WebsocketError::Protocol(what) => Self::Websocket(what),
            WebsocketError::Io(_) | WebsocketError::Eof => Self::Transport(crate::chain(&e)),
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drained => f.write_str("drained after a farewell"),
            Self::Asked(code, words) => write!(f, "closed by this side ({code}: {words})"),
            Self::ByPeer => f.write_str("closed by the peer"),
            Self::Transport(why) => f.write_str(why),
            Self::Websocket(what) => write!(f, "websocket: {what}"),
            Self::Violation(v) => f.write_str(&crate::chain(v)),
        }
    }
}

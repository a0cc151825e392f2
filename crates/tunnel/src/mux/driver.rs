//! Moves messages between a session and its websocket.
//!
//! One future does everything, so reading never waits for writing: each turn it reads what there
//! is, writes what the socket takes, and looks at the time. The lock is taken per message and
//! never held while anything is waited for.

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
    /// One side said farewell and no stream was left.
    Drained,
    /// This side asked for it.
    Asked(Code, String),
    /// The peer closed the websocket.
    ByPeer,
    /// The transport broke.
    Transport(String),
    /// What the peer sends is not the websocket that was agreed on.
    Websocket(&'static str),
    /// The peer broke the protocol, or is dead.
    Violation(Violation),
}

/// The future that drives a connection. Ends when the socket may be closed: a while after
/// [`Handle::closed`], when the peer has all that was sent before, or its time for that is over.
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

/// The socket takes nothing any more. What the peer sent before is read anyway: the answers
/// of one that was killed, or its farewell.
struct Unwritable {
    why: Closed,
    /// It should have ended by then.
    until: Instant,
}

/// What one run of reading brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Nothing,
    Some,
    /// There may be more, but those it is for come first.
    Enough,
}

/// Most payload gathered before a flush: under load TLS records are full, when idle one frame
/// leaves at once. Also what a key stroke may find ahead of itself in our own buffers.
const GATHER: usize = 96 * 1024;
/// What TLS below a driver must take in one piece, beside what GATHER counts: headers of very many
/// small frames, an answer of the websocket.
const GATHER_HEADERS: usize = 32 * 1024;
/// Most bytes one write of a driver hands on. TLS that buffers less makes records and system calls
/// of a few bytes out of what does not fit.
pub const WRITE_MAX: usize = GATHER + GATHER_HEADERS;
/// Longest for what came before the socket broke: it is in the kernel already, and ends there.
const LAST_READ: Duration = Duration::from_secs(1);
/// Messages read in a row before frames are written.
const READ_RUN: usize = 64;
/// Bytes read in a row before those they are for get a turn: while all is still in the processor's
/// cache, and before streams have to copy what waits in them.
const READ_RUN_BYTES: usize = 4 * FRAME_FULL;
/// Turns of the loop before others of this thread get one.
const TURNS: usize = 16;

/// Begins a session on a websocket whose handshake is done. The driver must be run.
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
    /// Reads until nothing is there, or enough was. Its readers are woken once.
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
                // What else is to be written can wait until the waiting task has had its turn.
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
                        // So is what may stand behind it. Where nothing does it costs nothing.
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

    /// Writes until the socket is full or nothing is left. True when something was written, or what
    /// the socket had not taken before has left: either changes what the time is looked at for.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let mut wrote = false;
        if self.unwritable.is_some() {
            return Ok(wrote);
        }
        loop {
            // Also writes what the websocket itself has to answer.
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

    /// Queues what the session has to send, up to so many bytes. The lock is taken once, and a writer
    /// that finds room again is woken once: waking per piece would run the writer, on another core, into
    /// this very lock.
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
            // Whatever this turn waits for: the application can always be served.
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
            // What is due to be sent is looked at again as soon as the socket takes bytes.
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
        // One that comes too early looks again. To set it again each turn, for a later time, costs more.
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
            // Time first: it registers the waker, so that what an application asks for while the
            // socket is written is not missed.
            self.poll_time(cx)?;
            // Then output, which a person may be waiting for: a run of reading takes a tenth of a millisecond.
            let wrote = self.poll_out(cx).unwrap_or_else(|why| {
                let until = Instant::now() + LAST_READ;
                self.unwritable = Some(Unwritable { why, until });
                true
            });
            let read = self.poll_in(cx)?;
            match read {
                Taken::Nothing if !wrote => return Ok(()),
                Taken::Nothing | Taken::Some => {}
                Taken::Enough => break,
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Tells this side at once, and queues what the peer is to be told.
    fn begin_ending(&mut self, why: &Closed) {
        let farewell = {
            let mut state = self.shared.lock();
            // What was looked at is not safe to repeat elsewhere, however this ends.
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
        // Whatever it says, HELLO goes first.
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

//! Moves messages between a session and its websocket.
//!
//! One future does everything, so reading never waits for writing: each turn reads what there is, writes what the
//! socket accepts, and checks the time. The session's lock is taken per message and never held across a wait. While the
//! driver is awake nobody wakes it: it checks again before it sleeps.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::clock::Clock;
use super::connection::{Connection, Taken, Unwritable};
use super::ending::Ending;
use super::shared::{Handle, Incoming, Shared};
use super::websocket::{Websocket, WebsocketError};
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
    shared: Arc<Shared>,
    timer: Pin<Box<Sleep>>,
    ending: Option<Ending>,
}

/// A driver that has its connection.
struct Turns<'a> {
    shared: &'a Shared,
    connection: &'a mut Connection,
    timer: Pin<&'a mut Sleep>,
}

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
    let connection = Connection::new(websocket);
    let shared = Shared::new(clock, connection, |now| Session::new(side, config, now));
    let driver = Driver {
        shared: Arc::clone(&shared),
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        ending: None,
    };
    let handle = Handle {
        shared: Arc::clone(&shared),
    };
    (handle, Incoming { shared }, driver)
}

// === impl Turns ===

impl Turns<'_> {
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        self.shared.clock.look();
        let next = {
            let mut state = self.shared.lock();
            state.driver_wakes();
            if let Some((code, words)) = state.close_asked.clone() {
                return Err(Closed::Asked(code, words));
            }
            let now = self.shared.now();
            let alive = state.session.tick(now);
            state.dispatch();
            alive.map_err(Closed::Violation)?;
            let flushing = self.connection.flushing;
            if state.session.is_drained() && !flushing {
                return Err(Closed::Drained);
            }
            // Due frames are checked again as soon as the socket accepts bytes.
            let can_send = !flushing && self.connection.unwritable.is_none();
            state.session.next_deadline(can_send)
        };
        let mut next = self.shared.clock.instant(next);
        if let Some(Unwritable { why, until }) = &self.connection.unwritable {
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
            self.connection.websocket.rest();
            self.shared.lock().rest();
            // Due pings leave with this turn's `poll_out`; wake for the deadline after them.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        for _ in 0..TURNS {
            self.poll_time(cx)?;
            // Then output, which a person may be waiting for: a run of reading takes a tenth of a millisecond.
            let wrote = self.connection.poll_out(self.shared, cx);
            match self.connection.poll_in(self.shared, cx)? {
                Taken::Nothing if !wrote => {
                    self.connection.websocket.wait();
                    if self.shared.lock().driver_sleeps(cx.waker()) {
                        return Ok(());
                    }
                }
                Taken::Nothing | Taken::Some => {}
                Taken::Enough => break,
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Informs this side immediately, and queues the message for the peer.
    fn begin_ending(&mut self, why: &Closed) -> Option<Ending> {
        self.connection.over = true;
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
        if !self.connection.greeted {
            self.connection.gather(self.shared, DATA_MAX);
        }
        Ending::begin(why, farewell, &mut self.connection.websocket)
    }
}

// === impl Driver ===

impl Future for Driver {
    type Output = Closed;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Closed> {
        let this = self.get_mut();
        let (shared, ending): (&Shared, _) = (&this.shared, &mut this.ending);
        let Some(mut held) = shared.hold(cx.waker()) else {
            return Poll::Pending;
        };
        // It is there as long as this driver is.
        let Some(connection) = held.as_mut() else {
            return Poll::Pending;
        };
        connection.driven_by(cx.waker());
        if ending.is_none() {
            let mut turns = Turns {
                shared,
                connection: &mut *connection,
                timer: this.timer.as_mut(),
            };
            let Err(why) = turns.poll_all(cx) else {
                return Poll::Pending;
            };
            *ending = turns.begin_ending(&why);
            if ending.is_none() {
                return Poll::Ready(why);
            }
        }
        let Some(ending) = ending else {
            return Poll::Pending;
        };
        ready!(ending.poll(cx, &mut connection.websocket, this.timer.as_mut()));
        Poll::Ready(ending.why.clone())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Closes the socket. Streams and handles may live on.
        drop(self.shared.take_connection());
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

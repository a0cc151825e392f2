//! State shared by the driver and the streams.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::clock::Clock;
use super::connection::{Connection, WORTH_A_WRITE};
use super::driver::Closed;
use super::stream::MuxStream;
use crate::wire::{
    Class, Code, Event, GoAway, Meta, Open, OpenError, Session, Stats, StreamEnd, StreamId,
    StreamStats, Time, free,
};

pub(super) struct Shared {
    state: Mutex<State>,
    /// As long as the driver lives. A task that holds it may take the lock of `state`, never the other way round.
    connection: Mutex<Option<Connection>>,
    pub(super) clock: Clock,
}

pub(super) struct State {
    pub(super) session: Session,
    pub(super) wakers: BTreeMap<StreamId, StreamWakers>,
    incoming: VecDeque<(StreamId, Open)>,
    incoming_waker: Option<Waker>,
    /// The driver sleeps.
    driver: Option<Waker>,
    /// It was called while it was awake.
    called: bool,
    /// It found a stream's task at the connection.
    wanted: bool,
    /// The socket accepts nothing, and wakes the driver when it does.
    pub(super) blocked: bool,
    /// Writes of streams' tasks since the driver's last turn.
    in_a_row: u32,
    /// The connection is over, and why.
    pub(super) closed: Option<Closed>,
    /// The application asked to close.
    pub(super) close_asked: Option<(Code, String)>,
    peer_left: Option<GoAway>,
    /// Tasks that wait for a GOAWAY or the end.
    watchers: Watchers,
    /// Tasks that wait for a pong. Separate from the others: while somebody types there are thousands per second, and
    /// hardly ever a task that waits.
    pingers: Watchers,
    /// Answered pings they were notified of.
    pings_told: u64,
}

/// Tasks that wait for the same thing; each once.
#[derive(Default)]
struct Watchers(Vec<Waker>);

#[derive(Default)]
pub(super) struct StreamWakers {
    pub(super) read: Option<Waker>,
    pub(super) write: Option<Waker>,
    /// This side ended it while its holder still had it. The session has forgotten it, and a forgotten stream reads
    /// like one that the peer finished.
    pub(super) ended: Option<Box<StreamEnd>>,
}

/// Opens streams on a connection. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

/// Streams the peer opens.
pub struct Incoming {
    pub(super) shared: Arc<Shared>,
}

/// A stream the peer opened: accept or refuse it. Dropping it refuses it.
pub struct Opened {
    /// The peer's request.
    pub open: Open,
    stream: Option<MuxStream>,
}

/// Writes that streams' tasks do before it is the driver's turn again: a task whose socket always has more would keep
/// its thread from all others. Fewer while somebody types.
const IN_A_ROW: u32 = 4;
const IN_A_ROW_TYPED: u32 = 1;

// === impl Shared, State ===

impl Shared {
    pub(super) fn new(
        clock: Clock,
        connection: Connection,
        make: impl FnOnce(Time) -> Session,
    ) -> Arc<Self> {
        Arc::new(Self {
            connection: Mutex::new(Some(connection)),
            state: Mutex::new(State {
                session: make(Time::default()),
                wakers: BTreeMap::new(),
                incoming: VecDeque::new(),
                incoming_waker: None,
                driver: None,
                called: false,
                wanted: false,
                blocked: false,
                in_a_row: 0,
                closed: None,
                close_asked: None,
                peer_left: None,
                watchers: Watchers::default(),
                pingers: Watchers::default(),
                pings_told: 0,
            }),
            clock,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held leaves a session that the driver ends; a second panic would help nobody.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// The connection, for its driver. `None`: a stream's task has it, and wakes the driver when it is done.
    pub(super) fn hold(&self, driver: &Waker) -> Option<MutexGuard<'_, Option<Connection>>> {
        self.try_hold().or_else(|| {
            let mut state = self.lock();
            state.driver = Some(driver.clone());
            state.wanted = true;
            drop(state);
            // It may have been done before it could know.
            self.try_hold()
        })
    }

    fn try_hold(&self) -> Option<MutexGuard<'_, Option<Connection>>> {
        match self.connection.try_lock() {
            Ok(held) => Some(held),
            Err(TryLockError::Poisoned(held)) => Some(held.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The driver is dropped. Waits for a stream's task that is writing, for one write.
    pub(super) fn take_connection(&self) -> Option<Connection> {
        let held = self.connection.lock();
        held.unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A stream's task has queued something: it sends what is worth a write; less, or what it cannot, the driver does.
    pub(super) fn send(&self, mut state: MutexGuard<'_, State>, stream: StreamId) {
        if !state.is_worth_a_write(stream) {
            return state.wake_to_send();
        }
        state.in_a_row += 1;
        drop(state);
        let sent = match self.try_hold() {
            Some(mut held) => held.as_mut().is_some_and(|c| c.send_now(self)),
            None => false,
        };
        let mut state = self.lock();
        if std::mem::take(&mut state.wanted) || !sent {
            state.wake_driver();
        }
    }
}

impl State {
    pub(super) fn wake_driver(&mut self) {
        match self.driver.take() {
            Some(waker) => waker.wake(),
            None => self.called = true,
        }
    }

    /// The stream's task may send what is queued, and has enough of its own.
    pub(super) fn is_worth_a_write(&self, stream: StreamId) -> bool {
        let most = match self.session.is_typed_on() {
            true => IN_A_ROW_TYPED,
            false => IN_A_ROW,
        };
        // That a session has drained only its driver notices.
        let may = !self.blocked && self.in_a_row < most && !self.session.is_leaving();
        may && self.session.sendable(stream) >= WORTH_A_WRITE
    }

    /// There is something to send, and nothing else to do: useless to say so while the socket accepts nothing.
    pub(super) fn wake_to_send(&mut self) {
        if !self.blocked {
            self.wake_driver();
        }
    }

    /// Frees what a busy time left behind.
    pub(super) fn rest(&mut self) {
        self.session.rest();
        free(&mut self.incoming);
    }

    /// The driver begins a turn: it finds whatever it would be called for.
    pub(super) fn driver_wakes(&mut self) {
        self.driver = None;
        (self.called, self.wanted) = (false, false);
        self.in_a_row = 0;
    }

    /// The driver found nothing to do. False: it was called meanwhile, and looks again.
    pub(super) fn driver_sleeps(&mut self, driver: &Waker) -> bool {
        let called = std::mem::take(&mut self.called);
        if !called {
            self.driver = Some(driver.clone());
        }
        !called
    }

    /// Wakes the tasks that the session's events concern.
    pub(super) fn dispatch(&mut self) {
        let (pings, _) = self.session.pings_answered();
        if std::mem::replace(&mut self.pings_told, pings) != pings {
            self.pingers.wake();
        }
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Opened(stream, open) => {
                    self.incoming.push_back((stream, open));
                    wake(&mut self.incoming_waker);
                }
                Event::Accepted(_) => {}
                Event::Readable(stream) => {
                    if let Some(w) = self.wakers.get_mut(&stream) {
                        wake(&mut w.read);
                    }
                }
                Event::Writable(stream) => {
                    if let Some(w) = self.wakers.get_mut(&stream) {
                        wake(&mut w.write);
                    }
                }
                Event::Ended(stream, _) => {
                    if let Some(w) = self.wakers.get_mut(&stream) {
                        wake(&mut w.read);
                        wake(&mut w.write);
                    }
                }
                Event::GoAway(farewell) => {
                    self.peer_left = Some(farewell);
                    self.watchers.wake();
                }
            }
        }
    }

    /// The connection is over: wakes every waiting task.
    pub(super) fn close(&mut self, why: Closed) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(why);
        for w in self.wakers.values_mut() {
            wake(&mut w.read);
            wake(&mut w.write);
        }
        wake(&mut self.incoming_waker);
        self.watchers.wake();
        self.pingers.wake();
        self.wake_driver();
    }
}

impl Watchers {
    fn wake(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }

    fn add(&mut self, waker: &Waker) {
        self.0.retain(|w| !w.will_wake(waker));
        self.0.push(waker.clone());
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

// === impl Handle ===

impl Handle {
    /// Opens a stream to a service of the peer. Returns immediately; data may be written before the peer answers, and a
    /// refusal is the stream's first read error.
    pub fn open(&self, service: &str, class: Class, meta: Meta) -> Result<MuxStream, OpenError> {
        let mut state = self.shared.lock();
        if state.closed.is_some() {
            return Err(OpenError::GoingAway);
        }
        let now = self.shared.now();
        let stream = state.session.open(service, class, meta, now)?;
        state.wakers.insert(stream, StreamWakers::default());
        state.wake_driver();
        drop(state);
        Ok(MuxStream::new(Arc::clone(&self.shared), stream))
    }

    /// Numbers for people and metrics.
    pub fn stats(&self) -> Stats {
        self.shared.lock().session.stats()
    }

    /// Numbers of open streams, at most `max` of them.
    pub fn streams(&self, max: usize) -> Vec<StreamStats> {
        self.shared.lock().session.streams().take(max).collect()
    }

    /// How long ago the peer was last heard.
    pub fn silence(&self) -> Duration {
        let state = self.shared.lock();
        self.shared.now().since(state.session.heard_at())
    }

    /// No new stream can be opened: either side sent GOAWAY, or the connection is over.
    pub fn is_leaving(&self) -> bool {
        let state = self.shared.lock();
        state.session.is_leaving() || state.closed.is_some()
    }

    /// Most bytes this side may have to hold for it from here on, once it drains.
    pub fn bound(&self) -> u64 {
        self.shared.lock().session.bound()
    }

    /// Measures one round trip with a PING of the protocol; `None` if the connection ends first.
    pub async fn ping(&self) -> Option<Duration> {
        let before = {
            let mut state = self.shared.lock();
            let now = self.shared.now();
            state.session.hurry_ping(now);
            state.wake_driver();
            state.session.pings_answered().0
        };
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            let (answered, took) = state.session.pings_answered();
            if answered > before {
                return Poll::Ready(Some(took));
            }
            if state.closed.is_some() {
                return Poll::Ready(None);
            }
            state.pingers.add(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Ends one stream in both directions; the peer sees the reason. For code that supervises a stream
    /// held elsewhere.
    pub fn end_stream(&self, stream: u32, code: Code, words: &str) {
        let mut state = self.shared.lock();
        let (stream, end) = (StreamId(stream), StreamEnd::own(code, words));
        if let Some(w) = state.wakers.get_mut(&stream) {
            w.ended.get_or_insert_with(|| Box::new(end.clone()));
        }
        state.session.reset(stream, end);
        state.wake_driver();
    }

    /// Sends GOAWAY: no new streams; the driver ends when the running ones have.
    pub fn leave(&self, code: Code, come_back_after: Duration, words: &str) {
        let mut state = self.shared.lock();
        state.session.leave(GoAway {
            code,
            come_back_after,
            words: words.to_owned(),
        });
        state.wake_driver();
    }

    /// Ends the connection now, streams and all.
    pub fn close(&self, code: Code, words: &str) {
        let mut state = self.shared.lock();
        state
            .close_asked
            .get_or_insert_with(|| (code, words.to_owned()));
        state.wake_driver();
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) -> Closed {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            match &state.closed {
                Some(why) => Poll::Ready(why.clone()),
                None => {
                    state.watchers.add(cx.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Waits until the peer sends GOAWAY; `None` if the connection ends without one.
    pub async fn peer_leaves(&self) -> Option<GoAway> {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.peer_left.is_some() || state.closed.is_some() {
                return Poll::Ready(state.peer_left.clone());
            }
            state.watchers.add(cx.waker());
            Poll::Pending
        })
        .await
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

// === impl Incoming, Opened ===

impl Incoming {
    /// The next stream the peer opened; `None` when the connection is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Opened> {
        let (stream, open) = poll_fn(|cx| {
            let mut state = self.shared.lock();
            if let Some((stream, open)) = state.incoming.pop_front() {
                state.wakers.insert(stream, StreamWakers::default());
                return Poll::Ready(Some((stream, open)));
            }
            if state.closed.is_some() {
                return Poll::Ready(None);
            }
            state.incoming_waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await?;
        Some(Opened {
            open,
            stream: Some(MuxStream::new(Arc::clone(&self.shared), stream)),
        })
    }
}

impl Opened {
    /// Its number on the connection, for logs.
    pub fn id(&self) -> u32 {
        self.stream.as_ref().map_or(0, MuxStream::id)
    }

    /// Accepts the stream.
    pub fn accept(mut self) -> io::Result<MuxStream> {
        let stream = self
            .stream
            .take()
            .ok_or_else(|| io::Error::other("the stream was answered already"))?;
        stream.accept();
        Ok(stream)
    }

    /// Refuses the stream; `detail` is an errno or 0.
    pub fn refuse(mut self, code: Code, detail: u32, words: &str) {
        if let Some(stream) = self.stream.take() {
            stream.reset(StreamEnd {
                code,
                detail,
                words: words.to_owned(),
                by_peer: false,
            });
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.reset(StreamEnd::own(
                Code::Internal,
                "the stream was not accepted",
            ));
        }
    }
}

//! State shared by the driver and the streams.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::clock::Clock;
use super::driver::Closed;
use super::stream::MuxStream;
use crate::wire::{
    Class, Code, Event, GoAway, Meta, Open, OpenError, Session, Stats, StreamEnd, StreamId,
    StreamStats, Time,
};

pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) clock: Clock,
}

pub(super) struct State {
    pub(super) session: Session,
    pub(super) wakers: BTreeMap<StreamId, StreamWakers>,
    incoming: VecDeque<(StreamId, Open)>,
    incoming_waker: Option<Waker>,
    pub(super) driver: Option<Waker>,
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

// === impl Shared, State ===

impl Shared {
    pub(super) fn new(clock: Clock, make: impl FnOnce(Time) -> Session) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                session: make(Time::default()),
                wakers: BTreeMap::new(),
                incoming: VecDeque::new(),
                incoming_waker: None,
                driver: None,
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
}

impl State {
    pub(super) fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
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

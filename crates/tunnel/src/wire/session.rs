//! [`Session`]: one end of a tunnel connection.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::code::Code;
use super::frame::{Class, Hello, Malformed, Open, StreamId};
use super::inflight::InFlight;
use super::limits::{
    CONNECTION_WINDOW, INITIAL_WINDOW, LAST_BYTES_TIMEOUT, OPEN_TIMEOUT, PING_INTERVAL,
    SEND_BUFFER, SEND_TOTAL, STREAMS_MAX,
};
use super::liveness::Liveness;
use super::schedule::Schedule;
use super::stream::{Pinned, Stream};
use super::window::Pool;
use super::{Time, free};

mod application;
mod peer;

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Dials out; opens odd streams.
    Node,
    /// Accepts; opens even streams.
    Plane,
}

/// Configuration of an end. The defaults are the documented ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most streams the peer may have open.
    pub streams_max: u32,
    /// Most bytes this end may be made to hold.
    pub connection_window: u64,
    /// Time between pings.
    pub ping_interval: Duration,
    /// Longest an own OPEN stays unanswered.
    pub open_timeout: Duration,
}

/// Something the application should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer opened a stream: accept or refuse it.
    Opened(StreamId, Open),
    /// The peer took our stream.
    Accepted(StreamId),
    /// There is something to read, or the end of it.
    Readable(StreamId),
    /// A writer that had no room can continue.
    Writable(StreamId),
    /// The stream ended in a way its reader and writer must learn of.
    Ended(StreamId, StreamEnd),
    /// The peer drains.
    GoAway(GoAway),
}

/// How a stream ended, if not by two FINs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEnd {
    /// Why.
    pub code: Code,
    /// An errno, or 0.
    pub detail: u32,
    /// In words.
    pub words: String,
    /// The peer ended it.
    pub by_peer: bool,
}

/// A side's GOAWAY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoAway {
    /// Why.
    pub code: Code,
    /// When to reconnect.
    pub come_back_after: Duration,
    /// In words.
    pub words: String,
}

/// The peer broke the protocol; the connection must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message is not a valid frame.
    #[error("malformed frame")]
    Malformed(#[source] Malformed),
    /// Anything but HELLO came first, or a second HELLO.
    #[error("HELLO is missing or repeated")]
    Hello,
    /// The peer's version or window is not supported.
    #[error("the peer's HELLO is incompatible")]
    Incompatible,
    /// A stream id of the wrong side, not rising, or never opened.
    #[error("stream id {0:?} is not valid here")]
    StreamId(StreamId),
    /// Too many refusals wait for the peer to read them.
    #[error("the peer opens streams faster than it reads refusals")]
    Flood,
    /// No byte for two and a half ping intervals.
    #[error("nothing was heard from the peer for {0:?}")]
    Dead(Duration),
}

/// Why a stream cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer's limit is reached.
    #[error("{0} streams are open, more are not allowed")]
    TooMany(u32),
    /// This end or the peer drains.
    #[error("the connection is about to end")]
    GoingAway,
    /// Service name empty or too long.
    #[error("service name {0:?} is empty or too long")]
    Name(String),
    /// The connection's memory is in use, to the last initial window.
    #[error("the connection's memory is in use")]
    Full,
    /// All stream ids of the connection were used.
    #[error("the connection has used all its stream ids")]
    Exhausted,
}

/// Why bytes cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The direction was finished, or the stream is over.
    #[error("the stream is closed for writing")]
    Closed(Option<StreamEnd>),
}

/// Result of [`Session::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Bytes; call [`Session::consumed`] when they have been written elsewhere.
    Data(Bytes),
    /// Nothing yet.
    Pending,
    /// The peer finished this direction.
    End,
    /// The stream is over.
    Ended(StreamEnd),
}

/// Numbers for people and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Streams open now.
    pub streams: u32,
    /// Streams opened since the beginning, by either side.
    pub opened: u64,
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent.
    pub bytes_out: u64,
    /// Streams of the peer that were refused before the application saw them: too many, or too late.
    pub refused: u64,
    /// Smoothed round-trip time.
    pub round_trip: Option<Duration>,
    /// Its mean deviation.
    pub jitter: Duration,
}

/// Numbers of one stream, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStats {
    /// Which.
    pub stream: StreamId,
    /// This side opened it.
    pub local: bool,
    /// How it is scheduled.
    pub class: Class,
    /// What the peer may have in flight towards us, bytes.
    pub window: u64,
    /// Our bytes that wait for credit or their turn.
    pub queued: u64,
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent.
    pub bytes_out: u64,
}

/// One end of a connection. See the module's picture.
#[derive(Debug)]
pub struct Session {
    side: Side,
    config: Config,
    peer: Option<Hello>,
    hello_due: bool,
    /// Boxed: the tree's nodes are half empty when ids only rise.
    streams: BTreeMap<StreamId, Box<Stream>>,
    next_local: u32,
    highest_remote: u32,
    remote_open: u32,
    local_open: u32,
    unanswered: usize,
    open_deadlines: VecDeque<(Time, StreamId)>,
    schedule: Schedule,
    pool: Pool,
    pinned: Pinned,
    /// Bytes all streams hold for sending.
    queued: usize,
    /// When streams are next checked for what they no longer need.
    look_at: Time,
    liveness: Liveness,
    inflight: InFlight,
    /// The latest time that was passed in.
    now: Time,
    listed: VecDeque<StreamId>,
    refusals: VecDeque<(StreamId, StreamEnd)>,
    pong_due: Option<u64>,
    leaving: Option<GoAway>,
    leave_due: bool,
    peer_leaves: bool,
    events: VecDeque<Event>,
    stats: Stats,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            streams_max: STREAMS_MAX,
            connection_window: CONNECTION_WINDOW,
            ping_interval: PING_INTERVAL,
            open_timeout: OPEN_TIMEOUT,
        }
    }
}

impl StreamEnd {
    /// An end decided by this side.
    pub fn own(code: Code, words: &str) -> Self {
        Self {
            code,
            detail: 0,
            words: words.to_owned(),
            by_peer: false,
        }
    }
}

impl std::fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.words.is_empty() {
            write!(f, ": {}", self.words)?;
        }
        Ok(())
    }
}

// === impl Session: life ===

impl Session {
    /// A new end. Its HELLO is the first frame from [`Session::transmit`].
    pub fn new(side: Side, config: Config, now: Time) -> Self {
        let guaranteed = u64::from(config.streams_max) * u64::from(INITIAL_WINDOW);
        Self {
            side,
            config,
            peer: None,
            hello_due: true,
            streams: BTreeMap::new(),
            next_local: match side {
                Side::Node => 1,
                Side::Plane => 2,
            },
            highest_remote: 0,
            remote_open: 0,
            local_open: 0,
            unanswered: 0,
            open_deadlines: VecDeque::new(),
            schedule: Schedule::default(),
            pool: Pool::new(config.connection_window.saturating_sub(guaranteed)),
            pinned: Pinned::default(),
            queued: 0,
            look_at: now.plus(config.ping_interval),
            liveness: Liveness::new(side, config.ping_interval, now),
            inflight: InFlight::new(now),
            now,
            listed: VecDeque::new(),
            refusals: VecDeque::new(),
            pong_due: None,
            leaving: None,
            leave_due: false,
            peer_leaves: false,
            events: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// The latest time to call [`Session::tick`], and [`Session::transmit`] after it if this side `can_send`: a PING
    /// that is due cannot be sent while the socket accepts nothing.
    pub fn next_deadline(&self, can_send: bool) -> Time {
        let mut at = self.liveness.dead_at();
        if can_send {
            at = at.min(self.liveness.next_ping());
        }
        if let Some((open, _)) = self.open_deadlines.front() {
            at = at.min(*open);
        }
        if !self.streams.is_empty() {
            at = at.min(self.look_at);
        }
        at
    }

    /// Checks the time: dead peers, unanswered opens. Due pings leave with [`Session::transmit`].
    pub fn tick(&mut self, now: Time) -> Result<(), Violation> {
        if now >= self.liveness.dead_at() {
            return Err(Violation::Dead(self.config.ping_interval * 5 / 2));
        }
        self.liveness
            .look(self.stats.bytes_in + self.stats.bytes_out, now);
        while let Some((_, stream)) = self.open_deadlines.pop_front_if(|(at, _)| *at <= now) {
            if self.streams.get(&stream).is_some_and(|s| !s.accepted) {
                self.end(
                    stream,
                    StreamEnd::own(Code::TimedOut, "the far side did not answer"),
                );
            }
        }
        if now >= self.look_at {
            self.look_at = now.plus(self.config.ping_interval);
            self.look(now);
        }
        Ok(())
    }

    /// Once per interval: idle streams return credit they have no use for, and streams that only exist to send their
    /// last bytes, and cannot, are ended.
    fn look(&mut self, now: Time) {
        let mut stuck = Vec::new();
        for (id, s) in &mut self.streams {
            if !s.sending.is_idle() {
                s.orphan_since = s.orphan_since.map(|_| now);
            } else if s
                .orphan_since
                .is_some_and(|since| now.since(since) >= LAST_BYTES_TIMEOUT)
            {
                stuck.push(*id);
            } else if s.ended.is_none()
                && let Some(back) = s.sending.give_back()
            {
                // An older unsent one covers more: the peer never saw it.
                let had = s.pending.back.map_or(back.0, |(had, _)| had);
                s.pending.back = Some((had, back.1));
                if !s.listed {
                    s.listed = true;
                    self.listed.push_back(*id);
                }
            }
        }
        for stream in stuck {
            let words = "the peer did not take the remaining data";
            self.end(stream, StreamEnd::own(Code::TimedOut, words));
        }
    }

    /// Whether somebody waits for the next event.
    pub fn is_urgent(&self) -> bool {
        let Some(Event::Readable(stream)) = self.events.front() else {
            return false;
        };
        let waits =
            |s: &Stream| s.class == Class::Interactive && s.arrived.len() <= peer::URGENT_MAX;
        self.streams.get(stream).is_some_and(|s| waits(s))
    }

    /// Bytes of a stream that are queued and have credit.
    pub fn sendable(&self, stream: StreamId) -> usize {
        self.streams
            .get(&stream)
            .map_or(0, |s| s.sending.sendable())
    }

    /// Somebody types: bulk streams are limited.
    pub fn is_typed_on(&self) -> bool {
        self.inflight.is_limited()
    }

    /// Bulk bytes wait for their turn.
    pub fn has_bulk(&self) -> bool {
        self.schedule.has_bulk()
    }

    /// The next thing the application should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Frees the lists that a busy time left empty: a plane has thousands of sessions that say something once a minute.
    pub(crate) fn rest(&mut self) {
        free(&mut self.events);
        free(&mut self.open_deadlines);
        free(&mut self.listed);
        free(&mut self.refusals);
        self.schedule.rest();
    }

    /// Sends GOAWAY: no new streams from now on; running ones continue.
    pub fn leave(&mut self, farewell: GoAway) {
        if self.leaving.is_none() {
            self.leaving = Some(farewell);
            self.leave_due = true;
            self.settle_down();
        }
    }

    /// Either side sent GOAWAY: streams keep what they need, and no more are opened.
    fn settle_down(&mut self) {
        self.pool.leaves();
        self.pinned.close();
    }

    /// Most bytes that a draining session can make this side hold from here on: received and unread, and waiting to be
    /// sent.
    pub fn bound(&self) -> u64 {
        let (remote, local) = (u64::from(self.remote_open), u64::from(self.local_open));
        let streams = remote + local;
        let received = remote * u64::from(INITIAL_WINDOW) + self.pool.bound(streams);
        let to_send = (streams * SEND_BUFFER as u64).min(SEND_TOTAL as u64);
        received + self.pinned.bytes() + to_send
    }

    /// One side drains, no stream is left and the peer knows why the last ones ended: the connection can be closed.
    pub fn is_drained(&self) -> bool {
        let said = !self.leave_due && self.refusals.is_empty();
        self.is_leaving() && said && self.streams.is_empty()
    }

    /// Numbers for people and metrics.
    pub fn stats(&self) -> Stats {
        Stats {
            streams: u32::try_from(self.streams.len()).unwrap_or(u32::MAX),
            round_trip: self.liveness.round_trip(),
            jitter: self.liveness.jitter(),
            ..self.stats
        }
    }

    /// Numbers of the streams that are open, in order of their ids.
    pub fn streams(&self) -> impl Iterator<Item = StreamStats> {
        self.streams.iter().map(|(id, s)| {
            let (bytes_in, window) = s.receiving.numbers();
            let (bytes_out, queued) = s.sending.numbers();
            StreamStats {
                stream: *id,
                local: s.local,
                class: s.class,
                window,
                queued,
                bytes_in,
                bytes_out,
            }
        })
    }

    /// Either side sent GOAWAY: no new streams.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some() || self.peer_leaves
    }

    /// The peer's highest stream that was looked at, for a GOAWAY.
    pub fn last_stream(&self) -> StreamId {
        StreamId(self.highest_remote)
    }

    /// When the peer was last heard.
    pub fn heard_at(&self) -> Time {
        self.liveness.heard_at()
    }

    /// Sends a PING at the next opportunity.
    pub fn hurry_ping(&mut self, now: Time) {
        self.liveness.hurry(now);
    }

    /// How many PINGs were answered, and the newest round trip.
    pub fn pings_answered(&self) -> (u64, Duration) {
        self.liveness.answered()
    }

    /// Payload bytes that arrived and were not read yet.
    pub fn held(&self) -> u64 {
        self.streams.values().map(|s| s.arrived.len() as u64).sum()
    }

    /// The peer's HELLO, once it arrived.
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }
}

// === impl Session: what both sides need ===

impl Session {
    /// Ends a stream from this side and notifies the peer, unless it never saw it.
    fn end(&mut self, stream: StreamId, end: StreamEnd) {
        let Some(s) = self.streams.get_mut(&stream) else {
            return;
        };
        self.queued -= s.sending.cut();
        if !s.peer_finished {
            s.arrived.clear(&mut self.pinned);
        }
        s.ended = Some(end.clone());
        s.pending.credit = None;
        s.pending.back = None;
        s.pending.accept = false;
        if !s.local && !s.accepted {
            s.accepted = true;
            self.unanswered -= 1;
        }
        if s.pending.open.take().is_none() {
            // Bounded: a stream is reset once, and a peer that lets them pile up opens no more.
            self.refusals.push_back((stream, end.clone()));
        }
        if !s.orphan() {
            self.events.push_back(Event::Ended(stream, end));
        }
        self.schedule.remove(stream);
        self.sweep(stream);
    }

    fn list(&mut self, stream: StreamId) {
        if let Some(s) = self.streams.get_mut(&stream)
            && !s.listed
        {
            s.listed = true;
            self.listed.push_back(stream);
        }
    }

    fn plan(&mut self, stream: StreamId) {
        if let Some(s) = self.streams.get_mut(&stream)
            && !s.sending.scheduled
            && s.sending.ready()
        {
            s.sending.scheduled = true;
            let class = s.class_now(self.now);
            self.schedule.add(stream, class);
        }
    }

    /// Forgets a stream that is over.
    fn sweep(&mut self, stream: StreamId) {
        let Some(s) = self.streams.get(&stream) else {
            return;
        };
        if !s.is_over() {
            return;
        }
        if let Some(mut s) = self.streams.remove(&stream) {
            self.queued -= s.sending.cut();
            s.receiving.release(&mut self.pool);
            s.arrived.clear(&mut self.pinned);
            if s.local {
                self.local_open -= 1;
            } else {
                self.remote_open -= 1;
                if !s.accepted {
                    self.unanswered -= 1;
                }
            }
            if s.sending.scheduled {
                self.schedule.remove(stream);
            }
            if self.streams.is_empty() {
                self.debug_assert_nothing_is_lost();
            }
        }
    }

    /// Without streams all memory is back where it was at the beginning.
    fn debug_assert_nothing_is_lost(&self) {
        debug_assert!(self.pool.is_whole(), "{:?}", self.pool);
        debug_assert!(self.pinned.is_none(), "{:?}", self.pinned);
        debug_assert_eq!(self.queued, 0, "bytes to send");
    }
}

#[cfg(test)]
mod tests;

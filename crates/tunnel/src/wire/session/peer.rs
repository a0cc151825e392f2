//! What the peer sends to a session, and what the session has to send.

use std::time::Duration;

use bytes::Bytes;

use super::super::Time;
use super::super::code::Code;
use super::super::frame::{Class, Frame, Hello, Open, StreamId};
use super::super::limits::{
    BACKLOG_MAX, COME_BACK_MAX, DATA_MAX, INITIAL_WINDOW, REFUSALS_MAX, VERSION,
};
use super::super::stream::{Pending, Stream};
use super::super::window::Receiving;
use super::{Event, GoAway, Session, Side, StreamEnd, Violation};

/// An interactive frame up to this size is one that somebody waits for: a keystroke, its echo. Longer ones belong to a
/// flood.
pub(super) const URGENT_MAX: usize = 1024;

impl Session {
    /// Takes in one message. Never waits, never needs room the other way.
    pub fn receive(&mut self, message: Bytes, now: Time) -> Result<(), Violation> {
        let frame = Frame::decode(message).map_err(Violation::Malformed)?;
        self.now = now;
        self.liveness.heard(now);
        if let Frame::Hello(hello) = frame {
            return self.hello(hello);
        }
        if self.peer.is_none() {
            return Err(Violation::Hello);
        }
        match frame {
            Frame::Hello(_) => Err(Violation::Hello),
            Frame::Open(stream, open) => self.opened(stream, open, now),
            Frame::Accept(stream) => {
                if self.known(stream)?
                    && let Some(s) = self.streams.get_mut(&stream)
                    && s.local
                    && !s.accepted
                {
                    s.accepted = true;
                    self.events.push_back(Event::Accepted(stream));
                }
                Ok(())
            }
            Frame::Data(stream, bytes, fin) => self.data(stream, bytes, fin, now),
            Frame::Credit(stream, upto) => {
                if self.known(stream)?
                    && let Some(s) = self.streams.get_mut(&stream)
                {
                    s.sending.credit(upto);
                    // A pending return is part of the credit again.
                    s.pending.back = None;
                    self.plan(stream);
                }
                Ok(())
            }
            Frame::Return(stream, had, keeps) => {
                if self.known(stream)?
                    && let Some(s) = self.streams.get_mut(&stream)
                    && s.ended.is_none()
                    && !s.receiving.returned(had, keeps, &mut self.pool)
                {
                    let words = "credit was returned that was never granted";
                    self.end(stream, StreamEnd::own(Code::FlowControl, words));
                }
                Ok(())
            }
            Frame::Reset(stream, code, detail, words) => {
                if self.known(stream)? {
                    let end = StreamEnd {
                        code,
                        detail,
                        words,
                        by_peer: true,
                    };
                    self.ended_by_peer(stream, end);
                }
                Ok(())
            }
            Frame::Ping(token) => {
                // Only the newest is answered: a flood of pings costs eight bytes.
                self.pong_due = Some(token);
                Ok(())
            }
            Frame::Pong(token) => {
                if let Some(sample) = self.inflight.answered(token, now) {
                    self.liveness.measured(sample);
                }
                Ok(())
            }
            Frame::GoAway(last, code, after_ms, words) => {
                let after = Duration::from_millis(u64::from(after_ms)).min(COME_BACK_MAX);
                self.peer_goes(
                    last,
                    GoAway {
                        code,
                        come_back_after: after,
                        words,
                    },
                );
                Ok(())
            }
            Frame::Skipped(_) => Ok(()),
        }
    }

    /// The next frame to send, if any. Control frames come first.
    pub fn transmit(&mut self, now: Time) -> Option<Frame> {
        self.now = now;
        if std::mem::take(&mut self.hello_due) {
            return Some(Frame::Hello(Hello {
                version: VERSION,
                initial_window: INITIAL_WINDOW,
                max_streams: self.config.streams_max,
                capabilities: Vec::new(),
            }));
        }
        if let Some(token) = self.pong_due.take() {
            return Some(Frame::Pong(token));
        }
        if let Some(token) = self.liveness.ping(self.inflight.wants_mark(), now) {
            self.inflight.mark(token, now);
            return Some(Frame::Ping(token));
        }
        if std::mem::take(&mut self.leave_due)
            && let Some(farewell) = &self.leaving
        {
            let after = u32::try_from(farewell.come_back_after.as_millis()).unwrap_or(u32::MAX);
            let last = StreamId(self.highest_remote);
            return Some(Frame::GoAway(
                last,
                farewell.code,
                after,
                farewell.words.clone(),
            ));
        }
        if let Some((stream, end)) = self.refusals.pop_front() {
            return Some(Frame::Reset(stream, end.code, end.detail, end.words));
        }
        if let Some(frame) = self.transmit_listed() {
            return Some(frame);
        }
        self.transmit_data(now)
    }

    /// The frame with which a broken connection gives its reason.
    pub fn farewell(&self, violation: &Violation) -> Frame {
        let code = match violation {
            Violation::Dead(_) => Code::TimedOut,
            Violation::Malformed(_)
            | Violation::Hello
            | Violation::Incompatible
            | Violation::StreamId(_)
            | Violation::Flood => Code::Protocol,
        };
        Frame::GoAway(
            StreamId(self.highest_remote),
            code,
            0,
            violation.to_string(),
        )
    }

    fn transmit_listed(&mut self) -> Option<Frame> {
        while let Some(stream) = self.listed.front().copied() {
            let Some(s) = self.streams.get_mut(&stream) else {
                self.listed.pop_front();
                continue;
            };
            if let Some(open) = s.pending.open.take() {
                return Some(Frame::Open(stream, open));
            }
            if std::mem::take(&mut s.pending.accept) {
                return Some(Frame::Accept(stream));
            }
            if let Some((had, keeps)) = s.pending.back.take() {
                return Some(Frame::Return(stream, had, keeps));
            }
            let credit = s.pending.credit.take();
            s.listed = false;
            self.listed.pop_front();
            self.sweep(stream);
            if let Some(upto) = credit {
                return Some(Frame::Credit(stream, upto));
            }
        }
        None
    }

    fn transmit_data(&mut self, now: Time) -> Option<Frame> {
        // Only asked when it matters: a limit that nobody ran into is not in use.
        let bulk = self.schedule.has_bulk() && self.inflight.has_room(now);
        while let Some(stream) = self.schedule.next(bulk) {
            let Some(s) = self.streams.get_mut(&stream) else {
                continue;
            };
            s.sending.scheduled = false;
            if !s.sending.ready() {
                continue;
            }
            let (bytes, fin) = s.sending.take(match s.class_now(now) {
                Class::Interactive => DATA_MAX,
                Class::Bulk => self.inflight.frame_max(),
            });
            if s.sending.wakes_writer() {
                self.events.push_back(Event::Writable(stream));
            }
            self.queued -= bytes.len();
            self.stats.bytes_out += bytes.len() as u64;
            self.inflight.sent(bytes.len());
            let class = s.spend(bytes.len(), now);
            if class == Class::Interactive {
                self.inflight.typed(now);
            }
            if s.sending.goes_on(bytes.len()) && s.class_now(now) == class {
                s.sending.scheduled = true;
                self.schedule.go_on(stream, class);
                return Some(Frame::Data(stream, bytes, fin));
            }
            if fin && s.orphan() && !s.peer_finished && s.ended.is_none() {
                // Sent to the end, but nobody will read what the peer still sends.
                self.end(stream, StreamEnd::own(Code::Cancelled, ""));
            }
            self.plan(stream);
            self.sweep(stream);
            return Some(Frame::Data(stream, bytes, fin));
        }
        None
    }

    fn hello(&mut self, hello: Hello) -> Result<(), Violation> {
        if self.peer.is_some() {
            return Err(Violation::Hello);
        }
        if hello.version < VERSION || hello.initial_window < INITIAL_WINDOW {
            return Err(Violation::Incompatible);
        }
        // Streams opened before it arrived began with the assumed window.
        let window = hello.initial_window;
        self.peer = Some(hello);
        let open: Vec<_> = self.streams.keys().copied().collect();
        for stream in open {
            if let Some(s) = self.streams.get_mut(&stream) {
                s.sending.begins_with(window);
            }
            self.plan(stream);
        }
        Ok(())
    }

    fn opened(&mut self, stream: StreamId, open: Open, now: Time) -> Result<(), Violation> {
        if self.is_local(stream) || stream.0 <= self.highest_remote {
            return Err(Violation::StreamId(stream));
        }
        self.highest_remote = stream.0;
        // Resets of accepted streams wait in the same queue: a peer that breaks its streams and never reads their
        // resets floods as well.
        if self.refusals.len() >= REFUSALS_MAX {
            return Err(Violation::Flood);
        }
        let refusal = if self.is_leaving() {
            // The side that sent GOAWAY opens nothing either: a draining session only shrinks.
            Some(StreamEnd::own(
                Code::GoingAway,
                "this session is about to end",
            ))
        } else if self.remote_open >= self.config.streams_max || self.unanswered >= BACKLOG_MAX {
            Some(StreamEnd::own(Code::TooMany, "too many streams"))
        } else {
            None
        };
        if let Some(end) = refusal {
            self.stats.refused += 1;
            self.refusals.push_back((stream, end));
            return Ok(());
        }
        let credit = self
            .peer
            .as_ref()
            .map_or(INITIAL_WINDOW, |p| p.initial_window);
        let receiving = Receiving::of_peer(INITIAL_WINDOW, now);
        let state = Stream::new(false, open.class, credit, receiving, now);
        self.streams.insert(stream, Box::new(state));
        self.remote_open += 1;
        self.unanswered += 1;
        self.stats.opened += 1;
        self.events.push_back(Event::Opened(stream, open));
        Ok(())
    }

    fn data(
        &mut self,
        stream: StreamId,
        bytes: Bytes,
        fin: bool,
        now: Time,
    ) -> Result<(), Violation> {
        if !self.known(stream)? {
            return Ok(());
        }
        let Some(s) = self.streams.get_mut(&stream) else {
            return Ok(());
        };
        let len = bytes.len();
        self.stats.bytes_in += len as u64;
        if s.ended.is_some() {
            return Ok(());
        }
        if s.peer_finished || !s.receiving.received(len as u64) {
            let words = "more was sent than credit allowed";
            self.end(stream, StreamEnd::own(Code::FlowControl, words));
            return Ok(());
        }
        if !bytes.is_empty() && !s.orphan() {
            s.arrived.push(bytes, &mut self.pinned);
        }
        if s.class == Class::Interactive {
            self.inflight.typed(now);
        }
        s.peer_finished |= fin;
        if !s.orphan() {
            if s.class == Class::Interactive && len <= URGENT_MAX {
                self.events.push_front(Event::Readable(stream));
            } else {
                self.events.push_back(Event::Readable(stream));
            }
        }
        self.sweep(stream);
        Ok(())
    }

    fn ended_by_peer(&mut self, stream: StreamId, end: StreamEnd) {
        let Some(s) = self.streams.get_mut(&stream) else {
            return;
        };
        if s.ended.is_some() {
            return;
        }
        self.queued -= s.sending.cut();
        // Data that arrived before a FIN is complete and stays readable; a direction that was cut is not.
        if !s.peer_finished {
            s.arrived.clear(&mut self.pinned);
        }
        s.ended = Some(end.clone());
        // An unsent OPEN never will be sent: the peer drains.
        s.pending = Pending::default();
        if !s.orphan() {
            self.events.push_back(Event::Ended(stream, end));
        }
        self.schedule.remove(stream);
        self.sweep(stream);
    }

    fn peer_goes(&mut self, last: StreamId, farewell: GoAway) {
        self.peer_leaves = true;
        self.settle_down();
        let lost: Vec<_> = self
            .streams
            .iter()
            .filter(|(id, s)| s.local && **id > last && s.ended.is_none())
            .map(|(id, _)| *id)
            .collect();
        for stream in lost {
            // The peer never looked at these: safe to retry elsewhere.
            let end = StreamEnd {
                code: Code::GoingAway,
                detail: 0,
                words: farewell.words.clone(),
                by_peer: true,
            };
            self.ended_by_peer(stream, end);
        }
        self.events.push_back(Event::GoAway(farewell));
    }

    /// True: look it up (it may be gone already). Never opened: the peer is broken.
    fn known(&self, stream: StreamId) -> Result<bool, Violation> {
        let opened = if self.is_local(stream) {
            stream.0 < self.next_local
        } else {
            stream.0 <= self.highest_remote
        };
        if opened {
            Ok(self.streams.contains_key(&stream))
        } else {
            Err(Violation::StreamId(stream))
        }
    }

    fn is_local(&self, stream: StreamId) -> bool {
        let odd = stream.0 % 2 == 1;
        match self.side {
            Side::Node => odd,
            Side::Plane => !odd,
        }
    }
}

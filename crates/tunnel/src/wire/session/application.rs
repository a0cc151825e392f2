//! The application's calls to a session: open, accept, write, read, release.

use bytes::Bytes;

use super::super::Time;
use super::super::code::Code;
use super::super::frame::{Class, Meta, Open, StreamId};
use super::super::limits::{INITIAL_WINDOW, SERVICE_MAX, STREAMS_MAX};
use super::super::stream::Stream;
use super::super::window::Receiving;
use super::{OpenError, Read, Session, StreamEnd, WriteError};

impl Session {
    /// Opens a stream. Data may be written immediately.
    pub fn open(
        &mut self,
        service: &str,
        class: Class,
        meta: Meta,
        now: Time,
    ) -> Result<StreamId, OpenError> {
        if service.is_empty() || service.len() > SERVICE_MAX {
            return Err(OpenError::Name(service.chars().take(SERVICE_MAX).collect()));
        }
        if self.leaving.is_some() || self.peer_leaves {
            return Err(OpenError::GoingAway);
        }
        let max = self.peer.as_ref().map_or(STREAMS_MAX, |p| p.max_streams);
        if self.local_open >= max {
            return Err(OpenError::TooMany(max));
        }
        let stream = StreamId(self.next_local);
        let next = self.next_local.checked_add(2).ok_or(OpenError::Exhausted)?;
        let receiving =
            Receiving::own(INITIAL_WINDOW, now, &mut self.pool).ok_or(OpenError::Full)?;
        self.next_local = next;
        let credit = self
            .peer
            .as_ref()
            .map_or(INITIAL_WINDOW, |p| p.initial_window);
        let mut state = Stream::new(true, class, credit, receiving, now);
        state.pending.open = Some(Open {
            service: service.to_owned(),
            class,
            meta,
        });
        self.streams.insert(stream, Box::new(state));
        self.local_open += 1;
        self.stats.opened += 1;
        self.list(stream);
        // Answered opens are removed from the front, so the queue is as long as the unanswered ones.
        while let Some((_, first)) = self.open_deadlines.front()
            && self.streams.get(first).is_none_or(|s| s.accepted)
        {
            self.open_deadlines.pop_front();
        }
        self.open_deadlines
            .push_back((now.plus(self.config.open_timeout), stream));
        Ok(stream)
    }

    /// Accepts a stream the peer opened.
    pub fn accept(&mut self, stream: StreamId) {
        if let Some(s) = self.streams.get_mut(&stream)
            && !s.local
            && !s.accepted
        {
            s.accepted = true;
            s.pending.accept = true;
            self.unanswered -= 1;
            self.list(stream);
        }
    }

    /// Bytes that can be written now. Zero: wait for [`super::Event::Writable`].
    pub fn room(&mut self, stream: StreamId) -> Result<usize, WriteError> {
        let s = self
            .streams
            .get_mut(&stream)
            .ok_or(WriteError::Closed(None))?;
        if !s.sending.is_open() {
            return Err(WriteError::Closed(s.ended.clone()));
        }
        let room = s.sending.room(self.queued);
        s.sending.writer_waits = room == 0;
        Ok(room)
    }

    /// Queues bytes; at most [`Session::room`] of them.
    pub fn write(&mut self, stream: StreamId, bytes: Bytes) -> Result<(), WriteError> {
        let s = self
            .streams
            .get_mut(&stream)
            .ok_or(WriteError::Closed(None))?;
        if !s.sending.is_open() {
            return Err(WriteError::Closed(s.ended.clone()));
        }
        if !bytes.is_empty() {
            self.queued += bytes.len();
            s.sending.push(bytes);
            self.plan(stream);
        }
        Ok(())
    }

    /// Finishes our direction: what is queued is sent, then FIN.
    pub fn finish(&mut self, stream: StreamId) {
        if let Some(s) = self.streams.get_mut(&stream) {
            s.sending.finish();
            self.plan(stream);
        }
    }

    /// The next bytes of a stream.
    pub fn read(&mut self, stream: StreamId) -> Read {
        let Some(s) = self.streams.get_mut(&stream) else {
            return Read::End;
        };
        if let Some(bytes) = s.arrived.pop() {
            return Read::Data(bytes);
        }
        if s.peer_finished {
            self.sweep(stream);
            return Read::End;
        }
        match &s.ended {
            Some(end) => Read::Ended(end.clone()),
            None => Read::Pending,
        }
    }

    /// Bytes that were read have been written elsewhere: the peer may send as many again. True when that is worth a
    /// frame.
    pub fn consumed(&mut self, stream: StreamId, n: usize, now: Time) -> bool {
        let round_trip = self.liveness.round_trip_or_assumed();
        let Some(s) = self.streams.get_mut(&stream) else {
            return false;
        };
        s.arrived.placed(n, &mut self.pinned);
        let credit = s
            .receiving
            .consumed(n as u64, now, round_trip, &mut self.pool);
        let worth_it = !s.peer_finished && s.ended.is_none() && credit.is_some();
        if worth_it {
            s.pending.credit = credit;
            self.list(stream);
        }
        worth_it
    }

    /// Ends a stream in both directions, or refuses it.
    pub fn reset(&mut self, stream: StreamId, end: StreamEnd) {
        if self.streams.get(&stream).is_some_and(|s| s.ended.is_none()) {
            self.end(stream, end);
        }
        self.release(stream);
    }

    /// The application drops a stream. Data queued before a FIN is still sent; anything else is cut.
    pub fn release(&mut self, stream: StreamId) {
        let Some(s) = self.streams.get_mut(&stream) else {
            return;
        };
        s.orphan_since.get_or_insert(self.now);
        s.arrived.clear(&mut self.pinned);
        // Not finished, or finished and sent while the peer still sends: tell it to stop. Data queued before a FIN is
        // sent first, see `transmit_data`.
        let unfinished = s.sending.is_open() || s.sending.finished() && !s.peer_finished;
        if unfinished && s.ended.is_none() {
            self.end(stream, StreamEnd::own(Code::Cancelled, ""));
        }
        self.sweep(stream);
    }
}

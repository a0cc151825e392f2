//! One stream's two directions, without the connection around it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::Time;
use super::frame::{Class, Open};
use super::limits::{BLOCK, PINNED_MAX, QUANTUM, SEND_BUFFER, SEND_FLOOR, SEND_TOTAL};
use super::session::StreamEnd;
use super::window::Receiving;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) class: Class,
    thrift: Thrift,
    /// We opened it.
    pub(super) local: bool,
    /// The opener knows that it was accepted (we sent it, or the peer did).
    pub(super) accepted: bool,
    /// When the application dropped it; it lives on only to send what is queued.
    pub(super) orphan_since: Option<Time>,
    pub(super) sending: Sending,
    pub(super) receiving: Receiving,
    pub(super) arrived: Arrived,
    pub(super) peer_finished: bool,
    /// Control frames that wait for their turn; each kind at most once, newest value.
    pub(super) pending: Pending,
    /// In the session's list of streams with pending control frames.
    pub(super) listed: bool,
    /// How it ended, if not by two FINs.
    pub(super) ended: Option<StreamEnd>,
}

/// Received, unread bytes.
///
/// A payload is a slice of the block it was read into, and keeps all of that block alive. A reader that keeps up gets
/// such slices; behind one that does not, further bytes are copied together, so that a stalled stream costs its window
/// and a few blocks; and all streams together keep no more blocks than [`Pinned`] allows.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    slices: VecDeque<Bytes>,
    /// How many of the slices, from the front, keep a block alive.
    pinned: usize,
    /// Bytes in the reader's hands, and how many of its slices keep a block alive: they count until it has none left.
    in_hand: usize,
    pinned_in_hand: usize,
    copied: BytesMut,
    len: usize,
}

/// Blocks that all streams of a session keep alive.
#[derive(Debug, Default)]
pub(super) struct Pinned {
    blocks: usize,
    /// No more of them: payloads are copied out.
    closed: bool,
}

/// Slices kept as they are: what the driver reads from the socket in one run. Twice as many cost 4 % less CPU time, and
/// 15 MiB more for eight stalled readers.
const SLICES_MAX: usize = 4;

/// Bytes copied together into one block.
const COPIED_MAX: usize = 64 * 1024;

/// What an interactive stream may send before it counts as bulk: a token bucket.
#[derive(Clone, Copy, Debug)]
struct Thrift {
    left: u64,
    at: Time,
}

/// A screen full of coloured text, or the list of a large cluster's nodes, is still interactive.
const THRIFT_BURST: u64 = 256 * 1024;
/// Refill rate in bytes per second: more than any terminal shows.
const THRIFT_RATE: u64 = 1024 * 1024;

/// Less than this left of a turn goes to the next one: it is not worth a frame.
const TURN_REST: i64 = QUANTUM as i64 / 16;

#[derive(Debug)]
pub(super) struct Sending {
    queue: VecDeque<Bytes>,
    queued: usize,
    sent: u64,
    credit: u64,
    /// What it began with, and keeps when it has no use for more.
    floor: u64,
    /// `sent` when [`Sending::is_idle`] was last called.
    looked: u64,
    /// Bytes left in this turn; between turns what the last one left, or took too much.
    turn: i64,
    finish: Finish,
    /// In the schedule.
    pub(super) scheduled: bool,
    /// The writer had no room and waits.
    pub(super) writer_waits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    No,
    Queued,
    Sent,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) open: Option<Open>,
    pub(super) accept: bool,
    pub(super) credit: Option<u64>,
    /// Credit we have no use for: what we had, what we keep.
    pub(super) back: Option<(u64, u64)>,
}

// === impl Stream ===

impl Stream {
    pub(super) fn new(
        local: bool,
        class: Class,
        send_credit: u32,
        receiving: Receiving,
        now: Time,
    ) -> Self {
        Self {
            class,
            thrift: Thrift {
                left: THRIFT_BURST,
                at: now,
            },
            local,
            accepted: false,
            orphan_since: None,
            sending: Sending::new(send_credit),
            receiving,
            arrived: Arrived::default(),
            peer_finished: false,
            pending: Pending::default(),
            listed: false,
            ended: None,
        }
    }

    /// Its current class: an interactive stream that sends like a bulk one (`kubectl cp`, a log read to its end) is
    /// treated like one as long as it does.
    pub(super) fn class_now(&self, now: Time) -> Class {
        match self.class {
            Class::Interactive if self.thrift.at(now) > 0 => Class::Interactive,
            Class::Interactive | Class::Bulk => Class::Bulk,
        }
    }

    /// Counts sent bytes. Returns the class they were scheduled in.
    pub(super) fn spend(&mut self, n: usize, now: Time) -> Class {
        let class = self.class_now(now);
        let left = self.thrift.at(now).saturating_sub(n as u64);
        self.thrift = Thrift { left, at: now };
        class
    }

    /// The application dropped it.
    pub(super) fn orphan(&self) -> bool {
        self.orphan_since.is_some()
    }

    /// Both directions are done and nobody needs it any more.
    pub(super) fn is_over(&self) -> bool {
        let read = self.peer_finished && self.arrived.is_empty();
        let both = self.sending.finished() && (read || self.orphan() && self.peer_finished);
        self.pending.open.is_none()
            && (both && !self.pending.accept || self.ended.is_some() && self.orphan())
    }
}

// === impl Thrift ===

impl Thrift {
    fn at(self, now: Time) -> u64 {
        let micros = now.0.saturating_sub(self.at.0);
        let back = micros.saturating_mul(THRIFT_RATE) / 1_000_000;
        self.left.saturating_add(back).min(THRIFT_BURST)
    }
}

// === impl Arrived ===

impl Arrived {
    pub(super) fn push(&mut self, bytes: Bytes, pinned: &mut Pinned) {
        self.len += bytes.len();
        let few = self.slices.len() < SLICES_MAX && pinned.has_room();
        if self.copied.is_empty() && few {
            pinned.blocks += 1;
            self.pinned += 1;
            self.slices.push_back(bytes);
            return;
        }
        if self.copied.len() + bytes.len() > COPIED_MAX {
            self.slices.push_back(self.copied.split().freeze());
        }
        self.copied.extend_from_slice(&bytes);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let next = match self.slices.pop_front() {
            Some(slice) => {
                if self.pinned > 0 {
                    self.pinned -= 1;
                    self.pinned_in_hand += 1;
                }
                Some(slice)
            }
            None if self.copied.is_empty() => None,
            None => Some(std::mem::take(&mut self.copied).freeze()),
        }?;
        self.len -= next.len();
        self.in_hand += next.len();
        Some(next)
    }

    /// Blocks this one keeps alive.
    #[cfg(test)]
    pub(super) fn pins(&self) -> usize {
        self.pinned + self.pinned_in_hand
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// This many bytes of what was popped have been written elsewhere.
    pub(super) fn placed(&mut self, n: usize, pinned: &mut Pinned) {
        self.in_hand = self.in_hand.saturating_sub(n);
        if self.in_hand == 0 {
            pinned.blocks -= std::mem::take(&mut self.pinned_in_hand);
        }
    }

    pub(super) fn clear(&mut self, pinned: &mut Pinned) {
        pinned.blocks -= self.pinned + self.pinned_in_hand;
        *self = Self::default();
    }
}

// === impl Pinned ===

impl Pinned {
    pub(super) fn is_none(&self) -> bool {
        self.blocks == 0
    }

    fn has_room(&self) -> bool {
        !self.closed && self.blocks < PINNED_MAX
    }

    /// The session drains.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Bytes of the pinned ones.
    pub(super) fn bytes(&self) -> u64 {
        (self.blocks * BLOCK) as u64
    }
}

// === impl Sending ===

impl Sending {
    fn new(credit: u32) -> Self {
        Self {
            queue: VecDeque::new(),
            queued: 0,
            sent: 0,
            credit: u64::from(credit),
            floor: u64::from(credit),
            looked: 0,
            turn: 0,
            finish: Finish::No,
            scheduled: false,
            writer_waits: false,
        }
    }

    /// Bytes a writer may add now. `total`: what all streams of the session hold.
    pub(super) fn room(&self, total: usize) -> usize {
        let most = if total < SEND_TOTAL {
            SEND_BUFFER
        } else {
            SEND_FLOOR
        };
        match self.finish {
            Finish::No => most.saturating_sub(self.queued),
            Finish::Queued | Finish::Sent => 0,
        }
    }

    /// Bytes sent so far, and bytes waiting.
    pub(super) fn numbers(&self) -> (u64, u64) {
        (self.sent, self.queued as u64)
    }

    pub(super) fn is_open(&self) -> bool {
        self.finish == Finish::No
    }

    pub(super) fn finished(&self) -> bool {
        self.finish == Finish::Sent
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.queued += bytes.len();
        self.queue.push_back(bytes);
    }

    pub(super) fn finish(&mut self) {
        if self.finish == Finish::No {
            self.finish = Finish::Queued;
        }
    }

    /// The stream is over: drops what is queued, and returns how much that was.
    pub(super) fn cut(&mut self) -> usize {
        self.queue.clear();
        self.finish = Finish::Sent;
        std::mem::take(&mut self.queued)
    }

    /// The peer's HELLO came later than our OPEN, with a larger initial window than assumed.
    pub(super) fn begins_with(&mut self, window: u32) {
        self.floor = u64::from(window);
        self.credit(self.floor);
    }

    /// Nothing was sent since the last call.
    pub(super) fn is_idle(&mut self) -> bool {
        std::mem::replace(&mut self.looked, self.sent) == self.sent
    }

    /// It is idle. If nothing waits to be sent, half of the remaining credit is of no use, down to the initial window:
    /// what it had, and what it keeps.
    pub(super) fn give_back(&mut self) -> Option<(u64, u64)> {
        let left = self.credit - self.sent;
        if self.queued > 0 || left <= self.floor || self.finished() {
            return None;
        }
        let had = self.credit;
        self.credit = self.sent + (left / 2).max(self.floor);
        Some((had, self.credit))
    }

    /// The peer gave credit. Absolute numbers: an older one changes nothing.
    pub(super) fn credit(&mut self, upto: u64) {
        self.credit = self.credit.max(upto);
    }

    /// Queued bytes that may be sent now.
    pub(super) fn sendable(&self) -> usize {
        let allowed = usize::try_from(self.credit - self.sent).unwrap_or(usize::MAX);
        self.queued.min(allowed)
    }

    /// There is something that may be sent now.
    pub(super) fn ready(&self) -> bool {
        let data = self.queued > 0 && self.credit > self.sent;
        data || self.queued == 0 && self.finish == Finish::Queued
    }

    /// Something was sent; returns whether this turn continues: many small pieces are worth one large one. What a turn
    /// took beyond the quantum is missing in the next one, so pieces of any size come to the same.
    pub(super) fn goes_on(&mut self, n: usize) -> bool {
        if self.turn < TURN_REST {
            self.turn += QUANTUM as i64;
        }
        self.turn -= n as i64;
        if !self.ready() {
            self.turn = 0;
        }
        self.turn >= TURN_REST
    }

    /// At most `max` bytes that may be sent now, and whether they are the last.
    pub(super) fn take(&mut self, max: usize) -> (Bytes, bool) {
        let allowed = usize::try_from(self.credit - self.sent).unwrap_or(usize::MAX);
        let max = max.min(allowed);
        let chunk = match self.queue.front_mut() {
            None => Bytes::new(),
            Some(front) if front.len() > max => front.split_to(max),
            Some(_) => self.queue.pop_front().unwrap_or_default(),
        };
        self.queued -= chunk.len();
        self.sent += chunk.len() as u64;
        let fin = self.queued == 0 && self.finish == Finish::Queued;
        if fin {
            self.finish = Finish::Sent;
        }
        (chunk, fin)
    }

    /// The writer waits and there is room for a good piece again.
    pub(super) fn wakes_writer(&mut self) -> bool {
        let wake = self.writer_waits && self.queued <= SEND_BUFFER / 2;
        if wake {
            self.writer_waits = false;
        }
        wake
    }
}

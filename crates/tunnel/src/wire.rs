//! The tunnel protocol, sans-IO: bytes in, bytes out, time as an argument.
//!
//! `docs/protocol.md` is the specification; this is one implementation of it. Nothing here reads a
//! clock, a socket or a random number, so two [`Session`]s can be joined by a simulated path and
//! every schedule can be replayed from a seed (`tests/sim`).
//!
//! ```text
//!  messages ──► Session::receive ──► events (opened, readable, writable, reset …)
//!  application ─► open accept write finish read consumed reset ─┐
//!                                                              ▼
//!                 control queue (bounded, coalescing) ─► Session::transmit ──► messages
//!                 data: round robin by bytes, two classes ─┘
//! ```
//!
//! Why it cannot deadlock: `receive` never waits and never needs room in the other direction. Pending answers are kept
//! as *state* (a flag or a number per stream, the newest ping), not as a queue of messages, so answers coalesce and
//! their memory is bounded by the number of streams.
//!
//! | file | holds |
//! |---|---|
//! | `frame`    | [`Frame`]: the codec |
//! | `limits`   | every bound, with its reason |
//! | `code`     | [`Code`]: why a stream or a connection ended |
//! | `window`   | how much a peer may send: growth, pressure, the connection's cap |
//! | `stream`   | one stream's two directions |
//! | `schedule` | whose turn it is |
//! | `inflight` | how many bulk bytes may be in flight while somebody types |
//! | `liveness` | pings, round-trip time, dead peers |
//! | `session`  | [`Session`]: all of it together |

use std::collections::VecDeque;

mod code;
mod frame;
mod inflight;
pub mod limits;
mod liveness;
mod schedule;
mod session;
mod stream;
mod window;

pub use code::Code;
pub use frame::{Class, Frame, Hello, Malformed, Meta, Open, StreamId};
pub use session::{
    Config, Event, GoAway, OpenError, Read, Session, Side, Stats, StreamEnd, StreamStats,
    Violation, WriteError,
};

/// Frees the memory of a list that is empty.
pub(crate) fn free<T>(list: &mut VecDeque<T>) {
    if list.is_empty() {
        *list = VecDeque::new();
    }
}

/// A point in time: microseconds since any fixed moment before the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// This long after the fixed moment.
    pub fn at(since: std::time::Duration) -> Self {
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
    /// This much later.
    #[must_use]
    pub fn plus(self, more: std::time::Duration) -> Self {
        Self(self.0.saturating_add(Self::at(more).0))
    }
}

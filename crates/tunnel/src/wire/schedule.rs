//! Scheduling of streams.
//!
//! Deficit round robin, simplified by pieces that can be split: a turn is one quantum of bytes, in as many pieces as it
//! takes, so streams with more to send get equal shares of bytes. Interactive streams go first, even in the middle of a
//! bulk stream's turn, but after [`INTERACTIVE_RUN`] turns in a row a bulk stream gets one. While somebody types bulk
//! streams also wait for `inflight`'s limit.

use std::collections::VecDeque;

use super::frame::{Class, StreamId};
use super::free;
use super::limits::INTERACTIVE_RUN;

#[derive(Debug, Default)]
pub(super) struct Schedule {
    interactive: VecDeque<StreamId>,
    bulk: VecDeque<StreamId>,
    run: u32,
}

impl Schedule {
    /// Adds a stream at the end of its class. The caller ensures that it is not in it yet.
    pub(super) fn add(&mut self, stream: StreamId, class: Class) {
        match class {
            Class::Interactive => self.interactive.push_back(stream),
            Class::Bulk => self.bulk.push_back(stream),
        }
    }

    /// The stream that was just taken out continues its turn.
    pub(super) fn go_on(&mut self, stream: StreamId, class: Class) {
        match class {
            Class::Interactive => {
                self.run = self.run.saturating_sub(1);
                self.interactive.push_front(stream);
            }
            Class::Bulk => self.bulk.push_front(stream),
        }
    }

    /// Takes out the stream whose turn it is. `bulk`: whether bulk streams may send now.
    pub(super) fn next(&mut self, bulk: bool) -> Option<StreamId> {
        let bulk_turn = bulk && self.run >= INTERACTIVE_RUN && !self.bulk.is_empty();
        if !bulk_turn && let Some(stream) = self.interactive.pop_front() {
            self.run += 1;
            return Some(stream);
        }
        if !bulk {
            return None;
        }
        self.run = 0;
        self.bulk.pop_front()
    }

    /// A bulk stream waits for its turn.
    pub(super) fn has_bulk(&self) -> bool {
        !self.bulk.is_empty()
    }

    /// Frees what is empty.
    pub(super) fn rest(&mut self) {
        free(&mut self.interactive);
        free(&mut self.bulk);
    }

    pub(super) fn remove(&mut self, stream: StreamId) {
        self.interactive.retain(|s| *s != stream);
        self.bulk.retain(|s| *s != stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interactive_first_bulk_never_starved() {
        let mut s = Schedule::default();
        s.add(StreamId(1), Class::Bulk);
        s.add(StreamId(2), Class::Interactive);
        let mut turns = [0u32; 3];
        for _ in 0..100 {
            let id = s.next(true).expect("somebody");
            turns[id.0 as usize] += 1;
            let class = if id.0 == 1 {
                Class::Bulk
            } else {
                Class::Interactive
            };
            s.add(id, class);
        }
        assert_eq!(turns, [0, 20, 80]);
        assert_eq!(s.next(false), Some(StreamId(2)));
        assert_eq!(s.next(false), None);
        assert_eq!(s.next(true), Some(StreamId(1)));
    }
}

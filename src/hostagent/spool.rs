//! Events on disk until the plane has them: bounded in count and bytes, oldest given up first.
//!
//! One file an event, written atomically; the name is its place in the order. When the disk is
//! full, events are kept in memory (fewer of them) and a note says so: a full disk does not stop
//! reporting.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::host::fs::{Attrs, HostFs};
use crate::model::{Event, Fault, FaultCode, Timestamp};

const DIR: &str = "/var/opt/pf9/hostagent/events";

/// Bounds of a spool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Most events.
    pub(super) events: usize,
    /// Most bytes of events.
    pub(super) bytes: u64,
    /// Most events that are only in memory.
    pub(super) in_memory: usize,
}

/// Days of an ordinary host, minutes of a broken one.
pub(super) const BOUNDS: Bounds = Bounds {
    events: 1024,
    bytes: 1024 * 1024,
    in_memory: 128,
};

/// An event file is never larger: its texts are bounded by [`Fault`].
const EVENT_MAX: u64 = 64 * 1024;

/// See the module.
pub(super) struct Spool {
    fs: HostFs,
    bounds: Bounds,
    boot_id: String,
    entries: VecDeque<Entry>,
    bytes: u64,
    order: u64,
    number: u64,
    given_up: u64,
    note: Option<Fault>,
}

struct Entry {
    order: u64,
    bytes: u64,
    /// The event itself while it could not be written.
    memory: Option<Event>,
}

/// What is to be told, before it has an id.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) at: Timestamp,
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) fault: Option<Fault>,
}

impl Spool {
    /// Takes up what the last run left. Ids go on from `number`: the microseconds of the wall clock
    /// at start, so that no counter has to be kept on disk. (No two starts within one boot give the
    /// same ids, unless a clock that was set back hits an earlier start to the microsecond.)
    pub(super) fn open(fs: HostFs, bounds: Bounds, boot_id: String, number: u64) -> Self {
        let mut spool = Self {
            fs,
            bounds,
            boot_id,
            entries: VecDeque::new(),
            bytes: 0,
            order: 0,
            number,
            given_up: 0,
            note: None,
        };
        // A directory that cannot be listed is an empty one: what can be told is told.
        let names = spool.fs.list(DIR).unwrap_or_default();
        let mut found: Vec<(u64, u64)> = names
            .iter()
            .filter_map(|name| {
                let order = name.strip_suffix(".json")?.parse().ok()?;
                let path = spool.fs.at(path_of(order));
                Some((order, std::fs::metadata(path).ok()?.len()))
            })
            .collect();
        found.sort_unstable();
        for (order, bytes) in found {
            spool.order = order;
            spool.bytes += bytes;
            spool.entries.push_back(Entry {
                order,
                bytes,
                memory: None,
            });
        }
        spool.keep_bounds();
        spool
    }

    /// Adds an event.
    pub(super) fn push(&mut self, draft: Draft) {
        self.number += 1;
        self.order += 1;
        let event = Event {
            id: format!("{}-{}", self.boot_id, self.number),
            at: draft.at,
            kind: draft.kind.to_owned(),
            message: draft.message,
            fault: draft.fault,
        };
        let json = serde_json::to_vec(&event).unwrap_or_default();
        let written = self
            .fs
            .write(path_of(self.order), &json, &Attrs::mode(0o640));
        let memory = match written {
            Ok(()) => {
                self.note = None;
                None
            }
            Err(e) => {
                self.note = Some(memory_only(&crate::telemetry::chain(&e)));
                Some(event)
            }
        };
        let bytes = json.len() as u64;
        self.bytes += bytes;
        self.entries.push_back(Entry {
            order: self.order,
            bytes,
            memory,
        });
        self.keep_bounds();
    }

    /// The oldest events, at most `max`, and the mark to [`Self::forget`] them by.
    pub(super) fn batch(&mut self, max: usize) -> Option<(u64, Vec<Event>)> {
        loop {
            let orders: Vec<u64> = self.entries.iter().take(max).map(|e| e.order).collect();
            let mark = *orders.last()?;
            let events: Vec<Event> = orders.iter().filter_map(|o| self.read(*o)).collect();
            if !events.is_empty() {
                return Some((mark, events));
            }
            // Every one of them was damaged: they cannot be told.
            self.given_up += orders.len() as u64;
            self.forget(mark);
        }
    }

    /// The plane has everything up to `mark`.
    pub(super) fn forget(&mut self, mark: u64) {
        while self.entries.front().is_some_and(|e| e.order <= mark) {
            self.drop_oldest();
        }
    }

    /// How many events were given up since this was last asked.
    pub(super) fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    /// Why events are only in memory, if they are.
    pub(super) fn note(&self) -> Option<&Fault> {
        self.note.as_ref()
    }

    fn read(&self, order: u64) -> Option<Event> {
        let entry = self.entries.iter().find(|e| e.order == order)?;
        if let Some(event) = &entry.memory {
            return Some(event.clone());
        }
        let bytes = self.fs.read(path_of(order), EVENT_MAX).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    fn keep_bounds(&mut self) {
        while self.entries.len() > self.bounds.events || self.bytes > self.bounds.bytes {
            self.drop_oldest();
            self.given_up += 1;
        }
        let in_memory = self.entries.iter().filter(|e| e.memory.is_some()).count();
        if in_memory > self.bounds.in_memory {
            let oldest = self.entries.iter().position(|e| e.memory.is_some());
            if let Some(entry) = oldest.and_then(|at| self.entries.remove(at)) {
                self.bytes = self.bytes.saturating_sub(entry.bytes);
                self.given_up += 1;
            }
        }
    }

    fn drop_oldest(&mut self) {
        let Some(entry) = self.entries.pop_front() else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        if entry.memory.is_none() {
            // Removal without fsync: at worst it is told once more, which the plane expects.
            drop(std::fs::remove_file(self.fs.at(path_of(entry.order))));
        }
    }
}

fn path_of(order: u64) -> PathBuf {
    Path::new(DIR).join(format!("{order:020}.json"))
}

fn memory_only(why: &str) -> Fault {
    Fault::new(
        FaultCode::EventsInMemory,
        "events are kept in memory only",
        why.to_owned(),
    )
    .fix(crate::host::space::FIX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: Bounds = Bounds {
        events: 8,
        bytes: 100_000,
        in_memory: 3,
    };

    fn draft(n: usize) -> Draft {
        Draft {
            at: Timestamp::UNIX_EPOCH,
            kind: "test",
            message: n.to_string(),
            fault: None,
        }
    }

    fn host() -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        (dir, fs)
    }

    /// Makes writing impossible, for root too: the directory is a file.
    fn break_disk(fs: &HostFs) {
        let dir = fs.at(DIR);
        if dir.is_dir() {
            std::fs::rename(&dir, dir.with_extension("away")).expect("away");
        }
        std::fs::create_dir_all(dir.parent().expect("parent")).expect("mkdir");
        std::fs::write(&dir, b"").expect("file");
    }

    fn mend_disk(fs: &HostFs) {
        let dir = fs.at(DIR);
        std::fs::remove_file(&dir).expect("file");
        if dir.with_extension("away").exists() {
            std::fs::rename(dir.with_extension("away"), &dir).expect("back");
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Push,
        Deliver(usize),
        Restart,
        Break,
        Mend,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            5 => Just(Op::Push),
            2 => (1usize..5).prop_map(Op::Deliver),
            1 => Just(Op::Restart),
            1 => Just(Op::Break),
            1 => Just(Op::Mend),
        ];
        prop::collection::vec(op, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Order is kept, ids are unique, bounds hold, and every event is told, still there, or
        /// counted as given up (only a restart loses, and only what was in memory).
        #[test]
        fn nothing_is_lost_unseen(ops in ops()) {
            let (_dir, fs) = host();
            let mut spool = Spool::open(fs.clone(), SMALL, "b".into(), 1_000);
            let (mut pushed, mut told, mut given_up) = (0usize, Vec::<Event>::new(), 0u64);
            let (mut broken, mut was_broken) = (false, false);
            let (mut lost, mut uptime) = (0usize, 1_000u64);
            for op in ops {
                match op {
                    Op::Push => {
                        spool.push(draft(pushed));
                        pushed += 1;
                        prop_assert_eq!(spool.note().is_some(), broken);
                    }
                    // While the disk is away its events cannot be read: nothing is delivered.
                    Op::Deliver(max) if !broken => {
                        if let Some((mark, events)) = spool.batch(max) {
                            told.extend(events);
                            spool.forget(mark);
                        }
                    }
                    Op::Restart if !broken => {
                        given_up += spool.take_given_up();
                        lost += spool.entries.iter().filter(|e| e.memory.is_some()).count();
                        uptime += 1_000_000;
                        spool = Spool::open(fs.clone(), SMALL, "b".into(), uptime);
                    }
                    Op::Break if !broken => { break_disk(&fs); broken = true; was_broken = true; }
                    Op::Mend if broken => { mend_disk(&fs); broken = false; }
                    Op::Deliver(_) | Op::Restart | Op::Break | Op::Mend => {}
                }
                prop_assert!(spool.entries.len() <= SMALL.events);
                let in_memory = spool.entries.iter().filter(|e| e.memory.is_some()).count();
                prop_assert!(in_memory <= SMALL.in_memory);
            }
            if broken {
                mend_disk(&fs);
            }
            // What was given up while the disk was away could not be removed from it: it comes
            // back with a restart, late, but once.
            for _ in 0..2 {
                while let Some((mark, events)) = spool.batch(3) {
                    told.extend(events);
                    spool.forget(mark);
                }
                given_up += spool.take_given_up();
                spool = Spool::open(fs.clone(), SMALL, "b".into(), uptime + 1_000_000);
            }
            let numbers: Vec<usize> = told.iter().map(|e| e.message.parse().expect("n")).collect();
            prop_assert!(was_broken || numbers.is_sorted_by(|a, b| a < b), "{:?}", numbers);
            let ids: std::collections::BTreeSet<_> = told.iter().map(|e| &e.id).collect();
            prop_assert_eq!(ids.len(), told.len());
            prop_assert!(told.len() + lost + usize::try_from(given_up).expect("small") >= pushed);
            prop_assert!(fs.list(DIR).expect("list").is_empty());
        }
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (_dir, fs) = host();
        let bounds = Bounds {
            bytes: 1_000,
            ..SMALL
        };
        let mut spool = Spool::open(fs, bounds, "b".into(), 0);
        for n in 0..5 {
            let mut big = draft(n);
            big.message = "x".repeat(300);
            spool.push(big);
        }
        assert!(spool.bytes <= 1_000);
        assert_eq!(spool.take_given_up(), 3);
    }

    #[test]
    fn a_damaged_file_does_not_block_the_rest() {
        let (_dir, fs) = host();
        let mut spool = Spool::open(fs.clone(), SMALL, "b".into(), 0);
        spool.push(draft(0));
        spool.push(draft(1));
        fs.write(path_of(1), b"{", &Attrs::mode(0o640))
            .expect("damage");
        let (mark, events) = spool.batch(1).expect("the good one");
        assert_eq!((mark, events.len()), (2, 1));
        assert_eq!(events[0].message, "1");
        assert_eq!(spool.take_given_up(), 1);
    }
}

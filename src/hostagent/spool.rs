//! Events on disk until the plane has them: bounded in count and bytes, oldest given up first.
//!
//! ```text
//! events/00000000000000000042.json   one event, its number in its name; written atomically, on the disk when `add` returns
//! events.json                        the head: which spool, what the plane has, the last event of each topic
//!
//! push    ─► the event's file                                  (a crash: it is there or it never was)
//! answered ─► the head, then files go                          (a crash between: the next start takes them away;
//!                                                               before the head: it is delivered again, with its id)
//! ```
//!
//! Numbers rise by one for as long as the head is there. So one that is missing was given up (or lost by a disk), and
//! the plane counts it by that: no count has to survive here. Of a *topic* (the state, one certificate, …) the last
//! value of a topic is kept with its event: a hostagent that restarts reports what it sees, and it
//! is an event only where it is another value.
//!
//! When the disk is full, events are kept in memory (fewer of them) and a note says so: a full disk does not stop
//! reporting. A number of a spool is one event's for ever, though the next start cannot know of those: they are sent under
//! the name of a spool that is this process's alone. While the head cannot be written, the newest number is in a file's name.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::host::documents::{Document, Store};
use crate::host::fs::{Attrs, FsError, HostFs};
use crate::host::refusals;
use crate::model::{Event, Fault, FaultCode, Timestamp};
use crate::seam::disk;
use crate::telemetry::chain;

const DIR: &str = "/var/opt/pf9/hostagent/events";
const HEAD: &str = "/var/opt/pf9/hostagent/events.json";

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
/// Topics that are remembered: the state and the like, certificates of a master, units, a few that are gone.
const TOPICS_MAX: usize = 128;
/// Longest name or value of one.
const TOPIC_MAX: usize = 256;
/// All of them, and the rest of the head.
const HEAD_MAX: u64 = (TOPICS_MAX * TOPIC_MAX * 4) as u64 + 4096;
const MODE: u32 = 0o640;

/// See the module.
pub(super) struct Spool {
    fs: HostFs,
    store: Store,
    bounds: Bounds,
    head: Head,
    /// The disk has it as it is here.
    kept: bool,
    /// A delivered event whose file stays until it has: it has the newest number.
    held: Option<u64>,
    /// The spool that events have which only this process knows of. Its numbers are those of the other one.
    aside: Uuid,
    entries: VecDeque<Entry>,
    bytes: u64,
    /// The number of the newest event.
    last: u64,
    /// The last event of each topic, delivered or not.
    told: BTreeMap<String, String>,
    given_up: u64,
    note: Option<Fault>,
}

struct Entry {
    number: u64,
    bytes: u64,
    topic: Option<Topic>,
    /// The event itself while it could not be written.
    memory: Option<Event>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    schema: u32,
    /// Another one where the head was lost: its numbers start over.
    spool: Uuid,
    /// The plane has everything up to this number.
    delivered: u64,
    /// The last delivered event of each topic.
    told: BTreeMap<String, String>,
}

impl Document for Head {
    const SCHEMA: u32 = 1;
}

/// An event file.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    event: Event,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic: Option<Topic>,
}

/// What an event is about, where only another value of it is news.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Topic {
    /// e.g. `state`, `certificate/kubelet/server`.
    pub(super) name: String,
    /// What it is now.
    pub(super) value: String,
    /// Its value while there was no event of it.
    #[serde(skip)]
    pub(super) idle: Option<&'static str>,
}

/// An event before it has an id.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) at: Timestamp,
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) fault: Option<Fault>,
    pub(super) topic: Option<Topic>,
}

/// What is sent at once.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) spool: Uuid,
    /// To [`Spool::answered`] it by.
    pub(super) mark: u64,
    pub(super) events: Vec<Event>,
}

impl Spool {
    /// Takes up what the last run left.
    pub(super) fn open(fs: HostFs, bounds: Bounds, now: Timestamp) -> Self {
        let store = Store::new(fs.clone(), HEAD, MODE, HEAD_MAX);
        let loaded = store.load(now, Ok::<Head, _>);
        if let Some(fault) = &loaded.fault {
            // The one before it, or a new one: the plane tells doubles by their ids.
            tracing::warn!(code = fault.code.word(), "{fault}");
        }
        let head = loaded.value.unwrap_or_else(|| Head {
            schema: Head::SCHEMA,
            spool: Uuid::new_v4(),
            delivered: 0,
            told: BTreeMap::new(),
        });
        let mut spool = Self {
            last: head.delivered,
            told: head.told.clone(),
            fs,
            store,
            bounds,
            head,
            kept: true,
            held: None,
            aside: Uuid::new_v4(),
            entries: VecDeque::new(),
            bytes: 0,
            given_up: 0,
            note: None,
        };
        spool.take_up();
        spool.keep_bounds();
        spool
    }

    fn take_up(&mut self) {
        // A directory that cannot be listed is an empty one: what can be delivered is.
        let names = self.fs.list(DIR).unwrap_or_default();
        let numbers = names
            .iter()
            .filter_map(|n| n.strip_suffix(".json")?.parse().ok());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        for number in numbers {
            if number <= self.head.delivered {
                // The plane has it; its removal was interrupted.
                drop(disk::remove_file(&self.fs.at(path_of(number))));
                continue;
            }
            let meta = std::fs::metadata(self.fs.at(path_of(number)));
            let topic = self.stored(number).and_then(|s| s.topic);
            self.learn(topic.as_ref());
            let bytes = meta.map_or(0, |m| m.len());
            self.last = number;
            self.bytes += bytes;
            self.entries.push_back(Entry {
                number,
                bytes,
                topic,
                memory: None,
            });
        }
    }

    /// Which one it is: the head is written with the first delivery only.
    fn learn(&mut self, topic: Option<&Topic>) {
        if let Some(Topic { name, value, .. }) = topic
            && (self.told.contains_key(name) || self.told.len() < TOPICS_MAX)
        {
            self.told.insert(name.clone(), value.clone());
        }
    }

    fn is_news(&self, topic: &Topic) -> bool {
        let told = self.told.get(&topic.name).map(String::as_str);
        told.or(topic.idle) != Some(topic.value.as_str())
    }

    /// Adds an event, unless the last one of its topic was the same.
    pub(super) fn push(&mut self, mut draft: Draft) {
        if let Some(topic) = &mut draft.topic {
            cut(&mut topic.name);
            cut(&mut topic.value);
            if !self.is_news(topic) {
                return;
            }
        }
        self.last += 1;
        let number = self.last;
        let stored = Stored {
            event: Event {
                id: Uuid::new_v4().to_string(),
                seq: Some(number),
                at: draft.at,
                kind: draft.kind.to_owned(),
                message: draft.message,
                fault: draft.fault,
            },
            topic: draft.topic,
        };
        self.learn(stored.topic.as_ref());
        let json = serde_json::to_vec(&stored).unwrap_or_default();
        let path = path_of(number);
        let memory = match self.fs.write(&path, &json, &Attrs::mode(MODE)) {
            Ok(()) => {
                self.note = None;
                None
            }
            Err(e) => {
                // In its place and perhaps not for long: it is no second copy of what is sent from memory.
                drop(disk::remove_file(&self.fs.at(&path)));
                self.note = Some(memory_only(&e));
                Some(stored.event)
            }
        };
        let bytes = json.len() as u64;
        self.bytes += bytes;
        self.entries.push_back(Entry {
            number,
            bytes,
            topic: stored.topic,
            memory,
        });
        self.keep_bounds();
    }

    /// So many events could not even be taken in: their numbers are left out.
    pub(super) fn skip(&mut self, missed: u64) {
        self.last = self.last.saturating_add(missed);
        self.given_up += missed;
    }

    /// The oldest events, at most `max`.
    pub(super) fn batch(&mut self, max: usize) -> Option<Batch> {
        loop {
            let numbers: Vec<u64> = self.entries.iter().take(max).map(|e| e.number).collect();
            let mark = *numbers.last()?;
            let events: Vec<Event> = numbers.iter().filter_map(|n| self.read(*n)).collect();
            if !events.is_empty() {
                let mut sent = self.entries.iter().take(numbers.len());
                let spool = match sent.any(|e| e.memory.is_some()) {
                    true => self.aside,
                    false => self.head.spool,
                };
                return Some(Batch {
                    spool,
                    mark,
                    events,
                });
            }
            // Every one of them was damaged: they cannot be delivered.
            self.given_up += numbers.len() as u64;
            self.answered(mark);
        }
    }

    /// The plane has everything up to `mark`.
    pub(super) fn answered(&mut self, mark: u64) {
        self.note_delivered(mark);
        self.take_away();
    }

    /// Notes it. The values of topics go with it: their events will be gone.
    fn note_delivered(&mut self, mark: u64) {
        self.head.delivered = self.head.delivered.max(mark);
        let delivered = self.entries.iter().take_while(|e| e.number <= mark);
        let topics: Vec<Topic> = delivered.filter_map(|e| e.topic.clone()).collect();
        for Topic { name, value, .. } in topics {
            if self.told.contains_key(&name) {
                self.head.told.insert(name, value);
            }
        }
        self.save_head();
    }

    fn save_head(&mut self) {
        let saved = self.store.save(&self.head);
        self.kept = saved.is_ok();
        if let Err(e) = saved {
            // Without it the next start delivers again what is left, and the plane knows it by its ids.
            self.note = Some(memory_only(&e));
        }
    }

    fn take_away(&mut self) {
        let delivered = self.head.delivered;
        if !self.kept {
            let gone = self.entries.iter().take_while(|e| e.number <= delivered);
            let on_disk = gone.filter(|e| e.memory.is_none()).map(|e| e.number);
            if let Some(newest) = on_disk.max() {
                self.hold(Some(newest));
            }
        }
        while self.entries.front().is_some_and(|e| e.number <= delivered) {
            self.drop_oldest();
        }
        if self.note.is_some() {
            // There is room now, perhaps.
            self.note = None;
            self.save_head();
        }
        if self.kept {
            self.hold(None);
        }
    }

    /// The one that was held goes.
    fn hold(&mut self, next: Option<u64>) {
        let before = std::mem::replace(&mut self.held, next);
        if let Some(number) = before.filter(|_| before != next) {
            drop(disk::remove_file(&self.fs.at(path_of(number))));
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

    fn read(&self, number: u64) -> Option<Event> {
        let entry = self.entries.iter().find(|e| e.number == number)?;
        if let Some(event) = &entry.memory {
            return Some(event.clone());
        }
        let stored = self.stored(number)?;
        Some(Event {
            // What an earlier version wrote has none.
            seq: Some(number),
            ..stored.event
        })
    }

    fn stored(&self, number: u64) -> Option<Stored> {
        let bytes = self.fs.read(path_of(number), EVENT_MAX).ok()??;
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
        if entry.memory.is_none() && self.held != Some(entry.number) {
            // Removal without fsync: at worst it is delivered again, which the plane expects.
            drop(disk::remove_file(&self.fs.at(path_of(entry.number))));
        }
    }
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TOPIC_MAX));
}

fn path_of(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("{number:020}.json"))
}

fn memory_only(error: &FsError) -> Fault {
    let what = "events are kept in memory only";
    let fix = refusals::of(error).map_or_else(
        || "check the disk and the named path; it is retried automatically".to_owned(),
        |(_, fix)| fix,
    );
    Fault::new(FaultCode::EventsInMemory, what, chain(error)).fix(fix)
}

#[cfg(any(test, feature = "fault"))]
pub mod testing;
#[cfg(test)]
mod tests;

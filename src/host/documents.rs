//! The document store of every daemon: JSON with a schema, atomic and durable, the last two kept.
//!
//! ```text
//! <name>.json                   the newest
//! <name>.json.prev              the one before it
//! <name>.json.broken-<time>     a broken one, kept for people (the newest few)
//! ```
//!
//! A document is *broken* when its bytes are not a document, or not the one that was written: it is put aside, and the
//! previous one is used. A document that is intact and *not understood* (written by a later or an earlier program, or
//! signed by another signer) stays where it is: the program that understands it comes back. The reader gets the fault
//! in both cases, and knows that what it has is not the newest.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fs::{Attrs, FsError, HostFs};
use super::{room, space};
use crate::model::{
    Accepted, Because, Envelope, Fault, FaultCode, HostId, PAYLOAD_MAX, Timestamp, TrustStore,
    Verdict, accept,
};
use crate::seam::disk;
use crate::telemetry::chain;

/// An envelope of the largest payload.
const ENVELOPE_MAX: u64 = (PAYLOAD_MAX as u64) / 3 * 4 + 4096;
/// Broken documents kept for people.
const BROKEN_KEPT: usize = 3;

/// What is kept in a store.
pub trait Document: Serialize + DeserializeOwned {
    /// The version of the document that this program reads and writes: its field `schema`.
    const SCHEMA: u32;
}

/// A document on disk.
#[derive(Clone, Debug)]
pub struct Store {
    fs: HostFs,
    path: String,
    mode: u32,
    max: u64,
    at_all_costs: bool,
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<T> {
    /// The newest that can be used.
    pub value: Option<T>,
    /// Why that is not the newest there ever was, as text for people. `None` without a value: there
    /// never was one.
    pub fault: Option<Fault>,
    /// The newest is at its place, for another program.
    pub not_understood: bool,
}

/// Why a document that could be parsed cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// These are not the bytes that were written.
    Broken(String),
    /// It is whole, and not for this program.
    NotUnderstood(String),
    /// It is whole, but its signer is not trusted. With what to do.
    NotBelieved(Box<Fault>),
}

/// What is at one of the two paths.
enum At<T> {
    Nothing,
    Good(T),
    Unusable(Unusable),
    /// The disk does not say.
    Unread(String),
}

impl Document for Envelope {
    const SCHEMA: u32 = 1;
}

/// How a stored spec is looked at: as strictly as one that has just come.
pub fn stored_spec(
    trust: &TrustStore,
    host: HostId,
) -> impl Fn(Envelope) -> Result<Accepted, Unusable> {
    move |envelope| match accept(envelope, trust, host, None) {
        Verdict::New(accepted, _) => Ok(*accepted),
        // With nothing in force nothing can be the same.
        Verdict::Same => Err(Unusable::NotUnderstood("it is there twice".into())),
        Verdict::Refused(refusal) => Err(match refusal.because {
            Because::Damaged => Unusable::Broken(refusal.fault.why),
            // A foreign signature, or another version's document, is not damage.
            Because::Untrusted => Unusable::NotBelieved(Box::new(refusal.fault)),
            Because::NotUnderstood | Because::NotNewer => {
                Unusable::NotUnderstood(refusal.fault.why)
            }
        }),
    }
}

impl<T> Loaded<T> {
    fn good(value: Option<T>) -> Self {
        Self {
            value,
            fault: None,
            not_understood: false,
        }
    }
}

impl Store {
    /// The signed document at `path`.
    pub fn of_envelope(fs: HostFs, path: impl Into<String>, mode: u32) -> Self {
        Self::new(fs, path, mode, ENVELOPE_MAX)
    }

    /// The document at `path`, with these permission bits, of at most `max` bytes.
    pub fn new(fs: HostFs, path: impl Into<String>, mode: u32, max: u64) -> Self {
        Self {
            fs,
            path: path.into(),
            mode,
            max,
            at_all_costs: false,
        }
    }

    /// On a full file system something that is worth less goes for it ([`room`]).
    #[must_use]
    pub fn at_all_costs(self) -> Self {
        Self {
            at_all_costs: true,
            ..self
        }
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reads it; a broken one is put aside. `good` is the reader's own look at it.
    pub fn load<T: Document, U>(
        &self,
        now: Timestamp,
        good: impl Fn(T) -> Result<U, Unusable>,
    ) -> Loaded<U> {
        self.read(&good, Some(now))
    }

    /// Reads it and changes nothing.
    pub fn look<T: Document, U>(&self, good: impl Fn(T) -> Result<U, Unusable>) -> Loaded<U> {
        self.read(&good, None)
    }

    fn read<T: Document, U>(
        &self,
        good: &impl Fn(T) -> Result<U, Unusable>,
        put_aside: Option<Timestamp>,
    ) -> Loaded<U> {
        // With whether anything tells that there was one.
        let previous = || match self.at(&self.previous(), good) {
            At::Good(value) => (Some(value), true),
            At::Nothing => (None, self.broken().is_ok_and(|b| !b.is_empty())),
            At::Unusable(_) | At::Unread(_) => (None, true),
        };
        let what = format!("cannot use {}", self.path);
        let disk = "check the disk and what else writes below /var/opt/pf9";
        let broken = |why: &str| Fault::new(FaultCode::StateBroken, what.clone(), why).fix(disk);
        let (mut fault, not_understood) = match self.at(&self.path, good) {
            At::Good(value) => return Loaded::good(Some(value)),
            At::Nothing => match previous() {
                (None, false) => return Loaded::good(None),
                // There is one at every instant of a save; another process removed it.
                _ => (broken("it is gone"), false),
            },
            At::Unusable(Unusable::Broken(why)) => {
                let why = match put_aside.map(|now| self.quarantine(now)) {
                    Some(Ok(name)) => format!("{why}; it is quarantined as {name}"),
                    Some(Err(e)) => format!("{why}; {}", chain(&e)),
                    None => why,
                };
                (broken(&why), false)
            }
            At::Unusable(Unusable::NotUnderstood(why)) => {
                let fix = "install the version of the agent that wrote it";
                (
                    Fault::new(FaultCode::StateNotUnderstood, what, why).fix(fix),
                    true,
                )
            }
            At::Unusable(Unusable::NotBelieved(refused)) => (
                Fault::new(FaultCode::StateNotUnderstood, what, refused.why).fix(refused.fix),
                true,
            ),
            At::Unread(why) => (
                Fault::new(FaultCode::StateUnreadable, what, why).fix(disk),
                false,
            ),
        };
        let value = previous().0;
        let used = match &value {
            Some(_) => "the previous one is used",
            None => "there is no previous one",
        };
        fault.why = format!("{}; {used}", fault.why);
        Loaded {
            value,
            fault: Some(fault),
            not_understood,
        }
    }

    /// Replaces it, durably; the old one is kept beside it.
    pub fn save<T: Document>(&self, value: &T) -> Result<(), FsError> {
        let fail = |source| FsError {
            action: "write",
            path: self.fs.at(&self.path),
            source,
        };
        let bytes = serde_json::to_vec_pretty(value).map_err(|e| fail(e.into()))?;
        if bytes.len() as u64 > self.max {
            // It could never be read again.
            let why = format!("it would be larger than {} bytes", self.max);
            return Err(fail(std::io::Error::other(why)));
        }
        match self.replace(&bytes) {
            Err(e)
                if self.at_all_costs
                    && space::is_full(&e.source)
                    && room::make(&self.fs, &self.fs.at(&self.path), bytes.len() as u64) =>
            {
                self.replace(&bytes)
            }
            done => done,
        }
    }

    fn replace(&self, bytes: &[u8]) -> Result<(), FsError> {
        let (at, previous) = (self.fs.at(&self.path), self.fs.at(self.previous()));
        if at.exists() {
            let keep = || -> std::io::Result<()> {
                match disk::remove_file(&previous) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                    Ok(()) | Err(_) => {}
                }
                // A second name, not a rename: the document is at its path at every instant.
                disk::hard_link(&at, &previous)
            };
            keep().map_err(|source| FsError {
                action: "keep the old",
                path: at.clone(),
                source,
            })?;
        }
        self.fs.write(&self.path, bytes, &Attrs::mode(self.mode))
    }

    /// Takes it away, with everything that tells of it.
    pub fn forget(&self) -> Result<(), FsError> {
        // The newest last: the others alone would count as what a lost one left.
        self.remove(self.broken()?.iter())?;
        self.fs.remove_file(self.previous())?;
        self.fs.remove_file(&self.path)
    }

    fn at<T: Document, U>(&self, path: &str, good: &impl Fn(T) -> Result<U, Unusable>) -> At<U> {
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let bytes = match self.fs.read(path, self.max) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return At::Nothing,
            Err(e) => return At::Unread(chain(&e)),
        };
        let schema = match serde_json::from_slice(&bytes) {
            Ok(Head { schema }) => schema,
            Err(e) => return At::Unusable(Unusable::Broken(e.to_string())),
        };
        if schema != T::SCHEMA {
            let why = format!(
                "it has schema {schema}, this program knows schema {}",
                T::SCHEMA
            );
            return At::Unusable(Unusable::NotUnderstood(why));
        }
        match serde_json::from_slice::<T>(&bytes).map(good) {
            Ok(Ok(value)) => At::Good(value),
            Ok(Err(unusable)) => At::Unusable(unusable),
            // Whole JSON with our schema: a word or a field of another version.
            Err(e) => At::Unusable(Unusable::NotUnderstood(e.to_string())),
        }
    }

    /// Puts the newest aside under a name that none has yet; answers the name.
    fn quarantine(&self, now: Timestamp) -> Result<String, FsError> {
        let fail = |source| FsError {
            action: "put aside",
            path: self.fs.at(&self.path),
            source,
        };
        let (dir, file) = self.place();
        // In order of time also as text; before 1970 there is no document of ours.
        let stem = format!("{file}.broken-{:011}-", now.as_second().max(0));
        let broken = self.broken()?;
        let last = broken
            .iter()
            .filter_map(|n| n.strip_prefix(&stem))
            .next_back();
        let number = last
            .and_then(|n| n.parse::<u32>().ok())
            .map_or(0, |n| n + 1);
        let name = format!("{stem}{number:03}");
        let to = self.fs.at(format!("{dir}/{name}"));
        disk::rename(&self.fs.at(&self.path), &to).map_err(fail)?;
        let surplus = (broken.len() + 1).saturating_sub(BROKEN_KEPT);
        self.remove(broken.iter().take(surplus))?;
        Ok(name)
    }

    /// Names of the broken ones that are kept, newest first; none where the disk does not say.
    pub fn quarantined(&self) -> Vec<String> {
        let mut names = self.broken().unwrap_or_default();
        names.reverse();
        names
    }

    /// Names of those that were put aside, oldest first.
    fn broken(&self) -> Result<Vec<String>, FsError> {
        let (dir, file) = self.place();
        let prefix = format!("{file}.broken-");
        let mut names = self.fs.list(dir)?;
        names.retain(|n| n.starts_with(&prefix));
        Ok(names)
    }

    fn remove<'a>(&self, mut names: impl Iterator<Item = &'a String>) -> Result<(), FsError> {
        let dir = self.place().0;
        names.try_for_each(|n| self.fs.remove_file(format!("{dir}/{n}")))
    }

    fn place(&self) -> (&str, &str) {
        self.path.rsplit_once('/').unwrap_or(("", &self.path))
    }

    fn previous(&self) -> String {
        format!("{}.prev", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Doc {
        schema: u32,
        n: u32,
    }

    impl Document for Doc {
        const SCHEMA: u32 = 2;
    }

    const MAX: u64 = 200;

    fn fixture() -> (tempfile::TempDir, HostFs, Store) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        (dir, fs.clone(), Store::new(fs, "/s/doc.json", 0o600, MAX))
    }

    fn doc(n: u32) -> Doc {
        Doc { schema: 2, n }
    }

    /// Odd numbers are foreign, 13 is damaged.
    fn load(store: &Store, second: i64) -> (Option<u32>, Option<String>) {
        let now = Timestamp::from_second(second).expect("time");
        let loaded = store.load(now, |d: Doc| match d.n {
            13 => Err(Unusable::Broken("13".into())),
            n if n % 2 == 1 => Err(Unusable::NotUnderstood("odd".into())),
            n => Ok(n),
        });
        (loaded.value, loaded.fault.map(|f| f.code.to_string()))
    }

    fn put(fs: &HostFs, text: &str) {
        fs.write("/s/doc.json", text.as_bytes(), &Attrs::mode(0o600))
            .expect("write");
    }

    #[test]
    fn a_broken_document_is_put_aside_and_the_one_before_it_is_there() {
        for damage in [
            "[2",
            "",
            "\u{0}\u{0}",
            "null",
            r#"{"n": 2}"#,
            r#"{"schema":2,"n":13}"#,
        ] {
            let (_dir, fs, store) = fixture();
            assert_eq!(load(&store, 1), (None, None));
            store.save(&doc(2)).expect("save");
            store.save(&doc(4)).expect("save");
            assert_eq!(load(&store, 1), (Some(4), None));
            put(&fs, damage);
            assert_eq!(load(&store, 1), (Some(2), Some("state-broken".into())));
            let kept = "/s/doc.json.broken-00000000001-000";
            let kept = fs.read_text(kept, MAX).expect("read");
            assert_eq!(kept.as_deref(), Some(damage), "kept for a person");
            // The newest is still not known: that is said until there is one again.
            assert_eq!(load(&store, 2), (Some(2), Some("state-broken".into())));
            store.save(&doc(6)).expect("save");
            assert_eq!(load(&store, 3), (Some(6), None));
        }
    }

    #[test]
    fn what_is_not_understood_stays_where_it_is() {
        for other in [
            r#"{"schema": 3, "n": {"a": 1}}"#,
            r#"{"schema": 1}"#,
            r#"{"schema": 2, "n": "two"}"#,
            r#"{"schema": 2, "n": 3}"#,
        ] {
            let (_dir, fs, store) = fixture();
            store.save(&doc(2)).expect("save");
            store.save(&doc(4)).expect("save");
            put(&fs, other);
            let not_understood = (Some(2), Some("state-not-understood".into()));
            assert_eq!(load(&store, 1), not_understood, "{other}");
            assert_eq!(load(&store, 2), not_understood, "{other}");
            assert_eq!(fs.list("/s").expect("list").len(), 2, "nothing was moved");
        }
    }

    #[test]
    fn a_document_that_was_taken_away_is_missed() {
        let (_dir, fs, store) = fixture();
        store.save(&doc(2)).expect("save");
        fs.remove_file("/s/doc.json").expect("remove");
        assert_eq!(load(&store, 1), (None, None), "nothing tells of it");
        store.save(&doc(2)).expect("save");
        store.save(&doc(4)).expect("save");
        fs.remove_file("/s/doc.json").expect("remove");
        assert_eq!(load(&store, 1), (Some(2), Some("state-broken".into())));
        store.forget().expect("forget");
        assert_eq!(load(&store, 1), (None, None));
    }

    #[test]
    fn a_broken_one_without_one_before_it_is_missed_too() {
        let (_dir, fs, store) = fixture();
        put(&fs, "?");
        let broken = (None, Some("state-broken".to_owned()));
        assert_eq!(load(&store, 1), broken);
        assert_eq!(
            load(&store, 2),
            broken,
            "it was put aside, and none came since"
        );
        store.forget().expect("forget");
        assert_eq!(load(&store, 3), (None, None));
    }

    #[test]
    fn looking_changes_nothing() {
        let (_dir, fs, store) = fixture();
        put(&fs, "?");
        let seen = store.look(|d: Doc| Ok(d.n));
        assert_eq!(seen.value, None);
        assert_eq!(seen.fault.expect("fault").code, FaultCode::StateBroken);
        assert_eq!(fs.list("/s").expect("list"), ["doc.json"]);
    }

    #[test]
    fn sizes_are_bounded_both_ways() {
        let (_dir, fs, store) = fixture();
        store.save(&doc(2)).expect("save");
        put(&fs, &"x".repeat(300));
        assert_eq!(load(&store, 1), (None, Some("state-unreadable".into())));
        fs.remove_file("/s/doc.json").expect("remove");
        let small = Store::new(fs, "/s/doc.json", 0o600, 5);
        small.save(&doc(2)).expect_err("could not be read again");
    }

    #[test]
    fn broken_documents_are_bounded_and_none_replaces_another() {
        let (_dir, fs, store) = fixture();
        for (n, second) in [10, 11, 12, 12, 12, 12].into_iter().enumerate() {
            put(&fs, &format!("?{n}"));
            assert_eq!(load(&store, second).1, Some("state-broken".into()));
        }
        let names = fs.list("/s").expect("list");
        let texts = names.iter().map(|name| {
            let text = fs.read_text(format!("/s/{name}"), MAX).expect("read");
            text.expect("there")
        });
        assert_eq!(texts.collect::<Vec<_>>(), ["?3", "?4", "?5"]);
    }
}

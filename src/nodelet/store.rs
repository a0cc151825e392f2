//! State documents: JSON with a schema, atomic, with the last good one beside it.
//!
//! ```text
//! <name>.json        the newest
//! <name>.json.prev   the one before it; used when the newest is broken
//! <name>.json.broken-<time>   a broken one, kept for people (the newest few)
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::fs::{Attrs, FsError, HostFs};
use crate::model::{Fault, Timestamp};

/// Largest state document: a ledger of a few thousand artefacts, a spec of a large cluster.
const DOCUMENT_MAX: u64 = 16 * 1024 * 1024;
/// Broken documents kept for people.
const BROKEN_KEPT: usize = 3;

/// A state document on disk.
#[derive(Clone, Debug)]
pub struct Store {
    fs: HostFs,
    path: String,
}

/// What was read.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The newest good one.
    pub value: Option<T>,
    /// Why it is not the newest one, in words for people.
    pub fault: Option<Fault>,
}

impl Store {
    /// The document at `path`.
    pub fn new(fs: HostFs, path: impl Into<String>) -> Self {
        Self {
            fs,
            path: path.into(),
        }
    }

    /// Reads it. A broken one is put aside and the one before it is used.
    pub fn load<T: DeserializeOwned>(
        &self,
        now: Timestamp,
        good: impl Fn(&T) -> Result<(), String>,
    ) -> Result<Loaded<T>, FsError> {
        let why = match self.parse(&self.path, &good)? {
            Ok(Some(value)) => {
                return Ok(Loaded {
                    value: Some(value),
                    fault: None,
                });
            }
            // Nothing at all, or a crash between two renames: the one before it counts.
            Ok(None) => None,
            Err(why) => Some(why),
        };
        if why.is_some() {
            self.quarantine(now)?;
        }
        let value = self.parse(&self.previous(), &good)?.unwrap_or_default();
        let fault = why.map(|why| {
            let used = match &value {
                Some(_) => "the one before it is used",
                None => "there is none before it",
            };
            Fault::new(
                "state-broken",
                format!("cannot use {}", self.path),
                format!("{why}; it was put aside and {used}"),
            )
            .fix("look at the disk; nothing else needs doing")
        });
        Ok(Loaded { value, fault })
    }

    /// Replaces it; the old one is kept beside it.
    pub fn save<T: Serialize>(&self, value: &T) -> Result<(), FsError> {
        let bytes = serde_json::to_vec_pretty(value).map_err(|e| FsError {
            action: "write",
            path: self.fs.at(&self.path),
            source: e.into(),
        })?;
        let (at, previous) = (self.fs.at(&self.path), self.fs.at(self.previous()));
        if at.exists() {
            let keep = || -> std::io::Result<()> {
                match std::fs::remove_file(&previous) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                    Ok(()) | Err(_) => {}
                }
                // A second name, not a rename: the document is at its path at every instant.
                std::fs::hard_link(&at, &previous)
            };
            keep().map_err(|source| FsError {
                action: "keep the old",
                path: at.clone(),
                source,
            })?;
        }
        self.fs.write(&self.path, &bytes, &Attrs::mode(0o600))
    }

    fn parse<T: DeserializeOwned>(
        &self,
        path: &str,
        good: &impl Fn(&T) -> Result<(), String>,
    ) -> Result<Result<Option<T>, String>, FsError> {
        let Some(bytes) = self.fs.read(path, DOCUMENT_MAX)? else {
            return Ok(Ok(None));
        };
        let value = match serde_json::from_slice::<T>(&bytes) {
            Ok(value) => value,
            Err(e) => return Ok(Err(e.to_string())),
        };
        Ok(good(&value).map(|()| Some(value)))
    }

    fn quarantine(&self, now: Timestamp) -> Result<(), FsError> {
        let name = format!("{}.broken-{}", self.path, now.as_second());
        std::fs::rename(self.fs.at(&self.path), self.fs.at(name)).map_err(|source| FsError {
            action: "put aside",
            path: self.fs.at(&self.path),
            source,
        })?;
        let Some((dir, file)) = self.path.rsplit_once('/') else {
            return Ok(());
        };
        let prefix = format!("{file}.broken-");
        let mut broken = self.fs.list(dir)?;
        broken.retain(|n| n.starts_with(&prefix));
        let surplus = broken.len().saturating_sub(BROKEN_KEPT);
        broken
            .iter()
            .take(surplus)
            .try_for_each(|n| self.fs.remove_file(format!("{dir}/{n}")))
    }

    fn previous(&self) -> String {
        format!("{}.prev", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (tempfile::TempDir, HostFs, Store) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        (dir, fs.clone(), Store::new(fs, "/s/doc.json"))
    }

    fn load(store: &Store, second: i64) -> Loaded<Vec<u32>> {
        let now = Timestamp::from_second(second).expect("time");
        store.load(now, |_| Ok(())).expect("load")
    }

    #[test]
    fn a_broken_document_is_put_aside_and_the_last_good_one_used() {
        let (_dir, fs, store) = fixture();
        assert_eq!(load(&store, 1).value, None);
        store.save(&vec![1]).expect("save");
        store.save(&vec![2]).expect("save");
        assert_eq!(load(&store, 1).value, Some(vec![2]));
        fs.write("/s/doc.json", b"[2", &Attrs::mode(0o600))
            .expect("break");
        let loaded = load(&store, 1);
        assert_eq!(loaded.value, Some(vec![1]));
        assert_eq!(loaded.fault.expect("fault").code, "state-broken");
        assert!(
            fs.list("/s")
                .expect("list")
                .contains(&"doc.json.broken-1".to_owned())
        );
        // What is left is good: no second complaint.
        let again = load(&store, 2);
        assert_eq!((again.value, again.fault), (Some(vec![1]), None));
    }

    #[test]
    fn broken_documents_are_bounded() {
        let (_dir, fs, store) = fixture();
        for second in 10..20 {
            fs.write("/s/doc.json", b"?", &Attrs::mode(0o600))
                .expect("break");
            assert!(load(&store, second).fault.is_some());
        }
        assert_eq!(fs.list("/s").expect("list").len(), BROKEN_KEPT);
    }
}

//! The journal: what was intended and how it ended, one JSON line each, bounded.
//!
//! An intent is on the disk before its step begins, so that after a power cut a person (and a
//! test) can see what was under way. Nothing is decided by it: the host itself is asked.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use crate::host::fs::{FsError, HostFs, fail};
use crate::model::{Generation, PhaseId, Timestamp, paths};
use crate::seam::disk::{self, Options};

/// Largest journal: about ten installations. One older one is kept beside it.
const JOURNAL_MAX: u64 = 1024 * 1024;

/// The journal of one host.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct JournalEntry<'a> {
    /// When.
    pub at: Timestamp,
    /// For which spec.
    pub generation: Generation,
    /// In which phase.
    pub phase: PhaseId,
    /// About what.
    pub step: &'a str,
    /// What happens.
    #[serde(flatten)]
    pub what: JournalEvent<'a>,
}

/// What happens.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum JournalEvent<'a> {
    /// About to be done.
    Intent,
    /// Done, and seen to be so.
    Done {
        /// How long it took.
        took_ms: u64,
    },
    /// Left before its end, for it waits for something, or there is news.
    Left {
        /// How long it took until then.
        took_ms: u64,
    },
    /// Not done.
    Failed {
        /// Why.
        why: &'a str,
    },
}

impl Journal {
    /// The journal in nodelet's state.
    pub fn new(fs: &HostFs) -> Self {
        Self {
            path: fs.at(format!("{}/journal.jsonl", paths::NODELET_STATE)),
        }
    }

    /// Adds a line; an intent is on the disk when this returns.
    pub fn add(&self, entry: &JournalEntry<'_>) -> Result<(), FsError> {
        let fail = |source| fail("append to", &self.path, source);
        let mut line = serde_json::to_vec(entry).map_err(|e| fail(e.into()))?;
        line.push(b'\n');
        let durable = match entry.what {
            JournalEvent::Intent => true,
            // For people; without it the intent still tells what was tried.
            JournalEvent::Done { .. } | JournalEvent::Left { .. } | JournalEvent::Failed { .. } => {
                false
            }
        };
        self.append(&line, durable).map_err(fail)
    }

    fn append(&self, line: &[u8], durable: bool) -> std::io::Result<()> {
        let dir = self.path.parent().unwrap_or(&self.path);
        disk::make_dirs(dir)?;
        let open = Options::append().create(0o600);
        let mut new = !self.path.exists();
        let mut file = open.open(&self.path)?;
        if file.metadata()?.len() + line.len() as u64 > JOURNAL_MAX {
            disk::rename(&self.path, &self.path.with_extension("jsonl.1"))?;
            file = open.open(&self.path)?;
            new = true;
        }
        if new {
            // Whatever line begins it: without a name none of those that follow is on the disk.
            disk::sync_dir(dir)?;
        }
        file.write_all(line)?;
        if durable {
            file.sync_data()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[cfg(feature = "fault")]
    mod power {
        use super::*;

        /// Also the first one, and the first one of a new file: a journal without a name is none.
        #[test]
        fn an_intent_outlives_the_power() {
            use crate::seam::fault::{PowerLoss, Scope};

            let why = "x".repeat(600_000);
            for before in [0, 3] {
                let dir = tempfile::tempdir().expect("tempdir");
                let fs = HostFs::new(dir.path());
                let journal = Journal::new(&fs);
                let entry = |what| JournalEntry {
                    at: Timestamp::UNIX_EPOCH,
                    generation: Generation(1),
                    phase: PhaseId::Certs,
                    step: "file:/x",
                    what,
                };
                let scope = Scope::whole();
                let here = scope.enter();
                for _ in 0..before {
                    let what = JournalEvent::Failed { why: &why };
                    journal.add(&entry(what)).expect("add");
                }
                journal.add(&entry(JournalEvent::Intent)).expect("add");
                scope.end();
                drop(here);
                scope.lose(PowerLoss::Everything);
                let text = fs::read_to_string(&journal.path).expect("it is there");
                assert!(text.contains("intent"), "after {before}");
            }
        }
    }

    #[test]
    fn it_is_bounded() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let journal = Journal::new(&fs);
        let why = "x".repeat(60_000);
        for _ in 0..40 {
            journal
                .add(&JournalEntry {
                    at: Timestamp::UNIX_EPOCH,
                    generation: Generation(1),
                    phase: PhaseId::Certs,
                    step: "file:/x",
                    what: JournalEvent::Failed { why: &why },
                })
                .expect("add");
        }
        let total: u64 = fs
            .list(paths::NODELET_STATE)
            .expect("list")
            .iter()
            .map(|n| {
                fs::metadata(fs.at(format!("{}/{n}", paths::NODELET_STATE)))
                    .expect("meta")
                    .len()
            })
            .sum();
        assert!(total <= 2 * JOURNAL_MAX, "{total}");
    }
}

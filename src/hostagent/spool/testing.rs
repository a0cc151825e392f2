//! A spool that is killed where a test likes, for tests that have the plane's store at the other end.

use super::*;
use crate::model::EventBatch;

/// On a disk of its own.
pub struct Killable {
    fs: HostFs,
    bounds: Bounds,
    spool: Spool,
    _dir: tempfile::TempDir,
}

/// What is sent.
pub struct Sent {
    /// The document.
    pub document: Vec<u8>,
    /// What it says when it is answered.
    pub mark: u64,
}

impl Killable {
    /// With room for so many events.
    pub fn new(events: usize) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let bounds = Bounds {
            events,
            bytes: 100_000,
            in_memory: 3,
        };
        Self {
            spool: Spool::open(fs.clone(), bounds, Timestamp::UNIX_EPOCH),
            fs,
            bounds,
            _dir: dir,
        }
    }

    /// An event that says this number.
    pub fn push(&mut self, n: usize) {
        self.spool.push(Draft {
            at: Timestamp::UNIX_EPOCH,
            kind: "test",
            message: n.to_string(),
            fault: None,
            topic: None,
        });
    }

    /// The oldest ones, at most so many.
    pub fn batch(&mut self, max: usize) -> Option<Sent> {
        let batch = self.spool.batch(max)?;
        let sent = EventBatch {
            spool: Some(batch.spool),
            events: batch.events,
        };
        Some(Sent {
            document: serde_json::to_vec(&sent).expect("json"),
            mark: batch.mark,
        })
    }

    /// The plane has them.
    pub fn answered(&mut self, mark: u64) {
        self.spool.answered(mark);
    }

    /// Ended anywhere, and started over.
    pub fn killed(&mut self) {
        self.spool = Spool::open(self.fs.clone(), self.bounds, Timestamp::UNIX_EPOCH);
    }

    /// The same when the head was written, after so many files went.
    pub fn killed_while_noting(&mut self, mark: u64, files: usize) {
        self.spool.note_delivered(mark);
        let gone = self.spool.entries.iter().filter(|e| e.number <= mark);
        for entry in gone.take(files) {
            std::fs::remove_file(self.fs.at(path_of(entry.number))).expect("goes");
        }
        self.killed();
    }

    /// What the disk says of where it is.
    pub fn head(&self) -> Vec<u8> {
        let head = self.fs.read(HEAD, HEAD_MAX).expect("read");
        head.expect("head")
    }

    /// The disk is set back to that.
    pub fn set_back(&mut self, head: &[u8]) {
        let mode = Attrs::mode(MODE);
        self.fs.write(HEAD, head, &mode).expect("image");
        self.killed();
    }

    /// The machine is installed again.
    pub fn installed_anew(&mut self) {
        std::fs::remove_dir_all(self.fs.at("/var/opt/pf9/hostagent")).expect("gone");
        self.killed();
    }

    /// Whether no file waits.
    pub fn is_empty(&self) -> bool {
        self.fs.list(DIR).unwrap_or_default().is_empty()
    }
}

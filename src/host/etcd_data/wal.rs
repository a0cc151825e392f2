//! The log of etcd: records in files, each behind its length; the rest of a file that was made longer
//! beforehand is zero.
//!
//! Sums are not checked: what is damaged in the middle etcd itself refuses, and a record that is
//! just being written is no damage.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::DataError;
use crate::host::protobuf::{NoMessage, Value, fields};

/// Longest record that is read: etcd takes requests of 1.5 MiB, and ten times that where configured.
const RECORD_MAX: u64 = 32 * 1024 * 1024;
/// Most files: etcd keeps five and those that it still needs.
const FILES_MAX: usize = 4096;
/// Most old entries and snapshots that are counted one by one: one of each for every start of 3.5,
/// and for every ten thousand entries.
const NOTED_MAX: usize = 65_536;
/// Reading is many small reads.
const BUFFER: usize = 256 * 1024;

/// What the log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The cluster's number.
    pub cluster_id: Option<u64>,
    /// This member's number.
    pub member_id: Option<u64>,
    /// The newest snapshot of the log that counts.
    pub snapshot: Option<LogSnapshot>,
    /// Entries after it that only 3.5 and its predecessors write, and 3.7 cannot read.
    pub old_entries: usize,
}

/// A snapshot that the log speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSnapshot {
    /// In which term.
    pub term: u64,
    /// Up to which entry.
    pub index: u64,
}

/// The log's files, in order.
pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |source| DataError::Io {
        path: dir.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "wal") {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(DataError::Damaged {
                path: dir.to_owned(),
                why: format!("it has more than {FILES_MAX} files"),
            });
        }
    }
    // Their names begin with their number, in hexadecimal of one length.
    files.sort();
    Ok(files)
}

/// Reads them all.
pub(super) fn read(files: &[PathBuf]) -> Result<Log, DataError> {
    let mut reading = Reading::default();
    for (n, path) in files.iter().enumerate() {
        let is_last = n + 1 == files.len();
        let file = match File::open(path) {
            Ok(file) => file,
            // Let go by etcd meanwhile: what it held is in a snapshot.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => {
                return Err(DataError::Io {
                    path: path.clone(),
                    source,
                });
            }
        };
        match reading.file(file) {
            Ok(()) => {}
            Err(Bad::Cut) if is_last => {}
            Err(Bad::Cut) => return Err(damaged(path, "a record is truncated".into())),
            Err(Bad::Wrong(why)) => return Err(damaged(path, why)),
            Err(Bad::Io(source)) => {
                return Err(DataError::Io {
                    path: path.clone(),
                    source,
                });
            }
        }
    }
    Ok(reading.log())
}

fn damaged(path: &Path, why: String) -> DataError {
    DataError::Damaged {
        path: path.to_owned(),
        why,
    }
}

/// Why a file is not read to its end.
pub(super) enum Bad {
    /// It ends in the middle of a record.
    Cut,
    Wrong(String),
    Io(io::Error),
}

/// The ids of cluster and member.
pub(super) const METADATA: u64 = 1;
const ENTRY: u64 = 2;
const STATE: u64 = 3;
/// Checksum of all records before it.
pub(super) const SUM: u64 = 4;
const SNAPSHOT: u64 = 5;

/// The records of one file, in order.
pub(super) struct Records<R> {
    input: R,
    record: Vec<u8>,
}

impl<R: Read> Records<R> {
    pub(super) fn of(input: R) -> Self {
        Self {
            input,
            record: Vec::new(),
        }
    }

    /// The next one's kind and what is in it; `None` where no more were written.
    pub(super) fn next(&mut self) -> Result<Option<(u64, &[u8])>, Bad> {
        let mut head = [0; 8];
        match self.input.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(Bad::Io(e)),
        }
        let head = u64::from_le_bytes(head);
        if head == 0 {
            return Ok(None);
        }
        let (len, padding) = (head & !(0xff << 56), padding(head));
        if len > RECORD_MAX {
            return Err(Bad::Wrong(format!("a record has {len} bytes")));
        }
        self.record.clear();
        let whole = len + padding;
        let read = (&mut self.input).take(whole).read_to_end(&mut self.record);
        if (read.map_err(Bad::Io)? as u64) < whole {
            return Err(Bad::Cut);
        }
        self.record
            .truncate(usize::try_from(len).unwrap_or(usize::MAX));
        match kind_and_data(&self.record) {
            Ok(found) => Ok(Some(found)),
            // Its length is there before its bytes are.
            Err(NoMessage) if self.record.iter().all(|b| *b == 0) => Err(Bad::Cut),
            Err(NoMessage) => Err(unread()),
        }
    }
}

fn unread() -> Bad {
    Bad::Wrong("a record cannot be read".into())
}

fn kind_and_data(record: &[u8]) -> Result<(u64, &[u8]), NoMessage> {
    let (mut kind, mut data) = (None, &[][..]);
    for field in fields(record) {
        match field? {
            (1, Value::Number(n)) => kind = Some(n),
            (3, Value::Bytes(bytes)) => data = bytes,
            (_, Value::Number(_) | Value::Bytes(_) | Value::Fixed) => {}
        }
    }
    kind.map(|kind| (kind, data)).ok_or(NoMessage)
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    log: Log,
    /// Snapshots that were written down; those beyond what was agreed on do not count.
    snapshots: Vec<LogSnapshot>,
    /// Indices of old entries, rising.
    old: Vec<u64>,
    committed: u64,
}

impl Reading {
    fn file(&mut self, file: File) -> Result<(), Bad> {
        let mut records = Records::of(BufReader::with_capacity(BUFFER, file));
        while let Some((kind, data)) = records.next()? {
            self.record(kind, data).map_err(|NoMessage| unread())?;
        }
        Ok(())
    }

    fn record(&mut self, kind: u64, data: &[u8]) -> Result<(), NoMessage> {
        match kind {
            METADATA => self.metadata(data),
            ENTRY => self.entry(data),
            STATE => self.state(data),
            SUM => Ok(()),
            SNAPSHOT => self.snapshot(data),
            _ => Err(NoMessage),
        }
    }

    fn metadata(&mut self, data: &[u8]) -> Result<(), NoMessage> {
        for field in fields(data) {
            match field? {
                (1, Value::Number(n)) => self.log.member_id = Some(n),
                (2, Value::Number(n)) => self.log.cluster_id = Some(n),
                _ => {}
            }
        }
        Ok(())
    }

    fn state(&mut self, data: &[u8]) -> Result<(), NoMessage> {
        for field in fields(data) {
            if let (3, Value::Number(n)) = field? {
                self.committed = n;
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, data: &[u8]) -> Result<(), NoMessage> {
        let mut seen = LogSnapshot { term: 0, index: 0 };
        for field in fields(data) {
            match field? {
                (1, Value::Number(n)) => seen.index = n,
                (2, Value::Number(n)) => seen.term = n,
                _ => {}
            }
        }
        push(&mut self.snapshots, seen);
        Ok(())
    }

    fn entry(&mut self, data: &[u8]) -> Result<(), NoMessage> {
        let (mut kind, mut index, mut request) = (0, 0, &[][..]);
        for field in fields(data) {
            match field? {
                (1, Value::Number(n)) => kind = n,
                (3, Value::Number(n)) => index = n,
                (4, Value::Bytes(b)) => request = b,
                _ => {}
            }
        }
        // A leader writes again what was not agreed on.
        while self.old.last().is_some_and(|last| *last >= index) {
            self.old.pop();
        }
        if kind == 0 && is_old(request) {
            push(&mut self.old, index);
        }
        Ok(())
    }

    fn log(self) -> Log {
        let counts = |s: &&LogSnapshot| s.index > 0 && s.index <= self.committed;
        let snapshot = self.snapshots.iter().filter(counts).max_by_key(|s| s.index);
        let after = snapshot.map_or(0, |s| s.index);
        Log {
            snapshot: snapshot.copied(),
            old_entries: self.old.iter().filter(|i| **i > after).count(),
            ..self.log
        }
    }
}

/// The oldest go: only the newest matter.
fn push<T>(noted: &mut Vec<T>, next: T) {
    if noted.len() >= NOTED_MAX {
        noted.remove(0);
    }
    noted.push(next);
}

/// So that records begin at multiples of eight.
fn padding(head: u64) -> u64 {
    if head >> 63 == 1 { (head >> 56) & 7 } else { 0 }
}

/// Requests of today say in field 100 who asked; those of etcd's first generation do not, and a
/// request that wraps one has it in field 2.
fn is_old(request: &[u8]) -> bool {
    if request.is_empty() {
        return false;
    }
    let mut has_header = false;
    for field in fields(request) {
        match field {
            Ok((100, Value::Bytes(_))) => has_header = true,
            Ok((2, _)) | Err(NoMessage) => return true,
            Ok(_) => {}
        }
    }
    !has_header
}

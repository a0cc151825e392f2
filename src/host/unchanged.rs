//! What was made of files, kept until one of them is another.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::model::Digest;

/// Most files that are remembered.
const FILES_MAX: usize = 64;
/// What changed less than this before a look is looked at again: the kernel marks changes by a clock of ticks (10 ms at
/// most), and two within one tick leave the same mark.
const SETTLED_S: i64 = 2;

/// What tells a file from what was at its path before: another one in its place, other bytes in it, another owner or mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMark {
    device: u64,
    inode: u64,
    bytes: u64,
    /// When anything about it changed.
    changed: (i64, i64),
}

/// By the path of the first file what was made of it and others.
#[derive(Debug)]
pub struct Unchanged<T>(Mutex<BTreeMap<PathBuf, Made<T>>>);

#[derive(Debug)]
struct Made<T> {
    of: MadeOf,
    made: T,
}

#[derive(Debug, PartialEq, Eq)]
struct MadeOf {
    /// None of one that is not there.
    files: Vec<Option<FileMark>>,
    /// Of what is in no file.
    rest: Option<Digest>,
}

impl FileMark {
    /// Of what is at a path, where links lead.
    pub fn of(path: &Path) -> Option<Self> {
        Some(Self::read(&std::fs::metadata(path).ok()?))
    }

    fn read(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// Whether whatever is changed from `now` on leaves another mark. Never by a clock that was set back behind it.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(0));
        now.saturating_sub(self.changed.0) >= SETTLED_S
    }
}

impl MadeOf {
    fn now(files: &[PathBuf], rest: Option<Digest>) -> Self {
        Self {
            files: files.iter().map(|path| FileMark::of(path)).collect(),
            rest,
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        self.files.iter().flatten().all(|file| file.is_settled(now))
    }
}

impl<T: Clone> Unchanged<T> {
    /// Nothing is known of any file.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// What was made of these files, and of what `rest` is the digest of; made now if any of it is other than it was. A
    /// failure is not kept, nor what was made of a file that has just changed.
    pub fn get<E>(
        &self,
        files: &[PathBuf],
        rest: Option<Digest>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        // The clock that the kernel marks files by.
        self.get_at(SystemTime::now(), files, rest, make)
    }

    fn get_at<E>(
        &self,
        now: SystemTime,
        files: &[PathBuf],
        rest: Option<Digest>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let before = MadeOf::now(files, rest);
        let first = files.first().cloned().unwrap_or_default();
        if let Some(known) = self.lock().get(&first).filter(|known| known.of == before) {
            return Ok(known.made.clone());
        }
        let made = make()?;
        // Of what was replaced meanwhile nobody knows which one it was made of.
        if before.is_settled(now) && MadeOf::now(files, rest) == before {
            let mut known = self.lock();
            if known.len() >= FILES_MAX {
                known.clear();
            }
            let (of, made) = (before, made.clone());
            known.insert(first, Made { of, made });
        }
        Ok(made)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Made<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Default for Unchanged<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use crate::host::fs::{Attrs, HostFs};

    #[test]
    fn a_file_is_read_again_when_it_is_another_one_and_only_then() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let path = fs.at("/f");
        let (known, reads) = (Unchanged::new(), Cell::new(0));
        let files = [path.clone(), fs.at("/other")];
        let later = SystemTime::now() + Duration::from_secs(60);
        let read = || {
            known.get_at(later, &files, None, || {
                reads.set(reads.get() + 1);
                std::fs::read(&path)
            })
        };
        read().expect_err("there is none");
        let put = |text: &str, mode: u32| {
            fs.write("/f", text.as_bytes(), &Attrs::mode(mode))
                .expect("write");
        };
        put("one", 0o644);
        for _ in 0..3 {
            assert_eq!(read().expect("read"), b"one");
        }
        assert_eq!(reads.get(), 2, "a failure is not kept");
        // As long, and put in its place in one step.
        put("two", 0o644);
        assert_eq!(read().expect("read"), b"two");
        put("two", 0o600);
        assert_eq!(read().expect("read"), b"two");
        assert_eq!(reads.get(), 4);
        std::fs::write(&files[1], "x").expect("write");
        assert_eq!(read().expect("read"), b"two");
        assert_eq!(reads.get(), 5, "of the other one, too");
        std::fs::remove_file(&path).expect("remove");
        read().expect_err("it is gone");
    }

    /// In one tick of the kernel's clock it may be written again, in its place and as long.
    #[test]
    fn what_has_just_changed_is_made_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let files = [dir.path().join("f")];
        std::fs::write(&files[0], "x").expect("write");
        let (known, changed) = (Unchanged::new(), std::fs::metadata(&files[0]));
        let changed = u64::try_from(changed.expect("file").ctime()).expect("a time");
        let made = |after: u64, n: i32| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(changed + after);
            known.get_at(now, &files, None, || Ok::<_, ()>(n))
        };
        assert_eq!(made(0, 1), Ok(1));
        assert_eq!(made(1, 2), Ok(2));
        assert_eq!(made(2, 3), Ok(3), "it is as it was two seconds ago");
        assert_eq!(made(2, 4), Ok(3));
        // The file is of the future: the clock was set back.
        let before = SystemTime::UNIX_EPOCH;
        let fresh = Unchanged::new();
        for n in 0..2 {
            let made = fresh.get_at(before, &files, None, || Ok::<_, ()>(n));
            assert_eq!(made, Ok(n));
        }
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let dir = tempfile::tempdir().expect("tempdir");
        let known = Unchanged::new();
        for n in 0..3 * FILES_MAX {
            let path = dir.path().join(n.to_string());
            std::fs::write(&path, "x").expect("write");
            let later = SystemTime::now() + Duration::from_secs(60);
            let made = known.get_at(later, &[path], None, || Ok::<_, ()>(n));
            assert_eq!(made, Ok(n));
            assert!((1..=FILES_MAX).contains(&known.lock().len()));
        }
    }

    #[test]
    fn what_is_in_no_file_counts_as_well() {
        let known = Unchanged::new();
        let nowhere = [PathBuf::from("/nowhere/at/all")];
        let made = |of: &[u8], n: i32| known.get(&nowhere, Some(Digest::of(of)), || Ok::<_, ()>(n));
        assert_eq!(made(b"a", 1), Ok(1));
        assert_eq!(made(b"a", 2), Ok(1));
        assert_eq!(made(b"b", 3), Ok(3));
    }
}

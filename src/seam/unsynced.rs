//! What a power cut loses: changes since the last sync, and how each is undone.
//!
//! Two machines lose power here. One lost everything that no sync promised ([`PowerLoss::Everything`]); the other had
//! written its names and not the bytes ([`PowerLoss::Bytes`]): the file that is there and is empty. What a real disk keeps
//! lies between them. A name counts as kept when its directory was synced, and only then: what ext4 and xfs keep beyond
//! that no standard promises.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What is lost with the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerLoss {
    /// Every name and every byte that was not synced.
    Everything,
    /// The bytes; names are there.
    Bytes,
}

/// The file that had a removed name.
#[derive(Debug, Default)]
pub struct Stash(Option<Was>);

#[derive(Debug)]
enum Was {
    /// Under a second name here.
    There(PathBuf),
    /// An empty directory.
    Dir(u32),
}

/// Changes since the last sync.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    /// Oldest first.
    names: Vec<Name>,
    /// The former content of each file changed since.
    bytes: BTreeMap<(u64, u64), Saved>,
    stash: Option<tempfile::TempDir>,
    stashed: u64,
}

#[derive(Debug)]
enum Name {
    Made(PathBuf),
    Removed(PathBuf, Stash),
    Renamed {
        from: PathBuf,
        to: PathBuf,
        was: Stash,
    },
    Exchanged(PathBuf, PathBuf),
}

#[derive(Debug)]
struct Saved {
    /// Holds the file, whatever it is called.
    file: File,
    bytes: Vec<u8>,
    mode: u32,
}

impl Unsynced {
    pub(super) fn made(&mut self, at: &Path) {
        self.names.push(Name::Made(at.to_path_buf()));
    }

    /// A file that was just made.
    pub(super) fn begun(&mut self, file: &File) {
        self.save(file, Some(Vec::new()));
    }

    /// Before each change.
    pub(super) fn changes(&mut self, file: &File) {
        self.save(file, None);
    }

    fn save(&mut self, file: &File, bytes: Option<Vec<u8>>) {
        let meta = file.metadata().expect("an open file");
        let key = (meta.dev(), meta.ino());
        if !meta.is_file() || (bytes.is_none() && self.bytes.contains_key(&key)) {
            return;
        }
        // Whatever it was opened for: by the way to it that every process has of its own.
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let bytes = bytes.unwrap_or_else(|| fs::read(&again).expect("it can be read"));
        let file = File::options().write(true).open(again);
        let saved = Saved {
            file: file.expect("it can be reopened"),
            bytes,
            mode: meta.permissions().mode(),
        };
        self.bytes.insert(key, saved);
    }

    pub(super) fn synced(&mut self, file: &File) {
        let meta = file.metadata().expect("an open file");
        self.bytes.remove(&(meta.dev(), meta.ino()));
    }

    pub(super) fn synced_dir(&mut self, dir: &Path) {
        self.names.retain(|name| !name.is_in(dir));
    }

    /// The file of this name gets a second name, because it is about to lose this one.
    pub(super) fn kept(&mut self, at: &Path) -> Stash {
        let Ok(meta) = fs::symlink_metadata(at) else {
            return Stash(None);
        };
        if meta.is_dir() {
            return Stash(Some(Was::Dir(meta.permissions().mode())));
        }
        let aside = self.aside(at);
        fs::hard_link(at, &aside).expect("a second name");
        Stash(Some(Was::There(aside)))
    }

    pub(super) fn renamed(&mut self, from: &Path, to: &Path, was: Stash) {
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        self.names.push(Name::Renamed { from, to, was });
    }

    pub(super) fn exchanged(&mut self, one: &Path, other: &Path) {
        let name = Name::Exchanged(one.to_path_buf(), other.to_path_buf());
        self.names.push(name);
    }

    pub(super) fn removed(&mut self, at: &Path, was: Stash) {
        self.names.push(Name::Removed(at.to_path_buf(), was));
    }

    pub(super) fn tree_put_aside(&mut self, at: &Path) -> bool {
        let aside = self.aside(at);
        if fs::rename(at, &aside).is_err() {
            return false;
        }
        self.removed(at, Stash(Some(Was::There(aside))));
        true
    }

    /// A name on the same file system, out of everybody's way.
    fn aside(&mut self, near: &Path) -> PathBuf {
        let stash = self.stash.get_or_insert_with(|| {
            // Beside the temporary root that the test works below.
            let temp = std::env::temp_dir();
            let dir = if near.starts_with(&temp) {
                temp
            } else {
                near.parent().expect("a directory").to_path_buf()
            };
            tempfile::Builder::new()
                .prefix(".pf9-lost-")
                .tempdir_in(dir)
                .expect("a directory")
        });
        self.stashed += 1;
        stash.path().join(self.stashed.to_string())
    }

    /// The power is gone.
    pub(super) fn lose(&mut self, loss: PowerLoss) {
        for (_, saved) in std::mem::take(&mut self.bytes) {
            saved.restore();
        }
        let names = std::mem::take(&mut self.names);
        match loss {
            PowerLoss::Bytes => {}
            PowerLoss::Everything => names.into_iter().rev().for_each(Name::undo),
        }
    }
}

impl Saved {
    fn restore(mut self) {
        let mode = Permissions::from_mode(self.mode);
        self.file.set_len(0).expect("it can be cut");
        self.file.write_all(&self.bytes).expect("it can be written");
        self.file.set_permissions(mode).expect("it is ours");
    }
}

impl Name {
    fn is_in(&self, dir: &Path) -> bool {
        let is = |path: &PathBuf| path.parent() == Some(dir);
        match self {
            Self::Made(at) | Self::Removed(at, _) => is(at),
            // One transaction on every file system with a journal: it is kept with either of its ends.
            Self::Renamed { from, to, .. } | Self::Exchanged(from, to) => is(from) || is(to),
        }
    }

    fn undo(self) {
        match self {
            Self::Made(at) => remove(&at),
            Self::Removed(at, was) => was.put_back(&at),
            Self::Renamed { from, to, was } => {
                // What is not there was in a directory that is lost itself.
                if fs::rename(&to, &from).is_ok() {
                    was.put_back(&to);
                }
            }
            Self::Exchanged(one, other) => {
                let aside = other.with_extension("pf9-exchanged");
                let exchanged = fs::rename(&one, &aside)
                    .and_then(|()| fs::rename(&other, &one))
                    .and_then(|()| fs::rename(&aside, &other));
                exchanged.expect("exchanged again");
            }
        }
    }
}

impl Stash {
    fn put_back(self, at: &Path) {
        match self.0 {
            None => {}
            Some(Was::There(aside)) => {
                // The directory it was in may be lost as well.
                drop(fs::rename(aside, at));
            }
            Some(Was::Dir(mode)) => {
                let made = fs::create_dir(at);
                let back =
                    made.and_then(|()| fs::set_permissions(at, Permissions::from_mode(mode)));
                // Likewise.
                drop(back);
            }
        }
    }
}

fn remove(at: &Path) {
    let gone = match fs::symlink_metadata(at) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(at),
        Ok(_) => fs::remove_file(at),
        Err(_) => return,
    };
    gone.expect("it is ours");
}

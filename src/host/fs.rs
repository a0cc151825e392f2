//! Files: atomic, durable, bounded.
//!
//! A write is: temporary file in the same directory, owner and mode before content is visible,
//! fsync, rename, fsync of the directory. At any instant the path holds the whole old text or the
//! whole new one. Every path is an absolute path *of the host*; [`HostFs`] puts its root in front,
//! so tests run the same code in a temporary directory. What an interrupted write leaves is told
//! by its name and taken away by [`super::temps`].

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::{Group, User};

use crate::seam::{disk, life};

/// Room for what does not say its size: the kernel writes its files by the page.
const READ_MIN: u64 = 4096;
/// Most room that is made before anything was read: a file may say that it is as large as it likes.
const READ_MAX: u64 = 1 << 20;

mod begun;
mod plain;

pub use begun::Begun;

/// The file system of one host.
#[derive(Clone, Debug)]
pub struct HostFs {
    root: PathBuf,
}

/// Owner and permissions of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attrs {
    /// Permission bits.
    pub mode: u32,
    /// `user:group`; absent: the current user.
    pub owner: Option<String>,
}

/// A file operation that failed: says which, on what, why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct FsError {
    /// What was tried, e.g. `write`.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Owner's id.
        uid: u32,
        /// Group's id.
        gid: u32,
        /// Bytes.
        size: u64,
    },
    /// A directory.
    Dir {
        /// Permission bits.
        mode: u32,
        /// Owner's id.
        uid: u32,
        /// Group's id.
        gid: u32,
    },
    /// A symbolic link and what it says.
    Link(PathBuf),
    /// A socket, device or pipe.
    Other,
}

// === impl Attrs ===

impl Attrs {
    /// Mode only; the owner is the current user.
    pub fn mode(mode: u32) -> Self {
        Self { mode, owner: None }
    }

    /// Mode and `user:group`.
    pub fn owned(mode: u32, owner: &str) -> Self {
        Self {
            mode,
            owner: Some(owner.to_owned()),
        }
    }

    /// The numeric owner, looked up on this machine; `None` when no owner is asked for.
    pub fn ids(&self) -> io::Result<Option<(u32, u32)>> {
        let Some(owner) = &self.owner else {
            return Ok(None);
        };
        let (user, group) = owner.split_once(':').unwrap_or((owner, owner));
        let missing = |kind: &str, name: &str| {
            io::Error::new(io::ErrorKind::NotFound, format!("no {kind} named {name}"))
        };
        let uid = User::from_name(user)?.ok_or_else(|| missing("user", user))?;
        let gid = Group::from_name(group)?.ok_or_else(|| missing("group", group))?;
        Ok(Some((uid.uid.as_raw(), gid.gid.as_raw())))
    }
}

// === impl HostFs ===

impl HostFs {
    /// The machine itself.
    pub fn real() -> Self {
        Self::new("/")
    }

    /// A host whose files are below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where an absolute host path is. `..` is not followed: such a path maps to nothing useful.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let mut out = self.root.clone();
        for part in path.as_ref().components() {
            match part {
                Component::Normal(name) => out.push(name),
                Component::ParentDir => out.push("\u{0}no-parent"),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        out
    }

    /// What is at `path`; links are not followed.
    pub fn found(&self, path: impl AsRef<Path>) -> Result<Found, FsError> {
        let at = self.at(path);
        let meta = match fs::symlink_metadata(&at) {
            Ok(meta) => meta,
            Err(e) if absent(&e) => return Ok(Found::Nothing),
            Err(e) => return Err(fail("look at", &at, e)),
        };
        let mode = meta.mode() & 0o7777;
        let (uid, gid) = (meta.uid(), meta.gid());
        if meta.is_symlink() {
            let target = fs::read_link(&at).map_err(|e| fail("read link", &at, e))?;
            Ok(Found::Link(target))
        } else if meta.is_dir() {
            Ok(Found::Dir { mode, uid, gid })
        } else if meta.is_file() {
            Ok(Found::File {
                mode,
                uid,
                gid,
                size: meta.len(),
            })
        } else {
            Ok(Found::Other)
        }
    }

    /// Reads a whole file of at most `max` bytes; `None` when there is none.
    pub fn read(&self, path: impl AsRef<Path>, max: u64) -> Result<Option<Vec<u8>>, FsError> {
        let at = self.at(path);
        let file = match File::open(&at) {
            Ok(file) => file,
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(fail("open", &at, e)),
        };
        // In one call where the file says how large it is: behind a bound std asks for 32 bytes first, then twice as many
        // each time. Files of the kernel say 0.
        let says = file.metadata().map_or(0, |m| m.len());
        let room = says
            .saturating_add(1)
            .clamp(READ_MIN, READ_MAX)
            .min(max.saturating_add(1));
        let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or(0));
        file.take(max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|e| fail("read", &at, e))?;
        if bytes.len() as u64 > max {
            let why = format!("it is larger than {max} bytes");
            return Err(fail("read", &at, io::Error::other(why)));
        }
        Ok(Some(bytes))
    }

    /// Reads a whole UTF-8 file of at most `max` bytes; `None` when there is none.
    pub fn read_text(&self, path: impl AsRef<Path>, max: u64) -> Result<Option<String>, FsError> {
        let at = self.at(&path);
        self.read(path, max)?
            .map(|bytes| {
                String::from_utf8(bytes).map_err(|_| {
                    let why = io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8");
                    fail("read", &at, why)
                })
            })
            .transpose()
    }

    /// Replaces `path` by `bytes`, atomically and durably. Missing parent directories are made
    /// with mode 0755.
    #[track_caller]
    pub fn write(
        &self,
        path: impl AsRef<Path>,
        bytes: &[u8],
        attrs: &Attrs,
    ) -> Result<(), FsError> {
        let mut begun = self.begin(path, attrs)?;
        match begun.write_all(bytes) {
            Ok(()) => begun.place(),
            Err(e) => Err(begun.failed(e)),
        }
    }

    /// Makes `path` a symbolic link to `target`, atomically (rename over).
    #[track_caller]
    pub fn link(&self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<(), FsError> {
        let at = self.at(path);
        let dir = self.parent_of(&at)?;
        let temp = temp_beside(&at);
        disk::symlink(target.as_ref(), &temp).map_err(|e| fail("link", &at, e))?;
        if let Err(e) = disk::rename(&temp, &at) {
            drop(disk::remove_file(&temp));
            return Err(fail("link", &at, e));
        }
        sync_dir(&dir)
    }

    /// Makes a directory (and its parents, 0755) and sets its mode and owner.
    #[track_caller]
    pub fn make_dir(&self, path: impl AsRef<Path>, attrs: &Attrs) -> Result<(), FsError> {
        let at = self.at(path);
        disk::make_dirs(&at).map_err(|e| fail("make directory", &at, e))?;
        let own = attrs.ids().and_then(|ids| match ids {
            Some((uid, gid)) => disk::chown(&at, uid, gid),
            None => Ok(()),
        });
        own.map_err(|e| fail("own", &at, e))?;
        disk::set_permissions(&at, fs::Permissions::from_mode(attrs.mode))
            .map_err(|e| fail("set mode of", &at, e))?;
        sync_parent(&at)
    }

    /// Removes a file or link; nothing there is fine.
    #[track_caller]
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<(), FsError> {
        let at = self.at(path);
        match disk::remove_file(&at) {
            Ok(()) => sync_parent(&at),
            Err(e) if absent(&e) => Ok(()),
            Err(e) => Err(fail("remove", &at, e)),
        }
    }

    /// Removes a directory if it is empty, durably; one that is not, or is a mount point, stays. True when
    /// it is gone.
    #[track_caller]
    pub fn remove_empty_dir(&self, path: impl AsRef<Path>) -> Result<bool, FsError> {
        let at = self.at(path);
        match disk::remove_dir(&at) {
            Ok(()) => sync_parent(&at).map(|()| true),
            Err(e) if absent(&e) => Ok(true),
            Err(e) => match e.kind() {
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy => Ok(false),
                _ => Err(fail("remove", &at, e)),
            },
        }
    }

    /// Removes whatever is at `path`, with everything in it; an absent path is fine. Refused while something is mounted
    /// below it: that is foreign data. When `path` itself is a mount point, it is emptied and stays.
    #[track_caller]
    pub fn remove_tree(&self, path: impl AsRef<Path>) -> Result<(), FsError> {
        let path = path.as_ref();
        let at = self.at(path);
        match self.found(path)? {
            Found::Nothing => return Ok(()),
            Found::File { .. } | Found::Link(_) | Found::Other => return self.remove_file(path),
            Found::Dir { .. } => {}
        }
        let (is_mount, below) = super::mounts::at_or_below(self, path)?;
        if let Some(mount) = below.first() {
            let why = format!("something is mounted at {mount}");
            return Err(fail("remove", &at, io::Error::other(why)));
        }
        if !is_mount {
            disk::remove_dir_all(&at).map_err(|e| fail("remove", &at, e))?;
            return sync_parent(&at);
        }
        for name in self.names(path)? {
            self.remove_tree(path.join(name))?;
        }
        sync_dir(&at)
    }

    /// As [`Self::remove_tree`], but around what is mounted there or below: that stays, with the directories on the way to
    /// it. Returns where. A directory mounted where `is_disk` is ours although another one mounted it: it is emptied and
    /// stays. A file with another one mounted over it cannot be emptied, and only stays.
    #[track_caller]
    pub fn remove_tree_around(
        &self,
        path: impl AsRef<Path>,
        is_disk: fn(&Path) -> bool,
    ) -> Result<Vec<String>, FsError> {
        let path = path.as_ref();
        let (is_mount, below) = super::mounts::at_or_below(self, path)?;
        if is_mount && !(is_disk(path) && matches!(self.found(path)?, Found::Dir { .. })) {
            return Ok(vec![path.display().to_string()]);
        }
        if below.is_empty() {
            return self.remove_tree(path).map(|()| Vec::new());
        }
        let mut left = Vec::new();
        for name in self.names(path)? {
            left.extend(self.remove_tree_around(path.join(name), is_disk)?);
        }
        if !is_mount {
            self.remove_empty_dir(path)?;
        }
        Ok(left)
    }

    /// Gives a file or directory another name on the same file system, durably. Both directories
    /// must be there. What has the new name already is in the way, unless it is an empty directory.
    #[track_caller]
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), FsError> {
        let (from, to) = (self.at(from), self.at(to));
        disk::rename(&from, &to).map_err(|e| fail("move", &from, e))?;
        [&to, &from]
            .into_iter()
            .filter_map(|path| path.parent())
            .try_for_each(sync_dir)
    }

    /// Makes everything below a directory durable, for what another program wrote there.
    #[track_caller]
    pub fn sync_tree(&self, path: impl AsRef<Path>) -> Result<(), FsError> {
        let path = path.as_ref();
        for name in self.names(path)? {
            let below = path.join(name);
            match self.found(&below)? {
                Found::Dir { .. } => self.sync_tree(&below)?,
                Found::File { .. } => {
                    let at = self.at(&below);
                    disk::sync_file(&at).map_err(|e| fail("sync", &at, e))?;
                }
                Found::Nothing | Found::Link(_) | Found::Other => {}
            }
        }
        sync_dir(&self.at(path))
    }

    /// Names in a directory, sorted; empty when there is none. For people and for names of ours: one that is not text is
    /// shown as well as it can be, and leads nowhere.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<String>, FsError> {
        let names = self.names(path.as_ref())?.into_iter();
        Ok(names.map(|n| n.to_string_lossy().into_owned()).collect())
    }

    /// The same as they are.
    fn names(&self, path: &Path) -> Result<Vec<OsString>, FsError> {
        let at = self.at(path);
        let entries = match fs::read_dir(&at) {
            Ok(entries) => entries,
            Err(e) if absent(&e) => return Ok(Vec::new()),
            Err(e) => return Err(fail("list", &at, e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| fail("list", &at, e))?;
            names.push(entry.file_name());
        }
        names.sort();
        Ok(names)
    }

    #[track_caller]
    fn parent_of(&self, at: &Path) -> Result<PathBuf, FsError> {
        let dir = at.parent().unwrap_or(&self.root).to_path_buf();
        disk::make_dirs(&dir).map_err(|e| fail("make directory", &dir, e))?;
        Ok(dir)
    }
}

#[track_caller]
fn sync_parent(at: &Path) -> Result<(), FsError> {
    at.parent().map_or(Ok(()), sync_dir)
}

#[track_caller]
fn sync_dir(dir: &Path) -> Result<(), FsError> {
    disk::sync_dir(dir).map_err(|e| fail("sync", dir, e))
}

/// The writer of a temporary file: a process id and when that process started name one process for
/// ever (of one boot).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) pid: u32,
    pub(super) start: u64,
}

impl Writer {
    /// This process.
    pub(super) fn this() -> Self {
        static THIS: OnceLock<Writer> = OnceLock::new();
        // The process's own, whatever root its host's files are below.
        let this = *THIS.get_or_init(|| Self {
            pid: std::process::id(),
            start: fs::read_to_string("/proc/self/stat")
                .ok()
                .and_then(|stat| super::proc::start_of(&stat))
                .unwrap_or_default(),
        });
        match life() {
            Some(start) => Self { start, ..this },
            None => this,
        }
    }
}

const TEMP_PREFIX: &str = ".pf9-tmp-";
/// So that readers of `*.json` or `*.toml` in that directory ignore it.
const TEMP_SUFFIX: &str = ".tmp";
/// Most of the target's own name that is kept, for people: a name has at most 255 bytes.
const TEMP_NAME_MAX: usize = 128;

/// The name of a temporary file for `name`; `n` is unique in the process.
pub(super) fn temp_name(writer: Writer, n: u32, name: &str) -> String {
    let mut end = name.len().min(TEMP_NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let (Writer { pid, start }, name) = (writer, &name[..end]);
    format!("{TEMP_PREFIX}{pid}-{start}-{n}-{name}{TEMP_SUFFIX}")
}

/// The writer of the temporary file of this name; `None` for every other name.
pub(super) fn writer_of(name: &str) -> Option<Writer> {
    let rest = name.strip_prefix(TEMP_PREFIX)?.strip_suffix(TEMP_SUFFIX)?;
    let mut parts = rest.splitn(4, '-');
    let writer = Writer {
        pid: parts.next()?.parse().ok()?,
        start: parts.next()?.parse().ok()?,
    };
    let n = parts.next()?.parse::<u32>().ok();
    n.and(parts.next()).map(|_| writer)
}

fn temp_beside(at: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = at.file_name().unwrap_or_default().to_string_lossy();
    at.with_file_name(temp_name(Writer::this(), n, &name))
}

fn absent(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What failed, on what, and why.
pub(crate) fn fail(action: &'static str, path: &Path, source: io::Error) -> FsError {
    FsError {
        action,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests;

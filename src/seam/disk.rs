//! Every call that changes a file system. Nothing is decided here: [`crate::host::fs`] knows what is atomic and what is
//! durable, and with which owner.

use std::fs::{self, FileTimes, Metadata, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{Gid, Uid};

use super::fault;

/// An open file.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    path: PathBuf,
}

/// How a file is opened to be written.
#[derive(Clone, Debug)]
pub struct Options {
    how: fs::OpenOptions,
    truncate: bool,
}

// === impl Options ===

impl Options {
    /// Written, and not made.
    pub fn write() -> Self {
        let mut how = fs::OpenOptions::new();
        how.write(true);
        Self {
            how,
            truncate: false,
        }
    }

    /// Written at its end.
    pub fn append() -> Self {
        let mut how = fs::OpenOptions::new();
        how.append(true);
        Self {
            how,
            truncate: false,
        }
    }

    /// Read as well.
    #[must_use]
    pub fn read(mut self) -> Self {
        self.how.read(true);
        self
    }

    /// Made where there is none, with these permission bits.
    #[must_use]
    pub fn create(mut self, mode: u32) -> Self {
        self.how.create(true).mode(mode);
        self
    }

    /// Made with these permission bits; there must be none.
    #[must_use]
    pub fn create_new(mut self, mode: u32) -> Self {
        self.how.create_new(true).mode(mode);
        self
    }

    /// Emptied.
    #[must_use]
    pub fn truncate(mut self) -> Self {
        self.how.truncate(true);
        self.truncate = true;
        self
    }

    /// With these flags of `open(2)`.
    #[must_use]
    pub fn flags(mut self, flags: i32) -> Self {
        self.how.custom_flags(flags);
        self
    }

    /// Opens it.
    #[track_caller]
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        point!(Open, path)?;
        let new = fs::symlink_metadata(path).is_err();
        if self.truncate && !new {
            fault::overwrites(path);
        }
        let file = self.how.open(path)?;
        if new {
            fault::made(path);
            fault::begun(&file);
        }
        Ok(File {
            file,
            path: path.to_path_buf(),
        })
    }
}

// === impl File ===

impl File {
    /// What is known of it.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// The file itself, for a library that writes it by its own calls.
    pub fn into_std(self) -> fs::File {
        self.file
    }

    /// It is this long now.
    #[track_caller]
    pub fn set_len(&self, bytes: u64) -> io::Result<()> {
        point!(Length, self.path)?;
        fault::changes(&self.file);
        self.file.set_len(bytes)
    }

    /// Its permission bits.
    #[track_caller]
    pub fn set_permissions(&self, to: Permissions) -> io::Result<()> {
        point!(Attributes, self.path)?;
        fault::changes(&self.file);
        self.file.set_permissions(to)
    }

    /// Its owner and group.
    #[track_caller]
    pub fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        point!(Attributes, self.path)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(nix::unistd::fchown(&self.file, Some(uid), Some(gid))?)
    }

    /// When it was read and changed last.
    pub fn set_times(&self, to: FileTimes) -> io::Result<()> {
        self.file.set_times(to)
    }

    /// Reads from this place.
    pub fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(into, at)
    }

    /// Everything of it is on the disk, but perhaps its name.
    #[track_caller]
    pub fn sync_all(&self) -> io::Result<()> {
        point!(Sync, self.path)?;
        self.file.sync_all()?;
        fault::synced(&self.file);
        Ok(())
    }

    /// Its bytes are on the disk.
    #[track_caller]
    pub fn sync_data(&self) -> io::Result<()> {
        point!(Sync, self.path)?;
        self.file.sync_data()?;
        fault::synced(&self.file);
        Ok(())
    }

    /// Writes all of these bytes at this place.
    #[track_caller]
    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let verdict = fault::verdict(
            fault::CallKind::Write,
            concat!(file!(), ":", line!()),
            &self.path,
        );
        fault::changes(&self.file);
        if verdict.tears() {
            self.file.write_all_at(half(bytes), at)?;
        }
        verdict.carried_out()?;
        self.file.write_all_at(bytes, at)
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Read for File {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into)
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let verdict = fault::verdict(
            fault::CallKind::Write,
            concat!(file!(), ":", line!()),
            &self.path,
        );
        fault::changes(&self.file);
        if verdict.tears() {
            (&self.file).write_all(half(bytes))?;
        }
        verdict.carried_out()?;
        (&self.file).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that a library writes for us, by its own calls: the points that those have.
#[cfg(feature = "fault")]
#[derive(Debug)]
pub struct Others(fs::File);

#[cfg(feature = "fault")]
impl Others {
    /// The same file.
    pub fn of(file: &fs::File) -> io::Result<Self> {
        file.try_clone().map(Self)
    }

    /// Before a change of its bytes.
    pub fn changes(&self) -> io::Result<()> {
        point!(Write, "store")?;
        fault::changes(&self.0);
        Ok(())
    }

    /// Around a sync.
    pub fn syncs(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        point!(Sync, "store")?;
        sync()?;
        fault::synced(&self.0);
        Ok(())
    }
}

/// What a write that is interrupted gets to.
fn half(bytes: &[u8]) -> &[u8] {
    bytes.get(..bytes.len() / 2).unwrap_or_default()
}

// === names ===

/// Everything of the file at this path is on the disk, but perhaps its name.
#[track_caller]
pub fn sync_file(path: &Path) -> io::Result<()> {
    point!(Sync, path)?;
    let file = fs::File::open(path)?;
    file.sync_all()?;
    fault::synced(&file);
    Ok(())
}

/// The names in this directory are on the disk.
#[track_caller]
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    point!(SyncDir, dir)?;
    fs::File::open(dir)?.sync_all()?;
    fault::synced_dir(dir);
    Ok(())
}

/// Gives a file another name, in place of whatever has it.
#[track_caller]
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    point!(Rename, to)?;
    let stash = fault::kept(to);
    fs::rename(from, to)?;
    fault::renamed(from, to, stash);
    Ok(())
}

/// Gives a file another name; nothing may have it.
#[track_caller]
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    point!(Rename, to)?;
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)?;
    fault::renamed(from, to, fault::kept(Path::new("")));
    Ok(())
}

/// Each gets the name of the other.
#[track_caller]
pub fn exchange(from: &Path, to: &Path) -> io::Result<()> {
    point!(Rename, to)?;
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_EXCHANGE)?;
    fault::exchanged(from, to);
    Ok(())
}

/// Makes a symbolic link.
#[track_caller]
pub fn symlink(target: &Path, at: &Path) -> io::Result<()> {
    point!(Link, at)?;
    std::os::unix::fs::symlink(target, at)?;
    fault::made(at);
    Ok(())
}

/// Gives a file a second name.
#[track_caller]
pub fn hard_link(from: &Path, at: &Path) -> io::Result<()> {
    point!(Link, at)?;
    fs::hard_link(from, at)?;
    fault::made(at);
    Ok(())
}

/// Takes a name away.
#[track_caller]
pub fn remove_file(at: &Path) -> io::Result<()> {
    point!(Remove, at)?;
    let stash = fault::kept(at);
    fs::remove_file(at)?;
    fault::removed(at, stash);
    Ok(())
}

/// Takes an empty directory away.
#[track_caller]
pub fn remove_dir(at: &Path) -> io::Result<()> {
    point!(Remove, at)?;
    let stash = fault::kept(at);
    fs::remove_dir(at)?;
    fault::removed(at, stash);
    Ok(())
}

/// Takes a directory away with everything in it.
#[track_caller]
pub fn remove_dir_all(at: &Path) -> io::Result<()> {
    point!(Remove, at)?;
    if fault::tree_put_aside(at) {
        return Ok(());
    }
    fs::remove_dir_all(at)
}

/// Makes a directory with these permission bits, less what the process masks.
#[track_caller]
pub fn make_dir(at: &Path, mode: u32) -> io::Result<()> {
    point!(MakeDir, at)?;
    fs::DirBuilder::new().mode(mode).create(at)?;
    fault::made(at);
    Ok(())
}

/// Makes a directory and those above it that are missing, durably: what is in a new directory is on the disk only when
/// the directory is.
#[track_caller]
pub fn make_dirs(at: &Path) -> io::Result<()> {
    make_dirs_of(at, 0o777)
}

/// The same, with these permission bits.
#[track_caller]
pub fn make_dirs_of(at: &Path, mode: u32) -> io::Result<()> {
    if at.is_dir() {
        return Ok(());
    }
    let parent = at.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_dirs_of(parent, mode)?;
    }
    match make_dir(at, mode) {
        // Somebody else was faster.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && at.is_dir() => {}
        made => made?,
    }
    parent.map_or(Ok(()), sync_dir)
}

/// The permission bits of what is at this path.
#[track_caller]
pub fn set_permissions(at: &Path, to: Permissions) -> io::Result<()> {
    point!(Attributes, at)?;
    if let Ok(file) = fs::File::open(at)
        && file.metadata().is_ok_and(|m| m.is_file())
    {
        fault::changes(&file);
    }
    fs::set_permissions(at, to)
}

/// The owner and group of what is at this path.
#[track_caller]
pub fn chown(at: &Path, uid: u32, gid: u32) -> io::Result<()> {
    point!(Attributes, at)?;
    std::os::unix::fs::chown(at, Some(uid), Some(gid))
}

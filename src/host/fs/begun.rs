//! A file that is written piece by piece beside its place, and gets its name when it is whole.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Attrs, FsError, HostFs, fail, sync_dir, temp_beside};
use crate::seam::disk::{self, File, Options};

/// A file under a temporary name. Dropped, it is gone; what a killed process leaves of it is found
/// by its name ([`crate::host::temps`]).
#[derive(Debug)]
pub struct Begun {
    file: File,
    temp: PathBuf,
    at: PathBuf,
    dir: PathBuf,
    placed: bool,
}

impl HostFs {
    /// Creates a file destined for `path`. Missing parent directories are created with mode 0755.
    #[track_caller]
    pub fn begin(&self, path: impl AsRef<Path>, attrs: &Attrs) -> Result<Begun, FsError> {
        let at = self.at(path);
        let dir = self.parent_of(&at)?;
        let temp = temp_beside(&at);
        let file = Options::write()
            .create_new(0o600)
            .open(&temp)
            .map_err(|e| fail("write", &at, e))?;
        let begun = Begun {
            file,
            temp,
            at,
            dir,
            placed: false,
        };
        begun.own(attrs).map_err(|e| fail("write", &begun.at, e))?;
        Ok(begun)
    }
}

impl Begun {
    /// Owner and mode, before content is visible.
    #[track_caller]
    fn own(&self, attrs: &Attrs) -> io::Result<()> {
        if let Some((uid, gid)) = attrs.ids()? {
            self.file.set_owner(uid, gid)?;
        }
        self.file
            .set_permissions(fs::Permissions::from_mode(attrs.mode))
    }

    /// Where it is while it has no name.
    pub fn temporary(&self) -> &Path {
        &self.temp
    }

    /// Syncs what was written. A caller that writes much syncs often: one large write at the end would make
    /// everybody else wait for the disk.
    #[track_caller]
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// It is to have this name in its directory, which was not known before.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.at.set_file_name(name);
        self
    }

    /// It is whole: durable, and in its place in one step.
    #[track_caller]
    pub fn place(mut self) -> Result<(), FsError> {
        let placed = self.file.sync_all();
        placed
            .and_then(|()| disk::rename(&self.temp, &self.at))
            .map_err(|e| fail("write", &self.at, e))?;
        self.placed = true;
        sync_dir(&self.dir)
    }

    /// What went wrong with it, by its name.
    pub fn failed(&self, source: io::Error) -> FsError {
        fail("write", &self.at, source)
    }
}

impl Write for Begun {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.placed {
            // The temporary file is ours alone; what went wrong before is what matters. It may be a snapshot of etcd as
            // it is, so one error does not leave it there until the next start.
            if disk::remove_file(&self.temp).is_err() {
                drop(disk::remove_file(&self.temp));
            }
        }
    }
}

//! A directory, usually of another machine's disk.
//!
//! Such a mount can hang for ever in the kernel, where nothing can be broken off. So one call is at work
//! at a time in this process, each is waited for within a bound, and a call that finds the previous one
//! still there reports it: a dead file server costs one thread, not one for each backup.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::ArchiveError;
use super::plan::Item;
use crate::backup::blocking;
use crate::host::fs::{Attrs, Found, HostFs};
use crate::host::mounts;
use crate::host::space;
use crate::host::temps;
use crate::seam::disk::{self, Options};

/// Bounds what hangs; see the module.
static AT_WORK: Semaphore = Semaphore::const_new(1);
/// A listing, a manifest, a removal.
const QUESTION: Duration = Duration::from_secs(60);
/// The slowest directory that is of any use.
const SLOWEST_BYTES_PER_SECOND: u64 = 1024 * 1024;
/// Copied at once.
const CHUNK: usize = 256 * 1024;

/// One host's place in a directory.
#[derive(Clone, Debug)]
pub(super) struct Dir {
    host: HostFs,
    /// The directory of all hosts.
    all: String,
    /// The directory of this host.
    path: String,
    mount: Option<String>,
}

// === impl Dir ===

impl Dir {
    pub(super) fn new(host: &HostFs, path: &str, mount: Option<&str>, owner: &str) -> Self {
        Self {
            host: host.clone(),
            all: path.to_owned(),
            path: format!("{path}/{owner}"),
            mount: mount.map(str::to_owned),
        }
    }

    /// Puts a copy of a file there, whole or not at all.
    pub(super) async fn put(&self, name: &str, file: &Path) -> Result<(), ArchiveError> {
        let (name, file) = (name.to_owned(), file.to_path_buf());
        let bytes = fs::metadata(&file)
            .map_err(io_error("look at", &file))?
            .len();
        self.at_work(bytes, move |dir| {
            let at = dir.made()?;
            let room = space::of(&at).map_err(io_error("ask free space of", &at))?;
            room.require(&at, bytes).map_err(|e| ArchiveError::Full {
                said: e.to_string(),
            })?;
            let mut source = File::open(&file).map_err(io_error("read", &file))?;
            let path = format!("{}/{name}", dir.path);
            let mut begun = dir.host.begin(&path, &Attrs::mode(0o600))?;
            let sent = pour(&mut source, &file, &mut begun, &at)?;
            match sent == bytes {
                true => Ok(begun.place()?),
                false => Err(ArchiveError::Damaged {
                    file: name,
                    why: format!("{bytes} bytes were there, {sent} were copied"),
                }),
            }
        })
        .await
    }

    /// Puts a short text there.
    pub(super) async fn put_text(&self, name: &str, text: &[u8]) -> Result<(), ArchiveError> {
        let (name, text) = (name.to_owned(), text.to_vec());
        self.at_work(0, move |dir| {
            dir.made()?;
            let path = format!("{}/{name}", dir.path);
            Ok(dir.host.write(path, &text, &Attrs::mode(0o600))?)
        })
        .await
    }

    /// The files that are there.
    pub(super) async fn list(&self) -> Result<Vec<Item>, ArchiveError> {
        self.at_work(0, |dir| {
            dir.mounted()?;
            let mut items = Vec::new();
            for file in dir.host.list(&dir.path)? {
                let at = dir.host.at(&dir.path).join(&file);
                match fs::symlink_metadata(&at) {
                    Ok(meta) if meta.is_file() => items.push(Item {
                        file,
                        bytes: meta.len(),
                    }),
                    // A directory or a link is none of ours.
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(io_error("look at", &at)(e)),
                }
            }
            Ok(items)
        })
        .await
    }

    /// The places of all hosts.
    pub(super) async fn neighbours(&self) -> Result<Vec<String>, ArchiveError> {
        self.at_work(0, |dir| {
            dir.mounted()?;
            Ok(dir.host.list(&dir.all)?)
        })
        .await
    }

    /// A short text that is there.
    pub(super) async fn text(&self, name: &str, max: u64) -> Result<String, ArchiveError> {
        let name = name.to_owned();
        self.at_work(0, move |dir| {
            dir.mounted()?;
            let path = format!("{}/{name}", dir.path);
            // Not opened before: a pipe is waited for, and a link leads anywhere.
            match dir.host.found(&path)? {
                Found::File { .. } => {}
                Found::Nothing => return Err(ArchiveError::Missing { file: name }),
                Found::Dir { .. } | Found::Link(_) | Found::Other => {
                    let why = "it is not a file".to_owned();
                    return Err(ArchiveError::Damaged { file: name, why });
                }
            }
            let text = dir.host.read_text(path, max)?;
            text.ok_or(ArchiveError::Missing { file: name })
        })
        .await
    }

    /// Brings a file of `total` bytes to `into`, after those that are there already.
    pub(super) async fn get(
        &self,
        name: &str,
        into: &Path,
        total: u64,
    ) -> Result<(), ArchiveError> {
        let (name, into) = (name.to_owned(), into.to_path_buf());
        self.at_work(total, move |dir| {
            dir.mounted()?;
            let have = fs::metadata(&into).map_or(0, |m| m.len());
            // From an earlier try; its digest says whether it is the right one.
            if have == total && total > 0 {
                return Ok(());
            }
            let have = if have < total { have } else { 0 };
            let from = dir.host.at(&dir.path).join(&name);
            // Not opened before: a pipe is waited for, and a link leads anywhere.
            let meta = match fs::symlink_metadata(&from) {
                Ok(meta) => meta,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(ArchiveError::Missing { file: name });
                }
                Err(e) => return Err(io_error("look at", &from)(e)),
            };
            if !meta.is_file() || meta.len() != total {
                let is = match meta.is_file() {
                    true => format!("it has {} bytes, not {total}", meta.len()),
                    false => "it is not a file".to_owned(),
                };
                return Err(ArchiveError::Damaged {
                    file: name,
                    why: is,
                });
            }
            copy(&from, &into, have, total).map(drop)
        })
        .await
    }

    /// Takes a file away; nothing there is fine.
    pub(super) async fn remove(&self, name: &str) -> Result<(), ArchiveError> {
        let name = name.to_owned();
        self.at_work(0, move |dir| {
            dir.mounted()?;
            Ok(dir.host.remove_file(format!("{}/{name}", dir.path))?)
        })
        .await
    }

    /// Takes away what copies that were interrupted left.
    pub(super) async fn sweep(&self) -> Result<(), ArchiveError> {
        self.at_work(0, |dir| {
            dir.mounted()?;
            temps::collect(&dir.host, &[(dir.path.as_str(), 0)]);
            Ok(())
        })
        .await
    }

    /// Refuses when what should be mounted is not.
    fn mounted(&self) -> Result<(), ArchiveError> {
        let Some(mount) = &self.mount else {
            return Ok(());
        };
        // Triggers an automount now. Whether it answers shows below.
        drop(fs::metadata(self.host.at(mount)));
        let points = mounts::points(&self.host)?;
        match points.contains(mount) {
            true => Ok(()),
            false => Err(ArchiveError::NotMounted {
                mount: mount.clone(),
            }),
        }
    }

    /// The directory, made where it is missing.
    fn made(&self) -> Result<PathBuf, ArchiveError> {
        self.mounted()?;
        let at = self.host.at(&self.path);
        disk::make_dirs_of(&at, 0o700).map_err(io_error("make directory", &at))?;
        Ok(at)
    }

    async fn at_work<T, F>(&self, bytes: u64, work: F) -> Result<T, ArchiveError>
    where
        T: Send + 'static,
        F: FnOnce(Self) -> Result<T, ArchiveError> + Send + 'static,
    {
        let within = QUESTION + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        let dir = self.clone();
        let done = async {
            let permit = AT_WORK.acquire().await;
            blocking(move || {
                let _permit = permit;
                work(dir)
            })
            .await
        };
        tokio::time::timeout(within, done)
            .await
            .unwrap_or(Err(ArchiveError::Slow {
                seconds: within.as_secs(),
            }))
    }
}

/// Copies what comes after the first `have` bytes, durably, up to `total`: what grows meanwhile fills no
/// disk. Answers how many bytes the copy has.
fn copy(from: &Path, to: &Path, have: u64, total: u64) -> Result<u64, ArchiveError> {
    use std::io::{Seek, SeekFrom};
    let mut source = File::open(from).map_err(io_error("read", from))?;
    source
        .seek(SeekFrom::Start(have))
        .map_err(io_error("read", from))?;
    let mut copy = Options::write()
        .create(0o600)
        .open(to)
        .map_err(io_error("write", to))?;
    let placed = copy.set_len(have);
    placed
        .and_then(|()| copy.seek(SeekFrom::Start(have)))
        .map_err(io_error("write", to))?;
    let mut rest = source.take(total.saturating_sub(have));
    let sent = pour(&mut rest, from, &mut copy, to)?;
    copy.sync_all().map_err(io_error("write", to))?;
    Ok(have + sent)
}

/// Tells the causes apart: the file that is read or the one that is written.
fn pour(
    source: &mut impl Read,
    from: &Path,
    copy: &mut impl Write,
    to: &Path,
) -> Result<u64, ArchiveError> {
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0;
    loop {
        let n = source.read(&mut chunk).map_err(io_error("read", from))?;
        let bytes = chunk.get(..n).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(sent);
        }
        copy.write_all(bytes).map_err(io_error("write", to))?;
        sent += n as u64;
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_path_buf();
    move |source| ArchiveError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_a_full_disk() {
        let full = Path::new("/dev/full");
        let mut device = File::options().write(true).open(full).expect("open");
        let error = pour(&mut &b"x"[..], Path::new("x"), &mut device, full).expect_err("full");
        let target = crate::model::ArchiveTarget::Dir {
            path: "/mnt/nas".into(),
            mount: None,
        };
        let fault = error.fault(&target, "cannot copy the backup");
        assert_eq!(fault.code, crate::model::FaultCode::DiskFull, "{fault}");
        assert!(fault.why.contains("/dev/full"), "{fault}");
    }
}

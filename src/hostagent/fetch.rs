//! One file from the plane into a staging directory: resumed where it broke off, its digest computed while bytes arrive.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Agent, blocking};
use crate::host::fs::HostFs;
use crate::host::part::{self, Begin, RangeAnswer};
use crate::host::space::{self, NoSpace};
use crate::local::LocalError;
use crate::model::{Digest, Fault, Hasher};
use crate::seam::disk::{self, Options};

/// Longest silence in the middle of a file.
const CHUNK_DEADLINE: Duration = Duration::from_secs(60);
/// What came is on the disk after this long: that much of a download a power cut may cost.
pub(super) const KEPT_EVERY: Duration = Duration::from_secs(5);
/// Progress is reported this often; a person needs no more.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// What a file is for.
pub(super) trait Wanted {
    /// A failure, in its words.
    fn fault(&self, failure: Failure) -> Fault;
    /// So many bytes are on the disk.
    fn tell(&self, agent: &Agent, have: u64);
}

/// Why a file does not come.
pub(super) enum Failure {
    /// The disk.
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It does not fit.
    Space(NoSpace),
    /// It is not what it should be.
    Damaged(String),
    /// It stopped on its way.
    Broken(String),
    /// The plane does not give it.
    Plane(Box<LocalError>),
}

/// One file on its way.
pub(super) struct Target<W> {
    pub(super) wanted: W,
    /// Where the plane has it.
    pub(super) url: String,
    pub(super) done: PathBuf,
    pub(super) part: PathBuf,
    pub(super) total: u64,
    pub(super) sha256: Digest,
}

/// The part that is on disk.
pub(super) struct Part {
    file: Arc<disk::File>,
    hasher: Hasher,
    pub(super) have: u64,
}

impl<W: Wanted> Target<W> {
    fn part_path(&self) -> PathBuf {
        self.part.clone()
    }

    fn io(&self, action: &'static str, path: &Path) -> impl Fn(io::Error) -> Fault {
        let path = path.to_path_buf();
        move |source| {
            self.wanted.fault(Failure::Io {
                action,
                path: path.clone(),
                source,
            })
        }
    }

    fn damaged(&self, why: String) -> Fault {
        self.wanted.fault(Failure::Damaged(why))
    }

    /// True when the file is staged and its bytes are right; a wrong one is removed.
    pub(super) async fn is_done(&self) -> Result<bool, Fault> {
        let path = self.done.clone();
        let found = blocking(move || part::hashed(&path)).await;
        match found.map(|f| f.map(|(hasher, _)| hasher.finish())) {
            Ok(Some(digest)) if digest == self.sha256 => Ok(true),
            Ok(Some(_)) => {
                disk::remove_file(&self.done).map_err(self.io("remove", &self.done))?;
                Ok(false)
            }
            Ok(None) => Ok(false),
            Err(e) => Err(self.io("read", &self.done)(e)),
        }
    }

    /// Opens the part, hashes what is there, and refuses when the rest does not fit on the disk.
    pub(super) async fn open(&self) -> Result<Part, Fault> {
        let path = self.part_path();
        let found = {
            let path = path.clone();
            blocking(move || part::hashed(&path)).await
        }
        .map_err(self.io("read", &path))?;
        let have = found.as_ref().map(|(_, len)| *len);
        let (hasher, have) = match (part::begin(have, self.total), found) {
            (Begin::Resume(have), Some((hasher, _))) => (hasher, have),
            (Begin::Check, Some((hasher, have))) => (hasher, have),
            (Begin::Anew | Begin::Resume(_) | Begin::Check, _) => (Hasher::new(), 0),
        };
        let staging = self.done.parent().unwrap_or(&path).to_path_buf();
        disk::make_dirs(&staging).map_err(self.io("make directory", &staging))?;
        space::of(&staging)
            .map_err(self.io("ask free space of", &staging))?
            .require(&staging, self.total - have)
            .map_err(|e| self.wanted.fault(Failure::Space(e)))?;
        let at = path.clone();
        let opened = blocking(move || {
            let file = Options::write().create(0o640).open(at)?;
            file.set_len(have)?;
            Ok(Arc::new(file))
        });
        let file = opened.await.map_err(self.io("write", &path))?;
        Ok(Part { file, hasher, have })
    }

    pub(super) async fn receive(&self, agent: &Agent, mut part: Part) -> Result<(), Fault> {
        if part.have < self.total {
            self.receive_rest(agent, &mut part).await?;
        }
        self.place(part).await
    }

    /// All of it is there: it is the file, or nothing.
    async fn place(&self, part: Part) -> Result<(), Fault> {
        let path = self.part_path();
        if part.hasher.finish() != self.sha256 {
            disk::remove_file(&path).map_err(self.io("remove", &path))?;
            return Err(self.damaged("its SHA-256 is not the one that is signed".to_owned()));
        }
        let (from, to) = (path.clone(), self.done.clone());
        blocking(move || put_in_place(&from, &to))
            .await
            .map_err(self.io("put in place", &self.done))
    }

    async fn receive_rest(&self, agent: &Agent, part: &mut Part) -> Result<(), Fault> {
        let broken = |why: String| self.wanted.fault(Failure::Broken(why));
        let from = (part.have > 0).then_some(part.have);
        let mut response = agent
            .plane
            .stream(&self.url, from)
            .await
            .map_err(|e| self.wanted.fault(Failure::Plane(Box::new(e))))?;
        let range = response
            .headers()
            .get(http::header::CONTENT_RANGE)
            .and_then(|v| v.to_str().ok());
        match part::answer(
            "the plane",
            response.status().as_u16(),
            range,
            part.have,
            self.total,
        ) {
            Ok(RangeAnswer::GoesOn) => {}
            Ok(RangeAnswer::Whole) => self.restart(part).await?,
            Err(why) => return Err(broken(why)),
        }
        let (mut told, mut kept) = (Instant::now(), Instant::now());
        self.wanted.tell(agent, part.have);
        while part.have < self.total {
            let chunk = tokio::time::timeout(CHUNK_DEADLINE, response.chunk())
                .await
                .map_err(|_| broken(format!("no data for {CHUNK_DEADLINE:?}")))?
                .map_err(|e| {
                    broken(format!(
                        "it was interrupted: {}",
                        crate::telemetry::chain(&e)
                    ))
                })?;
            let Some(chunk) = chunk else {
                return Err(broken(format!("it ended after {} bytes", part.have)));
            };
            self.append(part, chunk).await?;
            if kept.elapsed() >= KEPT_EVERY {
                let file = Arc::clone(&part.file);
                let synced = blocking(move || file.sync_data()).await;
                synced.map_err(self.io("write", &self.part_path()))?;
                kept = Instant::now();
            }
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                self.wanted.tell(agent, part.have);
            }
        }
        Ok(())
    }

    async fn append(&self, part: &mut Part, chunk: Bytes) -> Result<(), Fault> {
        let room = usize::try_from(self.total - part.have).unwrap_or(usize::MAX);
        if chunk.len() > room {
            let why = format!("the plane sends more than {} bytes", self.total);
            return Err(self.damaged(why));
        }
        let (file, at, bytes) = (Arc::clone(&part.file), part.have, chunk.clone());
        blocking(move || file.write_all_at(&bytes, at))
            .await
            .map_err(self.io("write", &self.part_path()))?;
        part.hasher.update(&chunk);
        part.have += chunk.len() as u64;
        Ok(())
    }

    async fn restart(&self, part: &mut Part) -> Result<(), Fault> {
        let file = Arc::clone(&part.file);
        let again = blocking(move || file.set_len(0));
        again.await.map_err(self.io("write", &self.part_path()))?;
        part.hasher = Hasher::new();
        part.have = 0;
        Ok(())
    }
}

/// Not yet synced: after a power cut nodelet hashes it first, as it does each time.
fn put_in_place(from: &Path, to: &Path) -> io::Result<()> {
    disk::set_permissions(from, fs::Permissions::from_mode(0o640))?;
    disk::rename(from, to)
}

/// A file that is kept for a while is on the disk: nothing is fetched twice after a power cut.
pub(super) fn keep_on_disk(fs: &HostFs, file: &Path, dir: &str) -> io::Result<()> {
    disk::sync_file(file)?;
    disk::sync_dir(&fs.at(dir))
}

#[cfg(all(test, feature = "fault"))]
mod tests;

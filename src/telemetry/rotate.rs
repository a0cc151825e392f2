//! A log file that cannot grow without bound.
//!
//! Rotation is by size, here and not in logrotate: the bound must hold on a machine without cron,
//! and between two of its runs. When the disk is full, lines are dropped and counted; the program
//! goes on.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::seam::disk::{self, File, Options};

/// A file of at most `max_bytes`, with at most `keep` older ones beside it (`.1` the newest).
pub struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    open: Option<(File, u64)>,
    dropped: u64,
}

/// The story of the role: one line a happening, local time never guessed (UTC), plain words. A clone tells the same one.
#[derive(Clone)]
pub struct KubeLog {
    file: Arc<Mutex<RotatingFile>>,
}

// === impl RotatingFile ===

impl RotatingFile {
    /// A log at `path`. Nothing is opened before the first line.
    pub fn new(path: impl Into<PathBuf>, max_bytes: u64, keep: u32) -> Self {
        Self {
            path: path.into(),
            max_bytes,
            keep,
            open: None,
            dropped: 0,
        }
    }

    fn open(&mut self) -> io::Result<&mut (File, u64)> {
        // A person may have moved or removed the file: then a new one is begun.
        if self.open.is_some() && !self.path.exists() {
            self.open = None;
        }
        if self.open.is_none() {
            let file = Options::append().create(0o640).open(&self.path)?;
            let size = file.metadata()?.len();
            self.open = Some((file, size));
        }
        self.open
            .as_mut()
            .ok_or_else(|| io::Error::other("log is not open"))
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        for n in (1..self.keep).rev() {
            rename_if_there(&self.numbered(n), &self.numbered(n + 1))?;
        }
        if self.keep == 0 {
            return disk::remove_file(&self.path);
        }
        rename_if_there(&self.path, &self.numbered(1))
    }

    fn numbered(&self, n: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        name.into()
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let max = self.max_bytes;
        let (_, size) = self.open()?;
        if *size > 0 && *size + bytes.len() as u64 > max {
            self.rotate()?;
        }
        let (file, size) = self.open()?;
        file.write_all(bytes)?;
        *size += bytes.len() as u64;
        Ok(())
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.dropped > 0 {
            let note = format!(
                "({} lines lost: the log could not be written)\n",
                self.dropped
            );
            if self.append(note.as_bytes()).is_ok() {
                self.dropped = 0;
            }
        }
        // A log that cannot be written must never stop its program: the line is counted as lost.
        if self.append(bytes).is_err() {
            self.open = None;
            self.dropped += 1;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match disk::rename(from, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

// === impl KubeLog ===

/// Bounds of `kube.log`: ten times ten MiB hold months of one node's story.
const KUBE_LOG_BYTES: u64 = 10 * 1024 * 1024;
const KUBE_LOG_KEEP: u32 = 9;
/// All of it.
pub(super) const KUBE_LOG_MOST: u64 = KUBE_LOG_BYTES * (KUBE_LOG_KEEP as u64 + 1);

impl KubeLog {
    /// The story at `path` (`/var/log/pf9/kube/kube.log` on a node).
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            file: Arc::new(Mutex::new(RotatingFile::new(
                path,
                KUBE_LOG_BYTES,
                KUBE_LOG_KEEP,
            ))),
        }
    }

    /// Adds one line; line breaks inside become spaces.
    pub fn say(&self, now: Timestamp, line: &str) {
        let line = line.replace(['\n', '\r'], " ");
        let text = format!("{} {line}\n", now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"));
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // `RotatingFile::write` never fails: it counts what is lost.
        drop(file.write(text.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn bytes_and_count_are_bounded() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a.log");
        let mut log = RotatingFile::new(&path, 100, 2);
        for i in 0..100 {
            let line = format!("line {i:020}\n");
            assert_eq!(log.write(line.as_bytes()).expect("write"), line.len());
        }
        let mut sizes: Vec<_> = fs::read_dir(dir.path())
            .expect("dir")
            .map(|e| e.expect("entry").metadata().expect("meta").len())
            .collect();
        sizes.sort_unstable();
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().all(|s| *s <= 100), "{sizes:?}");
        let newest = fs::read_to_string(&path).expect("read");
        assert!(newest.contains("line 00000000000000000099"), "{newest}");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("sub/a.log");
        let mut log = RotatingFile::new(&path, 100, 1);
        assert!(log.write(b"lost\n").is_ok());
        fs::create_dir(dir.path().join("sub")).expect("mkdir");
        assert!(log.write(b"kept\n").is_ok());
        let text = fs::read_to_string(&path).expect("read");
        assert!(text.starts_with("(1 lines lost"), "{text}");
        assert!(text.ends_with("kept\n"), "{text}");
    }

    #[test]
    fn the_story_is_one_line_a_happening() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("kube.log");
        let log = KubeLog::at(&path);
        log.say(Timestamp::UNIX_EPOCH, "a\nb");
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text, "1970-01-01T00:00:00.000Z a b\n");
    }
}

//! A log file that cannot grow without bound.
//!
//! Rotation is by size, here and not in logrotate: the bound must hold on a machine without cron,
//! and between two of its runs. When the disk is full, lines are dropped and counted; the program
//! continues.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::seam::disk::{self, File, Options};

/// A file of at most `max_bytes`, with at most `keep` older ones beside it (`.1` the newest).
pub struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    full: Full,
    open: Option<(File, u64)>,
    dropped: u64,
}

/// What is done with a full file.
#[derive(Clone, Copy)]
enum Full {
    /// It is the newest of the older ones.
    Aside,
    /// Its lines are added to the newest older one, but for those with this in them; that one goes aside at so many bytes.
    Folded {
        without: &'static str,
        max_bytes: u64,
    },
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
            full: Full::Aside,
            open: None,
            dropped: 0,
        }
    }

    fn open(&mut self) -> io::Result<&mut (File, u64)> {
        // An operator may have moved or removed the file: then a new one is started.
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
        match self.full {
            Full::Aside if self.keep == 0 => disk::remove_file(&self.path),
            Full::Aside => {
                self.shift()?;
                rename_if_there(&self.path, &self.numbered(1))
            }
            Full::Folded { without, max_bytes } => self.fold(without, max_bytes),
        }
    }

    /// Each older file is one older; the oldest goes.
    fn shift(&self) -> io::Result<()> {
        (1..self.keep)
            .rev()
            .try_for_each(|n| rename_if_there(&self.numbered(n), &self.numbered(n + 1)))
    }

    /// Cut off between its two changes it leaves lines twice, and none is lost.
    fn fold(&self, without: &str, max_bytes: u64) -> io::Result<()> {
        let mut text = Vec::new();
        fs::File::open(&self.path)?
            .take(max_bytes)
            .read_to_end(&mut text)?;
        let lines = text.split_inclusive(|b| *b == b'\n');
        let stays = |line: &&[u8]| !String::from_utf8_lossy(line).contains(without);
        let kept = lines.filter(stays).collect::<Vec<_>>().concat();
        let newest = self.numbered(1);
        let there = fs::metadata(&newest).map_or(0, |m| m.len());
        if there > 0 && there + kept.len() as u64 > max_bytes {
            self.shift()?;
        }
        Options::append()
            .create(0o640)
            .open(&newest)?
            .write_all(&kept)?;
        disk::remove_file(&self.path)
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

/// Bounds of `kube.log`: ten times ten MiB hold years of one node's story.
const KUBE_LOG_BYTES: u64 = 10 * 1024 * 1024;
const KUBE_LOG_KEEP: u32 = 9;
/// All of it.
pub(super) const KUBE_LOG_MOST: u64 = KUBE_LOG_BYTES * (KUBE_LOG_KEEP as u64 + 1);
/// Size of its newest file, which alone has a line for each sweep without drift: a week or so of them, one a minute.
/// They are the most of it on a node that is well, and who looks for what happened last month has no use for them.
const KUBE_LOG_NEWEST: u64 = 768 * 1024;
/// What such a line has in it.
const NOTHING_TO_DO: &str = " status check: ok - ";

impl KubeLog {
    /// The story at `path` (`/var/log/pf9/kube/kube.log` on a node).
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let mut file = RotatingFile::new(path, KUBE_LOG_NEWEST, KUBE_LOG_KEEP);
        file.full = Full::Folded {
            without: NOTHING_TO_DO,
            max_bytes: KUBE_LOG_BYTES,
        };
        Self {
            file: Arc::new(Mutex::new(file)),
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
    fn a_year_of_a_node_that_is_well_takes_what_a_week_takes_and_its_story_is_whole() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("kube.log");
        let log = KubeLog::at(&path);
        let bytes = || {
            let entries = fs::read_dir(dir.path())
                .expect("dir")
                .map(|e| e.expect("entry"));
            entries
                .map(|e| e.metadata().expect("meta").len())
                .sum::<u64>()
        };
        let mut now = Timestamp::UNIX_EPOCH;
        // The most of each of its days: the newest file grows and is folded.
        let mut days = Vec::new();
        for day in 0..365 {
            let mut most = 0;
            for minute in 0..24 * 60 {
                now += jiff::SignedDuration::from_mins(1);
                log.say(
                    now,
                    "status check: ok - 18 of 18 phases converged (took 0.4 s)",
                );
                if minute % 60 == 0 {
                    most = most.max(bytes());
                }
            }
            if day % 30 == 0 {
                log.say(now, &format!("certs: certificate number {day} renewed"));
            }
            days.push(most);
        }
        let most = |days: &[u64]| *days.iter().max().expect("a day");
        let (week, end) = (most(&days[..7]), most(&days[358..]));
        assert!(
            end <= week + week / 20,
            "{week} bytes after a week, {end} after a year"
        );
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect("read");
        let (older, newest) = (read("kube.log.1"), read("kube.log"));
        assert_eq!((older.clone() + &newest).matches("renewed").count(), 13);
        assert!(!older.contains(NOTHING_TO_DO), "{older}");
        assert!(newest.contains(NOTHING_TO_DO));
        let log = RotatingFile {
            full: Full::Folded {
                without: "-",
                max_bytes: 100,
            },
            ..RotatingFile::new(dir.path().join("b.log"), 50, 2)
        };
        let mut log = log;
        for i in 0..100 {
            let line = format!("line {i:020}\n");
            assert_eq!(log.write(line.as_bytes()).expect("write"), line.len());
        }
        let size = |name: &str| fs::metadata(dir.path().join(name)).map_or(0, |m| m.len());
        assert!(size("b.log") <= 50 && size("b.log.1") <= 100 && size("b.log.2") <= 100);
        assert!(
            size("b.log.2") > 0 && size("b.log.3") == 0,
            "the oldest goes"
        );
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

//! How fast writes are on the disk where etcd will be: a few are made as etcd makes them, into a scratch file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Finding, Thresholds};
use crate::host::fs::HostFs;
use crate::model::paths;

/// Two pages, as much as etcd's log takes for a change or two.
const WRITE: usize = 8192;
/// The one file that a try makes, in the nearest directory that is there.
const FILE: &str = ".pf9-check-sync";

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncTrial {
    /// How long each write took, the shortest first.
    Took {
        /// Where.
        at: String,
        /// Microseconds.
        us: Vec<u64>,
    },
    /// It could not be tried, and why.
    NotTried(String),
}

impl SyncTrial {
    /// Writes at etcd's directory, or above it if it does not exist yet: bounded in number, bytes and, between two
    /// writes, in time. Only root may write there.
    pub fn run(host: &HostFs, uid: u32) -> Self {
        if uid != 0 {
            return Self::NotTried("only root can".into());
        }
        let at = host.at(paths::ETCD_DATA);
        let Some(there) = at.ancestors().find(|p| p.is_dir()) else {
            return Self::NotTried("there is no directory above it".into());
        };
        let below = there.strip_prefix(host.at("/")).unwrap_or(there);
        match tried(there) {
            Ok(us) => Self::Took {
                at: format!("/{}", below.display()),
                us,
            },
            Err(e) => Self::NotTried(format!("no file can be written there: {e}")),
        }
    }
}

fn tried(there: &Path) -> io::Result<Vec<u64>> {
    let limits = &Thresholds::ours().storage;
    let longest = Duration::from_millis(limits.fsync_try_ms);
    let path = there.join(FILE);
    // What a try that was interrupted left. A new file: whatever is there by this name is not written to.
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path);
    let took = file.and_then(|mut file| {
        // It goes when it is closed, whatever becomes of this program.
        fs::remove_file(&path)?;
        let (began, mut took) = (Instant::now(), Vec::new());
        while took.len() < limits.fsync_writes && began.elapsed() < longest {
            let before = Instant::now();
            file.write_all(&[0x50; WRITE])?;
            file.sync_data()?;
            took.push(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        Ok(took)
    });
    let mut took = took?;
    took.sort_unstable();
    Ok(took)
}

/// How long the slowest of a hundred takes, as far as so few can tell: the slowest but one.
pub(super) fn etcd_disk(trial: &SyncTrial) -> Finding {
    let good = Thresholds::ours().storage.fsync_good_ms;
    let wanted = format!("{good} ms or less for nearly every write");
    let (at, us) = match trial {
        SyncTrial::NotTried(why) => return Finding::new("not tried", wanted).skip(why.clone()),
        SyncTrial::Took { at, us } => (at, us),
    };
    let Some(median) = us.get(us.len() / 2) else {
        return Finding::new("not tried", wanted).skip("no write ended in time");
    };
    let high = us.get(us.len().saturating_sub(2)).unwrap_or(median);
    let found = format!(
        "{} and {} ms for a synchronous write at {at} (median and second slowest of {})",
        tenths(*median),
        tenths(*high),
        us.len()
    );
    let finding = Finding::new(found, wanted);
    if *high <= good.saturating_mul(1000) {
        return finding;
    }
    finding.warn(
        "on a master etcd waits for each write: members lose their leader, and the API is slow",
        format!(
            "for a master, mount a faster disk (SSD) at {}",
            paths::ETCD_DATA
        ),
    )
}

fn tenths(us: u64) -> String {
    format!("{}.{}", us / 1000, us % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::super::CheckOutcome;
    use super::*;

    #[test]
    fn a_try_writes_reads_the_clock_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        fs::create_dir_all(host.at("/var/lib")).expect("dir");
        // What a try that was killed left.
        fs::write(host.at("/var/lib").join(FILE), "x").expect("write");
        let SyncTrial::Took { at, us } = SyncTrial::run(&host, 0) else {
            panic!("it could be tried");
        };
        assert_eq!(at, "/var/lib");
        assert!(!us.is_empty() && us.is_sorted());
        assert_eq!(fs::read_dir(host.at("/var/lib")).expect("list").count(), 0);
        assert!(matches!(SyncTrial::run(&host, 7), SyncTrial::NotTried(_)));
    }

    #[test]
    fn what_lies_there_by_its_name_is_not_written_to() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        fs::create_dir_all(host.at("/var/lib")).expect("dir");
        fs::write(host.at("/other"), "mine").expect("write");
        std::os::unix::fs::symlink(host.at("/other"), host.at("/var/lib").join(FILE))
            .expect("link");
        assert!(matches!(SyncTrial::run(&host, 0), SyncTrial::Took { .. }));
        assert_eq!(fs::read_to_string(host.at("/other")).expect("read"), "mine");
    }

    #[test]
    fn one_slow_write_is_an_accident_and_two_are_a_disk() {
        let trial = |us: &[u64]| SyncTrial::Took {
            at: "/var/lib".into(),
            us: us.to_vec(),
        };
        let judged = |us: &[u64]| etcd_disk(&trial(us)).outcome;
        assert_eq!(judged(&[900, 1000, 1100, 80_000]), CheckOutcome::Ok);
        assert_eq!(judged(&[900, 1000, 70_000, 80_000]), CheckOutcome::Warn);
        assert_eq!(judged(&[80_000]), CheckOutcome::Warn);
        assert_eq!(judged(&[]), CheckOutcome::Skip);
        assert_eq!(
            etcd_disk(&SyncTrial::NotTried("no".into())).outcome,
            CheckOutcome::Skip
        );
    }
}

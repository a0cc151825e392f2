//! An archive that is read while it comes: what is staged of it first, then what is added, up to the length
//! that the manifest says.
//!
//! The writer is the less privileged hostagent, so the file is not trusted: it may stall, shrink or change when it is
//! read again. What is read is compared with the manifest where it is used; a reader gives up when nothing comes for a
//! while, or when it is told to.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// After this long without data it is no longer waited for: its progress is signalled, and so is its end.
pub(super) const STANDS_STILL: Duration = Duration::from_secs(3);
/// Between two looks at the length of the file: a download at full speed adds a MiB in that time.
const PAUSE: Duration = Duration::from_millis(10);

/// Ends the reading of an archive early. Any of them does.
#[derive(Clone, Debug, Default)]
pub struct Stops(Vec<CancellationToken>);

impl Stops {
    /// When one of these is cancelled.
    pub fn when(tokens: impl IntoIterator<Item = CancellationToken>) -> Self {
        Self(tokens.into_iter().collect())
    }

    fn now(&self) -> bool {
        self.0.iter().any(CancellationToken::is_cancelled)
    }
}

/// The bytes of an archive.
#[derive(Debug)]
pub(super) struct Coming {
    file: File,
    /// Bytes that were not read yet.
    left: u64,
    stops: Option<Stops>,
    /// It was not waited for any longer.
    given_up: bool,
}

impl Coming {
    /// All of it is there.
    pub(super) fn whole(file: File, size: u64) -> Self {
        Self {
            file,
            left: size,
            stops: None,
            given_up: false,
        }
    }

    /// Some of it is there, and the rest may come.
    pub(super) fn part(file: File, size: u64, stops: Stops) -> Self {
        Self {
            stops: Some(stops),
            ..Self::whole(file, size)
        }
    }

    /// It ended early: nothing came, or it was told to end.
    pub(super) fn was_given_up(&self) -> bool {
        self.given_up
    }
}

impl Read for Coming {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.given_up {
            return Err(gone());
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = buf.len().min(most);
        let since = Instant::now();
        loop {
            let n = self.file.read(&mut buf[..most])?;
            self.left -= n as u64;
            let Some(stops) = &self.stops else {
                return Ok(n);
            };
            if n > 0 || most == 0 {
                return Ok(n);
            }
            if stops.now() || since.elapsed() >= STANDS_STILL {
                self.given_up = true;
                return Err(gone());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no more data")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_comes_later_is_read_and_what_does_not_come_is_given_up() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("part");
        let mut writer = File::create(&path).expect("create");
        writer.write_all(b"abc").expect("write");
        let open = || File::open(&path).expect("open");
        let stop = CancellationToken::new();
        let mut coming = Coming::part(open(), 6, Stops::when([stop.clone()]));
        let mut text = [0; 3];
        coming.read_exact(&mut text).expect("what is there");
        std::thread::scope(|s| {
            s.spawn(|| writer.write_all(b"defgh").expect("more"));
            let mut rest = Vec::new();
            coming.read_to_end(&mut rest).expect("what comes");
            assert_eq!(rest, b"def", "no more than the manifest says");
        });
        let mut coming = Coming::part(open(), 100, Stops::when([stop.clone()]));
        coming.read_exact(&mut [0; 8]).expect("what is there");
        stop.cancel();
        coming.read(&mut text).expect_err("no more data");
        assert!(coming.was_given_up());
        let mut whole = Coming::whole(open(), 100);
        let mut all = Vec::new();
        whole.read_to_end(&mut all).expect("it waits for nothing");
        assert_eq!(all, b"abcdefgh");
    }

    /// Reads until it is given up; answers how long that took.
    fn until_given_up(mut coming: Coming) -> Duration {
        let since = Instant::now();
        let mut buf = [0; 16];
        while coming.read(&mut buf).is_ok_and(|n| n > 0) {}
        assert!(coming.was_given_up(), "it ended by itself");
        since.elapsed()
    }

    /// Told to end, it takes what is there and waits for nothing; else it waits for as long as a tunnel may take to come
    /// back.
    #[test]
    fn told_to_end_it_does_so_at_once_and_else_it_waits() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (told, untold) = (CancellationToken::new(), CancellationToken::new());
        told.cancel();
        let part = |text: &str, stop: &CancellationToken| {
            let path = dir.path().join("part");
            std::fs::write(&path, text).expect("write");
            let stops = Stops::when([CancellationToken::new(), stop.clone()]);
            Coming::part(File::open(&path).expect("open"), 100, stops)
        };
        for text in ["", "there is some"] {
            let took = until_given_up(part(text, &told));
            assert!(took < STANDS_STILL, "{took:?}");
        }
        let took = until_given_up(part("", &untold));
        assert!(took >= STANDS_STILL, "{took:?}");
    }

    #[test]
    fn what_was_given_up_stays_so() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("part");
        let mut writer = File::create(&path).expect("create");
        let stop = CancellationToken::new();
        stop.cancel();
        let reader = File::open(&path).expect("open");
        let mut coming = Coming::part(reader, 10, Stops::when([stop]));
        coming.read(&mut [0; 4]).expect_err("no more data");
        writer.write_all(b"late").expect("write");
        coming
            .read(&mut [0; 4])
            .expect_err("what follows is not what it was");
    }
}

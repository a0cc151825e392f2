//! One line per stream the plane asked for: who, what, how it went, how many bytes. Refusals that
//! are alike are one line and a number ([`Fold`]).
//!
//! Metadata only; never a byte of what passed.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telemetry::{Fold, More, RotatingFile, WINDOW};

/// Bounds of the audit log: 5 × 10 MiB are about a quarter of a million streams.
const AUDIT_BYTES: u64 = 10 * 1024 * 1024;
const AUDIT_KEEP: u32 = 4;

pub(super) struct Audit {
    log: Mutex<Log>,
    began: Instant,
    /// The first refusal since there was none: its number will be due.
    counts: Notify,
}

struct Log {
    file: RotatingFile,
    refusals: Fold<Kind>,
}

/// What refusals have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    /// The caller, as the plane names it.
    who: String,
    service: String,
    /// The word of the code.
    reason: &'static str,
}

/// What is written; one JSON object a line.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    pub(super) at: Timestamp,
    /// `open`, `refuse`, `close`.
    pub(super) what: &'static str,
    /// Absent where the line stands for many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stream: Option<u32>,
    pub(super) service: &'a str,
    /// The caller, as the plane names it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) who: &'a str,
    /// Which of their requests it belongs to, as the plane says.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) trace: &'a str,
    /// Why it was refused or broke.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) why: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_out: Option<u64>,
    /// For how many more this line stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) more: Option<u64>,
}

impl Audit {
    pub(super) fn at(path: PathBuf) -> Self {
        let file = RotatingFile::new(path, AUDIT_BYTES, AUDIT_KEEP);
        Self {
            log: Mutex::new(Log {
                file,
                refusals: Fold::default(),
            }),
            began: Instant::now(),
            counts: Notify::new(),
        }
    }

    pub(super) fn write(&self, line: &Line<'_>) {
        self.lock().write(line);
    }

    /// A refusal: the first of its kind is written, those that follow soon are counted.
    pub(super) fn refuse(&self, line: &Line<'_>, reason: &'static str) {
        let kind = Kind {
            who: line.who.to_owned(),
            service: line.service.to_owned(),
            reason,
        };
        let now = self.began.elapsed();
        let mut log = self.lock();
        let due = log.refusals.due(now);
        log.count(due);
        if log.refusals.next().is_none() {
            self.counts.notify_one();
        }
        if log.refusals.note(kind, now) {
            log.write(line);
        }
    }

    /// Writes the numbers when they are due, until `shutdown`.
    pub(super) async fn keep(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let next = self.lock().refusals.next();
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(self.began + next).await,
                    None => self.counts.notified().await,
                }
            };
            tokio::select! {
                // cancel-safe: both only wait
                () = due => {}
                () = shutdown.cancelled() => {}
            }
            let now = self.began.elapsed();
            let mut log = self.lock();
            let due = log.refusals.due(now);
            log.count(due);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let mut log = self.lock();
        let rest = log.refusals.rest();
        log.count(rest);
    }
}

impl Log {
    fn write(&mut self, line: &Line<'_>) {
        let Ok(mut text) = serde_json::to_string(line) else {
            return;
        };
        text.push('\n');
        // `RotatingFile::write` never fails: it counts what is lost.
        drop(self.file.write(text.as_bytes()));
    }

    fn count(&mut self, due: Vec<More<Kind>>) {
        let within = WINDOW.as_secs();
        for More { kind, more } in due {
            let why = match &kind {
                Some(kind) => format!("{}: and {more} more like it within {within} s", kind.reason),
                None => format!("and {more} more of many kinds within {within} s"),
            };
            self.write(&Line {
                at: crate::seam::clock::now(),
                what: "refuse",
                stream: None,
                service: kind.as_ref().map_or("", |k| &k.service),
                who: kind.as_ref().map_or("", |k| &k.who),
                trace: "",
                why: &why,
                bytes_in: None,
                bytes_out: None,
                more: Some(more),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused(who: &str) -> Line<'_> {
        Line {
            at: crate::seam::clock::now(),
            what: "refuse",
            stream: Some(2),
            service: "kubelet",
            who,
            trace: "",
            why: "may not",
            bytes_in: None,
            bytes_out: None,
            more: None,
        }
    }

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_number_is_written_when_its_time_has_come_or_at_the_end() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("audit.log");
        let whys = || -> Vec<String> {
            let log = std::fs::read_to_string(&path).expect("log");
            let line = |l: &str| serde_json::from_str::<serde_json::Value>(l).expect("json");
            let why = |l| format!("{} {}", line(l)["who"], line(l)["why"]);
            log.lines().map(why).collect()
        };
        let audit = Audit::at(path.clone());
        for who in ["a", "a", "b", "a"] {
            audit.refuse(&refused(who), "not-allowed");
        }
        let first = ["\"a\" \"may not\"", "\"b\" \"may not\""];
        assert_eq!(whys(), first);
        // It wakes when there is something to write, and not before.
        let keep = audit.keep(CancellationToken::new());
        drop(tokio::time::timeout(WINDOW + SOON, keep).await);
        let counted = "\"a\" \"not-allowed: and 2 more like it within 60 s\"";
        assert_eq!(whys(), [first[0], first[1], counted]);
        // Refused while nothing is due: it is woken by that.
        let refuse = async {
            tokio::time::sleep(SOON).await;
            for _ in 0..3 {
                audit.refuse(&refused("a"), "not-allowed");
            }
        };
        let keep = audit.keep(CancellationToken::new());
        let keep = tokio::time::timeout(SOON + WINDOW + SOON, keep);
        drop(tokio::join!(refuse, keep));
        assert_eq!(whys()[3..], [first[0], counted]);
        for _ in 0..3 {
            audit.refuse(&refused("a"), "not-allowed");
        }
        drop(audit);
        assert_eq!(whys()[5..], [first[0], counted]);
    }
}

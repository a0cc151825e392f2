//! How long etcd waits for its disk, from its metrics: a histogram of the syncs of its log.
//!
//! What counts is between two looks: over the whole life of a process a disk that became slow today
//! would show next week.

use std::time::Duration;

use super::{ASK, EtcdError};
use crate::host::tls;

/// The histogram.
const FSYNC: &str = "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"";
/// etcd shows some two hundred kilobytes.
const METRICS_MAX: usize = 4 * 1024 * 1024;
/// Most buckets: it has fifteen.
const BUCKETS_MAX: usize = 64;
/// Fewer syncs than this in a look say nothing about one in a hundred.
const SYNCS_MIN: u64 = 100;

/// How many syncs took at most how long, since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fsyncs {
    /// Upper bound in microseconds (`u64::MAX`: any) and number of syncs below it, rising.
    buckets: Vec<(u64, u64)>,
}

impl Fsyncs {
    /// Asks the member's metrics, e.g. at `http://127.0.0.1:2381`.
    pub async fn ask(client: &reqwest::Client, base: &str) -> Result<Self, EtcdError> {
        let url = format!("{base}/metrics");
        let lost = |source| EtcdError::Unreachable {
            url: url.clone(),
            source,
        };
        let answer = client.get(&url).timeout(ASK).send().await.map_err(lost)?;
        let bytes = tls::body(answer, METRICS_MAX).await.map_err(lost)?;
        let text = bytes.unwrap_or_default();
        Ok(Self::read(&String::from_utf8_lossy(&text)))
    }

    /// Reads them from a page of metrics.
    pub fn read(page: &str) -> Self {
        let mut buckets: Vec<(u64, u64)> = page
            .lines()
            .filter_map(|line| {
                let (bound, count) = line.strip_prefix(FSYNC)?.split_once("\"} ")?;
                Some((micros(bound)?, count.trim().parse::<f64>().ok()? as u64))
            })
            .take(BUCKETS_MAX)
            .collect();
        buckets.sort_unstable();
        Self { buckets }
    }

    /// Within how long 99 of 100 syncs since `before` were done; the bound of their bucket. `None`: there
    /// were too few.
    pub fn p99_since(&self, before: &Self) -> Option<Duration> {
        let was = |bound: u64| {
            let same = before.buckets.iter().find(|(b, _)| *b == bound);
            same.map_or(0, |(_, count)| *count)
        };
        let total_before = before.buckets.last().map_or(0, |(_, n)| *n);
        let total_now = self.buckets.last().map_or(0, |(_, n)| *n);
        // The process is another one: all of it is new.
        let restarted = total_now < total_before;
        let new = |(bound, count): &(u64, u64)| {
            let old = if restarted { 0 } else { was(*bound) };
            (*bound, count.saturating_sub(old))
        };
        let all = self.buckets.last().map(new)?.1;
        if all < SYNCS_MIN {
            return None;
        }
        let enough = all - all / 100;
        let bound = self.buckets.iter().map(new).find(|(_, n)| *n >= enough)?.0;
        Some(Duration::from_micros(bound))
    }
}

fn micros(seconds: &str) -> Option<u64> {
    if seconds == "+Inf" {
        return Some(u64::MAX);
    }
    let micros = seconds.parse::<f64>().ok()? * 1e6;
    (0.0..1e12)
        .contains(&micros)
        .then_some(micros.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(counts: [u64; 4]) -> Fsyncs {
        let [a, b, c, all] = counts;
        Fsyncs::read(&format!(
            "# HELP etcd_disk_wal_fsync_duration_seconds x\n\
             etcd_disk_wal_fsync_duration_seconds_bucket{{le=\"0.001\"}} {a}\n\
             etcd_disk_wal_fsync_duration_seconds_bucket{{le=\"0.128\"}} {b}\n\
             etcd_disk_wal_fsync_duration_seconds_bucket{{le=\"8.192\"}} {c}\n\
             etcd_disk_wal_fsync_duration_seconds_bucket{{le=\"+Inf\"}} {all}\n\
             etcd_disk_wal_fsync_duration_seconds_sum 1.5\n\
             etcd_disk_backend_commit_duration_seconds_bucket{{le=\"0.001\"}} 9\n"
        ))
    }

    #[test]
    fn a_disk_that_became_slow_shows_although_it_was_fast_for_long() {
        let before = page([100_000, 100_000, 100_000, 100_000]);
        let now = page([100_050, 100_190, 100_200, 100_200]);
        let none = Fsyncs::default();
        assert_eq!(now.p99_since(&none), Some(Duration::from_millis(1)));
        assert_eq!(
            now.p99_since(&before),
            Some(Duration::from_micros(8_192_000))
        );
        let better = page([100_198, 100_200, 100_200, 100_200]);
        assert_eq!(better.p99_since(&before), Some(Duration::from_millis(1)));
    }

    #[test]
    fn too_few_say_nothing_and_a_new_process_begins_anew() {
        let before = page([500, 500, 500, 500]);
        assert_eq!(page([550, 550, 550, 550]).p99_since(&before), None);
        let anew = page([0, 300, 300, 300]);
        assert_eq!(anew.p99_since(&before), Some(Duration::from_millis(128)));
        assert_eq!(Fsyncs::read("odd{le=\"x\"} y\n").p99_since(&before), None);
    }
}

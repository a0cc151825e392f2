//! The log of refused host requests: similar ones are one line and a count.
//!
//! A host can be refused as fast as its tunnel carries requests. Refusals of one host with one code count as similar:
//! the reason may contain numbers that the host chooses.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::refusal::Answer;
use pf9_hostagent::model::{Fault, FaultCode, HostId};
use pf9_hostagent::telemetry::{Fold, More, WINDOW};

/// How often due counts are written; each may be this much late.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Recent refusals.
pub(super) struct Refused {
    fold: Mutex<Fold<(HostId, FaultCode)>>,
    began: Instant,
}

impl Default for Refused {
    fn default() -> Self {
        Self {
            fold: Mutex::default(),
            began: Instant::now(),
        }
    }
}

impl Refused {
    /// Logs a refusal with the host that caused it, unless a similar one was logged just now.
    pub(super) fn told<T>(&self, host: HostId, answer: Answer<T>) -> Answer<T> {
        if let Err(refusal) = &answer {
            self.note(host, &refusal.fault);
        }
        answer
    }

    /// The same for a fault that is not an answer.
    pub(super) fn note(&self, host: HostId, fault: &Fault) {
        let now = self.began.elapsed();
        for line in self.lines(host, fault, now) {
            tracing::warn!("{line}");
        }
    }

    /// Writes the counts when they are due, until `shutdown`, and the rest then.
    pub(super) async fn keep(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            tokio::select! {
                // cancel-safe: both only wait
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.cancelled() => {}
            }
            let due = self.lock().due(self.began.elapsed());
            due.into_iter()
                .map(number)
                .for_each(|line| tracing::warn!("{line}"));
        }
        let rest = self.lock().rest();
        rest.into_iter()
            .map(number)
            .for_each(|line| tracing::warn!("{line}"));
    }

    fn lines(&self, host: HostId, fault: &Fault, now: Duration) -> Vec<String> {
        let mut fold = self.lock();
        let mut lines: Vec<String> = fold.due(now).into_iter().map(number).collect();
        if fold.note((host, fault.code), now) {
            lines.push(format!("{}: host {host} was refused: {fault}", fault.code));
        }
        lines
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Fold<(HostId, FaultCode)>> {
        self.fold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(more: More<(HostId, FaultCode)>) -> String {
    let (within, more) = (WINDOW.as_secs(), (more.kind, more.more));
    match more {
        (Some((host, code)), more) => {
            format!("{code}: host {host} was refused {more} more times within {within} s")
        }
        (None, more) => format!("{more} more refusals of many kinds within {within} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pf9_hostagent::telemetry::KINDS_MAX;

    fn fault(word: usize) -> Fault {
        Fault::new(
            FaultCode::OrderReplayed,
            "the certificate is not signed",
            format!("{word}"),
        )
    }

    #[test]
    fn similar_refusals_of_one_host_are_one_line_and_a_count() {
        let (refused, host) = (Refused::default(), HostId::random());
        let said: Vec<String> = (0..500)
            .flat_map(|word| refused.lines(host, &fault(word), Duration::ZERO))
            .collect();
        let first =
            format!("order-replayed: host {host} was refused: the certificate is not signed: 0");
        assert_eq!(said, [first]);
        let other = Fault::new(FaultCode::OrderUnsigned, "a", "b");
        assert_eq!(
            refused.lines(host, &other, Duration::ZERO).len(),
            1,
            "of another kind"
        );
        let later = refused.lines(HostId::random(), &other, WINDOW);
        let number = format!("order-replayed: host {host} was refused 499 more times within 60 s");
        assert_eq!(later.first(), Some(&number), "{later:?}");
        assert_eq!(later.len(), 2, "{later:?}");
    }

    #[test]
    fn many_hosts_do_not_fill_the_log() {
        let refused = Refused::default();
        let said = (0..1000).map(|i| refused.lines(HostId::random(), &fault(i), Duration::ZERO));
        assert_eq!(said.flatten().count(), KINDS_MAX + 1);
    }
}

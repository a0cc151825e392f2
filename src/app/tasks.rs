//! Named tasks with a policy.
//!
//! | policy | when the task ends |
//! |---|---|
//! | essential | the process drains and exits non-zero (systemd restarts it) |
//! | restart   | it is restarted after a jittered, capped backoff |
//! | finite    | nothing: it was to end |

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Backoff, Progress};

/// The tasks of one process. Dropping it aborts them.
pub struct TaskGroup {
    shutdown: CancellationToken,
    failed: Arc<Mutex<Option<&'static str>>>,
    progress: Progress,
    tasks: JoinSet<()>,
    names: Vec<(Id, &'static str)>,
}

/// First wait before a task is restarted.
const RESTART_FIRST: Duration = Duration::from_millis(200);
/// Longest wait: a task that keeps dying costs next to nothing, and is back soon once its cause is
/// gone.
const RESTART_CAP: Duration = Duration::from_secs(30);
/// A task that lived this long starts with a short wait again.
const RESTART_HEALTHY: Duration = Duration::from_secs(60);

impl TaskGroup {
    /// A group that ends when `shutdown` is cancelled.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            shutdown,
            failed: Arc::default(),
            progress: Progress::default(),
            tasks: JoinSet::new(),
            names: Vec::new(),
        }
    }

    /// The token every task should watch.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Where tasks give their signs of life.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Without this task the process is of no use.
    pub fn essential<F>(&mut self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        let failed = Arc::clone(&self.failed);
        self.spawn(name, async move {
            // The guard runs on a panic too: the group must not live on without the task.
            let _guard = EndsProcess {
                name,
                shutdown,
                failed,
            };
            work.await;
        });
    }

    /// Started again when it ends before shutdown.
    pub fn restart<F, Fut>(&mut self, name: &'static str, mut make: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        self.spawn(name, async move {
            let mut backoff = Backoff::new(RESTART_FIRST, RESTART_CAP);
            loop {
                let began = tokio::time::Instant::now();
                // In a task of its own, so that a panic ends the try and not the loop.
                let mut one = JoinSet::new();
                one.spawn(make());
                let ended = one.join_next().await;
                if shutdown.is_cancelled() {
                    return;
                }
                if began.elapsed() >= RESTART_HEALTHY {
                    backoff.reset();
                }
                let why = match ended {
                    Some(Err(e)) => e.to_string(),
                    Some(Ok(())) | None => "it ended".to_owned(),
                };
                let pause = backoff.failed();
                tracing::warn!(task = name, %why, ?pause, "task is started again");
                tokio::select! {
                    // cancel-safe: both are
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
    }

    /// May end when it likes.
    pub fn finite<F>(&mut self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn(name, work);
    }

    /// Waits for shutdown, then for the tasks, at most `grace`. Returns the essential task that
    /// ended by itself, if one did.
    pub async fn run(mut self, grace: Duration) -> Option<&'static str> {
        loop {
            tokio::select! {
                // cancel-safe: both are
                () = self.shutdown.cancelled() => break,
                Some(ended) = self.tasks.join_next_with_id() => self.note(ended),
            }
        }
        let drained = tokio::time::timeout(grace, async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                self.note(ended);
            }
        })
        .await;
        if drained.is_err() {
            let left: Vec<_> = self.names.iter().map(|(_, name)| *name).collect();
            tracing::warn!(?left, ?grace, "tasks did not end in time and are aborted");
        }
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn<F>(&mut self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let id = self.tasks.spawn(work).id();
        self.names.push((id, name));
    }

    fn note(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(e) => e.id(),
        };
        let name = self.names.iter().find(|(i, _)| *i == id).map(|(_, n)| *n);
        self.names.retain(|(i, _)| *i != id);
        if let Err(error) = ended {
            tracing::error!(task = name, %error, "task failed");
        }
    }
}

struct EndsProcess {
    name: &'static str,
    shutdown: CancellationToken,
    failed: Arc<Mutex<Option<&'static str>>>,
}

impl Drop for EndsProcess {
    fn drop(&mut self) {
        if !self.shutdown.is_cancelled() {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(self.name);
            self.shutdown.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_an_essential_task_ends_the_process() {
        let mut group = TaskGroup::new(CancellationToken::new());
        let stop = group.shutdown();
        group.finite("other", async move { stop.cancelled().await });
        group.essential("main", async {});
        assert_eq!(group.run(Duration::from_secs(1)).await, Some("main"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_counts_as_an_end_and_a_restart_task_survives_it() {
        let mut group = TaskGroup::new(CancellationToken::new());
        let stop = group.shutdown();
        let tries = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&tries);
        group.restart("flaky", move || {
            let (stop, seen) = (stop.clone(), Arc::clone(&seen));
            async move {
                assert!(seen.fetch_add(1, Ordering::SeqCst) >= 2, "not yet");
                stop.cancel();
            }
        });
        assert_eq!(group.run(Duration::from_secs(1)).await, None);
        assert_eq!(tries.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_leave_is_cut_off() {
        let stop = CancellationToken::new();
        let mut group = TaskGroup::new(stop.clone());
        group.finite("stuck", std::future::pending());
        stop.cancel();
        assert_eq!(group.run(Duration::from_secs(1)).await, None);
    }
}

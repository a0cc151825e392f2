//! Events: from any task to the spool, from the spool to the plane, at least once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::spool::{BOUNDS, Batch, Draft, Spool, Topic};
use super::{Agent, blocking};
use crate::app::Backoff;
use crate::local::LocalError;
use crate::model::{EVENT_BATCH_MAX, EventBatch, Fault};

/// Events on their way to the spool. Writing one takes milliseconds; more than this at a time is a storm, and the rest
/// may be dropped.
const QUEUE: usize = 64;
/// Waits after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Events are not urgent: the status carries what is.
const RETRY_CAP: Duration = Duration::from_secs(60);

/// Takes events. Cheap to clone.
#[derive(Clone)]
pub(super) struct Events {
    queue: mpsc::Sender<Queued>,
    missed: Arc<AtomicU64>,
}

/// On its way.
struct Queued {
    draft: Draft,
    /// Gone when it is in the spool, which is what somebody may wait for.
    stored: oneshot::Sender<()>,
}

/// The other end.
pub(super) struct Queue {
    drafts: mpsc::Receiver<Queued>,
    /// So many did not fit; their numbers are left out, by which the plane counts them.
    missed: Arc<AtomicU64>,
}

pub(super) fn channel() -> (Events, Queue) {
    let (queue, drafts) = mpsc::channel(QUEUE);
    let missed = Arc::new(AtomicU64::new(0));
    let events = Events {
        queue,
        missed: Arc::clone(&missed),
    };
    (events, Queue { drafts, missed })
}

impl Events {
    /// Tells an event. Never waits.
    pub(super) fn emit(&self, kind: &'static str, message: String, fault: Option<Fault>) {
        drop(self.send(kind, message, fault, None));
    }

    /// The same as [`Self::emit_about`] for what no later start can see: returns when it is in the spool, or was dropped.
    /// What it tells of is done after that, and then no end of this process loses the event.
    pub(super) async fn emit_first(&self, topic: Topic, kind: &'static str, message: String) {
        if let Some(stored) = self.send(kind, message, None, Some(topic)) {
            // The other end is dropped without a word in it.
            _ = stored.await;
        }
    }

    /// Adds it unless this topic's last event was the same, of this process or an earlier one.
    pub(super) fn emit_about(
        &self,
        topic: Topic,
        kind: &'static str,
        message: String,
        fault: Option<Fault>,
    ) {
        drop(self.send(kind, message, fault, Some(topic)));
    }

    fn send(
        &self,
        kind: &'static str,
        message: String,
        fault: Option<Fault>,
        topic: Option<Topic>,
    ) -> Option<oneshot::Receiver<()>> {
        let draft = Draft {
            at: crate::seam::clock::now(),
            kind,
            message,
            fault,
            topic,
        };
        let (stored, is_stored) = oneshot::channel();
        if self.queue.try_send(Queued { draft, stored }).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(kind, "too many events at once: one is dropped");
            return None;
        }
        Some(is_stored)
    }
}

/// Ends by itself at shutdown. The queue is behind a lock so that it survives a restart of this
/// task.
pub(super) async fn run(agent: Agent, queue: Arc<tokio::sync::Mutex<Queue>>) {
    let mut queue = queue.lock().await;
    let spool = {
        let (fs, now) = (agent.fs.clone(), agent.now());
        blocking(move || Spool::open(fs, BOUNDS, now)).await
    };
    let spool = Arc::new(Mutex::new(spool));
    turn(&agent, &spool, &mut queue).await;
    // The last words, for the next start.
    while let Ok(draft) = queue.drafts.try_recv() {
        store(&agent, &spool, draft, &queue.missed).await;
    }
}

/// Runs until shutdown. Storing is never interrupted: what was started is on disk when this returns.
async fn turn(agent: &Agent, spool: &Arc<Mutex<Spool>>, queue: &mut Queue) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    loop {
        let sent = beside_storing(agent, spool, queue, deliver(agent, spool)).await;
        let go_on = match sent {
            None => return,
            // An event that was stored after the spool was found empty is not to wait for the next.
            Some((Sent::Some, _) | (Sent::Nothing, true)) => {
                backoff.reset();
                continue;
            }
            Some((Sent::Nothing, false)) => {
                backoff.reset();
                let next = tokio::select! {
                    // cancel-safe: both are
                    () = agent.stop.cancelled() => None,
                    next = queue.drafts.recv() => next,
                };
                match next {
                    Some(draft) => {
                        store(agent, spool, draft, &queue.missed).await;
                        Some(())
                    }
                    None => None,
                }
            }
            Some((Sent::Failed, _)) => {
                let pause = agent.plane.pause(backoff.failed());
                let paused = beside_storing(agent, spool, queue, pause).await;
                paused.map(|((), _)| ())
            }
        };
        if go_on.is_none() {
            return;
        }
    }
}

/// Does `work`; events that come meanwhile are stored, and whether there were any is returned beside
/// its result. `None` at shutdown.
async fn beside_storing<T>(
    agent: &Agent,
    spool: &Arc<Mutex<Spool>>,
    queue: &mut Queue,
    work: impl Future<Output = T>,
) -> Option<(T, bool)> {
    tokio::pin!(work);
    let mut stored = false;
    loop {
        tokio::select! {
            // cancel-safe: `work` may be interrupted at shutdown (a delivery is repeated then), recv is
            () = agent.stop.cancelled() => return None,
            done = &mut work => return Some((done, stored)),
            Some(draft) = queue.drafts.recv() => {
                store(agent, spool, draft, &queue.missed).await;
                stored = true;
            }
        }
    }
}

enum Sent {
    Some,
    Nothing,
    Failed,
}

async fn deliver(agent: &Agent, spool: &Arc<Mutex<Spool>>) -> Sent {
    let Some(batch) = with(spool, |s| s.batch(EVENT_BATCH_MAX)).await else {
        return Sent::Nothing;
    };
    let Batch {
        spool: of,
        mark,
        events,
    } = batch;
    let count = events.len();
    let document = EventBatch {
        spool: Some(of),
        events,
    };
    let answer = agent
        .plane
        .post::<_, serde_json::Value>("/v1/hosts/self/events", &document)
        .await;
    tracing::debug!(count, mark, taken = answer.is_ok(), "events sent");
    match answer {
        Ok(_) => {}
        // A batch the plane can never take must not block those after it for ever.
        Err(LocalError::Refused { status, fault })
            if [400, 413, 422].contains(&status.as_u16()) =>
        {
            tracing::error!(%status, code = fault.code.word(), "the plane rejects these events: {fault}");
        }
        Err(_) => return Sent::Failed,
    }
    with(spool, move |s| s.answered(mark)).await;
    Sent::Some
}

async fn store(agent: &Agent, spool: &Arc<Mutex<Spool>>, next: Queued, missed: &AtomicU64) {
    let Queued { draft, stored } = next;
    let missed = missed.swap(0, Ordering::Relaxed);
    let note = with(spool, move |spool| {
        spool.skip(missed);
        spool.push(draft);
        let given_up = spool.take_given_up();
        if given_up > 0 {
            // The plane counts them by the numbers that are missing.
            tracing::warn!(given_up, "events are dropped: the spool is full");
        }
        spool.note().cloned()
    })
    .await;
    agent.board.set(|f| &mut f.spool_fault, note);
    drop(stored);
}

async fn with<T: Send + 'static>(
    spool: &Arc<Mutex<Spool>>,
    work: impl FnOnce(&mut Spool) -> T + Send + 'static,
) -> T {
    let spool = Arc::clone(spool);
    blocking(move || work(&mut spool.lock().unwrap_or_else(PoisonError::into_inner))).await
}

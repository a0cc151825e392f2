//! Events: from any task to the spool, from the spool to the plane, at least once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::spool::{BOUNDS, Draft, Spool};
use super::{Agent, blocking};
use crate::local::LocalError;
use crate::model::{EVENT_BATCH_MAX, EventBatch, Fault, Timestamp};

/// Events on their way to the spool. Writing one takes milliseconds; more than this at once is a
/// storm, of which the rest is not missed.
const QUEUE: usize = 64;
/// Waits after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Events are not urgent: the status carries what is.
const RETRY_CAP: Duration = Duration::from_secs(60);

/// Where events are told. Cheap to clone.
#[derive(Clone)]
pub(super) struct Events(mpsc::Sender<Draft>);

/// The other end.
pub(super) type Queue = mpsc::Receiver<Draft>;

pub(super) fn channel() -> (Events, Queue) {
    let (tx, rx) = mpsc::channel(QUEUE);
    (Events(tx), rx)
}

impl Events {
    /// Tells an event. Never waits.
    pub(super) fn emit(&self, kind: &'static str, message: String, fault: Option<Fault>) {
        let draft = Draft {
            at: Timestamp::now(),
            kind,
            message,
            fault,
        };
        if self.0.try_send(draft).is_err() {
            tracing::warn!(kind, "too many events at once: one is not kept");
        }
    }
}

/// Ends by itself at shutdown. The queue is behind a lock so that it survives a restart of this
/// task.
pub(super) async fn run(agent: Agent, queue: Arc<tokio::sync::Mutex<Queue>>) {
    let mut queue = queue.lock().await;
    let spool = {
        let (fs, boot_id) = (agent.fs.clone(), agent.boot_id.clone());
        let number = u64::try_from(agent.now().as_microsecond()).unwrap_or_default();
        blocking(move || Spool::open(fs, BOUNDS, boot_id, number)).await
    };
    let spool = Arc::new(Mutex::new(spool));
    turn(&agent, &spool, &mut queue).await;
    // The last words, for the next start.
    while let Ok(draft) = queue.try_recv() {
        store(&agent, &spool, draft).await;
    }
}

/// Until shutdown. Storing is never cut off: what is begun is on disk when this returns.
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
                    next = queue.recv() => next,
                };
                match next {
                    Some(draft) => {
                        store(agent, spool, draft).await;
                        Some(())
                    }
                    None => None,
                }
            }
            Some((Sent::Failed, _)) => {
                let pause = agent.plane.pause(backoff.next());
                let paused = beside_storing(agent, spool, queue, pause).await;
                paused.map(|((), _)| ())
            }
        };
        if go_on.is_none() {
            return;
        }
    }
}

/// Does `work`; events that come meanwhile are stored, and whether there were any is told beside
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
            // cancel-safe: `work` may be cut off at shutdown (a delivery is repeated then), recv is
            () = agent.stop.cancelled() => return None,
            done = &mut work => return Some((done, stored)),
            Some(draft) = queue.recv() => {
                store(agent, spool, draft).await;
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
    let Some((mark, events)) = with(spool, |s| s.batch(EVENT_BATCH_MAX)).await else {
        return Sent::Nothing;
    };
    let count = events.len();
    let answer = agent
        .plane
        .post::<_, serde_json::Value>("/v1/hosts/self/events", &EventBatch { events })
        .await;
    tracing::debug!(count, mark, taken = answer.is_ok(), "events sent");
    match answer {
        Ok(_) => {}
        // A batch the plane can never take must not block those after it for ever.
        Err(LocalError::Refused { status, fault })
            if [400, 413, 422].contains(&status.as_u16()) =>
        {
            tracing::error!(%status, code = fault.code.word(), "the plane cannot take these events: {fault}");
        }
        Err(_) => return Sent::Failed,
    }
    with(spool, move |s| s.forget(mark)).await;
    Sent::Some
}

async fn store(agent: &Agent, spool: &Arc<Mutex<Spool>>, draft: Draft) {
    let note = with(spool, move |spool| {
        spool.push(draft);
        let given_up = spool.take_given_up();
        if given_up > 0 {
            spool.push(Draft {
                at: Timestamp::now(),
                kind: "events-given-up",
                message: format!("{given_up} events were given up: the spool is full"),
                fault: None,
            });
        }
        spool.note().cloned()
    })
    .await;
    agent.board.set(|f| &mut f.spool_fault, note);
}

async fn with<T: Send + 'static>(
    spool: &Arc<Mutex<Spool>>,
    work: impl FnOnce(&mut Spool) -> T + Send + 'static,
) -> T {
    let spool = Arc::clone(spool);
    blocking(move || work(&mut spool.lock().unwrap_or_else(PoisonError::into_inner))).await
}

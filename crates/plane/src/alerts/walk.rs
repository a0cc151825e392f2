//! Lists of past alerts are read whole: twenty thousand rows cost a core a fifth of a second. So one is read at a time,
//! on a thread that moves no bytes, and callers take turns: one that asks for a thousand lists delays only itself.

use std::sync::Arc;

use crate::fair::Fair;
use crate::people::UserId;
use crate::refusal::{Answer, Refusal};
use pf9_hostagent::host::work::brief;
use pf9_hostagent::model::Digest;

/// Walks at a time: the rest of the machine is for everything else.
const AT_ONCE: usize = 1;
/// Waiting walks, ten seconds of them. Beyond that the caller with most of them is asked to retry later.
const WAITING_MAX: usize = 50;
/// Retry-After, in seconds.
const AGAIN_S: u64 = 10;

/// The turns of all walks.
pub(super) struct Walks(Fair<Digest>);

impl Default for Walks {
    fn default() -> Self {
        Self(Fair::new(AT_ONCE, WAITING_MAX))
    }
}

impl Walks {
    /// Runs it when it is the caller's turn; without a caller: the administrator's.
    pub(super) async fn walk<T: Send + 'static>(
        self: &Arc<Self>,
        who: Option<&UserId>,
        work: impl FnOnce() -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let who = Digest::of(who.map_or("", UserId::as_str).as_bytes());
        let Ok(turn) = self.0.place(who).await else {
            let why = "too many lists of what was are asked for at once";
            return Err(Refusal::busy("list refused", why, AGAIN_S));
        };
        // The turn is held by the work: a client that hangs up does not start the next one beside it.
        let done = brief(move || (work(), turn).0).await;
        done.map_err(|e| Refusal::internal("a list was lost", &e))?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use tokio::task::JoinSet;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::of(name).expect("id")
    }

    #[tokio::test]
    async fn a_caller_of_many_lists_delays_only_itself() {
        let walks = Arc::new(Walks::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let (open, gate) = mpsc::channel::<()>();
        let (began, has_begun) = tokio::sync::oneshot::channel();
        let mut asked = JoinSet::new();
        let first = Arc::clone(&walks);
        asked.spawn(async move {
            let work = move || {
                began.send(()).expect("listens");
                gate.recv().expect("opened");
                Ok(())
            };
            first.walk(Some(&user("a")), work).await.map_err(drop)
        });
        has_begun.await.expect("begun");
        let at_once = Arc::new(AtomicUsize::new(0));
        let ask = |name: &'static str| {
            let (walks, order, at_once) = (walks.clone(), order.clone(), at_once.clone());
            async move {
                let work = move || {
                    assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                    order.lock().expect("lock").push(name);
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                };
                walks.walk(Some(&user(name)), work).await.map_err(drop)
            }
        };
        // In the queue, one after the other: each is polled once before the next.
        for _ in 0..WAITING_MAX - 1 {
            asked.spawn(ask("a"));
        }
        tokio::task::yield_now().await;
        asked.spawn(ask("b"));
        tokio::task::yield_now().await;
        // There is no more room for the caller with most of the queue.
        let refused = walks.walk(Some(&user("a")), || Ok(())).await;
        assert_eq!(refused.map_err(|r| r.status.as_u16()), Err(503));
        open.send(()).expect("waits");
        while let Some(done) = asked.join_next().await {
            done.expect("no panic").expect("read");
        }
        let order = order.lock().expect("lock").clone();
        assert_eq!(order.len(), WAITING_MAX);
        let at = order.iter().position(|name| *name == "b");
        assert!(at <= Some(1), "after {at:?} of another one's");
    }
}

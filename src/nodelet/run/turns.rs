//! Phases that are worked on at once, on one thread: whenever one waits, the one with the smallest number that does not
//! wait goes on.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::model::PhaseId;

type Work<'w, T> = Pin<Box<dyn Future<Output = T> + Send + 'w>>;

/// The phases at work, and what each of them comes to.
pub(super) struct Turns<'w, T>(BTreeMap<PhaseId, Work<'w, T>>);

impl<T> Default for Turns<'_, T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'w, T> Turns<'w, T> {
    /// Adds a phase. It is worked on when the next one is asked for.
    pub(super) fn begin(&mut self, id: PhaseId, work: impl Future<Output = T> + Send + 'w) {
        self.0.insert(id, Box::pin(work));
    }

    /// The next phase that ends; `None` when none is at work.
    pub(super) async fn next(&mut self) -> Option<(PhaseId, T)> {
        // cancel-safe: what is not ended stays
        let ended = poll_fn(|cx| self.poll(cx)).await;
        if let Some((id, _)) = &ended {
            self.0.remove(id);
        }
        ended
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(PhaseId, T)>> {
        for (id, work) in &mut self.0 {
            if let Poll::Ready(end) = work.as_mut().poll(cx) {
                return Poll::Ready(Some((*id, end)));
            }
        }
        match self.0.is_empty() {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::task::yield_now;

    use super::*;

    /// A phase of so many steps, which notes each of them.
    async fn works(id: PhaseId, steps: usize, story: &Mutex<Vec<PhaseId>>) {
        for _ in 0..steps {
            story.lock().expect("lock").push(id);
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_smallest_number_goes_on_first_whenever_it_began() {
        use PhaseId::{Cni, RuntimeConfigure, RuntimeStart};

        let story = Mutex::new(Vec::new());
        let mut at_work = Turns::default();
        at_work.begin(Cni, works(Cni, 4, &story));
        at_work.begin(RuntimeConfigure, works(RuntimeConfigure, 1, &story));
        let (first, ()) = at_work.next().await.expect("one ends");
        assert_eq!(first, RuntimeConfigure);
        // It comes after the other one, and before each of its steps that are left.
        at_work.begin(RuntimeStart, works(RuntimeStart, 2, &story));
        let mut ended = Vec::new();
        while let Some((id, ())) = at_work.next().await {
            ended.push(id);
        }
        assert_eq!(ended, [RuntimeStart, Cni]);
        let told = [
            RuntimeConfigure,
            Cni,
            RuntimeStart,
            Cni,
            RuntimeStart,
            Cni,
            Cni,
        ];
        assert_eq!(*story.lock().expect("lock"), told);
    }
}

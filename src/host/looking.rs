//! A look at files that may be on a mount whose server is gone: such a look may never end, and cannot be cancelled. It
//! has a thread of its own and is waited for a while; the next caller waits for the same one, so a mount that hangs
//! holds one thread, however often it is looked at.

use std::time::Duration;

use super::work::{self, Coming, Lost};
use crate::seam;

/// One at a time.
#[derive(Debug)]
pub struct Looking<T>(Option<(String, Coming<T>)>);

impl<T> Default for Looking<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Send + 'static> Looking<T> {
    /// The result of `work`, which looks at `what`; or that of an earlier look at the same, still running. `None`: it
    /// did not finish within `limit`, and keeps running. Without a thread nothing is looked at: the event loop would hang.
    pub async fn at(
        &mut self,
        what: &str,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>, Lost> {
        // A look at something else is no longer waited for.
        let begun = self.0.take().filter(|(of, _)| of == what);
        let mut look = match begun {
            Some((_, look)) => look,
            None => work::begin(seam::carried(work)).map_err(|_| Lost::NoThread)?,
        };
        match tokio::time::timeout(limit, &mut look).await {
            Ok(Ok(Ok(seen))) => Ok(Some(seen)),
            Ok(Ok(Err(panic))) => std::panic::resume_unwind(panic),
            Ok(Err(_)) => Err(Lost::Ending),
            Err(_) => {
                self.0 = Some((what.to_owned(), look));
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(30);

    fn seen<T>(looked: Result<Option<T>, Lost>) -> Option<T> {
        looked.expect("a thread")
    }

    #[tokio::test]
    async fn what_hangs_is_begun_once_and_its_answer_is_had_when_it_comes() {
        let begun = Arc::new(AtomicUsize::new(0));
        let (release, hangs) = mpsc::channel::<u32>();
        let hangs = Arc::new(std::sync::Mutex::new(hangs));
        let work = || {
            let (begun, hangs) = (Arc::clone(&begun), Arc::clone(&hangs));
            move || {
                begun.fetch_add(1, Ordering::SeqCst);
                hangs.lock().expect("lock").recv().expect("released")
            }
        };
        let mut looking = Looking::default();
        for _ in 0..3 {
            assert_eq!(seen(looking.at("/mnt/a", SHORT, work()).await), None);
        }
        release.send(7).expect("sent");
        assert_eq!(seen(looking.at("/mnt/a", LONG, work()).await), Some(7));
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        // Another place is another look.
        assert_eq!(seen(looking.at("/mnt/a", SHORT, work()).await), None);
        assert_eq!(seen(looking.at("/mnt/b", LONG, || 9).await), Some(9));
        release.send(0).expect("sent");
    }
}

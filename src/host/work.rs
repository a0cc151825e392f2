//! Work that waits for a disk or takes the processor for long: beside the event loop, on a thread of its own. Only here is
//! such a thread asked for: where the kernel gives none (no more processes, or no memory), tokio panics.
//!
//! | call | without a thread | when it panics |
//! |---|---|---|
//! | [`blocking`] | done here, the event loop waits: status and repair go on | so does the caller |
//! | [`brief`] | the same | [`Lost`] |
//! | [`long`]  | [`Lost`], and tried again later: the event loop serves others meanwhile | [`Lost`] |
//! | [`pieces`] | as [`blocking`], piece by piece | so does the reader |

use std::any::Any;
use std::fs::File;
use std::future;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use futures_util::stream::{Stream, try_unfold};
use tokio::sync::oneshot;

use crate::seam;

/// Work that has no result.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// It was not begun.
    #[error("no thread can be started for it")]
    NoThread,
    /// It failed in a way that nobody foresaw.
    #[error("it panicked: {0}")]
    Panicked(String),
    /// Nobody will do it any more.
    #[error("the program is ending")]
    Ending,
}

impl From<Lost> for io::Error {
    fn from(lost: Lost) -> Self {
        Self::other(lost)
    }
}

impl Lost {
    fn panicked(panic: &(dyn Any + Send)) -> Self {
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::Panicked(said.unwrap_or("without a word").to_owned())
    }
}

/// What comes of work that was begun; it is dropped when the runtime ends before.
pub(super) type Coming<T> = oneshot::Receiver<thread::Result<T>>;

/// Runs blocking file work; a panic in it is this task's panic.
pub async fn blocking<T, F>(work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match done(work).await {
        Some(Ok(value)) => value,
        Some(Err(panic)) => resume_unwind(panic),
        // No caller is left to answer.
        None => future::pending().await,
    }
}

/// The same for a caller that has to go on, whatever happens to the work.
pub async fn brief<T, F>(work: F) -> Result<T, Lost>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    said(done(work).await)
}

/// For work of many seconds, and for work that waits for its caller.
pub async fn long<T, F>(work: F) -> Result<T, Lost>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match begin(seam::carried(work)) {
        Ok(coming) => said(coming.await.ok()),
        Err(_) => Err(Lost::NoThread),
    }
}

/// A part of a file, read while somebody takes it, so much at a time.
pub fn pieces(
    file: File,
    from: u64,
    len: u64,
    at_once: usize,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    try_unfold((file, from, len), move |(file, from, left)| async move {
        let most = usize::try_from(left).map_or(at_once, |left| left.min(at_once));
        let (file, piece) = blocking(move || {
            let mut piece = vec![0; most];
            let n = file.read_at(&mut piece, from)?;
            piece.truncate(n);
            Ok::<_, io::Error>((file, Bytes::from(piece)))
        })
        .await?;
        let n = piece.len() as u64;
        Ok::<_, io::Error>((n > 0).then_some((piece, (file, from + n, left - n))))
    })
}

/// `None`: the runtime ends.
async fn done<T, F>(work: F) -> Option<thread::Result<T>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match begin(seam::carried(work)) {
        Ok(coming) => coming.await.ok(),
        Err(work) => {
            tracing::warn!(
                "no thread can be started: files are read and written by the event loop"
            );
            Some(catch_unwind(AssertUnwindSafe(work)))
        }
    }
}

fn said<T>(ended: Option<thread::Result<T>>) -> Result<T, Lost> {
    match ended {
        Some(Ok(value)) => Ok(value),
        Some(Err(panic)) => Err(Lost::panicked(&*panic)),
        None => Err(Lost::Ending),
    }
}

/// Has a thread begin it; without one the work comes back.
pub(super) fn begin<T, F>(work: F) -> Result<Coming<T>, F>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (tell, coming) = oneshot::channel();
    let work = Arc::new(Mutex::new(Some(work)));
    let queued = Arc::clone(&work);
    let beside = move || {
        if let Some(work) = take(&queued) {
            // Who asked may be gone.
            drop(tell.send(catch_unwind(AssertUnwindSafe(work))));
        }
    };
    // tokio panics where it has no thread at all, and keeps the work in its queue: who comes first takes it.
    if catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(beside))).is_err()
        && let Some(work) = take(&work)
    {
        return Err(work);
    }
    Ok(coming)
}

fn take<W>(work: &Mutex<Option<W>>) -> Option<W> {
    work.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::{StreamExt, TryStreamExt};

    use super::*;
    use crate::host::no_threads::NoThreads;
    use crate::host::refusals;
    use crate::host::testing::in_namespaces;
    use crate::model::FaultCode;

    /// In a process of its own: the bound is the process's.
    fn without_threads(test: &str, work: impl Future<Output = ()>) {
        if in_namespaces(test, &["--mount"], ":").is_none() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(work);
    }

    /// As where there are no more processes.
    #[test]
    fn without_another_thread_files_are_read_all_the_same_and_once() {
        let test = "host::work::tests::without_another_thread_files_are_read_all_the_same_and_once";
        without_threads(test, async {
            let times = Arc::new(AtomicU32::new(0));
            let read = || {
                let times = Arc::clone(&times);
                blocking(move || {
                    times.fetch_add(1, Ordering::SeqCst);
                    std::fs::read("/proc/self/comm").expect("read");
                    thread::current().id()
                })
            };
            let here = thread::current().id();
            let none = NoThreads::begin();
            for _ in 0..3 {
                assert_eq!(read().await, here);
            }
            let own = brief(|| thread::current().id()).await;
            assert_eq!(own.expect("done"), here);
            let file = File::open("/proc/self/comm").expect("open");
            let said: Vec<_> = pieces(file, 0, 2, 1).try_collect().await.expect("read");
            assert_eq!(said.len(), 2);
            drop(none);
            // The queue of the runtime still has what it could not begin.
            assert_ne!(read().await, here, "by itself");
            assert_eq!(times.load(Ordering::SeqCst), 4);
        });
    }

    #[test]
    fn without_another_thread_long_work_is_refused_and_never_done() {
        let test = "host::work::tests::without_another_thread_long_work_is_refused_and_never_done";
        without_threads(test, async {
            let times = Arc::new(AtomicU32::new(0));
            let work = || {
                let times = Arc::clone(&times);
                long(move || times.fetch_add(1, Ordering::SeqCst))
            };
            let none = NoThreads::begin();
            let lost = work().await.expect_err("no thread");
            drop(none);
            assert!(matches!(lost, Lost::NoThread), "{lost}");
            let (code, fix) = refusals::of(&lost).expect("the machine's");
            assert_eq!(code, FaultCode::ProcessesFull, "{fix}");
            let inside = refusals::of(&io::Error::from(lost)).expect("the machine's");
            assert_eq!(inside, (code, fix));
            assert_eq!(
                work().await.expect("by itself"),
                0,
                "what was refused is gone"
            );
        });
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_for_who_has_to_go_on() {
        for lost in [
            brief(|| panic!("a {}", "word")).await.map(|()| "done"),
            long(|| panic!("a word")).await.map(|()| "done"),
        ] {
            let lost = lost.expect_err("it panicked");
            assert_eq!(lost.to_string(), "it panicked: a word");
            assert_eq!(refusals::of(&lost), None);
        }
    }

    #[tokio::test]
    async fn a_part_of_a_file_comes_in_pieces_to_its_end() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"0123456789").expect("write");
        for (from, len, wanted) in [
            (0, 10, vec!["0123", "4567", "89"]),
            (3, 5, vec!["3456", "7"]),
            (8, 100, vec!["89"]),
            (4, 0, vec![]),
        ] {
            let file = file.try_clone().expect("file");
            let said: Vec<_> = pieces(file, from, len, 4)
                .map(|piece| piece.expect("read"))
                .collect()
                .await;
            assert_eq!(said, wanted, "{len} from {from}");
        }
    }
}

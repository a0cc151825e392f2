//! Signs of life: what systemd's watchdog is fed by.
//!
//! A timer that only shows that the runtime turns would feed the watchdog of a daemon whose loop
//! waits for ever. So each loop that a daemon is of no use without has a [`Beat`], and says by when
//! it will report progress again: a call's deadline, a step's, the time of its own timer. Who waits for
//! something that may never come, and rightly so, rests. The watchdog is fed while nobody is late;
//! who is late is named in the log before systemd ends the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// What a loop adds to the time of what it waits for: a machine under load runs it later.
pub const MARGIN: Duration = Duration::from_secs(30);
/// The watchdog is fed this often in its time, so that being late once for a moment costs nothing.
const FEEDS: u32 = 4;

/// The beats of a process. Cheap to clone.
#[derive(Clone)]
pub struct Progress {
    began: Instant,
    signs: Arc<Mutex<Signs>>,
}

/// One loop's signs of life; forgotten when dropped.
pub struct Beat {
    id: u64,
    due: Due,
    progress: Progress,
}

/// By when the next beat is due, in milliseconds since the beginning.
type Due = Arc<AtomicU64>;

/// No time at all: it rests.
const RESTS: u64 = u64::MAX;

/// Pure: time is an argument.
#[derive(Default)]
struct Signs {
    next: u64,
    beats: BTreeMap<u64, (String, Due)>,
}

/// Somebody who is late.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Late {
    name: String,
    by: Duration,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            signs: Arc::default(),
        }
    }
}

impl Progress {
    /// A beat that rests until it says otherwise. As many as there are loops and sessions.
    pub fn beat(&self, name: impl Into<String>) -> Beat {
        let (id, due) = self.lock().add(name.into());
        Beat {
            id,
            due,
            progress: self.clone(),
        }
    }

    /// Feeds until `stop`, while no loop is late.
    pub(super) async fn feed(
        &self,
        period: Duration,
        stop: CancellationToken,
        mut feed: impl FnMut(),
    ) {
        let mut tick = tokio::time::interval(period / FEEDS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Vec::new();
        loop {
            tokio::select! {
                // cancel-safe: both are
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let late = self.lock().late(self.began.elapsed());
            if late.is_empty() {
                feed();
            }
            let names: Vec<String> = late.iter().map(|l| l.name.clone()).collect();
            if names != told {
                for Late { name, by } in late {
                    tracing::error!(task = name, ?by, ?period, "{}", words(&name));
                }
                if names.is_empty() {
                    tracing::warn!("every task makes progress again");
                }
                told = names;
            }
        }
    }

    /// Which tasks are late, for health checks of this program.
    pub fn late(&self) -> Vec<String> {
        let late = self.lock().late(self.began.elapsed());
        late.into_iter().map(|l| l.name).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Signs> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn words(name: &str) -> String {
    format!("{name} makes no progress; if it stays stuck, systemd restarts this program")
}

impl Beat {
    /// It makes progress; the next beat is due within `bound` (and [`MARGIN`]).
    pub fn within(&self, bound: Duration) {
        let due = self.progress.began.elapsed() + bound + MARGIN;
        self.due.store(millis(due), Ordering::Relaxed);
    }

    /// It waits for what may never come.
    pub fn rests(&self) {
        self.due.store(RESTS, Ordering::Relaxed);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.progress.lock().beats.remove(&self.id);
    }
}

impl Signs {
    fn add(&mut self, name: String) -> (u64, Due) {
        let due = Due::new(AtomicU64::new(RESTS));
        let id = self.next;
        self.next += 1;
        self.beats.insert(id, (name, Arc::clone(&due)));
        (id, due)
    }

    fn late(&self, now: Duration) -> Vec<Late> {
        let now = millis(now);
        let late = self.beats.values().filter_map(|(name, due)| {
            let by = now.checked_sub(due.load(Ordering::Relaxed))?;
            (by > 0).then(|| Late {
                name: name.clone(),
                by: Duration::from_millis(by),
            })
        });
        late.collect()
    }
}

/// Never [`RESTS`], however long.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis())
        .unwrap_or(RESTS)
        .min(RESTS - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::app::TaskGroup;

    #[derive(Clone, Debug)]
    enum Does {
        Says(usize, u64),
        Rests(usize),
        Ends(usize),
        Waits(u64),
    }

    fn does() -> impl Strategy<Value = Does> {
        prop_oneof![
            (0usize..4, 0u64..5_000).prop_map(|(who, ms)| Does::Says(who, ms)),
            (0usize..4).prop_map(Does::Rests),
            (0usize..4).prop_map(Does::Ends),
            (0u64..5_000).prop_map(Does::Waits),
        ]
    }

    proptest! {
        /// A loop is late if the time that it announced has passed without news, and only then.
        #[test]
        fn late_is_who_did_not_keep_his_word(steps in prop::collection::vec(does(), 1..200)) {
            let mut signs = Signs::default();
            let mut beats: Vec<_> = (0..4).map(|n| signs.add(n.to_string())).collect();
            let mut words = [None; 4];
            let mut now = 0;
            for step in steps {
                match step {
                    Does::Says(who, ms) => {
                        beats[who].1.store(now + ms, Ordering::Relaxed);
                        words[who] = Some(now + ms);
                    }
                    Does::Rests(who) => {
                        beats[who].1.store(RESTS, Ordering::Relaxed);
                        words[who] = None;
                    }
                    Does::Ends(who) => {
                        signs.beats.remove(&beats[who].0);
                        beats[who] = signs.add(who.to_string());
                        words[who] = None;
                    }
                    Does::Waits(ms) => now += ms,
                }
                let mut late: Vec<_> = signs.late(Duration::from_millis(now));
                late.sort_by(|a, b| a.name.cmp(&b.name));
                let want: Vec<_> = (0..4).filter_map(|n| {
                    let by = now.checked_sub(words[n]?)?;
                    let by = Duration::from_millis(by);
                    (!by.is_zero()).then(|| Late { name: n.to_string(), by })
                }).collect();
                prop_assert_eq!(late, want);
            }
        }
    }

    /// The runtime turns, another task continues, and one waits for what never comes: the watchdog
    /// starves. It is fed again when that one continues.
    #[tokio::test(start_paused = true)]
    async fn a_blocked_task_starves_the_watchdog_and_the_runtime_does_not_feed_it() {
        const PERIOD: Duration = Duration::from_secs(60);
        let stop = CancellationToken::new();
        let mut group = TaskGroup::new(stop.clone());
        let progress = group.progress();
        let fed = Arc::new(AtomicU64::new(0));
        let blocked = Arc::new(tokio::sync::Notify::new());
        let (well, other, wakes) = (
            progress.beat("well"),
            progress.beat("other"),
            blocked.clone(),
        );
        group.finite("well", async move {
            loop {
                well.within(Duration::from_secs(1));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        group.finite("other", async move {
            loop {
                other.within(Duration::from_secs(1));
                wakes.notified().await;
            }
        });
        let (count, end) = (Arc::clone(&fed), stop.clone());
        group.finite("watchdog", async move {
            let feed = || {
                count.fetch_add(1, Ordering::Relaxed);
            };
            progress.feed(PERIOD, end, feed).await;
        });
        let look = async {
            let fed = || fed.load(Ordering::Relaxed);
            tokio::time::sleep(MARGIN).await;
            assert!(fed() >= 2, "{} while it was not late", fed());
            tokio::time::sleep(PERIOD / FEEDS).await;
            let before = fed();
            tokio::time::sleep(PERIOD).await;
            assert_eq!(fed(), before, "systemd would end it now");
            blocked.notify_one();
            tokio::time::sleep(PERIOD / FEEDS * 2).await;
            assert!(fed() > before);
            stop.cancel();
        };
        // A look that fails ends the test here, not only a task.
        let (failed, ()) = tokio::join!(group.run(Duration::ZERO), look);
        assert_eq!(failed, None);
    }
}

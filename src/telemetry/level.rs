//! How much is logged, for a time: the filters of [`super::init()`] can be exchanged while the program runs.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::reload;

/// Exchanges the filter of one layer.
type Exchange = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// The filters of this process.
static LEVELS: OnceLock<Levels> = OnceLock::new();

struct Levels {
    layers: Vec<Exchange>,
    /// As configured.
    usual: String,
    /// Another one that is in force.
    other: watch::Sender<Option<Other>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Other {
    level: String,
    until: Instant,
}

/// What is logged now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelNow {
    /// The filter.
    pub level: String,
    /// As configured.
    pub usual: String,
    /// After so long it is as configured again.
    pub left: Option<Duration>,
}

pub(super) fn exchange<S: 'static>(handle: reload::Handle<EnvFilter, S>) -> Exchange {
    Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string()))
}

pub(super) fn begin(layers: Vec<Exchange>, usual: String) {
    let other = watch::Sender::new(None);
    // A second start of logging is refused before this.
    drop(LEVELS.set(Levels {
        layers,
        usual,
        other,
    }));
}

/// Logs by this filter for so long; [`keep_level`] puts it back.
pub fn level_for(level: &str, time: Duration) -> Result<(), String> {
    let levels = LEVELS.get().ok_or("logging was not started")?;
    let until = Instant::now()
        .checked_add(time)
        .ok_or("the time is too long")?;
    let level = level.to_owned();
    levels.change(Some(Other { level, until }))
}

/// As configured, before the time is over.
pub fn usual_level() -> Result<(), String> {
    let levels = LEVELS.get().ok_or("logging was not started")?;
    levels.change(None)
}

/// What is logged now; none before logging has started.
pub fn level_now() -> Option<LevelNow> {
    let levels = LEVELS.get()?;
    let other = levels.other.borrow().clone();
    let usual = levels.usual.clone();
    Some(match other {
        Some(Other { level, until }) => LevelNow {
            level,
            usual,
            left: Some(until.saturating_duration_since(Instant::now())),
        },
        None => LevelNow {
            level: usual.clone(),
            usual,
            left: None,
        },
    })
}

/// Puts the configured level back when the time is over, for as long as the program runs. What a restart ends it
/// ends as well: nothing is noted.
pub async fn keep_level() {
    let Some(levels) = LEVELS.get() else {
        return std::future::pending().await;
    };
    let mut news = levels.other.subscribe();
    loop {
        let other = news.borrow_and_update().clone();
        let over = async {
            match &other {
                Some(other) => tokio::time::sleep_until(other.until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // cancel-safe: both are
            changed = news.changed() => if changed.is_err() { return },
            () = over => match levels.end(other.as_ref()) {
                Ok(true) => tracing::info!(level = levels.usual, "the log level is back to normal"),
                // Another one came meanwhile, with a time of its own.
                Ok(false) => {}
                Err(why) => tracing::warn!(why, "the log level cannot be restored"),
            }
        }
    }
}

impl Levels {
    /// The filter and what is said of it change as one: two who change it at once leave no filter of the one with the time
    /// of the other.
    fn change(&self, to: Option<Other>) -> Result<(), String> {
        let mut done = Ok(());
        self.other.send_if_modified(|now| {
            done = self.put(to.as_ref().map_or(&self.usual, |other| &other.level));
            if done.is_ok() {
                *now = to;
            }
            done.is_ok()
        });
        done
    }

    /// As configured again, where it is still this one whose time is over.
    fn end(&self, of: Option<&Other>) -> Result<bool, String> {
        let mut done = Ok(false);
        self.other.send_if_modified(|now| {
            if now.as_ref() != of {
                return false;
            }
            // Also where the filter cannot be put back: it is said once, and not tried without an end.
            *now = None;
            done = self.put(&self.usual).map(|()| true);
            true
        });
        done
    }

    fn put(&self, level: &str) -> Result<(), String> {
        for layer in &self.layers {
            let filter = EnvFilter::builder().parse(level);
            layer(filter.map_err(|e| e.to_string())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn levels() -> (Levels, Arc<Mutex<String>>) {
        let filter = Arc::new(Mutex::new("info".to_owned()));
        let shown = filter.clone();
        let exchange: Exchange = Box::new(move |to| {
            *filter.lock().expect("lock") = to.to_string();
            Ok(())
        });
        let levels = Levels {
            layers: vec![exchange],
            usual: "info".to_owned(),
            other: watch::Sender::new(None),
        };
        (levels, shown)
    }

    #[test]
    fn the_end_of_one_level_is_not_the_end_of_the_next() {
        let (levels, filter) = levels();
        let other = |level: &str, s| Other {
            level: level.to_owned(),
            until: Instant::now() + Duration::from_secs(s),
        };
        let (first, second) = (other("debug", 1), other("warn", 60));
        let is = |level: &str| *filter.lock().expect("lock") == level;
        levels.change(Some(first.clone())).expect("changed");
        assert!(is("debug"));
        levels.change(Some(second.clone())).expect("changed");
        assert_eq!(levels.end(Some(&first)), Ok(false));
        assert!(is("warn") && *levels.other.borrow() == Some(second.clone()));
        assert_eq!(levels.end(Some(&second)), Ok(true));
        assert!(is("info") && levels.other.borrow().is_none());
        // What is none changes nothing.
        levels.change(Some(other("=,", 1))).expect_err("no filter");
        assert!(is("info") && levels.other.borrow().is_none());
    }
}

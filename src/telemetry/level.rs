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
    let levels = LEVELS.get().ok_or("logging was not begun")?;
    levels.put(level)?;
    let until = Instant::now()
        .checked_add(time)
        .ok_or("the time is too long")?;
    let level = level.to_owned();
    levels.other.send_replace(Some(Other { level, until }));
    Ok(())
}

/// As configured, before the time is over.
pub fn usual_level() -> Result<(), String> {
    let levels = LEVELS.get().ok_or("logging was not begun")?;
    levels.put(&levels.usual)?;
    levels.other.send_replace(None);
    Ok(())
}

/// What is logged now; none before logging was begun.
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
            () = over => {
                levels.other.send_if_modified(|now| {
                    // Not the one that came meanwhile.
                    let same = *now == other;
                    if same { *now = None; }
                    same
                });
                match levels.put(&levels.usual) {
                    Ok(()) => tracing::info!(level = levels.usual, "the log level is back to normal"),
                    Err(why) => tracing::warn!(why, "the log level cannot be restored"),
                }
            }
        }
    }
}

impl Levels {
    fn put(&self, level: &str) -> Result<(), String> {
        for layer in &self.layers {
            let filter = EnvFilter::builder().parse(level);
            layer(filter.map_err(|e| e.to_string())?)?;
        }
        Ok(())
    }
}

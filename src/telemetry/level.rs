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
    /// Until when another one is in force.
    until: watch::Sender<Option<Instant>>,
}

pub(super) fn exchange<S: 'static>(handle: reload::Handle<EnvFilter, S>) -> Exchange {
    Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string()))
}

pub(super) fn begin(layers: Vec<Exchange>, usual: String) {
    let until = watch::Sender::new(None);
    // A second start of logging is refused before this.
    drop(LEVELS.set(Levels {
        layers,
        usual,
        until,
    }));
}

/// Logs by this filter for so long; [`keep_level`] puts it back.
pub fn level_for(level: &str, time: Duration) -> Result<(), String> {
    let levels = LEVELS.get().ok_or("logging was not begun")?;
    levels.put(level)?;
    let until = Instant::now()
        .checked_add(time)
        .ok_or("the time is too long")?;
    levels.until.send_replace(Some(until));
    Ok(())
}

/// Puts the configured level back when the time is over, for as long as the program runs. What a restart ends it
/// ends as well: nothing is noted.
pub async fn keep_level() {
    let Some(levels) = LEVELS.get() else {
        return std::future::pending().await;
    };
    let mut until = levels.until.subscribe();
    loop {
        let at = *until.borrow_and_update();
        let over = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // cancel-safe: both are
            changed = until.changed() => if changed.is_err() { return },
            () = over => {
                levels.until.send_if_modified(|now| {
                    // Not the one that came meanwhile.
                    let same = *now == at;
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

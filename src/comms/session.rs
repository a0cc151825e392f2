//! One session from its handshake to its end: driver, the plane's streams, farewells.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::carry::LAST_BYTES;
use super::serve::{self, Serve};
use super::sessions::{Live, Sessions};
use crate::mux::{self, Driver, Handle, Incoming, Websocket};
use crate::wire::{Code, Config, Side};

/// A session that was told to leave may finish its streams for this long: a download of a stack
/// over a slow line, an operator's shell. What lasts longer (a watch) is cut and asked for again.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(600);
/// Longest a session may take to finish its streams when this side stops. Nobody may open another one meanwhile, so a
/// restart of this program, perhaps for another version, makes the machine unreachable for that long: what lasts
/// longer is of the kind that is asked for again.
const STOP_MAX: Duration = Duration::from_secs(3);
/// Longest a session that is over may linger, for the plane to get all that was sent, when this side
/// stops: with [`STOP_MAX`] below five seconds, and the daemon's own grace.
const STOP_LINGER: Duration = Duration::from_secs(1);
/// How long streams may take to notice that their connection is over, and write their audit line.
const LAST_LINES: Duration = LAST_BYTES.saturating_add(Duration::from_secs(1));

/// A session that was opened and must be run.
pub(super) struct Begun {
    pub(super) handle: Handle,
    /// For [`run`].
    pub(super) ends: Ends,
}

/// What [`run`] drives: the plane's streams, and the connection.
pub(super) struct Ends {
    incoming: Incoming,
    driver: Driver,
}

/// Begins a session on a fresh websocket.
pub(super) fn begin(socket: Websocket, ping_interval: Duration) -> Begun {
    let config = Config {
        ping_interval,
        ..Config::default()
    };
    let (handle, incoming, driver) = mux::session(socket, Side::Node, config);
    Begun {
        handle,
        ends: Ends { incoming, driver },
    }
}

/// Runs a session to its end. Says farewell when `shutdown` is cancelled; a farewell of either side
/// bounds what is left of it.
pub(super) async fn run(
    ends: Ends,
    live: Arc<Live>,
    sessions: Arc<Sessions>,
    serve: Arc<Serve>,
    shutdown: CancellationToken,
) {
    let Ends { incoming, driver } = ends;
    let mut streams = JoinSet::new();
    streams.spawn(serve::run(incoming, Arc::clone(&live), serve));
    let handle = live.handle.clone();
    let live_within = live.heard_within();
    let beat = sessions.beat(format!("session {}", live.number));
    let mut driver = Box::pin(driver);
    // It turns when there is something to move, and when a ping is due.
    let mut driver = std::future::poll_fn(move |cx| {
        beat.within(live_within);
        driver.as_mut().poll(cx)
    });
    let mut cut_at = None;
    let mut stopping = false;
    let mut heard_farewell = false;
    let mut lingers = true;
    let closed = loop {
        tokio::select! {
            // cancel-safe: the driver is kept, the others only watch
            closed = &mut driver => {
                lingers = false;
                break closed;
            }
            closed = handle.closed() => break closed,
            farewell = handle.peer_leaves(), if !heard_farewell => {
                heard_farewell = true;
                if farewell.is_some() {
                    cut_at.get_or_insert_with(|| Instant::now() + DRAIN_MAX);
                    sessions.leaves(&live, later(DRAIN_MAX));
                }
            }
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                handle.leave(Code::GoingAway, Duration::ZERO, "pf9-comms stops");
                cut_at = Some(Instant::now() + STOP_MAX);
                sessions.leaves(&live, later(STOP_MAX));
            }
            () = at(cut_at) => {
                // The driver ends by this, so the timer need not be armed again.
                cut_at = None;
                handle.close(Code::GoingAway, "streams were cut: the drain time ran out");
            }
        }
    };
    tracing::info!(session = live.number, endpoint = live.endpoint, why = %closed, "session ended");
    sessions.over(&live);
    // Nobody waits for what the plane still has to get, and it waits for no stream's last line.
    let last_bytes = async move {
        if lingers {
            tokio::select! {
                // cancel-safe: the dropped branch is no longer needed
                _ = driver => {}
                () = stopped(&shutdown) => {}
            }
        }
    };
    let last_lines = tokio::time::timeout(LAST_LINES, streams.join_next());
    let ((), ended) = tokio::join!(last_bytes, last_lines);
    if ended.is_err() {
        tracing::warn!(
            session = live.number,
            "streams did not end with their session"
        );
    }
}

/// Waits until this side has been stopping for so long that a plane that reads has read everything.
async fn stopped(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(STOP_LINGER).await;
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn later(wait: Duration) -> Timestamp {
    let now = crate::seam::clock::now();
    now.checked_add(wait).unwrap_or(now)
}

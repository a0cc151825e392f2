//! Keeps one session up: dial, run, wait, again; for ever.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::audit::Audit;
use super::backoff::Backoff;
use super::dial::{Route, Socket};
use super::serve;
use super::services::Services;
use super::status::StatusBoard;
use crate::app::CommsConfig;
use crate::model::Fault;
use crate::mux::{self, Closed, Handle};
use crate::wire::{Code, Config, Side};

pub(super) struct Link {
    route: Route,
    config: CommsConfig,
    board: Arc<StatusBoard>,
    current: watch::Sender<Option<Handle>>,
}

/// How a session or a try ended, for the wait that follows.
struct Ended {
    fault: Fault,
    lived: Option<Duration>,
    hint: Option<Duration>,
}

/// Longest a drained session may take when this side stops: below the daemon's own grace.
const DRAIN: Duration = Duration::from_secs(10);

// === impl Link ===

impl Link {
    pub(super) fn new(route: Route, config: CommsConfig, board: Arc<StatusBoard>) -> Self {
        Self {
            route,
            config,
            board,
            current: watch::Sender::new(None),
        }
    }

    /// The session that is up, if one is.
    pub(super) fn current(&self) -> watch::Receiver<Option<Handle>> {
        self.current.subscribe()
    }

    pub(super) async fn run(
        self,
        services: Arc<Services>,
        audit: Arc<Audit>,
        shutdown: CancellationToken,
    ) {
        let mut backoff = Backoff::new(self.config.reconnect_cap());
        let mut turn = 0usize;
        while !shutdown.is_cancelled() {
            let endpoints = self.route.endpoints();
            let Some(endpoint) = endpoints.get(turn % endpoints.len().max(1)) else {
                return;
            };
            turn = turn.wrapping_add(1);
            self.board.connecting(endpoint);
            let dialled = tokio::select! {
                // cancel-safe: a dial that is dropped leaves nothing behind
                () = shutdown.cancelled() => return,
                dialled = self.route.dial(endpoint) => dialled,
            };
            let ended = match dialled {
                Ok(socket) => {
                    let ended = self
                        .session(endpoint, socket, &services, &audit, &shutdown)
                        .await;
                    // A session that worked: the same endpoint first.
                    turn = turn.wrapping_sub(usize::from(ended.lived.is_some()));
                    ended
                }
                Err(e) => Ended {
                    fault: e.fault(endpoint),
                    lived: None,
                    hint: e.retry_after(),
                },
            };
            if shutdown.is_cancelled() {
                return;
            }
            self.wait(ended, &mut backoff, &shutdown).await;
        }
    }

    async fn session(
        &self,
        endpoint: &str,
        socket: Socket,
        services: &Arc<Services>,
        audit: &Arc<Audit>,
        shutdown: &CancellationToken,
    ) -> Ended {
        let config = Config {
            ping_interval: self.config.ping(),
            ..Config::default()
        };
        let (handle, incoming, driver) = mux::session(socket, Side::Node, config);
        let began = Instant::now();
        self.board.connected(Timestamp::now());
        self.current.send_replace(Some(handle.clone()));
        tracing::info!(endpoint, "tunnel is up");

        let mut streams = JoinSet::new();
        streams.spawn(serve::run(
            incoming,
            Arc::clone(services),
            Arc::clone(audit),
        ));
        let mut driver = std::pin::pin!(driver);
        let mut hint = None;
        let mut heard_farewell = false;
        let closed = loop {
            tokio::select! {
                // cancel-safe: the driver is kept, the others only watch
                closed = driver.as_mut() => break closed,
                farewell = handle.peer_leaves(), if !heard_farewell => {
                    heard_farewell = true;
                    hint = farewell.map(|f| f.come_back_after);
                    // New local connections wait for the next session.
                    self.current.send_replace(None);
                }
                () = shutdown.cancelled() => {
                    handle.leave(Code::GoingAway, Duration::ZERO, "pf9-comms stops");
                    self.current.send_replace(None);
                    let drained = tokio::time::timeout(DRAIN, driver.as_mut()).await;
                    break drained.unwrap_or(Closed::Drained);
                }
            }
        };
        self.current.send_replace(None);
        let fault = Fault::new(
            "tunnel-down",
            format!("the tunnel to {endpoint} ended"),
            closed.to_string(),
        );
        Ended {
            fault,
            lived: Some(began.elapsed()),
            hint,
        }
    }

    async fn wait(&self, ended: Ended, backoff: &mut Backoff, shutdown: &CancellationToken) {
        let wait = backoff.next(ended.lived, ended.hint, fastrand::f64());
        let now = Timestamp::now();
        let next_try = now.checked_add(wait).unwrap_or(now);
        let fault = ended.fault.next_try(next_try);
        tracing::warn!(code = fault.code, wait_ms = wait.as_millis(), "{fault}");
        let contact = ended.lived.map(|_| now);
        self.board.waiting(fault, contact);
        tokio::select! {
            // cancel-safe: both are
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

//! comms' own socket, `/run/pf9/comms.sock`.
//!
//! | call | answers |
//! |---|---|
//! | `GET /v1/status`  | [`TunnelStatus`](crate::model::TunnelStatus) |
//! | `GET /v1/streams` | [`TunnelStreams`](crate::model::TunnelStreams) |
//! | `POST /v1/ping`   | [`TunnelPing`]: one PING on every session |
//! | `GET /metrics`    | Prometheus text; `/v1/metrics` is the same |
//! | `/v1/log-level`   | how much is logged: see [`log_level`] |
//! | `GET /healthz`    | 200 while nothing hangs |
//! | `GET /ready`      | 200 while the tunnel is up |

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::metrics;
use super::serve::Serve;
use super::sessions::{Live, Sessions};
use super::status::StatusBoard;
use crate::app::Progress;
use crate::local::{
    LOG_LEVEL, Method, NotReady, Policy, Reply, Request, StatusCode, healthz, log_level, ready,
    serve as serve_local,
};
use crate::model::{STATUS_SCHEMA, SessionPing, TunnelPing, TunnelState};

/// Longest a ping is waited for: no path of use is slower, and who asks waits.
const PING_WAIT: Duration = Duration::from_secs(4);

/// What answers are made of.
pub(super) struct Api {
    pub(super) board: Arc<StatusBoard>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) serve: Arc<Serve>,
    pub(super) progress: Progress,
}

/// Answers until `shutdown`.
pub(super) async fn run(listener: UnixListener, api: Api, shutdown: CancellationToken) {
    let api = Arc::new(api);
    let answer = move |request: Request| {
        let api = Arc::clone(&api);
        async move { api.answer(&request).await }
    };
    serve_local(listener, Policy::default(), shutdown, answer).await;
}

impl Api {
    async fn answer(&self, request: &Request) -> Reply {
        let now = crate::seam::clock::now();
        match (&request.method, request.path.as_str()) {
            (&Method::GET, "/v1/status") => Reply::json(StatusCode::OK, &self.board.status(now)),
            (&Method::GET, "/v1/streams") => Reply::json(StatusCode::OK, &self.board.streams(now)),
            (&Method::POST, "/v1/ping") => Reply::json(StatusCode::OK, &self.ping().await),
            (_, LOG_LEVEL) => log_level(request),
            (&Method::GET, "/healthz") => healthz(&self.progress.late()),
            (&Method::GET, "/ready") => ready(not_ready(&self.board.status(now).state)),
            (&Method::GET, "/metrics" | "/v1/metrics") => {
                let totals = self.sessions.totals();
                let mut refusals = self.serve.refused();
                refusals.insert(metrics::BY_SESSION, totals.refused);
                let numbers = metrics::Numbers {
                    status: self.board.status(now),
                    bytes: (totals.bytes_in, totals.bytes_out),
                    failures: self.board.failures(),
                    refusals,
                };
                Reply::text(
                    StatusCode::OK,
                    crate::telemetry::METRICS_TYPE,
                    numbers.text(now),
                )
            }
            (_, other) => Reply::not_found(other),
        }
    }

    async fn ping(&self) -> TunnelPing {
        let mut asked = JoinSet::new();
        for live in self.sessions.all() {
            // A draining one carries nothing new; how far it is no longer matters.
            if !live.handle.is_leaving() {
                asked.spawn(ping(live));
            }
        }
        let mut sessions: Vec<SessionPing> = asked.join_all().await;
        sessions.sort_by_key(|s| (s.slot, s.session));
        TunnelPing {
            schema: STATUS_SCHEMA,
            sessions,
        }
    }
}

/// What it is not ready for, if so: nothing passes without a tunnel.
fn not_ready(state: &TunnelState) -> NotReady {
    match state {
        TunnelState::Connected { .. } => None,
        TunnelState::NotEnrolled => Some("this host is not enrolled".to_owned()),
        TunnelState::Connecting => Some("the tunnel is being dialled".to_owned()),
        TunnelState::Waiting { next_try } => {
            Some(format!("the tunnel is down; next try at {next_try}"))
        }
    }
}

async fn ping(live: Arc<Live>) -> SessionPing {
    let answer = tokio::time::timeout(PING_WAIT, live.handle.ping()).await;
    let took = answer.ok().flatten();
    SessionPing {
        session: live.number,
        slot: live.slot,
        endpoint: live.endpoint.clone(),
        rtt_us: took.and_then(|t| u64::try_from(t.as_micros()).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn it_is_ready_with_a_tunnel_and_says_why_not_without() {
        let at = Timestamp::UNIX_EPOCH;
        assert_eq!(not_ready(&TunnelState::Connected { since: at }), None);
        for state in [
            TunnelState::NotEnrolled,
            TunnelState::Connecting,
            TunnelState::Waiting { next_try: at },
        ] {
            assert!(not_ready(&state).is_some(), "{state:?}");
        }
    }
}

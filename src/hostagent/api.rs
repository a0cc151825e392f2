//! The local socket: what `pf9ctl status` shows, and what looks after the program.
//!
//! | call | answers |
//! |---|---|
//! | `GET /v1/status` | the status document |
//! | `GET /metrics`   | Prometheus text |
//! | `/v1/log-level`  | how much is logged: see [`log_level`] |
//! | `GET /healthz`   | 200 while nothing hangs |
//! | `GET /ready`     | 200 while this host's reports reach the plane, and nodelet answers where it is needed |

use super::{Agent, metrics, report};
use crate::local::{LOG_LEVEL, Method, Reply, Request, StatusCode, healthz, log_level, ready};
use crate::model::document::AGENT_VERSION;
use crate::telemetry::{METRICS_TYPE, vitals};

/// Answers one call. Every caller that the socket's mode lets in may look.
pub(super) async fn answer(agent: Agent, request: Request) -> Reply {
    match (request.method.clone(), request.path.as_str()) {
        (Method::GET, "/v1/status") => Reply::json(StatusCode::OK, &report::assemble(&agent)),
        (Method::GET, "/metrics") => {
            let status = report::assemble(&agent);
            let now = agent.now();
            let mut text = agent.board.read(|facts| metrics::text(&status, facts, now));
            vitals(&mut text, "pf9-hostagent", AGENT_VERSION);
            Reply::text(StatusCode::OK, METRICS_TYPE, text.into())
        }
        (_, LOG_LEVEL) => log_level(&request),
        (Method::GET, "/healthz") => healthz(&agent.progress.late()),
        (Method::GET, "/ready") => ready(agent.board.read(metrics::not_ready)),
        (_, path) => Reply::not_found(path),
    }
}

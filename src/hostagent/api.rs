//! The local socket: what `pf9ctl status` shows.

use super::{Agent, report};
use crate::local::{Method, Reply, Request, StatusCode};

/// Answers one call. Everybody whom the socket's mode lets in may look.
pub(super) async fn answer(agent: Agent, request: Request) -> Reply {
    match (request.method, request.path.as_str()) {
        (Method::GET, "/v1/status") => Reply::json(StatusCode::OK, &report::assemble(&agent)),
        (_, path) => Reply::not_found(path),
    }
}

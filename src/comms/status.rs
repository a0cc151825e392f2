//! What is known about the tunnel, for people and for our other daemons.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::local::{Limits, Method, Reply, Request, StatusCode, serve as serve_local};
use crate::model::{Fault, STATUS_SCHEMA, TunnelState, TunnelStatus};
use crate::mux::Handle;

/// State that changes with the connection; the numbers come from the session when asked.
pub(super) struct StatusBoard {
    state: watch::Sender<Known>,
}

#[derive(Clone)]
struct Known {
    state: TunnelState,
    endpoint: Option<String>,
    last_contact: Option<Timestamp>,
    last_fault: Option<Fault>,
}

// === impl StatusBoard ===

impl StatusBoard {
    pub(super) fn new() -> Self {
        let (state, _) = watch::channel(Known {
            state: TunnelState::Connecting,
            endpoint: None,
            last_contact: None,
            last_fault: None,
        });
        Self { state }
    }

    pub(super) fn connecting(&self, endpoint: &str) {
        self.state.send_modify(|k| {
            k.state = TunnelState::Connecting;
            k.endpoint = Some(endpoint.to_owned());
        });
    }

    pub(super) fn connected(&self, since: Timestamp) {
        self.state.send_modify(|k| {
            k.state = TunnelState::Connected { since };
            k.last_contact = Some(since);
        });
    }

    pub(super) fn waiting(&self, fault: Fault, last_contact: Option<Timestamp>) {
        self.state.send_modify(|k| {
            if let Some(next_try) = fault.next_try {
                k.state = TunnelState::Waiting { next_try };
            }
            k.last_contact = last_contact.or(k.last_contact);
            k.last_fault = Some(fault);
        });
    }

    fn status(&self, session: Option<&Handle>, now: Timestamp) -> TunnelStatus {
        let known = self.state.borrow().clone();
        let stats = session.map(Handle::stats).unwrap_or_default();
        let connected = matches!(known.state, TunnelState::Connected { .. });
        TunnelStatus {
            schema: STATUS_SCHEMA,
            state: known.state,
            endpoint: known.endpoint,
            rtt_us: stats
                .round_trip
                .and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
            streams: stats.streams,
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            last_contact: if connected {
                Some(now)
            } else {
                known.last_contact
            },
            last_fault: known.last_fault,
        }
    }
}

/// Answers on `/run/pf9/comms.sock`.
pub(super) async fn serve(
    listener: UnixListener,
    board: Arc<StatusBoard>,
    session: watch::Receiver<Option<Handle>>,
    shutdown: CancellationToken,
) {
    serve_local(
        listener,
        Limits::default(),
        shutdown,
        move |request: Request| {
            let session = session.borrow().clone();
            let reply = match (&request.method, request.path.as_str()) {
                (&Method::GET, "/v1/status") => {
                    let now = Timestamp::now();
                    Reply::json(StatusCode::OK, &board.status(session.as_ref(), now))
                }
                (_, other) => Reply::not_found(other),
            };
            std::future::ready(reply)
        },
    )
    .await;
}

//! nodelet's socket: specs and certificates in, status and plan out.
//!
//! | call | answer |
//! |---|---|
//! | `PUT /v1/spec` (an envelope)          | 200 `{"generation": n}`; 403 untrusted, 409 older, 422 invalid |
//! | `PUT /v1/trust`                       | 200 the version; 403, 409, 422 as above |
//! | `PUT /v1/certificates`                | 200 `{"stored": n}`; 409 another cluster, 422 refused |
//! | `PUT /v1/assignment-none` (root only) | 200 `{"generation": n}` |
//! | `POST /v1/wake`                       | 204 |
//! | `GET /v1/status[?after=REV&wait=S]`   | the status, at once or when it is newer than REV |
//! | `GET /v1/plan`                        | what would be done now |

use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{User, geteuid};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::certs;
use super::engine;
use super::inbox::{Inbox, Refused};
use super::trust;
use crate::host::Host;
use crate::local::{self, Limits, Method, Peer, Reply, Request, StatusCode};
use crate::model::{CertificateBatch, Envelope, Fault, NodeStatus, Timestamp, TrustAnswer, paths};

/// hostagent, `pf9ctl` and a person with curl.
const CONNECTIONS_MAX: usize = 32;
/// An envelope of the largest document.
const BODY_MAX: usize = 8 * 1024 * 1024;
/// Longest a caller may wait for news.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest a call may take; a plan looks at the whole host.
const CALL_MAX: Duration = Duration::from_secs(150);

/// What the handlers share.
pub struct Server {
    /// The machine.
    pub host: Host,
    /// Where specs go.
    pub inbox: Arc<Inbox>,
    /// The newest status.
    pub status: watch::Receiver<NodeStatus>,
    /// Wakes the loop.
    pub wake: watch::Sender<u64>,
}

/// The socket systemd listens on for us, or our own where nobody does.
pub fn listener(host: &Host) -> Result<UnixListener, Fault> {
    let fail = |e: std::io::Error| {
        Fault::new("local-socket", "cannot listen", e.to_string())
            .fix("systemctl restart pf9-nodeletd.socket")
    };
    let passed = listenfd::ListenFd::from_env()
        .take_unix_listener(0)
        .map_err(fail)?;
    match passed {
        Some(listener) => {
            listener.set_nonblocking(true).map_err(fail)?;
            UnixListener::from_std(listener).map_err(fail)
        }
        None => local::bind(&host.fs.at(paths::NODELET_SOCKET), 0o660).map_err(fail),
    }
}

/// Serves until shutdown.
pub async fn serve(server: Server, listener: UnixListener, shutdown: CancellationToken) {
    let limits = Limits {
        connections: CONNECTIONS_MAX,
        body: BODY_MAX,
        deadline: CALL_MAX,
    };
    let server = Arc::new(server);
    let stop = shutdown.clone();
    local::serve(listener, limits, shutdown, move |request| {
        let (server, stop) = (Arc::clone(&server), stop.clone());
        async move { server.answer(request, &stop).await }
    })
    .await;
}

impl Server {
    async fn answer(&self, request: Request, stop: &CancellationToken) -> Reply {
        if !may_call(request.peer, User::from_name(paths::USER_HOSTAGENT)) {
            let why = format!("user {} may not call", request.peer.uid);
            let fault = Fault::new("not-allowed", "call refused", why);
            return Reply::fault(StatusCode::FORBIDDEN, &fault);
        }
        match (&request.method, request.path.as_str()) {
            (&Method::PUT, "/v1/spec") => self.put_spec(&request),
            (&Method::PUT, "/v1/trust") => self.put_trust(&request),
            (&Method::PUT, "/v1/certificates") => self.put_certificates(&request),
            (&Method::PUT, "/v1/assignment-none") => self.put_none(request.peer),
            (&Method::POST, "/v1/wake") => {
                self.wake();
                Reply::empty()
            }
            (&Method::GET, "/v1/status") => self.status(&request, stop).await,
            (&Method::GET, "/v1/plan") => {
                // On a copy nothing would be done, whatever the plan.
                if let Some(fault) = trust::held(&self.host.fs) {
                    return Reply::fault(StatusCode::CONFLICT, &fault);
                }
                let job = self.inbox.job();
                match engine::dry_run(&self.host, &job).await {
                    Ok(plan) => Reply::json(StatusCode::OK, &plan),
                    Err(fault) => Reply::fault(StatusCode::CONFLICT, &fault),
                }
            }
            _ => Reply::not_found(&request.path),
        }
    }

    fn put_spec(&self, request: &Request) -> Reply {
        let envelope: Envelope = match parse(request, "spec") {
            Ok(envelope) => envelope,
            Err(reply) => return reply,
        };
        match self.inbox.put(envelope) {
            Ok(generation) => {
                tracing::info!(%generation, "spec accepted");
                Reply::json(StatusCode::OK, &json!({"generation": generation}))
            }
            Err(refused) => refusal(refused),
        }
    }

    fn put_trust(&self, request: &Request) -> Reply {
        let answer: TrustAnswer = match parse(request, "trust document") {
            Ok(answer) => answer,
            Err(reply) => return reply,
        };
        match trust::put(&self.host.fs, &answer, Timestamp::now()) {
            Ok(version) => {
                // What was refused or held before may be otherwise now.
                self.wake();
                Reply::json(StatusCode::OK, &version)
            }
            Err(refused) => refusal(refused),
        }
    }

    fn put_certificates(&self, request: &Request) -> Reply {
        let batch: CertificateBatch = match parse(request, "certificates") {
            Ok(batch) => batch,
            Err(reply) => return reply,
        };
        if let Some(fault) = trust::held(&self.host.fs) {
            return Reply::fault(StatusCode::CONFLICT, &fault);
        }
        let Some((role, node)) = self.inbox.job().node else {
            let fault = Fault::new(
                "certificate-foreign",
                "certificates refused",
                "this host has no role",
            );
            return Reply::fault(StatusCode::CONFLICT, &fault);
        };
        let result = certs::accept(&self.host.fs, role, &node, &batch, Timestamp::now());
        // Some may have been good.
        self.wake();
        match result {
            Ok(stored) => {
                tracing::info!(stored, "certificates accepted");
                Reply::json(StatusCode::OK, &json!({"stored": stored}))
            }
            Err(fault) => {
                tracing::warn!(code = fault.code, "{fault}");
                let status = match fault.code.as_str() {
                    "certificate-foreign" => StatusCode::CONFLICT,
                    _ => StatusCode::UNPROCESSABLE_ENTITY,
                };
                Reply::fault(status, &fault)
            }
        }
    }

    fn put_none(&self, peer: Peer) -> Reply {
        if peer.uid != 0 && peer.uid != geteuid().as_raw() {
            let fault = Fault::new(
                "not-allowed",
                "the role stays",
                "only root may take it away without the plane",
            );
            return Reply::fault(StatusCode::FORBIDDEN, &fault);
        }
        match self.inbox.put_none() {
            Ok(generation) => {
                tracing::info!("root takes the role away");
                Reply::json(StatusCode::OK, &json!({"generation": generation}))
            }
            Err(fault) => Reply::fault(StatusCode::INTERNAL_SERVER_ERROR, &fault),
        }
    }

    async fn status(&self, request: &Request, stop: &CancellationToken) -> Reply {
        let number = |key: &str| request.query.get(key).and_then(|v| v.parse::<u64>().ok());
        let mut rx = self.status.clone();
        if let Some(after) = number("after") {
            let wait = Duration::from_secs(number("wait").unwrap_or(0)).min(WAIT_MAX);
            // A caller with a revision of an earlier life of ours is answered at once.
            let news = rx.wait_for(|s| s.revision != after);
            tokio::select! {
                // cancel-safe: all are
                _ = tokio::time::timeout(wait, news) => {}
                () = stop.cancelled() => {}
            }
        }
        let status = rx.borrow().clone();
        Reply::json(StatusCode::OK, &status)
    }

    fn wake(&self) {
        self.wake.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// Root, hostagent's user, or whoever runs this process.
fn may_call(peer: Peer, hostagent: nix::Result<Option<User>>) -> bool {
    let hostagent = hostagent.ok().flatten().map(|u| u.uid.as_raw());
    peer.uid == 0 || peer.uid == geteuid().as_raw() || Some(peer.uid) == hostagent
}

fn refusal(refused: Refused) -> Reply {
    let (status, fault) = match refused {
        Refused::Untrusted(fault) => (StatusCode::FORBIDDEN, fault),
        Refused::Older(fault) => (StatusCode::CONFLICT, fault),
        Refused::Invalid(fault) => (StatusCode::UNPROCESSABLE_ENTITY, fault),
        Refused::Broken(fault) => (StatusCode::INTERNAL_SERVER_ERROR, fault),
    };
    tracing::warn!(code = fault.code, "{fault}");
    Reply::fault(status, &fault)
}

fn parse<T: DeserializeOwned>(request: &Request, what: &str) -> Result<T, Reply> {
    serde_json::from_slice(&request.body).map_err(|e| {
        let what = format!("{what} refused");
        let fault = Fault::new("document-malformed", what, e.to_string());
        Reply::fault(StatusCode::UNPROCESSABLE_ENTITY, &fault)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_hostagent_may_call() {
        let peer = |uid| Peer {
            uid,
            gid: 0,
            pid: None,
        };
        let root = || User::from_name("root");
        let nobody = geteuid().as_raw() + 12345;
        assert!(may_call(peer(0), root()));
        assert!(may_call(peer(geteuid().as_raw()), Ok(None)));
        assert!(!may_call(peer(nobody), root()));
        assert!(!may_call(peer(nobody), Ok(None)));
        let mut hostagent = root().expect("lookup").expect("root");
        hostagent.uid = nix::unistd::Uid::from_raw(nobody);
        assert!(may_call(peer(nobody), Ok(Some(hostagent))));
    }
}

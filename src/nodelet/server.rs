//! nodelet's socket: specs and certificates in, status and plan out.
//!
//! | call | answer |
//! |---|---|
//! | `PUT /v1/spec` (an envelope)          | 200 `{"generation": n}`; 403 untrusted, 409 older, 422 invalid |
//! | `PUT /v1/trust`                       | 200 the version; 403, 409, 422 as above |
//! | `PUT /v1/certificates`                | 200 `{"stored": n}`; 409 another cluster, 422 refused |
//! | `PUT /v1/assignment-none` `{"force": true}` (root only) | 200 `{"generation": n}` |
//! | `POST /v1/order` (a nonce)            | 200 a signed order of what is wanted now; 409 when nothing is |
//! | `POST /v1/facts` (a nonce)            | 200 the machine's name and addresses, signed |
//! | `GET /v1/maintenance`, `POST` [`MaintenanceRequest`], `DELETE` (the two for root only) | the maintenance, or null |
//! | `POST /v1/operations` (an envelope)   | 200 how it ended, done or refused; 403 nobody who is trusted signed it |
//! | `POST /v1/wake`                       | 204 |
//! | `GET /v1/status[?after=REV&wait=S]`   | the status, at once or when it is newer than REV |
//! | `GET /metrics`                        | Prometheus text |
//! | `/v1/log-level`                       | how much is logged: see [`local::log_level`] |
//! | `GET /healthz`, `GET /ready`          | 200 while nothing hangs; while the node is as ordered |
//! | `GET /v1/plan`                        | what would be done now |
//! | `…/v1/etcd/restore`, `…/v1/etcd/rejoin` | a restore of etcd: see [`ask`] |
//! | `…/v1/etcd…`                          | the cluster's memory: see [`EtcdHandle`] |
//!
//! Root and hostagent's user may call; the [`door`](crate::local::Door) refuses everybody else.
//! Calls that cause work (documents, a plan) are rate-limited except for root: a compromised
//! hostagent keeps nodelet neither from its steps nor from root.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::unistd::{User, geteuid};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::certs;
use super::engine;
use super::etcd::EtcdHandle;
use super::etcd::restore::ask;
use super::inbox::{Inbox, NotTaken};
use super::job::{Job, LocalSeen, Work};
use super::maintenance;
use super::metrics;
use super::operations::{self, OperationContext};
use super::orders;
use super::trust;
use crate::app::{Bucket, Progress};
use crate::host::Host;
use crate::local::{self, Callers, Head, Method, NOTE_MAX, Peer, Policy, Reply, Request};
use crate::local::{Share, StatusCode};
use crate::model::{
    Because, CertificateBatch, Envelope, Fault, FaultCode, FreshNonce, MaintenanceRequest,
    NodeStatus, PAYLOAD_MAX, TRUST_ANSWER_MAX, TRUST_BUNDLE_MAX, TrustAnswer, document, paths,
};
use crate::telemetry::{METRICS_TYPE, vitals};

/// hostagent's long-poll, its calls, what it keeps idle; and `pf9ctl`, the package's scripts and
/// people with curl as root.
const SHARE: Share = Share {
    all: 16,
    each: 16,
    root: 32,
};
/// An envelope of the largest document, in base64.
const SPEC_MAX: usize = PAYLOAD_MAX / 3 * 4 + NOTE_MAX;
/// All certificates of a master, with their chains, several times over.
const CERTIFICATES_MAX: usize = 1024 * 1024;
/// One document of a few KiB (keys, authorities, the machine's marks) under each signature.
const TRUST_MAX: usize = TRUST_ANSWER_MAX * 2 * TRUST_BUNDLE_MAX;
/// Calls of hostagent that make work: documents come as often as an operator changes something.
const WORK_PER_S: u32 = 2;
/// As many at once: the start of a node, its certificates one by one.
const WORK_BURST: u32 = 30;
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
    /// What the loop works on.
    pub job: watch::Receiver<Job>,
    /// The newest status.
    pub status: watch::Receiver<NodeStatus>,
    /// Wakes the loop.
    pub wake: watch::Sender<u64>,
    /// The keeper of etcd.
    pub etcd: EtcdHandle,
    /// Whether repairs and changes are suspended.
    pub maintenance: maintenance::MaintenanceHandle,
    /// Operations of the plane.
    pub operations: operations::OperationsHandle,
    /// Progress of the loops: which one is late.
    pub progress: Progress,
}

/// The socket that systemd listens on for us, or our own without systemd.
pub fn listener(host: &Host) -> Result<UnixListener, Fault> {
    let fail = |e: std::io::Error| {
        Fault::new(FaultCode::LocalSocket, "cannot listen", e.to_string())
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
    let policy = policy(may_call_now());
    let server = Arc::new(server);
    let stop = shutdown.clone();
    local::serve(listener, policy, shutdown, move |request| {
        let (server, stop) = (Arc::clone(&server), stop.clone());
        async move { server.answer(request, &stop).await }
    })
    .await;
}

/// What the socket lets in: callers, connections, bodies, and how often work is asked for.
pub fn policy(callers: Callers) -> Policy {
    let began = Instant::now();
    let work = Mutex::new(Bucket::new(WORK_PER_S, WORK_BURST));
    Policy {
        callers,
        share: SHARE,
        deadline: CALL_MAX,
        bodies: SPEC_MAX,
        body_bound: Arc::new(move |head| {
            if makes_work(head) && !head.peer.is_root() {
                let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
                work.take(began.elapsed()).map_err(too_often)?;
            }
            Ok(body_max(head))
        }),
    }
}

/// Most bytes a body may have, by its route. What is not named here has nothing to say.
fn body_max(head: &Head<'_>) -> usize {
    match (head.method, head.path) {
        (&Method::PUT, "/v1/spec") => SPEC_MAX,
        (&Method::PUT, "/v1/certificates") => CERTIFICATES_MAX,
        (&Method::PUT, "/v1/trust") => TRUST_MAX,
        _ => NOTE_MAX,
    }
}

/// A document is checked and stored, a plan looks at the whole host; to be woken is another matter,
/// see `engine`.
fn makes_work(head: &Head<'_>) -> bool {
    *head.method == Method::PUT || head.path == "/v1/plan" || head.path == "/v1/operations"
}

fn too_often(wait: Duration) -> Reply {
    let why = format!(
        "this is requested too often; retry in {} ms",
        wait.as_millis()
    );
    let fault = Fault::new(FaultCode::TooOften, "call refused", why);
    Reply::fault(StatusCode::TOO_MANY_REQUESTS, &fault)
}

impl Server {
    async fn answer(&self, request: Request, stop: &CancellationToken) -> Reply {
        match (&request.method, request.path.as_str()) {
            (&Method::PUT, "/v1/spec") => self.put_spec(&request),
            (&Method::PUT, "/v1/trust") => self.put_trust(&request),
            (&Method::PUT, "/v1/certificates") => self.put_certificates(&request),
            (&Method::PUT, "/v1/assignment-none") => self.put_none(&request),
            (&Method::POST, "/v1/order" | "/v1/facts") => self.order(&request),
            (&Method::POST, "/v1/operations") => self.operation(&request).await,
            (_, "/v1/maintenance") => self.maintenance(&request),
            (&Method::POST, "/v1/wake") => {
                self.wake();
                Reply::empty()
            }
            (&Method::GET, "/v1/status") => self.status(&request, stop).await,
            (&Method::GET, "/metrics") => {
                let status = self.status.borrow().clone();
                let mut text = metrics::text(&status, crate::seam::clock::now());
                vitals(&mut text, "pf9-nodeletd", document::AGENT_VERSION);
                Reply::text(StatusCode::OK, METRICS_TYPE, text.into())
            }
            (_, local::LOG_LEVEL) => local::log_level(&request),
            (&Method::GET, "/healthz") => local::healthz(&self.progress.late()),
            (&Method::GET, "/ready") => local::ready(metrics::not_ready(&self.status.borrow())),
            (&Method::GET, "/v1/plan") => {
                // On a copy nothing would be done, whatever the plan.
                if let Some(fault) = trust::held(&self.host.fs) {
                    return Reply::fault(StatusCode::CONFLICT, &fault);
                }
                let orders = self.inbox.orders();
                match engine::dry_run(&self.host, &orders).await {
                    Ok(mut plan) => {
                        plan.api_address = self.status.borrow().api_address.clone();
                        plan.maintenance = self.maintenance.now();
                        Reply::json(StatusCode::OK, &plan)
                    }
                    Err(fault) => Reply::fault(StatusCode::CONFLICT, &fault),
                }
            }
            (_, path) if ask::is_one(path) => self.restore(&request),
            (_, path) if path.starts_with("/v1/etcd") => self.etcd.answer(&request).await,
            _ => Reply::not_found(&request.path),
        }
    }

    /// A restore of etcd: the loop does it.
    fn restore(&self, request: &Request) -> Reply {
        if let Some(fault) = trust::held(&self.host.fs) {
            return Reply::fault(StatusCode::CONFLICT, &fault);
        }
        if request.method != Method::GET
            && let Some(order) = self.maintenance.now()
        {
            return Reply::fault(StatusCode::CONFLICT, &order.fault(None));
        }
        let job = self.job.borrow().clone();
        let (reply, wakes) = ask::answer(&self.host.fs, &job, request, crate::seam::clock::now());
        if wakes {
            self.wake();
        }
        reply
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
            Err(not_taken) => refusal(&not_taken),
        }
    }

    fn put_trust(&self, request: &Request) -> Reply {
        let answer: TrustAnswer = match parse(request, "trust document") {
            Ok(answer) => answer,
            Err(reply) => return reply,
        };
        match trust::put(&self.host.fs, &answer) {
            Ok(version) => {
                // What was refused or held before may be otherwise now.
                self.wake();
                Reply::json(StatusCode::OK, &version)
            }
            Err(not_taken) => refusal(&not_taken),
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
        let job = self.job.borrow().clone();
        let Some(Work { role, node, .. }) = job.work() else {
            let fault = Fault::new(
                FaultCode::CertificateForeign,
                "certificates refused",
                "this host has no role",
            );
            return Reply::fault(StatusCode::CONFLICT, &fault);
        };
        let result = certs::accept(
            &self.host.fs,
            *role,
            node,
            &batch,
            crate::seam::clock::now(),
        );
        // Some may have been good.
        self.wake();
        match result {
            Ok(stored) => {
                tracing::info!(stored, "certificates accepted");
                Reply::json(StatusCode::OK, &json!({"stored": stored}))
            }
            Err(fault) => {
                tracing::warn!(code = fault.code.word(), "{fault}");
                let status = if fault.code == FaultCode::CertificateForeign {
                    StatusCode::CONFLICT
                } else {
                    StatusCode::UNPROCESSABLE_ENTITY
                };
                Reply::fault(status, &fault)
            }
        }
    }

    /// A document signed by root, for any carrier. The nonce is all that a caller chooses.
    fn order(&self, request: &Request) -> Reply {
        // A copy orders nothing in the original's name.
        if let Some(fault) = trust::held(&self.host.fs) {
            return Reply::fault(StatusCode::CONFLICT, &fault);
        }
        let nonce = match parse::<FreshNonce>(request, "order") {
            Ok(fresh) => fresh.nonce,
            Err(reply) => return reply,
        };
        let signed = match request.path.as_str() {
            "/v1/facts" => orders::facts(&self.host.fs, nonce),
            _ => orders::order(
                &self.host,
                self.job.borrow().clone().work(),
                &self.status.borrow().clone(),
                nonce,
            ),
        };
        match signed {
            Ok(envelope) => Reply::json(StatusCode::OK, &envelope),
            Err(fault) => {
                tracing::warn!(code = fault.code.word(), "{fault}");
                Reply::fault(StatusCode::CONFLICT, &fault)
            }
        }
    }

    async fn operation(&self, request: &Request) -> Reply {
        let envelope: Envelope = match parse(request, "operation") {
            Ok(envelope) => envelope,
            Err(reply) => return reply,
        };
        let hands = OperationContext {
            host: &self.host,
            inbox: &self.inbox,
            job: self.job.borrow().clone(),
            etcd: &self.etcd,
            desk: &self.maintenance,
            wake: &self.wake,
        };
        match self.operations.take(&envelope, &hands).await {
            Ok(result) => Reply::json(StatusCode::OK, &result),
            Err(fault) => {
                tracing::warn!(code = fault.code.word(), "{fault}");
                Reply::fault(StatusCode::FORBIDDEN, &fault)
            }
        }
    }

    /// Root begins and ends it; everybody who may call may look.
    fn maintenance(&self, request: &Request) -> Reply {
        let desk = &self.maintenance;
        let what = match request.method {
            Method::POST => "maintenance is not started",
            Method::DELETE => "maintenance is not ended",
            Method::GET => return Reply::json(StatusCode::OK, &desk.now()),
            _ => return Reply::not_found(&request.path),
        };
        if !is_root(request.peer) {
            let fault = Fault::new(
                FaultCode::NotAllowed,
                what,
                "only root of this host may order it",
            );
            return Reply::fault(StatusCode::FORBIDDEN, &fault);
        }
        if request.method == Method::DELETE {
            return match desk.end() {
                Ok(was) => Reply::json(StatusCode::OK, &was),
                Err(fault) => Reply::fault(StatusCode::INTERNAL_SERVER_ERROR, &fault),
            };
        }
        if self.inbox.orders().local != LocalSeen::No && self.status.borrow().installed.is_some() {
            let why = "root ordered the removal of the role, and it runs to its end";
            let fault = Fault::new(FaultCode::MaintenanceInvalid, what, why);
            return Reply::fault(
                StatusCode::CONFLICT,
                &fault.fix("pf9ctl status shows how far it is"),
            );
        }
        let wanted: MaintenanceRequest = match parse(request, "maintenance") {
            Ok(wanted) => wanted,
            Err(reply) => return reply,
        };
        match desk.begin(&wanted) {
            Ok(status) => Reply::json(StatusCode::OK, &status),
            Err(fault) if fault.code == FaultCode::MaintenanceInvalid => {
                Reply::fault(StatusCode::UNPROCESSABLE_ENTITY, &fault)
            }
            Err(fault) => Reply::fault(StatusCode::INTERNAL_SERVER_ERROR, &fault),
        }
    }

    fn put_none(&self, request: &Request) -> Reply {
        if !is_root(request.peer) {
            let fault = Fault::new(
                FaultCode::NotAllowed,
                "the role stays",
                "only root may remove it without the plane",
            );
            return Reply::fault(StatusCode::FORBIDDEN, &fault);
        }
        let force = match parse::<TakeAway>(request, "order") {
            Ok(order) => order.force,
            Err(reply) => return reply,
        };
        match self.inbox.put_none(force) {
            Ok(generation) => {
                tracing::warn!(force, "root removes the role");
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

/// Root and hostagent's user, which is looked up until it is found: users are made by the package.
fn may_call_now() -> Callers {
    let hostagent = OnceLock::new();
    Callers::Only(Arc::new(move |peer| {
        if hostagent.get().is_none()
            && let Ok(Some(user)) = User::from_name(paths::USER_HOSTAGENT)
        {
            hostagent.get_or_init(|| user.uid.as_raw());
        }
        may_call(peer, hostagent.get().copied())
    }))
}

/// Root, hostagent's user, or the user of this process.
fn may_call(peer: Peer, hostagent: Option<u32>) -> bool {
    peer.is_root() || peer.uid == geteuid().as_raw() || Some(peer.uid) == hostagent
}

/// Root, or the user of this process.
fn is_root(peer: Peer) -> bool {
    peer.is_root() || peer.uid == geteuid().as_raw()
}

fn refusal(not_taken: &NotTaken) -> Reply {
    let status = match not_taken {
        NotTaken::Refused(refusal) => match refusal.because {
            Because::Untrusted | Because::Damaged => StatusCode::FORBIDDEN,
            Because::NotNewer => StatusCode::CONFLICT,
            Because::NotUnderstood => StatusCode::UNPROCESSABLE_ENTITY,
        },
        NotTaken::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let fault = not_taken.fault();
    tracing::warn!(code = fault.code.word(), "{fault}");
    Reply::fault(status, fault)
}

/// Root's order.
#[derive(Deserialize)]
struct TakeAway {
    /// Whatever others lose by it.
    #[serde(default)]
    force: bool,
}

fn parse<T: DeserializeOwned>(request: &Request, what: &str) -> Result<T, Reply> {
    document::read(&request.body).map_err(|e| {
        let what = format!("{what} refused");
        let fault = Fault::new(FaultCode::DocumentMalformed, what, e.to_string());
        Reply::fault(StatusCode::UNPROCESSABLE_ENTITY, &fault)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32) -> Peer {
        Peer {
            uid,
            gid: 0,
            pid: None,
        }
    }

    #[test]
    fn only_root_and_hostagent_may_call() {
        let nobody = geteuid().as_raw() + 12345;
        assert!(may_call(peer(0), None));
        assert!(may_call(peer(geteuid().as_raw()), None));
        assert!(!may_call(peer(nobody), Some(nobody + 1)));
        assert!(!may_call(peer(nobody), None));
        assert!(may_call(peer(nobody), Some(nobody)));
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_limited_for_all_but_root_and_bodies_by_their_route() {
        let policy = policy(Callers::ByMode);
        let ask = |method: &Method, path: &str, uid| {
            let peer = peer(uid);
            (policy.body_bound)(&Head { method, path, peer }).map_err(|r| r.status())
        };
        let often = Err(StatusCode::TOO_MANY_REQUESTS);
        for _ in 0..WORK_BURST {
            assert_eq!(ask(&Method::PUT, "/v1/spec", 7), Ok(SPEC_MAX));
        }
        assert_eq!(ask(&Method::PUT, "/v1/certificates", 7), often);
        assert_eq!(ask(&Method::GET, "/v1/plan", 7), often);
        assert_eq!(ask(&Method::GET, "/v1/plan", 0), Ok(NOTE_MAX));
        assert_eq!(ask(&Method::PUT, "/v1/spec", 0), Ok(SPEC_MAX));
        assert_eq!(ask(&Method::POST, "/v1/wake", 7), Ok(NOTE_MAX));
        assert_eq!(ask(&Method::GET, "/v1/status", 7), Ok(NOTE_MAX));
        tokio::time::advance(Duration::from_secs(1)).await;
        let again = ask(&Method::PUT, "/v1/certificates", 7);
        assert_eq!(again, Ok(CERTIFICATES_MAX));
    }
}

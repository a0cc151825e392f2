//! A nodelet that takes specs and says what the test wants.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pf9_hostagent::local::{self, Callers, Method, Reply, Request, StatusCode};
use pf9_hostagent::model::{
    CertificateBatch, Envelope, Fault, Generation, NodeState, NodeStatus, Role,
};
use pf9_hostagent::nodelet::server;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::within;

pub(crate) struct NodeSide {
    pub(crate) calls: u64,
    pub(crate) specs: Vec<Envelope>,
    pub(crate) batches: Vec<CertificateBatch>,
    pub(crate) wakes: u64,
    pub(crate) refuse: bool,
    status: NodeStatus,
}

pub(crate) struct FakeNode {
    side: Arc<watch::Sender<NodeSide>>,
    _stop: DropGuard,
}

impl FakeNode {
    pub(crate) fn start(socket: &Path) -> Self {
        let side = Arc::new(watch::Sender::new(NodeSide {
            calls: 0,
            specs: Vec::new(),
            batches: Vec::new(),
            wakes: 0,
            refuse: false,
            status: idle(),
        }));
        let stop = CancellationToken::new();
        let listener = local::bind(socket, 0o600).expect("bind");
        let handler = {
            let side = Arc::clone(&side);
            move |request| answer(Arc::clone(&side), request)
        };
        tokio::spawn(local::serve(
            listener,
            server::policy(Callers::ByMode),
            stop.clone(),
            handler,
        ));
        Self {
            side,
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut NodeSide)) {
        self.side.send_modify(change);
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&NodeSide) -> T) -> T {
        look(&self.side.borrow())
    }

    /// Changes its status; whoever polls hears of it.
    pub(crate) fn say(&self, change: impl FnOnce(&mut NodeStatus)) {
        self.side.send_modify(|side| {
            change(&mut side.status);
            side.status.revision += 1;
        });
    }

    /// As after a loss of its state.
    pub(crate) fn forget(&self) {
        self.side.send_modify(|side| {
            side.specs.clear();
            side.status = idle();
        });
    }

    pub(crate) async fn until<T>(&self, mut look: impl FnMut(&NodeSide) -> Option<T>) -> T {
        let mut watch = self.side.subscribe();
        within(async {
            loop {
                if let Some(found) = look(&watch.borrow_and_update()) {
                    return found;
                }
                watch.changed().await.expect("the node is there");
            }
        })
        .await
    }
}

async fn answer(side: Arc<watch::Sender<NodeSide>>, request: Request) -> Reply {
    side.send_modify(|s| s.calls += 1);
    match (request.method, request.path.as_str()) {
        (Method::PUT, "/v1/spec") => {
            if side.borrow().refuse {
                let fault = Fault::new("document-untrusted", "spec refused", "nodelet said so");
                return Reply::fault(StatusCode::FORBIDDEN, &fault);
            }
            let envelope: Envelope = serde_json::from_slice(&request.body).expect("envelope");
            side.send_modify(|s| s.specs.push(envelope));
            Reply::json(StatusCode::OK, &serde_json::json!({"generation": 0}))
        }
        (Method::PUT, "/v1/certificates") => {
            let batch = serde_json::from_slice(&request.body).expect("batch");
            side.send_modify(|s| s.batches.push(batch));
            Reply::empty()
        }
        (Method::POST, "/v1/wake") => {
            side.send_modify(|s| s.wakes += 1);
            Reply::empty()
        }
        (Method::GET, "/v1/status") => {
            let number = |key: &str| request.query.get(key).and_then(|v| v.parse::<u64>().ok());
            let mut watch = side.subscribe();
            if let (Some(after), Some(wait)) = (number("after"), number("wait")) {
                let newer = watch.wait_for(|s| s.status.revision != after);
                // The end of the wait is an answer, too.
                drop(tokio::time::timeout(Duration::from_secs(wait), newer).await);
            }
            let status = side.borrow().status.clone();
            Reply::json(StatusCode::OK, &status)
        }
        (_, path) => Reply::not_found(path),
    }
}

fn idle() -> NodeStatus {
    NodeStatus {
        schema: 1,
        revision: 1,
        generation: Generation(0),
        role: Role::None,
        cluster_id: None,
        installed: None,
        wants_spec: false,
        state: NodeState::Ok,
        reason: None,
        attempts: 0,
        phases: Vec::new(),
        current_step: None,
        last_sweep_at: None,
        stack: None,
        wants_stack: None,
        certificate_requests: Vec::new(),
        service_account_key: None,
        certificates: Vec::new(),
    }
}

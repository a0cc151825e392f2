//! A nodelet that accepts specs and reports what the test wants.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::host::interfaces::node_facts;
use pf9_hostagent::identity::order_key::{self, OrderKey};
use pf9_hostagent::local::{self, Callers, Method, Reply, Request, StatusCode};
use pf9_hostagent::model::{
    CertificateBatch, CertificateOrder, DocumentKind, Envelope, FactsReport, Fault, FaultCode,
    FreshNonce, HostId, NodeState, NodeStatus, Nonce, Operation, OperationResult, Outcome,
    Timestamp, paths,
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
    /// Signed orders and facts.
    pub(crate) signed: Vec<Envelope>,
    pub(crate) refuse: bool,
    /// Received operations.
    pub(crate) operations: Vec<Envelope>,
    status: NodeStatus,
}

pub(crate) struct FakeNode {
    side: Arc<watch::Sender<NodeSide>>,
    _stop: DropGuard,
}

impl FakeNode {
    /// On the socket of this host, with its order key.
    pub(crate) fn start(fs: &HostFs, host: HostId) -> Self {
        let root = order_key::ensure(fs, host).expect("order key").0;
        let root = Arc::new(Root {
            key: root,
            host,
            fs: fs.clone(),
        });
        let side = Arc::new(watch::Sender::new(NodeSide {
            calls: 0,
            specs: Vec::new(),
            batches: Vec::new(),
            wakes: 0,
            signed: Vec::new(),
            refuse: false,
            operations: Vec::new(),
            status: idle(),
        }));
        let stop = CancellationToken::new();
        let listener = local::bind(&fs.at(paths::NODELET_SOCKET), 0o600).expect("bind");
        let handler = {
            let side = Arc::clone(&side);
            move |request| answer(Arc::clone(&side), Arc::clone(&root), request)
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

    /// Changes its status; a waiting poll returns it.
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

/// Root's signing key, and what it signs.
struct Root {
    key: OrderKey,
    host: HostId,
    fs: HostFs,
}

impl Root {
    fn order(&self, status: &NodeStatus, nonce: Nonce) -> Envelope {
        let order = CertificateOrder {
            schema: 1,
            host_id: self.host,
            cluster_id: status.cluster_id.expect("a cluster"),
            generation: status.generation,
            nonce,
            requests: status.certificate_requests.clone(),
            service_account_key: status.service_account_key.clone(),
        };
        self.key.sign(DocumentKind::Order, &order).expect("sign")
    }

    fn facts(&self, nonce: Nonce) -> Envelope {
        let report = FactsReport {
            schema: 1,
            host_id: self.host,
            nonce,
            facts: node_facts(&self.fs).expect("facts"),
        };
        self.key.sign(DocumentKind::Facts, &report).expect("sign")
    }
}

async fn answer(side: Arc<watch::Sender<NodeSide>>, root: Arc<Root>, request: Request) -> Reply {
    side.send_modify(|s| s.calls += 1);
    match (request.method, request.path.as_str()) {
        (Method::PUT, "/v1/spec") => {
            if side.borrow().refuse {
                let fault = Fault::new(
                    FaultCode::DocumentUntrusted,
                    "spec refused",
                    "nodelet said so",
                );
                return Reply::fault(StatusCode::FORBIDDEN, &fault);
            }
            let envelope: Envelope = serde_json::from_slice(&request.body).expect("envelope");
            side.send_modify(|s| s.specs.push(envelope));
            Reply::json(StatusCode::OK, &serde_json::json!({"generation": 0}))
        }
        (Method::PUT, "/v1/certificates") => {
            if side.borrow().refuse {
                let fault = Fault::new(FaultCode::StateIo, "not written", "nodelet said so");
                return Reply::fault(StatusCode::INTERNAL_SERVER_ERROR, &fault);
            }
            let batch = serde_json::from_slice(&request.body).expect("batch");
            side.send_modify(|s| s.batches.push(batch));
            Reply::empty()
        }
        (Method::POST, path @ ("/v1/order" | "/v1/facts")) => {
            let fresh: FreshNonce = serde_json::from_slice(&request.body).expect("nonce");
            let signed = match path {
                "/v1/order" => root.order(&side.borrow().status, fresh.nonce),
                _ => root.facts(fresh.nonce),
            };
            side.send_modify(|s| s.signed.push(signed.clone()));
            Reply::json(StatusCode::OK, &signed)
        }
        (Method::POST, "/v1/operations") => {
            let envelope: Envelope = serde_json::from_slice(&request.body).expect("envelope");
            side.send_modify(|s| s.operations.push(envelope.clone()));
            if side.borrow().refuse {
                let fault = Fault::new(
                    FaultCode::DocumentUntrusted,
                    "operation refused",
                    "nodelet said so",
                );
                return Reply::fault(StatusCode::FORBIDDEN, &fault);
            }
            let payload = base64::engine::general_purpose::STANDARD
                .decode(&envelope.payload)
                .expect("base64");
            let operation: Operation = serde_json::from_slice(&payload).expect("operation");
            let result = OperationResult {
                schema: 1,
                id: operation.id,
                at: Timestamp::UNIX_EPOCH,
                outcome: Outcome::done("nodelet did it"),
            };
            Reply::json(StatusCode::OK, &result)
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
        revision: 1,
        state: NodeState::Ok,
        ..NodeStatus::default()
    }
}

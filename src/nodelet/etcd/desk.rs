//! Where the socket leaves root's orders for the keeper, and shows what the keeper knows.
//!
//! | call | answer |
//! |---|---|
//! | `GET /v1/etcd`                     | [`EtcdView`]: the member, and every backup |
//! | `POST /v1/etcd/drill` (root only)  | the same, of a fire drill ([`DrillOrder`]) |
//! | `POST /v1/etcd/backup` (root only) | 200 when it is made, 202 and the view when that takes longer |
//! | `POST /v1/etcd/archive` (root only) | the same: what the archive has |
//! | `POST /v1/etcd/defrag` (root only) | the same: this member's database is defragmented |
//! | `POST /v1/etcd/alarm` (root only)  | the same: what is due about a full database is done |
//!
//! Orders wait in a queue of a few places; the keeper does one chore at a time.

use std::time::Duration;

use nix::unistd::geteuid;
use tokio::sync::{mpsc, oneshot, watch};

use crate::local::{Method, Reply, Request, StatusCode};
use crate::model::{ChoreAnswer, DrillOrder, EtcdView, Fault, FaultCode};

/// Orders that wait: root's and a script's. Later ones are refused.
const ORDERS_MAX: usize = 4;
/// Longest a caller waits for what was ordered: less than any call may take.
const ANSWER_WAIT: Duration = Duration::from_secs(120);

/// What root may order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// A backup, now.
    Backup,
    /// A fire drill, now.
    Drill {
        /// A file with a private key, for this one.
        recovery_key: Option<String>,
    },
    /// What the archive has.
    List,
    /// Return the unused space of this member's file, now.
    Defragment,
    /// What is due about a full database, without waiting.
    Heal,
}

/// An order, and who waits for it.
pub(super) struct Ordered {
    pub(super) order: Order,
    /// The asker may be gone.
    pub(super) answer: oneshot::Sender<Result<ChoreAnswer, Fault>>,
}

/// The socket's side.
pub struct EtcdHandle {
    orders: mpsc::Sender<Ordered>,
    view: watch::Receiver<EtcdView>,
}

/// The keeper's side.
pub struct Inside {
    pub(super) orders: mpsc::Receiver<Ordered>,
    pub(super) view: watch::Sender<EtcdView>,
}

/// A desk with its two sides.
pub fn desk() -> (EtcdHandle, Inside) {
    let (to, orders) = mpsc::channel(ORDERS_MAX);
    let (view, seen) = watch::channel(EtcdView::default());
    let outside = EtcdHandle {
        orders: to,
        view: seen,
    };
    (outside, Inside { orders, view })
}

impl EtcdHandle {
    /// Answers a call below `/v1/etcd`.
    pub async fn answer(&self, request: &Request) -> Reply {
        let order = match (&request.method, request.path.as_str()) {
            (&Method::GET, "/v1/etcd") => return self.view(StatusCode::OK),
            (&Method::POST, "/v1/etcd/backup") => Order::Backup,
            (&Method::POST, "/v1/etcd/drill") => match drill(request) {
                Ok(order) => order,
                Err(fault) => return Reply::fault(StatusCode::BAD_REQUEST, &fault),
            },
            (&Method::POST, "/v1/etcd/archive") => Order::List,
            (&Method::POST, "/v1/etcd/defrag") => Order::Defragment,
            (&Method::POST, "/v1/etcd/alarm") => Order::Heal,
            _ => return Reply::not_found(&request.path),
        };
        let uid = request.peer.uid;
        if uid != 0 && uid != geteuid().as_raw() {
            let fault = Fault::new(FaultCode::NotAllowed, NOT_DONE, "only root may order it");
            return Reply::fault(StatusCode::FORBIDDEN, &fault);
        }
        self.ordered(order).await
    }

    /// A backup, by an operation of the plane that root allows: how it went, as text.
    pub async fn back_up(&self) -> (StatusCode, String) {
        match self.done(Order::Backup).await {
            Ok(Some(answer)) => (StatusCode::OK, answer.done),
            Ok(None) => (StatusCode::ACCEPTED, String::new()),
            Err((status, fault)) => (status, fault.to_string()),
        }
    }

    async fn ordered(&self, order: Order) -> Reply {
        match self.done(order).await {
            Ok(Some(answer)) => Reply::json(StatusCode::OK, &answer),
            Ok(None) => self.view(StatusCode::ACCEPTED),
            Err((status, fault)) => Reply::fault(status, &fault),
        }
    }

    /// None: it takes longer than anybody waits.
    async fn done(&self, order: Order) -> Result<Option<ChoreAnswer>, (StatusCode, Fault)> {
        let (answer, done) = oneshot::channel();
        if self.orders.try_send(Ordered { order, answer }).is_err() {
            let why = "other orders are queued, or the agent is stopping";
            let fault = Fault::new(FaultCode::Busy, NOT_DONE, why)
                .fix("pf9ctl etcd status shows what is under way");
            return Err((StatusCode::TOO_MANY_REQUESTS, fault));
        }
        match tokio::time::timeout(ANSWER_WAIT, done).await {
            Ok(Ok(Ok(answer))) => Ok(Some(answer)),
            Ok(Ok(Err(fault))) => Err((StatusCode::CONFLICT, fault)),
            Ok(Err(_)) => {
                let fault = Fault::new(FaultCode::Interrupted, NOT_DONE, "the agent is stopping");
                Err((StatusCode::SERVICE_UNAVAILABLE, fault))
            }
            Err(_) => Ok(None),
        }
    }

    fn view(&self, status: StatusCode) -> Reply {
        Reply::json(status, &*self.view.borrow())
    }
}

fn drill(request: &Request) -> Result<Order, Fault> {
    let malformed = |why: String| Fault::new(FaultCode::BodyMalformed, NOT_DONE, why);
    let asked: DrillOrder =
        serde_json::from_slice(&request.body).map_err(|e| malformed(e.to_string()))?;
    let file = asked.recovery_key;
    if file.as_ref().is_some_and(|f| !f.starts_with('/')) {
        return Err(malformed("recovery_key is not an absolute path".to_owned()));
    }
    Ok(Order::Drill { recovery_key: file })
}

/// What every refusal here begins with.
pub(super) const NOT_DONE: &str = "no etcd task was started";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::local::Peer;

    fn call(method: Method, path: &str, uid: u32) -> Request {
        Request {
            method,
            path: path.into(),
            query: BTreeMap::new(),
            body: Default::default(),
            peer: Peer {
                uid,
                gid: 0,
                pid: None,
            },
        }
    }

    #[tokio::test]
    async fn only_root_orders_and_everybody_let_in_may_look() {
        let (desk, mut inside) = desk();
        let other = geteuid().as_raw() + 12345;
        let look = desk.answer(&call(Method::GET, "/v1/etcd", other)).await;
        assert_eq!(look.status(), StatusCode::OK);
        let order = call(Method::POST, "/v1/etcd/backup", other);
        assert_eq!(desk.answer(&order).await.status(), StatusCode::FORBIDDEN);
        assert!(
            inside.orders.try_recv().is_err(),
            "the operation is not ordered"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_longer_is_told_how_far_it_is_and_the_queue_is_short() {
        let (desk, mut inside) = desk();
        let order = call(Method::POST, "/v1/etcd/backup", 0);
        let late = desk.answer(&order).await;
        assert_eq!(late.status(), StatusCode::ACCEPTED);
        for _ in 1..ORDERS_MAX {
            assert_eq!(desk.answer(&order).await.status(), StatusCode::ACCEPTED);
        }
        assert_eq!(
            desk.answer(&order).await.status(),
            StatusCode::TOO_MANY_REQUESTS
        );
        inside.orders.try_recv().expect("the first");
        let (answered, ()) = tokio::join!(desk.answer(&order), async {
            let mut newest = None;
            while let Ok(Some(next)) =
                tokio::time::timeout(Duration::from_secs(1), inside.orders.recv()).await
            {
                newest = Some(next);
            }
            let done = ChoreAnswer {
                done: "x".into(),
                backup: None,
                archived: Vec::new(),
            };
            newest
                .expect("an order")
                .answer
                .send(Ok(done))
                .expect("the caller waits");
        });
        assert_eq!(answered.status(), StatusCode::OK);
    }
}

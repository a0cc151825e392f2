//! Maintenance, operations and events, through the running plane and over its restart.

use http::Method;
use pf9_hostagent::model::{DocumentKind, Operation, OperationKind, PendingOperations, TrustStore};
use serde_json::{Value, json};

use super::bed::{Bed, within};
use super::node::Node;

const OPERATIONS: &str = "/v1/hosts/self/operations";

#[tokio::test]
async fn a_maintenance_is_in_the_signed_spec_until_it_ends() {
    let bed = Bed::new().await;
    let node = bed.host("a", "10.1.0.1").await;
    let before = node.current().await;
    assert_eq!(before.maintenance, None);
    let path = format!("/resmgr/v1/hosts/{}/maintenance", node.id);
    let (status, said) = bed
        .ask(
            Method::POST,
            &path,
            json!({"for_s": u32::MAX, "reason": "x"}),
        )
        .await;
    assert_eq!(
        (status, &said["fault"]["code"]),
        (400, &json!("maintenance-invalid")),
        "{said}"
    );
    let wanted = json!({"for_s": 7200, "reason": "a disk is replaced"});
    let said = bed.post(&path, wanted).await;
    assert_eq!(said["maintenance"]["reason"], "a disk is replaced");
    let spec = node.current().await;
    let order = spec.maintenance.clone().expect("it is ordered");
    assert_eq!((order.for_s, &*order.reason), (7200, "a disk is replaced"));
    assert!(spec.generation > before.generation);
    let hosts = bed.get("/resmgr/v1/hosts").await;
    assert_eq!(
        hosts[0]["pf9"]["maintenance"]["reason"],
        "a disk is replaced"
    );
    let (status, said) = bed.ask(Method::DELETE, &path, Value::Null).await;
    assert_eq!((status, &said["ended"]), (200, &json!(true)), "{said}");
    assert_eq!(node.current().await.maintenance, None);
    // Through the administrator's socket as well.
    let admin = format!("/hosts/{}/maintenance", node.id);
    let (status, said) = bed.admin(&admin, json!({"for_s": 60, "reason": "y"})).await;
    assert_eq!(status, 200, "{said}");
    let (status, said) = bed.ask_admin(Method::DELETE, &admin).await;
    assert_eq!((status, &said["ended"]), (200, &json!(true)), "{said}");
}

async fn pending(node: &Node, wait: u64) -> Vec<Operation> {
    let path = format!("{OPERATIONS}?wait={wait}");
    let (status, said) = within(node.call(Method::GET, &path, &Value::Null)).await;
    if status == 204 {
        return Vec::new();
    }
    assert_eq!(status, 200, "{said}");
    let trust = node.answer.as_ref().expect("enrolled").trust.clone();
    let trust = TrustStore::new(trust).expect("trust");
    let pending: PendingOperations = serde_json::from_value(said).expect("document");
    let open = |p: &pf9_hostagent::model::PendingOperation| {
        p.envelope
            .open::<Operation>(DocumentKind::Operation, &trust)
            .expect("signed by the plane")
    };
    pending.operations.iter().map(open).collect()
}

#[tokio::test]
async fn an_operation_is_sent_until_it_is_answered_and_its_result_is_kept() {
    let bed = Bed::new().await;
    let node = bed.host("a", "10.1.0.1").await;
    let other = bed.host("b", "10.1.0.2").await;
    let path = format!("/resmgr/v1/hosts/{}/operations", node.id);
    for wrong in [
        json!({"what": {"do": "shell", "command": "id"}}),
        json!({"what": {"do": "restart", "unit": "etcd"}}),
        json!({"what": {"do": "ping"}, "life_s": 86_400}),
    ] {
        let (status, said) = bed.ask(Method::POST, &path, wrong).await;
        assert!((400..500).contains(&status), "{status} {said}");
    }
    // It polls, and is woken.
    let (waited, ordered) = tokio::join!(
        pending(&node, 30),
        bed.ask(Method::POST, &path, json!({"what": {"do": "ping"}}))
    );
    assert_eq!(ordered.0, 202, "{}", ordered.1);
    let [operation] = &waited[..] else {
        panic!("{waited:?}");
    };
    assert_eq!(
        (operation.host_id, &operation.what),
        (node.id, &OperationKind::Ping)
    );
    assert_eq!(pending(&node, 0).await, waited, "nothing was answered");
    assert_eq!(pending(&other, 0).await, [], "it is for one host");
    let result = json!({"schema": 1, "id": operation.id, "at": "2026-01-01T00:00:00Z",
                        "outcome": {"is": "done", "said": "nodelet answers"}});
    let (status, said) = other.call(Method::POST, OPERATIONS, &result).await;
    assert_eq!(status, 404, "another host's: {said}");
    // Sent twice: the answer was lost.
    for _ in 0..2 {
        let (status, said) = node.call(Method::POST, OPERATIONS, &result).await;
        assert_eq!(status, 204, "{said}");
    }
    assert_eq!(pending(&node, 0).await, []);
    let bed = bed.restart().await;
    let kept = bed.get(&path).await;
    assert_eq!(kept[0]["said"], "done: nodelet answers");
    let events = bed
        .get(&format!("/resmgr/v1/hosts/{}/events", node.id))
        .await;
    let kinds: Vec<_> = events
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|e| e["event"]["kind"].as_str())
        .collect();
    assert_eq!(kinds, ["operation-ordered", "operation-done"]);
}

#[tokio::test]
async fn events_are_there_once_and_in_order_when_the_plane_was_stopped_in_between() {
    let bed = Bed::new().await;
    let mut node = bed.host("a", "10.1.0.1").await;
    let spool = uuid::Uuid::from_u128(1);
    let event = |n: u64| {
        json!({"id": format!("event-{n}"), "seq": n, "at": "2026-01-01T00:00:00Z", "kind": "state",
               "message": format!("event {n}")})
    };
    let batch = |numbers: &[u64]| {
        let events: Vec<Value> = numbers.iter().map(|n| event(*n)).collect();
        json!({"spool": spool, "events": events})
    };
    let path = "/v1/hosts/self/events";
    assert_eq!(node.call(Method::POST, path, &batch(&[1, 2])).await.0, 204);
    let bed = bed.restart().await;
    node.connect(&bed).await.expect("it comes back");
    // The answer was lost with the plane; and three events were dropped meanwhile.
    assert_eq!(
        node.call(Method::POST, path, &batch(&[2, 3, 7])).await.0,
        204
    );
    assert_eq!(node.call(Method::POST, path, &batch(&[7, 8])).await.0, 204);
    let kept = bed
        .get(&format!("/resmgr/v1/hosts/{}/events", node.id))
        .await;
    let said: Vec<_> = kept
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|e| e["event"]["message"].as_str())
        .collect();
    let lost = "3 events of this host are lost: its spool was full, or a file of it damaged";
    assert_eq!(
        said,
        ["event 1", "event 2", "event 3", lost, "event 7", "event 8"]
    );
}

//! This plane with agents of the previous and the next version: their reports are accepted, in the recorded shapes.

use http::Method;
use serde_json::{Value, json};

use super::bed::Bed;
use super::node::Node;
use crate::support::newer::newer;

/// Everything an agent of this version can report, as recorded.
const STATUS: &str = include_str!("../../../src/model/golden/shapes/status.json");
const EVENTS: &str = include_str!("../../../src/model/golden/shapes/events.json");
/// Fields that every agent ever released reports. Later ones must not be required: another name here is a flag day for
/// a fleet.
const DEMANDED: [&str; 11] = [
    "accepted_generation",
    "agent_version",
    "boot_id",
    "health",
    "host_id",
    "inventory",
    "observed_generation",
    "schema",
    "sent_at",
    "state",
    "uptime_s",
];

fn status_of(node: &Node) -> Value {
    let mut status: Value = serde_json::from_str(STATUS).expect("json");
    status["host_id"] = json!(node.id);
    // A host in no cluster.
    status["node"] = Value::Null;
    status
}

async fn says(node: &Node, status: &Value) -> (u16, Value) {
    node.call(Method::POST, "/v1/hosts/self/status", status)
        .await
}

/// One that does not report this version's fields yet.
#[tokio::test]
async fn fields_missing_from_an_older_agent_are_optional() {
    let bed = Bed::new().await;
    let node = bed.host("a", "10.1.0.1").await;
    let whole = status_of(&node);
    let (code, said) = says(&node, &whole).await;
    assert!(code < 300, "{code} {said}");
    let names = whole.as_object().expect("an object").keys();
    let mut demanded = Vec::new();
    for name in names {
        let mut older = whole.clone();
        older.as_object_mut().expect("an object").remove(name);
        if says(&node, &older).await.0 >= 300 {
            demanded.push(name.as_str());
        }
    }
    assert_eq!(demanded, DEMANDED);
    // All at once, and the plane shows its state and keeps sending its spec.
    let mut oldest = whole;
    let fields = oldest.as_object_mut().expect("an object");
    fields.retain(|name, _| DEMANDED.contains(&name.as_str()));
    fields.insert("agent_version".into(), json!("0.0.9"));
    let (code, said) = says(&node, &oldest).await;
    assert!(code < 300, "{code} {said}");
    let shown = bed.get(&format!("/resmgr/v1/hosts/{}", node.id)).await;
    assert_eq!(shown["pf9"]["agent_version"], "0.0.9", "{shown}");
    node.current().await;
}

/// One with fields that this version does not know.
#[tokio::test]
async fn unknown_fields_of_a_newer_agent_are_ignored() {
    let bed = Bed::new().await;
    let node = bed.host("a", "10.1.0.1").await;
    let mut status = newer(status_of(&node));
    status["agent_version"] = json!("0.2.0");
    status["agent"]["version"] = json!("0.2.0");
    let (code, said) = says(&node, &status).await;
    assert!(code < 300, "{code} {said}");
    let events = newer(serde_json::from_str(EVENTS).expect("json"));
    let path = "/v1/hosts/self/events";
    let (code, said) = node.call(Method::POST, path, &events).await;
    assert!(code < 300, "{code} {said}");
    let shown = bed.get(&format!("/resmgr/v1/hosts/{}", node.id)).await;
    assert_eq!(shown["pf9"]["agent_version"], "0.2.0", "{shown}");
    let kept = bed
        .get(&format!("/resmgr/v1/hosts/{}/events", node.id))
        .await;
    assert!(!kept.as_array().expect("events").is_empty(), "{kept}");
    // Unknown words of a closed list are refused, with a message, and nothing stored before is lost.
    status["state"] = json!("pondering");
    let (code, said) = says(&node, &status).await;
    assert_eq!(code, 400, "{said}");
    assert!(said.to_string().contains("pondering"), "{said}");
}

//! Two machines with one identity, as the plane sees them.

use http::HeaderMap;
use serde_json::Value;

use super::bed::Bed;
use super::node::Node;

fn boot(id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("pf9-boot", id.parse().expect("value"));
    headers
}

async fn copy_of(bed: &Bed, node: &Node) -> Value {
    let host = bed.get(&format!("/resmgr/v1/hosts/{}", node.id)).await;
    host["pf9"]["copy"].clone()
}

#[tokio::test]
async fn a_rebooted_machine_replaces_only_a_dead_session() {
    let bed = Bed::new().await;
    let mut node = bed.host("a", "10.0.0.1").await;
    node.headers = boot("first");
    node.connect(&bed).await.expect("connected");
    let mut clone = node.twin();
    clone.headers = boot("second");
    assert_eq!(clone.connect(&bed).await, Err(403));
    assert_eq!(
        copy_of(&bed, &node).await["fault"]["code"],
        "identity-copied"
    );
    assert_eq!(copy_of(&bed, &node).await["boot_id"], "second");
    let (status, body) = node.report("a", "10.0.0.1").await;
    assert_eq!(status, 200, "the original is told: {body}");
    assert_eq!(body["notices"][0]["code"], "identity-copied");
    // Another process on the same machine replaces it immediately, as usual.
    let mut again = node.twin();
    again.headers = boot("first");
    again.connect(&bed).await.expect("connected");
    node.closed().await;
    // A machine that was cut off and has rebooted: its old session answers nothing.
    again.freeze();
    let mut rebooted = again.twin();
    rebooted.headers = boot("third");
    rebooted.connect(&bed).await.expect("connected");
    assert_eq!(rebooted.report("a", "10.0.0.1").await.0, 200);
}

#[tokio::test]
async fn a_handshake_that_lies_about_its_machine_is_refused_with_words() {
    let bed = Bed::new().await;
    let mut node = bed.host("a", "10.0.0.1").await;
    for (name, value) in [
        ("pf9-machine", "no base64!".to_owned()),
        ("pf9-machine", "A".repeat(9000)),
        ("pf9-chain", "no-name".to_owned()),
        ("pf9-boot", "b".repeat(65)),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("value"));
        node.headers = headers;
        assert_eq!(node.connect(&bed).await, Err(400), "{name}");
    }
    // A ticket that the plane never made counts as none; so far none was issued.
    node.headers = HeaderMap::new();
    node.headers
        .insert("pf9-chain", "ab12".parse().expect("value"));
    node.headers
        .insert("pf9-tickets", "ab12:9.x.00,zz,:".parse().expect("value"));
    node.connect(&bed).await.expect("connected");
    // That one was never presented, so it may connect without any; then with another key's no more.
    node.connect(&bed).await.expect("connected");
    node.headers.remove("pf9-chain");
    assert_eq!(
        node.connect(&bed).await,
        Err(403),
        "an agent that forgot its tickets"
    );
}

//! Who may open a tunnel, and for how long.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pf9_hostagent::mux::{self, Closed};
use pf9_hostagent::wire::{Class, Code, Meta};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use super::bed::{Bed, until, within};
use super::node::dial;

#[tokio::test]
async fn only_a_certificate_of_an_enrolled_host_opens_a_tunnel() {
    let bed = Bed::new().await;
    let node = bed.host("a", "10.1.0.1").await;
    let answer = node.answer.as_ref().expect("enrolled");
    let endpoint = &answer.endpoints[0];
    assert!(
        endpoint.starts_with("wss://") && endpoint.ends_with("/v1/tunnel"),
        "{endpoint}"
    );

    // None at all.
    assert_eq!(
        dial(&bed, answer, None, HeaderMap::new()).await.err(),
        Some((403, None))
    );
    // One with the right name, self-signed.
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, node.id.to_string());
    let forged = params.self_signed(&key).expect("certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let identity = Some((CertificateDer::from(forged.der().to_vec()), key));
    assert_eq!(
        dial(&bed, answer, identity, HeaderMap::new()).await.err(),
        Some((0, None))
    );
    // Nobody reaches the host API around the tunnel.
    let direct = bed
        .http
        .get(format!("{}/v1/hosts/self/spec", bed.url))
        .send()
        .await;
    assert_eq!(direct.expect("answer").status(), 404);
}

#[tokio::test]
async fn the_newest_session_speaks_for_the_host() {
    let bed = Bed::new().await;
    let mut node = bed.host("a", "10.1.0.1").await;
    let old = node.tunnel.clone().expect("connected");
    node.connect(&bed).await.expect("second session");
    let why = within(old.closed()).await;
    assert!(!matches!(why, Closed::Drained), "{why}");
    assert_eq!(node.report("a", "10.1.0.1").await.0, 204);
    let host = bed.get(&format!("/resmgr/v1/hosts/{}", node.id)).await;
    assert_eq!(host["pf9"]["connected"], json!(true));

    let stranger = node.tunnel.as_ref().expect("connected");
    let mut stream = stranger
        .open("etcd", Class::Interactive, Meta::new())
        .expect("open");
    let refused = within(stream.read_u8())
        .await
        .expect_err("the plane has one service");
    assert!(refused.to_string().contains("no such service"), "{refused}");
}

pub(super) fn says(instance: &'static str, slot: &'static str) -> HeaderMap {
    let rows = [(mux::INSTANCE_HEADER, instance), (mux::SLOT_HEADER, slot)];
    let row = |(name, value)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    };
    HeaderMap::from_iter(rows.map(row))
}

#[tokio::test]
async fn sessions_of_one_program_live_beside_each_other_and_another_program_fences_them() {
    const FIRST: &str = "00000000000000000000000000000001";
    const SECOND: &str = "00000000000000000000000000000002";
    let bed = Bed::new().await;
    let mut node = bed.host("a", "10.1.0.1").await;
    let nameless = node.tunnel.clone().expect("connected");
    node.headers = says(FIRST, "0");
    node.connect(&bed).await.expect("slot 0");
    within(nameless.closed()).await;
    let zero = node.tunnel.clone().expect("connected");
    node.headers = says(FIRST, "1");
    node.connect(&bed).await.expect("slot 1");
    let one = node.tunnel.clone().expect("connected");
    // Answered on slot 1: so that session has started, and would have fenced slot 0 by now.
    assert_eq!(node.report("a", "10.1.0.1").await.0, 204);
    assert!(zero.ping().await.is_some() && !zero.is_leaving());

    // A draining one does not block its replacement.
    zero.leave(Code::GoingAway, Duration::ZERO, "test");
    within(zero.closed()).await;
    node.headers = says(FIRST, "0");
    node.connect(&bed).await.expect("slot 0 again");
    assert_eq!(node.report("a", "10.1.0.1").await.0, 204);
    assert!(one.ping().await.is_some());

    let zero = node.tunnel.clone().expect("connected");
    node.headers = says(SECOND, "0");
    node.connect(&bed).await.expect("another program");
    within(zero.closed()).await;
    within(one.closed()).await;
    assert_eq!(node.report("a", "10.1.0.1").await.0, 204);
    node.headers = says(SECOND, "2");
    assert_eq!(node.connect(&bed).await, Err(400), "there is no such slot");
}

#[tokio::test]
async fn beyond_the_rate_a_host_gets_retry_after() {
    let bed = Bed::with_budget(Some(1)).await;
    let token = bed.new_token().await;
    let mut node = super::node::Node::new(pf9_hostagent::model::HostId::random());
    node.enrol(&bed, &token).await.expect("enrolled");
    node.connect(&bed).await.expect("the first of this second");
    let mut told = Vec::new();
    for _ in 0..3 {
        let (status, after) = node
            .try_connect(&bed)
            .await
            .expect_err("the budget is used up");
        assert_eq!(status, 503);
        told.push(after.expect("when to come back").as_secs());
    }
    // Each a little later than the previous one.
    assert!(
        told[0] >= 1 && told.is_sorted() && told[2] > told[0],
        "{told:?}"
    );
    // Strangers are refused as usual, and use nobody's budget.
    let answer = node.answer.as_ref().expect("enrolled");
    let stranger = dial(&bed, answer, None, HeaderMap::new()).await;
    assert_eq!(stranger.err(), Some((403, None)));
    let waited = std::time::Instant::now();
    until(|| Box::pin(async { node.twin().connect(&bed).await.ok() })).await;
    assert!(waited.elapsed() < Duration::from_secs(3));
}

/// A silent connection delays only itself.
#[tokio::test]
async fn silent_strangers_do_not_keep_a_host_waiting() {
    /// More than concurrent handshakes.
    const STRANGERS: usize = 100;
    let bed = Bed::new().await;
    let token = bed.new_token().await;
    let mut node = super::node::Node::new(pf9_hostagent::model::HostId::random());
    node.enrol(&bed, &token).await.expect("enrolled");
    let address = bed.url.trim_start_matches("https://");
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        let stranger = tokio::net::TcpStream::connect(address).await;
        strangers.push(stranger.expect("connect"));
    }
    let connect = Box::pin(node.connect(&bed));
    let connected = tokio::time::timeout(Duration::from_secs(4), connect).await;
    assert_eq!(connected, Ok(Ok(())));
}

#[tokio::test]
async fn a_removed_host_is_out_at_once_and_for_good() {
    let bed = Bed::new().await;
    let mut node = bed.host("a", "10.1.0.1").await;
    let path = format!("/resmgr/v1/hosts/{}", node.id);
    assert_eq!(bed.ask(Method::DELETE, &path, Value::Null).await.0, 200);
    node.closed().await;
    assert_eq!(node.connect(&bed).await, Err(403));
    assert_eq!(bed.ask(Method::DELETE, &path, Value::Null).await.0, 404);

    // Enrolled again, its generation continues where it was, or the host would refuse the spec.
    let token = bed.new_token().await;
    node.enrol(&bed, &token).await.expect("enrolled again");
    node.connect(&bed).await.expect("connected");
    assert_eq!(node.current().await.generation.0, 1);
    let token = bed.new_token().await;
    let mut old = node.twin();
    node.enrol(&bed, &token).await.expect("a third time");
    node.connect(&bed).await.expect("connected");
    assert_eq!(
        old.connect(&bed).await,
        Err(403),
        "the older certificate is good no more"
    );
}

#[tokio::test]
async fn leaving_takes_effect_once_and_may_be_repeated() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let mut node = bed.host("a", "10.1.0.1").await;
    // Nothing accepts there: an unanswered stream would be waited for.
    let mut incoming = node.incoming.take().expect("connected");
    let mut refusing = JoinSet::new();
    refusing.spawn(async move {
        while let Some(opened) = incoming.next().await {
            opened.refuse(Code::UnknownService, 0, "not on this host's allow-list");
        }
    });
    let other = bed.host("b", "10.1.0.2").await;
    let cluster = bed.cluster("c").await;
    assert_eq!(
        bed.attach(cluster, &[(&node, true), (&other, true)])
            .await
            .0,
        200
    );
    let before = other.current().await;
    assert_eq!(
        before.assignment.node().expect("node").etcd.members.len(),
        2
    );
    let leave = "/v1/hosts/self/leave";
    assert_eq!(node.call(Method::POST, leave, &Value::Null).await.0, 204);
    let news = other
        .spec(before.generation.0)
        .await
        .expect("the other master hears of it");
    assert_eq!(news.assignment.node().expect("node").etcd.members.len(), 1);
    let hosts = bed.get("/resmgr/v1/hosts").await;
    assert_eq!(hosts.as_array().expect("list").len(), 1);
    assert_eq!(
        node.closed().await,
        Closed::Drained,
        "the answer was delivered first"
    );
}

#[tokio::test]
async fn goaway_is_sent_before_the_plane_stops() {
    let bed = Bed::new().await;
    let node = bed.host("a", "10.1.0.1").await;
    let tunnel = node.tunnel.clone().expect("connected");
    let generation = node.current().await.generation.0;
    let (waited, farewell, _bed) =
        tokio::join!(node.spec(generation), within(tunnel.peer_leaves()), async {
            // The request must have arrived, or there is nothing to answer: frames keep their order, so an answer to a
            // later request proves that.
            until(|| async { (tunnel.stats().streams > 0).then_some(()) }).await;
            assert_eq!(node.report("a", "10.1.0.1").await.0, 204);
            bed.restart().await
        });
    assert_eq!(waited, None, "a waiting question is answered, not cut");
    assert_eq!(farewell.expect("farewell").code, Code::GoingAway);
}

#[tokio::test]
async fn what_a_host_says_about_another_is_refused() {
    let bed = Bed::new().await;
    let (a, b) = (
        bed.host("a", "10.1.0.1").await,
        bed.host("b", "10.1.0.2").await,
    );
    let path = "/v1/hosts/self/status";
    let (status, fault) = a.call(Method::POST, path, &b.status("b", "10.9.9.9")).await;
    assert_eq!(
        (status, fault["code"].as_str()),
        (403, Some("host-mismatch"))
    );
    let mut future = a.status("a", "10.1.0.1");
    future["schema"] = json!(2);
    let (status, fault) = a.call(Method::POST, path, &future).await;
    assert_eq!(
        (status, fault["code"].as_str()),
        (400, Some("schema-unsupported"))
    );
    let (status, fault) = a.call(Method::POST, path, &json!({"schema": 1})).await;
    assert_eq!(
        (status, fault["code"].as_str()),
        (400, Some("body-malformed"))
    );
    let host = bed.get(&format!("/resmgr/v1/hosts/{}", b.id)).await;
    assert_eq!(host["pf9"]["inventory"]["addresses"], json!(["10.1.0.2"]));
}

#[tokio::test]
async fn an_event_is_kept_once_however_often_it_is_delivered() {
    let bed = Bed::new().await;
    let node = bed.host("a", "10.1.0.1").await;
    let event = |n: u32| {
        json!({"id": format!("boot-{n}"), "at": "2026-01-01T00:00:00Z", "kind": "state",
               "message": format!("event {n}")})
    };
    let path = "/v1/hosts/self/events";
    let batch = json!({"events": [event(1), event(2)]});
    assert_eq!(node.call(Method::POST, path, &batch).await.0, 204);
    let again = json!({"events": [event(1), event(2), event(3)]});
    assert_eq!(node.call(Method::POST, path, &again).await.0, 204);
    let kept = bed
        .get(&format!("/resmgr/v1/hosts/{}/events", node.id))
        .await;
    let ids: Vec<_> = kept
        .as_array()
        .expect("list")
        .iter()
        .map(|e| &e["event"]["id"])
        .collect();
    assert_eq!(ids, ["boot-1", "boot-2", "boot-3"]);
    let many: Vec<Value> = (0..257).map(event).collect();
    let (status, fault) = node
        .call(Method::POST, path, &json!({"events": many}))
        .await;
    assert_eq!(
        (status, fault["code"].as_str()),
        (400, Some("batch-too-large"))
    );
}

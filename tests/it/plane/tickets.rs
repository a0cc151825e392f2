//! Resumed TLS handshakes: what a reconnecting host saves, and what it cannot skip.

use http::Method;
use pf9_hostagent::comms::TunnelRoute;
use pf9_hostagent::egress::{Egress, Hop, Journey};
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::identity::{self, EnrolOrder, Owners, TlsPolicy, order_key};
use pf9_hostagent::model::{HostId, MachineMarks, NodeFacts};
use serde_json::Value;

use super::bed::{Bed, within};

/// Enrols with this id; returns the product's own dialler with the result.
async fn enrolled(bed: &Bed, fs: &HostFs, host_id: HostId) -> TunnelRoute {
    let (egress, tls) = (Egress::direct(), TlsPolicy::default());
    let token = bed.new_token().await;
    let (root, _) = order_key::ensure(fs, host_id).expect("order key");
    let identity = identity::enrol(&EnrolOrder {
        plane: &bed.url,
        token: &token,
        host_id,
        present: Some(fs),
        machine: MachineMarks::default(),
        facts: &NodeFacts::new("a", &[]),
        root: &root,
        egress: &egress,
        tls: &tls,
        deadline: std::time::Duration::from_secs(20),
    })
    .await
    .expect("enrolled");
    identity::save(fs, &identity, &Owners::current_user()).expect("save");
    load(fs)
}

fn load(fs: &HostFs) -> TunnelRoute {
    let identity = identity::load(fs, &TlsPolicy::default()).expect("load");
    TunnelRoute::new(identity.expect("enrolled"), Egress::direct())
}

/// The kind of handshake, and the plane's answer; the code of a refusal.
async fn go(route: &TunnelRoute) -> (String, Result<(), String>) {
    let mut journey = Journey::default();
    let endpoint = &route.endpoints()[0];
    let done = within(route.try_endpoint(endpoint, &mut journey)).await;
    let tls = journey.passed().iter().find(|p| p.hop == Hop::Tls);
    let words = tls.map(|p| p.found.clone()).unwrap_or_default();
    (words, done.map_err(|e| e.fault(endpoint).code.to_string()))
}

#[tokio::test]
async fn the_second_handshake_is_resumed_and_still_authenticated() {
    let bed = Bed::new().await;
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    let id = HostId::random();
    let old = enrolled(&bed, &fs, id).await;
    let full = |result| ("TLS 1.3".to_owned(), result);
    let resumed = |result| ("TLS 1.3, resumed".to_owned(), result);
    let forbidden = || Err("plane-forbidden".to_owned());

    assert_eq!(go(&old).await, full(Ok(())));
    // The plane accepts only a certificate it knows: a resumed session carries the earlier one.
    assert_eq!(go(&old).await, resumed(Ok(())));
    assert_eq!(go(&old).await, resumed(Ok(())));
    // A new dialler has no tickets.
    assert_eq!(go(&load(&fs)).await, full(Ok(())));

    // A new certificate for the host: once it was presented the old session resumes, and is refused.
    let new = enrolled(&bed, &fs, id).await;
    assert_eq!(go(&old).await, resumed(Ok(())));
    assert_eq!(go(&new).await, full(Ok(())));
    assert_eq!(go(&old).await, resumed(forbidden()));

    // The host is removed: the same.
    let path = format!("/resmgr/v1/hosts/{id}");
    assert_eq!(bed.ask(Method::DELETE, &path, Value::Null).await.0, 200);
    assert_eq!(go(&new).await, resumed(forbidden()));

    // A restarted plane cannot read old tickets: a full handshake, no failure.
    let other = enrolled(&bed, &fs, HostId::random()).await;
    assert_eq!(go(&other).await, full(Ok(())));
    let bed = bed.restart().await;
    assert_eq!(go(&other).await, full(Ok(())));
    assert_eq!(go(&other).await, resumed(Ok(())));
    drop(bed);
}

//! Nodes whose machine's address changes: root of each reports it, and the node follows where that is safe.

use http::Method;
use pf9_hostagent::model::{CertPurpose, ClusterId, Spec};
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::bed::Bed;
use super::node::Node;

fn ip(spec: &Spec) -> String {
    let node = spec.assignment.node().expect("a node");
    node.node_ip.to_string()
}

/// The node's own address, as in a new certificate of its kubelet.
async fn certified(node: &Node, cluster: ClusterId) -> String {
    let key = KeyPair::generate().expect("key");
    let wanted = node.order(cluster, &key, &[CertPurpose::KubeletServer]);
    let (status, batch) = node.bring(&node.signed_order(&wanted.await)).await;
    assert_eq!(status, 200, "{batch}");
    let pem = batch["certificates"][0]["certificate"]
        .as_str()
        .expect("pem");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("der");
    let (_, x) = X509Certificate::from_der(&der).expect("x509");
    let names = x.subject_alternative_name().expect("read").expect("names");
    let address = names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes).ok(),
            _ => None,
        });
    std::net::Ipv4Addr::from(address.expect("an address")).to_string()
}

/// A status of a node that has converged to its newest spec.
async fn is_well(node: &Node, name: &str, address: &str) {
    let mut status = node.status(name, address);
    status["observed_generation"] = json!(node.current().await.generation);
    let said = node
        .call(Method::POST, "/v1/hosts/self/status", &status)
        .await;
    assert_eq!(said.0, 204, "{}", said.1);
}

fn code(said: &(u16, Value)) -> (u16, String) {
    let code = said.1["code"].as_str().unwrap_or_default();
    (said.0, code.to_owned())
}

#[tokio::test]
async fn a_worker_follows_its_machine_and_the_others_get_the_change() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let (master, worker) = (
        bed.host("m1", "10.1.0.1").await,
        bed.host("w1", "10.1.0.2").await,
    );
    let idle = bed.host("idle", "10.1.0.3").await;
    let cluster = bed.cluster("c").await;
    bed.attach(cluster, &[(&master, true), (&worker, false)])
        .await;
    let before = (worker.current().await, master.current().await);
    // An address of another host, or of the cluster, is not accepted: the node keeps its own, and gets the refusal.
    for taken in ["10.1.0.1", "10.1.0.3", "10.20.0.9", "10.21.0.9"] {
        let said = worker.say("w1", taken).await;
        assert_eq!(code(&said), (409, "address-taken".into()), "{taken}");
    }
    assert_eq!(worker.current().await, before.0);
    assert_eq!(worker.say("w1", "10.1.0.22").await.0, 204);
    let spec = worker.current().await;
    assert_eq!(ip(&spec), "10.1.0.22");
    assert_eq!(spec.generation, before.0.generation.next());
    assert_eq!(certified(&worker, cluster).await, "10.1.0.22");
    let told = master.current().await;
    let routes = &told.assignment.node().expect("a node").network.peers;
    assert_eq!(routes[0].node_ip.to_string(), "10.1.0.22");
    assert_eq!(told.generation, before.1.generation.next());
    // The same report again changes nothing, and the previous address is free for another machine.
    assert_eq!(worker.say("w1", "10.1.0.22").await.0, 204);
    assert_eq!(worker.current().await, spec);
    assert_eq!(idle.say("idle", "10.1.0.2").await.0, 204);
    let events = bed
        .get(&format!("/resmgr/v1/hosts/{}/events", worker.id))
        .await;
    assert!(
        events.to_string().contains("from 10.1.0.2 to 10.1.0.22"),
        "{events}"
    );
}

#[tokio::test]
async fn a_master_follows_when_the_others_are_well() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let (a, b) = (
        bed.host("a", "10.1.0.1").await,
        bed.host("b", "10.1.0.2").await,
    );
    let worker = bed.host("w", "10.1.0.3").await;
    let cluster = bed.cluster("c").await;
    bed.attach(cluster, &[(&a, true), (&b, true), (&worker, false)])
        .await;
    let before = a.current().await;
    let said = a.say("a", "10.1.0.11").await;
    assert_eq!(code(&said), (409, "master-moves-later".into()));
    let words = said.1.to_string();
    assert!(
        words.contains("master b is ") && words.contains("10.1.0.1 to this one"),
        "{words}"
    );
    // Healthy as a node, on a machine that moved as well.
    is_well(&b, "b", "10.1.0.12").await;
    let said = a.say("a", "10.1.0.11").await;
    assert!(
        said.1.to_string().contains("lost its address 10.1.0.2"),
        "{}",
        said.1
    );
    assert_eq!(a.current().await, before);
    is_well(&b, "b", "10.1.0.2").await;
    assert_eq!(a.say("a", "10.1.0.11").await.0, 204);
    for node in [&a, &b] {
        let spec = node.current().await;
        let etcd = &spec.assignment.node().expect("a node").etcd;
        let members: Vec<String> = etcd.members.iter().map(|m| m.ip.to_string()).collect();
        assert!(
            members.contains(&"10.1.0.11".to_owned()) && members.len() == 2,
            "{members:?}"
        );
    }
    // It was where the API is reached: every spec changes.
    let spec = worker.current().await;
    assert_eq!(
        spec.assignment.node().expect("a node").api.host,
        "10.1.0.11"
    );
    // The next one waits until it has converged.
    let said = b.say("b", "10.1.0.12").await;
    assert_eq!(
        code(&said),
        (409, "master-moves-later".into()),
        "{}",
        said.1
    );
    is_well(&a, "a", "10.1.0.11").await;
    assert_eq!(b.say("b", "10.1.0.12").await.0, 204);
}

/// One of two: the other one has no quorum without it, and reports that.
#[tokio::test]
async fn a_master_missing_for_the_quorum_follows_and_two_that_moved_get_the_remedy() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let (a, b) = (
        bed.host("a", "10.1.0.1").await,
        bed.host("b", "10.1.0.2").await,
    );
    let cluster = bed.cluster("c").await;
    bed.attach(cluster, &[(&a, true), (&b, true)]).await;
    let before = a.current().await;
    // It moved as well: neither would reach the other.
    stands_still(&b, "10.1.0.12").await;
    let said = a.say("a", "10.1.0.11").await;
    assert_eq!(code(&said), (409, "master-moves-later".into()));
    let words = said.1.to_string();
    for part in [
        "master b lost its address 10.1.0.2",
        "10.1.0.1 to this one",
        "ip address add",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(a.current().await, before);
    stands_still(&b, "10.1.0.2").await;
    assert_eq!(a.say("a", "10.1.0.11").await.0, 204);
    assert_eq!(ip(&a.current().await), "10.1.0.11");
}

/// A status of a master without a quorum.
async fn stands_still(node: &Node, address: &str) {
    let mut status = node.status("b", address);
    status["state"] = json!("retrying");
    status["node"] = json!({
        "schema": 1, "revision": 1, "generation": 1, "role": "master", "cluster_id": null,
        "state": "retrying", "reason": null, "attempts": 1, "phases": [], "current_step": null,
        "last_sweep_at": null, "stack": null, "wants_stack": null, "certificate_requests": [],
        "service_account_key": null, "certificates": [],
        "etcd": {
            "seen_at": "2026-11-30T00:00:00Z",
            "fault": {"code": "etcd-not-healthy", "what": "etcd is not healthy", "why": "no leader", "fix": ""},
        },
    });
    let path = "/v1/hosts/self/status";
    let said = node.call(Method::POST, path, &status).await;
    assert_eq!(said.0, 204, "{}", said.1);
}

/// There are no other masters that would have to be healthy.
#[tokio::test]
async fn a_lone_master_follows() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let master = bed.host("m", "10.1.0.1").await;
    let cluster = bed.cluster("c").await;
    bed.attach(cluster, &[(&master, true)]).await;
    assert_eq!(master.say("m", "10.1.0.11").await.0, 204);
    assert_eq!(ip(&master.current().await), "10.1.0.11");
}

//! Who is given the key of a backup: root of a master of that cluster, for what was sealed for it.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use http::Method;
use pf9_hostagent::backup::seal::{self, Sealer};
use pf9_hostagent::backup::unwrap::Asking;
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::model::{
    BackupTrust, BelievedManifest, ClusterId, Digest, DocumentKind, FoundManifest, HostId, Nonce,
    SigningKey, Spec, UnwrapAnswer, UnwrapOrder,
};
use serde_json::{Value, json};

use super::bed::Bed;
use super::node::Node;

const UNWRAP: &str = "/v1/hosts/self/unwrap";

/// A backup sealed for this key, in this directory.
fn sealed(dir: &std::path::Path, recipient: &str) -> PathBuf {
    let fs = HostFs::new(dir);
    let file = fs.begin("/b.db.age", &Attrs::mode(0o600)).expect("file");
    let keys = seal::recipients(&[recipient.to_owned()]).expect("key");
    let mut sealer = Sealer::new(file, &keys).expect("head");
    sealer.write_all(b"all there is").expect("write");
    sealer.finish().expect("finish").0.place().expect("place");
    fs.at("/b.db.age")
}

/// The plane's key in this host's spec.
async fn recipient(node: &Node) -> String {
    let spec = node.current().await;
    let node = spec.assignment.node().expect("node");
    node.etcd.backup.plane_recipient.clone().expect("a key")
}

/// A backup of this cluster, as this host's root signed it.
fn noted(by: &Node, cluster_id: ClusterId) -> BelievedManifest {
    let manifest = json!({
        "schema": 1, "name": "20261128T140000Z-r7", "taken_at": "2026-11-28T14:00:00Z", "host_id": by.id,
        "cluster_id": cluster_id, "etcd_cluster_id": "cafe", "member_id": "beef", "revision": 7, "keys": 3,
        "hash": 1, "plain_bytes": 12, "sealed_bytes": 12, "sealed_sha256": Digest::of(b"x"),
        "etcd_version": "3.7.3", "kubernetes_version": "1.37.2", "recipients": [],
        "settings": {"cluster_name": "c", "api_host": "10.1.0.1", "api_port": 6443,
            "pods_cidr": "10.20.0.0/16", "services_cidr": "10.21.0.0/22", "cluster_domain": "cluster.local",
            "stack": {"name": "s", "version": "1", "manifest": Digest::of(b"m")}},
    });
    let found = FoundManifest::of(by.signed(DocumentKind::Backup, &manifest)).expect("a manifest");
    found.believed(&BackupTrust::Unchecked).expect("taken")
}

async fn asked(node: &Node, asking: &Asking, noted: &BelievedManifest) -> UnwrapOrder {
    asking.order(node.id, noted, node.nonce().await)
}

async fn bring(node: &Node, order: &UnwrapOrder) -> (u16, Value) {
    let said = json!(node.signed(DocumentKind::Unwrap, order));
    node.call(Method::POST, UNWRAP, &said).await
}

fn code(answer: (u16, Value)) -> String {
    assert!((400..500).contains(&answer.0), "{answer:?}");
    answer.1["code"].as_str().expect("a fault").to_owned()
}

#[tokio::test]
async fn root_of_a_master_opens_its_clusters_backups_and_nobody_else_does() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let master = bed.host("m1", "10.1.0.1").await;
    let worker = bed.host("w1", "10.1.0.2").await;
    let cluster = bed.cluster("c").await;
    let both = [(&master, true), (&worker, false)];
    assert_eq!(bed.attach(cluster, &both).await.0, 200);
    let dir = tempfile::tempdir().expect("directory");
    let backup = sealed(dir.path(), &recipient(&master).await);
    let asking = Asking::of(&backup).expect("head");
    let good = noted(&master, cluster);

    let order = asked(&master, &asking, &good).await;
    let (status, answer) = bring(&master, &order).await;
    assert_eq!(status, 200, "{answer}");
    let answer: UnwrapAnswer = serde_json::from_value(answer).expect("answer");
    let key = asking.opened(&answer).expect("opened");
    let mut plain = String::new();
    let mut reader = seal::open(&backup, &[Box::new(key)]).expect("opens");
    reader.read_to_string(&mut plain).expect("read");
    assert_eq!(plain, "all there is");
    // Once.
    assert_eq!(code(bring(&master, &order).await), "order-replayed");

    // A worker's root, another cluster, and the tunnel without root.
    let order = asked(&worker, &asking, &good).await;
    assert_eq!(code(bring(&worker, &order).await), "cluster-foreign");
    let elsewhere = noted(&master, ClusterId::random());
    let mut order = asked(&master, &asking, &elsewhere).await;
    assert_eq!(code(bring(&master, &order).await), "cluster-unknown");
    // And a backup that none of its masters signed: a worker's, and another cluster's under this one's name.
    order = asked(&master, &asking, &noted(&worker, cluster)).await;
    assert_eq!(code(bring(&master, &order).await), "backup-untrusted");
    order = asked(&master, &asking, &elsewhere).await;
    order.cluster_id = cluster;
    assert_eq!(code(bring(&master, &order).await), "cluster-foreign");
    let mut order = asked(&master, &asking, &good).await;
    order.host_id = HostId::random();
    assert_eq!(code(bring(&master, &order).await), "order-foreign");
    let thief = SigningKey::generate().expect("key").0;
    let order = asked(&master, &asking, &good).await;
    let bytes = serde_json::to_vec(&order).expect("json");
    let forged = json!(thief.sign(DocumentKind::Unwrap, &bytes));
    let said = master.call(Method::POST, UNWRAP, &forged).await;
    assert_eq!(code(said), "order-unsigned");
    let mut order = asked(&master, &asking, &good).await;
    order.nonce = Nonce(Digest::of(b"guess"));
    assert_eq!(code(bring(&master, &order).await), "order-replayed");

    // Sealed for others, and not a valid head of a backup.
    let other = tempfile::tempdir().expect("directory");
    let other = Asking::of(&sealed(other.path(), &seal::new_key().1)).expect("head");
    let order = asked(&master, &other, &good).await;
    assert_eq!(code(bring(&master, &order).await), "key-refused");
    let mut order = asked(&master, &asking, &good).await;
    order.stanzas.clear();
    assert_eq!(code(bring(&master, &order).await), "order-malformed");
}

/// A master that lost its order key signs with a new one from then on; what it signed before stays valid.
#[tokio::test]
async fn backup_signing_keys_are_remembered_after_a_replacement() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let a = bed.host("a", "10.1.0.1").await;
    let b = bed.host("b", "10.1.0.2").await;
    let worker = bed.host("w", "10.1.0.3").await;
    let cluster = bed.cluster("c").await;
    let all = [(&a, true), (&b, true), (&worker, false)];
    assert_eq!(bed.attach(cluster, &all).await.0, 200);
    let known = |spec: Spec| {
        let node = spec.assignment.node().expect("node");
        let signers = node.etcd.backup_signers.iter();
        let signers = signers.map(|s| (s.host_id, s.key.id.clone()));
        signers.collect::<Vec<_>>()
    };
    let of = |node: &Node| (node.id, node.root.trusted().id);
    let spec = b.current().await;
    let before = spec.generation.0;
    assert_eq!(known(spec), [of(&a), of(&b)]);
    assert_eq!(known(worker.current().await), []);
    let mut lost = a.twin();
    lost.root = Arc::new(SigningKey::generate().expect("key").0);
    let body = json!({"host": a.id, "ttl_s": 60});
    assert_eq!(bed.admin("/hosts/allow-reenrol", body).await.0, 200);
    let token = bed.new_token().await;
    lost.enrol(&bed, &token).await.expect("allowed");
    let spec = b.spec(before).await.expect("news");
    assert_eq!(known(spec), [of(&a), of(&b), of(&lost)]);
    let dir = tempfile::tempdir().expect("directory");
    let backup = sealed(dir.path(), &recipient(&b).await);
    let asking = Asking::of(&backup).expect("head");
    for by in [&a, &lost, &b] {
        let order = asked(&b, &asking, &noted(by, cluster)).await;
        assert_eq!(bring(&b, &order).await.0, 200);
    }
}

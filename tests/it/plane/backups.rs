//! Who is given the key of a backup: root of a master of that cluster, for what was sealed for it.

use std::io::{Read, Write};
use std::path::PathBuf;

use http::Method;
use pf9_hostagent::backup::seal::{self, Sealer};
use pf9_hostagent::backup::unwrap::Asking;
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::model::{
    ClusterId, DocumentKind, HostId, Nonce, SigningKey, UnwrapAnswer, UnwrapOrder,
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

/// What the spec of this host says is the plane's key.
async fn recipient(node: &Node) -> String {
    let spec = node.current().await;
    let node = spec.assignment.node().expect("node");
    node.etcd.backup.plane_recipient.clone().expect("a key")
}

async fn asked(node: &Node, asking: &Asking, cluster: ClusterId) -> UnwrapOrder {
    asking.order(node.id, cluster, "b", node.nonce().await)
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

    let order = asked(&master, &asking, cluster).await;
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
    let order = asked(&worker, &asking, cluster).await;
    assert_eq!(code(bring(&worker, &order).await), "cluster-foreign");
    let order = asked(&master, &asking, ClusterId::random()).await;
    assert_eq!(code(bring(&master, &order).await), "cluster-unknown");
    let mut order = asked(&master, &asking, cluster).await;
    order.host_id = HostId::random();
    assert_eq!(code(bring(&master, &order).await), "order-foreign");
    let thief = SigningKey::generate().expect("key").0;
    let order = asked(&master, &asking, cluster).await;
    let bytes = serde_json::to_vec(&order).expect("json");
    let forged = json!(thief.sign(DocumentKind::Unwrap, &bytes));
    let said = master.call(Method::POST, UNWRAP, &forged).await;
    assert_eq!(code(said), "order-unsigned");
    let mut order = asked(&master, &asking, cluster).await;
    order.nonce = Nonce(pf9_hostagent::model::Digest::of(b"guess"));
    assert_eq!(code(bring(&master, &order).await), "order-replayed");

    // What was sealed for others, and what is no head of a backup.
    let other = tempfile::tempdir().expect("directory");
    let other = Asking::of(&sealed(other.path(), &seal::new_key().1)).expect("head");
    let order = asked(&master, &other, cluster).await;
    assert_eq!(code(bring(&master, &order).await), "key-refused");
    let mut order = asked(&master, &asking, cluster).await;
    order.stanzas.clear();
    assert_eq!(code(bring(&master, &order).await), "order-malformed");
}

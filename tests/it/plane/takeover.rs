//! A rotation of the plane's keys as its peers see it.

use http::Method;
use pf9_hostagent::model::{DocumentKind, Envelope, TrustAnswer, TrustDocument, TrustStore};
use serde_json::{Value, json};

use super::bed::Bed;
use super::node::Node;

async fn step(bed: &Bed, step: &str, kind: &str, force: &[&Node]) -> (u16, Value) {
    let force: Vec<_> = force.iter().map(|n| n.id).collect();
    bed.admin("/keys", json!({"step": step, "kind": kind, "force": force}))
        .await
}

/// The host's document, under each of its signatures.
async fn documents(node: &Node) -> Vec<Envelope> {
    let path = "/v1/hosts/self/trust";
    let (status, body) = node.call(Method::GET, path, &Value::Null).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_value::<TrustAnswer>(body)
        .expect("answer")
        .documents
}

fn open(documents: &[Envelope], trust: &TrustStore) -> TrustDocument {
    let good = documents
        .iter()
        .find_map(|d| d.open(DocumentKind::Trust, trust).ok());
    good.expect("one that this host can believe")
}

#[tokio::test]
async fn everything_signed_is_signed_again_and_a_late_host_can_follow() {
    let bed = Bed::new().await;
    let node = bed.host("a", "10.0.0.1").await;
    let stack = bed.stack("1.37.2-1").await;
    let digest = stack["manifest"].as_str().expect("digest").to_owned();
    let manifest = async || {
        let path = format!("/v1/stacks/{digest}/manifest");
        let (status, body) = node.call(Method::GET, &path, &Value::Null).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_value::<Envelope>(body).expect("envelope")
    };
    // It knows only the first key and gets no notice.
    let old =
        TrustStore::new(node.answer.as_ref().expect("enrolled").trust.clone()).expect("trust");
    let before = (manifest().await, node.current().await);
    assert_eq!(step(&bed, "announce", "signing", &[]).await.0, 200);
    let (status, fault) = step(&bed, "take-over", "signing", &[]).await;
    assert_eq!((status, &fault["code"]), (409, &json!("keys-hosts-wait")));
    assert_eq!(step(&bed, "take-over", "signing", &[&node]).await.0, 200);

    let all = documents(&node).await;
    assert_eq!(all.len(), 2, "under the new key and under the old one");
    let document = open(&all, &old);
    document.validate(node.id).expect("its own");
    let new = TrustStore::new(document.keys.clone()).expect("keys");
    assert_eq!(new.ids().len(), 2);
    let after = manifest().await;
    assert_ne!(after.key_id, before.0.key_id);
    assert_eq!(after.key_id, document.keys[0].id);
    let bytes = |e: &Envelope| e.verify(DocumentKind::StackManifest, &new).expect("signed");
    assert_eq!(bytes(&after), bytes(&before.0), "the same content");
    let spec = node
        .call(Method::GET, "/v1/hosts/self/spec?after=0", &Value::Null)
        .await
        .1;
    let spec: Envelope = serde_json::from_value(spec).expect("envelope");
    assert_eq!(spec.key_id, document.keys[0].id);
    let spec: pf9_hostagent::model::Spec = spec.open(DocumentKind::Spec, &new).expect("signed");
    assert_eq!(spec.generation, before.1.generation.next());
    assert_eq!(spec.assignment, before.1.assignment);

    // A restart keeps the keys.
    drop(node);
    let bed = bed.restart().await;
    assert_eq!(
        step(&bed, "announce", "signing", &[]).await.1["code"],
        "keys-turn"
    );
}

#[tokio::test]
async fn an_old_authority_is_retired_when_no_certificate_uses_it() {
    let bed = Bed::new().await;
    let mut node = bed.host("a", "10.0.0.1").await;
    let token = bed.new_token().await;
    assert_eq!(step(&bed, "announce", "authority", &[]).await.0, 200);
    assert_eq!(step(&bed, "take-over", "authority", &[&node]).await.0, 200);
    // The bundle for people has both.
    let pem = std::fs::read_to_string(bed.file("ca.pem")).expect("ca.pem");
    assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 2);
    let document = documents(&node).await;
    let trust = node.answer.as_ref().expect("enrolled").trust.clone();
    let document = open(&document, &TrustStore::new(trust).expect("trust"));
    assert_eq!(document.authorities, pem);

    let (status, fault) = step(&bed, "retire", "authority", &[]).await;
    assert_eq!((status, &fault["code"]), (409, &json!("keys-hosts-wait")));
    // The same key enrols again: its certificate is now from the new authority.
    let again = bed.new_token().await;
    assert_ne!(again.ca, token.ca);
    node.enrol(&bed, &again).await.expect("enrolled");
    node.connect(&bed).await.expect("connected");
    let mut status = node.status("a", "10.0.0.1");
    let digests = digests(&document.authorities);
    status["trust"] = json!({"keys": [document.keys[0].id], "authorities": digests});
    let path = "/v1/hosts/self/status";
    assert!(node.call(Method::POST, path, &status).await.0 < 300);
    assert_eq!(step(&bed, "retire", "authority", &[]).await.0, 200);
    let pem = std::fs::read_to_string(bed.file("ca.pem")).expect("ca.pem");
    assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 1);
}

fn digests(pem: &str) -> Vec<pf9_hostagent::model::Digest> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|c| pf9_hostagent::model::Digest::of(&c.expect("certificate")))
        .collect()
}

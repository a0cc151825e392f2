//! Who gets a certificate: root of a node; not the holder of only its tunnel, its files or another's signature.

use std::sync::Arc;

use http::Method;
use pf9_hostagent::model::{
    CertPurpose, CertificateOrder, ClusterId, Digest, DocumentKind, Enrolment, FactsReport,
    Generation, NodeFacts, Nonce, SigningKey,
};
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::bed::Bed;
use super::node::{Node, csr};

/// Makes a valid order invalid.
type Spoil = fn(&mut CertificateOrder);

const FACTS: &str = "/v1/hosts/self/facts";

/// An order for a new key.
async fn order(node: &Node, cluster: ClusterId, purposes: &[CertPurpose]) -> CertificateOrder {
    let key = KeyPair::generate().expect("key");
    node.order(cluster, &key, purposes).await
}

fn signed(node: &Node, order: &CertificateOrder) -> Value {
    node.signed_order(order)
}

async fn bring(node: &Node, said: &Value) -> (u16, Value) {
    node.bring(said).await
}

fn code(answer: (u16, Value)) -> String {
    assert!((400..500).contains(&answer.0), "{answer:?}");
    answer.1["code"].as_str().expect("a fault").to_owned()
}

/// A cluster of a master and a worker.
async fn cluster() -> (Bed, ClusterId, Node, Node) {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let master = bed.host("m1", "10.1.0.1").await;
    let worker = bed.host("w1", "10.1.0.2").await;
    let cluster = bed.cluster("c").await;
    let both = [(&master, true), (&worker, false)];
    assert_eq!(bed.attach(cluster, &both).await.0, 200);
    (bed, cluster, master, worker)
}

/// Everything that a thief of the tunnel's key, with the node's documents and time, can send.
#[tokio::test]
async fn with_the_tunnel_alone_nobody_gets_a_certificate() {
    let (_bed, cluster, master, worker) = cluster().await;
    let mine = order(&master, cluster, &[CertPurpose::Admin]).await;

    // Unsigned, in every plausible form.
    let bare = json!(mine);
    assert_eq!(code(bring(&master, &bare).await), "order-unsigned");
    let old = json!({"cluster_id": cluster, "requests": mine.requests});
    assert_eq!(code(bring(&master, &old).await), "order-unsigned");
    assert_eq!(code(bring(&master, &json!([])).await), "order-unsigned");

    // Signed with a key of the thief's own, under its own id and under the pinned one's.
    let thief = SigningKey::generate().expect("key").0;
    let bytes = serde_json::to_vec(&mine).expect("json");
    let mut forged = json!(thief.sign(DocumentKind::Order, &bytes));
    assert_eq!(code(bring(&master, &forged).await), "order-unsigned");
    forged["key_id"] = json!(master.root.trusted().id);
    assert_eq!(code(bring(&master, &forged).await), "order-unsigned");

    // Root's signature, moved to another payload.
    let mut moved = signed(&master, &mine);
    moved["payload"] = forged["payload"].clone();
    let honest = order(&master, cluster, &[CertPurpose::KubeProxy]).await;
    moved["signature"] = signed(&master, &honest)["signature"].clone();
    assert_eq!(code(bring(&master, &moved).await), "order-unsigned");
    // And root's signature on another kind of document.
    let facts = FactsReport {
        schema: 1,
        host_id: master.id,
        nonce: master.nonce().await,
        facts: master.facts.clone(),
    };
    let mut relabelled = json!(master.signed(DocumentKind::Facts, &facts));
    assert_eq!(code(bring(&master, &relabelled).await), "order-malformed");
    relabelled["kind"] = json!("pf9-order");
    assert_eq!(code(bring(&master, &relabelled).await), "order-unsigned");

    // Another host's root: a worker's order through the master's tunnel.
    let theirs = order(&worker, cluster, &[CertPurpose::KubeletClient]).await;
    let said = bring(&master, &signed(&worker, &theirs)).await;
    assert_eq!(code(said), "order-unsigned");

    // The status document changes nothing either.
    let mut status = master.status("m1", "10.1.0.1");
    let public = KeyPair::generate().expect("key").public_key_pem();
    status["node"] = json!({
        "schema": 1, "revision": 1, "generation": 2, "role": "master", "cluster_id": cluster,
        "state": "ok", "reason": null, "attempts": 0, "phases": [], "current_step": null,
        "last_sweep_at": null, "stack": null, "wants_stack": null, "certificate_requests": [],
        "service_account_key": public, "certificates": [],
    });
    let path = "/v1/hosts/self/status";
    let before = master.current().await;
    assert_eq!(master.call(Method::POST, path, &status).await.0, 204);
    assert_eq!(master.current().await, before);
    assert!(
        before
            .assignment
            .node()
            .expect("node")
            .service_account_keys
            .is_empty()
    );
}

/// Root's signature is valid for its host, cluster, spec and moment, and for no other.
#[tokio::test]
async fn an_order_is_good_once_and_only_for_what_it_names() {
    let (bed, cluster, master, worker) = cluster().await;
    let kubelet = [CertPurpose::KubeletClient];
    let good = signed(&worker, &order(&worker, cluster, &kubelet).await);
    assert_eq!(bring(&worker, &good).await.0, 200);
    assert_eq!(code(bring(&worker, &good).await), "order-replayed");

    let cases: [(&str, Spoil); 6] = [
        ("order-replayed", |o| o.nonce = Nonce(Digest::of(b"guess"))),
        ("order-foreign", |o| {
            o.host_id = pf9_hostagent::model::HostId::random()
        }),
        ("cluster-foreign", |o| o.cluster_id = ClusterId::random()),
        ("order-older", |o| {
            o.generation = Generation(o.generation.0 - 1)
        }),
        ("order-newer", |o| o.generation = o.generation.next()),
        ("schema-unsupported", |o| o.schema = 2),
    ];
    for (want, spoil) in cases {
        let mut bad = order(&worker, cluster, &kubelet).await;
        spoil(&mut bad);
        assert_eq!(code(bring(&worker, &signed(&worker, &bad)).await), want);
    }
    // A nonce that another host was given.
    let mut bad = order(&worker, cluster, &kubelet).await;
    bad.nonce = master.nonce().await;
    assert_eq!(
        code(bring(&worker, &signed(&worker, &bad)).await),
        "order-replayed"
    );
    // One that is refused for another reason is used up anyway.
    let mut late = order(&worker, cluster, &kubelet).await;
    let nonce = late.nonce;
    late.generation = Generation(1);
    assert_eq!(
        code(bring(&worker, &signed(&worker, &late)).await),
        "order-older"
    );
    let mut again = order(&worker, cluster, &kubelet).await;
    again.nonce = nonce;
    assert_eq!(
        code(bring(&worker, &signed(&worker, &again)).await),
        "order-replayed"
    );

    // After a detach root's earlier orders get nothing.
    let before = signed(&worker, &order(&worker, cluster, &kubelet).await);
    assert_eq!(bed.detach(cluster, &[&worker]).await.0, 200);
    assert_eq!(code(bring(&worker, &before).await), "cluster-foreign");
}

#[tokio::test]
async fn certificates_follow_the_table_of_profiles() {
    let (bed, cluster, master, worker) = cluster().await;
    let idle = bed.host("idle", "10.1.0.3").await;

    let wanted = order(&worker, cluster, &[CertPurpose::KubeletClient]).await;
    let (status, batch) = bring(&worker, &signed(&worker, &wanted)).await;
    assert_eq!(status, 200, "{batch}");
    let pem = batch["certificates"][0]["certificate"]
        .as_str()
        .expect("pem");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("der");
    let (_, x) = X509Certificate::from_der(&der).expect("x509");
    // The UID that Kubernetes reads is the spec's, and dates from the attach.
    let spec = worker.current().await;
    let node = spec.assignment.node().expect("node");
    let uid = String::from(node.uid.expect("a uid"));
    let subject = format!("O=system:nodes, CN=system:node:w1, OID(1.3.6.1.4.1.57683.2)={uid}");
    assert_eq!(x.subject().to_string(), subject);
    assert!(
        x.subject_alternative_name().expect("san").is_none(),
        "the request's names are not taken"
    );
    let ca = &node.authorities.cluster;
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).expect("ca");
    let (_, parent) = X509Certificate::from_der(&ca).expect("x509");
    x.verify_signature(Some(parent.public_key()))
        .expect("the cluster's authority signed");

    // A worker may not become a master, and an idle host nothing, whatever its root says.
    for purpose in [
        CertPurpose::Admin,
        CertPurpose::ApiServer,
        CertPurpose::EtcdPeer,
    ] {
        let said = signed(&worker, &order(&worker, cluster, &[purpose]).await);
        assert_eq!(code(bring(&worker, &said).await), "purpose-refused");
        let said = signed(&master, &order(&master, cluster, &[purpose]).await);
        assert_eq!(bring(&master, &said).await.0, 200, "{purpose:?}");
    }
    let said = signed(
        &idle,
        &order(&idle, cluster, &[CertPurpose::KubeletClient]).await,
    );
    assert_eq!(code(bring(&idle, &said).await), "cluster-foreign");
}

#[tokio::test]
async fn a_masters_key_reaches_the_other_masters_only() {
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
    let before = b.current().await.generation.0;
    let key = KeyPair::generate().expect("key").public_key_pem();
    let tell = async |node: &Node, key: &str| {
        let mut said = order(node, cluster, &[]).await;
        said.service_account_key = Some(key.to_owned());
        bring(node, &signed(node, &said)).await
    };
    assert_eq!(tell(&a, &key).await.0, 200);
    let spec = b.spec(before).await.expect("news");
    assert_eq!(
        spec.assignment.node().expect("node").service_account_keys,
        std::slice::from_ref(&key)
    );
    // The same key again changes nothing; a worker's key and nonsense are ignored.
    assert_eq!(tell(&a, &key).await.0, 200);
    assert_eq!(code(tell(&worker, &key).await), "key-refused");
    assert_eq!(code(tell(&a, "nonsense").await), "key-invalid");
    assert_eq!(b.current().await.generation, spec.generation);
    assert_eq!(worker.current().await.generation.0, 2);
}

/// The order key is the one of the first enrolment: no token, and no tunnel, replaces it.
#[tokio::test]
async fn a_second_enrolment_does_not_replace_the_order_key() {
    let (bed, cluster, master, _worker) = cluster().await;
    let idle = bed.host("idle", "10.1.0.3").await;
    for node in [&master, &idle] {
        let mut thief = node.twin();
        thief.root = Arc::new(SigningKey::generate().expect("key").0);
        let token = bed.new_token().await;
        let refused = thief.enrol(&bed, &token).await.expect_err("refused");
        assert_eq!(code(refused), "order-key-pinned");
    }
    // Root's statement for one enrolment is invalid for another token, tunnel key or host.
    let token = bed.new_token().await;
    let mine = csr(&idle.key);
    let good = idle.enrolment(&token, &mine);
    let other = csr(&KeyPair::generate().expect("key"));
    for (field, value, want) in [
        ("csr", json!(other), "order-foreign"),
        (
            "token",
            json!(bed.new_token().await.secret.expose()),
            "order-foreign",
        ),
        ("host_id", json!(master.id), "order-foreign"),
        ("order_key", json!(master.root.trusted()), "order-unsigned"),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let mut node = Node::new(idle.id);
        let refused = node.enrol_with(&bed, &bad).await.expect_err(field);
        assert_eq!(code(refused), want, "{field}");
    }
    let mut unsigned = good.clone();
    let said = Enrolment {
        schema: 1,
        host_id: idle.id,
        token: Digest::of(token.secret.expose().as_bytes()),
        csr: Digest::of(mine.as_bytes()),
        facts: NodeFacts::new("x", &[]),
    };
    unsigned["statement"] = json!(master.signed(DocumentKind::Enrolment, &said));
    let refused = Node::new(idle.id).enrol_with(&bed, &unsigned).await;
    assert_eq!(code(refused.expect_err("another's root")), "order-unsigned");
    // With its own key a host enrols again, and orders as before.
    let mut again = idle.twin();
    again.enrol(&bed, &token).await.expect("the same root");
    // It lost that key, and has the tunnel's: once, if the operator allows it.
    let mut lost = again.twin();
    lost.root = Arc::new(SigningKey::generate().expect("key").0);
    let body = json!({"host": idle.id, "ttl_s": 60});
    assert_eq!(bed.admin("/hosts/allow-reenrol", body).await.0, 200);
    let token = bed.new_token().await;
    lost.enrol(&bed, &token).await.expect("allowed");
    let mut thief = lost.twin();
    thief.root = Arc::new(SigningKey::generate().expect("key").0);
    let token = bed.new_token().await;
    let refused = thief.enrol(&bed, &token).await.expect_err("used up");
    assert_eq!(code(refused), "order-key-pinned");
    let said = signed(
        &master,
        &order(&master, cluster, &[CertPurpose::Admin]).await,
    );
    assert_eq!(bring(&master, &said).await.0, 200);
}

/// Names and addresses of the cluster, of the API, of services and of other hosts.
#[tokio::test]
async fn a_host_has_a_name_and_an_address_of_its_own_or_none() {
    let (bed, cluster, master, worker) = cluster().await;
    let idle = bed.host("idle", "10.1.0.3").await;
    // Reports: refused with a message that names the conflict, and the previous facts stay.
    for (name, ip, want) in [
        ("kubernetes.default.svc", "10.1.0.2", "node-name-taken"),
        ("localhost", "10.1.0.2", "node-name-taken"),
        ("w1.cluster.local", "10.1.0.2", "node-name-taken"),
        ("10.21.0.1", "10.1.0.2", "node-name-taken"),
        ("M1", "10.1.0.2", "node-name-taken"),
        ("idle", "10.1.0.2", "node-name-taken"),
        ("w_1", "10.1.0.2", "node-name-invalid"),
        ("w1", "10.1.0.1", "address-taken"),
        ("w1", "10.1.0.3", "address-taken"),
        ("w1", "10.21.0.1", "address-taken"),
        ("w1", "10.20.0.7", "address-taken"),
        ("w1", "169.254.1.1", "address-taken"),
    ] {
        let (status, fault) = worker.say(name, ip).await;
        assert_eq!(
            (status, fault["code"].as_str()),
            (409, Some(want)),
            "{name} {ip}"
        );
        let words = fault["why"].as_str().expect("why");
        let (words, node) = words.split_once("; until then ").expect("its node");
        assert_eq!(
            node,
            "its node stays w1, and at 10.1.0.2: it follows no other address"
        );
        let named = words.contains(&name.to_lowercase()) || words.contains(ip);
        assert!(named, "{words}");
    }
    let (status, known) = worker.call(Method::GET, FACTS, &Value::Null).await;
    assert_eq!((status, known), (200, json!(worker.facts)));
    // A report without root's signature is refused.
    let bare = json!(NodeFacts::new("w2", &[]));
    let said = worker.call(Method::POST, FACTS, &bare).await;
    assert_eq!(code(said), "order-unsigned");

    // A renamed machine stays the node it was attached as.
    let before = worker.current().await;
    assert_eq!(worker.say("w2", "10.1.0.2").await.0, 204);
    assert_eq!(worker.current().await, before);
    let kubelet = [CertPurpose::KubeletServer];
    let said = signed(&worker, &order(&worker, cluster, &kubelet).await);
    let (status, batch) = bring(&worker, &said).await;
    assert_eq!(status, 200, "{batch}");
    let pem = batch["certificates"][0]["certificate"]
        .as_str()
        .expect("pem");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("der");
    let (_, x) = X509Certificate::from_der(&der).expect("x509");
    assert!(x.subject().to_string().ends_with("CN=system:node:w1"));

    // Free hosts do not belong to this cluster: they are checked when they are attached to it.
    assert_eq!(idle.say("n3", "10.21.0.1").await.0, 204);
    let (status, said) = bed.attach(cluster, &[(&idle, false)]).await;
    let fault = &said["error"]["fault"];
    assert_eq!(
        (status, fault["code"].as_str()),
        (409, Some("address-taken"))
    );
    assert!(
        fault["why"]
            .as_str()
            .expect("why")
            .contains("services network"),
        "{fault}"
    );
    assert_eq!(idle.say("m1", "10.1.0.3").await.0, 204);
    let (status, said) = bed.attach(cluster, &[(&idle, false)]).await;
    let fault = &said["error"]["fault"];
    assert_eq!(
        (status, fault["code"].as_str()),
        (409, Some("node-name-taken"))
    );
    let whose = format!("host {}", master.id);
    assert!(
        fault["why"].as_str().expect("why").contains(&whose),
        "{fault}"
    );
    assert_eq!(idle.say("n3", "10.1.0.3").await.0, 204);
    assert_eq!(bed.attach(cluster, &[(&idle, false)]).await.0, 200);
}

/// The cluster's own names, if its operator chose some.
#[tokio::test]
async fn the_apis_names_and_shared_address_are_no_nodes() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let made = bed
        .post(
            "/qbert/v4/{project}/clusters",
            json!({"name": "c", "containersCidr": "10.20.0.0/16", "servicesCidr": "10.21.0.0/22",
                   "networkPlugin": "bridge", "masterIp": "10.1.0.250",
                   "externalDnsName": "k8s.example.com", "dnsZone": "corp.example"}),
        )
        .await;
    let cluster = made["uuid"].as_str().expect("uuid").parse().expect("uuid");
    let master = bed.host("m1", "10.1.0.1").await;
    let idle = bed.host("idle", "10.1.0.3").await;
    for (name, ip, want) in [
        ("k8s.example.com", "10.1.0.3", "node-name-taken"),
        ("n1.corp.example", "10.1.0.3", "node-name-taken"),
        ("idle", "10.1.0.250", "no-address"),
    ] {
        assert_eq!(idle.say(name, ip).await.0, 204);
        let (status, said) = bed
            .attach(cluster, &[(&master, true), (&idle, false)])
            .await;
        let code = said["error"]["fault"]["code"].as_str();
        assert_eq!((status, code), (409, Some(want)), "{name} {ip}");
    }
    assert_eq!(bed.attach(cluster, &[(&master, true)]).await.0, 200);
    // The master that currently holds the shared address is still itself.
    let report = FactsReport {
        schema: 1,
        host_id: master.id,
        nonce: master.nonce().await,
        facts: NodeFacts::new(
            "m1",
            &["10.1.0.250", "10.1.0.1"].map(|ip| ip.parse().expect("ip")),
        ),
    };
    let said = json!(master.signed(DocumentKind::Facts, &report));
    assert_eq!(master.call(Method::POST, FACTS, &said).await.0, 204);
    let (status, fault) = master.say("k8s.example.com", "10.1.0.1").await;
    assert_eq!(
        (status, fault["code"].as_str()),
        (409, Some("node-name-taken"))
    );
}

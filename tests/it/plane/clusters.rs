//! From enrolled hosts to nodes of a cluster: specs, certificates, membership.

use http::Method;
use pf9_hostagent::model::{Assignment, CertPurpose, ClusterId, Role};
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::bed::Bed;
use super::node::{Node, csr};

const ORDER: &str = "/v1/hosts/self/certificates";

fn order(cluster: ClusterId, purpose: CertPurpose, key: &KeyPair) -> Value {
    json!({"cluster_id": cluster, "requests": [{"purpose": purpose, "csr": csr(key)}]})
}

#[tokio::test]
async fn hosts_become_nodes_and_hosts_again() {
    let bed = Bed::new().await;
    let (master, worker) = (
        bed.host("M1", "10.1.0.1").await,
        bed.host("w1", "10.1.0.2").await,
    );
    let first = master.current().await;
    assert_eq!(
        (first.generation.0, first.assignment),
        (1, Assignment::None)
    );

    let (status, said) = bed
        .ask(
            Method::POST,
            "/qbert/v4/{project}/clusters",
            json!({"name": "c", "containersCidr": "10.20.0.0/16", "servicesCidr": "10.21.0.0/22",
                   "networkPlugin": "bridge"}),
        )
        .await;
    assert_eq!(
        (status, said["error"]["fault"]["code"].as_str()),
        (400, Some("stack-unknown"))
    );
    let stack = bed.stack("1.20.2-1").await;
    let cluster = bed.cluster("c").await;
    // A long poll that is under way hears of the attach.
    let both = [(&master, true), (&worker, false)];
    let (news, attached) = tokio::join!(master.spec(1), bed.attach(cluster, &both));
    assert_eq!(attached.0, 200, "{}", attached.1);
    let spec = news.expect("news");
    let node = spec.assignment.node().expect("node");
    assert_eq!(
        (spec.generation.0, spec.assignment.role()),
        (2, Role::Master)
    );
    assert_eq!(node.node_name.as_str(), "m1");
    assert_eq!(json!(node.stack.manifest), stack["manifest"]);
    assert_eq!(node.network.peers[0].node_ip.to_string(), "10.1.0.2");
    let other = worker.spec(1).await.expect("spec");
    assert_eq!(other.assignment.role(), Role::Worker);
    assert_eq!(other.assignment.node().expect("node").api.host, "10.1.0.1");

    let nodes = bed.get("/qbert/v4/{project}/nodes").await;
    let names: Vec<_> = nodes
        .as_array()
        .expect("list")
        .iter()
        .map(|n| &n["name"])
        .collect();
    assert!(
        names.contains(&&json!("m1")) && names.contains(&&json!("w1")),
        "{names:?}"
    );
    let node = bed
        .get(&format!("/qbert/v4/{{project}}/nodes/{}", master.id))
        .await;
    // It reported ok, but of an older generation.
    assert_eq!(node["pf9"]["state"], json!("converging"));
    assert_eq!(
        (node["isMaster"].clone(), node["clusterName"].clone()),
        (json!(1), json!("c"))
    );
    let mut status = master.status("m1", "10.1.0.1");
    status["observed_generation"] = json!(2);
    master
        .call(Method::POST, "/v1/hosts/self/status", &status)
        .await;
    let node = bed
        .get(&format!("/qbert/v4/{{project}}/nodes/{}", master.id))
        .await;
    assert_eq!(node["pf9"]["state"], json!("ok"));

    let (status, said) = bed.detach(cluster, &[&master]).await;
    assert_eq!(
        (status, said["error"]["fault"]["code"].as_str()),
        (409, Some("last-master"))
    );
    assert_eq!(bed.detach(cluster, &[&worker]).await.0, 200);
    let gone = worker.spec(other.generation.0).await.expect("news");
    assert_eq!(gone.assignment, Assignment::None);
    let alone = master.spec(2).await.expect("news");
    assert!(
        alone
            .assignment
            .node()
            .expect("node")
            .network
            .peers
            .is_empty()
    );
    let path = format!("/qbert/v4/{{project}}/clusters/{cluster}");
    assert_eq!(bed.ask(Method::DELETE, &path, Value::Null).await.0, 200);
    let gone = master.spec(alone.generation.0).await.expect("news");
    assert_eq!(gone.assignment, Assignment::None);
    assert_eq!(bed.get("/qbert/v4/{project}/clusters").await, json!([]));
}

#[tokio::test]
async fn an_attach_is_all_or_nothing() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let (a, b) = (
        bed.host("a", "10.1.0.1").await,
        bed.host("a", "10.1.0.2").await,
    );
    let cluster = bed.cluster("c").await;
    let (status, said) = bed.attach(cluster, &[(&a, true), (&b, false)]).await;
    assert_eq!(
        (status, said["error"]["fault"]["code"].as_str()),
        (409, Some("node-name-taken"))
    );
    assert_eq!(bed.get("/qbert/v4/{project}/nodes").await, json!([]));
    assert_eq!(a.current().await.generation.0, 1);
    // Restored from a backup: it has less than the host saw. It says so, and says it once.
    let ask = |seen: u64| format!("/v1/hosts/self/spec?after=9&seen={seen}&wait=0");
    let (status, _) = a.call(Method::GET, &ask(9), &Value::Null).await;
    assert_eq!(status, 200, "an older one is told too");
    let (status, _) = a.call(Method::GET, &ask(1), &Value::Null).await;
    assert_eq!(status, 204, "but not again");
    let stranger = Node::new(pf9_hostagent::model::HostId::random());
    let (status, said) = bed.attach(cluster, &[(&a, true), (&stranger, false)]).await;
    assert_eq!(
        (status, said["error"]["fault"]["code"].as_str()),
        (404, Some("host-unknown"))
    );
    // A host is in one cluster at a time.
    assert_eq!(bed.attach(cluster, &[(&a, true)]).await.0, 200);
    let other = bed.cluster("d").await;
    let (status, said) = bed.attach(other, &[(&a, true)]).await;
    assert_eq!(
        (status, said["error"]["fault"]["code"].as_str()),
        (409, Some("host-attached"))
    );
}

#[tokio::test]
async fn certificates_say_what_the_table_says_to_whom_it_says() {
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
    let key = KeyPair::generate().expect("key");

    let ask = order(cluster, CertPurpose::KubeletClient, &key);
    let (status, batch) = worker.call(Method::POST, ORDER, &ask).await;
    assert_eq!(status, 200, "{batch}");
    let pem = batch["certificates"][0]["certificate"]
        .as_str()
        .expect("pem");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("der");
    let (_, x) = X509Certificate::from_der(&der).expect("x509");
    assert_eq!(x.subject().to_string(), "O=system:nodes, CN=system:node:w1");
    assert!(
        x.subject_alternative_name().expect("san").is_none(),
        "the request's names are not taken"
    );
    let spec = worker.current().await;
    let ca = &spec.assignment.node().expect("node").authorities.cluster;
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).expect("ca");
    let (_, parent) = X509Certificate::from_der(&ca).expect("x509");
    x.verify_signature(Some(parent.public_key()))
        .expect("the cluster's authority signed");

    // A worker may not be a master, an idle host nothing, and nobody somebody of elsewhere.
    let code = |answer: (u16, Value)| (answer.0, answer.1["code"].as_str().map(str::to_owned));
    let refused = |code: &str| (403, Some(code.to_owned()));
    for purpose in [
        CertPurpose::Admin,
        CertPurpose::ApiServer,
        CertPurpose::EtcdPeer,
    ] {
        let ask = order(cluster, purpose, &key);
        let said = code(worker.call(Method::POST, ORDER, &ask).await);
        assert_eq!(said, refused("purpose-refused"), "{purpose:?}");
        assert_eq!(
            master.call(Method::POST, ORDER, &ask).await.0,
            200,
            "{purpose:?}"
        );
    }
    let said = code(idle.call(Method::POST, ORDER, &ask).await);
    assert_eq!(said, refused("cluster-foreign"));
    let foreign = order(ClusterId::random(), CertPurpose::KubeletClient, &key);
    let said = code(worker.call(Method::POST, ORDER, &foreign).await);
    assert_eq!(said, refused("cluster-foreign"));
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
    let ask =
        |key: &str| json!({"cluster_id": cluster, "requests": [], "service_account_key": key});
    assert_eq!(a.call(Method::POST, ORDER, &ask(&key)).await.0, 200);
    let spec = b.spec(before).await.expect("news");
    assert_eq!(
        spec.assignment.node().expect("node").service_account_keys,
        std::slice::from_ref(&key)
    );
    // The same key again is no news; a worker's key and nonsense are none either.
    assert_eq!(a.call(Method::POST, ORDER, &ask(&key)).await.0, 200);
    let (status, fault) = worker.call(Method::POST, ORDER, &ask(&key)).await;
    assert_eq!((status, fault["code"].as_str()), (403, Some("key-refused")));
    let (status, fault) = a.call(Method::POST, ORDER, &ask("nonsense")).await;
    assert_eq!((status, fault["code"].as_str()), (400, Some("key-invalid")));
    assert_eq!(b.current().await.generation, spec.generation);
    assert_eq!(worker.current().await.generation.0, 2);
}

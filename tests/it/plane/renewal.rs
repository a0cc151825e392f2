//! A host's key on the plane: renewed, expired, lost, removed.

use std::time::Duration;

use http::Method;
use jiff::SignedDuration;
use pf9_hostagent::model::{
    Assignment, Digest, DocumentKind, EnrolRequest, Farewell, HostId, Timestamp,
};
use pf9_hostagent::mux::Closed;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::bed::{Bed, until};
use super::node::{Node, csr};

async fn code(node: &Node, method: Method, path: &str, body: &Value) -> (u16, String) {
    let (status, fault) = node.call(method, path, body).await;
    let code = fault["code"].as_str().unwrap_or_default();
    (status, code.to_owned())
}

/// Every call a node may make, and its body.
fn calls(node: &Node) -> [(&'static str, Method, &'static str, Value); 8] {
    let cluster = uuid::Uuid::nil();
    [
        ("spec", Method::GET, "/v1/hosts/self/spec", Value::Null),
        (
            "status",
            Method::POST,
            "/v1/hosts/self/status",
            node.status("a", "10.1.0.1"),
        ),
        (
            "events",
            Method::POST,
            "/v1/hosts/self/events",
            json!({"events": []}),
        ),
        (
            "certificates",
            Method::POST,
            "/v1/hosts/self/certificates",
            json!({"cluster_id": cluster, "requests": []}),
        ),
        (
            "manifest",
            Method::GET,
            "/v1/stacks/00/manifest",
            Value::Null,
        ),
        ("archive", Method::GET, "/v1/stacks/00/archive", Value::Null),
        (
            "renew",
            Method::POST,
            "/v1/hosts/self/renew",
            json!({"schema": 1, "csr": csr(&node.key)}),
        ),
        ("leave", Method::POST, "/v1/hosts/self/leave", Value::Null),
    ]
}

/// Waits until this host's certificate has expired. Time has no event.
async fn expired(bed: &Bed, host: HostId) {
    let shown = bed.get(&format!("/resmgr/v1/hosts/{host}")).await;
    let ends = shown["certificate_not_after"].as_str().expect("a time");
    let ends: Timestamp = ends.parse().expect("a time");
    until(|| async { (Timestamp::now() >= ends).then_some(()) }).await;
}

#[tokio::test]
async fn both_pairs_are_valid_until_a_connection_presents_the_next_one() {
    let bed = Bed::new().await;
    let mut node = bed.host("a", "10.1.0.1").await;
    let old_session = node.tunnel.clone().expect("connected");
    let mut lost = node.renew().await.expect("renewed");
    let mut next = node
        .renew()
        .await
        .expect("an answer that is lost is asked for again");
    assert_eq!(
        lost.connect(&bed).await,
        Err(403),
        "the newer one replaces it"
    );
    assert_eq!(node.twin().connect(&bed).await, Ok(()), "the old one works");
    assert_eq!(next.connect(&bed).await, Ok(()), "the next one works");
    assert_eq!(next.kind, "full");
    assert_eq!(
        node.twin().connect(&bed).await,
        Err(403),
        "from now on only that"
    );
    assert!(
        old_session.ping().await.is_none(),
        "a newer program fenced it"
    );

    // A key is valid for one certificate: the pinned one cannot be requested again.
    let again = json!({"schema": 1, "csr": csr(&next.key)});
    let path = "/v1/hosts/self/renew";
    let refused = code(&next, Method::POST, path, &again).await;
    assert_eq!(refused, (400, "key-reused".to_owned()));
    let odd = json!({"schema": 1, "csr": "nonsense"});
    let refused = code(&next, Method::POST, path, &odd).await;
    assert_eq!(refused, (400, "csr-refused".to_owned()));
    node = next.renew().await.expect("and so on");
    assert_eq!(node.connect(&bed).await, Ok(()));
}

#[tokio::test]
async fn a_renewal_leaves_the_session_that_asked_for_it_alone() {
    let bed = Bed::new().await;
    let node = bed.host("a", "10.1.0.1").await;
    let mut next = node.renew().await.expect("renewed");
    // Presented as the agent does: a query, no session.
    next.show(&bed).await.expect("taken");
    assert_eq!(node.report("a", "10.1.0.1").await.0, 204);
    let host = bed.get(&format!("/resmgr/v1/hosts/{}", node.id)).await;
    assert_eq!(host["pf9"]["connected"], json!(true));
    assert_eq!(node.twin().connect(&bed).await, Err(403));
    assert_eq!(next.connect(&bed).await, Ok(()));
}

#[tokio::test]
async fn an_expired_certificate_allows_only_its_renewal() {
    let life = SignedDuration::from_secs(2);
    let bed = Bed::with(|config| config.host_certificate = life).await;
    let mut node = Node::new(HostId::random());
    let token = bed.new_token().await;
    node.enrol(&bed, &token).await.expect("enrolled");
    node.connect(&bed).await.expect("connected");
    let full = node.tunnel.clone().expect("connected");
    expired(&bed, node.id).await;
    // The session does not outlive its certificate.
    let farewell = super::bed::within(full.peer_leaves()).await;
    let words = farewell.expect("farewell").words;
    assert!(words.contains("has expired"), "{words}");

    node.connect(&bed).await.expect("it is excused");
    assert_eq!(node.kind, "renewal-only");
    for (name, method, path, body) in calls(&node) {
        if name != "renew" {
            let refused = code(&node, method, path, &body).await;
            let want = (403, "session-renewal-only".to_owned());
            assert_eq!(refused, want, "{name}");
        }
    }
    let path = format!("/resmgr/v1/hosts/{}", node.id);
    assert_eq!(bed.get(&path).await["pf9"]["connected"], json!(false));
    // The plane opens nothing on it either.
    let numbers = format!("/metrics/hosts/{}/tunnel", node.id);
    let (status, said) = bed.ask(Method::GET, &numbers, Value::Null).await;
    assert!(
        status >= 400 && said.to_string().contains("not connected"),
        "{said}"
    );

    let mut next = node.renew().await.expect("renewed");
    let session = node.tunnel.clone().expect("connected");
    next.connect(&bed).await.expect("connected");
    assert_eq!(next.kind, "full");
    super::bed::within(session.closed()).await;
    assert_eq!(next.report("a", "10.1.0.1").await.0, 204);

    // Removed while expired: no longer excused, and it was not a node.
    expired(&bed, node.id).await;
    assert_eq!(bed.ask(Method::DELETE, &path, Value::Null).await.0, 200);
    assert_eq!(next.connect(&bed).await, Err(403));
}

#[tokio::test]
async fn a_new_key_needs_the_old_one_or_the_operator_once() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let node = bed.host("m", "10.1.0.1").await;
    let cluster = bed.cluster("c").await;
    assert_eq!(bed.attach(cluster, &[(&node, true)]).await.0, 200);
    let role = node.current().await;
    // Neither a host that is a node, nor one that the operator has only authorised.
    let idle = bed.host("i", "10.1.0.2").await;
    let path = format!("/resmgr/v1/hosts/{}/roles/pf9-kube", idle.id);
    assert_eq!(bed.ask(Method::PUT, &path, Value::Null).await.0, 200);
    let thief = async |id| {
        let token = bed.new_token().await;
        let mut thief = Node::new(id);
        let refused = thief.enrol(&bed, &token).await;
        let (status, fault) = refused.expect_err("another key");
        assert_eq!((status, &fault["code"]), (409, &json!("host-enrolled")));
        let fix = fault["fix"].as_str().expect("fix");
        assert!(fix.contains("allow-reenrol"), "{fix}");
        // That does not use the token up.
        Node::new(HostId::random())
            .enrol(&bed, &token)
            .await
            .expect("good");
    };
    thief(node.id).await;
    thief(idle.id).await;
    // A proof of the pinned key is for this enrolment only, and made with the pinned key.
    for (by, token_of, status, code) in [
        (&node.key, "another", 400, "proof-invalid"),
        (&idle.key, "this", 409, "host-enrolled"),
    ] {
        let (token, other) = (bed.new_token().await, bed.new_token().await);
        let thief = Node::new(node.id);
        let csr = csr(&thief.key);
        let stated = if token_of == "this" { &token } else { &other };
        let statement = EnrolRequest::possession(&stated.secret, node.id, &csr).to_string();
        let mut params = rcgen::CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, statement);
        let proof = params
            .serialize_request(by)
            .and_then(|r| r.pem())
            .expect("proof");
        let mut body = node.enrolment(&token, &csr);
        body["proof"] = json!(proof);
        let refused = Node::new(node.id).enrol_with(&bed, &body).await;
        let (got, fault) = refused.expect_err("no proof");
        assert_eq!((got, &fault["code"]), (status, &json!(code)));
    }
    assert_eq!(
        node.report("m", "10.1.0.1").await.0,
        204,
        "it is not disturbed"
    );

    let allow = async |ttl: i64| {
        let body = json!({"host": node.id, "ttl_s": ttl});
        bed.admin("/hosts/allow-reenrol", body).await
    };
    assert_eq!(allow(0).await.0, 400);
    assert_eq!(allow(60).await.0, 200);
    let mut new = Node::new(node.id);
    let token = bed.new_token().await;
    new.enrol(&bed, &token).await.expect("allowed");
    node.closed().await;
    let mut old = node.twin();
    assert_eq!(
        old.connect(&bed).await,
        Err(403),
        "the lost key opens nothing"
    );
    new.connect(&bed).await.expect("connected");
    let mut found = new.current().await;
    if let (Assignment::Master(found), Assignment::Master(had)) =
        (&mut found.assignment, &role.assignment)
    {
        let keys = [
            &mut found.etcd.backup_signers,
            &mut had.etcd.backup_signers.clone(),
        ]
        .map(std::mem::take);
        assert_eq!(
            keys.map(|k| k.len()),
            [2, 1],
            "backups of before are good still"
        );
        found.etcd.backup_signers = had.etcd.backup_signers.clone();
    }
    assert_eq!(found.assignment, role.assignment, "same role");
    thief(node.id).await;

    // A permission expires.
    assert_eq!(allow(1).await.0, 200);
    let path = format!("/resmgr/v1/hosts/{}", node.id);
    until(|| async {
        let host = bed.get(&path).await;
        let until = host["reenrol_allowed_until"].as_str()?.parse::<Timestamp>();
        (Timestamp::now() >= until.ok()?).then_some(())
    })
    .await;
    thief(node.id).await;
    let unknown = json!({"host": HostId::random(), "ttl_s": 60});
    assert_eq!(bed.admin("/hosts/allow-reenrol", unknown).await.0, 404);
}

#[tokio::test]
async fn an_unused_host_id_may_be_enrolled_again() {
    let bed = Bed::new().await;
    let id = HostId::random();
    for _ in 0..2 {
        let token = bed.new_token().await;
        let mut node = Node::new(id);
        node.enrol(&bed, &token).await.expect("enrolled");
    }
}

#[tokio::test]
async fn a_removed_node_fetches_its_order_and_is_then_unknown() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let mut node = bed.host("m", "10.1.0.1").await;
    let worker = bed.host("w", "10.1.0.2").await;
    let cluster = bed.cluster("c").await;
    assert_eq!(
        bed.attach(cluster, &[(&node, true), (&worker, false)])
            .await
            .0,
        200
    );
    let before = node.current().await.generation.0;
    let path = format!("/resmgr/v1/hosts/{}?force=true", node.id);
    assert_eq!(bed.ask(Method::DELETE, &path, Value::Null).await.0, 200);
    let closed = tokio::time::timeout(Duration::from_secs(5), node.closed());
    closed.await.expect("within seconds");

    node.connect(&bed).await.expect("for its order");
    assert_eq!(node.kind, "removal-only");
    for (name, method, path, body) in calls(&node) {
        if !["spec", "status", "leave"].contains(&name) {
            let refused = code(&node, method, path, &body).await;
            let want = (403, "session-removal-only".to_owned());
            assert_eq!(refused, want, "{name}");
        }
    }
    let numbers = format!("/metrics/hosts/{}/tunnel", node.id);
    assert!(bed.ask(Method::GET, &numbers, Value::Null).await.0 >= 400);
    let order = node.spec(before).await.expect("signed");
    assert!(order.assignment.node().is_none(), "{order:?}");

    // It reports that it is converging: it may stay. Then that it is done.
    let tell = async |role: &str, generation: u64| {
        let mut status = node.status("m", "10.1.0.1");
        status["observed_generation"] = json!(generation);
        status["node"] = json!({
            "schema": 1, "revision": 1, "generation": generation, "role": role,
            "cluster_id": null, "state": "ok", "reason": null, "attempts": 0, "phases": [],
            "current_step": null, "last_sweep_at": null, "stack": null, "wants_stack": null,
            "certificate_requests": [], "service_account_key": null, "certificates": [],
        });
        node.call(Method::POST, "/v1/hosts/self/status", &status)
            .await
    };
    assert_eq!(tell("master", before).await.0, 204);
    assert_eq!(
        tell("none", before).await.0,
        204,
        "the old generation says nothing"
    );
    assert_eq!(
        node.spec(before).await.expect("still").generation,
        order.generation
    );
    let hosts = bed.get("/resmgr/v1/hosts").await;
    assert_eq!(
        hosts.as_array().map(Vec::len),
        Some(1),
        "it is not a valid host: {hosts}"
    );
    assert_eq!(tell("none", order.generation.0).await.0, 204);
    assert_eq!(
        node.closed().await,
        Closed::Drained,
        "the answer was delivered first"
    );
    assert_eq!(node.connect(&bed).await, Err(403));

    // One that leaves instead of reporting.
    let path = format!("/resmgr/v1/hosts/{}", worker.id);
    assert_eq!(bed.ask(Method::DELETE, &path, Value::Null).await.0, 200);
    let mut worker = worker.twin();
    worker.connect(&bed).await.expect("for its order");
    let left = worker.call(Method::POST, "/v1/hosts/self/leave", &Value::Null);
    assert_eq!(left.await.0, 204);
    worker.closed().await;
    assert_eq!(worker.connect(&bed).await, Err(403));
}

/// Decommissioned while the plane was away: what root signed then, brought by hand, and nothing else, ends a host.
#[tokio::test]
async fn a_farewell_that_is_brought_ends_the_host_whose_root_signed_it() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let master = bed.host("m", "10.1.0.1").await;
    let worker = bed.host("w", "10.1.0.2").await;
    let cluster = bed.cluster("c").await;
    let both = [(&master, true), (&worker, false)];
    assert_eq!(bed.attach(cluster, &both).await.0, 200);
    let says = |node: &Node| {
        let answer = node.answer.as_ref().expect("enrolled");
        let certificate = CertificateDer::from_pem_slice(answer.certificate.as_bytes());
        Farewell {
            schema: 1,
            host_id: node.id,
            certificate: Digest::of(&certificate.expect("certificate")),
            at: Timestamp::now(),
        }
    };
    let refused = async |said: Value| {
        let (status, fault) = bed.admin("/hosts/farewell", said).await;
        let code = fault["code"].as_str().unwrap_or_default();
        (status, code.to_owned())
    };
    let good = json!(worker.signed(DocumentKind::Farewell, &says(&worker)));

    // Another's root, under its own name and under this one's.
    let mut forged = json!(master.signed(DocumentKind::Farewell, &says(&worker)));
    assert_eq!(refused(forged.clone()).await, (403, "order-foreign".into()));
    forged["key_id"] = json!(worker.root.trusted().id);
    assert_eq!(refused(forged).await, (403, "order-unsigned".into()));
    let stranger = Node::new(worker.id);
    let forged = json!(stranger.signed(DocumentKind::Farewell, &says(&worker)));
    assert_eq!(refused(forged).await, (404, "host-unknown".into()));
    // Another document of its root.
    let other = json!(worker.signed(DocumentKind::Facts, &says(&worker)));
    assert_eq!(refused(other).await, (400, "order-malformed".into()));
    // Of an earlier life: the host has had another certificate since.
    let mut renewed = worker.renew().await.expect("renewed");
    renewed.connect(&bed).await.expect("with the next one");
    assert_eq!(refused(good).await, (409, "order-replayed".into()));
    let hosts = bed.get("/resmgr/v1/hosts").await;
    assert_eq!(hosts.as_array().map(Vec::len), Some(2), "{hosts}");

    let good = json!(renewed.signed(DocumentKind::Farewell, &says(&renewed)));
    let (status, answer) = bed.admin("/hosts/farewell", good.clone()).await;
    assert_eq!((status, &answer["host"]), (200, &json!(worker.id)));
    let hosts = bed.get("/resmgr/v1/hosts").await;
    assert_eq!(hosts.as_array().map(Vec::len), Some(1), "{hosts}");
    renewed.closed().await;
    assert_eq!(
        renewed.connect(&bed).await,
        Err(403),
        "it has nothing to follow"
    );
    let shown = bed.admin_get("/clusters/c").await.1;
    assert_eq!(shown["nodes"].as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!(refused(good).await, (404, "host-unknown".into()));
}

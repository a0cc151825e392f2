//! First start, login, refusals in the format of each API, restart.

use std::os::unix::fs::PermissionsExt;

use http::Method;
use serde_json::{Value, json};

use super::bed::Bed;
use super::node::Node;
use pf9_hostagent::model::{Digest, HostId};

#[tokio::test]
async fn the_first_start_makes_an_administrator_and_nobody_else_gets_in() {
    let bed = Bed::new().await;
    let mode = |name: &str| {
        let meta = std::fs::metadata(bed.file(name)).expect("file");
        meta.permissions().mode() & 0o777
    };
    for secret in ["admin-password", "plane.redb", "admin.sock"] {
        assert_eq!(mode(secret), 0o600, "{secret}");
    }
    assert_eq!(mode(""), 0o700);
    let health = bed
        .http
        .get(format!("{}/healthz", bed.url))
        .send()
        .await
        .expect("answer");
    assert_eq!(health.status(), 200);

    for (user, password) in [("admin@pf9.local", "wrong"), ("root", "wrong")] {
        let (status, headers, body) = bed.try_log_in(user, password).await;
        assert_eq!(
            (status.as_u16(), body["error"]["code"].as_u64()),
            (401, Some(401)),
            "{body}"
        );
        assert!(!headers.contains_key("x-subject-token"));
    }
    let stranger = bed.http.get(format!("{}/resmgr/v1/hosts", bed.url));
    let answer = stranger
        .header("X-Auth-Token", "guess")
        .send()
        .await
        .expect("answer");
    assert_eq!(answer.status(), 401);
    assert_eq!(bed.get("/resmgr/v1/hosts").await, json!([]));
}

/// Access to the store is enough to reset the administrator's password: the previous one, and everything obtained with
/// it, becomes invalid.
#[tokio::test]
async fn a_reset_of_the_administrators_password_ends_all_credentials() {
    let bed = Bed::new().await;
    let file = bed.file("admin-password");
    let before = std::fs::read_to_string(&file).expect("password");
    let credential =
        json!({"application_credential": {"name": "script", "secret": "kept-by-a-script"}});
    let path = "/keystone/v3/users/admin/application_credentials";
    let (status, made) = bed.ask(Method::POST, path, credential).await;
    assert_eq!(status, 201, "{made}");
    let by_credential = || async {
        let body = json!({"auth": {"identity": {"methods": ["application_credential"],
            "application_credential": {"id": made["application_credential"]["id"], "secret": "kept-by-a-script"}}}});
        let url = format!("{}/keystone/v3/auth/tokens", bed.url);
        let answer = bed.http.post(url).json(&body).send().await.expect("answer");
        answer.status().as_u16()
    };
    assert_eq!(by_credential().await, 201);
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_pf9-plane"))
        .args(["admin", "reset-password", "--state-dir"])
        .arg(bed.dir.path())
        .output()
        .await
        .expect("pf9-plane");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    let after = std::fs::read_to_string(&file).expect("password");
    assert_ne!(before, after);
    assert!(
        said.contains("admin-password") && !said.contains(after.trim()),
        "{said}"
    );
    let mode = std::fs::metadata(&file).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (status, _) = bed.ask(Method::GET, "/resmgr/v1/hosts", Value::Null).await;
    assert_eq!(status, 401, "a token of before");
    assert_eq!(by_credential().await, 401, "a credential of before");
    let (status, ..) = bed.try_log_in("admin@pf9.local", before.trim()).await;
    assert_eq!(status.as_u16(), 401);
    let (status, ..) = bed.try_log_in("admin@pf9.local", after.trim()).await;
    assert_eq!(status.as_u16(), 201);
}

#[tokio::test]
async fn every_api_refuses_in_its_own_shape() {
    let bed = Bed::new().await;
    let unknown = HostId::random();
    for (method, path, body, status, pointer, words) in [
        (
            Method::GET,
            format!("/resmgr/v1/hosts/{unknown}"),
            Value::Null,
            404,
            "/message",
            "no host",
        ),
        (
            Method::GET,
            "/resmgr/v1/hosts/x".into(),
            Value::Null,
            400,
            "/message",
            "UUID",
        ),
        (
            Method::GET,
            "/resmgr/v1/nothing".into(),
            Value::Null,
            404,
            "/message",
            "nothing at",
        ),
        (
            Method::DELETE,
            "/resmgr/v1/hosts".into(),
            Value::Null,
            405,
            "/message",
            "method",
        ),
        (
            Method::GET,
            "/qbert/v4/other/nodes".into(),
            Value::Null,
            404,
            "/error/message",
            "project",
        ),
        (
            Method::POST,
            "/qbert/v4/{project}/clusters".into(),
            json!({"name": "a", "containersCidr": "10.0.0.0/40", "servicesCidr": "10.1.0.0/16",
                   "networkPlugin": "bridge"}),
            400,
            "/error/message",
            "containersCidr",
        ),
        (
            Method::POST,
            "/qbert/v4/{project}/clusters".into(),
            json!({"name": "a", "containersCidr": "127.0.0.0/16", "servicesCidr": "10.1.0.0/16",
                   "networkPlugin": "bridge"}),
            409,
            "/error/message",
            "containersCidr: 127.0.0.0/16 contains 127.0.0.1, where this plane is",
        ),
        (
            Method::POST,
            "/qbert/v4/{project}/clusters".into(),
            json!({"name": "a", "containersCidr": "10.0.0.0/16", "servicesCidr": "10.1.0.0/16",
                   "networkPlugin": "bridge", "stack": "9"}),
            400,
            "/error/message",
            "stack",
        ),
        (
            Method::POST,
            "/v1/enrol".into(),
            json!({"schema": 1}),
            400,
            "/why",
            "token",
        ),
        (
            Method::GET,
            "/elsewhere".into(),
            Value::Null,
            404,
            "/code",
            "no-such-path",
        ),
        (
            Method::GET,
            "/k8s/clusters/x/api".into(),
            Value::Null,
            400,
            "/message",
            "UUID",
        ),
    ] {
        let (got, said) = bed.ask(method, &path, body).await;
        let text = said
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default();
        assert!(
            got == status && text.contains(words),
            "{path}: {got} {said}"
        );
        assert_eq!(text.lines().count(), 1, "one line: {text}");
    }
    let big = "x".repeat(2 * 1024 * 1024);
    let (status, _) = bed
        .ask(Method::POST, "/qbert/v4/{project}/clusters", big.into())
        .await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn a_token_lets_one_host_in_once() {
    let bed = Bed::new().await;
    let token = bed.new_token().await;
    let der = {
        use rustls::pki_types::pem::PemObject;
        let pem = std::fs::read(bed.file("ca.pem")).expect("ca.pem");
        rustls::pki_types::CertificateDer::from_pem_slice(&pem).expect("pem")
    };
    assert_eq!(token.ca, Digest::of(&der), "the token names the plane");

    let mut node = Node::new(HostId::random());
    let mut wrong = token.clone();
    wrong.secret = pf9_hostagent::model::Secret::new("guess".into());
    let (status, fault) = node.enrol(&bed, &wrong).await.expect_err("unknown");
    assert_eq!(
        (status, fault["code"].as_str()),
        (403, Some("token-unknown"))
    );

    // A failing request does not use the token up.
    let bad = node.enrolment(&token, "nonsense");
    let (status, fault) = node.enrol_with(&bed, &bad).await.expect_err("csr");
    assert_eq!((status, fault["code"].as_str()), (400, Some("csr-refused")));
    node.enrol(&bed, &token).await.expect("enrolled");

    let mut second = Node::new(HostId::random());
    let (status, fault) = second.enrol(&bed, &token).await.expect_err("used");
    assert_eq!((status, fault["code"].as_str()), (403, Some("token-used")));
    let hosts = bed.get("/resmgr/v1/hosts").await;
    assert_eq!(hosts.as_array().expect("list").len(), 1);
    assert_eq!(hosts[0]["id"], json!(node.id));
    assert_eq!(hosts[0]["roles"], json!([]));
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let mut node = bed.host("m1", "10.1.0.1").await;
    let cluster = bed.cluster("c").await;
    assert_eq!(bed.attach(cluster, &[(&node, true)]).await.0, 200);
    let before = node.current().await;
    let used = bed.new_token().await;
    Node::new(HostId::random())
        .enrol(&bed, &used)
        .await
        .expect("enrolled");
    let hosts = bed.get("/resmgr/v1/hosts").await;

    let bed = bed.restart().await;
    // The plane sent GOAWAY, and the same certificate is valid for the same plane.
    node.closed().await;
    node.connect(&bed).await.expect("connected again");
    assert_eq!(node.current().await, before, "same spec, same generation");
    let (status, fault) = Node::new(HostId::random())
        .enrol(&bed, &used)
        .await
        .expect_err("used");
    assert_eq!((status, fault["code"].as_str()), (403, Some("token-used")));
    // The operator's token is still valid; only the connected hosts have changed.
    let again = bed.get("/resmgr/v1/hosts").await;
    let ids = |list: &Value| {
        let list = list.as_array().expect("list");
        list.iter().map(|h| h["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&again), ids(&hosts));
}

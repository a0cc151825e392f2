//! Kubernetes is called in the person's name, with a short-lived token that `pf9ctl kube-token` gets.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use pf9_hostagent::model::{CertPurpose, ClusterId};
use serde_json::{Value, json};

use super::bed::{Bed, within};
use super::kube::{self, master_with};

const PASSWORD: &str = "correct horse battery";

/// An API server that answers with the identity it was called with, and the other headers.
fn names(request: &Request<Incoming>) -> std::io::Result<Response<Full<Bytes>>> {
    let header = |name: &str| {
        let all = request.headers().get_all(name).iter();
        let all: Vec<&str> = all.map(|v| v.to_str().expect("text")).collect();
        all.join(",")
    };
    let said = format!(
        "{}|{}|{}|{}",
        header("impersonate-user"),
        header("impersonate-group"),
        header("impersonate-uid"),
        header("x-remote-user"),
    );
    Ok(Response::new(Full::new(Bytes::from(said))))
}

/// A user with a role in the project; returns the user's id.
async fn person(bed: &Bed, name: &str, role: &str) -> String {
    let body = json!({"user": {"name": name, "password": PASSWORD}});
    let (status, said) = bed.ask(Method::POST, "/keystone/v3/users", body).await;
    assert_eq!(status, 201, "{said}");
    let id = said["user"]["id"].as_str().expect("id").to_owned();
    let path = format!("/keystone/v3/projects/{{project}}/users/{id}/roles/{role}");
    let (status, said) = bed.ask(Method::PUT, &path, Value::Null).await;
    assert_eq!(status, 204, "{said}");
    id
}

async fn token_of(bed: &Bed, name: &str) -> String {
    let (status, headers, body) = bed.try_log_in(name, PASSWORD).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    headers["x-subject-token"]
        .to_str()
        .expect("text")
        .to_owned()
}

async fn get(bed: &Bed, url: &str, token: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = bed.http.get(url).bearer_auth(token);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = within(request.send()).await.expect("answer");
    let status = answer.status().as_u16();
    (status, answer.text().await.expect("text"))
}

#[tokio::test]
async fn the_api_server_gets_the_callers_identity_and_no_forged_one() {
    let bed = Bed::new().await;
    let (cluster, mut node, server, long_lived) = kube::world(&bed).await;
    let _api = master_with(cluster, &mut node, CertPurpose::ApiServer, names).await;
    let url = format!("{server}/api/v1/pods");
    let said = get(&bed, &url, &long_lived, &[]).await;
    assert_eq!(
        said,
        (200, "Default/admin@pf9.local|pf9:role:admin|admin|".into())
    );
    for role in ["reader", "member", "admin"] {
        let id = person(&bed, role, role).await;
        let token = token_of(&bed, role).await;
        let whole = format!("Default/{role}|pf9:role:{role}|{id}|");
        assert_eq!(get(&bed, &url, &token, &[]).await, (200, whole.clone()));
        // Headers named in `Connection` are removed, and those that the plane adds are not.
        let hop = [(
            "connection",
            "impersonate-user, impersonate-group, x-remote-user",
        )];
        assert_eq!(get(&bed, &url, &token, &hop).await, (200, whole.clone()));
        let remote = [
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
        ];
        assert_eq!(get(&bed, &url, &token, &remote).await, (200, whole));
        for name in [
            "Impersonate-User",
            "impersonate-group",
            "Impersonate-Extra-scopes",
            "Impersonate-Uid",
        ] {
            let claims = [(name, "system:masters")];
            let (status, said) = get(&bed, &url, &token, &claims).await;
            assert_eq!(status, 403, "{name}: {said}");
            assert!(said.contains("impersonates another user"), "{said}");
        }
    }
    // Two different tokens are refused: otherwise the owner would depend on the reader.
    let reader = token_of(&bed, "reader").await;
    let two = [("x-auth-token", long_lived.as_str())];
    assert_eq!(get(&bed, &url, &reader, &two).await.0, 401);
    // Without a role a person does not learn that the cluster exists.
    let nobody = json!({"user": {"name": "nobody", "password": PASSWORD}});
    let (status, said) = bed.ask(Method::POST, "/keystone/v3/users", nobody).await;
    assert_eq!(status, 201, "{said}");
    let auth = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": {
        "name": "nobody", "domain": {"id": "default"}, "password": PASSWORD}}}}});
    let path = format!("{}/keystone/v3/auth/tokens", bed.url);
    let answer = within(bed.http.post(path).json(&auth).send())
        .await
        .expect("answer");
    let token = answer.headers()["x-subject-token"]
        .to_str()
        .expect("text")
        .to_owned();
    assert_eq!(get(&bed, &url, &token, &[]).await.0, 404);
}

/// `pf9ctl kube-token` on a machine with files below `root`.
async fn kube_token(root: &Path, cluster: ClusterId) -> (bool, String) {
    let mut command = tokio::process::Command::new(crate::support::program("pf9ctl"));
    command
        .arg("--root")
        .arg(root)
        .args(["kube-token", "--cluster", &cluster.to_string()]);
    command
        .args(["--cache-dir", "/cache"])
        .stdin(Stdio::null())
        .env_clear();
    let done = within(command.output()).await.expect("pf9ctl runs");
    let text = [&done.stdout[..], &done.stderr[..]].concat();
    (
        done.status.success(),
        String::from_utf8(text).expect("text"),
    )
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("directory");
    std::fs::write(path, text).expect("file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("mode");
}

#[tokio::test]
async fn a_kubeconfig_has_no_secret_and_gets_a_short_lived_token() {
    let bed = Bed::new().await;
    let (cluster, mut node, server, _) = kube::world(&bed).await;
    let _api = master_with(cluster, &mut node, CertPurpose::ApiServer, names).await;
    let id = person(&bed, "alice", "member").await;
    let token = token_of(&bed, "alice").await;
    let path = format!("/keystone/v3/users/{id}/application_credentials");
    let body = json!({"application_credential": {"name": "laptop"}});
    let made = bed
        .http
        .post(format!("{}{path}", bed.url))
        .header("x-auth-token", &token);
    let made: Value = within(made.json(&body).send())
        .await
        .expect("answer")
        .json()
        .await
        .expect("json");
    let made = &made["application_credential"];

    // The kubeconfig of a person names the plugin, and contains nothing worth stealing.
    let path = format!("/qbert/v4/{{project}}/clusters/{cluster}/kubeconfig");
    let config = bed.get(&path).await;
    let config = config.as_str().expect("text");
    assert!(
        config.contains("client.authentication.k8s.io/v1") && config.contains("- kube-token"),
        "{config}"
    );
    assert!(!config.contains("token:"), "{config}");
    let (status, said) = bed.admin("/kubeconfig", json!({"cluster": cluster})).await;
    assert_eq!(
        (status, said["kubeconfig"].as_str()),
        (200, Some(config)),
        "the same on the plane"
    );

    let root = tempfile::tempdir().expect("tempdir");
    let file = |name: &str| root.path().join(name);
    let ca = std::fs::read_to_string(bed.file("ca.pem")).expect("ca.pem");
    write(&file("ca.pem"), &ca);
    let text = |field: &str| made[field].as_str().expect("text").to_owned();
    let secret = format!("id = \"{}\"\nsecret = \"{}\"\n", text("id"), text("secret"));
    write(&file("credential"), &secret);
    let operator = format!(
        "plane = \"{}\"\nca_file = \"/ca.pem\"\napplication_credential_file = \"/credential\"\n",
        bed.url
    );
    write(&file("etc/pf9/operator.toml"), &operator);
    let (done, said) = kube_token(root.path(), cluster).await;
    assert!(done, "{said}");
    let said: Value = serde_json::from_str(&said).expect("an ExecCredential and nothing else");
    assert_eq!(said["kind"], "ExecCredential");
    let ends: jiff::Timestamp = said["status"]["expirationTimestamp"]
        .as_str()
        .expect("time")
        .parse()
        .expect("time");
    let life = ends.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((60..=15 * 60).contains(&life), "{life} s");
    let token = said["status"]["token"].as_str().expect("token");
    let url = format!("{server}/api");
    let whole = format!("Default/alice|pf9:role:member|{id}|");
    assert_eq!(get(&bed, &url, token, &[]).await, (200, whole));
    // For that and for nothing else; not even for another one like it.
    for path in ["/resmgr/v1/hosts", "/keystone/v3/auth/projects"] {
        let (status, said) = get(&bed, &format!("{}{path}", bed.url), token, &[]).await;
        assert_eq!(status, 403, "{path}: {said}");
    }
    let again = format!("{}/qbert/v4/service/clusters/{cluster}/kube-token", bed.url);
    let again = within(bed.http.post(again).bearer_auth(token).send())
        .await
        .expect("answer");
    assert_eq!(again.status().as_u16(), 403);
    let other = bed.cluster("other").await;
    let other = server.replace(&cluster.to_string(), &other.to_string());
    assert_eq!(get(&bed, &format!("{other}/api"), token, &[]).await.0, 404);

    // It is cached where nobody else can read it, and reused.
    let kept: Vec<_> = std::fs::read_dir(file("cache")).expect("cache").collect();
    assert_eq!(kept.len(), 1);
    let kept = kept[0].as_ref().expect("entry").path();
    let mode = |path: &Path| {
        std::fs::metadata(path)
            .expect("metadata")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode(&kept), mode(&file("cache"))), (0o600, 0o700));
    let (_, twice) = kube_token(root.path(), cluster).await;
    assert!(twice.contains(token), "the same while it is good");
    // A file that others could have written is not trusted, and a token about to expire is renewed.
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o644)).expect("mode");
    let (_, third) = kube_token(root.path(), cluster).await;
    assert!(!third.contains(token), "{third}");
    assert_eq!(mode(&kept), 0o600);
    let text = std::fs::read_to_string(&kept).expect("kept");
    let mut row: Value = serde_json::from_str(&text).expect("json");
    row["expires_at"] = json!(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60));
    write(&kept, &row.to_string());
    let (done, fourth) = kube_token(root.path(), cluster).await;
    assert!(
        done && !fourth.contains(row["token"].as_str().expect("token")),
        "{fourth}"
    );

    // A lost role invalidates every token, and the plugin says so.
    let path = format!("/keystone/v3/projects/{{project}}/users/{id}/roles/member");
    assert_eq!(bed.ask(Method::DELETE, &path, Value::Null).await.0, 204);
    assert_eq!(get(&bed, &url, token, &[]).await.0, 401);
    std::fs::remove_dir_all(file("cache")).expect("cache");
    let (done, said) = kube_token(root.path(), cluster).await;
    assert!(!done && said.contains("401"), "{said}");
    assert!(
        !said.contains(&made["secret"].as_str().expect("secret")[..12]),
        "{said}"
    );
}

#[tokio::test]
async fn long_lived_kubeconfigs_are_made_on_request_listed_and_withdrawn() {
    let bed = Bed::new().await;
    let (cluster, mut node, server, token) = kube::world(&bed).await;
    let _api = master_with(cluster, &mut node, CertPurpose::ApiServer, names).await;
    let url = format!("{server}/api");
    assert_eq!(get(&bed, &url, &token, &[]).await.0, 200);
    let all = format!("/qbert/v4/{{project}}/clusters/{cluster}/kubeconfigs");
    let body = json!({"name": "ci", "ttl_s": 3600});
    let (status, said) = bed.ask(Method::POST, &all, body.clone()).await;
    assert_eq!(status, 201, "{said}");
    for wrong in [
        json!({"name": "ci", "ttl_s": 0}),
        json!({"name": "ci", "ttl_s": 366 * 24 * 3600}),
    ] {
        assert_eq!(bed.ask(Method::POST, &all, wrong).await.0, 400);
    }
    let listed = bed.get(&all).await;
    let names: Vec<&str> = listed
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|l| l["name"].as_str())
        .collect();
    assert!(
        names.contains(&"ci") && names.contains(&"a test"),
        "{listed}"
    );
    assert!(!listed.to_string().contains(&token), "{listed}");
    let (status, on_the_plane) = bed.admin_get("/kubeconfigs").await;
    assert_eq!(
        (status, on_the_plane.as_array().map(Vec::len)),
        (200, Some(2))
    );

    // Others see only their own, and can withdraw no other.
    person(&bed, "bob", "member").await;
    let bobs = token_of(&bed, "bob").await;
    let path = format!("{}{}", bed.url, all.replace("{project}", "service"));
    assert_eq!(get(&bed, &path, &bobs, &[]).await, (200, "[]".into()));
    let of = |name: &str| {
        let found = listed
            .as_array()
            .expect("list")
            .iter()
            .find(|l| l["name"] == name);
        found.expect("it is there")["id"]
            .as_str()
            .expect("id")
            .to_owned()
    };
    let one = format!("{path}/{}", of("a test"));
    let bob = within(bed.http.delete(&one).bearer_auth(&bobs).send())
        .await
        .expect("answer");
    assert_eq!(bob.status().as_u16(), 404);
    assert_eq!(get(&bed, &url, &token, &[]).await.0, 200);
    let path = format!("{all}/{}", of("a test"));
    assert_eq!(bed.ask(Method::DELETE, &path, Value::Null).await.0, 204);
    assert_eq!(get(&bed, &url, &token, &[]).await.0, 401);
    let (status, _) = bed
        .ask_admin(Method::DELETE, &format!("/kubeconfigs/{}", of("ci")))
        .await;
    assert_eq!(status, 200);
    assert_eq!(bed.get(&all).await, json!([]));

    // The number per person is limited, and none ends because another is made.
    for _ in 0..50 {
        assert_eq!(bed.ask(Method::POST, &all, body.clone()).await.0, 201);
    }
    assert_eq!(bed.ask(Method::POST, &all, body).await.0, 409);
}

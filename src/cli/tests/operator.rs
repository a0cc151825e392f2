//! `host`, `cluster`, `node join` and `leave`, against an operator API behind real TLS.

use super::plane::{Manner, Plane};
use super::*;
use crate::model::paths;

const HOST: &str = "6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11";
const CLUSTER: &str = "0c3b5c1e-5d6f-4a6e-9a40-3b2f1d0e9c87";

/// One cluster, one host; a call that is not expected is a 404.
fn api(method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
    let clusters = "/qbert/v4/service/clusters".to_owned();
    let cluster = format!(
        r#"{{"uuid": "{CLUSTER}", "name": "blue", "status": "ok", "stack": "1.37.0-1", "numMasters": 1, "numWorkers": 0}}"#
    );
    let host = format!(
        r#"{{"id": "{HOST}", "info": {{"hostname": "node-1\u001b[2J", "responding": true}}, "role_status": "ok"}}"#
    );
    if token != "s3cret-token" {
        return (
            401,
            r#"{"error": {"code": 401, "message": "the token is over", "title": "x"}}"#.to_owned(),
        );
    }
    match (method, path) {
        ("GET", p) if p == clusters => (200, format!("[{cluster}]")),
        ("GET", p) if p == format!("{clusters}/{CLUSTER}") => (200, cluster),
        ("GET", "/resmgr/v1/hosts") => (200, format!("[{host}]")),
        ("GET", p) if p == format!("/resmgr/v1/hosts/{HOST}") => (200, host),
        ("PUT", p) if p == format!("/resmgr/v1/hosts/{HOST}/roles/pf9-kube") => {
            (200, String::new())
        }
        ("GET", p) if p == format!("/qbert/v4/service/nodes/{HOST}") => {
            (200, format!(r#"{{"clusterUuid": "{CLUSTER}"}}"#))
        }
        ("POST", p) if p == format!("{clusters}/{CLUSTER}/attach") => {
            match body.contains(r#""isMaster":true"#) && body.contains(HOST) {
                true => (200, String::new()),
                false => (
                    409,
                    r#"{"error": {"code": 409, "message": "a cluster begins with a master"}}"#
                        .to_owned(),
                ),
            }
        }
        ("POST", p)
            if p == format!("{clusters}/{CLUSTER}/detach") && body.contains(r#""force":false"#) =>
        {
            (200, "{}".to_owned())
        }
        _ => (404, r#"{"message": "no such path"}"#.to_owned()),
    }
}

async fn rig() -> (Rig, Plane) {
    let rig = Rig::new();
    let plane = Plane::start(Manner::Api(api)).await;
    let secret = Attrs::mode(0o600);
    rig.host
        .write("/root/token", b"s3cret-token\n", &secret)
        .expect("write");
    rig.file("/root/ca.pem", &plane.authority);
    let text = format!(
        "plane = \"{}\"\ntoken_file = \"/root/token\"\nca_file = \"/root/ca.pem\"\n",
        plane.url
    );
    rig.file("/etc/pf9/operator.toml", &text);
    (rig, plane)
}

#[tokio::test]
async fn clusters_and_hosts_are_listed_and_hosts_come_and_go() {
    let (rig, _plane) = rig().await;
    for (name, line) in [
        ("cluster-list.txt", vec!["cluster", "list"]),
        ("host-list.txt", vec!["host", "list"]),
    ] {
        let ran = rig.run(&line).await;
        assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
        assert!(!ran.text.contains('\u{1b}'), "a host moves no cursor");
        golden(name, &ran.text);
    }
    let good: [&[&str]; 7] = [
        &["cluster", "show", "blue"],
        &["host", "show", HOST],
        &["host", "authorize", HOST],
        &["authorize-node", HOST],
        &["host", "attach", HOST, "--cluster", "blue", "--master"],
        &["attach-node", HOST, "-c", CLUSTER, "--master"],
        &["host", "detach", HOST],
    ];
    for line in good {
        let ran = rig.run(line).await;
        assert_eq!(ran.exit, Exit::Ok, "{line:?}: {}", ran.text);
    }
    let ran = rig
        .run(&["host", "attach", HOST, "--cluster", "blue"])
        .await;
    assert_eq!(ran.exit, Exit::Failed);
    assert!(
        ran.text.contains("409: a cluster begins with a master"),
        "{}",
        ran.text
    );
    let ran = rig.run(&["host", "attach", HOST, "--cluster", "red"]).await;
    assert!(ran.text.contains("there is no cluster"), "{}", ran.text);
}

#[tokio::test]
async fn this_host_joins_and_leaves_by_its_own_id() {
    let (rig, _plane) = rig().await;
    let ran = rig
        .run(&["node", "join", "--cluster", "blue", "--master"])
        .await;
    assert_eq!(ran.exit, Exit::Failed, "no host yet: {}", ran.text);
    assert!(ran.text.contains("node prep"), "{}", ran.text);
    rig.file(paths::HOST_ID, &format!("[hostagent]\nhost_id = {HOST}\n"));
    for line in [
        ["node", "join", "--cluster", "blue", "--master"].as_slice(),
        &["node", "leave"],
    ] {
        let ran = rig.run(line).await;
        assert_eq!(ran.exit, Exit::Ok, "{line:?}: {}", ran.text);
    }
}

#[tokio::test]
async fn a_token_that_others_may_read_or_that_is_over_is_not_used() {
    let (rig, plane) = rig().await;
    rig.file("/root/token", "s3cret-token\n");
    let ran = rig.run(&["host", "list"]).await;
    assert_eq!(ran.exit, Exit::Config);
    assert!(
        ran.text.contains("others may read it") && !ran.text.contains("s3cret"),
        "{}",
        ran.text
    );
    rig.host
        .write("/root/token", b"old", &Attrs::mode(0o600))
        .expect("write");
    let ran = rig.run(&["host", "list"]).await;
    assert_eq!(ran.exit, Exit::Refused, "{}", ran.text);
    assert!(ran.text.contains("401: the token is over"), "{}", ran.text);
    // Another plane at that address.
    let other = Plane::start(Manner::Api(api)).await;
    rig.file("/root/ca.pem", &other.authority);
    let ran = rig.run(&["host", "list"]).await;
    assert_eq!(ran.exit, Exit::Unavailable, "{}", ran.text);
    drop(plane);
    rig.file(
        "/etc/pf9/operator.toml",
        "plane = \"http://plain\"\ntoken_file = \"/root/token\"\n",
    );
    assert_eq!(rig.run(&["host", "list"]).await.exit, Exit::Config);
}

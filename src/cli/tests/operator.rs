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
        ("GET", "/resmgr/v1/hosts?limit=100") => (
            200,
            format!(r#"{{"hosts": [{host}], "continue": null, "found": 1, "total": 1}}"#),
        ),
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
    rig_with(api).await
}

/// Method, path, token and body of a call; its answer.
type Api = fn(&str, &str, &str, &str) -> (u16, String);

async fn rig_with(api: Api) -> (Rig, Plane) {
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

/// A fleet, page by page; never all of it in one answer. The content of a mark is up to the plane: a name, slashes, and
/// characters at which an address would split.
fn fleet(method: &str, path: &str, _: &str, _: &str) -> (u16, String) {
    let first = "/resmgr/v1/hosts?limit=100";
    let next = format!("{first}&continue=0%2F");
    let from = match (method, path.strip_prefix(&next)) {
        ("GET", Some(rest)) => rest.strip_suffix("%2Fn+%26x").and_then(|n| n.parse().ok()),
        ("GET", None) if path == first => Some(0),
        _ => None,
    };
    let Some(from) = from else {
        return (404, format!(r#"{{"message": "no list at {path}"}}"#));
    };
    let host = |n: usize| {
        let name = if n == 7 { "a-name-that-is-longer" } else { "n" };
        format!(
            r#"{{"id": "6f0b9f0e-6a0c-4f57-9b0e-{n:012}", "info": {{"hostname": "{name}{n}", "responding": true}}, "role_status": "ok"}}"#
        )
    };
    let end = (from + 100).min(FLEET);
    let hosts: Vec<String> = (from..end).map(host).collect();
    let next = match end < FLEET {
        true => format!(r#""0/{end}/n &x""#),
        false => "null".to_owned(),
    };
    (
        200,
        format!(r#"{{"hosts": [{}], "continue": {next}}}"#, hosts.join(", ")),
    )
}

const FLEET: usize = 250;

/// `host list --json`.
async fn as_json(rig: &Rig) -> Ran {
    let mut ctx = rig.context();
    ctx.out = Output::memory(true);
    rig.run_in(&ctx, &["host", "list", "--json"]).await
}

/// The second part is refused.
fn breaks_off(method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
    match path.contains("continue") {
        true => (503, r#"{"message": "too many are asking"}"#.to_owned()),
        false => fleet(method, path, token, body),
    }
}

/// It starts over for ever.
fn goes_round(method: &str, _: &str, token: &str, body: &str) -> (u16, String) {
    fleet(method, "/resmgr/v1/hosts?limit=100", token, body)
}

/// One more, and one more, far beyond what a plane is built for.
fn never_ends(_: &str, path: &str, _: &str, _: &str) -> (u16, String) {
    let asked = path.rsplit('=').next().and_then(|n| n.parse::<u64>().ok());
    let next = match asked.unwrap_or_default() + 1 {
        end @ 500.. => format!("null, \"end\": {end}"),
        mark => format!("\"{mark}\""),
    };
    (
        200,
        format!(r#"{{"hosts": [{{"id": 1}}], "continue": {next}}}"#),
    )
}

#[tokio::test]
async fn a_fleet_is_listed_part_by_part_as_it_comes() {
    let (rig, _plane) = rig_with(fleet).await;
    let ran = rig.run(&["host", "list"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    let lines: Vec<&str> = ran.text.lines().collect();
    assert_eq!(lines.len(), 1 + FLEET);
    assert!(
        lines[0].starts_with("ID ") && lines[1].contains("n0 "),
        "{}",
        lines[0]
    );
    // One head for all, and all below it.
    let at = lines[0].find("ROLE").expect("head");
    assert!(
        lines[1..].iter().all(|l| l.get(at..) == Some("ok")),
        "{}",
        ran.text
    );
    let ran = as_json(&rig).await;
    let all: Vec<serde_json::Value> = serde_json::from_str(&ran.text).expect("one array");
    assert_eq!(all.len(), FLEET);
    assert_eq!(all[249]["info"]["hostname"], "n249");
}

#[tokio::test]
async fn a_list_that_breaks_off_or_never_ends_is_no_list() {
    let (rig, _plane) = rig_with(breaks_off).await;
    let ran = rig.run(&["host", "list"]).await;
    assert_eq!(ran.exit, Exit::Failed, "{}", ran.text);
    assert!(
        ran.text.ends_with("503: too many are asking\n"),
        "{}",
        ran.text
    );
    let ran = as_json(&rig).await;
    let mut values = serde_json::Deserializer::from_str(&ran.text).into_iter();
    let part: serde_json::Value = values.next().expect("part").expect("json");
    let fault: serde_json::Value = values.next().expect("fault").expect("json");
    assert_eq!(part.as_array().map(Vec::len), Some(100));
    assert_eq!(fault["exit"], 1, "{fault}");
    let wrong: [(Api, &str); 2] = [
        (goes_round, "does not continue at"),
        (never_ends, "its list of hosts has over"),
    ];
    for (api, why) in wrong {
        let (rig, _plane) = rig_with(api).await;
        let ran = as_json(&rig).await;
        assert_eq!(ran.exit, Exit::BadData, "{}", ran.text);
        assert!(ran.text.contains("plane-garbage"), "{}", ran.text);
        assert!(ran.text.contains(why), "{}", ran.text);
    }
}

#[tokio::test]
async fn a_fleet_of_none_is_an_empty_list() {
    let none =
        |_: &str, _: &str, _: &str, _: &str| (200, r#"{"hosts": [], "continue": null}"#.to_owned());
    let (rig, _plane) = rig_with(none).await;
    assert_eq!(as_json(&rig).await.text, "[]\n");
    let ran = rig.run(&["host", "list"]).await;
    assert_eq!(
        (ran.exit, ran.text.lines().count()),
        (Exit::Ok, 1),
        "{}",
        ran.text
    );
}

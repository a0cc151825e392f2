//! The agent's own versions: packages, and fleet rolls between them, as hosts and operators see it.

use http::{HeaderMap, Method};
use pf9_hostagent::model::{AgentSpec, Digest};
use serde_json::{Value, json};

use super::bed::{Bed, until};
use super::node::Node;

const AT: &str = "/agents/upgrade";

/// A package of the agent, as far as it is parsed: name, version, content.
fn deb(name: &str, version: &str, content: &[u8]) -> Vec<u8> {
    let text = format!("Package: {name}\nVersion: {version}-1\nArchitecture: amd64\n");
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, "./control", text.as_bytes())
        .expect("tar");
    let control = tar.into_inner().expect("tar");
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, "./opt/pf9/agent/x/bin/pf9ctl", content)
        .expect("tar");
    let data = tar.into_inner().expect("tar");
    let packed = |bytes: &[u8]| zstd::encode_all(bytes, 0).expect("zstd");
    let mut out = b"!<arch>\n".to_vec();
    for (name, body) in [
        ("debian-binary", b"2.0\n".as_slice()),
        ("control.tar.zst", &packed(&control)),
        ("data.tar.zst", &packed(&data)),
    ] {
        let head = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
            0,
            0,
            0,
            100_644,
            body.len()
        );
        out.extend(head.into_bytes());
        out.extend(body);
        out.extend(vec![b'\n'; body.len() % 2]);
    }
    out
}

async fn import(bed: &Bed, name: &str, version: &str, content: &[u8]) -> (u16, Value) {
    import_of(bed, name, version, content, false).await
}

async fn import_of(
    bed: &Bed,
    name: &str,
    version: &str,
    content: &[u8],
    security: bool,
) -> (u16, Value) {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("agent.deb");
    std::fs::write(&path, deb(name, version, content)).expect("write");
    let body = json!({"paths": [path], "security": security});
    bed.admin("/agents", body).await
}

/// A plane whose fleet takes patches, and which does not wait a minute before it looks again.
async fn looking_often() -> Bed {
    let often = std::time::Duration::from_millis(100);
    let bed = Bed::with(|config| config.patches_every = often).await;
    let policy = json!({"patches": "at-once"});
    let (status, said) = bed.admin("/agents/policy", policy).await;
    assert_eq!(status, 200, "{said}");
    bed
}

/// A window that is never open while a test runs.
fn closed() -> String {
    let day = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48);
    let day = day.strftime("%a").to_string().to_lowercase();
    format!("{day} 00:00 1h")
}

/// Why hosts do not get patches, as soon as it says that.
async fn held_by(bed: &Bed, words: &str) -> Value {
    until(|| async {
        let (_, shown) = bed.admin_get(AT).await;
        let held = shown["patchesHeld"].as_array().expect("a list");
        let said = held.iter().find(|f| f.to_string().contains(words));
        said.cloned()
    })
    .await
}

async fn imported(bed: &Bed, version: &str) {
    let (status, said) = import(bed, "pf9-hostagent", version, version.as_bytes()).await;
    assert_eq!(status, 200, "{said}");
}

fn code(said: &Value) -> &str {
    said["code"].as_str().unwrap_or_default()
}

/// A host's report about its agent.
async fn says(node: &Node, version: &str, stage: &str, order: Option<&AgentSpec>) {
    let mut status = node.status("a", "10.1.0.1");
    status["agent_version"] = json!(version);
    let failed = stage == "put-back";
    status["agent"] = json!({
        "version": version, "stage": stage, "generation": order.map_or(0, |o| o.generation.0),
        "why": failed.then(|| json!({"code": "disk-full", "what": "it failed", "why": "no room"})),
    });
    let (code, said) = node
        .call(Method::POST, "/v1/hosts/self/status", &status)
        .await;
    assert_eq!(code, 204, "{said}");
}

async fn order(node: &Node) -> Option<AgentSpec> {
    node.current().await.agent
}

/// The order, as soon as there is one.
async fn ordered(node: &Node) -> AgentSpec {
    until(|| order(node)).await
}

async fn state(bed: &Bed) -> String {
    let (_, shown) = bed.admin_get(AT).await;
    shown["upgrade"]["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

async fn comes_to(bed: &Bed, wanted: &str) {
    until(|| async { (state(bed).await == wanted).then_some(()) }).await;
}

#[tokio::test]
async fn a_version_has_one_content_and_hosts_fetch_any_range_of_it() {
    let bed = Bed::new().await;
    // Bytes that do not compress.
    let mut random = fastrand::Rng::with_seed(7);
    let content: Vec<u8> = (0..700_000).map(|_| random.u8(..)).collect();
    let (status, said) = import(&bed, "pf9-hostagent", "0.1.1", &content).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(
        (said[0]["version"].as_str(), said[0]["arch"].as_str()),
        (Some("0.1.1"), Some("amd64"))
    );
    let again = import(&bed, "pf9-hostagent", "0.1.1", &content).await;
    assert_eq!(again, (200, said.clone()));
    let (status, fault) = import(&bed, "pf9-hostagent", "0.1.1", b"another").await;
    assert_eq!((status, code(&fault)), (422, "agent-version-taken"));
    let (status, fault) = import(&bed, "vim", "0.1.1", b"").await;
    assert_eq!((status, code(&fault)), (422, "agent-package-refused"));
    let kept = std::fs::read_dir(bed.file("agents")).expect("dir").count();
    assert_eq!(kept, 1, "what was refused is not kept");

    let whole = deb("pf9-hostagent", "0.1.1", &content);
    let node = bed.host("a", "10.1.0.1").await;
    let path = format!("/v1/agents/{}/package", Digest::of(&whole));
    let fetch = async |range: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("range", range.parse().expect("header"));
        node.call_raw(Method::GET, &path, &Value::Null, &headers)
            .await
    };
    let (status, headers, bytes) = fetch("bytes=0-").await;
    assert_eq!((status, bytes[..] == whole[..]), (206, true));
    assert_eq!(headers["etag"], format!("\"{}\"", Digest::of(&whole)));
    let (status, _, bytes) = fetch("bytes=300000-").await;
    assert_eq!((status, bytes[..] == whole[300_000..]), (206, true));
    let public = bed
        .http
        .get(format!("{}{path}", bed.url))
        .send()
        .await
        .expect("answer");
    assert_eq!(public.status(), 404, "packages are for hosts only");
    let (status, fault) = node
        .call(Method::GET, "/v1/agents/x/package", &Value::Null)
        .await;
    assert_eq!((status, code(&fault)), (404, "agent-version-unknown"));
}

#[tokio::test]
async fn a_fleet_rolls_share_by_share_and_stops_on_a_rollback() {
    let mut bed = Bed::new().await;
    imported(&bed, "0.1.0").await;
    imported(&bed, "0.1.1").await;
    let mut nodes = [
        bed.host("a", "10.1.0.1").await,
        bed.host("b", "10.1.0.2").await,
    ];
    nodes.sort_by_key(|n| n.id);
    for node in &nodes {
        says(node, "0.1.0", "idle", None).await;
    }
    let wanted = json!({"to": "0.1.1", "percent": [50, 100], "pauseSeconds": 0});
    let (status, plan) = bed.admin("/agents/upgrade/plan", wanted.clone()).await;
    assert_eq!((status, &plan["begins"]), (200, &json!(true)), "{plan}");
    assert_eq!(plan["hosts"].as_array().map(Vec::len), Some(2));
    assert_eq!(order(&nodes[0]).await, None, "a plan changes nothing");

    // Operators have the same through their API, and nobody else has.
    let begun = bed.post("/resmgr/v1/agents/upgrade", wanted.clone()).await;
    assert_eq!(begun["upgrade"]["state"], "running");
    let open = bed
        .http
        .get(format!("{}/resmgr/v1/agents/upgrade", bed.url))
        .send()
        .await
        .expect("answer");
    assert_eq!(open.status(), 401);
    let (status, fault) = bed.admin(AT, wanted).await;
    assert_eq!((status, code(&fault)), (409, "roll-under-way"));

    let first = ordered(&nodes[0]).await;
    assert_eq!(first.target.version.to_string(), "0.1.1");
    assert_eq!(
        first
            .previous
            .as_ref()
            .map(|p| p.version.to_string())
            .as_deref(),
        Some("0.1.0")
    );
    let file = &first.target.packages[0];
    let (status, _, bytes) = nodes[0]
        .call_raw(
            Method::GET,
            &format!("/{}", file.path),
            &Value::Null,
            &HeaderMap::new(),
        )
        .await;
    assert_eq!(
        (status, Digest::of(&bytes), bytes.len() as u64),
        (200, file.sha256, file.bytes)
    );
    assert_eq!(order(&nodes[1]).await, None, "half of the fleet");
    let (status, fault) = bed.ask_admin(Method::DELETE, "/agents/0.1.0").await;
    assert_eq!(
        (status, code(&fault)),
        (409, "roll-not-now"),
        "it is what the host goes back to"
    );

    // A restarted plane resumes.
    bed = bed.restart().await;
    for node in &mut nodes {
        node.connect(&bed).await.expect("connected");
    }
    says(&nodes[0], "0.1.1", "proven", Some(&first)).await;
    says(&nodes[1], "0.1.0", "idle", None).await;
    let second = ordered(&nodes[1]).await;
    assert!(second.generation > first.generation);
    says(&nodes[1], "0.1.0", "put-back", Some(&second)).await;
    comes_to(&bed, "stopped").await;
    let (_, shown) = bed.admin_get(AT).await;
    assert!(
        shown["upgrade"]["why"]["why"]
            .as_str()
            .is_some_and(|w| w.contains("no room")),
        "{shown}"
    );
    let targets = bed.get("/metrics/targets").await;
    let of_the_fleet = |t: &&Value| t["labels"]["source"] == "agents";
    let target = targets
        .as_array()
        .and_then(|t| t.iter().find(of_the_fleet))
        .expect("a target");
    let path = target["labels"]["__metrics_path__"].as_str().expect("path");
    let numbers = bed.get(path).await;
    let numbers = numbers.as_str().expect("text");
    for line in [
        "pf9_agent_roll_stopped{to=\"0.1.1\"} 1",
        "pf9_agent_roll_hosts{to=\"0.1.1\",stand=\"done\"} 1",
        "pf9_agent_roll_hosts{to=\"0.1.1\",stand=\"failed\"} 1",
    ] {
        assert!(numbers.lines().any(|l| l == line), "{line}: {numbers}");
    }
    let (status, said) = bed.admin("/agents/upgrade/resume", json!({})).await;
    assert_eq!(status, 200, "{said}");
    let newer = |o: &AgentSpec| o.generation > second.generation;
    let again = until(|| async { order(&nodes[1]).await.filter(newer) }).await;
    says(&nodes[1], "0.1.1", "proven", Some(&again)).await;
    comes_to(&bed, "done").await;
    assert_eq!(
        order(&nodes[0]).await,
        Some(first),
        "a host that is done keeps its order"
    );

    let (status, said) = bed.admin("/agents/upgrade/back", json!({})).await;
    assert_eq!(status, 200, "{said}");
    for node in &nodes {
        let older = |o: &AgentSpec| o.target.version.to_string() == "0.1.0";
        let back = until(|| async { order(node).await.filter(older) }).await;
        assert_eq!(
            back.previous
                .as_ref()
                .map(|p| p.version.to_string())
                .as_deref(),
            Some("0.1.1")
        );
        says(node, "0.1.0", "proven", Some(&back)).await;
    }
    comes_to(&bed, "done").await;
}

#[tokio::test]
async fn incompatible_versions_are_refused_before_any_order() {
    let bed = Bed::new().await;
    imported(&bed, "0.1.1").await;
    imported(&bed, "0.9.0").await;
    let node = bed.host("a", "10.1.0.1").await;
    says(&node, "0.1.0", "idle", None).await;
    let begin = async |wanted: Value| {
        let (status, said) = bed.admin(AT, wanted).await;
        (status, code(&said).to_owned())
    };
    assert_eq!(
        begin(json!({"to": "0.1.2"})).await,
        (404, "agent-version-unknown".into())
    );
    assert_eq!(
        begin(json!({"to": "0.9.0"})).await,
        (422, "agent-too-far".into())
    );
    for wrong in [
        json!({"to": "0.1.1", "percent": [50, 10, 100]}),
        json!({"to": "0.1.1", "percent": [10, 50]}),
        json!({"to": "0.1.1", "percent": [0, 100]}),
        json!({"to": "0.1.1", "percent": [100], "hosts": [node.id]}),
        json!({"to": "0.1.1", "proveSeconds": 29}),
        json!({"to": "0.1.1", "reportSeconds": 100}),
        json!({"percent": [100]}),
    ] {
        assert_eq!(
            begin(wrong.clone()).await,
            (400, "agent-upgrade-invalid".into()),
            "{wrong}"
        );
    }
    // Its present version is not in the repository: it could not roll back by its package.
    assert_eq!(
        begin(json!({"to": "0.1.1"})).await,
        (422, "agent-version-unknown".into())
    );
    assert_eq!(order(&node).await, None);
    let known = json!({"to": "0.1.1", "despite": ["previous"], "hosts": [node.id]});
    assert_eq!(begin(known).await, (200, String::new()));
    assert_eq!(ordered(&node).await.previous, None);
    let (status, _) = bed.admin("/agents/upgrade/cancel", json!({})).await;
    assert_eq!(status, 200);
    assert_eq!(order(&node).await, None, "who did not begin does not");
}

/// The order carries it, under the plane's key like all of it, also under the next key.
#[tokio::test]
async fn a_security_fix_is_ordered_at_once_and_marked() {
    let bed = Bed::new().await;
    imported(&bed, "0.1.0").await;
    let node = bed.host("a", "10.1.0.1").await;
    says(&node, "0.1.0", "idle", None).await;
    let policy = json!({"patches": "at-once", "window": closed()});
    let (status, said) = bed.admin("/agents/policy", policy).await;
    assert_eq!(
        (status, &said["windowIsOpen"]),
        (200, &json!(false)),
        "{said}"
    );
    imported(&bed, "0.1.1").await;
    let held = held_by(&bed, "it waits for the maintenance window").await;
    assert!(held.to_string().contains(&node.id.to_string()), "{held}");
    assert_eq!(
        (order(&node).await, state(&bed).await),
        (None, String::new())
    );

    let (status, said) = import_of(&bed, "pf9-hostagent", "0.1.2", b"mended", true).await;
    assert_eq!(status, 200, "{said}");
    let order = ordered(&node).await;
    assert_eq!(order.target.version.to_string(), "0.1.2");
    assert!(order.target.security);
    assert!(order.previous.is_some_and(|p| !p.security));
    let mends = async || {
        let (_, list) = bed.admin_get("/agents").await;
        let all = list.as_array().expect("a list").iter();
        all.map(|a| a["security"] == true).collect::<Vec<bool>>()
    };
    assert_eq!(mends().await, [false, false, true]);
    for step in ["announce", "take-over", "retire"] {
        let body = json!({"step": step, "kind": "signing", "force": [node.id]});
        let (status, said) = bed.admin("/keys", body).await;
        assert_eq!(status, 200, "{step}: {said}");
        assert_eq!(mends().await, [false, false, true], "{step}");
    }
}

/// A version is not lost because no host could take it when it was imported.
#[tokio::test]
async fn a_version_that_was_imported_before_any_host_reported_starts_with_a_report() {
    let bed = looking_often().await;
    imported(&bed, "0.1.0").await;
    imported(&bed, "0.1.1").await;
    let node = bed.host("a", "10.1.0.1").await;
    assert_eq!(state(&bed).await, "", "nobody knows what runs there");
    says(&node, "0.1.0", "idle", None).await;
    assert_eq!(ordered(&node).await.target.version.to_string(), "0.1.1");
    let (_, shown) = bed.admin_get(AT).await;
    assert_eq!(shown["upgrade"]["by"], json!("patch-policy"), "{shown}");
}

/// A fleet grows while it is rolled: who comes later is no other host.
#[tokio::test]
async fn hosts_that_enrol_after_the_policys_roll_began_join_it() {
    let bed = looking_often().await;
    imported(&bed, "0.1.0").await;
    imported(&bed, "0.1.1").await;
    let first = bed.host("a", "10.1.0.1").await;
    says(&first, "0.1.0", "idle", None).await;
    let order = ordered(&first).await;
    says(&first, "0.1.1", "proven", Some(&order)).await;
    comes_to(&bed, "done").await;
    let current = bed.host("b", "10.1.0.2").await;
    says(&current, "0.1.1", "idle", None).await;
    let late = bed.host("c", "10.1.0.3").await;
    says(&late, "0.1.0", "idle", None).await;
    comes_to(&bed, "running").await;
    let (_, shown) = bed.admin_get(AT).await;
    let hosts = shown["upgrade"]["hosts"].as_array().expect("hosts").iter();
    let mut hosts: Vec<String> = hosts
        .map(|h| format!("{} {}", h["host"], h["stand"]))
        .collect();
    let part = |node: &Node, stand: &str| format!("{} {}", json!(node.id), json!(stand));
    // The share of ten percent is proven: the pause after it comes first.
    let mut want = vec![part(&first, "done"), part(&late, "waiting")];
    hosts.sort();
    want.sort();
    assert_eq!(hosts, want, "who runs it has no part: {shown}");
}

/// What one host says of itself moves and holds no other.
#[tokio::test]
async fn a_host_that_claims_another_version_moves_and_holds_no_other() {
    let bed = looking_often().await;
    imported(&bed, "0.1.0").await;
    let liar = bed.host("a", "10.1.0.1").await;
    says(&liar, "9.9.9", "idle", None).await;
    let ahead = bed.host("b", "10.1.0.2").await;
    says(&ahead, "0.2.0", "idle", None).await;
    let silent = bed.host("c", "10.1.0.3").await;
    let node = bed.host("d", "10.1.0.4").await;
    says(&node, "0.1.0", "idle", None).await;
    imported(&bed, "0.1.1").await;
    assert_eq!(ordered(&node).await.target.version.to_string(), "0.1.1");
    for other in [&liar, &ahead, &silent] {
        assert_eq!(order(other).await, None);
    }
}

/// What an operator does with agents is not mixed with what the policy does, and a canary stays what it is.
#[tokio::test]
async fn patches_wait_for_an_operators_roll_and_pass_a_canary_over() {
    let bed = looking_often().await;
    let off = json!({"patches": "off"});
    assert_eq!(bed.admin("/agents/policy", off).await.0, 200);
    for version in ["0.1.0", "0.1.1", "0.1.2"] {
        imported(&bed, version).await;
    }
    let canary = bed.host("a", "10.1.0.1").await;
    let other = bed.host("b", "10.1.0.2").await;
    for node in [&canary, &other] {
        says(node, "0.1.0", "idle", None).await;
    }
    let wanted = json!({"to": "0.1.1", "hosts": [canary.id]});
    let (status, said) = bed.admin(AT, wanted).await;
    assert_eq!(status, 200, "{said}");
    let first = ordered(&canary).await;
    let on = json!({"patches": "at-once"});
    assert_eq!(bed.admin("/agents/policy", on).await.0, 200);
    let held = held_by(&bed, "the rollout of agent 0.1.1 is under way").await;
    assert!(held.to_string().contains(&other.id.to_string()), "{held}");
    assert_eq!(order(&other).await, None);
    says(&canary, "0.1.1", "proven", Some(&first)).await;
    let patch = ordered(&other).await;
    assert_eq!(patch.target.version.to_string(), "0.1.2");
    let held = held_by(&bed, "an operator chose their version").await;
    assert!(held.to_string().contains(&canary.id.to_string()), "{held}");
    assert_eq!(order(&canary).await, Some(first.clone()));

    // The canary's way back is not lost by the patch of another host.
    says(&other, "0.1.2", "proven", Some(&patch)).await;
    comes_to(&bed, "done").await;
    let back = json!({"hosts": [canary.id]});
    let (status, said) = bed.admin("/agents/upgrade/back", back).await;
    assert_eq!(status, 200, "{said}");
    let older = |o: &AgentSpec| o.target.version.to_string() == "0.1.0";
    until(|| async { order(&canary).await.filter(older) }).await;
    assert_eq!(order(&other).await, Some(patch));
}

/// Its records may lack an upgrade of the host: a person recovers it first, and reads why it gets nothing.
#[tokio::test]
async fn a_host_that_is_ahead_of_a_restored_plane_gets_no_patch_and_it_is_said() {
    let bed = looking_often().await;
    imported(&bed, "0.1.0").await;
    let node = bed.host("a", "10.1.0.1").await;
    let mut status = node.status("a", "10.1.0.1");
    status["agent_version"] = json!("0.1.0");
    status["agent"] = json!({"version": "0.1.0", "stage": "idle", "generation": 0, "why": null});
    let ahead = node.current().await.generation.0 + 3;
    status["observed_generation"] = json!(ahead);
    status["accepted_generation"] = json!(ahead);
    let path = "/v1/hosts/self/status";
    let (code, said) = node.call(Method::POST, path, &status).await;
    assert!(code < 300, "{code} {said}");
    let (_, shown) = bed.admin_get(AT).await;
    assert_eq!(shown["patchesHeld"], json!([]), "nothing newer is there");
    imported(&bed, "0.1.1").await;
    let said = held_by(&bed, "restored from a backup").await;
    assert_eq!(said["fix"], json!("run pf9-plane recover"), "{said}");
    assert_eq!(state(&bed).await, "");
}

/// The fleet's metrics do not belong to any one cluster.
#[tokio::test]
async fn the_fleets_numbers_are_for_operators() {
    let bed = Bed::new().await;
    assert_eq!(
        bed.get("/metrics/targets").await,
        json!([]),
        "there never was one"
    );
    assert_eq!(bed.get("/metrics/agents").await, json!(""));
    bed.stack("1").await;
    bed.cluster("c").await;
    let token = super::metrics::token(&bed, "c").await;
    assert_eq!(
        super::metrics::ask(&bed, "/metrics/agents", &token).await.0,
        403
    );
}

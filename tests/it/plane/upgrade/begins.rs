//! Whether and when an upgrade begins: what is refused, who asks for it, what it waits for.

use std::time::Duration;

use http::Method;
use pf9_hostagent::model::{CertPurpose, UpgradeStage};
use serde_json::{Value, json};

use super::super::bed::{Bed, until};
use super::super::kube;
use super::{AT, NO_API, World, code, import};

#[tokio::test]
async fn an_impossible_stack_is_refused_whatever_is_overruled() {
    let world = World::new().await;
    for (version, kubernetes, etcd, id, words) in [
        ("far", "1.35.5", "3.6.16", "minor", "which is newer"),
        ("etcd", "1.37.2", "3.8.0", "etcd-step", "etcd"),
    ] {
        assert_eq!(import(&world.bed, version, kubernetes, etcd).await.0, 200);
        let wanted = json!({"to": version, "despite": [NO_API, id]});
        let (status, said) = world.bed.admin(AT, wanted).await;
        assert_eq!(status, 422, "{said}");
        assert!(said.to_string().contains(words), "{version}: {said}");
    }
    let (status, said) = world.bed.admin(AT, json!({"to": "nothing"})).await;
    assert_eq!((status, code(&said)), (400, "stack-unknown"), "{said}");
    for wrong in [
        json!({"to": "b", "maxUnavailable": "0"}),
        json!({"to": "b", "drainTimeoutSeconds": 0}),
        json!({"to": "b", "proveSeconds": 9}),
        json!({"to": "b", "window": "never"}),
    ] {
        assert_eq!(world.bed.admin(AT, wrong.clone()).await.0, 400, "{wrong}");
    }
    assert_eq!(
        world.bed.admin(&format!("{AT}/turn"), json!({})).await.0,
        404
    );
    assert_eq!(world.told(0).await, (None, "a".into()));
}

/// As qbert's tools request it.
#[tokio::test]
async fn qberts_own_call_starts_the_same() {
    let world = World::new().await;
    let cluster = format!("/qbert/v4/{{project}}/clusters/{}", world.cluster);
    for method in [Method::PATCH, Method::PUT] {
        let ask = async |body: Value| world.bed.ask(method.clone(), &cluster, body).await;
        let (status, said) = ask(json!({"stack": "b", "networkPolicies": "off"})).await;
        assert_eq!(status, 400, "{method}: {said}");
        assert!(
            said.to_string().contains("cluster upgrade NAME --to"),
            "{method}: {said}"
        );
        let (status, said) = ask(json!({"kubeRoleVersion": "b"})).await;
        assert_eq!(status, 422, "{method}: {said}");
        assert!(
            said.to_string().contains("could not be checked"),
            "{method}: {said}"
        );
    }

    let at = format!("{cluster}/upgrade");
    let ask = async |path: &str, body: Value| world.bed.ask(Method::POST, path, body).await;
    let (status, said) = ask(&format!("{at}?type=patch"), Value::Null).await;
    assert_eq!(status, 409, "nothing of the same minor is newer: {said}");
    let (status, said) = ask(&format!("{at}?type=minor"), Value::Null).await;
    assert_eq!(status, 422, "{said}");
    let body = json!({"batchUpgradePercent": 50, "despite": [NO_API]});
    let (status, said) = ask(&format!("{at}?type=minor"), body).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(said["upgrade"]["maxUnavailable"], json!("50%"));
    assert_eq!(world.bed.get(&at).await["upgrade"]["to"], json!("b"));
    let (status, said) = ask(&format!("{at}/cancel"), Value::Null).await;
    assert_eq!(
        (status, &said["upgrade"]["state"]),
        (200, &json!("cancelled")),
        "{said}"
    );
    assert_eq!(
        world.told(1).await,
        (None, "a".into()),
        "its order is taken back"
    );
}

#[tokio::test]
async fn steps_wait_for_the_window() {
    let world = World::new().await;
    // Whatever day it is: one that is neither today nor yesterday nor tomorrow.
    let now = pf9_hostagent::model::Timestamp::now();
    let day = now + jiff::SignedDuration::from_hours(72);
    let day = day.strftime("%a").to_string().to_lowercase();
    let wanted = json!({"to": "b", "despite": [NO_API], "window": format!("{day} 12:00 10m")});
    let (status, said) = world.bed.admin(AT, wanted).await;
    assert_eq!(status, 200, "{said}");
    world.prepared().await;
    assert_eq!(
        world.told(0).await,
        (Some(UpgradeStage::Prepare), "a".into())
    );
    let (_, shown) = world.bed.admin_get(AT).await;
    assert!(
        shown
            .to_string()
            .contains("waits for the maintenance window"),
        "{shown}"
    );
    let path = format!("/qbert/v4/{{project}}/clusters/{}", world.cluster);
    let wide = json!({"upgrade": {"window": "daily 00:00 24h"}});
    assert_eq!(world.bed.ask(Method::PATCH, &path, wide).await.0, 200);
    world.report(0, Some("ready")).await;
    assert_eq!(world.told(0).await.0, Some(UpgradeStage::Etcd));
}

/// A cluster with an API that has nothing against an upgrade; the plane does not wait a minute before it looks again.
async fn with_api() -> (World, kube::Api) {
    let often = Duration::from_millis(200);
    let bed = Bed::with(|config| config.patches_every = often).await;
    let mut world = World::of(bed, ["1.36.3", "3.6.16"], ["1.37.2", "3.7.3"]).await;
    let cluster = world.cluster;
    let api = kube::master(cluster, &mut world.nodes[0].0, CertPurpose::ApiServer).await;
    api.objects.put("/metrics", "".into());
    (world, api)
}

async fn set(world: &World, patches: &str) {
    let path = format!("/qbert/v4/{{project}}/clusters/{}", world.cluster);
    let policy = json!({"upgrade": {"patches": patches}});
    assert_eq!(world.bed.ask(Method::PATCH, &path, policy).await.0, 200);
}

async fn comes_to(world: &World, wanted: &str) {
    until(|| async { (world.state().await == wanted).then_some(()) }).await;
}

/// Why a patch does not start, as soon as it says that.
async fn blocked_by(world: &World, words: &str) -> Value {
    until(|| async {
        let blocked = world.bed.admin_get(AT).await.1["patchBlocked"].clone();
        blocked.to_string().contains(words).then_some(blocked)
    })
    .await
}

#[tokio::test]
async fn an_imported_patch_starts_automatically_by_policy() {
    let (world, _api) = with_api().await;
    let later = async |version: &str, kubernetes: &str| {
        let answer = import(&world.bed, version, kubernetes, "3.6.16").await;
        assert_eq!(answer.0, 200);
        world.state().await
    };
    assert_eq!(later("a2", "1.36.2").await, "");
    set(&world, "window").await;
    assert_eq!(world.state().await, "", "no older one");
    assert_eq!(later("b3", "1.37.3").await, "", "no other minor");
    set(&world, "off").await;
    assert_eq!(later("a4", "1.36.4").await, "", "off");
    set(&world, "at-once").await;
    // It was there already.
    comes_to(&world, "running").await;
    let (_, shown) = world.bed.admin_get(AT).await;
    assert_eq!(shown["upgrade"]["by"], json!("patch-policy"), "{shown}");
    assert_eq!(shown["upgrade"]["to"], json!("a4"), "{shown}");
    assert_eq!(world.events().await, ["begun"], "and no other one before");
    assert_eq!(
        world.told(0).await,
        (Some(UpgradeStage::Prepare), "a".into())
    );
}

/// A patch is not lost because a master was unhealthy when it was imported, and meanwhile the cluster says what blocks it.
#[tokio::test]
async fn a_blocked_patch_starts_once_the_master_is_healthy() {
    let (world, _api) = with_api().await;
    let path = format!("/qbert/v4/{{project}}/clusters/{}", world.cluster);
    // Wherever an operator looks.
    let warned = async || {
        let one = world.bed.get(&path).await;
        let list = world.bed.get("/qbert/v4/{project}/clusters").await;
        let (_, own) = world.bed.admin_get("/clusters/c").await;
        let (_, all) = world.bed.admin_get("/clusters").await;
        [&one, &list[0], &own, &all[0]].map(|shown| shown["warnings"].clone())
    };
    let nothing = || [(); 4].map(|()| json!([]));
    let blocked = async || world.bed.admin_get(AT).await.1["patchBlocked"].clone();
    set(&world, "at-once").await;
    assert_eq!(warned().await, nothing());
    // It has not observed its newest spec.
    let (master, name, ip) = &world.nodes[0];
    let (code, said) = master.report(name, ip).await;
    assert!(code < 300, "{code} {said}");
    let answer = import(&world.bed, "a4", "1.36.4", "3.6.16").await;
    assert_eq!(answer.0, 200);
    assert_eq!(world.state().await, "", "its master is not healthy");
    let what = "the upgrade to stack a4, which the patch policy asks for, is not started";
    let by_hand = "pf9-plane cluster upgrade c --to a4 --despite node/m1";
    for said in warned().await {
        let said = said[0].as_str().expect("a sentence").to_owned();
        assert!(
            said.starts_with(&format!("{what}: node m1 is not healthy")) && said.ends_with(by_hand),
            "{said}"
        );
    }
    assert_eq!(blocked().await["what"], json!(what));
    set(&world, "off").await;
    assert_eq!(warned().await, nothing(), "it is no longer wanted");
    assert_eq!(blocked().await, Value::Null);
    set(&world, "at-once").await;
    assert_eq!(blocked().await["what"], json!(what));
    world.report(0, None).await;
    comes_to(&world, "running").await;
    assert_eq!(warned().await, nothing(), "it started");
    assert_eq!(blocked().await, Value::Null);
    let (_, shown) = world.bed.admin_get(AT).await;
    assert_eq!(shown["upgrade"]["by"], json!("patch-policy"), "{shown}");
    assert_eq!(shown["upgrade"]["to"], json!("a4"), "{shown}");
}

/// A patch is not started into what an operator's upgrade is refused for.
#[tokio::test]
async fn what_the_clusters_api_has_against_a_patch_holds_it_and_is_said() {
    let (world, api) = with_api().await;
    let budget = "/apis/policy/v1/poddisruptionbudgets/x";
    api.objects.put(
        budget,
        json!({"metadata": {"namespace": "shop", "name": "all"},
               "status": {"disruptionsAllowed": 0, "expectedPods": 2, "desiredHealthy": 2}}),
    );
    set(&world, "at-once").await;
    let answer = import(&world.bed, "a4", "1.36.4", "3.6.16").await;
    assert_eq!(answer.0, 200);
    let blocked = blocked_by(&world, "disruption budget shop/all never allows").await;
    let fix = blocked["fix"].as_str().expect("fix");
    assert!(
        fix.ends_with("pf9-plane cluster upgrade c --to a4 --despite budget/shop/all"),
        "{fix}"
    );
    let shown = world.bed.admin_get("/clusters/c").await.1;
    let warnings = shown["warnings"].to_string();
    assert!(warnings.contains("disruption budget shop/all"), "{shown}");
    assert_eq!(world.state().await, "");
    api.objects.remove(budget);
    comes_to(&world, "running").await;
    let (_, shown) = world.bed.admin_get(AT).await;
    assert_eq!(shown["upgrade"]["by"], json!("patch-policy"), "{shown}");
    assert_eq!(shown["patchBlocked"], Value::Null, "{shown}");
}

/// Its records may lack an upgrade: a person recovers it first, and reads why nothing starts.
#[tokio::test]
async fn a_restored_plane_says_why_it_starts_no_patch() {
    let (world, _api) = with_api().await;
    let (master, name, ip) = &world.nodes[0];
    let mut status = master.status(name, ip);
    let ahead = master.current().await.generation.0 + 3;
    status["observed_generation"] = json!(ahead);
    status["accepted_generation"] = json!(ahead);
    let (code, said) = master
        .call(Method::POST, "/v1/hosts/self/status", &status)
        .await;
    assert!(code < 300, "{code} {said}");
    set(&world, "at-once").await;
    let answer = import(&world.bed, "a4", "1.36.4", "3.6.16").await;
    assert_eq!(answer.0, 200);
    let blocked = blocked_by(&world, "restored from a backup: node m1 has a newer spec").await;
    assert_eq!(blocked["fix"], json!("run pf9-plane recover"), "{blocked}");
    assert_eq!(world.state().await, "");
    // It is that which held it: once the node follows what the plane issued, the patch starts.
    world.report(0, None).await;
    comes_to(&world, "running").await;
}

/// The cluster itself says what blocks it.
#[tokio::test]
async fn the_clusters_api_is_asked_before_the_first_step() {
    let mut world = World::new().await;
    let cluster = world.cluster;
    let api = kube::master(cluster, &mut world.nodes[0].0, CertPurpose::ApiServer).await;
    api.objects.put(
        "/metrics",
        "apiserver_requested_deprecated_apis{group=\"old\",removed_release=\"1.37\",resource=\"things\",\
         subresource=\"\",version=\"v1beta1\"} 1\n"
            .into(),
    );
    api.objects.put(
        "/apis/policy/v1/poddisruptionbudgets/x",
        json!({"metadata": {"namespace": "shop", "name": "all"},
               "status": {"disruptionsAllowed": 0, "expectedPods": 2, "desiredHealthy": 2}}),
    );
    let hook = |name: &str| {
        json!({"name": name, "failurePolicy": "Fail",
               "clientConfig": {"service": {"namespace": "guard", "name": name}},
               "rules": [{"apiGroups": ["apps"], "resources": ["deployments"]}]})
    };
    api.objects.put(
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/g",
        json!({"metadata": {"name": "g"}, "webhooks": [hook("dead")]}),
    );
    api.objects.put(
        "/api/v1/pods/bare",
        json!({"metadata": {"namespace": "shop", "name": "bare"}, "status": {"phase": "Running"}}),
    );
    let (status, plan) = world
        .bed
        .admin(&format!("{AT}/plan"), json!({"to": "b"}))
        .await;
    assert_eq!(status, 200, "{plan}");
    let found = plan["findings"].as_array().expect("findings").iter();
    let found: Vec<&str> = found.filter_map(|f| f["id"].as_str()).collect();
    // No test ran a stack of so few components.
    let (known, found) = found.split_first().expect("findings");
    assert_eq!(*known, "stack");
    let want = [
        "removed-api/old/v1beta1/things",
        "webhook/g/dead",
        "budget/shop/all",
        "pods-without-controller",
    ];
    assert_eq!(found, want, "{plan}");
    let known = [want[0], want[1], want[3]];
    let (status, said) = world
        .bed
        .admin(AT, json!({"to": "b", "despite": known}))
        .await;
    assert_eq!((status, code(&said)), (422, "roll-blocked"), "{said}");
    // The policy for a drain that times out decides the severity of a budget.
    let wanted = json!({"to": "b", "despite": known, "then": "force"});
    assert_eq!(world.bed.admin(AT, wanted).await.0, 200);
}

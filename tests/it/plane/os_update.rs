//! The updates of the nodes' own distributions, as nodes and the operator see them.

use http::Method;
use pf9_hostagent::model::{OsReboot, UpgradeStage};
use serde_json::{Value, json};

use super::upgrade::{NO_API, World, code};

const AT: &str = "/clusters/c/os-update";

async fn begun(world: &World, mut wanted: Value) -> Value {
    wanted["despite"] = json!([NO_API]);
    let (status, said) = world.bed.admin(AT, wanted).await;
    assert_eq!(status, 200, "{said}");
    said
}

async fn stage(world: &World, i: usize) -> Option<UpgradeStage> {
    world.told(i).await.0
}

async fn shown(world: &World) -> Value {
    world.bed.admin_get(AT).await.1["osUpdate"].clone()
}

#[tokio::test]
async fn one_node_at_a_time_masters_first_and_what_came_of_it_is_shown() {
    let world = World::new().await;
    let (status, plan) = world.bed.admin(&format!("{AT}/plan"), json!({})).await;
    assert_eq!((status, &plan["begins"]), (200, &json!(false)), "{plan}");
    let nodes = plan["nodes"].as_array().expect("nodes");
    let of = |at: &str| nodes.iter().map(|n| n[at].clone()).collect::<Vec<_>>();
    assert_eq!(of("node"), ["m1", "w1", "w2"]);
    assert_eq!(of("by"), ["apt-get"; 3]);
    assert!(plan.to_string().contains("lone-master"), "{plan}");
    assert_eq!(stage(&world, 0).await, None, "a plan begins nothing");
    assert_eq!(shown(&world).await, Value::Null);

    begun(&world, json!({"reboot": "never", "withinSeconds": 600})).await;
    let spec = world.spec(0).await;
    let node = spec.assignment.node().expect("node");
    let order = node.upgrade.clone().expect("an order");
    let os = order.os.expect("of the distribution");
    assert_eq!(
        (order.stage, os.reboot, os.within_s),
        (UpgradeStage::Os, OsReboot::Never, 600)
    );
    assert_eq!(order.stack, node.stack, "no stack changes");
    assert_eq!(
        stage(&world, 1).await,
        None,
        "workers wait for their masters"
    );
    world.report(0, Some("updating")).await;
    assert!(
        shown(&world)
            .await
            .to_string()
            .contains("updates: updating")
    );
    for i in 0..3 {
        assert_eq!(stage(&world, i).await, Some(UpgradeStage::Os));
        for later in i + 1..3 {
            assert_eq!(stage(&world, later).await, None, "one at a time");
        }
        world.report(i, Some("done")).await;
    }
    let done = shown(&world).await;
    assert_eq!(
        (&done["state"], &done["done"]),
        (&json!("done"), &json!(3)),
        "{done}"
    );
    assert_eq!(done["nodes"][2]["os"]["updated"], json!(3), "{done}");
    assert!(
        done.to_string()
            .contains("3 of 3 packages updated (1 for security), the machine was rebooted")
    );
    for i in 0..3 {
        assert_eq!(stage(&world, i).await, None, "nothing is ordered any more");
    }
}

#[tokio::test]
async fn it_stops_on_a_failure_is_resumed_with_a_new_order_paused_and_cancelled() {
    let world = World::new().await;
    begun(&world, json!({})).await;
    let first = world.spec(0).await;
    world.report(0, Some("put-back")).await;
    let stopped = shown(&world).await;
    assert_eq!(stopped["state"], json!("stopped"), "{stopped}");
    assert!(stopped["why"].to_string().contains("node m1"), "{stopped}");
    assert_eq!(stage(&world, 0).await, None, "its order is taken back");
    // There is none of the other kind.
    let (status, said) = world
        .bed
        .admin("/clusters/c/upgrade/resume", json!({}))
        .await;
    assert_eq!((status, code(&said)), (409, "roll-none"), "{said}");
    let turn = async |verb: &str| world.bed.admin(&format!("{AT}/{verb}"), json!({})).await;
    let (status, said) = turn("resume").await;
    assert_eq!(
        (status, &said["osUpdate"]["state"]),
        (200, &json!("running")),
        "{said}"
    );
    world.report(0, None).await;
    let again = world.spec(0).await;
    let roll = |spec: &pf9_hostagent::model::Spec| {
        spec.assignment
            .node()
            .and_then(|n| n.upgrade.clone())
            .map(|o| o.roll)
    };
    assert!(
        roll(&again).is_some() && roll(&again) != roll(&first),
        "another order"
    );
    assert_eq!(turn("pause").await.1["osUpdate"]["state"], json!("paused"));
    world.report(0, Some("done")).await;
    assert_eq!(stage(&world, 1).await, None, "paused");
    let (status, said) = turn("back").await;
    assert_eq!((status, code(&said)), (409, "roll-not-now"), "{said}");
    assert_eq!(turn("resume").await.0, 200);
    assert_eq!(stage(&world, 1).await, Some(UpgradeStage::Os));
    assert_eq!(
        turn("cancel").await.1["osUpdate"]["state"],
        json!("cancelled")
    );
    assert_eq!(stage(&world, 1).await, None, "it had not begun");
    assert_eq!(stage(&world, 2).await, None);
}

#[tokio::test]
async fn it_and_other_walks_exclude_each_other() {
    let world = World::new().await;
    begun(&world, json!({})).await;
    for (at, wanted) in [
        (
            "/clusters/c/upgrade",
            json!({"to": "b", "despite": [NO_API]}),
        ),
        (AT, json!({"despite": [NO_API]})),
        (
            "/clusters/c/authorities/rotate",
            json!({"authorities": [], "hold_s": 0}),
        ),
    ] {
        let (status, said) = world.bed.admin(at, wanted).await;
        assert_eq!(
            (status, code(&said)),
            (409, "roll-under-way"),
            "{at}: {said}"
        );
        assert!(said.to_string().contains("distributions"), "{said}");
    }
    // It may reboot its master.
    let (status, said) = world.bed.admin("/clusters/c/restore", json!({})).await;
    assert_eq!((status, code(&said)), (409, "roll-not-now"), "{said}");
    assert_eq!(
        world.bed.admin(&format!("{AT}/cancel"), json!({})).await.0,
        200
    );
    world.report(0, None).await;
    let wanted = json!({"to": "b", "despite": [NO_API]});
    assert_eq!(world.bed.admin("/clusters/c/upgrade", wanted).await.0, 200);
    let (status, said) = world.bed.admin(AT, json!({"despite": [NO_API]})).await;
    assert_eq!((status, code(&said)), (409, "roll-under-way"), "{said}");
    assert_eq!(
        shown(&world).await["state"],
        json!("cancelled"),
        "what was is shown"
    );
}

#[tokio::test]
async fn a_package_manager_that_is_not_known_is_refused_in_words() {
    let mut world = World::new().await;
    world.os_id = "slackware";
    world.report(2, None).await;
    let (status, plan) = world
        .bed
        .admin(&format!("{AT}/plan"), json!({"despite": [NO_API]}))
        .await;
    assert_eq!((status, &plan["begins"]), (200, &json!(false)), "{plan}");
    let (status, said) = world
        .bed
        .admin(AT, json!({"despite": [NO_API, "os/w2"]}))
        .await;
    assert_eq!(
        (status, code(&said)),
        (422, "os-unknown"),
        "nobody overrules it: {said}"
    );
    let text = said.to_string();
    assert!(
        text.contains("node w2") && text.contains("slackware"),
        "{said}"
    );
    for wrong in [
        json!({"to": "b"}),
        json!({"withinSeconds": 1}),
        json!({"reboot": "always"}),
        json!({"command": "rm"}),
    ] {
        let (status, said) = world.bed.admin(AT, wrong.clone()).await;
        assert!((400..500).contains(&status), "{wrong}: {said}");
    }
    let wrong = json!({"to": "b", "reboot": "never", "despite": [NO_API]});
    let (status, said) = world.bed.admin("/clusters/c/upgrade", wrong).await;
    assert_eq!((status, code(&said)), (400, "cluster-invalid"), "{said}");
}

#[tokio::test]
async fn it_waits_for_the_window_and_operators_have_it_too() {
    let world = World::new().await;
    let now = pf9_hostagent::model::Timestamp::now();
    let day = now + jiff::SignedDuration::from_hours(72);
    let day = day.strftime("%a").to_string().to_lowercase();
    let path = format!("/qbert/v4/{{project}}/clusters/{}/os-update", world.cluster);
    let wanted =
        json!({"window": format!("{day} 12:00 10m"), "despite": [NO_API], "maxUnavailable": "50%"});
    let (status, said) = world.bed.ask(Method::POST, &path, wanted).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(stage(&world, 0).await, None, "the window is not open");
    let said = world.bed.get(&path).await;
    assert!(
        said.to_string()
            .contains("waits for the maintenance window"),
        "{said}"
    );
    let (status, said) = world
        .bed
        .ask(Method::POST, &format!("{path}/cancel"), Value::Null)
        .await;
    assert_eq!(
        (status, &said["osUpdate"]["state"]),
        (200, &json!("cancelled")),
        "{said}"
    );
    let any = json!({"anyTime": true, "despite": [NO_API]});
    assert_eq!(world.bed.ask(Method::POST, &path, any).await.0, 200);
    assert_eq!(stage(&world, 0).await, Some(UpgradeStage::Os));
}

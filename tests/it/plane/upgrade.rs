//! An upgrade of a cluster to another stack, as its nodes and the operator see it.
//!
//! | | |
//! |---|---|
//! | `begins` | whether and when it begins: refusals, calls, windows, policies |
//! | here     | the cluster of these tests; from the first node to the last, and back |

use http::Method;
use pf9_hostagent::model::{CertPurpose, ClusterId, Spec, UpgradeStage};
use serde_json::{Value, json};

use super::bed::{Bed, until};
use super::kube;
use super::node::Node;
use super::stacks::{write_of, write_with};

mod begins;

const AT: &str = "/clusters/c/upgrade";
/// The finding for clusters whose masters have no API server here.
pub(super) const NO_API: &str = "api";

async fn import(bed: &Bed, version: &str, kubernetes: &str, etcd: &str) -> (u16, Value) {
    let dir = tempfile::tempdir().expect("tempdir");
    let components = json!([
        {"name": "etcd", "version": etcd}, {"name": "kubelet", "version": kubernetes},
    ]);
    write_of(
        dir.path(),
        version,
        version.as_bytes(),
        kubernetes,
        components,
    );
    bed.admin("/stacks", json!({"path": dir.path()})).await
}

/// A master and two workers with a stack of 1.36; one of 1.37 is imported.
pub(super) struct World {
    pub(super) bed: Bed,
    pub(super) cluster: ClusterId,
    pub(super) nodes: Vec<(Node, &'static str, &'static str)>,
    /// The machines' distribution id.
    pub(super) os_id: &'static str,
}

pub(super) fn code(said: &Value) -> &str {
    said["code"].as_str().unwrap_or_default()
}

impl World {
    pub(super) async fn new() -> Self {
        let bed = Bed::new().await;
        Self::of(bed, ["1.36.3", "3.6.16"], ["1.37.2", "3.7.3"]).await
    }

    /// Stacks of these releases of Kubernetes and etcd.
    pub(super) async fn of(bed: Bed, a: [&str; 2], b: [&str; 2]) -> Self {
        assert_eq!(import(&bed, "a", a[0], a[1]).await.0, 200);
        let cluster = bed.cluster("c").await;
        assert_eq!(import(&bed, "b", b[0], b[1]).await.0, 200);
        let mut nodes = Vec::new();
        for (name, ip) in [("m1", "10.1.0.1"), ("w1", "10.1.0.2"), ("w2", "10.1.0.3")] {
            nodes.push((bed.host(name, ip).await, name, ip));
        }
        let all: Vec<(&Node, bool)> = (0..)
            .zip(&nodes)
            .map(|(i, (n, _, _))| (n, i == 0))
            .collect();
        let (status, said) = bed.attach(cluster, &all).await;
        assert_eq!(status, 200, "{said}");
        let world = Self {
            bed,
            cluster,
            nodes,
            os_id: "debian",
        };
        for i in 0..3 {
            world.report(i, None).await;
        }
        world
    }

    pub(super) async fn spec(&self, i: usize) -> Spec {
        self.nodes[i].0.current().await
    }

    /// A node's order, and its desired stack.
    pub(super) async fn told(&self, i: usize) -> (Option<UpgradeStage>, String) {
        let spec = self.spec(i).await;
        let node = spec.assignment.node().expect("node");
        let stage = node.upgrade.as_ref().map(|o| o.stage);
        (stage, node.stack.version.clone())
    }

    /// A node reports that it is healthy by its newest spec, and its progress with its order.
    pub(super) async fn report(&self, i: usize, state: Option<&str>) {
        let (node, name, ip) = &self.nodes[i];
        let spec = node.current().await;
        let order = spec.assignment.node().and_then(|n| n.upgrade.as_ref());
        let upgrade = order.zip(state).map(|(order, state)| {
            let failed = ["put-back", "refused"].contains(&state);
            json!({
                "roll": order.roll, "stage": order.stage, "stack": order.stack, "state": state,
                "attempts": 1, "since": pf9_hostagent::model::Timestamp::now(),
                "os": order.os.map(|_| json!({"available": 3, "security": 1, "updated": 3, "held": 0,
                                              "reboot_needed": false, "rebooted": true})),
                "fault": failed.then(|| json!({"code": "disk-full", "what": "it failed", "why": "no room"})),
            })
        });
        let mut status = node.status(name, ip);
        status["inventory"]["os_id"] = json!(self.os_id);
        status["observed_generation"] = json!(spec.generation);
        status["node"] = json!({
            "schema": 1, "revision": 1, "generation": spec.generation,
            "role": spec.assignment.role(), "cluster_id": self.cluster, "state": "ok",
            "reason": null, "attempts": 0, "phases": [], "current_step": null,
            "last_sweep_at": null, "stack": null, "wants_stack": null, "upgrade": upgrade,
            "certificate_requests": [], "service_account_key": null, "certificates": [],
        });
        let path = "/v1/hosts/self/status";
        let (code, said) = node.call(Method::POST, path, &status).await;
        assert_eq!(code, 204, "{said}");
    }

    pub(super) async fn begin(&self) -> Value {
        let wanted = json!({"to": "b", "despite": [NO_API]});
        let (status, said) = self.bed.admin(AT, wanted).await;
        assert_eq!(status, 200, "{said}");
        said
    }

    async fn state(&self) -> String {
        let (_, shown) = self.bed.admin_get(AT).await;
        shown["upgrade"]["state"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Everybody has staged the next stack.
    pub(super) async fn prepared(&self) {
        for i in 0..3 {
            self.report(i, Some("ready")).await;
        }
    }

    async fn events(&self) -> Vec<String> {
        let path = format!("/resmgr/v1/hosts/{}/events", self.nodes[0].0.id);
        let shown = self.bed.get(&path).await.to_string();
        let kinds = shown.split("roll-").skip(1);
        kinds
            .map(|k| k.split('"').next().unwrap_or_default().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn an_upgrade_survives_a_restart_of_the_plane() {
    let mut world = World::new().await;
    let (status, plan) = world
        .bed
        .admin(&format!("{AT}/plan"), json!({"to": "b"}))
        .await;
    assert_eq!((status, &plan["begins"]), (200, &json!(false)), "{plan}");
    let turns: Vec<&str> = plan["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter_map(|n| n["node"].as_str())
        .collect();
    assert_eq!(turns, ["m1", "w1", "w2"]);
    let restarts = plan["nodes"][1]["restarts"].to_string();
    assert!(
        restarts.contains("kubelet") && !restarts.contains("etcd"),
        "{restarts}"
    );
    let (status, said) = world.bed.admin(AT, json!({"to": "b"})).await;
    assert_eq!((status, code(&said)), (422, "roll-blocked"), "{said}");
    assert!(
        said["fix"].as_str().expect("fix").contains("--despite api"),
        "{said}"
    );
    assert_eq!(
        world.told(0).await,
        (None, "a".into()),
        "nothing was started"
    );

    let shown = world.begin().await;
    assert_eq!(shown["upgrade"]["phase"], json!("preparing"), "{shown}");
    let (status, said) = world
        .bed
        .admin(AT, json!({"to": "b", "despite": [NO_API]}))
        .await;
    assert_eq!((status, code(&said)), (409, "roll-under-way"), "{said}");
    // Whatever else restarts masters waits.
    let rotation = json!({"authorities": [], "hold_s": 0});
    let at = "/clusters/c/authorities/rotate";
    let (status, said) = world.bed.admin(at, rotation).await;
    assert_eq!((status, code(&said)), (409, "roll-under-way"), "{said}");
    for i in 0..3 {
        assert_eq!(
            world.told(i).await,
            (Some(UpgradeStage::Prepare), "a".into())
        );
    }
    world.prepared().await;
    assert_eq!(world.told(0).await, (Some(UpgradeStage::Etcd), "a".into()));
    // A restore would interrupt it.
    let (status, said) = world.bed.admin("/clusters/c/restore", json!({})).await;
    assert_eq!((status, code(&said)), (409, "roll-not-now"), "{said}");
    assert_eq!(
        world.told(1).await,
        (Some(UpgradeStage::Prepare), "a".into())
    );
    world.report(0, Some("done")).await;
    assert_eq!(world.told(0).await, (Some(UpgradeStage::Node), "b".into()));

    // The plane ends here, and another one starts with what it stored.
    world.bed = world.bed.restart().await;
    for (node, _, _) in &mut world.nodes {
        node.connect(&world.bed).await.expect("connected");
    }
    assert_eq!(
        world.told(1).await,
        (Some(UpgradeStage::Prepare), "a".into())
    );
    world.report(0, Some("done")).await;
    assert_eq!(world.told(1).await, (Some(UpgradeStage::Node), "b".into()));
    assert_eq!(
        world.told(2).await,
        (Some(UpgradeStage::Prepare), "a".into()),
        "one at a time"
    );
    world.report(1, Some("draining")).await;
    let (_, shown) = world.bed.admin_get(AT).await;
    assert!(
        shown.to_string().contains("changing the node: draining"),
        "{shown}"
    );
    world.report(1, Some("done")).await;
    assert_eq!(world.told(2).await, (Some(UpgradeStage::Node), "b".into()));
    world.report(2, Some("done")).await;
    assert_eq!(world.state().await, "done");
    let path = format!("/qbert/v4/{{project}}/clusters/{}", world.cluster);
    assert_eq!(world.bed.get(&path).await["stack"], json!("b"));
    let mut events = world.events().await;
    events.sort();
    assert_eq!(events, ["begun", "done"]);
    // A host that joins now gets it from the start.
    let late = world.bed.host("w3", "10.1.0.4").await;
    let (status, said) = world.bed.attach(world.cluster, &[(&late, false)]).await;
    assert_eq!(status, 200, "{said}");
    let spec = late.current().await;
    assert_eq!(spec.assignment.node().expect("node").stack.version, "b");
}

#[tokio::test]
async fn a_rolled_back_node_stops_it_until_resume_or_back() {
    let world = World::new().await;
    world.begin().await;
    world.prepared().await;
    for _ in 0..2 {
        world.report(0, Some("done")).await;
    }
    let first = world.spec(1).await;
    world.report(1, Some("put-back")).await;
    let (_, shown) = world.bed.admin_get(AT).await;
    let roll = &shown["upgrade"];
    assert_eq!(roll["state"], json!("stopped"), "{shown}");
    let why = roll["why"].to_string();
    assert!(why.contains("node w1") && why.contains("no room"), "{why}");
    world.report(0, Some("done")).await;
    assert_eq!(
        world.told(2).await,
        (Some(UpgradeStage::Prepare), "a".into())
    );
    let has_what_it_had = (None, "a".to_owned());
    assert_eq!(world.told(1).await, has_what_it_had);

    // Another attempt is another order.
    let (status, said) = world.bed.admin(&format!("{AT}/resume"), json!({})).await;
    assert_eq!(
        (status, &said["upgrade"]["state"]),
        (200, &json!("running")),
        "{said}"
    );
    let again = world.spec(1).await;
    let order = |spec: &Spec| spec.assignment.node().and_then(|n| n.upgrade.clone());
    let (first, again) = (order(&first).expect("order"), order(&again).expect("order"));
    assert_eq!(again.stage, UpgradeStage::Prepare);
    assert_ne!(first.roll, again.roll);

    // While paused no other node starts.
    let (status, _) = world.bed.admin(&format!("{AT}/pause"), json!({})).await;
    assert_eq!(status, 200);
    world.report(1, Some("ready")).await;
    assert_eq!(
        world.told(1).await,
        (Some(UpgradeStage::Prepare), "a".into())
    );
    let (_, said) = world.bed.admin(&format!("{AT}/back"), json!({})).await;
    assert_eq!(said["upgrade"]["way"], json!("back"), "{said}");
    assert_eq!(
        world.told(0).await,
        (Some(UpgradeStage::Prepare), "b".into())
    );
    world.report(1, None).await;
    world.report(0, Some("ready")).await;
    assert_eq!(world.told(0).await, (Some(UpgradeStage::Node), "a".into()));
    world.report(0, Some("done")).await;
    assert_eq!(
        world.told(0).await,
        (Some(UpgradeStage::Etcd), "a".into()),
        "etcd comes last"
    );
    world.report(0, Some("done")).await;
    assert_eq!(world.state().await, "done");
    for i in 0..3 {
        assert_eq!(world.told(i).await.1, "a");
    }
    let (status, said) = world.bed.admin(&format!("{AT}/cancel"), json!({})).await;
    assert_eq!((status, code(&said)), (409, "roll-none"), "{said}");
}

/// Also within seven days: the older etcd would refuse the data, or accept them and lose some. A restore is a person's
/// decision.
#[tokio::test]
async fn if_etcds_data_cannot_go_back_a_restore_is_offered() {
    let world = World::of(Bed::new().await, ["1.35.5", "3.5.35"], ["1.36.3", "3.6.5"]).await;
    world.begin().await;
    world.prepared().await;
    // etcd of the master, the master, the workers.
    for i in [0, 0, 1, 2] {
        world.report(i, Some("done")).await;
    }
    assert_eq!(world.state().await, "done");
    let (status, said) = world.bed.admin(&format!("{AT}/back"), json!({})).await;
    assert_eq!((status, code(&said)), (422, "etcd-step-unfit"), "{said}");
    let fix = said["fix"].as_str().expect("fix");
    assert!(
        fix.contains("backup") && fix.contains("pf9-plane cluster restore") && fix.contains("lost"),
        "{fix}"
    );
    assert_eq!(world.state().await, "done", "nothing is done by itself");
    for i in 0..3 {
        assert_eq!(world.told(i).await.1, "b");
    }
}

/// Where it is asked for, a node that proves itself has to run a pod: the plane makes it on that node, and takes it away when
/// the node is proven.
#[tokio::test]
async fn a_node_that_proves_itself_runs_a_probe_pod_where_that_is_asked_for() {
    let mut world = World::new().await;
    let cluster = world.cluster;
    let api = kube::master(cluster, &mut world.nodes[0].0, CertPurpose::ApiServer).await;
    let wanted = json!({"to": "b", "probe": true});
    let (status, said) = world.bed.admin(AT, wanted).await;
    assert_eq!(status, 400, "{said}");
    assert!(said.to_string().contains("no image of busybox"), "{said}");

    let dir = tempfile::tempdir().expect("tempdir");
    let components = json!([
        {"name": "etcd", "version": "3.7.3"}, {"name": "kubelet", "version": "1.37.2"},
    ]);
    write_with(dir.path(), "p", b"p", "1.37.2", components, &["busybox"]);
    let (status, said) = world
        .bed
        .admin("/stacks", json!({"path": dir.path()}))
        .await;
    assert_eq!(status, 200, "{said}");
    let wanted = json!({"to": "p", "probe": true});
    let (status, said) = world.bed.admin(AT, wanted).await;
    assert_eq!(status, 200, "{said}");
    world.prepared().await;
    world.report(0, Some("done")).await;
    assert_eq!(world.told(0).await, (Some(UpgradeStage::Node), "p".into()));
    let spec = world.spec(0).await;
    let order = spec.assignment.node().and_then(|n| n.upgrade.as_ref());
    assert!(order.expect("order").probe);

    let pod = || {
        api.objects
            .get("/api/v1/namespaces/kube-system/pods/pf9-probe-m1")
    };
    world.report(0, Some("draining")).await;
    assert_eq!(pod(), None);
    world.report(0, Some("proving")).await;
    let made = until(|| async { pod() }).await;
    assert_eq!(made["spec"]["nodeName"], "m1");
    assert_eq!(
        made["spec"]["containers"][0]["image"],
        "pf9.local/busybox:1"
    );
    world.report(0, Some("done")).await;
    until(|| async { pod().is_none().then_some(()) }).await;
    assert_eq!(world.told(1).await, (Some(UpgradeStage::Node), "p".into()));
}

/// A node keeps its old etcd only across minors: for the same one there is no separate stage.
#[tokio::test]
async fn an_etcd_of_the_same_minor_moves_with_the_node() {
    let world = World::new().await;
    let (status, said) = import(&world.bed, "a4", "1.36.4", "3.6.17").await;
    assert_eq!(status, 200, "{said}");
    let wanted = json!({"to": "a4", "despite": [NO_API]});
    let (status, plan) = world.bed.admin(&format!("{AT}/plan"), wanted.clone()).await;
    assert_eq!(status, 200, "{plan}");
    assert_eq!(plan["nodes"][0]["etcdApart"], json!(false), "{plan}");
    let (status, said) = world.bed.admin(AT, wanted).await;
    assert_eq!(status, 200, "{said}");
    world.prepared().await;
    assert_eq!(world.told(0).await, (Some(UpgradeStage::Node), "a4".into()));
}

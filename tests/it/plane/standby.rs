//! People whose requests come to a plane that stands by, and a machine whose tunnel does: kubectl, the page's terminal and
//! an upgrade, while another plane has the seat.

use std::time::Duration;

use http::Method;
use pf9_hostagent::model::{CertPurpose, UpgradeStage};
use serde_json::json;

use super::bed::{Bed, within};
use super::desk::{Desk, jail, kubectl};
use super::kube;
use super::upgrade::World;
use crate::planes::cluster::{Cluster, free};
use crate::planes::killed::Process;

/// Longer than an election and the start of a plane, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A plane with the seat, and one that stands by.
struct Fleet {
    _cluster: Cluster,
    _dir: tempfile::TempDir,
    standby: Process,
    /// Where the plane with the seat is.
    seat: String,
}

impl Fleet {
    /// The bed's requests and tunnels come to the plane that stands by; its administrator's socket is that of the other.
    async fn new() -> (Self, Bed) {
        let cluster = Cluster::start();
        let (place, at) = (cluster.place(), free());
        let bed = Bed::with(|config| {
            config.etcd = Some(place);
            config.endpoints = vec![format!("wss://{at}")];
            config.terminal.jail = Some(jail());
        });
        let bed = tokio::time::timeout(LONG, bed).await;
        let mut bed = bed.expect("a plane");
        let dir = tempfile::tempdir().expect("tempdir");
        let standby = Process::start_at(&cluster, dir.path(), at, &[]);
        let seat = std::mem::replace(&mut bed.url, format!("https://{at}"));
        let ready = async || {
            let answer = bed.http.get(format!("{}/ready", bed.url)).send().await;
            answer.is_ok_and(|a| a.status().is_success())
        };
        let passes = async {
            while !ready().await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let passes = tokio::time::timeout(LONG, passes).await;
        passes.expect("it passes on");
        let fleet = Self {
            _cluster: cluster,
            _dir: dir,
            standby,
            seat,
        };
        (fleet, bed)
    }

    /// It stood by all the time.
    fn end(self) {
        let log = self.standby.log();
        assert!(log.contains("standing by"), "{log}");
        self.standby.kill();
    }
}

/// The tunnel of a cluster's master comes through the plane that stands by; the cluster is reached at either, as the person
/// who asks.
#[tokio::test]
async fn kubectl_and_the_terminal_reach_a_cluster_through_either_plane() {
    const OWN: &str = "pod/Default.alice-pf9.role.admin\n";
    let (fleet, bed) = Fleet::new().await;
    let desk = Desk::on(bed).await;
    let home = tempfile::tempdir().expect("tempdir");
    for at in [&fleet.seat, &desk.world.bed.url] {
        let mut asked = tokio::process::Command::new(kubectl());
        asked
            .args(["get", "pods", "-o", "name", "--token", &desk.admin])
            .arg(format!("--server={at}/k8s/clusters/{}", desk.cluster))
            .arg("--certificate-authority")
            .arg(desk.world.bed.file("ca.pem"))
            .env("HOME", home.path())
            .env_remove("KUBECONFIG")
            .kill_on_drop(true);
        let done = within(asked.output()).await.expect("kubectl");
        let said = String::from_utf8_lossy(&done.stdout);
        let why = String::from_utf8_lossy(&done.stderr);
        assert_eq!(said, OWN, "{at}: {why}");
    }
    let (out, err, end) = desk.run(&desk.admin, "get pods -o name", None).await;
    assert_eq!((out.as_str(), &end["done"]), (OWN, &json!(true)), "{err}");
    fleet.end();
}

/// qbert's own request, then the orders of the roll and what nodes report of them. In the middle the plane with the seat
/// stops: the other one leads the same roll on, and no node's spec is of another history.
#[tokio::test]
async fn an_upgrade_begun_through_a_plane_that_stands_by_is_ended_when_it_has_the_seat() {
    let (mut fleet, bed) = Fleet::new().await;
    let mut world = World::of(bed, ["1.36.3", "3.6.16"], ["1.37.2", "3.7.3"]).await;
    let cluster = world.cluster;
    let master = &mut world.nodes[0].0;
    let _api = kube::master(cluster, master, CertPurpose::ApiServer).await;
    let path = format!("/qbert/v4/{{project}}/clusters/{cluster}");
    let wanted = json!({"kubeRoleVersion": "b"});
    let (status, said) = world.bed.ask(Method::PATCH, &path, wanted).await;
    assert_eq!(status, 200, "{said}");
    for at in [fleet.seat.clone(), world.bed.url.clone()] {
        world.bed.url = at;
        let shown = world.bed.get(&format!("{path}/upgrade")).await;
        assert_eq!(shown["upgrade"]["state"], json!("running"), "{shown}");
    }
    world.prepared().await;
    assert_eq!(world.told(0).await, (Some(UpgradeStage::Etcd), "a".into()));
    world.report(0, Some("done")).await;
    assert_eq!(world.told(0).await, (Some(UpgradeStage::Node), "b".into()));
    let before = world.spec(0).await.generation;

    within(world.bed.server().stop()).await;
    fleet.standby.serves().await;
    for (node, _, _) in &mut world.nodes {
        node.connect(&world.bed).await.expect("connected");
    }
    assert_eq!(world.spec(0).await.generation, before);
    for i in 0..3 {
        let told = world.told(i).await;
        assert_eq!(told, (Some(UpgradeStage::Node), "b".into()), "node {i}");
        world.report(i, Some("done")).await;
    }
    // Never back: a node refuses a spec that is older than its own.
    assert!(world.spec(0).await.generation.0 >= before.0);
    let shown = world.bed.get(&format!("{path}/upgrade")).await;
    assert_eq!(shown["upgrade"]["state"], json!("done"), "{shown}");
    assert_eq!(world.bed.get(&path).await["stack"], json!("b"));
    fleet.end();
}

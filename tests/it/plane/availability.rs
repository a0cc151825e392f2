//! Availability of clusters' APIs, and nodes' observed state: measured and reported through a real tunnel.

use std::time::Duration;

use pf9_hostagent::model::{CertPurpose, ClusterId, Timestamp};
use serde_json::{Value, json};

use super::bed::{Bed, until};
use super::kube::{Api, master};
use super::node::Node;

/// Whole seconds are counted.
const EVERY: Duration = Duration::from_secs(1);

struct World {
    bed: Bed,
    cluster: ClusterId,
    node: Node,
    api: Api,
}

impl World {
    async fn new() -> Self {
        let bed = Bed::with(|config| config.probe_every = EVERY).await;
        bed.stack("1").await;
        let mut node = bed.host("m1", "10.1.0.1").await;
        let cluster = bed.cluster("c").await;
        let (status, said) = bed.attach(cluster, &[(&node, true)]).await;
        assert_eq!(status, 200, "{said}");
        let api = master(cluster, &mut node, CertPurpose::ApiServer).await;
        Self {
            bed,
            cluster,
            node,
            api,
        }
    }

    /// The alert that the API is down, if there is one.
    async fn down(&self) -> Option<Value> {
        let all = self.bed.get("/alerts/v1/alerts").await;
        let mut those = all.as_array().expect("list").iter();
        those.find(|a| a["rule"] == "ApiServerDown").cloned()
    }

    async fn months(&self) -> Vec<Value> {
        let path = format!("/alerts/v1/clusters/{}/availability", self.cluster);
        let said = self.bed.get(&path).await;
        assert_eq!(said["targetPercent"], "99.900");
        said["months"].as_array().expect("list").clone()
    }
}

fn sum(months: &[Value], field: &str) -> u64 {
    months.iter().filter_map(|m| m[field].as_u64()).sum()
}

/// The plane probes through the tunnel: up, down and unmeasured are counted separately; the alert follows the
/// measurement; all of it survives a restart of the plane.
#[tokio::test]
async fn an_api_is_measured_through_its_tunnel_and_missed_when_it_does_not_answer() {
    let mut world = World::new().await;
    // Probed for the first time, and answered: from here on it would be missed.
    until(|| async {
        let asked = world.api.objects.asked("/readyz");
        (asked >= 3).then_some(())
    })
    .await;
    assert_eq!(world.down().await, None);
    world.api.objects.well(false);
    let down = until(|| world.down()).await;
    assert_eq!(down["state"], "pending", "it has to last: {down}");
    assert_eq!(down["cluster"], json!(world.cluster));
    let why = down["why"].as_str().expect("words");
    assert!(why.contains("/readyz: 500"), "{why}");
    let asked = world.api.objects.asked("/readyz");
    until(|| async { (world.api.objects.asked("/readyz") >= asked + 3).then_some(()) }).await;
    world.api.objects.well(true);
    until(|| async { world.down().await.is_none().then_some(()) }).await;
    // Counts are written at the latest at the end.
    world.bed = world.bed.restart_with(|c| c.probe_every = EVERY).await;
    let months = world.months().await;
    let (up, silent) = (
        sum(&months, "answeredSeconds"),
        sum(&months, "silentSeconds"),
    );
    assert!(up >= 2 && silent >= 2, "{months:?}");
    let outages: Vec<&Value> = months
        .iter()
        .filter_map(|m| m["outages"].as_array())
        .flatten()
        .collect();
    let time = |outage: &Value, end: &str| -> Timestamp {
        outage[end].as_str().expect("time").parse().expect("time")
    };
    let whole: Duration = outages
        .iter()
        .map(|o| time(o, "from").duration_until(time(o, "to")).unsigned_abs())
        .sum();
    assert!(
        whole.as_secs() >= silent,
        "{whole:?} of {silent} s: {months:?}"
    );
    let met = months.last().map(|m| m["met"].clone());
    assert_eq!(met, Some(json!(false)));
    // Nobody can be probed: that is neither up nor down.
    let before = world.months().await;
    until(|| async {
        let path = format!("/resmgr/v1/hosts/{}", world.node.id);
        let host = world.bed.get(&path).await;
        (host["pf9"]["connected"] == false).then_some(())
    })
    .await;
    tokio::time::timeout(EVERY * 3, std::future::pending::<()>())
        .await
        .expect_err("time goes by");
    world.bed = world.bed.restart_with(|c| c.probe_every = EVERY).await;
    let after = world.months().await;
    for field in ["answeredSeconds", "silentSeconds"] {
        assert_eq!(sum(&after, field), sum(&before, field), "{field}");
    }
    assert!(sum(&after, "unmeasuredSeconds") > sum(&before, "unmeasuredSeconds"));
    assert_eq!(world.down().await, None, "nobody knows that it is down");
}

/// A day's report stays as of that day: later observations are in the current one.
#[tokio::test]
async fn a_days_report_is_made_from_statuses_and_stays() {
    let mut world = World::new().await;
    let path = format!("/alerts/v1/clusters/{}/report", world.cluster);
    let none = world.bed.get(&path).await;
    assert_eq!(
        none["conforms"], false,
        "it has not said what it is: {none}"
    );
    let spec = world.node.current().await;
    let stack = spec.assignment.node().expect("node").stack.clone();
    let mut status = world.node.status("m1", "10.1.0.1");
    status["accepted_generation"] = json!(spec.generation);
    status["observed_generation"] = json!(spec.generation);
    status["node"] = json!({
        "schema": 1, "revision": 1, "generation": spec.generation, "role": "master",
        "cluster_id": world.cluster, "state": "ok", "reason": null, "attempts": 0, "phases": [],
        "current_step": null, "last_sweep_at": Timestamp::now(), "stack": stack, "wants_stack": null,
        "certificate_requests": [], "service_account_key": null, "certificates": [],
        "installed": {"role": "master", "cluster_id": world.cluster, "generation": spec.generation},
        "repairs": [{"number": 1, "at": Timestamp::now(), "what": "start pf9-kubelet.service", "why": "it is not running"}],
    });
    let report = "/v1/hosts/self/status";
    let (code, said) = world.node.call(http::Method::POST, report, &status).await;
    assert_eq!(code, 204, "{said}");
    let day = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    let before = day(Timestamp::now());
    // Made when the plane starts, and with every new day.
    world.bed = world.bed.restart().await;
    let of_day = until(|| async {
        for day in [&before, &day(Timestamp::now())] {
            let path = format!("{path}?day={day}");
            let (status, made) = world.bed.ask(http::Method::GET, &path, Value::Null).await;
            if status == 200 {
                return Some((path, made));
            }
        }
        None
    })
    .await;
    let (path_of_day, made) = of_day;
    let node = &made["nodes"][0];
    let repaired = &node["repaired"][0]["what"];
    assert_eq!(repaired, "start pf9-kubelet.service", "{made}");
    assert_eq!(
        (&node["wanted"]["role"], &node["found"]["role"]),
        (&json!("master"), &json!("master"))
    );
    assert_eq!(node["differs"], json!([]), "{made}");
    assert_eq!(made["conforms"], true);
    // Its observed state changes.
    world.node.connect(&world.bed).await.expect("connected");
    status["node"]["installed"]["role"] = json!("worker");
    status["sent_at"] = json!(Timestamp::now());
    let (code, said) = world.node.call(http::Method::POST, report, &status).await;
    assert_eq!(code, 204, "{said}");
    let now = world.bed.get(&path).await;
    assert_eq!(now["conforms"], false);
    assert_eq!(now["nodes"][0]["differs"], json!(["it is a worker"]));
    assert_eq!(world.bed.get(&path_of_day).await, made);
    // A plane that restarts on the same day makes no second one.
    world.bed = world.bed.restart().await;
    until(|| async {
        let (_, all) = world.bed.admin_get("/clusters/c/report").await;
        (all["conforms"] == false).then_some(())
    })
    .await;
    assert_eq!(world.bed.get(&path_of_day).await, made);
}

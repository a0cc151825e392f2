//! Every way of removing a master passes the same check.

use http::Method;
use serde_json::{Value, json};

use super::bed::Bed;
use super::node::Node;

/// A cluster of one master and one worker.
async fn world() -> (Bed, Node, Node, String) {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let master = bed.host("m1", "10.1.0.1").await;
    let worker = bed.host("w1", "10.1.0.2").await;
    let cluster = bed.cluster("c").await;
    let (status, said) = bed
        .attach(cluster, &[(&master, true), (&worker, false)])
        .await;
    assert_eq!(status, 200, "{said}");
    (bed, master, worker, cluster.to_string())
}

/// The ways an operator has.
const WAYS: [&str; 4] = [
    "detach",
    "detach on the socket",
    "remove",
    "remove on the socket",
];

async fn go(bed: &Bed, way: &str, master: &Node, cluster: &str, force: bool) -> (u16, Value) {
    let id = master.id;
    match way {
        "detach" => {
            let path = format!("/qbert/v4/{{project}}/clusters/{cluster}/detach");
            let body = json!([{"uuid": id, "force": force}]);
            bed.ask(Method::POST, &path, body).await
        }
        "detach on the socket" => {
            let body = json!({"hosts": [id], "force": force});
            bed.admin(&format!("/clusters/{cluster}/detach"), body)
                .await
        }
        "remove" => {
            let path = format!("/resmgr/v1/hosts/{id}?force={force}");
            bed.ask(Method::DELETE, &path, Value::Null).await
        }
        "remove on the socket" => {
            let body = json!({"force": force});
            bed.admin(&format!("/hosts/{id}/remove"), body).await
        }
        _ => panic!("no way {way}"),
    }
}

fn code(said: &Value) -> Option<&str> {
    let places = ["/code", "/fault/code", "/error/fault/code"];
    places.iter().find_map(|at| said.pointer(at)?.as_str())
}

#[tokio::test]
async fn the_last_master_leaves_only_by_force() {
    for way in WAYS {
        let (bed, master, worker, cluster) = world().await;
        let (status, said) = go(&bed, way, &master, &cluster, false).await;
        assert_eq!(
            (status, code(&said)),
            (409, Some("last-master")),
            "{way}: {said}"
        );
        // Revoking its role is no way around it.
        let path = format!("/resmgr/v1/hosts/{}/roles/pf9-kube", master.id);
        let (status, said) = bed.ask(Method::DELETE, &path, Value::Null).await;
        assert_eq!(
            (status, code(&said)),
            (409, Some("host-attached")),
            "{said}"
        );
        let (status, said) = go(&bed, way, &master, &cluster, true).await;
        assert_eq!(status, 200, "{way}: {said}");
        let lost = said["lost"].as_str().unwrap_or_default();
        assert!(
            lost.contains("1 workers without a control plane"),
            "{way}: {said}"
        );
        let node = bed
            .get(&format!("/qbert/v4/{{project}}/nodes/{}", worker.id))
            .await;
        assert_eq!(
            node["clusterUuid"],
            json!(cluster),
            "the worker is where it was"
        );
    }
}

/// With everybody else it may leave, and a dead machine already counts as gone.
#[tokio::test]
async fn with_all_others_the_last_master_may_leave() {
    let (bed, master, worker, cluster) = world().await;
    let cluster = cluster.parse().expect("uuid");
    let (status, said) = bed.detach(cluster, &[&master, &worker]).await;
    assert_eq!(status, 200, "{said}");
}

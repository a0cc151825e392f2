use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::host::tls;

#[test]
fn pods_of_the_node_itself_stay() {
    let pod = |extra: Value| {
        let mut pod = json!({"metadata": {"name": "a", "namespace": "b"}});
        for (k, v) in extra.as_object().cloned().unwrap_or_default() {
            match (k.as_str(), v) {
                ("status", v) => pod["status"] = v,
                (k, v) => pod["metadata"][k] = v,
            }
        }
        movable(&pod).is_some()
    };
    assert!(pod(json!({})));
    assert!(pod(json!({"ownerReferences": [{"kind": "ReplicaSet"}]})));
    assert!(!pod(json!({"ownerReferences": [{"kind": "DaemonSet"}]})));
    assert!(!pod(
        json!({"annotations": {"kubernetes.io/config.mirror": "x"}})
    ));
    assert!(!pod(json!({"status": {"phase": "Succeeded"}})));
}

#[test]
fn the_budget_that_keeps_a_pod_is_named() {
    let said = "Cannot evict pod as it would violate the pod's disruption budget.: The disruption \
                budget web needs 2 healthy pods and has 2 currently";
    assert_eq!(budget("shop", said), "shop/web");
    for other in ["too many requests", "The disruption budget <b> needs", ""] {
        assert_eq!(budget("shop", other), "one in shop", "{other}");
    }
}

#[test]
fn a_persons_cordon_is_told_from_ours() {
    let person = json!({"spec": {"unschedulable": true}});
    assert_eq!(Kube::cordoned(&person), (true, false));
    let ours = json!({"spec": {"unschedulable": true},
                      "metadata": {"annotations": {DRAIN_MARK: "true"}}});
    assert_eq!(Kube::cordoned(&ours), (true, true));
    assert_eq!(Kube::cordoned(&json!({"spec": {}})), (false, false));
}

/// An API server with one node and its pods; each with the disruption budget that keeps it, if one does.
#[derive(Default)]
struct Cluster {
    node: Value,
    pods: BTreeMap<&'static str, Option<&'static str>>,
    /// Without a controller.
    alone: Vec<&'static str>,
    /// Made again at once on the same node, as another one.
    again: Vec<&'static str>,
    made: usize,
    /// An eviction of it gets this answer.
    broken: Vec<&'static str>,
    deleted: Vec<String>,
}

type Shared = Arc<Mutex<Cluster>>;

/// The cluster, and a client of its API server.
async fn cluster(pods: &[(&'static str, Option<&'static str>)]) -> (Shared, Kube) {
    let cluster = Cluster {
        node: json!({"metadata": {"name": "n1", "resourceVersion": "1"}, "spec": {}}),
        pods: pods.iter().copied().collect(),
        ..Cluster::default()
    };
    let shared = Arc::new(Mutex::new(cluster));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let base = format!("http://{}", listener.local_addr().expect("address"));
    let state = Arc::clone(&shared);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream, &state).await;
        }
    });
    let kube = Kube {
        base,
        client: tls::plain().expect("client"),
        kinds: Arc::default(),
    };
    (shared, kube)
}

async fn answer(mut stream: TcpStream, cluster: &Shared) {
    let mut request = Vec::new();
    let (head, body) = loop {
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.expect("read");
        assert!(n > 0, "cut off");
        request.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|l| {
            let (name, value) = l.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.to_owned())
        });
        let length: usize = length.map_or(0, |l| l.parse().expect("length"));
        if body.len() >= length {
            break (head.to_owned(), body.to_owned());
        }
    };
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let (status, said) = {
        let mut cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
        cluster.says(
            method,
            path,
            &serde_json::from_str(&body).unwrap_or_default(),
        )
    };
    let said = said.to_string();
    let answer = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{said}",
        said.len()
    );
    stream.write_all(answer.as_bytes()).await.expect("write");
}

impl Cluster {
    fn pod(&self, name: &str) -> Value {
        let again = self.again.contains(&name);
        let uid = format!("{name}-{}", if again { self.made } else { 0 });
        let mut pod = json!({"metadata": {"name": name, "namespace": "shop", "uid": uid}});
        if !self.alone.contains(&name) {
            pod["metadata"]["ownerReferences"] = json!([{"kind": "ReplicaSet"}]);
        }
        if again {
            pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        }
        pod
    }

    fn says(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let pod = path
            .strip_prefix("/api/v1/namespaces/shop/pods/")
            .unwrap_or_default();
        match method {
            "GET" if path.starts_with("/api/v1/pods?") => {
                let items: Vec<Value> = self.pods.keys().map(|name| self.pod(name)).collect();
                (200, json!({ "items": items }))
            }
            "GET" => (200, self.node.clone()),
            "PATCH" => {
                for (key, value) in body["spec"].as_object().into_iter().flatten() {
                    self.node["spec"][key] = value.clone();
                }
                self.node["metadata"]["annotations"] = body["metadata"]["annotations"].clone();
                (200, self.node.clone())
            }
            "POST" => {
                let name = pod.trim_end_matches("/eviction");
                if self.broken.contains(&name) {
                    return (500, json!({"message": "a webhook does not answer"}));
                }
                if self.again.contains(&name) {
                    self.made += 1;
                    return (201, json!({}));
                }
                match self.pods.get(name).copied() {
                    None => (404, json!({"message": "it is gone"})),
                    Some(Some(budget)) => {
                        let cause = format!("The disruption budget {budget} needs 2 healthy pods");
                        let causes = json!([{"reason": "DisruptionBudget", "message": cause}]);
                        let message = "Cannot evict pod";
                        (
                            429,
                            json!({"message": message, "details": {"causes": causes}}),
                        )
                    }
                    Some(None) => {
                        self.pods.remove(name);
                        (201, json!({}))
                    }
                }
            }
            "DELETE" => {
                self.pods.remove(pod);
                self.deleted.push(pod.to_owned());
                (200, json!({}))
            }
            other => panic!("{other} {path}"),
        }
    }
}

#[tokio::test]
async fn a_pod_that_a_budget_keeps_stays_and_is_counted_until_force_is_meant() {
    let (cluster, kube) = cluster(&[("a", None), ("b", Some("web")), ("c", Some("db"))]).await;
    let mut began = DrainBegan::default();
    let pass = kube
        .drain_once("n1", false, &mut began)
        .await
        .expect("asked");
    assert_eq!(pass.left, 3, "those that were there");
    let pass = kube
        .drain_once("n1", false, &mut began)
        .await
        .expect("asked");
    let want = DrainPass {
        left: 2,
        kept: 2,
        budget: Some("shop/web".into()),
        ..DrainPass::default()
    };
    assert_eq!(pass, want);
    assert!(cluster.lock().expect("state").deleted.is_empty());
    kube.drain_once("n1", true, &mut began)
        .await
        .expect("asked");
    assert_eq!(cluster.lock().expect("state").deleted, ["b", "c"]);
    let pass = kube
        .drain_once("n1", false, &mut began)
        .await
        .expect("asked");
    assert_eq!(pass, DrainPass::default());
}

#[tokio::test]
async fn our_cordon_goes_with_our_mark_and_a_persons_stays() {
    let (ours, kube) = cluster(&[]).await;
    let off = |cluster: &Shared| Kube::cordoned(&cluster.lock().expect("state").node);
    kube.cordon("n1").await.expect("cordon");
    assert_eq!(off(&ours), (true, true));
    kube.uncordon("n1").await.expect("uncordon");
    assert_eq!(off(&ours), (false, false));
    let (persons, kube) = cluster(&[]).await;
    persons.lock().expect("state").node["spec"]["unschedulable"] = true.into();
    kube.cordon("n1").await.expect("cordon");
    assert_eq!(off(&persons), (true, false), "no mark of ours");
    kube.uncordon("n1").await.expect("uncordon");
    assert_eq!(off(&persons), (true, false));
}

/// One that hangs on its webhook keeps no other on the node.
#[tokio::test]
async fn a_pod_that_cannot_be_asked_keeps_no_other_from_being_asked() {
    let (cluster, kube) = cluster(&[("a", None), ("b", Some("web")), ("c", None)]).await;
    cluster.lock().expect("state").broken = vec!["a"];
    let mut began = DrainBegan::default();
    kube.drain_once("n1", false, &mut began)
        .await
        .expect("asked");
    let pass = kube
        .drain_once("n1", false, &mut began)
        .await
        .expect("asked");
    assert_eq!((pass.left, pass.kept), (2, 1), "c is gone");
    let failed = pass.failed.expect("it says why");
    assert!(failed.contains("a webhook does not answer"), "{failed}");
    // Likewise for a node that leaves permanently.
    cluster.lock().expect("state").pods.insert("d", None);
    let outcome = kube
        .drain("n1", Duration::from_millis(200))
        .await
        .expect("it goes on");
    assert_eq!((outcome.asked, outcome.left), (3, 2));
    let keeps = outcome.keeps.expect("who is there does not go");
    assert!(keeps.contains("/web forbids"), "{keeps}");
}

/// Asked again for ever it would never be drained: the cordon keeps them from nowhere.
#[tokio::test]
async fn what_is_made_again_on_a_cordoned_node_is_moved_once_and_not_waited_for() {
    let (cluster, kube) = cluster(&[("a", None), ("b", None)]).await;
    cluster.lock().expect("state").again = vec!["b"];
    let mut began = DrainBegan::default();
    let pass = kube
        .drain_once("n1", false, &mut began)
        .await
        .expect("asked");
    assert_eq!(pass.left, 2);
    let pass = kube
        .drain_once("n1", false, &mut began)
        .await
        .expect("asked");
    assert_eq!(pass, DrainPass::default());
    assert_eq!(cluster.lock().expect("state").made, 1, "and asked once");
}

#[test]
fn who_tolerates_the_cordon_is_known_by_its_taint() {
    let with =
        |toleration: Value| tolerates_cordon(&json!({"spec": {"tolerations": [toleration]}}));
    assert!(with(json!({"operator": "Exists"})));
    assert!(with(
        json!({"key": CORDON_TAINT, "operator": "Exists", "effect": "NoSchedule"})
    ));
    assert!(with(json!({"key": CORDON_TAINT})));
    assert!(!with(json!({"key": CORDON_TAINT, "value": "x"})));
    assert!(!with(
        json!({"key": CORDON_TAINT, "operator": "Exists", "effect": "NoExecute"})
    ));
    assert!(!with(
        json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists"})
    ));
    assert!(!tolerates_cordon(&json!({})));
}

#[tokio::test]
async fn a_pod_that_nobody_makes_again_is_counted_and_let_be_until_force_is_meant() {
    let (cluster, kube) = cluster(&[("a", None), ("b", None)]).await;
    cluster.lock().expect("state").alone = vec!["b"];
    let mut began = DrainBegan::default();
    kube.drain_once("n1", false, &mut began)
        .await
        .expect("asked");
    let pass = kube
        .drain_once("n1", false, &mut began)
        .await
        .expect("asked");
    assert_eq!((pass.left, pass.alone), (1, 1));
    assert!(cluster.lock().expect("state").pods.contains_key("b"));
    kube.drain_once("n1", true, &mut began)
        .await
        .expect("asked");
    assert_eq!(cluster.lock().expect("state").deleted, ["b"]);
}

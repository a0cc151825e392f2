//! Metrics of hosts, as Prometheus scrapes them.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::ClusterId;
use pf9_hostagent::mux::MuxStream;
use pf9_hostagent::wire::{Class, Code};
use serde_json::Value;
use tokio::task::JoinSet;

use super::bed::{Bed, within};
use super::node::Node;

/// A node whose services answer with their name and the requested path.
fn services(node: &mut Node, known: &'static [&'static str]) -> JoinSet<()> {
    let mut incoming = node.incoming.take().expect("connected");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut streams = JoinSet::new();
        while let Some(opened) = incoming.next().await {
            if super::kube::is_the_planes_own(&opened) {
                opened.refuse(Code::UnknownService, 0, "not on this host's allow-list");
                continue;
            }
            assert_eq!(opened.open.class, Class::Bulk, "scraping delays nobody");
            assert_eq!(
                opened.open.meta.get("who").map(String::as_str),
                Some("prometheus")
            );
            let service = opened.open.service.clone();
            if known.contains(&service.as_str()) {
                streams.spawn(serve(opened.accept().expect("accept"), service));
            } else {
                opened.refuse(Code::UnknownService, 0, "not on this host's allow-list");
            }
        }
    });
    tasks
}

async fn serve(stream: MuxStream, service: String) {
    let answer = service_fn(move |request: Request<Body>| {
        let text = format!("# {service} {}\nup 1\n", request.uri());
        async move {
            let body = Full::new(Bytes::from(text));
            let response = Response::builder().header("content-type", "text/plain; version=0.0.4");
            response.body(body)
        }
    });
    let http = hyper::server::conn::http1::Builder::new();
    drop(http.serve_connection(TokioIo::new(stream), answer).await);
}

/// A token for one cluster.
pub(super) async fn token(bed: &Bed, cluster: &str) -> String {
    let (status, body) = bed
        .admin("/kubeconfig", super::kube::long_lived(cluster))
        .await;
    assert_eq!(status, 200, "{body}");
    let text = body["kubeconfig"].as_str().expect("text");
    let line = text.lines().find_map(|l| l.trim().strip_prefix("token: "));
    line.expect("token").to_owned()
}

pub(super) async fn ask(bed: &Bed, path: &str, token: &str) -> (u16, String) {
    let url = format!("{}{path}", bed.url);
    let answer = within(bed.http.get(url).bearer_auth(token).send()).await;
    let answer = answer.expect("answer");
    let status = answer.status().as_u16();
    (status, within(answer.text()).await.expect("text"))
}

async fn cluster_of(bed: &Bed, name: &str, nodes: &[(&Node, bool)]) -> ClusterId {
    let cluster = bed.cluster(name).await;
    let (status, said) = bed.attach(cluster, nodes).await;
    assert_eq!(status, 200, "{said}");
    cluster
}

#[tokio::test]
async fn every_target_answers_with_the_hosts_own_metrics() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let mut master = bed.host("m1", "10.1.0.1").await;
    let mut worker = bed.host("w1", "10.1.0.2").await;
    cluster_of(&bed, "c", &[(&master, true), (&worker, false)]).await;
    let other = bed.host("x1", "10.1.0.3").await;
    let known = &["agent-metrics", "etcd-metrics"];
    let _running = (services(&mut master, known), services(&mut worker, known));

    let token = token(&bed, "c").await;
    let (status, text) = ask(&bed, "/metrics/targets", &token).await;
    assert_eq!(status, 200, "{text}");
    let targets: Vec<Value> = serde_json::from_str(&text).expect("targets");
    let mut said = Vec::new();
    for target in &targets {
        let label = |name: &str| target["labels"][name].as_str().expect("label").to_owned();
        assert_eq!(
            format!(
                "{}://{}",
                label("__scheme__"),
                target["targets"][0].as_str().expect("address")
            ),
            bed.url
        );
        assert_eq!(label("cluster"), "c");
        let (status, numbers) = ask(&bed, &label("__metrics_path__"), &token).await;
        assert_eq!(status, 200, "{numbers}");
        if label("source") == "host" {
            // From its last status, and not through its tunnel.
            assert!(
                numbers.contains("pf9_host_state{state=\"ok\"} 1\n"),
                "{numbers}"
            );
            continue;
        }
        said.push(format!("{} {numbers}", label("instance")));
    }
    said.sort_unstable();
    assert_eq!(
        said,
        [
            "m1 # agent-metrics /v1/metrics\nup 1\n",
            "m1 # etcd-metrics /metrics\nup 1\n",
            "w1 # agent-metrics /v1/metrics\nup 1\n",
        ]
    );
    // A cluster's token shows its own hosts only.
    let foreign = format!("/metrics/hosts/{}/tunnel", other.id);
    assert_eq!(ask(&bed, &foreign, &token).await.0, 404);
}

#[tokio::test]
async fn unavailable_metrics_say_why() {
    let bed = Bed::new().await;
    bed.stack("1").await;
    let mut node = bed.host("m1", "10.1.0.1").await;
    cluster_of(&bed, "c", &[(&node, true)]).await;
    let token = token(&bed, "c").await;
    let path = |source: &str| format!("/metrics/hosts/{}/{source}", node.id);
    let (etcd, nonsense) = (path("etcd"), path("nonsense"));
    assert_eq!(ask(&bed, &etcd, "guess").await.0, 401);
    assert_eq!(ask(&bed, &nonsense, &token).await.0, 404);
    let _running = services(&mut node, &[]);
    let (status, text) = ask(&bed, &etcd, &token).await;
    assert_eq!(status, 503);
    assert!(text.contains("allow-list"), "{text}");
    node.tunnel
        .as_ref()
        .expect("connected")
        .close(Code::Cancelled, "gone");
    node.closed().await;
    super::bed::until(|| async {
        let (status, text) = ask(&bed, &etcd, &token).await;
        assert_eq!(status, 503);
        text.contains("not connected").then_some(())
    })
    .await;
    // Its last report is available anyway.
    let (_, left) = ask(&bed, "/metrics/targets", &token).await;
    let left: Vec<Value> = serde_json::from_str(&left).expect("targets");
    let sources: Vec<&Value> = left.iter().map(|t| &t["labels"]["source"]).collect();
    assert_eq!(sources, ["host"]);
}

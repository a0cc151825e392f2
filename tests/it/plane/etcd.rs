//! Members of etcd: which may leave, which are removed, which wait for which. Each host's etcd answers through its own
//! tunnel.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pf9_hostagent::model::{Assignment, ClusterId, EtcdGone, HostId};
use pf9_hostagent::mux::{Incoming, MuxStream};
use pf9_hostagent::wire::Code;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::bed::{Bed, until};
use super::node::Node;

/// The service for health requests to etcd.
pub(super) const SERVICE: &str = "etcd-metrics";

/// How a host's etcd answers a health request.
#[derive(Clone)]
pub(super) enum Says {
    Yes,
    No,
    /// Nothing, for ever.
    Nothing,
    /// Announces the request, and answers yes once it is released.
    Later {
        asked: Arc<Notify>,
        gate: Arc<Notify>,
    },
}

/// Masters of a cluster, in order, and their etcds' answers.
pub(super) struct World {
    pub(super) bed: Bed,
    pub(super) cluster: ClusterId,
    pub(super) masters: Vec<Node>,
    says: Arc<Mutex<BTreeMap<HostId, Says>>>,
    tasks: JoinSet<()>,
}

impl World {
    /// This many masters, attached together, all healthy.
    pub(super) async fn new(masters: u8) -> Self {
        let bed = Bed::new().await;
        bed.stack("1").await;
        let cluster = bed.cluster("c").await;
        let mut world = Self {
            bed,
            cluster,
            masters: Vec::new(),
            says: Arc::default(),
            tasks: JoinSet::new(),
        };
        for n in 1..=masters {
            world.enrol(n).await;
        }
        let all: Vec<(&Node, bool)> = world.masters.iter().map(|m| (m, true)).collect();
        assert_eq!(world.bed.attach(cluster, &all).await.0, 200);
        world
    }

    /// One more host, with an etcd.
    pub(super) async fn enrol(&mut self, n: u8) {
        self.enrol_as(&format!("m{n}"), &format!("10.1.0.{n}"))
            .await;
    }

    /// The same, with this name and address.
    pub(super) async fn enrol_as(&mut self, name: &str, ip: &str) {
        let mut node = self.bed.host(name, ip).await;
        let incoming = node.incoming.take().expect("connected");
        self.says.lock().expect("lock").insert(node.id, Says::Yes);
        let serving = serve(incoming, node.id, Arc::clone(&self.says));
        self.tasks.spawn(serving);
        self.masters.push(node);
    }

    pub(super) fn set(&self, master: usize, says: Says) {
        let id = self.masters[master].id;
        self.says.lock().expect("lock").insert(id, says);
    }

    /// A master reports the members that its etcd lists.
    pub(super) async fn lists(&self, master: usize, members: &[usize]) {
        let members: Vec<Value> = members
            .iter()
            .map(|i| json!({"id": format!("a{i}"), "name": self.masters[*i].id, "learner": false}))
            .collect();
        let etcd = json!({"leader": "a0", "members": members});
        self.reports(master, etcd).await;
    }

    /// A master reports this of its etcd.
    pub(super) async fn reports(&self, master: usize, etcd: Value) {
        let node = &self.masters[master];
        let mut status = node.status(
            &format!("m{}", master + 1),
            &format!("10.1.0.{}", master + 1),
        );
        status["node"] = json!({
            "schema": 1, "revision": 1, "generation": 1, "role": "master",
            "cluster_id": self.cluster, "state": "ok", "reason": null, "attempts": 0, "phases": [],
            "current_step": null, "last_sweep_at": null, "stack": null, "wants_stack": null,
            "certificate_requests": [], "service_account_key": null, "certificates": [],
            "etcd": etcd,
        });
        let (code, said) = node
            .call(Method::POST, "/v1/hosts/self/status", &status)
            .await;
        assert_eq!(code, 204, "{said}");
    }

    pub(super) async fn detach(&self, masters: &[usize], force: bool) -> (u16, Value) {
        let hosts: Vec<Value> = masters
            .iter()
            .map(|i| json!({"uuid": self.masters[*i].id, "force": force}))
            .collect();
        let path = format!("/qbert/v4/{{project}}/clusters/{}/detach", self.cluster);
        self.bed.ask(Method::POST, &path, hosts.into()).await
    }

    pub(super) async fn remove(&self, master: usize, query: &str) -> (u16, Value) {
        let path = format!("/resmgr/v1/hosts/{}{query}", self.masters[master].id);
        self.bed.ask(Method::DELETE, &path, Value::Null).await
    }

    /// The members that this master has to remove.
    pub(super) async fn gone(&self, master: usize) -> Vec<EtcdGone> {
        let spec = self.masters[master].current().await;
        spec.assignment.node().expect("node").etcd.gone.clone()
    }

    /// State and text of every member, by name.
    pub(super) async fn shown(&self) -> Value {
        let path = format!("/qbert/v4/{{project}}/clusters/{}/etcd", self.cluster);
        self.bed.get(&path).await
    }

    pub(super) async fn words(&self, name: &str) -> String {
        let shown = self.shown().await;
        let members = shown["members"].as_array().expect("list");
        let member = members.iter().find(|m| m["name"] == name).expect(name);
        member["words"].as_str().expect("words").to_owned()
    }
}

async fn serve(mut incoming: Incoming, id: HostId, says: Arc<Mutex<BTreeMap<HostId, Says>>>) {
    let mut streams = JoinSet::new();
    while let Some(opened) = incoming.next().await {
        if opened.open.service != SERVICE {
            opened.refuse(Code::UnknownService, 0, "not on this host's allow-list");
            continue;
        }
        let who = opened.open.meta.get("who").map(String::as_str);
        assert_eq!(who, Some("etcd-health"), "who asks is said");
        let says = says.lock().expect("lock")[&id].clone();
        let stream = opened.accept().expect("accept");
        streams.spawn(answer(stream, says));
    }
}

/// A healthy etcd, for hosts of other tests.
pub(super) async fn well(stream: MuxStream) {
    answer(stream, Says::Yes).await;
}

async fn answer(stream: MuxStream, says: Says) {
    let answer = service_fn(move |request: Request<Body>| {
        assert_eq!(request.uri(), "/health?exclude=NOSPACE");
        let says = says.clone();
        async move {
            let (status, text) = match says {
                Says::Yes => (StatusCode::OK, r#"{"health":"true","reason":""}"#),
                Says::No => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    r#"{"health":"false","reason":"RAFT NO LEADER"}"#,
                ),
                Says::Nothing => std::future::pending().await,
                Says::Later { asked, gate } => {
                    asked.notify_one();
                    gate.notified().await;
                    (StatusCode::OK, r#"{"health":"true","reason":""}"#)
                }
            };
            let body = Full::new(Bytes::from_static(text.as_bytes()));
            Response::builder().status(status).body(body)
        }
    });
    let http = hyper::server::conn::http1::Builder::new();
    drop(http.serve_connection(TokioIo::new(stream), answer).await);
}

pub(super) fn code(said: &Value) -> &str {
    said["error"]["fault"]["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_healthy_master_stays_while_another_is_dead_unless_it_is_forced() {
    let world = World::new(3).await;
    world.set(2, Says::Nothing);
    let before = world.masters[0].current().await;
    let began = Instant::now();
    let (status, said) = world.detach(&[0], false).await;
    assert_eq!((status, code(&said)), (409, "etcd-quorum"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(10), "it is bounded");
    let message = said["error"]["message"].as_str().expect("words");
    for word in [
        "m1",
        "m3 (no answer within 2 s)",
        "remove its host first",
        "--force",
    ] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert_eq!(
        world.masters[0].current().await,
        before,
        "nothing was changed"
    );
    // The dead one may go.
    let mut dead_goes = world.detach(&[2], false).await;
    assert_eq!(dead_goes.0, 200, "{}", dead_goes.1);
    assert_eq!(dead_goes.1["lost"].take(), Value::Null);
    // It is still counted: a departure in progress makes no difference, until it is out.
    let (status, said) = world.detach(&[0], false).await;
    assert_eq!((status, code(&said)), (409, "etcd-quorum"), "{said}");
    world.lists(1, &[0, 1]).await;
    let (status, said) = world.detach(&[0], false).await;
    assert_eq!(
        (status, code(&said)),
        (200, ""),
        "one is left that goes on alone: {said}"
    );
    assert_eq!(
        world.masters[0].current().await.assignment,
        Assignment::None
    );
    assert!(!world.masters[0].current().await.force);
}

#[tokio::test]
async fn force_says_what_is_lost_and_is_audited() {
    let world = World::new(3).await;
    for dead in [1, 2] {
        world.set(dead, Says::No);
    }
    let (status, said) = world.detach(&[0], false).await;
    assert_eq!((status, code(&said)), (409, "etcd-quorum"), "{said}");
    let message = said["error"]["message"].as_str().expect("words");
    assert!(
        message.contains("m2 (") && message.contains("RAFT NO LEADER"),
        "{message}"
    );
    assert!(message.contains("restore a backup"), "{message}");
    let (status, said) = world.detach(&[0], true).await;
    assert_eq!(status, 200, "{said}");
    let lost = said["lost"].as_str().expect("what is lost");
    assert!(
        lost.contains("etcd of cluster c loses its quorum"),
        "{lost}"
    );
    let spec = world.masters[0].current().await;
    assert_eq!((spec.assignment, spec.force), (Assignment::None, true));
    for told in [0, 1, 2] {
        let path = format!("/resmgr/v1/hosts/{}/events", world.masters[told].id);
        let events = world.bed.get(&path).await;
        let forced: Vec<&Value> = events
            .as_array()
            .expect("list")
            .iter()
            .filter(|e| e["event"]["kind"] == "forced-out")
            .collect();
        assert_eq!(forced.len(), 1, "{events}");
        let words = forced[0]["event"]["message"].as_str().expect("words");
        assert!(words.contains(&world.masters[0].id.to_string()) && words.contains(lost));
    }
    // It comes back as what it was: no longer forced to leave.
    assert_eq!(
        world
            .bed
            .attach(world.cluster, &[(&world.masters[0], true)])
            .await
            .0,
        200
    );
    assert!(!world.masters[0].current().await.force);
}

#[tokio::test]
async fn a_removed_masters_member_is_removed_by_the_others() {
    let mut world = World::new(3).await;
    for master in [0, 1] {
        world.lists(master, &[0, 1, 2]).await;
    }
    world.set(2, Says::Nothing);
    let (status, said) = world.remove(2, "").await;
    assert_eq!(status, 200, "{said}");
    let id = world.masters[2].id;
    let unnamed = EtcdGone {
        host_id: id,
        member_id: None,
    };
    assert_eq!(world.gone(0).await, [unnamed]);
    // Its id is reported with the next status.
    world.lists(1, &[0, 1, 2]).await;
    let by_number = EtcdGone {
        host_id: id,
        member_id: Some("a2".into()),
    };
    assert_eq!(world.gone(0).await, std::slice::from_ref(&by_number));
    // A substitute is attached, and one more: each says what it waits for.
    world.enrol(4).await;
    world.enrol(5).await;
    let new: Vec<(&Node, bool)> = world.masters[3..].iter().map(|m| (m, true)).collect();
    assert_eq!(world.bed.attach(world.cluster, &new).await.0, 200);
    assert!(
        world
            .words("m3")
            .await
            .contains("the others remove its member")
    );
    for waits in ["m4", "m5"] {
        assert_eq!(
            world.words(waits).await,
            "waits until the member of m3 is removed"
        );
    }
    assert_eq!(
        world.gone(3).await,
        [by_number],
        "the substitute waits for it as well"
    );
    world.lists(0, &[0, 1]).await;
    assert_eq!(world.gone(0).await, []);
    assert_eq!(world.words("m4").await, "joins next");
    assert!(world.words("m5").await.contains("waits for m4"));
    world.lists(0, &[0, 1, 3]).await;
    let shown = world.shown().await;
    assert_eq!(
        (&shown["votes"], &shown["answering"]),
        (&json!(3), &json!(3)),
        "{shown}"
    );
    assert_eq!(world.words("m5").await, "joins next");
}

#[tokio::test]
async fn a_host_that_etcd_needs_is_removed_by_force_only() {
    let world = World::new(3).await;
    world.set(1, Says::No);
    let (status, said) = world.remove(0, "").await;
    assert_eq!(
        (status, said["fault"]["code"].as_str()),
        (409, Some("etcd-quorum")),
        "{said}"
    );
    world.masters[0]
        .current()
        .await
        .assignment
        .node()
        .expect("it is what it was");
    let (status, said) = world.remove(0, "?force=true").await;
    assert_eq!(status, 200, "{said}");
    assert!(
        said["lost"]
            .as_str()
            .expect("words")
            .contains("loses its quorum")
    );
    assert_eq!(world.gone(2).await.len(), 1);
    // The administrator's socket, the same.
    let path = format!("/hosts/{}/remove", world.masters[2].id);
    let (status, said) = world.bed.admin(&path, json!({"force": false})).await;
    assert_eq!(
        (status, said["code"].as_str()),
        (409, Some("etcd-quorum")),
        "{said}"
    );
    let hosts = json!({"hosts": [world.masters[2].id], "force": true});
    let (status, said) = world.bed.admin("/clusters/c/detach", hosts).await;
    assert_eq!(status, 200, "{said}");
    assert!(said["lost"].is_string(), "{said}");
}

#[tokio::test]
async fn masters_that_leave_together_are_checked_together() {
    let world = World::new(3).await;
    let (status, said) = world.detach(&[0, 1], false).await;
    assert_eq!(status, 200, "{said}");
    assert!(!world.masters[0].current().await.force);
    // With nobody left there is no quorum to lose.
    world.set(0, Says::Nothing);
    world.set(2, Says::Nothing);
    let (status, said) = world.detach(&[2], false).await;
    assert_eq!(status, 200, "{said}");
    assert!(
        world.masters[2].current().await.force,
        "nothing is waited for"
    );
}

#[tokio::test]
async fn a_cluster_that_changed_during_the_check_is_checked_again() {
    // This many, so that one late answer makes no difference.
    let mut world = World::new(4).await;
    world.enrol(5).await;
    let (asked, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    world.set(
        1,
        Says::Later {
            asked: Arc::clone(&asked),
            gate: Arc::clone(&gate),
        },
    );
    let changes = async {
        asked.notified().await;
        let (status, said) = world
            .bed
            .attach(world.cluster, &[(&world.masters[4], true)])
            .await;
        assert_eq!(status, 200, "{said}");
        gate.notify_one();
    };
    let (judged, ()) = tokio::join!(world.detach(&[0], false), changes);
    assert_eq!(
        (judged.0, code(&judged.1)),
        (409, "cluster-changed"),
        "{}",
        judged.1
    );
    world.set(1, Says::Yes);
    let (status, said) = world.detach(&[0], false).await;
    assert_eq!(status, 200, "{said}");
}

#[tokio::test]
async fn a_master_is_replaced_only_when_it_is_gone() {
    let mut world = World::new(3).await;
    world.enrol(4).await;
    let replace = |replaced: HostId| {
        let body = json!([{"uuid": world.masters[3].id, "isMaster": true, "replaces": replaced}]);
        let path = format!("/qbert/v4/{{project}}/clusters/{}/attach", world.cluster);
        let bed = &world.bed;
        async move { bed.ask(Method::POST, &path, body).await }
    };
    let (status, said) = replace(world.masters[2].id).await;
    assert_eq!((status, code(&said)), (409, "master-not-gone"), "{said}");
    let message = said["error"]["message"].as_str().expect("words");
    assert!(
        message.contains("m3") && message.contains("300 s"),
        "{message}"
    );
    let (status, said) = replace(world.masters[3].id).await;
    assert_eq!((status, code(&said)), (409, "host-not-attached"), "{said}");
    let nodes = world.bed.get("/qbert/v4/{project}/nodes").await;
    let in_it = |n: &&Value| n["clusterUuid"] == json!(world.cluster);
    assert_eq!(
        nodes.as_array().expect("list").iter().filter(in_it).count(),
        3
    );
}

#[tokio::test]
async fn how_long_a_master_may_be_silent_is_a_setting() {
    let world = World::new(1).await;
    let path = format!("/qbert/v4/{{project}}/clusters/{}", world.cluster);
    assert_eq!(
        world.bed.get(&path).await["etcdReplaceAfterSeconds"],
        json!(300)
    );
    let body = json!({"etcd": {"replaceAfterSeconds": 600}});
    assert_eq!(world.bed.ask(Method::PATCH, &path, body).await.0, 200);
    until(|| async {
        let shown = world.shown().await;
        (shown["replaceAfterSeconds"] == json!(600)).then_some(())
    })
    .await;
    let (status, shown) = {
        let url = format!("/clusters/{}", world.cluster);
        world.bed.admin_get(&url).await
    };
    assert_eq!(
        (status, &shown["etcdReplaceAfterSeconds"]),
        (200, &json!(600))
    );
    assert_eq!(shown["nodes"][0]["name"], json!("m1"));
}

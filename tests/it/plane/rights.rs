//! Rights in a cluster: the plane grants them to members, and revokes them from all others.

use http::Method;
use pf9_hostagent::model::{CertPurpose, REVOKED_LABEL, pem_bytes};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use x509_parser::prelude::FromDer;

use super::bed::{Bed, until};
use super::kube::master;
use super::node::Node;

const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";

fn users_of(node: &Node, master: bool) -> Vec<String> {
    use CertPurpose::{Admin, ApiServerKubelet, ControllerManager, KubeProxy, Scheduler};
    let all = [
        Admin,
        ApiServerKubelet,
        ControllerManager,
        KubeProxy,
        Scheduler,
    ];
    let purposes = all.into_iter().filter(|p| master || *p == KubeProxy);
    purposes.filter_map(|p| p.bound_user(node.id)).collect()
}

/// A cluster of two masters, of which the first has an API server, and a worker.
struct World {
    bed: Bed,
    cluster: pf9_hostagent::model::ClusterId,
    first: Node,
    second: Node,
    worker: Node,
    api: super::kube::Api,
    _etcd: JoinSet<()>,
}

impl World {
    async fn new() -> Self {
        let bed = Bed::new().await;
        bed.stack("1").await;
        let mut first = bed.host("m1", "10.1.0.1").await;
        let mut second = bed.host("m2", "10.1.0.2").await;
        let mut etcd = JoinSet::new();
        let mut incoming = second.incoming.take().expect("connected");
        etcd.spawn(async move {
            let mut streams = JoinSet::new();
            while let Some(opened) = incoming.next().await {
                match opened.open.service.as_str() {
                    super::etcd::SERVICE => {
                        let stream = opened.accept().expect("accept");
                        streams.spawn(super::etcd::well(stream));
                    }
                    _ => drop(opened),
                }
            }
        });
        let worker = bed.host("w1", "10.1.0.3").await;
        let cluster = bed.cluster("c").await;
        let all = [(&first, true), (&second, true), (&worker, false)];
        assert_eq!(bed.attach(cluster, &all).await.0, 200);
        let api = master(cluster, &mut first, CertPurpose::ApiServer).await;
        for name in ["m1", "m2", "w1", "theirs"] {
            let node = json!({"metadata": {"name": name, "labels": {}, "resourceVersion": "7"}, "spec": {}});
            api.objects.put(&format!("/api/v1/nodes/{name}"), node);
        }
        let world = Self {
            bed,
            cluster,
            first,
            second,
            worker,
            api,
            _etcd: etcd,
        };
        world
            .has_rights(&[
                (&world.first, true),
                (&world.second, true),
                (&world.worker, false),
            ])
            .await;
        world
    }

    /// Waits until these hosts have rights, and nobody else.
    async fn has_rights(&self, who: &[(&Node, bool)]) {
        let mut wanted: Vec<String> = who.iter().flat_map(|(n, m)| users_of(n, *m)).collect();
        wanted.sort();
        until(|| async { (self.api.objects.users() == wanted).then_some(()) }).await;
    }

    fn node(&self, name: &str) -> Option<Value> {
        self.api.objects.get(&format!("/api/v1/nodes/{name}"))
    }

    /// Serial numbers that the first master's etcd refuses.
    async fn revoked(&self) -> Vec<String> {
        let spec = self.first.current().await;
        let pem = spec.assignment.node().expect("node").etcd.revoked.clone();
        let der = pem_bytes(&pem.expect("a list"), REVOKED_LABEL).expect("PEM");
        let (_, list) = x509_parser::revocation_list::CertificateRevocationList::from_der(&der)
            .expect("a list");
        let serials = list.iter_revoked_certificates();
        serials.map(|r| r.raw_serial_as_string()).collect()
    }

    /// Requests a certificate; returns its serial number.
    async fn certificate(&self, node: &Node, purpose: CertPurpose) -> Result<String, Value> {
        let key = KeyPair::generate().expect("key");
        let order = node.order(self.cluster, &key, &[purpose]).await;
        let (status, batch) = node.bring(&node.signed_order(&order)).await;
        if status != 200 {
            return Err(batch);
        }
        let pem = batch["certificates"][0]["certificate"]
            .as_str()
            .expect("pem");
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("pem");
        Ok(block.parse_x509().expect("x509").raw_serial_as_string())
    }
}

#[tokio::test]
async fn members_have_rights_and_marks_and_foreign_bindings_are_removed() {
    let world = World::new().await;
    let label = |node: &Value, key: &str| node["metadata"]["labels"][key].clone();
    until(|| async {
        let node = world.node("w1")?;
        (label(&node, "node-role.kubernetes.io/worker") == "").then_some(())
    })
    .await;
    let master = world.node("m1").expect("node");
    assert_eq!(label(&master, "pf9.io/host-id"), world.first.id.to_string());
    assert_eq!(
        master["spec"]["taints"],
        json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}])
    );
    assert_eq!(
        world.node("theirs").expect("node")["metadata"]["labels"],
        json!({})
    );
    for caller in world.api.objects.callers() {
        assert_eq!(caller, "CN=pf9:plane");
    }
    // People with access through the plane have their role's rights here.
    for (role, bound) in [
        ("admin", "cluster-admin"),
        ("member", "edit"),
        ("member:nodes", "pf9:see-nodes"),
        ("reader", "view"),
        ("reader:nodes", "pf9:see-nodes"),
    ] {
        let binding = world
            .api
            .objects
            .get(&format!("{BINDINGS}/pf9:role:{role}"));
        let binding = binding.expect("a binding");
        assert_eq!(binding["roleRef"]["name"], bound);
        let role = role.trim_end_matches(":nodes");
        let group = json!([{
            "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": format!("pf9:role:{role}"),
        }]);
        assert_eq!(binding["subjects"], group);
    }
    // What a user grants under a name of ours, to themselves or to others in a binding of ours, is removed.
    let evil = format!("{BINDINGS}/pf9:host:{}:admin", world.first.id);
    let mut binding = world.api.objects.get(&evil).expect("binding");
    let mallory = json!({"kind": "User", "name": "mallory"});
    binding["subjects"]
        .as_array_mut()
        .expect("list")
        .push(mallory);
    world.api.objects.put(&evil, binding);
    assert_eq!(
        world.bed.detach(world.cluster, &[&world.worker]).await.0,
        200
    );
    world
        .has_rights(&[(&world.first, true), (&world.second, true)])
        .await;
}

#[tokio::test]
async fn a_removed_master_has_nothing_left() {
    let world = World::new().await;
    let mut serials = Vec::new();
    for purpose in [
        CertPurpose::EtcdClient,
        CertPurpose::EtcdPeer,
        CertPurpose::EtcdServer,
    ] {
        serials.push(
            world
                .certificate(&world.second, purpose)
                .await
                .expect("signed"),
        );
    }
    assert_eq!(world.revoked().await, Vec::<String>::new());
    let path = format!("/resmgr/v1/hosts/{}", world.second.id);
    let (status, said) = world.bed.ask(Method::DELETE, &path, Value::Null).await;
    assert_eq!(status, 200, "{said}");
    world
        .has_rights(&[(&world.first, true), (&world.worker, false)])
        .await;
    until(|| async { world.node("m2").is_none().then_some(()) }).await;
    assert_eq!(world.revoked().await, serials);
    // Its kubelet registers it again: it does not stay.
    let node = json!({"metadata": {"name": "m2", "labels": {}}, "spec": {}});
    world.api.objects.put("/api/v1/nodes/m2", node);
    let node = json!({"metadata": {"name": "w1", "labels": {}}, "spec": {}});
    world.api.objects.put("/api/v1/nodes/w1", node);
    assert_eq!(
        world.bed.detach(world.cluster, &[&world.worker]).await.0,
        200
    );
    until(|| async { world.node("m2").is_none().then_some(()) }).await;
}

#[tokio::test]
async fn a_detached_host_may_finish_and_then_has_nothing_left() {
    let world = World::new().await;
    let serial = world
        .certificate(&world.second, CertPurpose::EtcdClient)
        .await
        .expect("signed");
    assert_eq!(
        world.bed.detach(world.cluster, &[&world.second]).await.0,
        200
    );
    world
        .has_rights(&[(&world.first, true), (&world.worker, false)])
        .await;
    let said = world
        .certificate(&world.second, CertPurpose::EtcdClient)
        .await;
    assert_eq!(
        said.expect_err("nothing is signed any more")["code"],
        "cluster-foreign"
    );
    // It is still draining its pods and leaving etcd.
    assert!(world.node("m2").is_some());
    assert_eq!(world.revoked().await, Vec::<String>::new());
    let spec = world.second.current().await;
    let mut status = world.second.status("m2", "10.1.0.2");
    status["observed_generation"] = json!(spec.generation);
    let (code, said) = world
        .second
        .call(Method::POST, "/v1/hosts/self/status", &status)
        .await;
    assert_eq!(code, 204, "{said}");
    until(|| async { world.node("m2").is_none().then_some(()) }).await;
    assert_eq!(world.revoked().await, [serial]);
}

#[tokio::test]
async fn rights_that_cannot_be_changed_now_are_changed_later() {
    let world = World::new().await;
    world.api.objects.forbid(Some("/"));
    let path = format!("/resmgr/v1/hosts/{}", world.second.id);
    assert_eq!(
        world.bed.ask(Method::DELETE, &path, Value::Null).await.0,
        200
    );
    // It is attempted before it is allowed.
    let tries = world.api.objects.callers().len();
    until(|| async { (world.api.objects.callers().len() > tries + 1).then_some(()) }).await;
    assert!(world.node("m2").is_some());
    world.api.objects.forbid(None);
    world
        .has_rights(&[(&world.first, true), (&world.worker, false)])
        .await;
}

/// Whichever change fails, and for however long.
#[tokio::test]
async fn other_changes_do_not_wait_for_one_that_fails() {
    let world = World::new().await;
    world.api.objects.forbid(Some("/api/v1/nodes/"));
    let remove = async |node: &Node| {
        let path = format!("/resmgr/v1/hosts/{}", node.id);
        let answer = world.bed.ask(Method::DELETE, &path, Value::Null).await;
        assert_eq!(answer.0, 200);
    };
    remove(&world.second).await;
    let rights = [(&world.first, true), (&world.worker, false)];
    world.has_rights(&rights).await;
    assert!(world.node("m2").is_some());
    world.api.objects.forbid(Some("/apis/"));
    until(|| async { world.node("m2").is_none().then_some(()) }).await;
    remove(&world.worker).await;
    until(|| async { world.node("w1").is_none().then_some(()) }).await;
    let mut with_the_worker: Vec<String> = [(&world.first, true), (&world.worker, false)]
        .iter()
        .flat_map(|(n, m)| users_of(n, *m))
        .collect();
    with_the_worker.sort();
    assert_eq!(world.api.objects.users(), with_the_worker);
}

//! The plane makes the delta from the nodes' stack without being asked, shows it in the plan, and a node with the order
//! to stage the next stack fetches that and nothing else.

use pf9_hostagent::local::Method;
use pf9_hostagent::model::{Generation, NodeState, Role, StackRef, UpgradeState, UpgradeStatus};
use pf9_hostagent::stack;

use super::*;
use crate::support::make_stack_of;

const KUBELET: usize = 300_000;
const MORE: usize = 5_000;

/// Two versions: a program of the second is longer.
fn of(version: &str, kubelet: usize) -> (Vec<u8>, Vec<u8>) {
    let programs = [("bin/containerd", 100_000), ("bin/kubelet", kubelet)];
    make_stack_of(version, &programs)
}

impl Plane {
    async fn import(&self, version: &str, kubelet: usize) -> StackRef {
        let dir = tempfile::tempdir().expect("tempdir");
        let (manifest, archive) = of(version, kubelet);
        std::fs::write(dir.path().join("manifest.json"), &manifest).expect("write");
        std::fs::write(dir.path().join("stack.tar.zst"), archive).expect("write");
        let path = json!({"path": dir.path()});
        self.admin(Method::POST, "/stacks", &path).await;
        StackRef {
            name: "pf9-kube".into(),
            version: version.into(),
            manifest: Digest::of(&manifest),
        }
    }

    /// What each node fetches according to the plan: how, and how many bytes.
    async fn transfer(&self, to: &StackRef) -> Value {
        let wanted = json!({"to": to.version});
        let path = "/clusters/c/upgrade/plan";
        let plan = self.admin(Method::POST, path, &wanted).await;
        plan["transfers"][0].clone()
    }
}

/// A master of this stack, as far as the plane can see; its archive was fetched whole.
async fn master(plane: &Plane, host: HostId, fs: &HostFs, node: &FakeNode, own: &StackRef) {
    let wanted = json!({"name": "c", "containersCidr": "10.20.0.0/16",
        "servicesCidr": "10.21.0.0/16", "networkPlugin": "bridge", "stack": own.version});
    let made = plane.operator(Method::POST, CLUSTERS, Some(&wanted)).await;
    let cluster = made["uuid"].as_str().expect("uuid").to_owned();
    let attach = format!("{CLUSTERS}/{cluster}/attach");
    let hosts = json!([{"uuid": host, "isMaster": true}]);
    plane.operator(Method::POST, &attach, Some(&hosts)).await;
    node.until(|n| n.specs.last().cloned()).await;
    let staged = fs.at(stack::staged_archive(&own.manifest));
    within(async {
        while !staged.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let trust = identity::trust(fs).expect("trust");
    stack::prepare(fs, own, &trust, Default::default(), &mut |_| {})
        .and_then(|made| made.put_in_place(fs))
        .and_then(|()| stack::activate(fs, own))
        .expect("installed");
    let attached = plane
        .until(host, |s| s.state == NodeState::Converging)
        .await;
    node.say(|s| {
        s.generation = attached.accepted_generation;
        s.role = Role::Master;
        s.state = NodeState::Ok;
        s.stack = Some(own.clone());
        s.cluster_id = cluster.parse().ok();
    });
    plane.until(host, |s| s.state == NodeState::Ok).await;
}

#[tokio::test]
async fn who_does_nothing_gets_the_small_transfer() {
    pf9_hostagent::tls::install();
    let plane = Plane::start().await;
    let host = HostId::random();
    let (_dir, fs) = host_root();
    plane.enrol_and_save(host, &fs).await;
    let node = FakeNode::start(&fs, host);
    let daemons = Daemons::start(&fs).await;
    let own = plane.import("1.37.2-1", KUBELET).await;
    master(&plane, host, &fs, &node, &own).await;

    let next = plane.import("1.37.2-2", KUBELET + MORE).await;
    let archive = of("1.37.2-2", KUBELET + MORE).1.len() as u64;
    let said = within(async {
        loop {
            let said = plane.transfer(&next).await;
            assert_eq!(said["archive"], archive, "{said}");
            if said["by"] == "delta" {
                return said;
            }
            // It is being made, or about to be.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(
        (&said["from"], &said["nodes"]),
        (&json!("1.37.2-1"), &json!(1))
    );
    let bytes = said["bytes"].as_u64().expect("bytes");
    assert!(bytes < 2 * MORE as u64, "{said}");

    let begin = json!({"to": next.version, "despite": ["api"]});
    plane
        .admin(Method::POST, "/clusters/c/upgrade", &begin)
        .await;
    let ordered = node
        .until(|n| {
            let spec: pf9_hostagent::model::Spec = content(n.specs.last()?);
            let generation = spec.generation;
            let order = spec.assignment.node()?.upgrade.clone()?;
            Some((generation, order))
        })
        .await;
    let (generation, order): (Generation, _) = ordered;
    assert_eq!(order.stack, next);
    node.say(|s| {
        s.generation = generation;
        s.wants_stack = Some(next.clone());
        s.upgrade = Some(UpgradeStatus {
            roll: order.roll,
            stage: order.stage,
            stack: order.stack.clone(),
            state: UpgradeState::Fetching,
            attempts: 1,
            fault: None,
            since: pf9_hostagent::model::Timestamp::UNIX_EPOCH,
            os: None,
        });
    });
    let delta = fs.at(stack::staged_delta(&next.manifest, &own.manifest));
    within(async {
        while !delta.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(std::fs::metadata(&delta).expect("delta").len(), bytes);
    for archive in [
        stack::staged_archive(&next.manifest),
        stack::staged_part(&next.manifest),
    ] {
        assert!(!fs.at(archive).exists(), "nothing of the archive came");
    }
    let trust = identity::trust(&fs).expect("trust");
    stack::prepare(&fs, &next, &trust, Default::default(), &mut |_| {})
        .and_then(|made| made.put_in_place(&fs))
        .expect("installed");
    stack::verify_installed(&fs, &next, &trust, stack::Depth::Full).expect("every byte");
    daemons.stop().await;
    plane.server.stop().await;
}

/// The payload of an envelope, without checking its signature.
fn content<T: serde::de::DeserializeOwned>(envelope: &pf9_hostagent::model::Envelope) -> T {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(&envelope.payload);
    serde_json::from_slice(&bytes.expect("base64")).expect("content")
}

//! One host in a temporary directory, with its plane and its nodelet.

use pf9_hostagent::app::{Config, TaskGroup};
use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::host::interfaces::node_facts;
use pf9_hostagent::identity;
use pf9_hostagent::local::Client;
use pf9_hostagent::model::{
    Assignment, ClusterId, Digest, DocumentKind, Envelope, Fault, Generation, HostId, HostStatus,
    Operation, OperationKind, PendingOperation, SigningKey, Spec, StackRef, Timestamp, paths,
};
use pf9_hostagent::stack;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::plane::FakePlane;
use crate::support::newer::newer;
use crate::support::node::FakeNode;
use crate::support::{PATIENCE, make_stack, make_stack_of, within};

pub(crate) struct Bed {
    pub(crate) fs: HostFs,
    pub(crate) host: HostId,
    pub(crate) cluster: ClusterId,
    pub(crate) key: SigningKey,
    pub(crate) plane: FakePlane,
    pub(crate) node: FakeNode,
    _dir: Option<tempfile::TempDir>,
}

pub(crate) struct Agent {
    stop: CancellationToken,
    run: JoinHandle<Option<&'static str>>,
}

impl Agent {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let failed = within(self.run).await.expect("the agent is stopping");
        assert_eq!(failed, None);
    }
}

impl Bed {
    pub(crate) fn new() -> Self {
        // Shown when a test fails; a second test of the process finds it installed.
        drop(tracing_subscriber::fmt().with_test_writer().try_init());
        Self::at(tempfile::tempdir().expect("tempdir"))
    }

    /// With this root, which goes with it.
    pub(crate) fn at(dir: tempfile::TempDir) -> Self {
        let bed = Self::on(HostFs::new(dir.path()));
        Self {
            _dir: Some(dir),
            ..bed
        }
    }

    /// With this root.
    pub(crate) fn on(fs: HostFs) -> Self {
        let host = HostId::random();
        let key = SigningKey::generate().expect("key").0;
        identity::write_host_id(&fs, host).expect("host id");
        let machine = br#"{"schema": 1}"#;
        fs.write(paths::MACHINE, machine, &Attrs::mode(0o644))
            .expect("machine");
        let trusted = serde_json::to_vec(&key.trusted()).expect("json");
        let path = format!("{}/{}.json", paths::TRUST_DIR, key.trusted().id);
        fs.write(path, &trusted, &Attrs::mode(0o644))
            .expect("trust");
        std::fs::create_dir_all(fs.at("/run/pf9")).expect("run");
        std::os::unix::fs::symlink("/proc", fs.at("/proc")).expect("proc");
        let plane = FakePlane::start(fs.at(paths::PLANE_SOCKET));
        // As after an enrolment.
        let facts = node_facts(&fs).expect("facts");
        plane.change(|p| p.facts = Some(facts));
        Self {
            plane,
            node: FakeNode::start(&fs, host),
            cluster: ClusterId::random(),
            fs,
            host,
            key,
            _dir: None,
        }
    }

    pub(crate) async fn try_start(&self) -> Result<Agent, Fault> {
        let stop = CancellationToken::new();
        let mut group = TaskGroup::new(stop.clone());
        pf9_hostagent::hostagent::start(self.fs.clone(), Config::default(), &mut group).await?;
        Ok(Agent {
            stop,
            run: tokio::spawn(group.run(PATIENCE)),
        })
    }

    pub(crate) async fn start(&self) -> Agent {
        self.try_start().await.expect("start")
    }

    pub(crate) async fn local_status(&self) -> HostStatus {
        Client::unix(self.fs.at(paths::HOSTAGENT_SOCKET))
            .expect("client")
            .get("/v1/status", PATIENCE)
            .await
            .expect("status")
    }

    /// Events on disk.
    pub(crate) fn spooled(&self) -> usize {
        let names = self.fs.list("/var/opt/pf9/hostagent/events").expect("list");
        names
            .iter()
            .filter(|n| n.ends_with(".json") && !n.starts_with('.'))
            .count()
    }

    pub(crate) fn spec(&self, generation: u64, assignment: Assignment) -> Spec {
        Spec {
            schema: 1,
            host_id: self.host,
            generation: Generation(generation),
            issued_at: Timestamp::UNIX_EPOCH,
            force: false,
            agent: None,
            maintenance: None,
            assignment,
        }
    }

    pub(crate) fn spec_bytes(&self, generation: u64, assignment: Assignment) -> Vec<u8> {
        serde_json::to_vec(&self.spec(generation, assignment)).expect("json")
    }

    pub(crate) fn sign(&self, generation: u64, assignment: Assignment) -> Envelope {
        self.key
            .sign(DocumentKind::Spec, &self.spec_bytes(generation, assignment))
    }

    /// An operation of the plane for this host.
    pub(crate) fn operation(&self, number: u64, what: OperationKind) -> PendingOperation {
        let operation = Operation {
            schema: 1,
            id: uuid::Uuid::from_u128(number.into()),
            host_id: self.host,
            number,
            issued_at: Timestamp::now(),
            expires_at: Timestamp::now() + jiff::SignedDuration::from_secs(600),
            what,
        };
        let bytes = serde_json::to_vec(&operation).expect("json");
        PendingOperation {
            id: operation.id,
            envelope: self.key.sign(DocumentKind::Operation, &bytes),
        }
    }

    /// A stack that never becomes available.
    pub(crate) fn no_stack(&self) -> StackRef {
        StackRef {
            name: "pf9-kube".into(),
            version: "0".into(),
            manifest: Digest::of(b"nothing"),
        }
    }

    pub(crate) fn worker(&self, stack: &StackRef) -> Assignment {
        let pem = "-----BEGIN CERTIFICATE-----\n";
        serde_json::from_value(serde_json::json!({
            "role": "worker", "host_id": self.host,
            "cluster_id": self.cluster, "cluster_name": "c", "node_name": "n1",
            "node_ip": "192.0.2.10", "pod_cidr": "10.20.1.0/24", "stack": stack,
            "authorities": {"cluster": pem, "etcd": pem, "front_proxy": pem},
            "api": {"host": "192.0.2.1", "port": 6443},
            "network": {"plugin": "bridge", "pods_cidr": "10.20.0.0/16",
                        "services_cidr": "10.21.0.0/16"},
        }))
        .expect("assignment")
    }

    /// Puts a stack with about `size` packed bytes on the plane.
    pub(crate) fn publish(&self, version: &str, size: usize) -> StackRef {
        self.publish_signed(version, size, &self.key)
    }

    pub(crate) fn publish_signed(&self, version: &str, size: usize, key: &SigningKey) -> StackRef {
        let (payload, archive) = make_stack(version, size);
        self.publish_these(version, payload, archive, key)
    }

    /// One of two files; about a third of its bytes are the first.
    pub(crate) fn publish_in_two(&self, version: &str, size: usize) -> StackRef {
        let programs = [("bin/containerd", size / 3), ("bin/kubelet", size * 2 / 3)];
        self.publish_programs(version, &programs)
    }

    /// One of these programs, in order.
    pub(crate) fn publish_programs(&self, version: &str, programs: &[(&str, usize)]) -> StackRef {
        let (payload, archive) = make_stack_of(version, programs);
        self.publish_these(version, payload, archive, &self.key)
    }

    /// Makes a stack that is on the plane the node's active one, as nodelet does.
    pub(crate) fn install(&self, stack: &StackRef) {
        let (manifest, archive) = self.plane.read(|p| {
            let of = &stack.manifest;
            (p.manifests[of].clone(), p.archives[of].clone())
        });
        let manifest = serde_json::to_vec(&manifest).expect("json");
        let staged = [
            (stack::staged_manifest(&stack.manifest), manifest),
            (stack::staged_archive(&stack.manifest), archive),
        ];
        for (path, bytes) in &staged {
            let written = self.fs.write(path, bytes, &Attrs::mode(0o640));
            written.expect("staged");
        }
        let trust = identity::trust(&self.fs).expect("trust");
        let made = stack::prepare(&self.fs, stack, &trust, Default::default(), &mut |_| {});
        made.and_then(|made| made.put_in_place(&self.fs))
            .and_then(|()| stack::activate(&self.fs, stack))
            .expect("installed");
        for (path, _) in &staged {
            self.fs.remove_file(path).expect("remove");
        }
    }

    /// One with a manifest of the next version.
    pub(crate) fn publish_newer(&self, version: &str, size: usize) -> StackRef {
        let (payload, archive) = make_stack(version, size);
        let manifest = serde_json::from_slice(&payload).expect("json");
        let payload = serde_json::to_vec(&newer(manifest)).expect("json");
        self.publish_these(version, payload, archive, &self.key)
    }

    /// A stack with this Kubernetes version.
    pub(crate) fn publish_of(&self, version: &str, kubernetes: &str) -> StackRef {
        let (payload, archive) = make_stack(version, 1_000);
        let mut manifest: serde_json::Value = serde_json::from_slice(&payload).expect("json");
        manifest["kubernetes"] = kubernetes.into();
        let payload = serde_json::to_vec(&manifest).expect("json");
        self.publish_these(version, payload, archive, &self.key)
    }

    fn publish_these(
        &self,
        version: &str,
        payload: Vec<u8>,
        archive: Vec<u8>,
        key: &SigningKey,
    ) -> StackRef {
        let stack = StackRef {
            name: "pf9-kube".into(),
            version: version.into(),
            manifest: Digest::of(&payload),
        };
        let envelope = key.sign(DocumentKind::StackManifest, &payload);
        self.plane.change(|p| {
            p.manifests.insert(stack.manifest, envelope);
            p.archives.insert(stack.manifest, archive);
        });
        stack
    }
}

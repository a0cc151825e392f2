//! A plane that was restored from a backup: its hosts are ahead of it, and a command repairs that.

use std::process::{Output, Stdio};

use pf9_hostagent::model::{
    Assignment, DocumentKind, Envelope, FaultCode, Generation, InstalledStatus, Spec, TrustStore,
};

use super::*;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("directory");
    for entry in std::fs::read_dir(from).expect("state") {
        let entry = entry.expect("entry");
        let kind = entry.file_type().expect("type");
        let to = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to).expect("copy");
        }
    }
}

impl Plane {
    /// Stops it, applies `change` to its state directory, and restarts it at the same address.
    async fn restart_after(self, change: impl FnOnce(&Path)) -> Self {
        let address = self.server.address();
        self.server.stop().await;
        change(self.dir.path());
        let server = serve(self.dir.path(), address).await;
        Self {
            server,
            dir: self.dir,
        }
    }

    /// The command as a script runs it: without a terminal.
    async fn recover(&self, more: &[&str]) -> (Option<i32>, String) {
        let output: Output = tokio::process::Command::new(env!("CARGO_BIN_EXE_pf9-plane"))
            .args(["recover", "--state-dir"])
            .arg(self.dir.path())
            .args(more)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("pf9-plane");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("text"))
    }

    async fn refused(&self, host: HostId, code: FaultCode) -> HostStatus {
        self.until(host, |s| s.refused.as_ref().is_some_and(|f| f.code == code))
            .await
    }
}

#[tokio::test]
async fn hosts_of_a_restored_plane_obey_again_and_none_is_removed_unasked() {
    pf9_hostagent::tls::install();
    let plane = Plane::start().await;
    let host = HostId::random();
    let (_dir, fs) = host_root();
    plane.enrol_and_save(host, &fs).await;
    let trust = identity::trust(&fs).expect("trust");
    let node = FakeNode::start(&fs, host);
    let daemons = Daemons::start(&fs).await;
    plane.until(host, |s| s.accepted_generation.0 == 1).await;
    let (cluster, _) = plane.cluster(1000).await;
    let attach = format!("{CLUSTERS}/{cluster}/attach");
    let detach = format!("{CLUSTERS}/{cluster}/detach");
    let member = json!([{"uuid": host, "isMaster": true}]);

    // The backup knows the host without a role. Operation continues.
    let backup = tempfile::tempdir().expect("tempdir");
    let plane = plane.restart_after(|dir| copy(dir, backup.path())).await;
    plane.operator(Method::POST, &attach, Some(&member)).await;
    plane
        .operator(Method::POST, &detach, Some(&json!([{"uuid": host}])))
        .await;
    plane.operator(Method::POST, &attach, Some(&member)).await;
    let is_at = |n: u64| move |s: &HostStatus| s.accepted_generation.0 == n;
    plane.until(host, is_at(4)).await;
    node.say(|s| {
        s.generation = Generation(4);
        s.role = Role::Master;
        s.state = NodeState::Ok;
        s.installed = Some(InstalledStatus {
            role: Role::Master,
            cluster_id: cluster.parse().expect("id"),
            generation: Generation(4),
        });
    });
    plane
        .until(host, |s| {
            s.node.as_ref().is_some_and(|n| n.installed.is_some())
        })
        .await;

    // Restored, its spec gives the host no role. The host refuses it.
    let restore = |dir: &Path| {
        std::fs::remove_dir_all(dir).expect("remove");
        copy(backup.path(), dir);
    };
    let plane = plane.restart_after(restore).await;
    plane.refused(host, FaultCode::SpecOlder).await;
    let given = node.read(|n| n.specs.len());
    let (code, text) = plane.recover(&["--yes"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("skipped: its node is REMOVED (master of cluster"),
        "{text}"
    );
    assert!(text.contains("--remove-node"), "{text}");
    assert!(!text.contains("raised to"), "{text}");

    // Attached again it would stay what it is, if it accepted the spec.
    plane.operator(Method::POST, &attach, Some(&member)).await;
    let (code, text) = plane.recover(&[]).await;
    assert_eq!(code, Some(64), "nobody can be asked: {text}");
    assert!(text.contains("stays master of cluster c"), "{text}");
    assert_eq!(
        node.read(|n| n.specs.len()),
        given,
        "nothing was raised yet"
    );
    let (code, text) = plane.recover(&["--yes"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("raised to generation 5"), "{text}");
    let obeyed = plane.until(host, is_at(5)).await;
    assert_eq!(obeyed.refused, None);
    let spec = node
        .until(|n| newest(&n.specs, &trust).filter(|s| s.generation.0 == 5))
        .await;
    assert!(matches!(spec.assignment, Assignment::Master(_)));
    node.read(|n| {
        for envelope in n.specs.iter().skip(given) {
            let spec: Spec = envelope.open(DocumentKind::Spec, &trust).expect("spec");
            assert_eq!(
                spec.assignment.role(),
                Role::Master,
                "it was never to lose its role"
            );
        }
    });
    daemons.stop().await;
    plane.server.stop().await;
}

fn newest(specs: &[Envelope], trust: &TrustStore) -> Option<Spec> {
    specs.last()?.open(DocumentKind::Spec, trust).ok()
}

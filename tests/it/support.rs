//! Shared by several tests: patience, a nodelet, a stack.

pub(crate) mod full;
#[path = "../../src/host/testing.rs"]
pub(crate) mod namespaces;
pub(crate) mod newer;
pub(crate) mod node;
#[path = "../../src/egress/testing.rs"]
pub(crate) mod proxy;
#[path = "../support/schema.rs"]
pub(crate) mod schema;

use std::time::Duration;

use pf9_hostagent::model::{
    Digest, SessionState, StackArchive, StackFile, StackManifest, TunnelStatus,
};
use pf9_hostagent::{
    egress::Egress,
    host::{fs::HostFs, interfaces::node_facts},
    identity::{self, EnrolOrder, Identity, TlsPolicy, order_key},
    model::{EnrolToken, Fault, HostId},
};
use serde_json::Value;

/// Nothing in these tests takes longer on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A program of a node: a link with its name, which selects the program, as in the packages.
pub(crate) fn program(name: &str) -> std::path::PathBuf {
    let link = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    match std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pf9-agent-of-tests"), &link) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => panic!("{name}: {e}"),
        _ => link,
    }
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it takes too long")
}

/// A manifest (JSON) and its archive of about `size` packed bytes.
pub(crate) fn make_stack(version: &str, size: usize) -> (Vec<u8>, Vec<u8>) {
    make_stack_of(version, &[("bin/kubelet", size)])
}

/// The same with these programs, in order.
pub(crate) fn make_stack_of(version: &str, programs: &[(&str, usize)]) -> (Vec<u8>, Vec<u8>) {
    // Incompressible bytes, the same in every run.
    let mut random = fastrand::Rng::with_seed(7);
    let mut tar = tar::Builder::new(Vec::new());
    let mut files = Vec::new();
    for (path, size) in programs {
        let body: Vec<u8> = (0..*size).map(|_| random.u8(..)).collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, body.as_slice())
            .expect("tar");
        files.push(StackFile {
            path: (*path).into(),
            mode: 0o755,
            sha256: Digest::of(&body),
            size: body.len() as u64,
            component: path.trim_start_matches("bin/").into(),
        });
    }
    let tar = tar.into_inner().expect("tar");
    let archive = zstd::encode_all(tar.as_slice(), 1).expect("zstd");
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let manifest = StackManifest {
        schema: 1,
        name: "pf9-kube".into(),
        version: version.into(),
        kubernetes: semver::Version::new(1, 37, 2),
        arch: arch.into(),
        archive: StackArchive {
            sha256: Digest::of(&archive),
            size: archive.len() as u64,
        },
        components: Vec::new(),
        files,
        images: Vec::new(),
        addons: Vec::new(),
        requires: Vec::new(),
        security: false,
    };
    (serde_json::to_vec(&manifest).expect("json"), archive)
}

/// The root of a host, with what its daemons find there.
pub(crate) fn host_root() -> (tempfile::TempDir, HostFs) {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    for made in ["/run/pf9", "/var/log/pf9/comms"] {
        std::fs::create_dir_all(fs.at(made)).expect("mkdir");
    }
    std::os::unix::fs::symlink("/proc", fs.at("/proc")).expect("proc");
    (dir, fs)
}

/// A new host that is enrolled at this plane with the token that was made there.
pub(crate) async fn enrolled(plane: &str, made: &Value) -> (tempfile::TempDir, HostFs, Identity) {
    let token = made["token"].as_str().expect("text");
    let token: EnrolToken = token.parse().expect("token");
    let (dir, fs) = host_root();
    let identity = enrol(plane, &token, HostId::random(), &fs).await;
    (dir, fs, identity.expect("enrolled"))
}

pub(crate) fn tunnel_is_up(status: &TunnelStatus) -> bool {
    let mut all = status.sessions.iter();
    all.any(|s| matches!(s.state, SessionState::Connected { .. }))
}

/// Enrols this host at a plane directly, as root of it does.
pub(crate) async fn enrol(
    plane: &str,
    token: &EnrolToken,
    host_id: HostId,
    fs: &HostFs,
) -> Result<Identity, Fault> {
    let (root, _) = order_key::ensure(fs, host_id)?;
    let facts = node_facts(fs).expect("facts");
    identity::enrol(&EnrolOrder {
        plane,
        token,
        host_id,
        present: None,
        machine: identity::look_at_machine(fs, host_id),
        facts: &facts,
        root: &root,
        egress: &Egress::direct(),
        tls: &TlsPolicy::default(),
        deadline: PATIENCE,
    })
    .await
    .map_err(|e| e.fault())
}

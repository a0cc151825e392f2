//! Which etcd there is and where.

use std::path::PathBuf;
use std::process::Command;

/// What is built: the newest of each minor that a cluster may have or come from.
pub(crate) const VERSIONS: [&str; 3] = ["3.5.35", "3.6.16", "3.7.3"];

/// `etcd`, `etcdctl` and `etcdutl` of one version.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// Where they are.
    pub(crate) dir: PathBuf,
}

impl Programs {
    /// Those of this version: in the directory that `PF9_ETCD_3_7_3` names, or built by
    /// `scripts/lib/parts.py`.
    pub(crate) fn of(version: &str) -> Self {
        let name = format!("PF9_ETCD_{}", version.replace('.', "_"));
        let dir = std::env::var(&name).map_or_else(|_| built(version), PathBuf::from);
        for program in ["etcd", "etcdctl", "etcdutl"] {
            let path = dir.join(program);
            assert!(path.is_file(), "etcd {version}: there is no {path:?}");
        }
        Self { dir }
    }
}

fn built(version: &str) -> PathBuf {
    let parts = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/parts.py");
    let done = Command::new("python3")
        .args([parts, "etcd", version, "--made"])
        .output()
        .expect("python3 runs");
    let said = String::from_utf8_lossy(&done.stdout);
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{why}");
    PathBuf::from(said.trim())
}

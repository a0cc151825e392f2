//! The programs and their paths.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The built versions: the newest of each minor that a cluster may have or come from.
pub(crate) const VERSIONS: [&str; 3] = ["3.5.35", "3.6.16", "3.7.3"];

/// The programs of one version of a component.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// Their directory.
    pub(crate) dir: PathBuf,
}

impl Programs {
    /// `etcd`, `etcdctl` and `etcdutl` of this version: in the directory that `PF9_ETCD_3_7_3` names, or built by
    /// `scripts/lib/parts.py`.
    pub(crate) fn of(version: &str) -> Self {
        let name = format!("PF9_ETCD_{}", version.replace('.', "_"));
        let dir = std::env::var(&name).map_or_else(|_| one("etcd", version), PathBuf::from);
        for program in ["etcd", "etcdctl", "etcdutl"] {
            let path = dir.join(program);
            assert!(path.is_file(), "etcd {version}: there is no {path:?}");
        }
        Self { dir }
    }

    /// Every built version of `containerd`, its shim and `ctr`, oldest first.
    pub(crate) fn containerds() -> Vec<(semver::Version, Self)> {
        let version = |dir: &Path| -> Option<semver::Version> {
            let name = dir.parent()?.file_name()?.to_str()?;
            name.split('-').nth(1)?.parse().ok()
        };
        let mut all: Vec<_> = built("containerd", &[])
            .into_iter()
            .map(|dir| (version(&dir).expect("a version"), Self { dir }))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Links in `dir` to those of these parts and versions.
    pub(crate) fn linked(dir: &Path, parts: &[(&str, &str)]) -> Self {
        for (part, version) in parts {
            for entry in std::fs::read_dir(one(part, version)).expect("programs") {
                let program = entry.expect("entry").path();
                let name = program.file_name().expect("a name");
                std::os::unix::fs::symlink(&program, dir.join(name)).expect("link");
            }
        }
        Self { dir: dir.into() }
    }

    /// Copies of these in `dir`, with the newest `runc`.
    pub(crate) fn with_runc(&self, dir: &Path) -> Self {
        let runc = built("runc", &[]).remove(0).join("runc");
        let programs = std::fs::read_dir(&self.dir).expect("programs");
        let programs = programs.map(|entry| entry.expect("entry").path());
        for program in programs.chain([runc]) {
            let name = program.file_name().expect("a name");
            std::fs::copy(&program, dir.join(name)).expect("copy");
        }
        Self { dir: dir.into() }
    }
}

fn one(part: &str, version: &str) -> PathBuf {
    built(part, &[version]).pop().expect("a directory")
}

fn built(part: &str, versions: &[&str]) -> Vec<PathBuf> {
    let said = script("parts.py", &[&[part], versions, &["--made"]].concat());
    said.lines().map(PathBuf::from).collect()
}

/// Output of one of the scripts.
pub(crate) fn script(name: &str, words: &[&str]) -> String {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib");
    let mut command = Command::new("python3");
    let done = command.arg(format!("{dir}/{name}")).args(words).output();
    let done = done.expect("python3 runs");
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name} {words:?}: {why}");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

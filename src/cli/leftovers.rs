//! What is ours on this machine beside the package: its removal, and the proof that it is gone.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::fs::{FsError, HostFs};
use crate::host::mounts;
use crate::model::paths;

/// Taken away whole.
const TREES: [&str; 6] = [
    "/var/opt/pf9",
    "/var/lib/pf9",
    paths::STACKS,
    "/run/pf9-containerd",
    "/run/pf9",
    paths::MACHINE_NOW,
];
/// The package's own, and what a person wrote there; a purge takes it.
const KEPT_CONFIG: [&str; 3] = ["hostagent.toml", "conf.d", "services.d"];
const CONFIG_ROOT: &str = "/etc/pf9";
/// Shared directories where the node role puts files, all named after us.
const SHARED: [&str; 4] = [
    "/etc/systemd/system",
    "/etc/sysctl.d",
    "/etc/modules-load.d",
    "/etc/udev/rules.d",
];

/// Which of our paths to take away; logs only when asked.
pub(super) fn trees(host: &HostFs, logs: bool) -> Result<Vec<String>, FsError> {
    let mut all: Vec<String> = TREES.iter().map(|t| (*t).to_owned()).collect();
    if logs {
        all.push(paths::LOG_DIR.to_owned());
    }
    let config = host.list(CONFIG_ROOT)?;
    let ours = config.iter().filter(|n| !KEPT_CONFIG.contains(&n.as_str()));
    all.extend(ours.map(|n| format!("{CONFIG_ROOT}/{n}")));
    // pf9ctl wrote it, among a person's own.
    all.push(paths::PROXY_CONFIG.to_owned());
    all.retain(|t| fs::symlink_metadata(host.at(t)).is_ok());
    all.sort();
    Ok(all)
}

/// Takes `/opt/pf9` and `conf.d` away when nobody else has anything there.
pub(super) fn remove_empty_parents(host: &HostFs) {
    // Not empty means: not only ours. That is no failure.
    drop(fs::remove_dir(host.at("/opt/pf9")));
    drop(fs::remove_dir(host.at(paths::CONFIG_DIR)));
}

/// Everything of ours that is still there: paths, mounts, programs that run.
pub(super) fn left(host: &HostFs, logs: bool) -> Result<Vec<String>, FsError> {
    let mut all = trees(host, logs)?;
    for dir in SHARED {
        for name in host.list(dir)?.iter().filter(|n| n.contains("pf9")) {
            let path = format!("{dir}/{name}");
            if !is_mask(host, &path) {
                all.push(path);
            }
        }
    }
    for root in TREES {
        let (is_mount, below) = mounts::at_or_below(host, root)?;
        all.extend(below.iter().map(|m| format!("mount {m}")));
        // A disk that somebody mounted there is theirs; emptied is all it can be.
        if is_mount && host.list(root)?.is_empty() {
            all.retain(|path| path != root);
        }
    }
    all.extend(programs(host));
    Ok(all)
}

/// True while units of the node role are there.
pub(super) fn role_units(host: &HostFs) -> bool {
    let units = host.list("/etc/systemd/system").unwrap_or_default();
    let ours = |n: &String| n.starts_with("pf9-") && n.ends_with(".service");
    let mine = units.iter().filter(|n| ours(n));
    mine.map(|n| format!("/etc/systemd/system/{n}"))
        .any(|p| !is_mask(host, &p))
}

/// True while anything of the node role is there.
pub(super) fn role_traces(host: &HostFs) -> bool {
    role_units(host) || host.at(paths::KUBE_DIR).exists()
}

/// A package that was removed and not purged leaves its units masked.
fn is_mask(host: &HostFs, path: &str) -> bool {
    fs::read_link(host.at(path)).is_ok_and(|to| to == Path::new("/dev/null"))
}

/// Processes whose program is out of one of our stacks.
fn programs(host: &HostFs) -> Vec<String> {
    let names = host.list("/proc").unwrap_or_default();
    let pids = names.iter().filter(|n| n.parse::<u32>().is_ok());
    pids.filter_map(|pid| {
        let exe: PathBuf = fs::read_link(host.at(format!("/proc/{pid}/exe"))).ok()?;
        exe.starts_with(paths::STACKS)
            .then(|| format!("process {pid} ({})", exe.display()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    fn host_with(files: &[&str]) -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        for path in files {
            host.write(path, b"x", &Attrs::mode(0o644)).expect("write");
        }
        (dir, host)
    }

    #[test]
    fn ours_goes_the_packages_and_other_peoples_stays() {
        let (_dir, host) = host_with(&[
            "/etc/pf9/hostagent.toml",
            "/etc/pf9/conf.d/mine.toml",
            "/etc/pf9/services.d/kubernetes.toml",
            "/etc/pf9/host_id.conf",
            paths::PROXY_CONFIG,
            paths::PROXY_CREDENTIALS,
            "/etc/pf9/certs/hostagent/key.pem",
            "/var/opt/pf9/nodelet/ledger",
            "/var/lib/pf9/etcd/db",
            "/var/lib/docker/x",
            "/opt/pf9/stacks/a/bin/kubelet",
            "/opt/pf9/elsewhere",
            "/var/log/pf9/comms/comms.log",
        ]);
        for tree in trees(&host, true).expect("trees") {
            host.remove_tree(&tree).expect("remove");
        }
        remove_empty_parents(&host);
        assert_eq!(left(&host, true).expect("left"), Vec::<String>::new());
        for kept in [
            "/etc/pf9/hostagent.toml",
            "/etc/pf9/conf.d/mine.toml",
            "/etc/pf9/services.d/kubernetes.toml",
            "/var/lib/docker/x",
            "/opt/pf9/elsewhere",
        ] {
            assert!(host.at(kept).exists(), "{kept}");
        }
    }

    #[test]
    fn what_is_left_is_listed_whatever_it_is() {
        let (_dir, host) = host_with(&[
            "/etc/systemd/system/pf9-kubelet.service",
            "/etc/systemd/system/docker.service",
            "/etc/sysctl.d/90-pf9-kubernetes.conf",
            "/var/log/pf9/x",
        ]);
        host.link("/etc/systemd/system/pf9-comms.service", "/dev/null")
            .expect("mask");
        host.link(
            "/proc/41/exe",
            "/opt/pf9/stacks/k/bin/containerd-shim-runc-v2 (deleted)",
        )
        .expect("exe");
        let mounts = "36 35 98:0 / /var/lib/pf9/kubelet/pods/x rw - tmpfs tmpfs rw\n\
                      37 35 98:0 / /var/lib/pf9x rw - tmpfs tmpfs rw\n";
        host.write(
            "/proc/self/mountinfo",
            mounts.as_bytes(),
            &Attrs::mode(0o444),
        )
        .expect("mounts");
        assert_eq!(
            left(&host, false).expect("left"),
            [
                "/etc/systemd/system/pf9-kubelet.service",
                "/etc/sysctl.d/90-pf9-kubernetes.conf",
                "mount /var/lib/pf9/kubelet/pods/x",
                "process 41 (/opt/pf9/stacks/k/bin/containerd-shim-runc-v2 (deleted))",
            ]
        );
        assert!(role_traces(&host));
    }

    #[test]
    fn a_disk_mounted_there_is_emptied_and_stays() {
        let (_dir, host) = host_with(&["/var/lib/pf9/etcd/db", "/var/opt/pf9/x"]);
        let mounts = "36 35 98:0 / /var/lib/pf9 rw - ext4 /dev/sdb rw\n";
        host.write(
            "/proc/self/mountinfo",
            mounts.as_bytes(),
            &Attrs::mode(0o444),
        )
        .expect("mounts");
        for tree in trees(&host, true).expect("trees") {
            host.remove_tree(&tree).expect("remove");
        }
        assert_eq!(left(&host, true).expect("left"), Vec::<String>::new());
        assert!(host.at("/var/lib/pf9").exists());
    }
}

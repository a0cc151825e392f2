//! Which paths are ours. Only below these may anything be removed recursively, and only these are
//! taken for our own when a ledger was lost.

/// Directories whose content is ours, and files of ours among those of the package.
const ROOTS: [&str; 11] = [
    "/etc/pf9/kube.d",
    "/etc/pf9/cni",
    "/etc/pf9/containerd",
    "/etc/pf9/crictl.yaml",
    "/etc/pf9/node.env",
    "/opt/pf9/cni",
    "/opt/pf9/stacks",
    "/var/lib/pf9",
    "/var/opt/pf9/nodelet",
    "/run/pf9-containerd",
    "/var/log/pf9/kube",
];

/// Directories that are shared; in them only files with our name are ours.
const SHARED: [&str; 5] = [
    "/etc/systemd/system",
    "/etc/systemd/system/multi-user.target.wants",
    "/etc/sysctl.d",
    "/etc/modules-load.d",
    "/etc/udev/rules.d",
];

/// Directories whose names Kubernetes and the CNI library fix. They are ours, content and all, where
/// the ledger says that nothing was there before; without it they are somebody else's.
const MADE: [&str; 4] = [
    "/var/log/pods",
    "/var/log/containers",
    "/var/lib/cni/results",
    "/var/lib/kubelet/device-plugins",
];

/// True when a directory that was not there before us may be removed with its content.
pub fn is_ours_if_made(path: &str) -> bool {
    is_ours(path) || MADE.contains(&path)
}

/// Names of ours in shared directories.
fn our_name(name: &str) -> bool {
    name.starts_with("pf9-") || name.contains("-pf9")
}

/// True when this software alone may have put something there.
pub fn is_ours(path: &str) -> bool {
    if path.split('/').any(|part| part == "..") {
        return false;
    }
    let below = |root: &str| path == root || path.starts_with(&format!("{root}/"));
    if ROOTS.iter().any(|r| below(r)) {
        return true;
    }
    path.rsplit_once('/').is_some_and(|(dir, name)| {
        SHARED
            .iter()
            .any(|s| (dir == *s && our_name(name)) || dir.starts_with(&format!("{s}/pf9-")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_names_are_ours_only_where_we_made_them() {
        assert!(!is_ours("/var/log/pods") && is_ours_if_made("/var/log/pods"));
        assert!(!is_ours_if_made("/var/log") && !is_ours_if_made("/var/log/pods/x"));
    }

    #[test]
    fn foreign_paths_are_never_ours() {
        for ours in [
            "/etc/pf9/kube.d/certs",
            "/var/lib/pf9/kubelet/pods/x",
            "/etc/systemd/system/pf9-kubelet.service",
            "/etc/sysctl.d/90-pf9.conf",
            "/opt/pf9/stacks",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for foreign in [
            "/",
            "/etc",
            "/etc/pf9",
            "/etc/pf9/trust",
            "/opt/pf9",
            "/home/pf9-user/x",
            "/etc/pf9/hostagent.toml",
            "/etc/systemd/system/docker.service",
            "/etc/systemd/system",
            "/var/lib/docker",
            "/var/lib/pf9x",
            "/var/lib/pf9/../docker",
            "/etc/crictl.yaml",
            "/etc/sysctl.d/99-sysctl.conf",
        ] {
            assert!(!is_ours(foreign), "{foreign}");
        }
    }
}

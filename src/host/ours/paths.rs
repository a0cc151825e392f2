//! Paths of ours.
//!
//! ```text
//! Place   a directory (or file) that only we make, content and all
//! Entry   one file of ours in a directory that everybody uses
//! MADE    names that Kubernetes fixes: ours only where the ledger says that we made them
//! ```

use std::path::Path;

use super::units;
use crate::model::paths;

/// What removes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remover {
    /// The node role made it; it goes with the role.
    Role,
    /// The agent made it; it goes when the agent is taken off this machine.
    Agent,
    /// Logs: like the agent's, unless they are kept.
    Logs,
}

/// State of the running container runtime.
pub const CONTAINERD_STATE: &str = "/run/pf9-containerd";
/// What calico's daemon tells its plugin.
pub const CALICO_STATE: &str = "/var/lib/calico";
/// Its configuration for the runtime, which its daemon's pod writes.
pub const CALICO_CONFLIST: &str = "/etc/pf9/cni/net.d/10-calico.conflist";
/// Where units are written.
pub const UNIT_DIR: &str = "/etc/systemd/system";
/// Where the agent's configuration and identity are.
pub const CONFIG_ROOT: &str = "/etc/pf9";
/// What is the package's own in [`CONFIG_ROOT`], and what a person wrote there: only a purge of the
/// package takes it.
pub const KEPT_CONFIG: [&str; 6] = [
    "hostagent.toml",
    "conf.d",
    "services.d",
    "operations.toml",
    "check.d",
    "inventory.d",
];
/// True for a name in [`CONFIG_ROOT`] that stays with the package; what a package manager saved of
/// a changed configuration (`hostagent.toml.rpmsave`) as well.
pub fn config_is_kept(name: &str) -> bool {
    KEPT_CONFIG.contains(&name) || name.starts_with("hostagent.toml.")
}

/// A parent that others may use too: goes when it is empty.
pub const SHARED_PARENTS: [&str; 2] = ["/opt/pf9", paths::CONFIG_DIR];

/// Directories and files that only we make, with everything in them.
pub const PLACES: [(&str, Remover); 13] = [
    (paths::KUBE_DIR, Remover::Role),
    ("/etc/pf9/cni", Remover::Role),
    ("/etc/pf9/containerd", Remover::Role),
    ("/etc/pf9/crictl.yaml", Remover::Role),
    ("/etc/pf9/node.env", Remover::Role),
    ("/opt/pf9/cni", Remover::Role),
    (paths::STACKS, Remover::Role),
    ("/var/lib/pf9", Remover::Role),
    (CONTAINERD_STATE, Remover::Role),
    ("/var/opt/pf9", Remover::Agent),
    ("/run/pf9", Remover::Agent),
    (paths::MACHINE_NOW, Remover::Agent),
    (paths::LOG_DIR, Remover::Logs),
];

/// Directories that everybody uses and that hold entries of ours.
pub const SHARED: [&str; 5] = [
    UNIT_DIR,
    "/etc/systemd/system/multi-user.target.wants",
    "/etc/systemd/system/sockets.target.wants",
    "/etc/sysctl.d",
    "/etc/modules-load.d",
];

/// Directories in which files of ours are written, with the levels below them: where interrupted
/// writes leave something. The two unprivileged daemons look after their own state; all the rest is
/// written and looked after by root.
pub const WRITTEN_BY_ROOT: &[(&str, usize)] = &[
    (CONFIG_ROOT, 8),
    ("/var/opt/pf9", 0),
    (paths::NODELET_STATE, 4),
    (paths::AGENT_STATE, 1),
    (paths::AGENT_PROGRAMS, 0),
    (paths::ETCD_BACKUPS, 0),
    // A stack is unpacked beside its place, and a file that says which it is put into it last.
    (paths::STACKS, 1),
    ("/opt/pf9/cni", 2),
    ("/run/pf9", 0),
    (SHARED[0], 0),
    (SHARED[1], 0),
    (SHARED[2], 0),
    (SHARED[3], 0),
    (SHARED[4], 0),
];
/// As [`WRITTEN_BY_ROOT`], by comms.
pub const WRITTEN_BY_COMMS: &[(&str, usize)] = &[(paths::COMMS_STATE, 4)];
/// As [`WRITTEN_BY_ROOT`], by hostagent.
pub const WRITTEN_BY_HOSTAGENT: &[(&str, usize)] = &[(paths::HOSTAGENT_STATE, 4)];

/// Kernel parameters for the next boot.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/90-pf9-kubernetes.conf";
/// Module names for the next boot.
pub const MODULES_FILE: &str = "/etc/modules-load.d/pf9-kubernetes.conf";
/// Makes nodelet start at boot while this machine has a role.
pub const NODELET_AT_BOOT: &str =
    "/etc/systemd/system/multi-user.target.wants/pf9-nodeletd.service";

/// Directories whose names Kubernetes, the CNI library and calico fix. They are ours, content and all, where the ledger
/// says that nothing was there before; otherwise they are foreign.
const MADE: [&str; 5] = [
    CALICO_STATE,
    PODS_LOGS,
    "/var/log/containers",
    "/var/lib/cni/results",
    "/var/lib/kubelet/device-plugins",
];

/// Below these everything mounted is the runtime's or kubelet's: containers' roots, pods' volumes
/// and network namespaces. The directories themselves may be mount points that a person made, and
/// stay.
///
/// Names in `/run/netns` are not among them, not even empty ones: another runtime creates a name before it starts the
/// sandbox. Ours go below its own state (`netns_mounts_under_state_dir`), so what to remove needs no guess and no
/// running containerd.
pub const MOUNTED: [&str; 3] = [
    CONTAINERD_STATE,
    paths::CONTAINERD_ROOT,
    paths::KUBELET_ROOT,
];

/// Directories of ours at which an operator may have mounted a disk: they are emptied and stay. Anything else mounted
/// below [`PLACES`], and not in [`MOUNTED`], is foreign: it is left, and named.
pub const DISKS: [&str; 5] = [
    paths::ETCD_DATA,
    paths::ETCD_BACKUPS,
    paths::CONTAINERD_ROOT,
    paths::KUBELET_ROOT,
    VOLUMES,
];

/// Whether an operator may have mounted a disk here for us. A mount anywhere else, also at a directory that we made, is
/// another one's: its content was never ours.
pub fn may_be_disk(path: &Path) -> bool {
    let places = PLACES.iter().map(|(place, _)| *place);
    let mut all = DISKS
        .into_iter()
        .chain([CONFIG_ROOT, PODS_LOGS])
        .chain(places);
    all.any(|disk| path == Path::new(disk))
}

/// Where kubelet puts the logs of pods, however large they get.
const PODS_LOGS: &str = "/var/log/pods";

/// Volumes of the StorageClass `local-path`, which is the default.
pub const VOLUMES: &str = "/var/lib/pf9/volumes";

/// Where programs lie that are run on this machine.
pub const PROGRAMS: [&str; 3] = [paths::AGENT_PROGRAMS, paths::STACKS, "/opt/pf9/cni"];

/// Directories that are made, or looked for, by these names: none of them may be a link. Removal must be sure what
/// is below them, and mounts below a link have other names in the kernel's list.
pub const NO_LINKS: [&str; 14] = [
    CONFIG_ROOT,
    "/opt/pf9",
    paths::STACKS,
    "/opt/pf9/cni",
    "/var/lib/pf9",
    paths::ETCD_DATA,
    paths::CONTAINERD_ROOT,
    paths::KUBELET_ROOT,
    "/var/opt/pf9",
    paths::LOG_DIR,
    "/var/log/pods",
    "/var/log/containers",
    "/var/lib/kubelet",
    "/var/lib/cni",
];

/// Where one of them is a link anyway: what to do, also in the words of the check before.
pub const LINK_FIX: &str = "remove the link, make a directory of that name and mount the link's target there: \
                            mount --bind TARGET DIRECTORY, and a line \"TARGET DIRECTORY none bind 0 0\" in /etc/fstab";

/// Left by other agents that want the same machine; some live next to our own paths.
pub const OTHER_AGENTS: [&str; 4] = [
    "/opt/pf9/hostagent",
    "/opt/pf9/pf9-kube",
    "/opt/pf9/nodelet",
    "/etc/rancher/agent",
];

/// Why a path is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRule {
    /// At or below a place of [`PLACES`].
    Place(Remover),
    /// An entry of ours, by its exact name, in a directory that everybody uses.
    Entry(Remover),
    /// Called after us in such a directory and not known: of another version, or a person's. Told when
    /// it is left, never deleted unasked.
    CalledAfterUs,
    /// A person's drop-in for a unit of ours: theirs, whatever becomes of the unit. Told, never deleted.
    DropIn,
}

/// True when `path` is `root` or below it.
pub fn below(root: &str, path: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path is ours.
pub fn path(path: &str) -> Option<PathRule> {
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    if let Some((_, keeper)) = PLACES.iter().find(|(root, _)| below(root, path)) {
        return Some(PathRule::Place(*keeper));
    }
    if let Some((_, keeper)) = entries().into_iter().find(|(entry, _)| entry == path) {
        return Some(PathRule::Entry(keeper));
    }
    let (dir, name) = path.rsplit_once('/')?;
    let inside = |dir: &str| SHARED.contains(&dir);
    let within = dir
        .rsplit_once('/')
        .is_some_and(|(parent, name)| inside(parent) && called_after_us(name));
    let unit = |name: &str| name.ends_with(".service.d") || name.ends_with(".socket.d");
    let named = match within {
        true => dir.rsplit_once('/').map_or(dir, |(_, parent)| parent),
        false => name,
    };
    let ours = within || inside(dir) && called_after_us(name);
    let rule = match unit(named) && below(UNIT_DIR, path) {
        true => PathRule::DropIn,
        false => PathRule::CalledAfterUs,
    };
    ours.then_some(rule)
}

/// Entries of ours in directories that everybody uses, by their exact paths.
pub fn entries() -> Vec<(String, Remover)> {
    let [unit_dir, at_boot, sockets, ..] = SHARED;
    let at = |dir: &str, name: &str, keeper| (format!("{dir}/{name}"), keeper);
    let mut all = Vec::new();
    for unit in units::ROLE {
        all.push(at(unit_dir, unit, Remover::Role));
        all.push(at(at_boot, unit, Remover::Role));
    }
    all.extend([
        (NODELET_AT_BOOT.to_owned(), Remover::Role),
        (SYSCTL_FILE.to_owned(), Remover::Role),
        (MODULES_FILE.to_owned(), Remover::Role),
        at(at_boot, units::COMMS, Remover::Agent),
        at(at_boot, units::HOSTAGENT, Remover::Agent),
        at(sockets, units::NODELET_SOCKET, Remover::Agent),
    ]);
    all
}

/// Everything that the node role puts on a machine, by its names: what goes where no ledger tells.
pub fn of_the_role_all() -> Vec<String> {
    let places = PLACES
        .iter()
        .map(|(path, keeper)| ((*path).to_owned(), *keeper));
    let all = places.chain(entries());
    all.filter(|(_, keeper)| *keeper == Remover::Role)
        .map(|(path, _)| path)
        .collect()
}

/// True when the node role alone may have put something there: what it finds there before its
/// ledger knows of it is of an earlier life of its own, and may be replaced and removed.
pub fn of_the_role(path_: &str) -> bool {
    match path(path_) {
        Some(PathRule::Place(Remover::Role) | PathRule::Entry(Remover::Role)) => true,
        Some(PathRule::CalledAfterUs) => role_unit(path_),
        Some(PathRule::Place(_) | PathRule::Entry(_) | PathRule::DropIn) | None => false,
    }
}

/// A unit of the role, perhaps of another version, or its link at boot.
fn role_unit(path: &str) -> bool {
    let [unit_dir, at_boot, ..] = SHARED;
    path.rsplit_once('/')
        .is_some_and(|(dir, name)| [unit_dir, at_boot].contains(&dir) && units::of_the_role(name))
}

/// True when a directory that was not there before us may be removed with its content.
pub fn ours_if_made(path: &str) -> bool {
    of_the_role(path) || MADE.contains(&path)
}

/// True for a mount point that goes with the containers; `roots` are [`MOUNTED`] as the kernel's list calls them.
pub fn mounted_below(roots: &[String], point: &str) -> bool {
    roots.iter().any(|m| below(m, point) && point != m)
}

/// True for a name, in a directory that everybody uses, that says it is of ours.
pub fn called_after_us(name: &str) -> bool {
    name.starts_with("pf9-") || name.contains("-pf9-") || name.contains("-pf9.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_names_are_ours_only_where_we_made_them() {
        assert!(!of_the_role("/var/log/pods") && ours_if_made("/var/log/pods"));
        assert!(!ours_if_made("/var/log") && !ours_if_made("/var/log/pods/x"));
    }

    #[test]
    fn foreign_paths_are_never_ours() {
        for ours in [
            "/etc/pf9/kube.d/certs",
            "/var/lib/pf9/kubelet/pods/x",
            "/etc/systemd/system/pf9-kubelet.service",
            "/etc/systemd/system/pf9-of-another-version.service",
            NODELET_AT_BOOT,
            SYSCTL_FILE,
            "/opt/pf9/stacks",
        ] {
            assert!(of_the_role(ours), "{ours}");
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
            "/etc/systemd/system/pf9-comms.service",
            "/etc/systemd/system/pf9-kubelet.service.d/a-persons.conf",
            "/var/lib/docker",
            "/var/lib/pf9x",
            "/var/lib/pf9/../docker",
            "/var/opt/pf9/nodelet",
            "/etc/crictl.yaml",
            "/etc/sysctl.d/99-sysctl.conf",
        ] {
            assert!(!of_the_role(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_persons_configuration_is_kept() {
        for kept in [
            "hostagent.toml",
            "hostagent.toml.rpmsave",
            "conf.d",
            "services.d",
        ] {
            assert!(config_is_kept(kept), "{kept}");
        }
        for ours in ["trust", "host_id.conf", "hostagent.tomlx", ".before"] {
            assert!(!config_is_kept(ours), "{ours}");
        }
    }

    #[test]
    fn what_is_called_after_us_is_told_and_not_deleted() {
        let (drop_in, other) = (PathRule::DropIn, PathRule::CalledAfterUs);
        for (told, rule) in [
            ("/etc/systemd/system/pf9-comms.service.d", drop_in),
            (
                "/etc/systemd/system/pf9-kubelet.service.d/a-persons.conf",
                drop_in,
            ),
            ("/etc/systemd/system/pf9-nodeletd.socket.d", drop_in),
            ("/etc/sysctl.d/10-pf9-tuning.conf", other),
            ("/etc/sysctl.d/10-pf9-x.service.d", other),
        ] {
            assert_eq!(path(told), Some(rule), "{told}");
            assert!(!ours_if_made(told), "{told}");
        }
        assert_eq!(path("/etc/sysctl.d/99-pf9x.conf"), None);
    }

    #[test]
    fn each_entry_is_in_a_directory_that_is_looked_through() {
        for (entry, keeper) in entries() {
            assert_eq!(path(&entry), Some(PathRule::Entry(keeper)), "{entry}");
            let (dir, name) = entry.rsplit_once('/').expect("a path");
            assert!(SHARED.contains(&dir) && called_after_us(name), "{entry}");
        }
    }

    #[test]
    fn only_what_is_mounted_below_our_runtime_is_ours() {
        let roots = MOUNTED.map(str::to_owned);
        for ours in [
            "/run/pf9-containerd/io/rootfs",
            "/var/lib/pf9/kubelet/pods/x",
        ] {
            assert!(mounted_below(&roots, ours), "{ours}");
        }
        for theirs in [
            "/",
            "/var/lib/pf9",
            "/var/lib/pf9/etcd/disk",
            "/var/lib/pf9/kubelet",
            "/run/netns/cni-theirs",
            "/run/pf9-containerdx/y",
        ] {
            assert!(!mounted_below(&roots, theirs), "{theirs}");
        }
    }
}

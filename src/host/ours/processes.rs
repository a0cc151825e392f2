//! Processes of ours, by what the kernel says of them. A name proves nothing, and neither does a
//! word somewhere in the arguments: an editor with a file of ours open is not ours.

use std::net::IpAddr;

use super::paths;
use crate::model::paths as names;

/// What was seen of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The kernel's name of it.
    pub name: String,
    /// Its program, as its own root names it; empty where that cannot be seen. One that was
    /// replaced or removed since ends with ` (deleted)`.
    pub program: String,
    /// Its arguments, the first is what it was called as.
    pub args: Vec<String>,
    /// The paths its root file system is mounted from (layers of an overlay), as the mount says
    /// them; empty for the machine's own root.
    pub root: Vec<String>,
}

/// Why a process is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessRule {
    /// Its program is out of one of our stacks.
    StackProgram,
    /// It keeps a container of our runtime: a shim of our stack, or one with our socket among its arguments.
    Shim,
    /// Its root is mounted out of our runtime's data: it lives in a container of ours.
    Container,
}

/// Whether a process is ours.
pub fn process(seen: &Process) -> Option<ProcessRule> {
    const SHIM: &str = "containerd-shim";
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    if paths::below(names::STACKS, &seen.program) {
        let shim = base(&seen.program).starts_with(SHIM);
        return Some(if shim {
            ProcessRule::Shim
        } else {
            ProcessRule::StackProgram
        });
    }
    let mut args = seen.args.iter().map(String::as_str);
    if args.next().is_some_and(|a| base(a).starts_with(SHIM)) {
        let told = args.skip_while(|a| *a != "-address").nth(1);
        if told == Some(names::CONTAINERD_SOCKET) {
            return Some(ProcessRule::Shim);
        }
    }
    let rooted = |from: &String| {
        paths::below(names::CONTAINERD_ROOT, from) || paths::below(paths::CONTAINERD_STATE, from)
    };
    let container = seen.root.iter().any(rooted);
    container.then_some(ProcessRule::Container)
}

/// The kernel's name of flannel's daemon.
pub const TUNNELS: &str = "flanneld";

/// Whether this is flannel's daemon in a container of ours, with another address than `ip` to tunnel by.
pub fn tunnels_elsewhere(seen: &Process, ip: IpAddr) -> bool {
    let told = seen.args.iter().find_map(|a| a.strip_prefix("--iface="));
    let told = told.and_then(|text| text.parse::<IpAddr>().ok());
    seen.name == TUNNELS
        && process(seen) == Some(ProcessRule::Container)
        && told.is_some_and(|told| told != ip)
}

impl ProcessRule {
    /// Stricter on purpose: only these may be killed when containers are cleared away. Programs of
    /// a stack are services, which end in their units' order, or a person's `kubectl`.
    pub fn killed_with_the_containers(self) -> bool {
        match self {
            Self::Shim | Self::Container => true,
            Self::StackProgram => false,
        }
    }
}

impl std::fmt::Display for Process {
    /// e.g. `nginx, process 17`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, process {}", self.name, self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(program: &str, args: &[&str], root: &[&str]) -> Process {
        let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect();
        Process {
            program: program.into(),
            args: texts(args),
            root: texts(root),
            ..Process::default()
        }
    }

    #[test]
    fn flannel_is_known_by_the_address_it_was_told() {
        let upper = "/var/lib/pf9/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/9/fs";
        let ip = "10.1.0.5".parse().expect("ip");
        let of = |name: &str, args: &[&str], root: &str| {
            let process = Process {
                name: name.into(),
                ..seen("/opt/bin/flanneld", args, &[root])
            };
            tunnels_elsewhere(&process, ip)
        };
        let (old, new) = ("--iface=10.1.0.4", "--iface=10.1.0.5");
        assert!(of(
            "flanneld",
            &["/opt/bin/flanneld", "--ip-masq", old],
            upper
        ));
        assert!(!of(
            "flanneld",
            &["/opt/bin/flanneld", "--ip-masq", new],
            upper
        ));
        assert!(
            !of("flanneld", &["/opt/bin/flanneld", "--iface=eth0"], upper),
            "a name stays"
        );
        assert!(
            !of("flanneld", &["/opt/bin/flanneld", old], "/var/lib/docker/x"),
            "somebody else's"
        );
        assert!(!of("sh", &["sh", old], upper));
    }

    #[test]
    fn programs_shims_and_containers_of_ours_are_known() {
        use ProcessRule::*;
        let socket = "/run/pf9-containerd/containerd.sock";
        let shim = "/opt/pf9/stacks/k/bin/containerd-shim-runc-v2";
        let upper = "/var/lib/pf9/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/9/fs";
        for (process_, rule) in [
            (
                seen("/opt/pf9/stacks/k/bin/etcd", &[], &[]),
                Some(StackProgram),
            ),
            (
                seen("/opt/pf9/stacks/k/bin/etcd (deleted)", &[], &[]),
                Some(StackProgram),
            ),
            (seen(shim, &[], &[]), Some(Shim)),
            (
                seen(
                    "/gone/containerd-shim-runc-v2",
                    &["/gone/containerd-shim-runc-v2", "-address", socket],
                    &[],
                ),
                Some(Shim),
            ),
            (
                seen("/usr/local/bin/kube-apiserver", &[], &[upper]),
                Some(Container),
            ),
        ] {
            assert_eq!(process(&process_), rule, "{process_:?}");
        }
    }

    #[test]
    fn who_only_speaks_of_our_files_is_not_ours() {
        let theirs = "/run/containerd/containerd.sock";
        for foreign in [
            seen("/usr/bin/kubelet", &["kubelet"], &[]),
            seen("/opt/pf9/stacksx/bin/kubelet", &[], &[]),
            // A person looks at our shim.
            seen(
                "/usr/bin/vim",
                &["vim", "/opt/pf9/stacks/k/bin/containerd-shim-runc-v2"],
                &[],
            ),
            seen(
                "/usr/bin/containerd-shim-runc-v2",
                &["/usr/bin/containerd-shim-runc-v2", "-address", theirs],
                &[],
            ),
            // Another runtime's container.
            seen("/x", &[], &["/var/lib/docker/overlay2/1/diff"]),
            seen("/x", &[], &["/var/lib/pf9/containerdx"]),
        ] {
            assert_eq!(process(&foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn services_are_not_killed_with_the_containers() {
        assert!(!ProcessRule::StackProgram.killed_with_the_containers());
        assert!(ProcessRule::Shim.killed_with_the_containers());
        assert!(ProcessRule::Container.killed_with_the_containers());
    }
}

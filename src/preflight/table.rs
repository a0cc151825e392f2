//! Every check. A new one is a row here, its function in the file of its group, and its code and remedy in
//! `model/fault_code/remedies/checks.rs`: `--list`, the documents and `docs/checks.md` follow. A fact that no check has
//! needed yet is a field of `facts`.

use super::Severity::{Info, Recommended, Required};
use super::{
    AgentSeen, Finding, Group, MachineFacts, NetworkSeen, PlaneSeen, Severity, SyncTrial, agent,
    conflicts, kernel, machine, network, plane, resources, security, software, storage, sync,
};

/// One check.
#[derive(Clone, Copy, Debug)]
pub struct CheckEntry {
    /// Stable kebab-case word.
    pub id: &'static str,
    /// Where it belongs.
    pub group: Group,
    /// How bad it can be.
    pub severity: Severity,
    /// What it looks at.
    pub what: &'static str,
    /// Its judge, and the facts that it reads.
    pub rule: CheckRule,
}

/// The pure function of a check, by what it looks at.
#[derive(Clone, Copy, Debug)]
pub enum CheckRule {
    /// The machine's own files.
    Machine(fn(&MachineFacts) -> Finding),
    /// A try of the disk.
    Disk(fn(&SyncTrial) -> Finding),
    /// The network.
    Network(fn(&NetworkSeen) -> Finding),
    /// The plane.
    Plane(fn(&PlaneSeen) -> Finding),
    /// The agent.
    Agent(fn(&AgentSeen) -> Finding),
}

macro_rules! table {
    ($( $group:ident { $( $id:literal $severity:ident $what:literal $kind:ident $rule:path; )* } )*) => {
        /// Every check, in the order in which they are shown.
        pub const TABLE: &[CheckEntry] = &[ $($( CheckEntry {
            id: $id,
            group: Group::$group,
            severity: $severity,
            what: $what,
            rule: CheckRule::$kind($rule),
        }, )*)* ];
    };
}

table! {
    Platform {
        "root" Required "the caller is root, as enrolment and the units need" Machine machine::root;
        "distribution" Required "a distribution the packages are made for" Machine machine::distribution;
        "architecture" Required "a processor there are stacks for" Machine machine::architecture;
        "init" Required "systemd is process 1" Machine machine::init;
        "tested" Required "systemd, control groups and kernel are in the table of what was tested" Machine machine::tested;
        "host-name" Required "the host name can be a node's, and no cluster uses it itself" Machine machine::host_name;
    }
    Resources {
        "memory" Required "memory for a node" Machine resources::memory;
        "processors" Recommended "processors for a control plane" Machine resources::processors;
        "swap" Required "swap is off" Machine resources::swap;
    }
    Storage {
        "disk" Required "space and inodes for stack, images, logs, by file system; writable" Machine storage::disk;
        "programs" Required "programs can be run in their directories (noexec)" Machine storage::programs;
        "links" Required "no link in place of one of the agent's directories" Machine storage::links;
        "runtime-storage" Required "an overlay works where the runtime will mount images; tested in a scratch directory"
            Machine storage::runtime_storage;
        "etcd-disk" Recommended "how long a synchronous write takes where etcd's data will be; tested with a scratch file"
            Disk sync::etcd_disk;
    }
    Kernel {
        "control-groups" Required "control groups, with what kubelet asks of them" Machine kernel::control_groups;
        "user-namespaces" Info "pods can have user ids of their own" Machine kernel::user_namespaces;
        "overlay" Required "the kernel has overlays" Machine kernel::overlay;
        "kernel-log" Required "the kernel's log can be read: kubelet exits without it" Machine kernel::kernel_log;
        "mount-propagation" Recommended "mounts are shared" Machine kernel::mount_propagation;
        "bridge-filter" Recommended "bridged packets are filtered" Machine kernel::bridge_filter;
        "connection-tracking" Required "connections are tracked" Machine kernel::connection_tracking;
    }
    Security {
        "selinux" Info "whether SELinux is there, and enforces" Machine security::selinux;
        "apparmor" Info "whether AppArmor is there" Machine security::apparmor;
        "limits" Recommended "the kernel's limits on processes, descriptors and file watches" Machine security::limits;
    }
    Time {
        "clock" Required "the time is plausible, and synchronised" Machine machine::clock;
        "clock-offset" Required "how far the clock is from the plane's, measured" Plane plane::clock_offset;
    }
    Network {
        "dns" Required "a name server that pods can reach" Machine software::dns;
        "default-route" Recommended "a way out of the local network" Network network::default_route;
        "mtu" Recommended "packets large enough for an overlay network" Network network::mtu;
        "networks" Recommended "no network, route, DNS server or plane of this machine has addresses that a new cluster would have"
            Network network::networks;
        "firewall" Recommended "no packet filter drops traffic between pods and nodes" Network network::firewall;
    }
    Packages {
        "tools" Required "programs of the distribution that a node calls" Machine software::tools;
        "libraries" Required "libraries of the distribution that a node needs" Machine software::libraries;
        "package-locks" Recommended "the package manager's locks are free" Machine software::package_locks;
    }
    Conflicts {
        "ports" Required "the node's ports are free, or its own" Machine conflicts::ports;
        "ports-given-away" Recommended "the node's ports are outside the kernel's ephemeral range"
            Machine conflicts::ports_given_away;
        "other-kubelet" Required "no other Kubernetes runs here" Machine conflicts::other_kubelet;
        "other-agent" Required "no other agent manages this machine" Machine conflicts::other_agent;
        "other-runtime" Info "another container runtime that runs beside the node's" Machine conflicts::other_runtime;
        "leftovers" Recommended "what another Kubernetes left: directories, links" Machine conflicts::leftovers;
    }
    Plane {
        "plane" Required "every endpoint of the plane, hop by hop: DNS, TCP, proxy, TLS, HTTP, as the tunnel connects"
            Plane plane::reached;
    }
    Identity {
        "identity" Required "key, certificate and authorities match, and belong to this machine" Agent agent::identity;
        "certificates" Required "how long every certificate of this host is valid" Agent agent::certificates;
    }
    Agent {
        "configuration" Required "the daemons can use the configuration" Agent agent::configuration;
        "daemons" Required "the daemons of a host run, and do not keep restarting" Agent agent::daemons;
        "connection" Recommended "the plane has accepted a status of this host recently" Agent agent::connection;
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::fault_code;
    use super::*;
    use crate::model::FaultCode;

    /// What a row says of itself is so: nothing that is only recommended stops anybody, and ids and groups are in order.
    #[test]
    fn the_table_is_in_order() {
        let mut ids = std::collections::BTreeSet::new();
        for entry in TABLE {
            assert!(ids.insert(entry.id), "{} stands twice", entry.id);
            let clean = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(entry.id.chars().all(clean), "{}", entry.id);
            assert!(entry.id.len() < 21, "{}: the screen's column", entry.id);
            assert_ne!(fault_code(entry.id), FaultCode::Newer, "{}", entry.id);
        }
        let groups: Vec<Group> = TABLE.iter().map(|e| e.group).collect();
        assert!(groups.is_sorted(), "groups stand together");
        let mut seen = groups;
        seen.dedup();
        // Operators' own have no row.
        seen.push(Group::Operators);
        assert_eq!(seen, Group::ALL);
    }
}

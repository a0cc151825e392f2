//! Whether the cluster's networks can be beside what this machine has to reach: its own networks and addresses, its
//! routes, its DNS servers, the plane.
//!
//! A node whose pods have the plane's address loses the plane with its first pod, and cannot be repaired remotely. So no
//! node starts on such a machine ([`refusal`]). An existing one is kept, whatever happens to its machine: the finding
//! is reported ([`warning`]) until it is gone.

use crate::host::fs::HostFs;
use crate::host::grounds::{GROUNDS_MAX, links_beside, standing, ways};
use crate::model::{Fault, FaultCode, Ground, NetworkPlugin, NodeSpec, clash};

/// Why no node starts here.
pub(super) fn refusal(fs: &HostFs, node: &NodeSpec) -> Option<Fault> {
    let grounds = standing(fs).into_iter().chain(ways(fs));
    let why = met(node, grounds)?;
    let what = "this machine does not become a node: the cluster's networks overlap its own";
    let fix = "create a cluster with another network, or give the machine others; it continues automatically when \
        they no longer overlap";
    Some(Fault::new(FaultCode::NetworksMeet, what, why).fix(fix))
}

/// What the networks of the node that is there have met since. Of routes only those count that cannot be the node's own.
pub(super) fn warning(fs: &HostFs, node: &NodeSpec) -> Option<Fault> {
    let beside: Vec<Ground> = match node.network.plugin {
        NetworkPlugin::Bridge | NetworkPlugin::Flannel | NetworkPlugin::Calico => {
            links_beside(fs).collect()
        }
        // Which links its pods have is not known.
        NetworkPlugin::None => Vec::new(),
    };
    let why = met(node, standing(fs).into_iter().chain(beside))?;
    let what = "addresses that overlap the cluster's networks cannot be reached from this node";
    let fix = "give it another address or network; for other networks of the cluster: recreate it";
    Some(Fault::new(FaultCode::NetworksMeet, what, why).fix(fix))
}

fn met(node: &NodeSpec, grounds: impl IntoIterator<Item = Ground>) -> Option<String> {
    let network = &node.network;
    let grounds: Vec<Ground> = grounds.into_iter().take(GROUNDS_MAX).collect();
    clash(network.pods_cidr, network.services_cidr, &grounds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;
    use crate::model::paths;
    use crate::nodelet::phase::samples;

    /// Pods 10.20.0.0/16, services 10.21.0.0/22.
    fn node() -> NodeSpec {
        let mut node = samples::worker("1.36.0").node;
        node.network.pods_cidr = "10.20.0.0/16".parse().expect("net");
        node.network.services_cidr = "10.21.0.0/22".parse().expect("net");
        node
    }

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, HostFs) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        for (path, text) in files {
            fs.write(path, text.as_bytes(), &Attrs::mode(0o644))
                .expect("write");
        }
        (dir, fs)
    }

    const HEAD: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";

    #[test]
    fn what_the_machine_has_to_reach_is_compared_before_a_node_is_begun() {
        let route = |line: &str| format!("{HEAD}{line}\n");
        let gateway = route("eth0\t0007140A\t0100A8C0\t0003\t0\t0\t0\t00FFFFFF");
        let neighbours = route("docker0\t0000140A\t00000000\t0001\t0\t0\t0\t0000F0FF");
        let wide = route("vpn\t0000000A\t0100A8C0\t0003\t0\t0\t0\t000000FF");
        // Of PPP, or of a virtual server: there is no router to name. A VPN takes two halves instead.
        let default = route("ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000");
        let half = route("wg0\t00000000\t00000000\t0001\t0\t0\t0\t00000080");
        for (path, text, words) in [
            (
                paths::ENDPOINTS,
                r#"["wss://10.20.0.1:8443/v1/tunnel"]"#,
                Some("containersCidr: 10.20.0.0/16 contains 10.20.0.1, where the plane is"),
            ),
            (
                "/etc/resolv.conf",
                "nameserver 10.21.0.10\n",
                Some(
                    "servicesCidr: 10.21.0.0/22 contains 10.21.0.10, a DNS server of this machine",
                ),
            ),
            (
                "/proc/net/route",
                gateway.as_str(),
                Some("contains 10.20.7.0/24, a route of this machine (eth0)"),
            ),
            (
                "/proc/net/route",
                neighbours.as_str(),
                Some("overlaps 10.16.0.0/12, a route of this machine (docker0)"),
            ),
            ("/proc/net/route", wide.as_str(), None),
            ("/proc/net/route", default.as_str(), None),
            ("/proc/net/route", half.as_str(), None),
            ("/etc/resolv.conf", "nameserver 10.1.0.10\n", None),
        ] {
            let (_dir, fs) = machine(&[(path, text)]);
            let said = refusal(&fs, &node());
            match (words, said) {
                (None, said) => assert_eq!(said, None, "{text}"),
                (Some(words), said) => {
                    let said = said.expect(text);
                    assert!(said.why.contains(words), "{said}");
                    assert!(!said.fix.is_empty());
                }
            }
        }
    }

    /// The node's own routes are what it is made of; an address that comes later is said.
    #[test]
    fn a_node_that_is_there_is_told_what_it_meets() {
        let own = format!("{HEAD}eth0\t0001140A\t0200010A\t0003\t0\t0\t0\t00FFFFFF\n");
        let (_dir, fs) = machine(&[("/proc/net/route", &own)]);
        assert_eq!(warning(&fs, &node()), None);
        let (_dir, fs) = machine(&[(paths::ENDPOINTS, r#"["wss://10.20.9.9/"]"#)]);
        let said = warning(&fs, &node()).expect("met");
        assert!(said.why.contains("10.20.9.9"), "{said}");
    }

    /// Another container runtime is installed later, a VPN is dialled: their links are no part of the node.
    #[test]
    fn a_bridge_that_comes_later_is_told_and_the_nodes_own_links_are_none() {
        let link = |name: &str| {
            let line = format!("{HEAD}{name}\t0009140A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n");
            machine(&[("/proc/net/route", &line)])
        };
        for other in ["docker0", "br-4f1d", "virbr0", "wg0"] {
            let (_dir, fs) = link(other);
            let said = warning(&fs, &node()).expect(other);
            let words = format!("overlaps 10.20.9.0/24, a route of this machine ({other})");
            assert!(said.why.contains(&words), "{said}");
            let mut unknown = node();
            unknown.network.plugin = NetworkPlugin::None;
            assert_eq!(warning(&fs, &unknown), None, "{other}");
        }
        for own in ["pf9cni0", "flannel.159", "vxlan.calico", "cali0123456789a"] {
            let (_dir, fs) = link(own);
            assert_eq!(warning(&fs, &node()), None, "{own}");
        }
    }
}

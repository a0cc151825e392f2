//! Links, routes, packet-filter chains, tables and sets of ours, by name and number.

/// The bridge that pods are on.
pub const POD_BRIDGE: &str = "pf9cni0";
/// Number of the tunnels that flannel makes where it is the pod network. Its links are called by it, and upstream's
/// own, of number 1, are not ours.
pub const FLANNEL_VNI: u32 = 159;
/// Routing protocol number of our routes; of the range that is free for local use.
pub const ROUTE_PROTOCOL: u8 = 159;
/// Links of calico's tunnels. Every calico uses these names: they are ours where it is this node's pod network.
pub const CALICO_LINKS: [&str; 2] = ["vxlan.calico", "vxlan-v6.calico"];
/// What the names of calico's chains begin with.
const CALICO_CHAINS: &str = "cali-";
/// What its comment of a rule begins with: in chains that are not its own not every rule leads to one that is.
const CALICO_COMMENT: &str = "--comment \"cali:";
/// What the names of its sets of addresses begin with, of each IP version.
const CALICO_SETS: [&str; 2] = ["cali4", "cali6"];
/// Its table of nftables.
const CALICO_TABLE: &str = "calico";
/// Prefix of the chains that the pod network makes.
pub const CHAIN_PREFIX: &str = "PF9-";

/// kube-proxy's table of nftables, one per address family.
pub const PROXY_TABLE: &str = "kube-proxy";
/// Tables of nftables that CNI plugins make: host ports, masquerade.
const CNI_TABLES: [&str; 2] = ["cni_hostport", "cni_plugins_masquerade"];
/// What the names of kube-proxy's chains of iptables begin with. kubelet's own are beside them
/// (`KUBE-FIREWALL`, `KUBE-IPTABLES-HINT`, `KUBE-KUBELET-CANARY`), and stay whatever kube-proxy does.
const PROXY_CHAINS: [&str; 13] = [
    "KUBE-EXT-",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-FORWARD",
    "KUBE-FW-",
    "KUBE-MARK-",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-PROXY-",
    "KUBE-SEP-",
    "KUBE-SERVICES",
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-XLB-",
];

/// What the names of the chains begin with that keep network policies.
const POLICY_CHAINS: [&str; 3] = ["KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-"];
/// The one that all traffic between pods goes through, once policies are kept.
pub const POLICY_ENTRY: &str = "KUBE-ROUTER-FORWARD";
/// What the names of the sets begin with that those chains use: sources and destinations, of both families.
const POLICY_SETS: [&str; 4] = [
    "KUBE-SRC-",
    "KUBE-DST-",
    "inet6:KUBE-SRC-",
    "inet6:KUBE-DST-",
];
/// The kernel's name of the process that writes them.
pub const POLICY_KEEPER: &str = "kube-router";

/// What the names of pods' own links begin with where calico is the pod network.
const CALICO_POD_LINKS: &str = "cali";

/// Why a packet-filter chain goes with the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainRule {
    /// Ours by name: no other program names a chain like this.
    Own,
    /// Made by kubelet, kube-proxy or a CNI plugin of any Kubernetes. Ours only because this
    /// machine is no other Kubernetes' (a check before enrolment, and again at each start): taken
    /// away at removal, but no proof that something of ours is left.
    OursWhileAlone,
}

const SHARED_PREFIXES: [&str; 3] = ["KUBE-", "CNI-", "FLANNEL-"];

/// Links of the pod network.
pub fn links() -> Vec<String> {
    vec![
        POD_BRIDGE.to_owned(),
        format!("flannel.{FLANNEL_VNI}"),
        format!("flannel-v6.{FLANNEL_VNI}"),
    ]
}

/// Whether a link of this name is of a pod network of ours: its bridge, a tunnel of it, or a pod's own.
pub fn is_link_of_pods(name: &str) -> bool {
    links().iter().any(|own| own == name)
        || CALICO_LINKS.contains(&name)
        || name.starts_with(CALICO_POD_LINKS)
}

/// Whether a chain of this name goes with the role.
pub fn chain(name: &str) -> Option<ChainRule> {
    if name.starts_with(CHAIN_PREFIX) {
        return Some(ChainRule::Own);
    }
    let shared = SHARED_PREFIXES.iter().any(|p| name.starts_with(p));
    shared.then_some(ChainRule::OursWhileAlone)
}

/// Prefixes of everything [`chain`] knows, for a removal step that says what it takes.
pub fn chain_prefixes() -> Vec<String> {
    let all = [CHAIN_PREFIX].into_iter().chain(SHARED_PREFIXES);
    all.map(str::to_owned).collect()
}

/// What the kernel has of a pod network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNetwork {
    /// Links, by name.
    pub links: Vec<String>,
    /// Prefixes of the names of chains.
    pub chains: Vec<String>,
    /// Tables of nftables, by name.
    pub tables: Vec<String>,
    /// Prefixes of the names of sets of addresses.
    pub sets: Vec<String>,
}

/// What calico makes on a node, but for routes, which have our number.
pub fn calico() -> PodNetwork {
    PodNetwork {
        links: CALICO_LINKS.map(str::to_owned).to_vec(),
        chains: vec![CALICO_CHAINS.to_owned()],
        tables: vec![CALICO_TABLE.to_owned()],
        sets: CALICO_SETS.map(str::to_owned).to_vec(),
    }
}

/// Whether a rule in a foreign chain goes with the chains of these prefixes, although it does not jump to one.
pub fn rule_goes(rule: &str, prefixes: &[String]) -> bool {
    prefixes.iter().any(|p| p == CALICO_CHAINS) && rule.contains(CALICO_COMMENT)
}

/// Prefixes of the chains that kube-proxy makes where it works by iptables.
pub fn proxy_chain_prefixes() -> Vec<String> {
    PROXY_CHAINS.map(str::to_owned).to_vec()
}

/// Prefixes of the chains that keep network policies.
pub fn policy_chain_prefixes() -> Vec<String> {
    POLICY_CHAINS.map(str::to_owned).to_vec()
}

/// Prefixes of the sets that go with them.
pub fn policy_set_prefixes() -> Vec<String> {
    POLICY_SETS.map(str::to_owned).to_vec()
}

/// The tables that kube-proxy makes where it works by nftables.
pub fn proxy_tables() -> Vec<String> {
    vec![PROXY_TABLE.to_owned()]
}

/// Names of the tables that go with the role: ours as long as the shared chains are
/// ([`ChainRule::OursWhileAlone`]).
pub fn tables() -> Vec<String> {
    let all = [PROXY_TABLE].into_iter().chain(CNI_TABLES);
    all.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_others_are_not_ours() {
        assert_eq!(chain("PF9-FORWARD"), Some(ChainRule::Own));
        assert_eq!(chain("KUBE-SERVICES"), Some(ChainRule::OursWhileAlone));
        assert_eq!(chain("CNI-HOSTPORT-DNAT"), Some(ChainRule::OursWhileAlone));
        for other in ["INPUT", "DOCKER", "MY-KUBE-X", "cni-x", "PF9"] {
            assert_eq!(chain(other), None, "{other}");
        }
        let named = |p: &String| chain(&format!("{p}X")).is_some();
        assert!(chain_prefixes().iter().all(named));
        assert!(proxy_chain_prefixes().iter().all(named));
    }

    #[test]
    fn kubelets_chains_are_not_kube_proxys() {
        let of_the_proxy = |name: &str| {
            let prefixes = proxy_chain_prefixes();
            prefixes.iter().any(|p| name.starts_with(p.as_str()))
        };
        for own in ["KUBE-FIREWALL", "KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"] {
            assert!(!of_the_proxy(own), "{own}");
        }
        for proxys in [
            "KUBE-SERVICES",
            "KUBE-SVC-ABC",
            "KUBE-PROXY-CANARY",
            "KUBE-MARK-MASQ",
        ] {
            assert!(of_the_proxy(proxys), "{proxys}");
        }
        // Policies are no services: what kube-proxy leaves has none of them.
        for prefix in policy_chain_prefixes() {
            assert!(!of_the_proxy(&prefix), "{prefix}");
            assert!(chain(&prefix).is_some(), "{prefix}: goes with the role");
        }
        assert!(
            policy_chain_prefixes()
                .iter()
                .any(|p| POLICY_ENTRY.starts_with(p.as_str()))
        );
        assert!(proxy_tables().iter().all(|t| tables().contains(t)));
    }
}

//! Links, routes and packet-filter chains of ours, by name and number.

/// The bridge that pods are on.
pub const POD_BRIDGE: &str = "pf9cni0";
/// Routing protocol number of our routes; of the range that is free for local use.
pub const ROUTE_PROTOCOL: u8 = 159;
/// Prefix of the chains that the pod network makes.
pub const CHAIN_PREFIX: &str = "PF9-";

/// Why a packet-filter chain goes with the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainRule {
    /// Ours by name: nobody else calls a chain so.
    Own,
    /// Made by kubelet, kube-proxy or a CNI plugin, whoever runs them. Ours only because this
    /// machine is no other Kubernetes' (a check before enrolment, and again at each start): taken
    /// away at removal, but no proof that something of ours is left.
    OursWhileAlone,
}

const SHARED_PREFIXES: [&str; 2] = ["KUBE-", "CNI-"];

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
    }
}

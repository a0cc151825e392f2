//! kube-proxy of a node: what the spec may ask of it, and what was chosen.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Most networks of a spec on whose addresses services' node ports are open: more than a machine has
/// interfaces.
pub const NODE_PORT_NETWORKS_MAX: usize = 32;

/// kube-proxy choices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeProxySpec {
    /// By what services are made.
    #[serde(default)]
    pub mode: ProxyModeChoice,
    /// Node ports are open on the node's addresses in these networks; none: on the node's own address
    /// alone.
    #[serde(default)]
    pub node_port_networks: Vec<IpNet>,
}

/// What a spec says about kube-proxy's mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyModeChoice {
    /// nftables where the machine has it, else iptables.
    #[default]
    Auto,
    /// nftables, or nothing.
    Nftables,
    /// iptables.
    Iptables,
}

/// By what kube-proxy makes services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// One table of nftables per address family.
    Nftables,
    /// Chains of iptables.
    Iptables,
}

/// By what kube-proxy of a node makes services, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeProxyStatus {
    /// What was chosen.
    pub mode: ProxyMode,
    /// In words.
    pub why: String,
}

// === impl KubeProxySpec ===

impl KubeProxySpec {
    /// What types cannot say: the field, and what is wrong with it.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let networks = self.node_port_networks.len();
        (networks > NODE_PORT_NETWORKS_MAX).then(|| {
            let why = format!("{networks} entries, at most {NODE_PORT_NETWORKS_MAX}");
            ("node_port_networks", why)
        })
    }
}

// === impl ProxyMode ===

impl ProxyMode {
    /// The word, as kube-proxy's configuration has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// What is not in use then.
    pub fn other(self) -> Self {
        match self {
            Self::Nftables => Self::Iptables,
            Self::Iptables => Self::Nftables,
        }
    }
}

impl std::fmt::Display for ProxyMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

impl std::fmt::Display for KubeProxyStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.mode, self.why)
    }
}

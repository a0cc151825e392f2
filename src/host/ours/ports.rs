//! TCP ports a node listens on: what is rendered, asked for health, and must be free before.

use super::units;

/// kube-apiserver, where the cluster's settings say nothing else.
pub const API: u16 = 6443;
/// etcd's clients.
pub const ETCD: u16 = 2379;
/// etcd's other members.
pub const ETCD_PEERS: u16 = 2380;
/// etcd's health and metrics, on the loopback address only.
pub const ETCD_METRICS: u16 = 2381;
/// The controller manager's health and metrics.
pub const CONTROLLER_MANAGER: u16 = 10257;
/// The scheduler's health and metrics.
pub const SCHEDULER: u16 = 10259;
/// What the API server calls kubelet on.
pub const KUBELET: u16 = 10250;
/// kubelet's health, on the loopback address only.
pub const KUBELET_HEALTH: u16 = 10248;
/// kube-proxy's metrics.
pub const KUBE_PROXY_METRICS: u16 = 10249;
/// kube-proxy's health.
pub const KUBE_PROXY_HEALTH: u16 = 10256;

/// The API server while it is tried, for a moment and on an unused loopback address: below the ports that the kernel
/// and services assign.
pub const API_SERVER_TRIAL: u16 = 10241;

/// One port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub port: u16,
    /// The program of ours that listens there.
    pub what: &'static str,
    /// The unit that starts it; kubelet starts the static pods.
    pub unit: &'static str,
    /// Only on masters.
    pub masters: bool,
}

const fn port(port: u16, what: &'static str, unit: &'static str, masters: bool) -> Port {
    Port {
        port,
        what,
        unit,
        masters,
    }
}

/// Every port of a node.
pub const ALL: [Port; 10] = [
    port(KUBELET, "kubelet", units::KUBELET, false),
    port(KUBELET_HEALTH, "kubelet health", units::KUBELET, false),
    port(
        KUBE_PROXY_HEALTH,
        "kube-proxy health",
        units::KUBE_PROXY,
        false,
    ),
    port(
        KUBE_PROXY_METRICS,
        "kube-proxy metrics",
        units::KUBE_PROXY,
        false,
    ),
    port(ETCD, "etcd", units::ETCD, true),
    port(ETCD_PEERS, "etcd peers", units::ETCD, true),
    port(ETCD_METRICS, "etcd metrics", units::ETCD, true),
    port(API, "kube-apiserver", units::KUBELET, true),
    port(
        CONTROLLER_MANAGER,
        "kube-controller-manager",
        units::KUBELET,
        true,
    ),
    port(SCHEDULER, "kube-scheduler", units::KUBELET, true),
];

/// Those of `wanted` that the kernel may use for outgoing connections, by its own two parameters, in order; and the list of
/// kept ones with which it does not. A port that is given away is sometimes taken when its service starts.
pub fn given_away(
    range: &str,
    reserved: &str,
    wanted: impl IntoIterator<Item = u16>,
) -> Option<(Vec<u16>, String)> {
    let mut ends = range
        .split_whitespace()
        .filter_map(|n| n.parse::<u16>().ok());
    let (low, high) = (ends.next()?, ends.next()?);
    let kept = |port: u16| {
        reserved.trim().split(',').any(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let ends = from.parse::<u16>().ok().zip(to.parse::<u16>().ok());
            ends.is_some_and(|(from, to)| (from..=to).contains(&port))
        })
    };
    let open = wanted
        .into_iter()
        .filter(|port| (low..=high).contains(port) && !kept(*port));
    let mut open: Vec<u16> = open.collect();
    open.sort_unstable();
    let before = (!reserved.trim().is_empty()).then(|| reserved.trim().to_owned());
    let all = before
        .into_iter()
        .chain(open.iter().map(ToString::to_string));
    let all: Vec<String> = all.collect();
    (!open.is_empty()).then(|| (open, all.join(",")))
}

/// What is known of `number`.
pub fn of(number: u16) -> Option<&'static Port> {
    ALL.iter().find(|p| p.port == number)
}

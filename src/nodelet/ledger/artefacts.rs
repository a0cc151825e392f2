//! What each kind of step leaves on the host. Exhaustive: a new one cannot be forgotten by removal.

use super::What;
use crate::model::paths;
use crate::nodelet::step::Step;

/// What a step leaves on the host.
pub(super) fn artefacts_of(step: &Step) -> Vec<What> {
    match step {
        Step::File(f) => vec![What::File {
            path: f.path.clone(),
        }],
        Step::Link { path, .. } => vec![What::File { path: path.clone() }],
        Step::EtcdJoined { settings, .. } | Step::EtcdFounds { settings, .. } => vec![What::File {
            path: settings.clone(),
        }],
        Step::Dir(d) if d.remove_with_content => vec![What::Tree {
            path: d.path.clone(),
        }],
        Step::Dir(d) => vec![What::Dir {
            path: d.path.clone(),
        }],
        Step::Key { .. } | Step::ServiceAccountKey => vec![What::Tree {
            path: paths::KUBE_CERTS.to_owned(),
        }],
        Step::Unpacked { .. } | Step::Stack { .. } | Step::EtcdStack { .. } => vec![
            What::Dir {
                path: "/opt/pf9".to_owned(),
            },
            What::Tree {
                path: paths::STACKS.to_owned(),
            },
        ],
        Step::Sysctl { key, value } => vec![What::Sysctl {
            key: key.clone(),
            value: value.clone(),
        }],
        Step::Unit(u) => vec![What::Unit {
            unit: u.unit.clone(),
        }],
        // A module stays loaded: somebody else may use it by now. Images go with the runtime's
        // data, objects with the cluster. The rest makes nothing.
        Step::Module { .. }
        | Step::Image { .. }
        | Step::Absent { .. }
        | Step::Tried(_)
        | Step::EtcdDataReady { .. }
        | Step::Probe(_)
        | Step::Object { .. }
        | Step::AddonGone { .. }
        // What they make is the units' to take away.
        | Step::PodNetwork { .. }
        | Step::ProxyRules { .. }
        | Step::HostPorts { .. }
        | Step::TunnelledBy { .. }
        | Step::PolicyRulesGone
        | Step::Uncordon { .. }
        | Step::Drain { .. }
        | Step::EtcdMemberGone { .. }
        | Step::EtcdMemberOut { .. }
        | Step::EtcdAddress { .. }
        | Step::EtcdNoted
        | Step::StackOnDisk { .. }
        | Step::EtcdVotes { .. }
        | Step::UnitGone { .. }
        | Step::ContainersGone
        | Step::NetworkGone { .. }
        | Step::ProxyRulesGone { .. }
        | Step::OsUpdate { .. }
        | Step::Reboot { .. } => Vec::new(),
    }
}

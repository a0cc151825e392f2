//! What each kind of step leaves on the host. Exhaustive: a new one cannot be forgotten by removal.

use super::ArtefactKind;
use crate::model::paths;
use crate::nodelet::step::Step;

/// What a step leaves on the host.
pub(super) fn artefacts_of(step: &Step) -> Vec<ArtefactKind> {
    match step {
        Step::File(f) => vec![ArtefactKind::File {
            path: f.path.clone(),
        }],
        Step::Link { path, .. } => vec![ArtefactKind::File { path: path.clone() }],
        Step::EtcdJoined { settings, .. } | Step::EtcdFounds { settings, .. } => vec![ArtefactKind::File {
            path: settings.clone(),
        }],
        Step::Dir(d) if d.remove_with_content => vec![ArtefactKind::Tree {
            path: d.path.clone(),
        }],
        Step::Dir(d) => vec![ArtefactKind::Dir {
            path: d.path.clone(),
        }],
        Step::Key { .. } | Step::ServiceAccountKey => vec![ArtefactKind::Tree {
            path: paths::KUBE_CERTS.to_owned(),
        }],
        Step::Unpacked { .. } | Step::Stack { .. } | Step::EtcdStack { .. } => vec![
            ArtefactKind::Dir {
                path: "/opt/pf9".to_owned(),
            },
            ArtefactKind::Tree {
                path: paths::STACKS.to_owned(),
            },
        ],
        Step::Sysctl { key, value } => vec![ArtefactKind::Sysctl {
            key: key.clone(),
            value: value.clone(),
        }],
        Step::Unit(u) => vec![ArtefactKind::Unit {
            unit: u.unit.clone(),
        }],
        // A module stays loaded: another program may use it by now. Images go with the runtime's data, objects with the
        // cluster. The rest leaves nothing.
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

//! What the rest of nodelet has to know about each kind of step, in one table.
//!
//! One exhaustive match, one arm a variant: a new kind of step cannot be forgotten by the plan, the
//! runner, the watch or removal, because none of them decides about kinds by itself. (What is done
//! and how it is looked at are `apply` and `observe`; names and words are [`Step::key`] and
//! `words`; what is left on the host is the ledger's: exhaustive matches as well.)

use std::time::Duration;

use super::trial::TRIAL_WAIT_MAX;
use super::{Probe, ProbeStep, Step, UnitStep};
use crate::host::deadlines;
use crate::host::ours::units;
use crate::nodelet::etcd::restart::TURN_WITHIN;
use crate::nodelet::etcd::version::PREPARED_WITHIN;

/// Unpacking a stack of several GiB on a slow disk.
const STACK: Duration = Duration::from_secs(1800);
/// One image; [`crate::host::runtime`] has nearly the same bound.
const IMAGE: Duration = Duration::from_secs(620);
/// How long etcd is asked to let a member go: twice what it takes to count on one that came back.
pub const ETCD_LEAVE_BUDGET: Duration = Duration::from_secs(30);
/// How long a new member of etcd may take to catch up: a database of 2 GiB over a slow network.
/// Then the step has failed and is tried again.
pub const ETCD_VOTE_BUDGET: Duration = Duration::from_secs(240);

/// What is known about one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Traits<'a> {
    /// Longest its doing may take; cut off, it is simply tried again.
    pub deadline: Duration,
    /// What it means for the steps after it.
    pub part: StepPart<'a>,
    /// How it is known that it was done.
    pub proof: Proof,
    /// A program reads what it is going to be started with: nothing after it is done, and no spec is
    /// noted as the one that is installed, before it was passed.
    pub tries: bool,
    /// Needs nothing but the machine, and none of its kind: several that follow each other in a phase
    /// may be done at once.
    pub beside: bool,
    /// The unit whose state is part of the answer when it is looked at.
    pub unit: Option<&'a str>,
    /// Looking at it asks the API server: not asked where that one does not answer.
    pub asks_api: bool,
    /// A path that is watched for changes.
    pub watched: Option<&'a str>,
    /// Removal tries it for the others' sake, and continues when it fails: pods that cannot be moved, an API server
    /// that is gone, an etcd without a quorum block nothing. Tried only where this unit was started once, so that there
    /// may be pods, a member.
    pub polite: Option<&'static str>,
    /// Where it cannot be done, a removal that has destroyed nothing yet waits with it.
    pub holds: bool,
    /// A repair makes good what its doing removes: a removal can still be taken back after it.
    pub repaired: bool,
}

/// What a step means for those after it.
#[derive(Clone, Debug, PartialEq)]
pub enum StepPart<'a> {
    /// A fact that stands for itself.
    Fact,
    /// A file that a unit may have read: when it is repaired, that unit is restarted.
    Repairs(&'a str),
    /// A unit: what is asked after it in its phase is asked again.
    Starts(&'a UnitStep),
    /// A question, waited for instead of done.
    Asks(&'a ProbeStep),
}

/// How it is known that a step was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It is looked at again.
    Look,
    /// Doing it was the answer: looking again would only show what changed since.
    Doing,
}

/// A fact that is looked at on this machine alone.
fn fact(deadline: Duration) -> Traits<'static> {
    Traits {
        deadline,
        part: StepPart::Fact,
        proof: Proof::Look,
        tries: false,
        beside: false,
        unit: None,
        asks_api: false,
        watched: None,
        polite: None,
        holds: false,
        repaired: false,
    }
}

/// A fact of the cluster.
fn of_the_cluster() -> Traits<'static> {
    Traits {
        asks_api: true,
        ..fact(deadlines::CALLS)
    }
}

impl Step {
    /// What is known about this kind of step.
    pub fn traits(&self) -> Traits<'_> {
        match self {
            Self::File(f) => Traits {
                part: StepPart::Repairs(&f.path),
                watched: Some(&f.path),
                ..fact(deadlines::FILES)
            },
            Self::Link { path, .. } => Traits {
                watched: Some(path),
                ..fact(deadlines::FILES)
            },
            // Both are only started.
            Self::OsUpdate { .. } => fact(deadlines::UNIT_STEP),
            Self::Reboot { .. } => fact(deadlines::CALLS),
            Self::Dir(_)
            | Self::Absent { .. }
            | Self::Key { .. }
            | Self::ServiceAccountKey
            | Self::Stack { .. }
            | Self::EtcdStack { .. }
            | Self::EtcdNoted
            | Self::Module { .. }
            | Self::Sysctl { .. } => fact(deadlines::FILES),
            Self::Unpacked { .. } | Self::StackOnDisk { .. } => fact(STACK),
            // Its files, and the program.
            Self::Tried(trial) => Traits {
                tries: true,
                beside: true,
                ..fact(deadlines::FILES + trial.within.min(TRIAL_WAIT_MAX))
            },
            // Like a trial: what is active stays so until it was passed.
            Self::EtcdDataReady { .. } => Traits {
                tries: true,
                ..fact(PREPARED_WITHIN + deadlines::CALLS)
            },
            Self::Image { .. } => Traits {
                beside: true,
                ..fact(IMAGE)
            },
            Self::Unit(unit) => Traits {
                part: StepPart::Starts(unit),
                unit: Some(&unit.unit),
                ..fact(match unit.unit == units::ETCD {
                    // It waits for its turn before it is stopped.
                    true => deadlines::UNIT_STEP + TURN_WITHIN + deadlines::CALLS,
                    false => deadlines::UNIT_STEP,
                })
            },
            Self::Probe(probe) => Traits {
                part: StepPart::Asks(probe),
                unit: probe.probe.unit(),
                asks_api: probe.probe.asks_api(),
                ..fact(deadlines::FILES)
            },
            Self::Object { .. } | Self::AddonGone { .. } | Self::Uncordon { .. } => {
                of_the_cluster()
            }
            // Done once, on the way out; not observed.
            Self::Drain { .. } => Traits {
                proof: Proof::Doing,
                polite: Some(units::KUBELET),
                repaired: true,
                ..fact(deadlines::DRAIN_STEP)
            },
            Self::EtcdMemberGone { force, .. } => Traits {
                polite: Some(units::ETCD),
                holds: !force,
                ..fact(deadlines::CALLS)
            },
            // A few pods, each a program that waits for others who change the packet filter.
            Self::HostPorts { .. } => fact(deadlines::UNIT_STEP),
            Self::TunnelledBy { .. }
            | Self::EtcdMemberOut { .. }
            | Self::EtcdAddress { .. }
            | Self::EtcdFounds { .. }
            | Self::EtcdJoined { .. }
            | Self::ContainersGone
            | Self::NetworkGone { .. }
            | Self::PolicyRulesGone
            | Self::ProxyRulesGone { .. } => fact(deadlines::CALLS),
            // Its program waits for routes to become possible.
            Self::PodNetwork { .. } => fact(deadlines::UNIT_STEP),
            // kube-proxy is restarted, and writes them.
            Self::ProxyRules { .. } => fact(deadlines::UNIT_STEP + deadlines::CALLS),
            Self::EtcdVotes { .. } => fact(ETCD_VOTE_BUDGET + deadlines::CALLS),
            Self::UnitGone { unit } => Traits {
                unit: Some(unit),
                ..fact(deadlines::UNIT_GONE)
            },
        }
    }
}

impl Probe {
    /// Asking it asks the API server. (Whether that one is well is a question of its own.)
    fn asks_api(&self) -> bool {
        match self {
            Self::NodeReady { .. } | Self::StaticPodCurrent { .. } => true,
            Self::ApiHealthy { .. }
            | Self::RuntimeReady
            | Self::RuntimeAsMeant { .. }
            | Self::EtcdHealthy
            | Self::EtcdData { .. }
            | Self::KubeletHealthy
            | Self::KubeProxyHealthy
            | Self::SwapOff
            | Self::PortFree { .. }
            | Self::AnyPath { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodelet::phase::{self, samples};

    /// The bound of removal contains everything that removal does, for the largest role.
    #[test]
    fn every_step_of_removal_fits_into_its_bound() {
        let mut ctx = samples::master("1.36.3");
        let mut other = ctx.node.etcd.members[0].clone();
        other.host_id = samples::host(2);
        other.ip = "10.99.0.12".parse().expect("address");
        ctx.node.etcd.members.push(other);
        let steps = phase::removal(&ctx, true);
        let of = |steps: &mut dyn Iterator<Item = &Step>| -> Duration {
            steps.map(|s| s.traits().deadline).sum()
        };
        let polite = of(&mut steps.iter().filter(|s| s.traits().polite.is_some()));
        assert_eq!(polite, deadlines::POLITE, "drain, etcd member");
        // And the question whether etcd can do without it.
        let all = deadlines::CALLS + of(&mut steps.iter()) + deadlines::TREES;
        assert!(all <= deadlines::ROLE_REMOVAL, "{all:?}");
        assert!(ETCD_LEAVE_BUDGET < deadlines::CALLS && IMAGE < STACK);
    }

    /// Units of the node start and stop within the time that those who wait for them allow.
    #[test]
    fn units_start_and_stop_within_the_bounds() {
        let bounds = [
            ("TimeoutStopSec=", deadlines::UNIT_STOP),
            ("TimeoutStartSec=", deadlines::UNIT_START),
        ];
        let mut seen = 0;
        for ctx in [samples::master("1.34.4"), samples::master("1.37.2")] {
            for phase in phase::all(&ctx) {
                for step in phase.steps.expect("nothing is waited for") {
                    let Step::File(file) = step else { continue };
                    if !file.path.starts_with(phase::layout::UNIT_DIR) {
                        continue;
                    }
                    for (key, longest) in bounds {
                        let lines = file.content.lines();
                        for value in lines.filter_map(|l| l.strip_prefix(key)) {
                            let seconds: u64 = value.parse().expect("seconds");
                            assert!(seconds <= longest.as_secs(), "{}: {key}", file.path);
                            seen += 1;
                        }
                    }
                }
            }
        }
        assert!(seen >= 6, "etcd, network and runtime say so: {seen}");
    }
}

//! Findings before the first step. Pure, from the matrix of compatible versions and from host reports.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;
use serde::Serialize;

use super::{Condition, etcd_of, is_master, stack_of};
use crate::addons::left_behind;
use crate::records::{Cluster, Member};
use pf9_hostagent::model::{
    Digest, Fault, FaultCode, Fit, HostId, Inventory, Machine, Matrix, StackManifest,
};

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Weight {
    /// It cannot work: not overrulable.
    Refuses,
    /// It does not start, unless the operator names it (`--despite`).
    Blocks,
    Warns,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// The id by which it is overruled.
    pub(crate) id: String,
    pub(crate) weight: Weight,
    #[serde(flatten)]
    pub(crate) fault: Fault,
}

/// What is known about a host.
pub(super) struct Known<'a> {
    pub(super) seen: Condition,
    pub(super) inventory: Option<&'a Inventory>,
}

/// The inputs.
pub(super) struct Case<'a> {
    pub(super) cluster: &'a Cluster,
    /// Manifests of the members' stacks and of the new one.
    pub(super) stacks: &'a BTreeMap<Digest, StackManifest>,
    pub(super) to: &'a StackManifest,
    pub(super) hosts: &'a BTreeMap<HostId, Known<'a>>,
}

/// All findings that do not need the cluster's API.
pub(super) fn findings(case: &Case<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(other_walks(case.cluster));
    if !crate::mutant("gates-minor") {
        found.extend(minors(case));
    }
    if !crate::mutant("gates-etcd") {
        found.extend(etcds(case));
    }
    if !crate::mutant("gates-containerd") {
        found.extend(containerds(case));
    }
    if !crate::mutant("gates-machines") {
        found.extend(machines(case));
    }
    found.extend(states(case.cluster, case.hosts));
    found.extend(addons_left(case));
    found
}

pub(super) fn finding(id: impl Into<String>, weight: Weight, fault: Fault) -> Finding {
    let id = id.into();
    Finding { id, weight, fault }
}

pub(super) fn blocked(what: impl Into<String>, why: impl Into<String>) -> Fault {
    Fault::new(FaultCode::RollBlocked, what, why)
}

/// Two rolls that restart masters do not run side by side.
pub(super) fn other_walks(cluster: &Cluster) -> Option<Finding> {
    let (what, fix) = if cluster.rotation.is_some() {
        (
            "a rotation of authorities is under way",
            "wait until it is finished, or abort it: pf9-plane cluster authorities show",
        )
    } else if cluster.etcd_restore.is_some() {
        (
            "a restore of etcd is under way",
            "wait until it is finished: pf9-plane cluster restore NAME --show",
        )
    } else {
        return None;
    };
    let why = "both restart masters, and neither knows of the other";
    let fault = blocked(what, why).fix(fix);
    Some(finding("other-work", Weight::Refuses, fault))
}

/// The manifests of members' present stacks, each with one member that has it.
fn had<'a>(
    case: &'a Case<'_>,
    of: fn(&'a Cluster, &'a Member) -> Digest,
) -> Vec<(&'a Member, &'a StackManifest)> {
    let mut seen = BTreeMap::new();
    for member in &case.cluster.members {
        if let Some(manifest) = case.stacks.get(&of(case.cluster, member)) {
            seen.entry(&manifest.version).or_insert((member, manifest));
        }
    }
    seen.into_values().collect()
}

fn node_stack(cluster: &Cluster, member: &Member) -> Digest {
    stack_of(cluster, member).manifest
}

fn etcd_stack(cluster: &Cluster, member: &Member) -> Digest {
    etcd_of(cluster, member).manifest
}

/// One minor at a time, and never to an older one: `back` is for that.
fn minors(case: &Case<'_>) -> Vec<Finding> {
    let to = &case.to.kubernetes;
    let judged = had(case, node_stack)
        .into_iter()
        .filter_map(|(member, from)| {
            let of = &from.kubernetes;
            let minor = |v: &Version| (v.major, v.minor);
            let (why, fix) = if minor(to) < minor(of) {
                (
                    format!(
                        "node {} has Kubernetes {of}, which is newer",
                        member.node_name
                    ),
                    "roll back with: pf9-plane cluster upgrade NAME back",
                )
            } else if to.major != of.major || to.minor > of.minor + 1 {
                (
                    format!(
                        "node {} has Kubernetes {of}, and minors are not skipped",
                        member.node_name
                    ),
                    "upgrade to the minor after it first",
                )
            } else {
                return None;
            };
            let what = format!("Kubernetes {to} does not follow");
            Some(finding(
                "minor",
                Weight::Refuses,
                blocked(what, why).fix(fix),
            ))
        });
    judged.collect()
}

fn etcds(case: &Case<'_>) -> Vec<Finding> {
    let Some(to) = case.to.etcd() else {
        return Vec::new();
    };
    let masters = had(case, etcd_stack)
        .into_iter()
        .filter(|(m, _)| is_master(m));
    let judged = masters.filter_map(|(_, from)| {
        let fault = Matrix::ours().etcd_way(&from.etcd()?, &to).err()?;
        Some(finding("etcd-step", Weight::Refuses, *fault))
    });
    judged.collect()
}

fn containerds(case: &Case<'_>) -> Vec<Finding> {
    let judged = had(case, node_stack).into_iter().filter_map(|(_, from)| {
        let (from, to) = (
            from.component("containerd")?,
            case.to.component("containerd")?,
        );
        let fault = Matrix::ours().containerd_way(from, to).err()?;
        Some(finding("containerd-step", Weight::Refuses, *fault))
    });
    judged.collect()
}

/// Add-ons that stay in the cluster but are no longer managed.
fn addons_left(case: &Case<'_>) -> Vec<Finding> {
    let had = had(case, node_stack).into_iter();
    let left: BTreeSet<String> = had
        .flat_map(|(_, from)| left_behind(from, case.to))
        .collect();
    let told = left.into_iter().map(|addon| {
        let why = format!("stack {} has none", case.to.version);
        let fault = blocked(format!("add-on {addon} stays in the cluster as it is"), why)
            .fix("delete it by hand, or choose a stack that has it");
        finding(format!("addon-left/{addon}"), Weight::Warns, fault)
    });
    told.collect()
}

/// The stack and each machine it will run on.
fn machines(case: &Case<'_>) -> Vec<Finding> {
    let matrix = Matrix::ours();
    let known = match matrix.fits(case.to, &Machine::default()) {
        Fit::Refused(fault) => return vec![finding("stack", Weight::Refuses, *fault)],
        Fit::Warned(words) => {
            let what = format!("stack {}: known issues of its versions", case.to.version);
            let fault =
                blocked(what, words.join("; ")).fix("choose another stack if it concerns you");
            Some(finding("stack", Weight::Warns, fault))
        }
        Fit::Tested => None,
    };
    let members = case.cluster.members.iter();
    let judged = members.filter_map(|m| {
        let inventory = case.hosts.get(&m.host)?.inventory?;
        let mut fault = matrix.fits(case.to, &Machine::of(inventory)).refusal()?;
        fault.why = format!("host {}: {}", m.host, fault.why);
        Some(finding(
            format!("machine/{}", m.node_name),
            Weight::Refuses,
            fault,
        ))
    });
    known.into_iter().chain(judged).collect()
}

/// Hosts that are absent or unhealthy. Workers catch up; a master is waited for, which should be known before.
pub(super) fn states(cluster: &Cluster, hosts: &BTreeMap<HostId, Known<'_>>) -> Vec<Finding> {
    let members = cluster.members.iter();
    let judged = members.filter_map(|m| {
        let seen = hosts.get(&m.host).map_or(Condition::Away, |k| k.seen);
        let (why, fix) = match seen {
            Condition::Well => return None,
            Condition::Away => (
                "it has not reported lately",
                "check that its agent runs and reaches the plane",
            ),
            Condition::Unwell => (
                "it has not converged",
                "see pf9-plane cluster show, and pf9ctl status on it",
            ),
            Condition::Changing => (
                "its agent changes to another version",
                "see pf9-plane agent upgrade status",
            ),
            Condition::Resting => (
                "it is in maintenance: nothing on it is changed",
                "wait until that ends, or end it: pf9-plane host maintenance HOST end",
            ),
        };
        let (weight, then) = match is_master(m) {
            true => (Weight::Blocks, "a master is waited for"),
            false => (Weight::Warns, "it is postponed"),
        };
        let what = format!("node {} is not healthy: {then}", m.node_name);
        let id = format!("node/{}", m.node_name);
        Some(finding(id, weight, blocked(what, why).fix(fix)))
    });
    judged.collect()
}

/// The first finding that still blocks it once these ids are overruled.
pub(crate) fn stands<'a>(found: &'a [Finding], despite: &[String]) -> Option<&'a Finding> {
    found.iter().find(|f| match f.weight {
        Weight::Refuses => !(crate::mutant("gates-refused") && despite.contains(&f.id)),
        Weight::Blocks => !despite.contains(&f.id),
        Weight::Warns => false,
    })
}

/// A component with another version in the new stack.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Changed {
    component: String,
    from: Option<String>,
    to: Option<String>,
}

/// Components that a worker does not use.
const OF_MASTERS: [&str; 6] = [
    "etcd",
    "etcdctl",
    "etcdutl",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// Components that differ, and are therefore restarted.
pub(super) fn changes(from: &StackManifest, to: &StackManifest, master: bool) -> Vec<Changed> {
    let mut all: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
    for c in &from.components {
        all.entry(&c.name).or_default().0 = Some(&c.version);
    }
    for c in &to.components {
        all.entry(&c.name).or_default().1 = Some(&c.version);
    }
    let differs = all
        .into_iter()
        .filter(|(name, (from, to))| from != to && (master || !OF_MASTERS.contains(name)));
    let changed = differs.map(|(name, (from, to))| Changed {
        component: name.to_owned(),
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
    });
    changed.collect()
}

#[cfg(test)]
mod tests;

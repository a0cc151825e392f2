//! A plane that was restored from a backup taken before or during a roll: its rows name older stacks than its nodes
//! have. From then on each node's spec names the stack that the node reports: no node changes its stack because of an
//! old row. A running roll is stopped until a person decides. Pure.

use semver::Version;

use super::{Kind, State, etcd_of, is_master, member_mut, runner, stack_of};
use crate::records::{Cluster, Stack};
use pf9_hostagent::model::{
    Fault, FaultCode, HostId, NodeStatus, StackManifest, StackRef, UpgradeStage,
};

/// What a node has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Had {
    stack: StackRef,
    /// The stack of its etcd, if it is another one.
    etcd: Option<StackRef>,
}

/// What a reporting node has; `None` if nothing is installed. An error says why that cannot be adopted.
pub(crate) fn had(node: &NodeStatus, known: &[Stack]) -> Result<Option<Had>, String> {
    let (Some(stack), Some(_)) = (&node.stack, &node.installed) else {
        return Ok(None);
    };
    let moves = |stage| stage != UpgradeStage::Prepare;
    let changes = node.upgrade.as_ref();
    let changes = changes.filter(|u| moves(u.stage) && !u.state.is_over());
    if let Some(changes) = changes {
        return Err(format!(
            "skipped: it is being upgraded to stack {}; run this again when that is done",
            changes.stack.version
        ));
    }
    let Some(own) = known.iter().find(|s| s.reference == *stack) else {
        return Err(format!(
            "skipped: it has stack {}, which this plane does not have; pf9-plane stack import, then run this again",
            stack.version
        ));
    };
    let runs = node.etcd.as_ref().and_then(|e| e.version.parse().ok());
    let etcd = runs.and_then(|runs| etcd_apart(&runs, own, known));
    Ok(Some(Had {
        stack: stack.clone(),
        etcd,
    }))
}

/// The stack of an etcd that is not of the node's own stack; the newest import if several have that etcd.
fn etcd_apart(runs: &Version, own: &Stack, known: &[Stack]) -> Option<StackRef> {
    let of = |stack: &Stack| stack.content().ok().as_ref().and_then(StackManifest::etcd);
    let has = |stack: &&Stack| runner::goes_along(Some(runs.clone()), of(stack));
    if of(own).is_none() || has(&own) {
        return None;
    }
    let newest = known.iter().filter(has).max_by_key(|s| s.imported_at);
    newest.map(|s| s.reference.clone())
}

/// Adopts this for a node of the restored rows.
pub(crate) fn take(cluster: &mut Cluster, host: HostId, had: Had) {
    let usual = cluster.stack == had.stack;
    let Some(member) = member_mut(cluster, host) else {
        return;
    };
    member.stack = (!usual).then(|| had.stack.clone());
    member.etcd_stack = had.etcd.clone().filter(|_| is_master(member));
    let master = is_master(member);
    let Some(roll) = &mut cluster.roll else {
        return;
    };
    let Some(part) = roll.parts.get_mut(&host) else {
        return;
    };
    if roll.goal.kind() == Kind::Os {
        // What came before it is as unknown as what came after.
        roll.other = None;
        (part.from, part.to) = (had.stack.clone(), had.stack);
        part.recall();
        return;
    }
    if had.stack != part.from && had.stack != part.to {
        // The rows do not know where it has gone since: neither resume nor revert is possible.
        cluster.roll = None;
        return;
    }
    part.recall();
    part.node = had.stack == part.to;
    part.etcd = match (master, &had.etcd) {
        (false, _) => true,
        (true, Some(etcd)) => *etcd == part.to,
        (true, None) => part.node || !roll.etcd_moves,
    };
}

/// After the last of them: a running roll is stopped, and if all have one stack, it becomes the cluster's.
pub(crate) fn hold(cluster: &mut Cluster) {
    if let Some(roll) = cluster.roll.as_mut().filter(|r| r.is_under_way()) {
        (roll.state, roll.unready) = (State::Stopped, None);
        let what = format!("{} is stopped", roll.what());
        let why = "this plane was restored from a backup, and its records lack what it did since";
        let fix = "check which node has which stack, then resume, cancel, or go back";
        roll.why = Some(Fault::new(FaultCode::RollStopped, what, why).fix(fix));
        return;
    }
    let Some(first) = cluster.members.first() else {
        return;
    };
    let stack = stack_of(cluster, first).clone();
    let has = |m| *stack_of(cluster, m) == stack && *etcd_of(cluster, m) == stack;
    if cluster.members.iter().all(has) {
        for member in &mut cluster.members {
            (member.stack, member.etcd_stack) = (None, None);
        }
        cluster.stack = stack;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add, cluster, host, now};
    use crate::rolls::{Begin, By, Policy, begin};

    fn stack(version: &str) -> StackRef {
        StackRef {
            version: version.into(),
            ..cluster().stack
        }
    }

    fn has(version: &str, etcd: Option<&str>) -> Had {
        Had {
            stack: stack(version),
            etcd: etcd.map(stack),
        }
    }

    /// Two masters and a worker with stack 1; optionally on the way to 2.
    fn restored(begun: bool) -> Cluster {
        let mut cluster = cluster();
        add(&mut cluster, &[(1, true), (2, true), (3, false)]).expect("attach");
        if begun {
            let wanted = Begin {
                to: stack("2"),
                policy: Policy::default(),
                by: By::Operator,
                despite: Vec::new(),
            };
            begin(&mut cluster, wanted, &|a, b| a == b, now()).expect("begun");
        }
        cluster
    }

    fn stacks(cluster: &Cluster) -> Vec<(&str, &str)> {
        let of = |m| {
            let (own, etcd) = (stack_of(cluster, m), etcd_of(cluster, m));
            (own.version.as_str(), etcd.version.as_str())
        };
        cluster.members.iter().map(of).collect()
    }

    #[test]
    fn a_backup_of_before_the_roll_takes_nobody_down() {
        let mut cluster = restored(false);
        take(&mut cluster, host(1), has("2", None));
        take(&mut cluster, host(2), has("1", Some("2")));
        hold(&mut cluster);
        assert_eq!(stacks(&cluster), [("2", "2"), ("1", "2"), ("1", "1")]);
        assert_eq!(cluster.stack, stack("1"));
        for n in 2..=3 {
            take(&mut cluster, host(n), has("2", None));
        }
        hold(&mut cluster);
        assert_eq!(cluster.stack, stack("2"), "so has who comes now");
        assert!(cluster.members.iter().all(|m| m.stack.is_none()));
    }

    #[test]
    fn a_backup_of_the_midst_of_a_roll_stands_until_a_person_goes_on() {
        let mut cluster = restored(true);
        let roll = cluster.roll.as_mut().expect("roll");
        let before = roll.parts[&host(2)].roll;
        for part in roll.parts.values_mut() {
            part.told = Some(UpgradeStage::Prepare);
        }
        take(&mut cluster, host(1), has("2", None));
        take(&mut cluster, host(2), has("1", Some("2")));
        take(&mut cluster, host(3), has("1", None));
        hold(&mut cluster);
        let roll = cluster.roll.as_ref().expect("roll");
        assert_eq!(roll.state, State::Stopped);
        assert!(
            roll.why
                .as_ref()
                .is_some_and(|w| w.why.contains("restored"))
        );
        let parts = [1, 2, 3].map(|n| &roll.parts[&host(n)]);
        let done = parts.map(|p| (p.node, p.etcd));
        assert_eq!(done, [(true, true), (false, true), (false, true)]);
        assert!(parts.iter().all(|p| p.told.is_none() && !p.ready));
        assert_ne!(
            parts[1].roll, before,
            "what it says of the lost one is no answer"
        );
        assert_eq!(stacks(&cluster), [("2", "2"), ("1", "2"), ("1", "1")]);
        // At a stack these rows do not know: neither resume nor revert.
        take(&mut cluster, host(1), has("3", None));
        hold(&mut cluster);
        assert!(cluster.roll.is_none());
        assert_eq!(stacks(&cluster)[0], ("3", "3"));
    }
}

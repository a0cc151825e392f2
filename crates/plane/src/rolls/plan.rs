//! The plan of an upgrade, from the store: the stack, every node in its order, what is restarted, and what blocks it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::gates::{self, Case, Finding, Known};
use super::{Kind, Way, etcd_of, is_master, newest, runner, stack_of};
use crate::records::{Cluster, STACKS, STATUSES};
use crate::refusal::{Answer, Refusal};
use crate::store::Read;
use crate::{addons, stacks};
use pf9_hostagent::model::{Digest, FaultCode, HostId, Matrix, Role, StackManifest, StackRef};

/// A plan.
pub(super) struct Plan {
    to: StackRef,
    /// Size of its archive in bytes.
    archive: u64,
    /// Sizes of existing deltas, by the stacks that nodes have.
    deltas: BTreeMap<Digest, u64>,
    stacks: BTreeMap<Digest, StackManifest>,
    pub(super) found: Vec<Finding>,
}

/// What a node downloads for the new stack.
enum Fetched {
    /// Nothing: it has that one.
    Nothing,
    /// The delta from its present one: this many bytes.
    Delta(u64),
    /// The delta, which is still being made.
    Coming,
    /// The archive.
    Archive,
}

/// The most recently imported stack of this version; without a version, the newest possible release: of the same minor,
/// or of the next (`patch`, `minor`: only that).
pub(super) fn choose(
    rows: &impl Read,
    cluster: &Cluster,
    version: Option<&str>,
    kind: Option<&str>,
) -> Answer<StackRef> {
    let what = "the upgrade is not started";
    if let Some(version) = version {
        return stacks::choose(rows, what, Some(version));
    }
    let own = stacks::content(rows, &cluster.stack)?.kubernetes;
    let next = match kind {
        None => 0..=1,
        Some("patch") => 0..=0,
        Some("minor") => 1..=1,
        Some(_) => {
            let why = "type: use patch or minor";
            return Err(Refusal::bad(FaultCode::ClusterInvalid, what, why));
        }
    };
    let follows = |v: &semver::Version| {
        let further = v.minor.checked_sub(own.minor);
        v.major == own.major && *v > own && further.is_some_and(|n| next.contains(&n))
    };
    let all = rows.all(&STACKS)?.into_iter().filter_map(|(_, stack)| {
        let version = stack.kubernetes.parse::<semver::Version>().ok()?;
        follows(&version).then_some((version, stack.imported_at, stack.reference))
    });
    let newest = all.max_by_key(|(version, at, _)| (version.clone(), *at));
    newest.map(|(_, _, stack)| stack).ok_or_else(|| {
        let why = format!("no stack that was imported follows Kubernetes {own}");
        Refusal::conflict(FaultCode::StackUnknown, what, why)
            .fix("import one with pf9-plane stack import")
    })
}

/// Makes the plan, as far as the store knows.
pub(super) fn make(
    rows: &impl Read,
    cluster: &Cluster,
    to: &StackRef,
    now: Timestamp,
) -> Answer<Plan> {
    let row = stacks::row(rows, to)?;
    let content = stacks::content(rows, to)?;
    addons::require("the upgrade is not started", cluster, &content)?;
    let mut known = BTreeMap::new();
    for member in &cluster.members {
        for stack in [stack_of(cluster, member), etcd_of(cluster, member)] {
            if let Entry::Vacant(free) = known.entry(stack.manifest) {
                free.insert(stacks::content(rows, stack)?);
            }
        }
    }
    let mut statuses = BTreeMap::new();
    for member in &cluster.members {
        let said = rows.get(&STATUSES, &member.host.to_string())?;
        let seen = runner::seen(rows, member.host, now)?;
        statuses.insert(member.host, (seen, said));
    }
    let hosts: BTreeMap<HostId, Known<'_>> = statuses
        .iter()
        .map(|(host, (seen, said))| {
            let inventory = said.as_ref().map(|s| &s.status.inventory);
            let known = Known {
                seen: *seen,
                inventory,
            };
            (*host, known)
        })
        .collect();
    let found = gates::findings(&Case {
        cluster,
        stacks: &known,
        to: &content,
        hosts: &hosts,
    });
    known.insert(to.manifest, content);
    Ok(Plan {
        to: to.clone(),
        archive: row.archive_size,
        deltas: row
            .deltas
            .iter()
            .map(|delta| (delta.from, delta.offer.bytes))
            .collect(),
        stacks: known,
        found,
    })
}

impl Plan {
    /// What nodes with this stack download.
    fn fetched(&self, from: &StackRef, is_coming: &dyn Fn(&Digest) -> bool) -> Fetched {
        let delta = self.deltas.get(&from.manifest).copied();
        match delta.filter(|bytes| *bytes < self.archive) {
            _ if *from == self.to => Fetched::Nothing,
            Some(bytes) => Fetched::Delta(bytes),
            None if is_coming(&from.manifest) => Fetched::Coming,
            None => Fetched::Archive,
        }
    }

    /// For each stack that nodes have: their number, and what each of them downloads.
    fn transfers(&self, cluster: &Cluster, is_coming: &dyn Fn(&Digest) -> bool) -> Vec<Value> {
        let mut of: BTreeMap<Digest, (&StackRef, u64)> = BTreeMap::new();
        for member in &cluster.members {
            let from = stack_of(cluster, member);
            of.entry(from.manifest).or_insert((from, 0)).1 += 1;
        }
        let shown = of.into_values().map(|(from, nodes)| {
            let (by, bytes) = match self.fetched(from, is_coming) {
                Fetched::Nothing => ("nothing", Some(0)),
                Fetched::Delta(bytes) => ("delta", Some(bytes)),
                Fetched::Coming => ("delta-coming", None),
                Fetched::Archive => ("archive", Some(self.archive)),
            };
            json!({
                "from": from.version,
                "nodes": nodes,
                "by": by,
                "bytes": bytes,
                "archive": self.archive,
            })
        });
        shown.collect()
    }

    /// As JSON: nodes in the order of their turns. `is_coming`: the delta from a stack is being made.
    pub(super) fn json(
        &self,
        cluster: &Cluster,
        despite: &[String],
        is_coming: &dyn Fn(&Digest) -> bool,
    ) -> Value {
        let etcd = |stack: &StackRef| self.stacks.get(&stack.manifest)?.etcd();
        let to = self.stacks.get(&self.to.manifest);
        let mut members: Vec<_> = cluster.members.iter().collect();
        members.sort_by_key(|m| !is_master(m));
        let nodes = members.iter().zip(1..).map(|(member, turn): (_, usize)| {
            let from = stack_of(cluster, member);
            let restarts = match (self.stacks.get(&from.manifest), to) {
                (Some(from), Some(to)) => gates::changes(from, to, is_master(member)),
                (None, _) | (_, None) => Vec::new(),
            };
            json!({
                "turn": turn,
                "node": member.node_name,
                "host": member.host,
                "role": role(member.role),
                "zone": member.zone,
                "from": from.version,
                "to": self.to.version,
                "etcdApart": is_master(member)
                    && !runner::goes_along(etcd(etcd_of(cluster, member)), etcd(&self.to)),
                "restarts": restarts,
            })
        });
        let nodes: Vec<Value> = nodes.collect();
        json!({
            "cluster": cluster.name,
            "from": cluster.stack.version,
            "to": self.to.version,
            "kubernetes": to.map(|c| c.kubernetes.to_string()),
            "order": "every node downloads and tries it; then etcd if its version changes, one master after the \
                other; then masters, one after the other; then workers",
            "window": cluster.settings.upgrade.window,
            "nodes": nodes,
            "transfers": self.transfers(cluster, is_coming),
            "findings": self.found,
            "begins": gates::stands(&self.found, despite).is_none(),
        })
    }
}

pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Master => "master",
        Role::Worker => "worker",
        Role::None => "none",
    }
}

/// Refuses a revert with which etcd's data would not be compatible.
pub(super) fn may_go_back(rows: &impl Read, cluster: &Cluster) -> Answer<()> {
    let Some(roll) = newest(cluster, Kind::Stack).filter(|r| r.way == Way::Forward) else {
        // Refused elsewhere, with its own words.
        return Ok(());
    };
    for master in cluster.masters() {
        let now = stacks::content(rows, etcd_of(cluster, master))?.etcd();
        let then = stacks::content(rows, &roll.from)?.etcd();
        let (Some(now), Some(then)) = (now, then) else {
            continue;
        };
        if let Err(mut fault) = Matrix::ours().etcd_way(&now, &then)
            && !crate::mutant("plane-back-data")
        {
            fault.fix = "the backup that was made before the upgrade can be restored: pf9-plane cluster restore; what \
                         was written since is lost by it"
                .into();
            return Err(Refusal::new(http::StatusCode::UNPROCESSABLE_ENTITY, *fault));
        }
    }
    Ok(())
}

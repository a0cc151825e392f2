//! The clusters' etcd, as the plane observes and protects it.
//!
//! | file | holds |
//! |---|---|
//! | `seats`  | members of masters that left, until they are removed (pure) |
//! | `health` | asks members for their health through the tunnels |
//! | `leave`  | whether a master may leave: who answers, what a quorum needs, the messages |
//! | `replace` | replacing a dead master |
//! | `restore` | the cluster starts over from a snapshot on one of its masters |
//! | `places` | what each master's member is waiting for (pure), and its screen |
//!
//! Only etcd knows its members. Each master's status has the list of its etcd; the newest of them is used here
//! ([`counted`]). Without any, every host that should be a member counts as one.
//!
//! The plane changes no membership. It decides which hosts should be members and which members to remove; the masters
//! do it, one change at a time, and check again first, because they know better and later.

use super::records::{CLUSTERS, Cluster, Departed, HOSTS, STATUSES};
use super::refusal::Answer;
use super::state::Change;
use super::store::Read;
use pf9_hostagent::host::etcd::peer_url;
use pf9_hostagent::model::{HostId, HostStatus, Timestamp};

pub(super) mod health;
pub(super) mod leave;
pub(super) mod places;
pub(super) mod replace;
pub(super) mod restore;
pub(super) mod seats;

/// A member, as etcd lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// In hexadecimal digits.
    pub(super) id: String,
    /// The host id of its master; empty until it was started once.
    pub(super) name: String,
    pub(super) peer_urls: Vec<String>,
    pub(super) learner: bool,
}

/// A member, as counted for the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// Its host; none: unknown to the plane.
    pub(super) host: Option<HostId>,
    /// For people.
    pub(super) shown: String,
    pub(super) votes: bool,
    /// It belongs to a former master.
    pub(super) leaves: bool,
}

/// The members listed in a master's status.
fn listed(status: &HostStatus) -> Option<Vec<Listed>> {
    let etcd = status.node.as_ref()?.etcd.as_ref()?;
    if etcd.fault.is_some() {
        // etcd did not answer, and this list is from memory.
        return None;
    }
    let members = etcd.members.iter().map(|m| Listed {
        id: m.id.clone(),
        name: m.name.clone(),
        peer_urls: m.peer_urls.clone(),
        learner: m.learner,
    });
    let members: Vec<Listed> = members.collect();
    (!members.is_empty()).then_some(members)
}

/// The members of etcd, from the newest report of a master of this cluster; and when it was received.
fn newest(rows: &impl Read, cluster: &Cluster) -> Answer<Option<(Timestamp, Vec<Listed>)>> {
    let mut newest: Option<(Timestamp, Vec<Listed>)> = None;
    for master in cluster.masters() {
        let Some(said) = rows.get(&STATUSES, &master.host.to_string())? else {
            continue;
        };
        // Before it was attached it may have been a master of another cluster.
        let is_news = said.received_at >= master.attached_at
            && newest.as_ref().is_none_or(|(at, _)| *at < said.received_at);
        let is_ours = said.status.node.as_ref().and_then(|n| n.cluster_id) == Some(cluster.id);
        if let Some(members) = listed(&said.status)
            && is_news
            && is_ours
        {
            newest = Some((said.received_at, members));
        }
    }
    Ok(newest)
}

/// The members of a cluster's etcd that count.
pub(super) fn counted(rows: &impl Read, cluster: &Cluster) -> Answer<Vec<Counted>> {
    let listed = newest(rows, cluster)?;
    Ok(count(cluster, listed.as_ref().map(|(_, l)| l.as_slice())))
}

fn count(cluster: &Cluster, listed: Option<&[Listed]>) -> Vec<Counted> {
    let Some(listed) = listed else {
        let masters = cluster.masters().map(|m| (m.host, &m.node_name, false));
        let left = cluster.departed.iter().filter(|d| seats::is_counted(d));
        let left = left.filter(|d| !cluster.is_master(d.host));
        let left = left.map(|d| (d.host, &d.node_name, true));
        let all = masters.chain(left).map(|(host, name, leaves)| Counted {
            host: Some(host),
            shown: name.to_string(),
            votes: true,
            leaves,
        });
        return all.collect();
    };
    listed.iter().map(|l| count_one(cluster, l)).collect()
}

fn count_one(cluster: &Cluster, listed: &Listed) -> Counted {
    let host = whose(cluster, listed);
    let member = host.and_then(|h| cluster.masters().find(|m| m.host == h));
    let departed = host.and_then(|h| cluster.departed.iter().rfind(|d| d.host == h));
    let name = member.map(|m| &m.node_name);
    let name = name.or_else(|| departed.map(|d| &d.node_name));
    let unnamed = || format!("member {}", clip(&listed.id));
    let shown = match name {
        Some(name) => name.to_string(),
        None if listed.name.is_empty() => unnamed(),
        None => clip(&listed.name),
    };
    Counted {
        host,
        shown,
        votes: !listed.learner,
        leaves: member.is_none() && departed.is_some(),
    }
}

/// Which present or former master here this member belongs to.
fn whose(cluster: &Cluster, listed: &Listed) -> Option<HostId> {
    if listed.name.is_empty() {
        let at = |ip| listed.peer_urls.contains(&peer_url(ip));
        let master = cluster.masters().find(|m| at(m.ip)).map(|m| m.host);
        let seat = |d: &&Departed| d.etcd.as_ref().is_some_and(|s| at(s.ip));
        return master.or_else(|| cluster.departed.iter().rfind(seat).map(|d| d.host));
    }
    let host: HostId = listed.name.parse().ok()?;
    let is_known = cluster.is_master(host) || cluster.departed.iter().any(|d| d.host == host);
    is_known.then_some(host)
}

/// Foreign text is repeated, but only to a limited length.
fn clip(text: &str) -> String {
    const SHOWN: usize = 64;
    text.chars().take(SHOWN).collect()
}

/// A master's status may report that a member is out, or its id.
pub(super) fn heard(change: &mut Change<'_>, host: HostId, status: &HostStatus) -> Answer<()> {
    let row = change.get(&HOSTS, &host.to_string())?;
    let of = status.node.as_ref().and_then(|n| n.cluster_id);
    // Only about the cluster whose master it is and claims to be.
    let Some(id) = row.and_then(|row| row.cluster).filter(|id| of == Some(*id)) else {
        return Ok(());
    };
    let Some(mut cluster) = change.get(&CLUSTERS, &id.to_string())? else {
        return Ok(());
    };
    if !cluster.is_master(host) {
        return Ok(());
    }
    let restore = restore::heard(change, &mut cluster, host, status)?;
    let seats = listed(status).is_some_and(|listed| seats::heard(&mut cluster, &listed));
    if restore || seats {
        change.put(&CLUSTERS, &id.to_string(), &cluster)?;
        for master in cluster.masters() {
            change.touch(master.host);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::compute::tests::{add, cluster, host, now};
    use crate::records::{ReceivedStatus, tables};
    use crate::recover::tests::reports;
    use crate::store::Store;
    use pf9_hostagent::model::Role;
    use pf9_hostagent::model::{ClusterId, EtcdMemberStatus, EtcdStatus, NodeStatus};

    /// A status of a master of this cluster that lists this member, received then.
    fn says(of: Option<ClusterId>, name: &str, at: Timestamp) -> ReceivedStatus {
        let mut status = reports(1, Some((Role::Master, ClusterId::random())));
        let node: &mut NodeStatus = status.node.as_mut().expect("a node");
        node.cluster_id = of;
        node.etcd = Some(EtcdStatus {
            members: vec![EtcdMemberStatus {
                id: "beef".into(),
                name: name.into(),
                ..EtcdMemberStatus::default()
            }],
            ..EtcdStatus::default()
        });
        ReceivedStatus {
            received_at: at,
            status,
        }
    }

    /// Only reports as a master of this cluster count: before it was attached it may have been another's.
    #[test]
    fn a_status_from_another_cluster_or_before_the_attach_does_not_count() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true)]).expect("attach");
        let later = |s| now() + SignedDuration::from_secs(s);
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
        let listed = |statuses: &[(u8, ReceivedStatus)]| {
            let done: Answer<Option<String>> = store.write(|w| {
                for n in [1, 2] {
                    w.remove(&STATUSES, &host(n).to_string())?;
                }
                for (n, status) in statuses {
                    w.put(&STATUSES, &host(*n).to_string(), status)?;
                }
                let newest = newest(&*w, &c)?;
                Ok(newest.map(|(_, members)| members[0].name.clone()))
            });
            done.map_err(|r| r.fault).expect("read")
        };
        let ours = Some(c.id);
        assert_eq!(listed(&[]), None);
        assert_eq!(
            listed(&[(1, says(ours, "a", later(5)))]).as_deref(),
            Some("a")
        );
        let before = says(ours, "a", later(-1));
        assert_eq!(listed(&[(1, before)]), None, "it was no master then");
        let elsewhere = says(Some(ClusterId::random()), "a", later(5));
        assert_eq!(
            listed(&[(1, elsewhere.clone())]),
            None,
            "of another cluster"
        );
        assert_eq!(listed(&[(1, says(None, "a", later(5)))]), None);
        // It does not hide an older report from our cluster.
        let both = [(1, elsewhere), (2, says(ours, "b", later(1)))];
        assert_eq!(listed(&both).as_deref(), Some("b"));
        let both = [
            (1, says(ours, "a", later(5))),
            (2, says(ours, "b", later(1))),
        ];
        assert_eq!(listed(&both).as_deref(), Some("a"), "the newest");
    }
}

//! `pf9-plane cluster restore`: a cluster starts over from a snapshot on one of its masters.
//!
//! ```text
//! ordered ──founder: the new data are complete──► go ──every master ordered then: done, or gone──► over
//!    └──founder refuses──► still ordered: it retries, and the reason is shown
//! ```
//!
//! Nothing is stopped anywhere before the founder reports that its data are complete: the order is in the specs of all
//! masters, and every other master waits for `go`. The plane decides who and when; each master checks its peers itself
//! before it moves a byte.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::events;
use crate::guard::Person;
use crate::http::{Doc, Path};
use crate::kubeconfig;
use crate::qbert::cluster_id;
use crate::records::{CLUSTERS, Cluster, STATUSES};
use crate::refusal::{Answer, Refusal};
use crate::rolls;
use crate::state::{self, Change, Plane};
use crate::store::Read;
use crate::view;
use pf9_hostagent::model::{
    BackupsStatus, FaultCode, HostId, HostStatus, RestoreOrder, RestoreState, RestoreStatus,
    Timestamp, is_backup_name,
};

/// An operator's request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct WantedRestore {
    /// The name of a backup on the founder or in the archive, or the path of a file on the founder;
    /// absent: its newest.
    #[serde(default)]
    pub(crate) backup: Option<String>,
    /// The master that prepares the data; absent: the one with the newest backup.
    #[serde(default)]
    pub(crate) founder: Option<HostId>,
    /// The path on the founder of the key that opens it.
    #[serde(default)]
    pub(crate) recovery_key: Option<String>,
    /// The backup may be of another cluster.
    #[serde(default)]
    pub(crate) any_cluster: bool,
    /// It need not be signed by a master of this cluster.
    #[serde(default)]
    pub(crate) unsigned: bool,
}

/// A master's last report.
#[derive(Clone, Debug, Default)]
struct Said {
    /// Its newest backup.
    backup: Option<String>,
    /// Its restore.
    restore: Option<RestoreStatus>,
}

fn said(rows: &impl Read, host: HostId) -> Answer<Said> {
    let row = rows.get(&STATUSES, &host.to_string())?;
    let node = row.and_then(|row| row.status.node);
    let etcd = node.and_then(|node| node.etcd).unwrap_or_default();
    Ok(Said {
        backup: newest(etcd.backups),
        restore: etcd.restore,
    })
}

/// After the loss of a disk the archive has the only backups.
fn newest(backups: BackupsStatus) -> Option<String> {
    let last = backups.last.map(|last| last.name);
    last.or_else(|| backups.archive?.last)
}

/// Among several masters the one that reported last: a silent one prepares no data.
fn heard_last(hosts: &[HostId], rows: &impl Read) -> Answer<Option<HostId>> {
    let mut last = None;
    for host in hosts {
        if let Some(row) = rows.get(&STATUSES, &host.to_string())? {
            last = last.max(Some((row.received_at, *host)));
        }
    }
    Ok(last.map(|(_, host)| host))
}

/// The order for a request.
fn order(
    cluster: &Cluster,
    wanted: WantedRestore,
    rows: &impl Read,
    now: Timestamp,
) -> Answer<RestoreOrder> {
    let what = format!("cluster {} is not restored", cluster.name);
    let mut there = BTreeSet::new();
    for master in cluster.masters() {
        let said = rows.get(&STATUSES, &master.host.to_string())?;
        if said.is_some_and(|said| view::is_responding(&said, now)) {
            there.insert(master.host);
        }
    }
    rolls::require_at_rest(cluster, &what, &|host| there.contains(&host))?;
    if let Some(order) = &cluster.etcd_restore {
        let why = format!("restore {} is under way", order.id);
        return Err(Refusal::conflict(FaultCode::Busy, what, why)
            .fix("pf9-plane cluster restore NAME --show, or --withdraw"));
    }
    let masters: Vec<HostId> = cluster.masters().map(|m| m.host).collect();
    let mut newest: Option<(String, HostId)> = None;
    for host in masters
        .iter()
        .filter(|h| wanted.founder.is_none_or(|f| f == **h))
    {
        let has = said(rows, *host)?.backup;
        let fits = |name: &String| wanted.backup.as_ref().is_none_or(|b| b == name);
        if let Some(name) = has.filter(fits) {
            // Names sort by time.
            newest = newest.max(Some((name, *host)));
        }
    }
    // A name that is not any master's newest may be in the archive, which every master reaches.
    let second = cluster.settings.etcd_backup.archive.is_some();
    let named = wanted.backup.as_deref().is_some_and(is_backup_name);
    let anybody = match second && named {
        true => heard_last(&masters, rows)?,
        false => None,
    };
    let (snapshot, founder) = match (wanted.backup, wanted.founder, newest, anybody) {
        (Some(backup), Some(founder), _, _) => (backup, founder),
        (_, _, Some(newest), _) => newest,
        (Some(backup), None, None, Some(founder)) => (backup, founder),
        (_, _, None, _) => {
            let why = "no master reports such a backup as its newest";
            return Err(Refusal::conflict(FaultCode::EtcdRestore, what, why)
                .fix("name it and the host that has it: --backup NAME --founder HOST"));
        }
    };
    if !masters.contains(&founder) {
        let why = format!("host {founder} is not a master of it");
        return Err(Refusal::conflict(FaultCode::HostNotAttached, what, why));
    }
    Ok(RestoreOrder {
        id: Uuid::new_v4(),
        founder,
        // A lone master has no peers to wait for.
        go: masters.len() == 1,
        masters,
        snapshot,
        recovery_key: wanted.recovery_key,
        any_cluster: wanted.any_cluster,
        unsigned: wanted.unsigned,
    })
}

/// A master reports its progress. Returns what changes by it, if anything.
fn advance(cluster: &mut Cluster, host: HostId, status: &RestoreStatus) -> Option<Step> {
    let order = cluster
        .etcd_restore
        .as_mut()
        .filter(|order| order.id == status.id)?;
    if !order.go && host == order.founder && status.state == RestoreState::Ready {
        order.go = true;
        return Some(Step::Goes);
    }
    (status.state == RestoreState::Done).then_some(Step::Done)
}

/// The effect of a master's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The others may go.
    Goes,
    /// This one is done; perhaps all are.
    Done,
}

/// Whether all hosts that are still masters are done.
fn is_over(cluster: &Cluster, order: &RestoreOrder, done: impl Fn(HostId) -> bool) -> bool {
    let mut left = order
        .masters
        .iter()
        .filter(|h| cluster.masters().any(|m| m.host == **h));
    left.all(|host| done(*host))
}

/// A master's status may report that its part is done.
pub(super) fn heard(
    change: &mut Change<'_>,
    cluster: &mut Cluster,
    host: HostId,
    status: &HostStatus,
) -> Answer<bool> {
    let etcd = status.node.as_ref().and_then(|node| node.etcd.as_ref());
    let Some(restore) = etcd.and_then(|etcd| etcd.restore.as_ref()) else {
        return Ok(false);
    };
    match advance(cluster, host, restore) {
        None => return Ok(false),
        Some(Step::Goes) => {
            let words =
                "the new data of etcd are prepared; every master stops and switches to them";
            events::note(change, host, "etcd-restore", words)?;
            return Ok(true);
        }
        Some(Step::Done) => {}
    }
    let Some(order) = cluster.etcd_restore.clone() else {
        return Ok(false);
    };
    let mut done = vec![host];
    for other in order.masters.iter().filter(|h| **h != host) {
        let theirs = said(&**change, *other)?.restore;
        let is_done = |r: &RestoreStatus| r.id == order.id && r.state == RestoreState::Done;
        done.extend(theirs.filter(is_done).map(|_| *other));
    }
    if !is_over(cluster, &order, |host| done.contains(&host)) {
        return Ok(false);
    }
    tracing::warn!(cluster = %cluster.id, id = %order.id, "the cluster's etcd is restored");
    cluster.etcd_restore = None;
    Ok(true)
}

async fn begin(plane: &Arc<Plane>, cluster: Cluster, wanted: WantedRestore) -> Answer<Value> {
    let (id, name) = (cluster.id, cluster.name);
    let order = plane
        .change(move |change| {
            let mut cluster = state::cluster(&**change, id)?;
            let order = order(&cluster, wanted.clone(), &**change, change.now)?;
            let words = format!(
                "etcd of cluster {} is restored from {} by host {}{}",
                cluster.name,
                order.snapshot,
                order.founder,
                if order.unsigned {
                    ", signature not checked"
                } else {
                    ""
                }
            );
            for host in &order.masters {
                events::note(change, *host, "etcd-restore", &words)?;
            }
            cluster.etcd_restore = Some(order.clone());
            change.put(&CLUSTERS, &id.to_string(), &cluster)?;
            change.touch_cluster(&cluster);
            Ok(order)
        })
        .await?;
    tracing::warn!(cluster = name, id = %order.id, founder = %order.founder,
        snapshot = order.snapshot, unsigned = order.unsigned, "an operator restores the cluster's etcd");
    Ok(json!({"restore": order}))
}

async fn withdraw(plane: &Arc<Plane>, cluster: Cluster) -> Answer<Value> {
    let id = cluster.id;
    let withdrawn = plane
        .change(move |change| {
            let mut cluster = state::cluster(&**change, id)?;
            let withdrawn = cluster.etcd_restore.take();
            if withdrawn.is_some() {
                change.put(&CLUSTERS, &id.to_string(), &cluster)?;
                change.touch_cluster(&cluster);
            }
            Ok(withdrawn)
        })
        .await?;
    Ok(json!({"withdrawn": withdrawn}))
}

fn shown(cluster: &Cluster, rows: &impl Read) -> Answer<Value> {
    let mut masters = Vec::new();
    for master in cluster.masters() {
        let restore = said(rows, master.host)?.restore;
        masters.push(json!({
            "host": master.host,
            "name": master.node_name,
            "restore": restore,
        }));
    }
    Ok(json!({"cluster": cluster.name, "restore": cluster.etcd_restore, "masters": masters}))
}

/// `POST /clusters/{name}/restore` of the plane's own socket.
pub(crate) async fn admin_begin(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    Doc(wanted): Doc<WantedRestore>,
) -> Answer<Json<Value>> {
    let cluster = kubeconfig::find(&plane.read()?, &name)?;
    begin(&plane, cluster, wanted).await.map(Json)
}

/// `DELETE` of it.
pub(crate) async fn admin_withdraw(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
) -> Answer<Json<Value>> {
    let cluster = kubeconfig::find(&plane.read()?, &name)?;
    withdraw(&plane, cluster).await.map(Json)
}

/// `GET` of it.
pub(crate) async fn admin_show(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = kubeconfig::find(&rows, &name)?;
    shown(&cluster, &rows).map(Json)
}

/// `POST …/clusters/{uuid}/etcd/restore`.
pub(crate) async fn post(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
    Doc(wanted): Doc<WantedRestore>,
) -> Answer<Json<Value>> {
    let cluster = state::cluster(&plane.read()?, cluster_id(&id)?)?;
    begin(&plane, cluster, wanted).await.map(Json)
}

/// `DELETE` of it.
pub(crate) async fn delete(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let cluster = state::cluster(&plane.read()?, cluster_id(&id)?)?;
    withdraw(&plane, cluster).await.map(Json)
}

/// `GET` of it.
pub(crate) async fn get(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = state::cluster(&rows, cluster_id(&id)?)?;
    shown(&cluster, &rows).map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add, cluster, host};

    fn ordered(masters: &[u8]) -> Cluster {
        let mut c = cluster();
        let all: Vec<_> = masters.iter().map(|n| (*n, true)).collect();
        add(&mut c, &all).expect("attach");
        c.etcd_restore = Some(RestoreOrder {
            id: Uuid::from_u128(1),
            founder: host(1),
            masters: masters.iter().map(|n| host(*n)).collect(),
            snapshot: "s".into(),
            recovery_key: None,
            any_cluster: false,
            unsigned: false,
            go: false,
        });
        c
    }

    fn says(id: u128, state: RestoreState) -> RestoreStatus {
        RestoreStatus {
            id: Uuid::from_u128(id),
            state,
            fault: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn only_the_founder_gives_the_go_and_once() {
        let mut c = ordered(&[1, 2, 3]);
        let ready = says(1, RestoreState::Ready);
        assert_eq!(advance(&mut c, host(2), &ready), None, "not the founder");
        assert_eq!(
            advance(&mut c, host(1), &says(2, RestoreState::Ready)),
            None,
            "another one"
        );
        assert_eq!(
            advance(&mut c, host(1), &says(1, RestoreState::Asked)),
            None
        );
        assert_eq!(advance(&mut c, host(1), &ready), Some(Step::Goes));
        assert!(c.etcd_restore.as_ref().is_some_and(|order| order.go));
        assert_eq!(advance(&mut c, host(1), &ready), None);
        assert_eq!(
            advance(&mut c, host(2), &says(1, RestoreState::Done)),
            Some(Step::Done)
        );
    }

    #[test]
    fn it_is_over_when_every_master_is_done_or_gone() {
        let mut c = ordered(&[1, 2, 3]);
        let order = c.etcd_restore.clone().expect("order");
        let two = |h: HostId| h != host(3);
        assert!(!is_over(&c, &order, two));
        crate::departures::leave(&mut c, host(3), crate::compute::tests::now(), true);
        assert!(is_over(&c, &order, two));
        // A master that came later has no order.
        add(&mut c, &[(4, true)]).expect("attach");
        assert!(is_over(&c, &order, two));
    }
}

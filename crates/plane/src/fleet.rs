//! Hosts and clusters as a whole: what is known about them, and removal.

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::Value;

use super::alerts;
use super::bundles;
use super::claims;
use super::departures;
use super::etcd::{self, leave::Forced};
use super::machines::MACHINES;
use super::operations;
use super::orders;
use super::records::{
    CLUSTERS, Cluster, EVENT_IDS, EVENT_MARKS, EVENT_NEXT, EVENTS, HOSTS, Host, REMOVED, Removed,
    SPECS, STATUSES,
};
use super::refusal::{Answer, Refusal};
use super::rolls;
use super::rotation;
use super::state::{self, Change, Plane};
use super::store::Read;
use super::view::{self, Known};
use pf9_hostagent::model::{
    ClusterId, DocumentKind, Envelope, Farewell, FaultCode, HostId, HostStatus, NodeState, Role,
};

/// How long a host that was removed while it was a node may still fetch its order of removal: a machine that is off
/// gets it when it is on again, and the exception does not last for ever.
const REMOVAL_HEARD: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Everything known about one host.
pub(super) fn known(plane: &Plane, rows: &impl Read, host: Host) -> Answer<Known> {
    let id = host.id.to_string();
    Ok(Known {
        status: rows.get(&STATUSES, &id)?,
        spec: rows.get(&SPECS, &id)?,
        copy: rows.get(&MACHINES, &id)?.and_then(|m| m.copy),
        connected: plane.sessions.is_connected(host.id),
        now: pf9_hostagent::seam::clock::now(),
        host,
    })
}

/// Everything known about all hosts, in order of id.
pub(super) fn all(plane: &Plane, rows: &impl Read) -> Answer<Vec<Known>> {
    of(plane, rows, |_| true)
}

/// Everything known about some hosts, in order of id.
pub(super) fn of(
    plane: &Plane,
    rows: &impl Read,
    which: impl Fn(&Host) -> bool,
) -> Answer<Vec<Known>> {
    rows.all(&HOSTS)?
        .into_iter()
        .filter(|(_, host)| which(host))
        .map(|(_, host)| known(plane, rows, host))
        .collect()
}

/// Everything known about the nodes of a cluster.
pub(super) fn nodes_of(plane: &Plane, rows: &impl Read, cluster: &Cluster) -> Answer<Vec<Known>> {
    let mut out = Vec::new();
    for member in &cluster.members {
        if let Some(host) = rows.get(&HOSTS, &member.host.to_string())? {
            out.push(known(plane, rows, host)?);
        }
    }
    Ok(out)
}

/// Clusters, as a list of qbert's.
pub(super) fn clusters_json(
    plane: &Plane,
    rows: &impl Read,
    clusters: &[Cluster],
) -> Answer<Value> {
    let patches = rolls::patches::waiting(rows, clusters, pf9_hostagent::seam::clock::now())?;
    let mut out = Vec::new();
    for cluster in clusters {
        let nodes = nodes_of(plane, rows, cluster)?;
        let patch = patches.get(&cluster.id);
        out.push(view::cluster_json(cluster, &nodes, patch));
    }
    Ok(out.into())
}

/// Removes a host from the fleet: from its cluster, and its certificate is no longer valid; but while it is a node it
/// may fetch its order of removal. A master whose removal etcd would not survive stays, unless forced; then this
/// returns what is lost.
pub(super) async fn remove(plane: &Arc<Plane>, host: HostId, force: bool) -> Answer<Forced> {
    let row = state::host(&plane.read()?, host)?;
    let judged = match row.cluster {
        Some(id) => plane.read()?.get(&CLUSTERS, &id.to_string())?,
        // It was detached, and is trusted until it is out.
        None => etcd::leave::left(&plane.read()?, host)?,
    };
    let of = judged.as_ref().map(|c| c.id);
    let lost = match &judged {
        Some(cluster) => etcd::leave::allow(plane, cluster, &[host].into(), force).await?,
        None => None,
    };
    let told = lost.clone();
    plane
        .change(move |change| {
            if let Some(judged) = &judged {
                let cluster = etcd::leave::still(judged, &**change)?;
                etcd::leave::require_master(&cluster, &[host].into(), force)?;
                if let Some(lost) = &lost {
                    etcd::leave::audit(change, &cluster, &[host], lost)?;
                }
            }
            let row = state::host(&**change, host)?;
            if is_node(change, &row)? {
                let removed = Removed {
                    certificates: row.certificates(),
                    removed_at: change.now,
                    until: change.now + REMOVAL_HEARD,
                    // Its certificates are no longer valid: nobody would tell it that it may leave.
                    forced: true,
                };
                change.put(&REMOVED, &host.to_string(), &removed)?;
                change.touch(host);
            }
            take_out(change, &row, of)?;
            forget_old(change)
        })
        .await?;
    tracing::info!(%host, "host removed");
    Ok(told)
}

/// A host reports that it is no longer a node. True if that changes something.
pub(super) async fn left(plane: &Arc<Plane>, host: HostId) -> Answer<bool> {
    let was = plane.change(move |change| {
        let id = host.to_string();
        let removed = change.get(&REMOVED, &id)?.is_some();
        change.remove(&REMOVED, &id)?;
        match change.get(&HOSTS, &id)? {
            Some(row) => take_out(change, &row, None).map(|()| true),
            None => Ok(removed),
        }
    });
    let was = was.await?;
    if was {
        tracing::info!(%host, "host left");
    }
    Ok(was)
}

/// A host was decommissioned while nobody could tell the plane, and a person brings what its root signed then. It has
/// no role any more, so nothing is ordered from it; it is no longer enrolled.
pub(super) async fn farewell(plane: &Arc<Plane>, said: Envelope) -> Answer<HostId> {
    let host = plane.change(move |change| {
        let row = who_left(&**change, &said)?;
        take_out(change, &row, None)?;
        Ok(row.id)
    });
    let host = host.await?;
    plane.sessions.end(host, "the host left");
    tracing::info!(%host, "the farewell of a host was brought");
    Ok(host)
}

/// The host whose farewell this is; refused unless its root signed it, with the certificate that the host still has.
fn who_left(rows: &impl Read, said: &Envelope) -> Answer<Host> {
    let what = "the farewell is refused";
    let mut all = rows.all(&HOSTS)?.into_iter().map(|(_, row)| row);
    let row = all.find(|row| row.order_key.id == said.key_id);
    let row = row.ok_or_else(|| {
        let why = format!("no enrolled host has the order key {}", said.key_id);
        Refusal::missing(FaultCode::HostUnknown, what, why)
            .fix("nothing to do, if it is of this plane: the host is gone already")
    })?;
    let by_hand = format!("if that host is gone: pf9-plane host remove {}", row.id);
    let words: Answer<Farewell> = orders::open(what, DocumentKind::Farewell, said, &row.order_key);
    let words = words.map_err(|refusal| refusal.fix(by_hand.clone()))?;
    orders::said_by(what, row.id, words.schema, words.host_id)?;
    if !row.certificates().contains(&words.certificate) {
        let why = format!(
            "host {} has another certificate: it enrolled again since",
            row.id
        );
        return Err(Refusal::conflict(FaultCode::OrderReplayed, what, why).fix(by_hand));
    }
    Ok(row)
}

/// A removed host reports. True when it has followed its order: from then on it is unknown.
pub(super) async fn followed_removal(plane: &Arc<Plane>, status: HostStatus) -> Answer<bool> {
    let host = status.host_id;
    let ordered = plane.read()?.get(&SPECS, &host.to_string())?;
    let ordered = ordered.map(|s| s.generation).unwrap_or_default();
    let is_bare = status.node.as_ref().is_none_or(|n| n.role == Role::None);
    let is_done = status.state == NodeState::Ok && is_bare && status.observed_generation >= ordered;
    match is_done {
        true => left(plane, host).await,
        false => Ok(false),
    }
}

/// Whether a machine is a node, or may be: it is in a cluster, or was and has not reported otherwise.
fn is_node(change: &Change<'_>, row: &Host) -> Answer<bool> {
    let id = row.id.to_string();
    let said = change.get(&STATUSES, &id)?.map(|s| s.status);
    let ordered = change.get(&SPECS, &id)?.map(|s| s.generation);
    Ok(row.cluster.is_some()
        || said.is_some_and(|s| {
            let has_role = s.node.is_some_and(|n| n.role != Role::None);
            has_role
                || ordered.is_some_and(|o| s.observed_generation < o && s.observed_generation.0 > 0)
        }))
}

fn forget_old(change: &mut Change<'_>) -> Answer<()> {
    for (id, removed) in change.all(&REMOVED)? {
        if removed.until <= change.now {
            change.remove(&REMOVED, &id)?;
        }
    }
    Ok(())
}

fn take_out(change: &mut Change<'_>, row: &Host, of: Option<ClusterId>) -> Answer<()> {
    let (host, id) = (row.id, row.id.to_string());
    if let Some(cluster) = of.or(row.cluster) {
        leave_cluster(change, host, cluster)?;
    }
    claims::index::note(change, host, row.facts.as_ref(), None)?;
    change.remove(&HOSTS, &id)?;
    change.remove(&STATUSES, &id)?;
    change.remove(&MACHINES, &id)?;
    change.remove(&EVENT_NEXT, &id)?;
    change.remove(&EVENT_MARKS, &id)?;
    operations::forget(change, host)?;
    bundles::forget(change, host)?;
    alerts::forget_trends(change, host)?;
    let mine = format!("{id}/");
    for (key, _) in change.with_prefix(&EVENTS, &mine)? {
        change.remove(&EVENTS, &key)?;
    }
    for (key, _) in change.with_prefix(&EVENT_IDS, &mine)? {
        change.remove(&EVENT_IDS, &key)?;
    }
    // The spec stays: if the same host id comes back, its generation continues to rise.
    Ok(())
}

/// The machine is gone, or the caller was shown what the others lose.
fn leave_cluster(change: &mut Change<'_>, host: HostId, cluster: ClusterId) -> Answer<()> {
    let key = cluster.to_string();
    if let Some(mut cluster) = change.get(&CLUSTERS, &key)? {
        departures::leave(&mut cluster, host, change.now, true);
        departures::sign_revoked(&mut cluster, change.now)?;
        rolls::take_in(&mut cluster);
        rotation::advance(&mut cluster, change.now);
        change.put(&CLUSTERS, &key, &cluster)?;
        change.touch_cluster(&cluster);
    }
    Ok(())
}

//! Hosts and clusters as a whole: what is known of them, and how one leaves.

use std::sync::Arc;

use jiff::Timestamp;

use super::machines::MACHINES;
use super::records::{
    CLUSTERS, Cluster, EVENT_IDS, EVENT_NEXT, EVENTS, HOSTS, Host, SPECS, STATUSES,
};
use super::refusal::Answer;
use super::state::{Change, Plane};
use super::store::Read;
use super::view::Known;
use crate::model::{ClusterId, HostId};

/// Everything known of one host.
pub(super) fn known(plane: &Plane, rows: &impl Read, host: Host) -> Answer<Known> {
    let id = host.id.to_string();
    Ok(Known {
        status: rows.get(&STATUSES, &id)?,
        spec: rows.get(&SPECS, &id)?,
        copy: rows.get(&MACHINES, &id)?.and_then(|m| m.copy),
        connected: plane.sessions.is_connected(host.id),
        now: Timestamp::now(),
        host,
    })
}

/// Everything known of all hosts, in order of id.
pub(super) fn all(plane: &Plane, rows: &impl Read) -> Answer<Vec<Known>> {
    rows.all(&HOSTS)?
        .into_iter()
        .map(|(_, host)| known(plane, rows, host))
        .collect()
}

/// Everything known of the nodes of a cluster.
pub(super) fn nodes_of(plane: &Plane, rows: &impl Read, cluster: &Cluster) -> Answer<Vec<Known>> {
    let mut out = Vec::new();
    for member in &cluster.members {
        if let Some(host) = rows.get(&HOSTS, &member.host.to_string())? {
            out.push(known(plane, rows, host)?);
        }
    }
    Ok(out)
}

/// Takes a host out of the fleet: out of its cluster, its certificate good no more. A host that is
/// unknown has left already.
pub(super) async fn remove(plane: &Arc<Plane>, host: HostId) -> Answer<bool> {
    let was = plane.change(move |change| remove_now(change, host)).await?;
    if was {
        tracing::info!(%host, "host removed");
    }
    Ok(was)
}

fn remove_now(change: &mut Change<'_>, host: HostId) -> Answer<bool> {
    let id = host.to_string();
    let Some(row) = change.get(&HOSTS, &id)? else {
        return Ok(false);
    };
    if let Some(cluster) = row.cluster {
        leave_cluster(change, host, cluster)?;
    }
    change.remove(&HOSTS, &id)?;
    change.remove(&STATUSES, &id)?;
    change.remove(&MACHINES, &id)?;
    change.remove(&EVENT_NEXT, &id)?;
    let mine = format!("{id}/");
    for (key, _) in change.with_prefix(&EVENTS, &mine)? {
        change.remove(&EVENTS, &key)?;
    }
    for (key, _) in change.with_prefix(&EVENT_IDS, &mine)? {
        change.remove(&EVENT_IDS, &key)?;
    }
    // The spec stays: should the same host id come back, its generation goes on rising.
    Ok(true)
}

/// Unlike a detach, this cannot be refused: the machine is gone whatever becomes of the others.
fn leave_cluster(change: &mut Change<'_>, host: HostId, cluster: ClusterId) -> Answer<()> {
    let key = cluster.to_string();
    if let Some(mut cluster) = change.get(&CLUSTERS, &key)? {
        cluster.members.retain(|m| m.host != host);
        change.put(&CLUSTERS, &key, &cluster)?;
        change.touch_cluster(&cluster);
    }
    Ok(())
}

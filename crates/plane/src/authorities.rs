//! Authorities of clusters and their rotation by the administrator and the nodes: `rotation` with the store around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ca::{self, Authority as Signer};
use super::http::{Doc, Path};
use super::kubeconfig;
use super::qbert;
use super::records::{CLUSTERS, Cluster, SPECS};
use super::refusal::{Answer, Refusal};
use super::rotation::{self, Report, Rotation, Stage, Successor};
use super::state::{self, Change, Plane};
use super::store::Read;
use pf9_hostagent::model::{Authority, Digest, FaultCode, HostId, HostStatus, NodeState};

/// Longest hold with both authorities: a year is a mistake of units.
pub(super) const HOLD_MAX_S: i64 = 90 * 24 * 3600;

/// Body of `POST /clusters/{name}/authorities/rotate`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Which; empty: all.
    pub(super) authorities: BTreeSet<Authority>,
    /// How long both are trusted everywhere before the new one signs.
    pub(super) hold_s: i64,
}

/// `GET /clusters/{name}/authorities`.
pub(super) async fn show(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = kubeconfig::find(&rows, &name)?;
    json_of(&rows, &cluster).map(Json)
}

/// `POST /clusters/{name}/authorities/rotate`.
pub(super) async fn rotate(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    if !(0..=HOLD_MAX_S).contains(&wanted.hold_s) {
        let why = format!("hold_s: {} is not 0 to {HOLD_MAX_S}", wanted.hold_s);
        return Err(Refusal::bad(
            FaultCode::HoldInvalid,
            "the rotation is not started",
            why,
        ));
    }
    changed(&plane, name, move |change, cluster| {
        let now = change.now;
        let all = Authority::ALL.iter().copied().collect();
        let which = match wanted.authorities.is_empty() {
            true => all,
            false => wanted.authorities,
        };
        let mut next = BTreeMap::new();
        for which in which {
            // A subject other than the old one's: people must be able to tell them apart.
            let at = now.strftime("%Y-%m-%dT%H:%M:%SZ");
            let name = format!("{} {} {at}", cluster.name, qbert::authority_name(which));
            let (made, key) = Signer::generate(&name, now)?;
            let pem = made.pem().to_owned();
            next.insert(which, Successor { pem, key });
        }
        rotation::begin(cluster, next, wanted.hold_s, now)?;
        tracing::info!(cluster = %cluster.id, "new authorities are announced");
        Ok(())
    })
    .await
}

/// `POST /clusters/{name}/authorities/abort`.
pub(super) async fn abort(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
) -> Answer<Json<Value>> {
    changed(&plane, name, |_, cluster| {
        rotation::abort(cluster)?;
        tracing::info!(cluster = %cluster.id, "the rotation of authorities is aborted");
        Ok(())
    })
    .await
}

/// Changes a cluster's rotation, advances it as far as possible, and shows the result.
async fn changed(
    plane: &Arc<Plane>,
    name: String,
    work: impl FnOnce(&Change<'_>, &mut Cluster) -> Answer<()> + Send + 'static,
) -> Answer<Json<Value>> {
    let value = plane
        .change(move |change| {
            let mut cluster = kubeconfig::find(&**change, &name)?;
            work(change, &mut cluster)?;
            rotation::advance(&mut cluster, change.now);
            change.put(&CLUSTERS, &cluster.id.to_string(), &cluster)?;
            change.touch_cluster(&cluster);
            json_of(&**change, &cluster)
        })
        .await?;
    Ok(Json(value))
}

/// A node's status may be what a rotation waits for. For a cluster without one this reads a row.
pub(super) fn heard(change: &mut Change<'_>, host: HostId, status: &HostStatus) -> Answer<()> {
    let Some(node) = &status.node else {
        return Ok(());
    };
    let Some(mut cluster) = state::cluster_of(&**change, host)? else {
        return Ok(());
    };
    let id = cluster.id;
    if cluster.rotation.is_none() {
        return Ok(());
    }
    let issued = change.get(&SPECS, &host.to_string())?;
    let newest = issued.is_some_and(|spec| spec.generation == node.generation);
    let report = Report {
        settled: newest && node.state == NodeState::Ok && node.cluster_id == Some(id),
        certificates: &node.certificates,
    };
    let stage = |cluster: &Cluster| cluster.rotation.as_ref().map(|r| r.stage);
    let before = stage(&cluster);
    let confirmed = rotation::heard(&mut cluster, host, &report);
    let advanced = rotation::advance(&mut cluster, change.now);
    if before != stage(&cluster) {
        tracing::info!(cluster = %id, from = ?before, to = ?stage(&cluster), "rotation of authorities continues");
    }
    if confirmed || advanced {
        change.put(&CLUSTERS, &id.to_string(), &cluster)?;
    }
    if advanced {
        change.touch_cluster(&cluster);
    }
    Ok(())
}

fn json_of(rows: &impl Read, cluster: &Cluster) -> Answer<Value> {
    let one = |which: Authority, pem: &str, state: &str| {
        let der = ca::der_of(pem)?;
        Some(json!({
            "authority": which,
            "digest": Digest::of(&der),
            "name": ca::common_name(&der),
            "ends": ca::not_after(&der),
            "state": state,
        }))
    };
    let mut authorities = Vec::new();
    for which in Authority::ALL {
        let next = cluster.rotation.as_ref().and_then(|r| r.next.get(which));
        let state = if next.is_some() { "goes" } else { "in force" };
        authorities.extend(one(*which, cluster.authorities.of(*which), state));
        authorities.extend(next.and_then(|next| one(*which, &next.pem, "comes")));
    }
    let rotation = match &cluster.rotation {
        Some(rotation) => rotation_json(rows, cluster, rotation)?,
        None => Value::Null,
    };
    Ok(json!({
        "cluster": cluster.name,
        "authorities": authorities,
        "rotation": rotation,
    }))
}

fn rotation_json(rows: &impl Read, cluster: &Cluster, rotation: &Rotation) -> Answer<Value> {
    let (waits_for, later) = rotation.waited_for(cluster);
    let names = |hosts: &[HostId]| -> Vec<String> {
        let members = hosts.iter().filter_map(|host| cluster.member(*host));
        members.map(|m| m.node_name.to_string()).collect()
    };
    let mut waiting = Vec::new();
    for host in &waits_for {
        let status = rows.get(&super::records::STATUSES, &host.to_string())?;
        let node = status.as_ref().and_then(|s| s.status.node.as_ref());
        waiting.push(json!({
            "node": cluster.member(*host).map(|m| &m.node_name),
            "host": host,
            "state": node.map(|n| n.state),
            "reason": node.and_then(|n| n.reason.as_ref()).map(ToString::to_string),
            "heard_at": status.as_ref().map(|s| s.received_at),
        }));
    }
    Ok(json!({
        "stage": rotation.stage,
        "words": words(rotation),
        "given_up": rotation.back,
        "began_at": rotation.began_at,
        "hold_s": rotation.hold_s,
        "complete_since": rotation.complete_since,
        "waits_for": waiting,
        "after_them": names(&later),
    }))
}

fn words(rotation: &Rotation) -> &'static str {
    match (rotation.stage, rotation.back) {
        (Stage::Announced, false) => "every node learns to trust the new one beside the old one",
        (Stage::Announced, true) => "aborted: the old one signs again, both are trusted",
        (Stage::Signing, _) => "the new one signs: every node gets new certificates",
        (Stage::Retired, _) => "every node stops trusting the old one",
        (Stage::Old, _) => "aborted: every node stops trusting the new one",
    }
}

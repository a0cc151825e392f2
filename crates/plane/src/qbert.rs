//! The subset of qbert v4: clusters, attach, detach, nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::addons;
use super::backups;
use super::ca::Authority;
use super::claims;
use super::departures;
use super::etcd;
use super::fleet;
use super::guard::{Person, Tenant};
use super::http::{Doc, Path, Query};
use super::logins;
use super::membership::{self, Candidate};
use super::people::ProjectId;
use super::records::{AuthorityKeys, CLUSTERS, Cluster, HOSTS, Host, STATUSES, Settings};
use super::refusal::{Answer, Refusal};
use super::resmgr::host_id;
use super::rolls;
use super::rotation;
use super::settings::{self, NewCluster, Tuning};
use super::shared_address;
use super::stacks;
use super::state::{self, Change, Plane};
use super::store::Read;
use super::view;
use pf9_hostagent::model::{
    Authorities, Authority as Signer, ClusterId, FaultCode, HostId, StackRef,
};

/// Most hosts of one attach or detach.
const BATCH_MAX: usize = 1000;
/// Most clusters of a project: some operations read all clusters, so one project must not have all of them.
const CLUSTERS_MAX: usize = 200;

/// One host of an attach.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AttachHost {
    uuid: HostId,
    #[serde(default)]
    is_master: bool,
    /// Failure domain, e.g. `rack-2`: Kubernetes' zone label of the node.
    #[serde(default)]
    zone: Option<String>,
    /// The zone's region, e.g. `hamburg`: Kubernetes' region label of the node.
    #[serde(default)]
    region: Option<String>,
    /// The dead master that this one replaces.
    #[serde(default)]
    replaces: Option<HostId>,
}

/// One host of a detach.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DetachHost {
    uuid: HostId,
    /// Even if etcd loses its quorum by it.
    #[serde(default)]
    force: bool,
}

/// `GET …/clusters`.
pub(super) async fn list(
    Tenant(project): Tenant,
    State(plane): State<Arc<Plane>>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let clusters = rows.all(&CLUSTERS)?.into_iter().map(|(_, c)| c);
    let own: Vec<Cluster> = clusters.filter(|c| c.project == project).collect();
    fleet::clusters_json(&plane, &rows, &own).map(Json)
}

/// `GET …/clusters/{uuid}`.
pub(super) async fn get(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = state::cluster(&rows, cluster_id(&id)?)?;
    let nodes = fleet::nodes_of(&plane, &rows, &cluster)?;
    let patch = rolls::patches::waiting_for(&rows, &cluster, pf9_hostagent::seam::clock::now())?;
    Ok(Json(view::cluster_json(&cluster, &nodes, patch.as_ref())))
}

/// `POST …/clusters`.
pub(super) async fn create(
    Tenant(project): Tenant,
    State(plane): State<Arc<Plane>>,
    Doc(body): Doc<NewCluster>,
) -> Answer<Json<Value>> {
    let settings = body.settings()?;
    require_apart(&plane, &settings)?;
    let id = plane
        .change(move |change| {
            let mut clusters = change.all(&CLUSTERS)?;
            clusters.retain(|(_, c)| c.project == project);
            if clusters.iter().any(|(_, c)| c.name == body.name) {
                let why = format!("name: there is a cluster {:?} already", body.name);
                return Err(Refusal::conflict(
                    FaultCode::ClusterExists,
                    "cluster refused",
                    why,
                ));
            }
            if clusters.len() >= CLUSTERS_MAX {
                let why = format!("there are {CLUSTERS_MAX} already");
                return Err(Refusal::conflict(
                    FaultCode::ClustersFull,
                    "cluster refused",
                    why,
                ));
            }
            require_nobodys(&**change, &project, &settings)?;
            require_ground(&**change, &project, &settings, change.now)?;
            let stack = stacks::choose(&**change, "cluster refused", body.stack.as_deref())?;
            stacks::require_fit(&**change, &stack, [])?;
            stacks::require_new(&**change, &stack)?;
            let (authorities, keys) = make_authorities(&body.name, change)?;
            let mut cluster = Cluster {
                id: ClusterId::random(),
                project,
                name: body.name,
                created_at: change.now,
                stack,
                settings,
                authorities,
                keys,
                backup_key: backups::new_key(),
                rotation: None,
                roll: None,
                patch_blocked: None,
                members: Vec::new(),
                departed: Vec::new(),
                etcd_revoked: None,
                etcd_restore: None,
                backup_signers: Vec::new(),
            };
            require_addons("cluster refused", change, &cluster)?;
            departures::sign_revoked(&mut cluster, change.now)?;
            change.put(&CLUSTERS, &cluster.id.to_string(), &cluster)?;
            Ok(cluster.id)
        })
        .await?;
    tracing::info!(cluster = %id, "cluster created");
    Ok(Json(json!({"uuid": id})))
}

/// The masters' shared address must not belong to a host.
fn require_nobodys(rows: &impl Read, project: &ProjectId, settings: &Settings) -> Answer<()> {
    let Some(ip) = settings.master_ip.filter(|_| settings.master_vip) else {
        return Ok(());
    };
    let hosts = rows.all(&HOSTS)?;
    // Another project's machines may be on a network that nobody here reaches.
    let near = hosts.iter().map(|(_, h)| h);
    let near = near.filter(|h| h.project == *project);
    match shared_address::owner(ip, None, near) {
        None => Ok(()),
        Some(why) => {
            let why = format!("masterIp: {why}");
            Err(Refusal::conflict(
                FaultCode::AddressTaken,
                "cluster refused",
                why,
            ))
        }
    }
}

/// Nodes have to reach the plane, whatever addresses their pods have.
fn require_apart(plane: &Plane, settings: &Settings) -> Answer<()> {
    claims::require_apart("cluster refused", settings, &plane.whereabouts.grounds())
}

/// A cluster that none of the hosts could join that are free now is refused. If one could it is created, and the others are
/// refused when they are attached: what a host reaches is its own word, which keeps no other host out of a cluster.
fn require_ground(
    rows: &impl Read,
    project: &ProjectId,
    settings: &Settings,
    now: Timestamp,
) -> Answer<()> {
    let hosts = rows.all(&HOSTS)?;
    let near = hosts.iter().map(|(_, h)| h);
    let free = near.filter(|h| h.project == *project && h.cluster.is_none());
    let mut first = None;
    let mut others = 0;
    for host in free {
        let said = rows.get(&STATUSES, &host.id.to_string())?;
        let said = said.filter(|said| view::is_responding(said, now));
        let (Some(said), Some(facts)) = (said, &host.facts) else {
            continue;
        };
        let whose = format!("host {}", facts.hostname);
        let grounds = claims::grounds_before(&whose, facts, &said.status.inventory);
        let Err(refusal) = claims::require_apart("cluster refused", settings, &grounds) else {
            return Ok(());
        };
        match first {
            None => first = Some(refusal),
            Some(_) => others += 1,
        }
    }
    let Some(mut refusal) = first else {
        return Ok(());
    };
    if others > 0 {
        let more =
            format!("; {others} more of the hosts that are in no cluster could not join it either");
        refusal.fault.why.push_str(&more);
    }
    Err(refusal)
}

/// Suffix of an authority's name, after its cluster's name.
pub(super) fn authority_name(which: Signer) -> &'static str {
    match which {
        Signer::Cluster => "kubernetes-ca",
        Signer::Etcd => "etcd-ca",
        Signer::FrontProxy => "front-proxy-ca",
    }
}

fn make_authorities(name: &str, change: &Change<'_>) -> Answer<(Authorities, AuthorityKeys)> {
    let make = |which| {
        let name = format!("{name} {}", authority_name(which));
        Authority::generate(&name, change.now)
    };
    let (cluster, cluster_key) = make(Signer::Cluster)?;
    let (etcd, etcd_key) = make(Signer::Etcd)?;
    let (front_proxy, front_proxy_key) = make(Signer::FrontProxy)?;
    Ok((
        Authorities {
            cluster: cluster.pem().to_owned(),
            etcd: etcd.pem().to_owned(),
            front_proxy: front_proxy.pem().to_owned(),
        },
        AuthorityKeys {
            cluster: cluster_key,
            etcd: etcd_key,
            front_proxy: front_proxy_key,
        },
    ))
}

/// `PATCH …/clusters/{uuid}`, and `PUT` as qbert's tools have it: its nodes get the change, what is not named stays.
pub(super) async fn tune(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
    Doc(body): Doc<Tuning>,
) -> Answer<StatusCode> {
    tune_this(&plane, cluster_id(&id)?, body).await?;
    Ok(StatusCode::OK)
}

/// Changes settings of a running cluster.
pub(super) async fn tune_this(plane: &Arc<Plane>, id: ClusterId, body: Tuning) -> Answer<()> {
    if let Some(stack) = body.stack()? {
        let wanted = rolls::http::Wanted {
            to: Some(stack.to_owned()),
            ..Default::default()
        };
        return rolls::http::start(plane, id, wanted, None).await.map(drop);
    }
    plane
        .change(move |change| {
            let mut cluster = state::cluster(&**change, id)?;
            body.apply(&mut cluster.settings)?;
            require_addons("cluster refused", change, &cluster)?;
            for member in &cluster.members {
                change.touch(member.host);
            }
            change.consider(id);
            Ok(change.put(&CLUSTERS, &id.to_string(), &cluster)?)
        })
        .await?;
    tracing::info!(cluster = %id, "cluster's settings changed");
    Ok(())
}

/// `DELETE …/clusters/{uuid}`: its nodes are detached.
pub(super) async fn delete(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let id = cluster_id(&id)?;
    plane
        .change(move |change| {
            let cluster = state::cluster(&**change, id)?;
            for member in &cluster.members {
                // No member is left that could lose anything.
                set_cluster(change, member.host, None, true)?;
            }
            logins::forget_cluster(change, id)?;
            Ok(change.remove(&CLUSTERS, &id.to_string())?)
        })
        .await?;
    plane.upstreams.forget(id);
    tracing::info!(cluster = %id, "cluster deleted");
    Ok(StatusCode::OK)
}

/// `POST …/clusters/{uuid}/attach`: all or none.
pub(super) async fn attach(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
    Doc(hosts): Doc<Vec<AttachHost>>,
) -> Answer<StatusCode> {
    let id = cluster_id(&id)?;
    check_batch(hosts.len())?;
    if hosts.iter().any(|h| h.replaces.is_some() && !h.is_master) {
        let why = "replaces: only a master replaces a master (\"isMaster\": true)";
        return Err(Refusal::bad(FaultCode::NoMaster, "attach refused", why));
    }
    for host in &hosts {
        settings::check_place("zone", host.uuid, host.zone.as_deref())?;
        settings::check_place("region", host.uuid, host.region.as_deref())?;
    }
    let replaced: BTreeSet<HostId> = hosts.iter().filter_map(|h| h.replaces).collect();
    let judged = match replaced.is_empty() {
        true => None,
        false => {
            let cluster = state::cluster(&plane.read()?, id)?;
            etcd::replace::allow(&plane, &cluster, &replaced).await?;
            Some(cluster)
        }
    };
    plane
        .change(move |change| {
            let mut cluster = match &judged {
                Some(judged) => etcd::leave::still(judged, &**change)?,
                None => state::cluster(&**change, id)?,
            };
            etcd::replace::take_out(change, &mut cluster, &replaced)?;
            attach_now(change, cluster, &hosts)
        })
        .await?;
    Ok(StatusCode::OK)
}

fn attach_now(change: &mut Change<'_>, mut cluster: Cluster, hosts: &[AttachHost]) -> Answer<()> {
    let id = cluster.id;
    let mut rows = Vec::new();
    for wanted in hosts {
        let host = state::host(&**change, wanted.uuid)?;
        if host.project != cluster.project {
            return Err(state::no_host(wanted.uuid));
        }
        if let Some(other) = host.cluster.filter(|c| *c != id) {
            let what = format!(
                "host {} cannot be attached to cluster {}",
                host.id, cluster.name
            );
            let why = format!("it is in cluster {other}");
            return Err(
                Refusal::conflict(FaultCode::HostAttached, what, why).fix("detach it there first")
            );
        }
        rows.push(host);
    }
    let mut seen = Vec::new();
    for wanted in hosts {
        let said = change.get(&STATUSES, &wanted.uuid.to_string())?;
        seen.push(said.map(|s| s.status.inventory));
    }
    let candidates: Vec<Candidate<'_>> = hosts
        .iter()
        .zip(&rows)
        .zip(&seen)
        .map(|((wanted, row), seen)| Candidate {
            host: wanted.uuid,
            master: wanted.is_master,
            zone: wanted.zone.as_deref(),
            region: wanted.region.as_deref(),
            facts: row.facts.as_ref(),
            seen: seen.as_ref(),
        })
        .collect();
    let all = change.all(&HOSTS)?;
    let others = all.iter().map(|(_, h)| h);
    let project = cluster.project.clone();
    let others = others.filter(|h| h.project == project);
    let others = others.filter(|h| !hosts.iter().any(|wanted| wanted.uuid == h.id));
    membership::attach(&mut cluster, &candidates, others, change.now)?;
    let added = hosts.iter().map(|wanted| wanted.uuid);
    require_fit(change, &cluster.stack, added)?;
    require_addons("attach refused", change, &cluster)?;
    for (wanted, row) in hosts.iter().zip(&rows) {
        set_cluster(change, wanted.uuid, Some(id), false)?;
        backups::signs(&mut cluster, wanted.uuid, &row.order_key);
        tracing::info!(host = %wanted.uuid, cluster = %id, master = wanted.is_master, "host attached");
    }
    rolls::take_in(&mut cluster);
    rotation::advance(&mut cluster, change.now);
    change.put(&CLUSTERS, &id.to_string(), &cluster)?;
    change.touch_cluster(&cluster);
    Ok(())
}

/// `POST …/clusters/{uuid}/detach`: all or none. A master whose removal etcd would not survive stays, unless every
/// named master is forced; then the answer says what is lost.
pub(super) async fn detach(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
    Doc(hosts): Doc<Vec<DetachHost>>,
) -> Answer<Json<Value>> {
    let id = cluster_id(&id)?;
    check_batch(hosts.len())?;
    let cluster = state::cluster(&plane.read()?, id)?;
    let counts = |h: HostId| cluster.is_master(h) || etcd::leave::is_on_its_way(&cluster, h);
    let mut masters = hosts.iter().filter(|h| counts(h.uuid));
    let force = masters.all(|h| h.force);
    if hosts.iter().any(|h| h.force) {
        who.require_insist(&plane.read()?, &cluster.project)?;
    }
    let hosts = hosts.iter().map(|h| h.uuid).collect();
    detach_these(&plane, cluster, hosts, force).await.map(Json)
}

pub(super) async fn detach_these(
    plane: &Arc<Plane>,
    cluster: Cluster,
    hosts: Vec<HostId>,
    force: bool,
) -> Answer<Value> {
    let is_on_its_way = |h: &HostId| etcd::leave::is_on_its_way(&cluster, *h);
    if force && !hosts.is_empty() && hosts.iter().all(is_on_its_way) {
        let lost = etcd::leave::insist(plane, &cluster, hosts.clone()).await?;
        return Ok(json!({"hosts": hosts, "lost": lost}));
    }
    // What is impossible for other reasons is refused before any member is asked.
    membership::detach(
        &mut cluster.clone(),
        &hosts,
        pf9_hostagent::seam::clock::now(),
    )?;
    let leaving = hosts.iter().copied().collect();
    let lost = etcd::leave::allow(plane, &cluster, &leaving, force).await?;
    let answer = json!({"hosts": hosts, "lost": lost});
    plane
        .change(move |change| {
            let mut cluster = etcd::leave::still(&cluster, &**change)?;
            etcd::leave::require_master(&cluster, &leaving, force)?;
            membership::detach(&mut cluster, &hosts, change.now)?;
            // Without a remaining master there is no member that could lose anything.
            let forced = lost.is_some() || cluster.masters().next().is_none();
            for host in &hosts {
                set_cluster(change, *host, None, forced)?;
                tracing::info!(%host, cluster = %cluster.id, "host detached");
            }
            if let Some(lost) = &lost {
                etcd::leave::audit(change, &cluster, &hosts, lost)?;
            }
            rolls::take_in(&mut cluster);
            rotation::advance(&mut cluster, change.now);
            change.put(&CLUSTERS, &cluster.id.to_string(), &cluster)?;
            change.touch_cluster(&cluster);
            Ok(())
        })
        .await?;
    Ok(answer)
}

/// Refuses a cluster that wants add-ons which its stack does not have.
fn require_addons(what: &str, change: &Change<'_>, cluster: &Cluster) -> Answer<()> {
    addons::require(what, cluster, &stacks::content(&**change, &cluster.stack)?)
}

/// Refuses a stack that does not fit one of these hosts, as far as they have reported what they are.
fn require_fit(
    change: &Change<'_>,
    stack: &StackRef,
    hosts: impl IntoIterator<Item = HostId>,
) -> Answer<()> {
    let mut machines = Vec::new();
    for host in hosts {
        if let Some(said) = change.get(&STATUSES, &host.to_string())? {
            machines.push((host, said.status.inventory));
        }
    }
    stacks::require_fit(
        &**change,
        stack,
        machines.iter().map(|(host, m)| (*host, m)),
    )
}

/// Records a host's cluster, and whether it leaves the previous one at any price; being attached authorises it.
fn set_cluster(
    change: &mut Change<'_>,
    host: HostId,
    to: Option<ClusterId>,
    forced: bool,
) -> Answer<()> {
    let key = host.to_string();
    if let Some(mut row) = change.get(&HOSTS, &key)? {
        (row.cluster, row.forced) = (to, forced);
        row.authorised |= to.is_some();
        change.put(&HOSTS, &key, &row)?;
        change.touch(host);
    }
    Ok(())
}

/// Which nodes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodesQuery {
    /// Only of this cluster.
    #[serde(rename = "clusterUuid")]
    cluster_uuid: Option<ClusterId>,
}

/// `GET …/nodes`: every host that has the role.
pub(super) async fn nodes(
    Tenant(project): Tenant,
    State(plane): State<Arc<Plane>>,
    Query(which): Query<NodesQuery>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let clusters = rows.all(&CLUSTERS)?;
    let of = which.cluster_uuid;
    let wanted =
        |h: &Host| h.authorised && h.project == project && (of.is_none() || h.cluster == of);
    let nodes = fleet::of(&plane, &rows, wanted)?
        .into_iter()
        .map(|known| {
            let at = known.host.cluster;
            let cluster = clusters.iter().map(|(_, c)| c).find(|c| Some(c.id) == at);
            known.node_json(cluster)
        })
        .collect();
    Ok(Json(nodes))
}

/// `GET …/nodes/{uuid}`.
pub(super) async fn node(
    Tenant(project): Tenant,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let host = state::host(&rows, host_id(&id)?)?;
    if host.project != project {
        return Err(state::no_host(host.id));
    }
    let cluster = match host.cluster {
        Some(id) => Some(state::cluster(&rows, id)?),
        None => None,
    };
    Ok(Json(
        fleet::known(&plane, &rows, host)?.node_json(cluster.as_ref()),
    ))
}

pub(super) fn cluster_id(text: &str) -> Answer<ClusterId> {
    text.parse().map_err(|e: pf9_hostagent::model::BadName| {
        Refusal::bad(
            FaultCode::ClusterIdInvalid,
            "request refused",
            e.to_string(),
        )
    })
}

fn check_batch(len: usize) -> Answer<()> {
    if len <= BATCH_MAX {
        return Ok(());
    }
    let why = format!("{len} hosts, at most {BATCH_MAX} at a time");
    Err(Refusal::bad(
        FaultCode::BatchTooLarge,
        "request refused",
        why,
    ))
}

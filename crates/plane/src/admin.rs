//! The administrator's socket: what the command line asks of the running plane.
//!
//! `DIR/admin.sock`, mode 0600 in a directory of mode 0700: a process that can open it owns the state anyway.

mod client;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::addons::catalogue;
use super::agents;
use super::alerts;
use super::audit;
use super::authorities;
use super::backups;
use super::bootstrap::{ADMIN, PROJECT};
use super::bundles;
use super::etcd;
use super::fleet;
use super::hostkey;
use super::http::{Doc, Path, no_such_method, no_such_path};
use super::kubeconfig;
use super::maintenance;
use super::operations;
use super::people::{self, DEFAULT_DOMAIN, DomainId, ProjectId, find};
use super::qbert;
use super::records::{CLUSTERS, Cluster};
use super::recover;
use super::refusal::Answer;
use super::rolls;
use super::settings::Tuning;
use super::stacks;
use super::state::{self, Plane};
use super::store::Read;
use super::tokens;
use super::view;
use super::{machines, resmgr, standing, takeover};
use pf9_hostagent::model::{Envelope, HostId, MaintenanceRequest};

pub(super) use client::{ask, download};

/// Name of the socket in the state directory.
pub(super) const SOCKET: &str = "admin.sock";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    pub(super) ttl_s: i64,
    /// Name of a project of the default domain, or an id; absent: the project every plane has.
    #[serde(default)]
    pub(super) project: Option<String>,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    pub(super) path: PathBuf,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leaving {
    pub(super) hosts: Vec<HostId>,
    /// Even if etcd loses its quorum by it.
    #[serde(default)]
    pub(super) force: bool,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removing {
    /// As [`Leaving::force`].
    #[serde(default)]
    pub(super) force: bool,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reenrol {
    pub(super) host: HostId,
    pub(super) ttl_s: i64,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedDelta {
    pub(super) from: String,
    pub(super) to: String,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedKubeconfig {
    pub(super) cluster: String,
    /// Embeds a token.
    #[serde(default)]
    pub(super) long_lived: Option<kubeconfig::Keep>,
    /// The user, by id or `<domain>/<name>`; absent: the administrator.
    #[serde(default)]
    pub(super) user: Option<String>,
}

/// The caller's name in records.
pub(super) const ADMINISTRATOR: &str = "the administrator";

/// The routes.
pub(super) fn router(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/tokens", post(token))
        .route("/stacks", post(import).get(stack_list))
        .route("/stacks/delta", post(delta))
        .route(
            "/agents",
            post(agents::http::admin_import).get(agents::http::admin_list),
        )
        .route("/agents/{version}", delete(agents::http::admin_remove))
        .route("/agents/policy", post(agents::http::admin_policy))
        .route(
            "/agents/upgrade",
            get(agents::http::admin_show).post(agents::http::admin_start),
        )
        .route("/agents/upgrade/plan", post(agents::http::admin_plan))
        .route("/agents/upgrade/{verb}", post(agents::http::admin_turn))
        .route("/hosts", get(hosts))
        .route("/hosts/{id}/accept-machine", post(accept_machine))
        .route("/keys", get(takeover::list).post(takeover::step))
        .route("/hosts/allow-reenrol", post(allow_reenrol))
        .route("/hosts/farewell", post(farewell))
        .route("/hosts/{id}/remove", post(remove))
        .route(
            "/hosts/{id}/operations",
            get(operations_of).post(order_operation),
        )
        .route("/hosts/{id}/bundles", get(bundles_of).post(order_bundle))
        .route(
            "/hosts/{id}/bundles/{bundle}",
            get(fetch_bundle).delete(remove_bundle),
        )
        .route(
            "/hosts/{id}/maintenance",
            post(begin_maintenance).delete(end_maintenance),
        )
        .route("/clusters", get(clusters))
        .route("/clusters/{name}", get(cluster))
        .route("/clusters/{name}/etcd", get(etcd::places::admin))
        .route(
            "/clusters/{name}/restore",
            get(etcd::restore::admin_show)
                .post(etcd::restore::admin_begin)
                .delete(etcd::restore::admin_withdraw),
        )
        .route("/clusters/{name}/detach", post(detach))
        .route(
            "/clusters/{name}/upgrade",
            get(rolls::http::admin_show).post(rolls::http::admin_start),
        )
        .route(
            "/clusters/{name}/upgrade/plan",
            post(rolls::http::admin_plan),
        )
        .route(
            "/clusters/{name}/upgrade/{verb}",
            post(rolls::http::admin_turn),
        )
        .route(
            "/clusters/{name}/os-update",
            get(rolls::http::admin_os_show).post(rolls::http::admin_os_start),
        )
        .route(
            "/clusters/{name}/os-update/plan",
            post(rolls::http::admin_os_plan),
        )
        .route(
            "/clusters/{name}/os-update/{verb}",
            post(rolls::http::admin_os_turn),
        )
        .route("/clusters/{name}/settings", patch(cluster_settings))
        .route("/clusters/{name}/addons", get(catalogue::admin_show))
        .route(
            "/clusters/{name}/addons/{addon}",
            put(catalogue::admin_switch),
        )
        .route(
            "/clusters/{name}/backups",
            get(backups::list).post(backups::set),
        )
        .route("/clusters/{name}/backups/forget", post(backups::forget))
        .route("/clusters/{name}/authorities", get(authorities::show))
        .route(
            "/clusters/{name}/authorities/rotate",
            post(authorities::rotate),
        )
        .route(
            "/clusters/{name}/authorities/abort",
            post(authorities::abort),
        )
        .route("/kubeconfig", post(kubeconfig_for))
        .route("/kubeconfigs", get(kubeconfigs))
        .route("/kubeconfigs/{id}", delete(withdraw_kubeconfig))
        .route("/admin/reset-password", post(reset_password))
        .route("/recover", get(review).post(recover_these))
        .route("/store", get(standing::show))
        .merge(alerts::http::admin_routes())
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(&plane),
            audit::of_root,
        ))
        .with_state(plane)
}

async fn token(State(plane): State<Arc<Plane>>, Doc(wanted): Doc<NewToken>) -> Answer<Json<Value>> {
    let ca = plane.ca.digest();
    let ttl = SignedDuration::from_secs(wanted.ttl_s);
    let named = wanted.project.unwrap_or_else(|| PROJECT.to_owned());
    let token = plane
        .change(move |change| {
            let project = project_named(&**change, &named)?;
            tokens::create(change, ca, project, ttl)
        })
        .await?;
    Ok(Json(json!({"token": token.expose()})))
}

async fn import(State(plane): State<Arc<Plane>>, Doc(wanted): Doc<Import>) -> Answer<Json<Value>> {
    let stack = stacks::import(&plane, wanted.path).await?;
    Ok(Json(view::stack_json(&stack)))
}

async fn delta(
    State(plane): State<Arc<Plane>>,
    Doc(wanted): Doc<WantedDelta>,
) -> Answer<Json<Value>> {
    let made = stacks::deltas::make(&plane, &wanted.from, &wanted.to).await?;
    Ok(Json(
        json!({"bytes": made.offer.bytes, "sha256": made.offer.sha256, "archive": made.archive}),
    ))
}

async fn stack_list(State(plane): State<Arc<Plane>>) -> Answer<Json<Value>> {
    let stacks = stacks::list(&plane.read()?)?;
    Ok(Json(stacks.iter().map(view::stack_json).collect()))
}

async fn hosts(State(plane): State<Arc<Plane>>) -> Answer<Json<Value>> {
    let hosts = fleet::all(&plane, &plane.read()?)?;
    Ok(Json(hosts.iter().map(|h| h.host_json()).collect()))
}

async fn accept_machine(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Doc(wanted): Doc<machines::Accept>,
) -> Answer<Json<Value>> {
    let host = resmgr::host_id(&id)?;
    machines::accept(&plane, host, wanted).await?;
    Ok(Json(json!({"host": host})))
}

async fn reset_password(State(plane): State<Arc<Plane>>) -> Answer<Json<Value>> {
    people::reset::administrator(&plane).await?;
    Ok(Json(json!({"user": ADMIN, "file": "admin-password"})))
}

async fn allow_reenrol(
    State(plane): State<Arc<Plane>>,
    Doc(wanted): Doc<Reenrol>,
) -> Answer<Json<Value>> {
    let Reenrol { host, ttl_s } = wanted;
    let ttl = SignedDuration::from_secs(ttl_s);
    let until = plane
        .change(move |change| hostkey::allow(change, host, ttl))
        .await?;
    tracing::warn!(%host, %until, "the next enrolment of this host may bring a new key");
    Ok(Json(json!({"host": host, "until": until})))
}

async fn clusters(State(plane): State<Arc<Plane>>) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let clusters = rows.all(&CLUSTERS)?.into_iter().map(|(_, c)| c);
    let clusters: Vec<Cluster> = clusters.collect();
    fleet::clusters_json(&plane, &rows, &clusters).map(Json)
}

/// One cluster, its nodes, and the hosts whose etcd member is still to be removed.
async fn cluster(State(plane): State<Arc<Plane>>, Path(name): Path<String>) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = kubeconfig::find(&rows, &name)?;
    let nodes = fleet::nodes_of(&plane, &rows, &cluster)?;
    let patch = rolls::patches::waiting_for(&rows, &cluster, pf9_hostagent::seam::clock::now())?;
    let mut shown = view::cluster_json(&cluster, &nodes, patch.as_ref());
    let nodes: Value = nodes.iter().map(|n| n.node_json(Some(&cluster))).collect();
    let left = cluster
        .departed
        .iter()
        .filter(|d| etcd::seats::is_counted(d));
    let left = left.map(|d| json!({"host": d.host, "name": d.node_name}));
    shown["leaving"] = left.collect();
    shown["nodes"] = nodes;
    Ok(Json(shown))
}

async fn detach(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    Doc(wanted): Doc<Leaving>,
) -> Answer<Json<Value>> {
    let cluster = kubeconfig::find(&plane.read()?, &name)?;
    qbert::detach_these(&plane, cluster, wanted.hosts, wanted.force)
        .await
        .map(Json)
}

async fn remove(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Doc(wanted): Doc<Removing>,
) -> Answer<Json<Value>> {
    let host = resmgr::host_id(&id)?;
    resmgr::remove_this(&plane, host, wanted.force)
        .await
        .map(Json)
}

async fn farewell(
    State(plane): State<Arc<Plane>>,
    Doc(said): Doc<Envelope>,
) -> Answer<Json<Value>> {
    let host = fleet::farewell(&plane, said).await?;
    Ok(Json(json!({"host": host})))
}

async fn order_operation(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Doc(wanted): Doc<operations::Wanted>,
) -> Answer<Json<Value>> {
    let by = ADMINISTRATOR.to_owned();
    let host = resmgr::host_id(&id)?;
    operations::order_on(&plane, host, wanted, by)
        .await
        .map(Json)
}

async fn operations_of(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let host = state::host(&rows, resmgr::host_id(&id)?)?;
    operations::list(&rows, host.id, pf9_hostagent::seam::clock::now()).map(Json)
}

async fn bundles_of(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let host = state::host(&rows, resmgr::host_id(&id)?)?;
    bundles::list(&rows, host.id, pf9_hostagent::seam::clock::now()).map(Json)
}

async fn order_bundle(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Doc(wanted): Doc<bundles::Wanted>,
) -> Answer<Json<Value>> {
    let host = resmgr::host_id(&id)?;
    bundles::order_on(&plane, host, wanted, ADMINISTRATOR.to_owned())
        .await
        .map(Json)
}

async fn fetch_bundle(
    State(plane): State<Arc<Plane>>,
    Path((host, id)): Path<(String, String)>,
) -> Answer<Response> {
    let (host, id) = (resmgr::host_id(&host)?, bundles::bundle_id(&id)?);
    bundles::fetch_here(&plane, host, id, ADMINISTRATOR.to_owned()).await
}

async fn remove_bundle(
    State(plane): State<Arc<Plane>>,
    Path((host, id)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let (host, id) = (resmgr::host_id(&host)?, bundles::bundle_id(&id)?);
    bundles::remove_on(&plane, host, id, ADMINISTRATOR.to_owned()).await?;
    Ok(Json(Value::Null))
}

async fn begin_maintenance(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Doc(wanted): Doc<MaintenanceRequest>,
) -> Answer<Json<Value>> {
    let host = resmgr::host_id(&id)?;
    maintenance::begin_on(&plane, host, wanted).await.map(Json)
}

async fn end_maintenance(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    let host = resmgr::host_id(&id)?;
    maintenance::end_on(&plane, host).await.map(Json)
}

/// Answers with the cluster's settings after the change.
async fn cluster_settings(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    Doc(wanted): Doc<Tuning>,
) -> Answer<Json<Value>> {
    let id = kubeconfig::find(&plane.read()?, &name)?.id;
    qbert::tune_this(&plane, id, wanted).await?;
    cluster(State(plane), Path(name)).await
}

async fn kubeconfig_for(
    State(plane): State<Arc<Plane>>,
    Doc(wanted): Doc<WantedKubeconfig>,
) -> Answer<Json<Value>> {
    let text = kubeconfig::make(&plane, &wanted.cluster, wanted.long_lived, wanted.user).await?;
    Ok(Json(json!({"kubeconfig": text})))
}

/// A project by its id, or by its name in the default domain.
fn project_named(rows: &impl Read, named: &str) -> Answer<ProjectId> {
    if let Some(domain) = DomainId::of(DEFAULT_DOMAIN)
        && let Some(project) = find::project_named(rows, &domain, named)?
    {
        return Ok(project.id);
    }
    Ok(find::project(rows, named)?.id)
}

async fn kubeconfigs(State(plane): State<Arc<Plane>>) -> Answer<Json<Value>> {
    kubeconfig::list_all(&plane.read()?).map(Json)
}

async fn withdraw_kubeconfig(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    kubeconfig::withdraw_any(&plane, id).await.map(Json)
}

async fn review(State(plane): State<Arc<Plane>>) -> Answer<Json<recover::Review>> {
    recover::review(&plane, &plane.read()?).map(Json)
}

async fn recover_these(
    State(plane): State<Arc<Plane>>,
    Doc(wanted): Doc<recover::Wanted>,
) -> Answer<Json<Value>> {
    let raised = recover::recover(&plane, wanted).await?;
    let rows = raised
        .iter()
        .map(|(host, generation)| json!({"host": host, "generation": generation}));
    Ok(Json(rows.collect()))
}

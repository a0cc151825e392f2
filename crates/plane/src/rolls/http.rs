//! Rolls over HTTP: the administrator's socket with the cluster's name, qbert's API with its id; the same bodies and
//! answers for both.
//!
//! | path behind the cluster | does |
//! |---|---|
//! | `GET /upgrade`              | progress of the newest roll |
//! | `POST /upgrade/plan`        | what an upgrade would do, and what blocks it |
//! | `POST /upgrade`             | the same, and starts it |
//! | `POST /upgrade/{verb}`      | `pause`, `resume`, `cancel`, `back` |
//! | `… /os-update…`             | the same for the distributions' updates; without `back` |

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequest, Request, State as Shared};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::gates::{Finding, Weight};
use super::window::Window;
use super::{Begin, By, Kind, MaxUnavailable, Policy, asked, gates, os, plan, runner, show};
use crate::guard::Person;
use crate::http::{DOCUMENT_MAX, Doc, Path, Query, parse, read_body};
use crate::qbert::cluster_id;
use crate::records::{CLUSTERS, Cluster};
use crate::refusal::{Answer, Refusal};
use crate::state::{self, Change, Plane};
use crate::store::Read;
use crate::{kubeconfig, stacks};
use pf9_hostagent::model::{
    AfterDrain, ClusterId, Digest, DrainPolicy, FaultCode, OsOrder, OsReboot, StackRef,
};

/// Most findings that a request may overrule.
const DESPITE_MAX: usize = 200;

/// Body of `POST …/upgrade`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct Wanted {
    /// Version of the stack; absent: the newest possible one.
    pub(crate) to: Option<String>,
    pub(crate) max_unavailable: Option<MaxUnavailable>,
    /// The same as a percentage, under the name that qbert's tools use.
    pub(crate) batch_upgrade_percent: Option<u8>,
    pub(crate) drain_timeout_seconds: Option<u32>,
    pub(crate) then: Option<AfterDrain>,
    pub(crate) prove_seconds: Option<u32>,
    pub(crate) any_time: bool,
    /// A probe pod has to be Ready on each node before it is proven.
    pub(crate) probe: bool,
    /// The cluster's new maintenance window.
    pub(crate) window: Option<Window>,
    /// Ids of findings to overrule.
    pub(crate) despite: Vec<String>,
    /// Only for the distributions' updates: whether machines may be rebooted.
    pub(crate) reboot: Option<OsReboot>,
    /// Likewise: the time limit of one run of a package manager.
    pub(crate) within_seconds: Option<u32>,
}

/// Query of qbert's call.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Which {
    /// `patch` or `minor`; absent: whichever is newest.
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

impl Wanted {
    /// Options of the distributions' updates.
    fn os(&self) -> Answer<OsOrder> {
        if self.to.is_some() {
            return Err(refused(
                "to: updates of a distribution are always the newest it has",
            ));
        }
        let usual = OsOrder::default();
        let os = OsOrder {
            reboot: self.reboot.unwrap_or(usual.reboot),
            within_s: self.within_seconds.unwrap_or(usual.within_s),
        };
        match os.fault() {
            Some((_, why)) => Err(refused(&format!("withinSeconds: {why}"))),
            None => Ok(os),
        }
    }

    /// Refuses options that only the distributions' updates have.
    fn of_stack(&self) -> Answer<()> {
        match (self.reboot, self.within_seconds) {
            (None, None) => Ok(()),
            _ => Err(refused(
                "reboot, withinSeconds: only for updates of the distributions",
            )),
        }
    }

    fn policy(&self) -> Answer<Policy> {
        let percent = self.batch_upgrade_percent.map(|p| format!("{p}%"));
        let percent = percent.map(|p| p.parse::<MaxUnavailable>()).transpose();
        let percent = percent.map_err(|why| refused(&format!("batchUpgradePercent: {why}")))?;
        let usual = Policy::default();
        let drain = DrainPolicy {
            timeout_s: self.drain_timeout_seconds.unwrap_or(usual.drain.timeout_s),
            then: self.then.unwrap_or_default(),
        };
        let policy = Policy {
            max_unavailable: self.max_unavailable.or(percent).unwrap_or_default(),
            drain,
            prove_s: self.prove_seconds.unwrap_or(usual.prove_s),
            any_time: self.any_time,
            probe: self.probe,
        };
        if let Some((field, why)) = policy.fault() {
            return Err(refused(&format!("{field}: {why}")));
        }
        if self.despite.len() > DESPITE_MAX {
            return Err(refused(&format!("despite: at most {DESPITE_MAX}")));
        }
        Ok(policy)
    }
}

fn refused(why: &str) -> Refusal {
    Refusal::bad(FaultCode::ClusterInvalid, "the upgrade is not started", why)
}

/// Probe pods are of a program of the stack.
fn require_probe(rows: &impl Read, policy: &Policy, stack: &StackRef) -> Answer<()> {
    if !policy.probe || stacks::content(rows, stack)?.image(super::PROBE).is_some() {
        return Ok(());
    }
    let (version, program) = (&stack.version, super::PROBE);
    Err(refused(&format!(
        "probe: stack {version} has no image of {program}"
    )))
}

/// Gathered before the transaction: the cluster's API is not called inside one.
struct Asked {
    to: StackRef,
    found: Vec<Finding>,
}

async fn ask(
    plane: &Arc<Plane>,
    id: ClusterId,
    wanted: &Wanted,
    kind: Option<&str>,
) -> Answer<(Cluster, Asked)> {
    let rows = plane.read()?;
    let cluster = state::cluster(&rows, id)?;
    let to = plan::choose(&rows, &cluster, wanted.to.as_deref(), kind)?;
    let version = stacks::content(&rows, &to)?.kubernetes;
    drop(rows);
    let then = wanted.then.unwrap_or_default();
    let found = asked::ask(plane, &cluster, Some(&version), then).await;
    Ok((cluster, Asked { to, found }))
}

async fn plan_of(plane: &Arc<Plane>, id: ClusterId, wanted: Wanted) -> Answer<Value> {
    wanted.policy()?;
    wanted.of_stack()?;
    let (cluster, asked) = ask(plane, id, &wanted, None).await?;
    let rows = plane.read()?;
    let mut plan = plan::make(
        &rows,
        &cluster,
        &asked.to,
        pf9_hostagent::seam::clock::now(),
    )?;
    plan.found.extend(asked.found);
    let to = asked.to.manifest;
    let is_coming = |from: &Digest| plane.ahead.is_coming(from, &to);
    Ok(plan.json(&cluster, &wanted.despite, &is_coming))
}

/// Starts an upgrade of a cluster.
pub(crate) async fn start(
    plane: &Arc<Plane>,
    id: ClusterId,
    wanted: Wanted,
    kind: Option<&str>,
) -> Answer<Value> {
    let policy = wanted.policy()?;
    wanted.of_stack()?;
    // Before the findings: with a roll running they are mostly about that roll.
    let what = "the upgrade is not started";
    super::verbs::require_free(&state::cluster(&plane.read()?, id)?, what)?;
    let (_, asked) = ask(plane, id, &wanted, kind).await?;
    let shown = plane
        .change(move |change| {
            let mut cluster = state::cluster(&**change, id)?;
            require_probe(&**change, &policy, &asked.to)?;
            if let Some(window) = wanted.window {
                cluster.settings.upgrade.window = Some(window);
            }
            let begin = Begin {
                to: asked.to,
                policy,
                by: By::Operator,
                despite: wanted.despite,
            };
            begin_unless(change, &mut cluster, begin, asked.found)?;
            show::json_of(&**change, &cluster, Kind::Stack, change.now)
        })
        .await?;
    plane.ahead.poke();
    Ok(shown)
}

async fn os_plan_of(plane: &Arc<Plane>, id: ClusterId, wanted: Wanted) -> Answer<Value> {
    wanted.policy()?;
    let order = wanted.os()?;
    let cluster = state::cluster(&plane.read()?, id)?;
    let asked = asked::ask(plane, &cluster, None, wanted.then.unwrap_or_default()).await;
    let rows = plane.read()?;
    let mut plan = os::look(&rows, &cluster, &order, pf9_hostagent::seam::clock::now())?;
    plan.found.extend(asked);
    Ok(plan.json(&cluster, &order, &wanted.despite))
}

/// Starts the updates of the distributions of a cluster's nodes.
async fn os_start(plane: &Arc<Plane>, id: ClusterId, wanted: Wanted) -> Answer<Value> {
    let policy = wanted.policy()?;
    let order = wanted.os()?;
    let cluster = state::cluster(&plane.read()?, id)?;
    super::verbs::require_free(&cluster, os::WHAT)?;
    let asked = asked::ask(plane, &cluster, None, wanted.then.unwrap_or_default()).await;
    plane
        .change(move |change| {
            let mut cluster = state::cluster(&**change, id)?;
            require_probe(&**change, &policy, &cluster.stack)?;
            let mut plan = os::look(&**change, &cluster, &order, change.now)?;
            plan.found.extend(asked);
            if let Some(finding) = gates::stands(&plan.found, &wanted.despite) {
                return Err(stands(finding));
            }
            if let Some(window) = wanted.window {
                cluster.settings.upgrade.window = Some(window);
            }
            let before = cluster.roll.clone();
            let begin = os::BeginOs {
                os: order,
                policy,
                despite: wanted.despite,
            };
            os::begin(&mut cluster, begin, change.now)?;
            settle(change, &mut cluster, before.as_ref())?;
            show::json_of(&**change, &cluster, Kind::Os, change.now)
        })
        .await
}

/// The refusal for a finding.
pub(crate) fn stands(finding: &Finding) -> Refusal {
    let mut fault = finding.fault.clone();
    if finding.weight == Weight::Blocks {
        let fix = std::mem::take(&mut fault.fix);
        let known = format!("to continue anyway: --despite {}", finding.id);
        fault = fault.fix(format!("{fix}; {known}"));
    }
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, fault)
}

/// Starts a roll and stores it, unless a finding stands: the one way for operators and for patch policies. `asked`: those
/// of the cluster's API.
pub(super) fn begin_unless(
    change: &mut Change<'_>,
    cluster: &mut Cluster,
    wanted: Begin,
    asked: Vec<Finding>,
) -> Answer<()> {
    let mut plan = plan::make(&**change, cluster, &wanted.to, change.now)?;
    plan.found.extend(asked);
    if let Some(finding) = gates::stands(&plan.found, &wanted.despite) {
        return Err(stands(finding));
    }
    let before = cluster.roll.clone();
    let now = change.now;
    let same = |a: &StackRef, b: &StackRef| runner::same_etcd(&**change, a, b);
    super::begin(cluster, wanted, &same, now)?;
    settle(change, cluster, before.as_ref())
}

fn settle(
    change: &mut Change<'_>,
    cluster: &mut Cluster,
    before: Option<&super::Roll>,
) -> Answer<()> {
    runner::tell(change, cluster, before)?;
    let between = cluster.roll.clone();
    runner::goes_on(change, cluster)?;
    runner::tell(change, cluster, between.as_ref())?;
    change.put(&CLUSTERS, &cluster.id.to_string(), cluster)?;
    change.touch_cluster(cluster);
    Ok(())
}

/// A verb on the existing roll.
async fn turn(
    plane: &Arc<Plane>,
    id: ClusterId,
    kind: Kind,
    verb: String,
    wanted: Wanted,
) -> Answer<Value> {
    let policy = wanted.policy()?;
    plane
        .change(move |change| {
            let mut cluster = state::cluster(&**change, id)?;
            let before = cluster.roll.clone();
            let now = change.now;
            let same = |a: &StackRef, b: &StackRef| runner::same_etcd(&**change, a, b);
            match verb.as_str() {
                "pause" => super::pause(&mut cluster, kind)?,
                "resume" => super::resume(&mut cluster, kind)?,
                "cancel" => super::cancel(&mut cluster, kind, now)?,
                "back" if kind == Kind::Os => {
                    let (what, why) = (
                        "not rolled back",
                        "packages of a distribution cannot be rolled back",
                    );
                    return Err(Refusal::conflict(FaultCode::RollNotNow, what, why)
                        .fix("cancel it; fix on the machine what an update broke"));
                }
                "back" => {
                    plan::may_go_back(&**change, &cluster)?;
                    if let Some(roll) = super::newest(&cluster, Kind::Stack) {
                        require_probe(&**change, &policy, &roll.from)?;
                    }
                    super::back(&mut cluster, policy, &same, now)?;
                }
                _ => {
                    let why = "use pause, resume, cancel or back";
                    return Err(Refusal::missing(FaultCode::NoSuchPath, "no such verb", why));
                }
            }
            settle(change, &mut cluster, before.as_ref())?;
            show::json_of(&**change, &cluster, kind, now)
        })
        .await
}

/// Progress of the newest one of a kind.
fn shown(plane: &Plane, id: ClusterId, kind: Kind) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = state::cluster(&rows, id)?;
    show::json_of(&rows, &cluster, kind, pf9_hostagent::seam::clock::now()).map(Json)
}

/// By a cluster's name, or its id.
fn named(plane: &Plane, name: &str) -> Answer<ClusterId> {
    Ok(kubeconfig::find(&plane.read()?, name)?.id)
}

type Of<T> = (Shared<Arc<Plane>>, Path<T>);

// === the administrator's socket ===

pub(crate) async fn admin_show((Shared(plane), Path(name)): Of<String>) -> Answer<Json<Value>> {
    shown(&plane, named(&plane, &name)?, Kind::Stack)
}

pub(crate) async fn admin_start(
    (Shared(plane), Path(name)): Of<String>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    let id = named(&plane, &name)?;
    start(&plane, id, wanted, None).await.map(Json)
}

pub(crate) async fn admin_plan(
    (Shared(plane), Path(name)): Of<String>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    let id = named(&plane, &name)?;
    plan_of(&plane, id, wanted).await.map(Json)
}

pub(crate) async fn admin_turn(
    (Shared(plane), Path((name, verb))): Of<(String, String)>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    let id = named(&plane, &name)?;
    turn(&plane, id, Kind::Stack, verb, wanted).await.map(Json)
}

pub(crate) async fn admin_os_show((Shared(plane), Path(name)): Of<String>) -> Answer<Json<Value>> {
    shown(&plane, named(&plane, &name)?, Kind::Os)
}

pub(crate) async fn admin_os_start(
    (Shared(plane), Path(name)): Of<String>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    let id = named(&plane, &name)?;
    os_start(&plane, id, wanted).await.map(Json)
}

pub(crate) async fn admin_os_plan(
    (Shared(plane), Path(name)): Of<String>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    let id = named(&plane, &name)?;
    os_plan_of(&plane, id, wanted).await.map(Json)
}

pub(crate) async fn admin_os_turn(
    (Shared(plane), Path((name, verb))): Of<(String, String)>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    let id = named(&plane, &name)?;
    turn(&plane, id, Kind::Os, verb, wanted).await.map(Json)
}

// === qbert ===

/// The request's options; an absent body has none.
pub(crate) struct Told(Wanted);

impl<S: Send + Sync> FromRequest<S> for Told {
    type Rejection = Refusal;
    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let bytes = read_body(request.into_body(), DOCUMENT_MAX).await?;
        match bytes.is_empty() {
            true => Ok(Self(Wanted::default())),
            false => parse(&bytes).map(Self),
        }
    }
}

pub(crate) async fn get(
    _: Person,
    (Shared(plane), Path((_, id))): Of<(String, String)>,
) -> Answer<Json<Value>> {
    shown(&plane, cluster_id(&id)?, Kind::Stack)
}

/// Also without a body: to the newest possible stack, or of the kind in the query.
pub(crate) async fn post(
    _: Person,
    (Shared(plane), Path((_, id))): Of<(String, String)>,
    Query(kind): Query<Which>,
    Told(wanted): Told,
) -> Answer<Json<Value>> {
    let id = cluster_id(&id)?;
    start(&plane, id, wanted, kind.kind.as_deref())
        .await
        .map(Json)
}

pub(crate) async fn post_plan(
    _: Person,
    (Shared(plane), Path((_, id))): Of<(String, String)>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    plan_of(&plane, cluster_id(&id)?, wanted).await.map(Json)
}

pub(crate) async fn post_turn(
    _: Person,
    (Shared(plane), Path((_, id, verb))): Of<(String, String, String)>,
    Told(wanted): Told,
) -> Answer<Json<Value>> {
    let id = cluster_id(&id)?;
    turn(&plane, id, Kind::Stack, verb, wanted).await.map(Json)
}

pub(crate) async fn os_get(
    _: Person,
    (Shared(plane), Path((_, id))): Of<(String, String)>,
) -> Answer<Json<Value>> {
    shown(&plane, cluster_id(&id)?, Kind::Os)
}

pub(crate) async fn os_post(
    _: Person,
    (Shared(plane), Path((_, id))): Of<(String, String)>,
    Told(wanted): Told,
) -> Answer<Json<Value>> {
    os_start(&plane, cluster_id(&id)?, wanted).await.map(Json)
}

pub(crate) async fn os_post_plan(
    _: Person,
    (Shared(plane), Path((_, id))): Of<(String, String)>,
    Told(wanted): Told,
) -> Answer<Json<Value>> {
    os_plan_of(&plane, cluster_id(&id)?, wanted).await.map(Json)
}

pub(crate) async fn os_post_turn(
    _: Person,
    (Shared(plane), Path((_, id, verb))): Of<(String, String, String)>,
    Told(wanted): Told,
) -> Answer<Json<Value>> {
    let id = cluster_id(&id)?;
    turn(&plane, id, Kind::Os, verb, wanted).await.map(Json)
}

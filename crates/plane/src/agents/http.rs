//! Agents over HTTP: the administrator's socket, and resmgr's API for operators; the same bodies and answers for both.
//!
//! | path behind `/agents` | does |
//! |---|---|
//! | `GET`                   | versions in the repository |
//! | `POST`, `DELETE /{version}` | import, remove (administrator only: they name files on the plane's machine) |
//! | `GET /upgrade`          | progress of the newest roll, and why hosts do not get patches now |
//! | `POST /upgrade/plan`    | what an upgrade would do, and what blocks it |
//! | `POST /upgrade`         | the same, and starts it |
//! | `POST /upgrade/{verb}`  | `pause`, `resume`, `cancel`, `back` (of the named hosts) |
//! | `POST /policy`          | the fleet's window and patch policy |

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::response::Response;
use http::HeaderMap;
use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::engine::Look;
use super::past::kept;
use super::repository::{self, Import};
use super::{
    AgentRoll, Part, Parts, Policy, SETTINGS, THE_ROW, automatic, gates, runner, show, verbs,
};
use crate::guard::Person;
use crate::hostapi::Caller;
use crate::http::{Doc, Path};
use crate::records::HOSTS;
use crate::refusal::{Answer, Refusal};
use crate::rolls::{By, Finding, MaxUnavailable, Patches, State, Way, Window, refused_by, stands};
use crate::state::{self, Change, Plane};
use crate::store::Read;
use pf9_hostagent::host::work::brief;
use pf9_hostagent::model::document::AGENT_VERSION;
use pf9_hostagent::model::{AgentSpec, FaultCode, Generation, HostId};

/// Most hosts in one request.
const HOSTS_MAX: usize = 10_000;
const DESPITE_MAX: usize = 200;
/// Most shares of a roll.
const SHARES_MAX: usize = 20;
/// A week: longer than the usual time between versions.
const PAUSE_MAX_S: u32 = 7 * 24 * 3600;
/// A day: a package over the slowest line.
const REPORT_MAX_S: u32 = 24 * 3600;

/// Body of `POST …/upgrade`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct Wanted {
    pub(crate) to: Option<Version>,
    /// Percentages, rising.
    pub(crate) percent: Vec<u8>,
    /// Only these hosts.
    pub(crate) hosts: Vec<HostId>,
    pub(crate) pause_seconds: Option<u32>,
    pub(crate) max_unavailable: Option<MaxUnavailable>,
    pub(crate) prove_seconds: Option<u32>,
    pub(crate) report_seconds: Option<u32>,
    pub(crate) any_time: bool,
    /// The fleet's new window.
    pub(crate) window: Option<Window>,
    /// Ids of findings to overrule.
    pub(crate) despite: Vec<String>,
}

/// Body of `POST …/policy`; absent fields are unchanged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Chosen {
    pub(crate) patches: Option<Patches>,
    pub(crate) window: Option<Window>,
    /// Removes the window.
    pub(crate) always: bool,
}

/// An operator's new roll.
struct Begin {
    to: Version,
    /// Empty: all.
    hosts: Vec<HostId>,
    policy: Policy,
    despite: Vec<String>,
}

/// Hosts with what is known about them.
type Hosts = Vec<(HostId, Look)>;

const WHAT: &str = "the upgrade is not started";

fn refused(why: impl Into<String>) -> Refusal {
    Refusal::bad(FaultCode::AgentUpgradeInvalid, WHAT, why)
}

impl Wanted {
    fn policy(&self) -> Answer<Policy> {
        let usual = Policy::default();
        let shares = match (self.percent.is_empty(), self.hosts.is_empty()) {
            (true, true) => usual.shares,
            (true, false) => vec![100],
            (false, true) => self.percent.clone(),
            (false, false) => return Err(refused("percent or hosts, not both")),
        };
        let rising = shares.windows(2).all(|two| two[0] < two[1]);
        let bounded = shares.len() <= SHARES_MAX && shares.first().is_some_and(|s| *s > 0);
        if !rising || !bounded || shares.last() != Some(&100) {
            return Err(refused(
                "percent: rising numbers from 1 on, the last is 100, e.g. 10,50,100",
            ));
        }
        let policy = Policy {
            shares,
            pause_s: self.pause_seconds.unwrap_or(usual.pause_s),
            max_unavailable: self.max_unavailable.unwrap_or(usual.max_unavailable),
            prove_s: self.prove_seconds.unwrap_or(usual.prove_s),
            report_s: self.report_seconds.unwrap_or(usual.report_s),
            any_time: self.any_time,
        };
        let bounds = [
            ("pauseSeconds", policy.pause_s, 0, PAUSE_MAX_S),
            (
                "proveSeconds",
                policy.prove_s,
                *AgentSpec::PROVE_S.start(),
                *AgentSpec::PROVE_S.end(),
            ),
            (
                "reportSeconds",
                policy.report_s,
                policy.prove_s,
                REPORT_MAX_S,
            ),
        ];
        for (field, seconds, least, most) in bounds {
            if !(least..=most).contains(&seconds) {
                return Err(refused(format!(
                    "{field}: {seconds}, between {least} and {most}"
                )));
            }
        }
        for (field, len, most) in [
            ("hosts", self.hosts.len(), HOSTS_MAX),
            ("despite", self.despite.len(), DESPITE_MAX),
        ] {
            if len > most {
                return Err(refused(format!("{field}: {len} entries, at most {most}")));
            }
        }
        Ok(policy)
    }

    fn begin(self) -> Answer<Begin> {
        let policy = self.policy()?;
        Ok(Begin {
            to: self.to.ok_or_else(|| refused("to: which version"))?,
            hosts: self.hosts,
            policy,
            despite: self.despite,
        })
    }
}

/// Hosts that would take part, and findings. A host that already runs the version takes no part.
fn checked(rows: &impl Read, wanted: &Begin, now: Timestamp) -> Answer<(Hosts, Vec<Finding>)> {
    let to = &wanted.to;
    if repository::find(rows, to)?.is_none() {
        return Err(repository::unknown(WHAT, &to.to_string()));
    }
    let mut named = wanted.hosts.clone();
    for host in &named {
        state::host(rows, *host)?;
    }
    if named.is_empty() {
        named = rows.all(&HOSTS)?.into_iter().map(|(_, h)| h.id).collect();
    }
    let eyes = runner::Eyes::new(rows, now)?;
    let mut hosts = Vec::new();
    for host in named {
        let look = eyes.look(host, to)?;
        if look.running.as_ref() != Some(to) {
            hosts.push((host, look));
        }
    }
    let found = gates::findings(to, &of_plane()?, &hosts, &eyes.here());
    Ok((hosts, found))
}

/// The plane's version.
pub(super) fn of_plane() -> Answer<Version> {
    // Never fails: the build checked this text.
    AGENT_VERSION
        .parse()
        .map_err(|e: semver::Error| Refusal::internal(WHAT, &e))
}

/// Starts the checked roll and stores it.
fn begin(change: &mut Change<'_>, wanted: Begin) -> Answer<()> {
    let (before, had) = runner::load(&**change)?;
    let now = change.now;
    runner::require_free(&**change, before.as_ref(), &had, WHAT, now)?;
    let (hosts, found) = checked(&**change, &wanted, now)?;
    if let Some(finding) = stands(&found, &wanted.despite) {
        return Err(refused_by(finding));
    }
    let parts: Parts = hosts
        .into_iter()
        .filter(|(_, look)| look.unfit.is_none())
        .map(|(host, look)| (host, Part::new(look.running, wanted.to.clone())))
        .collect();
    if parts.is_empty() {
        let why = format!(
            "no host would change to {}: all run it already, or are skipped",
            wanted.to
        );
        return Err(Refusal::conflict(FaultCode::RollNotNow, WHAT, why)
            .fix("see pf9-plane agent upgrade --to VERSION --plan"));
    }
    runner::pin(change, &wanted.hosts)?;
    let mut roll = AgentRoll {
        id: uuid::Uuid::new_v4(),
        to: wanted.to,
        way: Way::Forward,
        state: State::Running,
        why: None,
        policy: wanted.policy,
        by: By::Operator,
        named: !wanted.hosts.is_empty(),
        declined: before.as_ref().and_then(AgentRoll::decided),
        despite: wanted.despite,
        began_at: now,
        ended_at: None,
        share: 0,
        passed_at: None,
        orders: before.as_ref().map_or(Generation::default(), |r| r.orders),
        log: Vec::new(),
    };
    let despite = match roll.despite.is_empty() {
        true => String::new(),
        false => format!(", despite {}", roll.despite.join(", ")),
    };
    let count = parts.len();
    roll.note(
        now,
        format!("started by an operator for {count} hosts{despite}"),
    );
    let mut all = kept(before.as_ref(), &had, roll.id, By::Operator);
    all.extend(parts);
    runner::put(change, &roll, &all)?;
    runner::goes_on(change)
}

async fn plan(plane: &Arc<Plane>, wanted: Wanted) -> Answer<Value> {
    let begin = wanted.begin()?;
    let rows = plane.read()?;
    let (hosts, found) = checked(&rows, &begin, pf9_hostagent::seam::clock::now())?;
    show::plan(
        &rows,
        &begin.to,
        &hosts,
        &begin.policy,
        &found,
        &begin.despite,
    )
}

async fn start(plane: &Arc<Plane>, wanted: Wanted) -> Answer<Value> {
    let window = wanted.window.clone();
    let wanted = wanted.begin()?;
    plane
        .change(move |change| {
            if window.is_some() {
                let mut settings = runner::settings(&**change)?;
                settings.window = window;
                change.put(&SETTINGS, THE_ROW, &settings)?;
            }
            begin(change, wanted)?;
            show::status(&**change, change.now)
        })
        .await
}

/// A verb on the existing roll.
async fn turn(plane: &Arc<Plane>, verb: String, wanted: Wanted) -> Answer<Value> {
    let mut policy = wanted.policy()?;
    let named = wanted.hosts;
    if wanted.percent.is_empty() {
        // Hosts must leave a bad version: no shares unless asked for.
        (policy.shares, policy.pause_s) = (vec![100], wanted.pause_seconds.unwrap_or_default());
    }
    plane
        .change(move |change| {
            let (mut roll, mut parts) = runner::load(&**change)?;
            let now = change.now;
            let withdrawn = match verb.as_str() {
                "pause" => verbs::pause(roll.as_mut(), now).map(|()| Vec::new())?,
                "resume" => verbs::resume(roll.as_mut(), &mut parts, now)?,
                "cancel" => verbs::cancel(roll.as_mut(), &mut parts, now)?,
                "back" => {
                    let withdrawn = verbs::back(&mut roll, &mut parts, policy, &named, now)?;
                    if !named.is_empty() {
                        runner::pin(change, &named)?;
                    }
                    withdrawn
                }
                _ => {
                    let why = "use pause, resume, cancel or back";
                    return Err(Refusal::missing(FaultCode::NoSuchPath, "no such verb", why));
                }
            };
            runner::withdraw(change, &withdrawn)?;
            if let Some(roll) = &roll {
                runner::put(change, roll, &parts)?;
            }
            runner::goes_on(change)?;
            show::status(&**change, now)
        })
        .await
}

async fn choose(plane: &Arc<Plane>, chosen: Chosen) -> Answer<Value> {
    if chosen.always && chosen.window.is_some() {
        let why = "window or always, not both";
        return Err(Refusal::bad(
            FaultCode::AgentUpgradeInvalid,
            "nothing was changed",
            why,
        ));
    }
    plane
        .change(move |change| {
            let mut settings = runner::settings(&**change)?;
            settings.patches = chosen.patches.unwrap_or(settings.patches);
            if chosen.always || chosen.window.is_some() {
                settings.window = chosen.window;
            }
            change.put(&SETTINGS, THE_ROW, &settings)?;
            tracing::info!(patches = ?settings.patches, "the fleet's policy of agents was changed");
            automatic::consider(change)?;
            show::status(&**change, change.now)
        })
        .await
}

// === hosts ===

/// A package, for a host with an order to fetch it.
pub(crate) async fn package(
    _: Caller,
    Shared(plane): Shared<Arc<Plane>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    repository::package(&plane, &digest, &headers).await
}

// === the administrator's socket ===

pub(crate) async fn admin_import(
    Shared(plane): Shared<Arc<Plane>>,
    Doc(wanted): Doc<Import>,
) -> Answer<Json<Value>> {
    repository::import(&plane, wanted).await.map(Json)
}

pub(crate) async fn admin_remove(
    Shared(plane): Shared<Arc<Plane>>,
    Path(version): Path<String>,
) -> Answer<Json<Value>> {
    repository::remove(&plane, version).await.map(Json)
}

pub(crate) async fn admin_list(Shared(plane): Shared<Arc<Plane>>) -> Answer<Json<Value>> {
    repository::list_json(&plane.read()?).map(Json)
}

pub(crate) async fn admin_show(Shared(plane): Shared<Arc<Plane>>) -> Answer<Json<Value>> {
    // Every host's report may be read for it: not on a thread that moves bytes.
    let shown = brief(move || -> Answer<Value> {
        show::status(&plane.read()?, pf9_hostagent::seam::clock::now())
    });
    let lost = |e| Refusal::internal("the upgrade of agents is not shown", &e);
    shown.await.map_err(lost)?.map(Json)
}

pub(crate) async fn admin_start(
    Shared(plane): Shared<Arc<Plane>>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    start(&plane, wanted).await.map(Json)
}

pub(crate) async fn admin_plan(
    Shared(plane): Shared<Arc<Plane>>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    plan(&plane, wanted).await.map(Json)
}

pub(crate) async fn admin_turn(
    Shared(plane): Shared<Arc<Plane>>,
    Path(verb): Path<String>,
    Doc(wanted): Doc<Wanted>,
) -> Answer<Json<Value>> {
    turn(&plane, verb, wanted).await.map(Json)
}

pub(crate) async fn admin_policy(
    Shared(plane): Shared<Arc<Plane>>,
    Doc(chosen): Doc<Chosen>,
) -> Answer<Json<Value>> {
    choose(&plane, chosen).await.map(Json)
}

// === resmgr: the same, for logged-in operators ===

pub(crate) async fn list(_: Person, plane: Shared<Arc<Plane>>) -> Answer<Json<Value>> {
    admin_list(plane).await
}

pub(crate) async fn show(_: Person, plane: Shared<Arc<Plane>>) -> Answer<Json<Value>> {
    admin_show(plane).await
}

pub(crate) async fn post(
    _: Person,
    plane: Shared<Arc<Plane>>,
    wanted: Doc<Wanted>,
) -> Answer<Json<Value>> {
    admin_start(plane, wanted).await
}

pub(crate) async fn post_plan(
    _: Person,
    plane: Shared<Arc<Plane>>,
    wanted: Doc<Wanted>,
) -> Answer<Json<Value>> {
    admin_plan(plane, wanted).await
}

pub(crate) async fn post_turn(
    _: Person,
    plane: Shared<Arc<Plane>>,
    verb: Path<String>,
    wanted: Doc<Wanted>,
) -> Answer<Json<Value>> {
    admin_turn(plane, verb, wanted).await
}

pub(crate) async fn post_policy(
    _: Person,
    plane: Shared<Arc<Plane>>,
    chosen: Doc<Chosen>,
) -> Answer<Json<Value>> {
    admin_policy(plane, chosen).await
}

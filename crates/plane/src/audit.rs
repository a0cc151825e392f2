//! The audit: every request that may have changed something is stored as the log has it, for those who may see it.
//!
//! ```text
//! guard, administrator's socket ─► Asked ─► answered ─► row, with other waiting rows, in one change
//!                                    └── cut off ─► row without an answer, with the next one
//! ```
//!
//! An answer is sent when its row is on disk. Rows belong to the project of the thing, or to the plane; each keeps the
//! newest [`KEPT`], so a busy project displaces only its own. What is done inside a cluster through its own API is in
//! that API's audit, and in the log here: one `kubectl apply` would displace a month of everything else.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::{Action, Role};
use super::admin::ADMINISTRATOR;
use super::guard::{Person, Who};
use super::http::Query;
use super::people::ProjectId;
use super::records::{CLUSTERS, Cluster, HOSTS};
use super::refusal::{Answer, Refusal};
use super::state::{Change, Plane};
use super::store::{Page, Read, Rows};
use super::trace::Trace;
use pf9_hostagent::model::FaultCode;

/// By number, ascending.
const AUDIT: Rows<Row> = Rows::new("audit");
/// Numbers of a project's rows, by `<project>/<count before it>`.
const OF: Rows<u64> = Rows::new("audit-of");
/// Rows that a project had so far; [`ALL`]: all together.
const NEXT: Rows<u64> = Rows::new("audit-next");
/// Their tables.
pub(super) const TABLES: [&str; 3] = ["audit", "audit-of", "audit-next"];
/// Kept per project, and for the plane: months of a team, and half a megabyte.
const KEPT: u64 = 2000;
/// Most rows waiting for the disk: those being answered, and room for some that were interrupted; two megabytes.
const WAITING_MAX: usize = 4096;
/// Rows without a project are the plane's. No project has this name.
const PLANES: &str = "-";
const ALL: &str = "*";
/// Longest path that is kept, in characters.
const PATH_MAX: usize = 300;
/// Default and largest page of a list.
const LIMIT: usize = 50;
const LIMIT_MAX: usize = 500;
/// The action of root on the plane's machine, through its socket.
const ADMINISTER: &str = "administer";

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    at: Timestamp,
    who: String,
    /// The user's id; none for root on the plane's machine.
    user: Option<String>,
    /// Which of the user's tokens.
    token: Option<String>,
    action: String,
    method: String,
    path: String,
    /// `None`: the client was gone before the answer.
    status: Option<u16>,
    trace: Option<String>,
    project: Option<ProjectId>,
}

/// Rows waiting for the disk: of requests being answered, and of some that were interrupted.
#[derive(Default)]
pub(super) struct Ledger {
    waiting: Mutex<Vec<Row>>,
    turn: tokio::sync::Mutex<()>,
}

impl Ledger {
    fn add(&self, row: Row) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // The log has each; requests that are broken off must not fill memory here.
        if waiting.len() < WAITING_MAX {
            waiting.push(row);
        }
    }

    fn take(&self) -> Vec<Row> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut waiting)
    }
}

/// A request in progress. Dropped without an answer, it is stored as one without.
pub(super) struct Asked {
    plane: Arc<Plane>,
    row: Option<Row>,
    /// Only in the log.
    log_only: bool,
}

impl Asked {
    /// By a user, about something of this project.
    pub(super) fn by(
        plane: &Arc<Plane>,
        who: &Who,
        action: Action,
        project: Option<ProjectId>,
        (prefix, request): (&str, &Request),
    ) -> Self {
        Self::begun(
            plane,
            Row {
                user: Some(who.user.id.as_str().to_owned()),
                token: Some(who.mark().to_owned()),
                ..row(who.name(), action.word(), project, (prefix, request))
            },
            action == Action::UseKubernetes,
        )
    }

    /// A command of the page's terminal: a person typed it, so it is kept, unlike what other clients ask a cluster's
    /// API. Kept whole, because its end may be what matters; `terminal` refuses those that are too long for it.
    pub(super) fn ran(plane: &Arc<Plane>, who: &Who, cluster: &Cluster, did: &str) -> Self {
        let row = Row {
            at: pf9_hostagent::seam::clock::now(),
            who: who.name(),
            user: Some(who.user.id.as_str().to_owned()),
            token: Some(who.mark().to_owned()),
            action: Action::UseKubernetes.word().to_owned(),
            method: "RUN".to_owned(),
            path: format!("{}: {did}", cluster.name),
            status: None,
            trace: None,
            project: Some(cluster.project.clone()),
        };
        Self::begun(plane, row, false)
    }

    fn begun(plane: &Arc<Plane>, row: Row, log_only: bool) -> Self {
        Self {
            plane: Arc::clone(plane),
            row: Some(row),
            log_only,
        }
    }

    /// It is answered: stored before the answer is sent.
    pub(super) async fn answered(mut self, status: u16) {
        let plane = Arc::clone(&self.plane);
        if let Some(row) = &mut self.row {
            row.status = Some(status);
        }
        drop(self);
        write(&plane).await;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(row) = self.row.take() else { return };
        let Row {
            who,
            user,
            token,
            action,
            method,
            path,
            status,
            trace,
            ..
        } = &row;
        tracing::info!(
            who, user, token, action, method, path, status, trace, "asked"
        );
        if !self.log_only {
            self.plane.audit.add(row);
        }
    }
}

fn row(
    who: String,
    action: &str,
    project: Option<ProjectId>,
    (prefix, request): (&str, &Request),
) -> Row {
    let path = prefix.chars().chain(request.uri().path().chars());
    let trace = request.extensions().get::<Trace>();
    Row {
        at: pf9_hostagent::seam::clock::now(),
        who,
        user: None,
        token: None,
        action: action.to_owned(),
        method: request.method().to_string(),
        path: path.take(PATH_MAX).collect(),
        status: None,
        trace: trace.map(|t| t.entry().1),
        project,
    }
}

/// Layer of the administrator's socket.
pub(super) async fn of_root(
    State(plane): State<Arc<Plane>>,
    request: Request,
    next: Next,
) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    // Looked up first: a removed thing belongs to no project afterwards.
    let project = project_of(&plane, request.uri().path()).unwrap_or_default();
    let who = ADMINISTRATOR.to_owned();
    let row = row(who, ADMINISTER, project, ("", &request));
    let asked = Asked::begun(&plane, row, false);
    let response = next.run(request).await;
    asked.answered(response.status().as_u16()).await;
    response
}

/// The project of a path of the administrator's.
fn project_of(plane: &Plane, path: &str) -> Answer<Option<ProjectId>> {
    let mut parts = path.split('/').skip(1);
    let rows = plane.read()?;
    Ok(match (parts.next(), parts.next()) {
        (Some("hosts"), Some(id)) => rows.get(&HOSTS, id)?.map(|h| h.project),
        (Some("clusters"), Some(name)) => {
            let all = rows.all(&CLUSTERS)?.into_iter();
            let mut named = all.filter(|(id, c)| id == name || c.name == name);
            named.next().map(|(_, c)| c.project)
        }
        (_, _) => None,
    })
}

/// The holder of the turn writes the others' rows too; the next one finds nothing left to do.
async fn write(plane: &Arc<Plane>) {
    let _turn = plane.audit.turn.lock().await;
    let rows = plane.audit.take();
    if rows.is_empty() {
        return;
    }
    let kept = plane.change(move |change| {
        for row in &rows {
            keep(change, row)?;
        }
        Ok(())
    });
    if let Err(refusal) = kept.await {
        // The log has them.
        tracing::warn!("a request is not in the audit: {}", refusal.fault);
    }
}

fn keep(change: &mut Change<'_>, row: &Row) -> Answer<()> {
    let whose = row.project.as_ref().map_or(PLANES, ProjectId::as_str);
    let number = change.get(&NEXT, ALL)?.unwrap_or(0);
    let before = change.get(&NEXT, whose)?.unwrap_or(0);
    change.put(&AUDIT, &at(number), row)?;
    change.put(&OF, &of(whose, before), &number)?;
    change.put(&NEXT, ALL, &(number + 1))?;
    change.put(&NEXT, whose, &(before + 1))?;
    let Some(old) = before.checked_sub(KEPT).map(|old| of(whose, old)) else {
        return Ok(());
    };
    if let Some(number) = change.get(&OF, &old)? {
        change.remove(&AUDIT, &at(number))?;
        change.remove(&OF, &old)?;
    }
    Ok(())
}

/// Zero-padded, so that text order is number order.
fn at(number: u64) -> String {
    format!("{number:020}")
}

fn of(whose: &str, before: u64) -> String {
    format!("{whose}/{before:020}")
}

/// Paging of a list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    limit: Option<usize>,
    /// As given by the previous page.
    #[serde(rename = "continue")]
    beyond: Option<u64>,
}

/// Rows of a project, or all; the newest first.
fn list(rows: &impl Read, project: Option<&ProjectId>, which: &Which) -> Answer<Value> {
    let limit = which.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let why = format!("limit is {limit}, 1 to {LIMIT_MAX} are allowed");
        return Err(Refusal::bad(FaultCode::QueryInvalid, "list refused", why));
    }
    let prefix = project.map_or_else(String::new, |id| format!("{}/", id.as_str()));
    let beyond = which.beyond.map(|n| format!("{prefix}{}", at(n)));
    let page = Page {
        prefix: &prefix,
        beyond: beyond.as_deref(),
        backwards: true,
        // One more shows whether there is a next page.
        most: limit + 1,
    };
    let mut found: Vec<(String, Row)> = Vec::new();
    match project {
        None => found = rows.page(&AUDIT, page)?,
        Some(_) => {
            for (key, number) in rows.page(&OF, page)? {
                let row = rows.get(&AUDIT, &at(number))?;
                found.extend(row.map(|row| (key, row)));
            }
        }
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().filter(|_| more);
    let next = last.and_then(|(key, _)| key.rsplit('/').next()?.parse::<u64>().ok());
    Ok(json!({
        "entries": found.iter().map(|(_, row)| shown(row)).collect::<Vec<_>>(),
        "continue": next,
    }))
}

fn shown(row: &Row) -> Value {
    let action = Action::named(&row.action);
    json!({
        "at": row.at,
        "who": row.who,
        "user": row.user,
        "token": row.token,
        "action": row.action,
        "says": action.map_or("by root of the plane's machine", Action::says),
        "method": row.method,
        "path": row.path,
        "status": row.status,
        "outcome": match row.status {
            None => "cut off",
            Some(0..=399) => "done",
            Some(400..=499) => "refused",
            Some(_) => "failed",
        },
        "trace": row.trace,
        "project": row.project,
    })
}

/// `GET /audit/v1/entries?limit=&continue=`: of the token's project; with a plane-wide role, of all.
pub(super) async fn get(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Query(which): Query<Which>,
) -> Answer<Json<Value>> {
    // Rows that were interrupted are written now.
    write(&plane).await;
    let own = who.rights.project.as_ref().map(|(id, _)| id);
    let project = match who.rights.plane {
        Some(Role::Admin) => None,
        Some(Role::Reader | Role::Member) | None => {
            let nobodys = || {
                Refusal::missing(
                    FaultCode::NotFound,
                    "audit refused",
                    "the token is for no project",
                )
            };
            Some(own.ok_or_else(nobodys)?)
        }
    };
    list(&plane.read()?, project, &which).map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tables;
    use crate::store::Store;

    fn project(n: u8) -> ProjectId {
        ProjectId::of(&format!("p{n}")).expect("id")
    }

    fn row(n: u64, project: Option<ProjectId>) -> Row {
        Row {
            at: Timestamp::UNIX_EPOCH,
            who: "default/somebody".to_owned(),
            user: None,
            token: None,
            action: Action::OperateHosts.word().to_owned(),
            method: "POST".to_owned(),
            path: format!("/{n}"),
            status: Some(200),
            trace: None,
            project,
        }
    }

    #[test]
    fn interrupted_requests_fill_no_memory() {
        let ledger = Ledger::default();
        for n in 0..WAITING_MAX as u64 + 10 {
            ledger.add(row(n, None));
        }
        assert_eq!(ledger.take().len(), WAITING_MAX);
        assert_eq!(ledger.take().len(), 0);
    }

    struct World {
        store: Store,
        _dir: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
            Self { store, _dir: dir }
        }

        fn keep(&self, rows: impl IntoIterator<Item = Row>) {
            let kept: Answer<()> = self.store.write(|w| {
                let mut change = Change::new(w, Timestamp::UNIX_EPOCH);
                rows.into_iter().try_for_each(|row| keep(&mut change, &row))
            });
            kept.expect("kept");
        }

        /// Paths, and where the next page begins.
        fn page(
            &self,
            of: Option<&ProjectId>,
            limit: usize,
            beyond: Option<u64>,
        ) -> (Vec<String>, Option<u64>) {
            let which = Which {
                limit: Some(limit),
                beyond,
            };
            let said = list(&self.store.read().expect("read"), of, &which).expect("list");
            let entries = said["entries"].as_array().expect("list").iter();
            let paths = entries.map(|e| e["path"].as_str().expect("path").to_owned());
            (paths.collect(), said["continue"].as_u64())
        }
    }

    #[test]
    fn each_project_sees_its_own_rows_newest_first_in_pages() {
        let world = World::new();
        let whose = |n: u64| match n % 3 {
            0 => None,
            1 => Some(project(1)),
            _ => Some(project(2)),
        };
        world.keep((0..9).map(|n| row(n, whose(n))));
        let mine = project(1);
        let (first, next) = world.page(Some(&mine), 2, None);
        assert_eq!(first, ["/7", "/4"]);
        let (second, end) = world.page(Some(&mine), 2, next);
        assert_eq!((second, end), (vec!["/1".to_owned()], None));
        let (all, next) = world.page(None, 5, None);
        assert_eq!(all, ["/8", "/7", "/6", "/5", "/4"]);
        let (rest, end) = world.page(None, 5, next);
        assert_eq!(rest, ["/3", "/2", "/1", "/0"]);
        assert_eq!(end, None);
        // A project whose name is a prefix of another's is a different one.
        world.keep([row(10, ProjectId::of("p11"))]);
        assert_eq!(world.page(Some(&mine), 1, None).0, ["/7"]);
        let (none, _) = world.page(Some(&project(3)), 5, None);
        assert!(none.is_empty());
    }

    #[test]
    fn a_busy_project_displaces_only_its_own_rows() {
        let world = World::new();
        world.keep([row(0, Some(project(2)))]);
        world.keep((0..KEPT + 25).map(|n| row(n, Some(project(1)))));
        assert_eq!(world.page(Some(&project(2)), 5, None).0, ["/0"]);
        let rows = world.store.read().expect("read");
        assert_eq!(rows.all(&AUDIT).expect("rows").len() as u64, KEPT + 1);
        assert_eq!(rows.all(&OF).expect("rows").len() as u64, KEPT + 1);
        let mine = world.page(Some(&project(1)), 1, None).0;
        assert_eq!(mine, [format!("/{}", KEPT + 24)]);
    }

    #[test]
    fn a_part_is_bounded() {
        let world = World::new();
        let rows = world.store.read().expect("read");
        for limit in [0, LIMIT_MAX + 1, usize::MAX] {
            let which = Which {
                limit: Some(limit),
                beyond: None,
            };
            list(&rows, None, &which).expect_err("so many");
        }
    }
}

//! Permissions, exhaustively: every route of the router, by every kind of token, on the caller's own things and on
//! others'.
//!
//! The expectation is read from `docs/roles.md`, where people read it.

use std::collections::BTreeMap;

use http::Method;
use pf9_hostagent::model::HostId;
use pf9_plane::{Listed, listed};
use serde_json::{Value, json};

use super::alerts::certificate;
use super::bed::{Bed, until, within};
use super::node::Node;

const PAGE: &str = include_str!("../../../docs/roles.md");

/// A row of the table of actions.
#[derive(Debug)]
struct Row {
    realm: String,
    /// For reader, member, admin.
    may: [bool; 3],
}

fn table() -> BTreeMap<String, Row> {
    let rows = PAGE
        .lines()
        .skip_while(|l| !l.starts_with("| action |"))
        .skip(2);
    let rows = rows.take_while(|l| l.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let may = [cells[4], cells[5], cells[6]].map(|c| c == "✓");
        let realm = cells[3].to_owned();
        (cells[1].trim_matches('`').to_owned(), Row { realm, may })
    };
    rows.map(row).collect()
}

/// What a route needs according to the page.
fn needs() -> BTreeMap<String, String> {
    let rows = PAGE
        .lines()
        .skip_while(|l| !l.starts_with("| route |"))
        .skip(2);
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        (plain(cells[1]), plain(cells[2]))
    };
    rows.filter(|l| l.starts_with('|')).map(row).collect()
}

/// A customer: a domain with a project, a cluster, a host, and a user.
pub(super) struct Customer {
    pub(super) domain: String,
    pub(super) project: String,
    pub(super) user: String,
    pub(super) group: String,
    pub(super) cluster: String,
    pub(super) host: String,
    /// About its host.
    alert: String,
    /// About its cluster.
    silence: String,
    _node: Node,
}

/// An operator of the whole plane, with a client of its own for others' tokens.
pub(super) struct World {
    pub(super) bed: Bed,
    pub(super) plane: String,
}

impl World {
    pub(super) async fn new() -> Self {
        let bed = Bed::new().await;
        bed.stack("1").await;
        Self::of(bed).await
    }

    /// On a plane that is there.
    pub(super) async fn of(bed: Bed) -> Self {
        let password = std::fs::read_to_string(bed.file("admin-password")).expect("password");
        let mut world = Self {
            bed,
            plane: String::new(),
        };
        let scope = json!({"system": {"all": true}});
        world.plane = world.log_in("admin", password.trim(), scope).await;
        world
    }

    pub(super) async fn try_log_in(
        &self,
        user: &str,
        password: &str,
        scope: Value,
    ) -> (u16, Option<String>, Value) {
        let identity = json!({"methods": ["password"], "password": {"user": {"id": user, "password": password}}});
        self.auth(json!({"identity": identity, "scope": scope}))
            .await
    }

    pub(super) async fn auth(&self, auth: Value) -> (u16, Option<String>, Value) {
        let url = format!("{}/keystone/v3/auth/tokens", self.bed.url);
        let asked = self.bed.http.post(url).json(&json!({"auth": auth})).send();
        let answer = within(asked).await.expect("answer");
        let token = answer
            .headers()
            .get("x-subject-token")
            .map(|t| t.to_str().expect("text").to_owned());
        (
            answer.status().as_u16(),
            token,
            answer.json().await.expect("json"),
        )
    }

    pub(super) async fn log_in(&self, user: &str, password: &str, scope: Value) -> String {
        let (status, token, body) = self.try_log_in(user, password, scope).await;
        assert_eq!(status, 201, "{body}");
        token.expect("token")
    }

    pub(super) async fn ask(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let method = Method::from_bytes(method.as_bytes()).expect("method");
        let mut request = self
            .bed
            .http
            .request(method, format!("{}{path}", self.bed.url));
        request = request.header("X-Auth-Token", token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = within(request.send()).await.expect("answer");
        let status = answer.status().as_u16();
        let media = answer.headers().get("content-type");
        if media.is_some_and(|media| media == "text/event-stream") {
            // It streams as long as somebody listens.
            return (status, Value::Null);
        }
        let text = answer.text().await.expect("body");
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    /// The plane's operator creates something.
    pub(super) async fn make(&self, path: &str, kind: &str, body: Value) -> String {
        let path = format!("/keystone/v3/{path}");
        let (status, said) = self
            .ask(&self.plane, "POST", &path, Some(&json!({kind: body})))
            .await;
        assert_eq!(status, 201, "{said}");
        said[kind]["id"].as_str().expect("id").to_owned()
    }

    pub(super) async fn user(&self, domain: &str, name: &str) -> String {
        let body = json!({"name": name, "domain_id": domain, "password": PASSWORD});
        self.make("users", "user", body).await
    }

    pub(super) async fn grant(&self, place: &str, user: &str, role: &str) {
        let path = format!("/keystone/v3/{place}/users/{user}/roles/{role}");
        let (status, said) = self.ask(&self.plane, "PUT", &path, None).await;
        assert_eq!(status, 204, "{said}");
    }

    /// A host that enrolled with a token of this project.
    pub(super) async fn node(&self, project: &str) -> Node {
        let (status, said) = self
            .bed
            .admin("/tokens", json!({"ttl_s": 60, "project": project}))
            .await;
        assert_eq!(status, 200, "{said}");
        let token = said["token"]
            .as_str()
            .expect("token")
            .parse()
            .expect("token");
        let mut node = Node::new(HostId::random());
        node.enrol(&self.bed, &token).await.expect("enrolled");
        node
    }

    async fn host(&self, project: &str) -> String {
        self.node(project).await.id.to_string()
    }

    /// Its certificate is expired.
    async fn alert(&self, node: &mut Node) -> String {
        node.connect(&self.bed).await.expect("connected");
        certificate(node, false).await;
        let path = format!("/alerts?host={}", node.id);
        until(|| async {
            let (_, all) = self.bed.admin_get(&path).await;
            all[0]["id"].as_str().map(str::to_owned)
        })
        .await
    }

    async fn silence(&self, cluster: &str) -> String {
        let body =
            json!({"cluster": cluster, "who": "somebody", "why": "a test", "forSeconds": 600});
        let (status, said) = self.bed.admin("/silences", body).await;
        assert_eq!(status, 200, "{said}");
        said["id"].as_str().expect("id").to_owned()
    }

    pub(super) async fn cluster(&self, project: &str, name: &str) -> String {
        let path = format!("/qbert/v4/{project}/clusters");
        let body = json!({"name": name, "containersCidr": "10.20.0.0/16",
            "servicesCidr": "10.21.0.0/22", "networkPlugin": "bridge"});
        let (status, said) = self.ask(&self.plane, "POST", &path, Some(&body)).await;
        assert_eq!(status, 200, "{said}");
        said["uuid"].as_str().expect("uuid").to_owned()
    }

    pub(super) async fn customer(&self, name: &str) -> Customer {
        let domain = self.make("domains", "domain", json!({"name": name})).await;
        let of = |name: &str| json!({"name": name, "domain_id": domain});
        let project = self.make("projects", "project", of("project")).await;
        let cluster = self.cluster(&project, "cluster").await;
        let mut node = self.node(&project).await;
        Customer {
            alert: self.alert(&mut node).await,
            silence: self.silence(&cluster).await,
            host: node.id.to_string(),
            _node: node,
            user: self.user(&domain, "somebody").await,
            group: self.make("groups", "group", of("group")).await,
            cluster,
            domain,
            project,
        }
    }

    /// As the path names them; whatever may be destroyed is new.
    pub(super) async fn fill(&self, route: &Listed, of: &Customer, fresh: bool) -> String {
        let mut path = format!("{}{}", route.prefix, route.path);
        let last = route.path.rsplit('/').next().unwrap_or_default();
        let destroys = fresh && route.method == "DELETE";
        let name = HostId::random().to_string();
        let name = &name[..18];
        let own = json!({"name": name, "domain_id": of.domain});
        for (param, value) in [
            (
                "host",
                match destroys && last == "{host}" {
                    true => self.host(&of.project).await,
                    false => of.host.clone(),
                },
            ),
            (
                "cluster",
                match destroys && last == "{cluster}" {
                    true => self.cluster(&of.project, name).await,
                    false => of.cluster.clone(),
                },
            ),
            (
                "user_id",
                match destroys && last == "{user_id}" && !route.path.contains("groups") {
                    true => self.user(&of.domain, name).await,
                    false => of.user.clone(),
                },
            ),
            (
                "group_id",
                match destroys && last == "{group_id}" {
                    true => self.make("groups", "group", own).await,
                    false => of.group.clone(),
                },
            ),
            (
                "silence_id",
                match destroys {
                    true => self.silence(&of.cluster).await,
                    false => of.silence.clone(),
                },
            ),
            ("alert_id", of.alert.clone()),
            ("project", of.project.clone()),
            ("project_id", of.project.clone()),
            ("domain_id", of.domain.clone()),
            ("role", "pf9-kube".into()),
            ("role_id", "reader".into()),
            ("verb", "pause".into()),
            ("source", "certificates".into()),
            ("*path", "api".into()),
            ("service_id", "resmgr".into()),
            ("token_id", "none".into()),
            ("credential_id", "none".into()),
            ("bundle_id", "none".into()),
            ("addon", "none".into()),
            ("receiver", "none".into()),
        ] {
            path = path.replace(&format!("{{{param}}}"), &value);
        }
        path
    }
}

pub(super) const PASSWORD: &str = "correct horse battery";
const ROLES: [&str; 3] = ["reader", "member", "admin"];

/// The caller: the token's scope, and the role there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Project(usize),
    Domain(usize),
    Plane(usize),
    Nothing,
    Expired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Passes,
    Refused,
    Hidden,
    Unknown,
}

/// The page's expectation for this.
fn expected(row: &Row, kind: Kind, route: &Listed, own: bool) -> Expect {
    let names = |param: &str| route.path.contains(&format!("{{{param}}}"));
    let fleet = ["host", "cluster", "project", "alert_id", "silence_id"]
        .into_iter()
        .any(names);
    let in_domain = ["user_id", "group_id", "domain_id"].into_iter().any(names);
    let named = fleet || in_domain || names("project_id");
    if kind == Kind::Expired {
        return Expect::Unknown;
    }
    if row.realm == "nobody" {
        return Expect::Passes;
    }
    let pass = |yes: bool| if yes { Expect::Passes } else { Expect::Refused };
    match kind {
        Kind::Plane(role) => pass(row.may[role]),
        _ if named && !own => Expect::Hidden,
        Kind::Project(role) => match row.realm.as_str() {
            "project" => pass(row.may[role]),
            // It sees its project, and nothing else of the domain.
            "domain" if in_domain => Expect::Hidden,
            "domain" => pass(row.may[0]),
            _ if in_domain => Expect::Hidden,
            _ => Expect::Refused,
        },
        Kind::Domain(role) => match row.realm.as_str() {
            "domain" => pass(row.may[role]),
            _ => Expect::Refused,
        },
        Kind::Nothing if named => Expect::Hidden,
        Kind::Nothing => Expect::Refused,
        Kind::Expired => Expect::Unknown,
    }
}

/// The plane's answer. A thing missing in a handler is not one that the path names.
fn seen(status: u16, said: &Value, of: &Customer) -> Expect {
    let code = ["/code", "/fault/code", "/error/fault/code"];
    let code = code
        .iter()
        .find_map(|at| said.pointer(at)?.as_str())
        .unwrap_or_default();
    let text = said.to_string();
    let ids = [
        &of.domain,
        &of.project,
        &of.user,
        &of.group,
        &of.cluster,
        &of.host,
    ];
    match status {
        401 => Expect::Unknown,
        403 if code == "not-allowed" || said["kind"] == "Status" => Expect::Refused,
        404 if [&of.alert, &of.silence]
            .iter()
            .any(|id| text.contains(&format!("has id {id}"))) =>
        {
            Expect::Hidden
        }
        404 if ids.iter().any(|id| {
            text.contains(&format!("no project {id}"))
                || text.contains(&format!("no domain {id}"))
                || text.contains(&format!("no user {id}"))
                || text.contains(&format!("no group {id}"))
                || text.contains(&format!("no cluster {id}"))
                || text.contains(&format!("no host {id}"))
        }) =>
        {
            Expect::Hidden
        }
        _ => Expect::Passes,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_checks_the_caller_and_the_owner() {
    let world = World::new().await;
    let (x, y) = (world.customer("x").await, world.customer("y").await);
    let mut tokens = Vec::new();
    for (n, role) in ROLES.into_iter().enumerate() {
        for (place, scope, kind) in [
            (
                format!("projects/{}", x.project),
                json!({"project": {"id": x.project}}),
                Kind::Project(n),
            ),
            (
                format!("domains/{}", x.domain),
                json!({"domain": {"id": x.domain}}),
                Kind::Domain(n),
            ),
            (
                "system".to_owned(),
                json!({"system": {"all": true}}),
                Kind::Plane(n),
            ),
        ] {
            let name = place.split('/').next().unwrap_or_default();
            let user = world.user(&x.domain, &format!("{role}-of-{name}")).await;
            world.grant(&place, &user, role).await;
            tokens.push((kind, world.log_in(&user, PASSWORD, scope).await));
        }
    }
    let nobody = world.user(&x.domain, "nobody").await;
    tokens.push((
        Kind::Nothing,
        world.log_in(&nobody, PASSWORD, json!("unscoped")).await,
    ));
    tokens.push((Kind::Expired, expired(&world).await));
    let (table, needs) = (table(), needs());
    let routes = listed();
    assert_eq!(needs.len(), routes.len(), "the page has each route once");
    let mut walked = 0;
    for route in &routes {
        let name = format!("{} {}{}", route.method, route.prefix, route.path);
        let action = needs
            .get(&name)
            .unwrap_or_else(|| panic!("the page has no {name}"));
        if route.open.is_some() {
            assert!(action.starts_with("nothing"), "{name}: {action}");
            continue;
        }
        let row = table
            .get(action)
            .unwrap_or_else(|| panic!("{name}: no action {action}"));
        for (kind, token) in &tokens {
            for (of, own) in [(&x, true), (&y, false)] {
                let expected = expected(row, *kind, route, own);
                let path = world.fill(route, of, expected == Expect::Passes).await;
                let method = if route.method == "ANY" {
                    "GET"
                } else {
                    route.method
                };
                let body = json!({});
                let body = ["POST", "PATCH"].contains(&method).then_some(&body);
                let (status, said) = world.ask(token, method, &path, body).await;
                let got = seen(status, &said, of);
                assert_eq!(
                    got, expected,
                    "{name}: {kind:?}, own: {own}: {status} {said}"
                );
                walked += 1;
            }
        }
    }
    assert!(walked > 2000, "{walked}");
}

/// A token that was valid, and has expired.
async fn expired(world: &World) -> String {
    let (status, said) = world
        .bed
        .ask(Method::GET, "/keystone/v3/auth/projects", Value::Null)
        .await;
    assert_eq!(status, 200, "{said}");
    let ends = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    let ends = jiff::Timestamp::try_from(ends).expect("time").to_string();
    let body = json!({"application_credential": {"name": "short", "expires_at": ends}});
    let path = "/keystone/v3/users/admin/application_credentials";
    let (status, said) = world.bed.ask(Method::POST, path, body).await;
    assert_eq!(status, 201, "{said}");
    let made = &said["application_credential"];
    let method = json!({"id": made["id"], "secret": made["secret"]});
    let identity = json!({"methods": ["application_credential"], "application_credential": method});
    let (status, token, said) = world.auth(json!({"identity": identity})).await;
    assert_eq!(status, 201, "{said}");
    let token = token.expect("token");
    until(|| async {
        let (status, _) = world.ask(&token, "GET", "/resmgr/v1/hosts", None).await;
        (status == 401).then_some(())
    })
    .await;
    token
}

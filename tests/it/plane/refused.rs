//! Invalid requests are refused in the plane's words, with a code, in the format of the called API: at every route,
//! whatever part is read.

use std::collections::BTreeSet;

use pf9_plane::{Listed, listed};
use serde_json::Value;

use super::access::World;

/// The code of a refusal; for Kubernetes' clients, whose format has none, the plane's words.
fn code(said: &Value) -> Option<&str> {
    let places = ["/code", "/fault/code", "/error/fault/code"];
    let code = places.iter().find_map(|at| said.pointer(at)?.as_str());
    code.or_else(|| (said["kind"] == "Status").then(|| said["message"].as_str())?)
}

fn name(route: &Listed) -> String {
    format!("{} {}{}", route.method, route.prefix, route.path)
}

fn method(route: &Listed) -> &'static str {
    match route.method {
        "ANY" => "GET",
        method => method,
    }
}

/// Routes with a query of Keystone's lists: any field may occur, and `limit` is a number.
fn is_keystones_list(route: &Listed) -> bool {
    let lists = [
        "/v3/auth/domains",
        "/v3/auth/projects",
        "/v3/domains",
        "/v3/endpoints",
        "/v3/groups",
        "/v3/groups/{group_id}/users",
        "/v3/projects",
        "/v3/regions",
        "/v3/roles",
        "/v3/services",
        "/v3/users",
        "/v3/users/{user_id}/application_credentials",
        "/v3/users/{user_id}/groups",
        "/v3/users/{user_id}/projects",
    ];
    route.method == "GET" && route.prefix == "/keystone" && lists.contains(&route.path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_query_or_path_is_refused_in_the_planes_words_at_every_route() {
    let world = World::new().await;
    let of = world.customer("x").await;
    let (mut queries, mut paths) = (BTreeSet::new(), 0);
    // A duplicate field is refused by each reader of one; a limit that is not a number, by each list.
    let bad = "type=a&type=b&limit=many&free=perhaps&force=perhaps&day=1&day=2&state=1&state=2&clusterUuid=x";
    for route in listed() {
        // Requests that end the token or a part of the customer are left out here; so is the page's stream, which reads
        // neither.
        if name(&route) == "DELETE /keystone/v3/auth/tokens" || route.prefix.is_empty() {
            continue;
        }
        if route.method == "DELETE" && !route.path.ends_with("/hosts/{host}") {
            continue;
        }
        let path = world.fill(&route, &of, false).await;
        let asked = format!("{path}?{bad}");
        let body = Value::Object(serde_json::Map::new());
        let body = ["POST", "PATCH", "PUT"]
            .contains(&route.method)
            .then_some(&body);
        let (status, said) = world.ask(&world.plane, method(&route), &asked, body).await;
        let name = name(&route);
        if (400..500).contains(&status) {
            assert!(code(&said).is_some(), "{name}: {status} {said}");
        }
        if code(&said) == Some("query-invalid") {
            assert_eq!(status, 400, "{name}: {said}");
            assert!(!said.to_string().contains("deserialize"), "{name}: {said}");
            queries.insert(name.clone());
        } else {
            // A caller who may not see a list gets that refusal.
            let passed = status == 200 && is_keystones_list(&route);
            assert!(!passed, "{name}: {status} {said}");
        }
    }
    for route in listed() {
        if !route.path.contains('{') || route.prefix.is_empty() && route.open.is_none() {
            continue;
        }
        let (before, rest) = route.path.split_once('{').expect("a name");
        let rest = rest.split_once('}').expect("its end").1;
        let rest = rest.replace(['{', '}', '*'], "");
        let path = format!("{}{before}%FF{rest}", route.prefix);
        let (status, said) = world.ask(&world.plane, method(&route), &path, None).await;
        let code = code(&said);
        assert_eq!(
            (status, code),
            (400, Some("path-invalid")),
            "{path}: {said}"
        );
        paths += 1;
    }
    queries.retain(|name| !name.contains("/keystone"));
    let expected = [
        "DELETE /resmgr/v1/hosts/{host}",
        "GET /alerts/v1/alerts",
        "GET /alerts/v1/clusters/{cluster}/report",
        "GET /audit/v1/entries",
        "GET /qbert/v4/{project}/nodes",
        "GET /resmgr/v1/hosts",
        "POST /qbert/v4/{project}/clusters/{cluster}/upgrade",
    ];
    assert_eq!(queries, expected.map(str::to_owned).into());
    assert!(paths > 80, "{paths}");
}

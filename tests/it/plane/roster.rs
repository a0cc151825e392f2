//! Hosts page by page: only those of a project, searched by the plane, and never more than requested.

use http::Method;
use serde_json::{Value, json};

use super::access::World;
use super::bed::Bed;

async fn part(bed: &Bed, query: &str) -> Value {
    bed.get(&format!("/resmgr/v1/hosts?{query}")).await
}

fn names(part: &Value) -> Vec<&str> {
    let hosts = part["hosts"].as_array().expect("hosts").iter();
    hosts
        .map(|h| h["info"]["hostname"].as_str().expect("name"))
        .collect()
}

#[tokio::test]
async fn hosts_are_paged_searched_and_listed_whole_for_older_tools() {
    let bed = Bed::new().await;
    bed.stack("1.37.2-1").await;
    let mut nodes = Vec::new();
    for n in 1..=5 {
        nodes.push(bed.host(&format!("n{n}"), &format!("10.0.0.{n}")).await);
    }
    let cluster = bed.cluster("blue").await;
    let (code, said) = bed.attach(cluster, &[(&nodes[0], true)]).await;
    assert_eq!(code, 200, "{said}");

    let mut seen: Vec<String> = Vec::new();
    let mut query = "limit=2".to_owned();
    loop {
        let got = part(&bed, &query).await;
        assert_eq!(
            (&got["found"], &got["total"]),
            (&json!(5), &json!(5)),
            "{got}"
        );
        let here = names(&got);
        assert!((1..=2).contains(&here.len()), "{here:?}");
        seen.extend(here.into_iter().map(str::to_owned));
        let Some(mark) = got["continue"].as_str() else {
            break;
        };
        query = format!("limit=2&continue={mark}");
    }
    seen.sort();
    assert_eq!(seen, ["n1", "n2", "n3", "n4", "n5"], "each once");

    assert_eq!(names(&part(&bed, "limit=9&search=N3").await), ["n3"]);
    assert_eq!(names(&part(&bed, "limit=9&search=blue").await), ["n1"]);
    let free = part(&bed, "limit=9&free=true").await;
    assert_eq!(
        (free["total"].as_u64(), names(&free).contains(&"n1")),
        (Some(4), false)
    );
    let may = part(&bed, "limit=9&authorised=true").await;
    assert_eq!(
        names(&may).len(),
        may["total"].as_u64().expect("number") as usize
    );
    let all = bed.get("/resmgr/v1/hosts").await;
    assert_eq!(all.as_array().map(Vec::len), Some(5));
    for wrong in [
        "limit=0",
        "limit=501",
        "search=x",
        "limit=1&continue=x",
        "limit=1&more=1",
        &format!("limit=1&search={}", "x".repeat(300)),
    ] {
        let path = format!("/resmgr/v1/hosts?{wrong}");
        let (status, said) = bed.ask(Method::GET, &path, Value::Null).await;
        assert_eq!(status, 400, "{wrong}: {said}");
    }
    let nodes = format!("/qbert/v4/{{project}}/nodes?clusterUuid={cluster}");
    let nodes = bed.get(&nodes).await;
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "{nodes}");
}

#[tokio::test]
async fn no_page_has_or_counts_another_projects_hosts() {
    let world = World::new().await;
    let (x, y) = (world.customer("x").await, world.customer("y").await);
    let path = "/resmgr/v1/hosts?limit=100";
    let (status, all) = world.ask(&world.plane, "GET", path, None).await;
    assert_eq!(status, 200, "{all}");
    assert!(all["total"].as_u64().expect("number") >= 2, "{all}");
    let user = world.user(&x.domain, "carol").await;
    world
        .grant(&format!("projects/{}", x.project), &user, "reader")
        .await;
    let scope = json!({"project": {"id": x.project}});
    let reader = world.log_in(&user, super::access::PASSWORD, scope).await;
    let (status, own) = world.ask(&reader, "GET", path, None).await;
    assert_eq!(status, 200, "{own}");
    let text = own.to_string();
    assert!(text.contains(&x.host) && !text.contains(&y.host), "{own}");
    assert_eq!(
        own["total"].as_u64().map(|n| n as usize),
        own["hosts"].as_array().map(Vec::len)
    );
    let other = format!("{path}&search={}", y.host);
    let (_, none) = world.ask(&reader, "GET", &other, None).await;
    assert_eq!(
        (&none["found"], &none["continue"]),
        (&json!(0), &Value::Null)
    );
}

//! Receivers that projects set for themselves.

use http::Method;
use serde_json::{Value, json};

use super::super::access::{PASSWORD, World};
use super::super::bed::{Bed, until};
use super::{DIES, Hook, TOKEN, certificate, tell};
use pf9_plane::ServeConfig;

/// The hooks are on this machine.
fn local(config: &mut ServeConfig) {
    config.receiver_networks = vec!["127.0.0.0/8".parse().expect("network")];
}

fn ticket(hook: &Hook) -> Value {
    json!({"kind": "ticket", "url": hook.url(), "secret": TOKEN})
}

/// A project with its admin's token.
async fn tenant(world: &World, name: &str) -> (String, String) {
    let domain = world.make("domains", "domain", json!({"name": name})).await;
    let body = json!({"name": "project", "domain_id": domain});
    let project = world.make("projects", "project", body).await;
    let user = world.user(&domain, "admin").await;
    let place = format!("projects/{project}");
    world.grant(&place, &user, "admin").await;
    let scope = json!({"project": {"id": project}});
    let token = world.log_in(&user, PASSWORD, scope).await;
    (project, token)
}

async fn set(world: &World, token: &str, project: &str, name: &str, body: &Value) -> (u16, Value) {
    let path = format!("/alerts/v1/projects/{project}/receivers/{name}");
    world.ask(token, "PUT", &path, Some(body)).await
}

/// The receivers of a project.
async fn listed(world: &World, token: &str, project: &str) -> Value {
    let path = format!("/alerts/v1/projects/{project}/receivers");
    let (status, all) = world.ask(token, "GET", &path, None).await;
    assert_eq!(status, 200, "{all}");
    all
}

fn actions(hook: &Hook, host: &Value) -> Vec<Value> {
    let all = hook.all();
    assert!(all.iter().all(|(_, d)| d["alert"]["host"] == *host));
    all.iter().map(|(_, d)| d["action"].clone()).collect()
}

#[tokio::test]
async fn a_projects_receivers_get_its_own_alerts_beside_a_dead_one() {
    let world = World::of(Bed::with(local).await).await;
    let (mine, dead, theirs) = (
        Hook::new(200).await,
        Hook::new(DIES).await,
        Hook::new(200).await,
    );
    let planes = Hook::new(200).await;
    tell(&world.bed, "ops", "ticket", &planes.url()).await;
    let (p, of_p) = tenant(&world, "p").await;
    let (q, of_q) = tenant(&world, "q").await;
    for (token, project, name, hook) in [
        (&of_p, &p, "dead", &dead),
        (&of_p, &p, "tickets", &mine),
        (&of_q, &q, "tickets", &theirs),
    ] {
        let (status, said) = set(&world, token, project, name, &ticket(hook)).await;
        assert_eq!((status, &said["hasSecret"]), (200, &json!(true)), "{said}");
        assert!(!said.to_string().contains(TOKEN), "{said}");
    }
    let (status, _) = set(&world, &of_p, &q, "tickets", &ticket(&mine)).await;
    assert_eq!(status, 404, "another project's");

    let (mut first, mut second) = (world.node(&p).await, world.node(&q).await);
    first.connect(&world.bed).await.expect("connected");
    second.connect(&world.bed).await.expect("connected");
    certificate(&first, false).await;
    let (head, made) = mine.nth(1).await;
    assert_eq!(head["authorization"], format!("Bearer {TOKEN}"));
    assert_eq!(made["alert"]["host"], json!(first.id));
    dead.nth(1).await;
    certificate(&second, false).await;
    theirs.nth(1).await;
    certificate(&first, true).await;
    mine.nth(2).await;
    certificate(&second, true).await;
    theirs.nth(2).await;
    let both = [json!("create"), json!("resolve")];
    assert_eq!(actions(&mine, &json!(first.id)), both);
    assert_eq!(actions(&theirs, &json!(second.id)), both);
    // The plane's own target gets all.
    planes.nth(4).await;

    let all = until(|| async {
        let all = listed(&world, &of_p, &p).await;
        let failing = all[0]["failing"].is_string() && all[1]["waiting"] == 0;
        failing.then_some(all)
    })
    .await;
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    assert_eq!(
        (&all[0]["name"], &all[0]["waiting"]),
        (&json!("dead"), &json!(1))
    );
    // The operator sees those of all, and removes one.
    let (_, seen) = world.bed.admin_get("/notify").await;
    assert_eq!(seen.as_array().map(Vec::len), Some(4), "{seen}");
    let path = format!("/notify/dead?project={p}");
    let (status, said) = world.bed.ask_admin(Method::DELETE, &path).await;
    assert_eq!((status, &said["removed"]), (200, &json!(true)));
    let path = format!("/alerts/v1/projects/{p}/receivers/tickets");
    let (status, said) = world.ask(&of_p, "DELETE", &path, None).await;
    assert_eq!((status, &said["removed"]), (200, &json!(true)));
    assert_eq!(listed(&world, &of_p, &p).await, json!([]));
}

#[tokio::test]
async fn what_waits_for_a_receiver_survives_a_restart_and_its_token_is_shown_nowhere() {
    let mut bed = Bed::with(local).await;
    let hook = Hook::new(503).await;
    let path = "/alerts/v1/projects/{project}/receivers/tickets";
    let (status, said) = bed.ask(Method::PUT, path, ticket(&hook)).await;
    assert_eq!(status, 200, "{said}");
    let node = bed.host("n1", "10.1.0.1").await;
    certificate(&node, false).await;
    let (_, first) = hook.nth(1).await;
    assert_eq!(first["action"], "create");
    bed = bed.restart_with(local).await;
    let tried = hook.all().len();
    let (_, again) = hook.nth(tried + 1).await;
    assert_eq!(again["key"], first["key"]);
    hook.answer(200);
    let receivers = "/alerts/v1/projects/{project}/receivers";
    let all = until(|| async {
        let all = bed.get(receivers).await;
        (all[0]["waiting"] == 0 && all[0]["arrivedAt"].is_string()).then_some(all)
    })
    .await;
    let audit = bed.get("/audit/v1/entries").await;
    assert!(audit.to_string().contains("receivers/tickets"), "{audit}");
    let (_, targets) = bed.admin_get("/notify").await;
    for shown in [said, all, audit, targets] {
        assert!(!shown.to_string().contains(TOKEN), "{shown}");
    }
}

/// Nothing connects to the plane's machine for a tenant, by whatever name.
#[tokio::test]
async fn a_receiver_on_the_planes_machine_is_not_called() {
    let bed = Bed::new().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    listener.set_nonblocking(true).expect("nonblocking");
    let port = listener.local_addr().expect("address").port();
    let path = "/alerts/v1/projects/{project}/receivers/tickets";
    let set = async |url: &str| {
        let body = json!({"kind": "ticket", "url": url});
        bed.ask(Method::PUT, path, body).await
    };
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("https://2130706433:{port}/"),
        format!("https://[::ffff:127.0.0.1]:{port}/"),
        "https://169.254.169.254/".to_owned(),
    ] {
        let (status, said) = set(&url).await;
        assert_eq!(
            (status, &said["code"]),
            (400, &json!("alert-invalid")),
            "{url}"
        );
    }
    // What a name leads to is known with the delivery.
    let (status, said) = set(&format!("https://localhost:{port}/")).await;
    assert_eq!(status, 200, "{said}");
    let node = bed.host("n1", "10.1.0.1").await;
    certificate(&node, false).await;
    let why = until(|| async {
        let all = bed.get("/alerts/v1/projects/{project}/receivers").await;
        all[0]["failing"].as_str().map(str::to_owned)
    })
    .await;
    assert!(
        why.contains("no address that a project's receiver may have"),
        "{why}"
    );
    let came = listener.accept().map(drop).map_err(|e| e.kind());
    assert_eq!(came, Err(std::io::ErrorKind::WouldBlock));
}

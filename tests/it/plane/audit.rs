//! The audit is kept for those who may see it, and for nobody else.

use http::Method;
use serde_json::{Value, json};

use super::access::{PASSWORD, World};

const PATH: &str = "/audit/v1/entries";

/// Paths visible to a token, the newest first.
async fn seen(world: &World, token: &str) -> Vec<String> {
    let (status, said) = world.ask(token, "GET", PATH, None).await;
    assert_eq!(status, 200, "{said}");
    let entries = said["entries"].as_array().expect("entries").iter();
    let paths = entries.map(|e| e["path"].as_str().expect("path").to_owned());
    paths.collect()
}

#[tokio::test]
async fn the_audit_is_visible_to_admins_of_the_project_and_the_plane() {
    let world = World::new().await;
    let (x, y) = (world.customer("x").await, world.customer("y").await);
    let user = world.user(&x.domain, "alice").await;
    let scope = || json!({"project": {"id": x.project}});
    let place = format!("projects/{}", x.project);
    world.grant(&place, &user, "member").await;
    let member = world.log_in(&user, PASSWORD, scope()).await;
    let rest = format!("/resmgr/v1/hosts/{}/maintenance", x.host);
    let body = json!({"for_s": 600, "reason": "a disk"});
    let (status, said) = world.ask(&member, "POST", &rest, Some(&body)).await;
    assert_eq!(status, 200, "{said}");
    // It is refused, and recorded as such.
    let long = json!({"for_s": 6_000_000, "reason": "a disk"});
    let (status, said) = world.ask(&member, "POST", &rest, Some(&long)).await;
    assert_eq!(status, 400, "{said}");
    // Reads change nothing, and requests for hidden things are in nobody's audit.
    let (status, _) = world.ask(&member, "GET", "/resmgr/v1/hosts", None).await;
    assert_eq!(status, 200);
    let foreign = format!("/resmgr/v1/hosts/{}/maintenance", y.host);
    let (status, _) = world.ask(&member, "POST", &foreign, Some(&body)).await;
    assert_eq!(status, 404);
    let (status, _) = world.ask(&member, "GET", PATH, None).await;
    assert_eq!(status, 403, "a member sees none");

    world.grant(&place, &user, "admin").await;
    let admin = world.log_in(&user, PASSWORD, scope()).await;
    let (_, said) = world.ask(&admin, "GET", PATH, None).await;
    // The plane admin's change in the project is recorded as well: a role was granted in it.
    let all = said["entries"].as_array().expect("entries");
    assert_eq!(all[0]["action"], "grant", "{said}");
    let own: Vec<&Value> = all
        .iter()
        .filter(|e| e["action"] == "operate-hosts")
        .collect();
    let entry = |n: usize| own[n];
    for (n, status, outcome) in [(0, 400, "refused"), (1, 200, "done")] {
        assert_eq!(entry(n)["status"], status, "{said}");
        assert_eq!(entry(n)["outcome"], outcome);
        assert_eq!(entry(n)["path"].as_str(), Some(rest.as_str()));
        assert_eq!(entry(n)["user"].as_str(), Some(user.as_str()));
        let who = entry(n)["who"].as_str().expect("who");
        assert!(who.ends_with("/alice"), "{who}");
        assert!(entry(n)["at"].is_string() && entry(n)["trace"].is_string());
    }
    // Page by page.
    let first = format!("{PATH}?limit=1");
    let (_, part) = world.ask(&admin, "GET", &first, None).await;
    assert_eq!(part["entries"][0], all[0]);
    let next = part["continue"].as_u64().expect("more");
    let second = format!("{PATH}?limit=1&continue={next}");
    let (_, part) = world.ask(&admin, "GET", &second, None).await;
    assert_eq!(part["entries"][0], all[1]);
    for wrong in ["limit=0", "limit=501", "limit=x", "more=1"] {
        let path = format!("{PATH}?{wrong}");
        assert_eq!(
            world.ask(&admin, "GET", &path, None).await.0,
            400,
            "{wrong}"
        );
    }

    // Root of the plane's machine is recorded too, with its change of a host of the project.
    let (status, said) = world
        .bed
        .ask_admin(Method::DELETE, &format!("/hosts/{}/maintenance", x.host))
        .await;
    assert_eq!(status, 200, "{said}");
    let (_, said) = world.ask(&admin, "GET", PATH, None).await;
    assert_eq!(said["entries"][0]["who"], "the administrator");

    // The other project sees none of it, and the plane's admin all.
    let other = world.user(&y.domain, "bob").await;
    world
        .grant(&format!("projects/{}", y.project), &other, "admin")
        .await;
    let scope = json!({"project": {"id": y.project}});
    let other = world.log_in(&other, PASSWORD, scope).await;
    let foreign = seen(&world, &other).await;
    assert!(
        !foreign.iter().any(|p| p.contains(&x.host.to_string())),
        "{foreign:?}"
    );
    let all = seen(&world, &world.plane).await;
    assert!(all.contains(&rest), "{all:?}");
    assert!(all.iter().any(|p| p.contains("/roles/admin")), "{all:?}");
    let none: Option<&Value> = None;
    let (status, _) = world.ask("", "GET", PATH, none).await;
    assert_eq!(status, 401);
}

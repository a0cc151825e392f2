//! Tenants against each other: lost rights are lost, and things of others are not found.

use http::Method;
use serde_json::{Value, json};

use super::access::{PASSWORD, World};
use super::bed::within;
use super::node::Node;

/// What a user had, and lost.
#[tokio::test]
async fn what_is_lost_is_lost_at_once() {
    let world = World::new().await;
    let x = world.customer("x").await;
    let user = world.user(&x.domain, "alice").await;
    let place = format!("projects/{}", x.project);
    let scope = || json!({"project": {"id": x.project}});
    let asks = async |token: &str| world.ask(token, "GET", "/resmgr/v1/hosts", None).await.0;
    let change = async |path: &str, body: Value| {
        let (status, said) = world
            .ask(
                &world.plane,
                "PATCH",
                &format!("/keystone/v3/{path}"),
                Some(&body),
            )
            .await;
        assert_eq!(status, 200, "{said}");
    };
    world.grant(&place, &user, "member").await;
    let token = world.log_in(&user, PASSWORD, scope()).await;
    assert_eq!(asks(&token).await, 200);
    let path = format!("/keystone/v3/users/{user}/application_credentials");
    let body = json!({"application_credential": {"name": "robot"}});
    let (status, said) = world.ask(&token, "POST", &path, Some(&body)).await;
    assert_eq!(status, 201, "{said}");
    let made = &said["application_credential"];
    let method = json!({"id": made["id"], "secret": made["secret"]});
    let robot = json!({"identity": {"methods": ["application_credential"], "application_credential": method}});
    let (_, robots, _) = world.auth(robot.clone()).await;
    let robots = robots.expect("token");
    assert_eq!(asks(&robots).await, 200);

    // The role.
    let (status, _) = world
        .ask(
            &world.plane,
            "DELETE",
            &format!("/keystone/v3/{place}/users/{user}/roles/member"),
            None,
        )
        .await;
    assert_eq!(status, 204);
    assert_eq!((asks(&token).await, asks(&robots).await), (401, 401));
    assert_eq!(world.auth(robot.clone()).await.0, 401);
    // Another role is not the one the credential has.
    world.grant(&place, &user, "admin").await;
    assert_eq!((asks(&token).await, asks(&robots).await), (200, 401));
    world.grant(&place, &user, "member").await;
    assert_eq!(asks(&robots).await, 200);
    let (status, said) = world
        .ask(
            &robots,
            "DELETE",
            &format!("/resmgr/v1/hosts/{}", x.host),
            None,
        )
        .await;
    assert_eq!(
        status, 403,
        "a credential has the roles that it was made with: {said}"
    );

    // The project, the domain, the person.
    for (path, kind) in [
        (format!("projects/{}", x.project), "project"),
        (format!("domains/{}", x.domain), "domain"),
    ] {
        change(&path, json!({kind: {"enabled": false}})).await;
        assert_eq!(
            (asks(&token).await, asks(&robots).await),
            (401, 401),
            "{kind}"
        );
        assert_eq!(world.try_log_in(&user, PASSWORD, scope()).await.0, 401);
        change(&path, json!({kind: {"enabled": true}})).await;
        assert_eq!(asks(&token).await, 200);
    }
    let path = format!("users/{user}");
    change(&path, json!({"user": {"enabled": false}})).await;
    assert_eq!((asks(&token).await, asks(&robots).await), (401, 401));
    change(&path, json!({"user": {"enabled": true}})).await;
    assert_eq!(
        asks(&token).await,
        401,
        "a token of before is not good again"
    );

    // The password, by the user.
    let token = world.log_in(&user, PASSWORD, scope()).await;
    let path = format!("/keystone/v3/users/{user}/password");
    let body = |original: &str| json!({"user": {"original_password": original, "password": "another horse"}});
    assert_eq!(
        world
            .ask(&token, "POST", &path, Some(&body("guess")))
            .await
            .0,
        401
    );
    assert_eq!(
        world
            .ask(&token, "POST", &path, Some(&body(PASSWORD)))
            .await
            .0,
        204
    );
    assert_eq!(asks(&token).await, 401);
    assert_eq!(world.try_log_in(&user, PASSWORD, scope()).await.0, 401);
    let token = world.log_in(&user, "another horse", scope()).await;

    // The token itself; a stranger's token reveals nothing about it.
    let other = world.user(&x.domain, "bob").await;
    world.grant(&place, &other, "admin").await;
    let bobs = world.log_in(&other, PASSWORD, scope()).await;
    let about = async |method: Method, by: &str, of: &str| {
        let url = format!("{}/keystone/v3/auth/tokens", world.bed.url);
        let asked = world
            .bed
            .http
            .request(method, url)
            .header("x-auth-token", by)
            .header("x-subject-token", of);
        within(asked.send())
            .await
            .expect("answer")
            .status()
            .as_u16()
    };
    assert_eq!(about(Method::GET, &bobs, &token).await, 404);
    assert_eq!(about(Method::DELETE, &bobs, &token).await, 404);
    assert_eq!(about(Method::GET, &token, &token).await, 200);
    assert_eq!(about(Method::HEAD, &world.plane, &token).await, 200);
    assert_eq!(about(Method::DELETE, &token, &token).await, 204);
    assert_eq!(asks(&token).await, 401);
}

/// Rights in one's own project open nothing elsewhere, whatever paths and bodies contain.
#[tokio::test]
async fn crafted_paths_and_bodies_reach_no_other_tenant() {
    let world = World::new().await;
    let (x, y) = (world.customer("x").await, world.customer("y").await);
    let user = world.user(&x.domain, "mallory").await;
    world
        .grant(&format!("projects/{}", x.project), &user, "admin")
        .await;
    let scope = json!({"project": {"id": x.project}});
    let token = world.log_in(&user, PASSWORD, scope).await;
    let (px, py, cx, cy, hx, hy) = (
        &x.project, &y.project, &x.cluster, &y.cluster, &x.host, &y.host,
    );
    let big = cy.to_uppercase();
    for path in [
        // One's own project before another's thing, and the other way round.
        format!("/qbert/v4/{px}/clusters/{cy}"),
        format!("/qbert/v4/{py}/clusters/{cx}"),
        format!("/qbert/v4/{px}/nodes/{hy}"),
        format!("/qbert/v4/{py}/nodes/{hx}"),
        format!("/qbert/v4/service/clusters/{cy}"),
        // Written differently.
        format!("/qbert/v4/{px}/clusters/{big}"),
        format!("/qbert/v4/{px}/clusters/{{{cy}}}"),
        format!("/qbert/v4/{px}/clusters/urn:uuid:{cy}"),
        format!("/qbert/v4/{px}/clusters/{cx}%2F..%2F{cy}"),
        format!("/qbert/v4/{px}%2F..%2F{py}/clusters/{cy}"),
        format!("/qbert//v4/{py}/clusters"),
        format!("//qbert/v4/{py}/clusters"),
        format!("/qbert/v4//clusters/{cy}"),
        format!("/qbert/v4/{py}%00/clusters"),
        format!("/resmgr/v1/hosts/{hx}%2F{hy}"),
        format!("/resmgr/v1//hosts/{hy}"),
        format!("/k8s/clusters/{cy}/api"),
        format!("/k8s/clusters/{cx}%2F..%2F{cy}/api"),
        format!("/k8s/clusters//{cy}/api"),
        format!("/k8s/clusters/%7B{cy}%7D/api"),
        format!("/metrics/hosts/{hy}/certificates"),
        format!("/keystone/v3/projects/{py}"),
        format!("/keystone/v3/projects/{px}%7Cuser:{user}"),
        format!("/keystone/v3/users/{user}%2F..%2F{}", y.user),
        format!("/keystone/v3/users/{}", y.user),
        "/keystone/v3/users/admin".to_owned(),
    ] {
        let (status, said) = world.ask(&token, "GET", &path, None).await;
        assert!(matches!(status, 400 | 403 | 404), "{path}: {status} {said}");
        for theirs in ["10.20.0.0/16", "\"somebody\"", "admin@pf9.local"] {
            assert!(!said.to_string().contains(theirs), "{path}: {said}");
        }
    }
    let count = async |path: &str| {
        let (status, said) = world.ask(&token, "GET", path, None).await;
        assert_eq!(status, 200, "{path}: {said}");
        said.as_array().map(Vec::len)
    };
    assert_eq!(count("/resmgr/v1/hosts").await, Some(1));
    assert_eq!(count(&format!("/qbert/v4/{px}/clusters")).await, Some(1));
    let (status, said) = world.ask(&token, "GET", "/metrics/targets", None).await;
    assert_eq!(status, 200, "{said}");
    let shown: Vec<&Value> = said
        .as_array()
        .into_iter()
        .flatten()
        .map(|target| &target["labels"]["host_id"])
        .collect();
    assert!(!shown.is_empty(), "its own host has numbers");
    assert!(shown.iter().all(|host| *host == hx), "{shown:?}");
    // Names in a body.
    let refused = async |method: &str, path: String, body: Value, wanted: u16| {
        let (status, said) = world.ask(&token, method, &path, Some(&body)).await;
        assert_eq!(status, wanted, "{path} {body}: {said}");
    };
    let cluster = format!("/qbert/v4/{px}/clusters/{cx}");
    refused(
        "POST",
        format!("{cluster}/attach"),
        json!([{"uuid": hy, "isMaster": true}]),
        404,
    )
    .await;
    refused(
        "POST",
        format!("{cluster}/detach"),
        json!([{"uuid": hy}]),
        409,
    )
    .await;
    let named =
        |kind: &str| json!({kind: {"name": "z", "domain_id": y.domain, "password": PASSWORD}});
    refused("POST", "/keystone/v3/users".into(), named("user"), 403).await;
    refused(
        "POST",
        "/keystone/v3/projects".into(),
        named("project"),
        403,
    )
    .await;
    refused("POST", "/keystone/v3/groups".into(), named("group"), 403).await;
    refused("POST", "/keystone/v3/domains".into(), named("domain"), 403).await;
    // The same name is free for everybody: nobody learns whether another project has it.
    let (status, said) = world.ask(&token, "POST", &format!("/qbert/v4/{px}/clusters"), Some(&json!({
        "name": "another", "containersCidr": "10.20.0.0/16", "servicesCidr": "10.21.0.0/22", "networkPlugin": "bridge"}))).await;
    assert_eq!(status, 200, "{said}");
    // A token of another project moves no host there.
    let mut node = Node::new(hx.parse().expect("id"));
    let (_, said) = world
        .bed
        .admin("/tokens", json!({"ttl_s": 60, "project": py}))
        .await;
    let foreign = said["token"]
        .as_str()
        .expect("token")
        .parse()
        .expect("token");
    let (status, said) = node.enrol(&world.bed, &foreign).await.expect_err("refused");
    assert_eq!(
        (status, said["code"].as_str()),
        (409, Some("host-enrolled")),
        "{said}"
    );

    // An administrator of a domain has no power over a user with a plane-wide role.
    let chief = world.user(&x.domain, "chief").await;
    world
        .grant(&format!("domains/{}", x.domain), &chief, "admin")
        .await;
    let chief = world
        .log_in(&chief, PASSWORD, json!({"domain": {"id": x.domain}}))
        .await;
    let above = world.user(&x.domain, "above").await;
    world.grant("system", &above, "reader").await;
    for (method, path, body) in [
        (
            "PATCH",
            format!("users/{above}"),
            Some(json!({"user": {"password": "mine now, all"}})),
        ),
        ("DELETE", format!("users/{above}"), None),
        ("PUT", format!("system/users/{user}/roles/admin"), None),
        (
            "PUT",
            format!("projects/{px}/users/{above}/roles/admin"),
            None,
        ),
    ] {
        let (status, said) = world
            .ask(
                &chief,
                method,
                &format!("/keystone/v3/{path}"),
                body.as_ref(),
            )
            .await;
        assert!(matches!(status, 403 | 404), "{path}: {status} {said}");
    }
    let (status, said) = world
        .ask(
            &chief,
            "PUT",
            &format!("/keystone/v3/projects/{px}/users/{user}/roles/reader"),
            None,
        )
        .await;
    assert_eq!(status, 204, "the user's own may be changed: {said}");
}

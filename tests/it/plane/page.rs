//! The page, in a real browser, clicked through; and what it is served with.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::bed::{Bed, until};
use super::browser::Browser;
use super::node::Node;
use super::upgrade::World;

/// What axe-core says, as how bad, which rule, and where.
pub(super) const AXE_RUNS: &str = "axe.run().then((r) => done(r.violations.map((v) => [v.impact, v.id, v.nodes.map((n) => n.html)])))";

/// axe-core, which looks for what keeps people out.
pub(super) fn axe() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/lib/tools.py");
    let said = std::process::Command::new("python3")
        .args([script, "axe"])
        .output();
    let said = said.expect("python3");
    let at = String::from_utf8_lossy(&said.stdout);
    std::fs::read_to_string(at.trim())
        .unwrap_or_else(|e| panic!("axe-core: {e}: {}", String::from_utf8_lossy(&said.stderr)))
}

pub(super) async fn signed_in(bed: &Bed, browser: &Browser) {
    let password = std::fs::read_to_string(bed.file("admin-password")).expect("password");
    browser.open(&format!("{}/", bed.url)).await;
    browser.fill("User", "admin@pf9.local").await;
    browser.fill("Password", password.trim()).await;
    browser.press("Sign in").await;
    browser.sees("Hosts").await;
}

/// The host says that it is what its newest spec asks for.
async fn obeys(node: &Node, name: &str, ip: &str) {
    let mut status = node.status(name, ip);
    status["observed_generation"] = json!(node.current().await.generation);
    let (code, said) = node
        .call(Method::POST, "/v1/hosts/self/status", &status)
        .await;
    assert_eq!(code, 204, "{said}");
}

#[tokio::test]
async fn a_cluster_is_made_by_clicking_and_becomes_ready() {
    let bed = Bed::new().await;
    bed.stack("1.37.2-1").await;
    let (master, worker) = (
        bed.host("m1", "10.1.0.1").await,
        bed.host("w1", "10.1.0.2").await,
    );
    let mut status = worker.status("w1", "10.1.0.2");
    status["inventory"]["dns_servers"] = json!(["10.30.0.53"]);
    // The second one is wider than what is tried: no harm.
    status["inventory"]["routes"] = json!([{"net": "10.30.4.0/24"}, {"net": "10.0.0.0/8"}]);
    let (code, said) = worker
        .call(Method::POST, "/v1/hosts/self/status", &status)
        .await;
    assert_eq!(code, 204, "{said}");
    let browser = Browser::new().await;
    signed_in(&bed, &browser).await;
    browser.sees("m1").await;
    browser.picture("hosts").await;
    browser.press("Clusters").await;
    browser.sees("there is no cluster yet").await;
    browser.press("New cluster").await;
    browser.fill("Name", "first").await;
    // A host has an address in it: said before anything is made.
    browser.fill("Pod network", "10.1.0.0/16").await;
    browser.press("Next: hosts").await;
    browser
        .sees("addresses in it: m1 (10.1.0.1), w1 (10.1.0.2)")
        .await;
    browser.picture("wizard-refused").await;
    // So is what a host reaches.
    browser.fill("Pod network", "10.30.0.0/16").await;
    browser.press("Next: hosts").await;
    browser
        .sees("addresses in it: w1 (DNS server 10.30.0.53), w1 (route 10.30.4.0/24)")
        .await;
    browser.fill("Pod network", "10.20.0.0/16").await;
    let masters = "//label[normalize-space()='Workloads are allowed on masters']";
    browser.click(masters).await;
    browser.press("Next: hosts").await;
    for (host, zone) in [("m1", "north"), ("w1", "south")] {
        let field = format!("//input[@aria-label='zone of {host}']");
        browser.fill_at(&field, zone).await;
    }
    browser
        .choose("//select[@aria-label='role of m1']", "worker")
        .await;
    browser.press("Next: review").await;
    browser.sees("one of them has to be a master").await;
    browser
        .choose("//select[@aria-label='role of m1']", "master")
        .await;
    browser
        .choose("//select[@aria-label='role of w1']", "worker")
        .await;
    browser.press("Next: review").await;
    browser.sees("2 hosts").await;
    browser.picture("wizard-review").await;
    browser.press("Make the cluster").await;
    browser.sees("2 nodes").await;
    browser.sees("converging").await;
    let made = bed.get("/qbert/v4/{project}/clusters").await;
    assert_eq!(made[0]["allowWorkloadsOnMaster"], true, "{made}");
    let nodes = bed.get("/qbert/v4/{project}/nodes").await;
    let nodes = nodes.as_array().expect("nodes").iter();
    let mut zones: Vec<_> = nodes.map(|n| n["zone"].as_str()).collect();
    zones.sort_unstable();
    assert_eq!(zones, [Some("north"), Some("south")]);
    obeys(&master, "m1", "10.1.0.1").await;
    obeys(&worker, "w1", "10.1.0.2").await;
    // Nobody touches the page: it updates itself.
    until(|| async {
        let state = "return document.querySelector('dd .state').innerText";
        (browser.run(state).await == json!("✓ ok")).then_some(())
    })
    .await;
    browser.picture("cluster").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test]
async fn an_upgrade_is_planned_begun_and_paused_by_clicking() {
    let world = World::new().await;
    let browser = Browser::new().await;
    signed_in(&world.bed, &browser).await;
    browser.press("Clusters").await;
    browser.press("c").await;
    browser
        .click("(//summary[normalize-space()='Plan it'])[1]")
        .await;
    browser
        .click("(//button[normalize-space()='Show what it would do'])[1]")
        .await;
    browser.sees("a → b").await;
    // Masters have no API server here that could be asked for what stands against it: said, and overruled by a person.
    browser.sees("It does not begin unless you say so").await;
    let enabled = "return [...document.querySelectorAll('button')].find((b) => b.innerText === 'Begin').disabled";
    assert_eq!(browser.run(enabled).await, json!(true));
    browser.picture("plan").await;
    browser
        .click("//label[normalize-space()='I know, begin all the same']")
        .await;
    browser.press("Begin").await;
    browser.sees("0 of 3 nodes").await;
    browser.sees("running").await;
    assert!(world.told(0).await.0.is_some(), "the master was told of it");
    browser.press("Pause").await;
    browser.press("Yes, pause").await;
    browser.sees("paused").await;
    browser.picture("paused").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test]
async fn an_alert_comes_is_acknowledged_and_goes() {
    let world = World::new().await;
    let browser = Browser::new().await;
    signed_in(&world.bed, &browser).await;
    let receiver = "/alerts/v1/projects/{project}/receivers/tickets-of-c";
    let body = json!({"kind": "ticket", "url": "https://localhost:1/"});
    let (code, said) = world.bed.ask(Method::PUT, receiver, body).await;
    assert_eq!(code, 200, "{said}");
    browser.press("Alerts").await;
    browser.sees("nothing is wrong").await;
    browser.sees("tickets-of-c").await;
    world.begin().await;
    world.prepared().await;
    world.report(0, Some("put-back")).await;
    let what = "Cluster c has an upgrade that stopped";
    browser.sees(what).await;
    browser.picture("alerts").await;
    browser.press(what).await;
    browser.sees("no room").await;
    browser.press("Acknowledge").await;
    browser.fill("Why", "the disk is being replaced").await;
    browser.press("Acknowledge it").await;
    browser.sees("Default/admin").await;
    browser.picture("alert").await;
    // What somebody opened and wrote stays so when the view is drawn again.
    browser.press("Acknowledge").await;
    browser.fill("Why", "it is known").await;
    browser
        .run("document.activeElement.blur(); window.before = document.querySelector('main h1')")
        .await;
    world.report(1, Some("ready")).await;
    let drawn = "return document.querySelector('main h1') !== window.before";
    until(|| async { (browser.run(drawn).await == json!(true)).then_some(()) }).await;
    let kept = "const d = [...document.querySelectorAll('details')].find((d) => d.open); return d?.querySelector('input').value";
    assert_eq!(browser.run(kept).await, json!("it is known"));
    let (code, said) = world
        .bed
        .admin("/clusters/c/upgrade/cancel", json!({}))
        .await;
    assert_eq!(code, 200, "{said}");
    browser.sees("resolved").await;
    // What did not arrive is told where the alerts are.
    browser.press("Alerts").await;
    browser
        .sees("no address that a project's receiver may")
        .await;
    // Signing out ends the token: the plane forgets it.
    let token = "return JSON.parse(sessionStorage.getItem('pf9-session')).token";
    let token = browser.run(token).await;
    let token = token.as_str().expect("token").to_owned();
    let hosts = || {
        let url = format!("{}/resmgr/v1/hosts", world.bed.url);
        world
            .bed
            .http
            .get(url)
            .header("X-Auth-Token", &token)
            .send()
    };
    assert_eq!(hosts().await.expect("answer").status(), StatusCode::OK);
    browser.press("Sign out").await;
    browser.sees("Password").await;
    let after = hosts().await.expect("answer").status();
    assert_eq!(after, StatusCode::UNAUTHORIZED);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test]
async fn a_token_made_on_the_page_lets_a_machine_in_and_it_appears() {
    let bed = Bed::new().await;
    let browser = Browser::new().await;
    signed_in(&bed, &browser).await;
    browser.sees("no host has joined yet").await;
    browser.press("Add a host").await;
    browser.press("Make a token").await;
    browser.sees("pf9ctl node prep --plane").await;
    let token = browser
        .run("return [...document.querySelectorAll('pre')].at(-1).innerText")
        .await;
    browser.press("Hosts").await;
    browser.sees("no host has joined yet").await;
    let token = token.as_str().expect("token").parse().expect("a token");
    let mut node = Node::new(pf9_hostagent::model::HostId::random());
    node.enrol(&bed, &token).await.expect("enrolled");
    node.connect(&bed).await.expect("connected");
    // What a host says is text, whatever it says.
    let name = "<img src=x onerror=alert(1)>";
    let (code, said) = node.report(name, "10.1.0.9").await;
    assert_eq!(code, 204, "{said}");
    browser.sees(name).await;
    assert_eq!(browser.run("return document.images.length").await, json!(0));
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}

/// Ten thousand would be the same: the page asks for a part, and the plane finds.
#[tokio::test]
async fn hosts_are_looked_through_part_by_part_and_found_by_words() {
    let bed = Bed::new().await;
    for n in 0..53 {
        let mut node = Node::new(pf9_hostagent::model::HostId::random());
        let token = bed.new_token().await;
        node.enrol(&bed, &token).await.expect("enrolled");
        node.connect(&bed).await.expect("connected");
        let (code, said) = node.report(&format!("n{n:02}"), "10.1.0.9").await;
        assert_eq!(code, 204, "{said}");
    }
    let browser = Browser::new().await;
    signed_in(&bed, &browser).await;
    browser.sees("50 of 53 hosts").await;
    browser.picture("hosts-many").await;
    let rows = "return document.querySelectorAll('tbody tr').length";
    browser.press("More").await;
    until(|| async { (browser.run(rows).await == json!(3)).then_some(()) }).await;
    browser.sees("n52").await;
    browser.press("First").await;
    browser.sees("n00").await;
    browser.fill("Filter", "n07").await;
    browser.sees("1 of 1 hosts found, of 53").await;
    assert_eq!(browser.run(rows).await, json!(1));
    browser.fill("Filter", "nobody").await;
    browser.sees("no host is called so").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test]
async fn who_changed_what_is_looked_through_part_by_part() {
    let bed = Bed::new().await;
    let host = bed.host("m1", "10.1.0.1").await;
    let path = format!("/resmgr/v1/hosts/{}/roles/pf9-kube", host.id);
    for _ in 0..60 {
        let (status, said) = bed.ask(Method::PUT, &path, Value::Null).await;
        assert_eq!(status, 200, "{said}");
    }
    let browser = Browser::new().await;
    signed_in(&bed, &browser).await;
    browser.press("Audit").await;
    browser.sees("the newest first").await;
    browser.sees("Default/admin@pf9.local").await;
    browser.sees(&format!("PUT {path}")).await;
    browser.picture("audit").await;
    let rows = "return document.querySelectorAll('tbody tr').length";
    assert_eq!(browser.run(rows).await, json!(50));
    browser.press("Older").await;
    browser.sees("Newest").await;
    let left = until(|| async {
        let left = browser.run(rows).await.as_u64().expect("number");
        (left < 50).then_some(left)
    });
    assert!(left.await >= 10);
    browser.press("Newest").await;
    until(|| async { (browser.run(rows).await == json!(50)).then_some(()) }).await;
    // Somebody does something: it is there without a hand on the page.
    let (status, said) = bed.ask(Method::DELETE, &path, Value::Null).await;
    assert_eq!(status, 200, "{said}");
    browser.sees(&format!("DELETE {path}")).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}

/// On a phone, in the dark, without a pointer, and by a checker of what people with other senses need.
#[tokio::test]
async fn everybody_can_use_it() {
    let bed = Bed::new().await;
    bed.stack("1.37.2-1").await;
    let master = bed.host("m1", "10.1.0.1").await;
    let cluster = bed.cluster("c").await;
    let (code, said) = bed.attach(cluster, &[(&master, true)]).await;
    assert_eq!(code, 200, "{said}");
    let axe = axe();
    let browser = Browser::phone().await;
    browser.open(&format!("{}/ui/", bed.url)).await;
    browser.sees("Sign in").await;
    let views = [
        ("sign-in", "Sign in", String::new()),
        ("hosts", "Hosts", "#/hosts".into()),
        ("join", "Add a host", "#/hosts/join".into()),
        ("host", "m1", format!("#/hosts/{}", master.id)),
        ("clusters", "Clusters", "#/clusters".into()),
        ("new", "New cluster", "#/clusters/new".into()),
        ("cluster", "c", format!("#/clusters/{cluster}")),
        (
            "kubectl",
            "kubectl in c",
            format!("#/clusters/{cluster}/kubectl"),
        ),
        ("alerts", "Alerts", "#/alerts".into()),
        ("audit", "Audit", "#/audit".into()),
        ("plane", "Plane", "#/plane".into()),
    ];
    let mut states = 0;
    for (n, (name, heading, at)) in views.iter().enumerate() {
        if n == 1 {
            signed_in(&bed, &browser).await;
        }
        if n > 0 {
            browser.run(&format!("location.hash = '{at}'")).await;
        }
        let shown = "return document.querySelector('main h1')?.innerText";
        until(|| async { (browser.run(shown).await == json!(heading)).then_some(()) }).await;
        browser.picture(&format!("phone-{name}")).await;
        let wide = browser
            .run("return document.documentElement.scrollWidth - innerWidth")
            .await;
        assert!(
            wide.as_i64().is_some_and(|w| w <= 0),
            "{name} is {wide} px wider than a phone"
        );
        // Without colour a state is a sign and a word.
        let shown = "return [...document.querySelectorAll('.state')].map((e) => e.innerText)";
        let shown = browser.run(shown).await;
        for state in shown.as_array().expect("list") {
            let text = state.as_str().unwrap_or_default();
            let (sign, word) = text.split_once(' ').unwrap_or_default();
            let is_sign = !sign.is_empty() && !sign.contains(char::is_alphanumeric);
            assert!(is_sign && !word.is_empty(), "{name}: {text:?}");
            states += 1;
        }
        browser.run(&axe).await;
        let found = browser.run_later(AXE_RUNS).await;
        let bad = |v: &&Value| matches!(v[0].as_str(), Some("serious" | "critical"));
        let bad: Vec<_> = found.as_array().expect("list").iter().filter(bad).collect();
        assert!(bad.is_empty(), "{name}: {bad:#?}");
    }
    assert!(states > 0, "no state was looked at");
    browser.close().await;
}

#[tokio::test]
async fn the_page_is_served_with_what_keeps_others_out() {
    let bed = Bed::new().await;
    let asked = |path: &str| bed.http.get(format!("{}{path}", bed.url)).send();
    for path in ["/ui/", "/ui/main.js", "/ui/style.css"] {
        let answer = asked(path).await.expect("answer");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = answer.headers()["content-security-policy"]
            .to_str()
            .expect("text");
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert!(!answer.headers().contains_key("set-cookie"));
        let tag = answer.headers()["etag"].clone();
        let again = bed
            .http
            .get(format!("{}{path}", bed.url))
            .header("if-none-match", tag);
        assert_eq!(
            again.send().await.expect("answer").status(),
            StatusCode::NOT_MODIFIED
        );
    }
    for path in ["/ui/nothing.js", "/ui/..%2fadmin-password", "/ui/%2e%2e/x"] {
        assert_eq!(
            asked(path).await.expect("answer").status(),
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    let changes = asked("/ui/changes").await.expect("answer");
    assert_eq!(changes.status(), StatusCode::UNAUTHORIZED);
}

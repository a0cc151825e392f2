use std::os::unix::fs::PermissionsExt;

use super::plane::{Manner as PlaneManner, Plane};
use super::*;
use crate::egress::testing::{FakeProxy, Manner};
use crate::model::{FaultCode, paths};

impl Rig {
    fn password(&self, text: &str) -> String {
        self.file("/root/password", text);
        self.host.at("/root/password").display().to_string()
    }

    fn text(&self, path: &str) -> Option<String> {
        self.host.read_text(path, 1 << 16).expect("read")
    }
}

const COMMS: &str = "pf9-comms.service";

#[tokio::test]
async fn a_proxy_is_set_shown_and_taken_away_again() {
    let rig = Rig::new();
    rig.unit(COMMS, &["enabled", "active"]);
    let before = rig.files();
    let password = rig.password("se:cret\n");
    let line = [
        "proxy",
        "set",
        "http://Proxy.corp:3128",
        "--user",
        "node",
        "--password-file",
        &password,
        "--no-proxy",
        "10.0.0.0/8, .corp.example",
    ];
    let ran = rig.run(&line).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    golden("proxy-set.txt", &ran.text);
    assert!(rig.calls().contains("restart pf9-comms.service"));
    let credentials = rig.text(paths::PROXY_CREDENTIALS);
    assert_eq!(credentials.as_deref(), Some("node:se:cret\n"));
    let mode = |path| {
        let meta = std::fs::metadata(rig.host.at(path)).expect("there");
        meta.permissions().mode() & 0o7777
    };
    assert_eq!(mode(paths::PROXY_CREDENTIALS), 0o600);
    assert_eq!(mode(paths::PROXY_CONFIG), 0o644);
    let config = rig.text(paths::PROXY_CONFIG).expect("written");
    assert!(!config.contains("cret"), "{config}");
    // The daemons read what was written.
    let read = crate::app::Config::load(&rig.host).expect("configuration");
    assert!(read.comms.proxy.no_proxy.names("a.corp.example", 443));

    let shown = rig.run(&["proxy", "show"]).await;
    golden("proxy-show.txt", &shown.text);
    let mut rig = rig;
    rig.json = true;
    let shown = rig.run(&["proxy", "show", "--json"]).await;
    assert!(!shown.text.contains("cret"), "{}", shown.text);
    let json: serde_json::Value = serde_json::from_str(&shown.text).expect("json");
    assert_eq!(json["url"], "http://proxy.corp:3128");
    assert_eq!(json["no_proxy"][1], ".corp.example");
    assert_eq!(json["user"], "node");
    rig.json = false;

    // Another one replaces all of it, the password too.
    let ran = rig.run(&["proxy", "set", "http://other:80"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert_eq!(rig.text(paths::PROXY_CREDENTIALS), None);
    let ran = rig.run(&["proxy", "set", "--none"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    golden("proxy-set-none.txt", &ran.text);
    std::fs::remove_file(rig.host.at("/root/password")).expect("remove");
    assert_eq!(rig.files(), before);
}

/// Its backups leave by it, and it compares the container runtime's proxy with it.
#[tokio::test]
async fn nodelet_has_the_new_proxy_too_if_it_runs() {
    let rig = Rig::new();
    rig.unit(COMMS, &["enabled", "active"]);
    let line = ["proxy", "set", "http://proxy.corp:3128"];
    let ran = rig.run(&line).await;
    let calls = rig.calls();
    assert!(!calls.contains("restart pf9-nodeletd"), "{calls}");
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    rig.unit("pf9-nodeletd.service", &["active"]);
    let ran = rig.run(&line).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(ran.text.contains("pf9-nodeletd were"), "{}", ran.text);
    for unit in [COMMS, "pf9-nodeletd.service"] {
        let call = format!("restart {unit}");
        assert!(rig.calls().contains(&call), "{}", rig.calls());
    }
}

#[tokio::test]
async fn a_tunnel_that_is_stopped_stays_stopped() {
    let rig = Rig::new();
    let ran = rig.run(&["proxy", "set", "http://proxy:3128"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert_eq!(rig.calls(), "");
    assert!(ran.text.contains("pf9-comms does not run"), "{}", ran.text);
}

#[tokio::test]
async fn what_cannot_be_used_leaves_everything_as_it_was() {
    let rig = Rig::new();
    rig.run(&["proxy", "set", "http://good:1"]).await;
    let two_lines = rig.password("one\ntwo\n");
    let before = rig.files();
    let colon = ["--user", "a:b", "--password-file", &two_lines];
    let lines = ["--user", "a", "--password-file", &two_lines];
    let rows: [(&str, &[&str]); 6] = [
        ("http://u:hunter2@proxy:1", &[]),
        ("https://proxy:1", &[]),
        ("http://proxy", &[]),
        ("http://proxy:1", &["--no-proxy", "10.0.0.0/99"]),
        ("http://proxy:1", &colon),
        ("http://proxy:1", &lines),
    ];
    for (url, more) in rows {
        let line = [&["proxy", "set", url], more].concat();
        let ran = rig.run(&line).await;
        assert_eq!(ran.exit, Exit::Usage, "{line:?}: {}", ran.text);
        assert!(!ran.text.contains("hunter2"), "{}", ran.text);
        assert_eq!(rig.files(), before, "{line:?}");
    }
    // Another file has the last word.
    rig.file(
        "/etc/pf9/conf.d/90-mine.toml",
        "[comms.proxy]\nurl = \"http://mine:1\"\n",
    );
    let before = rig.files();
    for line in [["proxy", "set", "http://new:1"], ["proxy", "set", "--none"]] {
        let ran = rig.run(&line).await;
        assert_eq!(ran.exit, Exit::Config, "{}", ran.text);
        assert_eq!(rig.files(), before);
    }
    let mut rig = rig;
    rig.uid = 1000;
    let ran = rig.run(&["proxy", "set", "--none"]).await;
    assert_eq!(ran.exit, Exit::Refused);
}

#[tokio::test]
async fn before_enrolment_the_way_is_tried_up_to_tls() {
    let rig = Rig::new();
    let ran = rig.run(&["proxy", "test"]).await;
    assert_eq!(ran.exit, Exit::Usage, "{}", ran.text);
    assert!(ran.text.contains("--plane"), "{}", ran.text);

    let plane = Plane::start(PlaneManner::Accept).await;
    let proxy = FakeProxy::start(Manner::Basic("node:secret"), &[]).await;
    let password = rig.password("secret");
    let set = ["proxy", "set", &proxy.url(), "--user", "node"];
    let set = [&set[..], &["--password-file", &password]].concat();
    assert_eq!(rig.run(&set).await.exit, Exit::Ok);
    let ran = rig.run(&["proxy", "test", "--plane", &plane.url]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(ran.text.contains("✓ TLS with the plane"), "{}", ran.text);
    assert_eq!(proxy.targets(), [plane.url.trim_start_matches("https://")]);

    let wrong = rig.password("wrong");
    let set = [&set[..5], &["--password-file", &wrong]].concat();
    assert_eq!(rig.run(&set).await.exit, Exit::Ok);
    let ran = rig.run(&["proxy", "test", "--plane", &plane.url]).await;
    assert_eq!(ran.exit, Exit::Refused, "{}", ran.text);
    assert!(ran.text.contains("✗ the proxy's CONNECT"), "{}", ran.text);
    assert!(!ran.text.contains("wrong"), "{}", ran.text);
    let mut rig = rig;
    rig.json = true;
    let ran = rig.run(&["proxy", "test", "--plane", &plane.url]).await;
    let json: serde_json::Value = serde_json::from_str(&ran.text).expect("json");
    let trial = &json["tries"][0];
    assert_eq!(trial["failed"], "proxy-tunnel");
    assert_eq!(trial["fault"]["code"], "proxy-credentials-rejected");
    assert_eq!(trial["passed"][1]["hop"], "proxy-connect");

    std::fs::set_permissions(
        rig.host.at(paths::PROXY_CREDENTIALS),
        std::fs::Permissions::from_mode(0o644),
    )
    .expect("mode");
    let ran = rig.run(&["proxy", "test", "--plane", &plane.url]).await;
    assert_eq!(ran.exit, Exit::Config, "{}", ran.text);
}

#[tokio::test]
async fn prep_node_goes_through_the_proxy() {
    let rig = Rig::new();
    let plane = Plane::start(PlaneManner::Refuse(Fault::new(
        FaultCode::TokenUsed,
        "no",
        "used",
    )))
    .await;
    let proxy = FakeProxy::start(Manner::Honest, &[]).await;
    assert_eq!(
        rig.run(&["proxy", "set", &proxy.url()]).await.exit,
        Exit::Ok
    );
    rig.file("/root/token", &plane.token);
    let token = rig.host.at("/root/token").display().to_string();
    let line = ["prep-node", "--plane", &plane.url, "--token-file", &token];
    let line = [&line[..], &["--skip", "disk"]].concat();
    let ran = rig.run(&line).await;
    assert_eq!(ran.exit, Exit::Refused, "{}", ran.text);
    let target = plane.url.trim_start_matches("https://");
    assert_eq!(proxy.targets(), [target]);
}

#[tokio::test]
async fn decommission_takes_it_away_and_leaves_a_persons_own() {
    let rig = Rig::new();
    let password = rig.password("secret");
    let set = ["proxy", "set", "http://proxy:3128", "--user", "node"];
    let set = [&set[..], &["--password-file", &password]].concat();
    assert_eq!(rig.run(&set).await.exit, Exit::Ok);
    let gone = ["decommission-node", "--yes", "--local"];
    let ran = rig.run(&gone).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert_eq!(rig.host.list("/etc/pf9").expect("list"), ["hostagent.toml"]);

    rig.file("/etc/pf9/conf.d/90-mine.toml", "[log]\nkeep = 2\n");
    assert_eq!(rig.run(&set).await.exit, Exit::Ok);
    assert_eq!(rig.run(&gone).await.exit, Exit::Ok);
    let left = rig.host.list(paths::CONFIG_DIR).expect("list");
    assert_eq!(left, ["90-mine.toml"]);
}

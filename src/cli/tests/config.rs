//! `config get`, `set`, `validate`, `show`, and `version`, `logs`, `phases`.

use std::os::unix::fs::symlink;

use super::*;
use crate::model::paths;

#[tokio::test]
async fn a_setting_is_set_shown_and_taken_back_and_a_persons_files_stay() {
    let rig = Rig::new();
    rig.file(
        "/etc/pf9/conf.d/10-mine.toml",
        "# mine\n[comms]\nping_s = 4\n",
    );
    let before = rig.files();
    let get = async |key: &str| rig.run(&["config", "get", key]).await;
    assert_eq!(get("comms.ping_s").await.text, "4\n");
    let ran = rig.run(&["config", "set", "comms.ping_s", "5"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    golden("config-set.txt", &ran.text);
    assert_eq!(get("comms.ping_s").await.text, "5\n");
    let ran = rig.run(&["config", "set", "log.level", "debug"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    golden("config-show.txt", &rig.run(&["config", "show"]).await.text);
    golden(
        "config-show-effective.txt",
        &rig.run(&["config", "show", "--effective"]).await.text,
    );
    for key in ["comms.ping_s", "log.level"] {
        let ran = rig.run(&["config", "set", key, "--default"]).await;
        assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    }
    assert_eq!(get("comms.ping_s").await.text, "4\n");
    assert_eq!(rig.files(), before);
}

#[tokio::test]
async fn what_the_daemons_could_not_use_is_not_left_there() {
    let rig = Rig::new();
    rig.run(&["config", "set", "comms.ping_s", "5"]).await;
    let before = rig.files();
    let rows: [(&[&str], Exit); 5] = [
        (&["comms.ping_s", "1"], Exit::Config),
        (&["comms.ping_s", "fast"], Exit::Config),
        (&["comms.pong_s", "5"], Exit::Config),
        (&["log.level", "info,x=loud"], Exit::Config),
        (&["comms.proxy.url", "http://p:1"], Exit::Usage),
    ];
    for (line, exit) in rows {
        let ran = rig.run(&[&["config", "set"], line].concat()).await;
        assert_eq!(ran.exit, exit, "{line:?}: {}", ran.text);
        assert_eq!(rig.files(), before, "{line:?}");
    }
    rig.file("/etc/pf9/conf.d/90-mine.toml", "[comms]\nping_s = 9\n");
    let before = rig.files();
    let ran = rig.run(&["config", "set", "comms.ping_s", "6"]).await;
    assert!(ran.text.contains("another file"), "{}", ran.text);
    assert_eq!(rig.files(), before);
    let ran = rig.run(&["config", "get", "comms.nothing"]).await;
    assert_eq!(ran.exit, Exit::Usage);
    assert!(ran.text.contains("hostagent.status_s"), "{}", ran.text);
    assert_eq!(rig.run(&["config", "validate"]).await.exit, Exit::Ok);
    rig.file("/etc/pf9/conf.d/95-bad.toml", "[comms]\npong = 1\n");
    assert_eq!(rig.run(&["config", "validate"]).await.exit, Exit::Config);
}

#[tokio::test]
async fn logs_are_shown_from_their_files_by_time_and_count() {
    let rig = Rig::new();
    let log = format!("{}/comms/comms.log", paths::LOG_DIR);
    let ran = rig.run(&["logs", "comms"]).await;
    assert_eq!(ran.exit, Exit::Failed);
    assert!(ran.text.contains("--list"), "{}", ran.text);
    let text: String = (0..100)
        .map(|n| format!("2020-01-01T00:00:00.{n:03}Z old {n}\n"))
        .collect();
    rig.file(&format!("{log}.1"), "2999-01-01T00:00:00Z older file\n");
    rig.file(
        &log,
        &format!("{text}2999-01-01T00:00:01Z new\n  more of it\n"),
    );
    let ran = rig.run(&["logs", "comms", "-n", "2"]).await;
    assert_eq!(ran.text, "2999-01-01T00:00:01Z new\n  more of it\n");
    let ran = rig.run(&["logs", "comms", "--since", "1h"]).await;
    assert_eq!(
        ran.text,
        "2999-01-01T00:00:00Z older file\n2999-01-01T00:00:01Z new\n  more of it\n"
    );
    // Another user's link leads nowhere.
    std::fs::remove_file(rig.host.at(&log)).expect("remove");
    rig.file("/root/mine", "root's\n");
    symlink(rig.host.at("/root/mine"), rig.host.at(&log)).expect("link");
    let ran = rig.run(&["logs", "comms"]).await;
    assert!(
        ran.exit != Exit::Ok && !ran.text.contains("root's"),
        "{}",
        ran.text
    );
}

#[tokio::test]
async fn what_is_followed_is_shown_as_it_comes_also_into_a_new_file() {
    let rig = Rig::new();
    let log = format!("{}/nodelet/nodelet.log", paths::LOG_DIR);
    rig.file(&log, "first\n");
    let ctx = rig.context();
    let run = rig.run_in(&ctx, &["logs", "nodelet", "--follow"]);
    let change = async {
        let shown = async |words: &str| {
            while !ctx.out.printed().contains(words) {
                tokio::task::yield_now().await;
            }
        };
        shown("first\n").await;
        let at = rig.host.at(&log);
        std::fs::rename(&at, at.with_extension("log.1")).expect("turned over");
        rig.file(&log, "second\n");
        shown("second\n").await;
        ctx.stop.cancel();
    };
    let both = async { tokio::join!(run, change) };
    let (ran, ()) = tokio::time::timeout(Duration::from_secs(20), Box::pin(both))
        .await
        .expect("in time");
    assert_eq!((ran.exit, ran.text.as_str()), (Exit::Ok, "first\nsecond\n"));
}

#[tokio::test]
async fn versions_are_those_of_the_programs_that_run() {
    let rig = Rig::new();
    std::fs::remove_dir_all(rig.host.at("/opt/pf9/agent/current")).expect("remove");
    rig.host
        .link("/opt/pf9/agent/current", "0.2.0")
        .expect("link");
    rig.host
        .link("/opt/pf9/agent/last-good", "0.1.0")
        .expect("link");
    let ran = rig.run(&["version"]).await;
    assert_eq!(ran.exit, Exit::Ok);
    let text = ran
        .text
        .replace(crate::model::document::AGENT_VERSION, "VERSION");
    golden("version.txt", &text);
    golden("phases-list.txt", &rig.run(&["phases", "list"]).await.text);
    let bash = rig.run(&["completions", "bash"]).await.text;
    assert!(bash.contains("_pf9ctl()"), "a completion");
}

#[tokio::test]
async fn how_much_is_logged_is_asked_of_each_and_changed_by_root_for_a_time() {
    use crate::local::{LOG_LEVEL, Method};
    use crate::model::LogLevelStatus;

    let rig = Rig::new();
    let asked = Shared::new(Vec::<String>::new());
    let usual = LogLevelStatus {
        level: "info".into(),
        usual: "info".into(),
        until: None,
    };
    let answer = move |asked: Shared<Vec<String>>| {
        let usual = usual.clone();
        move |request: &Request| {
            assert_eq!(request.path, LOG_LEVEL);
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let mut all = asked.get();
            all.push(format!("{} {body}", request.method));
            asked.set(all);
            match request.method {
                Method::POST => ok_json(&LogLevelStatus {
                    level: "debug".into(),
                    until: Some("2999-01-01T00:00:00Z".parse().expect("time")),
                    ..usual.clone()
                }),
                _ => ok_json(&usual),
            }
        }
    };
    rig.serve(paths::COMMS_SOCKET, answer(asked.clone()));
    let hostagent = rig.serve(paths::HOSTAGENT_SOCKET, answer(asked.clone()));
    // nodelet sleeps, and is not woken to be asked.
    let ran = rig.run(&["log-level"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    golden("log-level.txt", &ran.text);
    let ran = rig
        .run(&["log-level", "debug", "--for", "2h", "--of", "comms"])
        .await;
    assert!(ran.text.contains("debug; in "), "{}", ran.text);
    let last = asked.get().pop().expect("asked");
    assert_eq!(last, r#"POST {"level":"debug","for_s":7200}"#);
    rig.run(&["log-level", "usual", "--of", "comms"]).await;
    assert!(asked.get().pop().expect("asked").starts_with("DELETE"));
    // One of them is silent: the other one is shown, and the exit code says so.
    hostagent.abort();
    std::fs::remove_file(rig.host.at(paths::HOSTAGENT_SOCKET)).expect("gone");
    let ran = rig.run(&["log-level"]).await;
    assert_eq!(ran.exit, Exit::Partial, "{}", ran.text);
    assert!(ran.text.contains("info, as configured"), "{}", ran.text);
    for bad in ["0s", "25h", "soon"] {
        let line = ["pf9ctl", "log-level", "debug", "--for", bad];
        command().try_get_matches_from(line).expect_err(bad);
    }
    let mut rig = rig;
    rig.uid = 1000;
    let ran = rig.run(&["log-level", "debug"]).await;
    assert_eq!(ran.exit, Exit::Refused, "{}", ran.text);
}

#[tokio::test]
async fn a_code_is_explained_and_a_mistyped_one_finds_its_neighbours() {
    let mut rig = Rig::new();
    let ran = rig.run(&["explain", "`disk-full`"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    golden("explain.txt", &ran.text);
    let ran = rig.run(&["explain", "disk-ful"]).await;
    assert_eq!(ran.exit, Exit::Usage, "{}", ran.text);
    assert!(ran.text.contains("there are disk-full"), "{}", ran.text);
    let all = rig.run(&["explain"]).await.text;
    rig.json = true;
    let ran = rig.run(&["explain", "disk-full"]).await;
    let said: serde_json::Value = serde_json::from_str(&ran.text).expect("json");
    assert_eq!(
        (&said["code"], &said["exit"]),
        (&"disk-full".into(), &73.into())
    );
    assert!(said["do"].is_string(), "{said}");
    for code in FaultCode::ALL {
        assert!(all.contains(code.word()), "{}", code.word());
        let ran = rig.run(&["explain", code.word()]).await;
        assert_eq!(ran.exit, Exit::Ok, "{}", code.word());
    }
}

#[tokio::test]
async fn phases_are_stopped_for_a_time_and_started_by_root() {
    use crate::local::Method;
    use crate::model::{MaintenanceBy, MaintenanceStatus};

    let rig = Rig::new();
    let asked = Shared::new(Vec::<String>::new());
    let seen = asked.clone();
    rig.serve(paths::NODELET_SOCKET, move |request: &Request| {
        let mut all = seen.get();
        all.push(format!("{} {}", request.method, request.path));
        seen.set(all);
        match request.method {
            Method::POST if request.path == "/v1/wake" => Reply::empty(),
            _ => ok_json(&MaintenanceStatus {
                by: MaintenanceBy::Root,
                since: "2026-01-01T00:00:00Z".parse().expect("time"),
                until: "2999-01-01T00:00:00Z".parse().expect("time"),
                reason: "a disk".into(),
            }),
        }
    });
    let ran = rig
        .run(&["phases", "stop", "--for", "2h", "--reason", "a disk"])
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(
        asked.get().contains(&"POST /v1/maintenance".to_owned()),
        "{:?}",
        asked.get()
    );
    let ran = rig.run(&["phases", "start"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    golden("phases-start.txt", &ran.text);
    let last = asked.get();
    assert_eq!(
        last[last.len() - 2..],
        ["DELETE /v1/maintenance", "POST /v1/wake"]
    );
    let mut rig = rig;
    rig.uid = 1000;
    for line in [
        &["phases", "start"][..],
        &["phases", "stop", "--for", "1h", "--reason", "x"],
    ] {
        assert_eq!(rig.run(line).await.exit, Exit::Refused);
    }
}

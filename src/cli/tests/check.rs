//! `node check`, whole: against a machine below a temporary root and a plane behind real TLS.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::plane::{Manner, Plane};
use super::*;
use crate::model::paths;
use crate::preflight::{CheckOutcome, Group, Severity, TABLE};

impl Rig {
    async fn check_json(&self, more: &[&str]) -> (Exit, Value) {
        let mut context = self.context();
        context.out = Output::memory(true);
        let line = [&["check-node", "--json"], more].concat();
        let ran = self.run_in(&context, &line).await;
        let value: Value = serde_json::from_str(&ran.text).expect("one JSON value");
        (ran.exit, value)
    }
}

fn found<'a>(report: &'a Value, id: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|c| c["id"] == id).expect(id)
}

#[tokio::test]
async fn every_check_is_in_the_report_and_fits_the_schema() {
    let rig = Rig::new();
    let (exit, report) = rig.check_json(&["--skip", "disk=its own"]).await;
    schema::check("check-node.json", &report);
    let ids: Vec<&str> = report["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .filter_map(|c| c["id"].as_str())
        .collect();
    let all: Vec<&str> = TABLE.iter().map(|e| e.id).collect();
    assert_eq!(ids, all);
    assert_eq!(found(&report, "disk")["why"], "by --skip: its own");
    // Not enrolled: what needs a host is left out, and why is said.
    for id in [
        "plane",
        "clock-offset",
        "identity",
        "certificates",
        "daemons",
    ] {
        assert_eq!(found(&report, id)["outcome"], "skip", "{id}");
        assert!(!found(&report, id)["why"].as_str().expect("why").is_empty());
    }
    let failed = report["verdict"] == "fail";
    assert_eq!(exit != Exit::Ok, failed, "{report:#}");
    assert_eq!(
        rig.host.found("/var/lib/.pf9-check-sync").expect("found"),
        crate::host::fs::Found::Nothing
    );
}

#[tokio::test]
async fn a_stream_is_a_line_for_each_check_and_one_for_the_report() {
    let rig = Rig::new();
    let mut context = rig.context();
    context.out = Output::memory(true);
    let line = ["node", "check", "--output", "json-stream"];
    let ran = rig.run_in(&context, &line).await;
    let lines: Vec<Value> = ran
        .text
        .lines()
        .map(|l| serde_json::from_str(l).expect("a value a line"))
        .collect();
    for line in &lines {
        schema::check("check-node-stream.json", line);
    }
    assert_eq!(lines.len(), TABLE.len() + 1);
    let last = lines.last().expect("last");
    let counted: u64 = ["ok", "warn", "fail", "skip"]
        .iter()
        .filter_map(|k| last[k].as_u64())
        .sum();
    assert_eq!(counted, TABLE.len() as u64);
}

/// The schema's words are the program's.
#[test]
fn the_schema_knows_every_word() {
    let outcomes: Vec<_> = CheckOutcome::ALL.iter().map(|o| o.as_str()).collect();
    let severities: Vec<_> = Severity::ALL.iter().map(|o| o.as_str()).collect();
    let groups: Vec<_> = Group::ALL.iter().map(|o| o.as_str()).collect();
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas/check-node.json");
    let text = std::fs::read_to_string(path).expect("schema");
    let schema: Value = serde_json::from_str(&text).expect("json");
    for (def, words) in [
        ("outcome", outcomes),
        ("severity", severities),
        ("group", groups),
    ] {
        assert_eq!(
            schema["$defs"][def]["enum"],
            serde_json::json!(words),
            "{def}"
        );
    }
}

#[tokio::test]
async fn the_plane_is_gone_to_and_its_clock_is_read() {
    let rig = Rig::new();
    let plane = Plane::start(Manner::Clock(-7200)).await;
    let (_, report) = rig.check_json(&["--plane", &plane.url]).await;
    let reached = found(&report, "plane");
    assert_eq!(reached["outcome"], "ok", "{reached:#}");
    let hops = reached["evidence"].to_string();
    for hop in ["DNS of the plane", "TCP to the plane", "TLS with the plane"] {
        assert!(hops.contains(hop), "{hop}: {hops}");
    }
    let clock = found(&report, "clock-offset");
    assert_eq!(clock["outcome"], "warn", "{clock:#}");
    let said = clock["found"].as_str().expect("found");
    assert!(
        said.contains("ahead of the plane's, give or take"),
        "{said}"
    );
    let right = Plane::start(Manner::Clock(0)).await;
    let (_, report) = rig.check_json(&["--plane", &right.url]).await;
    let clock = found(&report, "clock-offset");
    assert_eq!(clock["outcome"], "ok", "{clock:#}");
}

#[tokio::test]
async fn a_plane_that_does_not_answer_is_named_with_the_hop_and_bounded_in_time() {
    let rig = Rig::new();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let url = format!("https://{}", silent.local_addr().expect("address"));
    let began = Instant::now();
    let (exit, report) = rig.check_json(&["--plane", &url]).await;
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    let reached = found(&report, "plane");
    assert_eq!(reached["outcome"], "fail");
    assert!(
        reached["why"]
            .as_str()
            .expect("why")
            .contains("TLS with the plane"),
        "{reached:#}"
    );
    assert_eq!(reached["code"], "plane-timeout");
    assert_ne!(exit, Exit::Ok);
}

#[tokio::test]
async fn warnings_count_when_it_is_strict() {
    let rig = Rig::new();
    rig.file("/etc/rancher/k3s/config.yaml", "x");
    // What depends on the machine that this runs on is left out.
    let skips: Vec<String> = TABLE
        .iter()
        .filter(|e| e.id != "leftovers")
        .flat_map(|e| ["--skip".to_owned(), format!("{}=not here", e.id)])
        .collect();
    let mut line: Vec<&str> = skips.iter().map(String::as_str).collect();
    let (exit, report) = rig.check_json(&line).await;
    assert_eq!((exit, report["verdict"].as_str()), (Exit::Ok, Some("warn")));
    line.push("--strict");
    let (exit, _) = rig.check_json(&line).await;
    assert_eq!(exit, Exit::NotReady);
}

/// Operators' own programs, through a systemd-run that has no sandbox.
#[tokio::test]
async fn checks_of_operators_are_in_the_report_under_the_names_of_their_programs() {
    let rig = Rig::new();
    rig.file("/run/systemd/system/README", "");
    let runs = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done; shift\nexec \"$@\"\n";
    rig.program("/usr/bin/systemd-run", runs);
    let said = r#"{"schema": 1, "checks": [
        {"name": "md0", "ok": false, "found": "1 of 2 disks", "fix": "replace /dev/sdb"},
        {"name": "md1", "ok": true}]}"#;
    let raid = format!("#!/bin/sh\ncat <<'END'\n{said}\nEND\n");
    rig.program("/etc/pf9/check.d/raid", &raid);
    // Not to be executed.
    rig.file("/etc/pf9/check.d/notes", &raid);
    let skips: Vec<String> = TABLE
        .iter()
        .flat_map(|e| ["--skip".to_owned(), format!("{}=not here", e.id)])
        .collect();
    let line: Vec<&str> = skips.iter().map(String::as_str).collect();
    let (exit, report) = rig.check_json(&line).await;
    schema::check("check-node.json", &report);
    // They warn, and refuse nothing.
    assert_eq!((exit, report["verdict"].as_str()), (Exit::Ok, Some("warn")));
    let md0 = found(&report, "raid/md0");
    for (field, want) in [
        ("group", "operators"),
        ("outcome", "warn"),
        ("found", "1 of 2 disks"),
        ("fix", "replace /dev/sdb"),
    ] {
        assert_eq!(md0[field], want, "{md0:#}");
    }
    assert_eq!(found(&report, "raid/md1")["outcome"], "ok");
    let notes = found(&report, "check.d/notes");
    assert_eq!(notes["outcome"], "warn", "{notes:#}");
    let why = notes["found"].as_str().expect("words");
    assert!(why.contains("not everybody can read and run it"), "{why}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_fails_with_its_own_code() {
    let rig = Rig::new();
    rig.file(paths::CONFIG, "[comms]\nping = 1\n");
    let (_, report) = rig.check_json(&[]).await;
    let config = found(&report, "configuration");
    assert_eq!(
        (&config["outcome"], &config["code"]),
        (&"fail".into(), &"config-invalid".into())
    );
    assert!(
        config["why"].as_str().expect("why").contains("comms.ping"),
        "{config:#}"
    );
}

#[test]
fn the_list_is_the_reviewed_one() {
    use super::super::output::Show;
    let text = super::super::check::list::List::ours()
        .screen(100)
        .text(false);
    golden("check-node-list.txt", &text);
}

/// The page for people, made of the table, the thresholds and the exit codes.
#[test]
fn the_page_of_checks_is_made_of_the_program() {
    let mut page = String::from(
        "# Checks, thresholds and exit codes\n\nMade of the program by a test; `pf9ctl node check --list` prints the same. \
         A check of severity *required* may fail, one that is\n*recommended* may warn, one for *info* does neither. \
         `--skip ID=reason` leaves one out, and the reason is in the report. Reports as JSON:\n\
         [schema](schemas/check-node.json), [of a stream's lines](schemas/check-node-stream.json).\n",
    );
    let mut group = None;
    for entry in TABLE {
        if group != Some(entry.group) {
            group = Some(entry.group);
            page.push_str(&format!(
                "\n## {}\n\n| check | severity | looks at |\n|---|---|---|\n",
                entry.group.as_str()
            ));
        }
        page.push_str(&format!(
            "| `{}` | {} | {} |\n",
            entry.id,
            entry.severity.as_str(),
            entry.what
        ));
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = std::fs::read_to_string(root.join("src/preflight/thresholds.toml")).expect("data");
    page.push_str(&format!(
        "\n## Thresholds\n\n`src/preflight/thresholds.toml`, part of every program:\n\n```toml\n{data}```\n"
    ));
    page.push_str("\n## Exit codes\n\nOf every verb of `pf9ctl` and every program of the agent.\n\n| code | meaning |\n|---:|---|\n");
    for exit in Exit::ALL {
        page.push_str(&format!("| {} | {} |\n", exit.code(), exit.meaning()));
    }
    golden_at("docs/checks.md", &page);
}

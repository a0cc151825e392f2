//! A daemon's log level, changed while it runs: by root, for a time, and back to the configuration automatically.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

/// An unoptimised program, on a machine that compiles beside it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// nodelet's present level.
fn asked(root: &Path, words: &[&str]) -> Option<Value> {
    let ran = Command::new(crate::support::program("pf9ctl"))
        .arg("--root")
        .arg(root)
        .args(["log-level", "--json", "--of", "nodelet"])
        .args(words)
        .output()
        .expect("pf9ctl");
    let said: Value = serde_json::from_slice(&ran.stdout).expect("json");
    ran.status.success().then(|| said["daemons"][0].clone())
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < PATIENCE, "it does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_log_level_is_changed_for_a_time_and_logs_who_did_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let root = dir.path();
    for made in [
        "run/pf9",
        "var/log/pf9/kube",
        "var/log/pf9/nodelet",
        "var/opt/pf9/nodelet",
    ] {
        std::fs::create_dir_all(root.join(made)).expect("directory");
    }
    let daemon = Command::new(crate::support::program("pf9-nodeletd"))
        .arg("--root")
        .arg(root)
        .spawn();
    let _daemon = Daemon(daemon.expect("start"));
    let log = || {
        std::fs::read_to_string(root.join("var/log/pf9/nodelet/nodelet.log")).unwrap_or_default()
    };

    let usual = until(|| asked(root, &[]));
    assert_eq!(
        (&usual["level"], &usual["until"]),
        (&"info".into(), &Value::Null)
    );
    let quiet = asked(root, &["warn", "--for", "2s"]).expect("changed");
    assert_eq!(quiet["level"], "warn");
    assert!(quiet["until"].is_string(), "{quiet}");
    // At every level, and from which program.
    let line = until(|| {
        let log = log();
        let line = log
            .lines()
            .find(|l| l.contains("the log level was changed"));
        line.map(str::to_owned)
    });
    assert!(
        line.contains("level=\"warn\"") && line.contains("uid=0"),
        "{line}"
    );

    until(|| (asked(root, &[])?["level"] == "info").then_some(()));
    until(|| {
        log()
            .contains("the log level is back to normal")
            .then_some(())
    });
    asked(root, &["debug", "--for", "24h"]).expect("changed");
    assert_eq!(
        asked(root, &["usual"]).expect("changed")["until"],
        Value::Null
    );
}

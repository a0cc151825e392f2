//! `node prep --dry-run` and `--fix`: what is shown is what is done, and what is done can be taken back.

use serde_json::Value;

use super::plane::{Manner, Plane};
use super::*;
use crate::model::paths;

/// What depends on the machine that this runs on is left out.
const SKIPS: [&str; 4] = ["--skip", "disk=its own", "--skip", "clock=its own"];

impl Rig {
    async fn dry(&self, url: &str, more: &[&str]) -> (Exit, Value) {
        let mut context = self.context();
        context.out = Output::memory(true);
        let line = ["node", "prep", "--plane", url, "--dry-run", "--json"];
        let ran = self
            .run_in(&context, &[&line, &SKIPS[..], more].concat())
            .await;
        (ran.exit, serde_json::from_str(&ran.text).expect("json"))
    }
}

fn steps(plan: &Value, word: &str, key: &str) -> Vec<String> {
    let all = plan["steps"].as_array().expect("steps").iter();
    all.filter(|s| s["step"] == word)
        .filter_map(|s| s[key].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn what_a_dry_run_shows_is_what_a_run_does() {
    let rig = Rig::new();
    let plane = Plane::start(Manner::Accept).await;
    let before = rig.files();
    let (exit, plan) = rig.dry(&plane.url, &[]).await;
    assert_eq!(exit, Exit::Ok, "{plan:#}");
    assert_eq!(rig.files(), before, "nothing is changed");
    assert_eq!(rig.calls(), "", "nobody is asked to do anything");
    rig.daemons_are_up();
    let token = rig.token(&plane.token);
    let line = [
        "node",
        "prep",
        "--plane",
        &plane.url,
        "--token-file",
        &token,
    ];
    let ran = rig.run(&[&line, &SKIPS[..]].concat()).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    // Units, in their order.
    let mut calls = Vec::new();
    for step in plan["steps"].as_array().expect("steps") {
        let verb = step["step"].as_str().expect("word");
        if let (Some(unit), "enable" | "restart" | "start") = (step["unit"].as_str(), verb) {
            calls.push(format!("{verb} {unit}"));
        }
    }
    // A unit that failed before is forgiven that as it is started.
    let done = rig.calls();
    let done = done.lines().filter(|c| !c.starts_with("reset-failed"));
    assert_eq!(done.collect::<Vec<_>>(), calls);
    // Files: each that came is announced, and each that is announced came.
    let writes: Vec<&str> = plan["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .find(|s| s["step"] == "write")
        .and_then(|s| s["paths"].as_array())
        .expect("paths")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let after = rig.files();
    for path in after
        .keys()
        .filter(|p| !before.contains_key(*p) && !p.starts_with("root"))
    {
        let path = format!("/{}", path.display());
        assert!(
            writes.iter().any(|w| path.starts_with(w)),
            "{path} was not announced"
        );
    }
    for path in writes.iter().filter(|p| **p != paths::TRUST_VERSION) {
        assert!(rig.host.at(path).exists(), "{path} did not come");
    }
    // And again: nothing but what is there.
    let (_, again) = rig.dry(&plane.url, &[]).await;
    assert!(steps(&again, "enrol", "plane").is_empty(), "{again:#}");
    assert_eq!(
        steps(&again, "start", "unit").len(),
        steps(&plan, "restart", "unit").len()
    );
    assert!(steps(&again, "enable", "unit").is_empty());
    let text = rig
        .run(
            &[
                &[
                    "node",
                    "prep",
                    "--plane",
                    "https://plane.example",
                    "--force",
                    "--dry-run",
                ],
                &SKIPS[..],
            ]
            .concat(),
        )
        .await
        .text;
    let id = crate::identity::host_id(&rig.host)
        .expect("id")
        .expect("id")
        .to_string();
    golden("prep-dry-run.txt", &text.replace(&id, "HOST-ID"));
}

#[tokio::test]
async fn swap_and_limits_are_put_right_and_taken_back_by_what_is_said() {
    let rig = Rig::new();
    let fstab = "# mine\nUUID=1 / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\n";
    rig.file("/etc/fstab", fstab);
    rig.file(
        "/proc/swaps",
        "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n",
    );
    rig.file("/proc/sys/fs/inotify/max_user_instances", "8\n");
    let root = rig.dir.path().display().to_string();
    let swapoff = format!(
        "#!/bin/sh\necho \"swapoff $*\" >> {root}/calls\necho 'Filename Type Size Used Priority' > {root}/proc/swaps\n"
    );
    rig.program("/usr/sbin/swapoff", &swapoff);
    let plane = Plane::start(Manner::Accept).await;
    let (exit, plan) = rig.dry(&plane.url, &[]).await;
    assert_eq!(exit, Exit::NotReady);
    assert!(
        plan["refused"].as_str().expect("why").contains("swap:"),
        "{plan:#}"
    );
    let (exit, plan) = rig.dry(&plane.url, &["--fix"]).await;
    assert_eq!(exit, Exit::Ok, "{plan:#}");
    let fixes: Vec<&str> = plan["fixes"]
        .as_array()
        .expect("fixes")
        .iter()
        .filter_map(|f| f["fix"].as_str())
        .collect();
    assert_eq!(fixes, ["swap", "limits"]);
    rig.daemons_are_up();
    let token = rig.token(&plane.token);
    let line = [
        &[
            "node",
            "prep",
            "--plane",
            &plane.url,
            "--token-file",
            &token,
            "--fix",
        ],
        &SKIPS[..],
    ]
    .concat();
    // Nobody sits there: nothing is changed unasked.
    for more in [&[][..], &["--no-prompt"]] {
        let ran = rig.run(&[&line[..], more].concat()).await;
        assert_eq!(ran.exit, Exit::Usage, "{}", ran.text);
        assert!(ran.text.contains("--yes"), "{}", ran.text);
        assert_eq!(rig.calls(), "");
    }
    let ran = rig.run(&[&line[..], &["--yes"]].concat()).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(
        ran.text
            .contains("undo: sed -i 's/^# pf9ctl node prep: //' /etc/fstab && swapon -a"),
        "{}",
        ran.text
    );
    assert!(
        rig.calls().starts_with("swapoff /dev/sda2\n"),
        "{}",
        rig.calls()
    );
    let read = |path: &str| {
        rig.host
            .read_text(path, 4096)
            .expect("read")
            .unwrap_or_default()
    };
    assert!(read("/etc/fstab").contains("# pf9ctl node prep: /dev/sda2 none swap"));
    assert_eq!(
        read("/etc/fstab").replace("# pf9ctl node prep: ", ""),
        fstab
    );
    assert_eq!(
        read("/proc/sys/fs/inotify/max_user_instances").trim(),
        "128"
    );
    assert!(
        read("/etc/sysctl.d/80-pf9-prep.conf")
            .contains("# was 8\nfs.inotify.max_user_instances = 128")
    );
    // Nothing is left to be put right.
    let (_, plan) = rig.dry(&plane.url, &["--fix"]).await;
    assert_eq!(plan["fixes"].as_array().map(Vec::len), Some(0), "{plan:#}");
}

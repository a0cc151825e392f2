//! One version of the package after another, by hand and by the agent.

use super::*;

/// Runs the script of a package of this version; the calls of systemd's tools that it made.
fn run_of(rig: &Rig, script: &str, version: &str, arguments: &[&str], settles: &str) -> String {
    let root = rig.dir.path();
    let text = std::fs::read_to_string(path_of(script)).expect(script);
    let text = below_root(&text.replace("{version}", version), root);
    let tools = root.join("tools");
    std::fs::create_dir_all(&tools).expect("tools");
    let calls = root.join("tools/calls");
    std::fs::write(&calls, "").expect("calls");
    for tool in [
        "systemctl",
        "systemd-sysusers",
        "systemd-tmpfiles",
        "deb-systemd-helper",
        "deb-systemd-invoke",
    ] {
        let file = tools.join(tool);
        let text = format!("#!/bin/sh\necho \"{tool} $*\" >> {}\n", calls.display());
        std::fs::write(&file, text).expect("tool");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("mode");
    }
    let out = Command::new("/bin/sh")
        .args(["-c", &text, script])
        .args(arguments)
        .env("PATH", format!("{}:/usr/bin:/bin", tools.display()))
        .env("PF9_AGENT_SETTLES", settles)
        .output()
        .expect("sh");
    assert!(
        out.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    std::fs::read_to_string(calls).expect("calls")
}

/// A machine that systemd runs on, and that nothing of ours is on.
fn bare() -> Rig {
    let rig = Rig::new();
    std::fs::remove_dir_all(rig.host.at(paths::AGENT_PROGRAMS)).expect("remove");
    std::fs::create_dir_all(rig.host.at("/run/systemd/system")).expect("directory");
    rig
}

/// Where the links lead, and what of the program that they lead to is there.
fn runs(rig: &Rig) -> (String, Option<String>) {
    let link = |name: &str| {
        let target = std::fs::read_link(rig.host.at(format!("/opt/pf9/agent/{name}")));
        target.expect("a link").display().to_string()
    };
    let program = rig.host.at("/opt/pf9/agent/current/bin/pf9-comms");
    assert_eq!(link("current"), link("last-good"));
    (link("current"), std::fs::read_to_string(program).ok())
}

/// There and back: at every step of dpkg's what the links lead to is there, also while the files of the version before
/// are gone already, and at the end both are the version that is installed.
#[test]
fn an_upgrade_and_a_downgrade_by_hand_leave_no_moment_without_a_program() {
    let rig = bare();
    let files = |version: &str| {
        rig.file(&format!("/opt/pf9/agent/{version}/bin/pf9-comms"), version);
    };
    files("0.1.0");
    let calls = run_of(&rig, "deb/postinst", "0.1.0", &["configure", ""], "");
    assert!(!calls.contains("restart"), "{calls}");
    for (from, to) in [("0.1.0", "0.2.0"), ("0.2.0", "0.1.0")] {
        rig.file("/run/systemd/system/pf9-comms.service", "of a trial");
        run_of(&rig, "deb/preinst", to, &["upgrade", from], "");
        files(to);
        std::fs::remove_dir_all(rig.host.at(format!("/opt/pf9/agent/{from}"))).expect("as dpkg");
        let (link, program) = runs(&rig);
        assert_eq!((link.as_str(), program.as_deref()), (".kept", Some(from)));
        let calls = run_of(&rig, "deb/postinst", to, &["configure", from], "");
        assert!(
            calls.contains("try-restart pf9-comms.service"),
            "what ran is started again: {calls}"
        );
        let (link, program) = runs(&rig);
        assert_eq!((link.as_str(), program.as_deref()), (to, Some(to)));
        let left = rig.host.at("/opt/pf9/agent/.kept").exists()
            || rig
                .host
                .at("/run/systemd/system/pf9-comms.service")
                .exists();
        assert!(!left, "{to}");
    }
    // One that is not finished: dpkg configures the version before again.
    run_of(&rig, "deb/preinst", "0.2.0", &["upgrade", "0.1.0"], "");
    run_of(
        &rig,
        "deb/postinst",
        "0.1.0",
        &["abort-upgrade", "0.2.0"],
        "",
    );
    assert_eq!(runs(&rig), ("0.1.0".into(), Some("0.1.0".into())));
}

/// What the switch has already started is not restarted when the package manager is told.
#[test]
fn the_package_manager_is_told_of_what_runs_without_a_restart() {
    let rig = bare();
    for version in ["0.1.0", "0.2.0"] {
        rig.file(&format!("/opt/pf9/agent/{version}/bin/pf9-comms"), version);
    }
    run_of(&rig, "deb/postinst", "0.2.0", &["configure", ""], "");
    run_of(&rig, "deb/preinst", "0.2.0", &["upgrade", "0.1.0"], "0.2.0");
    assert_eq!(
        runs(&rig).0,
        "0.2.0",
        "it runs from the place that it keeps"
    );
    let calls = run_of(
        &rig,
        "deb/postinst",
        "0.2.0",
        &["configure", "0.1.0"],
        "0.2.0",
    );
    assert!(
        calls.contains("daemon-reload") && !calls.contains("restart"),
        "{calls}"
    );
    let rpm = bare();
    rpm.file("/opt/pf9/agent/0.2.0/bin/pf9-comms", "0.2.0");
    let calls = run_of(&rpm, "rpm/post.sh", "0.2.0", &["2"], "0.2.0");
    assert!(!calls.contains("restart"), "{calls}");
    assert_eq!(runs(&rpm), ("0.2.0".into(), Some("0.2.0".into())));
    let calls = run_of(&rpm, "rpm/postun.sh", "0.1.0", &["1"], "0.2.0");
    assert!(!calls.contains("restart"), "{calls}");
    let calls = run_of(&rpm, "rpm/postun.sh", "0.1.0", &["1"], "");
    assert!(calls.contains("try-restart"), "by hand it is: {calls}");
}

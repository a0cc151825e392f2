//! The package managers themselves, as far as this machine has them: a real apt-get and dpkg with a root of their own
//! and a repository of files.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use uuid::Uuid;

use super::*;
use crate::host::fs::HostFs;
use crate::model::FaultCode;

/// A machine of Debian below a directory, with packages that are empty.
struct Machine {
    dir: tempfile::TempDir,
    host: Host,
    attempt: u32,
}

fn sh(script: &str) -> String {
    let out = Command::new("sh")
        .args(["-euc", script])
        .output()
        .expect("sh");
    assert!(
        out.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A program of the machine: the real one, told where its root is.
fn program(path: &Path, script: &str) {
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
    std::fs::write(path, format!("#!/bin/sh\n{script}\n")).expect("write");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = dir.path();
        let root = at.display();
        sh(&format!(
            "cd {root}; mkdir -p var/lib/dpkg/info var/lib/dpkg/updates var/lib/dpkg/triggers var/lib/apt/lists/partial \
             var/cache/apt/archives/partial etc/apt/preferences.d etc/apt/apt.conf.d etc/apt/trusted.gpg.d \
             etc/apt/sources.list.d var/log/apt var/log/pf9/os-update var/opt/pf9/nodelet run repo; \
             touch var/lib/dpkg/status var/lib/dpkg/available repo/Packages; \
             echo 'deb [trusted=yes] file:{root}/repo ./' > etc/apt/sources.list; \
             echo 'ID=debian' > etc/os-release"
        ));
        // No root is needed for it, and no ownership is taken over.
        let dpkg = format!("--root={root} --force-not-root --force-script-chrootless");
        program(
            &at.join("usr/bin/dpkg"),
            &format!("exec /usr/bin/dpkg {dpkg} \"$@\""),
        );
        let options = dpkg.split(' ').map(|o| format!("-o DPkg::Options::={o}"));
        let options = options.collect::<Vec<_>>().join(" ");
        program(
            &at.join("usr/bin/apt-get"),
            &format!(
                "exec /usr/bin/apt-get -o Dir={root} -o Dir::State::status={root}/var/lib/dpkg/status {options} \
                 -o APT::Sandbox::User= \"$@\""
            ),
        );
        let host = Host::new(HostFs::new(at));
        Self {
            dir,
            host,
            attempt: 0,
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// A package in the repository; `files` is shell that fills it, `control` goes into its description.
    fn package(&self, name: &str, version: &str, control: &str, files: &str) {
        let root = self.dir.path().display();
        sh(&format!(
            "cd {root}; rm -rf b; mkdir -p b/DEBIAN b/usr/share/{name}; echo {version} > b/usr/share/{name}/version; \
             printf 'Package: {name}\\nVersion: {version}\\nArchitecture: all\\nMaintainer: t <t@t>\\n{control}Description: t\\n' \
             > b/DEBIAN/control; cd b; {files}\n cd ..; dpkg-deb --build b repo/{name}_{version}.deb >/dev/null; \
             cd repo; for d in *.deb; do dpkg-deb -f $d; echo \"Filename: ./$d\"; echo \"Size: $(stat -c %s $d)\"; \
             echo \"SHA256: $(sha256sum $d | cut -d' ' -f1)\"; echo; done > Packages"
        ));
    }

    fn install(&self, name: &str, version: &str) {
        let root = self.dir.path().display();
        sh(&format!(
            "{root}/usr/bin/dpkg -i {root}/repo/{name}_{version}.deb >/dev/null 2>&1"
        ));
    }

    fn has(&self, name: &str) -> String {
        let root = self.dir.path().display();
        sh(&format!(
            "dpkg-query --admindir={root}/var/lib/dpkg -W -f='${{db:Status-Status}} ${{Version}}' {name}"
        ))
    }

    async fn run(&mut self, goal: OsGoal) -> OsOutcome {
        self.attempt += 1;
        let run = OsRun {
            roll: RollId(Uuid::from_u128(1)),
            goal,
            attempt: self.attempt,
            within_s: 60,
        };
        let on_disk = Ordered {
            schema: Ordered::SCHEMA,
            run: run.clone(),
        };
        ordered(&self.host.fs).save(&on_disk).expect("save");
        perform(&self.host).await.expect("performed");
        outcome(&self.host.fs, &run).expect("an outcome")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at(LOG.trim_start_matches('/'))).expect("log")
    }
}

#[tokio::test]
async fn apt_brings_in_what_is_newer_and_keeps_what_is_not_its_own_and_what_a_person_edited() {
    let mut machine = Machine::new();
    let conf = "mkdir etc; echo theirs > etc/tool.conf; echo /etc/tool.conf > DEBIAN/conffiles";
    for name in ["pf9-hostagent", "kubelet", "goes"] {
        machine.package(name, "1", "", "true");
        machine.install(name, "1");
    }
    machine.package("tool", "1", "", conf);
    machine.install("tool", "1");
    std::fs::write(machine.at("etc/tool.conf"), "edited\n").expect("write");
    machine.package("pf9-hostagent", "2", "", "true");
    machine.package("kubelet", "2", "", "true");
    // A person's pin of the same package does not loose ours.
    let pin = "Package: kubelet\nPin: release *\nPin-Priority: 1001\n";
    std::fs::write(machine.at("etc/apt/preferences.d/p"), pin).expect("write");
    // What comes along, and what would have to go.
    machine.package("comes", "1", "", "true");
    machine.package(
        "tool",
        "2",
        "Depends: comes\n",
        &conf.replace("theirs", "newer"),
    );
    machine.package("eats", "1", "", "true");
    machine.install("eats", "1");
    machine.package("eats", "2", "Conflicts: goes\n", "true");

    let fetched = machine.run(OsGoal::Fetch).await;
    assert_eq!(fetched.fault, None, "{}", machine.log());
    let report = fetched.report;
    assert_eq!(
        (report.available, report.updated, report.held),
        (2, 0, 1),
        "{report:?}"
    );
    assert_eq!(
        machine.has("tool"),
        "installed 1",
        "nothing is changed by that"
    );
    let done = machine.run(OsGoal::Install).await;
    assert_eq!(done.fault, None, "{}", machine.log());
    assert_eq!((done.report.available, done.report.updated), (2, 2));
    assert_eq!(machine.has("tool"), "installed 2");
    assert_eq!(machine.has("comes"), "installed 1");
    for (name, stays) in [
        ("pf9-hostagent", "1"),
        ("kubelet", "1"),
        ("eats", "1"),
        ("goes", "1"),
    ] {
        assert_eq!(machine.has(name), format!("installed {stays}"), "{name}");
    }
    let kept = std::fs::read_to_string(machine.at("etc/tool.conf")).expect("read");
    assert_eq!(kept, "edited\n");
    let again = machine.run(OsGoal::Fetch).await;
    assert_eq!((again.report.available, again.fault), (0, None));
    assert!(machine.log().contains("=== "), "all of it is in the log");
}

#[tokio::test]
async fn a_package_that_fails_is_named_and_finished_first_by_the_next_try() {
    let mut machine = Machine::new();
    let mends = machine.at("mended");
    let script = format!(
        "test -e {} || {{ echo some secret; exit 1; }}",
        mends.display()
    );
    let postinst =
        format!("printf '#!/bin/sh\\n{script}\\n' > DEBIAN/postinst; chmod 755 DEBIAN/postinst");
    machine.package("tool", "1", "", "true");
    machine.install("tool", "1");
    machine.package("tool", "2", "", &postinst);
    assert_eq!(machine.run(OsGoal::Fetch).await.fault, None);
    let failed = machine.run(OsGoal::Install).await;
    let fault = failed.fault.expect("it fails");
    assert_eq!(fault.code, FaultCode::OsUpdateFailed);
    assert!(fault.why.contains("tool"), "{fault}");
    let told = serde_json::to_string(&fault).expect("json");
    assert!(!told.contains("secret"), "{told}");
    assert_ne!(machine.has("tool"), "installed 2");
    // The next one sees it, and does not call that nothing.
    assert!(machine.run(OsGoal::Fetch).await.unfinished);
    std::fs::write(mends, "").expect("write");
    std::fs::create_dir_all(machine.at("run")).expect("mkdir");
    std::fs::write(machine.at("run/reboot-required"), "").expect("write");
    let done = machine.run(OsGoal::Install).await;
    assert_eq!(done.fault, None, "{}", machine.log());
    assert!(done.report.reboot_needed && !done.unfinished);
    assert_eq!(machine.has("tool"), "installed 2");
}

#[tokio::test]
async fn a_repository_that_is_away_and_a_distribution_that_is_not_known_are_said() {
    let mut machine = Machine::new();
    let list = "deb [trusted=yes] http://me:s3cret@127.0.0.1:1/debian ./\n";
    std::fs::write(machine.at("etc/apt/sources.list"), list).expect("write");
    let fast = "Acquire::Retries \"0\";\n";
    std::fs::write(machine.at("etc/apt/apt.conf.d/fast"), fast).expect("write");
    let fault = machine.run(OsGoal::Fetch).await.fault.expect("it is away");
    assert!(
        fault.why.contains("repository") && fault.why.contains("127.0.0.1:1"),
        "{fault}"
    );
    assert!(!fault.to_string().contains("s3cret"), "{fault}");
    std::fs::write(machine.at("etc/os-release"), "ID=slackware\n").expect("write");
    let fault = machine.run(OsGoal::Fetch).await.fault.expect("not known");
    assert_eq!(fault.code, FaultCode::OsUnknown);
    assert!(fault.why.contains("slackware"), "{fault}");
}

#[tokio::test]
async fn a_run_that_is_over_is_not_done_again_and_without_one_nothing_is_done() {
    let mut machine = Machine::new();
    perform(&machine.host).await.expect("nothing is ordered");
    machine.package("tool", "1", "", "true");
    machine.install("tool", "1");
    machine.run(OsGoal::Fetch).await;
    let calls = machine.log().matches("=== ").count();
    perform(&machine.host).await.expect("over");
    assert_eq!(machine.log().matches("=== ").count(), calls);
}

/// Unattended upgrades have it for a while, on every machine once a day.
#[tokio::test]
async fn a_package_manager_that_others_hold_is_waited_for() {
    let mut machine = Machine::new();
    machine.package("tool", "1", "", "true");
    machine.install("tool", "1");
    machine.package("tool", "2", "", "true");
    let (apt, real, held) = (
        machine.at("usr/bin/apt-get"),
        machine.at("usr/bin/real-apt-get"),
        machine.at("held"),
    );
    std::fs::rename(&apt, &real).expect("rename");
    let lock = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (unattended-upgr)";
    let (held, real) = (held.display(), real.display());
    let once = format!(
        "[ -e {held} ] || {{ : > {held}; echo '{lock}' >&2; exit 100; }}; exec {real} \"$@\""
    );
    program(&apt, &once);
    let fetched = machine.run(OsGoal::Fetch).await;
    assert_eq!(fetched.fault, None, "{}", machine.log());
    assert!(machine.log().contains(lock), "it was held");
    assert_eq!(fetched.report.available, 1);
}

/// They would lock each other out, and what is on the disk would be of the wrong one.
#[tokio::test]
async fn a_run_is_not_begun_beside_another_one() {
    let machine = Machine::new();
    let told = machine.at("told");
    let systemctl = format!(
        "case \"$*\" in *'show '*) echo Id={OS_UPDATE}; echo LoadState=loaded; echo ActiveState=active;; \
         *) echo \"$*\" >> {};; esac",
        told.display()
    );
    program(&machine.at("usr/bin/systemctl"), &systemctl);
    let run = OsRun {
        roll: RollId(Uuid::from_u128(1)),
        goal: OsGoal::Install,
        attempt: 1,
        within_s: 60,
    };
    let why = begin(&machine.host, &run).await.expect_err("at work");
    assert!(why.contains("still running"), "{why}");
    assert_eq!(begun(&machine.host.fs), None, "nothing is ordered");
    assert!(!told.exists(), "nothing is started");
}

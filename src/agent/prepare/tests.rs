//! What is staged is another user's: nothing of it is trusted but its digest.

use super::*;
use crate::agent::testing::order;
use crate::host::units::Units;

fn fixture() -> (tempfile::TempDir, HostFs) {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    put(&fs, "/var/lib/dpkg/info/pf9-hostagent.list", b"");
    (dir, fs)
}

fn put(fs: &HostFs, path: &str, bytes: &[u8]) {
    fs.write(path, bytes, &Attrs::mode(0o755)).expect("write");
}

fn file(bytes: &[u8]) -> PackageFile {
    PackageFile {
        format: PackageFormat::Deb,
        arch: arch().into(),
        sha256: crate::model::Digest::of(bytes),
        bytes: bytes.len() as u64,
        path: "v1/x".into(),
    }
}

#[test]
fn only_the_very_bytes_are_taken_in() {
    let (_dir, fs) = fixture();
    let wanted = file(b"package");
    take_in(&fs, &wanted).expect_err("it is missing");
    for wrong in [&b"packagE"[..], b"pack", b"package and more"] {
        put(&fs, &staged(&wanted), wrong);
        take_in(&fs, &wanted).expect_err("other bytes");
        assert!(
            fs.list(paths::AGENT_STATE).expect("list").is_empty(),
            "nothing is left of it"
        );
    }
    fs.remove_file(staged(&wanted)).expect("remove");
    put(&fs, "/elsewhere", b"package");
    std::os::unix::fs::symlink(fs.at("/elsewhere"), fs.at(staged(&wanted))).expect("link");
    take_in(&fs, &wanted).expect_err("a link to what root may read");
    fs.remove_file(staged(&wanted)).expect("remove");
    nix::unistd::mkfifo(&fs.at(staged(&wanted)), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    take_in(&fs, &wanted).expect_err("nobody waits for a pipe");
    fs.remove_file(staged(&wanted)).expect("remove");
    put(&fs, &staged(&wanted), b"package");
    take_in(&fs, &wanted).expect("taken");
    fs.remove_file(staged(&wanted)).expect("remove");
    take_in(&fs, &wanted).expect("it is had");
    // What was changed on the disk since is not trusted either.
    put(&fs, &kept(&wanted), b"packagE");
    take_in(&fs, &wanted).expect_err("other bytes");
}

#[test]
fn packages_that_no_order_names_go() {
    let (_dir, fs) = fixture();
    let order = order(1, "0.2.0");
    let named = kept(&order.target.packages[0]);
    for path in [
        named.as_str(),
        "/var/opt/pf9/agent/0f.deb",
        "/var/opt/pf9/agent/0f.rpm.begun",
        "/var/opt/pf9/agent/switch.json",
    ] {
        put(&fs, path, b"x");
    }
    keep_only(&fs, &order);
    let left = fs.list(paths::AGENT_STATE).expect("list");
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().any(|n| n == "switch.json") && fs.at(named).exists());
}

#[tokio::test]
async fn each_program_says_what_it_is_and_reads_the_configuration_before_anything_changes() {
    let (_dir, fs) = fixture();
    let host = Host::new(fs.clone());
    let order = order(1, "0.2.0");
    let name = Name::of(&order.target.version);
    let good = |program: &str| {
        format!(
            "#!/bin/sh\ncase $1 in --version) echo {program} 0.2.0 ;; --check-config) ;; *) exit 9 ;; esac\n"
        )
    };
    let all = |change: &dyn Fn(&str) -> Option<String>| {
        for program in NAMES {
            let text = change(program).unwrap_or_else(|| good(program));
            put(&fs, &name.program(program), text.as_bytes());
        }
    };
    all(&|_| None);
    try_programs(&host, &order.target, &name)
        .await
        .expect("they run");
    for (bad, words) in [
        ("#!/bin/sh\necho pf9-nodeletd 0.1.0\n", "reports version"),
        ("#!/bin/sh\nexit 3\n", "does not run here"),
        ("no program", "does not run here"),
        (
            "#!/bin/sh\n[ \"$1\" = --version ] || { echo unknown key >&2; exit 78; }\necho x 0.2.0\n",
            "configuration",
        ),
    ] {
        all(&|program| (program == "pf9-nodeletd").then(|| bad.to_owned()));
        let fault = try_programs(&host, &order.target, &name)
            .await
            .expect_err("it is no good");
        assert_eq!(fault.code, FaultCode::AgentPackage);
        assert!(
            fault.why.contains("pf9-nodeletd") && fault.why.contains(words),
            "{fault}"
        );
    }
    drop(Units::new(fs));
}

#[test]
fn the_package_manager_is_known_by_what_it_keeps() {
    let (_dir, fs) = fixture();
    assert_eq!(format(&fs), Some(PackageFormat::Deb));
    fs.remove_file("/var/lib/dpkg/info/pf9-hostagent.list")
        .expect("remove");
    assert_eq!(format(&fs), None);
    let fault = file_for(&fs, &order(1, "0.2.0").target).expect_err("none");
    assert_eq!(fault.code, FaultCode::AgentPackage);
    put(&fs, "/var/lib/rpm/x", b"");
    put(&fs, "/usr/bin/rpm", b"");
    assert_eq!(format(&fs), Some(PackageFormat::Rpm));
}

/// A staged package that root takes in, broken at every point: see [`crate::seam::walk`].
#[cfg(feature = "fault")]
mod walk {
    use std::collections::BTreeMap;

    use super::*;
    use crate::host::ours::paths::WRITTEN_BY_ROOT;
    use crate::host::temps;
    use crate::seam::walk::{Scenario, files, walk};

    const BYTES: &[u8] = b"package";

    struct TakenIn;

    impl Scenario for TakenIn {
        const NAME: &'static str = "package of the agent";
        type World = (tempfile::TempDir, HostFs);

        async fn begin(&self) -> Self::World {
            let (dir, fs) = fixture();
            put(&fs, &staged(&file(BYTES)), BYTES);
            // Of an order before this one.
            put(&fs, &kept(&file(b"older")), b"older");
            (dir, fs)
        }

        async fn life(&self, (_, fs): &mut Self::World, starts: bool) -> bool {
            if starts {
                temps::collect(fs, WRITTEN_BY_ROOT);
            }
            let wanted = file(BYTES);
            if take_in(fs, &wanted).is_err() {
                return false;
            }
            let mut order = order(1, "0.2.0");
            order.target.packages = vec![wanted.clone()];
            order.previous = None;
            keep_only(fs, &order);
            let there = fs.list(paths::AGENT_STATE).expect("list");
            let whole = is_it(&fs.at(kept(&wanted)), &wanted);
            assert!(whole.expect("read"), "what was taken in is whole");
            there.len() == 1
        }

        async fn end(&self, (_, fs): &mut Self::World) -> BTreeMap<String, String> {
            files(fs, |_| false)
        }
    }

    #[tokio::test]
    async fn a_package_broken_anywhere_is_taken_in_whole_and_alone() {
        walk(&TakenIn, 60).await;
    }
}

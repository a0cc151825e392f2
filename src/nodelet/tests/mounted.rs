//! What others mounted below directories of the role, when the role goes: it stays, and nothing else does.

use super::super::removal::RemovalEnd;
use super::super::rig::{Rig, small_node, take_log};
use crate::host::fs::Attrs;
use crate::host::testing::in_namespaces;

#[tokio::test]
async fn what_others_mounted_stays_and_is_named_and_the_role_goes() {
    const THEIRS: &str = "/var/lib/pf9/a/deep/theirs";
    let mut rig = Rig::new();
    rig.converge(&small_node("1", "1")).await;
    let mount = format!("1 2 0:1 / {THEIRS} rw - ext4 x rw\n");
    let file = format!("{THEIRS}/file");
    for (path, text) in [
        (file.as_str(), "theirs"),
        ("/var/lib/pf9/a/deep/file", "ours"),
        ("/proc/self/mountinfo", mount.as_str()),
    ] {
        let attrs = Attrs::mode(0o644);
        rig.fs.write(path, text.as_bytes(), &attrs).expect("write");
    }
    assert_eq!(rig.remove().await, RemovalEnd::Done);
    assert!(rig.fs.at(&file).exists(), "nothing is deleted there");
    assert_eq!(
        rig.fs.list("/var/lib/pf9/a/deep").expect("list"),
        ["theirs"]
    );
    // It is no part of the role: nothing is tried again for it, and a package that goes finds no role.
    let ledger = &rig.life.ledger.ledger;
    assert!(ledger.is_empty() && !ledger.removing);
    let story = take_log(&rig.fs, &mut rig.every_file());
    let named = story.iter().any(|line| line.ends_with(THEIRS));
    assert!(named, "{story:?}");
}

/// A directory that the role made, and over which somebody mounted another one: its content was never ours.
#[tokio::test]
async fn what_others_mounted_over_a_directory_of_ours_stays_with_its_content() {
    const OVER: &str = "/var/lib/pf9/a";
    let mut rig = Rig::new();
    rig.converge(&small_node("1", "1")).await;
    let mount = format!("1 2 0:1 / {OVER} rw - ext4 x rw\n");
    let file = format!("{OVER}/theirs");
    for (path, text) in [(file.as_str(), "theirs"), ("/proc/self/mountinfo", &mount)] {
        let attrs = Attrs::mode(0o644);
        rig.fs.write(path, text.as_bytes(), &attrs).expect("write");
    }
    assert_eq!(rig.remove().await, RemovalEnd::Done);
    assert!(rig.fs.at(&file).exists(), "nothing is deleted there");
    let story = take_log(&rig.fs, &mut rig.every_file());
    let named = story.iter().any(|line| line.ends_with(OVER));
    assert!(named, "{story:?}");
}

/// Files of others over files of ours, a unit and a file that was replaced among them, with real mounts: no name that
/// something is mounted at can be taken away.
#[tokio::test]
async fn a_file_that_others_mounted_over_ours_stays_and_is_named_and_the_role_goes() {
    const NAME: &str = "nodelet::tests::mounted::a_file_that_others_mounted_over_ours_stays_and_is_named_and_the_role_goes";
    const REPLACED: &str = "/etc/crictl.yaml";
    const OVER: [&str; 5] = [
        REPLACED,
        "/etc/pf9/kube.d/a.conf",
        "/etc/systemd/system/pf9-a.service",
        "/etc/systemd/system/pf9-kubelet.service",
        "/var/lib/pf9/a/own",
    ];
    if in_namespaces(NAME, &["--mount"], "mount --make-rprivate /").is_none() {
        return;
    }
    let mut rig = Rig::new();
    let attrs = Attrs::mode(0o644);
    let put = |rig: &Rig, path: &str, text: &str| {
        rig.fs.write(path, text.as_bytes(), &attrs).expect("write");
    };
    let read = |rig: &Rig, path: &str| rig.fs.read_text(path, 4096).expect("read");
    put(&rig, REPLACED, "a person's");
    rig.converge(&small_node("1", "1")).await;
    assert_eq!(read(&rig, REPLACED).as_deref(), Some("ours"));
    put(&rig, OVER[3], "ours");
    put(&rig, OVER[4], "ours");
    put(&rig, "/srv/theirs", "theirs");
    let root = rig.fs.at("/").canonicalize().expect("root");
    for path in OVER {
        let mut mount = std::process::Command::new("mount");
        mount.arg("--bind").arg(rig.fs.at("/srv/theirs"));
        let done = mount.arg(rig.fs.at(path)).status().expect("mount");
        assert!(done.success(), "{path}");
        let unlinked = std::fs::remove_file(rig.fs.at(path));
        let why = unlinked.expect_err("it is mounted over").kind();
        assert_eq!(why, std::io::ErrorKind::ResourceBusy);
    }
    // The kernel's list as a machine with this root sees it.
    let list = std::fs::read_to_string("/proc/self/mountinfo").expect("list");
    let below = format!(" {}/", root.display());
    let list = list.lines().filter(|line| line.contains(&below));
    let list: String = list
        .map(|line| format!("{}\n", line.replace(&below, " /")))
        .collect();
    put(&rig, "/proc/self/mountinfo", &list);
    assert_eq!(rig.remove().await, RemovalEnd::Done);
    for path in OVER {
        assert_eq!(read(&rig, path).as_deref(), Some("theirs"), "{path}");
    }
    let ledger = &rig.life.ledger.ledger;
    assert!(ledger.is_empty() && !ledger.removing);
    assert!(!rig.fs.at("/etc/pf9/kube.d/b.conf").exists());
    assert!(!rig.fs.at("/etc/systemd/system/pf9-b.service").exists());
    // Its copy goes with the ledger: it is not lost.
    let beside = format!("{REPLACED}.before-pf9");
    assert_eq!(read(&rig, &beside).as_deref(), Some("a person's"));
    let story = take_log(&rig.fs, &mut rig.every_file());
    // Of the unit that the ledger does not know nothing is told here: the package's scripts name it.
    for path in OVER.into_iter().filter(|path| *path != OVER[3]) {
        let words = format!("something is mounted at {path}");
        let named = story.iter().any(|line| line.contains(&words));
        assert!(named, "{path}: {story:?}");
    }
    for path in OVER {
        let mut umount = std::process::Command::new("umount");
        let done = umount.arg(rig.fs.at(path)).status().expect("umount");
        assert!(done.success(), "{path}");
        let below = read(&rig, path);
        assert_eq!(below.as_deref().map(|text| text == "theirs"), Some(false));
    }
}

//! What others mounted below directories of the role, when the role goes: it stays, and nothing else does.

use super::super::removal::RemovalEnd;
use super::super::rig::{Rig, small_node, take_log};
use crate::host::fs::Attrs;

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

/// A file that somebody bind-mounted over one of ours cannot be removed (EBUSY), at no later try either.
#[tokio::test]
async fn a_file_that_others_mounted_over_ours_stays_and_is_named_and_the_role_goes() {
    const OVER: &str = "/etc/pf9/kube.d/b.conf";
    let mut rig = Rig::new();
    rig.converge(&small_node("1", "1")).await;
    let mount = format!("1 2 0:1 / {OVER} rw - ext4 x rw\n");
    let attrs = Attrs::mode(0o644);
    rig.fs
        .write("/proc/self/mountinfo", mount.as_bytes(), &attrs)
        .expect("write");
    assert_eq!(rig.remove().await, RemovalEnd::Done);
    assert!(rig.fs.at(OVER).exists(), "it is somebody's");
    assert_eq!(rig.fs.list("/etc/pf9/kube.d").expect("list"), ["b.conf"]);
    assert!(rig.life.ledger.ledger.is_empty());
    let story = take_log(&rig.fs, &mut rig.every_file());
    let named = story.iter().any(|line| line.ends_with(OVER));
    assert!(named, "{story:?}");
}

/// What was there before us is not given up for a mount: its copy stays, and it is tried again.
#[tokio::test]
async fn what_was_there_before_waits_until_nothing_is_mounted_over_it() {
    const OVER: &str = "/etc/crictl.yaml";
    let mut rig = Rig::new();
    let attrs = Attrs::mode(0o644);
    rig.fs.write(OVER, b"theirs", &attrs).expect("write");
    rig.converge(&small_node("1", "1")).await;
    let mount = format!("1 2 0:1 / {OVER} rw - ext4 x rw\n");
    rig.fs
        .write("/proc/self/mountinfo", mount.as_bytes(), &attrs)
        .expect("write");
    // (No mount is really there: it is put back, as it would be tried again where one is.)
    assert_eq!(rig.remove().await, RemovalEnd::Done);
    let now = rig.fs.read_text(OVER, 1024).expect("read");
    assert_eq!(now.as_deref(), Some("theirs"));
}

//! Machines that are broken in one way, in namespaces of their own: the check of that way speaks and no other one,
//! and who does what it says passes.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::super::*;
use crate::host::fs::HostFs;
use crate::host::testing::in_namespaces;
use crate::model::Timestamp;

const HERE: &str = "preflight::tests::broken";

/// A directory with a file system of its own, which the inner test takes for the machine's root.
fn machine(test: &str) -> Option<HostFs> {
    let before = "mount --make-rprivate / && mount -t tmpfs none \"$1\" && mkdir -p \"$1/var/lib\" \"$1/etc\"";
    let dir = in_namespaces(&format!("{HERE}::{test}"), &["--mount"], before)?;
    let host = HostFs::new(&dir);
    fs::write(host.at("/etc/resolv.conf"), "nameserver 10.0.0.1\n").expect("write");
    Some(host)
}

/// What fails or could not be tried.
fn bad(host: &HostFs) -> Vec<&'static str> {
    let facts = Facts::read(host, 0, Timestamp::UNIX_EPOCH).expect("facts");
    let report = Report::of_machine(&facts, &Skips::default());
    let bad = report.checks.into_iter();
    let bad = bad.filter(|c| matches!(c.outcome, Outcome::Fail | Outcome::Skip));
    bad.map(|c| c.id).collect()
}

fn check(host: &HostFs, id: &str) -> Check {
    let facts = Facts::read(host, 0, Timestamp::UNIX_EPOCH).expect("facts");
    let checks = Report::of_machine(&facts, &Skips::default()).checks;
    checks.into_iter().find(|c| c.id == id).expect("check")
}

fn sh(host: &HostFs, line: &str) {
    let out = Command::new("sh")
        .args(["-ec", line])
        .current_dir(host.at("/"))
        .output()
        .expect("sh");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{line}: {said}");
}

/// Breaks it, looks, mends it, looks.
fn breaks(host: &HostFs, id: &str, broken: &str, words: &str, mended: &str) {
    let good = bad(host);
    assert!(!good.contains(&id), "{good:?}");
    sh(host, broken);
    let mut expected = good.clone();
    expected.push(id);
    let mut found = bad(host);
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected, "{broken}");
    let said = check(host, id);
    assert!(
        said.found.contains(words) || said.why.contains(words),
        "{said:?}"
    );
    assert!(!said.fix.is_empty());
    sh(host, mended);
    assert_eq!(bad(host), good, "{mended}");
    assert_no_traces(host.at("/var/lib").as_path());
}

fn assert_no_traces(dir: &Path) {
    for entry in fs::read_dir(dir).expect("list") {
        let entry = entry.expect("entry");
        assert_ne!(entry.file_name(), SCRATCH, "{}", dir.display());
        if entry.file_type().expect("type").is_dir() {
            assert_no_traces(&entry.path());
        }
    }
}

#[test]
fn where_no_program_can_be_run_is_found_by_the_path() {
    let Some(host) = machine("where_no_program_can_be_run_is_found_by_the_path") else {
        return;
    };
    breaks(
        &host,
        "programs",
        "mkdir -p opt/pf9/stacks; mount -t tmpfs -o noexec none opt/pf9/stacks",
        "mounted noexec: /opt/pf9/stacks",
        "mount -o remount,exec opt/pf9/stacks",
    );
    // The same file system once more, and only there.
    breaks(
        &host,
        "programs",
        "mkdir -p opt/pf9/agent; mount --bind opt/pf9/agent opt/pf9/agent; mount -o remount,bind,noexec opt/pf9/agent",
        "/opt/pf9/agent",
        "mount -o remount,bind,exec opt/pf9/agent",
    );
    // Of what is not there yet the directory above counts.
    breaks(
        &host,
        "programs",
        "rm -rf opt/x; mount -t tmpfs -o noexec none opt",
        "/opt/pf9/stacks, /opt/pf9/cni",
        "umount opt",
    );
}

#[test]
fn links_in_the_place_of_directories_are_named() {
    let Some(host) = machine("links_in_the_place_of_directories_are_named") else {
        return;
    };
    let mended = |path: &str| format!("rm {path}; mkdir {path}; mount --bind data {path}");
    for path in ["var/lib/pf9", "var/lib/kubelet", "var/log/pods"] {
        breaks(
            &host,
            "links",
            &format!("mkdir -p data var/log; ln -s ../../data {path}"),
            &format!("/{path} is a link to ../../data"),
            &mended(path),
        );
        sh(&host, &format!("umount {path}; rmdir {path}"));
    }
}

#[test]
fn what_cannot_carry_an_overlay_is_found_by_a_try() {
    let Some(host) = machine("what_cannot_carry_an_overlay_is_found_by_a_try") else {
        return;
    };
    sh(&host, "mkdir -p var/lib/pf9 o/l o/u o/w");
    // Another overlay, as in a container: it cannot be the upper layer of one.
    breaks(
        &host,
        "runtime-storage",
        "mount -t overlay -o lowerdir=o/l,upperdir=o/u,workdir=o/w none var/lib/pf9",
        "/var/lib/pf9: ",
        "mount -t tmpfs none var/lib/pf9",
    );
    sh(&host, "umount var/lib/pf9; umount var/lib/pf9");
    // Deleted directories need attributes that this one does not keep.
    breaks(
        &host,
        "runtime-storage",
        "mkdir -p var/lib/pf9/containerd; mount -t ramfs none var/lib/pf9/containerd",
        "/var/lib/pf9/containerd: ",
        "umount var/lib/pf9/containerd",
    );
    // What a killed try left is no obstacle, and goes.
    sh(
        &host,
        "mkdir -p var/lib/pf9/containerd/.pf9-check/lower/dir",
    );
    assert_eq!(check(&host, "runtime-storage").outcome, Outcome::Ok);
    assert_no_traces(&host.at("/var"));
    // Read-only is another check's, and no file is one that is not tried.
    sh(&host, "mount -t tmpfs -o ro none var/lib/pf9");
    assert_eq!(check(&host, "runtime-storage").outcome, Outcome::Skip);
    let disk = check(&host, "disk");
    assert_eq!(disk.outcome, Outcome::Fail);
    assert!(
        disk.why.contains("/var/lib/pf9 is mounted read-only"),
        "{disk:?}"
    );
}

#[test]
fn who_answers_dns_is_looked_at_through_links() {
    let Some(host) = machine("who_answers_dns_is_looked_at_through_links") else {
        return;
    };
    breaks(
        &host,
        "dns",
        "ln -sf ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf",
        "nothing is there",
        "mkdir -p run/systemd/resolve; echo nameserver 10.0.0.2 > run/systemd/resolve/stub-resolv.conf",
    );
    breaks(
        &host,
        "dns",
        "echo nameserver 127.0.0.53 > run/systemd/resolve/stub-resolv.conf",
        "only this machine itself",
        "echo nameserver 10.0.0.2 > run/systemd/resolve/resolv.conf",
    );
    breaks(
        &host,
        "dns",
        "rm etc/resolv.conf",
        "there is no such file",
        "echo nameserver 10.0.0.2 > etc/resolv.conf",
    );
}

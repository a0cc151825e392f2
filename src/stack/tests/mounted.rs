//! Something of others is mounted in a stack.

use super::*;
use crate::telemetry::chain;

/// To go through it would delete what it shows where that is kept.
#[test]
fn a_stack_in_which_something_is_mounted_stays_and_the_others_go() {
    let node = node();
    let fs = &node.fs;
    for version in ["1", "2", "3"] {
        let stack = recipe(version).stage(&node);
        try_install(&node, &stack).expect("install");
    }
    let theirs = "/opt/pf9/stacks/pf9-kube-1/bin";
    let info = format!("1 2 0:1 / {theirs} rw - ext4 x rw\n");
    let attrs = Attrs::mode(0o444);
    fs.write("/proc/self/mountinfo", info.as_bytes(), &attrs)
        .expect("mounts");
    let why = collect_garbage(fs, &[]).expect_err("said");
    assert!(
        chain(&why).contains(&format!("mounted at {theirs}")),
        "{why}"
    );
    assert_eq!(fs.list(paths::STACKS).expect("list"), ["pf9-kube-1"]);
    // The whole of it, likewise.
    let info = info.replace("/bin", "");
    fs.write("/proc/self/mountinfo", info.as_bytes(), &attrs)
        .expect("mounts");
    collect_garbage(fs, &[]).expect_err("said");
    assert!(fs.at(format!("{theirs}/kubelet")).exists());
}

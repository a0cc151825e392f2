//! A stack that is made of what differs from the active one.

use super::super::delta::{Packed, make_of_archives};
use super::*;

/// The next version: kubelet is another, the add-on is the same.
fn next(node: &Node) -> StackRef {
    const NEXT: &[u8] = b"#!/bin/sh\necho another kubelet\n";
    let mut recipe = recipe("2");
    recipe.tar = tar::Builder::new(Vec::new());
    entry(&mut recipe.tar, "bin", tar::EntryType::Directory, b"");
    entry(
        &mut recipe.tar,
        "bin/kubelet",
        tar::EntryType::Regular,
        NEXT,
    );
    entry(
        &mut recipe.tar,
        "addons/10-x.yaml",
        tar::EntryType::Regular,
        ADDON,
    );
    recipe.manifest.files[0] = listed("bin/kubelet", 0o755, NEXT);
    recipe.stage(node)
}

/// A node with the first stack, and the manifest of the second with what differs; its archive is elsewhere.
fn between() -> (Node, StackRef, StackRef) {
    let node = node();
    let fs = &node.fs;
    let (old, new) = (recipe("1").stage(&node), next(&node));
    try_install(&node, &old).expect("install");
    activate(fs, &old).expect("activate");
    let [was, will] = [&old, &new].map(|stack| {
        let manifest = Manifest::open_staged(fs, stack, &node.trust).expect("manifest");
        manifest.content().clone()
    });
    let packed = |stack: &StackRef| fs.at(staged_archive(&stack.manifest));
    let made = make_of_archives(
        fs,
        &Packed {
            digest: old.manifest,
            manifest: &was,
            archive: packed(&old),
        },
        &Packed {
            digest: new.manifest,
            manifest: &will,
            archive: packed(&new),
        },
        "/var/scratch",
        &staged_delta(&new.manifest, &old.manifest),
    );
    let offer = made.expect("a delta");
    let bytes = fs.read(staged_delta(&new.manifest, &old.manifest), 1 << 20);
    let bytes = bytes.expect("read").expect("a delta");
    assert_eq!(
        (offer.bytes, offer.sha256),
        (bytes.len() as u64, Digest::of(&bytes))
    );
    assert!(
        !fs.at("/var/scratch").exists(),
        "what was unpacked for it is gone"
    );
    fs.remove_file(staged_archive(&new.manifest))
        .expect("remove");
    (node, old, new)
}

#[test]
fn a_stack_is_made_of_the_active_one_and_what_differs() {
    let (node, old, new) = between();
    let content = |stack| Manifest::open_staged(&node.fs, stack, &node.trust).expect("manifest");
    assert_eq!(
        staged(&node.fs, &new, content(&new).content()),
        Staged::Whole
    );
    try_install(&node, &new).expect("install");
    verify_installed(&node.fs, &new, &node.trust, Depth::Full).expect("every byte");
    verify_installed(&node.fs, &old, &node.trust, Depth::Full).expect("the old one is as it was");
    let kubelet = "/opt/pf9/stacks/pf9-kube-2/bin/kubelet";
    assert!(matches!(
        node.fs.found(kubelet),
        Ok(Found::File { mode: 0o755, .. })
    ));
}

/// Whatever is wrong with it, the archive is fetched then: it goes, and nothing of it stays.
#[test]
fn a_delta_that_makes_something_else_is_gone_and_the_archive_does_it() {
    for cut in [0, 9] {
        let (node, old, new) = between();
        let path = staged_delta(&new.manifest, &old.manifest);
        let bytes = node.fs.read(&path, 1 << 20).expect("read");
        let mut bytes = bytes.expect("a delta");
        bytes.truncate(bytes.len() - cut);
        bytes[12] ^= u8::from(cut == 0);
        node.fs
            .write(&path, &bytes, &Attrs::mode(0o640))
            .expect("write");
        let error = try_install(&node, &new).expect_err("refused");
        assert!(!node.fs.at(&path).exists(), "{error}");
        assert_eq!(
            node.fs.list(paths::STACKS).expect("list"),
            ["current", "pf9-kube-1"],
            "{error}"
        );
        let again = try_install(&node, &new).expect_err("nothing is staged");
        assert!(matches!(again, StackError::NotStaged { .. }), "{again}");
        assert_eq!(next(&node), new, "the archive comes");
        try_install(&node, &new).expect("install");
    }
}

/// One from another stack than the active one is none.
#[test]
fn a_delta_from_another_stack_is_not_looked_at() {
    let (node, old, new) = between();
    let other = Digest::of(b"another");
    let from = staged_delta(&new.manifest, &old.manifest);
    node.fs
        .rename(&from, staged_delta(&new.manifest, &other))
        .expect("rename");
    let error = try_install(&node, &new).expect_err("nothing is staged");
    assert!(matches!(error, StackError::NotStaged { .. }), "{error}");
}

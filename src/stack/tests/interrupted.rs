//! An unpacking that is interrupted anywhere, by the end of the process, of what comes, or of the room: what was
//! verified is not rewritten.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::host::no_threads::NoThreads;
use crate::host::testing::{fill_up, in_namespaces};

/// Bytes that do not pack.
fn bytes(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    let words = std::iter::repeat_with(&mut next).take(len.div_ceil(4));
    words.flatten().take(len).collect()
}

/// A stack of several files, staged; answers the archive's bytes.
fn several(node: &Node) -> (StackRef, Vec<u8>) {
    let mut recipe = recipe("1");
    let lengths = [150_000, 10, 300_000, 0, 200_000, 180_000, 250_000];
    for (n, len) in (0..).zip(lengths) {
        let (path, content) = (format!("images/{n}.tar"), bytes(n, len));
        entry(&mut recipe.tar, &path, tar::EntryType::Regular, &content);
        let listed = listed(&path, 0o644, &content);
        recipe.manifest.files.push(listed);
    }
    let stack = recipe.stage(node);
    let archive = node.fs.at(staged_archive(&stack.manifest));
    let bytes = std::fs::read(archive).expect("read");
    (stack, bytes)
}

/// Each file of it that is whole: which one on the disk, and when it was written.
fn whole(node: &Node, stack: &StackRef, content: &StackManifest) -> BTreeMap<String, (u64, i64)> {
    let of = |file: &StackFile| {
        let at = node.fs.at(incoming_of(stack)).join(&file.path);
        let meta = at.metadata().ok()?;
        let mode = meta.permissions().mode() & 0o7777 == file.mode;
        let same = mode && Digest::of(&std::fs::read(&at).ok()?) == file.sha256;
        same.then(|| (file.path.clone(), (meta.ino(), meta.mtime_nsec())))
    };
    content.files.iter().filter_map(of).collect()
}

/// Nobody waits for what does not come.
fn now() -> Stops {
    let stop = CancellationToken::new();
    stop.cancel();
    Stops::when([stop])
}

/// A few bytes more come each time, and the process ends; at last it ends between any two of what follows.
#[test]
fn no_file_that_was_whole_is_written_again_wherever_it_is_cut() {
    let node = node();
    let (stack, all) = several(&node);
    let content = Manifest::open_staged(&node.fs, &stack, &node.trust).expect("manifest");
    let content = content.content().clone();
    let (archive, part) = (
        node.fs.at(staged_archive(&stack.manifest)),
        node.fs.at(staged_part(&stack.manifest)),
    );
    std::fs::remove_file(&archive).expect("remove");
    let begin = || prepare(&node.fs, &stack, &node.trust, now(), &mut |_| {});
    let mut before = BTreeMap::new();
    let mut grew = 0;
    let stays = |before: &BTreeMap<String, (u64, i64)>| {
        let after = whole(&node, &stack, &content);
        let lost = before
            .iter()
            .find(|(path, at)| after.get(*path) != Some(*at));
        assert_eq!(lost, None, "written again");
        after
    };
    for cut in (0..all.len()).step_by(all.len() / 16) {
        std::fs::write(&part, &all[..cut]).expect("some");
        let ended = begin();
        assert!(matches!(ended, Err(StackError::NotWhole)), "{ended:?}");
        let after = stays(&before);
        grew += usize::from(after.len() > before.len());
        before = after;
    }
    assert!(grew >= 3, "it was cut between files: {grew}");
    // All of it is there, and the process ends before it gets its place.
    std::fs::write(&part, &all).expect("the rest");
    drop(begin().expect("all of it"));
    before = stays(&before);
    assert_eq!(before.len(), content.files.len());
    // The download ends: the part gets its name.
    std::fs::rename(&part, &archive).expect("rename");
    drop(begin().expect("all of it"));
    before = stays(&before);
    // It has its place, is not active, and the archive is gone.
    begin()
        .expect("all of it")
        .put_in_place(&node.fs)
        .expect("in place");
    std::fs::remove_file(&archive).expect("remove");
    let again = begin().expect("it is installed");
    assert!(!again.is_new());
    again.put_in_place(&node.fs).expect("nothing to do");
    let at = |path: &str| node.fs.at("/opt/pf9/stacks/pf9-kube-1").join(path);
    let same = |(path, (ino, _)): (&String, &(u64, i64))| {
        at(path).metadata().is_ok_and(|m| m.ino() == *ino)
    };
    assert!(before.iter().all(same));
    assert_eq!(node.fs.list(paths::STACKS).expect("list"), ["pf9-kube-1"]);
}

/// A file system of its own for stacks, which others fill while a stack is unpacked.
#[test]
fn a_disk_that_fills_in_the_middle_loses_nothing_and_goes_on_when_there_is_room() {
    const NAME: &str = "stack::tests::interrupted::a_disk_that_fills_in_the_middle_loses_nothing_and_goes_on_when_there_is_room";
    let mount =
        "mkdir -p \"$1/opt/pf9/stacks\" && mount -t tmpfs -o size=140m none \"$1/opt/pf9/stacks\"";
    let Some(root) = in_namespaces(NAME, &["--mount"], mount) else {
        return;
    };
    let node = Node {
        fs: HostFs::new(&root),
        ..node()
    };
    let (stack, _) = several(&node);
    let content = Manifest::open_staged(&node.fs, &stack, &node.trust).expect("manifest");
    let content = content.content().clone();
    let disk = node.fs.at(paths::STACKS);
    for active in [false, true] {
        let mut ballast = None;
        let mut fill = |file: &StackFile| {
            if file.path == "images/1.tar" {
                ballast = Some(fill_up(&disk));
            }
        };
        let full = prepare(&node.fs, &stack, &node.trust, now(), &mut fill);
        let says_so = |e: StackError| {
            let fault = e.fault(&stack);
            assert_eq!(fault.code, FaultCode::DiskFull, "{fault}");
            let named = format!(" on {},", disk.display());
            assert!(fault.fix.contains(&named), "{fault:?}");
        };
        says_so(full.expect_err("no room"));
        let before = whole(&node, &stack, &content);
        assert_eq!(before.len(), 4, "{before:?}");
        let half = node.fs.at(incoming_of(&stack)).join("images/2.tar");
        assert!(!half.exists(), "what is not a file takes no room");
        // Still no room: nothing starts.
        let still = prepare(&node.fs, &stack, &node.trust, now(), &mut |_| {});
        assert!(matches!(still, Err(StackError::Space(_))), "{still:?}");
        says_so(still.expect_err("no room"));
        assert_eq!(whole(&node, &stack, &content), before);
        drop(ballast);
        // Room, and not enough of it for what is missing and the reserve.
        let free = space::of(&disk).expect("space").free;
        let ballast = tempfile::NamedTempFile::new_in(&disk).expect("ballast");
        let rest = usize::try_from(free - space::RESERVE_BYTES - 100_000).expect("a length");
        std::fs::write(ballast.path(), vec![7; rest]).expect("ballast");
        let little = prepare(&node.fs, &stack, &node.trust, now(), &mut |_| {});
        assert!(matches!(little, Err(StackError::Space(_))), "{little:?}");
        drop(ballast);
        let mut seen = Vec::new();
        let mut take = |file: &StackFile| seen.push(file.path.clone());
        let done = prepare(&node.fs, &stack, &node.trust, now(), &mut take).expect("room");
        let after = whole(&node, &stack, &content);
        assert!(before.iter().all(|(path, at)| after.get(path) == Some(at)));
        assert_eq!(seen.len(), content.files.len(), "each is tried");
        done.put_in_place(&node.fs).expect("in place");
        let left = node.fs.list(paths::STACKS).expect("list");
        match active {
            false => assert_eq!(left, ["pf9-kube-1"]),
            true => assert_eq!(left, ["current", "pf9-kube-1"]),
        }
        // The other way: something is active, and each file is on the disk before it counts.
        activate(&node.fs, &stack).expect("active");
        let damaged = node.fs.at("/opt/pf9/stacks/pf9-kube-1/bin/kubelet");
        std::fs::write(damaged, "x").expect("damage");
    }
}

/// As where there are no more processes: nothing is wrong with the stack, and nobody ends for it.
#[test]
fn without_another_thread_a_stack_waits() {
    let test = "stack::tests::interrupted::without_another_thread_a_stack_waits";
    // The bound is the process's.
    if in_namespaces(test, &["--mount"], ":").is_none() {
        return;
    }
    let node = node();
    let stack = recipe("1").stage(&node);
    let none = NoThreads::begin();
    let tried = try_install(&node, &stack);
    drop(none);
    let fault = tried.expect_err("no thread").fault(&stack);
    assert_eq!(fault.code, FaultCode::ProcessesFull, "{fault}");
    try_install(&node, &stack).expect("by itself");
}

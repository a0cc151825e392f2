use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;

use std::os::unix::fs::symlink;

use super::testing::*;
use super::*;
use crate::model::Digest;

fn open(bytes: &[u8]) -> io::Result<Option<Plain>> {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("image.tar");
    std::fs::write(&path, bytes).expect("write");
    Plain::open(&path)
}

#[test]
fn a_layer_becomes_a_directory_and_what_is_right_in_it_stays() {
    let plain = open(&of_one(&GOOD)).expect("read").expect("a plain one");
    assert_eq!(plain.names, [NAME]);
    let dir = tempfile::tempdir().expect("tempdir");
    let at = |path: &str| dir.path().join(path);
    plain.fill(dir.path()).expect("filled");
    let toy = std::fs::metadata(at("usr/bin/toy")).expect("there");
    assert_eq!((toy.mode() & 0o7777, toy.mtime()), (0o755, 77));
    assert_eq!(std::fs::read(at("usr/bin/toy")).expect("read"), b"program");
    assert_eq!(
        std::fs::read_link(at("usr/bin/link")).expect("a link"),
        Path::new("toy")
    );
    let bin = std::fs::metadata(at("usr/bin")).expect("there");
    assert_eq!((bin.mode() & 0o7777, bin.mtime()), (0o1777, 77));

    plain.fill(dir.path()).expect("again");
    let same = std::fs::metadata(at("usr/bin/toy")).expect("there");
    assert_eq!(same.ino(), toy.ino(), "nothing is written twice");
    // As after a power cut: the length, and none of the bytes; nothing at all; another kind.
    for damage in ["\0\0\0\0\0\0\0", "", "programs"] {
        std::fs::write(at("usr/bin/toy"), damage).expect("write");
        plain.fill(dir.path()).expect("mended");
        assert_eq!(std::fs::read(at("usr/bin/toy")).expect("read"), b"program");
    }
    std::fs::remove_file(at("usr/bin/toy")).expect("remove");
    let outside = tempfile::NamedTempFile::new().expect("file");
    symlink(outside.path(), at("usr/bin/toy")).expect("link");
    plain.fill(dir.path()).expect("mended");
    assert!(
        std::fs::symlink_metadata(at("usr/bin/toy"))
            .expect("there")
            .is_file()
    );
    assert_eq!(
        outside.as_file().metadata().expect("there").len(),
        0,
        "not through a link"
    );
}

#[test]
fn whatever_else_an_archive_may_be_is_left_to_the_runtimes_tool() {
    let layer = |items: &[Item<'_>]| of_one(items);
    let digest = |bytes: &[u8]| format!("sha256:{}", Digest::of(bytes));
    let good = tarred(&GOOD, 0);
    let theirs = tarred(&GOOD, 1000);
    let packed = zstd::encode_all(&*good, 1).expect("packed");
    let cases: [(&str, Vec<u8>); 14] = [
        ("up", layer(&[("../x", FILE, 0o644, "")])),
        ("absolute", layer(&[("/x", FILE, 0o644, "")])),
        ("nowhere", layer(&[("a/x", FILE, 0o644, "")])),
        (
            "through a link",
            layer(&[("a", LINK, 0o777, "/etc"), ("a/x", FILE, 0o644, "")]),
        ),
        (
            "twice",
            layer(&[("a", FILE, 0o644, ""), ("a", FILE, 0o644, "")]),
        ),
        (
            "a hard link",
            layer(&[
                ("a", FILE, 0o644, ""),
                ("b", tar::EntryType::Link, 0o644, "a"),
            ]),
        ),
        ("a device", layer(&[("a", tar::EntryType::Char, 0o644, "")])),
        ("a whiteout", layer(&[(".wh.a", FILE, 0o644, "")])),
        (
            "somebody's",
            archive(NAME, std::slice::from_ref(&theirs), &[digest(&theirs)]),
        ),
        (
            "two layers",
            archive(
                NAME,
                &[good.clone(), good.clone()],
                &[digest(&good), digest(&good)],
            ),
        ),
        ("packed", archive(NAME, &[packed], &[digest(&good)])),
        (
            "another digest",
            archive(NAME, std::slice::from_ref(&good), &[digest(b"x")]),
        ),
        (
            "a short name",
            archive("busybox:1", std::slice::from_ref(&good), &[digest(&good)]),
        ),
        (
            "no tag",
            archive(
                "pf9.local/toy",
                std::slice::from_ref(&good),
                &[digest(&good)],
            ),
        ),
    ];
    for (what, bytes) in cases {
        assert!(open(&bytes).expect("read").is_none(), "{what}");
    }
    assert!(open(b"").expect("read").is_none());
}

/// The file was truncated between the look and the write: an image of half a program is no image.
#[test]
fn an_archive_that_shrinks_after_it_was_looked_at_fills_nothing_up() {
    let bytes = of_one(&GOOD);
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("image.tar");
    std::fs::write(&path, &bytes).expect("write");
    let plain = Plain::open(&path).expect("read").expect("a plain one");
    let at = bytes
        .windows(7)
        .position(|w| w == b"program")
        .expect("its bytes");
    let file = File::options().write(true).open(&path).expect("open");
    file.set_len(at as u64 + 3).expect("shorter");
    let root = dir.path().join("root");
    std::fs::create_dir(&root).expect("directory");
    let error = plain.fill(&root).expect_err("its end is gone");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

/// What is in a snapshot's place and is something else: nothing is written through it or beside it.
#[test]
fn what_is_in_the_way_of_a_directory_or_a_link_is_not_followed() {
    let plain = open(&of_one(&GOOD)).expect("read").expect("a plain one");
    let dir = tempfile::tempdir().expect("tempdir");
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    for made in [&root, &outside] {
        std::fs::create_dir(made).expect("directory");
    }
    symlink(&outside, root.join("usr")).expect("link");
    plain.fill(&root).expect_err("no directory");
    assert_eq!(
        std::fs::read_dir(&outside).map(Iterator::count).ok(),
        Some(0)
    );
    std::fs::remove_file(root.join("usr")).expect("remove");
    plain.fill(&root).expect("filled");
    // A link that leads elsewhere, and a mode that was changed, are put right.
    let link = root.join("usr/bin/link");
    std::fs::remove_file(&link).expect("remove");
    symlink("/etc/passwd", &link).expect("link");
    let toy = root.join("usr/bin/toy");
    std::fs::set_permissions(&toy, Permissions::from_mode(0o4755)).expect("mode");
    std::fs::set_permissions(root.join("etc"), Permissions::from_mode(0o777)).expect("mode");
    plain.fill(&root).expect("mended");
    // The same bytes under a second name: the holder of the other name could change them.
    let theirs = outside.join("toy");
    std::fs::rename(&toy, &theirs).expect("rename");
    symlink(&theirs, &toy).expect("link");
    plain.fill(&root).expect("mended");
    assert!(std::fs::symlink_metadata(&toy).expect("there").is_file());
    assert_eq!(std::fs::read_link(&link).expect("a link"), Path::new("toy"));
    for (path, mode) in [("usr/bin/toy", 0o755), ("etc", 0o755)] {
        let is = std::fs::metadata(root.join(path)).expect("there").mode();
        assert_eq!(is & 0o7777, mode, "{path}");
    }
}

/// More than a list or a configuration ever is, and more entries than an image of one program has.
#[test]
fn what_is_too_large_is_left_to_the_runtimes_tool() {
    let names: Vec<String> = (0..=ENTRIES_MAX).map(|n| format!("f{n}")).collect();
    let files = |n: usize| -> Vec<Item<'_>> {
        let names = names.iter().take(n);
        names.map(|name| (name.as_str(), FILE, 0o644, "")).collect()
    };
    assert!(open(&of_one(&files(ENTRIES_MAX))).expect("read").is_some());
    assert!(
        open(&of_one(&files(ENTRIES_MAX + 1)))
            .expect("read")
            .is_none()
    );
    let long = "n".repeat(usize::try_from(DOCUMENT_MAX).expect("a length"));
    let good = tarred(&GOOD, 0);
    let digest = format!("sha256:{}", Digest::of(&good));
    let named = format!("pf9.local/{long}:1");
    let bytes = archive(&named, &[good], &[digest]);
    assert!(open(&bytes).expect("read").is_none());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(at in 0usize..6000, byte in any::<u8>(), cut in 0usize..8000) {
        let mut bytes = of_one(&GOOD);
        if let Some(b) = bytes.get_mut(at) {
            *b = byte;
        }
        bytes.truncate(cut);
        // An error or nothing; or all of it is what its configuration says.
        if let Ok(Some(plain)) = open(&bytes) {
            let dir = tempfile::tempdir().expect("tempdir");
            plain.fill(dir.path()).ok();
        }
    }
}

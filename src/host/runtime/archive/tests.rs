use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::Digest;

/// An entry of a layer: name, kind, mode, content or target.
type Item<'a> = (&'a str, tar::EntryType, u32, &'a str);

const DIR: tar::EntryType = tar::EntryType::Directory;
const FILE: tar::EntryType = tar::EntryType::Regular;
const LINK: tar::EntryType = tar::EntryType::Symlink;

fn tarred(items: &[Item<'_>], uid: u64) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, mode, content) in items {
        let mut header = tar::Header::new_gnu();
        // As it is: the crate's own way refuses names that a hostile archive has.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(77);
        header.set_uid(uid);
        header.set_gid(0);
        let content = match *kind {
            LINK | tar::EntryType::Link => {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
                ""
            }
            _ => content,
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content.as_bytes()).expect("append");
    }
    tar.into_inner().expect("a tar")
}

/// An archive of these layers whose configuration says these digests.
fn archive(name: &str, layers: &[Vec<u8>], digests: &[String]) -> Vec<u8> {
    let config = json!({"rootfs": {"type": "layers", "diff_ids": digests}}).to_string();
    let names: Vec<String> = (0..layers.len())
        .map(|n| format!("{n}/layer.tar"))
        .collect();
    let listed = json!([{"Config": "c.json", "RepoTags": [name], "Layers": names}]).to_string();
    let mut tar = tar::Builder::new(Vec::new());
    let documents = [
        ("c.json", config.into_bytes()),
        ("manifest.json", listed.into_bytes()),
    ];
    let layers = names.iter().map(String::as_str).zip(layers.iter().cloned());
    for (name, bytes) in documents.into_iter().chain(layers) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &*bytes).expect("append");
    }
    tar.into_inner().expect("a tar")
}

const NAME: &str = "pf9.local/toy:1";

fn of_one(items: &[Item<'_>]) -> Vec<u8> {
    let layer = tarred(items, 0);
    let digest = format!("sha256:{}", Digest::of(&layer));
    archive(NAME, &[layer], &[digest])
}

fn open(bytes: &[u8]) -> io::Result<Option<Plain>> {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("image.tar");
    std::fs::write(&path, bytes).expect("write");
    Plain::open(&path)
}

const GOOD: [Item<'static>; 5] = [
    ("usr/", DIR, 0o755, ""),
    ("usr/bin", DIR, 0o1777, ""),
    ("usr/bin/toy", FILE, 0o755, "program"),
    ("etc", DIR, 0o755, ""),
    ("usr/bin/link", LINK, 0o777, "toy"),
];

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

//! Archives for tests, also hostile ones.

use serde_json::json;

use crate::model::Digest;

/// An entry of a layer: name, kind, mode, content or target.
pub(crate) type Item<'a> = (&'a str, tar::EntryType, u32, &'a str);

pub(super) const DIR: tar::EntryType = tar::EntryType::Directory;
pub(super) const FILE: tar::EntryType = tar::EntryType::Regular;
pub(super) const LINK: tar::EntryType = tar::EntryType::Symlink;

pub(super) fn tarred(items: &[Item<'_>], uid: u64) -> Vec<u8> {
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
pub(super) fn archive(name: &str, layers: &[Vec<u8>], digests: &[String]) -> Vec<u8> {
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

pub(crate) const NAME: &str = "pf9.local/toy:1";

pub(crate) fn of_one(items: &[Item<'_>]) -> Vec<u8> {
    let layer = tarred(items, 0);
    let digest = format!("sha256:{}", Digest::of(&layer));
    archive(NAME, &[layer], &[digest])
}

pub(crate) const GOOD: [Item<'static>; 5] = [
    ("usr/", DIR, 0o755, ""),
    ("usr/bin", DIR, 0o1777, ""),
    ("usr/bin/toy", FILE, 0o755, "program"),
    ("etc", DIR, 0o755, ""),
    ("usr/bin/link", LINK, 0o777, "toy"),
];

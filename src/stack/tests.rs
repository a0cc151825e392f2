//! Good stacks go in; each kind of bad one is refused and leaves nothing behind.

mod delta;
mod etcd;
mod interrupted;
mod mounted;
#[cfg(feature = "fault")]
pub(crate) mod walk;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::host::fs::{Attrs, Found, HostFs};
use crate::model::{
    Digest, DocumentKind, Envelope, FaultCode, SigningKey, StackArchive, StackFile, StackManifest,
    TrustStore, paths,
};

struct Node {
    fs: HostFs,
    key: SigningKey,
    trust: TrustStore,
    _dir: tempfile::TempDir,
}

/// What one archive and its manifest are made of; a test bends one thing.
struct Recipe {
    version: &'static str,
    manifest: StackManifest,
    tar: tar::Builder<Vec<u8>>,
}

const KUBELET: &[u8] = b"#!/bin/sh\necho kubelet\n";
const ADDON: &[u8] = b"kind: ConfigMap\n";

fn node() -> Node {
    let dir = tempfile::tempdir().expect("tempdir");
    let (key, _) = SigningKey::generate().expect("key");
    Node {
        fs: HostFs::new(dir.path()),
        trust: TrustStore::new([key.trusted()]).expect("trust"),
        key,
        _dir: dir,
    }
}

fn listed(path: &str, mode: u32, bytes: &[u8]) -> StackFile {
    StackFile {
        path: path.into(),
        mode,
        sha256: Digest::of(bytes),
        size: bytes.len() as u64,
        component: "x".into(),
    }
}

fn recipe(version: &'static str) -> Recipe {
    let mut tar = tar::Builder::new(Vec::new());
    entry(&mut tar, "bin", tar::EntryType::Directory, b"");
    entry(&mut tar, "bin/kubelet", tar::EntryType::Regular, KUBELET);
    entry(&mut tar, "addons/10-x.yaml", tar::EntryType::Regular, ADDON);
    Recipe {
        version,
        tar,
        manifest: StackManifest {
            schema: 1,
            name: "pf9-kube".into(),
            version: version.into(),
            kubernetes: semver::Version::new(1, 36, 3),
            arch: install_arch(),
            archive: StackArchive {
                sha256: Digest::of(b""),
                size: 0,
            },
            components: Vec::new(),
            files: vec![
                listed("bin/kubelet", 0o755, KUBELET),
                listed("addons/10-x.yaml", 0o644, ADDON),
            ],
            images: Vec::new(),
            addons: vec!["addons/10-x.yaml".into()],
            requires: Vec::new(),
            security: false,
        },
    }
}

fn install_arch() -> String {
    match std::env::consts::ARCH {
        "x86_64" => "amd64".into(),
        "aarch64" => "arm64".into(),
        other => other.into(),
    }
}

fn entry(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    // Deliberately not the manifest's mode: the manifest's is the one that counts.
    header.set_mode(0o4777);
    // Written into the header itself, because the crate refuses to *write* paths such as `../x`.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    tar.append(&header, bytes).expect("append");
}

impl Recipe {
    fn stage(self, node: &Node) -> StackRef {
        self.stage_with(node, |_| {}, |_, _| {})
    }

    /// `bend` changes the archive after the manifest was made of it.
    fn stage_with(
        mut self,
        node: &Node,
        bend: impl FnOnce(&mut Vec<u8>),
        bend_envelope: impl FnOnce(&mut Envelope, &[u8]),
    ) -> StackRef {
        let tar = self.tar.into_inner().expect("tar");
        let mut packed = zstd::encode_all(tar.as_slice(), 1).expect("zstd");
        self.manifest.archive = StackArchive {
            sha256: Digest::of(&packed),
            size: packed.len() as u64,
        };
        bend(&mut packed);
        let payload = serde_json::to_vec(&self.manifest).expect("json");
        let mut envelope = node.key.sign(DocumentKind::StackManifest, &payload);
        bend_envelope(&mut envelope, &payload);
        let stack = StackRef {
            name: "pf9-kube".into(),
            version: self.version.into(),
            manifest: Digest::of(&payload),
        };
        let mode = Attrs::mode(0o644);
        let fs = &node.fs;
        fs.write(staged_archive(&stack.manifest), &packed, &mode)
            .expect("archive");
        let text = serde_json::to_vec(&envelope).expect("json");
        fs.write(staged_manifest(&stack.manifest), &text, &mode)
            .expect("manifest");
        stack
    }
}

fn try_install(node: &Node, stack: &StackRef) -> Result<(), StackError> {
    prepare(&node.fs, stack, &node.trust, Stops::default(), &mut |_| {})?.put_in_place(&node.fs)
}

/// Refused, and nothing of it is on the disk.
fn refused(node: &Node, stack: &StackRef) -> StackError {
    let error = try_install(node, stack).expect_err("must be refused");
    assert_eq!(
        node.fs.list(paths::STACKS).expect("list"),
        Vec::<String>::new(),
        "{error}"
    );
    error
}

#[test]
fn installs_with_the_manifests_modes_and_is_idempotent() {
    let node = node();
    let stack = recipe("1.36.3-1").stage(&node);
    try_install(&node, &stack).expect("install");
    let dir = "/opt/pf9/stacks/pf9-kube-1.36.3-1";
    let kubelet = format!("{dir}/bin/kubelet");
    assert!(matches!(
        node.fs.found(&kubelet).expect("found"),
        Found::File { mode: 0o755, .. }
    ));
    assert_eq!(
        node.fs.read(&kubelet, 100).expect("read").as_deref(),
        Some(KUBELET)
    );
    let inode = |p: &str| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(node.fs.at(p)).expect("meta").ino()
    };
    let before = inode(&kubelet);
    try_install(&node, &stack).expect("again");
    assert_eq!(inode(&kubelet), before, "a whole stack is left alone");
    let manifest = verify_installed(&node.fs, &stack, &node.trust, Depth::Full).expect("verified");
    assert_eq!(manifest.reference(), &stack);
}

#[test]
fn a_flipped_byte_anywhere_is_refused() {
    let node = node();
    let len = {
        let tar = recipe("1").tar.into_inner().expect("tar");
        zstd::encode_all(tar.as_slice(), 1).expect("zstd").len()
    };
    for at in 0..len {
        let stack = recipe("1").stage_with(&node, |b| b[at] ^= 0x40, |_, _| {});
        let error = refused(&node, &stack);
        assert_eq!(
            error.fault(&stack).code,
            FaultCode::StackDamaged,
            "byte {at}: {error}"
        );
    }
}

#[test]
fn a_truncated_archive_is_refused() {
    let node = node();
    let stack = recipe("1").stage_with(&node, |b| b.truncate(b.len() - 1), |_, _| {});
    let error = refused(&node, &stack);
    assert!(matches!(error, StackError::Damaged(_)), "{error}");
    assert!(error.staged_files_are_bad());
}

#[test]
fn bytes_behind_the_archive_are_refused() {
    let node = node();
    let stack = recipe("1").stage_with(&node, |b| b.push(0), |_, _| {});
    assert!(matches!(refused(&node, &stack), StackError::Damaged(_)));
}

#[test]
fn a_foreign_key_is_refused() {
    let node = node();
    let (foreign, _) = SigningKey::generate().expect("key");
    let stack = recipe("1").stage_with(
        &node,
        |_| {},
        |envelope, payload| *envelope = foreign.sign(DocumentKind::StackManifest, payload),
    );
    let fault = refused(&node, &stack).fault(&stack);
    assert_eq!(fault.code, FaultCode::DocumentUntrusted);
    assert!(fault.why.contains("does not trust"), "{fault}");
}

#[test]
fn another_manifest_than_the_spec_names_is_refused() {
    let node = node();
    let good = recipe("1").stage(&node);
    let mut asked = good.clone();
    asked.manifest = Digest::of(b"something else");
    let envelope = node
        .fs
        .read(staged_manifest(&good.manifest), 1 << 20)
        .expect("read")
        .expect("there");
    node.fs
        .write(
            staged_manifest(&asked.manifest),
            &envelope,
            &Attrs::mode(0o644),
        )
        .expect("write");
    assert!(matches!(
        refused(&node, &asked),
        StackError::OtherManifest { .. }
    ));
}

#[test]
fn traversal_extra_and_link_entries_are_refused() {
    for (path, kind, why) in [
        ("../evil", tar::EntryType::Regular, "is not listed"),
        ("/etc/evil", tar::EntryType::Regular, "is not listed"),
        ("bin/extra", tar::EntryType::Regular, "is not listed"),
        ("bin/kubelet", tar::EntryType::Regular, "a duplicate"),
        ("..", tar::EntryType::Directory, "of no listed file"),
        ("bin/link", tar::EntryType::Symlink, "neither a regular"),
        ("bin/link", tar::EntryType::Link, "neither a regular"),
        ("dev", tar::EntryType::Block, "neither a regular"),
        ("x", tar::EntryType::GNULongName, "neither a regular"),
        ("x", tar::EntryType::XHeader, "neither a regular"),
    ] {
        let node = node();
        let mut recipe = recipe("1");
        entry(&mut recipe.tar, path, kind, b"evil");
        let stack = recipe.stage(&node);
        let error = refused(&node, &stack).to_string();
        assert!(error.contains(why), "{path} {kind:?}: {error}");
        assert!(!node.fs.at("/opt/pf9/evil").exists());
    }
}

#[test]
fn a_link_in_place_of_a_listed_file_is_refused() {
    let node = node();
    let mut recipe = recipe("1");
    recipe.tar = tar::Builder::new(Vec::new());
    entry(&mut recipe.tar, "bin/kubelet", tar::EntryType::Symlink, b"");
    let stack = recipe.stage(&node);
    assert!(matches!(refused(&node, &stack), StackError::Entry { .. }));
}

#[test]
fn a_missing_entry_is_refused() {
    let node = node();
    let mut recipe = recipe("1");
    recipe.manifest.files.push(listed("bin/etcd", 0o755, b"e"));
    let stack = recipe.stage(&node);
    let error = refused(&node, &stack).to_string();
    assert!(error.contains("\"bin/etcd\" is missing"), "{error}");
}

#[test]
fn other_bytes_under_a_listed_name_are_refused() {
    let node = node();
    let mut recipe = recipe("1");
    recipe.manifest.files[0].sha256 = Digest::of(b"other");
    let stack = recipe.stage(&node);
    let error = refused(&node, &stack).to_string();
    assert!(error.contains("has another SHA-256"), "{error}");
}

#[test]
fn a_manifest_with_bad_paths_is_refused() {
    for bend in [
        |m: &mut StackManifest| m.files[0].path = "../x".into(),
        |m: &mut StackManifest| m.files[0].path = ".manifest.json".into(),
        |m: &mut StackManifest| m.files[0].path = "addons/10-x.yaml".into(),
        |m: &mut StackManifest| m.files[0].path = "addons/10-x.yaml/y".into(),
        |m: &mut StackManifest| m.files[0].mode = 0o4755,
    ] {
        let node = node();
        let mut recipe = recipe("1");
        bend(&mut recipe.manifest);
        let stack = recipe.stage(&node);
        assert!(matches!(refused(&node, &stack), StackError::Invalid(_)));
    }
}

#[test]
fn a_window_larger_than_the_cap_is_refused() {
    let node = node();
    let mut recipe = recipe("1");
    let tar = std::mem::replace(&mut recipe.tar, tar::Builder::new(Vec::new()));
    let tar = tar.into_inner().expect("tar");
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("zstd");
    encoder.window_log(27).expect("window");
    encoder.include_contentsize(false).expect("size");
    std::io::Write::write_all(&mut encoder, &tar).expect("write");
    let packed = encoder.finish().expect("finish");
    recipe.manifest.archive = StackArchive {
        sha256: Digest::of(&packed),
        size: packed.len() as u64,
    };
    let into = node.fs.at("/x");
    std::fs::create_dir_all(node.fs.at("/")).expect("root");
    node.fs
        .write("/a", &packed, &Attrs::mode(0o600))
        .expect("write");
    let file = std::fs::File::open(node.fs.at("/a")).expect("open");
    let file = coming::Coming::whole(file, packed.len() as u64);
    let error = unpack::unpack(
        file,
        &recipe.manifest,
        &into,
        install::OnDisk::Now,
        &mut |_| {},
    )
    .expect_err("too large");
    assert!(matches!(error, StackError::Damaged(_)), "{error}");
}

#[test]
fn links_and_pipes_in_staging_are_not_opened() {
    let node = node();
    let stack = recipe("1").stage(&node);
    let archive = node.fs.at(staged_archive(&stack.manifest));
    let elsewhere = node.fs.at("/elsewhere");
    std::fs::rename(&archive, &elsewhere).expect("rename");
    std::os::unix::fs::symlink(&elsewhere, &archive).expect("link");
    assert!(matches!(
        refused(&node, &stack),
        StackError::Io { .. } | StackError::NotStaged { .. }
    ));
    std::fs::remove_file(&archive).expect("remove");
    nix::unistd::mkfifo(&archive, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    assert!(matches!(
        refused(&node, &stack),
        StackError::NotStaged { .. }
    ));
}

#[test]
fn what_a_crash_left_is_removed() {
    let node = node();
    let stack = recipe("1").stage(&node);
    node.fs
        .write(
            format!("/opt/pf9/stacks/.incoming-{}/bin/kubelet", stack.manifest),
            b"half",
            &Attrs::mode(0o600),
        )
        .expect("write");
    try_install(&node, &stack).expect("install");
    assert_eq!(node.fs.list(paths::STACKS).expect("list"), ["pf9-kube-1"]);
}

/// A download that is interrupted, a crash, more of it, the rest: nothing is used that was not verified, and what was
/// verified is not rewritten.
#[test]
fn an_archive_is_unpacked_while_it_comes_and_goes_on_where_it_was() {
    let node = node();
    let big: Vec<u8> = (0..400_000u32)
        .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
        .collect();
    let mut recipe = recipe("1");
    entry(
        &mut recipe.tar,
        "images/x.tar",
        tar::EntryType::Regular,
        &big,
    );
    recipe
        .manifest
        .files
        .push(listed("images/x.tar", 0o644, &big));
    let stack = recipe.stage(&node);
    let archive = node.fs.at(staged_archive(&stack.manifest));
    let part = node.fs.at(staged_part(&stack.manifest));
    let bytes = std::fs::read(&archive).expect("read");
    std::fs::remove_file(&archive).expect("remove");
    let manifest = Manifest::open_staged(&node.fs, &stack, &node.trust).expect("manifest");
    let at_hand = || staged(&node.fs, &stack, manifest.content());
    assert_eq!(at_hand(), Staged::Nothing);
    std::fs::write(&part, &bytes[..bytes.len() / 2]).expect("half");
    assert_eq!(at_hand(), Staged::Comes);
    let mut seen = Vec::new();
    let mut take = |f: &StackFile| seen.push(f.path.clone());
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    let stops = || Stops::when([stop.clone()]);
    let half = prepare(&node.fs, &stack, &node.trust, stops(), &mut take);
    assert!(matches!(half, Err(StackError::NotWhole)), "{half:?}");
    assert_eq!(seen, ["bin/kubelet", "addons/10-x.yaml"]);
    let kubelet = node.fs.at(incoming_of(&stack)).join("bin/kubelet");
    let when = |p: &Path| {
        std::fs::metadata(p)
            .expect("it stays")
            .modified()
            .expect("time")
    };
    let written = when(&kubelet);
    // A crash left other bytes in one of them: they are rewritten.
    let addon = node.fs.at(incoming_of(&stack)).join("addons/10-x.yaml");
    std::fs::write(&addon, [0; ADDON.len()]).expect("zeros");
    std::fs::write(&part, &bytes).expect("the rest");
    let whole = prepare(&node.fs, &stack, &node.trust, stops(), &mut |_| {}).expect("all of it");
    assert!(whole.is_new());
    assert_eq!(when(&kubelet), written, "it was there");
    whole.put_in_place(&node.fs).expect("in place");
    verify_installed(&node.fs, &stack, &node.trust, Depth::Full).expect("whole");
}

/// The bytes of a part are no more trusted than those of an archive.
#[test]
fn a_part_with_another_byte_is_refused() {
    let node = node();
    let stack = recipe("1").stage_with(&node, |b| b[30] ^= 0x40, |_, _| {});
    let (from, to) = (
        staged_archive(&stack.manifest),
        staged_part(&stack.manifest),
    );
    std::fs::rename(node.fs.at(from), node.fs.at(to)).expect("rename");
    assert!(matches!(refused(&node, &stack), StackError::Damaged(_)));
}

/// Every file was right, and was reported; at the very end the archive turns out to be another one.
#[test]
fn an_archive_that_is_wrong_only_as_a_whole_leaves_nothing() {
    let node = node();
    // A bit in the head of the frame that no decoder looks at.
    let stack = recipe("1").stage_with(&node, |b| b[4] ^= 0x10, |_, _| {});
    for part in [false, true] {
        if part {
            let from = node.fs.at(staged_archive(&stack.manifest));
            std::fs::rename(from, node.fs.at(staged_part(&stack.manifest))).expect("rename");
        }
        let mut seen = Vec::new();
        let mut take = |f: &StackFile| seen.push(f.path.clone());
        let done = prepare(&node.fs, &stack, &node.trust, Stops::default(), &mut take);
        assert!(matches!(done, Err(StackError::Damaged(_))), "{done:?}");
        assert_eq!(seen, ["bin/kubelet", "addons/10-x.yaml"]);
        let left = node.fs.list(paths::STACKS).expect("list");
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(current(&node.fs).expect("none"), None);
    }
}

#[test]
fn drift_is_seen_and_repaired() {
    let node = node();
    let stack = recipe("1").stage(&node);
    try_install(&node, &stack).expect("install");
    let kubelet = node.fs.at("/opt/pf9/stacks/pf9-kube-1/bin/kubelet");
    let check = |depth| verify_installed(&node.fs, &stack, &node.trust, depth).map(|_| ());

    std::fs::set_permissions(&kubelet, std::fs::Permissions::from_mode(0o700)).expect("chmod");
    let error = check(Depth::Cheap).expect_err("mode").to_string();
    assert!(error.contains("has mode 0700, not 0755"), "{error}");

    try_install(&node, &stack).expect("repair");
    let mut same_size = KUBELET.to_vec();
    same_size[0] ^= 1;
    std::fs::write(&kubelet, &same_size).expect("write");
    assert!(check(Depth::Cheap).is_ok(), "cheap means cheap");
    assert!(matches!(
        check(Depth::Full),
        Err(StackError::Drifted { .. })
    ));
    try_install(&node, &stack).expect("repair");
    assert!(check(Depth::Full).is_ok());
    assert_eq!(node.fs.list(paths::STACKS).expect("list"), ["pf9-kube-1"]);
}

#[test]
fn activation_flips_and_garbage_keeps_the_previous() {
    let node = node();
    let fs = &node.fs;
    assert_eq!(current(fs).expect("none"), None);
    let stacks: Vec<_> = ["1", "2", "3"]
        .into_iter()
        .map(|v| recipe(v).stage(&node))
        .collect();
    assert!(matches!(
        activate(fs, &stacks[0]),
        Err(StackError::NotInstalled)
    ));
    for stack in &stacks {
        try_install(&node, stack).expect("install");
        activate(fs, stack).expect("activate");
        activate(fs, stack).expect("twice is harmless");
        assert_eq!(current(fs).expect("current").as_ref(), Some(stack));
    }
    assert_eq!(collect_garbage(fs, &[]).expect("gc"), ["pf9-kube-1"]);
    assert_eq!(
        fs.list(paths::STACKS).expect("list"),
        ["current", "pf9-kube-2", "pf9-kube-3", "previous"]
    );
    assert!(Path::new(&fs.at("/opt/pf9/stacks/current/bin/kubelet")).exists());
}

#[test]
fn a_full_disk_has_its_own_code() {
    let stack = StackRef {
        name: "a".into(),
        version: "1".into(),
        manifest: Digest::of(b""),
    };
    let full = StackError::Io {
        action: "write",
        path: "/x".into(),
        source: std::io::Error::from(std::io::ErrorKind::StorageFull),
    };
    assert_eq!(full.fault(&stack).code, FaultCode::DiskFull);
}

#[test]
fn another_signature_of_the_same_content_is_taken_over_and_nothing_else_changes() {
    let mut node = node();
    let stack = recipe("1.36.3-1").stage(&node);
    assert!(!renew_signature(&node.fs, &node.trust).expect("no stack"));
    try_install(&node, &stack).expect("install");
    activate(&node.fs, &stack).expect("activate");
    assert!(!renew_signature(&node.fs, &node.trust).expect("the same"));
    let first = node.key.id().to_owned();
    assert_eq!(signer(&node.fs), Some(first.clone()));

    // The plane signs with another key, and hostagent staged the manifest under it.
    let old = std::mem::replace(&mut node.key, SigningKey::generate().expect("key").0);
    recipe("1.36.3-1").stage(&node);
    let untrusted = renew_signature(&node.fs, &node.trust);
    assert!(
        matches!(untrusted, Err(StackError::Untrusted(_))),
        "{untrusted:?}"
    );
    assert_eq!(signer(&node.fs), Some(first));
    let both = TrustStore::new([old.trusted(), node.key.trusted()]).expect("trust");
    assert!(renew_signature(&node.fs, &both).expect("renewed"));
    assert_eq!(signer(&node.fs).as_deref(), Some(node.key.id()));
    assert!(!renew_signature(&node.fs, &both).expect("done already"));
    // The old key may go: the stack is whole without it.
    let new = TrustStore::new([node.key.trusted()]).expect("trust");
    verify_installed(&node.fs, &stack, &new, Depth::Full).expect("whole");
}

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;

use super::make::{Side, make};
use super::{Pair, Piece, apply, pieces};
use crate::model::{Digest, StackArchive, StackFile, StackManifest};
use crate::stack::StackError;

fn manifest(files: &[(&str, Vec<u8>)]) -> StackManifest {
    let listed = |(path, bytes): &(&str, Vec<u8>)| StackFile {
        path: (*path).to_owned(),
        mode: 0o755,
        sha256: Digest::of(bytes),
        size: bytes.len() as u64,
        component: "x".into(),
    };
    StackManifest {
        schema: 1,
        name: "pf9-kube".into(),
        version: "1".into(),
        kubernetes: semver::Version::new(1, 37, 2),
        arch: "amd64".into(),
        archive: StackArchive {
            sha256: Digest::of(b""),
            size: 0,
        },
        components: Vec::new(),
        files: files.iter().map(listed).collect(),
        images: Vec::new(),
        addons: Vec::new(),
        requires: Vec::new(),
        security: false,
    }
}

fn put(dir: &Path, files: &[(&str, Vec<u8>)]) {
    for (path, bytes) in files {
        let at = dir.join(path);
        std::fs::create_dir_all(at.parent().expect("parent")).expect("directory");
        std::fs::write(at, bytes).expect("write");
    }
}

/// Two stacks on a disk, and what differs.
struct Two {
    dir: tempfile::TempDir,
    old: StackManifest,
    new: StackManifest,
    delta: Vec<u8>,
}

const DIGESTS: [&[u8]; 2] = [b"old", b"new"];

impl Two {
    fn of(old: &[(&str, Vec<u8>)], new: &[(&str, Vec<u8>)]) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        put(&dir.path().join("old"), old);
        put(&dir.path().join("new"), new);
        for path in new
            .iter()
            .map(|(path, _)| dir.path().join("made").join(path))
        {
            std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        }
        let (old, new) = (manifest(old), manifest(new));
        let [from, to] = DIGESTS.map(Digest::of);
        let side = |digest, manifest, name: &str| (digest, manifest, dir.path().join(name));
        let (a, b) = (side(from, &old, "old"), side(to, &new, "new"));
        let mut delta = Vec::new();
        let of = |(digest, manifest, dir): &(Digest, &StackManifest, std::path::PathBuf)| {
            (*digest, (*manifest).clone(), dir.clone())
        };
        let ((d1, m1, p1), (d2, m2, p2)) = (of(&a), of(&b));
        make(
            &Side {
                digest: d1,
                manifest: &m1,
                dir: &p1,
            },
            &Side {
                digest: d2,
                manifest: &m2,
                dir: &p2,
            },
            &mut delta,
        )
        .expect("a delta");
        Self {
            dir,
            old,
            new,
            delta,
        }
    }

    fn apply(&self, delta: &[u8]) -> Result<usize, StackError> {
        let pair = Pair {
            digests: DIGESTS.map(Digest::of),
            old: &self.old,
            old_dir: &self.dir.path().join("old"),
            new: &self.new,
        };
        let mut whole = 0;
        apply(delta, &pair, &self.dir.path().join("made"), &mut |_| {
            whole += 1;
            Ok(())
        })?;
        Ok(whole)
    }

    fn is_right(&self) {
        for file in &self.new.files {
            let at = self.dir.path().join("made").join(&file.path);
            assert_eq!(Digest::of(&std::fs::read(&at).expect("made")), file.sha256);
            let mode = std::fs::metadata(&at).expect("made").permissions().mode();
            assert_eq!(mode & 0o7777, file.mode);
        }
    }
}

/// A program that was built again: its code moved about, and addresses in it changed.
fn program(seed: u64, moved: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut out = Vec::new();
    for n in 0..2000usize {
        out.extend((0..40).map(|_| random.u8(..)));
        out.extend(((n * 97 + moved) as u32).to_le_bytes());
        if moved > 0 && n % 500 == 250 {
            out.extend(std::iter::repeat_n(7, moved % 90));
        }
    }
    out
}

#[test]
fn what_is_the_same_is_not_sent_and_what_changed_a_little_is_little() {
    let (a, b) = (program(1, 0), program(1, 1234));
    let same = vec![3; 50_000];
    let size = b.len();
    let new = [
        ("bin/a", b),
        ("bin/moved", same.clone()),
        ("bin/new", b"new".to_vec()),
    ];
    let two = Two::of(&[("bin/a", a), ("bin/same", same)], &new);
    assert_eq!(two.apply(&two.delta).expect("applied"), 3);
    two.is_right();
    assert!(two.delta.len() * 5 < size, "{} of {size}", two.delta.len());
    // The same files again: nothing but their numbers.
    let files = [("bin/a", program(1, 0)), ("bin/b", program(2, 0))];
    let two = Two::of(&files, &files);
    assert!(two.delta.len() < 200, "{}", two.delta.len());
    two.apply(&two.delta).expect("applied");
    two.is_right();
}

#[test]
fn an_old_file_that_is_not_what_it_was_makes_no_file_that_is_believed() {
    let two = Two::of(&[("bin/a", program(1, 0))], &[("bin/a", program(1, 8))]);
    let mut other = program(1, 0);
    other[4000] ^= 1;
    std::fs::write(two.dir.path().join("old/bin/a"), &other).expect("write");
    let refused = two.apply(&two.delta).expect_err("refused");
    assert!(refused.to_string().contains("bin/a"), "{refused}");
}

#[test]
fn a_delta_between_other_stacks_is_refused() {
    let two = Two::of(&[("bin/a", b"a".to_vec())], &[("bin/a", b"b".to_vec())]);
    let pair = Pair {
        digests: [Digest::of(b"another"), Digest::of(b"new")],
        old: &two.old,
        old_dir: &two.dir.path().join("old"),
        new: &two.new,
    };
    let made = two.dir.path().join("made");
    let refused = apply(&two.delta[..], &pair, &made, &mut |_| Ok(()));
    assert!(
        matches!(refused, Err(StackError::Damaged(_))),
        "{refused:?}"
    );
}

/// Of two files, the second made of the first by cutting, moving and changing.
fn edited() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let part = (0usize..4000, 0usize..900, any::<u8>(), 0usize..40);
    let parts = proptest::collection::vec(part, 0..12);
    (any::<u64>(), 0usize..4000, parts).prop_map(|(seed, size, parts)| {
        let mut random = fastrand::Rng::with_seed(seed);
        let old: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
        let mut new = Vec::new();
        for (from, length, change, extra) in parts {
            let from = from.min(old.len());
            let end = (from + length).min(old.len());
            new.extend(
                old[from..end]
                    .iter()
                    .enumerate()
                    .map(|(n, b)| match n % 37 {
                        0 => b.wrapping_add(change),
                        _ => *b,
                    }),
            );
            new.extend((0..extra).map(|_| random.u8(..)));
        }
        (old, new)
    })
}

proptest! {
    #[test]
    fn pieces_are_the_new_file_without_a_gap_and_stay_within_the_old_one((old, new) in edited()) {
        let pieces = pieces::between(&old, &new);
        let sum: u64 = pieces.iter().map(|p| p.add + p.extra).sum();
        prop_assert_eq!(sum, new.len() as u64);
        for Piece { old: from, add, .. } in pieces {
            prop_assert!(from + add <= old.len() as u64);
        }
    }

    #[test]
    fn what_is_applied_is_what_was_made((old, new) in edited()) {
        let two = Two::of(&[("bin/a", old)], &[("bin/a", new)]);
        two.apply(&two.delta).expect("applied");
        two.is_right();
    }

    /// Whatever comes: it ends, and what is reported whole is what the manifest lists.
    #[test]
    fn a_hostile_delta_makes_nothing_that_is_believed(
        at in any::<proptest::sample::Index>(),
        byte in 1u8..,
        cut in any::<proptest::sample::Index>(),
    ) {
        let two = Two::of(&[("bin/a", program(1, 0))], &[("bin/a", program(1, 8)), ("bin/b", b"b".to_vec())]);
        let mut plain = zstd::decode_all(&two.delta[..]).expect("zstd");
        let n = at.index(plain.len());
        plain[n] ^= byte;
        let packed = zstd::encode_all(&plain[..], 1).expect("zstd");
        if two.apply(&packed).is_ok() {
            two.is_right();
        }
        prop_assert!(two.apply(&two.delta[..cut.index(two.delta.len())]).is_err());
    }
}

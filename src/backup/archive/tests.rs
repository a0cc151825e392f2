//! What holds for both kinds of places.

use super::*;
use crate::host::fs::Attrs;
use crate::model::Digest;

const OLD: &str = "20261128T110000Z-r6";
const NEW: &str = "20261128T120000Z-r7";

struct Fixture {
    dir: tempfile::TempDir,
    host: HostFs,
    policy: ArchivePolicy,
    owner: HostId,
}

/// A directory below a mount, for the time being.
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = HostFs::new(dir.path());
    let policy = ArchivePolicy::new(ArchiveTarget::Dir {
        path: "/mnt/nas/etcd".into(),
        mount: Some("/mnt/nas".into()),
    });
    let fixture = Fixture {
        dir,
        host,
        policy,
        owner: HostId::random(),
    };
    fixture.mounted(true);
    fixture
}

impl Fixture {
    fn mounted(&self, is: bool) {
        let at = if is { "/mnt/nas" } else { "/mnt/other" };
        let info = format!("1 2 0:1 / / rw - ext4 x rw\n2 2 0:1 / {at} rw - nfs x rw\n");
        let attrs = Attrs::mode(0o600);
        let path = "/proc/self/mountinfo";
        self.host
            .write(path, info.as_bytes(), &attrs)
            .expect("write");
    }

    fn open(&self) -> Archive {
        Archive::open(&self.host, &self.policy, self.owner, &Egress::direct()).expect("open")
    }

    fn sealed(&self, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.dir.path().join("sealed");
        std::fs::write(&path, bytes).expect("write");
        path
    }

    fn there(&self) -> Vec<String> {
        let place = format!("/mnt/nas/etcd/{}", self.owner);
        self.host.list(place).expect("list")
    }

    fn place(&self, file: &str) -> std::path::PathBuf {
        self.host.at(format!("/mnt/nas/etcd/{}/{file}", self.owner))
    }
}

fn sealed_of(bytes: &[u8]) -> Sealed {
    Sealed {
        bytes: bytes.len() as u64,
        sha256: Digest::of(bytes),
    }
}

#[tokio::test]
async fn a_backup_goes_there_and_comes_back() {
    let fixture = fixture();
    let archive = fixture.open();
    assert_eq!(archive.list().await.expect("list"), []);
    let bytes = vec![7; 1_000_000];
    let file = fixture.sealed(&bytes);
    archive.put(NEW, &file, b"{\"a\":1}").await.expect("put");
    let listed = archive.list().await.expect("list");
    assert_eq!(
        listed,
        [Stored {
            name: NEW.into(),
            bytes: 1_000_007
        }]
    );
    assert_eq!(archive.manifest(NEW).await.expect("manifest"), "{\"a\":1}");
    let into = fixture.dir.path().join("back");
    // Goes on after what is there.
    std::fs::write(&into, &bytes[..300_000]).expect("write");
    archive
        .get(NEW, sealed_of(&bytes), &into)
        .await
        .expect("get");
    assert!(std::fs::read(&into).expect("read") == bytes);
    let error = archive.manifest(OLD).await.expect_err("missing");
    assert!(matches!(error, ArchiveError::Missing { .. }), "{error}");
}

#[tokio::test]
async fn what_was_changed_is_not_taken_and_the_next_try_begins_anew() {
    let fixture = fixture();
    let archive = fixture.open();
    let file = fixture.sealed(b"sealed");
    archive.put(NEW, &file, b"{}").await.expect("put");
    let into = fixture.dir.path().join("back");
    // A part of something else, from a try before.
    std::fs::write(&into, b"xxx").expect("write");
    let error = archive
        .get(NEW, sealed_of(b"sealed"), &into)
        .await
        .expect_err("not these");
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
    archive
        .get(NEW, sealed_of(b"sealed"), &into)
        .await
        .expect("anew");
    std::fs::write(fixture.place(&format!("{NEW}.db.age")), b"changd").expect("write");
    std::fs::remove_file(&into).expect("remove");
    let error = archive
        .get(NEW, sealed_of(b"sealed"), &into)
        .await
        .expect_err("changed");
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
    assert!(!into.exists());
}

#[tokio::test]
async fn nothing_goes_to_a_disk_that_is_not_mounted() {
    let fixture = fixture();
    let archive = fixture.open();
    let file = fixture.sealed(b"sealed");
    fixture.mounted(false);
    let error = archive
        .put(NEW, &file, b"{}")
        .await
        .expect_err("not mounted");
    let fault = error.fault(archive.target(), "cannot copy the backup");
    assert_eq!(fault.code, crate::model::FaultCode::EtcdArchiveNotMounted);
    assert!(fault.why.contains("/mnt/nas"), "{fault}");
    assert!(
        !fixture.host.at("/mnt/nas").exists(),
        "nothing was made below it"
    );
    assert!(
        archive.list().await.is_err(),
        "no empty archive is told either"
    );
    assert!(archive.prune().await.is_err());
    fixture.mounted(true);
    archive.put(NEW, &file, b"{}").await.expect("put");
}

#[tokio::test]
async fn what_is_half_there_counts_nowhere_and_goes_with_what_is_too_much() {
    let mut fixture = fixture();
    fixture.policy.keep = 1;
    let archive = fixture.open();
    let file = fixture.sealed(b"sealed");
    for name in [OLD, NEW] {
        archive.put(name, &file, b"{}").await.expect("put");
    }
    for litter in [
        "20261128T130000Z-r8.db.age",
        "20261128T100000Z-r5.json",
        // From a process that has exited.
        ".pf9-tmp-999999999-1-0-20261128T130000Z-r8.db.age.tmp",
    ] {
        std::fs::write(fixture.place(litter), b"x").expect("write");
    }
    std::fs::write(fixture.place("theirs.txt"), b"x").expect("write");
    let names = |all: Vec<Stored>| all.into_iter().map(|b| b.name).collect::<Vec<_>>();
    assert_eq!(names(archive.list().await.expect("list")), [OLD, NEW]);
    assert_eq!(archive.prune().await.expect("prune"), [OLD]);
    let left = [
        format!("{NEW}.db.age"),
        format!("{NEW}.json"),
        "theirs.txt".into(),
    ];
    assert_eq!(fixture.there(), left);
}

#[tokio::test]
async fn a_name_is_never_a_way_out() {
    let fixture = fixture();
    let archive = fixture.open();
    let file = fixture.sealed(b"sealed");
    for bad in ["../x", "", "a/b", "x"] {
        assert!(archive.put(bad, &file, b"{}").await.is_err(), "{bad}");
        assert!(archive.manifest(bad).await.is_err(), "{bad}");
        assert!(
            archive.get(bad, sealed_of(b""), &file).await.is_err(),
            "{bad}"
        );
    }
}

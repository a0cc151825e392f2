//! Sealed backups: who opens them, where they come from, and what is refused before the first byte.

use std::sync::atomic::Ordering;

use super::*;
use crate::backup::seal;
use crate::identity::order_key;
use crate::model::Timestamp;
use crate::model::{ArchivePolicy, ArchiveTarget, BackupManifest, BackupSigner, HostId, Secret};
use crate::nodelet::etcd::testing::{Does, FakePlane, NAME, backup, note};
use crate::nodelet::testing::enrolled;

/// A machine with a sealed backup on its shelf, and the key that opens that.
fn sealed() -> (Machine, BackupManifest, Secret<String>) {
    let machine = Machine::new();
    let (key, public) = seal::new_key();
    let manifest = machine.seal(&format!("{}/{NAME}", paths::ETCD_BACKUPS), &public);
    machine.write("/root/recovery.key", key.expose().as_bytes());
    (machine, manifest, key)
}

impl Machine {
    pub(super) fn seal(&self, stem: &str, recipient: &str) -> BackupManifest {
        let plain = self.host.fs.read(SNAPSHOT, 10_000).expect("read");
        backup(
            &self.host.fs,
            &self.node,
            stem,
            &plain.expect("there"),
            recipient,
        )
    }

    pub(super) fn refused(&self, source: Source) -> Fault {
        self.ask(RestoreGoal::Restored(source), By::Root);
        let Went::Ended(Some(fault)) = self.step() else {
            panic!("not refused");
        };
        assert_eq!(self.names(), ["member"], "{fault}");
        assert_eq!(self.data().as_deref(), Some("old"));
        fault
    }

    pub(super) fn restored(&self, source: Source) {
        self.ask(RestoreGoal::Restored(source), By::Root);
        self.steps();
        assert_eq!(self.data().as_deref(), Some("new\n"));
        assert_eq!(
            self.names().len(),
            2,
            "nothing plain stays: {:?}",
            self.names()
        );
    }
}

pub(super) fn named(file: &str, key: Option<&str>) -> Source {
    Source {
        file: file.into(),
        recovery_key: key.map(str::to_owned),
        any_cluster: false,
        signers: None,
        unsigned: false,
    }
}

pub(super) const KEY: Option<&str> = Some("/root/recovery.key");

type Change = fn(&mut BackupManifest);

/// By its name or by the path of either file, with the recovery key; nothing plain stays.
#[test]
fn a_sealed_snapshot_is_restored_with_its_key_and_its_manifest() {
    let (machine, good, _) = sealed();
    let fs = &machine.host.fs;
    let stem = format!("{}/{NAME}", paths::ETCD_BACKUPS);
    let path = format!("{stem}.db.age");
    let (other, _) = seal::new_key();
    machine.write("/root/other.key", other.expose().as_bytes());
    let why = |source: Source| machine.refused(source).why;
    assert!(why(named(&path, Some("/root/other.key"))).contains("not sealed for this key"));
    assert!(why(named(&path, Some("/root/none.key"))).contains("there is no /root/none.key"));
    let cases: [(&str, Change); 4] = [
        ("is of another backup", |m| m.revision = 8),
        ("differs from the one that was written", |m| {
            m.sealed_sha256 = crate::model::Digest::of(b"x")
        }),
        ("bytes, not", |m| m.sealed_bytes += 1),
        ("bytes, not 4", |m| m.plain_bytes = 4),
    ];
    for (words, change) in cases {
        let mut wrong = good.clone();
        change(&mut wrong);
        note(fs, &stem, &wrong);
        let why = why(named(&path, KEY));
        assert!(why.contains(words), "{words}: {why}");
    }
    fs.remove_file(format!("{stem}.json")).expect("remove");
    assert!(why(named(&path, KEY)).contains("there is no"));
    assert!(why(named(NAME, KEY)).contains("there is no"));
    note(fs, &stem, &good);
    for file in [path.as_str(), NAME, &format!("{stem}.json")] {
        machine.restored(named(file, KEY));
        machine.phases();
        machine.write("/var/lib/pf9/etcd/member/snap/db", b"old");
        fs.list(paths::ETCD_DATA)
            .expect("list")
            .iter()
            .filter(|n| n.starts_with(ASIDE))
            .for_each(|n| {
                fs.remove_tree(format!("{}/{n}", paths::ETCD_DATA))
                    .expect("remove");
            });
    }
}

/// No key is on the machine: root signs, and the plane opens this one file.
#[test]
fn with_the_plane_there_no_key_is_needed() {
    let (machine, _, key) = sealed();
    enrolled(&machine.host.fs);
    let plane = FakePlane::start(&machine.host.fs, &key, Does::Opens);
    machine.restored(named(NAME, None));
    assert_eq!(plane.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_plane_that_is_away_or_refuses_changes_nothing_and_names_the_other_way() {
    let (machine, _, key) = sealed();
    let by_hand = |fault: &Fault| assert!(fault.fix.contains("--recovery-key"), "{fault}");
    // It is none's host; then its plane does not answer, refuses, breaks off in the middle, lies.
    let fault = machine.refused(named(NAME, None));
    assert_eq!(fault.code, FaultCode::NotEnrolled);
    by_hand(&fault);
    enrolled(&machine.host.fs);
    by_hand(&machine.refused(named(NAME, None)));
    for (does, code) in [
        (Does::Refuses, FaultCode::KeyRefused),
        (Does::GoesAway, FaultCode::LocalUnreachable),
        (Does::Lies, FaultCode::PlaneGarbage),
    ] {
        let plane = FakePlane::start(&machine.host.fs, &key, does);
        let fault = machine.refused(named(NAME, None));
        assert_eq!(fault.code, code, "{fault}");
        assert!(fault.what.contains("nothing was changed"), "{fault}");
        by_hand(&fault);
        drop(plane);
    }
    // With the key of another cluster it opens nothing.
    let plane = FakePlane::start(&machine.host.fs, &seal::new_key().0, Does::Opens);
    assert_eq!(
        machine.refused(named(NAME, None)).code,
        FaultCode::KeyRefused
    );
    drop(plane);
    // The plane's own order is tried until the plane can open it.
    machine.ask(RestoreGoal::Restored(named(NAME, None)), By::Plane);
    assert!(matches!(machine.step(), Went::Failed(_)));
    let _plane = FakePlane::start(&machine.host.fs, &key, Does::Opens);
    assert!(matches!(machine.step(), Went::On(_)));
}

/// What it is of is looked at before anybody is asked for a key.
#[test]
fn another_clusters_and_one_of_other_networks_are_refused_before_a_key_is_asked_for() {
    let (machine, good, key) = sealed();
    enrolled(&machine.host.fs);
    let plane = FakePlane::start(&machine.host.fs, &key, Does::Opens);
    let stem = format!("{}/{NAME}", paths::ETCD_BACKUPS);
    let mut foreign = good.clone();
    foreign.cluster_id = ClusterId::random();
    note(&machine.host.fs, &stem, &foreign);
    let fault = machine.refused(named(NAME, None));
    assert_eq!(fault.code, FaultCode::EtcdRestoreForeign, "{fault}");
    let mut other = good.clone();
    other.settings.services_cidr = "10.99.0.0/16".parse().expect("net");
    note(&machine.host.fs, &stem, &other);
    let fault = machine.refused(named(NAME, None));
    assert_eq!(fault.code, FaultCode::EtcdRestoreUnfit, "{fault}");
    assert!(fault.why.contains("10.99.0.0/16"), "{fault}");
    assert_eq!(plane.asked.load(Ordering::SeqCst), 0);
    // What only people notice is kept, and reported.
    let mut elsewhere = good;
    elsewhere.settings.api_host = "10.9.9.9".into();
    note(&machine.host.fs, &stem, &elsewhere);
    machine.restored(named(NAME, None));
    let last = Restores::of(&machine.host.fs).last().expect("noted");
    assert!(
        matches!(&last.warnings[..], [one] if one.contains("10.9.9.9")),
        "{:?}",
        last.warnings
    );
}

pub(super) const NAS: &str = "/mnt/nas/etcd";

/// A machine whose disk was lost: its backup is in the archive only, below the id of the host that
/// it was then.
pub(super) fn archived(owner: HostId) -> (Machine, BackupManifest, String) {
    let mut machine = Machine::new();
    let target = ArchiveTarget::Dir {
        path: NAS.into(),
        mount: None,
    };
    machine.node.etcd.backup.archive = Some(ArchivePolicy::new(target));
    let (key, public) = seal::new_key();
    machine.write("/root/recovery.key", key.expose().as_bytes());
    let stem = format!("{NAS}/{owner}/{NAME}");
    let mut manifest = machine.seal(&stem, &public);
    manifest.host_id = owner;
    // Root of that host signed it, and the spec remembers.
    let (own, _) = order_key::ensure(&machine.host.fs, machine.node.host_id).expect("key");
    machine.node.etcd.backup_signers.push(BackupSigner {
        host_id: owner,
        key: own.public(),
    });
    note(&machine.host.fs, &stem, &manifest);
    (machine, manifest, stem)
}

#[test]
fn a_backup_that_only_the_second_place_has_is_brought_and_restored() {
    let own = Machine::new().node.host_id;
    for owner in [own, HostId::random()] {
        let (machine, _, _) = archived(owner);
        machine.restored(named(NAME, KEY));
    }
    // One that is broken here, and whole there.
    let (machine, manifest, _) = archived(own);
    let here = format!("{}/{NAME}", paths::ETCD_BACKUPS);
    note(&machine.host.fs, &here, &manifest);
    let bytes = vec![0; usize::try_from(manifest.sealed_bytes).expect("small")];
    machine.write(&format!("{here}.db.age"), &bytes);
    machine.restored(named(NAME, KEY));
}

#[test]
fn a_second_place_that_lies_has_not_or_is_full_of_others_changes_nothing() {
    let owner = HostId::random();
    let (mut machine, good, stem) = archived(owner);
    let fs = machine.host.fs.clone();
    let fault = machine.refused(named("20261128T150000Z-r9", KEY));
    assert_eq!(fault.code, FaultCode::EtcdArchiveMissing, "{fault}");
    assert!(fault.why.contains("on this master:"), "{fault}");
    // Of another cluster: said before a byte comes.
    let mut foreign = good.clone();
    foreign.cluster_id = ClusterId::random();
    note(&fs, &stem, &foreign);
    assert_eq!(
        machine.refused(named(NAME, KEY)).code,
        FaultCode::EtcdRestoreForeign
    );
    let cases: [(FaultCode, Change); 8] = [
        // A manifest of another backup, or of another host's.
        (FaultCode::EtcdArchiveDamaged, |m| {
            m.name = "20261128T150000Z-r9".into()
        }),
        (FaultCode::EtcdArchiveDamaged, |m| {
            m.host_id = HostId::random()
        }),
        (FaultCode::EtcdArchiveDamaged, |m| m.schema += 1),
        // Sizes that are not true, and one that no disk has room for: before a byte comes.
        (FaultCode::EtcdArchiveDamaged, |m| m.sealed_bytes -= 1),
        (FaultCode::EtcdArchiveDamaged, |m| m.sealed_bytes += 1),
        (FaultCode::DiskFull, |m| m.sealed_bytes = u64::MAX),
        (FaultCode::DiskFull, |m| m.plain_bytes = u64::MAX / 4),
        // Other bytes of the same number.
        (FaultCode::EtcdArchiveDamaged, |m| {
            m.sealed_sha256 = crate::model::Digest::of(b"x")
        }),
    ];
    for (code, change) in cases {
        let mut wrong = good.clone();
        change(&mut wrong);
        note(&fs, &stem, &wrong);
        let fault = machine.refused(named(NAME, KEY));
        assert_eq!(fault.code, code, "{fault}");
    }
    note(&fs, &stem, &good);
    // What would never end, or is another file.
    let sealed = fs.at(format!("{stem}.db.age"));
    let bytes = std::fs::read(&sealed).expect("read");
    std::fs::remove_file(&sealed).expect("remove");
    std::os::unix::fs::symlink("/dev/zero", &sealed).expect("link");
    assert_eq!(
        machine.refused(named(NAME, KEY)).code,
        FaultCode::EtcdArchiveDamaged
    );
    std::fs::remove_file(&sealed).expect("remove");
    nix::unistd::mkfifo(&sealed, nix::sys::stat::Mode::S_IRWXU).expect("pipe");
    assert_eq!(
        machine.refused(named(NAME, KEY)).code,
        FaultCode::EtcdArchiveDamaged
    );
    std::fs::remove_file(&sealed).expect("remove");
    std::fs::write(&sealed, bytes).expect("write");
    // What should be mounted is not.
    let target = ArchiveTarget::Dir {
        path: NAS.into(),
        mount: Some("/mnt/nas".into()),
    };
    machine.node.etcd.backup.archive = Some(ArchivePolicy::new(target));
    assert_eq!(
        machine.refused(named(NAME, KEY)).code,
        FaultCode::EtcdArchiveNotMounted
    );
}

/// What came in an earlier turn is not asked for again, and goes when the restore ends.
#[test]
fn what_was_brought_is_gone_on_with_and_goes_with_the_restore() {
    let owner = HostId::random();
    let (machine, good, stem) = archived(owner);
    let run = machine.ask(RestoreGoal::Restored(named(NAME, None)), By::Plane);
    // Nobody opens it yet.
    assert!(matches!(machine.step(), Went::Failed(_)));
    let brought = format!("{}/{NAME}.db.age", run.fetching_dir());
    assert_eq!(
        std::fs::metadata(machine.host.fs.at(&brought))
            .expect("there")
            .len(),
        good.sealed_bytes
    );
    // The archive is gone meanwhile: it is no longer needed.
    let place = stem.replace(NAME, "");
    machine.host.fs.remove_tree(&place).expect("gone");
    let Went::Failed(fault) = machine.step() else {
        panic!("somebody opened it");
    };
    assert_eq!(fault.code, FaultCode::NotEnrolled, "{fault}");
    assert!(machine.host.fs.at(&brought).exists());
    Restores::of(&machine.host.fs)
        .ask_to_end(Timestamp::UNIX_EPOCH)
        .expect("noted");
    assert!(matches!(machine.step(), Went::Ended(Some(_))));
    assert_eq!(machine.names(), ["member"]);
}

/// A mount that hangs holds one thread, however often the plane's order is tried.
#[test]
fn a_look_that_hung_is_waited_for_and_not_begun_again() {
    let (machine, _, _) = sealed();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("runtime");
    let (release, hangs) = std::sync::mpsc::channel::<()>();
    let path = format!("{}/{NAME}", paths::ETCD_BACKUPS);
    runtime.block_on(async {
        let hung = move || {
            hangs.recv().ok();
            let why = "its server came back and has lost it";
            Err(Fault::new(FaultCode::File, "no backup", why))
        };
        let mut shelves = machine.shelves.lock().await;
        let soon = std::time::Duration::from_millis(20);
        let seen = shelves.at(&path, soon, hung).await;
        assert!(seen.expect("a thread").is_none());
    });
    release.send(()).expect("it waits");
    let fault = machine.refused(named(NAME, KEY));
    assert!(fault.why.contains("came back"), "{fault}");
    machine.restored(named(NAME, KEY));
}

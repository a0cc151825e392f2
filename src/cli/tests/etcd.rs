//! `etcd verify`: whose backup it is, whole or not, here or in the archive only. `etcd status` and `etcd restore --show`:
//! the screens.

use jiff::SignedDuration;
use uuid::Uuid;

use super::*;
use crate::backup::seal::{self, Sealer};
use crate::backup::shelf::tests::manifest;
use crate::model::etcd::signed::tests::signed;
use crate::model::{
    ArchivePolicy, ArchiveStatus, ArchiveTarget, BackupInfo, BackupManifest, BackupSigner,
    BackupsStatus, ClusterId, Digest, DrillReport, EtcdMemberStatus, EtcdStatus, EtcdView,
    SigningKey, Timestamp, paths,
};
use crate::nodelet::etcd::restore::ask::RestoreView;
use crate::nodelet::etcd::restore::{By, RestoreGoal, RestoreRun, Source};

const NAS: &str = "/mnt/nas/etcd";

/// A master whose one backup lies in the archive, signed by its root.
struct World {
    rig: Rig,
    view: EtcdView,
    manifest: BackupManifest,
    key: SigningKey,
}

impl World {
    fn new() -> Self {
        let rig = Rig::new();
        let key = SigningKey::generate().expect("key").0;
        let (recovery, public) = seal::new_key();
        rig.file("/root/recovery.key", recovery.expose());
        let mut manifest = manifest(1_800_000_000, 1, 0);
        let stem = format!("{NAS}/{}/{}", manifest.host_id, manifest.name);
        let file = rig
            .host
            .begin(format!("{stem}.db.age"), &Attrs::mode(0o600));
        let keys = seal::recipients(&[public]).expect("key");
        let mut sealer = Sealer::new(file.expect("file"), &keys).expect("head");
        std::io::Write::write_all(&mut sealer, b"all there is").expect("write");
        let (file, size) = sealer.finish().expect("sealed");
        file.place().expect("placed");
        (manifest.sealed_bytes, manifest.sealed_sha256) = (size.bytes, size.sha256);
        manifest.plain_bytes = 12;
        let target = ArchiveTarget::Dir {
            path: NAS.into(),
            mount: None,
        };
        let view = EtcdView {
            dir: paths::ETCD_BACKUPS.into(),
            archive: Some(ArchivePolicy::new(target)),
            signers: vec![BackupSigner {
                host_id: manifest.host_id,
                key: key.trusted(),
            }],
            masters: vec![manifest.host_id],
            cluster_id: Some(manifest.cluster_id),
            ..EtcdView::default()
        };
        let etcdutl = format!("{}/bin/etcdutl", paths::STACK_CURRENT);
        let says =
            r#"echo '{"hash":1,"revision":7,"totalKey":3,"totalSize":12,"version":"3.7.0"}'"#;
        rig.program(&etcdutl, &format!("#!/bin/sh\n{says}\n"));
        Self {
            rig,
            view,
            manifest,
            key,
        }
    }

    /// What stands beside it, by this key.
    fn note(&self, key: &SigningKey, manifest: &BackupManifest) {
        let text = serde_json::to_string(&signed(key, manifest)).expect("json");
        let stem = format!("{NAS}/{}/{}", self.manifest.host_id, self.manifest.name);
        self.rig.file(&format!("{stem}.json"), &text);
    }

    async fn verified(&self, words: &[&str]) -> Result<String, String> {
        let line = [&["etcd", "verify", &self.manifest.name], words].concat();
        let ran = self.rig.run(&line).await;
        let left = self.rig.host.at(format!("{}/brought", paths::ETCD_SCRATCH));
        assert!(!left.exists(), "nothing of it stays: {}", ran.text);
        // However wide the screen is.
        let words: Vec<&str> = ran.text.split_whitespace().collect();
        match ran.exit == Exit::Ok {
            true => Ok(words.join(" ")),
            false => Err(words.join(" ")),
        }
    }
}

#[tokio::test]
async fn a_backup_that_only_the_second_place_has_is_brought_looked_at_and_taken_away_again() {
    let world = World::new();
    let view = world.view.clone();
    let _served = world
        .rig
        .serve(paths::NODELET_SOCKET, move |_| ok_json(&view));
    world.note(&world.key, &world.manifest);
    let text = world.verified(&[]).await.expect("whole");
    assert!(text.contains("/mnt/nas/etcd, of host"), "{text}");
    assert!(text.contains("by root of host"), "{text}");
    let opened = world
        .verified(&["--recovery-key", "/root/recovery.key"])
        .await;
    assert!(opened.expect("opens").contains("opens, and matches"));
    // Changed there: its file, and what stands beside it.
    let mut other = world.manifest.clone();
    other.sealed_sha256 = crate::model::Digest::of(b"x");
    world.note(&world.key, &other);
    let why = world.verified(&[]).await.expect_err("another file");
    assert!(why.contains("SHA-256"), "{why}");
}

#[tokio::test]
async fn who_made_a_backup_is_asked_unless_somebody_says_that_nobody_looks() {
    let world = World::new();
    let view = world.view.clone();
    let _served = world
        .rig
        .serve(paths::NODELET_SOCKET, move |_| ok_json(&view));
    let thief = SigningKey::generate().expect("key").0;
    world.note(&thief, &world.manifest);
    let why = world.verified(&[]).await.expect_err("a thief's");
    assert!(why.contains("never had as a master"), "{why}");
    let text = world.verified(&["--unsigned"]).await.expect("said");
    assert!(text.contains("NOT CHECKED"), "{text}");
    // The thief's key is kept in a file: then it is trusted.
    let kept = BackupSigner {
        host_id: world.manifest.host_id,
        key: thief.trusted(),
    };
    world.rig.file("/root/signers", &kept.line());
    let text = world.verified(&["--signers", "/root/signers"]).await;
    assert!(text.expect("named").contains("by root of host"));
}

/// nodelet is away: who made a file is still known, by the keys that are named.
#[tokio::test]
async fn without_nodelet_the_keys_have_to_be_named() {
    let world = World::new();
    world.note(&world.key, &world.manifest);
    let path = format!(
        "{NAS}/{}/{}.db.age",
        world.manifest.host_id, world.manifest.name
    );
    let silent = world.rig.run(&["etcd", "verify", &path]).await;
    assert_ne!(silent.exit, Exit::Ok, "{}", silent.text);
    world
        .rig
        .file("/root/signers", &world.view.signers[0].line());
    let named = ["etcd", "verify", &path, "--signers", "/root/signers"];
    let ran = world.rig.run(&named).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
}

const NEWEST: &str = "20261128T143000Z-r48213";

/// A master whose etcd, backups and drills are as they should be. Ages are in the middle of what the screen rounds to.
fn healthy(now: Timestamp) -> EtcdStatus {
    let ago = |seconds| now - SignedDuration::from_secs(seconds);
    let member = |id: &str, name: &str| EtcdMemberStatus {
        id: id.into(),
        name: name.into(),
        ..EtcdMemberStatus::default()
    };
    let backups = BackupsStatus {
        last: Some(BackupInfo {
            name: NEWEST.into(),
            taken_at: ago(12 * 60 + 30),
            revision: 48_213,
            keys: 4127,
            sealed_bytes: 13 << 19,
            sealed_sha256: Digest::of(b"x"),
            etcd_version: "3.6.16".into(),
        }),
        count: 48,
        bytes: 310 << 20,
        next_at: Some(ago(-(17 * 60 + 30))),
        archive: Some(ArchiveStatus {
            place: NAS.into(),
            last: Some(NEWEST.into()),
            count: 48,
            bytes: 310 << 20,
            ..ArchiveStatus::default()
        }),
        ..BackupsStatus::default()
    };
    EtcdStatus {
        cluster_id: "cdf818194e3a8c32".into(),
        member_id: "8e9e05c52164694d".into(),
        leader: Some("8e9e05c52164694d".into()),
        term: 3,
        version: "3.6.16".into(),
        storage_version: Some("3.6.0".into()),
        db_bytes: 48 << 20,
        db_in_use_bytes: 31 << 20,
        quota_bytes: 2 << 30,
        fsync_p99_us: Some(2100),
        members: vec![
            member("8e9e05c52164694d", "6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11"),
            member("91bc3c398fb3c146", "0b5f6f3a-1c1d-4c55-8d2f-6f2f9b7a1e02"),
            member("fd422379fda50e48", "2f9d7c64-90b7-4e0b-a6c1-5d4c3b2a1f03"),
        ],
        backups,
        drill: Some(DrillReport {
            backup: NEWEST.into(),
            at: ago(3 * 86_400 + 3600),
            took_ms: 9000,
            keys: 4127,
            behind: 0,
            fault: None,
        }),
        ..EtcdStatus::default()
    }
}

#[tokio::test]
async fn what_is_shown_of_etcd_and_of_a_restore_is_the_reviewed_screen() {
    let rig = Rig::new();
    let view = EtcdView {
        etcd: Some(healthy(Timestamp::now())),
        ..EtcdView::default()
    };
    let served = rig.serve(paths::NODELET_SOCKET, move |_| ok_json(&view));
    let ran = rig.run(&["etcd", "status"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    golden("etcd-status.txt", &ran.text);
    served.abort();

    let rig = Rig::new();
    let goal = RestoreGoal::Restored(Source {
        file: NEWEST.into(),
        recovery_key: None,
        any_cluster: false,
        signers: None,
        unsigned: false,
    });
    let asked = "2026-11-28T14:52:07Z".parse().expect("a time");
    let cluster = ClusterId(Uuid::nil());
    let mut run = RestoreRun::asked(Uuid::nil(), By::Root, cluster, goal, asked);
    // As `restore::settings` says it.
    run.warnings = vec![
        "the API was at 10.9.9.9:6443 then and is at 10.20.0.9:6443 now: kubeconfigs from that time do \
         not reach it"
            .into(),
    ];
    let view = RestoreView {
        run: Some(run),
        last: None,
    };
    let _served = rig.serve(paths::NODELET_SOCKET, move |_| ok_json(&view));
    let ran = rig.run(&["etcd", "restore", "--show"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    golden("etcd-restore.txt", &ran.text);
}

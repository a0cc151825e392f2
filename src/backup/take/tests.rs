//! A backup, broken at every point: see [`crate::seam::walk`].

use std::collections::BTreeMap;

use super::*;
use crate::backup::shelf::Shelf;
use crate::host::etcd::whole_snapshot;
use crate::model::{BackupPolicy, BackupSigner, BackupTrust, DocumentKind, SigningKey};
use crate::seam::walk::{Scenario, files, walk};

const ETCDUTL: &str = "/opt/etcdutl";
const OPENS: &str = r#"#!/bin/sh
[ -s "$5" ] && echo '{"hash":1,"revision":7,"totalKey":3,"totalSize":10,"version":"3.7.0"}'
"#;

/// A master with an empty shelf.
struct Master {
    fs: HostFs,
    key: SigningKey,
    recipient: String,
    _dir: tempfile::TempDir,
}

impl Master {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        fs.write(ETCDUTL, OPENS.as_bytes(), &Attrs::mode(0o755))
            .expect("etcdutl");
        let opens = age::x25519::Identity::generate();
        Self {
            fs,
            key: SigningKey::generate().expect("key").0,
            recipient: opens.to_public().to_string(),
            _dir: dir,
        }
    }

    fn shelf(&self) -> Shelf {
        let signer = BackupSigner {
            host_id: crate::model::golden::backup_manifest().host_id,
            key: self.key.trusted(),
        };
        let trust = BackupTrust::Signers(vec![signer]);
        Shelf::look(&self.fs, paths::ETCD_BACKUPS, &trust).expect("a shelf")
    }

    async fn back_up(&self) -> Result<BackupManifest, Fault> {
        let like = crate::model::golden::backup_manifest();
        let (etcd, _peer) = whole_snapshot().await;
        let sign = |manifest: &BackupManifest| {
            let bytes = serde_json::to_vec(manifest).expect("json");
            Ok(self.key.sign(DocumentKind::Backup, &bytes))
        };
        take(Taking {
            fs: &self.fs,
            etcd: &etcd,
            etcdutl: ETCDUTL,
            dir: paths::ETCD_BACKUPS,
            recipients: vec![self.recipient.clone()],
            db_bytes: 5000,
            now: Timestamp::UNIX_EPOCH,
            about: BackupOrigin {
                host_id: like.host_id,
                cluster_id: like.cluster_id,
                etcd_cluster_id: like.etcd_cluster_id,
                member_id: like.member_id,
                etcd_version: like.etcd_version,
                kubernetes_version: like.kubernetes_version,
                settings: like.settings,
            },
            sign: &sign,
        })
        .await
    }
}

struct Backup;

impl Scenario for Backup {
    const NAME: &'static str = "backup";
    type World = Master;

    async fn begin(&self) -> Master {
        Master::new()
    }

    async fn life(&self, master: &mut Master, starts: bool) -> bool {
        if starts {
            let ours = crate::host::ours::paths::WRITTEN_BY_ROOT;
            temps::collect(&master.fs, ours);
        }
        let dir = paths::ETCD_BACKUPS;
        // As nodelet does: what an interrupted one left goes, and one is made if there is none.
        for name in master.shelf().to_go(&BackupPolicy::default()) {
            if shelf::remove(&master.fs, dir, &name).is_err() {
                return false;
            }
        }
        if !master.shelf().good.is_empty() {
            return true;
        }
        // What counts is whole, whatever was said of it.
        let made = master.back_up().await;
        let good = master.shelf().good.len();
        assert!(made.is_err() || good == 1, "{made:?}, and {good} count");
        made.is_ok()
    }

    async fn end(&self, master: &mut Master) -> BTreeMap<String, String> {
        // Sealed for a key of its own each time.
        files(&master.fs, |path| path.starts_with(paths::ETCD_BACKUPS))
    }
}

#[tokio::test]
async fn a_backup_broken_anywhere_is_whole_or_none_and_is_made_again() {
    walk(&Backup, 60).await;
}

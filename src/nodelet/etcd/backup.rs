//! The chores of backups: makes one, takes old ones away.

use super::chore::{self, Seen};
use super::keeper::Master;
use crate::backup::shelf::{self, Shelf};
use crate::backup::take::{self, About, Taking};
use crate::host::Host;
use crate::host::fs::{FsError, HostFs};
use crate::model::{
    BackupInfo, BackupSettings, ChoreAnswer, EtcdStatus, EtcdView, Fault, FaultCode, Timestamp,
};
use crate::nodelet::peers::Peers;
use crate::nodelet::phase::layout::BIN;
use crate::stack;
use crate::telemetry::chain;

/// Looks at the shelf: what is shown of it, and what the schedule decides by.
pub(super) fn look(
    fs: &HostFs,
    master: &Master,
    now: Timestamp,
    etcd: &mut EtcdStatus,
    seen: &mut Seen,
) -> Vec<BackupInfo> {
    let policy = &master.work.node.etcd.backup;
    let shelf = match Shelf::look(fs, shelf::dir(policy)) {
        Ok(shelf) => shelf,
        Err(error) => {
            etcd.backups.failing = Some(unread(&error));
            Shelf::default()
        }
    };
    let backups: Vec<_> = shelf.good.iter().map(|m| m.info()).collect();
    let last = shelf
        .newest_of(master.work.node.cluster_id)
        .map(|m| m.info());
    seen.last_backup = last.as_ref().map(|b| b.taken_at);
    seen.to_prune = !shelf.to_go(policy).is_empty();
    let shown = &mut etcd.backups;
    shown.count = u32::try_from(backups.len()).unwrap_or(u32::MAX);
    shown.bytes = shelf.bytes();
    shown.next_at = chore::backup_due(now, master.host_id, policy, seen.last_backup);
    shown.stale = seen
        .last_backup
        .is_some_and(|at| chore::stale(now, policy, at));
    shown.last = last;
    backups
}

/// Makes one.
pub(super) async fn make(
    host: &Host,
    peers: &mut Peers,
    master: &Master,
    view: &EtcdView,
) -> Result<ChoreAnswer, Fault> {
    let node = &master.work.node;
    let not_now = |why: String| Fault::new(FaultCode::BackupFailed, NO_BACKUP, why);
    let etcd = peers.etcd(&host.fs, node).map_err(not_now)?;
    let seen = view.etcd.clone().unwrap_or_default();
    let content = stack::active_content(&host.fs);
    let taking = Taking {
        fs: &host.fs,
        etcd: &etcd,
        etcdutl: &format!("{BIN}/etcdutl"),
        dir: shelf::dir(&node.etcd.backup),
        recipients: node.etcd.backup.recipients(),
        db_bytes: seen.db_bytes,
        now: Timestamp::now(),
        about: About {
            host_id: master.host_id,
            cluster_id: node.cluster_id,
            etcd_cluster_id: seen.cluster_id,
            member_id: seen.member_id,
            etcd_version: seen.version,
            kubernetes_version: content
                .map(|c| c.kubernetes.to_string())
                .unwrap_or_default(),
            settings: BackupSettings::of(node),
        },
    };
    let made = take::take(taking).await?;
    tracing::info!(
        backup = made.name,
        keys = made.keys,
        "etcd has a new backup"
    );
    Ok(ChoreAnswer {
        done: format!(
            "backup {} was made: {} keys, verified",
            made.name, made.keys
        ),
        backup: Some(made.info()),
    })
}

/// Takes away what is to go.
pub(super) fn prune(host: &Host, master: &Master) -> Result<ChoreAnswer, Fault> {
    let policy = &master.work.node.etcd.backup;
    let dir = shelf::dir(policy);
    let shelf = Shelf::look(&host.fs, dir).map_err(|e| unread(&e))?;
    let go = shelf.to_go(policy);
    for name in &go {
        shelf::remove(&host.fs, dir, name).map_err(|e| unread(&e))?;
        tracing::info!(backup = name, "an old backup of etcd was taken away");
    }
    Ok(ChoreAnswer {
        done: format!("took {} backups away", go.len()),
        backup: None,
    })
}

const NO_BACKUP: &str = "etcd has no new backup";

fn unread(error: &FsError) -> Fault {
    let what = "cannot look after the backups of etcd";
    Fault::new(FaultCode::BackupFailed, what, chain(error))
        .fix("look at the disk that the backups are on")
}

//! The chores of backups: makes one, takes old ones away.

use std::time::Duration;

use super::chore::{self, ChoreSeen};
use super::keeper::Master;
use super::trust;
use crate::backup::shelf::{self, Shelf};
use crate::backup::take::{self, BackupOrigin, Taking};
use crate::host::fs::{FsError, HostFs};
use crate::host::looking::Looking;
use crate::host::work::brief;
use crate::host::{Host, refusals};
use crate::model::{
    BackupInfo, BackupManifest, BackupSettings, ChoreAnswer, EtcdStatus, EtcdView, Fault,
    FaultCode, Timestamp,
};
use crate::nodelet::peers::Peers;
use crate::nodelet::phase::layout::ETCD_BIN;
use crate::stack;
use crate::telemetry::chain;

/// Longest one look at the shelf takes. Its directory may be a mount whose server is gone: then a look
/// never ends, and must hold up neither etcd nor the watchdog.
const SHELF_MAX: Duration = Duration::from_secs(20);

/// Looks at the shelf beside the task, one at a time.
pub(super) type Shelves = Looking<Result<Shelf, FsError>>;

async fn shelf(looking: &mut Shelves, fs: &HostFs, master: &Master) -> Result<Shelf, Fault> {
    let node = &master.work.node;
    let dir = shelf::dir(&node.etcd.backup).to_owned();
    let (fs, of, trust) = (fs.clone(), dir.clone(), trust::of(fs, node));
    let look = move || Shelf::look(&fs, &of, &trust);
    match looking.at(&dir, SHELF_MAX, look).await {
        Ok(Some(shelf)) => shelf.map_err(|e| unread(&e)),
        Err(lost) => Err(refusals::fault(FaultCode::BackupFailed, UNREAD, &lost)),
        Ok(None) => {
            let why = format!("{dir} does not answer; is its mount stale?");
            Err(Fault::new(FaultCode::BackupFailed, UNREAD, why).fix(UNREAD_FIX))
        }
    }
}

/// Looks at the shelf: what is shown of it, and what the schedule decides by.
pub(super) async fn look(
    (looking, fs): (&mut Shelves, &HostFs),
    master: &Master,
    now: Timestamp,
    etcd: &mut EtcdStatus,
    seen: &mut ChoreSeen,
) -> Vec<BackupInfo> {
    let policy = &master.work.node.etcd.backup;
    let found = shelf(looking, fs, master).await;
    seen.no_shelf = found.is_err();
    if found.is_err() || seen.backup_failed.is_none() {
        etcd.backups.failing = found.as_ref().err().cloned();
    }
    let shelf = found.unwrap_or_default();
    // From the look before.
    etcd.warnings
        .retain(|w| w.code != FaultCode::BackupUntrusted);
    etcd.warnings.extend(unbelieved(&shelf));
    let backups: Vec<_> = shelf.manifests().map(|m| m.info()).collect();
    let last = shelf
        .newest_of(master.work.node.cluster_id)
        .map(|m| m.manifest().info());
    let own = |m: &&BackupManifest| m.cluster_id == master.work.node.cluster_id;
    let of_the_shelf = shelf.manifests().filter(own).map(|m| m.taken_at);
    seen.first_backup = of_the_shelf.clone().min();
    seen.last_backup = chore::last(now, of_the_shelf.chain(seen.made));
    seen.to_prune = !shelf.to_go(policy).is_empty();
    let shown = &mut etcd.backups;
    shown.count = u32::try_from(backups.len()).unwrap_or(u32::MAX);
    shown.bytes = shelf.bytes();
    shown.next_at = chore::backup_due(now, master.host_id, policy, seen.last_backup);
    let since = seen.last_backup.unwrap_or(seen.since.unwrap_or(now));
    shown.stale = policy.is_stale(now, since);
    shown.last = last;
    backups
}

/// What lies there and counts for nothing, as text: a restore would refuse it.
fn unbelieved(shelf: &Shelf) -> Option<Fault> {
    let first = shelf.unbelieved.first()?;
    let what = "there are unsigned backups of etcd here";
    let why = format!(
        "{}, {first} among them: their manifests are not signed by a master of this cluster",
        shelf.unbelieved.len()
    );
    let fix = "pf9ctl etcd verify shows what is wrong with one; find out who can write there";
    Some(Fault::new(FaultCode::BackupUntrusted, what, why).fix(fix))
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
    let of_etcd = stack::etcd_content(&host.fs);
    let of_the_stack = of_etcd.and_then(|c| c.component("etcd").map(str::to_owned));
    let version = Some(seen.version).filter(|v| !v.is_empty());
    let sign = trust::signing(&host.fs, node)?;
    let taking = Taking {
        fs: &host.fs,
        etcd: &etcd,
        etcdutl: &format!("{ETCD_BIN}/etcdutl"),
        dir: shelf::dir(&node.etcd.backup),
        recipients: node.etcd.backup.recipients(),
        db_bytes: seen.db_bytes,
        now: crate::seam::clock::now(),
        about: BackupOrigin {
            host_id: master.host_id,
            cluster_id: node.cluster_id,
            etcd_cluster_id: seen.cluster_id,
            member_id: seen.member_id,
            etcd_version: version.or(of_the_stack).unwrap_or_default(),
            kubernetes_version: content
                .map(|c| c.kubernetes.to_string())
                .unwrap_or_default(),
            settings: BackupSettings::of(node),
        },
        sign: &sign,
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
        archived: Vec::new(),
    })
}

/// Takes away what is to go.
pub(super) async fn prune(host: &Host, master: &Master) -> Result<ChoreAnswer, Fault> {
    let policy = master.work.node.etcd.backup.clone();
    let (fs, trust) = (host.fs.clone(), trust::of(&host.fs, &master.work.node));
    let work = move || -> Result<usize, FsError> {
        let dir = shelf::dir(&policy);
        let go = Shelf::look(&fs, dir, &trust)?.to_go(&policy);
        for name in &go {
            shelf::remove(&fs, dir, name)?;
            tracing::info!(backup = name, "an old backup of etcd was pruned");
        }
        Ok(go.len())
    };
    let gone = brief(work).await;
    let gone = gone.map_err(|e| Fault::new(FaultCode::Internal, UNREAD, e.to_string()))?;
    let gone = gone.map_err(|e| unread(&e))?;
    Ok(ChoreAnswer {
        done: format!("pruned {gone} backups"),
        backup: None,
        archived: Vec::new(),
    })
}

const NO_BACKUP: &str = "etcd has no new backup";

const UNREAD: &str = "cannot prune the backups of etcd";
const UNREAD_FIX: &str = "check the disk that the backups are on";

fn unread(error: &FsError) -> Fault {
    Fault::new(FaultCode::BackupFailed, UNREAD, chain(error)).fix(UNREAD_FIX)
}

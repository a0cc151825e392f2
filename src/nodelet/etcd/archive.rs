//! The chores of the archive: copies there what is missing, newest first, and removes what is too
//! much; and looks what all hosts have there.

use super::keeper::Master;
use super::trust;
use crate::backup::archive::{self, Archive, ArchiveError};
use crate::backup::shelf::{self, MANIFEST, SEALED, Shelf};
use crate::egress::Egress;
use crate::host::Host;
use crate::model::{
    ArchivePolicy, ArchiveStatus, ArchiveTarget, Archived, BackupPolicy, ChoreAnswer, Fault,
    FaultCode, HostId,
};
use crate::telemetry::chain;

/// Most backups of the archive in an answer: it is read as a whole.
const LISTED_MAX: usize = 2000;
const NOT_LISTED: &str = "cannot list the backup archive";
const NOT_COPIED: &str = "the backups of etcd are not copied to the archive";

/// Copies what is on the shelf and not there.
pub(super) async fn copy(
    host: &Host,
    egress: &Egress,
    master: &Master,
) -> Result<(ChoreAnswer, ArchiveStatus), Fault> {
    let policy = &master.work.node.etcd.backup;
    let to = second_place(policy, NOT_COPIED)?;
    let fails = |error: ArchiveError| error.fault(&to.target, NOT_COPIED);
    let dir = shelf::dir(policy);
    let look = Shelf::look(&host.fs, dir, &trust::of(&host.fs, &master.work.node));
    let shelf = look.map_err(|e| Fault::new(FaultCode::BackupFailed, NOT_COPIED, chain(&e)))?;
    let archive = Archive::open(&host.fs, to, master.host_id, egress).map_err(fails)?;
    let missing = archive.missing(shelf.manifests()).await.map_err(fails)?;
    for name in &missing {
        let manifest = host
            .fs
            .read(format!("{dir}/{name}{MANIFEST}"), shelf::MANIFEST_MAX);
        let manifest = manifest.map_err(|e| fails(ArchiveError::Fs(e)))?;
        // Taken away meanwhile: then it is not wanted there either.
        let Some(manifest) = manifest else { continue };
        let sealed = host.fs.at(format!("{dir}/{name}{SEALED}"));
        archive.put(name, &sealed, &manifest).await.map_err(fails)?;
        tracing::info!(backup = name, place = %to.target, "a backup of etcd was copied");
    }
    for name in archive.prune().await.map_err(fails)? {
        tracing::info!(backup = name, place = %to.target, "an old copy was pruned");
    }
    let status = status(&archive, &to.target).await.map_err(fails)?;
    let answer = ChoreAnswer {
        done: format!("{} backups were copied to {}", missing.len(), to.target),
        backup: None,
        archived: Vec::new(),
    };
    Ok((answer, status))
}

/// What all hosts have there: a master that was replaced made its backups under another name.
pub(super) async fn list(
    host: &Host,
    egress: &Egress,
    master: &Master,
) -> Result<ChoreAnswer, Fault> {
    let node = &master.work.node;
    let to = second_place(&node.etcd.backup, NOT_LISTED)?;
    let others = node.etcd.members.iter().map(|m| m.host_id);
    let first: Vec<HostId> = std::iter::once(master.host_id).chain(others).collect();
    let all = archive::everything(&host.fs, to, egress, &first).await;
    let all = all.map_err(|error| error.fault(&to.target, NOT_LISTED))?;
    let mut archived: Vec<Archived> = all
        .into_iter()
        .map(|kept| Archived {
            name: kept.backup.name,
            host_id: kept.owner,
            bytes: kept.backup.bytes,
        })
        .collect();
    archived.sort_by(|a, b| a.name.cmp(&b.name));
    let done = format!("{} backups are at {}", archived.len(), to.target);
    // The oldest of very many are not what anybody looks for.
    archived.drain(..archived.len().saturating_sub(LISTED_MAX));
    Ok(ChoreAnswer {
        done,
        backup: None,
        archived,
    })
}

fn second_place<'a>(policy: &'a BackupPolicy, what: &str) -> Result<&'a ArchivePolicy, Fault> {
    let why = "the cluster's settings name no archive";
    let named = policy.archive.as_ref();
    named.ok_or_else(|| {
        Fault::new(FaultCode::EtcdArchiveInvalid, what, why)
            .fix("pf9-plane cluster backups NAME set --archive-dir DIR, or --archive-s3 URL")
    })
}

async fn status(archive: &Archive, target: &ArchiveTarget) -> Result<ArchiveStatus, ArchiveError> {
    let there = archive.list().await?;
    Ok(ArchiveStatus {
        place: target.to_string(),
        last: there.last().map(|b| b.name.clone()),
        seen_at: Some(crate::seam::clock::now()),
        count: u32::try_from(there.len()).unwrap_or(u32::MAX),
        bytes: there.iter().map(|b| b.bytes).fold(0, u64::saturating_add),
        failing: None,
    })
}

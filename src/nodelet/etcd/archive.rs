//! The chore of the second place: copies there what is missing, newest first, and takes away what is
//! too much.

use super::keeper::Master;
use crate::backup::archive::{Archive, ArchiveError};
use crate::backup::shelf::{self, MANIFEST, SEALED, Shelf};
use crate::egress::Egress;
use crate::host::Host;
use crate::model::{ArchiveStatus, ArchiveTarget, ChoreAnswer, Fault, FaultCode, Timestamp};
use crate::telemetry::chain;

const NOT_COPIED: &str = "the backups of etcd are not copied to the second place";

/// Copies what is on the shelf and not there.
pub(super) async fn copy(
    host: &Host,
    egress: &Egress,
    master: &Master,
) -> Result<(ChoreAnswer, ArchiveStatus), Fault> {
    let policy = &master.work.node.etcd.backup;
    let Some(to) = &policy.archive else {
        let why = "the cluster's settings name no second place";
        return Err(Fault::new(FaultCode::EtcdArchiveInvalid, NOT_COPIED, why));
    };
    let fails = |error: ArchiveError| error.fault(&to.target, NOT_COPIED);
    let dir = shelf::dir(policy);
    let look = Shelf::look(&host.fs, dir);
    let shelf = look.map_err(|e| Fault::new(FaultCode::BackupFailed, NOT_COPIED, chain(&e)))?;
    let archive = Archive::open(&host.fs, to, master.host_id, egress).map_err(fails)?;
    let missing = archive.missing(&shelf.good).await.map_err(fails)?;
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
        tracing::info!(backup = name, place = %to.target, "an old copy was taken away");
    }
    let status = status(&archive, &to.target).await.map_err(fails)?;
    let answer = ChoreAnswer {
        done: format!("{} backups were copied to {}", missing.len(), to.target),
        backup: None,
    };
    Ok((answer, status))
}

async fn status(archive: &Archive, target: &ArchiveTarget) -> Result<ArchiveStatus, ArchiveError> {
    let there = archive.list().await?;
    Ok(ArchiveStatus {
        place: target.to_string(),
        last: there.last().map(|b| b.name.clone()),
        seen_at: Some(Timestamp::now()),
        count: u32::try_from(there.len()).unwrap_or(u32::MAX),
        bytes: there.iter().map(|b| b.bytes).fold(0, u64::saturating_add),
        failing: None,
    })
}

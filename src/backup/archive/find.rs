//! Looking for backups in the places of all hosts: a machine that was replaced has another id than the one
//! that made them.

use std::collections::BTreeSet;

use super::{Archive, ArchiveError, Place, Stored, plan};
use crate::egress::Egress;
use crate::host::fs::HostFs;
use crate::model::{ArchivePolicy, BACKUP_SCHEMA, BackupManifest, ClusterId, HostId};

/// Most places that are looked into: many clusters share one, and each place is a question or two.
const OWNERS_MAX: usize = 256;

/// A backup in somebody's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose place.
    pub owner: HostId,
    /// The backup.
    pub backup: Stored,
}

/// The manifest of the backup of this name, from the place of one of `first`, else of anybody. That of this
/// cluster goes before one of another; who takes that says so.
pub async fn find(
    host: &HostFs,
    policy: &ArchivePolicy,
    egress: &Egress,
    first: &[HostId],
    name: &str,
    cluster: ClusterId,
) -> Result<BackupManifest, ArchiveError> {
    let mut looked = BTreeSet::new();
    let (mut another, mut wrong) = (None, None);
    // The rest is asked for only when it is not with those who are known.
    for rest in [false, true] {
        let owners = match rest {
            false => first.to_vec(),
            true => owners(host, policy, egress).await?,
        };
        for owner in owners.into_iter().filter(|owner| looked.insert(*owner)) {
            let archive = Archive::open(host, policy, owner, egress)?;
            match archive.manifest(name).await {
                Ok(text) => match read(&text, name, owner) {
                    Ok(manifest) if manifest.cluster_id == cluster => return Ok(manifest),
                    Ok(manifest) => another = another.or(Some(manifest)),
                    Err(error) => wrong = wrong.or(Some(error)),
                },
                Err(ArchiveError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let missing = || ArchiveError::Missing {
        file: name.to_owned(),
    };
    another.ok_or_else(|| wrong.unwrap_or_else(missing))
}

/// Every whole backup of everybody, those of `first` first.
pub async fn everything(
    host: &HostFs,
    policy: &ArchivePolicy,
    egress: &Egress,
    first: &[HostId],
) -> Result<Vec<Kept>, ArchiveError> {
    let mut all = Vec::new();
    let mut looked = BTreeSet::new();
    let others = owners(host, policy, egress).await?;
    for owner in first.iter().copied().chain(others) {
        if looked.insert(owner) {
            let there = Archive::open(host, policy, owner, egress)?.list().await?;
            all.extend(there.into_iter().map(|backup| Kept { owner, backup }));
        }
    }
    Ok(all)
}

/// Hosts that have a place there.
async fn owners(
    host: &HostFs,
    policy: &ArchivePolicy,
    egress: &Egress,
) -> Result<Vec<HostId>, ArchiveError> {
    let archive = Archive::open(host, policy, HostId(uuid::Uuid::nil()), egress)?;
    let names = match &archive.place {
        Place::Dir(dir) => dir.neighbours().await?,
        Place::S3(s3) => s3.neighbours().await?,
    };
    let owners: Vec<HostId> = names.iter().filter_map(|n| n.parse().ok()).collect();
    match owners.len() <= OWNERS_MAX {
        true => Ok(owners),
        false => Err(ArchiveError::Answer {
            said: format!(
                "places of more than {OWNERS_MAX} hosts; copy the two files of the backup from where it is"
            ),
        }),
    }
}

/// What stands there is somebody else's word: it is of this backup and this place, or not taken.
fn read(text: &str, name: &str, owner: HostId) -> Result<BackupManifest, ArchiveError> {
    let damaged = |why: String| {
        let [file, _] = plan::files(name);
        ArchiveError::Damaged { file, why }
    };
    let manifest: BackupManifest =
        serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
    if manifest.schema > BACKUP_SCHEMA {
        return Err(damaged("a later version of this program wrote it".into()));
    }
    if manifest.name != name || manifest.host_id != owner {
        return Err(damaged("it speaks of another backup".into()));
    }
    Ok(manifest)
}

//! Looking for backups in the places of all hosts: a machine that was replaced has another id than the one
//! that made them.

use std::collections::BTreeSet;

use super::{Archive, ArchiveError, Place, Stored, plan};
use crate::egress::Egress;
use crate::host::fs::HostFs;
use crate::model::{
    ArchivePolicy, BackupTrust, BelievedManifest, ClusterId, FoundManifest, HostId,
};

/// Most places that are looked into: many clusters share one, and each place is a question or two.
const OWNERS_MAX: usize = 256;

/// A backup in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose place.
    pub owner: HostId,
    /// The backup.
    pub backup: Stored,
}

/// The manifest of the backup of this name, from the place of one of `first`, else of anybody. That of this
/// cluster goes before one of another; a caller that takes that says so. An unsigned one does not count: anybody who can write
/// there could put it before the right one.
pub async fn find(
    host: &HostFs,
    policy: &ArchivePolicy,
    egress: &Egress,
    first: &[HostId],
    name: &str,
    (cluster, trust): (ClusterId, &BackupTrust),
) -> Result<BelievedManifest, ArchiveError> {
    let mut looked = BTreeSet::new();
    let (mut another, mut wrong) = (None, None);
    // The rest is asked for only when it is not with those who are known.
    for rest in [false, true] {
        let owners = match rest {
            false => first.to_vec(),
            true => match owners(host, policy, egress).await {
                Ok(owners) => owners,
                // What was wrong in a place that is known says more.
                Err(error) => return Err(wrong.unwrap_or(error)),
            },
        };
        for owner in owners.into_iter().filter(|owner| looked.insert(*owner)) {
            let archive = Archive::open(host, policy, owner, egress)?;
            match archive.manifest(name).await {
                Ok(text) => match read(&text, name, owner, trust) {
                    Ok(found) if found.manifest().cluster_id == cluster => return Ok(found),
                    Ok(found) => another = another.or(Some(found)),
                    Err(error) => wrong = wrong.or(Some(error)),
                },
                Err(ArchiveError::Missing { .. }) => {}
                // One host's place may be closed to this key, or be damaged: the others are asked anyway.
                Err(error) if error.is_of_one_place() => wrong = wrong.or(Some(error)),
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

/// Its content is untrusted: it must name this backup and this place, and be signed, or it is rejected.
fn read(
    text: &str,
    name: &str,
    owner: HostId,
    trust: &BackupTrust,
) -> Result<BelievedManifest, ArchiveError> {
    let damaged = |why: String| {
        let [file, _] = plan::files(name);
        ArchiveError::Damaged { file, why }
    };
    let found = FoundManifest::read(text.as_bytes()).map_err(|e| damaged(e.to_string()))?;
    if found.says().name != name || found.says().host_id != owner {
        return Err(damaged("it is the manifest of another backup".into()));
    }
    found
        .believed(trust)
        .map_err(|fault| ArchiveError::Unsigned(Box::new(fault)))
}

//! A backup that only the second place has, brought here: beside etcd's data, where the room for what is
//! made of it is, and never onto the shelf, where it could be pruned as too old. Nothing is stopped for it.
//!
//! It comes in turns of a few minutes, each of which goes on where the last one ended: between two the loop
//! sees that somebody wants it to end, and shows how far it is.

use std::path::PathBuf;
use std::time::Duration;

use super::Run;
use super::check::WHAT;
use super::stage::Hands;
use crate::backup::archive::{self, Archive, ArchiveError};
use crate::backup::seal::Sealed;
use crate::backup::shelf::{MANIFEST, SEALED};
use crate::backup::verify;
use crate::egress::Egress;
use crate::host::fs::{Attrs, FsError};
use crate::host::space;
use crate::model::{ArchivePolicy, ArchiveTarget, BackupManifest, Fault, FaultCode, HostId};
use crate::telemetry::chain;

/// A few hundred short questions at most.
const FIND_MAX: Duration = Duration::from_secs(5 * 60);
/// One turn. Whoever brings not one byte in it is given up.
const TURN: Duration = Duration::from_secs(120);
const PRIVATE: u32 = 0o700;
const SECRET: u32 = 0o600;
const MIB: u64 = 1024 * 1024;

/// A backup in the second place.
pub(super) struct Away {
    archive: Archive,
    target: ArchiveTarget,
    /// Where it comes.
    path: String,
}

/// Looks for the backup of this name: in this master's place, in those of the other masters, in all.
pub(super) async fn look(
    hands: Hands<'_>,
    run: &Run,
    policy: &ArchivePolicy,
    name: &str,
) -> Result<(BackupManifest, Away), Fault> {
    let (fs, node) = (&hands.host.fs, hands.node);
    let egress = hands.egress.as_ref().map_err(Clone::clone)?;
    let dir = run.fetching_dir();
    let fails = |error: ArchiveError| error.fault(&policy.target, WHAT);
    let away = |owner: HostId, egress: &Egress| -> Result<Away, Fault> {
        let archive = Archive::open(fs, policy, owner, egress).map_err(fails)?;
        Ok(Away {
            archive,
            target: policy.target.clone(),
            path: format!("{dir}/{name}{SEALED}"),
        })
    };
    // Found in an earlier turn.
    if let Ok((manifest, _)) = verify::find(fs, &dir, name) {
        let away = away(manifest.host_id, egress)?;
        return Ok((manifest, away));
    }
    let others = node.etcd.members.iter().map(|m| m.host_id);
    let first: Vec<HostId> = std::iter::once(node.host_id).chain(others).collect();
    let find = archive::find(fs, policy, egress, &first, name, node.cluster_id);
    let found = tokio::time::timeout(FIND_MAX, find).await;
    let late = ArchiveError::Slow {
        seconds: FIND_MAX.as_secs(),
    };
    let manifest = found.unwrap_or(Err(late)).map_err(fails)?;
    let noted = || {
        let text = serde_json::to_vec(&manifest).unwrap_or_default();
        fs.make_dir(&dir, &Attrs::mode(PRIVATE))?;
        fs.write(
            format!("{dir}/{name}{MANIFEST}"),
            &text,
            &Attrs::mode(SECRET),
        )
    };
    noted().map_err(|e: FsError| fails(ArchiveError::Fs(e)))?;
    let away = away(manifest.host_id, egress)?;
    Ok((manifest, away))
}

impl Away {
    /// One turn. The file, byte for byte the one that the manifest speaks of; or how far it is.
    pub(super) async fn bring(
        &self,
        hands: Hands<'_>,
        manifest: &BackupManifest,
    ) -> Result<Result<PathBuf, String>, Fault> {
        let into = hands.host.fs.at(&self.path);
        let have = || std::fs::metadata(&into).map_or(0, |m| m.len());
        let (before, total) = (have(), manifest.sealed_bytes);
        self.room(hands, manifest, before)?;
        let sealed = Sealed {
            bytes: total,
            sha256: manifest.sealed_sha256,
        };
        let get = self.archive.get(&manifest.name, sealed, &into);
        let fails = |error: ArchiveError| error.fault(&self.target, WHAT);
        match tokio::time::timeout(TURN, get).await {
            Ok(got) => got.map(|()| Ok(into)).map_err(fails),
            Err(_) if have() > before => Ok(Err(format!(
                "the backup comes from {}: {} of {} MiB are here",
                self.target,
                have() / MIB,
                total.div_ceil(MIB)
            ))),
            Err(_) => Err(fails(ArchiveError::Slow {
                seconds: TURN.as_secs(),
            })),
        }
    }

    /// For the rest of it, what is in it, and what is made of that: asked before a byte comes.
    fn room(&self, hands: Hands<'_>, manifest: &BackupManifest, have: u64) -> Result<(), Fault> {
        let place = hands.host.fs.at(crate::model::paths::ETCD_DATA);
        let full = |why: String| Fault::new(FaultCode::DiskFull, WHAT, why).fix(space::FIX);
        let room = space::of(&place).map_err(|e| full(chain(&e)))?;
        let rest = manifest.sealed_bytes.saturating_sub(have);
        let made = manifest.plain_bytes.saturating_mul(2);
        room.require(&place, rest.saturating_add(made))
            .map_err(|e| full(e.to_string()))
    }
}

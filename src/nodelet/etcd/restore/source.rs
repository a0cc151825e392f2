//! Which file was asked for, and where it is: on this machine, or in the archive only.

use std::path::PathBuf;
use std::time::Duration;

use super::check::{WHAT, unusable};
use super::fetch::{self, Away};
use super::stage::RestoreContext;
use super::{RestoreRun, Source};
use crate::backup::seal::ANOTHER;
use crate::backup::shelf::{self, MANIFEST, SEALED};
use crate::backup::verify;
use crate::host::fs::{Found, HostFs};
use crate::host::looking::Looking;
use crate::host::{Lost, refusals};
use crate::model::{BackupTrust, BelievedManifest, Fault, FaultCode, FoundManifest};
use crate::nodelet::etcd::trust;
use crate::telemetry::chain;

/// Longest look at the directory of the backups: it may be a mount whose server is gone.
const SHELF_MAX: Duration = Duration::from_secs(20);
/// Longest look through one of them: 8 GiB at 10 MiB/s, the slowest of disks.
const WHOLE_MAX: Duration = Duration::from_secs(15 * 60);

/// The look at a backup on this master. One that hangs is remembered from try to try.
pub type Shelves = tokio::sync::Mutex<Looking<Result<(FoundManifest, PathBuf), Fault>>>;

/// What to restore.
pub(super) enum Snapshot {
    /// A file as etcd sends it. It says nothing of its cluster.
    Plain(PathBuf),
    /// A backup that is here.
    Here(BelievedManifest, PathBuf),
    /// A backup that only the archive has.
    Away(BelievedManifest, Box<Away>),
}

impl Snapshot {
    /// Its manifest.
    pub(super) fn manifest(&self) -> Option<&BelievedManifest> {
        match self {
            Self::Plain(_) => None,
            Self::Here(manifest, _) | Self::Away(manifest, _) => Some(manifest),
        }
    }
}

/// Whose signature is asked for: that of the masters this one knows, and of those in the file that is named.
fn believes(hands: RestoreContext<'_>, source: &Source) -> Result<BackupTrust, Fault> {
    if source.unsigned {
        return Ok(BackupTrust::Unchecked);
    }
    let fs = &hands.host.fs;
    let mut signers = trust::signers(fs, hands.node);
    if let Some(file) = &source.signers {
        signers.extend(trust::kept(fs, file)?);
    }
    Ok(BackupTrust::Signers(signers))
}

/// Finds it.
pub(super) async fn find(
    hands: RestoreContext<'_>,
    run: &RestoreRun,
    source: &Source,
) -> Result<Snapshot, Fault> {
    let (fs, file) = (&hands.host.fs, source.file.as_str());
    let trust = believes(hands, source)?;
    if !shelf::is_name(file) {
        let sealed = [SEALED, MANIFEST].iter().any(|end| file.ends_with(end));
        if !sealed {
            return Ok(Snapshot::Plain(fs.at(file)));
        }
        let (manifest, sealed) = verify::find(fs, "", file, &trust).map_err(not_usable)?;
        return Ok(Snapshot::Here(manifest, sealed));
    }
    let policy = &hands.node.etcd.backup;
    let second = policy.archive.as_ref();
    let here = on_the_shelf(hands, shelf::dir(policy), (file, &trust), second.is_some()).await;
    match (here, second) {
        (Ok((manifest, sealed)), _) => Ok(Snapshot::Here(manifest, sealed)),
        (Err(fault), None) => Err(not_usable(fault)),
        (Err(here), Some(second)) => {
            let found = fetch::look(hands, run, second, (file, &trust)).await;
            let (manifest, away) = found.map_err(|fault| Fault {
                why: format!(
                    "on this master: {}; in the archive: {}",
                    here.why, fault.why
                ),
                ..fault
            })?;
            Ok(Snapshot::Away(manifest, Box::new(away)))
        }
    }
}

/// A backup on this master. Where there is another place for it, one that is broken here is none.
async fn on_the_shelf(
    hands: RestoreContext<'_>,
    dir: &str,
    (name, trust): (&str, &BackupTrust),
    or_elsewhere: bool,
) -> Result<(BelievedManifest, PathBuf), Fault> {
    let (fs, of, which) = (hands.host.fs.clone(), dir.to_owned(), name.to_owned());
    let look = move || seen(&fs, &of, &which);
    let silent = || {
        let why = format!("{dir} does not answer; is its mount stale?");
        Fault::new(FaultCode::EtcdRestore, WHAT, why).fix("unmount it, or remount it")
    };
    let lost = |lost: Lost| refusals::fault(FaultCode::EtcdRestore, WHAT, &lost);
    let mut shelves = hands.shelves.lock().await;
    let path = format!("{dir}/{name}");
    let looked = shelves.at(&path, SHELF_MAX, look).await.map_err(lost)?;
    let (mut found, mut sealed) = looked.ok_or_else(silent)??;
    if or_elsewhere {
        let whole = move || {
            verify::sealed(&sealed, found.says())?;
            Ok((found, sealed))
        };
        let path = format!("{path}{SEALED}");
        let whole = shelves.at(&path, WHOLE_MAX, whole).await.map_err(lost)?;
        (found, sealed) = whole.ok_or_else(silent)??;
    }
    Ok((found.believed(trust)?, sealed))
}

/// What the directory has of it.
fn seen(fs: &HostFs, dir: &str, name: &str) -> Result<(FoundManifest, PathBuf), Fault> {
    let (found, sealed) = verify::found(fs, dir, name)?;
    let path = format!("{dir}/{name}{SEALED}");
    let bytes = found.says().sealed_bytes;
    match fs.found(&path) {
        Ok(Found::File { size, .. }) if size == bytes => Ok((found, sealed)),
        Ok(Found::Nothing) => Err(unusable(format!("there is no {path}"), ANOTHER)),
        Ok(Found::File { .. } | Found::Dir { .. } | Found::Link(_) | Found::Other) => {
            let why = format!("{path} is truncated, or a different file");
            Err(unusable(why, ANOTHER))
        }
        Err(e) => Err(unusable(chain(&e), ANOTHER)),
    }
}

/// Nothing was changed; what is not signed keeps its own words.
fn not_usable(fault: Fault) -> Fault {
    if fault.code == FaultCode::BackupUntrusted {
        return Fault {
            what: format!("{WHAT}: {}", fault.what),
            ..fault
        };
    }
    unusable(fault.why, &fault.fix)
}

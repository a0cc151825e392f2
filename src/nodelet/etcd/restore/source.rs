//! Which file was asked for, and where it is: on this machine, or in the second place only.

use std::path::PathBuf;
use std::time::Duration;

use super::check::{WHAT, unusable};
use super::fetch::{self, Away};
use super::stage::Hands;
use super::{Run, Source};
use crate::backup::seal::ANOTHER;
use crate::backup::shelf::{self, MANIFEST, SEALED};
use crate::backup::verify;
use crate::host::blocking;
use crate::host::fs::{Found, HostFs};
use crate::model::{BackupManifest, Fault, FaultCode};
use crate::telemetry::chain;

/// Longest look at the directory of the backups: it may be a mount whose server is gone.
const SHELF_MAX: Duration = Duration::from_secs(20);

/// What is to be restored.
pub(super) enum Snapshot {
    /// A file as etcd sends it. It says nothing of its cluster.
    Plain(PathBuf),
    /// A backup that is here.
    Here(BackupManifest, PathBuf),
    /// A backup that only the second place has.
    Away(BackupManifest, Box<Away>),
}

impl Snapshot {
    /// What stands beside it.
    pub(super) fn manifest(&self) -> Option<&BackupManifest> {
        match self {
            Self::Plain(_) => None,
            Self::Here(manifest, _) | Self::Away(manifest, _) => Some(manifest),
        }
    }
}

/// Finds it.
pub(super) async fn find(hands: Hands<'_>, run: &Run, source: &Source) -> Result<Snapshot, Fault> {
    let (fs, file) = (&hands.host.fs, source.file.as_str());
    if !shelf::is_name(file) {
        let sealed = [SEALED, MANIFEST].iter().any(|end| file.ends_with(end));
        if !sealed {
            return Ok(Snapshot::Plain(fs.at(file)));
        }
        let (manifest, sealed) = verify::find(fs, "", file).map_err(not_usable)?;
        return Ok(Snapshot::Here(manifest, sealed));
    }
    let policy = &hands.node.etcd.backup;
    let second = policy.archive.as_ref();
    let here = on_the_shelf(fs, shelf::dir(policy), file, second.is_some()).await;
    match (here, second) {
        (Ok((manifest, sealed)), _) => Ok(Snapshot::Here(manifest, sealed)),
        (Err(fault), None) => Err(not_usable(fault)),
        (Err(here), Some(second)) => {
            let found = fetch::look(hands, run, second, file).await;
            let (manifest, away) = found.map_err(|fault| Fault {
                why: format!(
                    "on this master: {}; in the second place: {}",
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
    fs: &HostFs,
    dir: &str,
    name: &str,
    or_elsewhere: bool,
) -> Result<(BackupManifest, PathBuf), Fault> {
    let (fs, of, which) = (fs.clone(), dir.to_owned(), name.to_owned());
    let look = blocking(move || {
        let (manifest, sealed) = verify::find(&fs, &of, &which)?;
        let path = format!("{of}/{which}{SEALED}");
        match fs.found(&path) {
            Ok(Found::File { size, .. }) if size == manifest.sealed_bytes => Ok((manifest, sealed)),
            Ok(Found::Nothing) => Err(unusable(format!("there is no {path}"), ANOTHER)),
            Ok(Found::File { .. } | Found::Dir { .. } | Found::Link(_) | Found::Other) => {
                let why = format!("{path} is cut off, or another file");
                Err(unusable(why, ANOTHER))
            }
            Err(e) => Err(unusable(chain(&e), ANOTHER)),
        }
    });
    let looked = tokio::time::timeout(SHELF_MAX, look).await;
    let (manifest, sealed) = looked.unwrap_or_else(|_| {
        let why = format!("{dir} does not answer; is what is mounted there alive?");
        Err(Fault::new(FaultCode::EtcdRestore, WHAT, why).fix("unmount it, or mount it anew"))
    })?;
    if or_elsewhere {
        let (of, at) = (manifest.clone(), sealed.clone());
        blocking(move || verify::sealed(&at, &of)).await?;
    }
    Ok((manifest, sealed))
}

fn not_usable(fault: Fault) -> Fault {
    unusable(fault.why, &fault.fix)
}

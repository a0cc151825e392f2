//! Whether a backup is whole, and whether a file is a snapshot: `etcdutl` opens it. Never `etcdctl snapshot status`, which from 3.6 on
//! prints its help and succeeds, whatever the file is. And how a backup is opened, the same for `verify`,
//! a fire drill and a restore.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::blocking;
use super::seal::{self, ANOTHER, Opener};
use super::shelf;
use crate::host::exec::{self, Cmd};
use crate::host::fs::{Attrs, Begun, Found, FsError, HostFs};
use crate::host::space;
use crate::model::{
    BackupManifest, BackupTrust, BelievedManifest, Fault, FaultCode, FoundManifest,
};
use crate::telemetry::chain;

/// It reads every page: 8 GiB at 10 MiB/s, the slowest of disks.
const OPENING: Duration = Duration::from_secs(15 * 60);

/// What `etcdutl` says of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    /// Checksum of the content.
    pub hash: u32,
    /// The newest revision.
    pub revision: u64,
    /// Keys, all their revisions counted.
    pub total_key: u64,
    /// Bytes that are in use.
    pub total_size: u64,
    /// Version of what is stored; etcd below 3.6 says none.
    #[serde(default)]
    pub version: String,
}

/// Opens the plain snapshot at this path of the machine with this `etcdutl`.
pub async fn test_open(etcdutl: &Path, snapshot: &Path) -> Result<Opened, Fault> {
    let what = "the snapshot is unusable";
    let cmd = Cmd::new(etcdutl, OPENING)
        .args(["snapshot", "status", "-w", "json"])
        .arg(snapshot);
    let broken = |why: String| Fault::new(FaultCode::BackupBroken, what, why);
    let said = exec::run(cmd).await.map_err(|e| broken(chain(&e)))?;
    let opened: Opened = serde_json::from_slice(&said.stdout)
        .map_err(|e| broken(format!("the output of etcdutl cannot be parsed: {e}")))?;
    if opened.revision == 0 || opened.total_key == 0 {
        return Err(broken("it is empty".to_owned()));
    }
    Ok(opened)
}

/// Whether the sealed file is the one that the manifest speaks of, byte for byte. No key is needed.
pub fn sealed(path: &Path, manifest: &BackupManifest) -> Result<(), Fault> {
    let found = seal::digest(path).map_err(|e| broken(manifest, e.to_string()))?;
    if found.bytes != manifest.sealed_bytes {
        let (is, was) = (found.bytes, manifest.sealed_bytes);
        return Err(broken(
            manifest,
            format!("its file has {is} bytes, not {was}"),
        ));
    }
    if found.sha256 != manifest.sealed_sha256 {
        let why = "its file differs from the one that was written".to_owned();
        return Err(broken(manifest, why));
    }
    Ok(())
}

/// The plaintext of a backup, as a file destined for `to` and not in its place yet: dropping it deletes it. The sealed
/// file is the one that its manifest names, and so is the size of its content.
pub async fn plain(
    fs: &HostFs,
    sealed: &Path,
    manifest: &BackupManifest,
    keys: Vec<Opener>,
    to: &str,
) -> Result<Begun, Fault> {
    let (fs, from, manifest) = (fs.clone(), sealed.to_owned(), manifest.clone());
    let to = to.to_owned();
    let work = move || {
        let failed = |error: FsError| disk(&manifest, &error);
        self::sealed(&from, &manifest)?;
        let mut reader = seal::open(&from, &keys)?;
        let mut to = fs.begin(to, &Attrs::mode(0o600)).map_err(failed)?;
        let bytes = seal::copy(&mut reader, &mut to).map_err(failed)?;
        match bytes == manifest.plain_bytes {
            true => Ok(to),
            false => {
                let was = manifest.plain_bytes;
                Err(broken(
                    &manifest,
                    format!("it has {bytes} bytes, not {was}"),
                ))
            }
        }
    };
    blocking(work).await
}

/// The same, and `etcdutl` opens it and finds what the manifest says.
pub async fn opened(
    fs: &HostFs,
    etcdutl: &Path,
    sealed: &Path,
    manifest: &BackupManifest,
    keys: Vec<Opener>,
    to: &str,
) -> Result<Begun, Fault> {
    let to = plain(fs, sealed, manifest, keys, to).await?;
    let found = test_open(etcdutl, to.temporary()).await?;
    holds(manifest, (found.hash, found.revision, found.total_key))?;
    Ok(to)
}

/// Whether what was found in a snapshot (hash, revision, keys) is what the manifest says.
pub fn holds(manifest: &BackupManifest, found: (u32, u64, u64)) -> Result<(), Fault> {
    if found == (manifest.hash, manifest.revision, manifest.keys) {
        return Ok(());
    }
    let (_, revision, keys) = found;
    let why = format!(
        "its manifest is of another backup: it has revision {revision} and {keys} keys, not {} and {}, or other \
         content",
        manifest.revision, manifest.keys
    );
    Err(broken(manifest, why))
}

fn broken(manifest: &BackupManifest, why: String) -> Fault {
    let what = format!("backup {} is broken", manifest.name);
    Fault::new(FaultCode::BackupBroken, what, why).fix(ANOTHER)
}

/// A file could not be written, or what was read from the seal is not whole.
fn disk(manifest: &BackupManifest, error: &FsError) -> Fault {
    match space::is_full(&error.source) {
        true => {
            let what = format!("backup {} is not opened", manifest.name);
            Fault::new(FaultCode::DiskFull, what, chain(error)).fix(space::FIX)
        }
        false => broken(manifest, chain(error)),
    }
}

/// The manifest, signed by a trusted signer, and the sealed file of a backup: by its name on the shelf or by the path
/// of either.
pub fn find(
    fs: &HostFs,
    dir: &str,
    which: &str,
    trust: &BackupTrust,
) -> Result<(BelievedManifest, PathBuf), Fault> {
    let (found, sealed) = found(fs, dir, which)?;
    Ok((found.believed(trust)?, sealed))
}

/// The same, whatever key signed it.
pub fn found(fs: &HostFs, dir: &str, which: &str) -> Result<(FoundManifest, PathBuf), Fault> {
    let stem = which.strip_suffix(shelf::SEALED);
    let stem = stem
        .or_else(|| which.strip_suffix(shelf::MANIFEST))
        .unwrap_or(which);
    let stem = match stem.contains('/') {
        true => stem.to_owned(),
        false => format!("{dir}/{stem}"),
    };
    let what = format!("cannot use backup {which}");
    let bad = |why: String| Fault::new(FaultCode::BackupBroken, what.clone(), why).fix(ANOTHER);
    let beside = format!("{stem}{}", shelf::MANIFEST);
    // A pipe is waited for.
    if let Ok(Found::Dir { .. } | Found::Other) = fs.found(&beside) {
        return Err(bad(format!("{beside} is not a file")));
    }
    let text = fs
        .read(&beside, shelf::MANIFEST_MAX)
        .map_err(|e| bad(chain(&e)))?;
    let text = text.ok_or_else(|| bad(format!("there is no {beside}")))?;
    let found = FoundManifest::read(&text).map_err(|e| bad(format!("{beside}: {e}")))?;
    // An old one under a new name would be taken for a new one. With a path the caller sees what the file is called.
    if shelf::is_name(which) && found.says().name != which {
        return Err(bad(format!("{beside} is the manifest of another backup")));
    }
    Ok((found, fs.at(format!("{stem}{}", shelf::SEALED))))
}

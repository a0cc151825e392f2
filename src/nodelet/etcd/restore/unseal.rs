//! A snapshot as it is kept, and the plain one in it. Opened beside etcd's data, in a directory that
//! only root reads, and away again once the data are made.

use std::path::PathBuf;

use super::check::unusable;
use super::{Run, Source};
use crate::backup::seal::{self, ANOTHER, KEY_FILE_MAX};
use crate::backup::shelf::{MANIFEST, SEALED};
use crate::host::fs::{Attrs, HostFs};
use crate::host::space;
use crate::model::{BackupManifest, Fault, FaultCode, Secret};
use crate::telemetry::chain;

/// A manifest is one page.
const MANIFEST_MAX: u64 = 64 * 1024;
const PRIVATE: u32 = 0o700;
const SECRET: u32 = 0o600;

/// What stands beside a sealed snapshot. A plain one has none, and says nothing of its cluster.
pub(super) fn manifest(fs: &HostFs, source: &Source) -> Result<Option<BackupManifest>, Fault> {
    let Some(stem) = source.file.strip_suffix(SEALED) else {
        return Ok(None);
    };
    let path = format!("{stem}{MANIFEST}");
    let read = fs.read(&path, MANIFEST_MAX);
    let bytes = read.map_err(|e| unusable(chain(&e), ANOTHER))?;
    let bytes = bytes.ok_or_else(|| {
        let why =
            format!("there is no {path} beside it: it was cut off while it was made or copied");
        unusable(why, ANOTHER)
    })?;
    let manifest = serde_json::from_slice(&bytes);
    manifest
        .map(Some)
        .map_err(|e| unusable(format!("{path} cannot be read: {e}"), ANOTHER))
}

/// The plain snapshot: the file itself, or what is in the sealed one.
pub(super) async fn plain(
    fs: &HostFs,
    run: &Run,
    source: &Source,
    manifest: Option<&BackupManifest>,
) -> Result<PathBuf, Fault> {
    let Some(manifest) = manifest.cloned() else {
        return Ok(fs.at(&source.file));
    };
    let (fs, run, source) = (fs.clone(), run.clone(), source.clone());
    let opened = tokio::task::spawn_blocking(move || open(&fs, &run, &source, &manifest)).await;
    opened.unwrap_or_else(|e| Err(unusable(e.to_string(), "try again")))
}

fn open(
    fs: &HostFs,
    run: &Run,
    source: &Source,
    manifest: &BackupManifest,
) -> Result<PathBuf, Fault> {
    let sealed = fs.at(&source.file);
    let failed = |why: String| unusable(why, ANOTHER);
    let seen = seal::digest(&sealed).map_err(|e| failed(format!("{}: {e}", source.file)))?;
    if (seen.bytes, seen.sha256) != (manifest.sealed_bytes, manifest.sealed_sha256) {
        return Err(failed(format!(
            "{} is not the file that its manifest speaks of: it has {} bytes, not {}, or others",
            source.file, seen.bytes, manifest.sealed_bytes
        )));
    }
    let keys = keys(fs, source)?;
    let keys = keys.iter().map(|key| key as &dyn age::Identity);
    let mut plain = seal::open(&sealed, keys)?;
    let dir = run.opening_dir();
    let place = fs.at(&dir);
    let room = space::of(&place).map_err(|e| failed(e.to_string()))?;
    // It, and what is made of it.
    room.require(&place, manifest.plain_bytes.saturating_mul(2))
        .map_err(|e| Fault::new(FaultCode::DiskFull, NOT_OPENED, e.to_string()).fix(space::FIX))?;
    let path = format!("{dir}/snapshot.db");
    let mut copied = || {
        fs.make_dir(&dir, &Attrs::mode(PRIVATE))?;
        let mut file = fs.begin(&path, &Attrs::mode(SECRET))?;
        seal::copy(&mut plain, &mut file)?;
        file.place()
    };
    copied().map_err(|e| failed(chain(&e)))?;
    Ok(fs.at(path))
}

fn keys(fs: &HostFs, source: &Source) -> Result<Vec<age::x25519::Identity>, Fault> {
    let refused = |code, why: String| {
        Fault::new(code, NOT_OPENED, why).fix("name the file of the recovery key: --recovery-key")
    };
    let Some(path) = &source.recovery_key else {
        return Err(refused(
            FaultCode::KeyRefused,
            "it is sealed, and no key was named".into(),
        ));
    };
    let text = fs
        .read_text(path, KEY_FILE_MAX)
        .map_err(|e| refused(FaultCode::KeyInvalid, chain(&e)))?
        .ok_or_else(|| refused(FaultCode::KeyInvalid, format!("there is no {path}")))?;
    seal::keys(&Secret::new(text))
}

const NOT_OPENED: &str = "the backup is not opened, and nothing was changed";

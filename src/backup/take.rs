//! Taking a backup: one stream, written twice at once, and nothing that counts before everything about
//! it is known.
//!
//! ```text
//! etcd ─► stream (checked as it comes) ─► writer ─┬─► sealed, without a name ─► NAME.db.age ─► NAME.json
//!                                                 └─► plain, without a name ─► etcdutl ─► gone
//! ```
//!
//! What is interrupted at any byte leaves files without names (`host::temps` takes them away), or a sealed file without
//! a manifest, which is no backup (`shelf`). Memory is a few pieces of 32 KiB.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::seal::{self, Sealed, Sealer};
use super::shelf;
use super::verify::{self, Opened};
use crate::host::etcd::{Etcd, EtcdError};
use crate::host::fs::{Attrs, Begun, Found, FsError, HostFs};
use crate::host::work::long;
use crate::host::{refusals, space, temps};
use crate::model::{
    BACKUP_SCHEMA, BackupManifest, BackupSettings, ClusterId, Envelope, Fault, FaultCode, HostId,
    Timestamp, paths,
};
use crate::telemetry::chain;

/// Pieces of the stream that wait for the disk: two MiB.
pub const WAITING: usize = 64;
/// How every failure begins.
const WHAT: &str = "etcd has no new backup";

/// The source of a backup, and its recipients.
pub struct Taking<'a> {
    /// The machine.
    pub fs: &'a HostFs,
    /// The member.
    pub etcd: &'a Etcd,
    /// The active stack's `etcdutl`, a path of the host.
    pub etcdutl: &'a str,
    /// Where it goes, a path of the host.
    pub dir: &'a str,
    /// Who can open it.
    pub recipients: Vec<String>,
    /// Bytes of the database, as far as is known.
    pub db_bytes: u64,
    /// When.
    pub now: Timestamp,
    /// What the manifest says beside the data.
    pub about: BackupOrigin,
    /// Signs the manifest, as root of this master: without that no restore takes it.
    pub sign: &'a Sign<'a>,
}

/// Signs a manifest.
pub type Sign<'a> = dyn Fn(&BackupManifest) -> Result<Envelope, Fault> + Sync + 'a;

/// What the manifest says beside the data.
#[derive(Clone, Debug)]
pub struct BackupOrigin {
    /// This master.
    pub host_id: HostId,
    /// Its Kubernetes cluster.
    pub cluster_id: ClusterId,
    /// etcd's cluster, in hexadecimal.
    pub etcd_cluster_id: String,
    /// etcd's member, in hexadecimal.
    pub member_id: String,
    /// Version of the etcd that gives it.
    pub etcd_version: String,
    /// Version of Kubernetes.
    pub kubernetes_version: String,
    /// What a restore needs beside the data.
    pub settings: BackupSettings,
}

/// The two files of a stream that was written to its end; neither has its name.
struct Written {
    sealed: Begun,
    plain: Begun,
    size: Sealed,
    plain_bytes: u64,
}

/// Takes a backup; it is on the shelf when this returns.
pub async fn take(taking: Taking<'_>) -> Result<BackupManifest, Fault> {
    let recipients = seal::recipients(&taking.recipients)?;
    let (fs, dir) = (taking.fs, taking.dir);
    // From a killed process: in a foreign directory only this looks for it.
    temps::collect(fs, &[(dir, 0), (paths::ETCD_SCRATCH, 0)]);
    room(fs, dir, taking.db_bytes)?;
    let file = |at: &str| fs.begin(at, &Attrs::mode(0o600)).map_err(|e| failed(&e));
    let sealed = file(&format!("{dir}/new{}", shelf::SEALED))?;
    let plain = file(&format!("{}/snapshot.db", paths::ETCD_SCRATCH))?;
    let sealer = Sealer::new(sealed, &recipients).map_err(|e| unwritten(&e))?;
    let (written, storage_version) = stream(taking.etcd, sealer, plain).await?;
    let etcdutl = fs.at(taking.etcdutl);
    let opened = verify::test_open(&etcdutl, written.plain.temporary()).await?;
    let name = shelf::free_name(fs, dir, taking.now, opened.revision).map_err(|e| failed(&e))?;
    let manifest = manifest(&taking, &written, opened, (name, storage_version));
    let signed = (taking.sign)(&manifest)?;
    put(fs, dir, (written, &manifest.name), &signed).await?;
    Ok(manifest)
}

/// Room for both files, and what lies there already stays: asked before etcd is.
fn room(fs: &HostFs, dir: &str, bytes: u64) -> Result<(), Fault> {
    let private = Attrs::mode(0o700);
    for (at, own) in [
        (dir, dir == paths::ETCD_BACKUPS),
        (paths::ETCD_SCRATCH, true),
    ] {
        let there = matches!(fs.found(at), Ok(Found::Dir { .. }));
        // Another directory is the operator's, with the mode it was given.
        if own || !there {
            fs.make_dir(at, &private).map_err(|e| failed(&e))?;
        }
    }
    let device = |at: &str| std::fs::metadata(fs.at(at)).map(|m| m.dev());
    let (here, there) = (device(dir), device(paths::ETCD_SCRATCH));
    let same = here.map_err(|e| unwritten(&e))? == there.map_err(|e| unwritten(&e))?;
    let needs = [
        (dir, bytes.saturating_mul(1 + u64::from(same))),
        (paths::ETCD_SCRATCH, bytes),
    ];
    for (at, needs) in needs {
        let space = space::of(&fs.at(at)).map_err(|e| unwritten(&e))?;
        space
            .require(Path::new(at), needs)
            .map_err(|e| Fault::new(FaultCode::DiskFull, WHAT, e.to_string()).fix(space::FIX))?;
    }
    Ok(())
}

/// Reads the stream to its end, and writes it. The writer has a thread of its own, or there is no backup: sealing and
/// writing wait for a disk. When this is dropped the stream ends for the writer, and with it its files.
async fn stream(
    etcd: &Etcd,
    sealer: Sealer,
    plain: Begun,
) -> Result<(Written, Option<String>), Fault> {
    let mut snapshot = etcd.snapshot().await.map_err(|e| unasked(&e))?;
    let (to, from) = mpsc::channel(WAITING);
    let written = long(move || write(from, sealer, plain));
    let read = async move {
        while let Some(piece) = snapshot.next().await? {
            if to.send(piece).await.is_err() {
                // The writer says why.
                break;
            }
        }
        Ok::<_, EtcdError>(snapshot)
    };
    let (read, written) = tokio::join!(read, written);
    // A stream that is not whole is no backup, however well it was written.
    let snapshot = read.map_err(|e| unasked(&e))?;
    let written = written.map_err(io::Error::from).flatten();
    let written = written.map_err(|e| unwritten(&e))?;
    Ok((written, snapshot.storage_version().map(str::to_owned)))
}

fn write(
    mut pieces: mpsc::Receiver<Bytes>,
    mut sealer: Sealer,
    mut plain: Begun,
) -> io::Result<Written> {
    let mut plain_bytes = 0;
    while let Some(piece) = pieces.blocking_recv() {
        plain.write_all(&piece)?;
        sealer.write_all(&piece)?;
        plain_bytes += piece.len() as u64;
    }
    let (sealed, size) = sealer.finish()?;
    Ok(Written {
        sealed,
        plain,
        size,
        plain_bytes,
    })
}

fn manifest(
    taking: &Taking<'_>,
    written: &Written,
    opened: Opened,
    (name, storage_version): (String, Option<String>),
) -> BackupManifest {
    let about = taking.about.clone();
    BackupManifest {
        schema: BACKUP_SCHEMA,
        name,
        taken_at: taking.now,
        host_id: about.host_id,
        cluster_id: about.cluster_id,
        etcd_cluster_id: about.etcd_cluster_id,
        member_id: about.member_id,
        revision: opened.revision,
        keys: opened.total_key,
        hash: opened.hash,
        plain_bytes: written.plain_bytes,
        sealed_bytes: written.size.bytes,
        sealed_sha256: written.size.sha256,
        etcd_version: about.etcd_version,
        storage_version: storage_version.or((!opened.version.is_empty()).then_some(opened.version)),
        kubernetes_version: about.kubernetes_version,
        recipients: taking.recipients.clone(),
        settings: about.settings,
    }
}

/// Puts both files onto the shelf: last what makes them count.
async fn put(
    fs: &HostFs,
    dir: &str,
    (written, name): (Written, &str),
    signed: &Envelope,
) -> Result<(), Fault> {
    let text = serde_json::to_vec_pretty(signed)
        .map_err(|e| Fault::new(FaultCode::Internal, WHAT, e.to_string()))?;
    let sealed = format!("{name}{}", shelf::SEALED);
    let beside = format!("{dir}/{name}{}", shelf::MANIFEST);
    let fs = fs.clone();
    // A disk takes its time to make a large file durable.
    let placed = long(move || {
        drop(written.plain);
        written.sealed.named(&sealed).place()?;
        fs.write(&beside, &text, &Attrs::mode(0o600))
    });
    let placed = placed.await.map_err(|e| unwritten(&e.into()))?;
    placed.map_err(|e| failed(&e))
}

fn unasked(error: &EtcdError) -> Fault {
    Fault::new(FaultCode::BackupFailed, WHAT, chain(error)).fix("it is retried automatically")
}

fn failed(error: &FsError) -> Fault {
    fault(refusals::of(error), chain(error))
}

fn unwritten(error: &io::Error) -> Fault {
    let why = format!("its file cannot be written: {error}");
    fault(refusals::of(error), why)
}

fn fault(of_the_machine: Option<(FaultCode, String)>, why: String) -> Fault {
    let (code, fix) = of_the_machine.unwrap_or_else(|| {
        let fix = "check the disk of the backups; it is retried automatically";
        (FaultCode::BackupFailed, fix.to_owned())
    });
    Fault::new(code, WHAT, why).fix(fix)
}

#[cfg(all(test, feature = "fault"))]
mod tests;

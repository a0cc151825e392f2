//! The stack repository: import (verify, sign, store), and serving.

pub(super) mod ahead;
pub(super) mod deltas;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::response::Response;
use http::{HeaderMap, StatusCode};

use super::records::{CLUSTERS, STACKS, Stack};
use super::refusal::{Answer, Refusal, chain};
use super::served::{CHUNK, Served};
use super::state::Plane;
use super::store::Read;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::host::refusals;
use pf9_hostagent::host::work::long;
use pf9_hostagent::model::{
    Digest, DocumentKind, Envelope, Fault, FaultCode, Fit, Hasher, HostId, Inventory, Machine,
    Matrix, PAYLOAD_MAX, StackManifest, StackRef,
};
use pf9_hostagent::seam::disk::{self, Options};

const MANIFEST: &str = "manifest.json";
const ARCHIVE: &str = "stack.tar.zst";

/// Imports the stack in a directory. Importing the same stack again succeeds.
pub(super) async fn import(plane: &Arc<Plane>, dir: PathBuf) -> Answer<Stack> {
    let shared = Arc::clone(plane);
    let work = move || verify_and_keep(&shared, &dir);
    let stack = long(work)
        .await
        .map_err(|e| Refusal::internal("the import task failed", &e))??;
    let row = stack.clone();
    plane
        .change(move |change| {
            let taken = change.all(&STACKS)?.into_iter().find(|(_, s)| {
                s.reference.dir_name() == row.reference.dir_name() && s.reference != row.reference
            });
            if let Some((_, other)) = taken {
                let why = format!(
                    "another stack {} was imported: {}",
                    row.reference, other.reference.manifest
                );
                return Err(refuse(FaultCode::StackVersionTaken, why)
                    .fix("a version has one content: build the stack with a new version"));
            }
            let key = row.reference.manifest.to_string();
            if change.get(&STACKS, &key)?.is_none() {
                change.put(&STACKS, &key, &row)?;
                // Its policy may want it.
                for (_, cluster) in change.all(&CLUSTERS)? {
                    change.consider(cluster.id);
                }
            }
            Ok(())
        })
        .await?;
    plane.ahead.poke();
    tracing::info!(stack = %stack.reference, manifest = %stack.reference.manifest, "stack imported");
    Ok(stack)
}

fn refuse(code: FaultCode, why: impl Into<String>) -> Refusal {
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        Fault::new(code, "stack refused", why),
    )
}

fn verify_and_keep(plane: &Plane, dir: &Path) -> Answer<Stack> {
    let bytes = HostFs::new(dir)
        .read(MANIFEST, PAYLOAD_MAX as u64)
        .map_err(|e| refuse(FaultCode::StackUnreadable, chain(&e)))?
        .ok_or_else(|| {
            refuse(
                FaultCode::StackUnreadable,
                format!("{} has no {MANIFEST}", dir.display()),
            )
        })?;
    let manifest: StackManifest = serde_json::from_slice(&bytes)
        .map_err(|e| refuse(FaultCode::StackManifestInvalid, format!("{MANIFEST}: {e}")))?;
    manifest.validate()?;
    // Before its bytes are read: against any machine, as nothing is known about them yet.
    let fit = Matrix::ours().fits(&manifest, &Machine::default());
    if let Some(fault) = fit.refusal() {
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, fault));
    }
    let digest = Digest::of(&bytes);
    keep_archive(plane, &dir.join(ARCHIVE), &manifest, digest)?;
    Ok(Stack {
        reference: StackRef {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            manifest: digest,
        },
        kubernetes: manifest.kubernetes.to_string(),
        imported_at: pf9_hostagent::seam::clock::now(),
        archive: manifest.archive.sha256,
        archive_size: manifest.archive.size,
        deltas: Vec::new(),
        envelope: plane.signing.sign(DocumentKind::StackManifest, &bytes),
    })
}

/// Copies the archive, and keeps the copy only if it matches the manifest: the checked bytes are the served bytes.
fn keep_archive(
    plane: &Plane,
    from: &Path,
    manifest: &StackManifest,
    digest: Digest,
) -> Answer<()> {
    let unreadable = |e: std::io::Error| {
        refuse(
            FaultCode::StackUnreadable,
            format!("{}: {e}", from.display()),
        )
    };
    let target = plane.files.at(plane.archive_path(&digest));
    let temp = target.with_extension("part");
    let failed = |e: std::io::Error| {
        let why = format!("{}: {e}", temp.display());
        match refusals::of_call(&e, Some(&temp)) {
            Some((code, fix)) => refuse(code, why).fix(fix),
            None => refuse(FaultCode::StackUnwritable, why),
        }
    };
    let mut source = std::fs::File::open(from).map_err(unreadable)?;
    let mut out = Options::write()
        .create(0o600)
        .truncate()
        .open(&temp)
        .map_err(failed)?;
    let copied = (|| {
        let (mut hasher, mut size) = (Hasher::new(), 0u64);
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = source.read(&mut buffer).map_err(unreadable)?;
            let Some(part) = buffer.get(..n).filter(|p| !p.is_empty()) else {
                break;
            };
            size += n as u64;
            if size > manifest.archive.size {
                break;
            }
            hasher.update(part);
            out.write_all(part).map_err(failed)?;
        }
        let want = &manifest.archive;
        if size != want.size {
            let why = format!(
                "{ARCHIVE} does not have the {} bytes that the manifest says",
                want.size
            );
            return Err(refuse(FaultCode::StackArchiveWrong, why));
        }
        let found = hasher.finish();
        if found != want.sha256 {
            let why = format!(
                "{ARCHIVE} has SHA-256 {found}, the manifest says {}",
                want.sha256
            );
            return Err(refuse(FaultCode::StackArchiveWrong, why));
        }
        out.sync_all().map_err(failed)?;
        disk::rename(&temp, &target).map_err(failed)?;
        let dir = target.parent().unwrap_or(&target);
        disk::sync_dir(dir).map_err(failed)
    })();
    if copied.is_err() {
        // The file is ours; the refusal matters more.
        drop(disk::remove_file(&temp));
    }
    copied
}

/// All stacks, oldest import first.
pub(super) fn list(rows: &impl Read) -> Answer<Vec<Stack>> {
    let mut stacks: Vec<Stack> = rows.all(&STACKS)?.into_iter().map(|(_, s)| s).collect();
    stacks.sort_by_key(|s| s.imported_at);
    Ok(stacks)
}

/// The stack of this version; without one, the newest import.
pub(super) fn choose(rows: &impl Read, what: &str, version: Option<&str>) -> Answer<StackRef> {
    let stacks = list(rows)?.into_iter().rev().map(|s| s.reference);
    let found = stacks
        .into_iter()
        .find(|r| version.is_none_or(|v| v == r.version));
    found.ok_or_else(|| {
        let why = match version {
            Some(v) => {
                let v: String = v.chars().take(80).collect();
                format!("stack: there is no version {v:?}")
            }
            None => "stack: none was imported yet".into(),
        };
        Refusal::bad(FaultCode::StackUnknown, what, why)
            .fix("see pf9-plane stack list, import one with pf9-plane stack import")
    })
}

fn find(rows: &impl Read, digest: &str) -> Answer<Stack> {
    let digest: Digest = digest.parse().map_err(|e: pf9_hostagent::model::BadName| {
        Refusal::bad(FaultCode::DigestInvalid, "request refused", e.to_string())
    })?;
    rows.get(&STACKS, &digest.to_string())?.ok_or_else(|| {
        let why = format!("no stack has manifest {digest}");
        Refusal::missing(FaultCode::StackUnknown, "stack not found", why)
    })
}

/// Whether a stack fits a machine, or any machine if nothing is known about it. The plane signed its manifest, so what
/// is in the store is trusted.
pub(super) fn fit(stack: &Stack, machine: Option<&Inventory>) -> Fit {
    let machine = machine.map(Machine::of).unwrap_or_default();
    match stack.content() {
        Ok(content) => Matrix::ours().fits(&content, &machine),
        Err(e) => {
            let what = format!("stack {} is refused", stack.reference);
            let fault = Fault::new(FaultCode::StackManifestInvalid, what, e.to_string());
            Fit::Refused(Box::new(fault.fix("import the stack again")))
        }
    }
}

/// The row of a stack.
pub(super) fn row(rows: &impl Read, stack: &StackRef) -> Answer<Stack> {
    find(rows, &stack.manifest.to_string())
}

/// Content of a stack. The plane signed its manifest, so what is in the store is trusted.
pub(super) fn content(rows: &impl Read, stack: &StackRef) -> Answer<StackManifest> {
    let row = find(rows, &stack.manifest.to_string())?;
    row.content()
        .map_err(|e| refuse(FaultCode::StackManifestInvalid, e.to_string()))
}

/// Refuses a stack that does not fit one of these machines.
pub(super) fn require_fit<'a>(
    rows: &impl Read,
    wanted: &StackRef,
    machines: impl IntoIterator<Item = (HostId, &'a Inventory)>,
) -> Answer<()> {
    let stack = find(rows, &wanted.manifest.to_string())?;
    let refuse = |fault| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, fault);
    if let Some(fault) = fit(&stack, None).refusal() {
        return Err(refuse(fault));
    }
    for (host, inventory) in machines {
        if let Some(mut fault) = fit(&stack, Some(inventory)).refusal() {
            fault.why = format!("host {host}: {}", fault.why);
            return Err(refuse(fault));
        }
    }
    Ok(())
}

/// Refuses a stack that clusters may only come from.
pub(super) fn require_new(rows: &impl Read, wanted: &StackRef) -> Answer<()> {
    let stack = content(rows, wanted)?;
    let refuse = |fault: Box<Fault>| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, *fault);
    Matrix::ours().may_begin(&stack).map_err(refuse)
}

/// The signed manifest of a stack.
pub(super) fn manifest(rows: &impl Read, digest: &str) -> Answer<Envelope> {
    Ok(find(rows, digest)?.envelope)
}

/// The archive of a stack, or the part of it that `Range` asks for.
pub(super) async fn archive(plane: &Plane, digest: &str, headers: &HeaderMap) -> Answer<Response> {
    let stack = find(&plane.read()?, digest)?;
    let served = Served {
        path: plane
            .files
            .at(plane.archive_path(&stack.reference.manifest)),
        bytes: stack.archive_size,
        sha256: stack.archive,
        media: "application/zstd",
    };
    served.answer(headers).await
}

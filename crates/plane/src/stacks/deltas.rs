//! Deltas from one stack to another: made once, and served to hosts that have the first.
//!
//! `ahead` makes those that nodes are about to need; any other one is made on request.

use std::path::PathBuf;
use std::sync::Arc;

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use tokio::sync::Semaphore;

use super::{choose, find};
use crate::records::{Delta, STACKS, Stack};
use crate::refusal::{Answer, Refusal};
use crate::served::Served;
use crate::state::Plane;
use crate::store::Read;
use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::host::work::long;
use pf9_hostagent::model::{DeltaOffer, Digest, Fault, FaultCode, StackRef};
use pf9_hostagent::stack::StackError;
use pf9_hostagent::stack::delta::{Packed, make_of_archives};

/// Both stacks are unpacked on disk, and two programs are in memory: one is made at a time.
static ONE: Semaphore = Semaphore::const_new(1);
/// Seconds after which a host asks again for one in progress.
const SOON_S: u64 = 15;

/// The subject of a refusal.
const WHAT: &str = "the delta is not built";

/// Makes the delta from one version to another, unless it exists.
pub(crate) async fn make(plane: &Arc<Plane>, from: &str, to: &str) -> Answer<Made> {
    let (old, new) = {
        let rows = plane.read()?;
        let row = |version| {
            find(
                &rows,
                &choose(&rows, WHAT, Some(version))?.manifest.to_string(),
            )
        };
        (row(from)?, row(to)?)
    };
    make_of(plane, old, new).await
}

/// The same for two rows.
pub(super) async fn make_of(plane: &Arc<Plane>, old: Stack, new: Stack) -> Answer<Made> {
    if old.reference == new.reference {
        let why = "from and to are the same stack";
        return Err(Refusal::bad(FaultCode::StackUnknown, WHAT, why)
            .fix("name the nodes' present stack, and the next one"));
    }
    let one = ONE.acquire().await;
    let one = one.map_err(|e| Refusal::internal(WHAT, &e))?;
    let made = |offer| Made {
        offer,
        archive: new.archive_size,
    };
    let (key, from) = (new.reference.manifest.to_string(), old.reference.manifest);
    let path = plane.files.at(path_of(&from, &new.reference.manifest));
    // It may have been made while waiting for the turn.
    let now = find(&plane.read()?, &key)?;
    if let Some(offer) = offer_of(&now, &from)
        && path.exists()
    {
        return Ok(made(offer));
    }
    let shared = Arc::clone(plane);
    let (before, after) = (old.clone(), new.clone());
    // The caller may go away: no other one starts before this has ended.
    let work = move || {
        let _one = one;
        work(&shared, &before, &after)
    };
    let offer = long(work)
        .await
        .map_err(|e| Refusal::internal(WHAT, &e))??;
    plane
        .change(move |change| {
            let Some(mut row) = change.get(&STACKS, &key)? else {
                return Ok(());
            };
            row.deltas.retain(|delta| delta.from != from);
            row.deltas.push(Delta { from, offer });
            Ok(change.put(&STACKS, &key, &row)?)
        })
        .await?;
    tracing::info!(from = %old.reference, to = %new.reference, bytes = offer.bytes, "delta made");
    Ok(made(offer))
}

/// The delta, and the archive's size for comparison.
pub(crate) struct Made {
    pub(crate) offer: DeltaOffer,
    /// Bytes of the whole archive.
    pub(crate) archive: u64,
}

fn work(plane: &Plane, old: &Stack, new: &Stack) -> Answer<DeltaOffer> {
    let fs = &plane.files;
    let refuse = |stack: &StackRef, e: &StackError| {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, e.fault(stack))
    };
    let unreadable = |stack: &Stack, e: String| {
        let fault = Fault::new(FaultCode::StackManifestInvalid, WHAT, e);
        Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            fault.fix(format!("import {} again", stack.reference)),
        )
    };
    let [before, after] = [old, new].map(|stack| stack.content().map_err(|e| unreadable(stack, e)));
    let (before, after) = (before?, after?);
    let (from, to) = (old.reference.manifest, new.reference.manifest);
    let packed = |digest, manifest| Packed {
        digest,
        manifest,
        archive: fs.at(plane.archive_path(&digest)),
    };
    let scratch = scratch(&to);
    let made = make_of_archives(
        fs,
        &packed(from, &before),
        &packed(to, &after),
        &scratch,
        &path_of(&from, &to),
    );
    made.map_err(|e| refuse(&new.reference, &e))
}

/// The plane's delta from one stack to another.
pub(crate) fn offer(plane: &Plane, to: &str, from: &str) -> Answer<DeltaOffer> {
    offered(plane, to, from).map(|(offer, _)| offer)
}

/// The same, with its path.
fn offered(plane: &Plane, to: &str, from: &str) -> Answer<(DeltaOffer, PathBuf)> {
    let from: Digest = from.parse().map_err(|e: pf9_hostagent::model::BadName| {
        Refusal::bad(FaultCode::DigestInvalid, "request refused", e.to_string())
    })?;
    let stack = find(&plane.read()?, to)?;
    let to = stack.reference.manifest;
    let offer = offer_of(&stack, &from).ok_or_else(|| {
        if plane.ahead.is_coming(&from, &to) {
            let why = format!(
                "the delta from {from} to {} is being built",
                stack.reference
            );
            return Refusal::busy("there is no delta yet", &why, SOON_S);
        }
        let why = format!("stack {} has none from {from}", stack.reference);
        Refusal::missing(FaultCode::StackUnknown, "there is no delta", why)
    })?;
    Ok((offer, path_of(&from, &to)))
}

/// The bytes of it.
pub(crate) async fn serve(
    plane: &Plane,
    to: &str,
    from: &str,
    headers: &HeaderMap,
) -> Answer<Response> {
    let (offer, path) = offered(plane, to, from)?;
    let served = Served {
        path: plane.files.at(path),
        bytes: offer.bytes,
        sha256: offer.sha256,
        media: "application/zstd",
    };
    served.answer(headers).await
}

pub(crate) fn offer_of(stack: &Stack, from: &Digest) -> Option<DeltaOffer> {
    let mut deltas = stack.deltas.iter();
    deltas.find(|d| d.from == *from).map(|d| d.offer)
}

fn path_of(from: &Digest, to: &Digest) -> PathBuf {
    PathBuf::from(format!("/stacks/{to}.from-{from}.delta"))
}

fn scratch(to: &Digest) -> String {
    format!("/stacks/.delta-{to}")
}

/// Leftovers of a plane that ended while making one.
pub(crate) fn sweep(fs: &HostFs) {
    let left = fs.list("/stacks").unwrap_or_default();
    for name in left.iter().filter(|name| name.starts_with(".delta-")) {
        if let Err(error) = fs.remove_tree(format!("/stacks/{name}")) {
            let why = pf9_hostagent::telemetry::chain(&error);
            tracing::warn!(%why, "a partial delta could not be removed");
        }
    }
}

//! The kubectl of a cluster's stack: out of the archive that the plane has, once, and by its digest from then on.

use std::path::PathBuf;
use std::sync::Arc;

use crate::records::Cluster;
use crate::refusal::{Answer, Refusal};
use crate::stacks;
use crate::state::Plane;
use pf9_hostagent::host::fs::Attrs;
use pf9_hostagent::host::work::long;
use pf9_hostagent::model::FaultCode;
use pf9_hostagent::stack;

/// Where it is in a stack.
const PATH: &str = "bin/kubectl";
/// Where they are kept, below the plane's directory.
const DIR: &str = "/kubectl";
/// Kept: those of as many stacks as clusters usually are of. A new one beyond that takes the place of all.
const KEPT_MAX: usize = 4;
/// Largest: five times what it is.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Its path. Only one is taken out at a time: it is in memory meanwhile.
pub(super) async fn of(plane: &Arc<Plane>, cluster: &Cluster) -> Answer<PathBuf> {
    let rows = plane.read()?;
    let manifest = stacks::content(&rows, &cluster.stack)?;
    drop(rows);
    if manifest.arch != arch() {
        let why = format!(
            "its kubectl is of another architecture ({}) than the plane ({})",
            manifest.arch,
            arch()
        );
        return Err(none(why));
    }
    let file = manifest.files.into_iter().find(|file| file.path == PATH);
    let file = file.filter(|file| file.size <= BYTES_MAX);
    let file = file.ok_or_else(|| {
        none(format!(
            "stack {} {} has no {PATH}",
            manifest.name, manifest.version
        ))
    })?;
    let at = format!("{DIR}/{}", file.sha256);
    let place = plane.files.at(&at);
    if place.is_file() {
        return Ok(place);
    }
    // Held by the work and not by who waits for it: those who come and go would have it done many times at once.
    let turn = Arc::clone(&plane.terminal.turn).lock_owned().await;
    let plane = Arc::clone(plane);
    let archive = plane.files.at(plane.archive_path(&cluster.stack.manifest));
    let taken = long(move || {
        let _turn = turn;
        if plane.files.at(&at).is_file() {
            return Ok(());
        }
        let bytes = stack::file_of(&archive, &file).map_err(|e| none(e.to_string()))?;
        keep(&plane, &at, &bytes)
    });
    taken
        .await
        .map_err(|e| Refusal::internal("kubectl was not taken out of its stack", &e))??;
    Ok(place)
}

fn keep(plane: &Plane, at: &str, bytes: &[u8]) -> Answer<()> {
    let files = &plane.files;
    let io = |e: pf9_hostagent::host::fs::FsError| Refusal::internal("kubectl was not kept", &e);
    files.make_dir(DIR, &Attrs::mode(0o700)).map_err(io)?;
    let there = files.list(DIR).map_err(io)?;
    if there.len() >= KEPT_MAX {
        // A running one continues: only its name is deleted.
        for name in there {
            files.remove_file(format!("{DIR}/{name}")).map_err(io)?;
        }
    }
    files.write(at, bytes, &Attrs::mode(0o555)).map_err(io)
}

fn none(why: String) -> Refusal {
    Refusal::conflict(FaultCode::NoTerminal, "the command was not run", why)
        .fix("use kubectl with a kubeconfig of yours: pf9-plane kubeconfig NAME")
}

/// The plane's own architecture, as stacks call it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

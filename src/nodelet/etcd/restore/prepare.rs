//! New data, made beside the old ones while the cluster still runs. Nothing is stopped or moved here;
//! what was interrupted is started over.

use std::path::Path;
use std::time::Duration;

use super::check::{self, SnapshotFacts, unusable};
use super::fetch::TURN;
use super::snapshot::{self, Content};
use super::source::{self, Snapshot};
use super::stage::RestoreContext;
use super::{MADE, RestoreRun, Source, settings, unseal};
use crate::backup::seal::ANOTHER;
use crate::backup::verify;
use crate::host::etcd::peer_url;
use crate::host::exec::{self, Cmd};
use crate::host::fs::{Attrs, Found, FsError, HostFs};
use crate::host::space;
use crate::model::{ClusterId, Fault, FaultCode, Matrix, NodeSpec, paths};
use crate::nodelet::etcd::data;
use crate::stack;
use crate::telemetry::chain;

/// Revisions that are left out: more than were given away after any snapshot that is of use. So no
/// revision means two things, and a watch from an old one has to start over.
const BUMP: &str = "1000000000";
/// The largest database that etcd's makers mention is 8 GiB: it is copied, and read a second time.
const MAKE: Duration = Duration::from_secs(1800);
const PRIVATE: u32 = 0o700;

/// Its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestorePrepared {
    /// The data are whole, and on the disk. What differs and is restored anyway, as text.
    Whole(Vec<String>),
    /// The backup comes from the archive; how far it is.
    Coming(String),
}

/// Checks everything, then makes the data.
pub async fn prepare(
    hands: RestoreContext<'_>,
    run: &RestoreRun,
    source: &Source,
) -> Result<RestorePrepared, Fault> {
    let fs = &hands.host.fs;
    let failed = |e: &FsError| {
        let what = "cannot make etcd's data from the snapshot";
        Fault::new(FaultCode::State, what, chain(e)).fix("check the disk with etcd's data")
    };
    if matches!(fs.found(member_of(&run.fresh_dir())), Ok(Found::Dir { .. })) {
        return Ok(RestorePrepared::Whole(run.warnings.clone()));
    }
    mounted(fs)?;
    let stays = run.fetching_dir();
    clear_but(fs, Some(&stays)).map_err(|e| failed(&e))?;
    fs.make_dir(paths::ETCD_DATA, &Attrs::mode(PRIVATE))
        .map_err(|e| failed(&e))?;
    let warnings = match made(hands, run, source).await {
        Ok(RestorePrepared::Whole(warnings)) => warnings,
        Ok(coming) => return Ok(coming),
        Err(fault) => {
            // The next one clears as well; this is for the room.
            drop(clear_but(fs, Some(&stays)));
            return Err(fault);
        }
    };
    let keep = || {
        fs.sync_tree(run.making_dir())?;
        fs.rename(run.making_dir(), run.fresh_dir())?;
        // What was opened and brought for it.
        fs.remove_tree(run.opening_dir())?;
        fs.remove_tree(&stays)
    };
    keep().map_err(|e| failed(&e))?;
    Ok(RestorePrepared::Whole(warnings))
}

/// Without the disk that the data are on, the new ones would be written below its mount point and hidden by it.
fn mounted(fs: &HostFs) -> Result<(), Fault> {
    let what = "cannot restore etcd here";
    let seen = data::look(fs);
    let seen = seen.map_err(|e| Fault::new(FaultCode::EtcdRestore, what, chain(&e)))?;
    if let (data::DataVerdict::MountMissing { .. }, Some(held)) = (seen.verdict(), seen.held()) {
        return Err(Fault::new(FaultCode::EtcdData, what, held.why).fix(held.fix));
    }
    Ok(())
}

async fn made(
    hands: RestoreContext<'_>,
    run: &RestoreRun,
    source: &Source,
) -> Result<RestorePrepared, Fault> {
    let (fs, node) = (&hands.host.fs, hands.node);
    let etcdutl = fs.at(format!("{}/bin/etcdutl", paths::STACK_ETCD));
    let found = source::find(hands, run, source).await?;
    let manifest = found.manifest().map(|m| m.manifest().clone());
    let mut warnings = Vec::new();
    // Before a byte of it comes, and before anybody is asked for a key.
    if let Some(manifest) = &manifest {
        check::whose(manifest.cluster_id, node.cluster_id, source.any_cluster)?;
        let kubernetes = stack::active_content(fs).map(|content| content.kubernetes);
        warnings = settings::compare(manifest, node, kubernetes.as_ref())?;
    }
    let key = source.recovery_key.as_deref();
    let file = match found {
        Snapshot::Plain(file) => file,
        Snapshot::Here(manifest, sealed) => unseal::plain(fs, run, &sealed, &manifest, key).await?,
        Snapshot::Away(manifest, away) => match away.bring(hands, manifest.manifest(), TURN).await?
        {
            Ok(sealed) => unseal::plain(fs, run, &sealed, &manifest, key).await?,
            Err(coming) => return Ok(RestorePrepared::Coming(coming)),
        },
    };
    let content = looked(&etcdutl, &file).await?;
    if let Some(manifest) = &manifest {
        let found = (content.hash, content.revision, content.keys);
        verify::holds(manifest, found).map_err(|fault| unusable(fault.why, &fault.fix))?;
    }
    let of = manifest.map(|m| m.cluster_id);
    checked(fs, &etcdutl, source, of, node, &content).await?;
    make(fs, &etcdutl, &file, run, node).await?;
    Ok(RestorePrepared::Whole(warnings))
}

/// Takes away what restores have made that have not ended.
pub(super) fn clear(fs: &HostFs) -> Result<(), FsError> {
    clear_but(fs, None)
}

fn clear_but(fs: &HostFs, stays: Option<&str>) -> Result<(), FsError> {
    fs.list(paths::ETCD_DATA)?
        .into_iter()
        .filter(|name| MADE.iter().any(|prefix| name.starts_with(prefix)))
        .map(|name| format!("{}/{name}", paths::ETCD_DATA))
        .filter(|path| stays != Some(path.as_str()))
        .try_for_each(|path| fs.remove_tree(&path))
}

/// What etcd makes in a directory.
pub(super) fn member_of(dir: &str) -> String {
    format!("{dir}/member")
}

async fn looked(etcdutl: &Path, file: &Path) -> Result<Content, Fault> {
    snapshot::look(etcdutl, file).await.map_err(|e| {
        let why = format!("{}: {e}", file.display());
        unusable(why, ANOTHER)
    })
}

async fn checked(
    fs: &HostFs,
    etcdutl: &Path,
    source: &Source,
    of: Option<ClusterId>,
    node: &NodeSpec,
    content: &Content,
) -> Result<(), Fault> {
    let what = "cannot tell whether the snapshot may be restored";
    let etcd = snapshot::release(etcdutl).await.map_err(|why| {
        Fault::new(FaultCode::EtcdRestoreUnfit, what, why).fix("wait until the stack is active")
    })?;
    let place = fs.at(paths::ETCD_DATA);
    let space = space::of(&place)
        .map_err(|e| Fault::new(FaultCode::State, what, e.to_string()).fix(space::FIX))?;
    let facts = SnapshotFacts {
        content,
        etcd: &etcd,
        of,
        here: node.cluster_id,
        any_cluster: source.any_cluster,
        unsigned: source.unsigned,
        space,
        place: &place,
    };
    check::restorable(&facts, Matrix::ours())
}

async fn make(
    fs: &HostFs,
    etcdutl: &Path,
    file: &Path,
    run: &RestoreRun,
    node: &NodeSpec,
) -> Result<(), Fault> {
    let (name, url) = (node.host_id.to_string(), peer_url(node.node_ip));
    let cmd = Cmd::new(etcdutl, MAKE)
        .args(["snapshot", "restore"])
        .arg(file)
        .arg("--data-dir")
        .arg(fs.at(run.making_dir()))
        .args(["--name", &name])
        .args(["--initial-cluster", &format!("{name}={url}")])
        .args(["--initial-advertise-peer-urls", &url])
        .args(["--initial-cluster-token", &run.token()])
        .args(["--bump-revision", BUMP, "--mark-compacted"]);
    exec::run(cmd).await.map(drop).map_err(|e| {
        let why = format!("etcdutl does not restore it: {}", chain(&e));
        // There was room when it began. Another snapshot would not help.
        if why.contains(space::SAID) {
            return Fault::new(FaultCode::DiskFull, check::WHAT, why).fix(space::FIX);
        }
        unusable(why, ANOTHER)
    })
}

//! Task: the stack the spec names, into the staging directory; then the one that the node is to have ready
//! beside it, one at a time.
//!
//! Manifest first (small, signed), then, when the stack fits this machine, the archive, resumed where
//! it broke off. The digest is
//! computed while the bytes arrive. Beside an active stack only what differs from it is fetched, where the plane has
//! that; one that is no good costs its own bytes, and then the archive comes. nodelet verifies everything again: what
//! happens here spares it, and the operator, a wait for bytes that are wrong.

mod shorter;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use self::shorter::{AWAITED_MAX, Offered, Shorter, after, is_staged, length, offered};
use super::board::Gathered;
use super::fetch::{Failure, KEPT_EVERY, Target, Wanted, keep_on_disk};
use super::spool::Topic;
use super::{Agent, blocking, plane};
use crate::app::Backoff;
use crate::host::fs::{Attrs, FsError};
use crate::identity;
use crate::local::Method;
use crate::model::{
    DownloadStatus, Envelope, Fault, FaultCode, Matrix, StackRef, TrustStore, paths,
};
use crate::stack::{self, Depth, Manifest, StackError, programs};

/// Waits after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// A full disk or a damaged stack needs a person; the plane coming back wakes earlier.
const RETRY_CAP: Duration = Duration::from_secs(60);
/// How long nodelet has to take a staged stack before it is looked at again.
const SETTLE_FIRST: Duration = Duration::from_secs(60);
/// Reading a whole archive to find it right again is worth doing rarely.
const SETTLE_CAP: Duration = Duration::from_secs(900);
/// nodelet only notes that it was woken.
const WAKE_DEADLINE: Duration = Duration::from_secs(30);

/// What is remembered of one stack's rounds.
struct Waits {
    retry: Backoff,
    settle: Backoff,
    shorter: Shorter,
}

/// What a round came to.
enum Came {
    Staged,
    /// The plane makes what differs just now: it is asked again.
    NotYet,
}

pub(super) async fn run(agent: Agent) {
    loop {
        let wanted = |f: &Gathered| (f.stack_to_fetch(), f.staged_beside());
        let (want, beside) = agent.board.read(wanted);
        let own = agent.board.read(Gathered::stack);
        sweep(&agent, &[want.as_ref(), own.as_ref(), beside.as_ref()]).await;
        agent.board.set(|f| &mut f.download, None);
        let Some(stack) = want else {
            agent.board.wait(|f| f.stack_to_fetch().map(drop)).await;
            continue;
        };
        let changed = agent
            .board
            .wait(|f| (wanted(f) != (Some(stack.clone()), beside.clone())).then_some(()));
        let mut waits = Waits {
            retry: Backoff::new(RETRY_FIRST, RETRY_CAP),
            settle: Backoff::new(SETTLE_FIRST, SETTLE_CAP),
            shorter: Shorter::new(),
        };
        let rounds = async {
            loop {
                one_round(&agent, &stack, &mut waits).await;
            }
        };
        tokio::select! {
            // A download may be cut at any byte; see the module.
            () = changed => {}
            () = rounds => {}
        }
    }
}

/// Returns when it is time to look again.
async fn one_round(agent: &Agent, stack: &StackRef, waits: &mut Waits) {
    let wanted = agent.board.read(|f| f.nodelet_wants(stack));
    if !wanted && is_installed(agent, stack).await {
        waits.settle.reset();
        if agent.board.read(|f| f.nodelet_is_done_with(stack)) {
            forget_archive(agent, stack).await;
        } else {
            let done = |f: &Gathered| f.nodelet_is_done_with(stack) || f.nodelet_wants(stack);
            agent.board.wait(|f| done(f).then_some(())).await;
            return;
        }
        agent
            .board
            .wait(|f| f.nodelet_wants(stack).then_some(()))
            .await;
        return;
    }
    let repairs = agent.board.read(|f| f.nodelet_has(stack));
    match fetch(agent, stack, &mut waits.shorter).await {
        Ok(Came::NotYet) => agent.plane.pause(waits.retry.failed()).await,
        Ok(Came::Staged) => {
            waits.retry.reset();
            agent.board.set(|f| &mut f.download, None);
            wake_nodelet(agent).await;
            // The rest is nodelet's; when it continues asking, all is looked at again, ever more rarely. (That a stack
            // which it repairs is the active one says nothing.)
            let done = || {
                agent
                    .board
                    .wait(|f| (!repairs && f.nodelet_is_done_with(stack)).then_some(()))
            };
            let longer = async {
                tokio::time::sleep(KEPT_EVERY).await;
                kept(agent, stack).await;
                tokio::time::sleep(waits.settle.failed()).await;
            };
            // What it made of a delta was not the stack: it removed it, and asks on.
            let removed = agent
                .board
                .wait(|f| (f.nodelet_wants(stack) && !is_staged(agent, stack)).then_some(()));
            tokio::select! {
                // cancel-safe: all are; an archive that is not kept is fetched again at worst
                () = done() => {}
                () = removed => {}
                () = longer => {}
            }
        }
        Err(fault) => {
            if is_unfit(fault.code) {
                // It holds what is installed as soon as it sees the manifest.
                wake_nodelet(agent).await;
            }
            let wait = waits.retry.failed();
            failed(agent, stack, fault.next_try(agent.later(wait)));
            agent.plane.pause(wait).await;
        }
    }
}

/// nodelet unpacks it meanwhile.
async fn kept(agent: &Agent, stack: &StackRef) {
    let (fs, archive) = (
        agent.fs.clone(),
        agent.fs.at(stack::staged_archive(&stack.manifest)),
    );
    if let Err(error) = blocking(move || keep_on_disk(&fs, &archive, paths::STAGING)).await {
        let why = crate::telemetry::chain(&error);
        tracing::warn!(%why, "the stack's archive may not survive a power loss, and is downloaded again then");
    }
}

/// What is installed needs no second copy of itself. Its manifest stays: see [`sign_anew`].
async fn forget_archive(agent: &Agent, stack: &StackRef) {
    if let Err(error) = try_to_forget(agent, stack).await {
        let why = crate::telemetry::chain(&error);
        tracing::warn!(%why, "the archive of an installed stack was not removed");
    }
}

async fn try_to_forget(agent: &Agent, stack: &StackRef) -> Result<(), FsError> {
    let (fs, digest) = (agent.fs.clone(), stack.manifest.to_string());
    let listed = blocking(move || {
        let mut staged = fs.list(paths::STAGING)?;
        staged.retain(|name| name.starts_with(&digest) && !name.ends_with(".manifest.json"));
        let of = |name: String| Path::new(paths::STAGING).join(name);
        Ok::<Vec<PathBuf>, FsError>(staged.into_iter().map(of).collect())
    });
    let staged = listed.await?;
    // Installed before it was told of, and with its files goes what the next start would see of it.
    let whole = staged.iter().map(|path| agent.fs.at(path));
    let whole = whole.filter(|path| path.extension().is_none_or(|end| end != "part"));
    if let Some(newest) = whole.max_by_key(|path| staged_at(path)) {
        tell_staged(agent, stack, &newest).await;
    }
    let fs = agent.fs.clone();
    blocking(move || staged.iter().try_for_each(|path| fs.remove_file(path))).await
}

fn is_unfit(code: FaultCode) -> bool {
    matches!(code, FaultCode::StackUnfit | FaultCode::StackOtherArch)
}

fn failed(agent: &Agent, stack: &StackRef, fault: Fault) {
    let old = agent
        .board
        .read(|f| f.download.as_ref().and_then(|d| d.fault.clone()));
    if old.as_ref().map(|f| &f.code) != Some(&fault.code) {
        tracing::warn!(code = fault.code.word(), "{fault}");
        // That the plane is away cannot be reported to it; its return shows it.
        if fault.code != FaultCode::PlaneAway {
            agent
                .events
                .emit("stack-failed", fault.to_string(), Some(fault.clone()));
        }
    }
    agent.board.update(|facts| {
        let download = facts.download.get_or_insert_with(|| progress(stack, 0, 0));
        download.fault = Some(fault);
    });
}

async fn is_installed(agent: &Agent, stack: &StackRef) -> bool {
    let (fs, stack) = (agent.fs.clone(), stack.clone());
    blocking(move || {
        let trust = identity::trust(&fs).ok()?;
        stack::verify_installed(&fs, &stack, &trust, Depth::Cheap).ok()
    })
    .await
    .is_some()
}

/// Manifest and archive, or what differs from the stack that is here, complete and verified.
async fn fetch(agent: &Agent, stack: &StackRef, shorter: &mut Shorter) -> Result<Came, Fault> {
    let manifest = manifest(agent, stack).await?;
    fits(agent, stack, &manifest)?;
    let archive = &manifest.content().archive;
    let target = Target {
        wanted: OfStack {
            stack: stack.clone(),
            total: archive.size,
            from: None,
        },
        url: format!("/v1/stacks/{}/archive", stack.manifest),
        done: agent.fs.at(stack::staged_archive(&stack.manifest)),
        part: agent.fs.at(stack::staged_part(&stack.manifest)),
        total: archive.size,
        sha256: archive.sha256,
    };
    if target.is_done().await? {
        tell_staged(agent, stack, &target.done).await;
        return Ok(Came::Staged);
    }
    // An archive of which nothing was downloaded yet (the plane was away) is not started: the delta is still the
    // shorter way.
    let offered = match *shorter == Shorter::Closed || length(&target.part) > 0 {
        true => Offered::Nothing,
        false => offered(agent, stack, archive.size).await?,
    };
    let delta = match (offered, *shorter) {
        (Offered::Delta(delta), _) => delta,
        (Offered::NotYet, Shorter::Open { barren, awaited }) if awaited < AWAITED_MAX => {
            if awaited == 0 {
                tracing::info!(%stack, "the plane is building the delta from the installed stack");
            }
            let awaited = awaited + 1;
            *shorter = Shorter::Open { barren, awaited };
            return Ok(Came::NotYet);
        }
        (Offered::NotYet | Offered::Nothing, _) => return receive(agent, target).await,
    };
    if delta.is_done().await? {
        tell_staged(agent, stack, &delta.done).await;
        *shorter = Shorter::Had;
        return Ok(Came::Staged);
    }
    if *shorter == Shorter::Had {
        // nodelet took it away: what it made was not the stack.
        *shorter = Shorter::Closed;
        return receive(agent, target).await;
    }
    let (part, had) = (delta.part.clone(), length(&delta.part));
    let received = receive(agent, *delta).await;
    let failed = received.as_ref().err().map(|fault| fault.code);
    *shorter = after(*shorter, failed, length(&part) > had);
    received
}

async fn receive(agent: &Agent, target: Target<OfStack>) -> Result<Came, Fault> {
    let stack = &target.wanted.stack;
    agent.board.update(|facts| {
        facts.download = Some(progress(stack, 0, target.total));
    });
    let file = target.open().await?;
    // It unpacks what is there while the rest comes.
    wake_nodelet(agent).await;
    let what = match target.wanted.from {
        Some(_) => "the delta from the installed stack",
        None => "its archive",
    };
    tracing::info!(%stack, what, have = file.have, total = target.total, "stack download begins");
    target.receive(agent, file).await?;
    tracing::info!(%stack, "stack staged");
    tell_staged(agent, stack, &target.done).await;
    Ok(Came::Staged)
}

/// Once for each time that it was staged, which the file's time tells apart: a process that ended before it told of it has
/// left the file to the next one.
async fn tell_staged(agent: &Agent, stack: &StackRef, done: &Path) {
    let (seconds, nanos) = staged_at(done);
    let topic = Topic {
        name: "stack-staged".into(),
        value: format!("{} {seconds}.{nanos:09}", stack.manifest),
        idle: None,
    };
    let message = format!("stack {stack} staged");
    agent
        .events
        .emit_first(topic, "stack-staged", message)
        .await;
}

fn staged_at(done: &Path) -> (i64, i64) {
    let meta = std::fs::metadata(done);
    meta.map_or((0, 0), |m| (m.mtime(), m.mtime_nsec()))
}

/// Refuses what does not go with this machine before its bytes are fetched. What is active already
/// is not judged: it is fetched to be repaired.
fn fits(agent: &Agent, stack: &StackRef, manifest: &Manifest) -> Result<(), Fault> {
    if stack::current(&agent.fs).ok().flatten().as_ref() == Some(stack) {
        return Ok(());
    }
    let fit = Matrix::ours().fits(manifest.content(), &programs::machine(&agent.fs));
    fit.refusal().map_or(Ok(()), Err)
}

/// The staged manifest, fetched when it is not there or no good.
async fn manifest(agent: &Agent, stack: &StackRef) -> Result<Manifest, Fault> {
    let what = format!("cannot fetch the manifest of stack {stack}");
    let trust = identity::trust(&agent.fs).map_err(|e| e.fault(&what))?;
    match Manifest::open_staged(&agent.fs, stack, &trust) {
        Ok(manifest) => return Ok(manifest),
        Err(e) if e.staged_files_are_bad() || matches!(e, StackError::NotStaged { .. }) => {}
        Err(e) => return Err(e.fault(stack)),
    }
    fetch_manifest(agent, stack, &trust).await
}

/// Stages the manifest again when another key signed the one that is there: the plane has the same
/// content under its new key.
pub(super) async fn sign_anew(agent: &Agent, stack: &StackRef, signer: &str) -> Result<(), Fault> {
    let what = format!("cannot fetch the manifest of stack {stack}");
    let trust = identity::trust(&agent.fs).map_err(|e| e.fault(&what))?;
    let staged = Manifest::open_staged(&agent.fs, stack, &trust);
    let done = staged.is_ok_and(|m| m.envelope().key_id == signer);
    if !done && trust.knows(signer) {
        fetch_manifest(agent, stack, &trust).await?;
    }
    Ok(())
}

async fn fetch_manifest(
    agent: &Agent,
    stack: &StackRef,
    trust: &TrustStore,
) -> Result<Manifest, Fault> {
    let what = format!("cannot fetch the manifest of stack {stack}");
    let path = format!("/v1/stacks/{}/manifest", stack.manifest);
    let envelope = agent
        .plane
        .poll::<Envelope>(&path, plane::CALL_DEADLINE)
        .await
        .map_err(|e| plane::fault(&e, &what))?
        .ok_or_else(|| {
            Fault::new(
                FaultCode::PlaneGarbage,
                &what,
                "the plane's answer is empty",
            )
        })?;
    let manifest = Manifest::open(envelope, stack, trust).map_err(|e| e.fault(stack))?;
    let bytes = serde_json::to_vec(manifest.envelope()).unwrap_or_default();
    let (fs, digest) = (agent.fs.clone(), stack.manifest);
    blocking(move || fs.write(stack::staged_manifest(&digest), &bytes, &Attrs::mode(0o640)))
        .await
        .map_err(|e| StackError::Fs(e).fault(stack))?;
    Ok(manifest)
}

pub(super) async fn wake_nodelet(agent: &Agent) {
    if agent.board.read(|f| f.to_deliver().is_none()) {
        return;
    }
    let woken = agent
        .nodelet
        .send::<_, serde_json::Value>(Method::POST, "/v1/wake", &json!({}), WAKE_DEADLINE)
        .await;
    if let Err(error) = woken {
        // nodelet looks by itself with its next sweep.
        let why = crate::telemetry::chain(&error);
        tracing::debug!(%why, "nodelet was not notified");
    }
}

/// Removes what is staged for other stacks.
async fn sweep(agent: &Agent, keep: &[Option<&StackRef>]) {
    let kept = keep.iter().flatten().map(|s| s.manifest.to_string());
    let (fs, keep): (_, Vec<String>) = (agent.fs.clone(), kept.collect());
    let swept = blocking(move || {
        let foreign = |name: &String| !keep.iter().any(|k| name.starts_with(k.as_str()));
        fs.list(paths::STAGING)?
            .into_iter()
            .filter(foreign)
            .try_for_each(|name| fs.remove_file(Path::new(paths::STAGING).join(name)))
    })
    .await;
    if let Err(error) = swept {
        let why = crate::telemetry::chain(&error);
        tracing::warn!(%why, "the staging directory was not cleaned");
    }
}

fn progress(stack: &StackRef, have: u64, total: u64) -> DownloadStatus {
    DownloadStatus {
        stack: stack.clone(),
        have,
        total,
        fault: None,
    }
}

/// The archive of a stack, or what differs from another one.
struct OfStack {
    stack: StackRef,
    total: u64,
    from: Option<StackRef>,
}

impl Wanted for OfStack {
    fn fault(&self, failure: Failure) -> Fault {
        let what = format!("cannot fetch stack {}", self.stack);
        let error = match failure {
            Failure::Damaged(why) if let Some(from) = &self.from => {
                let why = format!("the delta from stack {from} is damaged: {why}");
                return Fault::new(FaultCode::StackDamaged, what, why)
                    .fix("the whole archive is fetched instead");
            }
            Failure::Broken(why) => return Fault::new(FaultCode::StackFetch, what, why),
            Failure::Plane(error) => return plane::fault(&error, &what),
            Failure::Damaged(why) => StackError::Damaged(why),
            Failure::Space(room) => StackError::Space(room),
            Failure::Io {
                action,
                path,
                source,
            } => StackError::Io {
                action,
                path,
                source,
            },
        };
        error.fault(&self.stack)
    }

    fn tell(&self, agent: &Agent, have: u64) {
        let now = Some(progress(&self.stack, have, self.total));
        agent.board.set(|f| &mut f.download, now);
    }
}

//! Two tasks about the version of this software: its package into the staging directory, and how far the change is.
//!
//! nodelet is given the order with the spec, and is asked here to look again when the package came, and
//! now and then while something is left to do: on a host without a role it sleeps.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::board::Gathered;
use super::fetch::{Failure, Target, Wanted, keep_on_disk};
use super::spool::Topic;
use super::{Agent, blocking, download, plane};
use crate::agent;
use crate::app::Backoff;
use crate::host::space;
use crate::model::{
    AgentPackage, AgentSpec, AgentStage, AgentStatus, Fault, FaultCode, PackageDatabase,
    PackageFile, paths,
};

/// While a change is under way: two links and a file of a few KiB are read.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While there is none: an operator may install another version by hand.
const LOOK_SELDOM: Duration = Duration::from_secs(60);
/// nodelet is asked to look this often while something is left to do.
const WAKE_EVERY: Duration = Duration::from_secs(10);
/// Waits after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_CAP: Duration = Duration::from_secs(60);

/// How far it is, from the disk to the board; news are events.
pub(super) async fn watch(agent: Agent) {
    let mut woken: Option<Instant> = None;
    loop {
        let (ordered, fetch) = agent
            .board
            .read(|f| (f.agent_ordered(), f.agent_fetch.clone()));
        let (fs, asked) = (agent.fs.clone(), ordered.clone());
        let status = blocking(move || agent::status(&fs, asked.as_ref(), fetch.as_ref())).await;
        tell(&agent, &status);
        let busy = is_busy(&status);
        agent.board.set(|f| &mut f.agent, Some(status));
        if busy && woken.is_none_or(|at| at.elapsed() >= WAKE_EVERY) {
            woken = Some(Instant::now());
            download::wake_nodelet(&agent).await;
        }
        let pause = if busy { LOOK_EVERY } else { LOOK_SELDOM };
        let other = agent
            .board
            .wait(|f| (f.agent_ordered() != ordered).then_some(()));
        tokio::select! {
            // cancel-safe: both are
            () = tokio::time::sleep(pause) => {}
            () = other => {}
        }
    }
}

/// Something is left to do on this host.
pub(super) fn is_busy(status: &AgentStatus) -> bool {
    let over = match status.stage {
        AgentStage::Idle | AgentStage::Proven => true,
        // What was interrupted, or refused for want of room, is tried again.
        AgentStage::PutBack | AgentStage::Refused => {
            status.why.as_ref().is_none_or(|w| w.next_try.is_none())
        }
        AgentStage::Fetching | AgentStage::Ready | AgentStage::Switching | AgentStage::Proving => {
            false
        }
    };
    !over || status.database != PackageDatabase::Agrees
}

fn tell(agent: &Agent, now: &AgentStatus) {
    let before = agent.board.read(|f| f.agent.clone());
    let Some(wanted) = &now.wanted else {
        return;
    };
    let key = |s: &AgentStatus| (s.generation, s.stage, s.attempts);
    if before.as_ref().map(key) != Some(key(now)) {
        let stage = now.stage.as_str();
        let message = format!("agent version {wanted}: {stage}");
        tracing::info!(version = %wanted, stage, "{message}");
        // Also after the restart that the change brings: each stage is reported once.
        let topic = Topic {
            name: "agent-version".into(),
            value: format!("{} {stage} {}", now.generation, now.attempts),
            idle: None,
        };
        agent
            .events
            .emit_about(topic, event(now.stage), message, now.why.clone());
    }
}

/// The kind of event that tells of it.
fn event(stage: AgentStage) -> &'static str {
    match stage {
        AgentStage::Idle => "agent-version-idle",
        AgentStage::Fetching => "agent-version-fetching",
        AgentStage::Ready => "agent-version-ready",
        AgentStage::Switching => "agent-version-switching",
        AgentStage::Proving => "agent-version-proving",
        AgentStage::Proven => "agent-version-proven",
        AgentStage::PutBack => "agent-version-put-back",
        AgentStage::Refused => "agent-version-refused",
    }
}

/// The packages of the order into staging; one that root has is not fetched again.
pub(super) async fn fetch(agent: Agent) {
    loop {
        let ordered = agent.board.read(Gathered::agent_ordered);
        sweep(&agent, ordered.as_ref()).await;
        let other = agent
            .board
            .wait(|f| (f.agent_ordered() != ordered).then_some(()));
        let work = async {
            if let Some(order) = &ordered {
                all(&agent, order).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // A download may be cut at any byte.
            () = other => {}
            () = work => {}
        }
        agent.board.set(|f| &mut f.agent_fetch, None);
    }
}

async fn all(agent: &Agent, order: &AgentSpec) {
    let mut retry = Backoff::new(RETRY_FIRST, RETRY_CAP);
    // The one before it last: it is for a way back without the plane.
    for package in [Some(&order.target), order.previous.as_ref()]
        .into_iter()
        .flatten()
    {
        while let Err(fault) = one(agent, package).await {
            let wait = retry.failed();
            let fault = fault.next_try(agent.later(wait));
            tracing::warn!(code = fault.code.word(), "{fault}");
            agent.board.set(|f| &mut f.agent_fetch, Some(fault));
            agent.plane.pause(wait).await;
        }
        retry.reset();
        agent.board.set(|f| &mut f.agent_fetch, None);
        download::wake_nodelet(agent).await;
    }
}

async fn one(agent: &Agent, package: &AgentPackage) -> Result<(), Fault> {
    let format = agent::format(&agent.fs);
    // That there is none for this machine is said by who would install it.
    let Some(file) = format.and_then(|f| package.file(f, agent::arch())) else {
        return Ok(());
    };
    if agent.fs.at(agent::kept(file)).exists() {
        return Ok(());
    }
    let done = agent.fs.at(agent::staged(file));
    let target = Target {
        wanted: OfAgent {
            version: package.version.to_string(),
        },
        url: format!("/{}", file.path),
        part: agent.fs.at(format!("{}.part", agent::staged(file))),
        done,
        total: file.bytes,
        sha256: file.sha256,
    };
    if target.is_done().await? {
        return Ok(());
    }
    let part = target.open().await?;
    tracing::info!(version = %package.version, have = part.have, total = file.bytes, "agent package download begins");
    target.receive(agent, part).await?;
    keep(agent, &target).await
}

async fn keep(agent: &Agent, target: &Target<OfAgent>) -> Result<(), Fault> {
    let (fs, done) = (agent.fs.clone(), target.done.clone());
    let kept = blocking(move || keep_on_disk(&fs, &done, paths::AGENT_STAGING)).await;
    kept.map_err(|source| {
        target.wanted.fault(Failure::Io {
            action: "keep",
            path: target.done.clone(),
            source,
        })
    })
}

/// Packages that the order does not name go.
async fn sweep(agent: &Agent, order: Option<&AgentSpec>) {
    let named = order
        .into_iter()
        .flat_map(|o| [Some(&o.target), o.previous.as_ref()]);
    let files = named.flatten().flat_map(|p| &p.packages);
    let keep: BTreeSet<String> = files.map(|f: &PackageFile| f.sha256.to_string()).collect();
    let fs = agent.fs.clone();
    let swept = blocking(move || {
        let names = fs.list(paths::AGENT_STAGING)?;
        let foreign = |name: &String| !keep.iter().any(|k| name.starts_with(k.as_str()));
        names
            .into_iter()
            .filter(foreign)
            .try_for_each(|name| fs.remove_file(Path::new(paths::AGENT_STAGING).join(name)))
    });
    if let Err(error) = swept.await {
        let why = crate::telemetry::chain(&error);
        tracing::warn!(%why, "the staging directory of packages was not cleaned");
    }
}

/// The package of a version.
struct OfAgent {
    version: String,
}

impl Wanted for OfAgent {
    fn fault(&self, failure: Failure) -> Fault {
        let what = format!("cannot fetch version {} of the agent", self.version);
        let fetch = |why: String| Fault::new(FaultCode::AgentFetch, &what, why);
        match failure {
            Failure::Io {
                action,
                path,
                source,
            } => fetch(format!("cannot {action} {}: {source}", path.display())),
            Failure::Space(room) => {
                Fault::new(FaultCode::DiskFull, &what, room.to_string()).fix(space::FIX)
            }
            Failure::Damaged(why) | Failure::Broken(why) => fetch(why),
            Failure::Plane(error) => plane::fault(&error, &what),
        }
    }

    /// Seconds are not worth words.
    fn tell(&self, _agent: &Agent, _have: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn nodelet_is_woken_for_what_is_left_to_do_and_for_nothing_else() {
        let at = |stage| AgentStatus {
            stage,
            ..AgentStatus::default()
        };
        for (stage, busy) in [
            (AgentStage::Idle, false),
            (AgentStage::Fetching, true),
            (AgentStage::Ready, true),
            (AgentStage::Switching, true),
            (AgentStage::Proving, true),
            (AgentStage::Proven, false),
            (AgentStage::PutBack, false),
            (AgentStage::Refused, false),
        ] {
            assert_eq!(is_busy(&at(stage)), busy, "{stage:?}");
        }
        let mut refused = at(AgentStage::Refused);
        let full = Fault::new(FaultCode::DiskFull, "a", "b");
        refused.why = Some(full.clone());
        assert!(!is_busy(&refused));
        refused.why = Some(full.next_try(Timestamp::UNIX_EPOCH));
        assert!(is_busy(&refused), "it is retried automatically");
        let mut proven = at(AgentStage::Proven);
        proven.database = PackageDatabase::Pending { why: "held".into() };
        assert!(is_busy(&proven));
    }
}

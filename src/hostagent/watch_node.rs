//! Task: nodelet's status by long-poll, only while nodelet is needed. Asking would start it.

use std::sync::Arc;
use std::time::Duration;

use super::backoff::Backoff;
use super::board::Facts;
use super::spec_store::SpecStore;
use super::{Agent, blocking};
use crate::model::{NodeState, NodeStatus, RevivedStatus, Role, UpgradeState, UpgradeStatus};

/// How long nodelet holds a poll that has nothing new.
const WAIT_S: u64 = 25;
/// The poll, and systemd starting nodelet.
const DEADLINE: Duration = Duration::from_secs(WAIT_S + 20);
/// Waits after nodelet did not answer.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// nodelet restarts within seconds; asking more rarely only delays.
const RETRY_CAP: Duration = Duration::from_secs(15);
/// Shortest time between two polls: a nodelet that changes its words all the time costs little.
const PACE: Duration = Duration::from_millis(200);

pub(super) async fn run(agent: Agent) {
    let store = SpecStore::new(agent.fs.clone());
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    let mut after = None;
    let beat = agent.progress.beat("watch-node");
    loop {
        beat.rests();
        agent.board.wait(|f| f.nodelet_needed.then_some(())).await;
        beat.within(DEADLINE);
        let path = match after {
            Some(revision) => format!("/v1/status?after={revision}&wait={WAIT_S}"),
            None => "/v1/status".to_owned(),
        };
        match agent.nodelet.poll::<NodeStatus>(&path, DEADLINE).await {
            Ok(status) => {
                backoff.reset();
                if let Some(status) = status {
                    after = Some(status.revision);
                    heard(&agent, status);
                }
                rest_if_done(&agent, &store).await;
                tokio::time::sleep(PACE).await;
            }
            Err(error) => {
                after = None;
                let fault = error.fault("cannot ask nodelet for its status");
                agent.board.set(|f| &mut f.node_fault, Some(fault));
                let wait = backoff.next();
                beat.within(wait);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

fn heard(agent: &Agent, status: NodeStatus) {
    let before = agent.board.read(|f| f.node.clone());
    // What was so before this program began was told by the one before it.
    let known = before.as_ref().map_or(&status.revived, |b| &b.revived);
    for revived in revived(known, &status.revived) {
        let message = format!("{} was started again: {}", revived.unit, revived.why);
        agent.events.emit("service-revived", message, None);
    }
    if let (Some(before), Some(now)) = (before, &status.upgrade)
        && is_news(before.upgrade.as_ref(), now)
    {
        let (title, state) = (now.title(), now.state);
        let message = format!("{title}: {state}");
        agent.events.emit(event(state), message, now.fault.clone());
    }
    agent.board.update(|facts| {
        facts.node_fault = None;
        facts.node = Some(Arc::new(status));
    });
}

/// What was started again meanwhile. (nodelet counts from its own start on.)
fn revived<'a>(
    before: &'a [RevivedStatus],
    now: &'a [RevivedStatus],
) -> impl Iterator<Item = &'a RevivedStatus> {
    now.iter().filter(|r| !before.contains(r))
}

fn is_news(before: Option<&UpgradeStatus>, now: &UpgradeStatus) -> bool {
    let key = |u: &UpgradeStatus| (u.roll, u.stage, u.state);
    before.is_none_or(|before| key(before) != key(now))
}

/// The kind of event that tells of it.
fn event(state: UpgradeState) -> &'static str {
    match state {
        UpgradeState::Fetching => "upgrade-fetching",
        UpgradeState::Checking => "upgrade-checking",
        UpgradeState::Ready => "upgrade-ready",
        UpgradeState::Draining => "upgrade-draining",
        UpgradeState::Switching => "upgrade-switching",
        UpgradeState::Updating => "upgrade-updating",
        UpgradeState::Rebooting => "upgrade-rebooting",
        UpgradeState::Proving => "upgrade-proving",
        UpgradeState::Done => "upgrade-done",
        UpgradeState::PuttingBack => "upgrade-putting-back",
        UpgradeState::PutBack => "upgrade-put-back",
        UpgradeState::Refused => "upgrade-refused",
    }
}

/// When the role is gone entirely, nodelet may rest: it is not asked until the next spec.
async fn rest_if_done(agent: &Agent, store: &SpecStore) {
    if !agent.board.read(is_clean) {
        return;
    }
    let store = store.clone();
    match blocking(move || store.note_nodelet_needed(false)).await {
        // Only on a machine that noted it: else the next start asks nodelet once more, in vain but
        // without harm.
        Ok(()) => {}
        Err(fault) => tracing::warn!(code = fault.code.word(), "{fault}"),
    }
    tracing::info!("nothing of a role is left; nodelet may rest");
    agent.board.update(|facts| {
        // A role may have been accepted meanwhile; its delivery notes the need again.
        facts.nodelet_needed = !is_clean(facts);
        facts.node_fault = None;
    });
}

fn is_clean(facts: &Facts) -> bool {
    let generation = facts.generation();
    let node_is_clean = facts.node.as_ref().is_some_and(|n| {
        n.role == Role::None && n.state == NodeState::Ok && n.generation >= generation
    });
    facts.nodelet_needed && facts.role() == Role::None && facts.spec.is_some() && node_is_clean
}

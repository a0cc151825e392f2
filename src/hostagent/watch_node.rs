//! Task: nodelet's status by long-poll, only while nodelet is needed. Asking would start it.

use std::sync::Arc;
use std::time::Duration;

use super::board::Gathered;
use super::spec_store::SpecStore;
use super::spool::Topic;
use super::{Agent, blocking};
use crate::app::Backoff;
use crate::model::{
    Fault, MaintenanceStatus, NodeState, NodeStatus, REPAIRS_MAX, Role, UpgradeState,
};

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
                let wait = backoff.failed();
                beat.within(wait);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

fn heard(agent: &Agent, status: NodeStatus) {
    for told in news(&status) {
        agent
            .events
            .emit_about(told.topic, told.kind, told.message, told.fault);
    }
    agent.board.update(|facts| {
        facts.node_fault = None;
        facts.node = Some(Arc::new(status));
    });
}

/// What may be an event; it is one where it differs from the last.
struct Told {
    topic: Topic,
    kind: &'static str,
    message: String,
    fault: Option<Fault>,
}

impl Told {
    fn new(name: String, value: String, kind: &'static str, message: String) -> Self {
        let topic = Topic {
            name,
            value,
            idle: None,
        };
        Self {
            topic,
            kind,
            message,
            fault: None,
        }
    }
}

/// Everything in a status that events are made from, as it is now. The spool knows what of it was sent, also by an
/// earlier process: what happened in between is sent late, and nothing twice.
fn news(now: &NodeStatus) -> Vec<Told> {
    let revived = now.revived.iter().map(|r| {
        let value = format!("{} {}", r.times, r.last_at);
        let message = format!("{} was restarted: {}", r.unit, r.why);
        Told::new(
            format!("revived/{}", r.unit),
            value,
            "service-revived",
            message,
        )
    });
    // As many topics as repairs are shown: each takes the place of one that is shown no more.
    let repairs = now.repairs.iter().map(|r| {
        let place = r.number % REPAIRS_MAX as u64;
        let value = format!("{} {}", r.number, r.at);
        let message = format!("repaired: {} ({})", r.what, r.why);
        Told::new(format!("repair/{place}"), value, "repaired", message)
    });
    let certificates = now
        .certificates
        .iter()
        .filter(|c| !c.is_authority())
        .map(|c| {
            let message = format!("certificate {} is valid until {}", c.name, c.not_after);
            let name = format!("certificate/{}", c.name);
            Told::new(name, c.digest.to_string(), "certificate-new", message)
        });
    let upgrade = now.upgrade.iter().map(|u| {
        let (stage, state) = (u.stage, u.state);
        let message = format!("{}: {state}", u.title());
        let value = format!("{} {stage} {state}", u.roll);
        Told {
            fault: u.fault.clone(),
            ..Told::new("upgrade".into(), value, event(state), message)
        }
    });
    let all = revived.chain(repairs).chain(certificates).chain(upgrade);
    all.chain([maintenance(now.maintenance.as_ref())]).collect()
}

/// Whether it is in maintenance; no event of a host that never was.
fn maintenance(now: Option<&MaintenanceStatus>) -> Told {
    const NONE: &str = "none";
    let name = "maintenance".to_owned();
    let mut told = match now {
        Some(m) => {
            let message = format!("{} ordered it until {:.0}: {}", m.by, m.until, m.reason);
            let value = format!("{} {}", m.by.as_str(), m.since);
            Told::new(name, value, "maintenance-began", message)
        }
        None => {
            let message = "reconciling again".to_owned();
            Told::new(name, NONE.into(), "maintenance-ended", message)
        }
    };
    told.topic.idle = Some(NONE);
    told
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
        // Only on a machine that noted it: otherwise the next start asks nodelet again, which is useless but harmless.
        Ok(()) => {}
        Err(fault) => tracing::warn!(code = fault.code.word(), "{fault}"),
    }
    tracing::info!("nothing of a role remains; nodelet may stop");
    agent.board.update(|facts| {
        // A role may have been accepted meanwhile; its delivery notes the need again.
        facts.nodelet_needed = !is_clean(facts);
        facts.node_fault = None;
    });
}

fn is_clean(facts: &Gathered) -> bool {
    let generation = facts.generation();
    let node_is_clean = facts.node.as_ref().is_some_and(|n| {
        n.role == Role::None && n.state == NodeState::Ok && n.generation >= generation
    });
    facts.nodelet_needed && facts.role() == Role::None && facts.spec.is_some() && node_is_clean
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::node;
    use super::*;
    use crate::model::{RepairStatus, RevivedStatus, Timestamp};

    #[test]
    fn each_repair_has_a_place_among_topics_until_it_is_shown_no_more() {
        let mut status = node(1, NodeState::Ok);
        let repair = |number: u64| RepairStatus {
            number,
            at: Timestamp::UNIX_EPOCH,
            what: "start kubelet".into(),
            why: "it is not running".into(),
        };
        let topics = |status: &NodeStatus| -> Vec<Topic> {
            let told = news(status).into_iter().filter(|t| t.kind == "repaired");
            told.map(|t| t.topic).collect()
        };
        status.repairs = (1..=REPAIRS_MAX as u64).map(repair).collect();
        let first = topics(&status);
        let names: std::collections::BTreeSet<_> = first.iter().map(|t| &t.name).collect();
        assert_eq!(names.len(), REPAIRS_MAX, "none hides another one");
        status.repairs = (2..=REPAIRS_MAX as u64 + 1).map(repair).collect();
        let next = topics(&status);
        let new: Vec<_> = next.iter().filter(|t| !first.contains(t)).collect();
        assert_eq!(new.len(), 1, "one is new");
        assert_eq!(
            new[0].name, first[0].name,
            "in the place of the one that went"
        );
    }

    #[test]
    fn a_status_says_what_events_are_made_from() {
        let mut status = node(1, NodeState::Ok);
        status.revived.push(RevivedStatus {
            unit: "pf9-kubelet.service".into(),
            times: 1,
            last_at: Timestamp::UNIX_EPOCH,
            why: "it does not answer".into(),
        });
        let kinds: Vec<_> = news(&status).iter().map(|t| t.kind).collect();
        assert_eq!(kinds, ["service-revived", "maintenance-ended"]);
        let idle = news(&status).pop().expect("maintenance");
        assert_eq!(
            idle.topic.idle,
            Some(idle.topic.value.as_str()),
            "no news of a host that never was in one"
        );
    }
}

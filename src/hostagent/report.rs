//! Task: the status document to the plane, when it changes and at least once a period.

use std::time::Duration;

use tokio::time::Instant;

use super::spool::Topic;
use super::status::{self, Moment, Origin};
use super::{Agent, inventory, plane};
use crate::app::Backoff;
use crate::local::LocalError;
use crate::model::{FaultCode, HostStatus, Inventory, NOTICES_MAX, NodeState, StatusAnswer};

/// A burst of changes is one document.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// A first status without an inventory is of little use; a hanging disk must not hold it up.
const FIRST_SAMPLE: Duration = Duration::from_secs(3);
/// Waits after a failure; the first is short because a plane's restart is.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Also how soon a plane that comes back is noticed, at the latest.
const RETRY_CAP: Duration = Duration::from_secs(15);

pub(super) async fn run(agent: Agent, period: Duration) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    let beat = agent.progress.beat("report");
    let sampled = agent
        .board
        .wait(|f| (f.inventory != Inventory::default()).then_some(()));
    if tokio::time::timeout(FIRST_SAMPLE, sampled).await.is_err() {
        tracing::warn!("the machine could not be observed yet; the status is sent without it");
    }
    let mut facts = agent.board.subscribe();
    let mut sent: Option<(HostStatus, Instant)> = None;
    let mut asked = 0;
    let mut told = None;
    loop {
        facts.borrow_and_update();
        let status = assemble(&agent);
        tell_change(&agent, &status, &mut told);
        crate::app::tell(&line(&status));
        let essence = status::essence(&status);
        let resend = agent.board.read(|f| f.resend);
        if asked != resend {
            (asked, sent) = (resend, None);
        }
        let due = match &sent {
            Some((last, at)) if *last == essence => *at + period,
            Some(_) | None => Instant::now(),
        };
        if due > Instant::now() {
            beat.within(period);
            tokio::select! {
                // cancel-safe: both are
                () = tokio::time::sleep_until(due) => {}
                changed = facts.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(DEBOUNCE).await;
                }
            }
            continue;
        }
        beat.within(plane::CALL_DEADLINE);
        match agent
            .plane
            .post::<_, StatusAnswer>("/v1/hosts/self/status", &status)
            .await
        {
            Ok(answer) => {
                backoff.reset();
                heard(&agent, answer.unwrap_or_default());
                let at = agent.now();
                agent.board.update(|f| f.acknowledged_at = Some(at));
                sent = Some((essence, Instant::now()));
                tokio::time::sleep(DEBOUNCE).await;
            }
            Err(error) => {
                if let LocalError::Refused { status, fault } = &error {
                    tracing::debug!(%status, code = fault.code.word(), "status refused: {fault}");
                }
                let wait = backoff.failed();
                beat.within(wait);
                agent.plane.pause(wait).await;
            }
        }
    }
}

/// For `systemctl status`.
fn line(status: &HostStatus) -> String {
    let heard = match status.acknowledged_at {
        Some(_) => "the plane knows it",
        None => "the plane has not received it since the start",
    };
    let reason = status
        .reason
        .as_ref()
        .map(|r| format!(": {}: {}", r.what, r.why));
    let (state, generation) = (status.state, status.accepted_generation);
    format!(
        "{state}{}; spec {generation}; {heard}",
        reason.unwrap_or_default()
    )
}

/// What the plane said to a status.
fn heard(agent: &Agent, answer: StatusAnswer) {
    let mut notices = answer.notices;
    notices.truncate(NOTICES_MAX);
    agent.board.set(|f| &mut f.notices, notices);
    if answer.trust.is_some() {
        agent.board.set(|f| &mut f.wants_trust, answer.trust);
    }
}

/// The document as it is now.
pub(super) fn assemble(agent: &Agent) -> HostStatus {
    let origin = Origin {
        host_id: agent.host_id,
        boot_id: agent.boot_id.clone(),
    };
    let moment = Moment {
        now: agent.now(),
        uptime_s: inventory::uptime(&agent.fs).as_secs(),
    };
    agent
        .board
        .read(|facts| status::assemble(&origin, facts, &moment))
}

/// A change of state is an event and a line in the log.
fn tell_change(
    agent: &Agent,
    status: &HostStatus,
    told: &mut Option<(NodeState, Option<FaultCode>)>,
) {
    let now = (status.state, status.reason.as_ref().map(|r| r.code));
    if told.as_ref() == Some(&now) {
        return;
    }
    let state = status.state;
    let message = match &status.reason {
        Some(reason) => format!("state {state}: {reason}"),
        None => format!("state {state}"),
    };
    tracing::info!(generation = %status.observed_generation, "{message}");
    let code = now.1.map_or("", FaultCode::word);
    let topic = Topic {
        name: "state".into(),
        value: format!("{state} {code}"),
        idle: None,
    };
    agent
        .events
        .emit_about(topic, "state", message, status.reason.clone());
    *told = Some(now);
}

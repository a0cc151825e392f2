//! Task: ask the plane for a newer spec, judge it, store it, put it in force.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::events::Events;
use super::spec_store::SpecStore;
use super::spool::Topic;
use super::{Agent, blocking};
use crate::app::Backoff;
use crate::identity;
use crate::local::LocalError;
use crate::model::{Accepted, Because, Envelope, Fault, Generation, Refusal, Verdict, accept};

/// How long the plane holds a poll that has nothing new.
const WAIT_S: u64 = 30;
/// The poll and a slow link.
const DEADLINE: Duration = Duration::from_secs(WAIT_S + 15);
/// Waits after a failure or a refusal.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Small against a person's patience, large against a fleet.
const RETRY_CAP: Duration = Duration::from_secs(30);

/// What the last answers were, so that each new thing is said once.
#[derive(Default)]
struct SpecPollState {
    refused: Option<Refusal>,
    ignored: Vec<String>,
}

pub(super) async fn run(agent: Agent) {
    let store = SpecStore::new(agent.fs.clone());
    let mut seen = SpecPollState::default();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    // The first question after a failure is not held by the plane: it is known at once that all is
    // well again.
    let mut well = false;
    let beat = agent.progress.beat("spec");
    loop {
        // What comes is stored meanwhile.
        beat.within(DEADLINE);
        let asked = Instant::now();
        let have = agent.board.read(super::board::Gathered::generation);
        let past = seen.refused.as_ref().and_then(|r| r.generation);
        let after = past.map_or(have, |p| p.max(have));
        let wait = if well { WAIT_S } else { 0 };
        let last = past.unwrap_or(have);
        let path = format!("/v1/hosts/self/spec?after={after}&seen={last}&wait={wait}");
        let answer = agent.plane.poll::<Envelope>(&path, DEADLINE).await;
        well = answer.is_ok();
        match answer {
            Ok(Some(envelope)) => {
                agent.board.set(|f| &mut f.plane_fault, None);
                let before = seen.refused.clone();
                if take(&agent, &store, envelope, &mut seen).await {
                    backoff.reset();
                    continue;
                }
                // Another bad one is no reason to wait longer for a good one.
                if seen.refused != before {
                    backoff.reset();
                }
            }
            Ok(None) => {
                agent.board.set(|f| &mut f.plane_fault, None);
                // A plane that does not hold the poll must not be asked in a tight loop.
                if wait == 0 || asked.elapsed() >= Duration::from_secs(WAIT_S / 2) {
                    backoff.reset();
                    continue;
                }
            }
            Err(e) => not_well(&agent, &e),
        }
        let wait = backoff.failed();
        beat.within(wait);
        agent.plane.pause(wait).await;
    }
}

/// Notes what the plane says instead of a spec. That it is away is noted by the link.
fn not_well(agent: &Agent, error: &LocalError) {
    match error {
        LocalError::Unreachable { .. } | LocalError::Timeout { .. } => {}
        LocalError::Refused { .. } | LocalError::Malformed { .. } => {
            let fault = error.fault("cannot get the spec");
            if agent.board.read(|f| f.plane_fault.as_ref() != Some(&fault)) {
                tracing::warn!(code = fault.code.word(), "{fault}");
                agent.board.set(|f| &mut f.plane_fault, Some(fault));
            }
        }
    }
}

/// True when there is nothing wrong with it.
async fn take(
    agent: &Agent,
    store: &SpecStore,
    envelope: Envelope,
    seen: &mut SpecPollState,
) -> bool {
    let trust = match identity::trust(&agent.fs) {
        Ok(trust) => trust,
        Err(e) => {
            let fault = e.fault("cannot check the spec");
            return refuse(agent, unread(fault), seen);
        }
    };
    let have = agent.board.read(|f| f.spec.clone());
    match accept(envelope, &trust, agent.host_id, have.as_deref()) {
        Verdict::Same => {
            same_again(agent, seen);
            true
        }
        Verdict::Refused(refusal) => refuse(agent, *refusal, seen),
        Verdict::New(accepted, ignored) => {
            tell_ignored(agent, seen, accepted.spec.generation, ignored).await;
            let stored = {
                let (store, envelope) = (store.clone(), accepted.envelope.clone());
                blocking(move || store.save(&envelope)).await
            };
            match stored {
                Err(fault) => refuse(agent, unread(fault), seen),
                Ok(()) => {
                    seen.refused = None;
                    in_force(agent, *accepted);
                    true
                }
            }
        }
    }
}

fn in_force(agent: &Agent, accepted: Accepted) {
    let generation = accepted.spec.generation;
    let role = accepted.spec.assignment.role();
    tracing::info!(%generation, %role, "spec accepted");
    tell_accepted(&agent.events, &accepted);
    agent.board.update(|facts| {
        facts.spec = Some(Arc::new(accepted));
        facts.refused = None;
    });
}

/// Also at each start: a process that ended between storing the spec and telling of it told nothing.
pub(super) fn tell_accepted(events: &Events, accepted: &Accepted) {
    let generation = accepted.spec.generation;
    let role = accepted.spec.assignment.role();
    let topic = about("spec", format!("accepted {generation}"));
    let message = format!("spec generation {generation} accepted, role {role}");
    events.emit_about(topic, "spec-accepted", message, None);
}

/// Also at each start: a process that ended between putting the damaged spec aside and telling of it told nothing, and a
/// newer one may be in force since. `fault`: of the start that put the newest aside.
pub(super) fn tell_quarantined(events: &Events, kept: &[String], fault: Option<&Fault>) {
    // Whatever the clock said when they got their names, another one makes this another list.
    let topic = about("spec-quarantined", kept.join(" "));
    let message = match fault {
        Some(fault) => fault.to_string(),
        None => {
            let kept = kept.join(", ");
            format!("a damaged spec is quarantined; these are kept, the newest first: {kept}")
        }
    };
    events.emit_about(topic, "spec-quarantined", message, fault.cloned());
}

/// Fields that this agent does not know are no reason to refuse; that they are not heeded is said,
/// once for as long as they are the same. Before the spec is stored: no later start looks for them.
async fn tell_ignored(
    agent: &Agent,
    seen: &mut SpecPollState,
    generation: Generation,
    ignored: Vec<String>,
) {
    let is_news = !ignored.is_empty() && seen.ignored != ignored;
    seen.ignored.clone_from(&ignored);
    if is_news {
        let fields = ignored.join(", ");
        let message = format!("the spec has fields that this agent does not know: {fields}");
        tracing::warn!("{message}");
        let topic = about("spec-fields-ignored", format!("{generation} {fields}"));
        agent
            .events
            .emit_first(topic, "spec-fields-ignored", message)
            .await;
    }
}

/// The plane speaks of what is in force again: what it said in between is over.
fn same_again(agent: &Agent, seen: &mut SpecPollState) {
    let Some(refusal) = seen.refused.take() else {
        return;
    };
    agent.board.update(|facts| {
        if facts.refused.as_ref() == Some(&refusal.fault) {
            facts.refused = None;
        }
    });
}

fn refuse(agent: &Agent, refusal: Refusal, seen: &mut SpecPollState) -> bool {
    if seen.refused.as_ref() != Some(&refusal) {
        let fault = &refusal.fault;
        tracing::warn!(code = fault.code.word(), "{fault}");
        let generation = refusal.generation.map_or(0, |g| g.0);
        let have = agent.board.read(super::board::Gathered::generation);
        let value = format!("refused {generation} {} at {have}", fault.code);
        let topic = about("spec-refused", value);
        let words = fault.to_string();
        agent
            .events
            .emit_about(topic, "spec-refused", words, Some(fault.clone()));
        agent.board.set(|f| &mut f.refused, Some(fault.clone()));
        seen.refused = Some(refusal);
    }
    false
}

/// No stored spec can be used, and that is not new. Once, until one is accepted.
pub(super) fn tell_unusable(events: &Events, fault: &Fault) {
    let words = fault.to_string();
    let topic = about("spec", format!("unusable {words}"));
    events.emit_about(topic, "spec-quarantined", words, Some(fault.clone()));
}

/// What became of a spec is reported once, however often this process starts.
fn about(name: &str, value: String) -> Topic {
    Topic {
        name: name.to_owned(),
        value,
        idle: None,
    }
}

/// A refusal that is not the document's fault: it is asked for again.
fn unread(fault: Fault) -> Refusal {
    Refusal {
        fault,
        because: Because::NotUnderstood,
        document: None,
        generation: None::<Generation>,
    }
}

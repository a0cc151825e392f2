//! Task: the accepted spec to nodelet. At start at once, whether the plane is there or not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::board::{Delivery, Gathered};
use super::spec_store::SpecStore;
use super::{Agent, blocking};
use crate::app::Backoff;
use crate::local::{LocalError, Method, StatusCode};
use crate::model::{Accepted, Fault, Generation, Role};

/// nodelet stores the spec before it answers; systemd may have to start it first.
const DEADLINE: Duration = Duration::from_secs(30);
/// Waits after nodelet did not answer.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// nodelet restarts within seconds; asking more rarely only delays.
const RETRY_CAP: Duration = Duration::from_secs(15);
/// A refusal is nodelet's word: asked again in case its trust directory was repaired.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);
/// nodelet finishes its current step before it speaks of a new spec. When it still speaks of an
/// older one after this, it lost what it took.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// When nodelet says that its spec is lost: long enough to have taken what was handed over last.
const WANTED_AFTER: Duration = Duration::from_secs(5);

pub(super) async fn run(agent: Agent) {
    let store = SpecStore::new(agent.fs.clone());
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    let beat = agent.progress.beat("deliver");
    loop {
        beat.rests();
        let spec = agent.board.wait(due).await;
        beat.within(DEADLINE);
        let generation = spec.spec.generation;
        note_needed(&agent, &store, &spec).await;
        let answer = agent
            .nodelet
            .send::<_, serde_json::Value>(Method::PUT, "/v1/spec", &spec.envelope, DEADLINE)
            .await;
        match answer {
            Ok(_) => {
                backoff.reset();
                tracing::info!(%generation, "spec handed to nodelet");
                taken(&agent, generation);
            }
            Err(LocalError::Refused { status, fault }) => {
                refused(&agent, generation, status, *fault);
                beat.within(REFUSED_AGAIN);
                let newer = agent
                    .board
                    .wait(|f| (f.generation() != generation).then_some(()));
                tokio::select! {
                    // cancel-safe: both are
                    () = newer => {}
                    () = tokio::time::sleep(REFUSED_AGAIN) => {}
                }
            }
            Err(error) => {
                unreachable(&agent, error.fault("cannot hand the spec to nodelet"));
                let wait = backoff.failed();
                beat.within(wait);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// The spec that nodelet lacks.
fn due(facts: &Gathered) -> Option<Arc<Accepted>> {
    let spec = facts.to_deliver()?;
    let generation = spec.spec.generation;
    let node = facts.node.as_ref();
    let lost_after = match node {
        Some(n) if n.wants_spec => Some(WANTED_AFTER),
        Some(n) if n.generation < generation => Some(LOST_AFTER),
        Some(_) | None => None,
    };
    let has_it = match &facts.delivery {
        Delivery::Taken(taken, at) => {
            *taken >= generation && lost_after.is_none_or(|after| at.elapsed() < after)
        }
        Delivery::Idle | Delivery::Refused(..) | Delivery::Unreachable(_) => false,
    };
    (!has_it).then_some(spec)
}

/// Before the first byte of a role can reach the machine, it is noted that nodelet is needed.
async fn note_needed(agent: &Agent, store: &SpecStore, spec: &Accepted) {
    let has_role = spec.spec.assignment.role() != Role::None || spec.spec.maintenance.is_some();
    if !has_role || agent.board.read(|f| f.nodelet_needed) {
        return;
    }
    let store = store.clone();
    if let Err(fault) = blocking(move || store.note_nodelet_needed(true)).await {
        // Without the note the machine itself is asked at the next start; see the store.
        tracing::warn!(code = fault.code.word(), "{fault}");
    }
    agent.board.set(|f| &mut f.nodelet_needed, true);
}

fn taken(agent: &Agent, generation: Generation) {
    agent.board.update(|facts| {
        // What nodelet refused before (its trust directory may have been repaired) it takes now.
        if let Delivery::Refused(_, fault) = &facts.delivery
            && facts.refused.as_ref() == Some(fault)
        {
            facts.refused = None;
        }
        facts.delivery = Delivery::Taken(generation, Instant::now());
    });
}

fn refused(agent: &Agent, generation: Generation, status: StatusCode, fault: Fault) {
    let was = agent.board.read(|f| f.delivery.clone());
    let now = Delivery::Refused(generation, fault.clone());
    if was != now {
        tracing::warn!(%generation, %status, code = fault.code.word(), "nodelet refused the spec: {fault}");
        agent
            .events
            .emit("spec-refused", fault.to_string(), Some(fault.clone()));
        agent.board.update(|facts| {
            facts.refused = Some(fault);
            facts.delivery = now;
        });
    }
}

fn unreachable(agent: &Agent, fault: Fault) {
    let known = agent
        .board
        .read(|f| matches!(f.delivery, Delivery::Unreachable(_)));
    if !known {
        tracing::warn!(code = fault.code.word(), "{fault}");
    }
    agent
        .board
        .set(|f| &mut f.delivery, Delivery::Unreachable(fault));
}

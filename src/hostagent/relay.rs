//! Task: certificate requests from nodelet to the plane, certificates back.
//!
//! nodelet names the requests in its status until it has the certificates, so a lost answer only
//! means another round.

use std::time::Duration;

use super::Agent;
use super::backoff::Backoff;
use super::board::Facts;
use super::plane;
use crate::local::Method;
use crate::model::{CertificateBatch, CertificateOrder, CertificateRequest, Fault};

/// nodelet checks and writes a dozen files.
const DEADLINE: Duration = Duration::from_secs(30);
/// Waits after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Small against the time a node takes to come up.
const RETRY_CAP: Duration = Duration::from_secs(30);
/// How long nodelet has to take the requests out of its status again: it finishes its current step
/// first, and an import of images takes a while. New certificates for the same requests would only
/// make it restart what uses them.
const SETTLE: Duration = Duration::from_secs(180);

pub(super) async fn run(agent: Agent) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    // What nodelet was given and may not have taken in yet.
    let mut given: Vec<CertificateRequest> = Vec::new();
    loop {
        let order = if given.is_empty() {
            agent.board.wait(|f| lacking(f, &[])).await
        } else {
            let news = agent.board.wait(|f| news(f, &given));
            match tokio::time::timeout(SETTLE, news).await {
                Ok(Some(order)) => order,
                Ok(None) | Err(_) => {
                    given.clear();
                    continue;
                }
            }
        };
        match relay(&agent, &order).await {
            Ok(count) => {
                backoff.reset();
                tracing::info!(count, "certificates handed to nodelet");
                agent.events.emit(
                    "certificates-issued",
                    format!("{count} certificates handed to nodelet"),
                    None,
                );
                agent.board.set(|f| &mut f.relay_fault, None);
                given.extend(order.requests);
            }
            Err(fault) => {
                let was = agent.board.read(|f| f.relay_fault.clone());
                if was.as_ref().map(|f| &f.code) != Some(&fault.code) {
                    tracing::warn!(code = fault.code, "{fault}");
                }
                let wait = backoff.next();
                let fault = fault.next_try(agent.later(wait));
                agent.board.set(|f| &mut f.relay_fault, Some(fault));
                agent.plane.pause(wait).await;
            }
        }
    }
}

/// The requests nodelet has, without those it was given an answer to.
fn lacking(facts: &Facts, given: &[CertificateRequest]) -> Option<CertificateOrder> {
    let node = facts.node.as_ref()?;
    let requests: Vec<_> = node
        .certificate_requests
        .iter()
        .filter(|r| !given.contains(r))
        .cloned()
        .collect();
    if requests.is_empty() {
        return None;
    }
    Some(CertificateOrder {
        cluster_id: node.cluster_id?,
        requests,
        service_account_key: node.service_account_key.clone(),
    })
}

/// Another request (an order), or none left at all (`None`): nodelet took what it was given.
fn news(facts: &Facts, given: &[CertificateRequest]) -> Option<Option<CertificateOrder>> {
    let none_left = facts
        .node
        .as_ref()
        .is_none_or(|n| n.certificate_requests.is_empty());
    if none_left {
        return Some(None);
    }
    lacking(facts, given).map(Some)
}

async fn relay(agent: &Agent, order: &CertificateOrder) -> Result<usize, Fault> {
    let what = "cannot get the node's certificates";
    let batch = agent
        .plane
        .post::<_, CertificateBatch>("/v1/hosts/self/certificates", order)
        .await
        .map_err(|e| plane::fault(&e, what))?
        .ok_or_else(|| Fault::new("plane-garbage", what, "the plane's answer is empty"))?;
    let count = batch.certificates.len();
    agent
        .nodelet
        .send::<_, serde_json::Value>(Method::PUT, "/v1/certificates", &batch, DEADLINE)
        .await
        .map_err(|e| e.fault("cannot hand the certificates to nodelet"))?;
    Ok(count)
}

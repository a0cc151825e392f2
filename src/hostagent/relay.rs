//! Task: root's orders of certificates to the plane, certificates back.
//!
//! nodelet names in its status what it wants until it has it, so a lost answer only means another
//! round. What stands in an order is nodelet's to say, and signed by it; here is decided when.

use std::time::Duration;

use super::board::Gathered;
use super::spool::Topic;
use super::{Agent, order, plane};
use crate::app::Backoff;
use crate::local::Method;
use crate::model::{CertificateBatch, CertificateRequest, Digest, Fault, FaultCode, Role};

const WHAT: &str = "cannot get the node's certificates";
/// nodelet checks and writes a dozen files.
const DEADLINE: Duration = Duration::from_secs(30);
/// Waits after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Small against the time a node takes to come up.
const RETRY_CAP: Duration = Duration::from_secs(30);
/// How long nodelet has to take the requests out of its status again: it finishes its current step
/// first, and an import of images takes a while. Also how long the spec has to name a master's key.
const SETTLE: Duration = Duration::from_secs(180);

/// What nodelet wants of the plane.
#[derive(Clone, Debug, Default, PartialEq)]
struct Want {
    requests: Vec<CertificateRequest>,
    /// A master's service-account key that the spec does not name yet.
    key: Option<String>,
}

pub(super) async fn run(agent: Agent) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    // What was answered and nodelet may not have taken in yet.
    let mut given = Want::default();
    loop {
        let want = if given.is_empty() {
            agent.board.wait(|f| lacking(f, &given)).await
        } else {
            let news = agent.board.wait(|f| news(f, &given));
            match tokio::time::timeout(SETTLE, news).await {
                Ok(Some(want)) => want,
                Ok(None) | Err(_) => {
                    given = Want::default();
                    continue;
                }
            }
        };
        match relay(&agent, &want).await {
            Ok(count) => {
                backoff.reset();
                tracing::info!(count, "certificates handed to nodelet");
                agent.board.set(|f| &mut f.relay_fault, None);
                given.requests.extend(want.requests);
                given.key = want.key.or(given.key);
            }
            Err(fault) => {
                let was = agent.board.read(|f| f.relay_fault.clone());
                if was.as_ref().map(|f| &f.code) != Some(&fault.code) {
                    tracing::warn!(code = fault.code.word(), "{fault}");
                }
                let wait = backoff.failed();
                let fault = fault.next_try(agent.later(wait));
                agent.board.set(|f| &mut f.relay_fault, Some(fault));
                agent.plane.pause(wait).await;
            }
        }
    }
}

impl Want {
    fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.key.is_none()
    }
}

/// Everything nodelet wants by its last word.
fn wanted(facts: &Gathered) -> Want {
    let Some(node) = facts.node.as_ref().filter(|n| n.cluster_id.is_some()) else {
        return Want::default();
    };
    let spec = facts.spec.as_ref().map(|s| &s.spec.assignment);
    let known = spec.and_then(|a| a.node()).map(|n| &n.service_account_keys);
    let key = node.service_account_key.as_ref();
    let key =
        key.filter(|k| node.role == Role::Master && !known.is_some_and(|all| all.contains(k)));
    Want {
        requests: node.certificate_requests.clone(),
        key: key.cloned(),
    }
}

/// The same without what was answered.
fn lacking(facts: &Gathered, given: &Want) -> Option<Want> {
    let mut want = wanted(facts);
    want.requests.retain(|r| !given.requests.contains(r));
    want.key = want.key.filter(|k| given.key.as_ref() != Some(k));
    (!want.is_empty()).then_some(want)
}

/// Something else is wanted (an order), or no longer anything (`None`): nodelet took what it was given.
fn news(facts: &Gathered, given: &Want) -> Option<Option<Want>> {
    if wanted(facts).is_empty() {
        return Some(None);
    }
    lacking(facts, given).map(Some)
}

async fn relay(agent: &Agent, want: &Want) -> Result<usize, Fault> {
    let order = order::signed(agent, "/v1/order", WHAT).await?;
    let batch = agent
        .plane
        .post::<_, CertificateBatch>("/v1/hosts/self/certificates", &order)
        .await
        .map_err(|e| plane::fault(&e, WHAT))?
        .ok_or_else(|| Fault::new(FaultCode::PlaneGarbage, WHAT, "the plane's answer is empty"))?;
    let count = batch.certificates.len();
    tell(agent, want, count).await;
    agent
        .nodelet
        .send::<_, serde_json::Value>(Method::PUT, "/v1/certificates", &batch, DEADLINE)
        .await
        .map_err(|e| e.fault("cannot hand the certificates to nodelet"))?;
    Ok(count)
}

/// Before nodelet has them: no later start could see that they came. The same order, given again, is the same event.
async fn tell(agent: &Agent, want: &Want, count: usize) {
    let ordered = serde_json::to_vec(&(&want.requests, &want.key)).unwrap_or_default();
    let topic = Topic {
        name: "certificates-issued".into(),
        value: Digest::of(&ordered).to_string(),
        idle: None,
    };
    let message = format!("{count} certificates issued for this node");
    agent
        .events
        .emit_first(topic, "certificates-issued", message)
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(csr: &str) -> CertificateRequest {
        CertificateRequest {
            purpose: crate::model::CertPurpose::Nodelet,
            csr: csr.into(),
        }
    }

    fn facts(role: Role, requests: &[&str], key: Option<&str>) -> Gathered {
        let mut node = crate::hostagent::status::tests::node(1, crate::model::NodeState::Ok);
        node.role = role;
        node.cluster_id = Some(crate::model::ClusterId::random());
        node.certificate_requests = requests.iter().map(|r| request(r)).collect();
        node.service_account_key = key.map(str::to_owned);
        Gathered {
            node: Some(std::sync::Arc::new(node)),
            ..Gathered::default()
        }
    }

    #[test]
    fn only_what_was_not_answered_is_ordered() {
        let none = Want::default();
        let given = Want {
            requests: vec![request("a")],
            key: Some("k".into()),
        };
        let all = facts(Role::Master, &["a", "b"], Some("k"));
        let first = lacking(&all, &none).expect("something");
        assert_eq!((first.requests.len(), first.key.as_deref()), (2, Some("k")));
        let rest = lacking(&all, &given).expect("something");
        assert_eq!((rest.requests, rest.key), (vec![request("b")], None));
        let old = facts(Role::Master, &["a"], Some("k"));
        assert_eq!(lacking(&old, &given), None);
        assert_eq!(news(&old, &given), None, "nodelet is not done yet");
        let done = facts(Role::Worker, &[], Some("k"));
        assert_eq!(
            news(&done, &given),
            Some(None),
            "a worker has no key to tell"
        );
        let another = facts(Role::Master, &[], Some("l"));
        let another = lacking(&another, &given).expect("another key");
        assert_eq!(another.key.as_deref(), Some("l"));
        assert_eq!(lacking(&Gathered::default(), &none), None);
    }
}

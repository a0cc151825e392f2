//! Task: the plane knows what this machine is by root's word.
//!
//! What is seen here decides only when root is asked; what root says it reads for itself. The plane
//! is asked first what it knows, so that nodelet sleeps on while nothing is new.

use std::time::Duration;

use super::board::Gathered;
use super::plane::{self, CALL_DEADLINE};
use super::spool::Topic;
use super::{Agent, blocking, inventory, order};
use crate::app::Backoff;
use crate::model::{Fault, FaultCode, Inventory, NodeFacts};

/// Nothing is refused.
const KNOWN: &str = "known";
const WHAT: &str = "the plane does not know this machine's name and addresses";
/// Waits after a failure. A name that belongs to another host stays taken until an operator acts.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// How soon what a person did is noticed, at the latest.
const RETRY_CAP: Duration = Duration::from_secs(60);
/// A missing address is checked again after this long before it is reported to the plane: a node follows its machine,
/// and a link that was down, or a lease that is being renewed, is back by then.
const GONE_FOR: Duration = Duration::from_secs(20);

pub(super) async fn run(agent: Agent) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    // What was seen when root last said it.
    let mut told: Option<NodeFacts> = None;
    loop {
        let seen = agent.board.wait(|f| untold(f, told.as_ref())).await;
        match tell(&agent, &seen).await {
            // What is there now is on the board.
            Ok(Told::Passed) => {}
            Ok(Told::Known) => {
                backoff.reset();
                agent.board.set(|f| &mut f.facts_fault, None);
                let message = "the plane knows this machine's name and addresses";
                agent
                    .events
                    .emit_about(about(KNOWN), "facts-known", message.to_owned(), None);
                // Whether or not root sees the same: it is asked again when something changes.
                told = Some(seen);
            }
            Err(fault) => {
                let was = agent.board.read(|f| f.facts_fault.clone());
                // A plane that is away is no news of this machine.
                let is_news = fault.code != FaultCode::PlaneAway;
                if was.map(|f| f.code).as_ref() != Some(&fault.code) {
                    tracing::warn!(code = fault.code.word(), "{fault}");
                    if is_news {
                        let (topic, words) = (about(fault.code.word()), fault.to_string());
                        let why = Some(fault.clone());
                        agent.events.emit_about(topic, "facts-refused", words, why);
                    }
                }
                let wait = backoff.failed();
                let shown = is_news.then(|| fault.next_try(agent.later(wait)));
                agent.board.set(|f| &mut f.facts_fault, shown);
                agent.plane.pause(wait).await;
            }
        }
    }
}

/// How the plane takes what root says of this machine: reported when it changes, whichever process sees it.
fn about(value: &str) -> Topic {
    Topic {
        name: "facts".into(),
        value: value.to_owned(),
        idle: Some(KNOWN),
    }
}

/// What is seen now, if root was not asked about that yet.
fn untold(facts: &Gathered, told: Option<&NodeFacts>) -> Option<NodeFacts> {
    let Inventory {
        hostname,
        addresses,
        ..
    } = &facts.inventory;
    if hostname.is_empty() {
        return None;
    }
    let seen = NodeFacts::new(hostname, addresses);
    (told != Some(&seen)).then_some(seen)
}

/// How it went.
enum Told {
    /// The plane knows it.
    Known,
    /// It was so for a moment only.
    Passed,
}

/// An address that the plane knows is not there.
fn loses(known: Option<&NodeFacts>, seen: &NodeFacts) -> bool {
    let gone = |ip| !seen.addresses.contains(ip);
    known.is_some_and(|known| known.addresses.iter().any(gone))
}

async fn tell(agent: &Agent, seen: &NodeFacts) -> Result<Told, Fault> {
    let path = "/v1/hosts/self/facts";
    let known = agent.plane.poll::<NodeFacts>(path, CALL_DEADLINE).await;
    let known = known.map_err(|e| plane::fault(&e, WHAT))?;
    if known.as_ref() == Some(seen) {
        return Ok(Told::Known);
    }
    if loses(known.as_ref(), seen) {
        tokio::time::sleep(GONE_FOR).await;
        let fs = agent.fs.clone();
        let now = blocking(move || inventory::read(&fs)).await;
        let still = NodeFacts::new(&now.hostname, &now.addresses) == *seen;
        agent.board.set(|f| &mut f.inventory, now);
        if !still {
            return Ok(Told::Passed);
        }
    }
    let said = order::signed(agent, "/v1/facts", WHAT).await?;
    agent
        .plane
        .post::<_, serde_json::Value>(path, &said)
        .await
        .map_err(|e| plane::fault(&e, WHAT))?;
    tracing::info!("the plane knows this machine's name and addresses");
    Ok(Told::Known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_went_is_looked_for_once_more() {
        let facts = |all: &[&str]| {
            let all: Vec<_> = all.iter().map(|ip| ip.parse().expect("ip")).collect();
            NodeFacts::new("n1", &all)
        };
        let known = facts(&["10.0.0.1", "fd00::1"]);
        assert!(loses(Some(&known), &facts(&["10.0.0.9", "fd00::1"])));
        assert!(loses(Some(&known), &facts(&[])));
        let more = facts(&["10.0.0.9", "10.0.0.1", "fd00::1"]);
        assert!(!loses(Some(&known), &more), "one came");
        assert!(!loses(None, &known), "the plane knew nothing");
    }

    #[test]
    fn root_is_asked_once_for_each_change() {
        let mut facts = Gathered::default();
        assert_eq!(untold(&facts, None), None, "nothing was looked at yet");
        facts.inventory.hostname = "n1".into();
        let first = untold(&facts, None).expect("news");
        assert_eq!(untold(&facts, Some(&first)), None);
        facts.inventory.addresses = vec!["10.0.0.1".parse().expect("ip")];
        facts.inventory.kernel = "6".into();
        let second = untold(&facts, Some(&first)).expect("news");
        assert_eq!(second.addresses.len(), 1);
        facts.inventory.kernel = "7".into();
        assert_eq!(untold(&facts, Some(&second)), None, "not of this");
    }
}

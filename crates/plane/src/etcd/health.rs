//! Asks the members of etcd for their present health, through the tunnels.
//!
//! A member knows whether it has a leader and can read through the quorum (`GET /health` on its metrics port, service
//! `etcd-metrics`). Nothing is cached here: a status from a minute ago is no basis for removing a member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, header};
use http_body_util::{BodyExt, Limited};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::proxy;
use crate::refusal::chain;
use crate::state::Plane;
use crate::trace::Trace;
use crate::ways::{self, Failed};
use pf9_hostagent::host::etcd::{self, EtcdError};
use pf9_hostagent::model::HostId;
use pf9_hostagent::wire::{Class, Meta};

/// The node's service for its etcd metrics port.
const SERVICE: &str = "etcd-metrics";
/// The caller's name in the node's audit.
const WHO: &str = "etcd-health";
/// Timeout for one member, including the way to it: a person waits, and a member that takes longer to read is not one
/// to rely on.
const PATIENCE: Duration = Duration::from_secs(2);
/// Members asked concurrently; clusters have three to seven.
const AT_ONCE: usize = 16;
/// The answer is one small JSON object.
const ANSWER_MAX: usize = 64 * 1024;
/// How much of a member's own text is repeated.
const WORDS_MAX: usize = 200;

/// The answers; for an unhealthy member, why.
pub(crate) type Answers = BTreeMap<HostId, Result<(), String>>;

/// Asks all of these concurrently.
pub(crate) async fn ask(plane: &Arc<Plane>, hosts: &BTreeSet<HostId>) -> Answers {
    let question = |host| {
        let plane = Arc::clone(plane);
        async move { ask_one(&plane, host).await }
    };
    ask_each(hosts, question).await
}

async fn ask_each<F>(hosts: &BTreeSet<HostId>, question: impl Fn(HostId) -> F) -> Answers
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let mut answers = Answers::new();
    let mut waiting = hosts.iter().copied();
    let mut asked: JoinSet<(HostId, Result<(), String>)> = JoinSet::new();
    loop {
        for host in waiting.by_ref().take(AT_ONCE - asked.len()) {
            let question = question(host);
            asked.spawn(async move { (host, question.await) });
        }
        match asked.join_next().await {
            Some(Ok((host, answer))) => drop(answers.insert(host, answer)),
            Some(Err(e)) => tracing::error!(why = %e, "a health check of etcd was lost"),
            None => break,
        }
    }
    answers
}

async fn ask_one(plane: &Arc<Plane>, host: HostId) -> Result<(), String> {
    let meta = Meta::from([("who".to_owned(), WHO.to_owned()), Trace::new().entry()]);
    let question = async |stream| {
        let request = Request::get(etcd::TAKES_PART).header(header::HOST, SERVICE);
        let request = request.body(Body::empty());
        let request = request.map_err(|e| Failed::Host(chain(&e)))?;
        let mut sender = proxy::speak(plane, stream, host).await?;
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|e| Failed::of(&e))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        // It answered badly: another session would reach the same etcd.
        let body = body.map_err(|e| Failed::Host(format!("its answer was cut: {e}")))?;
        Ok((status, body.to_bytes()))
    };
    let wanted = (SERVICE, Class::Interactive, &meta);
    match timeout(PATIENCE, ways::reach(plane, host, wanted, question)).await {
        Ok(Some(Ok((status, body)))) => said(status, &body),
        Ok(Some(Err(why))) => Err(why),
        Ok(None) => Err("its host is not connected".into()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

fn said(status: u16, body: &[u8]) -> Result<(), String> {
    let words = |e: EtcdError| e.to_string().chars().take(WORDS_MAX).collect();
    etcd::health(status, body).map_err(words)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_are_asked_and_not_all_at_once() {
        let hosts: BTreeSet<HostId> = (0..2 * AT_ONCE + 1).map(|_| HostId::random()).collect();
        let under_way = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let question = |_| {
            let (under_way, most) = (Arc::clone(&under_way), Arc::clone(&most));
            async move {
                let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(PATIENCE).await;
                under_way.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        };
        let start = Instant::now();
        let answers = ask_each(&hosts, question).await;
        assert!(answers.keys().eq(&hosts) && answers.values().all(Result::is_ok));
        assert_eq!(most.load(Ordering::SeqCst), AT_ONCE);
        assert_eq!(start.elapsed(), 3 * PATIENCE);
    }

    #[test]
    fn a_members_own_words_are_repeated_up_to_a_limit() {
        assert_eq!(said(200, br#"{"health":"true","reason":""}"#), Ok(()));
        let no = said(503, br#"{"health":"false","reason":"RAFT NO LEADER"}"#);
        assert!(no.expect_err("unhealthy").contains("RAFT NO LEADER"));
        assert!(said(200, b"ok").is_err());
        let long = format!(r#"{{"health":"false","reason":"{}"}}"#, "x".repeat(5000));
        let no = said(503, long.as_bytes()).expect_err("unhealthy");
        assert_eq!(no.len(), WORDS_MAX);
    }
}

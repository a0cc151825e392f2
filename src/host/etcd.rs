//! The node's own etcd member, asked over its HTTP endpoint with a client certificate; the same
//! question is understood by 3.4 and 3.5.

use std::time::Duration;

use serde::Deserialize;

use super::tls::{self, Identity, TlsError};

/// The member reads through its quorum to answer; an election may be under way.
const ASK: Duration = Duration::from_secs(8);
/// The answer is one small JSON object.
const ANSWER_MAX: usize = 16 * 1024;

/// A client of one member.
#[derive(Clone, Debug)]
pub struct Etcd {
    base: String,
    client: reqwest::Client,
}

/// Why a member counts as not healthy.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// The certificate or key cannot be used.
    #[error("cannot speak to etcd")]
    Tls(#[from] TlsError),
    /// No answer.
    #[error("etcd at {url} does not answer: {}", super::kube::root_cause(source))]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why not.
        source: reqwest::Error,
    },
    /// It says that it is not healthy, e.g. without a leader.
    #[error("etcd says that it is not healthy: {0}")]
    Unhealthy(String),
}

#[derive(Deserialize)]
struct Health {
    health: serde_json::Value,
    #[serde(default)]
    reason: String,
}

impl Etcd {
    /// A client for the member at `base`, e.g. `https://127.0.0.1:2379`.
    pub fn new(base: &str, identity: Identity<'_>) -> Result<Self, EtcdError> {
        Ok(Self {
            base: base.to_owned(),
            client: tls::client(identity)?,
        })
    }

    /// The member has a leader and answers reads.
    pub async fn healthy(&self) -> Result<(), EtcdError> {
        let url = format!("{}/health", self.base);
        let lost = |source| EtcdError::Unreachable {
            url: url.clone(),
            source,
        };
        let answer = self
            .client
            .get(&url)
            .timeout(ASK)
            .send()
            .await
            .map_err(lost)?;
        let status = answer.status();
        let bytes = tls::body(answer, ANSWER_MAX)
            .await
            .map_err(lost)?
            .unwrap_or_default();
        judge(status.as_u16(), &bytes)
    }
}

fn judge(status: u16, body: &[u8]) -> Result<(), EtcdError> {
    let Ok(said) = serde_json::from_slice::<Health>(body) else {
        return Err(EtcdError::Unhealthy(format!("HTTP status {status}")));
    };
    let yes = said.health == "true" || said.health == true;
    if yes {
        return Ok(());
    }
    let why = if said.reason.is_empty() {
        format!("HTTP status {status}")
    } else {
        said.reason
    };
    Err(EtcdError::Unhealthy(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_generations_of_answers_are_understood() {
        assert!(judge(200, br#"{"health":"true"}"#).is_ok());
        assert!(judge(200, br#"{"health":"true","reason":""}"#).is_ok());
        let no = judge(503, br#"{"health":"false","reason":"RAFT NO LEADER"}"#);
        assert!(no.expect_err("unhealthy").to_string().contains("NO LEADER"));
        assert!(judge(503, br#"{"health":"false"}"#).is_err());
        assert!(judge(200, b"<html>").is_err());
    }
}

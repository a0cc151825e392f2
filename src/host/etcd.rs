//! Members of the cluster's etcd, asked over their HTTP endpoints with a client certificate. The same
//! questions are understood by 3.4 and everything since: membership goes through etcd's own JSON gateway, so
//! no second protocol is needed.
//!
//! | file | what |
//! |---|---|
//! | here    | health, who is a member, the calls |
//! | `who`   | which of the members is the one of this host: pure |
//! | `turn`  | whose turn it is to join |
//! | `join`  | becoming a member |
//! | `moved` | being found at another address |
//! | `leave` | leaving, and taking out others that are gone, by the quorum's leave |
//! | `lead`  | who leads, who answers, and taking over the lead |
//! | `count` | how many keys, at which revision |
//! | `snapshot` | a stream of all of it |
//! | `maintenance` | upkeep: sizes, alarms, compaction, defragmentation, lowering |
//! | `metrics` | how its disk does |

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ours::ports;
use super::tls::{self, ClientIdentity, TlsError};
use crate::model::etcd::quorum::Loss;

mod count;
mod join;
mod lead;
mod leave;
mod maintenance;
mod metrics;
mod moved;
mod snapshot;
#[cfg(all(test, feature = "fault"))]
pub(crate) use snapshot::tests::whole as whole_snapshot;
mod turn;
mod who;

pub use count::Keys;
pub use join::{counted, join, promote_within};
pub use lead::Standpoint;
pub use leave::{Standing, Survey, leave, leave_within, may_leave, standing, survey};
pub use maintenance::{Alarm, AlarmKind, DEFRAGMENT, Header, KeysHash, Lowering, MemberStatus};
pub use metrics::Fsyncs;
pub use moved::{expect_here, expected_elsewhere};
pub use snapshot::{MESSAGE_MAX, SnapshotStream, WINDOW};
pub use turn::{Turn, turn};
pub use who::{Who, hex};

/// The member reads through its quorum to answer; an election may be under way.
const ASK: Duration = Duration::from_secs(8);
/// The answer is one small JSON object, or a list of a few members.
const ANSWER_MAX: usize = 64 * 1024;
/// Asks whether a member takes part. One that is out of space still has its vote.
pub const TAKES_PART: &str = "/health?exclude=NOSPACE";
/// The answer of a member to its health, whatever is wrong.
const HEALTH: &str = "/health";
/// gRPC's number for: there is no such thing.
const NOT_FOUND: u32 = 5;

/// A client of one member.
#[derive(Clone, Debug)]
pub struct Etcd {
    base: String,
    client: reqwest::Client,
    /// The same trust and certificate, for what its JSON gateway cannot do well.
    http2: Arc<ClientConfig>,
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
    #[error("etcd reports that it is not healthy: {0}")]
    Unhealthy(String),
    /// It says no, e.g. because it would lose its quorum.
    #[error("etcd at {url} refuses: {why}")]
    Refused {
        /// What was asked.
        url: String,
        /// Its words.
        why: String,
    },
    /// A snapshot did not come whole.
    #[error("the snapshot from {url} is unusable: {why}")]
    Snapshot {
        /// What was asked.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Nobody was there to be asked.
    #[error("no member of etcd is known")]
    Nobody,
    /// A member that may be this host's and may not.
    #[error("{0}")]
    Doubtful(String),
    /// The others would lose their quorum.
    #[error("{}; {}", .0.why(), .0.fix())]
    Quorum(Loss),
}

/// A member as etcd counts it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its number, in decimal: what `etcdctl member remove` takes in hexadecimal.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name; empty until it was started once.
    #[serde(default)]
    pub name: String,
    /// Where the others reach it.
    #[serde(default, rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started and published it.
    #[serde(default, rename = "clientURLs")]
    pub client_urls: Vec<String>,
    /// It receives everything and has no vote yet.
    #[serde(default, rename = "isLearner")]
    pub is_learner: bool,
}

/// The members of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The cluster's id in hexadecimal digits.
    pub cluster_id: String,
    /// Everybody.
    pub members: Vec<Member>,
}

#[derive(Deserialize)]
struct MembersAnswer {
    #[serde(default)]
    header: Answerer,
    members: Vec<Member>,
}

/// The member that answered; numbers in decimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Answerer {
    /// Its cluster's id.
    #[serde(default)]
    pub cluster_id: String,
    /// Its own.
    #[serde(default)]
    pub member_id: String,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    code: u32,
}

#[derive(Deserialize)]
struct Health {
    health: serde_json::Value,
    #[serde(default)]
    reason: String,
}

impl Etcd {
    /// A client for the member at `base`, e.g. `https://127.0.0.1:2379`.
    pub fn new(base: &str, identity: ClientIdentity<'_>) -> Result<Self, EtcdError> {
        Ok(Self {
            base: base.to_owned(),
            client: tls::client(identity)?,
            http2: Arc::new(tls::http2(identity)?),
        })
    }

    /// The member has a leader and answers reads.
    pub async fn healthy(&self) -> Result<(), EtcdError> {
        self.says_that_it_is_well(HEALTH).await
    }

    /// The same of one that need not be able to store anything: what a quorum is counted by.
    pub async fn takes_part(&self) -> Result<(), EtcdError> {
        self.says_that_it_is_well(TAKES_PART).await
    }

    async fn says_that_it_is_well(&self, path: &str) -> Result<(), EtcdError> {
        let url = format!("{}{path}", self.base);
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
        health(status.as_u16(), &bytes)
    }

    /// Every member that it knows of.
    pub async fn members(&self) -> Result<Vec<Member>, EtcdError> {
        self.listed().await.map(|all| all.members)
    }

    /// The same, with the cluster.
    pub async fn listed(&self) -> Result<Members, EtcdError> {
        let path = "/v3/cluster/member/list";
        let bytes = self.said(path, &serde_json::json!({})).await?;
        self.members_in(path, &bytes)
    }

    /// The same, and who it is itself.
    pub async fn answerer_and_members(&self) -> Result<(Answerer, Vec<Member>), EtcdError> {
        let path = "/v3/cluster/member/list";
        let bytes = self.said(path, &serde_json::json!({})).await?;
        let answer = self.read::<MembersAnswer>(path, &bytes)?;
        Ok((answer.header, answer.members))
    }

    fn members_in(&self, path: &str, bytes: &[u8]) -> Result<Members, EtcdError> {
        let answer = self.read::<MembersAnswer>(path, bytes)?;
        Ok(Members {
            cluster_id: hex(&answer.header.cluster_id),
            members: answer.members,
        })
    }

    /// Takes a member out of the cluster; one that is none is fine.
    pub async fn remove(&self, id: &str) -> Result<(), EtcdError> {
        let path = "/v3/cluster/member/remove";
        match self.post(path, &serde_json::json!({"ID": id})).await? {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.code == NOT_FOUND => Ok(()),
            Err(refusal) => Err(self.refused(path, refusal.words())),
        }
    }

    /// The same, by the id in hexadecimal digits.
    pub async fn remove_hex(&self, id: &str) -> Result<(), EtcdError> {
        match u64::from_str_radix(id, 16) {
            Ok(id) => self.remove(&id.to_string()).await,
            Err(_) => Err(EtcdError::Doubtful(format!("{id:?} is not a member's id"))),
        }
    }

    /// A client of another member, with the same trust and certificate.
    fn at(&self, base: &str) -> Self {
        Self {
            base: base.to_owned(),
            client: self.client.clone(),
            http2: self.http2.clone(),
        }
    }

    /// A call of the gateway; a no is an error.
    async fn said(&self, path: &str, body: &serde_json::Value) -> Result<Vec<u8>, EtcdError> {
        match self.post(path, body).await? {
            Ok(bytes) => Ok(bytes),
            Err(refusal) => Err(self.refused(path, refusal.words())),
        }
    }

    /// A call of the gateway: its answer, or its words when it says no.
    async fn post(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<Result<Vec<u8>, Refusal>, EtcdError> {
        self.post_within(path, body, ASK).await
    }

    /// [`Self::post`], for what takes longer.
    async fn post_within(
        &self,
        path: &str,
        body: &serde_json::Value,
        within: Duration,
    ) -> Result<Result<Vec<u8>, Refusal>, EtcdError> {
        let url = format!("{}{path}", self.base);
        let lost = |source| EtcdError::Unreachable {
            url: url.clone(),
            source,
        };
        let call = self.client.post(&url).json(body).timeout(within);
        let answer = call.send().await.map_err(lost)?;
        let status = answer.status();
        let bytes = tls::body(answer, ANSWER_MAX).await.map_err(lost)?;
        let bytes = bytes.unwrap_or_default();
        if status.is_success() {
            return Ok(Ok(bytes));
        }
        let mut refusal = serde_json::from_slice::<Refusal>(&bytes).unwrap_or_default();
        if refusal.words().is_empty() {
            refusal.error = format!("HTTP status {}", status.as_u16());
        }
        Ok(Err(refusal))
    }

    fn read<T: DeserializeOwned>(&self, path: &str, bytes: &[u8]) -> Result<T, EtcdError> {
        serde_json::from_slice(bytes)
            .map_err(|e| self.refused(path, format!("its answer cannot be read: {e}")))
    }

    fn refused(&self, path: &str, why: String) -> EtcdError {
        EtcdError::Refused {
            url: format!("{}{path}", self.base),
            why,
        }
    }
}

impl Refusal {
    fn words(&self) -> String {
        let said = [&self.message, &self.error];
        let words = said.into_iter().find(|w| !w.is_empty());
        words.cloned().unwrap_or_default()
    }
}

/// Where a member on this address listens for the others.
pub fn peer_url(ip: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(ip, ports::ETCD_PEERS))
}

impl EtcdError {
    /// What to report of two: a no says more than silence.
    fn or_after(self, before: Self) -> Self {
        match (&self, &before) {
            (
                Self::Unreachable { .. },
                Self::Refused { .. } | Self::Quorum(_) | Self::Doubtful(_),
            ) => before,
            _ => self,
        }
    }
}

/// What an answer to `GET /health` says, as members of 3.4 and everything since give it.
pub fn health(status: u16, body: &[u8]) -> Result<(), EtcdError> {
    let Ok(said) = serde_json::from_slice::<Health>(body) else {
        return Err(EtcdError::Unhealthy(format!("HTTP status {status}")));
    };
    let yes = said.health == "true" || said.health == true;
    if yes {
        return Ok(());
    }
    let why = if said.reason.contains("NOSPACE") {
        "its database is full (alarm NOSPACE); pf9ctl etcd alarm shows what is being done"
            .to_owned()
    } else if said.reason.is_empty() {
        format!("HTTP status {status}")
    } else {
        said.reason
    };
    Err(EtcdError::Unhealthy(why))
}

#[cfg(test)]
mod tests;

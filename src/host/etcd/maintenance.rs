//! Looking after a member: what it says of itself, alarms, compaction, defragmentation, and lowering
//! a cluster to the minor before, by etcd's own procedure.

use std::collections::BTreeSet;
use std::time::Duration;

use semver::Version;
use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::{ASK, Etcd, EtcdError};

/// Defragmentation copies the database while the member stands still: 8 GiB, the most that etcd
/// advises, from a disk that reads and writes 20 MiB a second, take this long.
pub const DEFRAGMENT: Duration = Duration::from_secs(900);
/// Compaction waits until what is older is gone from the database: millions of keys.
const COMPACT: Duration = Duration::from_secs(300);

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct MemberStatus {
    /// The member that answered, and its revision.
    pub header: Header,
    /// Version of the program.
    #[serde(default)]
    pub version: String,
    /// Bytes of the file.
    #[serde(default, rename = "dbSize", deserialize_with = "number")]
    pub db_bytes: u64,
    /// Bytes of it that hold something.
    #[serde(default, rename = "dbSizeInUse", deserialize_with = "number")]
    pub in_use_bytes: u64,
    /// Most bytes; 0 from etcd before 3.6, which does not say.
    #[serde(default, rename = "dbSizeQuota", deserialize_with = "number")]
    pub quota_bytes: u64,
    /// The leader; 0: none.
    #[serde(default, deserialize_with = "number")]
    pub leader: u64,
    /// The term.
    #[serde(default, rename = "raftTerm", deserialize_with = "number")]
    pub term: u64,
    /// Up to where the log is written.
    #[serde(default, rename = "raftIndex", deserialize_with = "number")]
    pub index: u64,
    /// Up to where it is applied.
    #[serde(default, rename = "raftAppliedIndex", deserialize_with = "number")]
    pub applied: u64,
    /// It has no vote.
    #[serde(default, rename = "isLearner")]
    pub is_learner: bool,
    /// What is wrong, in its words.
    #[serde(default)]
    pub errors: Vec<String>,
    /// What its database is laid out for; empty before 3.6.
    #[serde(default, rename = "storageVersion")]
    pub storage_version: String,
}

/// What stands before every answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Header {
    /// The cluster's number.
    #[serde(default, deserialize_with = "number")]
    pub cluster_id: u64,
    /// The member's number.
    #[serde(default, deserialize_with = "number")]
    pub member_id: u64,
    /// The newest revision.
    #[serde(default, deserialize_with = "number")]
    pub revision: u64,
}

/// An alarm that a member raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// Whose.
    pub member_id: u64,
    /// Which.
    pub kind: AlarmKind,
}

/// What an alarm says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The database has reached its quota: writes are refused.
    NoSpace,
    /// A member's data differ from the others'.
    Corrupt,
    /// One unknown here.
    Other,
}

#[derive(Deserialize)]
struct Alarms {
    #[serde(default)]
    alarms: Vec<Raised>,
}

#[derive(Deserialize)]
struct Raised {
    #[serde(default, rename = "memberID", deserialize_with = "number")]
    member_id: u64,
    #[serde(default)]
    alarm: String,
}

#[derive(Deserialize)]
struct Hash {
    #[serde(default)]
    hash: u32,
    #[serde(default, deserialize_with = "number")]
    compact_revision: u64,
}

/// What of a database all members have alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysHash {
    /// The sum over keys and values.
    pub hash: u32,
    /// What is older is gone; sums of different ones do not compare.
    pub compact_revision: u64,
}

/// What [`Etcd::lower`] is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lowering {
    /// The cluster works as this minor from now on.
    To(Version),
    /// As its programs do, again.
    Off,
}

impl Etcd {
    /// What the member says of itself.
    pub async fn status(&self) -> Result<MemberStatus, EtcdError> {
        let path = "/v3/maintenance/status";
        let bytes = self.ask(path, &json!({}), ASK).await?;
        self.read(path, &bytes)
    }

    /// Every alarm of the cluster.
    pub async fn alarms(&self) -> Result<BTreeSet<Alarm>, EtcdError> {
        let path = "/v3/maintenance/alarm";
        let bytes = self.ask(path, &json!({"action": "GET"}), ASK).await?;
        let said: Alarms = self.read(path, &bytes)?;
        Ok(said.alarms.iter().map(Raised::read).collect())
    }

    /// Takes an alarm back; its cause had better be gone.
    pub async fn disarm(&self, alarm: Alarm) -> Result<(), EtcdError> {
        let Some(kind) = alarm.kind.word() else {
            return Ok(());
        };
        let body = json!({
            "action": "DEACTIVATE",
            "memberID": alarm.member_id.to_string(),
            "alarm": kind,
        });
        self.ask("/v3/maintenance/alarm", &body, ASK)
            .await
            .map(drop)
    }

    /// Forgets what is older than this revision, and waits until it is gone from the database.
    pub async fn compact(&self, revision: u64) -> Result<(), EtcdError> {
        let path = "/v3/kv/compaction";
        let body = json!({"revision": revision.to_string(), "physical": true});
        match self.post_within(path, &body, COMPACT).await? {
            Ok(_) => Ok(()),
            // Somebody, the API server mostly, was there before.
            Err(refusal) if refusal.words().contains("has been compacted") => Ok(()),
            Err(refusal) => Err(self.refused(path, refusal.words())),
        }
    }

    /// Returns the free bytes of this member's file; it serves no requests meanwhile.
    pub async fn defragment(&self) -> Result<(), EtcdError> {
        let path = "/v3/maintenance/defragment";
        self.ask(path, &json!({}), DEFRAGMENT).await.map(drop)
    }

    /// The sum over its keys at the newest revision.
    pub async fn keys_hash(&self) -> Result<KeysHash, EtcdError> {
        let path = "/v3/maintenance/hash";
        let bytes = self.ask(path, &json!({}), COMPACT).await?;
        let said: Hash = self.read(path, &bytes)?;
        Ok(KeysHash {
            hash: said.hash,
            compact_revision: said.compact_revision,
        })
    }

    /// Orders that the cluster works as the minor before, or no longer so. Ordered twice is fine.
    pub async fn lower(&self, what: &Lowering) -> Result<(), EtcdError> {
        let path = "/v3/maintenance/downgrade";
        let (body, so) = match what {
            Lowering::To(to) => {
                let version = format!("{}.{}.0", to.major, to.minor);
                let body = json!({"action": "ENABLE", "version": version});
                (body, "downgrade job in progress")
            }
            Lowering::Off => (json!({"action": "CANCEL"}), "no inflight downgrade"),
        };
        match self.post(path, &body).await? {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.words().contains(so) => Ok(()),
            Err(refusal) => Err(self.refused(path, refusal.words())),
        }
    }

    async fn ask(
        &self,
        path: &str,
        body: &serde_json::Value,
        within: Duration,
    ) -> Result<Vec<u8>, EtcdError> {
        let said = self.post_within(path, body, within).await?;
        said.map_err(|refusal| self.refused(path, refusal.words()))
    }
}

impl MemberStatus {
    /// Bytes that a defragmentation gives back.
    pub fn free_bytes(&self) -> u64 {
        self.db_bytes.saturating_sub(self.in_use_bytes)
    }

    /// Its id in hexadecimal digits.
    pub fn id(&self) -> String {
        format!("{:x}", self.header.member_id)
    }

    /// It leads.
    pub fn leads(&self) -> bool {
        self.leader != 0 && self.leader == self.header.member_id
    }
}

impl AlarmKind {
    /// etcd's word.
    fn word(self) -> Option<&'static str> {
        match self {
            Self::NoSpace => Some("NOSPACE"),
            Self::Corrupt => Some("CORRUPT"),
            Self::Other => None,
        }
    }
}

impl Raised {
    fn read(&self) -> Alarm {
        let kind = match self.alarm.as_str() {
            "NOSPACE" => AlarmKind::NoSpace,
            "CORRUPT" => AlarmKind::Corrupt,
            _ => AlarmKind::Other,
        };
        Alarm {
            member_id: self.member_id,
            kind,
        }
    }
}

/// The gateway writes numbers of 64 bits as text.
fn number<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        Text(String),
        Number(u64),
    }
    match Said::deserialize(input)? {
        Said::Text(text) => text.parse().map_err(serde::de::Error::custom),
        Said::Number(n) => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As 3.5.35 and 3.6.16 answered.
    #[test]
    fn what_members_say_is_read_whatever_they_leave_out() {
        let read = |text: &str| serde_json::from_str::<MemberStatus>(text).expect("a status");
        let old = read(
            r#"{"header":{"cluster_id":"324952591200643719","member_id":"3319814642761637952","revision":"2",
            "raft_term":"2"},"version":"3.5.35","dbSize":"20480","leader":"3319814642761637952","raftIndex":"5",
            "raftTerm":"2","raftAppliedIndex":"5","dbSizeInUse":"16384"}"#,
        );
        assert!(old.leads() && !old.is_learner);
        assert_eq!((old.free_bytes(), old.quota_bytes), (4096, 0));
        let new = read(
            r#"{"header":{"cluster_id":"1","member_id":"2"}, "version":"3.6.16", "dbSize":"20480", "leader":"3",
            "raftTerm":"2", "dbSizeInUse":"30000", "storageVersion":"3.6.0", "dbSizeQuota":"2147483648",
            "downgradeInfo":{}, "errors":["etcdserver: no leader"], "isLearner":true}"#,
        );
        assert!(!new.leads() && new.is_learner && new.errors.len() == 1);
        assert_eq!((new.free_bytes(), new.quota_bytes), (0, 2 << 30));
        assert!(serde_json::from_str::<MemberStatus>(r#"{"header":{"member_id":"x"}}"#).is_err());
    }

    #[test]
    fn an_alarm_that_is_not_known_is_one_all_the_same() {
        let said =
            r#"{"alarms":[{"memberID":"7","alarm":"NOSPACE"},{"memberID":"8","alarm":"MELTING"}]}"#;
        let said: Alarms = serde_json::from_str(said).expect("alarms");
        let kinds: Vec<AlarmKind> = said.alarms.iter().map(|a| a.read().kind).collect();
        assert_eq!(kinds, [AlarmKind::NoSpace, AlarmKind::Other]);
    }
}

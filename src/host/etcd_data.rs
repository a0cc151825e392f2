//! What the files of an etcd say of themselves, read without etcd: which version the cluster and the
//! database are of, who is a member by the database and by the log, and whether the log holds what a
//! later etcd cannot read. For the gate before another etcd gets them, and for code that has to know
//! whose data these are.
//!
//! ```text
//! member/snap/db      bolt ─► clusterVersion, storageVersion, downgrade, members, confState
//! member/wal/*.wal    wal  ─► cluster id, member id, newest snapshot, entries of the old kind after it
//! ```
//!
//! etcd may be running and writing meanwhile: the database is read at one of its commits, and a log
//! that ends in the middle of a record ends there. Asking the running etcd instead was rejected:
//! what it says of its members and what it has written of them are two things in 3.5, and it is the
//! written ones that the next etcd goes by.
//!
//! | file | what |
//! |---|---|
//! | `bolt`  | a database file of bbolt: buckets, keys and values of one commit; read only, bounded |
//! | `wal`   | the records of the log, in order |
//! | `identity` | whose they are, by the log's head alone |

mod bolt;
mod identity;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wal;

use std::path::{Path, PathBuf};

use semver::Version;
use serde::Deserialize;

use super::fs::HostFs;
use crate::model::loose_version;

pub use identity::{DataId, identity};
pub use wal::{Log, LogSnapshot};

/// Where the database is, below the data directory.
const DATABASE: &str = "member/snap/db";
/// Where the log is, below the data directory.
pub const LOG: &str = "member/wal";

/// What the files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataSeen {
    /// What the cluster as a whole works as: the minor of its oldest member.
    pub cluster: Option<Version>,
    /// What the database is laid out for; 3.5 does not write it.
    pub storage: Option<Version>,
    /// A lowering to this minor was ordered and is in force.
    pub lowering_to: Option<Version>,
    /// The members that the database remembers.
    pub members: Vec<MemberSeen>,
    /// The members that the log counts, as noted in the database at the last change; absent where no
    /// member ever changed since 3.5.
    pub counted: Option<Counted>,
    /// What the log holds.
    pub log: Log,
}

/// A member as the database remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MemberSeen {
    /// Its number.
    pub id: u64,
    /// Its name; empty until it was started.
    #[serde(default)]
    pub name: String,
    /// Without a vote.
    #[serde(default, rename = "isLearner")]
    pub is_learner: bool,
}

/// Members as the log counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counted {
    /// With a vote.
    #[serde(default)]
    pub voters: Vec<u64>,
    /// Without.
    #[serde(default)]
    pub learners: Vec<u64>,
}

#[derive(Deserialize)]
struct Lowering {
    #[serde(default, rename = "target-version")]
    target: String,
    #[serde(default)]
    enabled: bool,
}

/// Why the files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The disk says no.
    #[error("cannot read {path}")]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not what etcd writes.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// What was read.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is a log without its database, or the other way round.
    #[error("{there} exists and {missing} does not")]
    Half {
        /// What there is.
        there: PathBuf,
        /// What there is not.
        missing: PathBuf,
    },
}

/// What the files in this data directory say; `None`: there are none. Reads the log from its start,
/// some hundred megabytes at most: not on a thread that serves others.
pub fn look(fs: &HostFs, dir: impl AsRef<Path>) -> Result<Option<DataSeen>, DataError> {
    let dir = fs.at(dir);
    let (database, log) = (dir.join(DATABASE), dir.join(LOG));
    let files = wal::files(&log)?;
    let seen = match bolt::Bolt::open(&database)? {
        None if files.is_empty() => return Ok(None),
        None => {
            return Err(DataError::Half {
                there: log,
                missing: database,
            });
        }
        Some(_) if files.is_empty() => {
            return Err(DataError::Half {
                there: database,
                missing: log,
            });
        }
        Some(mut file) => file.at_one_commit(from_database)?,
    };
    let log = wal::read(&files)?;
    Ok(Some(DataSeen { log, ..seen }))
}

fn from_database(commit: &mut bolt::Commit<'_>) -> Result<DataSeen, bolt::Fault> {
    let mut seen = DataSeen::default();
    for (key, value) in commit.bucket("cluster")? {
        match key.as_slice() {
            b"clusterVersion" => seen.cluster = version(&value),
            b"downgrade" => {
                let said = serde_json::from_slice::<Lowering>(&value).ok();
                let target = said.filter(|l| l.enabled).map(|l| l.target);
                seen.lowering_to = target.as_deref().and_then(loose_version);
            }
            _ => {}
        }
    }
    for (key, value) in commit.bucket("meta")? {
        match key.as_slice() {
            b"storageVersion" => seen.storage = version(&value),
            b"confState" => seen.counted = serde_json::from_slice(&value).ok(),
            _ => {}
        }
    }
    for (key, value) in commit.bucket("members")? {
        let member = serde_json::from_slice(&value).map_err(|e| {
            let key = String::from_utf8_lossy(&key).into_owned();
            bolt::Fault::Damaged(format!("member {key} cannot be read: {e}"))
        })?;
        seen.members.push(member);
    }
    Ok(seen)
}

fn version(value: &[u8]) -> Option<Version> {
    loose_version(std::str::from_utf8(value).ok()?)
}

// === impl DataSeen ===

impl DataSeen {
    /// The minor whose layout the database has: 3.5 wrote none.
    pub fn laid_out_for(&self) -> Option<&Version> {
        self.storage.as_ref().or(self.cluster.as_ref())
    }

    /// Where what the database remembers is not what the log counts, as text.
    pub fn disagreement(&self) -> Option<String> {
        let counted = self.counted.as_ref()?;
        self.members.iter().find_map(|member| {
            let named = member.named();
            let (votes, learns) = (
                counted.voters.contains(&member.id),
                counted.learners.contains(&member.id),
            );
            match (member.is_learner, votes, learns) {
                (true, true, _) => Some(format!(
                    "member {named} has a vote and is recorded as a learner"
                )),
                (false, false, true) => Some(format!(
                    "member {named} is a learner and is recorded with a vote"
                )),
                (_, false, false) => {
                    Some(format!("member {named} was removed and is still recorded"))
                }
                (false, true, _) | (true, false, true) => None,
            }
        })
    }

    /// A member that has no vote yet.
    pub fn learner(&self) -> Option<&MemberSeen> {
        self.members.iter().find(|m| m.is_learner)
    }
}

impl MemberSeen {
    /// As etcd prints it.
    pub fn named(&self) -> String {
        if self.name.is_empty() {
            format!("{:x}", self.id)
        } else {
            format!("{:x} ({})", self.id, self.name)
        }
    }
}

//! Whether the data of etcd that should be on this master are: what the host says ([`look`]), and what that
//! means ([`EtcdSeen::verdict`]), pure.
//!
//! ```text
//!                     │ nothing there             │ data there
//! ────────────────────┼───────────────────────────┼──────────────────────────────
//! never a member      │ Fresh                     │ Present
//! expected by others  │ Fresh                     │ Present if theirs, or Foreign
//! a member            │ MountMissing, or Gone     │ Present if its own, MountMissing, or Foreign
//! record lost         │ Gone                      │ Present
//! ```
//!
//! A mount is missing where the directory was on one and is now on what lies below it. Then the data is on the missing
//! disk, and what lies in the directory meanwhile, even of the same member, is older: a member that forgot its votes
//! makes a cluster forget.

use serde::{Deserialize, Serialize};

use super::record::{self, Began, EtcdRecord};
use crate::host::etcd::Who;
use crate::host::etcd_data::{DataId, identity};
use crate::host::fs::{FsError, HostFs};
use crate::host::mounts::{self, Mount};
use crate::model::{EtcdMember, HostId, NodeSpec, Timestamp, paths};
use crate::nodelet::phase;
use crate::telemetry::chain;

/// Settings of etcd: a line for each member.
const SETTINGS_MAX: u64 = 64 * 1024;

/// What the host says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdSeen {
    /// What this member is.
    pub known: Known,
    /// Content of the data directory.
    pub found: DataDirContent,
    /// What the directory is on; `None`: unknown.
    pub mount: Option<Mount>,
    /// Since when nothing else was put there or taken away.
    pub changed_at: Option<Timestamp>,
}

/// What this member is, as far as it was noted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "known", rename_all = "kebab-case")]
pub enum Known {
    /// It never was one.
    #[default]
    Never,
    /// This one.
    Member(EtcdRecord),
    /// It was one, and the note of it cannot be read.
    Lost {
        /// Why.
        why: String,
    },
}

/// Content of the data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "found", rename_all = "kebab-case")]
pub enum DataDirContent {
    /// No log of etcd: an empty directory, or none, or pieces.
    #[default]
    Nothing,
    /// The data of this member.
    Data(DataId),
    /// Something that cannot be followed.
    Unreadable {
        /// Why.
        why: String,
    },
}

/// What that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataVerdict<'a> {
    /// There never were data: it may found or join.
    Fresh,
    /// They are there.
    Present,
    /// What they were on is not mounted.
    MountMissing {
        /// What was mounted, and where.
        mount: &'a Mount,
    },
    /// They are gone.
    Gone {
        /// Since when, as far as the directory tells.
        since: Option<Timestamp>,
    },
    /// Others are there, or what no etcd can use.
    Foreign {
        /// In words.
        what: String,
    },
}

/// Why etcd is not started, and the ways out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What is so.
    pub why: String,
    /// What helps.
    pub fix: String,
}

/// Asks the host. Changes nothing.
pub fn look(fs: &HostFs) -> Result<EtcdSeen, FsError> {
    let loaded = record::look(fs);
    let known = match (loaded.value, loaded.fault) {
        // The one before it may be of another member that this master was.
        (_, Some(fault)) => Known::Lost { why: fault.why },
        (Some(record), None) => Known::Member(record),
        (None, None) if settled(fs)? => Known::Lost {
            why: "its membership record is missing, and its settings say that the cluster existed"
                .into(),
        },
        (None, None) => Known::Never,
    };
    let found = match identity(fs, paths::ETCD_DATA) {
        Ok(None) => DataDirContent::Nothing,
        Ok(Some(id)) => DataDirContent::Data(id),
        Err(why) => DataDirContent::Unreadable { why },
    };
    let changed = std::fs::metadata(fs.at(paths::ETCD_DATA)).and_then(|meta| meta.modified());
    Ok(EtcdSeen {
        known,
        found,
        mount: mounts::under(fs, paths::ETCD_DATA)?,
        changed_at: changed.ok().and_then(|at| Timestamp::try_from(at).ok()),
    })
}

/// The settings of a master that has started: only one that never was a member has others, or none. (A master that is
/// about to join has them too, and the permit for its first start.)
fn settled(fs: &HostFs) -> Result<bool, FsError> {
    let begins = fs.at(phase::layout::ETCD_BEGINS).exists();
    let text = fs.read_text(phase::layout::ETCD_CLUSTER_ENV, SETTINGS_MAX)?;
    Ok(!begins && text.is_some_and(|text| phase::settings_join(&text)))
}

/// The hosts that should be members.
pub fn masters(node: &NodeSpec) -> Vec<HostId> {
    node.etcd.members.iter().map(|m| m.host_id).collect()
}

/// This host, as members of etcd know it.
pub fn who(seen: &EtcdSeen, member: &EtcdMember) -> Who {
    Who {
        id: seen.record().map(|record| record.data.member_id.clone()),
        name: member.host_id.to_string(),
        ip: member.ip,
    }
}

/// What to note about a healthy member; `None`: it is noted, or there is no data.
pub fn to_note(fs: &HostFs, now: Timestamp) -> Result<Option<EtcdRecord>, String> {
    let seen = look(fs).map_err(|e| chain(&e))?;
    let data = match seen.found {
        DataDirContent::Data(data) => data,
        DataDirContent::Nothing => {
            return Err(format!("there are no data in {}", paths::ETCD_DATA));
        }
        DataDirContent::Unreadable { why } => return Err(why),
    };
    let text = fs
        .read_text(phase::layout::ETCD_CLUSTER_ENV, SETTINGS_MAX)
        .map_err(|e| chain(&e))?;
    let joined = text.is_some_and(|text| phase::settings_join(&text));
    let (began, since) = match &seen.known {
        Known::Member(known) if known.data == data && !known.expected => (known.began, known.since),
        Known::Member(known) => (known.began, now),
        Known::Never | Known::Lost { .. } if joined => (Began::Joined, now),
        Known::Never | Known::Lost { .. } => (Began::Founded, now),
    };
    let record = EtcdRecord {
        schema: <EtcdRecord as crate::host::documents::Document>::SCHEMA,
        data,
        began,
        since,
        mount: seen.mount,
        expected: false,
    };
    Ok((seen.known != Known::Member(record.clone())).then_some(record))
}

// === impl EtcdSeen ===

impl EtcdSeen {
    /// What it means.
    pub fn verdict(&self) -> DataVerdict<'_> {
        let known = match &self.known {
            Known::Never => None,
            Known::Member(record) => Some(record),
            Known::Lost { .. } => {
                return match &self.found {
                    DataDirContent::Nothing => self.gone(),
                    DataDirContent::Data(_) => DataVerdict::Present,
                    DataDirContent::Unreadable { why } => {
                        DataVerdict::Foreign { what: why.clone() }
                    }
                };
            }
        };
        match (known, &self.found) {
            (None, DataDirContent::Nothing) => DataVerdict::Fresh,
            (None, DataDirContent::Data(_)) => DataVerdict::Present,
            (_, DataDirContent::Unreadable { why }) => DataVerdict::Foreign { what: why.clone() },
            (Some(record), DataDirContent::Data(data)) if *data != record.data => {
                DataVerdict::Foreign {
                    what: format!(
                        "they are of member {} of cluster {}",
                        data.member_id, data.cluster_id
                    ),
                }
            }
            (Some(record), DataDirContent::Data(_) | DataDirContent::Nothing)
                if self.lacks(record).is_some() =>
            {
                self.missing(record)
            }
            (Some(_), DataDirContent::Data(_)) => DataVerdict::Present,
            (Some(record), DataDirContent::Nothing) if record.expected => DataVerdict::Fresh,
            (Some(_), DataDirContent::Nothing) => self.gone(),
        }
    }

    fn gone(&self) -> DataVerdict<'_> {
        DataVerdict::Gone {
            since: self.changed_at,
        }
    }

    fn missing<'a>(&self, record: &'a EtcdRecord) -> DataVerdict<'a> {
        match self.lacks(record) {
            Some(mount) => DataVerdict::MountMissing { mount },
            None => DataVerdict::Fresh,
        }
    }

    /// The mount that the data were on, where the directory is on what lies below it now.
    fn lacks<'a>(&self, record: &'a EtcdRecord) -> Option<&'a Mount> {
        let (was, is) = (record.mount.as_ref()?, self.mount.as_ref()?);
        (is.point.len() < was.point.len()).then_some(was)
    }

    /// This member, where it is known.
    pub fn record(&self) -> Option<&EtcdRecord> {
        match &self.known {
            Known::Member(record) => Some(record),
            Known::Never | Known::Lost { .. } => None,
        }
    }

    /// The data are gone, and not with a disk.
    pub fn is_gone(&self) -> bool {
        matches!(self.verdict(), DataVerdict::Gone { .. })
    }

    /// Why etcd is not started; `None`: it may be.
    pub fn held(&self) -> Option<Held> {
        let dir = paths::ETCD_DATA;
        let rejoin = "pf9ctl etcd rejoin takes the data of the other masters";
        let restore = "pf9ctl etcd restore FILE takes those of a backup (pf9ctl etcd list)";
        match self.verdict() {
            DataVerdict::Fresh | DataVerdict::Present => None,
            DataVerdict::MountMissing { mount } => Some(Held {
                why: format!(
                    "{} of type {} is not mounted at {}, and the data of etcd in {dir} are on it{}",
                    mount.source,
                    mount.fs_type,
                    mount.point,
                    self.member()
                ),
                fix: format!(
                    "mount it: etcd starts then automatically; if it is lost for good, {rejoin}, and {restore}; if \
                     the data were moved from it, delete {}/etcd.json*",
                    paths::NODELET_STATE
                ),
            }),
            DataVerdict::Gone { since } => Some(Held {
                why: format!(
                    "the data of etcd are gone from {dir}{}{}",
                    since
                        .map(|at| format!(" since {at:.0}"))
                        .unwrap_or_default(),
                    self.member()
                ),
                fix: format!("restore the files; or {restore}; or, with other masters, {rejoin}"),
            }),
            DataVerdict::Foreign { what } => Some(Held {
                why: format!(
                    "the data in {dir} are not this master's: {what}{}",
                    self.member()
                ),
                fix: format!(
                    "restore its own files; or {restore}; or, with other masters, {rejoin}"
                ),
            }),
        }
    }

    /// Which member it was, for people.
    fn member(&self) -> String {
        match &self.known {
            Known::Member(record) => {
                let how = match record.began {
                    Began::Founded => "founded",
                    Began::Joined => "joined",
                    Began::Restored => "restored from a backup",
                };
                format!(
                    " (member {} of cluster {}, {how} {:.0})",
                    record.data.member_id, record.data.cluster_id, record.since
                )
            }
            Known::Lost { why } => format!(" (which member it was is lost: {why})"),
            Known::Never => String::new(),
        }
    }
}

#[cfg(test)]
mod tests;

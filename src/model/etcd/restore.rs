//! A restore of the whole cluster: what the plane orders, and what each master says of it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{Fault, HostId};

/// Longest name of a backup, or path of a snapshot: the kernel's own bound.
const SNAPSHOT_MAX: usize = 4096;
/// etcd's own bound of members that make sense, with room.
const MASTERS_MAX: usize = 64;

/// The cluster starts over from a snapshot. One master makes the data; the others put theirs aside and
/// join it. The same order is in every master's spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOrder {
    /// Which; a master obeys it once.
    pub id: Uuid,
    /// The master that makes the data.
    pub founder: HostId,
    /// The masters of that time. Who became one since has nothing to put aside.
    pub masters: Vec<HostId>,
    /// The name of a backup on the founder or in the archive, or the path of a file on the founder.
    pub snapshot: String,
    /// The path on the founder of the key that opens it; never the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<String>,
    /// It may be of another cluster, or of an unknown one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_cluster: bool,
    /// Nobody has to have signed it: the operator knows where it comes from.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsigned: bool,
    /// The new data are made, so the masters stop and go on. Before that nothing is stopped anywhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub go: bool,
}

/// What a master says of a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreStatus {
    /// Which.
    pub id: Uuid,
    /// How far it is.
    pub state: RestoreState,
    /// Why it was refused, or does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What was made otherwise than the present cluster is, and is restored anyway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How far a restore is on a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreState {
    /// The snapshot is checked and the new data are made; nothing was stopped.
    Asked,
    /// The new data are made; nothing was stopped.
    Ready,
    /// Programs stop, data are moved.
    Moving,
    /// It has ended: etcd and the control plane start.
    Done,
    /// It has ended, and nothing was changed.
    Refused,
}

impl RestoreOrder {
    /// What is wrong with it: the field, and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if !self.masters.contains(&self.founder) || self.masters.len() > MASTERS_MAX {
            let why = format!("the founder is not among {} masters", self.masters.len());
            return Some(("masters", why));
        }
        let paths = [
            ("snapshot", Some(&self.snapshot)),
            ("recovery_key", self.recovery_key.as_ref()),
        ];
        let bad = |text: &String| text.is_empty() || text.len() > SNAPSHOT_MAX;
        let (field, _) = paths.into_iter().find(|(_, text)| text.is_some_and(bad))?;
        Some((field, "it is empty, or too long".to_owned()))
    }
}

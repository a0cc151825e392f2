//! A restore: the cluster starts over from a snapshot. One master makes the data, alone; the others
//! put theirs aside and join it by the path that every new member takes. So a snapshot is needed on
//! one machine only.
//!
//! ```text
//! asked ─► prepare: checks, then new data beside the old ones; nothing was stopped or moved yet
//!   ready ─► others are silent ─► control plane stops ─► etcd stops ─► old data aside
//!         ─► new data in place ─► recorded ─► ended; phases start etcd, then the control plane
//! asked (a master that joins the restored one)
//!         ─► control plane stops ─► etcd stops ─► the restored one answers ─► old data aside ─► ended
//! ```
//!
//! The new data are made *before* anything stops, unlike a restore by hand: what is wrong with a
//! snapshot shows while the cluster still runs, and the control plane is away for two renames.
//! Everything is below etcd's data directory, which may be a disk of its own: a rename is one only
//! within a file system.
//!
//! What comes next is decided by looking ([`plan::next`]), never by what was done before: a restore
//! that was interrupted continues, at whatever point. Two things the machine does not show are on
//! the disk ([`RestoreRun`]): what was asked for, and that the new data are about to be given their
//! place.
//!
//! The engine does it, in the place of its rounds: a reconcile round would otherwise restart
//! what a restore stops. [`Stage`] is the closed list of what a restore does to a machine.
//!
//! | file | what |
//! |---|---|
//! | here       | what is on the disk about a restore |
//! | `ask`      | what root asks for, on the socket |
//! | `order`    | what the plane orders, and what is reported: pure |
//! | `plan`     | what comes next: pure |
//! | `check`    | whether a snapshot may be restored here: pure |
//! | `settings` | whether the cluster is still the one that the snapshot is of: pure |
//! | `snapshot` | what is in a snapshot, as its file and `etcdutl` say |
//! | `source`   | which file was asked for, and where it is |
//! | `fetch`    | a backup that only the archive has, brought here |
//! | `unseal`   | a sealed snapshot, opened |
//! | `prepare`  | checks, and new data beside the old ones |
//! | `run`      | one step: look, decide, do |
//! | `stage`    | what was seen, and doing one stage |

pub mod ask;
pub mod check;
mod fetch;
pub mod order;
pub mod plan;
pub mod prepare;
pub mod run;
pub mod settings;
pub mod snapshot;
pub mod source;
pub mod stage;
mod unseal;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::host::documents::{Document, Loaded, Store};
use crate::host::fs::{FsError, HostFs};
use crate::model::{ClusterId, Fault, FaultCode, Timestamp, paths};
use crate::telemetry::chain;

pub use plan::Stage;

/// The restore that is under way.
const RUN: &str = paths::RESTORE_RUN;
/// How the last one ended.
const LAST: &str = "/var/opt/pf9/nodelet/etcd-restored.json";
/// Which one is to end before its time.
const TO_END: &str = "/var/opt/pf9/nodelet/etcd-restore-ends.json";
const MODE: u32 = 0o600;
/// A path, a name, a fault.
const DOCUMENT_MAX: u64 = 64 * 1024;
/// Old data that are kept: of the restore before the last one, should that have been the mistake.
pub const ASIDE_KEPT: usize = 2;

/// A restore that was asked for and has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRun {
    schema: u32,
    /// Which; the plane's order has the same on every master.
    pub id: Uuid,
    /// Since when.
    pub asked_at: Timestamp,
    /// Its issuer.
    pub by: By,
    /// The node it is for: one of another cluster has nothing to do with it.
    pub cluster: ClusterId,
    /// What this master is to do.
    pub goal: RestoreGoal,
    /// How far it is, where the machine does not show that.
    pub state: State,
    /// What was made otherwise than the present cluster is, and is restored anyway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The issuer of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The plane, by its signed spec. It tries again until the order is withdrawn.
    Plane,
    /// Root of this machine. A refusal ends it: root has read why.
    Root,
}

/// What a master is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RestoreGoal {
    /// Begin the cluster again from a snapshot.
    Restored(Source),
    /// Put the data aside and join the master that does.
    Rejoined,
}

/// Which snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The name of a backup, on this master or in the archive; or the path of a file here: a plain
    /// snapshot, or a sealed one with its manifest beside it.
    pub file: String,
    /// The key that opens it, where the plane is not asked: a file, never the key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<String>,
    /// It may be of another cluster.
    #[serde(default)]
    pub any_cluster: bool,
    /// A file with public keys whose signature is trusted beside those that this master knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signers: Option<String>,
    /// No signature is needed: the operator knows where it comes from. A plain snapshot is never signed, and says
    /// nothing of its cluster.
    #[serde(default)]
    pub unsigned: bool,
}

/// How far a restore is, where the machine does not show that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing was changed: it may be refused or withdrawn.
    Asked,
    /// The new data are there, whole.
    Ready,
    /// They are about to be moved into place: once they are no longer beside it, they are there.
    Placing,
}

/// How a restore ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Last {
    schema: u32,
    /// Which.
    pub id: Uuid,
    /// When.
    pub ended_at: Timestamp,
    /// What this master was to do.
    pub goal: RestoreGoal,
    /// Why it was refused; absent: done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Fault>,
    /// What was made otherwise than the present cluster is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Document for RestoreRun {
    const SCHEMA: u32 = 1;
}

impl Document for Last {
    const SCHEMA: u32 = 1;
}

impl RestoreRun {
    /// One that nothing was done for.
    pub fn asked(id: Uuid, by: By, cluster: ClusterId, goal: RestoreGoal, now: Timestamp) -> Self {
        Self {
            schema: Self::SCHEMA,
            id,
            asked_at: now,
            by,
            cluster,
            goal,
            state: State::Asked,
            warnings: Vec::new(),
        }
    }

    /// Where the new data are until they get their place.
    pub fn fresh_dir(&self) -> String {
        format!("{}/restored-{}", paths::ETCD_DATA, self.id.simple())
    }

    /// Where they are while they are made: what is there is not whole.
    pub fn making_dir(&self) -> String {
        format!("{}/restoring-{}", paths::ETCD_DATA, self.id.simple())
    }

    /// Where a sealed snapshot is opened.
    pub fn opening_dir(&self) -> String {
        format!("{}/opening-{}", paths::ETCD_DATA, self.id.simple())
    }

    /// Where a backup of the archive is brought. It stays until the restore ends: what was
    /// interrupted is continued.
    pub fn fetching_dir(&self) -> String {
        format!("{}/fetching-{}", paths::ETCD_DATA, self.id.simple())
    }

    /// Where the old data go. In order of time also as text.
    pub fn aside_dir(&self) -> String {
        let at = self.asked_at.strftime("%Y%m%dT%H%M%SZ");
        let id = self.id.simple().to_string();
        let id = id.get(..8).unwrap_or_default();
        format!("{}/{ASIDE}{at}-{id}", paths::ETCD_DATA)
    }

    /// The new cluster's token: other than every one before, so that no member of those is taken
    /// for one of this.
    pub fn token(&self) -> String {
        format!("{}-{}", self.cluster, self.id.simple())
    }
}

/// Before the time in the names of old data.
pub(super) const ASIDE: &str = "before-";
/// Before the id in the names of what a restore makes.
pub(super) const MADE: [&str; 4] = ["restored-", "restoring-", "opening-", "fetching-"];

/// That one is to end early: set by another task than the one that does it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ToEnd {
    schema: u32,
    id: Uuid,
    at: Timestamp,
}

impl Document for ToEnd {
    const SCHEMA: u32 = 1;
}

/// What is on the disk about restores.
#[derive(Clone, Debug)]
pub struct Restores {
    run: Store,
    last: Store,
    to_end: Store,
}

impl Restores {
    /// Those of this host.
    pub fn of(fs: &HostFs) -> Self {
        let store = |path| Store::new(fs.clone(), path, MODE, DOCUMENT_MAX);
        Self {
            run: store(RUN),
            last: store(LAST),
            to_end: store(TO_END),
        }
    }

    /// The one that is under way.
    pub fn run(&self) -> Loaded<RestoreRun> {
        self.run.look(Ok::<RestoreRun, _>)
    }

    /// How the last one ended.
    pub fn last(&self) -> Option<Last> {
        self.last.look(Ok::<Last, _>).value
    }

    /// The same; a broken one is put aside, and is none.
    pub fn take_up(&self, now: Timestamp) -> Loaded<RestoreRun> {
        self.run.load(now, Ok::<RestoreRun, _>)
    }

    /// Begins one, or notes how far it is.
    pub fn save(&self, run: &RestoreRun) -> Result<(), FsError> {
        self.run.save(run)
    }

    /// Ends it.
    pub fn end(
        &self,
        run: &RestoreRun,
        refused: Option<Fault>,
        now: Timestamp,
    ) -> Result<(), FsError> {
        // Before the other: a power cut in between ends it a second time.
        self.last.save(&Last {
            schema: Last::SCHEMA,
            id: run.id,
            ended_at: now,
            goal: run.goal.clone(),
            refused,
            warnings: run.warnings.clone(),
        })?;
        self.run.forget()?;
        self.to_end.forget()
    }

    /// The one that is under way is to end, if nothing was moved for it yet.
    pub fn ask_to_end(&self, now: Timestamp) -> Result<(), Fault> {
        let what = "no restore is ended";
        let run = self
            .run()
            .value
            .ok_or_else(|| Fault::new(FaultCode::EtcdRestore, what, "none is under way"))?;
        let to_end = ToEnd {
            schema: ToEnd::SCHEMA,
            id: run.id,
            at: now,
        };
        self.to_end
            .save(&to_end)
            .map_err(|e| Fault::new(FaultCode::EtcdRestore, what, chain(&e)).fix("check the disk"))
    }

    /// This one is to end.
    pub fn is_to_end(&self, run: &RestoreRun) -> bool {
        let told = self.to_end.look(Ok::<ToEnd, _>).value;
        told.is_some_and(|to_end| to_end.id == run.id)
    }

    /// What was asked for is lost: none is under way.
    pub fn forget_run(&self) -> Result<(), FsError> {
        self.run.forget()
    }
}

#[cfg(test)]
mod tests;

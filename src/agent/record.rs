//! What the disk keeps of a change of the agent's version: which one was ordered, how far it is, how often it was
//! started.

use serde::{Deserialize, Serialize};

use super::links::Name;
use crate::host::documents::{Document, Store};
use crate::host::fs::HostFs;
use crate::model::{AgentPackage, AgentSpec, Fault, Timestamp, paths};

/// How often one order is started; restarts of the switcher and of the machine count.
pub(super) const ATTEMPTS_MAX: u32 = 3;
/// A record with the longest words is a few KiB.
const RECORD_MAX: u64 = 256 * 1024;
/// Where it is.
const RECORD: &str = "/var/opt/pf9/agent/switch.json";
/// What nodelet was ordered, verified.
const ORDER: &str = "/var/opt/pf9/agent/order.json";

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    /// Everything is staged and was tried. What runs is not touched.
    Ready,
    /// Links and units are changed now.
    Switching,
    /// It is changed, and has to show that it is well.
    Proving,
    /// It is well. `last-good` follows, then the package manager.
    Proven,
    /// It goes back to `last-good`.
    PuttingBack,
    /// It is back.
    PutBack,
    /// Nothing was changed.
    Refused,
}

/// Whether the package manager knows of what runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Database {
    /// It does.
    Agrees,
    /// Not yet.
    Pending {
        /// Why not.
        why: Option<Fault>,
        /// Tries so far.
        attempts: u32,
        /// When it is tried again.
        next_try: Option<Timestamp>,
    },
}

/// One change of the agent's version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Version of this document.
    pub(super) schema: u32,
    /// What was ordered.
    pub(super) order: AgentSpec,
    /// What `last-good` named when it started.
    pub(super) from: Option<Name>,
    /// How far it is.
    pub(super) stage: Stage,
    /// How often the switch was started.
    pub(super) attempts: u32,
    /// The node was well before, so it has to be afterwards.
    pub(super) was_well: bool,
    /// Why it waits, was refused or put back.
    #[serde(default)]
    pub(super) why: Option<Fault>,
    /// When it is looked at again; absent where it is over.
    #[serde(default)]
    pub(super) next_try: Option<Timestamp>,
    /// Whether the package manager knows.
    pub(super) database: Database,
}

/// What nodelet was ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Order {
    /// Version of this document.
    pub(super) schema: u32,
    /// The spec's part.
    pub(super) spec: AgentSpec,
}

impl Document for Record {
    const SCHEMA: u32 = 1;
}

impl Document for Order {
    const SCHEMA: u32 = 1;
}

/// The record's place.
pub(super) fn store(fs: &HostFs) -> Store {
    // World-readable: hostagent and `pf9ctl status` read it, and no secret is in it.
    Store::new(fs.clone(), RECORD, 0o644, RECORD_MAX)
}

/// The order's place.
pub(super) fn order_store(fs: &HostFs) -> Store {
    Store::new(fs.clone(), ORDER, 0o644, RECORD_MAX)
}

/// The record as it is, changing nothing; also the one before a damaged one.
pub(super) fn look(fs: &HostFs) -> Option<Record> {
    store(fs).look(Ok).value
}

impl Record {
    /// A change that is about to start.
    pub(super) fn new(order: AgentSpec, from: Option<Name>) -> Self {
        Self {
            schema: Self::SCHEMA,
            order,
            from,
            stage: Stage::Ready,
            attempts: 0,
            was_well: false,
            why: None,
            next_try: None,
            database: Database::Agrees,
        }
    }

    /// The version that is ordered.
    pub(super) fn target(&self) -> &AgentPackage {
        &self.order.target
    }

    /// The name of its directory.
    pub(super) fn to(&self) -> Name {
        Name::of(&self.order.target.version)
    }

    /// The same, further.
    #[must_use]
    pub(super) fn at(&self, stage: Stage, why: Option<Fault>) -> Self {
        Self {
            stage,
            why,
            next_try: None,
            ..self.clone()
        }
    }
}

/// Where packages lie that were verified, for root.
pub(super) fn package_path(sha256: &str, extension: &str) -> String {
    format!("{}/{sha256}.{extension}", paths::AGENT_STATE)
}

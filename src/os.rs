//! The updates of the machine's own distribution, brought in by its own package manager.
//!
//! ```text
//! nodelet: Run on the disk ─► pf9-os-update.service (root): perform ─► Outcome on the disk ─► nodelet
//! ```
//!
//! In a unit of its own, for two reasons: nodelet's bounds (no new privileges, few capabilities, little memory) are not
//! what maintainer scripts can work in, and a package manager continues when nodelet is restarted. What it does is
//! fixed here: an order names no program, no package and no argument.
//!
//! | file | what |
//! |---|---|
//! | here      | what a run is, what came of it, how one begins |
//! | `perform` | what the unit does, one call after the other |
//! | `apt`, `dnf` | the calls, and how their answers are read: pure |
//! | `words`   | why a call failed: pure |
//!
//! What holds: nothing is removed (by dnf: but what the update of another package takes the place of); a file that a
//! person edited stays; the agent and what has the name of a part of the node stay what they are ([`KEPT`]); what was
//! interrupted is finished before anything else. Everything the package managers say is in one bounded log on the
//! machine. What leaves it is numbers, and reasons in our own words.

mod apt;
mod dnf;
mod perform;
#[cfg(test)]
mod tests;
mod words;

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::host::documents::{Document, Store};
use crate::host::fs::HostFs;
use crate::host::ours::units::OS_UPDATE;
use crate::model::{Fault, OsReport, PackageFormat, RollId, paths};
use crate::telemetry::chain;

pub use perform::perform;

/// Where all that the package managers say is.
pub const LOG: &str = "/var/log/pf9/os-update/packages.log";
/// Packages that stay what they are: the agent's version is the plane's to order, and the parts of a node come with
/// its stack. Another package of the same name is for its owner to change, at a time of their choosing.
const KEPT: [&str; 11] = [
    "pf9-hostagent",
    "containerd",
    "containerd.io",
    "cri-o",
    "cri-tools",
    "etcd",
    "etcd-server",
    "kubeadm",
    "kubelet",
    "kubernetes-cni",
    "runc",
];
/// A run and its outcome are a few lines.
const DOCUMENT_MAX: u64 = 64 * 1024;

/// One run of the package manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsRun {
    /// For which order.
    pub roll: RollId,
    /// What for.
    pub goal: OsGoal,
    /// Which try.
    pub attempt: u32,
    /// Seconds that it may take.
    pub within_s: u32,
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OsGoal {
    /// The newest lists are there, and every package that is going to be installed. Nothing is changed.
    Fetch,
    /// They are installed.
    Install,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OsOutcome {
    /// What was found and done.
    pub report: OsReport,
    /// An earlier run, or a foreign one, was interrupted, and its work has to be finished.
    pub unfinished: bool,
    /// Why it failed, if it did.
    pub fault: Option<Fault>,
}

/// What to do, on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ordered {
    schema: u32,
    run: OsRun,
}

/// Its result, on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ended {
    schema: u32,
    run: OsRun,
    outcome: OsOutcome,
}

impl Document for Ordered {
    const SCHEMA: u32 = 1;
}

impl Document for Ended {
    const SCHEMA: u32 = 1;
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq)]
pub enum OsRunState {
    /// It was not started.
    NotBegun,
    /// The unit is at work.
    UnderWay,
    /// It came to its end.
    Over(OsOutcome),
    /// It was started, and no process is at work: it was interrupted.
    CutOff,
}

fn at(name: &str) -> String {
    format!("{}/{name}", paths::NODELET_STATE)
}

fn ordered(fs: &HostFs) -> Store {
    Store::new(fs.clone(), at("os-update.json"), 0o600, DOCUMENT_MAX)
}

fn ended(fs: &HostFs) -> Store {
    Store::new(
        fs.clone(),
        at("os-update-outcome.json"),
        0o600,
        DOCUMENT_MAX,
    )
}

/// The run that was started last.
pub fn begun(fs: &HostFs) -> Option<OsRun> {
    ordered(fs).look(|o: Ordered| Ok(o.run)).value
}

/// The result of this run, if it ended.
fn outcome(fs: &HostFs, run: &OsRun) -> Option<OsOutcome> {
    let ended = ended(fs).look(Ok::<Ended, _>).value?;
    (ended.run == *run).then_some(ended.outcome)
}

/// How this run stands.
pub async fn standing(host: &Host, run: &OsRun) -> Result<OsRunState, String> {
    if begun(&host.fs).as_ref() != Some(run) {
        return Ok(OsRunState::NotBegun);
    }
    // In this order: one that ends between the two questions has said so.
    let at_work = is_at_work(host).await?;
    Ok(match outcome(&host.fs, run) {
        Some(outcome) => OsRunState::Over(outcome),
        None if at_work => OsRunState::UnderWay,
        None => OsRunState::CutOff,
    })
}

/// Whether the unit is at work, for whichever run.
async fn is_at_work(host: &Host) -> Result<bool, String> {
    use crate::host::units::Active;
    let units = [OS_UPDATE.to_owned()];
    let shown = host.units.show(&units).await.map_err(|e| chain(&e))?;
    Ok(shown.get(OS_UPDATE).is_some_and(|unit| match unit.active {
        Active::Active | Active::Reloading | Active::Activating | Active::Deactivating => true,
        Active::Inactive | Active::Failed | Active::Other => false,
    }))
}

/// Begins a run: it is on the disk before the unit is started. Never beside another one.
pub async fn begin(host: &Host, run: &OsRun) -> Result<(), String> {
    if is_at_work(host).await? {
        return Err(format!("{OS_UPDATE} is still running for an earlier order"));
    }
    let ordered_run = Ordered {
        schema: Ordered::SCHEMA,
        run: run.clone(),
    };
    ordered(&host.fs)
        .save(&ordered_run)
        .map_err(|e| chain(&e))?;
    host.units.start(OS_UPDATE).await.map_err(|e| chain(&e))
}

/// The package manager of a distribution; none where it is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Apt,
    Dnf,
}

impl Manager {
    fn of(os_id: &str) -> Option<Self> {
        Some(match PackageFormat::of_os(os_id)? {
            PackageFormat::Deb => Self::Apt,
            PackageFormat::Rpm => Self::Dnf,
        })
    }

    fn program(self) -> &'static str {
        match self {
            Self::Apt => "apt-get",
            Self::Dnf => "dnf",
        }
    }
}

/// One call of a program of the distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    program: &'static str,
    args: Vec<String>,
    /// Codes that it ends well with.
    good: &'static [i32],
}

impl Call {
    fn new(program: &'static str, args: &[&str]) -> Self {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        Self {
            program,
            args,
            good: &[0],
        }
    }
}

/// What a look at the package manager's lists says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    available: u32,
    security: u32,
    held: u32,
}

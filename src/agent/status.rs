//! A host's report on its agent's version: pure, from what is on its disk.

use semver::Version;

use super::links::{self, Name};
use super::record::{self, Database, Record, Stage};
use crate::host::fs::HostFs;
use crate::model::document::AGENT_VERSION;
use crate::model::{AgentSpec, AgentStage, AgentStatus, Fault, PackageDatabase, paths};

/// Looks at the disk. `ordered`: what the newest spec says; `fetch`: why its package does not come.
pub fn status(fs: &HostFs, ordered: Option<&AgentSpec>, fetch: Option<&Fault>) -> AgentStatus {
    let link = |path| links::read(fs, path);
    let disk = Disk {
        record: record::look(fs),
        current: link(paths::AGENT_CURRENT),
        last_good: link(paths::AGENT_LAST_GOOD),
    };
    of(&disk, running(), ordered, fetch)
}

/// The version of this program.
fn running() -> Version {
    Version::parse(AGENT_VERSION).unwrap_or(Version::new(0, 0, 0))
}

/// Why the package manager does not know, between the proof and the first try.
const SOON: &str = "it is reported next";

/// What is on the disk.
struct Disk {
    record: Option<Record>,
    current: Option<Name>,
    last_good: Option<Name>,
}

fn of(
    disk: &Disk,
    version: Version,
    ordered: Option<&AgentSpec>,
    fetch: Option<&Fault>,
) -> AgentStatus {
    let number = |name: &Option<Name>| Version::parse(&name.as_ref()?.to_string()).ok();
    let mut status = AgentStatus {
        current: number(&disk.current),
        last_good: number(&disk.last_good),
        version: Some(version),
        ..AgentStatus::default()
    };
    if let Some(record) = &disk.record {
        status.stage = stage(record.stage);
        status.wanted = Some(record.target().version.clone());
        status.generation = record.order.generation;
        status.attempts = record.attempts;
        status.why.clone_from(&record.why);
        status.database = match &record.database {
            Database::Agrees => PackageDatabase::Agrees,
            Database::Pending { why, .. } => PackageDatabase::Pending {
                why: why.as_ref().map_or(SOON.to_owned(), |w| w.why.clone()),
            },
        };
    }
    // The record is of an order before, or there is none yet: the package is on its way.
    if let Some(order) = ordered.filter(|o| o.generation > status.generation) {
        status.stage = AgentStage::Fetching;
        status.wanted = Some(order.target.version.clone());
        status.generation = order.generation;
        status.attempts = 0;
        status.why = fetch.cloned();
    }
    status
}

fn stage(stage: Stage) -> AgentStage {
    match stage {
        Stage::Ready => AgentStage::Ready,
        Stage::Switching => AgentStage::Switching,
        // Until it is back, the desired version is unknown.
        Stage::Proving | Stage::PuttingBack => AgentStage::Proving,
        Stage::Proven => AgentStage::Proven,
        Stage::PutBack => AgentStage::PutBack,
        Stage::Refused => AgentStage::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{order, record_at};
    use crate::model::{FaultCode, Generation};

    fn disk(record: Option<Record>) -> Disk {
        let name = Name::of(&Version::new(0, 1, 0));
        Disk {
            record,
            current: Some(name.clone()),
            last_good: Some(name),
        }
    }

    #[test]
    fn an_order_that_no_record_speaks_of_is_being_fetched_and_says_why_it_is_not() {
        let version = Version::new(0, 1, 0);
        let idle = of(&disk(None), version.clone(), None, None);
        assert_eq!(
            (idle.stage, idle.generation),
            (AgentStage::Idle, Generation(0))
        );
        assert_eq!(idle.current, Some(version.clone()));
        let away = Fault::new(FaultCode::PlaneAway, "a", "b");
        let newer = order(2, "0.2.0");
        for record in [None, Some(record_at(Stage::PutBack, 1, "0.1.5"))] {
            let status = of(&disk(record), version.clone(), Some(&newer), Some(&away));
            assert_eq!(status.stage, AgentStage::Fetching);
            assert_eq!((status.generation, status.attempts), (Generation(2), 0));
            assert_eq!(status.wanted, Some(Version::new(0, 2, 0)));
            assert_eq!(status.why, Some(away.clone()));
        }
    }

    #[test]
    fn the_record_is_what_is_said_of_its_order() {
        let version = Version::new(0, 1, 0);
        let mut record = record_at(Stage::Proven, 2, "0.2.0");
        record.database = Database::Pending {
            why: None,
            attempts: 0,
            next_try: None,
        };
        let status = of(&disk(Some(record)), version, Some(&order(2, "0.2.0")), None);
        assert_eq!(status.stage, AgentStage::Proven);
        assert_eq!(
            status.database,
            PackageDatabase::Pending { why: SOON.into() }
        );
    }
}

//! nodelet's part: the order of the signed spec on the disk, for root's unit, and that unit started when there is something to do.

use super::links;
use super::next::is_due;
use super::prepare::{file_for, kept, staged};
use super::record::{Order, Record, look, order_store};
use crate::host::Host;
use crate::host::documents::Document;
use crate::host::fs::HostFs;
use crate::host::ours::units::AGENT_SWITCH;
use crate::model::{AgentSpec, Fault, FaultCode, Timestamp, paths};
use crate::telemetry::chain;

/// Looks what the spec says of the agent's version. The caller has verified it.
pub async fn tend(host: &Host, ordered: Option<&AgentSpec>) -> Result<(), Fault> {
    let record = look(&host.fs);
    if let Some(ordered) = ordered {
        note(&host.fs, ordered)?;
    }
    let had = ordered.is_some_and(|o| is_had(&host.fs, o));
    if !wants_run(record.as_ref(), ordered, had, crate::seam::clock::now())
        || links::read(&host.fs, paths::AGENT_LAST_GOOD).is_none()
    {
        return Ok(());
    }
    host.units.start(AGENT_SWITCH).await.map_err(|e| {
        Fault::new(
            FaultCode::Units,
            "the agent's version is not changed",
            chain(&e),
        )
        .fix("see systemctl status pf9-agent-switch")
    })
}

/// Whether the unit has something to do: pure.
fn wants_run(
    record: Option<&Record>,
    ordered: Option<&AgentSpec>,
    had: bool,
    now: Timestamp,
) -> bool {
    let newer = ordered.is_some_and(|o| record.is_none_or(|r| o.generation > r.order.generation));
    // A newer order waits for its package and for nothing else: what is under way is ended by the unit itself.
    newer && had || record.is_some_and(|r| is_due(r, now))
}

/// The package is there; or there is none for this machine, which the unit says in its words.
fn is_had(fs: &HostFs, order: &AgentSpec) -> bool {
    match file_for(fs, &order.target) {
        Ok(file) => [staged(file), kept(file)]
            .iter()
            .any(|path| fs.at(path).is_file()),
        Err(_) => true,
    }
}

fn note(fs: &HostFs, ordered: &AgentSpec) -> Result<(), Fault> {
    let store = order_store(fs);
    if store.look(|o: Order| Ok(o.spec)).value.as_ref() == Some(ordered) {
        return Ok(());
    }
    let order = Order {
        schema: Order::SCHEMA,
        spec: ordered.clone(),
    };
    store.save(&order).map_err(|e| {
        Fault::new(
            FaultCode::StateIo,
            "the agent's version is not changed",
            chain(&e),
        )
        .fix("check the disk; it is retried automatically")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::record::Stage;
    use crate::agent::testing::{order, record_at};

    #[test]
    fn the_unit_is_started_when_there_is_something_to_do_and_not_else() {
        let now = Timestamp::UNIX_EPOCH;
        let wants = |stage, had| {
            let record = record_at(stage, 1, "0.2.0");
            wants_run(Some(&record), Some(&order(1, "0.2.0")), had, now)
        };
        for stage in [Stage::Ready, Stage::PutBack, Stage::Refused] {
            assert!(!wants(stage, true), "{stage:?}: nothing is tried for ever");
        }
        for stage in [Stage::Switching, Stage::Proving, Stage::PuttingBack] {
            assert!(wants(stage, false), "{stage:?}: who did it is gone");
        }
        let over = record_at(Stage::PutBack, 1, "0.2.0");
        let newer = order(2, "0.2.0");
        assert!(
            !wants_run(Some(&over), Some(&newer), false, now),
            "its package is not there"
        );
        assert!(wants_run(Some(&over), Some(&newer), true, now));
        assert!(wants_run(None, Some(&newer), true, now));
        assert!(!wants_run(None, None, true, now));
        let mut waits = record_at(Stage::Ready, 1, "0.2.0");
        waits.next_try = Some(now + jiff::SignedDuration::from_secs(5));
        assert!(!wants_run(Some(&waits), None, true, now));
        assert!(wants_run(
            Some(&waits),
            None,
            true,
            now + jiff::SignedDuration::from_secs(5)
        ));
        // A clock that was set back.
        assert!(wants_run(
            Some(&waits),
            None,
            true,
            now - jiff::SignedDuration::from_hours(9)
        ));
    }
}

//! Maintenance ordered by the plane: it is in the host's signed spec, and is removed from it when it expires by this
//! plane's clock. The host also measures by its own clock, from when it first got the order: an absent plane makes none
//! last longer.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::events;
use super::records::{HOSTS, Host, Resting};
use super::refusal::{Answer, Refusal};
use super::state::{self, Change, Plane};
use super::store::{Read, Rows};
use pf9_hostagent::model::{
    FaultCode, HostId, MaintenanceOrder, MaintenanceRequest, maintenance_fault,
};

/// How often expired ones are collected: the host does not wait for it.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Orders one, replacing one that is already ordered.
pub(super) fn begin(
    change: &mut Change<'_>,
    id: HostId,
    wanted: &MaintenanceRequest,
) -> Answer<Resting> {
    let what = "the maintenance is not ordered";
    if let Some(why) = maintenance_fault(wanted.for_s, &wanted.reason) {
        return Err(Refusal::bad(FaultCode::MaintenanceInvalid, what, why));
    }
    let mut host = state::host(&**change, id)?;
    let now = change.now;
    let length = SignedDuration::from_secs(wanted.for_s.into());
    let resting = Resting {
        order: MaintenanceOrder {
            id: Uuid::new_v4(),
            for_s: wanted.for_s,
            reason: wanted.reason.clone(),
        },
        ordered_at: now,
        until: now.checked_add(length).unwrap_or(Timestamp::MAX),
    };
    host.maintenance = Some(resting.clone());
    put(change, &host)?;
    let words = format!("until {}: {}", resting.until, wanted.reason);
    events::note(change, id, "maintenance-ordered", &words)?;
    Ok(resting)
}

/// Ends it. Returns whether there was one.
pub(super) fn end(change: &mut Change<'_>, id: HostId) -> Answer<bool> {
    let mut host = state::host(&**change, id)?;
    let was = host.maintenance.take();
    if was.is_some() {
        put(change, &host)?;
        events::note(change, id, "maintenance-withdrawn", "the plane ends it")?;
    }
    Ok(was.is_some())
}

fn put(change: &mut Change<'_>, host: &Host) -> Answer<()> {
    change.put(&HOSTS, &host.id.to_string(), host)?;
    change.touch(host.id);
    Ok(())
}

/// The fields of a host that are read to find expired ones.
#[derive(Deserialize)]
struct Rests {
    id: HostId,
    #[serde(default)]
    maintenance: Option<Resting>,
}

const RESTS: Rows<Rests> = HOSTS.as_type();

/// Expired ones. A clock of this plane that was set back extends none.
fn over(rows: &impl Read, now: Timestamp) -> Answer<Vec<HostId>> {
    let is_over = |r: &Resting| {
        let length = SignedDuration::from_secs(r.order.for_s.into());
        now >= r.until || r.until.duration_since(now) > length
    };
    let hosts = rows.all(&RESTS)?.into_iter();
    let over = hosts.filter(|(_, h)| h.maintenance.as_ref().is_some_and(is_over));
    Ok(over.map(|(_, h)| h.id).collect())
}

fn end_those(change: &mut Change<'_>) -> Answer<()> {
    for id in over(&**change, change.now)? {
        let mut host = state::host(&**change, id)?;
        host.maintenance = None;
        put(change, &host)?;
        events::note(change, id, "maintenance-over", "its time has passed")?;
    }
    Ok(())
}

/// Ends expired ones, until the plane stops.
pub(super) async fn keep(plane: Arc<Plane>) {
    loop {
        // cancel-safe: waits only for time
        tokio::select! {
            () = plane.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let look = async {
            // A write waits for the disk, so none is made when nothing changes.
            match over(&plane.read()?, pf9_hostagent::seam::clock::now())?.is_empty() {
                true => Ok(()),
                false => plane.change(end_those).await,
            }
        };
        if let Err(refusal) = look.await {
            tracing::warn!("a maintenance is not ended: {}", refusal.fault);
        }
    }
}

/// Starts one on the running plane.
pub(super) async fn begin_on(
    plane: &Arc<Plane>,
    host: HostId,
    wanted: MaintenanceRequest,
) -> Answer<Value> {
    let done = plane
        .change(move |change| begin(change, host, &wanted))
        .await?;
    Ok(json!({"host": host, "maintenance": shown(&done)}))
}

/// Ends it on the running plane.
pub(super) async fn end_on(plane: &Arc<Plane>, host: HostId) -> Answer<Value> {
    let ended = plane.change(move |change| end(change, host)).await?;
    Ok(json!({"host": host, "ended": ended}))
}

/// As operators see it.
pub(super) fn shown(resting: &Resting) -> Value {
    json!({
        "reason": resting.order.reason,
        "orderedAt": resting.ordered_at,
        "until": resting.until,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{host, host_row, now};
    use crate::records::tables;
    use crate::store::Store;

    #[test]
    fn maintenance_ends_in_time_and_no_clock_extends_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
        let wanted = MaintenanceRequest {
            for_s: 7200,
            reason: "a disk is replaced".into(),
        };
        let at = |s: i64| now() + SignedDuration::from_secs(s);
        let done: Answer<()> = store.write(|w| {
            w.put(&HOSTS, &host(1).to_string(), &host_row(1, None))?;
            let mut change = Change::new(w, now());
            let endless = MaintenanceRequest {
                for_s: u32::MAX,
                ..wanted.clone()
            };
            assert!(begin(&mut change, host(1), &endless).is_err());
            let first = begin(&mut change, host(1), &wanted)?;
            let second = begin(&mut change, host(1), &wanted)?;
            assert_ne!(
                first.order.id, second.order.id,
                "another order is counted anew"
            );
            assert!(begin(&mut change, host(9), &wanted).is_err(), "nobody");
            Ok(())
        });
        done.expect("written");
        let read = store.read().expect("read");
        for (s, ends) in [(0, false), (7199, false), (7200, true), (-100, true)] {
            let found = over(&read, at(s)).expect("look");
            assert_eq!(!found.is_empty(), ends, "{s}");
        }
        let done: Answer<()> = store.write(|w| {
            end_those(&mut Change::new(w, at(7200)))?;
            let row = w.get(&HOSTS, &host(1).to_string())?;
            assert_eq!(row.expect("row").maintenance, None);
            let mut change = Change::new(w, at(7200));
            assert!(!end(&mut change, host(1))?, "there is none any more");
            Ok(())
        });
        done.expect("written");
    }
}

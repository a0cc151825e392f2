//! The fleet's patch policy and the store: rolls of agents that begin automatically (`patches` decides).
//!
//! It is looked at when a version is imported, when the policy changes, when a roll ends, and once a minute: what held a
//! host may be over with any report, and hosts enrol and return.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::patches::{Fleet, Offer, Seen, decide};
use super::repository::{list, trusted};
use super::{engine, http, runner};
use crate::records::{HOSTS, Host, ReceivedStatus, SPECS, STATUSES};
use crate::refusal::{Answer, Refusal};
use crate::rolls::Patches;
use crate::state::{Change, Plane};
use crate::store::Read;
use crate::{recover, view};
use pf9_hostagent::host::work::brief;
use pf9_hostagent::model::{Fault, Generation};

/// A host that is silent for so long holds up no roll: none of its restarts or updates takes that long.
const GONE: SignedDuration = SignedDuration::from_hours(1);

/// Starts or continues the roll that the policy asks for, if any.
pub(super) fn consider(change: &mut Change<'_>) -> Answer<()> {
    let now = change.now;
    let Some(fleet) = load(&**change, now)? else {
        return Ok(());
    };
    let takes = decide(&fleet, now).takes;
    let Some((roll, parts)) = fleet.begun(takes, now, Uuid::new_v4()) else {
        return Ok(());
    };
    runner::put(change, &roll, &parts)?;
    runner::goes_on(change)
}

/// The look once a minute.
pub(super) async fn look(plane: &Arc<Plane>) -> Answer<()> {
    let now = pf9_hostagent::seam::clock::now();
    let shared = Arc::clone(plane);
    // It reads what every host reported: not on a thread that moves bytes. A write waits for the disk, so none is made
    // when nothing changes.
    let looked = brief(move || -> Answer<bool> {
        let Some(fleet) = load(&shared.read()?, now)? else {
            return Ok(false);
        };
        let takes = decide(&fleet, now).takes;
        Ok(fleet.begun(takes, now, Uuid::nil()).is_some())
    });
    let lost = |e| Refusal::internal("patches of agents are not looked at", &e);
    match looked.await.map_err(lost)?? {
        true => plane.change(consider).await,
        false => Ok(()),
    }
}

/// Why hosts do not take the patches that there are for them, and what to do.
pub(super) fn held(rows: &impl Read, now: Timestamp) -> Answer<Vec<Fault>> {
    let fleet = load(rows, now)?;
    Ok(fleet.map_or_else(Vec::new, |fleet| fleet.faults(&decide(&fleet, now))))
}

/// None: nothing is taken automatically.
fn load(rows: &impl Read, now: Timestamp) -> Answer<Option<Fleet>> {
    let settings = runner::settings(rows)?;
    let releases = list(rows)?;
    if settings.patches == Patches::Off || releases.is_empty() {
        return Ok(None);
    }
    let trust = trusted(rows)?;
    let offers = releases.into_iter().map(|release| Offer {
        mends: release.mends(&trust),
        imported_at: release.imported_at,
        package: release.package,
    });
    let mut hosts = BTreeMap::new();
    for (id, host) in rows.all(&HOSTS)? {
        let said = rows.get(&STATUSES, &id)?;
        let issued = rows.get(&SPECS, &id)?.map(|spec| spec.generation);
        hosts.insert(host.id, seen(&host, said.as_ref(), issued, now));
    }
    let (roll, parts) = runner::load(rows)?;
    Ok(Some(Fleet {
        policy: settings.patches,
        window: settings.window,
        plane: http::of_plane()?,
        offers: offers.collect(),
        hosts,
        roll,
        parts,
    }))
}

fn seen(
    host: &Host,
    said: Option<&ReceivedStatus>,
    issued: Option<Generation>,
    now: Timestamp,
) -> Seen {
    let Some(said) = said else {
        return Seen {
            gone: true,
            pinned: host.agent_pinned,
            ..Seen::default()
        };
    };
    let status = &said.status;
    Seen {
        there: view::is_responding(said, now),
        gone: now.duration_since(said.received_at) >= GONE,
        running: engine::runs(&status.agent, &status.agent_version),
        machine: Some(status.inventory.clone()),
        changing: !status.agent.stage.is_over(),
        pinned: host.agent_pinned,
        ahead: recover::is_ahead(status, issued),
    }
}

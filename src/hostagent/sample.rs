//! Task: what the machine is and how it is, once a minute: a dozen small files of `/proc` and a
//! few `statvfs`.

use std::time::Duration;

use super::spec_store::SpecStore;
use super::{Agent, blocking, health, inventory};
use crate::host::maintenance;

/// A disk does not fill up, and an address does not change, so fast that more is worth its cost.
const EVERY: Duration = Duration::from_secs(60);

pub(super) async fn run(agent: Agent) {
    loop {
        let fs = agent.fs.clone();
        // Beside the event loop: `statvfs` of a dead network file system may hang.
        let (inventory, health) = blocking(move || (inventory::read(&fs), health::read(&fs))).await;
        agent.board.set(|f| &mut f.inventory, inventory);
        agent.board.set(|f| &mut f.health, health);
        ask_nodelet_in_maintenance(&agent).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// Root may have begun a maintenance on a host without a role, where nodelet is not asked for anything else.
async fn ask_nodelet_in_maintenance(agent: &Agent) {
    if agent.board.read(|f| f.nodelet_needed) {
        return;
    }
    let (fs, store) = (agent.fs.clone(), SpecStore::new(agent.fs.clone()));
    let noted = blocking(move || match maintenance::is_noted(&fs) {
        true => store.note_nodelet_needed(true).map(|()| true),
        false => Ok(false),
    });
    match noted.await {
        Ok(true) => agent.board.set(|f| &mut f.nodelet_needed, true),
        Ok(false) => {}
        // Asked again in a minute.
        Err(fault) => tracing::warn!(code = fault.code.word(), "{fault}"),
    }
}

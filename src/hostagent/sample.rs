//! Task: what the machine is and how it is, once a minute: a dozen small files of `/proc` and a
//! few `statvfs`. What it is, also whenever an address changes: a node follows its machine.

use std::time::Duration;

use tokio::time::Instant;

use super::links::{self, Links};
use super::spec_store::SpecStore;
use super::{Agent, blocking, health, inventory};
use crate::host::address_changes::AddressChanges;
use crate::host::maintenance;
use crate::host::room;
use crate::telemetry::chain;

/// A disk does not fill up so fast that more is worth its cost.
const EVERY: Duration = Duration::from_secs(60);
/// What changes together is looked at once: a lease brings a route after its address, and pods that start have addresses
/// of their own.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) async fn run(agent: Agent) {
    let mut changes = AddressChanges::listen()
        .inspect_err(|error| {
            tracing::warn!(%error, "the kernel sends no address notifications; addresses are read once a minute");
        })
        .ok();
    let mut links = Links::default();
    loop {
        let next = Instant::now() + EVERY;
        let fs = agent.fs.clone();
        // Beside the event loop: `statvfs` of a dead network file system may hang.
        let (inventory, states, mut health) = blocking(move || {
            if let Err(e) = room::keep(&fs) {
                // Seen again in a minute; what is wrong with the disk is said by what needs it.
                tracing::debug!(error = chain(&e), "there is no reserve of disk space");
            }
            let inventory = inventory::read(&fs);
            let states = links::states(&fs, &inventory.interfaces);
            (inventory, states, health::read(&fs))
        })
        .await;
        health.link_changes = links.see(states, agent.now());
        agent.board.set(|f| &mut f.inventory, inventory);
        agent.board.set(|f| &mut f.health, health);
        ask_nodelet_in_maintenance(&agent).await;
        while changed_before(next, &mut changes).await {
            let fs = agent.fs.clone();
            let (inventory, states) = blocking(move || {
                let inventory = inventory::read(&fs);
                let states = links::states(&fs, &inventory.interfaces);
                (inventory, states)
            })
            .await;
            let seen = links.see(states, agent.now());
            agent.board.set(|f| &mut f.inventory, inventory);
            agent.board.set(|f| &mut f.health.link_changes, seen);
        }
    }
}

/// Waits for an address that changes, or until then.
async fn changed_before(next: Instant, changes: &mut Option<AddressChanges>) -> bool {
    let change = async {
        match changes {
            Some(changes) => changes.next().await,
            None => std::future::pending().await,
        }
    };
    match tokio::time::timeout_at(next, change).await {
        Ok(Ok(())) => {
            tokio::time::sleep(SETTLE).await;
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the kernel stopped sending address notifications; addresses are read once a minute");
            *changes = None;
            tokio::time::sleep_until(next).await;
            false
        }
        Err(_) => false,
    }
}

/// Root may have started a maintenance on a host without a role, where nodelet is not asked for anything else.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::address_changes::tests::{in_a_network, ip};

    /// A node whose machine has a new address is unreachable until the host looks.
    #[tokio::test]
    async fn an_address_that_changes_is_looked_at_before_the_minute_is_over() {
        let test = "hostagent::sample::tests::an_address_that_changes_is_looked_at_before_the_minute_is_over";
        if !in_a_network(test) {
            return;
        }
        let mut changes = AddressChanges::listen().ok();
        let next = Instant::now() + EVERY;
        ip("addr add 10.9.0.1/24 dev lo");
        assert!(changed_before(next, &mut changes).await);
        assert!(Instant::now() < next);
        assert!(!changed_before(Instant::now(), &mut changes).await);
        // Where the kernel does not tell, the minute is what there is.
        assert!(!changed_before(Instant::now(), &mut None).await);
    }
}

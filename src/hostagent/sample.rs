//! Task: what the machine is and how it is, once a minute: a dozen small files of `/proc` and a
//! few `statvfs`.

use std::time::Duration;

use super::{Agent, blocking, health, inventory};

/// A disk does not fill up, and an address does not change, so fast that more is worth its cost.
const EVERY: Duration = Duration::from_secs(60);

pub(super) async fn run(agent: Agent) {
    loop {
        let fs = agent.fs.clone();
        // Beside the event loop: `statvfs` of a dead network file system may hang.
        let (inventory, health) = blocking(move || (inventory::read(&fs), health::read(&fs))).await;
        agent.board.set(|f| &mut f.inventory, inventory);
        agent.board.set(|f| &mut f.health, health);
        tokio::time::sleep(EVERY).await;
    }
}

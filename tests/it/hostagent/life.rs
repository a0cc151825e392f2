//! A host in simulated time: its clocks stand until a test moves them.

use std::time::Duration;

use pf9_hostagent::model::{Generation, NodeState, Role, StackRef};

use super::fixture::Bed;
use crate::soak::Simulated;

/// What is on its way has come within this many turns of the loop; each is a question and an answer over a socket.
const TURNS: u32 = 10_000;

pub(super) struct Life {
    pub(super) bed: Bed,
    pub(super) stack: StackRef,
    pub(super) clock: Simulated,
}

impl Life {
    /// So much later.
    pub(super) async fn goes(&mut self, by: Duration) {
        self.clock.goes(by);
        tokio::time::advance(by).await;
    }

    /// Until it is so: what is on its way arrives, and what waits for a second has it.
    pub(super) async fn until(&mut self, what: &str, so: impl Fn(&Bed) -> bool) {
        for turn in 1..=TURNS {
            if so(&self.bed) {
                return;
            }
            self.bed.local_status().await;
            if turn % 10 == 0 {
                self.goes(Duration::from_secs(1)).await;
            }
        }
        let last = self.bed.plane.read(|p| p.statuses.last().cloned());
        panic!("{what} never comes; the last status: {last:#?}");
    }

    /// A newer one: the plane has it, then nodelet, and the node is as it says.
    pub(super) async fn spec(&mut self, generation: u64) {
        let spec = self.bed.sign(generation, self.bed.worker(&self.stack));
        self.bed.plane.offer(spec.clone());
        self.until("the spec", |bed| {
            bed.node.read(|n| n.specs.last() == Some(&spec))
        })
        .await;
        self.bed.node.say(|s| {
            s.generation = Generation(generation);
            s.role = Role::Worker;
        });
    }

    /// The node is in this state, and the plane hears of it.
    pub(super) async fn says(&mut self, state: NodeState) {
        self.bed.node.say(|s| s.state = state);
        let so = |bed: &Bed| bed.plane.read(|p| p.last_state() == Some(state));
        self.until("the state", so).await;
    }
}

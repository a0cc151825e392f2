//! Weeks of documents, on a simulated clock: a status each period, and each day a new spec, a state that changes, an
//! order; each week a plane that is away for hours.

use std::time::Duration;

use pf9_hostagent::host::fs::HostFs;
use pf9_hostagent::model::{NodeState, OperationKind};

use super::fixture::Bed;
use super::life::Life;
use crate::soak::{Length, Simulated, Soak, alone, loud, simulated};

impl Life {
    /// A status period, and its document.
    async fn step(&mut self, by: Duration) {
        self.bed.plane.forget();
        self.goes(by).await;
        self.until("a status", |bed| bed.plane.read(|p| !p.statuses.is_empty()))
            .await;
    }

    async fn day(&mut self, day: u32, soak: &mut Soak, length: &Length) {
        for _ in 0..length.steps {
            self.step(length.step()).await;
        }
        let generation = u64::from(day) + 2;
        self.spec(generation).await;
        self.says(NodeState::Retrying).await;
        self.says(NodeState::Ok).await;
        let order = self.bed.operation(generation, OperationKind::Ping);
        self.bed.plane.change(|p| p.pending.push(order));
        let answered = |bed: &Bed| bed.plane.read(|p| p.pending.is_empty());
        self.until("the result", answered).await;
        if day % 7 == 6 {
            self.without_a_plane().await;
        }
        self.until("the events", |bed| bed.spooled() == 0).await;
        self.bed.node.change(|n| {
            n.specs.clear();
            n.signed.clear();
            n.operations.clear();
        });
        self.bed.plane.forget();
        soak.look();
    }

    /// Events wait on the disk, and go when it is back.
    async fn without_a_plane(&mut self) {
        self.until("all of before", |bed| bed.spooled() == 0).await;
        self.bed.plane.forget();
        self.bed.plane.go_away();
        let before = self.bed.spooled();
        for (n, state) in [NodeState::Retrying, NodeState::Converging, NodeState::Ok]
            .into_iter()
            .enumerate()
        {
            self.bed.node.say(|s| s.state = state);
            self.until("an event on disk", |bed| bed.spooled() > before + n)
                .await;
            self.goes(Duration::from_secs(3600)).await;
        }
        self.bed.plane.come_back().await;
        self.until("the plane", |bed| {
            bed.plane
                .read(|p| p.events.len() > 2 && !p.statuses.is_empty())
        })
        .await;
    }
}

#[test]
fn documents_take_after_weeks_what_a_week_takes() {
    if !alone("hostagent::soak::documents_take_after_weeks_what_a_week_takes") {
        return;
    }
    let length = Length::told();
    simulated(async {
        let clock = Simulated::begin();
        let dir = tempfile::tempdir().expect("tempdir");
        let logs = loud(&HostFs::new(dir.path()), "pf9-hostagent");
        let bed = Bed::at(dir);
        let stack = bed.publish("1.37.2-1", 1000);
        bed.install(&stack);
        let agent = bed.start().await;
        let mut life = Life { bed, stack, clock };
        life.spec(1).await;
        let mut soak = Soak::of("documents", &life.bed.fs, logs);
        for day in 0..length.days {
            soak.day_begins();
            life.day(day, &mut soak, &length).await;
        }
        agent.stop().await;
        soak.judge();
    });
}

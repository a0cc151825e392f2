//! A stack that the node has to stage beside its own.

use pf9_hostagent::model::{
    Assignment, Event, Generation, NodeState, RollId, Timestamp, UpgradeOrder, UpgradeStage,
    UpgradeState, UpgradeStatus,
};
use pf9_hostagent::stack;

use super::fixture::Bed;
use super::plane::PlaneSide;

/// It is fetched when the node reports that it lacks it, after the node's own; each change is an event.
#[tokio::test]
async fn the_stack_of_a_roll_is_fetched_beside_the_nodes_own() {
    let bed = Bed::new();
    let (own, other) = (bed.publish("1", 1_000), bed.publish("2", 2_000));
    let order = UpgradeOrder {
        roll: RollId(uuid::Uuid::from_u128(1)),
        stage: UpgradeStage::Prepare,
        stack: other.clone(),
        drain: Default::default(),
        prove_s: 300,
        probe: false,
        os: None,
    };
    let mut wanted = bed.worker(&own);
    if let Assignment::Worker(node) = &mut wanted {
        node.upgrade = Some(order.clone());
    }
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, wanted));
    let staged = async |n: usize| {
        let all = |p: &PlaneSide| {
            let of = |e: &&Event| e.kind == "stack-staged";
            (p.events.iter().filter(of).count() == n).then_some(())
        };
        bed.plane.until(all).await;
    };
    staged(1).await;
    let [first, second] = [&own, &other].map(|s| bed.fs.at(stack::staged_archive(&s.manifest)));
    assert!(first.exists() && !second.exists());
    bed.node.until(|n| n.specs.first().map(drop)).await;
    let says = |state| {
        bed.node.say(|s| {
            s.generation = Generation(1);
            s.state = NodeState::Ok;
            s.stack = Some(own.clone());
            s.wants_stack = (state == UpgradeState::Fetching).then(|| other.clone());
            s.upgrade = Some(UpgradeStatus {
                roll: order.roll,
                stage: order.stage,
                stack: order.stack.clone(),
                state,
                attempts: 1,
                fault: None,
                since: Timestamp::UNIX_EPOCH,
                os: None,
            });
        });
    };
    says(UpgradeState::Fetching);
    staged(2).await;
    assert!(second.exists());
    says(UpgradeState::Ready);
    bed.plane
        .until(|p| p.event("upgrade-ready").map(drop))
        .await;
}

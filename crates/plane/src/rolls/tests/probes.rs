//! For which nodes there is a probe pod, and when.

use super::*;

#[test]
fn a_probe_pod_is_for_a_node_that_proves_itself_and_for_no_other() {
    let mut world = World::new(1, 1, "1", 0);
    let asks = |world: &mut World, probe| {
        world.cluster.roll.as_mut().expect("roll").policy.probe = probe;
        has_probes(&world.cluster)
    };
    assert!(!asks(&mut world, false));
    assert!(asks(&mut world, true));
    let mut seen = Vec::new();
    for _ in 0..200 {
        for i in 0..world.agents.len() {
            world.happens(Event::Work(i));
            world.happens(Event::Report(i));
        }
        for order in [1, 2].map(|n| order(&world.cluster, host(n))) {
            let probe = order.as_ref().is_some_and(|o| o.probe);
            let of_node = order.is_some_and(|o| o.stage == UpgradeStage::Node);
            assert_eq!(probe, of_node);
        }
        let nodes = probed(&world.cluster).into_iter();
        seen.push(
            nodes
                .map(|(node, stack)| format!("{node} {}", number(&stack)))
                .collect::<Vec<_>>(),
        );
    }
    seen.dedup();
    let one = |text: &str| vec![text.to_owned()];
    let want = [vec![], one("node-1 2"), vec![], one("node-2 2"), vec![]];
    assert_eq!(seen, want, "etcd alone is proven by its own answers");
    let roll = world.cluster.roll.as_mut().expect("roll");
    assert_eq!(roll.state, State::Done);
    // The next one asks for none: that of the last node is still looked for.
    (roll.policy.probe, roll.probed) = (false, true);
    assert!(has_probes(&world.cluster));
}

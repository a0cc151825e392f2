//! Which phases of a plan are running. Pure: it takes what ended, and returns what may start.
//!
//! A phase begins when every phase of the plan that it waits for is done; what is not in the plan is as it
//! should be. Of phases that may begin the one with the smallest number is first. A phase that fails, or is
//! left, holds those that wait for it; the others go to their end.

use std::collections::BTreeSet;

use crate::model::PhaseId;
use crate::nodelet::phase::PhaseOrder;

/// The rest of a plan, by phases.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    order: PhaseOrder,
    waiting: BTreeSet<PhaseId>,
    /// Begun and not done: at work, failed or left.
    open: BTreeSet<PhaseId>,
}

impl Schedule {
    /// All of these are still to be done.
    pub(super) fn of(phases: impl IntoIterator<Item = PhaseId>, order: PhaseOrder) -> Self {
        Self {
            order,
            waiting: phases.into_iter().collect(),
            open: BTreeSet::new(),
        }
    }

    /// Takes what may begin now, the smallest number first.
    pub(super) fn begin(&mut self) -> Vec<PhaseId> {
        let held = |phase: &PhaseId| {
            let mut undone = self.waiting.iter().chain(&self.open);
            undone.any(|other| self.order.waits_for(*phase, *other))
        };
        let may: Vec<PhaseId> = self.waiting.iter().copied().filter(|p| !held(p)).collect();
        for phase in &may {
            self.waiting.remove(phase);
            self.open.insert(*phase);
        }
        may
    }

    /// Every step of this phase is as it should be.
    pub(super) fn done(&mut self, phase: PhaseId) {
        self.open.remove(&phase);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Works through phases: of those at work the one that `pick` says ends next, and fails when it is in
    /// `fails`. Answers in which order they began and ended.
    fn work(
        phases: &BTreeSet<PhaseId>,
        order: PhaseOrder,
        fails: &BTreeSet<PhaseId>,
        pick: &mut dyn FnMut(usize) -> usize,
    ) -> Vec<(PhaseId, bool)> {
        let mut schedule = Schedule::of(phases.iter().copied(), order);
        let (mut at_work, mut story) = (Vec::new(), Vec::new());
        loop {
            let begun = schedule.begin();
            assert!(begun.is_sorted(), "the smallest number first: {begun:?}");
            assert_eq!(schedule.begin(), [], "each is begun once");
            for phase in begun {
                at_work.push(phase);
                story.push((phase, false));
            }
            if at_work.is_empty() {
                return story;
            }
            let phase = at_work.remove(pick(at_work.len()));
            if !fails.contains(&phase) {
                schedule.done(phase);
                story.push((phase, true));
            }
        }
    }

    fn some_phases() -> impl Strategy<Value = BTreeSet<PhaseId>> {
        proptest::collection::btree_set(proptest::sample::select(PhaseId::ALL), 0..19)
    }

    fn an_order() -> impl Strategy<Value = PhaseOrder> {
        prop_oneof![Just(PhaseOrder::First), Just(PhaseOrder::Kept)]
    }

    proptest! {
        #[test]
        fn nothing_begins_before_what_it_waits_for_is_done(
            phases in some_phases(), order in an_order(), picks in proptest::collection::vec(0usize..19, 19),
        ) {
            let mut picks = picks.into_iter();
            let mut pick = |n: usize| picks.next().unwrap_or(0) % n;
            let story = work(&phases, order, &BTreeSet::new(), &mut pick);
            for (at, (phase, done)) in story.iter().enumerate() {
                for other in phases.iter().filter(|o| !done && order.waits_for(*phase, **o)) {
                    prop_assert!(story[..at].contains(&(*other, true)), "{phase} before {other}");
                }
            }
            let ended: BTreeSet<PhaseId> = story.iter().filter(|s| s.1).map(|s| s.0).collect();
            prop_assert_eq!(ended, phases, "each is done");
        }

        #[test]
        fn one_that_fails_stops_what_waits_for_it_and_nothing_else(
            phases in some_phases(), fails in some_phases(), order in an_order(),
            picks in proptest::collection::vec(0usize..19, 19),
        ) {
            let mut picks = picks.into_iter();
            let mut pick = |n: usize| picks.next().unwrap_or(0) % n;
            let story = work(&phases, order, &fails, &mut pick);
            for phase in &phases {
                let stopped = phases.iter().any(|o| fails.contains(o) && order.waits_for(*phase, *o));
                prop_assert_eq!(story.contains(&(*phase, false)), !stopped, "{}", phase);
            }
        }

        #[test]
        fn one_after_the_other_is_one_of_the_ways(phases in some_phases(), order in an_order()) {
            let mut done = BTreeSet::new();
            for phase in &phases {
                let missing = phases.iter().find(|o| order.waits_for(*phase, **o) && !done.contains(*o));
                prop_assert_eq!(missing, None);
                done.insert(phase);
            }
        }
    }
}

//! What a new roll keeps of the ones before it, and what a person decided by them. Pure.
//!
//! A patch for a few hosts takes nothing from the others: each host that an earlier roll changed keeps its part, and so
//! its way back (`pf9-plane agent upgrade back --hosts`); an operator's order for a host that is away stays as well.

use uuid::Uuid;

use super::{AgentRoll, Declined, Part, Parts, Stand};
use crate::rolls::{By, State, Way};

/// The parts that stay beside those of the roll `next`, whose own ones replace them.
pub(super) fn kept(before: Option<&AgentRoll>, had: &Parts, next: Uuid, by: By) -> Parts {
    let Some(before) = before else {
        return Parts::new();
    };
    let mut kept = Parts::new();
    // An operator's new roll ends the one before it; the policy's lets it finish.
    let finishes = by == By::PatchPolicy && before.state == State::Running;
    for (host, part) in had {
        let mut part = part.clone();
        let past = part.is_past(before);
        if part.roll.is_nil() {
            part.roll = before.id;
        }
        let stays = match part.stand {
            Stand::Done => past || (part.told_at.is_some() && before.way == Way::Forward),
            Stand::Told => finishes,
            Stand::Waiting => {
                part.roll = next;
                part.at_once |= before.policy.any_time;
                finishes && part.by == By::Operator
            }
            Stand::Failed | Stand::Late | Stand::LeftOut => false,
        };
        if stays {
            kept.insert(*host, part);
        }
    }
    kept
}

impl Part {
    /// It is of a roll before this one: what its host would go back to.
    pub(super) fn is_past(&self, roll: &AgentRoll) -> bool {
        self.stand == Stand::Done && !self.roll.is_nil() && self.roll != roll.id
    }
}

impl AgentRoll {
    /// What a person has declined for the fleet by now. Who named single hosts has said nothing about the others.
    pub(super) fn decided(&self) -> Option<Declined> {
        let all = |until| Declined { until, above: None };
        let chosen = Declined {
            until: self.began_at,
            above: Some(self.to.clone()),
        };
        match (self.state, self.way, self.by) {
            _ if self.named => self.declined.clone(),
            (State::Cancelled, _, _) => Some(all(self.ended_at.unwrap_or(self.began_at))),
            (_, Way::Back, _) => Some(all(self.began_at)),
            (_, Way::Forward, By::Operator) => Some(chosen),
            (_, Way::Forward, By::PatchPolicy) => self.declined.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::tests::{roll, v};
    use crate::compute::tests::{host, now};

    fn done(told: bool) -> Part {
        Part {
            stand: Stand::Done,
            told_at: told.then(now),
            done_at: Some(now()),
            ..Part::new(Some(v("0.1.0")), v("0.1.1"))
        }
    }

    fn of(state: State, by: By) -> AgentRoll {
        AgentRoll {
            id: Uuid::from_u128(1),
            state,
            by,
            ..roll("0.1.1", &[100])
        }
    }

    /// A patch for one host must not take the way back of a hundred others along.
    #[test]
    fn hosts_that_an_earlier_roll_changed_keep_their_way_back() {
        let before = of(State::Done, By::Operator);
        let had = Parts::from([(host(1), done(true)), (host(2), done(false))]);
        let next = AgentRoll {
            id: Uuid::from_u128(2),
            ..of(State::Running, By::PatchPolicy)
        };
        let kept_now = kept(Some(&before), &had, next.id, By::PatchPolicy);
        let hosts: Vec<_> = kept_now.keys().copied().collect();
        assert_eq!(hosts, [host(1)], "nobody changed the other one");
        assert!(kept_now[&host(1)].is_past(&next));
        assert!(!had[&host(1)].is_past(&before));
        // And over the roll after that one.
        let after = kept(Some(&next), &kept_now, Uuid::from_u128(3), By::Operator);
        assert_eq!(after, kept_now);
        let back = AgentRoll {
            way: Way::Back,
            ..before
        };
        let none = kept(Some(&back), &had, next.id, By::PatchPolicy);
        assert_eq!(none, Parts::new(), "back from going back is no way");
    }

    #[test]
    fn an_operators_order_for_an_absent_host_outlives_the_policys_roll() {
        let waiting = |by| Part {
            by,
            ..Part::new(Some(v("0.1.0")), v("0.2.0"))
        };
        let told = Part {
            stand: Stand::Told,
            told_at: Some(now()),
            ..waiting(By::PatchPolicy)
        };
        let had = Parts::from([
            (host(1), waiting(By::Operator)),
            (host(2), waiting(By::PatchPolicy)),
            (host(3), told),
        ]);
        let next = Uuid::from_u128(2);
        let hosts = |state, by| {
            let kept = kept(Some(&of(state, By::Operator)), &had, next, by);
            kept.into_keys().collect::<Vec<_>>()
        };
        let policy = By::PatchPolicy;
        assert_eq!(hosts(State::Running, policy), [host(1), host(3)]);
        assert_eq!(hosts(State::Cancelled, policy), []);
        assert_eq!(hosts(State::Running, By::Operator), []);
        let kept = kept(Some(&of(State::Running, By::Operator)), &had, next, policy);
        assert_eq!(kept[&host(1)].roll, next, "it is told in the new roll");
    }

    #[test]
    fn what_a_person_decided_is_remembered() {
        let decided = |roll: AgentRoll| roll.decided();
        let policy = || of(State::Running, By::PatchPolicy);
        assert_eq!(decided(policy()), None);
        let cancelled = AgentRoll {
            state: State::Cancelled,
            ended_at: Some(now()),
            ..policy()
        };
        let all = Declined {
            until: now(),
            above: None,
        };
        assert_eq!(decided(cancelled.clone()), Some(all.clone()));
        let back = AgentRoll {
            way: Way::Back,
            ..of(State::Done, By::Operator)
        };
        assert_eq!(decided(back), Some(all.clone()));
        let chosen = decided(of(State::Done, By::Operator)).expect("decided");
        assert_eq!(chosen.above, Some(v("0.1.1")), "older ones are no question");
        let named = AgentRoll {
            named: true,
            declined: Some(all.clone()),
            ..of(State::Cancelled, By::Operator)
        };
        assert_eq!(decided(named), Some(all.clone()), "not about the fleet");
        let later = AgentRoll {
            declined: cancelled.decided(),
            ..policy()
        };
        assert_eq!(decided(later), Some(all), "over the policy's own rolls");
    }
}

//! What the plane orders: pure. Its order is in the spec until every master has followed it, so it is
//! looked at in every round; each master follows it once.

use super::{By, Last, RestoreGoal, RestoreRun, Source, State};
use crate::model::{NodeSpec, RestoreOrder, RestoreState, RestoreStatus, Timestamp};

/// What an order comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Ordered {
    /// It asks for nothing, or it is in progress.
    Nothing,
    /// This begins.
    Begin(Box<RestoreRun>),
    /// What is under way is wanted by the plane no more.
    End,
}

/// What the order comes to on this master.
pub fn ordered(
    node: &NodeSpec,
    under_way: Option<&RestoreRun>,
    last: Option<&Last>,
    now: Timestamp,
) -> Ordered {
    let own = node.host_id;
    let order = node.etcd.restore.as_ref();
    let order = order.filter(|order| order.masters.contains(&own));
    if let Some(run) = under_way {
        let wanted = order.is_some_and(|order| order.id == run.id);
        return match run.by {
            // Root is at the machine, and knows.
            By::Root => Ordered::Nothing,
            By::Plane if wanted => Ordered::Nothing,
            By::Plane => Ordered::End,
        };
    }
    let Some(order) = order.filter(|order| last.is_none_or(|last| last.id != order.id)) else {
        return Ordered::Nothing;
    };
    let goal = if order.founder == own {
        RestoreGoal::Restored(source(order))
    } else if order.go {
        RestoreGoal::Rejoined
    } else {
        return Ordered::Nothing;
    };
    Ordered::Begin(Box::new(RestoreRun::asked(
        order.id,
        By::Plane,
        node.cluster_id,
        goal,
        now,
    )))
}

/// Whether programs may be stopped for it: the plane says so once the new data are made, for then the
/// other masters' are reported as well.
pub fn may_go(run: &RestoreRun, order: Option<&RestoreOrder>) -> bool {
    match run.by {
        By::Root => true,
        By::Plane => order.is_some_and(|order| order.id == run.id && order.go),
    }
}

fn source(order: &RestoreOrder) -> Source {
    Source {
        file: order.snapshot.clone(),
        recovery_key: order.recovery_key.clone(),
        any_cluster: order.any_cluster,
        signers: None,
        unsigned: order.unsigned,
    }
}

/// What is said of it.
pub fn status(run: Option<&RestoreRun>, last: Option<&Last>) -> Option<RestoreStatus> {
    let of_run = |run: &RestoreRun| RestoreStatus {
        id: run.id,
        state: match (&run.goal, run.state) {
            (RestoreGoal::Restored(_), State::Asked) => RestoreState::Asked,
            (RestoreGoal::Restored(_), State::Ready) => RestoreState::Ready,
            (RestoreGoal::Restored(_), State::Placing) => RestoreState::Moving,
            (RestoreGoal::Rejoined, State::Asked | State::Ready | State::Placing) => {
                RestoreState::Moving
            }
        },
        fault: None,
        warnings: run.warnings.clone(),
    };
    let of_last = |last: &Last| RestoreStatus {
        id: last.id,
        state: match &last.refused {
            None => RestoreState::Done,
            Some(_) => RestoreState::Refused,
        },
        fault: last.refused.clone(),
        warnings: last.warnings.clone(),
    };
    run.map(of_run).or_else(|| last.map(of_last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClusterId, HostId};
    use crate::nodelet::testing::{Cas, host_id, node};
    use uuid::Uuid;

    fn order(id: u128, founder: HostId, go: bool) -> RestoreOrder {
        RestoreOrder {
            id: Uuid::from_u128(id),
            founder,
            masters: vec![host_id(), other()],
            snapshot: "20261128T143000Z-r7".into(),
            recovery_key: None,
            any_cluster: false,
            unsigned: false,
            go,
        }
    }

    fn other() -> HostId {
        HostId(Uuid::from_u128(2))
    }

    fn said(
        order: Option<&RestoreOrder>,
        run: Option<&RestoreRun>,
        last: Option<&Last>,
    ) -> Ordered {
        let mut node = node(Cas::new().authorities);
        node.etcd.restore = order.cloned();
        ordered(&node, run, last, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_founder_begins_at_once_and_the_others_when_its_data_are_made() {
        let Ordered::Begin(run) = said(Some(&order(1, host_id(), false)), None, None) else {
            panic!("the founder begins");
        };
        let RestoreGoal::Restored(source) = &run.goal else {
            panic!("it makes the data");
        };
        assert_eq!(source.file, "20261128T143000Z-r7");
        assert!(!may_go(&run, Some(&order(1, host_id(), false))));
        assert!(may_go(&run, Some(&order(1, host_id(), true))));
        assert!(
            !may_go(&run, Some(&order(2, host_id(), true))),
            "another one"
        );
        let waits = said(Some(&order(1, other(), false)), None, None);
        assert_eq!(waits, Ordered::Nothing);
        let Ordered::Begin(run) = said(Some(&order(1, other(), true)), None, None) else {
            panic!("it joins");
        };
        assert_eq!(run.goal, RestoreGoal::Rejoined);
        let mut older = order(1, host_id(), true);
        older.masters = vec![other()];
        assert_eq!(
            said(Some(&older), None, None),
            Ordered::Nothing,
            "not of that time"
        );
    }

    #[test]
    fn an_order_is_followed_once_and_ends_what_it_does_not_speak_of() {
        let now = Timestamp::UNIX_EPOCH;
        let first = order(1, other(), true);
        let run = RestoreRun::asked(
            first.id,
            By::Plane,
            ClusterId(first.id),
            RestoreGoal::Rejoined,
            now,
        );
        assert_eq!(said(Some(&first), Some(&run), None), Ordered::Nothing);
        assert_eq!(said(None, Some(&run), None), Ordered::End);
        assert_eq!(
            said(Some(&order(2, other(), true)), Some(&run), None),
            Ordered::End
        );
        let roots = RestoreRun::asked(
            Uuid::from_u128(9),
            By::Root,
            ClusterId(first.id),
            RestoreGoal::Rejoined,
            now,
        );
        assert_eq!(said(Some(&first), Some(&roots), None), Ordered::Nothing);
        let last = Last {
            schema: 1,
            id: first.id,
            ended_at: now,
            goal: RestoreGoal::Rejoined,
            refused: None,
            warnings: Vec::new(),
        };
        assert_eq!(said(Some(&first), None, Some(&last)), Ordered::Nothing);
        assert!(matches!(
            said(Some(&order(2, other(), true)), None, Some(&last)),
            Ordered::Begin(_)
        ));
        let told = status(None, Some(&last)).expect("status");
        assert_eq!(told.state, RestoreState::Done);
    }
}

//! What comes next in a restore: pure, from what is on the disk and what was seen of the machine.

use super::{RestoreGoal, RestoreRun, State};

/// What a restore does to a machine. Closed: a reviewer reads this and knows every effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The manifests of the control plane go, and what runs by them ends. Phases write them again,
    /// after etcd is healthy.
    StopControlPlane,
    /// etcd stops, and does not start at boot. Phases enable and start it again.
    StopEtcd,
    /// The old data get the name that says since when they are old.
    PutAside,
    /// It is noted that the new data are about to get their place.
    NotePlacing,
    /// The new data get their place.
    Place,
    /// What was known of the old cluster's member is forgotten, and the restore ends.
    End,
}

/// What was seen of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreSeen {
    /// The control plane runs, or will when kubelet looks.
    pub control_plane: bool,
    /// etcd runs, or will after a boot.
    pub etcd: bool,
    /// There are data at their place.
    pub member: bool,
    /// This restore has put data aside.
    pub aside: bool,
    /// The new data are whole, and not at their place yet.
    pub fresh: bool,
    /// Masters whose etcd still runs with the old data, as text.
    pub others: Vec<String>,
    /// The order was withdrawn.
    pub withdrawn: bool,
    /// Programs may be stopped for it.
    pub may_go: bool,
    /// A master whose etcd answers and does not count this one: the restored one.
    pub restored_one: bool,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The snapshot is checked and the new data are made. Nothing was changed yet.
    Prepare,
    /// This is done.
    Do(Stage),
    /// It ends: it was cancelled, and nothing was moved.
    Withdraw,
    /// Something from elsewhere is missing, as text.
    Wait(String),
    /// A person has to look: why, and what helps.
    Stuck(&'static str, &'static str),
}

/// What comes next. Whatever was interrupted, the answer is safe to be done again.
pub fn next(run: &RestoreRun, seen: &RestoreSeen) -> Next {
    let next = match (&run.goal, run.state) {
        (RestoreGoal::Restored(_), State::Asked) => Next::Prepare,
        (RestoreGoal::Restored(_), State::Ready) => ready(seen),
        (RestoreGoal::Restored(_), State::Placing) => placing(seen),
        (RestoreGoal::Rejoined, State::Asked | State::Ready | State::Placing) => rejoining(seen),
    };
    let nothing_moved = !seen.aside && run.state != State::Placing;
    // One that cannot go on ends as well: the phase that starts etcd sees which data there are.
    let may_end = nothing_moved || matches!(next, Next::Stuck(..));
    if seen.withdrawn && may_end {
        Next::Withdraw
    } else {
        next
    }
}

fn ready(seen: &RestoreSeen) -> Next {
    if !seen.fresh {
        return Next::Stuck(
            "the new data that were prepared are gone",
            "pf9ctl etcd restore --withdraw, then restore again; the previous data are where they \
             were, or in the newest before-… directory beside them",
        );
    }
    if !seen.may_go {
        return Next::Wait(
            "the plane to notify the other masters; the new data are prepared, and nothing was stopped"
                .into(),
        );
    }
    // Two clusters with one name would be worse than none: API servers ask the etcd beside them.
    if !seen.others.is_empty() {
        return Next::Wait(format!(
            "etcd to stop on {}: it still runs the old cluster there (pf9ctl etcd rejoin on that \
             master stops it)",
            seen.others.join(", ")
        ));
    }
    if let Some(stop) = stopped(seen) {
        return stop;
    }
    match (seen.member, seen.aside) {
        (false, _) => Next::Do(Stage::NotePlacing),
        (true, false) => Next::Do(Stage::PutAside),
        (true, true) => TWICE,
    }
}

fn placing(seen: &RestoreSeen) -> Next {
    match (seen.fresh, seen.member) {
        (true, true) => TWICE,
        (true, false) => stopped(seen).unwrap_or(Next::Do(Stage::Place)),
        // Whatever runs by now runs with them.
        (false, true) => Next::Do(Stage::End),
        (false, false) => Next::Stuck(
            "the new data are missing",
            "check the disk; then pf9ctl etcd restore --withdraw, and restore again",
        ),
    }
}

fn rejoining(seen: &RestoreSeen) -> Next {
    if let Some(stop) = stopped(seen) {
        return stop;
    }
    match (seen.member, seen.aside, seen.restored_one) {
        (false, _, _) => Next::Do(Stage::End),
        (true, true, _) => TWICE,
        // Until then the old data stays in place: if the other master fails, it is needed.
        (true, false, false) => Next::Wait(
            "another master's etcd to run with the restored data (pf9ctl etcd restore there)"
                .into(),
        ),
        (true, false, true) => Next::Do(Stage::PutAside),
    }
}

/// The control plane first: nothing may act on stale data.
fn stopped(seen: &RestoreSeen) -> Option<Next> {
    if seen.control_plane {
        Some(Next::Do(Stage::StopControlPlane))
    } else if seen.etcd {
        Some(Next::Do(Stage::StopEtcd))
    } else {
        None
    }
}

/// Somebody started etcd with nothing in its place. Which of the two to keep is a person's to say.
const TWICE: Next = Next::Stuck(
    "the old data were moved aside, but new data appeared in their place",
    "decide which ones to keep: move /var/lib/pf9/etcd/member away if not the new ones",
);

impl Stage {
    /// For people, after "restore: ".
    pub fn words(self) -> &'static str {
        match self {
            Self::StopControlPlane => "stopping the control plane",
            Self::StopEtcd => "etcd stops",
            Self::PutAside => "moving the old data aside",
            Self::NotePlacing => "recording the switch to the new data",
            Self::Place => "moving the new data into place",
            Self::End => "letting etcd and the control plane start",
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{ClusterId, Timestamp};
    use crate::nodelet::etcd::restore::{By, Source};

    fn run(state: State, goal: RestoreGoal) -> RestoreRun {
        let cluster = ClusterId(Uuid::nil());
        let mut run =
            RestoreRun::asked(Uuid::nil(), By::Plane, cluster, goal, Timestamp::UNIX_EPOCH);
        run.state = state;
        run
    }

    fn restored(state: State) -> RestoreRun {
        let source = Source {
            file: "s".into(),
            recovery_key: None,
            any_cluster: false,
            signers: None,
            unsigned: false,
        };
        run(state, RestoreGoal::Restored(source))
    }

    /// Everything runs with the old data, and the new ones are made.
    fn made() -> RestoreSeen {
        RestoreSeen {
            control_plane: true,
            etcd: true,
            member: true,
            fresh: true,
            ..RestoreSeen::default()
        }
    }

    #[test]
    fn nothing_stops_before_the_plane_says_go() {
        let run = restored(State::Ready);
        assert!(matches!(next(&run, &made()), Next::Wait(words) if words.contains("the plane")));
        let goes = RestoreSeen {
            may_go: true,
            ..made()
        };
        assert_eq!(next(&run, &goes), Next::Do(Stage::StopControlPlane));
        let others = RestoreSeen {
            others: vec!["b (10.1.2.4)".into()],
            ..goes
        };
        assert!(matches!(next(&run, &others), Next::Wait(words) if words.contains("10.1.2.4")));
    }

    /// Nothing is put over what was put aside, whichever of the two is wanted: a person says it.
    #[test]
    fn data_that_came_again_after_they_were_put_aside_are_a_persons_to_judge() {
        let twice = RestoreSeen {
            member: true,
            aside: true,
            may_go: true,
            restored_one: true,
            ..RestoreSeen::default()
        };
        let again = |run: &RestoreRun, seen: &RestoreSeen| match next(run, seen) {
            Next::Stuck(why, _) => assert!(why.contains("moved aside"), "{why}"),
            other => panic!("{other:?}"),
        };
        let fresh = RestoreSeen {
            fresh: true,
            ..twice.clone()
        };
        again(&restored(State::Ready), &fresh);
        again(&restored(State::Placing), &fresh);
        again(&run(State::Asked, RestoreGoal::Rejoined), &twice);
        // Once is how it goes.
        let once = RestoreSeen {
            aside: false,
            ..fresh
        };
        assert_eq!(
            next(&restored(State::Ready), &once),
            Next::Do(Stage::PutAside)
        );
        let once = RestoreSeen {
            aside: false,
            ..twice
        };
        let rejoins = run(State::Asked, RestoreGoal::Rejoined);
        assert_eq!(next(&rejoins, &once), Next::Do(Stage::PutAside));
    }
}

//! State of each member of a cluster's etcd and what it waits for: [`places`], pure; and the operators' view, with the
//! present health of each.
//!
//! Masters join one at a time: etcd takes one learner, and none while a listed member does not answer. So a master
//! waits for a member to be removed, for the current learner, or for a master attached earlier; the view names which.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::health::{self, Answers};
use super::{Counted, Listed, count, newest};
use crate::guard::Person;
use crate::http::Path;
use crate::kubeconfig;
use crate::qbert::cluster_id;
use crate::records::Cluster;
use crate::refusal::Answer;
use crate::state::{self, Plane};
use crate::zones;
use pf9_hostagent::model::etcd::quorum::Tally;
use pf9_hostagent::model::{HostId, Timestamp};

/// State of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It has a vote.
    Votes,
    /// It replicates and has no vote yet.
    Learns,
    /// A master that is not a member yet.
    Waits(Waits),
    /// A former master that removes its own member.
    Leaves,
    /// The others have to remove it.
    IsTakenOut,
    /// Unknown to the plane: left alone.
    Foreign,
    /// No master has reported its etcd's members yet.
    Untold,
}

/// What a master waits for before it becomes a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nothing: it is its turn.
    Turn,
    /// The member of this one has to be removed first.
    ForLeaver(String),
    /// This one is catching up; there is one learner at a time.
    ForLearner(String),
    /// This one was attached before it.
    ForEarlier(String),
}

/// A member, or a master that will become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seated {
    pub(super) host: Option<HostId>,
    pub(super) shown: String,
    pub(super) member_id: Option<String>,
    pub(super) votes: bool,
    pub(super) place: Place,
}

/// All listed members, then the masters that are not listed, in the order they were attached. Without a list it is
/// unknown who waits.
pub(super) fn places(cluster: &Cluster, listed: Option<&[Listed]>) -> Vec<Seated> {
    let counted = count(cluster, listed);
    let id = |i: usize| Some(listed?.get(i)?.id.clone());
    let mut seated: Vec<Seated> = Vec::new();
    for (i, member) in counted.iter().enumerate() {
        seated.push(Seated {
            host: member.host,
            shown: member.shown.clone(),
            member_id: id(i),
            votes: member.votes,
            place: match listed {
                Some(_) => place(cluster, member),
                None => Place::Untold,
            },
        });
    }
    let first = |is: fn(&Place) -> bool| {
        let found = seated.iter().find(|s| is(&s.place));
        found.map(|s| s.shown.clone())
    };
    let leaver = first(|p| matches!(p, Place::Leaves | Place::IsTakenOut));
    let learner = first(|p| *p == Place::Learns);
    let mut earlier: Option<String> = None;
    for master in cluster.masters() {
        if seated.iter().any(|s| s.host == Some(master.host)) {
            continue;
        }
        let shown = master.node_name.to_string();
        let waits = match (&leaver, &learner, &earlier) {
            (Some(who), _, _) => Waits::ForLeaver(who.clone()),
            (None, Some(who), _) => Waits::ForLearner(who.clone()),
            (None, None, Some(who)) => Waits::ForEarlier(who.clone()),
            (None, None, None) => Waits::Turn,
        };
        earlier = earlier.or_else(|| Some(shown.clone()));
        seated.push(Seated {
            host: Some(master.host),
            shown,
            member_id: None,
            votes: false,
            place: Place::Waits(waits),
        });
    }
    seated
}

fn place(cluster: &Cluster, member: &Counted) -> Place {
    let seat = member.host.and_then(|host| {
        let mut departed = cluster.departed.iter().rev();
        departed.find(|d| d.host == host)?.etcd.as_ref()
    });
    match (member.leaves, member.host) {
        (true, _) if seat.is_some_and(|s| s.ordered) => Place::IsTakenOut,
        (true, _) => Place::Leaves,
        (false, None) => Place::Foreign,
        (false, Some(_)) if member.votes => Place::Votes,
        (false, Some(_)) => Place::Learns,
    }
}

impl Place {
    fn word(&self) -> &'static str {
        match self {
            Self::Votes => "member",
            Self::Learns => "learner",
            Self::Waits(_) => "waiting",
            Self::Leaves => "leaving",
            Self::IsTakenOut => "taken-out",
            Self::Foreign => "foreign",
            Self::Untold => "untold",
        }
    }

    fn says(&self) -> String {
        match self {
            Self::Votes => "has a vote".into(),
            Self::Learns => "is a learner: it catches up, then gets a vote".into(),
            Self::Waits(Waits::Turn) => "joins next".into(),
            Self::Waits(Waits::ForLeaver(who)) => {
                format!("waits until the member of {who} is removed")
            }
            Self::Waits(Waits::ForLearner(who)) => {
                format!("waits for {who}, which is joining: one at a time")
            }
            Self::Waits(Waits::ForEarlier(who)) => {
                format!("waits for {who}, which was attached before: one at a time")
            }
            Self::Leaves => "was detached: it removes its own member".into(),
            Self::IsTakenOut => {
                "its host is gone: the others remove its member when they have a quorum".into()
            }
            Self::Foreign => "belongs to no host of this plane, and is left alone".into(),
            Self::Untold => "no master has reported its etcd members yet".into(),
        }
    }
}

/// `GET …/clusters/{uuid}/etcd`.
pub(crate) async fn get(
    _: Person,
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let cluster = state::cluster(&plane.read()?, cluster_id(&id)?)?;
    shown(&plane, &cluster).await.map(Json)
}

/// The same, on the administrator's socket.
pub(crate) async fn admin(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
) -> Answer<Json<Value>> {
    let cluster = kubeconfig::find(&plane.read()?, &name)?;
    shown(&plane, &cluster).await.map(Json)
}

async fn shown(plane: &Arc<Plane>, cluster: &Cluster) -> Answer<Value> {
    let newest = newest(&plane.read()?, cluster)?;
    let listed = newest.as_ref().map(|(_, l)| l.as_slice());
    let seated = places(cluster, listed);
    let is_asked = |s: &&Seated| !matches!(s.place, Place::Waits(_));
    let hosts = seated.iter().filter(is_asked).filter_map(|s| s.host);
    let answers = health::ask(plane, &hosts.collect()).await;
    Ok(json_of(
        cluster,
        newest.as_ref().map(|(at, _)| *at),
        &seated,
        &answers,
    ))
}

fn json_of(
    cluster: &Cluster,
    listed_at: Option<Timestamp>,
    seated: &[Seated],
    answers: &Answers,
) -> Value {
    let answer = |s: &Seated| s.host.and_then(|h| answers.get(&h));
    let members = seated.iter().map(|s| {
        let answer = answer(s);
        json!({
            "host": s.host,
            "name": s.shown,
            "memberId": s.member_id,
            "state": s.place.word(),
            "words": s.place.says(),
            "healthy": answer.map(Result::is_ok),
            "why": answer.and_then(|a| a.as_ref().err()),
        })
    });
    let voters = seated.iter().filter(|s| s.votes).count();
    let well = |s: &&Seated| s.votes && answer(s).is_some_and(Result::is_ok);
    let well = seated.iter().filter(well).count();
    let tally = Tally {
        votes: voters,
        answer: well,
    };
    json!({
        "cluster": cluster.name,
        "uuid": cluster.id,
        "listedAt": listed_at,
        "votes": voters,
        "answering": well,
        "needed": tally.needs(),
        "replaceAfterSeconds": cluster.settings.etcd_replace_after_s,
        "members": members.collect::<Vec<_>>(),
        "zones": zones::fault(cluster),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add, cluster, host, now};
    use crate::departures::leave;
    use proptest::prelude::*;

    /// Members by number; a learner is negative.
    fn listed(members: &[i8]) -> Vec<Listed> {
        let one = |n: &i8| {
            let number = n.unsigned_abs();
            Listed {
                id: format!("{number:x}"),
                name: host(number).to_string(),
                peer_urls: vec![format!("https://10.1.0.{number}:2380")],
                learner: *n < 0,
            }
        };
        members.iter().map(one).collect()
    }

    fn said(c: &Cluster, members: &[i8]) -> Vec<(String, Place)> {
        let all = places(c, Some(&listed(members)));
        all.into_iter().map(|s| (s.shown, s.place)).collect()
    }

    fn waits(name: &str, waits: Waits) -> (String, Place) {
        (name.into(), Place::Waits(waits))
    }

    fn is(name: &str, place: Place) -> (String, Place) {
        (name.into(), place)
    }

    #[test]
    fn masters_that_were_attached_together_join_one_after_the_other() {
        let mut c = cluster();
        add(&mut c, &[(1, true)]).expect("attach");
        add(&mut c, &[(2, true), (3, true)]).expect("attach");
        let votes = |name| is(name, Place::Votes);
        let node_2 = || "node-2".to_owned();
        assert_eq!(
            said(&c, &[1]),
            [
                votes("node-1"),
                waits("node-2", Waits::Turn),
                waits("node-3", Waits::ForEarlier(node_2()))
            ]
        );
        assert_eq!(
            said(&c, &[1, -2]),
            [
                votes("node-1"),
                is("node-2", Place::Learns),
                waits("node-3", Waits::ForLearner(node_2()))
            ]
        );
        assert_eq!(
            said(&c, &[1, 2]),
            [
                votes("node-1"),
                votes("node-2"),
                waits("node-3", Waits::Turn)
            ]
        );
    }

    #[test]
    fn a_substitute_waits_until_the_dead_one_is_out() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true), (3, true)]).expect("attach");
        leave(&mut c, host(3), now(), true);
        add(&mut c, &[(4, true)]).expect("attach");
        let all = said(&c, &[1, 2, 3]);
        assert_eq!(all[2], is("node-3", Place::IsTakenOut));
        assert_eq!(all[3], waits("node-4", Waits::ForLeaver("node-3".into())));
        assert_eq!(said(&c, &[1, 2])[2], waits("node-4", Waits::Turn));
        // An unknown member is shown by its id.
        let mut strangers = listed(&[1, 2]);
        strangers[1].name = "theirs".into();
        let seated = places(&c, Some(&strangers));
        assert_eq!(
            (seated[1].shown.as_str(), &seated[1].place),
            ("theirs", &Place::Foreign)
        );
        // Before the first report nothing is known about any of them.
        let untold = places(&c, None);
        assert!(untold.iter().all(|s| s.place == Place::Untold && s.votes));
    }

    proptest! {
        /// Each master is listed once, and at most one of those that wait has its turn.
        #[test]
        fn one_joins_at_a_time(
            masters in proptest::collection::btree_set(1u8..8, 1..6),
            gone in proptest::collection::btree_set(1u8..8, 0..3),
            members in proptest::collection::vec((1i8..8, any::<bool>()), 1..6),
        ) {
            let mut c = cluster();
            for n in &masters {
                add(&mut c, &[(*n, true)]).expect("attach");
            }
            for n in &gone {
                leave(&mut c, host(*n), now(), true);
            }
            let members: std::collections::BTreeMap<i8, bool> = members.into_iter().collect();
            let members: Vec<i8> = members.iter().map(|(n, l)| if *l { -n } else { *n }).collect();
            let seated = places(&c, Some(&listed(&members)));
            for master in c.masters() {
                let times = seated.iter().filter(|s| s.host == Some(master.host)).count();
                prop_assert_eq!(times, 1);
            }
            let turns = seated.iter().filter(|s| s.place == Place::Waits(Waits::Turn)).count();
            let joins = seated.iter().filter(|s| s.place == Place::Learns).count();
            prop_assert!(turns + joins.min(1) <= 1);
        }
    }
}

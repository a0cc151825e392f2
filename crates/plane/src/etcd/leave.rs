//! Whether masters may leave without etcd losing its quorum: the plane's half of `model::etcd::quorum`. It knows which
//! members etcd counts and which answered just now, and words the refusal, or the price of `--force`, for the operator.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::health::{self, Answers};
use super::{Counted, counted, seats};
use crate::events;
use crate::records::{CLUSTERS, Cluster, HOSTS};
use crate::refusal::{Answer, Refusal};
use crate::state::{self, Change, Plane};
use crate::store::Read;
use pf9_hostagent::model::etcd::quorum::{self, Loss, Vote};
use pf9_hostagent::model::{Fault, FaultCode, HostId};

/// What is lost, if an operator forced it.
pub(crate) type Forced = Option<String>;

/// The voters, and whether each answered; the name includes why not.
fn votes(counted: &[Counted], leaving: &BTreeSet<HostId>, answers: &Answers) -> Vec<Vote> {
    let vote = |member: &Counted| {
        let answer = member.host.and_then(|h| answers.get(&h));
        let silent = match answer {
            Some(Ok(())) => None,
            Some(Err(why)) => Some(why.as_str()),
            None => Some("not a host of this plane"),
        };
        Vote {
            name: match silent {
                Some(why) => format!("{} ({why})", member.shown),
                None => member.shown.clone(),
            },
            // A host that left earlier and is still counted leaves as well.
            leaves: member.leaves || member.host.is_some_and(|h| leaving.contains(&h)),
            answers: silent.is_none(),
        }
    };
    counted.iter().filter(|c| c.votes).map(vote).collect()
}

/// For `--force`: what is lost.
fn price(cluster: &Cluster, loss: &Loss) -> String {
    format!(
        "etcd of cluster {} loses its quorum: its API accepts no writes until a majority is back or a backup is \
         restored, and what was written since that backup is lost then ({loss})",
        cluster.name
    )
}

/// Hosts remain that may rely on one of these: a master, or one that was detached and is still leaving.
fn costs(cluster: &Cluster, leaving: &BTreeSet<HostId>, counted: &[Counted]) -> bool {
    let is_master = |host: &HostId| cluster.is_master(*host);
    let is_counted = |host: &HostId| counted.iter().any(|c| c.votes && c.host == Some(*host));
    cluster.masters().any(|m| !leaving.contains(&m.host))
        && leaving.iter().any(|h| is_master(h) || is_counted(h))
}

/// How many hosts would be left without a master: all that stay, if no master does.
pub(crate) fn orphans(cluster: &Cluster, leaving: &BTreeSet<HostId>) -> usize {
    let stays = |host: &HostId| !leaving.contains(host);
    let mut masters = cluster.masters().map(|m| m.host).peekable();
    if masters.peek().is_none() || masters.any(|host| stays(&host)) {
        return 0;
    }
    cluster.members.iter().filter(|m| stays(&m.host)).count()
}

/// The last master may leave only with all others, or by force, whichever API is used. Checked again inside the
/// transaction, because a host may have been attached meanwhile.
pub(crate) fn require_master(
    cluster: &Cluster,
    leaving: &BTreeSet<HostId>,
    force: bool,
) -> Answer<Forced> {
    let left = orphans(cluster, leaving);
    if left == 0 {
        return Ok(None);
    }
    let name = &cluster.name;
    if force {
        return Ok(Some(format!(
            "cluster {name} has no master left, and {left} workers without a control plane: its API, and what was \
             in its etcd, are gone unless a backup is restored"
        )));
    }
    let what = format!("the last master cannot leave cluster {name}");
    let why = format!("{left} workers would be left without a master");
    Err(Refusal::conflict(FaultCode::LastMaster, what, why).fix(
        "detach the workers first, or together with the master; --force (\"force\": true) overrides this",
    ))
}

/// Whether these may leave a cluster: one guard for every way out and every caller. It refuses what etcd would not
/// survive, unless `force` is set: then it returns what is lost. If no master is left there is nobody to lose anything.
pub(crate) async fn allow(
    plane: &Arc<Plane>,
    cluster: &Cluster,
    leaving: &BTreeSet<HostId>,
    force: bool,
) -> Answer<Forced> {
    if let Some(lost) = require_master(cluster, leaving, force)? {
        return Ok(Some(lost));
    }
    let counted = counted(&plane.read()?, cluster)?;
    if !costs(cluster, leaving, &counted) {
        return Ok(None);
    }
    let hosts = counted.iter().filter_map(|c| c.host).collect();
    let answers = health::ask(plane, &hosts).await;
    match quorum::may_leave(&votes(&counted, leaving, &answers)) {
        Ok(()) => Ok(None),
        Err(loss) if force => Ok(Some(price(cluster, &loss))),
        Err(loss) => Err(refused(cluster, leaving, &loss)),
    }
}

fn refused(cluster: &Cluster, leaving: &BTreeSet<HostId>, loss: &Loss) -> Refusal {
    let masters = cluster.masters().map(|m| (m.host, &m.node_name));
    let on_their_way = cluster.departed.iter().map(|d| (d.host, &d.node_name));
    let leave = masters
        .chain(on_their_way)
        .filter(|(h, _)| leaving.contains(h));
    // A host that left several times usually has one name.
    let names: BTreeSet<String> = leave.map(|(_, name)| name.to_string()).collect();
    let names: Vec<String> = names.into_iter().collect();
    let what = format!(
        "{} cannot leave cluster {}: etcd would lose its quorum",
        names.join(", "),
        cluster.name
    );
    let fix = format!(
        "{}; --force (\"force\": true) overrides this: {}",
        loss.fix(),
        "the API then accepts no writes until a backup is restored"
    );
    let fault = Fault::new(FaultCode::EtcdQuorum, what, loss.why()).fix(fix);
    Refusal::new(http::StatusCode::CONFLICT, fault)
}

/// Whether the checked cluster is unchanged: no host joined or left between the check and the transaction.
pub(crate) fn still(judged: &Cluster, rows: &impl Read) -> Answer<Cluster> {
    let now = state::cluster(rows, judged.id)?;
    let masters = |of: &Cluster| of.masters().map(|m| m.host).collect::<BTreeSet<_>>();
    if masters(judged) == masters(&now) {
        return Ok(now);
    }
    Err(Refusal::conflict(
        FaultCode::ClusterChanged,
        format!("nothing was changed in cluster {}", now.name),
        "its masters changed while etcd was asked whether it survives this",
    )
    .fix("try again"))
}

/// The cluster that a host was detached from, while its etcd may rely on it.
pub(crate) fn left(rows: &impl Read, host: HostId) -> Answer<Option<Cluster>> {
    let counts = |c: &Cluster| is_on_its_way(c, host);
    Ok(rows
        .all(&CLUSTERS)?
        .into_iter()
        .map(|(_, c)| c)
        .find(counts))
}

/// It was detached, and the others may still rely on its member.
pub(crate) fn is_on_its_way(cluster: &Cluster, host: HostId) -> bool {
    let mut departed = cluster.departed.iter().filter(|d| d.host == host);
    cluster.member(host).is_none() && departed.any(seats::is_counted)
}

/// Forced: hosts that were detached, and are held back because etcd needs them, leave whatever it loses.
pub(crate) async fn insist(
    plane: &Arc<Plane>,
    cluster: &Cluster,
    hosts: Vec<HostId>,
) -> Answer<Forced> {
    let lost = allow(plane, cluster, &hosts.iter().copied().collect(), true).await?;
    let (told, judged) = (lost.clone(), cluster.clone());
    plane
        .change(move |change| {
            let cluster = still(&judged, &**change)?;
            for host in hosts.iter().filter(|h| is_on_its_way(&cluster, **h)) {
                waits_for_nobody(change, *host)?;
            }
            match &lost {
                Some(lost) => audit(change, &cluster, &hosts, lost),
                None => Ok(()),
            }
        })
        .await?;
    Ok(told)
}

/// A host without a role continues its removal whatever etcd answers. A host that is not trusted gets no answer to
/// whether it may leave, and would wait for ever.
pub(crate) fn waits_for_nobody(change: &mut Change<'_>, host: HostId) -> Answer<()> {
    let key = host.to_string();
    if let Some(mut row) = change.get(&HOSTS, &key)?
        && row.cluster.is_none()
        && !row.forced
    {
        row.forced = true;
        change.put(&HOSTS, &key, &row)?;
        change.touch(host);
    }
    Ok(())
}

/// Forced: recorded in the log, and in the events of the masters that stay and the hosts that left.
pub(crate) fn audit(
    change: &mut Change<'_>,
    cluster: &Cluster,
    left: &[HostId],
    lost: &str,
) -> Answer<()> {
    let masters = cluster.masters().map(|m| m.host);
    let told: BTreeSet<HostId> = masters.chain(left.iter().copied()).collect();
    let names = left.iter().map(HostId::to_string).collect::<Vec<_>>();
    let names = names.join(", ");
    tracing::warn!(cluster = %cluster.id, hosts = names, lost, "removed from the cluster by force");
    let said = format!(
        "removed from cluster {} by force: {names}; {lost}",
        cluster.name
    );
    for host in told {
        events::note(change, host, "forced-out", &said)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add, cluster, host};

    #[test]
    fn a_host_that_left_and_is_still_counted_leaves_too_and_strangers_do_not_answer() {
        let counted = |host, leaves, votes| Counted {
            host,
            shown: "m".into(),
            votes,
            leaves,
        };
        let all = [
            counted(Some(host(1)), false, true),
            counted(Some(host(2)), true, true),
            counted(None, false, true),
            counted(Some(host(3)), false, true),
            // A learner, without a vote.
            counted(Some(host(4)), false, false),
        ];
        let no = Err("RAFT NO LEADER".to_owned());
        let answers: Answers = [(host(1), Ok(())), (host(2), Ok(())), (host(3), no)].into();
        let votes = votes(&all, &[host(1)].into(), &answers);
        let seen: Vec<_> = votes
            .iter()
            .map(|v| (v.name.as_str(), v.leaves, v.answers))
            .collect();
        assert_eq!(
            seen,
            [
                ("m", true, true),
                ("m", true, true),
                ("m (not a host of this plane)", false, false),
                ("m (RAFT NO LEADER)", false, false)
            ]
        );
    }

    #[test]
    fn a_refusal_names_the_remedy_and_the_price_of_force() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true), (3, true)]).expect("attach");
        let vote = |name: &str, leaves, answers| Vote {
            name: name.into(),
            leaves,
            answers,
        };
        let votes = [
            vote("node-1", true, true),
            vote("node-2", false, true),
            vote("node-3 (no answer within 2 s)", false, false),
        ];
        let loss = quorum::may_leave(&votes).expect_err("no");
        let no = refused(&c, &[host(1)].into(), &loss);
        assert_eq!(no.status, http::StatusCode::CONFLICT);
        let said = no.fault.to_string();
        for word in [
            "node-1 cannot leave",
            "node-3 (no answer",
            "remove its host first",
            "--force",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        let price = price(&c, &loss);
        assert!(
            price.contains("etcd of cluster c loses its quorum"),
            "{price}"
        );
    }

    #[test]
    fn the_last_master_goes_with_everybody_or_by_force() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true), (3, false), (4, false)]).expect("attach");
        let left = |hosts: &[u8]| orphans(&c, &hosts.iter().map(|n| host(*n)).collect());
        assert_eq!(left(&[1]), 0, "a master is left");
        assert_eq!(left(&[3, 4]), 0);
        assert_eq!(left(&[1, 2]), 2);
        assert_eq!(left(&[1, 2, 3]), 1);
        assert_eq!(left(&[1, 2, 3, 4]), 0, "nobody is left");
        let both = [host(1), host(2)].into();
        let refused = require_master(&c, &both, false).expect_err("no");
        assert_eq!(refused.fault.code, FaultCode::LastMaster);
        let lost = require_master(&c, &both, true).expect("by force");
        assert!(lost.is_some_and(|lost| lost.contains("2 workers")));
    }
}

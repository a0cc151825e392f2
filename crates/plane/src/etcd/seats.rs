//! The etcd members of masters that left, until the others report that they are removed. Pure.
//!
//! A detached master removes its own member. If it cannot, because its host was removed or is silent, the others are
//! ordered to (`gone` in their specs), until one of them reports that it is no longer listed. The list is checked with
//! every status, so a member that appears late is removed as well.
//!
//! ```text
//! leaves ──removed, or silent for long──► ordered ──not listed──► out
//!    └─────────────────not listed──────────────────────────────────▲
//! ```

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::Listed;
use crate::records::{Cluster, Departed, EtcdSeat, Member};
use pf9_hostagent::host::etcd::peer_url;
use pf9_hostagent::model::{EtcdGone, HostId, Role};

/// Last report of a host that should leave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    /// It has no role any more.
    pub(crate) done: bool,
    /// When it last reported, or could have.
    pub(crate) at: Timestamp,
}

/// The seat of a master that leaves; `ended`: it is no longer trusted, so the others have to act at once.
pub(crate) fn vacate(member: &Member, ended: bool) -> Option<EtcdSeat> {
    (member.role == Role::Master).then_some(EtcdSeat {
        ip: member.ip,
        member_id: None,
        ordered: ended,
        out: false,
    })
}

/// Whether the others may still rely on the member of this host.
pub(crate) fn is_counted(departed: &Departed) -> bool {
    departed.etcd.as_ref().is_some_and(|seat| !seat.out)
}

/// Orders the removal of members whose hosts are removed or have been silent for `patience`. A host that reports that
/// it is done sends nothing more, so its time runs from when it left.
pub(crate) fn order(cluster: &mut Cluster, now: Timestamp, said: impl Fn(HostId) -> Said) {
    let patience = SignedDuration::from_secs(cluster.settings.etcd_replace_after_s.into());
    for departed in &mut cluster.departed {
        let (host, left_at) = (departed.host, departed.left_at);
        let Some(seat) = departed.etcd.as_mut().filter(|s| !s.ordered && !s.out) else {
            continue;
        };
        let Said { done, at } = said(host);
        let since = match done {
            true => left_at,
            false => at.max(left_at),
        };
        seat.ordered = now.duration_since(since) >= patience;
    }
}

/// A master reports etcd's members. True when that changes something.
pub(crate) fn heard(cluster: &mut Cluster, listed: &[Listed]) -> bool {
    let Cluster {
        members, departed, ..
    } = cluster;
    let is_master = |host| {
        members
            .iter()
            .any(|m| m.host == host && m.role == Role::Master)
    };
    let mut news = false;
    for departed in departed.iter_mut().filter(|d| !is_master(d.host)) {
        let host = departed.host;
        let Some(seat) = &mut departed.etcd else {
            continue;
        };
        let mut masters = members.iter().filter(|m| m.role == Role::Master);
        let is_taken = masters.any(|m| m.ip == seat.ip);
        let found = listed.iter().find(|l| is_seat(l, host, seat, is_taken));
        let next = EtcdSeat {
            member_id: found
                .map(|l| l.id.clone())
                .or_else(|| seat.member_id.clone()),
            out: found.is_none(),
            ..seat.clone()
        };
        news |= *seat != next;
        *seat = next;
    }
    news
}

/// By name, which is the host's id. A member that was never started has none, and is known by its address, unless a
/// master has that now.
fn is_seat(listed: &Listed, host: HostId, seat: &EtcdSeat, is_taken: bool) -> bool {
    match listed.name.is_empty() {
        false => listed.name == host.to_string(),
        true => !is_taken && listed.peer_urls.contains(&peer_url(seat.ip)),
    }
}

/// The members that the masters have to remove.
pub(crate) fn gone(cluster: &Cluster) -> Vec<EtcdGone> {
    let is_gone = |d: &&Departed| {
        let ordered = d.etcd.as_ref().is_some_and(|s| s.ordered && !s.out);
        ordered && !cluster.is_master(d.host)
    };
    // A host may have left more than once; it has one member.
    let gone: BTreeMap<HostId, Option<String>> = cluster
        .departed
        .iter()
        .filter(is_gone)
        .map(|d| (d.host, d.etcd.as_ref().and_then(|s| s.member_id.clone())))
        .collect();
    gone.into_iter()
        .map(|(host_id, member_id)| EtcdGone { host_id, member_id })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add_at, cluster, host, now};
    use crate::departures::leave;
    use crate::membership::detach;
    use proptest::prelude::*;

    fn silent(_: HostId) -> Said {
        Said {
            done: false,
            at: now(),
        }
    }

    fn done(_: HostId) -> Said {
        Said {
            done: true,
            at: now(),
        }
    }

    fn patience(c: &Cluster) -> SignedDuration {
        SignedDuration::from_secs(c.settings.etcd_replace_after_s.into())
    }

    fn masters(n: u8) -> Cluster {
        let mut c = cluster();
        let all: Vec<(u8, bool)> = (1..=n).map(|n| (n, true)).collect();
        add_at(&mut c, &all, now()).expect("attach");
        c
    }

    fn listed(hosts: &[u8]) -> Vec<Listed> {
        let one = |n: &u8| Listed {
            id: format!("{n:x}"),
            name: host(*n).to_string(),
            peer_urls: vec![format!("https://10.1.0.{n}:2380")],
            learner: false,
        };
        hosts.iter().map(one).collect()
    }

    fn names(c: &Cluster) -> Vec<(HostId, Option<String>)> {
        gone(c)
            .into_iter()
            .map(|g| (g.host_id, g.member_id))
            .collect()
    }

    #[test]
    fn a_removed_masters_member_is_ordered_out_until_it_is_gone() {
        let mut c = masters(3);
        leave(&mut c, host(3), now(), true);
        assert_eq!(names(&c), [(host(3), None)]);
        assert!(heard(&mut c, &listed(&[1, 2, 3])));
        assert_eq!(names(&c), [(host(3), Some("3".into()))]);
        assert!(!heard(&mut c, &listed(&[1, 2, 3])), "that is no news");
        assert!(heard(&mut c, &listed(&[1, 2])));
        assert_eq!(names(&c), []);
        // A member that appears late is removed as well.
        assert!(heard(&mut c, &listed(&[1, 2, 3])));
        assert_eq!(names(&c), [(host(3), Some("3".into()))]);
        // It comes back as a master: whatever it had is its own again.
        add_at(&mut c, &[(3, true)], now()).expect("attach");
        assert_eq!(names(&c), []);
    }

    #[test]
    fn a_detached_master_leaves_on_its_own_while_it_reports() {
        let mut c = masters(3);
        let patience = patience(&c);
        detach(&mut c, &[host(3)], now()).expect("detach");
        order(
            &mut c,
            now() + patience - SignedDuration::from_secs(1),
            silent,
        );
        assert_eq!(names(&c), []);
        let busy = |_| Said {
            done: false,
            at: now() + patience,
        };
        order(&mut c, now() + patience, busy);
        assert_eq!(names(&c), []);
        let mut quick = c.clone();
        assert!(heard(&mut quick, &listed(&[1, 2])));
        order(&mut quick, now() + patience, silent);
        assert_eq!(names(&quick), [], "it took its member out");
        let mut failed = c.clone();
        order(&mut failed, now() + patience, done);
        assert_eq!(
            names(&failed),
            [(host(3), None)],
            "it could not, and is done"
        );
        order(&mut c, now() + patience, silent);
        assert_eq!(names(&c), [(host(3), None)]);
        // Removed while it is leaving: no more patience.
        let mut c = masters(3);
        detach(&mut c, &[host(3)], now()).expect("detach");
        leave(&mut c, host(3), now(), true);
        assert_eq!(names(&c), [(host(3), None)]);
    }

    #[test]
    fn a_member_never_started_is_known_by_its_address() {
        let mut c = masters(3);
        leave(&mut c, host(3), now(), true);
        let mut list = listed(&[1, 2, 3]);
        list[2].name = String::new();
        assert!(heard(&mut c, &list));
        assert_eq!(names(&c), [(host(3), Some("3".into()))]);
        c.members[1].ip = c.departed[0].etcd.as_ref().expect("seat").ip;
        assert!(heard(&mut c, &list));
        assert_eq!(names(&c), [], "that is the master's own");
    }

    #[test]
    fn without_masters_nothing_is_ordered_out() {
        let mut c = masters(2);
        leave(&mut c, host(2), now(), true);
        leave(&mut c, host(1), now(), true);
        add_at(&mut c, &[(4, true)], now()).expect("attach");
        assert_eq!(names(&c), []);
    }

    proptest! {
        /// For any sequence of changes and lists: no master is removed, no host that never was one is, and every
        /// removed one that is listed is.
        #[test]
        fn only_former_masters_members_are_ordered_out(
            steps in proptest::collection::vec((1u8..6, 0u8..5, any::<u8>()), 0..40),
        ) {
            let mut c = masters(3);
            let mut list: Vec<u8> = vec![1, 2, 3];
            for (i, (n, what, bits)) in steps.into_iter().enumerate() {
                let at = now() + SignedDuration::from_secs(i as i64 + 1);
                match what {
                    0 => drop(add_at(&mut c, &[(n, true)], at)),
                    1 => drop(detach(&mut c, &[host(n)], at)),
                    2 => leave(&mut c, host(n), at, true),
                    3 => {
                        let late = at + patience(&c);
                        order(&mut c, late, silent);
                    }
                    _ => {
                        list = (1..6).filter(|n| bits & (1 << n) != 0).collect();
                        heard(&mut c, &listed(&list));
                    }
                }
                for (host, _) in names(&c) {
                    prop_assert!(c.member(host).is_none());
                    let left = c.departed.iter().filter(|d| d.host == host);
                    prop_assert!(left.clone().any(|d| d.etcd.is_some()));
                }
                if what == 4 && c.masters().next().is_some() {
                    let ordered = |d: &&Departed| d.etcd.as_ref().is_some_and(|s| s.ordered);
                    for departed in c.departed.iter().filter(ordered) {
                        let is_listed = list.iter().any(|n| host(*n) == departed.host);
                        let wanted = is_listed && c.member(departed.host).is_none();
                        let is_gone = names(&c).iter().any(|(h, _)| *h == departed.host);
                        prop_assert_eq!(is_gone, wanted);
                    }
                }
            }
        }
    }
}

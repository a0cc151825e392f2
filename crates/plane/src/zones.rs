//! Failure zones of nodes, given by the operator. Pure.
//!
//! A zone becomes Kubernetes' own label of the node, by which its scheduler spreads pods. For masters it means more:
//! etcd works while a quorum of them is up. So masters in several zones must be spread so that any one zone may be
//! lost, or the zones promise what they cannot keep; and zones of only some masters mean nothing. Both are refused with
//! the attach that would cause them. Where a departure caused it, there is only a warning.
//!
//! A zone is in one region: readers of the labels rely on it. A host that would put its zone into two regions, or into
//! one and none, is refused.
//!
//! One zone for all is no promise, and two masters survive no loss wherever they are: both are accepted. Rejected:
//! detecting the zone from the machine. The source differs between environments, and a wrong one is worse than none.

use std::collections::{BTreeMap, BTreeSet};

use super::records::{Cluster, Member};
use pf9_hostagent::model::HostId;
use pf9_hostagent::model::etcd::quorum::Tally;

/// Kubernetes' label for it.
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The same for a zone's region.
pub(super) const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// Fewer masters than this survive no loss at all.
const SPREAD_FROM: usize = 3;
/// Most names in one message.
const NAMED_MAX: usize = 5;

/// What is wrong with the zones of a cluster's masters, in one sentence.
pub(super) fn fault(cluster: &Cluster) -> Option<String> {
    let masters: Vec<&Member> = cluster.masters().collect();
    let mut zones: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
    for master in &masters {
        let zone = master.zone.as_deref();
        zones
            .entry(zone)
            .or_default()
            .push(master.node_name.as_str());
    }
    if zones.len() < 2 {
        return None;
    }
    let all = masters.len();
    if let Some(without) = zones.remove(&None) {
        let with: Vec<&str> = zones.values().flatten().copied().collect();
        let word = zones.keys().flatten().next().copied().unwrap_or_default();
        return Some(format!(
            "{} of {all} masters {} a zone ({}: {word:?}), and {} {} none",
            with.len(),
            have(&with),
            listed(&with),
            listed(&without),
            have(&without),
        ));
    }
    let tally = Tally {
        votes: all,
        answer: all,
    };
    let (needed, may_be_lost) = (tally.needs(), all.saturating_sub(tally.needs()));
    let (zone, too_many) = zones.iter().find(|(_, names)| names.len() > may_be_lost)?;
    (all >= SPREAD_FROM).then(|| {
        format!(
            "{:?} has {} of {all} masters ({}): with that zone etcd loses its quorum of {}",
            zone.unwrap_or_default(),
            too_many.len(),
            listed(too_many),
            needed,
        )
    })
}

/// Two members that put one zone into different regions, one of them new.
pub(super) fn split(cluster: &Cluster, come: impl Iterator<Item = HostId>) -> Option<String> {
    let come: BTreeSet<HostId> = come.collect();
    let mut regions: BTreeMap<&str, &Member> = BTreeMap::new();
    let new = |m: &&Member| come.contains(&m.host);
    // Existing members take precedence.
    let there = cluster.members.iter().filter(|m| !new(m));
    for member in there.chain(cluster.members.iter().filter(new)) {
        let Some(zone) = member.zone.as_deref() else {
            continue;
        };
        let first = *regions.entry(zone).or_insert(member);
        if come.contains(&member.host) && first.region != member.region {
            let place = |m: &Member| match &m.region {
                Some(region) => format!("{region:?} ({})", m.node_name),
                None => format!("none ({})", m.node_name),
            };
            return Some(format!(
                "region: zone {zone:?} would be in two regions: {} and {}",
                place(first),
                place(member)
            ));
        }
    }
    None
}

fn have(names: &[&str]) -> &'static str {
    match names {
        [_] => "has",
        _ => "have",
    }
}

fn listed(names: &[&str]) -> String {
    let shown = names.iter().take(NAMED_MAX).copied();
    let shown: Vec<&str> = shown.collect();
    let more = match names.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compute::tests::{add, cluster};

    fn of(zones: &[Option<&str>]) -> Option<String> {
        let mut c = cluster();
        let hosts: Vec<(u8, bool)> = (1..).take(zones.len()).map(|n| (n, true)).collect();
        add(&mut c, &hosts).expect("attach");
        for (member, zone) in c.members.iter_mut().zip(zones) {
            member.zone = zone.map(str::to_owned);
        }
        fault(&c)
    }

    #[test]
    fn a_zone_that_only_one_of_three_masters_has_is_told_with_names() {
        let (a, b, c) = (Some("a"), Some("b"), Some("c"));
        for good in [
            &[None, None, None][..],
            &[a, b, c],
            &[a, a, a],
            &[a],
            &[a, b],
            &[a, a, b, b, c],
        ] {
            assert_eq!(of(good), None, "{good:?}");
        }
        assert_eq!(
            of(&[a, None, None]).as_deref(),
            Some("1 of 3 masters has a zone (node-1: \"a\"), and node-2, node-3 have none")
        );
        assert_eq!(
            of(&[a, a, b]).as_deref(),
            Some(
                "\"a\" has 2 of 3 masters (node-1, node-2): with that zone etcd loses its quorum of 2"
            )
        );
        assert!(of(&[a, b, c, a]).is_some(), "four masters need three");
    }

    #[test]
    fn a_zone_is_in_one_region_and_who_comes_is_who_is_refused() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, false), (3, false)]).expect("attach");
        let mut place = |n: usize, zone: Option<&str>, region: Option<&str>| {
            c.members[n].zone = zone.map(str::to_owned);
            c.members[n].region = region.map(str::to_owned);
            let host = c.members[n].host;
            split(&c, [host].into_iter())
        };
        assert_eq!(place(0, Some("a"), Some("north")), None);
        assert_eq!(place(1, Some("b"), None), None);
        assert_eq!(place(2, None, Some("south")), None, "of no zone");
        assert_eq!(place(2, Some("a"), Some("north")), None);
        assert_eq!(
            place(2, Some("a"), Some("south")).as_deref(),
            Some(
                "region: zone \"a\" would be in two regions: \"north\" (node-1) and \"south\" (node-3)"
            )
        );
        let none = place(2, Some("a"), None).expect("refused");
        assert!(
            none.ends_with("\"north\" (node-1) and none (node-3)"),
            "{none}"
        );
        // It exists by now, and must not block others.
        assert_eq!(place(1, Some("b"), None), None);
    }

    proptest! {
        /// Where masters in several zones give no fault, the loss of any one leaves a quorum.
        #[test]
        fn what_is_taken_survives_each_zone(zones in prop::collection::vec(0u8..4, 3..8)) {
            let names: Vec<String> = zones.iter().map(|z| format!("z{z}")).collect();
            let told: Vec<Option<&str>> = names.iter().map(|n| Some(n.as_str())).collect();
            let of_zone = |zone: u8| zones.iter().filter(|z| **z == zone).count();
            let most = (0..4).map(of_zone).max().unwrap_or_default();
            let survives = zones.len() - most > zones.len() / 2;
            let one = most == zones.len();
            prop_assert_eq!(of(&told).is_none(), survives || one);
        }
    }
}

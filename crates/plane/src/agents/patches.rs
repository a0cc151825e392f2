//! Which patch release each host takes automatically, by the fleet's policy, and what holds the others. Pure.
//!
//! Each host is decided on for itself: the newest patch of the minor that *it* runs, strictly newer, that fits it. What a
//! host reports is a peer's word, so it counts for that host only: one that claims any version, or is silent, moves and
//! holds no other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use semver::Version;
use uuid::Uuid;

use super::past::kept;
use super::{AgentRoll, Declined, Part, Parts, Policy, Stand, engine, gates};
use crate::rolls::{By, Patches, State, Way, Window};
use pf9_hostagent::model::{AgentPackage, Fault, FaultCode, Generation, HostId, Inventory};

/// What the decision depends on, but for the time.
pub(super) struct Fleet {
    pub(super) policy: Patches,
    /// Absent: always open.
    pub(super) window: Option<Window>,
    /// The plane's own version.
    pub(super) plane: Version,
    pub(super) offers: Vec<Offer>,
    pub(super) hosts: BTreeMap<HostId, Seen>,
    /// The newest roll.
    pub(super) roll: Option<AgentRoll>,
    pub(super) parts: Parts,
}

/// An imported version.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) package: AgentPackage,
    pub(super) imported_at: Timestamp,
    /// The plane signed that it fixes a security fault.
    pub(super) mends: bool,
}

/// A host, as it reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    /// It reported recently.
    pub(super) there: bool,
    /// It has been silent for long: an operator's roll does not end for a host that restarts.
    pub(super) gone: bool,
    pub(super) running: Option<Version>,
    pub(super) machine: Option<Inventory>,
    /// It works on an order.
    pub(super) changing: bool,
    /// An operator named it for the version it has.
    pub(super) pinned: bool,
    /// It follows a newer spec than this plane issued.
    pub(super) ahead: bool,
}

/// A version for a host to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    pub(super) to: Version,
    /// It does not wait for the window.
    pub(super) at_once: bool,
}

/// What the policy does now.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decision {
    pub(super) takes: BTreeMap<HostId, Patch>,
    /// Hosts with a patch that they do not take now, and why.
    pub(super) held: BTreeMap<(Held, Version), Vec<HostId>>,
}

/// Why a host does not take its patch, in the order in which people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    /// A roll is in the way.
    Rolls,
    Declined,
    PlaneOlder,
    /// No neighbour of the plane's minor.
    TooOld,
    Unfit,
    NoWayBack,
    Ahead,
    /// It waits for the window.
    Window,
    Pinned,
    /// It ran this version or a newer one, and a person installed an older one there.
    ByHand,
    Away,
}

/// Decides for every host.
pub(super) fn decide(fleet: &Fleet, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    if fleet.policy == Patches::Off {
        return decision;
    }
    let terms = Terms {
        declined: fleet.roll.as_ref().and_then(AgentRoll::decided),
        blocked: fleet.is_blocked(),
        open: fleet.window.as_ref().is_none_or(|w| w.is_open(now)),
    };
    for (host, seen) in &fleet.hosts {
        let part = fleet.parts.get(host);
        let Some((patch, held)) = fleet.weigh(seen, part, &terms) else {
            continue;
        };
        let Some(why) = held else {
            decision.takes.insert(*host, patch);
            continue;
        };
        // Its roll says itself what it waits for.
        let waits = |p: &Part| p.stand == Stand::Waiting && p.to == patch.to;
        if !(part.is_some_and(waits) && fleet.is_running()) {
            let group = decision.held.entry((why, patch.to)).or_default();
            group.push(*host);
        }
    }
    decision
}

/// What is the same for all hosts.
struct Terms {
    declined: Option<Declined>,
    blocked: bool,
    open: bool,
}

impl Offer {
    /// A later patch release of the same minor.
    fn follows(&self, running: &Version) -> bool {
        let version = &self.package.version;
        version.pre.is_empty()
            && (version.major, version.minor) == (running.major, running.minor)
            && version > running
    }

    fn is_declined(&self, declined: Option<&Declined>) -> bool {
        declined.is_some_and(|declined| {
            let above = declined.above.as_ref();
            self.imported_at <= declined.until
                && above.is_none_or(|chosen| self.package.version > *chosen)
        })
    }
}

impl Fleet {
    fn is_running(&self) -> bool {
        let roll = self.roll.as_ref();
        roll.is_some_and(|roll| roll.state == State::Running)
    }

    /// A roll is under way that is not the policy's, or that needs a person. One of which only long silent hosts are left is
    /// as good as over.
    fn is_blocked(&self) -> bool {
        let Some(roll) = self.roll.as_ref().filter(|r| r.is_under_way()) else {
            return false;
        };
        let bad = |p: &Part| matches!(p.stand, Stand::Failed | Stand::Late);
        let own = roll.by == By::PatchPolicy
            && roll.way == Way::Forward
            && roll.state == State::Running
            && !self.parts.values().any(bad);
        let there = |host: HostId| self.hosts.get(&host).is_some_and(|seen| !seen.gone);
        !own && !engine::waits_for_absent(roll, &self.parts, &there)
    }

    /// The patch that there is for this host, and what holds it; none: it has the newest, or is changing.
    fn weigh(
        &self,
        seen: &Seen,
        part: Option<&Part>,
        terms: &Terms,
    ) -> Option<(Patch, Option<Held>)> {
        // A pre-release was put there by a person.
        let running = seen.running.as_ref().filter(|v| v.pre.is_empty())?;
        if seen.changing || part.is_some_and(|part| self.is_ordered(part)) {
            return None;
        }
        let newer: Vec<(&Offer, Option<Held>)> = self
            .offers
            .iter()
            .filter(|offer| offer.follows(running))
            .map(|offer| (offer, self.against(offer, seen, terms)))
            .collect();
        let fitting = newer.iter().filter(|(_, against)| against.is_none());
        let newest = |(offer, _): &&(&Offer, Option<Held>)| offer.package.version.clone();
        let best = fitting.max_by_key(newest);
        let (offer, against) = best.or_else(|| newer.iter().max_by_key(newest))?;
        let to = offer.package.version.clone();
        // What an earlier patch fixes is fixed in a later one.
        let mends = newer.iter().any(|(offer, _)| {
            offer.mends
                && offer.package.version <= to
                && !offer.is_declined(terms.declined.as_ref())
        });
        let at_once = self.policy == Patches::AtOnce && mends;
        let by_hand = |p: &Part| p.stand == Stand::Done && p.told_at.is_some() && p.to >= to;
        let has_way_back = self.offers.iter().any(|o| o.package.version == *running);
        let reasons = [
            (*against).map(|why| (true, why)),
            Some((seen.pinned, Held::Pinned)),
            Some((part.is_some_and(by_hand), Held::ByHand)),
            Some((!has_way_back, Held::NoWayBack)),
            Some((!seen.there, Held::Away)),
            Some((seen.ahead, Held::Ahead)),
            Some((terms.blocked, Held::Rolls)),
            Some((!(terms.open || at_once), Held::Window)),
        ];
        let mut reasons = reasons.into_iter().flatten();
        let held = reasons.find(|(holds, _)| *holds).map(|(_, why)| why);
        Some((Patch { to, at_once }, held))
    }

    /// It has an order without an answer, or an operator's order waits for it.
    fn is_ordered(&self, part: &Part) -> bool {
        match part.stand {
            Stand::Told => true,
            Stand::Waiting => part.by == By::Operator && self.is_running(),
            Stand::Done | Stand::Failed | Stand::Late | Stand::LeftOut => false,
        }
    }

    /// What this version has against it, for this host.
    fn against(&self, offer: &Offer, seen: &Seen, terms: &Terms) -> Option<Held> {
        let (version, package) = (&offer.package.version, Some(&offer.package));
        let running = seen.running.as_ref();
        if offer.is_declined(terms.declined.as_ref()) {
            return Some(Held::Declined);
        }
        if (version.major, version.minor) > (self.plane.major, self.plane.minor) {
            return Some(Held::PlaneOlder);
        }
        if !gates::one_apart(version, &self.plane) {
            return Some(Held::TooOld);
        }
        let unfit = gates::unfit(running, seen.machine.as_ref(), version, package);
        unfit.map(|_| Held::Unfit)
    }

    /// The roll that gives these hosts their patches, and its parts; none: they have them in a roll that goes on already.
    ///
    /// Hosts join the policy's last roll if they take what it is for: they are no larger a step than its share. Another
    /// version is a new roll, share by share from the first.
    pub(super) fn begun(
        &self,
        takes: BTreeMap<HostId, Patch>,
        now: Timestamp,
        id: Uuid,
    ) -> Option<(AgentRoll, Parts)> {
        let news = takes.iter();
        let news: Vec<(&HostId, &Patch)> = news.filter(|(h, p)| self.is_news(h, p)).collect();
        if news.is_empty() {
            return None;
        }
        let joins = |roll: &&AgentRoll| news.iter().all(|(_, patch)| self.is_for(roll, &patch.to));
        if let Some(before) = self.roll.as_ref().filter(joins) {
            let (mut roll, mut parts) = (before.clone(), self.parts.clone());
            if roll.state == State::Done {
                (roll.state, roll.ended_at) = (State::Running, None);
            }
            roll.note(now, format!("{} hosts join", news.len()));
            let part = |(host, patch): (&HostId, &Patch)| (*host, self.part(*host, patch, roll.id));
            parts.extend(news.into_iter().map(part));
            return Some((roll, parts));
        }
        let before = self.roll.as_ref();
        let mut roll = AgentRoll {
            id,
            to: takes.values().map(|patch| &patch.to).max()?.clone(),
            way: Way::Forward,
            state: State::Running,
            why: None,
            policy: Policy::default(),
            by: By::PatchPolicy,
            named: false,
            declined: before.and_then(AgentRoll::decided),
            despite: Vec::new(),
            began_at: now,
            ended_at: None,
            share: 0,
            passed_at: None,
            orders: before.map_or(Generation::default(), |r| r.orders),
            log: Vec::new(),
        };
        roll.note(
            now,
            format!("started by the patch policy for {} hosts", takes.len()),
        );
        let mut parts = kept(before, &self.parts, id, By::PatchPolicy);
        let part = |(host, patch): (HostId, Patch)| (host, self.part(host, &patch, id));
        parts.extend(takes.into_iter().map(part));
        Some((roll, parts))
    }

    fn part(&self, host: HostId, patch: &Patch, roll: Uuid) -> Part {
        let running = self.hosts.get(&host).and_then(|seen| seen.running.clone());
        Part {
            roll,
            by: By::PatchPolicy,
            at_once: patch.at_once,
            ..Part::new(running, patch.to.clone())
        }
    }

    /// The host does not wait for it already.
    fn is_news(&self, host: &HostId, patch: &Patch) -> bool {
        let same = |p: &Part| p.to == patch.to && p.at_once == patch.at_once;
        let part = self.parts.get(host);
        let waits = part.is_some_and(|p| p.stand == Stand::Waiting && same(p));
        !(self.is_running() && waits)
    }

    /// This roll is the policy's, goes on or went well, and it or one before it brought this version.
    fn is_for(&self, roll: &AgentRoll, to: &Version) -> bool {
        let goes = match roll.state {
            State::Running | State::Done => true,
            State::Paused | State::Stopped | State::Cancelled => false,
        };
        let brings = |p: &Part| p.by == By::PatchPolicy && p.to == *to;
        goes && roll.by == By::PatchPolicy
            && roll.way == Way::Forward
            && self.parts.values().any(brings)
    }

    /// Why hosts do not take the patches that there are for them, and what to do, for people.
    pub(super) fn faults(&self, decision: &Decision) -> Vec<Fault> {
        let held = decision.held.iter();
        held.map(|((why, to), hosts)| self.fault(*why, to, hosts))
            .collect()
    }

    fn fault(&self, why: Held, to: &Version, hosts: &[HostId]) -> Fault {
        let whole = format!("to order it anyway: pf9-plane agent upgrade --to {to}");
        let by_itself = "nothing: it is ordered automatically then".to_owned();
        let (because, fix): (String, String) = match why {
            Held::Rolls => (
                self.in_the_way(),
                "see pf9-plane agent upgrade; resume it, cancel it, or wait until it is done".into(),
            ),
            Held::Declined => (
                "after its import a person cancelled a rollout, went back, or chose another version".into(),
                whole,
            ),
            Held::PlaneOlder => (
                format!("the plane is {}, and is always upgraded first", self.plane),
                "upgrade the plane".into(),
            ),
            Held::TooOld => (
                format!("the plane is {}, and only neighbouring versions are tested together", self.plane),
                "upgrade these hosts through the versions in between".into(),
            ),
            Held::Unfit => (
                "no package of it for these machines was imported".into(),
                "import it with pf9-plane agent import".into(),
            ),
            Held::NoWayBack => (
                "the package of the version that they run was not imported: they could not roll back".into(),
                "import that version as well".into(),
            ),
            Held::Ahead => (
                "they follow newer specs than this plane issued: it was restored from a backup, or they say what is not so".into(),
                "run pf9-plane recover".into(),
            ),
            Held::Window => ("it waits for the maintenance window".into(), by_itself),
            Held::Pinned => ("an operator chose their version by naming them".into(), whole),
            Held::ByHand => ("a person installed an older version there".into(), whole),
            Held::Away => ("they do not report, and get it when they do".into(), by_itself),
        };
        let count = hosts.len();
        let what = format!("agent {to} is a patch that {count} hosts do not get now");
        let names = gates::names(hosts.iter().copied());
        Fault::new(FaultCode::RollNotNow, what, format!("{because}: {names}")).fix(fix)
    }

    fn in_the_way(&self) -> String {
        let Some(roll) = &self.roll else {
            return String::new();
        };
        let state = match roll.state {
            State::Running => "under way",
            State::Paused => "paused",
            State::Stopped => "stopped",
            State::Cancelled => "cancelled",
            State::Done => "done",
        };
        format!("the rollout of agent {} is {state}", roll.to)
    }
}

#[cfg(test)]
mod tests;

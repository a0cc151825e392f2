//! Whose turn it is to be delivered to: pure.
//!
//! A turn is part of an outbox. Targets of the plane have theirs whenever something waits and their back-off is over.
//! Receivers of projects share [`AT_ONCE`] turns, of which one project has [`OF_PROJECT`] and one domain [`OF_DOMAIN`];
//! who has waited longest is next. So one project whose receivers are slow delays nobody, and the admin of a domain, who
//! makes as many projects as there may be, nobody of another. It takes four such domains to hold all turns; then others
//! wait for as many turns as are before theirs.
//!
//! The back-off here is that of a target that takes nothing; that of a notice that is refused alone is in `waiting`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::receivers::project_in;
use crate::people::DomainId;

/// First back-off after a failure; doubles with each further one.
const AGAIN: Duration = Duration::from_secs(2);
/// Longest back-off: a receiver that comes back gets its outbox within minutes.
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// Turns of receivers at a time: each has a connection and, while its name is looked up, a thread.
const AT_ONCE: usize = 32;
/// Of those, turns of one domain: a quarter. Where all projects are in one, eight slow ones at a time are still many.
const OF_DOMAIN: usize = 8;
/// Of those, turns of one project: a second, so that one that is slow does not delay its others.
const OF_PROJECT: usize = 2;

/// The turns of all whose outbox is not empty.
#[derive(Debug, Default)]
pub(super) struct Turns {
    of: BTreeMap<String, Turn>,
}

#[derive(Debug)]
struct Turn {
    /// Since when it may have its next one.
    due: Instant,
    fails: u32,
    has_it: bool,
    waits: Waits,
}

/// An outbox that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    /// Before that nothing of it is tried.
    pub(super) first: Option<Instant>,
    /// The domain of its project; none: it is of a target of the plane.
    pub(super) domain: Option<DomainId>,
}

/// How a turn ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// How many notices arrived.
    pub(super) arrived: usize,
    /// How many were refused, each by itself.
    pub(super) refused: usize,
    /// Why nothing more can be sent now.
    pub(super) why: Option<String>,
}

/// Turns of receivers that are under way.
#[derive(Default)]
struct Taken {
    all: usize,
    of_domain: BTreeMap<Option<DomainId>, usize>,
    of_project: BTreeMap<String, usize>,
}

impl Turns {
    /// Gives turns to those of `waiting` that are next, and says when to look again.
    pub(super) fn begin(
        &mut self,
        waiting: BTreeMap<String, Waits>,
        now: Instant,
    ) -> (Vec<String>, Option<Instant>) {
        self.of
            .retain(|name, turn| turn.has_it || waiting.contains_key(name));
        for (name, waits) in waiting {
            let new = || Turn {
                due: now,
                fails: 0,
                has_it: false,
                waits: Waits::default(),
            };
            self.of.entry(name).or_insert_with(new).waits = waits;
        }
        let mut taken = Taken::default();
        let mut ready: Vec<(Instant, String)> = Vec::new();
        let mut next: Option<Instant> = None;
        for (name, turn) in &self.of {
            let due = turn.due();
            if turn.has_it {
                if let Some(project) = project_in(name) {
                    taken.count(project, &turn.waits);
                }
            } else if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
            } else {
                ready.push((due, name.clone()));
            }
        }
        ready.sort();
        let mut begun = Vec::new();
        for (_, name) in ready {
            let Some(turn) = self.of.get_mut(&name) else {
                continue;
            };
            if let Some(project) = project_in(&name) {
                // The end of a turn brings the next look.
                if !taken.has_room(project, &turn.waits) {
                    continue;
                }
                taken.count(project, &turn.waits);
            }
            turn.has_it = true;
            begun.push(name);
        }
        (begun, next)
    }

    /// Those that get no turn before a time that is known, if nothing new comes for them; and before which nothing of
    /// their outbox is tried.
    pub(super) fn resting(&self, now: Instant) -> BTreeMap<String, Option<Instant>> {
        let rest = self.of.iter();
        let rest = rest.filter(|(_, turn)| !turn.has_it && turn.due() > now);
        rest.map(|(name, turn)| (name.clone(), turn.waits.first))
            .collect()
    }

    /// A turn is over.
    pub(super) fn end(&mut self, name: &str, ended: &Ended, now: Instant) {
        let Some(turn) = self.of.get_mut(name) else {
            return;
        };
        turn.has_it = false;
        turn.fails = match ended.why {
            Some(_) => turn.fails.saturating_add(1),
            None => 0,
        };
        turn.due = now + pause(turn.fails, AGAIN_MAX);
        // What was first was tried.
        turn.waits.first = None;
    }
}

impl Turn {
    fn due(&self) -> Instant {
        let first = self.waits.first;
        first.map_or(self.due, |first| first.max(self.due))
    }
}

impl Taken {
    fn has_room(&self, project: &str, waits: &Waits) -> bool {
        let of_domain = self.of_domain.get(&waits.domain).copied();
        let of_project = self.of_project.get(project).copied();
        self.all < AT_ONCE
            && of_domain.unwrap_or_default() < OF_DOMAIN
            && of_project.unwrap_or_default() < OF_PROJECT
    }

    fn count(&mut self, project: &str, waits: &Waits) {
        self.all += 1;
        *self.of_domain.entry(waits.domain.clone()).or_default() += 1;
        *self.of_project.entry(project.to_owned()).or_default() += 1;
    }
}

/// Back-off after this many failures in a row, at most the longest.
pub(super) fn pause(fails: u32, longest: Duration) -> Duration {
    match fails.checked_sub(1) {
        None => Duration::ZERO,
        Some(before) => AGAIN
            .saturating_mul(2u32.saturating_pow(before.min(16)))
            .min(longest),
    }
}

#[cfg(test)]
mod tests;

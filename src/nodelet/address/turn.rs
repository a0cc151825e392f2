//! Whose turn it is to have the address. Pure; time is an argument, and is that since boot.
//!
//! ```text
//!            the lease names nobody, or nobody wrote it for LEASE
//!   waits ──────────────────────── write ───────────────────────► has it until (sent + HOLD)
//!     ▲                                                             │ write every RENEW: later
//!     ├── the lease names another · the time is over ◄──────────────┤
//!     └── gone ◄── NOTICE later ── the lease says that it leaves ◄──┘ its API server is about to stop
//! ```
//!
//! A master that leaves announces it in the lease first: the others look more often from then on, so that one of them
//! has the address a moment after it is free. It does not take it back for a lease's time.
//!
//! No clock is compared with another one. The holder counts from the moment *before* it sent the write; a waiter counts
//! from the moment *after* it saw the write. So the holder always stops before the waiter starts, as long as the two
//! clocks run at about the same rate (`RATES_DIFFER_MAX`). Each write names the version of the lease that it replaces,
//! so a late one changes nothing. An absent lease has no version: another node may have held one in between. So a lease
//! without a holder is created, and waited for like a held one; deleting the lease costs the address seconds, and no
//! more. The kernel removes the address by itself at the end of that time: a program that was killed, stopped or
//! starved gives it up no later than one that runs.

use std::time::Duration;

/// The lease was not renewed for so long: its holder no longer has the address.
pub(super) const LEASE: Duration = Duration::from_secs(6);
/// How long the writer of the lease may have the address from then on.
pub(super) const HOLD: Duration = Duration::from_millis(4500);
/// How much later than the lifetime the kernel may take an address away: it looks once a second at most, and
/// the program that tells it takes a moment to start.
pub(super) const KERNEL_LATE: Duration = Duration::from_millis(1250);
/// By how much of itself the rate of a machine's clock may be wrong. Quartzes differ by a ten-thousandth
/// at most, and what corrects clocks changes their rate by a two-thousandth.
#[cfg(test)]
pub(super) const RATES_DIFFER_MAX: f64 = 0.01;
/// Time between two writes: one may be late by what etcd takes to elect a leader, and the address stays.
pub(super) const RENEW: Duration = Duration::from_secs(1);
/// Time between two looks of one who waits: the sooner it sees a write, the sooner it may take over.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// And while its holder is about to leave: what the address is away for.
pub(super) const LOOK_CLOSELY: Duration = Duration::from_millis(100);
/// Time from the word that the holder leaves until it does: everybody has looked by then.
pub(super) const NOTICE: Duration = Duration::from_millis(1200);
/// Longest a master that is asked to leave tries to say so: what its API server stops for does not wait longer.
pub(super) const LEAVING_MAX: Duration = Duration::from_secs(4);
/// Time until what was not answered is asked again.
const AGAIN: Duration = Duration::from_millis(300);

/// The lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Changes with every write.
    pub(super) version: String,
    /// The holder it names.
    pub(super) holder: Option<String>,
    /// It had a holder. (Before the first one took it, the address had been looked for on the network.)
    pub(super) proved: bool,
    /// When its holder took it, as it wrote it.
    pub(super) acquired: Option<String>,
    /// How often it passed from one to another.
    pub(super) transitions: u64,
    /// Its holder is about to give it back.
    pub(super) leaving: bool,
}

/// What to ask of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// What the lease says.
    Look,
    /// Create one, without a holder.
    Begin,
    /// To write our name, over this record.
    Write(Record),
}

/// One master's part.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    me: String,
    seen: Option<LeaseSeen>,
    until: Option<Duration>,
    look_at: Duration,
    write_at: Duration,
    leave: Option<Leave>,
}

/// How far a master has come that gives the address away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// The lease is to say so, until then.
    Says { until: Duration },
    /// It says so since this write was sent.
    Said { at: Duration },
    /// It was given back then.
    Gone { at: Duration },
}

#[derive(Clone, Debug)]
struct LeaseSeen {
    /// None: there is no lease.
    record: Option<Record>,
    /// When this very version of it was first seen.
    since: Duration,
}

impl Turn {
    /// Nothing is known. `me`: what the lease calls this master.
    pub(super) fn new(me: String) -> Self {
        Self {
            me,
            seen: None,
            until: None,
            look_at: Duration::ZERO,
            write_at: Duration::ZERO,
            leave: None,
        }
    }

    /// What to ask now, if it is time. `able`: this master could have the address.
    pub(super) fn next(&self, now: Duration, able: bool) -> Option<Ask> {
        let able = able && !self.stands_aside(now);
        match &self.seen {
            Some(seen) if able && now >= self.may_write(seen) => {
                Some(seen.record.clone().map_or(Ask::Begin, Ask::Write))
            }
            Some(_) | None => (now >= self.look_at).then_some(Ask::Look),
        }
    }

    fn may_write(&self, seen: &LeaseSeen) -> Duration {
        match self.whose(seen) {
            Whose::Mine | Whose::Nobodys => self.write_at,
            Whose::Anothers => self.write_at.max(seen.since + LEASE),
        }
    }

    /// When there is something to be asked again.
    pub(super) fn wakes(&self, now: Duration, able: bool) -> Duration {
        let able = able && !self.stands_aside(now);
        let write = self.seen.as_ref().filter(|_| able);
        let write = write.map(|seen| self.may_write(seen));
        let goes = match self.leave {
            Some(Leave::Said { at }) => Some(at + NOTICE),
            Some(Leave::Says { .. } | Leave::Gone { .. }) | None => None,
        };
        let times = [write, goes].into_iter().flatten();
        times.fold(self.look_at, Duration::min).max(now)
    }

    /// This master's API server is about to stop: another one is to have the address by then, if there is one.
    pub(super) fn leave(&mut self, now: Duration) {
        if self.leave.is_none() && self.left(now).is_some() {
            let until = now + LEAVING_MAX;
            self.leave = Some(Leave::Says { until });
            self.write_at = now;
        }
    }

    /// What is written from now on says that this master leaves.
    pub(super) fn is_leaving(&self, now: Duration) -> bool {
        match self.leave {
            Some(Leave::Says { until }) => now < until,
            Some(Leave::Said { .. }) => true,
            Some(Leave::Gone { .. }) | None => false,
        }
    }

    /// Everybody knows that this master leaves: it is to give the address back.
    pub(super) fn goes(&self, now: Duration) -> bool {
        matches!(self.leave, Some(Leave::Said { at }) if now >= at + NOTICE)
    }

    /// It has nothing left to give away: another node has it, none wants it, or it could not be announced.
    pub(super) fn has_left(&self, now: Duration) -> bool {
        match self.leave {
            Some(Leave::Says { until }) => now >= until,
            Some(Leave::Said { .. }) => self.left(now).is_none(),
            Some(Leave::Gone { .. }) => !self.stands_aside(now),
            None => true,
        }
    }

    fn stands_aside(&self, now: Duration) -> bool {
        matches!(self.leave, Some(Leave::Gone { at }) if now < at + LEASE)
    }

    /// The lease was read.
    pub(super) fn looked(&mut self, now: Duration, record: Option<Record>) {
        let version = |r: &Option<Record>| r.as_ref().map(|r| r.version.clone());
        let known = self
            .seen
            .take()
            .filter(|seen| version(&seen.record) == version(&record));
        let since = known.map_or(now, |seen| seen.since);
        let closely = record.as_ref().is_some_and(|r| r.leaving) || self.stands_aside(now);
        let seen = LeaseSeen { record, since };
        let look = if closely { LOOK_CLOSELY } else { LOOK };
        (self.look_at, self.write_at) = (now + look, now);
        if seen.record.is_some() && self.whose(&seen) != Whose::Mine {
            self.until = None;
        }
        if self.whose(&seen) == Whose::Anothers {
            self.leave = None;
        }
        self.seen = Some(seen);
    }

    /// Our name was written; `sent`: the time before it was asked for.
    pub(super) fn written(&mut self, sent: Duration, now: Duration, record: Record) {
        self.until = Some(sent + HOLD);
        (self.look_at, self.write_at) = (sent + RENEW, sent + RENEW);
        self.leave = match self.leave {
            Some(Leave::Says { .. }) if record.leaving => Some(Leave::Said { at: sent }),
            Some(says @ Leave::Says { until }) if now < until => {
                // It was on its way before: the word follows at once.
                self.write_at = now;
                Some(says)
            }
            Some(said @ Leave::Said { .. }) => Some(said),
            // Nobody wanted it, or it could not be said in time.
            Some(Leave::Says { .. } | Leave::Gone { .. }) | None => None,
        };
        self.seen = Some(LeaseSeen {
            record: Some(record),
            since: now,
        });
    }

    /// Somebody else wrote in between, or an earlier write of ours was late.
    pub(super) fn refused(&mut self, now: Duration) {
        self.seen = None;
        self.look_at = now;
    }

    /// There was no answer, or none that helps: what was asked may be so or not.
    pub(super) fn unanswered(&mut self, now: Duration) {
        (self.look_at, self.write_at) = (now + AGAIN, now + AGAIN);
    }

    /// How long this master may have the address from now on.
    pub(super) fn left(&self, now: Duration) -> Option<Duration> {
        let left = self.until?.saturating_sub(now);
        (!left.is_zero()).then_some(left)
    }

    /// For how long it has been free, as far as the lease says; `None`: it is held, or may be.
    pub(super) fn nobodys(&self, now: Duration) -> Option<Duration> {
        let seen = self.seen.as_ref()?;
        if self.left(now).is_some() {
            return None;
        }
        let holder = seen.record.as_ref().and_then(|r| r.holder.as_ref());
        // The named holder was there when the record was first seen, and is done a lease's time later.
        let over = holder.map_or(seen.since, |_| seen.since + LEASE);
        now.checked_sub(over)
    }

    /// The record that names this master, to be given back; from now on it has the address no more.
    pub(super) fn yields(&mut self, now: Duration) -> Option<Record> {
        self.until = None;
        let leaves = self.leave.take().is_some();
        self.leave = leaves.then_some(Leave::Gone { at: now });
        let seen = self.seen.take()?;
        self.look_at = now + if leaves { LOOK_CLOSELY } else { LOOK };
        let mine = self.whose(&seen) == Whose::Mine;
        seen.record.filter(|_| mine)
    }

    /// The holder that the lease names, as far as it was read.
    pub(super) fn record(&self) -> Option<&Record> {
        self.seen.as_ref()?.record.as_ref()
    }

    fn whose(&self, seen: &LeaseSeen) -> Whose {
        match seen.record.as_ref().map(|r| (&r.holder, r.proved)) {
            None | Some((None, true)) => Whose::Nobodys,
            Some((Some(holder), _)) if *holder == self.me => Whose::Mine,
            // A lease that was just created may follow one that was deleted.
            Some((Some(_), _) | (None, false)) => Whose::Anothers,
        }
    }
}

/// Whose a lease is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Mine,
    Nobodys,
    Anothers,
}

#[cfg(test)]
mod tests;

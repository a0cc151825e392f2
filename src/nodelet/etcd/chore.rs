//! The chores: a closed list, and when each is due. Pure: time is an argument.
//!
//! | chore | due |
//! |---|---|
//! | `Backup` | once in each period of the policy, at this host's own moment of it; after a failure again soon |
//! | `Prune`  | after each backup, and whenever there is more than the policy keeps |

use std::time::Duration;

use crate::model::{BACKUP_MAX, BackupPolicy, Digest, HostId, Timestamp};

/// A few hundred files of one directory.
const PRUNE_MAX: Duration = Duration::from_secs(60);
/// After a chore that failed: soon enough that a restart of etcd costs no backup, and rare enough
/// that a full disk is not written to all day.
const RETRY: Duration = Duration::from_secs(300);

/// One thing that is done for etcd beside the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chore {
    /// Takes, seals and verifies a snapshot.
    Backup,
    /// Takes backups away that are too many, and what a backup that was cut off left.
    Prune,
}

/// What the schedule decides by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Since when this master is looked at: what it has no backup for is judged by.
    pub(super) since: Option<Timestamp>,
    /// The member answers and has a leader.
    pub(super) healthy: bool,
    /// The directory of the backups cannot be read.
    pub(super) no_shelf: bool,
    /// When the newest good backup was taken.
    pub(super) last_backup: Option<Timestamp>,
    /// When this process last made one.
    pub(super) made: Option<Timestamp>,
    /// When a backup last failed; `None` after one that did not.
    pub(super) backup_failed: Option<Timestamp>,
    /// There is something to be taken away from the shelf.
    pub(super) to_prune: bool,
    /// When that last failed.
    pub(super) prune_failed: Option<Timestamp>,
}

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This, now.
    Now(Chore),
    /// Nothing before this moment, as far as is known.
    At(Timestamp),
    /// Nothing is due by time.
    Never,
}

impl Chore {
    /// Every chore; what is due at the same time is done in this order.
    pub(super) const ALL: &'static [Self] = &[Self::Backup, Self::Prune];

    /// Longest it may take; it is cut off then.
    pub(super) fn deadline(self) -> Duration {
        match self {
            Self::Backup => BACKUP_MAX,
            Self::Prune => PRUNE_MAX,
        }
    }

    /// What is done, for people.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Backup => "make a backup of etcd",
            Self::Prune => "take old backups of etcd away",
        }
    }

    /// When it is due; `None`: not by time.
    fn due(
        self,
        now: Timestamp,
        host: HostId,
        policy: &BackupPolicy,
        seen: &Seen,
    ) -> Option<Timestamp> {
        match self {
            Self::Backup => {
                let at = backup_due(now, host, policy, seen.last_backup)?;
                // A member that does not answer is asked when it does; and without the shelf nobody
                // knows when the last one was.
                let able = seen.healthy && !seen.no_shelf;
                let at = if able { at } else { at.max(later(now, RETRY)) };
                Some(after_failure(at, seen.backup_failed))
            }
            Self::Prune => seen.to_prune.then(|| after_failure(now, seen.prune_failed)),
        }
    }
}

/// What is to be done, or when to look again.
pub(super) fn next(now: Timestamp, host: HostId, policy: &BackupPolicy, seen: &Seen) -> Next {
    let due = |chore: &Chore| Some((chore.due(now, host, policy, seen)?, *chore));
    match Chore::ALL.iter().filter_map(due).min_by_key(|(at, _)| *at) {
        Some((at, chore)) if at <= now => Next::Now(chore),
        Some((at, _)) => Next::At(at),
        None => Next::Never,
    }
}

/// When the next backup is due, failures aside. Time is cut into periods; each host has its own moment
/// in them, so that the masters of a cluster do not read their databases at once, nor all clusters
/// send to one archive. The moment is the host's id's: a restart moves nothing.
pub(super) fn backup_due(
    now: Timestamp,
    host: HostId,
    policy: &BackupPolicy,
    last: Option<Timestamp>,
) -> Option<Timestamp> {
    let every = i64::from(policy.every_minutes) * 60;
    if every == 0 {
        return None;
    }
    let moment = moment(host, every);
    let begins = (now.as_second() - moment).div_euclid(every) * every + moment;
    let begins = Timestamp::from_second(begins).unwrap_or(now);
    match last {
        // One of the future was made by a clock that was wrong: it is as good as none.
        Some(last) if begins <= last && last <= now => {
            Some(later(begins, Duration::from_secs(every.unsigned_abs())))
        }
        Some(_) | None => Some(begins),
    }
}

/// The newest of these moments that the clock has seen. What is of the future was written while the clock
/// was wrong: were it the newest, a backup would be due again as soon as it is made.
pub(super) fn last(now: Timestamp, made: impl Iterator<Item = Timestamp>) -> Option<Timestamp> {
    made.filter(|at| *at <= now).max()
}

fn after_failure(due: Timestamp, failed: Option<Timestamp>) -> Timestamp {
    failed.map_or(due, |at| due.max(later(at, RETRY)))
}

fn moment(host: HostId, every: i64) -> i64 {
    let Digest(bytes) = Digest::of(host.0.as_bytes());
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    i64::try_from(u64::from_be_bytes(number) % every.unsigned_abs()).unwrap_or(0)
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    fn host(n: u128) -> HostId {
        HostId(uuid::Uuid::from_u128(n))
    }

    proptest! {
        /// However looks come, a host that succeeds makes one backup in each period and no more.
        #[test]
        fn one_backup_in_each_period(
            n in any::<u128>(), every in 5u32..2000, looks in prop::collection::vec(1i64..4000, 1..200),
        ) {
            let policy = BackupPolicy { every_minutes: every, ..BackupPolicy::default() };
            let mut seen = Seen { healthy: true, ..Seen::default() };
            let (mut now, mut made) = (1_000_000_000, Vec::new());
            for wait in looks {
                now += wait;
                match next(at(now), host(n), &policy, &seen) {
                    Next::Now(Chore::Backup) => {
                        made.push(now);
                        seen.last_backup = Some(at(now));
                    }
                    Next::At(then) => prop_assert!(then > at(now)),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            let every = i64::from(every) * 60;
            let moment = moment(host(n), every);
            let mut periods: Vec<_> = made.iter().map(|s| (s - moment).div_euclid(every)).collect();
            let all = periods.len();
            periods.dedup();
            prop_assert_eq!(periods.len(), all, "two in one period");
        }

        /// After a failure nothing is tried for a while, and then it is.
        #[test]
        fn a_failure_is_tried_again_after_a_pause(n in any::<u128>(), failed in 0i64..1_000_000) {
            let policy = BackupPolicy::default();
            let seen = Seen {
                healthy: true,
                backup_failed: Some(at(failed)),
                ..Seen::default()
            };
            let again = failed + i64::try_from(RETRY.as_secs()).expect("seconds");
            let early = next(at(again - 1), host(n), &policy, &seen);
            prop_assert_eq!(early, Next::At(at(again)));
            prop_assert_eq!(next(at(again), host(n), &policy, &seen), Next::Now(Chore::Backup));
        }
    }

    #[test]
    fn backups_of_the_future_do_not_make_another_one_due_for_ever() {
        let policy = BackupPolicy::default();
        let mut seen = Seen {
            healthy: true,
            ..Seen::default()
        };
        let shelf = [at(5_000_000), at(9_000_000)];
        let now = at(1_000_000);
        seen.last_backup = last(now, shelf.into_iter().chain(seen.made));
        assert_eq!(next(now, host(1), &policy, &seen), Next::Now(Chore::Backup));
        // What was made is pruned at once, for those of the future are newer by their names.
        seen.made = Some(now);
        seen.last_backup = last(now, shelf.into_iter().chain(seen.made));
        assert!(matches!(next(now, host(1), &policy, &seen), Next::At(_)));
    }

    #[test]
    fn masters_have_moments_of_their_own() {
        let moments: std::collections::BTreeSet<_> =
            (0..20).map(|n| moment(host(n), 1800) / 180).collect();
        assert!(moments.len() > 5, "{moments:?}");
    }

    #[test]
    fn a_backup_of_the_future_is_none_and_no_policy_means_none() {
        let policy = BackupPolicy::default();
        let seen = Seen {
            healthy: true,
            last_backup: Some(at(2_000_000)),
            ..Seen::default()
        };
        let next_of =
            |policy: &BackupPolicy, seen: &Seen| next(at(1_000_000), host(1), policy, seen);
        assert_eq!(next_of(&policy, &seen), Next::Now(Chore::Backup));
        let never = BackupPolicy {
            every_minutes: 0,
            ..policy.clone()
        };
        assert_eq!(next_of(&never, &seen), Next::Never);
        // The member does not answer: later, and pruning goes on.
        let mut seen = Seen {
            to_prune: true,
            ..Seen::default()
        };
        assert_eq!(next_of(&policy, &seen), Next::Now(Chore::Prune));
        seen.to_prune = false;
        assert!(matches!(next_of(&policy, &seen), Next::At(_)));
    }
}

//! The chores: a closed list, and when each is due. Pure: time is an argument.
//!
//! | chore | due |
//! |---|---|
//! | `Backup` | once in each period of the policy, at this host's own moment of it; before a roll takes another etcd; after a failure again soon |
//! | `Archive` | after each backup, and once to see what is there, where the policy names an archive |
//! | `List` | by order only |
//! | `Drill`  | once in each period of days, at this host's own moment of it, where the plane or a key on the master opens a backup; or by hand |
//! | `Prune`  | after each backup, and whenever there is more than the policy keeps |
//! | `Heal`   | when the database is full and it is this master's turn to do something about it |
//! | `Defragment` | when it is worth it and this member's turn |

use std::time::Duration;

use crate::host::etcd::DEFRAGMENT;
use crate::model::{BACKUP_MAX, BackupPolicy, Digest, HostId, Timestamp};

/// Less than a backup's period: what was interrupted is continued the next time, and backups are not kept waiting.
const ARCHIVE_MAX: Duration = Duration::from_secs(20 * 60);
/// A few hundred listings, each of which answers within a second on a healthy service.
const LIST_MAX: Duration = Duration::from_secs(5 * 60);
/// Opening, restoring and starting have bounds of their own.
const DRILL_MAX: Duration = Duration::from_secs(60 * 60);
/// A few hundred files of one directory.
const PRUNE_MAX: Duration = Duration::from_secs(60);
/// Defragmentation, the longest of what upkeep does, and the questions around it.
const UPKEEP_MAX: Duration = Duration::from_secs(DEFRAGMENT.as_secs() + 60);
/// After a chore that failed: soon enough that a restart of etcd costs no backup, and rare enough
/// that a full disk is not written to all day.
const RETRY: Duration = Duration::from_secs(300);

/// After a drill for which the plane was not there, or the machine had no room or memory: a day without it
/// costs none.
const RETRY_DRILL: Duration = Duration::from_secs(3600);

/// One thing that is done for etcd beside the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chore {
    /// Takes, seals and verifies a snapshot.
    Backup,
    /// Copies backups to the archive.
    Archive,
    /// Looks what all hosts have in the archive.
    List,
    /// Restores the newest backup into a scratch etcd.
    Drill,
    /// Takes backups away that are too many, and what a backup that was interrupted left.
    Prune,
    /// Does the next thing that brings a full database out of that.
    Heal,
    /// Returns the unused space of this member's file.
    Defragment,
}

/// What the schedule decides by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ChoreSeen {
    /// Since when this master is looked at: what it has no backup for is judged by.
    pub(super) since: Option<Timestamp>,
    /// The member answers and has a leader.
    pub(super) healthy: bool,
    /// The directory of the backups cannot be read.
    pub(super) no_shelf: bool,
    /// When the newest good backup was taken.
    pub(super) last_backup: Option<Timestamp>,
    /// Since when a roll waits for one that is younger than that.
    pub(super) wanted: Option<Timestamp>,
    /// When the oldest of the good ones was taken.
    pub(super) first_backup: Option<Timestamp>,
    /// When this process last made one.
    pub(super) made: Option<Timestamp>,
    /// When a backup last failed; `None` after one that did not.
    pub(super) backup_failed: Option<Timestamp>,
    /// The archive that the policy names, if any: when the newest backup that is there was taken.
    pub(super) archive: Option<Option<Timestamp>>,
    /// It was looked at since this process or the policy began.
    pub(super) archive_looked: bool,
    /// When copying there last failed.
    pub(super) archive_failed: Option<Timestamp>,
    /// When the last fire drill began, however it ended.
    pub(super) last_drill: Option<Timestamp>,
    /// When one that was due could not be tried, or was interrupted.
    pub(super) drill_failed: Option<Timestamp>,
    /// There is something to be removed from the shelf.
    pub(super) to_prune: bool,
    /// When that last failed.
    pub(super) prune_failed: Option<Timestamp>,
    /// The database is full, and it is this master's turn.
    pub(super) to_heal: bool,
    /// Defragmentation is worth it, and it is this member's turn.
    pub(super) to_defragment: bool,
    /// When one of the two last failed.
    pub(super) upkeep_failed: Option<Timestamp>,
    /// The host is in maintenance.
    pub(super) rests: bool,
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
    pub(super) const ALL: &'static [Self] = &[
        Self::Heal,
        Self::Backup,
        Self::Archive,
        Self::List,
        Self::Prune,
        Self::Defragment,
        Self::Drill,
    ];

    /// It changes nothing of the node: it is done in maintenance as well. By order of root everything is.
    fn goes_on(self) -> bool {
        match self {
            Self::Backup | Self::Archive | Self::List | Self::Prune => true,
            Self::Heal | Self::Defragment | Self::Drill => false,
        }
    }

    /// Longest it may take; it is interrupted then.
    pub(super) fn deadline(self) -> Duration {
        match self {
            Self::Backup => BACKUP_MAX,
            Self::Archive => ARCHIVE_MAX,
            Self::List => LIST_MAX,
            Self::Drill => DRILL_MAX,
            Self::Prune => PRUNE_MAX,
            Self::Heal | Self::Defragment => UPKEEP_MAX,
        }
    }

    /// What is done, for people.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Backup => "back up etcd",
            Self::Archive => "copy backups of etcd to the archive",
            Self::List => "list the backup archive",
            Self::Drill => "restore the newest backup of etcd in a fire drill",
            Self::Prune => "prune old backups of etcd",
            Self::Heal => "free space in etcd",
            Self::Defragment => "defragment etcd's database",
        }
    }

    /// When it is due; `None`: not by time.
    fn due(
        self,
        now: Timestamp,
        host: HostId,
        policy: &BackupPolicy,
        seen: &ChoreSeen,
    ) -> Option<Timestamp> {
        match self {
            Self::Backup => {
                let wanted = seen
                    .wanted
                    .filter(|at| seen.last_backup.is_none_or(|last| last < *at));
                let at = match wanted {
                    Some(at) => at.min(now),
                    None => backup_due(now, host, policy, seen.last_backup)?,
                };
                // A member that does not answer is asked when it does; and without the shelf the time of the last one
                // is unknown.
                let able = seen.healthy && !seen.no_shelf;
                let at = if able { at } else { at.max(later(now, RETRY)) };
                Some(after_failure(at, seen.backup_failed))
            }
            Self::Archive => {
                let missing = match (seen.last_backup, seen.archive?) {
                    (Some(last), Some(there)) => there < last,
                    (Some(_), None) => true,
                    // After a disk was lost, what is left is all there is: an operator has to be told.
                    (None, _) => !seen.archive_looked,
                };
                missing.then(|| after_failure(now, seen.archive_failed))
            }
            Self::Drill => {
                let every = policy.drills_every()?;
                // A master that never made one has its first at its own moment, not with its first backup.
                let since = seen.last_drill.or(seen.first_backup)?;
                // One that failed is as much of an answer as one that did not; one that was not tried is none.
                let at = due_in_period(now, host, every, Some(since))?;
                Some(after(at, seen.drill_failed, RETRY_DRILL))
            }
            Self::List => None,
            Self::Prune => seen.to_prune.then(|| after_failure(now, seen.prune_failed)),
            Self::Heal => seen.to_heal.then(|| after_failure(now, seen.upkeep_failed)),
            Self::Defragment => seen
                .to_defragment
                .then(|| after_failure(now, seen.upkeep_failed)),
        }
    }
}

/// What to do, or when to look again.
pub(super) fn next(now: Timestamp, host: HostId, policy: &BackupPolicy, seen: &ChoreSeen) -> Next {
    let due = |chore: &Chore| Some((chore.due(now, host, policy, seen)?, *chore));
    let may = Chore::ALL.iter().filter(|c| c.goes_on() || !seen.rests);
    match may.filter_map(due).min_by_key(|(at, _)| *at) {
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
    due_in_period(now, host, i64::from(policy.every_minutes) * 60, last)
}

/// When that is due which is done once in each period of so many seconds; 0: never.
fn due_in_period(
    now: Timestamp,
    host: HostId,
    every: i64,
    last: Option<Timestamp>,
) -> Option<Timestamp> {
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
    after(due, failed, RETRY)
}

fn after(due: Timestamp, failed: Option<Timestamp>, pause: Duration) -> Timestamp {
    failed.map_or(due, |at| due.max(later(at, pause)))
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

/// Whether etcd may answer nobody while this is done, in the words of the status: its file is copied.
pub fn halts(chore: &str) -> bool {
    let halting = [Chore::Heal, Chore::Defragment];
    halting.iter().any(|one| one.words() == chore)
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
            let mut seen = ChoreSeen { healthy: true, ..ChoreSeen::default() };
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
            let seen = ChoreSeen {
                healthy: true,
                backup_failed: Some(at(failed)),
                ..ChoreSeen::default()
            };
            let again = failed + i64::try_from(RETRY.as_secs()).expect("seconds");
            let early = next(at(again - 1), host(n), &policy, &seen);
            prop_assert_eq!(early, Next::At(at(again)));
            prop_assert_eq!(next(at(again), host(n), &policy, &seen), Next::Now(Chore::Backup));
        }
    }

    #[test]
    fn a_roll_has_its_own_backup_whatever_the_schedule_says() {
        let never = BackupPolicy {
            every_minutes: 0,
            ..BackupPolicy::default()
        };
        for policy in [BackupPolicy::default(), never] {
            let now = at(1_000_000);
            let mut seen = ChoreSeen {
                healthy: true,
                last_backup: Some(at(999_998)),
                ..ChoreSeen::default()
            };
            let due =
                |seen: &ChoreSeen| next(now, host(1), &policy, seen) == Next::Now(Chore::Backup);
            assert!(!due(&seen), "there is one of this period");
            seen.wanted = Some(at(999_999));
            assert!(due(&seen));
            seen.last_backup = Some(at(999_999));
            assert!(!due(&seen), "it is there");
        }
    }

    #[test]
    fn backups_of_the_future_do_not_make_another_one_due_for_ever() {
        let policy = BackupPolicy::default();
        let mut seen = ChoreSeen {
            healthy: true,
            ..ChoreSeen::default()
        };
        let shelf = [at(5_000_000), at(9_000_000)];
        let now = at(1_000_000);
        seen.last_backup = last(now, shelf.into_iter().chain(seen.made));
        assert_eq!(next(now, host(1), &policy, &seen), Next::Now(Chore::Backup));
        // A new one may be pruned at once: those with a future date in their names count as newer.
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
        let seen = ChoreSeen {
            healthy: true,
            last_backup: Some(at(2_000_000)),
            ..ChoreSeen::default()
        };
        let next_of =
            |policy: &BackupPolicy, seen: &ChoreSeen| next(at(1_000_000), host(1), policy, seen);
        assert_eq!(next_of(&policy, &seen), Next::Now(Chore::Backup));
        let never = BackupPolicy {
            every_minutes: 0,
            ..policy.clone()
        };
        assert_eq!(next_of(&never, &seen), Next::Never);
        // The member does not answer: later, and pruning continues.
        let mut seen = ChoreSeen {
            to_prune: true,
            ..ChoreSeen::default()
        };
        assert_eq!(next_of(&policy, &seen), Next::Now(Chore::Prune));
        seen.to_prune = false;
        assert!(matches!(next_of(&policy, &seen), Next::At(_)));
    }

    #[test]
    fn the_second_place_is_due_while_the_newest_is_not_there() {
        let policy = BackupPolicy::default();
        let now = 1_000_000_000;
        let due = |last: Option<i64>, archive: Option<Option<i64>>, failed: Option<i64>| {
            let seen = ChoreSeen {
                healthy: true,
                last_backup: last.map(at),
                archive: archive.map(|there| there.map(at)),
                archive_failed: failed.map(at),
                ..ChoreSeen::default()
            };
            Chore::Archive.due(at(now), host(1), &policy, &seen)
        };
        assert_eq!(due(Some(now), None, None), None, "the policy names none");
        assert_eq!(due(None, Some(None), None), Some(at(now)), "what is there?");
        let looked = ChoreSeen {
            archive: Some(None),
            archive_looked: true,
            ..ChoreSeen::default()
        };
        let again = Chore::Archive.due(at(now), host(1), &policy, &looked);
        assert_eq!(again, None, "there is nothing to copy");
        assert_eq!(due(Some(now), Some(None), None), Some(at(now)));
        assert_eq!(due(Some(now), Some(Some(now - 1)), None), Some(at(now)));
        assert_eq!(due(Some(now), Some(Some(now)), None), None);
        let pause = i64::try_from(RETRY.as_secs()).expect("seconds");
        assert_eq!(due(Some(now), Some(None), Some(now)), Some(at(now + pause)));
    }

    #[test]
    fn a_drill_is_due_where_somebody_can_open_a_backup() {
        const DAY: i64 = 86_400;
        let now = 1_000_000_000;
        let due = |opens: BackupPolicy, days: u32, oldest: Option<i64>, drill: Option<i64>| {
            let policy = BackupPolicy {
                drill_every_days: days,
                ..opens
            };
            let seen = ChoreSeen {
                first_backup: oldest.map(at),
                last_drill: drill.map(at),
                ..ChoreSeen::default()
            };
            let due = Chore::Drill.due(at(now), host(1), &policy, &seen);
            due.map(|due| due.as_second() <= now)
        };
        let key = || BackupPolicy {
            drill_key: Some("/k".into()),
            ..BackupPolicy::default()
        };
        let plane = || BackupPolicy {
            plane_recipient: Some("age1".into()),
            ..BackupPolicy::default()
        };
        let old = Some(now - 8 * DAY);
        assert_eq!(
            due(BackupPolicy::default(), 7, old, None),
            None,
            "nobody can"
        );
        for opens in [key(), plane()] {
            assert_eq!(due(opens.clone(), 0, old, None), None);
            assert_eq!(
                due(opens.clone(), 7, None, None),
                None,
                "there is nothing to try"
            );
            assert_eq!(due(opens.clone(), 7, old, None), Some(true));
            assert_eq!(due(opens.clone(), 7, old, Some(now)), Some(false));
            assert_eq!(due(opens, 7, old, Some(now - 8 * DAY)), Some(true));
        }
        let told = BackupPolicy::default().drill_every_days;
        assert_eq!(due(plane(), told, old, None), Some(true), "without a word");
    }

    #[test]
    fn a_new_master_tries_nothing_with_its_first_backup_and_one_that_could_not_is_tried_within_hours()
     {
        let policy = BackupPolicy {
            plane_recipient: Some("age1".into()),
            ..BackupPolicy::default()
        };
        let every = i64::from(policy.drill_every_days) * 86_400;
        let now = moment(host(1), every) + 100 * every + 5;
        let seen = ChoreSeen {
            first_backup: Some(at(now - 1)),
            ..ChoreSeen::default()
        };
        let due = |now: i64, seen: &ChoreSeen| Chore::Drill.due(at(now), host(1), &policy, seen);
        assert_eq!(
            due(now, &seen),
            Some(at(now - 5 + every)),
            "at its own moment"
        );
        // That moment passed between two looks.
        let late = now + every;
        assert_eq!(due(late, &seen), Some(at(late - 5)));
        let failed = ChoreSeen {
            drill_failed: Some(at(late)),
            ..seen
        };
        let pause = i64::try_from(RETRY_DRILL.as_secs()).expect("seconds");
        assert_eq!(due(late, &failed), Some(at(late + pause)));
    }

    #[test]
    fn a_full_database_goes_before_everything_and_waits_after_a_failure() {
        let policy = BackupPolicy::default();
        let mut seen = ChoreSeen {
            healthy: true,
            to_heal: true,
            to_defragment: true,
            ..ChoreSeen::default()
        };
        let now = at(1_000_000);
        assert_eq!(
            next(
                now,
                host(1),
                &policy,
                &ChoreSeen {
                    last_backup: Some(now),
                    ..seen.clone()
                }
            ),
            Next::Now(Chore::Heal)
        );
        seen.upkeep_failed = Some(now);
        assert_eq!(next(now, host(1), &policy, &seen), Next::Now(Chore::Backup));
        let later = later(now, RETRY);
        seen = ChoreSeen {
            to_heal: false,
            last_backup: Some(later),
            ..seen
        };
        assert_eq!(
            next(later, host(1), &policy, &seen),
            Next::Now(Chore::Defragment)
        );
    }
}

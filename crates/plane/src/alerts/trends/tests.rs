use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::alerts::Board;
use crate::alerts::facts::tests::at;
use crate::alerts::verbs::tests::world;
use crate::compute::tests::{host, host_row};
use crate::records::HOSTS;
use crate::recover::tests::reports;
use pf9_hostagent::model::{DaemonHealth, DiskHealth, EtcdStatus, Role};

const FEWEST: usize = series::WINDOWS[0];

fn of(kind: Kind) -> Of {
    let part = "/var/lib".into();
    Of { kind, part }
}

/// One share per slot; the forecast after each of them.
fn follow(kind: Kind, shares: impl IntoIterator<Item = f64>) -> Vec<Option<Foreseen>> {
    let mut series = Series::new(of(kind));
    let mut all = Vec::new();
    for (slot, share) in (1000u32..).zip(shares) {
        series.push(slot, (share * f64::from(WHOLE)) as u16);
        all.push(series.foreseen());
    }
    all
}

fn last(kind: Kind, shares: impl IntoIterator<Item = f64>) -> Option<Foreseen> {
    follow(kind, shares).pop().flatten()
}

proptest! {
    // Each case is a few hundred fits.
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Steady growth is forecast to the day, although it strays a little and one value is wrong.
    #[test]
    fn steady_growth_is_forecast_to_the_day(
        n in FEWEST..80,
        a_day in 0.02f64..0.2,
        days_left in 0.5f64..6.0,
        strays in prop::collection::vec(-0.04f64..0.04, 80),
        (wrong, nonsense) in (0usize..80, 0.0f64..1.3),
    ) {
        let slope = a_day / 4.0;
        let begin = 1.0 - slope * (days_left * 4.0 + n as f64 - 1.0);
        prop_assume!(begin >= 0.0);
        let mut shares: Vec<f64> = (0..n).map(|i| begin + slope * (i as f64 + strays[i])).collect();
        // The newest may be the wrong one as well; that costs a slot.
        if let Some(share) = shares.get_mut(wrong).filter(|_| wrong + 5 < n || wrong >= n) {
            *share = nonsense;
        }
        let foreseen = last(Kind::Bytes, shares.iter().copied());
        let foreseen = foreseen.ok_or_else(|| TestCaseError::fail("it is not foreseen"))?;
        let ahead = f64::from(foreseen.slot) - 1000.0 - (n as f64 - 1.0);
        prop_assert!((ahead - days_left * 4.0).abs() <= 4.0, "{} slots ahead, {} is right", ahead, days_left * 4.0);
        prop_assert!((f64::from(foreseen.a_day) / f64::from(WHOLE) / a_day - 1.0).abs() < 0.2);
    }

    /// Noise around a level, however large, is no trend; nor is a falling series.
    #[test]
    fn noise_and_falling_series_give_no_forecast(
        level in 0.1f64..0.8,
        a_day in -0.1f64..0.0,
        noise in prop::collection::vec(-0.1f64..0.1, 100),
    ) {
        let level_at = |i: usize| (level + a_day / 4.0 * i as f64).max(0.0);
        let shares = noise.iter().enumerate().map(|(i, n)| (level_at(i) + n).max(0.0));
        prop_assert!(follow(Kind::Inodes, shares).iter().all(Option::is_none));
    }

    /// What is emptied regularly gives no forecast from the second time on, however long it takes to fill.
    #[test]
    fn what_is_emptied_regularly_gives_no_forecast(
        (bottom, top) in (0.0f64..0.4, 0.6f64..0.95),
        every in 2usize..80,
        phase in 0usize..80,
        strays in prop::collection::vec(-0.01f64..0.01, 320),
    ) {
        let share = |i: usize| {
            let up = ((i + phase) % every) as f64 / every as f64;
            (bottom + (top - bottom) * up + strays[i]).max(0.0)
        };
        // Two whole cycles of filling, and the one in progress at the beginning.
        let learned = every * 3;
        let all = follow(Kind::Bytes, (0..320).map(share));
        prop_assert!(all.iter().skip(learned).all(Option::is_none));
    }

    /// A host may report anything at any time, or nothing: what is kept stays small, and survives storing and reading.
    #[test]
    fn what_is_kept_of_a_host_is_bounded(
        said in prop::collection::vec((0u32..60, prop::collection::vec((".{0,300}", any::<u16>()), 0..40)), 0..60),
    ) {
        let (mut kept, mut slot) = (Kept::default(), 1000);
        for (silent, highest) in said {
            slot += silent;
            let highest = highest.into_iter().take(SERIES_MAX);
            let highest = highest.map(|(name, share)| (Of { kind: Kind::Memory, part: part(&name) }, share));
            kept.take(Closed { slot, highest: highest.collect() });
        }
        let row = serde_json::to_vec(&kept).expect("json");
        prop_assert!(row.len() <= SERIES_MAX * 800, "{} bytes", row.len());
        prop_assert_eq!(serde_json::from_slice::<Kept>(&row).expect("json"), kept);
    }
}

#[test]
fn too_few_values_give_no_forecast() {
    let rising = |n: usize| (0..n).map(|i| 0.6 + 0.01 * i as f64);
    assert_eq!(last(Kind::Etcd, rising(FEWEST - 1)), None);
    assert!(last(Kind::Etcd, rising(FEWEST)).is_some());
    // Nor as many over a time of which most is unknown.
    let mut series = Series::new(of(Kind::Etcd));
    for (n, share) in rising(FEWEST - 1).enumerate() {
        series.push(1000 + n as u32 * 3, (share * f64::from(WHOLE)) as u16);
    }
    assert_eq!(series.foreseen(), None);
}

#[test]
fn one_deposit_and_growth_that_stopped_give_no_forecast() {
    // An upgrade adds a fifth within a day, on a level that creeps.
    let once = |i: usize| 0.4 + 0.0001 * i as f64 + if i >= 10 { 0.3 } else { 0.0 };
    let all = follow(Kind::Bytes, (0..48).map(once));
    assert!(all.iter().all(Option::is_none));
    // It grew for a week, and stopped a day ago.
    let ends = (0..32).map(|i: u32| 0.2 + 0.02 * f64::from(i.min(27)));
    let all = follow(Kind::Bytes, ends);
    assert!(all[27].is_some(), "while it grew it was foreseen");
    assert_eq!(all[31], None);
}

#[test]
fn growth_after_a_level_time_is_forecast_after_four_days() {
    let begins = |i: usize| 0.3 + 0.02 * i.saturating_sub(40) as f64;
    let all = follow(Kind::Bytes, (0..60).map(begins));
    assert!(all[..40].iter().all(Option::is_none));
    let first = all.iter().position(Option::is_some).expect("foreseen");
    assert!(first <= 40 + FEWEST, "after {} slots", first - 40);
    let foreseen = all[59].expect("foreseen");
    assert_eq!(
        foreseen.slot,
        1000 + 40 + 35,
        "at 0.3 + 35 times 0.02 it is full"
    );
}

#[test]
fn memory_that_only_a_restart_frees_is_reported_each_time() {
    let grows = |i: usize| 0.1 + 0.02 * (i % 40) as f64;
    let all = follow(Kind::Memory, (0..160).map(grows));
    assert!(all[130..].iter().any(Option::is_some));
    let disk = follow(Kind::Bytes, (0..160).map(grows));
    assert!(disk[90..].iter().all(Option::is_none));
}

#[test]
fn a_wrong_clock_costs_only_the_stored_series() {
    let mut kept = Kept::default();
    let closed = |slot: u32| Closed {
        slot,
        highest: vec![(of(Kind::Bytes), 1)],
    };
    kept.take(closed(9_000_000));
    for slot in 1000..1000 + FEWEST as u32 {
        let share = 25_000 + (slot - 1000) as u16 * 1000;
        kept.take(Closed {
            slot,
            highest: vec![(of(Kind::Bytes), share)],
        });
    }
    assert_eq!(kept.foreseen().len(), 1);
    // Back by an hour: nothing is counted twice.
    let before = kept.clone();
    kept.take(closed(1003));
    assert_eq!(kept, before);
}

#[test]
fn what_a_host_no_longer_reports_gives_no_forecast() {
    let mut kept = Kept::default();
    let said = |kind, slot: u32| (of(kind), 30_000 + (slot - 1000) as u16 * 800);
    for slot in 1000..1020 {
        let highest = vec![said(Kind::Bytes, slot), said(Kind::Memory, slot)];
        kept.take(Closed { slot, highest });
    }
    assert_eq!(kept.foreseen().len(), 2);
    let highest = vec![said(Kind::Memory, 1020)];
    kept.take(Closed {
        slot: 1020,
        highest,
    });
    let left = kept.foreseen();
    assert_eq!(left.len(), 1, "it was unmounted: {left:?}");
    assert_eq!(left[0].0.kind, Kind::Memory);
}

#[test]
fn a_series_is_a_few_hundred_bytes() {
    let mut kept = Kept::default();
    for slot in 0..200u32 {
        let share = |n: u32| (n * 2_000 + slot % 48 * 500) as u16;
        let highest = (0..8).map(|n| {
            let part = "pf9-hostagent.service".into();
            let kind = [Kind::Bytes, Kind::Inodes, Kind::Etcd, Kind::Memory][n as usize % 4];
            let part = if n < 4 { part } else { format!("/mnt/{n}") };
            (Of { kind, part }, share(n))
        });
        kept.take(Closed {
            slot: 100_000 + slot,
            highest: highest.collect(),
        });
    }
    assert_eq!(kept.series.len(), 8);
    let row = serde_json::to_vec(&kept).expect("json");
    assert!(row.len() <= 8 * 330, "{} bytes", row.len());
}

#[test]
fn shares_are_of_what_there_is() {
    let mut status = reports(
        1,
        Some((Role::Master, pf9_hostagent::model::ClusterId::random())),
    );
    status.inventory.memory_bytes = 1000;
    status.health.disks = vec![DiskHealth {
        path: "/var/lib".into(),
        total_bytes: 100,
        available_bytes: 25,
        total_inodes: 0,
        free_inodes: 0,
    }];
    let daemon = |unit: &str, memory_bytes: u64, limit_bytes: u64| DaemonHealth {
        unit: unit.into(),
        memory_bytes,
        limit_bytes,
    };
    status.health.daemons = vec![
        daemon("a", 50, 100),
        daemon("b", 50, 0),
        daemon("c", u64::MAX, 1),
    ];
    status.node.as_mut().expect("node").etcd = Some(EtcdStatus {
        db_in_use_bytes: 3,
        quota_bytes: 4,
        fsync_p99_us: Some(10_000),
        ..EtcdStatus::default()
    });
    let told: Vec<(Kind, String, u16)> = said(&status)
        .into_iter()
        .map(|(of, share)| (of.kind, of.part, share))
        .collect();
    assert_eq!(
        told,
        [
            (Kind::Bytes, "/var/lib".into(), 37_500),
            (Kind::Etcd, String::new(), 37_500),
            (Kind::Sync, String::new(), 5_000),
            (Kind::Memory, "a".into(), 25_000),
            (Kind::Memory, "b".into(), 2_500),
            (Kind::Memory, "c".into(), u16::MAX - 1),
        ]
    );
}

/// From reports to forecasts, with the plane restarted in the middle, and removed with the host.
#[test]
fn trends_outlive_the_plane_and_are_removed_with_the_host() {
    let world = world();
    let row = host_row(1, None);
    world.at(0, |c| Ok(c.put(&HOSTS, &host(1).to_string(), &row)?));
    let mut status = reports(1, None);
    let mut report = |board: &Board, slot: i64, used: u64| {
        status.health.disks = vec![DiskHealth {
            path: "/var/lib".into(),
            total_bytes: 1000,
            available_bytes: 1000 - used,
            total_inodes: 0,
            free_inodes: 0,
        }];
        board.heard(host(1), &status, at(slot * SLOT_S + 60));
        for (host, closed) in board.closed(10) {
            let foreseen = world.at(0, |c| keep(c, host, closed));
            board.foresee(host, foreseen);
        }
    };
    let foreseen = |board: &Board| {
        let inner = board.inner();
        let heard = inner.heard.get(&host(1));
        heard.map(|h| h.trends.foreseen.clone()).unwrap_or_default()
    };
    let mut board = Board::default();
    for slot in 0..30 {
        if slot == 15 {
            board = Board::default();
        }
        // It is emptied each time before the last report of a slot: the maximum counts.
        report(&board, slot, 400 + slot.unsigned_abs() * 15);
        report(&board, slot, 10);
    }
    let all = foreseen(&board);
    assert_eq!(all.len(), 1, "{all:?}");
    let (rule, part, urgency, why) = told(host(1), &all[0].0, &all[0].1, at(30 * SLOT_S));
    assert_eq!(
        (rule, part.as_str(), urgency),
        (Rule::DiskFilling, "/var/lib", Urgency::Low)
    );
    let day = end_of(host(1), all[0].1.slot)
        .strftime("%Y-%m-%d")
        .to_string();
    assert_eq!(
        why,
        format!("82 % of its bytes are used, growing by 6.0 % a day: 100 % on {day}")
    );
    let soon = end_of(host(1), all[0].1.slot) - SignedDuration::from_hours(47);
    assert_eq!(told(host(1), &all[0].0, &all[0].1, soon).2, Urgency::High);
    // The next run of the plane begins with what was stored.
    let read = world.store.read().expect("read");
    let kept = read
        .get(&TRENDS, &host(1).to_string())
        .expect("row")
        .expect("row");
    assert_eq!(kept.foreseen(), all);
    world.at(0, |c| forget(c, host(1)));
    let read = world.store.read().expect("read");
    assert_eq!(read.get(&TRENDS, &host(1).to_string()).expect("row"), None);
    // Nothing is kept for a host that is gone.
    let closed = Closed {
        slot: 1,
        highest: vec![(of(Kind::Bytes), 1)],
    };
    assert_eq!(world.at(0, |c| keep(c, host(2), closed)), []);
    let read = world.store.read().expect("read");
    assert_eq!(read.get(&TRENDS, &host(2).to_string()).expect("row"), None);
    assert_eq!(json!(Kept::default()), json!({"series": []}));
}

/// A host may report anything: none of the three places where that could grow does.
#[test]
fn series_per_host_are_bounded_and_the_newest_stay() {
    let mut status = reports(1, None);
    status.health.disks = (0..SERIES_MAX)
        .map(|n| DiskHealth {
            path: format!("/mnt/{n}"),
            total_bytes: 100,
            available_bytes: 50,
            total_inodes: 100,
            free_inodes: 50,
        })
        .collect();
    assert_eq!(said(&status).len(), SERIES_MAX, "of one status");

    let name = |n: usize| Of {
        kind: Kind::Bytes,
        part: format!("/mnt/{n}"),
    };
    let mut watched = Watched::default();
    assert_eq!(watched.hear(1, Vec::new()), None);
    for n in 0..SERIES_MAX * 2 {
        assert_eq!(watched.hear(1, vec![(name(n), 7)]), None);
    }
    let closed = watched.hear(2, Vec::new()).expect("it is over");
    assert_eq!(closed.highest.len(), SERIES_MAX, "of one slot");

    let mut kept = Kept::default();
    for (slot, from) in [(1000, 0), (1001, SERIES_MAX)] {
        let highest = (from..from + SERIES_MAX).map(|n| (name(n), 7)).collect();
        kept.take(Closed { slot, highest });
    }
    assert_eq!(kept.series.len(), SERIES_MAX, "of all slots");
    let newest = |n: &Series| n.of.part.trim_start_matches("/mnt/").parse::<usize>();
    assert!(
        kept.series
            .iter()
            .all(|s| newest(s).is_ok_and(|n| n >= SERIES_MAX))
    );
}

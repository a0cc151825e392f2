use super::*;
use crate::alerts::Held;
use crate::alerts::engine::Notice;
use crate::alerts::facts::tests::at;
use crate::alerts::found::tests::glance;
use crate::alerts::verbs::tests::{firing, world};
use crate::alerts::{Board, Rule, Subject};
use crate::compute::tests::{host, host_row};
use crate::records::HOSTS;
use crate::recover::tests::reports;
use pf9_hostagent::model::{DaemonHealth, EtcdStatus, HostStatus, Role};

#[test]
fn only_changed_alerts_are_written() {
    let (mut before, mut now) = (Book::new(), Book::new());
    let mut alert = firing(1, 0);
    now.insert(alert.key.clone(), alert.clone());
    assert_eq!(changed(&before, &now).len(), 1);
    before = now.clone();
    assert_eq!(changed(&before, &now), []);
    // The time it was last held changes with every pass, and causes no write.
    alert.held_at = Some(at(5));
    now.insert(alert.key.clone(), alert.clone());
    assert_eq!(changed(&before, &now), []);
    let by = Held::Maintenance {
        reason: "r".into(),
        until: at(9),
    };
    alert.held = Some(by);
    now.insert(alert.key.clone(), alert.clone());
    assert_eq!(changed(&before, &now).len(), 1);
    alert.fired_at = None;
    now.insert(alert.key.clone(), alert);
    assert_eq!(
        changed(&before, &now),
        [],
        "what may become one is not kept"
    );
}

/// A host that dies in maintenance is missed when the maintenance would be over by the plane's clock.
#[test]
fn a_reported_maintenance_is_trusted_for_its_longest_duration() {
    let board = Board::default();
    let mut status = reports(
        1,
        Some((pf9_hostagent::model::Role::Worker, ClusterId::random())),
    );
    let hour = 3600;
    let mut say = |until: i64| {
        status.node.as_mut().expect("node").maintenance =
            Some(pf9_hostagent::model::MaintenanceStatus {
                by: pf9_hostagent::model::MaintenanceBy::Root,
                reason: "a disk".into(),
                since: at(0),
                until: at(until),
            });
        board.heard(host(1), &status, at(0));
    };
    let hosts = [glance(1, None)];
    let rests = |now: i64| {
        let inner = board.inner();
        let world = World {
            now: at(now),
            started: at(0),
            hosts: &hosts,
            clusters: &BTreeMap::new(),
            heard: &inner.heard,
            seen: &BTreeMap::new(),
            connected: &|_| true,
            agents_stopped: None,
        };
        !resting(&world).is_empty()
    };
    say(2 * hour);
    assert!(rests(2 * hour - 1));
    assert!(!rests(2 * hour));
    say(10_000 * hour);
    assert!(rests(71 * hour));
    assert!(!rests(72 * hour), "no maintenance lasts longer");
}

/// Who was told of it is told of its end, after its host was removed too.
#[test]
fn an_alert_belongs_to_the_project_of_its_host_and_keeps_it() {
    let mut alert = firing(1, 0);
    alert.sent = Some(crate::alerts::Sent {
        at: at(1),
        urgency: alert.urgency,
        times: 1,
    });
    let key = alert.key.clone();
    let mut book = Book::from([(key.clone(), alert)]);
    let mut pass = |hosts: &[Glance]| {
        let world = World {
            now: at(60),
            started: at(0),
            hosts,
            clusters: &BTreeMap::new(),
            heard: &BTreeMap::new(),
            seen: &BTreeMap::new(),
            connected: &|_| true,
            agents_stopped: None,
        };
        let led = step(&mut book, &world, &[]);
        (led, book.get(&key).map(|a| a.project.clone()))
    };
    let project = Some(host_row(1, None).project);
    let (_, open) = pass(&[glance(1, None)]);
    assert_eq!(open, Some(project.clone()));
    let (led, open) = pass(&[]);
    assert_eq!(open, None);
    let ends: Vec<_> = led.notices.iter().map(|(n, a)| (*n, &a.project)).collect();
    assert_eq!(ends, [(Notice::Resolved, &project)]);
}

/// A fired alert survives a restart with its id and its notices: none is sent twice.
#[test]
fn what_was_written_is_the_same_alert_after_a_restart() {
    let world = world();
    let mut alert = firing(1, 0);
    alert.sent = Some(crate::alerts::Sent {
        at: at(1),
        urgency: alert.urgency,
        times: 1,
    });
    world.at(1, |c| shelf::put(c, &alert));
    let read = world.store.read().expect("read");
    let kept = read.all(&OPEN).expect("open");
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].1, alert);
    assert_eq!(kept[0].1.key.subject, Subject::Host(host(1)));
    assert_eq!(kept[0].1.key.rule, Rule::DiskLow);
}

/// Forecasts from twelve days of a host are known as soon as the plane is back, not only with its next slot in six
/// hours.
#[test]
fn forecasts_are_known_as_soon_as_the_plane_is_back() {
    let world = world();
    let row = host_row(1, None);
    world.at(0, |c| Ok(c.put(&HOSTS, &host(1).to_string(), &row)?));
    let mut status = reports(1, None);
    let board = Board::default();
    for slot in 0..30 {
        status.health.disks = vec![pf9_hostagent::model::DiskHealth {
            path: "/var/lib".into(),
            total_bytes: 1000,
            available_bytes: 600 - slot * 15,
            total_inodes: 0,
            free_inodes: 0,
        }];
        let at = at(i64::try_from(slot).expect("few") * 6 * 3600);
        board.heard(host(1), &status, at);
        for (host, closed) in board.closed(10) {
            world.at(0, |c| trends::keep(c, host, closed));
        }
    }
    let alert = firing(1, 0);
    world.at(1, |c| shelf::put(c, &alert));
    let back = Board::default();
    let read = world.store.read().expect("read");
    read_back(&read, &back).expect("read back");
    let inner = back.inner();
    let foreseen = &inner.heard[&host(1)].trends.foreseen;
    assert_eq!(foreseen.len(), 1, "{foreseen:?}");
    assert!(inner.book.contains_key(&alert.key));
}

/// Seconds from one report to the next in the tests below: one falls into each slot.
const SLOT_S: i64 = 6 * 3600;

/// Puts a value, in percent of what there is, into a report.
type Says = fn(&mut HostStatus, u64);

/// A master that is well reports this value for so many slots. All notices that come of it, with their slots: from its
/// reports by stored trends, findings and alerts, as the plane comes to them.
fn notices(says: Says, percent: impl Fn(i64) -> u64, slots: i64) -> Vec<(i64, Notice, Alert)> {
    let world = world();
    let row = host_row(1, None);
    world.at(0, |c| Ok(c.put(&HOSTS, &host(1).to_string(), &row)?));
    let (board, mut book, mut told) = (Board::default(), Book::new(), Vec::new());
    let hosts = [glance(1, None)];
    let mut status = reports(1, Some((Role::Master, ClusterId::random())));
    status.inventory.memory_bytes = 1000;
    status.health.memory_available_bytes = 900;
    for slot in 0..slots {
        let now = at(slot * SLOT_S);
        status.sent_at = now;
        says(&mut status, percent(slot));
        board.heard(host(1), &status, now);
        for (host, closed) in board.closed(10) {
            let foreseen = world.at(0, |c| trends::keep(c, host, closed));
            board.foresee(host, foreseen);
        }
        let inner = board.inner();
        let looked_at = World {
            now,
            started: at(0),
            hosts: &hosts,
            clusters: &BTreeMap::new(),
            heard: &inner.heard,
            seen: &BTreeMap::new(),
            connected: &|_| true,
            agents_stopped: None,
        };
        let led = step(&mut book, &looked_at, &[]);
        let each = led.notices.into_iter();
        told.extend(each.map(|(notice, alert)| (slot, notice, alert)));
    }
    told
}

/// It grows by a percent in each slot, from ten, so that all of it is used in the ninetieth, and stops growing before.
fn is_told_a_week_before_and_when_it_ends(
    rule: Rule,
    part: &str,
    of: &str,
    says: Says,
    stops: i64,
) {
    let told = notices(says, |slot| 10 + slot.min(stops).unsigned_abs(), stops + 20);
    for (_, _, alert) in &told {
        assert_eq!((alert.key.rule, &*alert.key.part), (rule, part));
    }
    let at_slots = |kind: Notice| -> Vec<i64> {
        let of_it = told.iter().filter(|(_, notice, _)| *notice == kind);
        of_it.map(|(slot, _, _)| *slot).collect()
    };
    assert_eq!(at_slots(Notice::Fired), [63]);
    let full = trends::end_of(host(1), trends::slot_of(host(1), at(0)) + 90);
    let (_, first, alert) = &told[0];
    assert_eq!((*first, alert.urgency), (Notice::Fired, rule.row().urgency));
    assert_eq!(
        alert.why,
        format!(
            "72 % {of}, growing by 4.0 % a day: 100 % on {}",
            full.strftime("%Y-%m-%d")
        )
    );
    let hours = full.duration_since(at(63 * SLOT_S)).as_hours();
    assert!((162..=168).contains(&hours), "{hours} h before that");
    // It is urgent two days before; one that ended earlier never was.
    let urgent: &[i64] = match stops >= 83 {
        true => &[83],
        false => &[],
    };
    assert_eq!(at_slots(Notice::Raised), urgent);
    // After five slots without growth it is no trend, and is over thirteen hours later.
    assert_eq!(at_slots(Notice::Resolved), [stops + 8]);
    assert_eq!(told[told.len() - 1].1, Notice::Resolved);
    // What moves, and does not grow.
    let level = notices(says, |slot| 40 + (slot % 3).unsigned_abs(), 100);
    assert!(level.is_empty(), "{level:?}");
}

fn with_etcd(status: &mut HostStatus, etcd: EtcdStatus) {
    status.node.as_mut().expect("a node").etcd = Some(etcd);
}

#[test]
fn an_etcd_that_fills_is_told_a_week_before_it_is_full() {
    let says: Says = |status, percent| {
        let etcd = EtcdStatus {
            quota_bytes: 100,
            db_in_use_bytes: percent,
            ..EtcdStatus::default()
        };
        with_etcd(status, etcd);
    };
    // From 81 % on it would be a symptom of `EtcdNearlyFull`.
    let of = "of its quota are in use";
    is_told_a_week_before_and_when_it_ends(Rule::EtcdFilling, "", of, says, 68);
}

#[test]
fn an_etcd_whose_disk_slows_down_is_told_a_week_before_it_is_too_slow() {
    let says: Says = |status, percent| {
        let etcd = EtcdStatus {
            fsync_p99_us: Some(percent * 1000),
            ..EtcdStatus::default()
        };
        with_etcd(status, etcd);
    };
    let of = "of the 100 ms that etcd tolerates are used by a sync of its log";
    is_told_a_week_before_and_when_it_ends(Rule::EtcdSlowing, "", of, says, 85);
}

#[test]
fn a_program_whose_memory_grows_is_told_a_week_before_it_is_ended() {
    let says: Says = |status, percent| {
        status.health.daemons = vec![DaemonHealth {
            unit: "pf9-hostagent.service".into(),
            memory_bytes: percent,
            limit_bytes: 100,
        }];
    };
    let (unit, of) = ("pf9-hostagent.service", "of its memory limit are in use");
    is_told_a_week_before_and_when_it_ends(Rule::MemoryGrowing, unit, of, says, 85);
}

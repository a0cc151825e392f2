use super::*;
use crate::alerts::Held;
use crate::alerts::facts::tests::at;
use crate::alerts::found::tests::glance;
use crate::alerts::verbs::tests::{firing, world};
use crate::alerts::{Board, Rule, Subject};
use crate::compute::tests::{host, host_row};
use crate::records::HOSTS;
use crate::recover::tests::reports;

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

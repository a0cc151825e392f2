use super::*;
use crate::alerts::engine::Notice::{Fired, Raised, Repeated, Resolved};
use crate::alerts::facts::tests::at;
use crate::alerts::verbs::tests::{World, firing, world};
use crate::compute::tests::{host, host_row};
use crate::records::HOSTS;

fn target(name: &str) -> Wanted {
    Wanted {
        name: name.into(),
        kind: Kind::Ticket,
        url: Some("https://tickets.example/hook".into()),
        url_file: None,
        token_file: None,
        ca_file: None,
    }
}

fn waits(world: &World, name: &str) -> Vec<Waiting> {
    let read = world.store.read().expect("read");
    let all = waiting_for(&read, name).expect("waiting");
    all.into_iter().map(|(_, w)| w).collect()
}

fn notices(waiting: &Waiting) -> Vec<Notice> {
    let both = [&waiting.begin, &waiting.end];
    both.into_iter().flatten().map(|t| t.notice).collect()
}

#[test]
fn an_alert_has_at_most_two_outbox_entries() {
    let world = world();
    let alert = firing(1, 0);
    let tell = |s, notice| world.at(s, |c| enqueue(c, &[(notice, alert.clone())]));
    tell(0, Fired);
    assert!(waits(&world, "a").is_empty(), "there is nobody");
    world.at(0, |c| add(c, target("a")));
    world.at(0, |c| add(c, target("b")));
    for (s, notice) in [(1, Fired), (2, Raised), (3, Repeated), (4, Resolved)] {
        tell(s, notice);
    }
    for name in ["a", "b"] {
        let waiting = waits(&world, name);
        assert_eq!(waiting.len(), 1);
        assert_eq!(notices(&waiting[0]), [Fired, Resolved], "{name}");
        assert_eq!(
            waiting[0].begin.as_ref().map(|t| t.at),
            Some(at(3)),
            "in its newest words"
        );
    }
}

#[test]
fn a_delivered_notice_is_removed_and_a_newer_one_stays() {
    let world = world();
    let alert = firing(1, 0);
    world.at(0, |c| add(c, target("a")));
    let tell = |s, notice| world.at(s, |c| enqueue(c, &[(notice, alert.clone())]));
    tell(1, Fired);
    let sent = waits(&world, "a")[0].begin.clone().expect("begin");
    // While it is in flight it gets worse; then it is over.
    tell(2, Raised);
    tell(3, Resolved);
    world.at(4, |c| arrived(c, "a", &sent));
    assert_eq!(
        notices(&waits(&world, "a")[0]),
        [Raised, Resolved],
        "a ticket is made once"
    );
    for _ in 0..2 {
        let next = waits(&world, "a")[0].clone();
        let next = next.begin.or(next.end).expect("something");
        world.at(5, |c| arrived(c, "a", &next));
    }
    assert!(waits(&world, "a").is_empty());
    world.at(6, |c| arrived(c, "a", &sent));
}

#[test]
fn the_outbox_is_bounded_and_drops_are_counted() {
    let world = world();
    world.at(0, |c| add(c, target("a")));
    let many: Vec<(Notice, Alert)> = (0..100).map(|_| (Fired, firing(1, 0))).collect();
    world.at(0, |c| {
        for round in 0..OUTBOX_MAX as i64 / 100 + 1 {
            c.now = at(round);
            for (notice, alert) in &many {
                let alert = Alert {
                    id: uuid::Uuid::new_v4(),
                    ..alert.clone()
                };
                let told = Told {
                    notice: *notice,
                    at: c.now,
                    alert,
                };
                let mut waiting = Waiting::default();
                waiting.take_in(told.clone());
                c.put(&OUTBOX, &place("a", &told.alert), &waiting)?;
            }
        }
        enqueue(c, &many[..1])
    });
    let left = waits(&world, "a");
    assert_eq!(left.len(), OUTBOX_MAX);
    let oldest = left.iter().filter_map(Waiting::since).min();
    assert_eq!(oldest, Some(at(1)), "the oldest go");
    let read = world.store.read().expect("read");
    let target = read.get(&TARGETS, "a").expect("read").expect("target");
    assert_eq!(target.given_up, 101);
    world.at(0, |c| remove(c, "a"));
    assert!(
        waits(&world, "a").is_empty(),
        "who is told no more waits for nothing"
    );
}

/// Its alert is the oldest of all, and stays.
#[test]
fn a_project_with_too_many_alerts_displaces_none_of_anothers() {
    let world = world();
    world.at(0, |c| add(c, target("a")));
    let theirs = firing(2, 0);
    world.at(0, |c| {
        c.put(&HOSTS, &host(2).to_string(), &host_row(2, None))?;
        enqueue(c, &[(Fired, theirs.clone())])
    });
    world.at(1, |c| {
        let alert = |_| (Fired, firing(1, 0));
        let many: Vec<(Notice, Alert)> = (0..OUTBOX_MAX).map(alert).collect();
        enqueue(c, &many)
    });
    let left = waits(&world, "a");
    assert_eq!(left.len(), OUTBOX_MAX);
    let alerts = left.iter().filter_map(|w| w.begin.as_ref());
    let ids: Vec<_> = alerts.map(|told| told.alert.id).collect();
    assert!(ids.contains(&theirs.id));
}

#[test]
fn an_invalid_target_is_refused_and_a_secret_needs_tls() {
    let mut bad = vec![
        target(""),
        target("A"),
        target("a/b"),
        target(&"x".repeat(64)),
    ];
    let with = |url: &str| Wanted {
        url: Some(url.into()),
        token_file: Some("/etc/t".into()),
        ..target("a")
    };
    bad.extend(
        [
            "http://tickets.example/hook",
            "ftp://x/",
            "https://u:p@x/",
            "nothing",
            "http://127.0.0.1.example/",
        ]
        .map(with),
    );
    bad.push(Wanted {
        url: None,
        ..target("a")
    });
    bad.push(Wanted {
        url_file: Some("/etc/u".into()),
        ..target("a")
    });
    bad.push(Wanted {
        token_file: Some("t".into()),
        ..target("a")
    });
    for wanted in bad {
        assert!(fault(&wanted).is_some(), "{wanted:?}");
    }
    for good in [
        "https://x/",
        "http://127.0.0.1:9/",
        "http://[::1]/",
        "http://localhost:1/",
    ] {
        assert_eq!(fault(&with(good)), None, "{good}");
    }
    let open = Wanted {
        url: Some("http://tickets.example/hook".into()),
        ..target("a")
    };
    assert_eq!(fault(&open), None, "without a secret");
}

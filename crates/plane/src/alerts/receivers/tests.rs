use super::*;
use crate::alerts::engine::Notice::{Fired, Resolved};
use crate::alerts::notify::{OUTBOX, waiting_for};
use crate::alerts::verbs::tests::{World, firing, world};
use crate::alerts::waiting::{Refused, Waiting};
use crate::people::{DomainId, Project};

const TOKEN: &str = "dGVsbC1ub2JvZHktb2YtdGhpcw";

fn project(name: &str) -> ProjectId {
    ProjectId::of(name).expect("id")
}

fn wanted(url: &str, secret: Option<&str>) -> WantedReceiver {
    WantedReceiver {
        kind: Kind::Ticket,
        url: Secret::new(url.to_owned()),
        secret: secret.map(|text| Secret::new(text.to_owned())),
    }
}

/// A project's row.
fn found(world: &World, of: &str) {
    world.at(0, |c| Ok(c.put(&PROJECTS, of, &row(of, "default"))?));
}

fn row(of: &str, domain: &str) -> Project {
    Project {
        id: project(of),
        domain: DomainId::of(domain).expect("id"),
        name: of.into(),
        description: String::new(),
        enabled: true,
    }
}

fn add(world: &World, of: &str, name: &str, open: &[(Notice, Alert)]) -> Answer<String> {
    found(world, of);
    let wanted = wanted("https://tickets.example/hook", Some(TOKEN));
    world.try_at(0, |c| put(c, project(of), name.into(), wanted, open))
}

fn alert(of: Option<&str>) -> Alert {
    Alert {
        project: of.map(project),
        ..firing(1, 0)
    }
}

fn waits(world: &World, key: &str) -> Vec<Waiting> {
    let read = world.store.read().expect("read");
    let all = waiting_for(&read, key).expect("waiting");
    all.into_iter().map(|(_, w)| w).collect()
}

#[test]
fn a_receiver_gets_alerts_of_its_own_project_alone() {
    let world = world();
    // One project's id begins with the other's.
    let mine = add(&world, "p", "tickets", &[]).expect("added");
    let theirs = add(&world, "p1", "tickets", &[]).expect("added");
    let (of_p, of_p1, planes) = (alert(Some("p")), alert(Some("p1")), alert(None));
    world.at(1, |c| {
        let all = [&of_p, &of_p1, &planes].map(|a| (Fired, a.clone()));
        enqueue(c, &all)
    });
    world.at(2, |c| enqueue(c, &[(Resolved, of_p.clone())]));
    for (key, alert, ends) in [(&mine, &of_p, true), (&theirs, &of_p1, false)] {
        let all = waits(&world, key);
        assert_eq!(all.len(), 1, "{key}");
        let begins = all[0].begin.as_ref().map(|told| told.alert.id);
        assert_eq!((begins, all[0].end.is_some()), (Some(alert.id), ends));
    }
}

#[test]
fn a_new_receiver_gets_what_fires_and_a_changed_one_keeps_what_waits() {
    let world = world();
    let open = [(Fired, alert(Some("p")))];
    let key = add(&world, "p", "tickets", &open).expect("added");
    assert_eq!(waits(&world, &key).len(), 1);
    add(&world, "p", "tickets", &[(Fired, alert(Some("p")))]).expect("changed");
    let all = waits(&world, &key);
    assert_eq!(all.len(), 1);
    let begins = all[0].begin.as_ref().map(|told| told.alert.id);
    assert_eq!(begins, Some(open[0].1.id));
    // Without a token there is none: that of before does not go to the new URL.
    let other = wanted("https://other.example/", None);
    world.at(1, |c| put(c, project("p"), "tickets".into(), other, &[]));
    let read = world.store.read().expect("read");
    let kept = read.get(&RECEIVERS, &key).expect("read").expect("row");
    assert_eq!(kept.secret, None);
}

#[test]
fn receivers_and_what_waits_for_each_are_bounded() {
    let world = world();
    for n in 0..OF_ONE_MAX {
        add(&world, "p", &format!("r{n}"), &[]).expect("added");
    }
    let full = add(&world, "p", "one-more", &[]).expect_err("full");
    assert_eq!(full.fault.code, FaultCode::TooMany);
    add(&world, "p", "r0", &[]).expect("one that is there is changed");
    let other = add(&world, "q", "r0", &[]).expect("another project's");
    world.at(1, |c| enqueue(c, &[(Fired, alert(Some("q")))]));
    let oldest = alert(Some("p"));
    world.at(2, |c| enqueue(c, &[(Fired, oldest.clone())]));
    world.at(3, |c| {
        let many: Vec<_> = (0..OUTBOX_MAX).map(|_| (Fired, alert(Some("p")))).collect();
        enqueue(c, &many)
    });
    let key = place(&project("p"), "r0");
    let left = waits(&world, &key);
    assert_eq!(left.len(), OUTBOX_MAX);
    let of_oldest = |w: &Waiting| w.begin.as_ref().is_some_and(|t| t.alert.id == oldest.id);
    assert!(!left.iter().any(of_oldest), "the oldest is dropped");
    assert_eq!(waits(&world, &other).len(), 1, "another project's stays");
    let read = world.store.read().expect("read");
    let row = |key: &str| read.get(&RECEIVERS, key).expect("read").expect("row");
    assert_eq!((row(&key).given_up, row(&other).given_up), (1, 0));
}

/// Its admin makes another project when one is full.
#[test]
fn receivers_of_a_domain_are_bounded_whatever_projects_it_makes() {
    fn set(c: &mut Change<'_>, of: &str, domain: &str, name: &str) -> Answer<String> {
        c.put(&PROJECTS, of, &row(of, domain))?;
        let wanted = wanted("https://tickets.example/hook", None);
        put(c, project(of), name.into(), wanted, &[])
    }
    let world = world();
    world.at(0, |c| {
        for n in 0..OF_DOMAIN_MAX {
            let of = format!("p{}", n / OF_ONE_MAX);
            set(c, &of, "many", &format!("r{n}"))?;
        }
        Ok(())
    });
    let full = world.try_at(1, |c| set(c, "another", "many", "r"));
    let full = full.expect_err("full").fault;
    assert_eq!(full.code, FaultCode::TooMany);
    assert!(full.why.contains("its domain"), "{full}");
    world.at(1, |c| set(c, "p0", "many", "r0"));
    world.at(1, |c| set(c, "q", "other", "r"));
}

#[test]
fn what_is_refused_is_dropped_after_its_tries_counted_and_tried_at_once_by_a_changed_receiver() {
    let world = world();
    let mine = alert(Some("p"));
    let key = add(&world, "p", "a", &[(Fired, mine)]).expect("added");
    let told = |world: &World| waits(world, &key)[0].begin.clone().expect("begin");
    let refuse = |s| {
        let told = told(&world);
        world.at(s, |c| {
            notify::refuse(c, &key, &told, "it answers 404 Not Found")
        })
    };
    assert_eq!(refuse(1), Refused::First);
    assert_eq!(refuse(2), Refused::Again);
    let all = waits(&world, &key);
    let why = all[0].refusals().map(|refused| refused.why.as_str());
    assert_eq!(why, Some("it answers 404 Not Found"));
    add(&world, "p", "a", &[]).expect("as it is, and soon");
    assert_eq!(refuse(3), Refused::Again);
    world.at(100, |c| {
        let wanted = wanted("https://tickets.example/hook", Some(TOKEN));
        put(c, project("p"), "a".into(), wanted, &[])
    });
    assert_eq!(refuse(101), Refused::First);
    let mut s = 102;
    while refuse(s) != Refused::Dropped {
        s += 1;
        assert!(s < 200, "it is not dropped");
    }
    assert!(waits(&world, &key).is_empty());
    let read = world.store.read().expect("read");
    let row = read.get(&RECEIVERS, &key).expect("read").expect("row");
    assert_eq!(row.dropped.times, 1);
    let why = row.dropped.why.as_deref();
    assert_eq!(why, Some("it answers 404 Not Found"));
    assert_eq!(row.given_up, 0);
}

#[test]
fn a_deleted_project_leaves_no_receiver_and_nothing_that_waits() {
    let world = world();
    let open = |of: &str| [(Fired, alert(Some(of)))];
    add(&world, "p", "a", &open("p")).expect("added");
    add(&world, "p", "b", &open("p")).expect("added");
    let other = add(&world, "p1", "a", &open("p1")).expect("added");
    world.at(1, |c| forget_project(c, &project("p")));
    let read = world.store.read().expect("read");
    let left = read.all(&RECEIVERS).expect("read");
    assert_eq!(
        left.into_iter().map(|(k, _)| k).collect::<Vec<_>>(),
        [other]
    );
    assert_eq!(read.all(&OUTBOX).expect("read").len(), 1);
}

/// Its admin was let in, and then it was deleted.
#[test]
fn a_project_that_is_gone_gets_no_receiver() {
    let world = world();
    let wanted = wanted("https://tickets.example/hook", None);
    let put = world.try_at(0, |c| put(c, project("p"), "a".into(), wanted, &[]));
    assert_eq!(put.expect_err("gone").status, http::StatusCode::NOT_FOUND);
    let read = world.store.read().expect("read");
    assert_eq!(read.all(&RECEIVERS).expect("read").len(), 0);
}

/// As a plane deletes a project that knows no receivers.
#[test]
fn what_an_older_plane_left_of_a_project_is_not_called_and_swept() {
    let world = world();
    let open = |of: &str| [(Fired, alert(Some(of)))];
    add(&world, "p", "a", &open("p")).expect("added");
    let other = add(&world, "q", "a", &open("q")).expect("added");
    world.at(1, |c| Ok(c.remove(&PROJECTS, "p")?));
    let left = standing(&world.store.read().expect("read")).expect("read");
    let left: Vec<_> = left.iter().map(|(k, _, d)| (k, d.as_str())).collect();
    assert_eq!(left, [(&other, "default")]);
    world.at(2, sweep);
    let read = world.store.read().expect("read");
    let all = read.all(&RECEIVERS).expect("read");
    let keys: Vec<String> = all.into_iter().map(|(k, _)| k).collect();
    assert_eq!(keys, [other]);
    assert_eq!(read.all(&OUTBOX).expect("read").len(), 1);
}

#[test]
fn a_token_is_sent_by_tls_or_within_the_machine() {
    let named = vec![
        "10.0.0.0/8".parse().expect("net"),
        "127.0.0.0/8".parse().expect("net"),
    ];
    let reach = Reach::new(named, Vec::new());
    for (url, secret, good) in [
        ("http://10.0.0.1/", None, true),
        ("http://10.0.0.1/", Some(TOKEN), false),
        ("http://tickets.example/", Some(TOKEN), false),
        ("https://10.0.0.1/", Some(TOKEN), true),
        ("http://127.0.0.1/", Some(TOKEN), true),
    ] {
        let why = fault("a", &wanted(url, secret), &reach);
        assert_eq!(why.is_none(), good, "{url} {secret:?}: {why:?}");
    }
}

#[test]
fn an_invalid_receiver_is_refused_without_its_secrets() {
    let reach = Reach::default();
    let good = "https://tickets.example/hook";
    for (name, url, secret) in [
        ("", good, None),
        ("a.b", good, None),
        ("a/b", good, None),
        ("a", "http://tickets.example/", None),
        ("a", "http://127.0.0.1:1/", None),
        ("a", "https://10.0.0.1/", None),
        ("a", "https://user:hidden@x.example/", None),
        ("a", "file:///etc/shadow", None),
        ("a", "hidden", None),
        ("a", good, Some("")),
        ("a", good, Some("hidden hidden")),
        ("a", good, Some("hidden\r\nHost: other")),
        ("a", good, Some("hidd\u{e9}n")),
    ] {
        let why = fault(name, &wanted(url, secret), &reach);
        let why = why.unwrap_or_else(|| panic!("{name} {url} {secret:?}"));
        assert!(!why.contains("hidden"), "{why}");
    }
    let long = "x".repeat(TOKEN_MAX + 1);
    assert!(fault("a", &wanted(good, Some(&long)), &reach).is_some());
    assert_eq!(fault("a", &wanted(good, Some(TOKEN)), &reach), None);
    assert_eq!(fault("a", &wanted(good, None), &reach), None);
}

#[test]
fn nothing_prints_the_url_or_the_token_and_the_store_has_both() {
    let world = world();
    let key = add(&world, "p", "a", &[]).expect("added");
    let read = world.store.read().expect("read");
    let row = read.get(&RECEIVERS, &key).expect("read").expect("row");
    let printed = format!("{row:?} {:?}", wanted("https://hook.example/", Some(TOKEN)));
    assert!(!printed.contains("hook") && !printed.contains(TOKEN));
    let token = row.secret.as_ref().map(|token| token.expose().as_str());
    assert_eq!(token, Some(TOKEN));
    assert_eq!(
        row.url().expect("url").as_str(),
        "https://tickets.example/hook"
    );
}

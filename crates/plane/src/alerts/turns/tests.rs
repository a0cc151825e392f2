use proptest::prelude::*;

use super::*;

fn failed() -> Ended {
    Ended {
        why: Some("it takes nothing".into()),
        ..Ended::default()
    }
}

fn domain(name: &str) -> Option<DomainId> {
    Some(DomainId::of(name).expect("id"))
}

/// All with something to try at once, each of this domain.
fn waiting<'n>(
    names: impl IntoIterator<Item = &'n str>,
    domain: impl Fn(&str) -> Option<DomainId>,
) -> BTreeMap<String, Waits> {
    let waits = |name: &str| Waits {
        first: None,
        domain: domain(name),
    };
    let all = names.into_iter().map(|name| (name.to_owned(), waits(name)));
    all.collect()
}

fn targets(names: &[&str]) -> BTreeMap<String, Waits> {
    waiting(names.iter().copied(), |_| None)
}

#[test]
fn one_that_is_down_is_retried_with_backoff() {
    let pauses: Vec<u64> = (0..10).map(|n| pause(n, AGAIN_MAX).as_secs()).collect();
    assert_eq!(pauses, [0, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert_eq!(pause(u32::MAX, AGAIN_MAX), AGAIN_MAX);
}

#[test]
fn a_failure_delays_nobody_else_and_is_forgotten_when_nothing_waits() {
    let (mut turns, now) = (Turns::default(), Instant::now());
    let both = targets(&["a", "b"]);
    let (begun, next) = turns.begin(both.clone(), now);
    assert_eq!(begun, ["a", "b"]);
    assert_eq!(next, None);
    let none: [&str; 0] = [];
    assert_eq!(turns.begin(both.clone(), now).0, none, "each has one turn");
    turns.end("a", &failed(), now);
    turns.end("b", &Ended::default(), now);
    assert_eq!(turns.resting(now), BTreeMap::from([("a".to_owned(), None)]));
    let (begun, next) = turns.begin(both.clone(), now);
    assert_eq!(begun, ["b"]);
    assert_eq!(next, Some(now + AGAIN));
    assert_eq!(turns.begin(both.clone(), now + AGAIN).0, ["a"]);
    turns.end("a", &failed(), now);
    turns.end("b", &Ended::default(), now);
    turns.begin(BTreeMap::new(), now);
    assert_eq!(turns.begin(both, now).0, ["a", "b"]);
}

/// What it refuses by itself is no failure of the target.
#[test]
fn one_that_refuses_a_notice_has_its_turn_when_something_is_due() {
    let (mut turns, now) = (Turns::default(), Instant::now());
    let fresh = targets(&["a"]);
    assert_eq!(turns.begin(fresh.clone(), now).0, ["a"]);
    let refused = Ended {
        refused: 1,
        ..Ended::default()
    };
    turns.end("a", &refused, now);
    let later = now + Duration::from_secs(300);
    let rests = |first| {
        let domain = None;
        BTreeMap::from([("a".to_owned(), Waits { first, domain })])
    };
    let (begun, next) = turns.begin(rests(Some(later)), now);
    assert!(begun.is_empty());
    assert_eq!(next, Some(later));
    assert_eq!(
        turns.resting(now),
        BTreeMap::from([("a".to_owned(), Some(later))])
    );
    assert_eq!(turns.begin(fresh, now).0, ["a"], "a new one comes");
    turns.end("a", &refused, now);
    assert_eq!(turns.begin(rests(Some(later)), later).0, ["a"]);
}

/// An admin of a domain makes as many projects as there may be. None of their turns ends.
#[test]
fn a_domain_of_many_projects_leaves_turns_for_others() {
    let (mut turns, now) = (Turns::default(), Instant::now());
    let many: Vec<String> = (0..1000).map(|n| format!("p{n}.hook")).collect();
    let names = many.iter().map(String::as_str);
    let mut all = waiting(names, |_| domain("many"));
    assert_eq!(turns.begin(all.clone(), now).0.len(), OF_DOMAIN);
    let waits = Waits {
        first: None,
        domain: domain("other"),
    };
    all.insert("q.hook".into(), waits);
    all.insert("ops".into(), Waits::default());
    assert_eq!(turns.begin(all, now).0, ["ops", "q.hook"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// However slow a project's receivers are, and however many it and its domain have: the plane's targets always have their
    /// turns, a project and a domain have at most their share, and nobody waits for longer than all turns before it take.
    #[test]
    fn turns_are_shared(
        of in prop::collection::vec((1..6usize, 0..6usize), 1..60),
        slow in prop::collection::vec(1..20u64, 60),
    ) {
        let mut all: Vec<String> = (0..of.len())
            .flat_map(|p| (0..of[p].0).map(move |n| format!("p{p}.{n}")))
            .collect();
        all.push("ops".into());
        let number = |name: &str| project_in(name).map(|p| p[1..].parse::<usize>().expect("number"));
        let domain_of = |name: &str| number(name).map(|p| of[p].1);
        let waits = waiting(all.iter().map(String::as_str), |name| {
            domain_of(name).and_then(|d| domain(&format!("d{d}")))
        });
        let (mut turns, began) = (Turns::default(), Instant::now());
        // In seconds: when the turn of each ends, and when it last began.
        let mut busy: BTreeMap<String, u64> = BTreeMap::new();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let longest = slow.iter().max().copied().expect("some");
        let lines = |all: usize, at_once: usize| u64::try_from(all.div_ceil(at_once)).expect("small");
        let bound = |name: &str| {
            let of_domain = all.iter().filter(|n| domain_of(n) == domain_of(name)).count();
            // A project of five has three lines of its own; each waits for those of its domain, and these for all.
            longest * (lines(all.len(), AT_ONCE) + lines(of_domain, OF_DOMAIN) + 2)
        };
        let bounds: BTreeMap<&String, u64> = all.iter().map(|name| (name, bound(name))).collect();
        for second in 0..400u64 {
            let now = began + Duration::from_secs(second);
            let over: Vec<String> = busy.iter().filter(|(_, end)| **end <= second).map(|(n, _)| n.clone()).collect();
            for name in over {
                busy.remove(&name);
                turns.end(&name, &Ended::default(), now);
            }
            for name in turns.begin(waits.clone(), now).0 {
                let takes = number(&name).map_or(1, |p| slow[p]);
                busy.insert(name.clone(), second + takes);
                last.insert(name, second);
            }
            let receivers = busy.keys().filter(|n| project_in(n).is_some()).count();
            prop_assert!(receivers <= AT_ONCE, "{receivers}");
            let mut of_project: BTreeMap<usize, usize> = BTreeMap::new();
            let mut of_domain: BTreeMap<usize, usize> = BTreeMap::new();
            for project in busy.keys().filter_map(|name| number(name)) {
                *of_project.entry(project).or_default() += 1;
                *of_domain.entry(of[project].1).or_default() += 1;
            }
            prop_assert!(of_project.values().all(|n| *n <= OF_PROJECT), "{of_project:?}");
            prop_assert!(of_domain.values().all(|n| *n <= OF_DOMAIN), "{of_domain:?}");
            prop_assert!(busy.contains_key("ops"), "the plane's own always has its turn");
            for name in &all {
                let since = second - last.get(name).copied().unwrap_or(0);
                prop_assert!(since <= bounds[name], "{name} waited for {since} s of {}", bounds[name]);
            }
        }
    }
}

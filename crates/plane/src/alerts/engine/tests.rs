use proptest::prelude::*;

use super::*;
use crate::alerts::facts::tests::at;
use crate::alerts::{Acknowledged, Names};

/// Time between two passes.
const LOOK: i64 = 20;

fn host(n: u8) -> HostId {
    HostId(Uuid::from_u128(u128::from(n) + 1))
}

fn cluster() -> ClusterId {
    ClusterId(Uuid::from_u128(99))
}

fn key(rule: Rule, subject: Subject) -> Key {
    Key {
        rule,
        subject,
        part: String::new(),
    }
}

fn of_host(rule: Rule, n: u8) -> Key {
    key(rule, Subject::Host(host(n)))
}

fn of_cluster(rule: Rule) -> Key {
    key(rule, Subject::Cluster(cluster()))
}

/// Current findings and sent notices, over time.
struct Scene {
    now: i64,
    book: Book,
    so: BTreeMap<Key, Finding>,
    resting: BTreeMap<HostId, (String, Timestamp)>,
    silences: Vec<Silence>,
    gone: Vec<Subject>,
    blind: bool,
    told: Vec<(i64, Notice, Key)>,
    past: Vec<Alert>,
}

impl Scene {
    fn new() -> Self {
        Self {
            now: 0,
            book: Book::new(),
            so: BTreeMap::new(),
            resting: BTreeMap::new(),
            silences: Vec::new(),
            gone: Vec::new(),
            blind: false,
            told: Vec::new(),
            past: Vec::new(),
        }
    }

    fn set(&mut self, key: &Key, so: bool) {
        self.set_urgent(key, so, key.rule.row().urgency);
    }

    fn set_urgent(&mut self, key: &Key, so: bool, urgency: Urgency) {
        if !so {
            self.so.remove(key);
            return;
        }
        let finding = Finding {
            key: key.clone(),
            cluster: Some(cluster()),
            names: Names::default(),
            urgency,
            says: String::new(),
            why: "why".into(),
            tried: String::new(),
            since: None,
            hold: key.rule.hold(),
        };
        self.so.insert(key.clone(), finding);
    }

    fn look(&mut self) {
        let masters = BTreeMap::from([(cluster(), vec![host(1), host(2), host(3)])]);
        let led = advance(
            &mut self.book,
            &Look {
                now: at(self.now),
                findings: &self.so,
                is_known: &|_| !self.blind,
                is_there: &|subject| !self.gone.contains(&subject),
                masters: &masters,
                resting: &self.resting,
                silences: &self.silences,
            },
        );
        for (notice, alert) in led.notices {
            self.told.push((self.now, notice, alert.key));
        }
        self.past.extend(led.past);
    }

    /// Runs passes until then.
    fn until(&mut self, s: i64) {
        while self.now < s {
            self.now += LOOK;
            self.look();
        }
    }

    /// The plane restarts with what was stored.
    fn restart(&mut self) {
        let kept = self.book.values().filter(|a| a.fired_at.is_some());
        let kept: Vec<String> = kept
            .map(|a| serde_json::to_string(a).expect("written"))
            .collect();
        self.book = kept
            .iter()
            .map(|text| {
                let alert: Alert = serde_json::from_str(text).expect("read");
                (alert.key.clone(), alert)
            })
            .collect();
    }

    fn told_of(&self, key: &Key) -> Vec<(i64, Notice)> {
        let told = self.told.iter().filter(|(_, _, k)| k == key);
        told.map(|(at, notice, _)| (*at, *notice)).collect()
    }

    fn notices(&self, key: &Key) -> Vec<Notice> {
        self.told_of(key).into_iter().map(|(_, n)| n).collect()
    }
}

#[test]
fn a_lasting_finding_is_sent_once_repeated_daily_and_resolved() {
    let (mut scene, disk) = (Scene::new(), of_host(Rule::DiskLow, 9));
    scene.set(&disk, true);
    scene.until(3 * 86_400);
    scene.set(&disk, false);
    scene.until(3 * 86_400 + 600);
    let told = scene.told_of(&disk);
    let kinds: Vec<Notice> = told.iter().map(|(_, n)| *n).collect();
    assert_eq!(
        kinds,
        [
            Notice::Fired,
            Notice::Repeated,
            Notice::Repeated,
            Notice::Resolved
        ]
    );
    assert_eq!(told[0].0, LOOK + 300);
    assert_eq!(told[1].0 - told[0].0, 86_400);
    assert_eq!(scene.past.len(), 1);
    assert!(scene.book.is_empty());
}

/// What damping promises: no notice for a websocket that reconnects within its grace, or a service that is restarted.
#[test]
fn a_short_finding_sends_no_notice() {
    for rule in Rule::ALL.iter().filter(|r| r.row().hold_s > 0) {
        let (mut scene, it) = (Scene::new(), of_host(*rule, 9));
        for round in 0..50 {
            let begin = round * (rule.row().hold_s + 500);
            scene.until(begin);
            scene.set(&it, true);
            scene.until(begin + rule.row().hold_s - LOOK);
            scene.set(&it, false);
        }
        assert_eq!(scene.told, [], "{rule}");
        assert!(scene.past.is_empty(), "{rule}: nothing ever was");
    }
}

#[test]
fn what_flaps_is_one_alert() {
    let (mut scene, it) = (Scene::new(), of_host(Rule::DiskLow, 9));
    scene.set(&it, true);
    scene.until(400);
    for _ in 0..20 {
        scene.set(&it, false);
        scene.until(scene.now + 200);
        scene.set(&it, true);
        scene.until(scene.now + 200);
    }
    assert_eq!(scene.notices(&it), [Notice::Fired]);
}

/// A master is dead: its etcd, its node, its kubelet, a backup and the cluster's upgrade are reported within one alert.
#[test]
fn one_dead_master_is_one_alert_with_its_symptoms() {
    let mut scene = Scene::new();
    let dead = of_host(Rule::HostNotResponding, 1);
    let symptoms = [
        of_host(Rule::EtcdUnhealthy, 1),
        of_host(Rule::NodeNotReady, 1),
        of_host(Rule::KubeletStalled, 1),
        of_host(Rule::EtcdBackupStale, 1),
        of_host(Rule::HostNotConverging, 1),
        of_cluster(Rule::UpgradeStopped),
        of_cluster(Rule::ApiServerDown),
    ];
    scene.set(&dead, true);
    for symptom in &symptoms {
        scene.set(symptom, true);
    }
    scene.until(1000);
    let told: Vec<(Notice, Key)> = scene.told.iter().map(|(_, n, k)| (*n, k.clone())).collect();
    assert_eq!(told, [(Notice::Fired, dead.clone())]);
    let alert = &scene.book[&dead];
    assert_eq!(alert.symptoms.len(), symptoms.len());
    assert_eq!(alert.urgency, Urgency::Critical, "its API does not answer");
    for symptom in &symptoms {
        assert!(
            matches!(&scene.book[symptom].held, Some(Held::Cause { cause, .. }) if *cause == dead),
            "{symptom:?}"
        );
    }
    // All of it is over: one end is sent.
    scene.so.clear();
    scene.until(2000);
    assert_eq!(scene.told.len(), 2);
    assert_eq!(scene.notices(&dead), [Notice::Fired, Notice::Resolved]);
    assert!(scene.book.is_empty());
}

#[test]
fn the_root_cause_is_named_not_the_nearest_one() {
    let mut scene = Scene::new();
    let (etcd, api) = (
        of_cluster(Rule::EtcdNoQuorum),
        of_cluster(Rule::ApiServerDown),
    );
    let (dead, node) = (
        of_host(Rule::HostNotResponding, 2),
        of_host(Rule::NodeNotReady, 9),
    );
    for key in [&dead, &etcd, &api, &node] {
        scene.set(key, true);
    }
    scene.until(1000);
    let held = scene.book[&node].held.clone();
    assert!(matches!(held, Some(Held::Cause { cause, .. }) if cause == dead));
    assert_eq!(scene.notices(&dead), [Notice::Fired]);
    assert_eq!(scene.told.len(), 1);
}

#[test]
fn a_symptom_that_outlasts_its_cause_is_sent() {
    let mut scene = Scene::new();
    let (dead, node) = (
        of_host(Rule::HostNotResponding, 1),
        of_host(Rule::NodeNotReady, 1),
    );
    scene.set(&dead, true);
    scene.set(&node, true);
    scene.until(1000);
    scene.set(&dead, false);
    scene.until(2000);
    let over = scene.told_of(&dead)[1].0;
    let told = scene.told_of(&node);
    assert_eq!(told.len(), 1);
    let settle = SETTLE.as_secs();
    assert!(
        (settle - LOOK..=settle + LOOK).contains(&(told[0].0 - over)),
        "{told:?}, over {over}"
    );
}

#[test]
fn a_suspected_cause_hides_nothing_for_ever() {
    let mut scene = Scene::new();
    let (dead, node) = (
        of_host(Rule::HostNotResponding, 1),
        of_host(Rule::NodeNotReady, 1),
    );
    scene.set(&node, true);
    // It reports every three minutes: silent at each pass, and never for long enough.
    while scene.now < 1200 {
        scene.set(&dead, true);
        let heard = scene.now - 100;
        scene.so.get_mut(&dead).expect("so").since = Some(at(heard));
        scene.until(scene.now + LOOK);
        if scene.now == 780 {
            assert_eq!(scene.told, [], "it may follow from that");
        }
    }
    assert_eq!(scene.notices(&dead), []);
    assert_eq!(scene.notices(&node), [Notice::Fired]);
}

#[test]
fn maintenance_holds_alerts_but_not_the_end_of_sent_ones() {
    let mut scene = Scene::new();
    let (before, during) = (of_host(Rule::DiskLow, 1), of_host(Rule::NodeNotReady, 1));
    let other = of_host(Rule::NodeNotReady, 2);
    scene.set(&before, true);
    scene.until(600);
    let rest = ("a disk is replaced".to_owned(), at(200_000));
    scene.resting.insert(host(1), rest);
    scene.set(&during, true);
    scene.set(&other, true);
    scene.until(100_000);
    assert_eq!(
        scene.notices(&before),
        [Notice::Fired],
        "not even after a day"
    );
    assert_eq!(scene.notices(&during), []);
    assert_eq!(scene.notices(&other), [Notice::Fired, Notice::Repeated]);
    assert!(matches!(
        &scene.book[&during].held,
        Some(Held::Maintenance { reason, .. }) if reason == "a disk is replaced"
    ));
    scene.set(&before, false);
    scene.until(101_000);
    assert_eq!(scene.notices(&before), [Notice::Fired, Notice::Resolved]);
    scene.resting.clear();
    scene.until(101_000 + SETTLE.as_secs() - LOOK);
    assert_eq!(scene.notices(&during), [], "it is looked after again first");
    scene.until(102_000);
    assert_eq!(scene.notices(&during), [Notice::Fired]);
}

/// The symptom no longer waits for a suspicion, and is ripe at the very pass that makes it a certainty.
#[test]
fn a_symptom_does_not_fire_in_the_pass_of_its_cause() {
    let (disk, dead) = (
        of_host(Rule::DiskLow, 2),
        of_host(Rule::HostNotResponding, 1),
    );
    let api = of_cluster(Rule::ApiServerDown);
    let settles = Rule::DiskLow.hold().as_secs() + SETTLE.as_secs();
    // When the two fall together is a matter of the rules' times: every distance is tried.
    for later in (0..=2 * settles).step_by(20) {
        let mut scene = Scene::new();
        scene.set(&disk, true);
        scene.set(&api, true);
        scene.until(10_000);
        scene.set(&disk, false);
        scene.until(10_000 + later);
        let before = scene.notices(&api).len();
        scene.set(&dead, true);
        scene.until(50_000);
        let fell = scene.told_of(&dead)[0].0;
        let beside: Vec<i64> = scene.told_of(&api)[before..].iter().map(|t| t.0).collect();
        assert!(
            beside.iter().all(|at| *at < fell),
            "{later}: cause at {fell}, symptom at {beside:?}"
        );
    }
}

fn silence(rule: Option<Rule>, until: i64) -> Silence {
    Silence {
        id: Uuid::from_u128(7),
        rule,
        cluster: None,
        host: None,
        who: "ann".into(),
        why: "known".into(),
        at: at(0),
        until: at(until),
    }
}

#[test]
fn a_silenced_alert_is_listed_and_sent_when_the_silence_ends() {
    let mut scene = Scene::new();
    let (disk, node) = (of_host(Rule::DiskLow, 9), of_host(Rule::NodeNotReady, 8));
    scene.silences.push(silence(Some(Rule::DiskLow), 5000));
    scene.set(&disk, true);
    scene.set(&node, true);
    scene.until(4000);
    assert_eq!(scene.notices(&disk), []);
    assert!(scene.book[&disk].is_firing());
    assert_eq!(
        scene.notices(&node),
        [Notice::Fired],
        "it names another rule"
    );
    scene.until(6000);
    assert_eq!(scene.told_of(&disk), [(5000, Notice::Fired)]);
    // An alert that was never sent sends no end.
    scene.silences = vec![silence(None, 90_000)];
    let clock = of_host(Rule::ClockSkew, 7);
    scene.set(&clock, true);
    scene.until(7000);
    scene.set(&clock, false);
    scene.set(&disk, false);
    scene.until(8000);
    assert_eq!(scene.notices(&clock), []);
    assert_eq!(scene.notices(&disk), [Notice::Fired, Notice::Resolved]);
}

#[test]
fn an_acknowledged_alert_is_sent_again_when_it_gets_worse_or_the_time_is_over() {
    let (mut scene, disk) = (Scene::new(), of_host(Rule::DiskLow, 9));
    scene.set(&disk, true);
    scene.until(400);
    scene.book.get_mut(&disk).expect("open").acknowledged = Some(Acknowledged {
        who: "ann".into(),
        why: "a bigger disk is in progress".into(),
        at: at(400),
        until: at(2 * 86_400),
    });
    scene.until(100_000);
    assert_eq!(scene.notices(&disk), [Notice::Fired]);
    scene.set_urgent(&disk, true, Urgency::Critical);
    scene.until(100_100);
    assert_eq!(scene.notices(&disk), [Notice::Fired, Notice::Raised]);
    // It gets better and worse again: no new notice.
    scene.set(&disk, true);
    scene.until(100_300);
    scene.set_urgent(&disk, true, Urgency::Critical);
    scene.until(100_500);
    assert_eq!(scene.notices(&disk).len(), 2);
    scene.until(3 * 86_400);
    assert_eq!(
        scene.notices(&disk),
        [Notice::Fired, Notice::Raised, Notice::Repeated]
    );
}

#[test]
fn unmeasured_is_not_resolved_and_a_gone_subject_is() {
    let (mut scene, node) = (Scene::new(), of_host(Rule::NodeNotReady, 9));
    scene.set(&node, true);
    scene.until(400);
    (scene.so, scene.blind) = (BTreeMap::new(), true);
    scene.until(5000);
    assert_eq!(scene.notices(&node), [Notice::Fired]);
    scene.gone.push(node.subject);
    scene.until(5000 + LOOK);
    assert_eq!(scene.notices(&node), [Notice::Fired, Notice::Resolved]);
    assert_eq!(scene.past[0].why, "it is gone");
}

/// Events of a fleet, one step after the other.
#[derive(Clone, Debug)]
enum Happens {
    Set(u8, bool),
    Wait(i64),
    Rest(bool),
    Silence(bool),
    Restart,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0u8..6, any::<bool>()).prop_map(|(n, so)| Happens::Set(n, so)),
        4 => prop_oneof![1i64..30, 30i64..400, Just(40_000i64)].prop_map(Happens::Wait),
        1 => any::<bool>().prop_map(Happens::Rest),
        1 => any::<bool>().prop_map(Happens::Silence),
        1 => Just(Happens::Restart),
    ]
}

fn things() -> [Key; 6] {
    [
        of_host(Rule::HostNotResponding, 1),
        of_host(Rule::EtcdUnhealthy, 1),
        of_host(Rule::NodeNotReady, 1),
        of_cluster(Rule::ApiServerDown),
        of_host(Rule::DiskLow, 2),
        of_host(Rule::HostNotConverging, 2),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens, also when the plane restarts at any instant: for each key, beginnings and ends alternate, none
    /// is sent more than once a day unless it got worse, a host in maintenance sends only ends, and no symptom is sent
    /// beside its cause.
    #[test]
    fn notices_alternate_and_are_rare(steps in prop::collection::vec(happens(), 1..60)) {
        let mut scene = Scene::new();
        let things = things();
        for step in steps {
            match step {
                Happens::Set(n, so) => scene.set(&things[usize::from(n)], so),
                Happens::Rest(true) => drop(scene.resting.insert(host(2), ("r".into(), at(1 << 30)))),
                Happens::Rest(false) => scene.resting.clear(),
                Happens::Silence(true) => scene.silences = vec![silence(None, 1 << 30)],
                Happens::Silence(false) => scene.silences.clear(),
                Happens::Restart => scene.restart(),
                Happens::Wait(s) => {
                    let end = scene.now + s;
                    while scene.now < end {
                        scene.now += LOOK;
                        let told = scene.told.len();
                        scene.look();
                        for (_, notice, key) in &scene.told[told..] {
                            let is_end = *notice == Notice::Resolved;
                            let rests = key.subject == Subject::Host(host(2)) && !scene.resting.is_empty();
                            prop_assert!(is_end || !rests, "{key:?} in maintenance");
                            prop_assert!(is_end || scene.silences.is_empty(), "{key:?} silenced");
                            let dead = scene.book.get(&things[0]).is_some_and(Alert::is_firing);
                            let follows = things[1..4].contains(key);
                            prop_assert!(is_end || !follows || !dead, "{key:?} beside its cause");
                        }
                    }
                }
            }
        }
        for key in &things {
            let mut last: Option<(i64, Notice)> = None;
            for (at, notice) in scene.told_of(key) {
                let open = last.is_some_and(|(_, n)| n != Notice::Resolved);
                match notice {
                    Notice::Fired => prop_assert!(!open, "{key:?}: begins twice"),
                    Notice::Raised | Notice::Resolved => prop_assert!(open, "{key:?}: {notice:?} of nothing"),
                    Notice::Repeated => {
                        let (before, _) = last.expect("told before");
                        prop_assert!(open && at - before >= REPEAT.as_secs(), "{key:?}: too soon");
                    }
                }
                last = Some((at, notice));
            }
            let told = last.is_some_and(|(_, n)| n != Notice::Resolved);
            let open = scene.book.get(key).is_some_and(|a| a.sent.is_some());
            prop_assert_eq!(told, open, "{:?}: the receivers of the start get the end", key);
        }
    }
}

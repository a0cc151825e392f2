use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Passes that were started, and how many ran concurrently.
#[derive(Default)]
struct Looks {
    began: Mutex<Vec<(ClusterId, Instant)>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A pass in progress.
struct UnderWay(Arc<Looks>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Looks {
    fn begin(self: &Arc<Self>, cluster: ClusterId) -> UnderWay {
        let mut began = self.began.lock().expect("looks");
        began.push((cluster, Instant::now()));
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        UnderWay(Arc::clone(self))
    }

    /// Seconds after `start` at which passes over this cluster started.
    fn of(&self, cluster: ClusterId, start: Instant) -> Vec<u64> {
        let began = self.began.lock().expect("looks");
        let own = began.iter().filter(|(c, _)| *c == cluster);
        own.map(|(_, at)| (*at - start).as_secs()).collect()
    }
}

/// A pass: how long it takes, then its result; `None`: it is lost.
type Way = (Duration, Option<Ended>);

/// Runs the rounds for so long, with passes of that kind; `meanwhile` may poke.
async fn rounds_for(
    time: Duration,
    clusters: Vec<ClusterId>,
    way: impl Fn(ClusterId, usize) -> Way,
    meanwhile: impl AsyncFn(&Rights),
) -> Arc<Looks> {
    let (looks, rights) = (Arc::new(Looks::default()), Rights::default());
    let start = Instant::now();
    let look = |cluster| {
        let (takes, ended) = way(cluster, looks.of(cluster, start).len());
        let looks = Arc::clone(&looks);
        async move {
            let _under_way = looks.begin(cluster);
            tokio::time::sleep(takes).await;
            ended.expect("lost")
        }
    };
    let both = async { tokio::join!(rounds(&rights, clusters, look), meanwhile(&rights)) };
    tokio::time::timeout(time, both)
        .await
        .expect_err("for ever");
    looks
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_few_clusters_at_a_time_and_every_one_has_its_turn() {
    let clusters: Vec<ClusterId> = (0..3 * AT_ONCE).map(|_| ClusterId::random()).collect();
    let start = Instant::now();
    let way = |_, _| (SECOND, Some(Ended::Well));
    let looks = rounds_for(SLOW / 2, clusters.clone(), way, async |_| ()).await;
    assert_eq!(looks.most.load(Ordering::SeqCst), AT_ONCE);
    let mut when: Vec<_> = clusters.iter().map(|c| looks.of(*c, start)).collect();
    when.sort();
    for (n, when) in when.iter().enumerate() {
        assert_eq!(*when, [(n / AT_ONCE) as u64], "one each, none waits longer");
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_that_does_not_end_is_given_up_and_made_again() {
    let (stuck, other) = (ClusterId::random(), ClusterId::random());
    let start = Instant::now();
    let way = |cluster, before| match cluster == stuck && before == 0 {
        true => (100 * LOOK_MAX, None),
        false => (SECOND, Some(Ended::Well)),
    };
    // A pass takes a third of a cluster's time at most.
    let again = LOOK_MAX * SHARE;
    let looks = rounds_for(again + SLOW / 2, vec![stuck, other], way, async |_| ()).await;
    assert_eq!(looks.of(stuck, start), [0, again.as_secs()]);
    assert!(
        looks.of(other, start).len() > 20,
        "the other does not wait for it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_look_that_is_lost_is_made_again() {
    let cluster = ClusterId::random();
    let start = Instant::now();
    let way = |_, before| (SECOND, (before > 0).then_some(Ended::Well));
    let looks = rounds_for(SLOW / 2, vec![cluster], way, async |_| ()).await;
    assert_eq!(looks.of(cluster, start), [0, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_poke_is_answered_at_once_and_not_by_two_looks_at_the_same_time() {
    let (known, new) = (ClusterId::random(), ClusterId::random());
    let start = Instant::now();
    let way = |_, _| (4 * SECOND, Some(Ended::Well));
    let meanwhile = async |rights: &Rights| {
        tokio::time::sleep_until(start + 2 * SECOND).await;
        rights.poke(known);
        rights.poke(new);
    };
    let looks = rounds_for(SLOW / 2, vec![known], way, meanwhile).await;
    assert_eq!(looks.of(new, start), [2]);
    // Poked during a pass: another one after that pass and its share of the time.
    assert_eq!(looks.of(known, start), [0, 12]);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_gone_is_not_looked_at_until_somebody_speaks_of_it() {
    let cluster = ClusterId::random();
    let start = Instant::now();
    let way = |_, _| (SECOND, Some(Ended::Gone));
    let meanwhile = async |rights: &Rights| {
        tokio::time::sleep_until(start + 2 * SLOWEST).await;
        rights.poke(cluster);
    };
    let looks = rounds_for(4 * SLOWEST, vec![cluster], way, meanwhile).await;
    assert_eq!(looks.of(cluster, start), [0, (2 * SLOWEST).as_secs()]);
}

#[test]
fn a_cluster_is_looked_at_soon_then_slowly_and_at_once_when_poked() {
    let start = Instant::now();
    let took = Duration::from_millis(20);
    let mut turn = Turn::new(start);
    let mut pauses = Vec::new();
    for _ in 0..=FAILS_MAX {
        turn.due = start + SLOWEST;
        turn.ended(start, took, Ended::NotYet("no".into()));
        pauses.push(turn.at() - start);
    }
    assert_eq!(pauses[0], SOON);
    assert!(pauses.is_sorted() && pauses[FAILS_MAX as usize - 1] <= SOON_MAX);
    assert_eq!(pauses[FAILS_MAX as usize], SLOW);
    turn.poked(start);
    assert!(turn.at() - start < SOON);
    // A poke during a pass is not lost.
    turn.ended(start, took, Ended::Well);
    assert!(turn.at() - start < SOON);
    turn.due = start + SLOWEST;
    turn.ended(start, took, Ended::Well);
    assert_eq!(turn.at() - start, SLOW);
}

#[test]
fn large_clusters_are_looked_at_less_often() {
    let start = Instant::now();
    let mut turn = Turn::new(start);
    turn.due = start + SLOWEST;
    turn.ended(start, Duration::from_secs(6), Ended::NotYet("no".into()));
    assert_eq!(turn.at() - start, Duration::from_secs(54));
    turn.due = start + SLOWEST;
    turn.ended(start, Duration::from_secs(6), Ended::Well);
    assert_eq!(turn.at() - start, Duration::from_secs(300));
    turn.poked(start);
    assert_eq!(turn.at() - start, Duration::from_secs(12));
    turn.due = start + 2 * SLOWEST;
    turn.ended(start, Duration::from_secs(100), Ended::Well);
    assert_eq!(turn.at() - start, SLOWEST);
}

#[test]
fn one_look_at_a_time_and_the_longest_waiting_first() {
    let now = Instant::now();
    let (a, b) = (ClusterId::random(), ClusterId::random());
    let turns = BTreeMap::from([
        (a, Turn::new(now)),
        (b, Turn::new(now - Duration::from_secs(1))),
    ]);
    let tasks = tokio::runtime::Runtime::new().expect("a runtime");
    let look = |cluster| (cluster, (tasks.spawn(async {}).id(), now));
    assert_eq!(first_due(&turns, &Busy::new(), now), Some(b));
    assert_eq!(first_due(&turns, &[look(b)].into(), now), Some(a));
    assert_eq!(first_due(&turns, &[look(a), look(b)].into(), now), None);
    assert_eq!(next_due(&turns, &[look(b)].into()), Some(now));
    let before = now - Duration::from_secs(2);
    assert_eq!(first_due(&turns, &Busy::new(), before), None, "not yet");
}

#[test]
fn who_leaves_is_done_when_he_says_so_of_the_very_spec_that_told_him() {
    let told = (Generation(5), Role::None);
    let left = Some((Role::None, NodeState::Ok));
    assert!(has_left(told, Generation(5), left));
    assert!(has_left(told, Generation(6), None), "it never was a node");
    assert!(!has_left(told, Generation(4), left), "of the spec before");
    assert!(!has_left(
        (Generation(5), Role::Worker),
        Generation(5),
        left
    ));
    for state in [
        NodeState::Converging,
        NodeState::Retrying,
        NodeState::Failed,
    ] {
        assert!(
            !has_left(told, Generation(5), Some((Role::None, state))),
            "{state:?}"
        );
    }
    assert!(!has_left(
        told,
        Generation(5),
        Some((Role::Worker, NodeState::Ok))
    ));
}

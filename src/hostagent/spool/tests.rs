use proptest::prelude::*;

use super::*;

const SMALL: Bounds = Bounds {
    events: 8,
    bytes: 100_000,
    in_memory: 3,
};

fn draft(n: usize) -> Draft {
    Draft {
        at: Timestamp::UNIX_EPOCH,
        kind: "test",
        message: n.to_string(),
        fault: None,
        topic: None,
    }
}

fn about(name: &str, value: &str) -> Draft {
    Draft {
        topic: Some(Topic {
            name: name.into(),
            value: value.into(),
            idle: Some("idle"),
        }),
        message: value.into(),
        ..draft(0)
    }
}

fn host() -> (tempfile::TempDir, HostFs) {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    (dir, fs)
}

fn open(fs: &HostFs, bounds: Bounds) -> Spool {
    Spool::open(fs.clone(), bounds, Timestamp::UNIX_EPOCH)
}

/// Makes writing of events impossible, for root too.
fn break_disk(fs: &HostFs) {
    block(fs, DIR);
}

fn mend_disk(fs: &HostFs) {
    free(fs, DIR);
}

/// The directory is a file.
fn block(fs: &HostFs, dir: &str) {
    let dir = fs.at(dir);
    if dir.is_dir() {
        std::fs::rename(&dir, dir.with_extension("away")).expect("away");
    }
    std::fs::create_dir_all(dir.parent().expect("parent")).expect("mkdir");
    std::fs::write(&dir, b"").expect("file");
}

fn free(fs: &HostFs, dir: &str) {
    let dir = fs.at(dir);
    std::fs::remove_file(&dir).expect("file");
    if dir.with_extension("away").exists() {
        std::fs::rename(dir.with_extension("away"), &dir).expect("back");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Push,
    Deliver(usize),
    Restart,
    Break,
    Mend,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        5 => Just(Op::Push),
        2 => (1usize..5).prop_map(Op::Deliver),
        1 => Just(Op::Restart),
        1 => Just(Op::Break),
        1 => Just(Op::Mend),
    ];
    prop::collection::vec(op, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Order is kept, ids are unique, bounds hold, and every event is delivered, still there, or
    /// counted as given up (only a restart loses, and only what was in memory).
    #[test]
    fn nothing_is_lost_unseen(ops in ops()) {
        let (_dir, fs) = host();
        let mut spool = open(&fs, SMALL);
        let (mut pushed, mut told, mut given_up) = (0usize, Vec::<Event>::new(), 0u64);
        let (mut broken, mut was_broken, mut lost) = (false, false, 0usize);
        for op in ops {
            match op {
                Op::Push => {
                    spool.push(draft(pushed));
                    pushed += 1;
                    prop_assert_eq!(spool.note().is_some(), broken);
                }
                // While the disk is away its events cannot be read: nothing is delivered.
                Op::Deliver(max) if !broken => {
                    if let Some(batch) = spool.batch(max) {
                        told.extend(batch.events);
                        spool.answered(batch.mark);
                    }
                }
                Op::Restart if !broken => {
                    given_up += spool.take_given_up();
                    lost += spool.entries.iter().filter(|e| e.memory.is_some()).count();
                    spool = open(&fs, SMALL);
                }
                Op::Break if !broken => { break_disk(&fs); broken = true; was_broken = true; }
                Op::Mend if broken => { mend_disk(&fs); broken = false; }
                Op::Deliver(_) | Op::Restart | Op::Break | Op::Mend => {}
            }
            prop_assert!(spool.entries.len() <= SMALL.events);
            let in_memory = spool.entries.iter().filter(|e| e.memory.is_some()).count();
            prop_assert!(in_memory <= SMALL.in_memory);
        }
        if broken {
            mend_disk(&fs);
        }
        // What was given up while the disk was away could not be removed from it: it comes
        // back with a restart, late, but once.
        for _ in 0..2 {
            while let Some(batch) = spool.batch(3) {
                told.extend(batch.events);
                spool.answered(batch.mark);
            }
            given_up += spool.take_given_up();
            spool = open(&fs, SMALL);
        }
        let numbers: Vec<usize> = told.iter().map(|e| e.message.parse().expect("n")).collect();
        prop_assert!(was_broken || numbers.is_sorted_by(|a, b| a < b), "{:?}", numbers);
        let ids: std::collections::BTreeSet<_> = told.iter().map(|e| &e.id).collect();
        prop_assert_eq!(ids.len(), told.len());
        prop_assert!(told.len() + lost + usize::try_from(given_up).expect("small") >= pushed);
        prop_assert!(fs.list(DIR).expect("list").is_empty());
    }
}

#[test]
fn bytes_are_bounded_too() {
    let (_dir, fs) = host();
    let bounds = Bounds {
        bytes: 1_500,
        ..SMALL
    };
    let mut spool = open(&fs, bounds);
    for n in 0..5 {
        let mut big = draft(n);
        big.message = "x".repeat(500);
        spool.push(big);
    }
    assert!(spool.bytes <= 1_500);
    assert_eq!(spool.take_given_up(), 3);
    let first = spool.batch(1).expect("one").events.remove(0);
    assert_eq!(first.seq, Some(4), "its number tells how many are missing");
}

#[test]
fn a_damaged_file_does_not_block_the_rest() {
    let (_dir, fs) = host();
    let mut spool = open(&fs, SMALL);
    spool.push(draft(0));
    spool.push(draft(1));
    fs.write(path_of(1), b"{", &Attrs::mode(MODE))
        .expect("damage");
    let batch = spool.batch(1).expect("the good one");
    assert_eq!((batch.mark, batch.events.len()), (2, 1));
    assert_eq!(batch.events[0].message, "1");
    assert_eq!(spool.take_given_up(), 1);
}

#[test]
fn of_a_topic_only_another_value_is_told_also_after_a_restart() {
    let (_dir, fs) = host();
    let mut spool = open(&fs, SMALL);
    let told = |spool: &mut Spool| -> Vec<String> {
        let batch = spool.batch(10);
        batch.map_or_else(Vec::new, |b| {
            spool.answered(b.mark);
            b.events.into_iter().map(|e| e.message).collect()
        })
    };
    spool.push(about("state", "idle"));
    assert_eq!(
        told(&mut spool),
        Vec::<String>::new(),
        "nothing is as good as idle"
    );
    spool.push(about("state", "ok"));
    spool.push(about("state", "ok"));
    spool.push(about("other", "ok"));
    // Before it is delivered, and after.
    let mut spool = open(&fs, SMALL);
    spool.push(about("state", "ok"));
    assert_eq!(told(&mut spool), ["ok", "ok"]);
    let mut spool = open(&fs, SMALL);
    spool.push(about("state", "ok"));
    assert_eq!(told(&mut spool), Vec::<String>::new());
    spool.push(about("state", "failed"));
    spool.push(about("state", "ok"));
    assert_eq!(told(&mut spool), ["failed", "ok"]);
}

#[test]
fn topics_are_bounded_and_beyond_that_events_are_told_all_the_same() {
    let (_dir, fs) = host();
    let mut spool = open(&fs, BOUNDS);
    for n in 0..TOPICS_MAX + 50 {
        spool.push(about(&format!("topic-{n}-{}", "x".repeat(1000)), "v"));
        if let Some(batch) = spool.batch(10) {
            spool.answered(batch.mark);
        }
    }
    assert!(spool.note().is_none(), "the head has room for them");
    let spool = open(&fs, BOUNDS);
    // Their long names are one, cut.
    assert!(spool.told.len() <= TOPICS_MAX && spool.last == (TOPICS_MAX + 50) as u64);
}

#[test]
fn numbers_go_on_after_a_restart_and_what_could_not_be_taken_in_has_some() {
    let (_dir, fs) = host();
    let mut spool = open(&fs, SMALL);
    spool.push(draft(0));
    let batch = spool.batch(10).expect("one");
    spool.answered(batch.mark);
    let mut again = open(&fs, SMALL);
    again.skip(3);
    again.push(draft(1));
    let next = again.batch(10).expect("one");
    assert_eq!((next.spool, next.events[0].seq), (batch.spool, Some(5)));
    assert_eq!(again.take_given_up(), 3);
}

/// What the plane gets, and that no number of a spool stands for two events.
#[derive(Default)]
struct Heard(std::collections::BTreeMap<(Uuid, u64), String>);

impl Heard {
    fn deliver(&mut self, spool: &mut Spool) {
        while let Some(batch) = spool.batch(10) {
            for event in &batch.events {
                let number = (batch.spool, event.seq.expect("a number"));
                let id = self.0.entry(number).or_insert_with(|| event.id.clone());
                assert_eq!(*id, event.id, "{number:?}");
            }
            spool.answered(batch.mark);
        }
    }

    /// Of events, each once.
    fn count(&self) -> usize {
        let ids: std::collections::BTreeSet<_> = self.0.values().collect();
        ids.len()
    }
}

#[test]
fn no_number_is_used_again_for_one_that_the_disk_never_had() {
    const STATE: &str = "/var/opt/pf9/hostagent";
    let (_dir, fs) = host();
    let (mut spool, mut heard) = (open(&fs, SMALL), Heard::default());
    spool.push(draft(0));
    heard.deliver(&mut spool);
    // Neither events nor the head.
    block(&fs, STATE);
    for n in 1..3 {
        spool.push(draft(n));
        heard.deliver(&mut spool);
    }
    assert!(spool.note().is_some());
    // Killed, and there is room.
    free(&fs, STATE);
    let mut spool = open(&fs, SMALL);
    for n in 3..6 {
        spool.push(draft(n));
        heard.deliver(&mut spool);
    }
    assert_eq!(heard.count(), 6);
    assert!(spool.note().is_none());
}

#[test]
fn no_number_is_used_again_when_the_head_was_not_written() {
    let (_dir, fs) = host();
    let (mut spool, mut heard) = (open(&fs, SMALL), Heard::default());
    spool.push(draft(0));
    heard.deliver(&mut spool);
    // The head's predecessor cannot be replaced, and so neither can the head.
    let previous = fs.at(format!("{HEAD}.prev"));
    drop(std::fs::remove_file(&previous));
    std::fs::create_dir(&previous).expect("in the way");
    for n in 1..4 {
        spool.push(draft(n));
        heard.deliver(&mut spool);
        let names = fs.list(DIR).expect("list");
        assert_eq!(names.len(), 1, "the newest number: {names:?}");
    }
    // Killed, and it can be.
    std::fs::remove_dir(&previous).expect("out of the way");
    let mut spool = open(&fs, SMALL);
    spool.push(draft(4));
    heard.deliver(&mut spool);
    assert_eq!(heard.count(), 5);
    assert_eq!(fs.list(DIR).expect("list"), [""; 0]);
    // The same without an end of the process.
    std::fs::remove_file(&previous).expect("the one before");
    std::fs::create_dir(&previous).expect("in the way");
    spool.push(draft(5));
    heard.deliver(&mut spool);
    std::fs::remove_dir(&previous).expect("out of the way");
    spool.push(draft(6));
    heard.deliver(&mut spool);
    assert_eq!(fs.list(DIR).expect("list"), [""; 0]);
}

/// Events, spooled and delivered, broken at every point: see [`crate::seam::walk`].
#[cfg(feature = "fault")]
pub(crate) mod walk {
    use std::collections::BTreeMap;

    use super::*;
    use crate::host::ours::paths::WRITTEN_BY_HOSTAGENT;
    use crate::host::temps;
    use crate::seam::walk::{Scenario, files, walk};

    pub(crate) struct Events;

    pub(crate) struct Telling {
        _dir: tempfile::TempDir,
        fs: HostFs,
        spool: Option<Spool>,
        /// What the plane has, by id: it knows doubles.
        told: BTreeMap<String, String>,
    }

    impl Scenario for Events {
        const NAME: &'static str = "events";
        type World = Telling;

        async fn begin(&self) -> Telling {
            let (dir, fs) = host();
            Telling {
                _dir: dir,
                fs,
                spool: None,
                told: BTreeMap::new(),
            }
        }

        async fn life(&self, w: &mut Telling, starts: bool) -> bool {
            if starts || w.spool.is_none() {
                temps::collect(&w.fs, WRITTEN_BY_HOSTAGENT);
                w.spool = Some(open(&w.fs, SMALL));
            }
            let spool = w.spool.as_mut().expect("open");
            // A start reports current values; what is no news is not sent again.
            for n in 0..4 {
                spool.push(about(&format!("topic {n}"), "bad"));
            }
            while let Some(batch) = spool.batch(3) {
                let told = batch
                    .events
                    .iter()
                    .map(|e| (e.id.clone(), e.message.clone()));
                w.told.extend(told);
                spool.answered(batch.mark);
            }
            spool.push(about("topic 0", "good"));
            while let Some(batch) = spool.batch(3) {
                let told = batch
                    .events
                    .iter()
                    .map(|e| (e.id.clone(), e.message.clone()));
                w.told.extend(told);
                spool.answered(batch.mark);
            }
            spool.note().is_none()
        }

        async fn end(&self, w: &mut Telling) -> BTreeMap<String, String> {
            // A delivered one that the disk would not let go of goes with the next start.
            drop(open(&w.fs, SMALL));
            let mut end = files(&w.fs, |path| path.contains(".json"));
            let mut told: Vec<_> = w.told.values().cloned().collect();
            told.sort();
            told.dedup();
            end.insert("told".to_owned(), told.join(", "));
            end
        }
    }

    #[tokio::test]
    async fn events_broken_anywhere_are_told_and_leave_nothing() {
        walk(&Events, 60).await;
    }
}

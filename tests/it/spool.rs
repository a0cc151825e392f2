//! Events from a node's real spool in the plane's real store, with either side killed: delivered at least once, stored
//! exactly once.

use pf9_hostagent::hostagent::spool_testing::{Killable, Sent};
use pf9_hostagent::model::HostId;
use pf9_plane::testing::Shelf;
use proptest::prelude::*;

const SMALL: usize = 8;

/// Either side may be killed between any two of these.
#[derive(Clone, Debug)]
enum Act {
    Push,
    /// The plane stores what it receives, and the answer arrives.
    Send(usize),
    /// The plane stores it, and the answer is lost.
    SendUnheard(usize),
    /// It is killed before it stores it.
    SendLost(usize),
    /// It is answered, and hostagent is killed after writing the head and deleting this many files.
    KilledAfterHead(usize, usize),
    NodeKilled,
    PlaneKilled,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => Just(Act::Push),
        2 => (1usize..6).prop_map(Act::Send),
        2 => (1usize..6).prop_map(Act::SendUnheard),
        1 => (1usize..6).prop_map(Act::SendLost),
        1 => (1usize..6).prop_map(|n| Act::KilledAfterHead(n, 0)),
        1 => (1usize..6, 0usize..6).prop_map(|(n, k)| Act::KilledAfterHead(n, k)),
        1 => Just(Act::NodeKilled),
        1 => Just(Act::PlaneKilled),
    ];
    prop::collection::vec(act, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Every event is there once and in order, however often either side was killed.
    #[test]
    fn no_event_is_lost_or_doubled_wherever_either_side_is_killed(acts in acts()) {
        let plane_dir = tempfile::tempdir().expect("tempdir");
        let host = HostId::random().to_string();
        let mut plane = Some(Shelf::open(plane_dir.path()));
        let mut spool = Killable::new(200);
        let mut pushed = 0usize;
        for act in acts {
            let shelf = plane.as_ref().expect("it runs");
            match act {
                Act::Push => {
                    spool.push(pushed);
                    pushed += 1;
                }
                Act::Send(max) => if let Some(Sent { document, mark }) = spool.batch(max) {
                    shelf.take(&host, &document);
                    spool.answered(mark);
                },
                Act::SendUnheard(max) => if let Some(sent) = spool.batch(max) {
                    shelf.take(&host, &sent.document);
                },
                Act::SendLost(max) => drop(spool.batch(max)),
                Act::KilledAfterHead(max, files) => if let Some(sent) = spool.batch(max) {
                    shelf.take(&host, &sent.document);
                    spool.killed_while_noting(sent.mark, files);
                },
                Act::NodeKilled => spool.killed(),
                Act::PlaneKilled => {
                    drop(plane.take());
                    plane = Some(Shelf::open(plane_dir.path()));
                }
            }
        }
        let shelf = plane.expect("it runs");
        while let Some(Sent { document, mark }) = spool.batch(3) {
            shelf.take(&host, &document);
            spool.answered(mark);
        }
        let wanted: Vec<String> = (0..pushed).map(|n| n.to_string()).collect();
        prop_assert_eq!(shelf.messages(&host), wanted);
        prop_assert!(spool.is_empty());
    }
}

/// Events that did not fit are counted by the plane, once, with either side killed.
#[test]
fn dropped_events_are_counted_on_the_plane() {
    let plane_dir = tempfile::tempdir().expect("tempdir");
    let host = HostId::random().to_string();
    let mut spool = Killable::new(SMALL);
    spool.push(0);
    let shelf = Shelf::open(plane_dir.path());
    let sent = spool.batch(1).expect("one");
    shelf.take(&host, &sent.document);
    spool.answered(sent.mark);
    for n in 1..=SMALL + 5 {
        spool.push(n);
    }
    // Killed: nobody remembers that five did not fit.
    spool.killed();
    let sent = spool.batch(4).expect("some");
    shelf.take(&host, &sent.document);
    shelf.take(&host, &sent.document);
    let words = "5 events of this host are lost: its spool was full, or a file of it damaged";
    assert_eq!(shelf.messages(&host), ["0", words, "6", "7", "8", "9"]);
}

/// The host was reinstalled, or its disk was restored to an image: its events are new.
#[test]
fn a_lost_or_restored_spool_costs_no_event() {
    let plane_dir = tempfile::tempdir().expect("tempdir");
    let host = HostId::random().to_string();
    let shelf = Shelf::open(plane_dir.path());
    let deliver = |spool: &mut Killable| {
        while let Some(Sent { document, mark }) = spool.batch(10) {
            shelf.take(&host, &document);
            spool.answered(mark);
        }
    };
    let mut spool = Killable::new(SMALL);
    spool.push(0);
    deliver(&mut spool);
    let image = spool.head();
    for n in 1..4 {
        spool.push(n);
    }
    deliver(&mut spool);
    spool.set_back(&image);
    for n in 4..7 {
        spool.push(n);
    }
    deliver(&mut spool);
    spool.installed_anew();
    spool.push(7);
    deliver(&mut spool);
    let wanted: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    assert_eq!(shelf.messages(&host), wanted);
}

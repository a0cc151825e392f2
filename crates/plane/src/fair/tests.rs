use std::collections::BTreeMap;
use std::task::Poll;

use looking::poll;
use proptest::prelude::*;

use super::*;

/// Polls a future once, without a runtime.
mod looking {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    pub(super) fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
        future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    }
}

type Waiting = std::pin::Pin<Box<dyn Future<Output = Result<Place, TooMany>>>>;

fn origin(n: u8) -> Origin {
    Origin::of(SocketAddr::from(([10, 0, 0, n], 1)))
}

fn asks(fair: &Fair, n: u8) -> Waiting {
    let fair = fair.clone();
    let mut waiting: Waiting = Box::pin(async move { fair.place(origin(n)).await });
    // From here on it is in the queue.
    match poll(&mut waiting) {
        Poll::Pending => waiting,
        Poll::Ready(done) => Box::pin(std::future::ready(done)),
    }
}

#[test]
fn who_has_many_loses_its_own() {
    let keys = ["1a", "2b", "3b", "4b", "5a", "6b"];
    let owned = || keys.map(|key| (&key[1..], key));
    assert_eq!(of_those_with_most(owned(), 2), ["2b", "3b"]);
    assert_eq!(of_those_with_most(owned(), 0), [""; 0]);
    assert_eq!(of_those_with_most(owned(), 9).len(), keys.len());
}

#[test]
fn an_origin_is_an_address_or_the_network_of_a_site() {
    let of = |text: &str| Origin::of(text.parse().expect("address"));
    assert_eq!(of("192.0.2.1:1"), of("192.0.2.1:2"));
    assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
    assert_eq!(of("192.0.2.1:1"), of("[::ffff:192.0.2.1]:1"));
    assert_eq!(of("[2001:db8:0:1::1]:1"), of("[2001:db8:0:1:ffff::]:1"));
    assert_ne!(of("[2001:db8:0:1::1]:1"), of("[2001:db8:0:2::1]:1"));
}

#[test]
fn a_frequent_caller_waits_behind_a_rare_one() {
    let fair = Fair::new(1, 100);
    let Poll::Ready(Ok(held)) = poll(&mut asks(&fair, 1)) else {
        panic!("the first one has it at once");
    };
    let mut many: Vec<Waiting> = (0..60).map(|_| asks(&fair, 1)).collect();
    let mut one = asks(&fair, 2);
    drop(held);
    let Poll::Ready(Ok(first)) = poll(&mut many[0]) else {
        panic!("who came first is first");
    };
    assert!(poll(&mut one).is_pending());
    drop(first);
    assert!(poll(&mut one).is_ready(), "59 of another origin wait");
}

#[test]
fn a_waiter_that_gives_up_passes_its_slot_on() {
    let fair = Fair::new(1, 10);
    let Poll::Ready(Ok(held)) = poll(&mut asks(&fair, 1)) else {
        panic!("free");
    };
    let (gone, given, mut last) = (asks(&fair, 1), asks(&fair, 2), asks(&fair, 3));
    drop(gone);
    drop(held);
    // It was given to the second, which is dropped without having been polled.
    drop(given);
    assert!(poll(&mut last).is_ready());
    drop(last);
    assert_eq!(fair.0.line().free, 1);
}

#[test]
fn a_caller_that_gave_up_costs_its_origin_no_turn() {
    let fair = Fair::new(1, 10);
    let Poll::Ready(Ok(mut held)) = poll(&mut asks(&fair, 0)) else {
        panic!("free");
    };
    let gone = [asks(&fair, 1), asks(&fair, 1)];
    let mut patient = asks(&fair, 1);
    let mut others: Vec<Waiting> = (2..5).map(|n| asks(&fair, n)).collect();
    drop(gone);
    drop(held);
    held = match poll(&mut patient) {
        Poll::Ready(Ok(place)) => place,
        Poll::Ready(Err(TooMany)) | Poll::Pending => panic!("its origin's turn was the first"),
    };
    for other in &mut others {
        assert!(poll(other).is_pending());
        drop(held);
        held = match poll(other) {
            Poll::Ready(Ok(place)) => place,
            Poll::Ready(Err(TooMany)) | Poll::Pending => panic!("each has its turn"),
        };
    }
    drop(held);
    assert_eq!(fair.0.line().free, 1);
}

#[test]
fn a_full_queue_drops_the_last_entry_of_the_caller_with_the_most() {
    let fair = Fair::new(1, 3);
    let held = poll(&mut asks(&fair, 1));
    let (mut first, second, mut third) = (asks(&fair, 1), asks(&fair, 1), asks(&fair, 1));
    assert!(matches!(
        poll(&mut asks(&fair, 1)),
        Poll::Ready(Err(TooMany))
    ));
    let mut other = asks(&fair, 2);
    assert!(matches!(poll(&mut third), Poll::Ready(Err(TooMany))));
    assert!(poll(&mut other).is_pending());
    // Callers that gave up make room first.
    drop(second);
    let mut another = asks(&fair, 3);
    assert!(poll(&mut another).is_pending() && poll(&mut first).is_pending());
    drop(held);
}

proptest! {
    /// For any sequence of asking, dropping and giving up: there are never too many slots, none is lost, and between
    /// two slots of one origin every other waiting origin gets one.
    #[test]
    fn no_slot_is_lost_and_turns_are_taken(
        places in 1usize..4,
        moves in prop::collection::vec((0u8..3, 0u8..5, 0usize..64), 1..200),
    ) {
        let fair = Fair::new(places, 16);
        let mut waiting: Vec<(u8, Waiting)> = Vec::new();
        let mut held: Vec<Place> = Vec::new();
        for (what, who, which) in moves {
            match what {
                0 => waiting.push((who, asks(&fair, who))),
                1 if !waiting.is_empty() => drop(waiting.remove(which % waiting.len())),
                _ if !held.is_empty() => drop(held.remove(which % held.len())),
                _ => {}
            }
            waiting.retain_mut(|(_, one)| match poll(one) {
                Poll::Pending => true,
                Poll::Ready(Ok(place)) => { held.push(place); false }
                Poll::Ready(Err(TooMany)) => false,
            });
            prop_assert!(held.len() <= places);
            let free = fair.0.line().free;
            prop_assert_eq!(free + held.len(), places);
            prop_assert!(free == 0 || waiting.is_empty());
        }
        // Turns: from now on each freed slot goes to another origin while one waits.
        let mut behind: BTreeMap<u8, usize> = BTreeMap::new();
        while let Some(place) = held.pop() {
            let others: Vec<u8> = waiting.iter().map(|(who, _)| *who).collect();
            drop(place);
            let mut given = None;
            waiting.retain_mut(|(who, one)| match poll(one) {
                Poll::Pending => true,
                Poll::Ready(Ok(place)) => { held.push(place); given = Some(*who); false }
                Poll::Ready(Err(TooMany)) => false,
            });
            if let Some(given) = given {
                behind.insert(given, 0);
                for who in others.into_iter().filter(|w| *w != given).collect::<std::collections::BTreeSet<_>>() {
                    let turns = behind.entry(who).or_default();
                    *turns += 1;
                    // Of five origins.
                    prop_assert!(*turns <= 4, "{} waited for {} others", who, turns);
                }
            } else {
                held.clear();
            }
        }
    }
}

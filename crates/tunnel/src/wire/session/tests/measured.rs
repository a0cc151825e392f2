//! What a session knows of the length of its path, and what it keeps of a busy time.

use super::*;

/// The path became long while nothing passed, and windows grow by the round trip.
#[test]
fn an_old_round_trip_is_measured_anew_when_bulk_begins() {
    let mut plane = Plane::new();
    plane.now = plane.now.plus(Duration::from_millis(5));
    plane.hears(Frame::Pong(1)).expect("a good PONG");
    for token in 0..6 {
        plane.waits(PING_INTERVAL);
        plane.hears(Frame::Ping(token)).expect("a good PING");
        assert_eq!(plane.says(), [Frame::Pong(token)], "it is heard");
    }
    let measured = |plane: &Plane| plane.session.stats().round_trip;
    assert_eq!(measured(&plane), Some(Duration::from_millis(5)));
    plane.taken(1);
    plane.hears(data(1, DATA_MAX)).expect("within its window");
    plane.waits(Duration::ZERO);
    assert_eq!(plane.says(), [Frame::Ping(2)]);
    plane.now = plane.now.plus(Duration::from_millis(150));
    plane.hears(Frame::Pong(2)).expect("a good PONG");
    assert_eq!(measured(&plane), Some(Duration::from_millis(150)));
}

/// A host says something once a minute, and its plane has thousands.
#[test]
fn a_quiet_session_keeps_no_lists() {
    let mut plane = Plane::new();
    plane.taken(1);
    let own = plane.opens().expect("room");
    plane.hears(open(3)).expect("a good OPEN");
    plane
        .session
        .reset(StreamId(3), StreamEnd::own(Code::Internal, "no"));
    plane.hears(data(1, 10)).expect("within its window");
    plane.says();
    plane.session.rest();
    assert!(!plane.events().is_empty(), "what waits stays");
    plane
        .hears(Frame::Accept(own))
        .expect("a stream of this side");
    plane.waits(OPEN_TIMEOUT);
    plane.answers();
    plane.events();
    let session = &mut plane.session;
    assert!(session.events.capacity() > 0);
    session.rest();
    assert_eq!(session.events.capacity(), 0);
    assert_eq!(session.listed.capacity(), 0);
    assert_eq!(session.open_deadlines.capacity(), 0);
}

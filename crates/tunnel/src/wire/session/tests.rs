//! What the page specifies of a session, exercised frame by frame.

use std::time::Duration;

use bytes::Bytes;

use super::super::frame::{Class, Frame, Hello, Meta, Open, StreamId};
use super::super::limits::{
    BACKLOG_MAX, CONNECTION_WINDOW, DATA_MAX, INITIAL_WINDOW, LAST_BYTES_TIMEOUT, LEAVING_WINDOW,
    OPEN_TIMEOUT, PING_INTERVAL, PINNED_MAX, REFUSALS_MAX, SEND_BUFFER, SEND_FLOOR, SEND_TOTAL,
    STREAMS_MAX, VERSION,
};
use super::super::{Code, Time};
use super::{Config, Event, GoAway, OpenError, Read, Session, Side, StreamEnd, Violation};
mod measured;

/// A plane's session, and the test as its node.
struct Plane {
    session: Session,
    now: Time,
}

fn hello(initial_window: u32) -> Frame {
    Frame::Hello(Hello {
        version: VERSION,
        initial_window,
        max_streams: STREAMS_MAX,
        capabilities: vec!["of-tomorrow".to_owned()],
    })
}

fn open(stream: u32) -> Frame {
    let open = Open {
        service: "echo".to_owned(),
        class: Class::Bulk,
        meta: Meta::new(),
    };
    Frame::Open(StreamId(stream), open)
}

fn data(stream: u32, len: usize) -> Frame {
    Frame::Data(StreamId(stream), Bytes::from(vec![7; len]), false)
}

impl Plane {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let mut plane = Self::silent(config);
        plane.hears(hello(INITIAL_WINDOW)).expect("a good HELLO");
        plane.says();
        plane
    }

    /// Its node is silent.
    fn silent(config: Config) -> Self {
        Self {
            session: Session::new(Side::Plane, config, Time(0)),
            now: Time(0),
        }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "a frame that is said is gone"
    )]
    fn hears(&mut self, frame: Frame) -> Result<(), Violation> {
        self.session.receive(frame.encode(), self.now)
    }

    fn says(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.session.transmit(self.now)).collect()
    }

    /// Everything but PING.
    fn answers(&mut self) -> Vec<Frame> {
        let mut said = self.says();
        said.retain(|f| !matches!(f, Frame::Ping(_)));
        said
    }

    fn waits(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.session.tick(self.now).expect("the peer lives");
    }

    /// An accepted stream of the node.
    fn taken(&mut self, stream: u32) {
        self.hears(open(stream)).expect("a good OPEN");
        self.session.accept(StreamId(stream));
        assert_eq!(self.answers(), [Frame::Accept(StreamId(stream))]);
    }

    fn opens(&mut self) -> Result<StreamId, OpenError> {
        self.session
            .open("echo", Class::Bulk, Meta::new(), self.now)
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }
}

fn reset_code(frames: &[Frame]) -> Option<(StreamId, Code)> {
    frames.iter().find_map(|f| match f {
        Frame::Reset(stream, code, ..) => Some((*stream, *code)),
        _ => None,
    })
}

#[test]
fn hello_comes_first_once_and_must_be_good() {
    let mut plane = Plane::silent(Config::default());
    assert_eq!(plane.hears(Frame::Ping(1)), Err(Violation::Hello));
    assert!(matches!(plane.says().first(), Some(Frame::Hello(_))));
    plane
        .hears(hello(INITIAL_WINDOW))
        .expect("unknown capabilities are ignored");
    assert_eq!(plane.hears(hello(INITIAL_WINDOW)), Err(Violation::Hello));
    let small = hello(INITIAL_WINDOW - 1);
    let told = Plane::silent(Config::default()).hears(small);
    assert_eq!(told, Err(Violation::Incompatible));
    let old = Frame::Hello(Hello {
        version: 0,
        initial_window: INITIAL_WINDOW,
        max_streams: 1,
        capabilities: Vec::new(),
    });
    let told = Plane::silent(Config::default()).hears(old);
    assert_eq!(told, Err(Violation::Incompatible));
}

#[test]
fn a_larger_first_window_counts_for_streams_that_were_opened_before_it_was_known() {
    let mut plane = Plane::silent(Config::default());
    let stream = plane.opens().expect("room");
    let block = Bytes::from(vec![1; 48 * 1024]);
    plane.session.write(stream, block).expect("open");
    let sent = |frames: &[Frame]| -> usize {
        let data = frames.iter().map(|f| match f {
            Frame::Data(_, bytes, _) => bytes.len(),
            _ => 0,
        });
        data.sum()
    };
    assert_eq!(sent(&plane.says()), 32 * 1024);
    plane.hears(hello(64 * 1024)).expect("a good HELLO");
    assert_eq!(sent(&plane.says()), 16 * 1024);
}

#[test]
fn stream_ids_are_of_the_right_side_rising_and_opened() {
    for frames in [
        vec![open(2)],
        vec![open(3), open(3)],
        vec![open(5), open(3)],
        vec![data(1, 1)],
        vec![Frame::Credit(StreamId(2), 1)],
    ] {
        let mut plane = Plane::new();
        let last = frames.len() - 1;
        for (n, frame) in frames.into_iter().enumerate() {
            let said = format!("{frame:?}");
            let told = plane.hears(frame);
            let broken = matches!(told, Err(Violation::StreamId(_)));
            assert_eq!(broken, n == last, "{said}: {told:?}");
        }
    }
    // Gaps are allowed, and frames for ended streams are ignored.
    let mut plane = Plane::new();
    plane.hears(open(1001)).expect("a gap");
    plane
        .session
        .reset(StreamId(1001), StreamEnd::own(Code::NotAllowed, "no"));
    plane.hears(data(1001, 1)).expect("ignored");
}

#[test]
fn more_than_the_credit_ends_the_stream_and_only_it() {
    let mut plane = Plane::new();
    plane.taken(1);
    plane.taken(3);
    plane.hears(data(1, DATA_MAX)).expect("within the window");
    assert_eq!(plane.answers(), []);
    plane.hears(data(1, 1)).expect("the connection lives");
    let said = plane.answers();
    assert_eq!(reset_code(&said), Some((StreamId(1), Code::FlowControl)));
    plane.hears(data(3, 5)).expect("its neighbour lives");
    assert!(matches!(plane.session.read(StreamId(3)), Read::Data(b) if b.len() == 5));
}

#[test]
fn data_after_the_end_is_more_than_the_credit() {
    let mut plane = Plane::new();
    plane.taken(1);
    let end = Frame::Data(StreamId(1), Bytes::new(), true);
    plane.hears(end).expect("FIN");
    plane.hears(data(1, 1)).expect("the connection lives");
    assert_eq!(
        reset_code(&plane.answers()),
        Some((StreamId(1), Code::FlowControl))
    );
}

#[test]
fn control_goes_before_data() {
    let mut plane = Plane::new();
    plane.taken(1);
    let stream = plane.opens().expect("room");
    let block = Bytes::from(vec![1; 20_000]);
    plane.session.write(stream, block).expect("open");
    plane.hears(data(1, DATA_MAX)).expect("data");
    while let Read::Data(bytes) = plane.session.read(StreamId(1)) {
        plane.session.consumed(StreamId(1), bytes.len(), plane.now);
    }
    plane.hears(Frame::Ping(77)).expect("ping");
    let kinds: Vec<_> = plane.answers().iter().map(kind).collect();
    assert_eq!(kinds, ["pong", "open", "credit", "data"]);
}

fn kind(frame: &Frame) -> &'static str {
    match frame {
        Frame::Hello(_) => "hello",
        Frame::Open(..) => "open",
        Frame::Accept(_) => "accept",
        Frame::Data(..) => "data",
        Frame::Credit(..) => "credit",
        Frame::Return(..) => "return",
        Frame::Reset(..) => "reset",
        Frame::Ping(_) => "ping",
        Frame::Pong(_) => "pong",
        Frame::GoAway(..) => "goaway",
        Frame::Skipped(_) => "skipped",
    }
}

#[test]
fn too_many_streams_are_refused_and_counted_and_a_flood_is_an_error() {
    let mut plane = Plane::with(Config {
        streams_max: 2,
        ..Config::default()
    });
    for stream in [1, 3] {
        plane.taken(stream);
    }
    plane.hears(open(5)).expect("refused");
    let said = plane.answers();
    assert_eq!(reset_code(&said), Some((StreamId(5), Code::TooMany)));
    assert_eq!(plane.session.stats().refused, 1);
    let flood = (0..=REFUSALS_MAX as u32).map(|n| plane.hears(open(7 + 2 * n)));
    let broken: Vec<_> = flood.filter(Result::is_err).collect();
    assert_eq!(broken, [Err(Violation::Flood)]);
}

#[test]
fn streams_that_wait_for_an_answer_are_few() {
    let mut plane = Plane::new();
    for n in 0..=BACKLOG_MAX as u32 {
        plane.hears(open(1 + 2 * n)).expect("taken or refused");
    }
    let last = StreamId(1 + 2 * BACKLOG_MAX as u32);
    assert_eq!(reset_code(&plane.answers()), Some((last, Code::TooMany)));
}

#[test]
fn own_streams_are_as_many_as_memory_and_the_peer_allow() {
    let mut plane = Plane::new();
    let room = CONNECTION_WINDOW / u64::from(INITIAL_WINDOW) - u64::from(STREAMS_MAX);
    for _ in 0..room.min(u64::from(STREAMS_MAX)) {
        plane.opens().expect("room");
    }
    assert_eq!(plane.opens(), Err(OpenError::TooMany(STREAMS_MAX)));
    let mut small = Plane::with(Config {
        streams_max: 4,
        connection_window: u64::from(INITIAL_WINDOW) * 7,
        ..Config::default()
    });
    let all: Vec<_> = (0..3).map(|_| small.opens().expect("room")).collect();
    assert_eq!(small.opens(), Err(OpenError::Full));
    small.session.release(all[0]);
    small.opens().expect("room again");
}

#[test]
fn an_open_that_nobody_answers_ends() {
    let mut plane = Plane::new();
    let stream = plane.opens().expect("room");
    plane.says();
    plane.waits(OPEN_TIMEOUT - Duration::from_millis(1));
    assert_eq!(plane.events(), []);
    plane.waits(Duration::from_millis(1));
    let events = plane.events();
    assert!(
        matches!(&events[..], [Event::Ended(s, end)] if *s == stream && end.code == Code::TimedOut),
        "{events:?}"
    );
    assert_eq!(reset_code(&plane.answers()), Some((stream, Code::TimedOut)));
}

#[test]
fn a_farewell_names_the_last_stream_and_later_ones_are_refused() {
    let mut plane = Plane::new();
    plane.taken(5);
    plane.session.leave(GoAway {
        code: Code::Cancelled,
        come_back_after: Duration::from_secs(3),
        words: "restart".to_owned(),
    });
    let said = plane.answers();
    let expected = Frame::GoAway(StreamId(5), Code::Cancelled, 3000, "restart".to_owned());
    assert_eq!(said, [expected]);
    plane.hears(open(7)).expect("refused");
    assert_eq!(
        reset_code(&plane.answers()),
        Some((StreamId(7), Code::GoingAway))
    );
    assert_eq!(plane.opens(), Err(OpenError::GoingAway));
    assert!(!plane.session.is_drained());
    let end = Frame::Data(StreamId(5), Bytes::new(), true);
    plane.hears(end).expect("running streams go on");
    plane.session.finish(StreamId(5));
    plane.says();
    assert_eq!(plane.session.read(StreamId(5)), Read::End);
    plane.session.release(StreamId(5));
    assert!(plane.session.is_drained());
}

#[test]
fn a_session_is_not_drained_before_it_said_why_its_last_stream_ended() {
    let mut plane = Plane::new();
    plane.taken(1);
    plane.session.leave(GoAway {
        code: Code::Cancelled,
        come_back_after: Duration::ZERO,
        words: String::new(),
    });
    plane.says();
    let broken = StreamEnd::own(Code::Broken, "the socket broke");
    plane.session.reset(StreamId(1), broken);
    assert_eq!(plane.session.stats().streams, 0);
    assert!(!plane.session.is_drained());
    let said = plane.answers();
    assert_eq!(reset_code(&said), Some((StreamId(1), Code::Broken)));
    assert!(plane.session.is_drained());
}

#[test]
fn the_peers_farewell_gives_back_what_it_did_not_look_at() {
    let mut plane = Plane::new();
    let (seen, unseen) = (plane.opens().expect("room"), plane.opens().expect("room"));
    plane.says();
    let unsaid = plane.opens().expect("room");
    plane
        .hears(Frame::GoAway(seen, Code::Cancelled, 0, "bye".to_owned()))
        .expect("a farewell");
    let ended: Vec<_> = plane
        .events()
        .into_iter()
        .filter_map(|e| match e {
            Event::Ended(stream, end) => Some((stream, end.code)),
            _ => None,
        })
        .collect();
    assert_eq!(
        ended,
        [(unseen, Code::GoingAway), (unsaid, Code::GoingAway)]
    );
    // Nothing is opened at a draining peer, not even what was on its way; nor by it.
    assert_eq!(plane.answers(), []);
    plane.hears(open(9)).expect("refused");
    assert!(reset_code(&plane.answers()).is_some());
}

#[test]
fn what_an_idle_stream_does_not_need_goes_back_by_halves() {
    let mut plane = Plane::new();
    let stream = plane.opens().expect("room");
    plane.says();
    let large = 1 << 20;
    plane.hears(Frame::Accept(stream)).expect("taken");
    plane.hears(Frame::Credit(stream, large)).expect("credit");
    let mut kept = large;
    // An interval without a byte, again and again, while the peer is alive.
    for _ in 0..10 {
        plane.hears(Frame::Pong(0)).expect("life");
        plane.waits(PING_INTERVAL);
        for frame in plane.answers() {
            let Frame::Return(_, had, keeps) = frame else {
                panic!("{frame:?}");
            };
            assert_eq!(had, kept);
            assert!(keeps < had);
            kept = keeps;
        }
    }
    assert_eq!(kept, u64::from(INITIAL_WINDOW));
    // Credit that crossed the last one counts in full.
    plane.hears(Frame::Credit(stream, large)).expect("credit");
    let block = Bytes::from(vec![1; SEND_BUFFER]);
    plane.session.write(stream, block).expect("open");
    let sent = plane.answers().len();
    assert_eq!(sent, SEND_BUFFER / DATA_MAX);
    assert_eq!(plane.session.room(stream), Ok(SEND_BUFFER));
}

#[test]
fn credit_that_comes_before_a_return_has_left_cancels_it() {
    let mut plane = Plane::new();
    let stream = plane.opens().expect("room");
    plane.says();
    plane.hears(Frame::Accept(stream)).expect("taken");
    plane.hears(Frame::Credit(stream, 1 << 20)).expect("credit");
    plane.waits(PING_INTERVAL);
    plane.hears(Frame::Credit(stream, 2 << 20)).expect("credit");
    assert_eq!(plane.answers(), []);
}

#[test]
fn returns_that_could_not_leave_become_one() {
    let mut plane = Plane::new();
    let stream = plane.opens().expect("room");
    plane.says();
    plane.hears(Frame::Accept(stream)).expect("taken");
    let (had, keeps) = (1 << 20, 1 << 18);
    plane.hears(Frame::Credit(stream, had)).expect("credit");
    for _ in 0..2 {
        plane.waits(PING_INTERVAL);
    }
    assert_eq!(plane.answers(), [Frame::Return(stream, had, keeps)]);
}

#[test]
fn a_busy_stream_returns_nothing() {
    let mut plane = Plane::new();
    let stream = plane.opens().expect("room");
    plane.says();
    plane.hears(Frame::Credit(stream, 1 << 20)).expect("credit");
    plane.hears(Frame::Accept(stream)).expect("taken");
    for _ in 0..4 {
        plane
            .session
            .write(stream, Bytes::from_static(b"x"))
            .expect("open");
        plane.hears(Frame::Pong(0)).expect("life");
        plane.waits(PING_INTERVAL);
        let kinds: Vec<_> = plane.answers().iter().map(kind).collect();
        assert_eq!(kinds, ["data"]);
    }
}

#[test]
fn a_stream_nobody_holds_ends_although_the_peer_takes_nothing() {
    let mut plane = Plane::new();
    let stream = plane.opens().expect("room");
    plane.hears(Frame::Ping(1)).expect("life");
    plane.says();
    plane.hears(Frame::Accept(stream)).expect("taken");
    let block = Bytes::from(vec![1; SEND_BUFFER]);
    plane.session.write(stream, block).expect("open");
    plane.session.finish(stream);
    plane.session.release(stream);
    plane.says();
    assert_eq!(plane.session.stats().streams, 1, "it sends its last bytes");
    let mut waited = Duration::ZERO;
    while waited <= LAST_BYTES_TIMEOUT {
        plane.hears(Frame::Pong(0)).expect("life");
        plane.waits(PING_INTERVAL);
        waited += PING_INTERVAL;
    }
    assert_eq!(plane.session.stats().streams, 0);
    assert_eq!(reset_code(&plane.answers()), Some((stream, Code::TimedOut)));
}

#[test]
fn what_waits_to_be_sent_is_bounded_for_all_streams_together() {
    let mut plane = Plane::new();
    let most = SEND_TOTAL + SEND_BUFFER + STREAMS_MAX as usize * (SEND_FLOOR + DATA_MAX);
    for _ in 0..STREAMS_MAX {
        let stream = plane.opens().expect("room");
        // Like a writer that never stops: whole blocks while there is any room.
        let before = plane.session.queued;
        while plane.session.room(stream).expect("open") > 0 {
            let block = Bytes::from(vec![1; DATA_MAX]);
            plane.session.write(stream, block).expect("open");
        }
        // Whatever the others hold, it may hold something.
        assert!(plane.session.queued >= before + SEND_FLOOR);
        assert!(plane.session.queued <= most, "{}", plane.session.queued);
    }
    let before = plane.session.queued;
    plane.says();
    let sent = plane.session.stats().bytes_out;
    assert_eq!(plane.session.queued as u64, before as u64 - sent);
    for stream in plane.session.streams.keys().copied().collect::<Vec<_>>() {
        let end = StreamEnd::own(Code::Cancelled, "");
        plane.session.reset(stream, end);
    }
    assert_eq!(plane.session.queued, 0);
}

#[test]
fn payloads_of_one_byte_do_not_keep_a_block_each() {
    let mut plane = Plane::new();
    for n in 0..600 {
        plane.taken(1 + 2 * n);
    }
    // Each a block of its own, as from a peer that pads.
    for n in 0..600 {
        for _ in 0..4 {
            let mut block = vec![0; 64 * 1024];
            let message = data(1 + 2 * n, 1).encode();
            block.truncate(message.len());
            block.copy_from_slice(&message);
            plane
                .session
                .receive(block.into(), plane.now)
                .expect("one byte");
        }
        // One is in its reader's hands.
        let stream = StreamId(1 + 2 * n);
        assert!(matches!(plane.session.read(stream), Read::Data(_)));
    }
    let held: usize = plane
        .session
        .streams
        .values()
        .map(|s| s.arrived.pins())
        .sum();
    assert_eq!(held, PINNED_MAX);
    for n in 0..600 {
        let stream = StreamId(1 + 2 * n);
        plane.session.consumed(stream, 1, plane.now);
        while let Read::Data(bytes) = plane.session.read(stream) {
            plane.session.consumed(stream, bytes.len(), plane.now);
        }
    }
    assert!(plane.session.pinned.is_none());
}

/// A peer that sent GOAWAY and then sends all it may, to readers that read at once and then not at all: no more is held
/// than predicted.
#[test]
fn what_leaves_stays_within_its_bound() {
    let mut plane = Plane::new();
    let streams: Vec<u32> = (0..5).map(|n| 1 + 2 * n).collect();
    for stream in &streams {
        plane.taken(*stream);
    }
    let farewell = Frame::GoAway(StreamId(0), Code::Cancelled, 0, String::new());
    plane.hears(farewell).expect("a farewell");
    let bound = plane.session.bound();
    assert!(bound < 6 * (LEAVING_WINDOW + SEND_BUFFER as u64), "{bound}");
    let mut most = 0;
    for _ in 0..400 {
        for stream in &streams {
            plane.hears(data(*stream, 16 * 1024)).expect("credit");
            while let Read::Data(bytes) = plane.session.read(StreamId(*stream)) {
                let n = bytes.len();
                plane.session.consumed(StreamId(*stream), n, plane.now);
            }
        }
        plane.says();
        let streams = plane.session.streams.values();
        let all: u64 = streams.map(|s| s.receiving.bound()).sum();
        most = most.max(all + plane.session.pinned.bytes());
    }
    assert!(most > 5 * u64::from(INITIAL_WINDOW), "it grew: {most}");
    assert!(most <= bound, "{most} > {bound}");
}

#[test]
fn streams_of_small_and_large_pieces_get_the_same_bytes() {
    let mut plane = Plane::new();
    let (small, large) = (plane.opens().expect("room"), plane.opens().expect("room"));
    plane.says();
    for stream in [small, large] {
        plane.hears(Frame::Accept(stream)).expect("taken");
        plane.hears(Frame::Credit(stream, 1 << 30)).expect("credit");
    }
    let mut sent = [0usize; 2];
    for _ in 0..20_000 {
        for (stream, piece) in [(small, 200), (large, DATA_MAX)] {
            while plane.session.room(stream).expect("open") >= piece {
                let block = Bytes::from(vec![1; piece]);
                plane.session.write(stream, block).expect("open");
            }
        }
        match plane.session.transmit(plane.now) {
            Some(Frame::Data(stream, bytes, _)) => {
                sent[usize::from(stream == large)] += bytes.len()
            }
            Some(Frame::Ping(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    let [small, large] = sent;
    assert!(small.abs_diff(large) < small / 10, "{small} and {large}");
}

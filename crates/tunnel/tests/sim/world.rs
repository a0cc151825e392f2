//! The simulated world: two ends, two byte-bounded pipes, applications that write patterns.

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;

use bytes::Bytes;
use pf9_tunnel::wire::{
    Class, Code, Config, Event, GoAway, Meta, Read, Session, Side, StreamEnd, StreamId, Time,
    limits,
};

/// What the applications do.
#[derive(Clone, Copy, Default)]
pub(crate) struct Plan {
    /// Out of ten streams, how many have readers that never read.
    pub(crate) stalled_in_ten: u64,
    /// Streams are reset at random.
    pub(crate) resets: bool,
    /// Sometimes nothing happens for a whole ping interval.
    pub(crate) pauses: bool,
    /// One end sends GOAWAY at some time.
    pub(crate) leaves: bool,
}

/// One direction of one stream, as its two applications see it.
#[derive(Default)]
struct Flow {
    want: usize,
    written: usize,
    finished: bool,
    read: usize,
    ended: bool,
    cut: bool,
}

struct End {
    session: Session,
    /// Bytes in transit to the other end.
    pipe: VecDeque<Bytes>,
    piped: usize,
    open: BTreeMap<StreamId, bool>,
}

pub(crate) struct World {
    rng: fastrand::Rng,
    plan: Plan,
    now: Time,
    capacity: usize,
    /// Most bytes an end may be made to hold.
    cap: u64,
    /// The end that sent GOAWAY.
    left: Option<usize>,
    delivered: usize,
    ends: [End; 2],
    /// (stream, direction: 0 = written by the node).
    flows: BTreeMap<(StreamId, usize), Flow>,
    stalled: BTreeMap<StreamId, bool>,
}

const WANT_MAX: usize = 200_000;
/// Streams each end lets the other open: more than a run opens.
const STREAMS: u32 = 64;

impl World {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // Small enough that windows compete for it.
        let pool = *rng
            .choice(&[256 << 10, 2 << 20, 32 << 20])
            .expect("a choice");
        let cap = u64::from(STREAMS * limits::INITIAL_WINDOW) + pool;
        let config = Config {
            streams_max: STREAMS,
            connection_window: cap,
            ..Config::default()
        };
        let end = |side| End {
            session: Session::new(side, config, Time(0)),
            pipe: VecDeque::new(),
            piped: 0,
            open: BTreeMap::new(),
        };
        let capacity = *rng
            .choice(&[1usize, 100, 5_000, 40_000, 1_000_000])
            .expect("a choice");
        Self {
            capacity,
            cap,
            left: None,
            rng,
            plan,
            now: Time(0),
            delivered: 0,
            ends: [end(Side::Node), end(Side::Plane)],
            flows: BTreeMap::new(),
            stalled: BTreeMap::new(),
        }
    }

    pub(crate) fn chaos(&mut self, steps: usize) {
        for _ in 0..steps {
            let side = self.rng.usize(0..2);
            match self.rng.u32(0..12) {
                0 => self.open(side),
                1..=3 => self.write(side, false),
                4..=5 => self.transmit(side),
                6..=8 => self.deliver(side),
                9..=10 => self.read(side),
                _ if self.plan.pauses && self.rng.u32(0..4) == 0 => self.pause(),
                _ if self.plan.leaves && self.rng.u32(0..10) == 0 => self.leave(side),
                _ => self.maybe_reset(side),
            }
            self.now = Time(self.now.0 + self.rng.u64(0..2_000));
            self.events(side);
            self.assert_memory();
        }
    }

    /// Everything in flight arrives; then nothing happens for an interval, again and again.
    fn pause(&mut self) {
        for _ in 0..self.rng.u32(1..6) {
            loop {
                let before = self.delivered;
                for side in 0..2 {
                    self.transmit(side);
                    self.deliver(side);
                    self.events(side);
                }
                if self.delivered == before {
                    break;
                }
            }
            self.now = self.now.plus(limits::PING_INTERVAL);
            for end in &mut self.ends {
                end.session.tick(self.now).expect("both ends live");
            }
        }
    }

    fn leave(&mut self, side: usize) {
        if self.left.is_none() {
            self.left = Some(side);
            self.ends[side].session.leave(GoAway {
                code: Code::Cancelled,
                come_back_after: std::time::Duration::ZERO,
                words: "as planned".to_owned(),
            });
        }
    }

    /// Lets everything that can move move, until nothing does. No step may depend on a stalled reader.
    pub(crate) fn settle(&mut self) {
        let mut idle = 0;
        let mut rounds = 0;
        while idle < 3 {
            let before = self.progress();
            for side in 0..2 {
                self.write(side, true);
                self.transmit(side);
                self.deliver(side);
                self.read(side);
                self.events(side);
            }
            self.assert_memory();
            self.now = Time(self.now.0 + 10);
            idle = if self.progress() == before {
                idle + 1
            } else {
                0
            };
            rounds += 1;
            assert!(rounds < 500_000, "the world does not settle");
        }
    }

    fn progress(&self) -> (usize, usize, usize) {
        let read = self.flows.values().map(|f| f.read).sum();
        let ended = self.flows.values().filter(|f| f.ended).count();
        (read, ended, self.delivered)
    }

    fn open(&mut self, side: usize) {
        let class = if self.rng.bool() {
            Class::Bulk
        } else {
            Class::Interactive
        };
        let session = &mut self.ends[side].session;
        let Ok(stream) = session.open("echo", class, Meta::new(), self.now) else {
            return;
        };
        self.ends[side].open.insert(stream, true);
        self.stalled
            .insert(stream, self.rng.u64(0..10) < self.plan.stalled_in_ten);
        for direction in 0..2 {
            let flow = Flow {
                want: self.rng.usize(0..WANT_MAX),
                ..Flow::default()
            };
            self.flows.insert((stream, direction), flow);
        }
    }

    fn write(&mut self, side: usize, all: bool) {
        let streams: Vec<_> = self.ends[side].open.keys().copied().collect();
        for stream in streams {
            if !all && self.rng.bool() {
                continue;
            }
            let piece = self.rng.usize(1..30_000);
            let session = &mut self.ends[side].session;
            let flow = self.flows.get_mut(&(stream, side)).expect("flow");
            if flow.finished || flow.cut {
                continue;
            }
            let Ok(room) = session.room(stream) else {
                continue;
            };
            let n = room.min(piece).min(flow.want - flow.written);
            let bytes = pattern(stream, side, flow.written, n);
            session.write(stream, bytes).expect("room was asked");
            flow.written += n;
            if flow.written == flow.want {
                session.finish(stream);
                flow.finished = true;
            }
        }
    }

    fn transmit(&mut self, side: usize) {
        let end = &mut self.ends[side];
        // Like a socket: a message is accepted while there is any room.
        while end.piped < self.capacity {
            let Some(frame) = end.session.transmit(self.now) else {
                break;
            };
            let message = frame.encode();
            end.piped += message.len();
            end.pipe.push_back(message);
        }
    }

    fn deliver(&mut self, from: usize) {
        let n = self.rng.usize(1..20);
        for _ in 0..n {
            let Some(message) = self.ends[from].pipe.pop_front() else {
                return;
            };
            self.ends[from].piped -= message.len();
            self.delivered += 1;
            let to = &mut self.ends[1 - from];
            to.session
                .receive(message, self.now)
                .expect("our own end keeps to the protocol");
        }
    }

    fn read(&mut self, side: usize) {
        let streams: Vec<_> = self.ends[side].open.keys().copied().collect();
        for stream in streams {
            if self.stalled[&stream] {
                continue;
            }
            let session = &mut self.ends[side].session;
            let flow = self.flows.get_mut(&(stream, 1 - side)).expect("flow");
            match session.read(stream) {
                Read::Data(bytes) => {
                    let want = pattern(stream, 1 - side, flow.read, bytes.len());
                    assert!(bytes == want, "{stream:?} is wrong after {}", flow.read);
                    flow.read += bytes.len();
                    session.consumed(stream, bytes.len(), self.now);
                }
                Read::Pending => {}
                Read::End => flow.ended = true,
                Read::Ended(_) => flow.cut = true,
            }
            self.let_go_when_done(side, stream);
        }
    }

    fn let_go_when_done(&mut self, side: usize, stream: StreamId) {
        let done = |f: &Flow, end: bool| f.cut || if end { f.ended } else { f.finished };
        if done(&self.flows[&(stream, 1 - side)], true) && done(&self.flows[&(stream, side)], false)
        {
            self.ends[side].session.release(stream);
            self.ends[side].open.remove(&stream);
        }
    }

    fn maybe_reset(&mut self, side: usize) {
        if !self.plan.resets {
            return;
        }
        let open: Vec<_> = self.ends[side].open.keys().copied().collect();
        if let Some(stream) = self.rng.choice(&open).copied() {
            let end = StreamEnd::own(Code::Broken, "as planned");
            self.ends[side].session.reset(stream, end);
            self.ends[side].open.remove(&stream);
            for direction in 0..2 {
                self.flows.get_mut(&(stream, direction)).expect("flow").cut = true;
            }
        }
    }

    fn events(&mut self, side: usize) {
        while let Some(event) = self.ends[side].session.poll_event() {
            match event {
                Event::Opened(stream, open) => {
                    assert_eq!(open.service, "echo");
                    self.ends[side].session.accept(stream);
                    self.ends[side].open.insert(stream, true);
                }
                Event::Ended(stream, end) => {
                    // Only the opener of a stream learns that it came too late: at a peer that drained, or because its
                    // own GOAWAY, which goes first, overtook it.
                    let late = self.left.is_some() && end.code == Code::GoingAway;
                    // Its last bytes waited for a reader that never reads.
                    let stuck = self.stalled[&stream] && end.code == Code::TimedOut;
                    let expected = self.plan.resets || late || stuck;
                    assert!(expected, "{stream:?} ended: {end}");
                    for direction in 0..2 {
                        self.flows.get_mut(&(stream, direction)).expect("flow").cut = true;
                    }
                    self.ends[side].session.release(stream);
                    self.ends[side].open.remove(&stream);
                }
                Event::Accepted(_) | Event::Readable(_) | Event::Writable(_) => {}
                Event::GoAway(farewell) => {
                    assert_eq!(self.left, Some(1 - side), "nobody left: {farewell:?}");
                }
            }
        }
    }

    fn assert_memory(&self) {
        for end in &self.ends {
            let held = end.session.held();
            assert!(held <= self.cap, "{held} bytes held of {}", self.cap);
        }
    }

    pub(crate) fn assert_all_delivered(&self) {
        for ((stream, direction), flow) in &self.flows {
            if self.stalled[stream] || flow.cut {
                continue;
            }
            assert_eq!(flow.read, flow.want, "{stream:?} direction {direction}");
            assert!(flow.ended, "{stream:?} direction {direction} has no end");
        }
    }

    pub(crate) fn assert_no_stream_left(&self) {
        for end in &self.ends {
            assert_eq!(end.session.stats().streams, 0);
            assert_eq!(end.session.is_drained(), self.left.is_some());
        }
    }

    pub(crate) fn assert_prefixes(&self) {
        for flow in self.flows.values() {
            assert!(flow.read <= flow.written);
        }
    }
}

/// `len` bytes of a flow from byte `from` on: a table of prime length, so that a lost, duplicated or moved piece never
/// looks right.
pub(crate) fn pattern(stream: StreamId, direction: usize, from: usize, len: usize) -> Bytes {
    const PERIOD: usize = 65_521;
    static TABLE: LazyLock<Bytes> = LazyLock::new(|| {
        let mut rng = fastrand::Rng::with_seed(1);
        let period: Vec<u8> = (0..PERIOD).map(|_| rng.u8(..)).collect();
        period.repeat(2).into()
    });
    let start = (from + stream.0 as usize * 7919 + direction * 104_729) % PERIOD;
    TABLE.slice(start..start + len)
}

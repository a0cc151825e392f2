//! Frames that no honest peer would send: the decoder and a session must handle them without a panic and within their
//! bounds.
//!
//! `scripts/fuzz SECONDS` runs this for as long as wanted (`FUZZ_SECONDS`); every seed is new then, and a failing one
//! is printed. `corpus.hex` holds the initial messages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pf9_tunnel::wire::{
    Class, Code, Config, Event, Frame, Hello, Meta, Open, Read, Session, Side, StreamEnd, StreamId,
    Time, Violation, limits,
};

use super::{PrintSeed, Seeds, each_seed_of, sample};

/// Attacks, each a seed; `scripts/fuzz` makes new ones.
const SEEDS: Seeds = Seeds { of: 600, few: 60 };
/// Messages per attack. Most of its sessions follow the protocol, or they would be over after a few messages and never
/// reach a limit.
const STEPS: usize = 6_000;
/// Most the clock advances between two steps; far below what makes a peer dead.
const STEP_US: u64 = 3_000;
/// Streams of the small session under attack: its limits are reached often.
const STREAMS: u32 = 12;
const WINDOW: u64 = 1 << 20;
/// Frames a session may have to send at once: a few for each stream and each refusal.
const SAYS_MAX: usize = limits::REFUSALS_MAX + 8 * (STREAMS as usize + 16) + 64 * 16;

/// Runs seeds: a number of them, or new ones until the time is over.
fn each(run: impl Fn(u64)) {
    let seconds = std::env::var("FUZZ_SECONDS").ok();
    let Some(seconds) = seconds.and_then(|s| s.parse().ok()) else {
        return each_seed_of(SEEDS, run);
    };
    // The same seed starts the same sequence; how far it gets depends on the machine.
    let mut seeds = fastrand::Rng::with_seed(sample::seed());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut done = 0u64;
    while Instant::now() < until {
        let seed = seeds.u64(..);
        let guard = PrintSeed(seed);
        run(seed);
        std::mem::forget(guard);
        done += 1;
    }
    eprintln!("{done} seeds");
}

/// Initial messages: one of each kind, and some crafted to hurt.
fn corpus() -> Vec<Bytes> {
    include_str!("corpus.hex")
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(|line| {
            let digits: Vec<_> = line.chars().filter(|c| !c.is_whitespace()).collect();
            let byte = |pair: &[char]| {
                let text: String = pair.iter().collect();
                u8::from_str_radix(&text, 16).expect("hex")
            };
            digits.chunks(2).map(byte).collect()
        })
        .collect()
}

struct Attacker {
    rng: fastrand::Rng,
    corpus: Vec<Bytes>,
    next_stream: u32,
    /// In this session every message is a valid frame about an opened stream.
    clean: bool,
    /// Its credit on the streams it knows; while `clean` it uses all of that and no more.
    credit: BTreeMap<StreamId, u64>,
    /// What it has sent.
    sent: BTreeMap<StreamId, u64>,
}

impl Attacker {
    fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            corpus: corpus(),
            next_stream: 2,
            clean: true,
            credit: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }

    /// Starts another session.
    fn again(&mut self) {
        self.next_stream = 2;
        self.clean = self.rng.u32(0..10) > 0;
        self.credit.clear();
        self.sent.clear();
    }

    /// Processes the victim's frames, for attackers that listen.
    fn hears(&mut self, frame: &Frame) {
        match frame {
            Frame::Open(stream, _) => {
                self.credit
                    .insert(*stream, u64::from(limits::INITIAL_WINDOW));
            }
            Frame::Credit(stream, upto) => {
                self.credit.insert(*stream, *upto);
            }
            Frame::Reset(stream, ..) => {
                self.credit.remove(stream);
            }
            _ => {}
        }
    }

    fn any_stream(&mut self) -> StreamId {
        if !self.clean {
            return StreamId(self.rng.u32(1..self.next_stream + 3));
        }
        let known: Vec<_> = self.credit.keys().copied().collect();
        // Known ones are open; old ones are ignored.
        self.rng.choice(known).unwrap_or(StreamId(2))
    }

    /// As much as credit allows, or a little, or nothing.
    fn allowed(&mut self, stream: StreamId, want: usize) -> usize {
        if !self.clean {
            return want;
        }
        let sent = self.sent.entry(stream).or_default();
        let left = self
            .credit
            .get(&stream)
            .map_or(0, |upto| upto.saturating_sub(*sent));
        let n = want.min(usize::try_from(left).unwrap_or(want));
        *sent += n as u64;
        n
    }

    fn message(&mut self) -> Bytes {
        if self.clean {
            return self.frame().encode();
        }
        match self.rng.u32(0..20) {
            0 => self.noise(),
            1 => self.rng.choice(&self.corpus).cloned().unwrap_or_default(),
            2 => {
                let whole = self.frame().encode();
                self.damage(&whole)
            }
            _ => self.frame().encode(),
        }
    }

    fn noise(&mut self) -> Bytes {
        let len = self.rng.usize(0..64);
        (0..len).map(|_| self.rng.u8(..)).collect()
    }

    fn damage(&mut self, whole: &Bytes) -> Bytes {
        let mut bytes = whole.to_vec();
        for _ in 0..self.rng.usize(1..4) {
            let at = self.rng.usize(0..bytes.len().max(1));
            match self.rng.u32(0..3) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at.min(bytes.len()), self.rng.u8(..)),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = self.rng.u8(..);
                    }
                }
            }
        }
        bytes.into()
    }

    /// A well-formed frame, often about a stream that exists.
    fn frame(&mut self) -> Frame {
        if self.next_stream == 2 {
            return self.open();
        }
        let any = self.any_stream();
        let words = "x".repeat(self.rng.usize(0..limits::WORDS_MAX));
        let code = Code::Cancelled;
        match self.rng.u32(0..16) {
            0..=1 => self.open(),
            2 => Frame::Return(any, self.rng.u64(0..200_000), self.rng.u64(0..100_000)),
            3..=9 => {
                let len = match self.rng.u32(0..4) {
                    0..=1 => limits::DATA_MAX,
                    2 => 0,
                    _ => self.rng.usize(0..2_000),
                };
                let len = self.allowed(any, len);
                let fin = self.rng.u32(0..100) == 0;
                Frame::Data(any, vec![1; len].into(), fin)
            }
            10 => Frame::Accept(any),
            11 => Frame::Credit(any, self.rng.choice([0, 1, 100_000, u64::MAX]).unwrap_or(0)),
            12 if self.rng.u32(0..5) == 0 => Frame::Reset(any, code, self.rng.u32(..), words),
            13 => Frame::Ping(self.rng.u64(..)),
            14 => Frame::Pong(self.rng.u64(..)),
            _ if self.rng.u32(0..30) == 0 => Frame::GoAway(any, code, self.rng.u32(..), words),
            _ => Frame::Skipped(0x80 | self.rng.u8(..)),
        }
    }

    fn open(&mut self) -> Frame {
        let stream = StreamId(self.next_stream);
        self.next_stream += 2;
        self.credit
            .insert(stream, u64::from(limits::INITIAL_WINDOW));
        // It forgets the oldest: what matters is where it can still send.
        while self.credit.len() > 2 * STREAMS as usize {
            self.credit.pop_first();
        }
        let class = match self.rng.bool() {
            true => Class::Bulk,
            false => Class::Interactive,
        };
        let service = "s".repeat(self.rng.usize(1..=limits::SERVICE_MAX));
        let meta = Meta::new();
        Frame::Open(
            stream,
            Open {
                service,
                class,
                meta,
            },
        )
    }
}

#[test]
fn every_message_of_the_corpus_decodes_or_is_refused() {
    let all = corpus();
    assert!(all.len() > 20, "the corpus is not there");
    let good = all.iter().filter(|m| Frame::decode((*m).clone()).is_ok());
    let good = good.count();
    assert!(good > 8 && good < all.len(), "{good} of {}", all.len());
}

#[test]
fn what_decodes_encodes_to_the_same_frame() {
    each(|seed| {
        let mut attacker = Attacker::new(seed);
        for _ in 0..STEPS {
            let message = attacker.message();
            let Ok(frame) = Frame::decode(message.clone()) else {
                continue;
            };
            // Skippable frames leave no state.
            if matches!(frame, Frame::Skipped(_)) {
                continue;
            }
            let again = Frame::decode(frame.encode());
            assert_eq!(again.as_ref(), Ok(&frame), "from {message:02x?}");
        }
    });
}

/// A session under attack, and an application that cooperates sometimes.
struct Victim {
    session: Session,
    now: Time,
    open: Vec<StreamId>,
}

impl Victim {
    fn new() -> Self {
        let config = Config {
            streams_max: STREAMS,
            connection_window: WINDOW,
            ..Config::default()
        };
        let mut victim = Self {
            session: Session::new(Side::Node, config, Time(0)),
            now: Time(0),
            open: Vec::new(),
        };
        let hello = Frame::Hello(Hello {
            version: limits::VERSION,
            initial_window: limits::INITIAL_WINDOW,
            max_streams: STREAMS,
            capabilities: Vec::new(),
        });
        let taken = victim.session.receive(hello.encode(), Time(0));
        taken.expect("a good HELLO");
        victim
    }

    fn application(&mut self, rng: &mut fastrand::Rng) {
        if rng.u32(0..4) == 0
            && let Ok(stream) = self.session.open("s", Class::Bulk, Meta::new(), self.now)
        {
            self.open.push(stream);
        }
        let Some(stream) = rng.choice(self.open.clone()) else {
            return;
        };
        match rng.u32(0..40) {
            0..=9 => self.session.accept(stream),
            10..=15 => {
                if let Read::Data(bytes) = self.session.read(stream) {
                    self.session.consumed(stream, bytes.len(), self.now);
                }
            }
            16..=30 => {
                let room = self.session.room(stream).unwrap_or(0).min(10_000);
                if room > 0 {
                    let written = self.session.write(stream, vec![2; room].into());
                    written.expect("there was room");
                }
            }
            31..=37 => {}
            38 => self.session.finish(stream),
            _ => {
                let end = StreamEnd::own(Code::Cancelled, "enough");
                self.session.reset(stream, end);
                self.session.release(stream);
                self.open.retain(|s| *s != stream);
            }
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            if let Event::Opened(stream, _) = event {
                self.open.push(stream);
            }
        }
    }

    /// What the session holds is bounded whatever the peer does.
    fn assert_bounded(&self) {
        let held = self.session.held();
        let bound = WINDOW.max(u64::from(2 * STREAMS) * u64::from(limits::INITIAL_WINDOW));
        assert!(held <= bound, "{held} bytes are held");
        let streams = self.session.stats().streams;
        assert!(streams <= 2 * STREAMS + 1, "{streams} streams");
    }

    /// Its pending output stays within its bounds, however long nobody read it.
    fn assert_says_little(&mut self) {
        let mut said = 0;
        while self.session.transmit(self.now).is_some() {
            said += 1;
            assert!(said <= SAYS_MAX, "a session says too much");
        }
    }
}

/// Most bytes a victim held, and most refusals and messages a session saw.
#[derive(Debug, Default)]
struct Reached {
    held: AtomicU64,
    refused: AtomicU64,
    messages: AtomicU64,
}

impl Reached {
    fn note(&self, victim: &Victim, messages: u64) {
        self.held
            .fetch_max(victim.session.held(), Ordering::Relaxed);
        let refused = victim.session.stats().refused;
        self.refused.fetch_max(refused, Ordering::Relaxed);
        self.messages.fetch_max(messages, Ordering::Relaxed);
    }

    fn max(of: &AtomicU64) -> u64 {
        of.load(Ordering::Relaxed)
    }
}

fn attack(seed: u64, listens: bool, reached: &Reached) {
    let mut attacker = Attacker::new(seed);
    let mut victim = Victim::new();
    let mut messages = 0;
    for _ in 0..STEPS {
        let message = attacker.message();
        messages += 1;
        victim.now = Time(victim.now.0 + attacker.rng.u64(0..STEP_US));
        let taken = victim.session.receive(message, victim.now);
        victim.events();
        let alive = taken.and_then(|()| victim.session.tick(victim.now));
        if let Err(violation) = alive {
            let flood = violation == Violation::Flood && !listens;
            assert!(
                !attacker.clean || flood,
                "a clean peer was refused: {violation}"
            );
            // It ends, and gives the reason in a frame that any peer can read.
            let last = victim.session.farewell(&violation).encode();
            Frame::decode(last).expect("a farewell is a frame");
            victim.assert_says_little();
            attacker.again();
            (messages, victim) = (0, Victim::new());
            continue;
        }
        victim.application(&mut attacker.rng);
        victim.events();
        victim.assert_bounded();
        reached.note(&victim, messages);
        for _ in 0..if listens { attacker.rng.u32(0..4) } else { 0 } {
            if let Some(frame) = victim.session.transmit(victim.now) {
                attacker.hears(&frame);
            }
        }
    }
    victim.assert_says_little();
}

#[test]
fn a_hostile_peer_makes_no_session_panic_or_grow() {
    let reached = Reached::default();
    each(|seed| attack(seed, true, &reached));
    // An attack that never comes near a limit proves nothing about it.
    assert!(Reached::max(&reached.held) > WINDOW / 3);
    assert!(Reached::max(&reached.messages) > STEPS as u64 / 2);
    assert!(Reached::max(&reached.refused) > 0);
}

#[test]
fn a_hostile_peer_that_never_reads_makes_no_session_panic_or_grow() {
    let reached = Reached::default();
    each(|seed| attack(seed, false, &reached));
    assert!(Reached::max(&reached.refused) > limits::REFUSALS_MAX as u64 / 2);
}

#[test]
fn streams_broken_on_purpose_do_not_pile_up_answers_that_nobody_reads() {
    // Opened, accepted, over-filled, dropped; again and again, and the answers are never read.
    let mut victim = Victim::new();
    let mut flooded = false;
    for n in 1..=(4 * limits::REFUSALS_MAX as u32) {
        let stream = StreamId(2 * n);
        let open = Open {
            service: "s".to_owned(),
            class: Class::Bulk,
            meta: Meta::new(),
        };
        let mut frames = vec![Frame::Open(stream, open)];
        let block = Bytes::from(vec![1; limits::DATA_MAX]);
        frames.extend((0..2).map(|_| Frame::Data(stream, block.clone(), false)));
        for frame in frames {
            flooded |= victim.session.receive(frame.encode(), victim.now).is_err();
        }
        if flooded {
            return;
        }
        victim.events();
        victim.session.accept(stream);
        victim.session.release(stream);
    }
    victim.assert_says_little();
}

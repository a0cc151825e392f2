//! Two drivers joined by a seeded connection: any byte of it may be the last that is accepted for now, or for ever.
//!
//! Nothing is mocked but the socket: websocket, session, streams and tasks are those of the programs, and the clock is
//! tokio's paused one.

mod socket;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use pf9_tunnel::mux::{
    self, Closed, Driver, Handle, Incoming, MuxReader, MuxStream, MuxWriter, Role, Websocket,
};
use pf9_tunnel::wire::{Class, Code, Config, Meta, Side, StreamId};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::socket::{Cut, Path, Socket};
use super::Seeds;
use super::world::pattern;

/// Connections, each a seed. They are quick.
const SEEDS: Seeds = Seeds { of: 4000, few: 400 };
/// Streams that one side opens, at most.
const STREAMS: u32 = 6;
/// Longest a run may take on its clock: a silent path is noticed after 20 s, an end takes at most 30 s, and all the
/// rest is quick.
const LONGEST: Duration = Duration::from_secs(120);
/// Most polls of one driver: what the smallest pieces need, several times. One that wakes itself under the paused clock
/// would exceed any number.
const POLLS: u32 = 100_000;

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// GOAWAY at any time; streams continue.
    Drain,
    /// One side ends it while streams run.
    Close,
    /// The connection is lost, unless it was over before.
    Cut,
}

/// One direction of one stream.
#[derive(Clone, Debug, Default)]
struct Flow {
    want: usize,
    /// Passed to the stream, perhaps not accepted.
    offered: usize,
    read: usize,
    /// The reader saw the writer's end.
    whole: bool,
    /// The reader ended.
    ended: bool,
}

#[derive(Clone, Debug, Default)]
struct Talk {
    /// Of side 0, of side 1.
    flows: [Flow; 2],
    /// Reset by this side after this many of its bytes.
    reset: [Option<usize>; 2],
    /// The other side accepted it.
    taken: bool,
}

type Talks = Arc<Mutex<BTreeMap<u32, Talk>>>;

/// A driver with a limited number of polls.
struct Counted(Box<Driver>, u32);

impl Future for Counted {
    type Output = Closed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Closed> {
        self.1 += 1;
        assert!(self.1 <= POLLS, "a driver goes round and round");
        Pin::new(&mut *self.0).poll(cx)
    }
}

/// One side of one stream.
struct Speaker {
    side: usize,
    id: u32,
    rng: fastrand::Rng,
    talks: Talks,
    handle: Handle,
}

impl Speaker {
    fn new(side: usize, id: u32, rng: fastrand::Rng, talks: &Talks, handle: &Handle) -> Self {
        Self {
            side,
            id,
            rng,
            talks: Arc::clone(talks),
            handle: handle.clone(),
        }
    }

    async fn talk(mut self, stream: MuxStream) {
        let (reader, writer) = stream.into_split();
        let rng = self.rng.fork();
        let read = read(reader, 1 - self.side, self.id, rng, Arc::clone(&self.talks));
        tokio::join!(read, self.write(writer));
    }

    /// Writes the wanted bytes, or until it resets the stream, or cannot.
    async fn write(&mut self, mut writer: MuxWriter) {
        let (want, reset) = {
            let talks = self.talks.lock().expect("talks");
            let talk = &talks[&self.id];
            (talk.flows[self.side].want, talk.reset[self.side])
        };
        let most = reset.unwrap_or(want);
        let mut written = 0;
        while written < most {
            let n = self.rng.usize(1..40_000).min(most - written);
            let bytes = pattern(StreamId(self.id), self.side, written, n);
            written += n;
            self.talks
                .lock()
                .expect("talks")
                .get_mut(&self.id)
                .expect("talk")
                .flows[self.side]
                .offered = written;
            let sent = match self.rng.bool() {
                true => writer.send(bytes).await,
                false => writer.write_all(&bytes).await,
            };
            if sent.is_err() {
                return;
            }
            self.dawdle().await;
        }
        if reset.is_some() {
            self.handle
                .end_stream(self.id, Code::Broken, "as it was planned");
        } else {
            drop(writer.shutdown().await);
        }
    }

    async fn dawdle(&mut self) {
        if self.rng.u32(0..16) == 0 {
            sleep(Duration::from_millis(self.rng.u64(1..4))).await;
        }
    }
}

/// Reads to the end, whatever end that is, and compares.
async fn read(mut reader: MuxReader, writer: usize, id: u32, mut rng: fastrand::Rng, talks: Talks) {
    loop {
        let got = match reader.fill_buf().await {
            Ok([]) => Some(None),
            Ok(chunk) => {
                let n = rng.usize(1..=chunk.len());
                Some(Some(Bytes::copy_from_slice(&chunk[..n])))
            }
            Err(_) => None,
        };
        let consumed = {
            let mut talks = talks.lock().expect("talks");
            let flow = &mut talks.get_mut(&id).expect("talk").flows[writer];
            match got {
                None => {
                    flow.ended = true;
                    return;
                }
                Some(None) => {
                    (flow.ended, flow.whole) = (true, true);
                    return;
                }
                Some(Some(bytes)) => {
                    let want = pattern(StreamId(id), writer, flow.read, bytes.len());
                    assert!(bytes == want, "stream {id} is wrong after {}", flow.read);
                    flow.read += bytes.len();
                    assert!(flow.read <= flow.offered, "nobody wrote that");
                    bytes.len()
                }
            }
        };
        reader.consume(consumed);
        if rng.u32(0..16) == 0 {
            sleep(Duration::from_millis(rng.u64(1..4))).await;
        }
    }
}

/// Opens streams now and then. Returns when all it opened are over.
async fn open(side: usize, handle: Handle, mut rng: fastrand::Rng, talks: Talks, want: usize) {
    let mut tasks = JoinSet::new();
    for _ in 0..rng.u32(0..=STREAMS) {
        sleep(Duration::from_millis(rng.u64(0..10))).await;
        let class = match rng.bool() {
            true => Class::Bulk,
            false => Class::Interactive,
        };
        // Somebody drains, or it is over.
        let Ok(stream) = handle.open("talk", class, Meta::new()) else {
            break;
        };
        let id = stream.id();
        let mut talk = Talk::default();
        for here in 0..2 {
            talk.flows[here].want = rng.usize(0..=want);
            if rng.u32(0..10) == 0 {
                talk.reset[here] = Some(rng.usize(0..=talk.flows[here].want));
            }
        }
        talks.lock().expect("talks").insert(id, talk);
        let speaker = Speaker::new(side, id, rng.fork(), &talks, &handle);
        tasks.spawn(speaker.talk(stream));
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a speaker");
    }
}

/// Accepts what the other side opens, until the connection is over.
async fn answer(
    side: usize,
    handle: Handle,
    mut incoming: Incoming,
    mut rng: fastrand::Rng,
    talks: Talks,
) {
    let mut tasks = JoinSet::new();
    while let Some(opened) = incoming.next().await {
        let stream = opened.accept().expect("not answered yet");
        let id = stream.id();
        talks
            .lock()
            .expect("talks")
            .get_mut(&id)
            .expect("it was opened")
            .taken = true;
        let speaker = Speaker::new(side, id, rng.fork(), &talks, &handle);
        tasks.spawn(speaker.talk(stream));
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a speaker");
    }
}

/// One run: how each driver ended, what was sent, whether the connection was cut.
struct Run {
    closed: [Closed; 2],
    handles: [Handle; 2],
    talks: BTreeMap<u32, Talk>,
    cut: bool,
}

async fn run(seed: u64, end: End) -> Run {
    let mut rng = fastrand::Rng::with_seed(seed);
    let piece = *rng.choice(&[1, 20, 1_000, 30_000, 200_000]).expect("one");
    let capacity = *rng
        .choice(&[1, 300, 5_000, 60_000, 1_000_000])
        .expect("one");
    // The smaller the pieces, the less is sent.
    let want = (piece.min(capacity) * 100).clamp(500, 60_000);
    let cut = (end == End::Cut).then(|| {
        let at = match rng.bool() {
            true => rng.u64(1..200),
            false => rng.u64(1..(want as u64) * 4),
        };
        let how = rng.choice([Cut::Reset, Cut::Eof, Cut::Silence]);
        (at, how.expect("one"))
    });
    let path = Path::new(rng.fork(), piece, capacity, cut);
    let side = |side: usize, role, which| {
        let websocket = Websocket::new(Box::new(Socket::new(&path, side)), role, Bytes::new());
        mux::session(websocket, which, Config::default())
    };
    let ends = [
        side(0, Role::Client, Side::Node),
        side(1, Role::Server, Side::Plane),
    ];
    let talks = Talks::default();
    let handles = [0, 1].map(|n: usize| ends[n].0.clone());
    let (mut drivers, mut openers, mut answerers) =
        (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for (side, (handle, incoming, driver)) in ends.into_iter().enumerate() {
        let driver = Counted(Box::new(driver), 0);
        drivers.spawn(async move { (side, driver.await) });
        let opener = open(side, handle.clone(), rng.fork(), Arc::clone(&talks), want);
        openers.spawn(opener);
        let answerer = answer(side, handle, incoming, rng.fork(), Arc::clone(&talks));
        answerers.spawn(answerer);
    }
    let all = async {
        if end == End::Close || rng.bool() {
            sleep(Duration::from_millis(rng.u64(0..60))).await;
        } else {
            while let Some(done) = openers.join_next().await {
                done.expect("an opener");
            }
        }
        // One side, or both.
        let (first, both) = (rng.usize(0..2), rng.u32(0..4) == 0);
        for n in [first, 1 - first]
            .into_iter()
            .take(if both { 2 } else { 1 })
        {
            match end {
                End::Close => handles[n].close(Code::Replaced, "as it was planned"),
                End::Drain | End::Cut => {
                    handles[n].leave(Code::GoingAway, Duration::ZERO, "as it was planned");
                }
            }
        }
        let mut closed = [Closed::ByPeer, Closed::ByPeer];
        while let Some(over) = drivers.join_next().await {
            let (side, why) = over.expect("a driver");
            closed[side] = why;
        }
        for mut tasks in [openers, answerers] {
            while let Some(done) = tasks.join_next().await {
                done.expect("a task");
            }
        }
        closed
    };
    let closed = timeout(LONGEST, Box::pin(all)).await.expect("it hangs");
    let cut = path.lock().expect("path").was_cut();
    let talks = std::mem::take(&mut *talks.lock().expect("talks"));
    Run {
        closed,
        handles,
        talks,
        cut,
    }
}

fn each(end: End, check: impl Fn(Run)) {
    super::each_seed_of(SEEDS, |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("runtime");
        let run = runtime.block_on(run(seed, end));
        for (id, talk) in &run.talks {
            for (writer, flow) in talk.flows.iter().enumerate() {
                // Its opener reads one direction, the accepting side the other.
                let opener = usize::from(id % 2 == 0);
                let read = writer != opener || talk.taken;
                assert!(flow.ended || !read, "stream {id} has no end: {talk:?}");
                let whole = !flow.whole || flow.read == flow.want;
                assert!(whole, "stream {id} ended early: {talk:?}");
            }
        }
        check(run);
    });
}

/// Streams that nobody broke are complete.
fn assert_whole(run: &Run) {
    for (id, talk) in &run.talks {
        if talk.taken && talk.reset == [None, None] {
            let whole = talk.flows.iter().all(|f| f.whole);
            assert!(whole, "stream {id} is not whole: {talk:?}");
        }
    }
}

fn in_order(closed: &Closed) -> bool {
    matches!(closed, Closed::Drained | Closed::ByPeer)
}

#[test]
fn every_stream_is_whole_when_both_ends_left_in_order() {
    each(End::Drain, |run| {
        assert_whole(&run);
        assert!(run.closed.iter().all(in_order), "{:?}", run.closed);
    });
}

#[test]
fn a_hard_close_ends_every_stream_and_its_words_arrive() {
    each(End::Close, |run| {
        let asked = |c: &Closed| matches!(c, Closed::Asked(..));
        for (n, closed) in run.closed.iter().enumerate() {
            if asked(closed) {
                continue;
            }
            // Without a stream the farewell alone is enough.
            assert!(in_order(closed), "{closed:?}");
            let mut heard = std::pin::pin!(run.handles[n].peer_leaves());
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let Poll::Ready(Some(farewell)) = heard.as_mut().poll(&mut cx) else {
                panic!("no words");
            };
            assert_eq!(farewell.code, Code::Replaced);
        }
        assert!(run.closed.iter().any(asked), "{:?}", run.closed);
    });
}

#[test]
fn a_cut_at_any_byte_ends_every_stream_and_shows_nothing_that_was_not_sent() {
    each(End::Cut, |run| {
        if !run.cut {
            assert_whole(&run);
        }
    });
}

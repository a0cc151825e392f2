//! A frame in steady state allocates nothing: neither where it is sent nor where it is received.
//!
//! First the protocol alone, then sessions over TCP: a single stream, also over TLS, and a stream between two sockets.
//! The counts, of both ends together, are printed for `scripts/bench tunnel --only allocations`.

use std::sync::Arc;

use allocation_counter::AllocationInfo;
use bytes::{Bytes, BytesMut};
use pf9_tunnel::mux::{self, MuxStream, Role, Transport, Websocket};
use pf9_tunnel::wire::limits::DATA_MAX;
use pf9_tunnel::wire::{Class, Config, Event, Meta, Read, Session, Side, StreamId, Time};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Bytes of one frame.
const FRAME: usize = 16 * 1024;
/// Frames before counting starts: windows have grown, queues have their size.
const WARM: u32 = 4000;
/// Frames counted.
const FRAMES: u32 = 4000;

/// A line for the script that collects figures.
fn tell(what: &str, counted: &AllocationInfo, frames: usize) {
    let per_frame = counted.count_total as f64 / frames as f64;
    println!("\nallocations per frame: {what}: {per_frame:.4}");
    let bytes = counted.bytes_total as f64 / frames as f64;
    println!("bytes allocated per frame: {what}: {bytes:.1}");
}

/// Two ends and the memory between them, reused as the websocket does.
struct Pair {
    node: Session,
    plane: Session,
    head: BytesMut,
    message: BytesMut,
    now: Time,
}

impl Pair {
    /// Everything one end has to send reaches the other.
    fn carry(&mut self) {
        loop {
            let mut quiet = true;
            for to_plane in [true, false] {
                let (from, to) = if to_plane {
                    (&mut self.node, &mut self.plane)
                } else {
                    (&mut self.plane, &mut self.node)
                };
                while let Some(frame) = from.transmit(self.now) {
                    quiet = false;
                    self.head.clear();
                    let payload = frame.into_parts(&mut self.head);
                    let size = self.head.len() + payload.len();
                    if !self.message.try_reclaim(size) && self.message.capacity() < size {
                        self.message.reserve(size);
                    }
                    self.message.extend_from_slice(&self.head);
                    self.message.extend_from_slice(&payload);
                    to.receive(self.message.split().freeze(), self.now)
                        .expect("a good frame");
                    // The reader keeps up.
                    while let Some(event) = to.poll_event() {
                        if let Event::Readable(stream) = event {
                            while let Read::Data(bytes) = to.read(stream) {
                                let len = bytes.len();
                                drop(bytes);
                                to.consumed(stream, len, self.now);
                            }
                        }
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn send(&mut self, stream: StreamId, bytes: &Bytes, frames: u32) {
        for _ in 0..frames {
            self.now = Time(self.now.0 + 20);
            assert!(self.node.room(stream).expect("open") >= FRAME);
            self.node.write(stream, bytes.clone()).expect("open");
            self.carry();
            while self.node.poll_event().is_some() {}
        }
    }
}

#[test]
fn a_frame_in_steady_state_allocates_nothing() {
    let now = Time(0);
    let mut pair = Pair {
        node: Session::new(Side::Node, Config::default(), now),
        plane: Session::new(Side::Plane, Config::default(), now),
        head: BytesMut::with_capacity(1024),
        message: BytesMut::with_capacity(4 * FRAME),
        now,
    };
    pair.carry();
    let streams: Vec<_> = [Class::Bulk, Class::Interactive]
        .into_iter()
        .map(|class| {
            let stream = pair
                .node
                .open("sink", class, Meta::new(), now)
                .expect("open");
            pair.carry();
            pair.plane.accept(stream);
            pair.carry();
            stream
        })
        .collect();
    let bytes = Bytes::from(vec![7u8; FRAME]);
    for stream in streams {
        pair.send(stream, &bytes, WARM);
        let counted = allocation_counter::measure(|| pair.send(stream, &bytes, FRAMES));
        tell("the protocol alone", &counted, FRAMES as usize);
        assert_eq!(
            (counted.count_total, counted.bytes_total),
            (0, 0),
            "allocations, bytes, in {FRAMES} frames"
        );
    }
}

/// Two sessions over a TCP connection of this machine. All of it runs on this thread, where allocations are counted.
struct Joined {
    runtime: Runtime,
    /// A stream of the node's end, and the same at the plane's end.
    near: MuxStream,
    far: MuxStream,
}

/// Bytes before counting, and bytes counted.
const BYTES: usize = 64 << 20;
/// Bytes in flight of a stream whose reader keeps up.
const STEP: usize = 2 * DATA_MAX;
/// Least number of frames per allocation. The websocket renews the block for its headers every few hundred frames;
/// anything allocated per frame, or per read of a socket, is far beyond.
const FRAMES_TO_ONE: u64 = 32;
/// Most allocations per frame whose reader lags: waiting data is copied together, so that a slow reader costs its
/// window and not the blocks its bytes arrived in. A frame is two turns, each of which may start a block, grow it and
/// release it.
const BEHIND: u64 = 6;
/// Their bytes: waiting data is copied once, into blocks that double while they grow.
const BEHIND_BYTES: u64 = 3 * DATA_MAX as u64;

/// What a session over TLS may allocate, in tenths of what TLS alone does for the same bytes. Records of two frames are
/// not those of two writes, so their number is never quite the same.
const TENTHS_OF_TLS: u64 = 15;
/// The same for the bytes: they hardly differ, and a copy of each frame would be a third more.
const TENTHS_OF_BYTES_OF_TLS: u64 = 11;
/// Most bytes allocated per frame, besides the blocks that are renewed now and then: a copy of a frame is [`DATA_MAX`].
const BYTES_BESIDE: u64 = 512;

/// Only what is renewed now and then, and nothing per frame.
fn next_to_nothing(counted: &AllocationInfo, frames: usize) {
    let (count, bytes) = (counted.count_total, counted.bytes_total);
    assert!(
        count * FRAMES_TO_ONE <= frames as u64 && bytes <= frames as u64 * BYTES_BESIDE,
        "{count} allocations, {bytes} bytes in {frames} frames"
    );
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let to = listener.local_addr().expect("an address");
    let (near, far) = tokio::join!(TcpStream::connect(to), listener.accept());
    let (near, far) = (near.expect("connected"), far.expect("accepted").0);
    for socket in [&near, &far] {
        socket.set_nodelay(true).expect("a socket of TCP");
    }
    (near, far)
}

/// The same connection with TLS 1.3 on it.
async fn with_tls(near: TcpStream, far: TcpStream) -> [Box<dyn Transport>; 2] {
    let made = rcgen::generate_simple_self_signed(vec!["plane.test".to_owned()]).expect("made");
    let certificate: CertificateDer<'static> = made.cert.into();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate");
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "plane.test".try_into().expect("a name");
    let (near, far) = tokio::join!(
        TlsConnector::from(Arc::new(client)).connect(name, near),
        TlsAcceptor::from(Arc::new(server)).accept(far),
    );
    [
        Box::new(near.expect("a handshake")),
        Box::new(far.expect("a handshake")),
    ]
}

fn joined(tls: bool) -> Joined {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (near, far) = runtime.block_on(async {
        let (near, far) = sockets().await;
        let [near, far]: [Box<dyn Transport>; 2] = match tls {
            true => with_tls(near, far).await,
            false => [Box::new(near), Box::new(far)],
        };
        let begin = |socket, role, side| {
            let websocket = Websocket::new(socket, role, Bytes::new());
            mux::session(websocket, side, Config::default())
        };
        let (node, _, driver) = begin(near, Role::Client, Side::Node);
        tokio::spawn(driver);
        let (_, mut incoming, driver) = begin(far, Role::Server, Side::Plane);
        tokio::spawn(driver);
        let near = node.open("sink", Class::Bulk, Meta::new()).expect("open");
        let opened = incoming.next().await.expect("a stream");
        (near, opened.accept().expect("a stream"))
    });
    Joined { runtime, near, far }
}

/// Session to session: the counts, and the frames.
fn through_a_session(tls: bool) -> (AllocationInfo, usize) {
    let Joined { runtime, near, far } = joined(tls);
    let (mut reader, mut writer) = (far.into_split().0, near.into_split().1);
    let block = Bytes::from(vec![7; STEP]);
    let mut run = || {
        let mut frames = 0;
        runtime.block_on(async {
            for _ in 0..BYTES / STEP {
                writer.send(block.clone()).await.expect("room");
                let mut left = STEP;
                while left > 0 {
                    let n = reader.fill_buf().await.expect("bytes").len();
                    reader.consume(n);
                    left -= n;
                    frames += 1;
                }
            }
        });
        frames
    };
    run();
    let mut frames = 0;
    let counted = allocation_counter::measure(|| frames = run());
    (counted, frames)
}

/// Most bytes that both ends of a session hold together while nothing happens, drivers included: no buffers.
const IDLE_BYTES: i64 = 8 * 1024;

#[test]
fn an_idle_session_holds_no_buffers() {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (near, far) = runtime.block_on(sockets());
    let mut ends = None;
    let counted = allocation_counter::measure(|| {
        ends = Some(runtime.block_on(async {
            let begin = |socket: TcpStream, role, side| {
                let websocket = Websocket::new(Box::new(socket), role, Bytes::new());
                let (handle, incoming, driver) = mux::session(websocket, side, Config::default());
                tokio::spawn(driver);
                (handle, incoming)
            };
            let ends = [
                begin(near, Role::Client, Side::Node),
                begin(far, Role::Server, Side::Plane),
            ];
            for (handle, _) in &ends {
                handle.ping().await.expect("an answer");
            }
            ends
        }));
    });
    let held = counted.bytes_current;
    println!("\nbytes held by both ends of an idle session: {held}");
    assert!(held <= IDLE_BYTES, "{held} bytes");
}

#[test]
fn a_frame_of_a_session_allocates_nothing() {
    let (counted, frames) = through_a_session(false);
    tell("a session over TCP", &counted, frames);
    next_to_nothing(&counted, frames);
}

#[test]
fn a_session_over_tls_allocates_what_tls_does() {
    let (counted, frames) = through_a_session(true);
    tell("a session over TLS", &counted, frames);
    let alone = tls_alone();
    tell("the same bytes over TLS alone", &alone, frames);
    let all = [
        (
            "allocations",
            counted.count_total,
            alone.count_total,
            TENTHS_OF_TLS,
        ),
        (
            "bytes",
            counted.bytes_total,
            alone.bytes_total,
            TENTHS_OF_BYTES_OF_TLS,
        ),
    ];
    for (what, ours, of_tls, tenths) in all {
        assert!(
            ours * 10 <= of_tls * tenths,
            "{ours} {what} in {frames} frames, TLS alone: {of_tls}"
        );
    }
}

/// The same bytes over the same TLS, without a session.
fn tls_alone() -> AllocationInfo {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let [mut near, mut far] = runtime.block_on(async {
        let (near, far) = sockets().await;
        with_tls(near, far).await
    });
    let block = vec![7; STEP];
    let mut room = vec![0; STEP];
    let mut run = || {
        runtime.block_on(async {
            for _ in 0..BYTES / STEP {
                let send = async {
                    near.write_all(&block).await.expect("room");
                    near.flush().await.expect("room");
                };
                let take = far.read_exact(&mut room);
                let ((), taken) = tokio::join!(send, take);
                taken.expect("bytes");
            }
        });
    };
    run();
    allocation_counter::measure(run)
}

/// Socket, splice, session, TCP, session, splice, socket: at most `step` bytes are in flight.
fn through_two_sockets(step: usize) -> AllocationInfo {
    let Joined { runtime, near, far } = joined(false);
    let (mut source, mut sink) = runtime.block_on(async {
        let ((source, inner), (sink, outer)) = (sockets().await, sockets().await);
        tokio::spawn(mux::splice(near, Box::new(inner)));
        tokio::spawn(mux::splice(far, Box::new(outer)));
        (source, sink)
    });
    let block = vec![7; STEP];
    let mut room = vec![0; STEP];
    let mut run = || {
        runtime.block_on(async {
            for _ in 0..BYTES / step {
                let send = async {
                    for _ in 0..step / STEP {
                        source.write_all(&block).await.expect("room");
                    }
                };
                let take = async {
                    for _ in 0..step / STEP {
                        sink.read_exact(&mut room).await.expect("bytes");
                    }
                };
                tokio::join!(send, take);
            }
        });
    };
    run();
    allocation_counter::measure(run)
}

#[test]
fn bytes_between_two_sockets_allocate_nothing() {
    let counted = through_two_sockets(STEP);
    let frames = BYTES / DATA_MAX;
    tell("between two sockets", &counted, frames);
    next_to_nothing(&counted, frames);
}

#[test]
fn a_reader_that_is_behind_costs_a_copy_and_its_block() {
    let counted = through_two_sockets(BYTES);
    let frames = BYTES / DATA_MAX;
    tell("a reader that is behind", &counted, frames);
    let (count, bytes) = (counted.count_total, counted.bytes_total);
    assert!(
        count <= BEHIND * frames as u64 && bytes <= BEHIND_BYTES * frames as u64,
        "{count} allocations, {bytes} bytes in {frames} frames"
    );
}

/// Read as TLS reads it, a record's header or a page at a time.
#[test]
fn what_is_read_ahead_is_one_block() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let sent = vec![7; BYTES];
    let mut io = mux::Ahead::new(&sent[..]);
    let mut page = [0; 4096];
    let counted = allocation_counter::measure(|| {
        runtime.block_on(async { while io.read(&mut page).await.expect("bytes") > 0 {} });
    });
    assert_eq!(counted.count_total, 1, "{} bytes", counted.bytes_total);
}

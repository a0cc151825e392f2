//! A frame in steady state allocates nothing: neither where it is sent nor where it is received.

use bytes::{Bytes, BytesMut};
use pf9_hostagent::wire::{Class, Config, Event, Meta, Read, Session, Side, StreamId, Time};

/// Bytes of one frame.
const FRAME: usize = 16 * 1024;
/// Frames before it counts: windows have grown, queues have their size.
const WARM: u32 = 4000;
/// Frames that count.
const FRAMES: u32 = 4000;

/// Two ends and the memory between them, used again and again as the websocket does.
struct Pair {
    node: Session,
    plane: Session,
    head: BytesMut,
    message: BytesMut,
    now: Time,
}

impl Pair {
    /// Everything one end has to say reaches the other.
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
        assert_eq!(
            (counted.count_total, counted.bytes_total),
            (0, 0),
            "allocations, bytes, in {FRAMES} frames"
        );
    }
}

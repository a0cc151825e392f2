//! What comms can be made to hold, added up. The unit's `MemoryMax` is more than that, and a test
//! compares the two: no peer can have this program killed by what it sends or does not read.

use super::admit::CARRIED_MAX;
use super::gate;
use super::link::{DRAINING_BYTES, DRAINING_MAX, SESSION_BYTES, SESSIONS};
use crate::local::Policy;
use crate::mux::WRITE_MAX;
use crate::wire::limits::{BLOCK, DATA_MAX, SEND_FLOOR};

/// The program, its libraries, certificates, tables and logs; 16 MiB are measured on an idle master.
const BASE: u64 = 32 * 1024 * 1024;
/// Frames between a local socket and a stream: three each in the block that is read into and in two that rest, and those
/// of one write.
const SPLICE_FRAMES: u64 = 9;
/// Read ahead of TLS.
const AHEAD: u64 = 2 * BLOCK as u64;
/// Times that a session's output stands somewhere: websocket, TLS, and what TLS makes of it.
const OUTPUT_COPIES: u64 = 3;

/// Each part, and what it is.
fn parts() -> [(&'static str, u64); 6] {
    let sessions = u64::from(SESSIONS);
    let all = sessions * (1 + DRAINING_MAX as u64);
    let streams = u64::from(CARRIED_MAX) + gate::SHARE.most() as u64;
    // Beyond what all streams of a session may hold together each may begin one more piece.
    let piece = (SEND_FLOOR + DATA_MAX) as u64;
    let output = BLOCK as u64 + AHEAD + OUTPUT_COPIES * WRITE_MAX as u64;
    [
        ("sessions", sessions * SESSION_BYTES),
        ("draining sessions", DRAINING_BYTES),
        ("connections to the plane", all * output),
        (
            "streams",
            streams * (SPLICE_FRAMES * DATA_MAX as u64 + piece),
        ),
        ("the own socket", Policy::default().bytes_max() as u64),
        ("the program", BASE),
    ]
}

/// All of it.
pub(crate) fn most() -> u64 {
    parts().iter().map(|(_, bytes)| bytes).sum()
}

//! Every bound of the protocol, with its reason. `docs/protocol.md` has the same table.

use std::time::Duration;

/// Version this implementation speaks.
pub const VERSION: u16 = 1;
/// Bytes of a frame header: kind, flags, two reserved, stream id.
pub const HEADER: usize = 8;
/// Most payload of one DATA frame. Large enough that per-frame work is small beside the cryptography, small enough that
/// a keystroke waits behind at most a quarter of a millisecond at 1 Gbit/s.
pub const DATA_MAX: usize = 32 * 1024;
/// What a stream sends in one turn, in as many pieces as it takes: two full frames, so that its reader at the far side
/// finds enough for one write to its socket. (A quarter of it made eight streams cost four times the writes of one.)
pub const QUANTUM: usize = 64 * 1024;
/// Largest message that is accepted; the websocket refuses larger ones unread.
pub const MESSAGE_MAX: usize = HEADER + DATA_MAX + 1024;
/// Initial credit of a stream in each direction before any CREDIT: an HTTP request with its headers fits, so the first
/// byte of an answer costs one round trip.
pub const INITIAL_WINDOW: u32 = 32 * 1024;
/// Most streams open at once, both directions counted on the side that receives the OPEN.
pub const STREAMS_MAX: u32 = 1024;
/// Most bytes a connection may make its receiver hold: the guaranteed `STREAMS_MAX × INITIAL_WINDOW` (32 MiB), and as
/// much again for the streams this side opens and for growing windows.
pub const CONNECTION_WINDOW: u64 = 64 * 1024 * 1024;
/// Bytes a stream's sender holds before its writer waits; the piece that reaches the bound goes as a whole. Enough for
/// one write of the socket, and to keep the line busy while the writer is woken.
pub const SEND_BUFFER: usize = 96 * 1024;
/// Bytes all of a session's streams hold for sending before each is limited to [`SEND_FLOOR`]: a peer that reads
/// nothing from a thousand streams must not make this side hold 96 MiB.
pub const SEND_TOTAL: usize = 16 * 1024 * 1024;
/// Bytes any stream may hold for sending, whatever the others hold: no stream waits for another one.
pub const SEND_FLOOR: usize = 16 * 1024;
/// How far a stream may grow, beyond what it held, once its session drains: 7 MB/s at 150 ms. The session that takes
/// over has memory of its own, and both together have a bound.
pub const LEAVING_WINDOW: u64 = 1024 * 1024;
/// One block of the socket.
pub const BLOCK: usize = 64 * 1024;
/// Blocks of the socket that unread payloads may keep alive; beyond that payloads are copied out. A block is 64 KiB and
/// a payload of one byte keeps all of it.
pub const PINNED_MAX: usize = 256;
/// How long a stream that its application dropped waits for the peer to take a further byte: a person who reads page by
/// page takes minutes, one who left occupies one slot of a thousand.
pub const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest service name.
pub const SERVICE_MAX: usize = 64;
/// Most entries of an OPEN's metadata.
pub const META_MAX: usize = 8;
/// Longest key or value of metadata.
pub const META_TEXT_MAX: usize = 128;
/// Most capabilities in a HELLO.
pub const CAPABILITIES_MAX: usize = 32;
/// Longest capability name.
pub const CAPABILITY_MAX: usize = 64;
/// Longest explanation in RESET and GOAWAY.
pub const WORDS_MAX: usize = 256;
/// Most OPENs that wait for the application; more are refused.
pub const BACKLOG_MAX: usize = 128;
/// Most refusals that wait to be sent. A peer that opens faster than it reads the refusals violates the protocol, as
/// with rapid resets of HTTP/2.
pub const REFUSALS_MAX: usize = 1024;
/// Interactive turns in a row before a bulk stream gets one: bulk is slowed, never starved.
pub const INTERACTIVE_RUN: u32 = 4;
/// Default ping interval: a dead path is noticed after 2.5 of them, 20 s.
pub const PING_INTERVAL: Duration = Duration::from_secs(8);
/// Longest an OPEN may stay unanswered: the far side's dial has 10 s, then some.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest "come back after" that is honoured.
pub const COME_BACK_MAX: Duration = Duration::from_secs(600);

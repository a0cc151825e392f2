//! Drives a [`wire::Session`](crate::wire::Session) over a websocket with tokio.
//!
//! ```text
//!            ┌──────────── Driver (one task: reads, writes, timers; no lock is held while waiting)
//!  websocket ┤
//!            └── Shared: Mutex<Session + wakers>, held for microseconds, never across an await
//!                  ▲              ▲                 ▲
//!               Handle         Incoming         MuxStream … (AsyncRead, AsyncBufRead, AsyncWrite)
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `ahead` | [`Ahead`]: below TLS, so that it reads much at once |
//! | `clock` | time since something began, sleep included |
//! | `driver` | [`Driver`]: moves messages between the session and the websocket |
//! | `ending` | what must still leave when a connection is over, and what still comes |
//! | `shared` | what driver and streams share; [`Handle`], [`Incoming`], [`Opened`] |
//! | `stream` | [`MuxStream`] |
//! | `splice` | [`splice()`]: a stream and a socket, joined with half-close |
//! | `transport` | [`Transport`]: what a session runs on, and what a stream is joined with; [`Secured`]: TLS as one |
//! | `websocket` | [`Websocket`]: RFC 6455 framing without copies |
//! | `handshake` | [`connect`]: from HTTP to a websocket, on the side that dials; [`ask`]: only whether it would |

mod ahead;
mod clock;
mod driver;
mod ending;
mod handshake;
mod shared;
mod splice;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
mod websocket;

pub use ahead::Ahead;
pub use clock::Clock;
pub use driver::{Closed, Driver, WRITE_MAX, session};
pub use handshake::{HandshakeError, ask, connect};
pub use shared::{Handle, Incoming, Opened};
pub use splice::{Spliced, Splicing, splice};
pub use stream::{MuxReader, MuxStream, MuxWriter};
pub use transport::{Secured, Transport};
pub use websocket::{Role, Websocket};

/// Tasks that a runtime of one thread with sessions lets run before it asks the kernel again what came, in tokio's words its event
/// interval. Where bulk moves there is always a task that is ready, and each moves up to 128 KiB: with tokio's own 61 a key
/// stroke waits for milliseconds until anybody sees it. (Of several threads one is idle now and then, and looks.)
pub const EVENT_INTERVAL: u32 = 8;
/// Name of the subprotocol in the websocket handshake.
pub const SUBPROTOCOL: &str = "pf9-tunnel.v1";
/// Path of the tunnel on the plane.
pub const TUNNEL_PATH: &str = "/v1/tunnel";
/// Header of the handshake: which run of the node's program this is, 32 hex digits.
pub const INSTANCE_HEADER: &str = "pf9-instance";
/// Header of the handshake: which of the node's parallel sessions this is, counted from 0.
pub const SLOT_HEADER: &str = "pf9-slot";
/// Header of the handshake: what the machine is, base64 of its marks as JSON.
pub const MACHINE_HEADER: &str = "pf9-machine";
/// Header of the handshake: the kernel's boot id.
pub const BOOT_HEADER: &str = "pf9-boot";
/// Header of the handshake: which chain of tickets the session belongs to, at most 16 hex digits.
pub const CHAIN_HEADER: &str = "pf9-chain";
/// Header of the handshake: `chain:ticket`, of every chain the node has, separated by commas.
pub const TICKETS_HEADER: &str = "pf9-tickets";
/// Header of the answer: the ticket for the next session of this chain.
pub const TICKET_HEADER: &str = "pf9-ticket";
/// Header of the plane's answer: what the session is good for, as the page's table has it.
/// Absent: everything.
pub const SESSION_HEADER: &str = "pf9-session";
/// Most sessions a node keeps at the same time, those that drain not counted.
pub const SLOTS_MAX: u8 = 2;
/// Service of the plane that speaks the host API.
pub const HOST_API: &str = "host-api";

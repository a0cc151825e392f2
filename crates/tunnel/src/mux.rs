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
//! | `connection` | the websocket below a session, and which task writes to it |
//! | `driver` | [`Driver`]: moves messages between the session and the websocket |
//! | `ending` | the end of a connection: what must still be sent, what still arrives |
//! | `shared` | state shared by driver and streams; [`Handle`], [`Incoming`], [`Opened`] |
//! | `stream` | [`MuxStream`] |
//! | `splice` | [`splice()`]: a stream and a socket, joined with half-close |
//! | `transport` | [`Transport`]: what a session runs on, and what a stream is spliced with; [`Secured`]: TLS as one |
//! | `websocket` | [`Websocket`]: RFC 6455 framing without copies |
//! | `handshake` | [`connect`]: from HTTP to a websocket, on the dialling side; [`ask`]: only whether it would succeed |

mod ahead;
mod clock;
mod connection;
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
pub use connection::WRITE_MAX;
pub use driver::{Closed, Driver, session};
pub use handshake::{HandshakeError, ask, connect};
pub use shared::{Handle, Incoming, Opened};
pub use splice::{Spliced, Splicing, splice};
pub use stream::{MuxReader, MuxStream, MuxWriter};
pub use transport::{Secured, Transport, poll_write_slices};
pub use websocket::{Role, Websocket};

/// Tasks that a single-threaded runtime with sessions runs before it polls the kernel for events again (tokio's event
/// interval). While bulk moves there is always a ready task, and each moves up to 128 KiB: with tokio's default of 61 a
/// keystroke waits milliseconds before anybody sees it. (With several threads one is idle now and then, and polls.)
pub const EVENT_INTERVAL: u32 = 8;
/// Name of the subprotocol in the websocket handshake.
pub const SUBPROTOCOL: &str = "pf9-tunnel.v1";
/// Path of the tunnel on the plane.
pub const TUNNEL_PATH: &str = "/v1/tunnel";
/// Handshake header: the run of the node's program, 32 hex digits.
pub const INSTANCE_HEADER: &str = "pf9-instance";
/// Handshake header: which of the node's parallel sessions this is, counted from 0.
pub const SLOT_HEADER: &str = "pf9-slot";
/// Handshake header: the machine's marks as JSON, base64.
pub const MACHINE_HEADER: &str = "pf9-machine";
/// Handshake header: the kernel's boot id.
pub const BOOT_HEADER: &str = "pf9-boot";
/// Handshake header: the session's chain of tickets, at most 16 hex digits.
pub const CHAIN_HEADER: &str = "pf9-chain";
/// Handshake header: `chain:ticket` of every chain the node has, separated by commas.
pub const TICKETS_HEADER: &str = "pf9-tickets";
/// Answer header: the ticket for the next session of this chain.
pub const TICKET_HEADER: &str = "pf9-ticket";
/// Answer header: what the session allows, as in the page's table. Absent: everything.
pub const SESSION_HEADER: &str = "pf9-session";
/// Most sessions a node keeps at the same time, draining ones not counted.
pub const SLOTS_MAX: u8 = 2;
/// Service of the plane that speaks the host API.
pub const HOST_API: &str = "host-api";

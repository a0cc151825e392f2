//! HTTP + JSON over Unix sockets: how the daemons of one host speak to each other, and how a
//! person can look (`curl --unix-socket /run/pf9/nodelet.sock http://local/v1/status`).
//!
//! ```text
//!  connect ─► Door: who is it? has it a place? ─► head: which route? ─► body, within its bound ─► handler
//!               no: said and closed, unread          no: said, body unread
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `client` | [`Client`]: calls with deadlines, [`LocalError`] with the other side's own words |
//! | `share`  | [`Share`]: how many connections each caller may hold; pure |
//! | `door`   | [`Door`]: the caller is known and judged at accept |
//! | `loud`   | `/v1/log-level`, likewise |
//! | `probes` | `/healthz` and `/ready`, as every daemon answers them |
//! | `server` | [`serve`]: a handler function behind a door, limits on everything |

mod client;
mod door;
mod loud;
mod probes;
mod server;
mod share;

#[cfg(test)]
pub(crate) use client::ANSWER_MAX;
pub use client::{Client, LocalError};
pub use door::{Caller, Callers, Door, Peer, Place, bind};
pub use loud::{LOG_LEVEL, log_level};
pub use probes::{NotReady, healthz, ready};
pub use server::{BodyBound, Head, NOTE_MAX, Policy, Reply, Request, serve};
pub use share::Share;

pub use http::{Method, StatusCode};

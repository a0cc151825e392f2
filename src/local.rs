//! HTTP + JSON over Unix sockets: how the daemons of one host speak to each other, and how a
//! person can look (`curl --unix-socket /run/pf9/nodelet.sock http://local/v1/status`).
//!
//! | file | holds |
//! |---|---|
//! | `client` | [`Client`]: calls with deadlines, [`LocalError`] with the other side's own words |
//! | `server` | [`serve`]: a handler function, the caller's uid, limits on everything |

mod client;
mod server;

pub use client::{Client, LocalError};
pub use server::{Limits, Peer, Reply, Request, bind, serve};

pub use http::{Method, StatusCode};

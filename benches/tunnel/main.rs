//! The load tool of `scripts/bench tunnel` and `scripts/bench plane`: one program, a subcommand per role.
//!
//! ```text
//!  load ──TCP──► plane ══TLS 1.3 + websocket══ pf9-comms ──TCP──► target
//!                        (or: relay in between)
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `plane`   | the plane's end of the tunnel; each TCP connection becomes a stream |
//! | `prepare` | keys, certificates and configuration of both ends |
//! | `target`  | the far server: echo, sink, source, never reads, half-close |
//! | `client`  | connections of the load generator, one mode each |
//! | `load`    | what is measured; each prints one JSON object |
//! | `relay`   | a path with a round-trip time, that can be frozen or cut |
//! | `tls`     | the baseline: one rustls stream, nothing else |
//! | `swarm`   | very many idle nodes, which come back when their plane does |
//! | `enrol`   | those nodes become hosts of a real plane |
//! | `agent`   | what such a node says when nothing happens |
//! | `procs`   | CPU time and memory of the processes under test |
//!
//! Load and target are plain threads with blocking sockets: their own cost must be small and the
//! same for everything that is measured.

mod agent;
mod client;
mod enrol;
mod load;
mod plane;
mod prepare;
mod procs;
mod relay;
mod swarm;
mod target;
mod tls;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Load tool of scripts/bench tunnel")]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Write keys, certificates and the node's configuration.
    Prepare(prepare::Args),
    /// The far server. Prints its address.
    Target,
    /// The plane's end. Prints its addresses, then a line per session.
    Plane(plane::Args),
    /// A path with a round-trip time. Prints its addresses.
    Relay(relay::Args),
    /// Measure something.
    #[command(subcommand)]
    Load(load::What),
    /// One rustls stream within this process, both ends.
    Tls(tls::Args),
    /// Enrol very many nodes at a real plane.
    Enrol(enrol::Args),
    /// Very many nodes that do nothing, or only what their agents do then.
    Swarm(swarm::Args),
}

fn main() -> Result<()> {
    match Args::parse().role {
        Role::Prepare(args) => prepare::run(&args),
        Role::Target => target::run(),
        Role::Plane(args) => plane::run(args),
        Role::Relay(args) => relay::run(&args),
        Role::Load(what) => load::run(&what),
        Role::Tls(args) => tls::run(&args),
        Role::Enrol(args) => enrol::run(&args),
        Role::Swarm(args) => swarm::run(args),
    }
}

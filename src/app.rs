//! Composition: what every daemon of ours has in common.
//!
//! | file | holds |
//! |---|---|
//! | `backoff` | [`Backoff`]: the wait between tries, of everything that retries |
//! | `bucket` | [`Bucket`]: how often something may happen; pure |
//! | `choice` | [`pick`]: which of several sessions takes the next stream; pure |
//! | `config` | [`Config`]: `/etc/pf9/hostagent.toml` and `conf.d`; every fault at once |
//! | `exit`   | [`Exit`]: the exit-code table |
//! | `progress` | [`Progress`]: signs of life, which feed the watchdog |
//! | `socket` | [`tune()`]: what both ends of the tunnel ask of the kernel |
//! | `support` | [`agreed()`]: what root allows support to fetch |
//! | `tasks`  | [`TaskGroup`]: named tasks with a policy, drained with a deadline |
//! | `umask`  | [`usual_modes()`]: no shell decides the modes of directories |
//! | `daemon` | [`daemon()`], [`answering_daemon()`]: parse, log, config, run until a signal, exit code; [`tell()`] systemd of it |

mod backoff;
mod bucket;
mod choice;
mod config;
mod daemon;
mod exit;
#[cfg(test)]
mod memory;
mod progress;
pub mod socket;
mod support;
pub mod tasks;
mod umask;

pub use backoff::Backoff;
pub use bucket::Bucket;
pub use choice::{Candidate, in_order, is_silent, pick};
pub use config::{CommsConfig, Config, HostagentConfig, NodeletConfig};
pub use daemon::{Daemon, Threads, answering_daemon, daemon, tell};
pub use exit::Exit;
pub use progress::{Beat, MARGIN, Progress};
pub use socket::tune;
pub use support::{Agreed, ONCE_MAX, Once, agreed};
pub use tasks::TaskGroup;
pub use umask::usual_modes;

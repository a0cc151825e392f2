//! Composition: what every daemon of ours has in common.
//!
//! | file | holds |
//! |---|---|
//! | `bucket` | [`Bucket`]: how often something may happen; pure |
//! | `config` | [`Config`]: `/etc/pf9/hostagent.toml` and `conf.d`; every fault at once |
//! | `exit`   | [`Exit`]: the exit-code table |
//! | `tasks`  | [`TaskGroup`]: named tasks with a policy, drained with a deadline |
//! | `daemon` | [`daemon()`], [`answering_daemon()`]: parse, log, config, run until a signal, exit code |

mod bucket;
mod config;
mod daemon;
mod exit;
pub mod tasks;

pub use bucket::Bucket;
pub use config::{CommsConfig, Config, HostagentConfig, NodeletConfig};
pub use daemon::{Daemon, Runtime, answering_daemon, daemon};
pub use exit::Exit;
pub use tasks::TaskGroup;

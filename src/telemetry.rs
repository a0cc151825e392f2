//! Logs: where they go, how large they may get, and how an error is printed.
//!
//! Each daemon writes `/var/log/pf9/<program>/<program>.log` (bounded: size × count) and, under
//! systemd, the same lines to the journal through stderr. `kube/kube.log` is the story of the role
//! in plain words; nodelet alone writes it ([`KubeLog`]).
//!
//! | file | holds |
//! |---|---|
//! | `rotate` | [`RotatingFile`]: a writer with a byte bound and a count bound |
//! | `alike`  | [`Fold`]: lines that are alike, one and a number: pure |
//! | `exposition` | [`MetricsText`]: Prometheus' text format |
//! | `init`   | [`init()`]: the subscriber of a daemon |
//! | `vitals` | [`vitals()`]: the process itself and its tasks, as numbers |
//! | `level`  | [`level_for()`]: more or less of it for a time |

mod alike;
mod exposition;
mod init;
mod level;
mod rotate;
#[cfg(test)]
pub(crate) mod testing;
mod vitals;

pub use alike::{Fold, KINDS_MAX, More, WINDOW};
pub use exposition::{CONTENT_TYPE as METRICS_TYPE, MetricKind, Text as MetricsText};
pub use init::{LogConfig, LogFormat, init, to_stderr};
pub use level::{LevelNow, keep_level, level_for, level_now, usual_level};
pub use pf9_tunnel::{causes, chain};
pub use rotate::{KubeLog, RotatingFile};
pub use vitals::vitals;

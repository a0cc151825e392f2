//! The version of this software itself: had ready, changed to, proven or put back.
//!
//! ```text
//!  spec (signed) ─► nodelet: order ─► pf9-agent-switch.service (root, run by `last-good`)
//!  hostagent: package ─► staging ─┘      prepare ─► next (pure) ─► links, units, daemons ─► prove ─► settle
//!                                          └──────────── record (on disk) ─► status (pure) ─► plane, pf9ctl
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `record`  | what is on the disk of a change |
//! | `next`    | what comes next: pure |
//! | `links`   | `current` and `last-good` |
//! | `package` | a package opened: its programs and units, and nothing else of it |
//! | `prepare` | the package verified and unpacked beside what runs, its programs tried |
//! | `needs`   | whether the machine has what a `.deb` needs |
//! | `prove`   | whether what runs is well |
//! | `switch`  | the effects: what the unit does |
//! | `settle`  | the package manager made to know of it |
//! | `order`   | nodelet's part: the order on the disk, and the unit started |
//! | `status`  | what a host says of it: pure |

mod links;
mod needs;
mod next;
pub mod order;
mod package;
mod prepare;
mod prove;
mod record;
mod settle;
mod status;
mod switch;
#[cfg(test)]
pub(crate) mod testing;

pub use prepare::{arch, format, kept, staged};
pub use status::status;
pub use switch::{at_boot, switch};

use std::time::Duration;

/// First pause after something that another try may cure.
const PAUSE_FIRST: Duration = Duration::from_secs(30);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1800);

/// The pause after so many failures in a row: doubling, capped.
fn pause(failures: u32) -> Duration {
    let doubled = 2u32.saturating_pow(failures.min(16));
    PAUSE_FIRST.saturating_mul(doubled).min(PAUSE_MAX)
}

//! The cluster's memory on a master: a task beside the loop that looks at the member of etcd and does
//! its chores. The loop makes the member and keeps it running; what the keeper does changes nothing
//! that a phase stands for.
//!
//! ```text
//!  job (which node this is) ─┐                       ┌─► EtcdBoard (status)
//!  socket ─► desk ─► orders ─┼─► keeper ─► chore ─┐  │
//!  time ─────────────────────┘     ▲   (pure)     ├──┴─► EtcdView (GET /v1/etcd)
//!                                  └── look ◄─────┘
//! ```
//!
//! | file | does |
//! |---|---|
//! | `record` | what this member is, kept apart from its data |
//! | `data`   | whether the data that should be there are: pure |
//! | `keeper` | the task: looks, does what is due or ordered, one chore at a time |
//! | `chore`  | the closed list of chores, and when each is due: pure |
//! | `look`   | asks the member, and what lies on the shelf |
//! | `desk`   | where the socket leaves root's orders; its routes |
//! | `backup` | the chores of backups: makes one, takes old ones away |
//! | `drill`  | the chore of the fire drill, and how the last one went |
//! | `archive` | the chore of the archive: copies there what is missing |
//! | `restart` | whose turn it is to be restarted: pure |
//! | `restore` | the cluster starts over from a snapshot: the loop does that |
//! | `upkeep` | whose database is to be made smaller now, and how a full one comes out of it |
//! | `version` | may this program have these data, and what makes them ready for it |
//! | `trust`  | who signs a backup, and whose are trusted; for `pf9ctl`, too |
//! | `key`    | who opens a backup: a key file, or the plane; for `pf9ctl`, too |

mod archive;
mod backup;
mod chore;
pub mod data;
mod desk;
mod drill;
mod keeper;
pub mod key;
mod look;
pub mod record;
pub mod restart;
pub mod restore;
#[cfg(test)]
pub(crate) mod testing;
pub mod trust;
pub mod upkeep;
pub mod version;

pub use chore::halts;
pub use desk::{EtcdHandle, desk};
pub use keeper::EtcdKeeper;

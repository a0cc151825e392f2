//! Real etcd members, and real container runtimes, driven by nodelet's own phases and clients, without systemd and
//! without machines: each member has a root directory, a network namespace and an address of its own.
//!
//! ```text
//! lab        the members and how they are driven
//! drill      fire drills: backups restored into an etcd of their own
//! restoring  a cluster starts over from a snapshot, and what is refused
//! elsewhere  from a backup that only the archive has
//! backup     backups that open, and the ways to fail
//! founding   every built etcd: one member founds, three found, with our settings
//! versions   which etcd works with whose data: refused and allowed steps are really made
//! upkeep     a full database: it is repaired, or explained
//! lost       lost data: nobody founds again; a member with peers rejoins them
//! moving     masters whose addresses change: members keep their identity and are found again
//! restarting one member at a time is restarted, and writes continue
//! leaving    which masters may leave, whose member is removed, and what is held until then
//! runtime    every containerd that a configuration is written for, started with it
//! trials     every program of a master asked about its configuration, right and bent
//! ```
//!
//! Needs root, and the programs: `python3 scripts/lib/parts.py etcd` (`containerd`, `kubernetes`) builds them once. One that is
//! missing is a failure, never a skip. `scripts/test` builds and runs all of it; `cargo nextest run`
//! leaves it out.

mod backup;
#[path = "../support/bent.rs"]
mod bent;
mod drill;
mod elsewhere;
mod founding;
mod lab;
mod leaving;
mod lost;
mod moving;
mod restarting;
mod restoring;
mod runtime;
mod trials;
mod upkeep;
mod versions;

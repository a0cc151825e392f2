//! The host seam: every effect on the machine goes through here.
//!
//! Concrete on purpose: tests point the same code at a temporary root (files, `/proc`, `/sys` and
//! the programs are looked up below it) or at a peer of their own (see "Tests at real boundaries" in
//! `docs/architecture.md`).
//!
//! | file | effect |
//! |---|---|
//! | here      | [`Host`] |
//! | `work`    | [`blocking`] work, beside the event loop |
//! | `fs`      | [`fs::HostFs`]: files; atomic, durable, bounded |
//! | `documents` | [`documents::Store`]: state of a daemon; the last two kept, broken ones put aside |
//! | `package` | a package of ours, read: what it is, and its files |
//! | `backups` | one backup of etcd in its directory: whether both its files are there and whole |
//! | `part`    | rules of a download that may be cut at any byte |
//! | `disks`   | file systems that a node writes to: how full, whether they take anything |
//! | `room`    | on a full file system, for what is never given up: what goes for it, in which order |
//! | `refusals` | what the kernel refuses whatever is tried (a disk that fails, no more processes), and what helps |
//! | `space`   | free bytes of a file system, and the refusal when they do not suffice |
//! | `exec`    | [`exec::run`]: processes with deadline, own group, capped output |
//! | `units`   | [`units::Units`]: systemd |
//! | `kernel`  | [`kernel::Kernel`]: modules, parameters, swap, control groups, capabilities |
//! | `runtime` | [`runtime::Runtime`]: images; clearing away containers and mounts |
//! | `protobuf` | fields of a protobuf message: etcd's own formats, the runtime's answer |
//! | `noise`   | what a log has against its program, start-up noise left out; pure |
//! | `net`     | [`net::Net`]: links, routes, packet-filter chains and tables, for removal; whether nftables work; an address that is lent |
//! | `neighbours` | what machines on the same link are told and asked about an address |
//! | `tls`     | clients with one authority and one certificate |
//! | `etcd`    | [`etcd::Etcd`]: health of the node's member |
//! | `etcd_data` | what the files of an etcd say of themselves, read without it |
//! | `kube`    | [`kube::Kube`]: nodes, objects, drain |
//! | `deadlines` | how long what may take where one waits for another |
//! | `extensions` | operators' programs, run where they can do no harm |
//! | `facts`   | `os-release` |
//! | `maintenance` | how long a maintenance still lasts, and its record |
//! | `grounds` | what this machine reaches, for a cluster's networks to leave alone |
//! | `address_changes` | [`address_changes::AddressChanges`]: when the kernel gives or takes an address |
//! | `interfaces` | network interfaces; the facts that certificates are made from |
//! | `resolver` | [`resolver::Resolver`]: who answers DNS, by the file that pods get |
//! | `rooted`  | whether nobody but root can have written a file |
//! | `routes`  | [`routes::routes`]: the kernel's routes |
//! | `tools`   | what a node needs of its distribution, and which package has it |
//! | `tunnel_ends` | where the tunnel goes now |
//! | `mounts`  | mount points |
//! | `looking` | [`looking::Looking`]: a look at files that may never end |
//! | `host_ports` | ports of the machine that lead to pods |
//! | `proc`    | [`proc::Proc`]: processes, who listens |
//! | `temps`   | temporary files of interrupted writes |
//! | `ours`    | what on this machine is ours, and by what rule; pure |
//! | `unchanged` | [`unchanged::Unchanged`]: what was made of files, kept until one of them is another |

pub mod address_changes;
pub mod backups;
pub mod deadlines;
pub mod disks;
pub mod documents;
pub mod etcd;
pub mod etcd_data;
pub mod exec;
pub mod extensions;
pub mod facts;
pub mod fs;
pub mod grounds;
pub mod host_ports;
pub mod interfaces;
pub mod kernel;
pub mod kube;
pub mod looking;
pub mod maintenance;
pub mod mounts;
pub mod neighbours;
pub mod net;
#[cfg(test)]
pub(crate) mod no_threads;
pub mod noise;
pub mod ours;
pub mod package;
pub mod part;
pub mod proc;
mod protobuf;
pub mod refusals;
pub mod resolver;
pub mod room;
pub mod rooted;
pub mod routes;
pub mod runtime;
pub mod space;
pub mod temps;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;
pub mod tools;
pub mod tunnel_ends;
pub mod unchanged;
pub mod units;
pub mod work;

use fs::HostFs;
pub use work::{Lost, blocking};

/// One machine.
#[derive(Clone, Debug)]
pub struct Host {
    /// Files.
    pub fs: HostFs,
    /// systemd.
    pub units: units::Units,
    /// The kernel.
    pub kernel: kernel::Kernel,
    /// The container runtime.
    pub runtime: runtime::Runtime,
    /// The network.
    pub net: net::Net,
    /// Its processes.
    pub proc: proc::Proc,
}

impl Host {
    /// The machine below this root; `/` is the machine itself.
    pub fn new(fs: HostFs) -> Self {
        Self {
            units: units::Units::new(fs.clone()),
            kernel: kernel::Kernel::new(fs.clone()),
            runtime: runtime::Runtime::new(fs.clone()),
            net: net::Net::new(fs.clone()),
            proc: proc::Proc::new(fs.clone()),
            fs,
        }
    }

    /// This machine.
    pub fn real() -> Self {
        Self::new(HostFs::real())
    }
}

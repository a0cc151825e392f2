//! What each [`FaultCode`] means, why it comes about, and what to do: `pf9ctl explain` shows it, and
//! `docs/troubleshooting.md` is made of it.
//!
//! A row for each code, in the part of the system where it occurs; a code without a row, or with two, does not compile.
//! Each fault says in its own words, with the names of the case, what it is and what to do; this is for a reader who
//! has only the code. It works on a node without a network, where a page on another machine is no help.
//!
//! | file | room |
//! |---|---|
//! | `hand`         | `pf9ctl`, configuration, daemons, disk |
//! | `checks`       | `pf9ctl node check`; the codes of checks |
//! | `enrolment`    | tokens, identity, names |
//! | `tunnel`       | the way to the plane, proxies, clocks |
//! | `documents`    | specs, trust, orders, operations |
//! | `node`         | the machine as a node |
//! | `stack`        | Kubernetes' own files |
//! | `etcd`         | etcd, its backups, their archive |
//! | `certificates` | certificates and authorities |
//! | `cluster`      | membership, and the cluster's API |
//! | `upgrades`     | stack, distribution, agent |
//! | `rest`         | the plane's interfaces |

use super::FaultCode;

/// A row.
pub(crate) struct Remedy {
    pub(crate) code: FaultCode,
    /// What it is.
    pub(crate) means: &'static str,
    /// How it usually comes about.
    pub(crate) why: &'static str,
    /// What to do; commands between backticks.
    pub(crate) what_to_do: &'static str,
}

/// Codes that are met together.
pub(crate) struct Room {
    pub(crate) title: &'static str,
    /// Who is here.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "words of the page, with links that lead nowhere on a terminal"
        )
    )]
    pub(crate) about: &'static str,
    pub(crate) rows: &'static [Remedy],
}

macro_rules! rows {
    ([ $($rows:tt)* ] $($checks:tt)*) => { rows! { $($rows)* $($checks)* } };
    ($( $id:ident $(= $word:literal)?: $means:literal, $why:literal, $what_to_do:literal; )*) => {
        pub(super) const ROWS: &[super::Remedy] = &[ $( super::Remedy {
            code: super::FaultCode::$id,
            means: $means,
            why: $why,
            what_to_do: $what_to_do,
        }, )* ];
    };
}

mod certificates;
#[macro_use]
mod checks;
mod cluster;
mod documents;
mod enrolment;
mod etcd;
mod hand;
mod node;
mod rest;
mod stack;
mod tunnel;
mod upgrades;

/// Every room, in the order of the page.
pub(crate) const ROOMS: &[Room] = &[
    Room {
        title: "At the machine: pf9ctl, configuration, daemons",
        about: "Reported by `pf9ctl`, by the daemons when they start, and in `pf9ctl status`.",
        rows: hand::ROWS,
    },
    Room {
        title: "Checks of the machine",
        about: "Reported by `pf9ctl node check`, and when a machine is enrolled; what each one \
                checks is in [checks.md](checks.md). Some checks share a code with other faults: `root` (`not-root`), `disk` (`disk-full`), `plane` (`plane-unreachable` and its kin), `configuration` \
                (`config-invalid`), `daemons` (`agent-down`).",
        rows: checks::ROWS,
    },
    Room {
        title: "Enrolment and identity",
        about: "When a machine becomes a host of a plane, and when it is no longer the same machine.",
        rows: enrolment::ROWS,
    },
    Room {
        title: "The tunnel, proxies, clocks",
        about: "The node itself continues with its last orders while the tunnel is down.",
        rows: tunnel::ROWS,
    },
    Room {
        title: "Documents, orders and trust",
        about: "What a plane sends to a host, and what root of a host signs for the plane.",
        rows: documents::ROWS,
    },
    Room {
        title: "The node",
        about: "In `pf9ctl status`, in the plane's list of hosts, and in alerts. nodelet retries automatically, \
            with backoff.",
        rows: node::ROWS,
    },
    Room {
        title: "The stack",
        about: "Kubernetes as imported at the plane, and fetched and installed by hosts.",
        rows: stack::ROWS,
    },
    Room {
        title: "etcd and its backups",
        about: "On masters. Nothing of etcd's data is deleted before another copy is proven.",
        rows: etcd::ROWS,
    },
    Room {
        title: "Certificates and authorities",
        about: "All are renewed automatically as long as hosts reach their plane.",
        rows: certificates::ROWS,
    },
    Room {
        title: "Clusters and their API",
        about: "Joining and leaving a cluster, and `kubectl` through the plane.",
        rows: cluster::ROWS,
    },
    Room {
        title: "Upgrades",
        about: "Of clusters, of distributions, and of the agent.",
        rows: upgrades::ROWS,
    },
    Room {
        title: "The plane and its interfaces",
        about: "For operators of the plane, and for programs that use its API.",
        rows: rest::ROWS,
    },
];

/// Each code has its row: looked at by the compiler.
const _: () = {
    let mut times = [0_u8; FaultCode::ALL.len()];
    let mut room = 0;
    while room < ROOMS.len() {
        let rows = ROOMS[room].rows;
        let mut row = 0;
        while row < rows.len() {
            times[rows[row].code as usize] += 1;
            row += 1;
        }
        room += 1;
    }
    let mut n = 0;
    while n < times.len() {
        if times[n] != 1 {
            // The compiler shows the word.
            panic!("{}", FaultCode::ALL[n].word());
        }
        n += 1;
    }
};

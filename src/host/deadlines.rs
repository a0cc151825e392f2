//! How long things may take where one waits for another. Each is made from what it contains, here
//! and nowhere else, so that no outer wait ends before an inner one may:
//!
//! ```text
//! drain ─► its step ─┐
//! etcd member ───────┴► polite part ─┐
//! units, containers, network, files ─┴► removal of the role ─► pf9ctl node decommission waits
//!                                       leave of the plane, the agent's units, files ─┴► the package waits
//! ```
//!
//! They are bounds for what may still succeed, not what anybody usually waits: an idle node is gone
//! in seconds. A drain that takes all its time makes removal slow, never a failure.
//!
//! The package's maintainer scripts and the shipped units hold some of these as text; a test of the
//! packaging compares them.

use std::time::Duration;

use super::ours::units;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn sum(all: &[Duration]) -> Duration {
    let mut total = 0;
    let mut i = 0;
    while i < all.len() {
        total += all[i].as_secs();
        i += 1;
    }
    secs(total)
}

/// Moving pods away; the number operators of such agents know.
pub const DRAIN: Duration = secs(300);
/// A few calls of an API server or of etcd, each with a bound of its own below this.
pub const CALLS: Duration = secs(90);
/// The step of a drain: cordoning before it and the last look after it are calls.
pub const DRAIN_STEP: Duration = sum(&[DRAIN, CALLS]);
/// What removal tries for the others' sake before it takes anything away: the drain, and calls
/// about the member of etcd.
pub const POLITE: Duration = sum(&[DRAIN_STEP, CALLS]);

/// Longest `TimeoutStopSec` of the node's units: systemd's default. Then systemd kills.
pub const UNIT_STOP: Duration = secs(90);
/// Longest `TimeoutStartSec` of a one-shot or `Type=notify` unit of the node.
pub const UNIT_START: Duration = secs(90);
/// What systemd itself needs around that: reading units again, a busy bus.
const SYSTEMD: Duration = secs(20);
/// How long a call that stops one of the node's units may take.
pub const UNIT_STOP_CALL: Duration = sum(&[UNIT_STOP, SYSTEMD]);
/// How long a call of `systemctl` that starts or stops may take: both, one after the other.
pub const UNIT_CALL: Duration = sum(&[UNIT_STOP, UNIT_START, SYSTEMD]);
/// Starting a unit as a step: reading its file again, enabling it, and restarting it.
pub const UNIT_STEP: Duration = sum(&[UNIT_CALL, UNIT_CALL, SYSTEMD]);
/// Removing a unit as a step: stopping it, killing what stayed, taking its file away.
pub const UNIT_GONE: Duration = sum(&[UNIT_STOP_CALL, SYSTEMD, SYSTEMD]);
const UNITS_GONE: Duration = secs(UNIT_GONE.as_secs() * units::ROLE.len() as u64);

/// Small files on a slow disk.
pub const FILES: Duration = secs(60);
/// Deleting gigabytes of images and data on a slow disk.
pub const TREES: Duration = secs(300);

/// Removal of the role, everything in it as slow as it may be.
pub const ROLE_REMOVAL: Duration = sum(&[
    // Whether etcd can do without this master.
    CALLS, POLITE, UNITS_GONE, // Containers, then links, routes and chains.
    CALLS, CALLS, // What the runtime leaves of its sockets, then the ledger backwards.
    FILES, TREES,
]);
/// How long `pf9ctl node decommission` waits for it, by default. An order that comes
/// while a stack is unpacked or an image imported may have to be given again: a bound that holds
/// for that too would be an hour.
pub const DECOMMISSION: Duration = sum(&[ROLE_REMOVAL, SYSTEMD]);

/// The plane answers at once or is not there.
pub const LEAVE: Duration = secs(10);
/// Longest a daemon of ours drains after a signal; its tasks are interrupted then.
pub const GRACE: Duration = secs(20);
/// `TimeoutStopSec` of the two unprivileged daemons.
pub const AGENT_STOP: Duration = secs(30);
/// `TimeoutStopSec` of nodelet: its helpers (`ctr`, `iptables`) end after it.
pub const NODELET_STOP: Duration = secs(120);
/// How long the package's removal gives `pf9ctl node decommission`.
pub const PACKAGE: Duration = sum(&[
    DECOMMISSION,
    LEAVE,
    AGENT_STOP,
    AGENT_STOP,
    NODELET_STOP,
    TREES,
    SYSTEMD,
]);

const _: () = {
    const fn less(a: Duration, b: Duration) -> bool {
        a.as_secs() < b.as_secs()
    }
    assert!(less(DRAIN, DRAIN_STEP));
    assert!(less(DRAIN_STEP, POLITE));
    assert!(less(POLITE, ROLE_REMOVAL));
    assert!(less(ROLE_REMOVAL, DECOMMISSION));
    assert!(less(DECOMMISSION, PACKAGE));
    // A call that stops a unit outlives what systemd gives the unit, ours and the node's.
    assert!(less(UNIT_STOP, UNIT_STOP_CALL) && less(UNIT_STOP_CALL, UNIT_GONE));
    assert!(less(AGENT_STOP, UNIT_CALL) && less(NODELET_STOP, UNIT_CALL));
    // A daemon has drained before systemd kills it.
    assert!(less(GRACE, AGENT_STOP) && less(AGENT_STOP, NODELET_STOP));
};

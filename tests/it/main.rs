//! Whole daemons in this process, against peers in this process, over real sockets.

mod bundle;
#[cfg(feature = "plane")]
mod chain;
mod comms;
mod durable;
#[cfg(feature = "plane")]
mod egress;
#[cfg(feature = "fault")]
mod faults;
mod hostagent;
#[cfg(feature = "plane")]
mod identity;
mod local;
#[cfg(feature = "plane")]
mod plane;
mod remote;
#[cfg(feature = "plane")]
mod renewal;
mod support;
#[cfg(feature = "plane")]
mod two_planes;
mod umask;
mod watchdog;

//! Whole daemons in this process, against peers in this process, over real sockets.

mod bundle;
mod chain;
mod comms;
mod durable;
mod egress;
mod faults;
mod hostagent;
mod identity;
mod live;
mod local;
mod loud;
mod nodelet;
mod plane;
mod planes;
mod put_back;
mod remote;
mod renewal;
#[path = "../support/sample.rs"]
mod sample;
mod soak;
mod spool;
mod support;
mod two_planes;
mod umask;
mod watchdog;
mod whole;

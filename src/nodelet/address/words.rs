//! What is wrong with the shared address, for people.

use std::io;
use std::net::IpAddr;

use crate::host::exec::ExecError;
use crate::host::neighbours::{Link, Mac};
use crate::model::{Fault, FaultCode};
use crate::telemetry::chain;

pub(super) fn foreign(ip: IpAddr, mac: Mac, link: &Link) -> Fault {
    let mac = mac.map(|b| format!("{b:02x}")).join(":");
    Fault::new(
        FaultCode::ApiAddressForeign,
        format!("the API's address {ip} is in use by another machine"),
        format!("{mac} answers for it on {}", link.name),
    )
    .fix("remove it from that machine, or create the cluster with another masterIp")
}

pub(super) fn off_link(ip: IpAddr) -> Fault {
    Fault::new(
        FaultCode::ApiAddressOffLink,
        format!("this master cannot have the API's address {ip}"),
        "none of its interfaces has a network with that address",
    )
    .fix("give it an interface in that network; the other masters share the address without it")
}

pub(super) fn configured(ip: IpAddr, interface: &str) -> Fault {
    Fault::new(
        FaultCode::ApiAddressForeign,
        format!("the API's address {ip} is configured on this machine"),
        format!("{interface} has it statically"),
    )
    .fix("remove it from the machine's network configuration: the masters share it")
}

pub(super) fn unlent(ip: IpAddr, e: &ExecError) -> Fault {
    let what = format!("this master cannot have the API's address {ip}");
    Fault::new(FaultCode::ApiAddressUnheld, what, chain(e))
}

pub(super) fn unheard(ip: IpAddr, link: &Link, e: &io::Error) -> Fault {
    Fault::new(
        FaultCode::ApiAddressUnheld,
        format!("this master does not take the API's address {ip}"),
        format!("cannot check on {} who has it: {e}", link.name),
    )
}

pub(super) fn unasked(ip: IpAddr, why: String) -> Fault {
    Fault::new(
        FaultCode::ApiAddressUnheld,
        format!("this master cannot take the API's address {ip}"),
        format!("its API server grants no lease for it: {why}"),
    )
}

/// Nobody has it, and nothing keeps this master from asking.
pub(super) fn nobodys(ip: IpAddr, last: Option<&str>) -> Fault {
    let why = match last {
        Some(name) => format!("{name} had it last, and no longer renews its lease"),
        None => "its lease has no holder".to_owned(),
    };
    let what = format!("no master has the API's address {ip}");
    Fault::new(FaultCode::ApiAddressUnheld, what, why)
        .fix("see pf9ctl status on each of the other masters")
}

/// The same where this master cannot have it.
pub(super) fn nor_others(fault: Fault) -> Fault {
    let why = format!("{}; no other master has it either", fault.why);
    Fault { why, ..fault }
}

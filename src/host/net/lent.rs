//! An address with a lifetime of seconds: the kernel removes it by itself, unless it is
//! renewed. A process that dies or is stopped leaves nothing behind.

use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;

use super::Net;
use crate::host::exec::{self, Cmd, ExecError};

/// It asks the kernel and ends. One that takes longer is too late to be of use.
const RUN: Duration = Duration::from_secs(3);
/// What the tool says of an address that stays.
const FOR_EVER: u64 = u32::MAX as u64;

/// Where an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lent {
    /// The interface.
    pub interface: String,
    /// It stays until it is removed: not one that was leased.
    pub for_ever: bool,
}

#[derive(Deserialize)]
struct Shown {
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(default)]
    local: String,
    #[serde(default)]
    valid_life_time: u64,
}

impl Net {
    /// Whether this machine has the address, and where.
    pub async fn lent(&self, ip: IpAddr) -> Result<Option<Lent>, ExecError> {
        let args = ["-json", family(ip), "address", "show", "to"];
        let said = exec::run(self.ip(args).arg(whole(ip))).await?;
        Ok(found(&said.stdout, ip))
    }

    /// Lends it to an interface for so many seconds from now on; one that is lent already for longer.
    pub async fn lend(&self, ip: IpAddr, interface: &str, seconds: u64) -> Result<(), ExecError> {
        let args = [family(ip), "address", "replace"];
        let seconds = seconds.to_string();
        let mut cmd = self.ip(args).arg(whole(ip)).args(["dev", interface]);
        // Nothing that this machine begins by itself comes from it: never preferred as a source.
        cmd = cmd.args(["valid_lft", &seconds, "preferred_lft", "0"]);
        if ip.is_ipv6() {
            // The lease says that no other node holds it; the kernel's own probe would take seconds, and the previous
            // holder may answer in the last one of them.
            cmd = cmd.arg("nodad");
        }
        exec::run(cmd).await.map(drop)
    }

    /// Takes it away.
    pub async fn take_back(&self, ip: IpAddr, interface: &str) -> Result<(), ExecError> {
        let args = [family(ip), "address", "delete"];
        let cmd = self.ip(args).arg(whole(ip)).args(["dev", interface]);
        match exec::run(cmd).await {
            Ok(_) => Ok(()),
            // The kernel was first, or the interface is gone.
            Err(e) => match self.lent(ip).await {
                Ok(None) => Ok(()),
                Ok(Some(_)) | Err(_) => Err(e),
            },
        }
    }

    fn ip<const N: usize>(&self, args: [&str; N]) -> Cmd {
        Cmd::new(exec::program(&self.fs, "ip"), RUN).args(args)
    }
}

/// The address alone: what else is in its network is reached as before.
fn whole(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv6() { 128 } else { 32 })
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "-6" } else { "-4" }
}

/// What the tool said; interfaces that it leaves empty are none.
fn found(json: &[u8], ip: IpAddr) -> Option<Lent> {
    let all: Vec<Shown> = serde_json::from_slice(json).unwrap_or_default();
    let is = |a: &&Address| a.local.parse() == Ok(ip);
    all.iter().find_map(|shown| {
        let address = shown.addr_info.iter().find(is)?;
        Some(Lent {
            interface: shown.ifname.clone(),
            for_ever: address.valid_life_time >= FOR_EVER,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stays_is_told_from_one_that_was_lent() {
        let ip = "10.1.0.250".parse().expect("ip");
        let said = |seconds: u64| {
            format!(
                r#"[{{}},{{"ifname":"eth0","addr_info":[{{"family":"inet","local":"10.1.0.250",
                "prefixlen":32,"valid_life_time":{seconds},"preferred_life_time":0}}]}}]"#
            )
        };
        let lent = |text: String| found(text.as_bytes(), ip);
        let is = lent(said(3)).expect("found");
        assert_eq!((is.interface.as_str(), is.for_ever), ("eth0", false));
        assert!(lent(said(4_294_967_295)).expect("found").for_ever);
        assert_eq!(lent(said(3).replace("10.1.0.250", "10.1.0.25")), None);
        for nothing in ["", "[{},{}]", "[]"] {
            assert_eq!(lent(nothing.into()), None);
        }
    }
}

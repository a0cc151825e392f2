//! When the kernel gives the machine an address or takes one away, by netlink. What
//! changed is not read here: the listener reads all addresses again.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
};
use tokio::net::UnixDatagram;

/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x10 | 0x100;
/// A notice is some hundred bytes; of a longer one the rest is not missed.
const NOTICE_MAX: usize = 4096;
/// Notices that are taken at once: the rest comes with the next.
const NOTICES_MAX: usize = 256;

/// Listens.
#[derive(Debug)]
pub struct AddressChanges {
    /// Datagrams are received by the same call, whatever sends them.
    socket: UnixDatagram,
}

impl AddressChanges {
    /// Listens in the caller's network namespace.
    pub fn listen() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (family, kind) = (AddressFamily::Netlink, SockType::Datagram);
        let socket = socket(family, kind, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        let socket = UnixDatagram::from_std(socket.into())?;
        Ok(Self { socket })
    }

    /// Waits for a change; those that came together are one. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<()> {
        self.socket.readable().await?;
        let mut notice = [0; NOTICE_MAX];
        for _ in 0..NOTICES_MAX {
            match self.socket.try_recv(&mut notice) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // More came than the kernel keeps: that some did is all that is asked.
                Err(e) if e.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::host::testing::in_namespaces;

    /// A network of its own, for the inner test.
    pub(crate) fn in_a_network(test: &str) -> bool {
        let before = ":";
        in_namespaces(test, &["--net"], before).is_some()
    }

    pub(crate) fn ip(words: &str) {
        let done = Command::new("ip").args(words.split(' ')).output();
        let done = done.expect("ip");
        assert!(done.status.success(), "{words}: {done:?}");
    }

    #[tokio::test]
    async fn an_address_that_comes_or_goes_is_told() {
        let test = "host::address_changes::tests::an_address_that_comes_or_goes_is_told";
        if !in_a_network(test) {
            return;
        }
        let mut changes = AddressChanges::listen().expect("netlink");
        for change in ["add 10.9.0.1/24", "del 10.9.0.1/24"] {
            ip(&format!("addr {change} dev lo"));
            let told = tokio::time::timeout(Duration::from_secs(10), changes.next()).await;
            told.unwrap_or_else(|_| panic!("{change}: nothing was told"))
                .expect("read");
        }
    }
}

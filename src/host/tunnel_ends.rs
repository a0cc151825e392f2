//! Where the tunnel goes now, as the kernel lists its connections: of a plane that is known by a name, or by a proxy on
//! the way to it, nothing else on this machine says an address. Nobody is asked, least of all DNS.
//!
//! The list is of what comms has opened, so it is comms' word: good enough to say what must not be cut off, and which of
//! several interfaces is the way out where no route says that. It is no proof of anything.

use std::net::IpAddr;

use nix::unistd::User;

use super::fs::HostFs;
use super::proc::Proc;
use crate::model::paths;

/// Most ends that are told: one or two endpoints, of each a few addresses while one is chosen.
const ENDS_MAX: usize = 16;

/// The far ends of comms' connections that leave the machine.
pub fn tunnel_ends(fs: &HostFs) -> Vec<IpAddr> {
    match User::from_name(paths::USER_COMMS) {
        Ok(Some(user)) => ends_of(fs, user.uid.as_raw()),
        // Not installed, or it cannot be asked.
        Ok(None) | Err(_) => Vec::new(),
    }
}

/// Those of this user.
fn ends_of(fs: &HostFs, uid: u32) -> Vec<IpAddr> {
    let mut all = Proc::new(fs.clone()).connected(uid, ENDS_MAX);
    all.sort_unstable();
    all.dedup();
    all.truncate(ENDS_MAX);
    all
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::host::fs::Attrs;

    #[test]
    fn what_a_user_is_connected_to_is_told_and_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let put = |path: &str, lines: &[&str]| {
            let text = format!(
                "  sl  local_address rem_address   st\n{}\n",
                lines.join("\n")
            );
            fs.write(path, text.as_bytes(), &Attrs::mode(0o444))
                .expect("write");
        };
        put(
            "/proc/net/tcp",
            &[
                " 0: 0500010A:C001 0100010A:20FB 01 00000000:00000000 02:0 00000000 998 0 1 1",
                " 1: 0500010A:C002 0200010A:20FB 01 00000000:00000000 02:0 00000000 0 0 2 1",
                " 2: 0500010A:C003 0300010A:20FB 02 00000000:00000000 02:0 00000000 998 0 3 1",
                " 3: 0100007F:C004 0100007F:192B 01 00000000:00000000 02:0 00000000 998 0 4 1",
                " 4: 0500010A:C005 0500010A:192B 01 00000000:00000000 02:0 00000000 998 0 5 1",
            ],
        );
        put(
            "/proc/net/tcp6",
            &[
                " 0: 000000FD000000000000000005000000:C001 000000FD000000000000000009000000:20FB 01 0:0 02:0 0 998 0 6 1",
                " 1: 0000000000000000FFFF00000500010A:C001 0000000000000000FFFF00000700010A:20FB 01 0:0 02:0 0 998 0 7 1",
            ],
        );
        let ends = |uid| {
            let all = ends_of(&fs, uid);
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ends(998), ["10.1.0.1", "10.1.0.7", "fd00::9"]);
        assert_eq!(ends(0), ["10.1.0.2"]);
        assert_eq!(ends(1), [""; 0]);
    }

    /// As the kernel of this machine writes it.
    #[test]
    fn a_real_connection_is_found() {
        const TEST: &str = "host::tunnel_ends::tests::a_real_connection_is_found";
        let before = "ip link set lo up && ip addr add 10.7.0.1/32 dev lo && ip addr add 10.7.0.2/32 dev lo && \
                      ip -6 addr add fd00:7::1/128 dev lo nodad && ip -6 addr add fd00:7::2/128 dev lo nodad";
        if super::super::testing::in_namespaces(TEST, &["--net"], before).is_none() {
            return;
        }
        let uid = nix::unistd::getuid().as_raw();
        for (here, there) in [("10.7.0.1", "10.7.0.2"), ("fd00:7::1", "fd00:7::2")] {
            let (here, there): (IpAddr, IpAddr) =
                (here.parse().expect("ip"), there.parse().expect("ip"));
            let listener = TcpListener::bind((there, 0)).expect("listen");
            // Bound to the other address: to itself would be no way out.
            let socket = socket_at(here, listener.local_addr().expect("address"));
            let ends = ends_of(&HostFs::real(), uid);
            assert!(ends.contains(&there), "{ends:?}");
            drop(socket);
        }
    }

    fn socket_at(here: IpAddr, to: std::net::SocketAddr) -> TcpStream {
        use std::os::fd::AsRawFd;

        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
        };
        let family = if here.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let fd = socket(family, SockType::Stream, SockFlag::empty(), None).expect("socket");
        let at = SockaddrStorage::from(std::net::SocketAddr::new(here, 0));
        bind(fd.as_raw_fd(), &at).expect("bind");
        connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).expect("connect");
        TcpStream::from(fd)
    }
}

//! What the kernel knows of a session's connection.
//!
//! Neither nix nor socket2 nor rustix has a getter for `TCP_INFO`; nix has the macro its own
//! getters are made with, which is as safe as the type it is given: plain numbers, no larger than
//! what the oldest kernel we run on fills.

use std::io;
use std::net::IpAddr;

use nix::libc;
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};
use socket2::{SockAddr, SockRef, Socket};
use tokio::net::TcpStream;

use crate::model::TcpStatus;

/// Asks the kernel about a connection that something else owns.
#[derive(Debug)]
pub(super) struct Probe(Socket);

/// The first 104 bytes of the kernel's `struct tcp_info`; every Linux since 2.6.32 fills them,
/// later ones add more behind. (libc's own type is longer than older kernels' and nix insists on
/// all of it.)
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(
    unreachable_pub,
    reason = "the macro's type is public, and so must be its value"
)]
pub struct Info {
    /// State, flags and options, and then times.
    head: [u8; 8],
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last: [u32; 4],
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
}

mod option {
    use super::{Info, getsockopt_impl, libc, sockopt_impl};

    sockopt_impl!(
        /// `TCP_INFO`.
        TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, Info
    );
}

impl Probe {
    /// A second descriptor of the connection: drop it when the session is over, or the connection
    /// stays open.
    pub(super) fn of(tcp: &TcpStream) -> io::Result<Self> {
        SockRef::from(tcp).try_clone().map(Self)
    }

    /// Which other machine the connection goes to; `None` where it stays on this one, or is over.
    pub(super) fn far_end(&self) -> Option<IpAddr> {
        let of = |at: io::Result<SockAddr>| Some(at.ok()?.as_socket()?.ip().to_canonical());
        let (near, far) = (of(self.0.local_addr())?, of(self.0.peer_addr())?);
        (!far.is_loopback() && far != near).then_some(far)
    }

    /// The present numbers.
    pub(super) fn ask(&self) -> io::Result<TcpStatus> {
        let info = getsockopt(&self.0, option::TcpInfo)?;
        Ok(TcpStatus {
            rtt_us: info.rtt,
            rttvar_us: info.rttvar,
            cwnd: info.snd_cwnd,
            unacked: info.unacked,
            lost: info.lost,
            retransmits: info.total_retrans,
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        let at = |field: usize| field;
        assert_eq!(size_of::<Info>(), 104);
        assert_eq!(
            at(std::mem::offset_of!(Info, rtt)),
            std::mem::offset_of!(libc::tcp_info, tcpi_rtt)
        );
        assert_eq!(
            std::mem::offset_of!(Info, total_retrans),
            std::mem::offset_of!(libc::tcp_info, tcpi_total_retrans)
        );
    }

    #[tokio::test]
    async fn a_connection_has_a_round_trip_and_a_window() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (here, there) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut here, (mut there, _)) = (here.expect("connect"), there.expect("accept"));
        let probe = Probe::of(&here).expect("probe");
        here.write_all(&[7; 4096]).await.expect("write");
        there.read_exact(&mut [0; 4096]).await.expect("read");
        let seen = probe.ask().expect("TCP_INFO");
        assert!(seen.rtt_us > 0 && seen.cwnd > 0, "{seen:?}");
        // A probe asks; it does not keep the other end from seeing the end.
        drop((here, probe));
        assert_eq!(there.read(&mut [0; 1]).await.expect("end"), 0);
    }
}

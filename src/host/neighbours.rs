//! Announces one address to the machines on the same link, and asks them about it: ARP for IPv4, neighbour discovery
//! for IPv6.
//!
//! The kernel announces nothing when an address is added, and neighbours would send to the machine that
//! had it for up to a minute. So the machine that takes it over announces it. Rejected: an interface of its own with
//! a hardware address that goes along (macvlan), for which no neighbour need learn anything: what guards
//! virtual machines against forged senders drops its frames; and `arping`, which is not installed everywhere
//! and knows no IPv6.
//!
//! Frames are made and read by pure functions; an answer is a peer's and may be anything.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Protocol, Socket, Type};

use super::blocking;

/// Hardware address of an interface of Ethernet.
pub type Mac = [u8; 6];

/// Ethernet's number for ARP.
const ETH_P_ARP: u16 = 0x0806;
const BROADCAST: Mac = [0xff; 6];
/// The part of a frame that ARP over Ethernet fills.
const ARP_LEN: usize = 42;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
/// Longest frame that is read; what follows the part we read is padding or options.
const FRAME_MAX: usize = 1500;
/// A frame has a place in the interface's queue by then, or the interface takes none.
const SENT: Duration = Duration::from_millis(500);
/// Frames that are still read when the time is over: where this program was kept from reading, the answer is among
/// those that came meanwhile.
const LATE_MAX: usize = 64;
/// Shortest time-out: none at all would be no bound.
const READ_MIN: Duration = Duration::from_millis(1);
/// Hop limit of neighbour discovery: another one has passed a router, and is dropped.
const ON_LINK: u32 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// "Take this in the place of what you have."
const OVERRIDE: u8 = 0x20;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
/// Head of a message of neighbour discovery, with its target.
const ND_HEAD: usize = 24;

/// An interface that machines are reached by.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    link: LinkAddr,
}

impl Link {
    pub(super) fn new(name: String, link: LinkAddr) -> Option<Self> {
        let mac = link.addr()?;
        Some(Self { name, mac, link })
    }

    fn index(&self) -> u32 {
        u32::try_from(self.link.ifindex()).unwrap_or_default()
    }
}

/// Tells everybody on the link that the address is here now.
pub async fn announce(link: &Link, ip: IpAddr) -> io::Result<()> {
    let link = link.clone();
    blocking(move || match ip {
        IpAddr::V4(ip) => send(&arp_socket(&link)?, &arp(link.mac, ip, ip), None),
        IpAddr::V6(ip) => {
            let socket = nd_socket(&link)?;
            // From the address itself, as it is said to be ours.
            socket.bind(&SocketAddr::V6(SocketAddrV6::new(ip, 0, 0, 0)).into())?;
            let to = Some(everybody(&link));
            send(&socket, &advertisement(link.mac, ip), to)
        }
    })
    .await
}

/// The machine that answers for this address within that time, if one does. This machine's own kernel
/// does not come back: it does not answer itself.
pub async fn who_has(link: &Link, ip: IpAddr, within: Duration) -> io::Result<Option<Mac>> {
    let link = link.clone();
    blocking(move || asked(&link, ip, within)).await
}

fn asked(link: &Link, ip: IpAddr, within: Duration) -> io::Result<Option<Mac>> {
    let (socket, question, to) = match ip {
        IpAddr::V4(ip) => {
            // Without a sender address, so that receivers learn nothing wrong.
            let question = arp(link.mac, Ipv4Addr::UNSPECIFIED, ip);
            (arp_socket(link)?, question, None)
        }
        IpAddr::V6(ip) => {
            let to = SocketAddrV6::new(solicited(ip), 0, 0, link.index());
            let question = solicitation(link.mac, ip);
            (nd_socket(link)?, question, Some(SocketAddr::V6(to)))
        }
    };
    send(&socket, &question, to)?;
    let until = Instant::now() + within;
    let mut frame = [0; FRAME_MAX];
    let mut late = 0;
    // What others are asked and say meanwhile is read, too: the time is the bound.
    while late < LATE_MAX {
        let left = until.saturating_duration_since(Instant::now());
        late += usize::from(left.is_zero());
        socket.set_read_timeout(Some(left.max(READ_MIN)))?;
        let len = match (&socket).read(&mut frame) {
            Ok(len) => len,
            Err(e) if is_late(&e) && left.is_zero() => break,
            Err(e) if is_late(&e) => continue,
            Err(e) => return Err(e),
        };
        let said = frame.get(..len).unwrap_or_default();
        let who = match ip {
            IpAddr::V4(ip) => arp_answer(said, ip),
            IpAddr::V6(ip) => advertised(said, ip),
        };
        if let Some(who) = who.filter(|who| *who != link.mac) {
            return Ok(Some(who));
        }
    }
    Ok(None)
}

fn is_late(e: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(e.kind(), WouldBlock | TimedOut | Interrupted)
}

fn arp_socket(link: &Link) -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(ETH_P_ARP.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    // With the number that it was made with: the one in the address is none.
    bind(socket.as_raw_fd(), &link.link)?;
    Ok(socket)
}

fn nd_socket(link: &Link) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_hops_v6(ON_LINK)?;
    socket.set_multicast_if_v6(link.index())?;
    Ok(socket)
}

fn send(socket: &Socket, bytes: &[u8], to: Option<SocketAddr>) -> io::Result<()> {
    socket.set_write_timeout(Some(SENT))?;
    match to {
        None => socket.send(bytes),
        Some(to) => socket.send_to(bytes, &to.into()),
    }
    .map(drop)
}

fn everybody(link: &Link) -> SocketAddr {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    SocketAddr::V6(SocketAddrV6::new(ALL_NODES, 0, 0, link.index()))
}

/// A request of ARP for `target`, to everybody. From `target` itself it is an announcement.
fn arp(mac: Mac, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ARP_LEN);
    frame.extend(BROADCAST);
    frame.extend(mac);
    frame.extend(ETH_P_ARP.to_be_bytes());
    // Ethernet, IPv4, and how long addresses of the two are.
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(ARP_REQUEST.to_be_bytes());
    frame.extend(mac);
    frame.extend(from.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// The machine that says that it has `ip`, if this frame says so.
fn arp_answer(frame: &[u8], ip: Ipv4Addr) -> Option<Mac> {
    let kind = frame.get(12..20)?;
    let of_ethernet = kind == [8, 6, 0, 1, 8, 0, 6, 4];
    let operation = frame.get(20..22)?;
    let said = [ARP_REQUEST, ARP_REPLY].map(u16::to_be_bytes);
    let sender = frame.get(28..32)? == ip.octets();
    // The announcement names it as the sender, too.
    let says = of_ethernet && sender && said.iter().any(|s| operation == s);
    frame.get(22..28).filter(|_| says)?.try_into().ok()
}

/// Where the machine listens that has this address.
fn solicited(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    let last = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), last)
}

fn solicitation(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    discovery(SOLICITATION, 0, ip, OPTION_SOURCE, mac)
}

fn advertisement(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    discovery(ADVERTISEMENT, OVERRIDE, ip, OPTION_TARGET, mac)
}

/// The kernel adds the checksum.
fn discovery(kind: u8, flags: u8, ip: Ipv6Addr, option: u8, mac: Mac) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(ip.octets());
    // Its length counts in eight bytes.
    message.extend([option, 1]);
    message.extend(mac);
    message
}

/// The machine that says that it has `ip`, if this message says so. (The kernel drops what passed a router.)
fn advertised(message: &[u8], ip: Ipv6Addr) -> Option<Mac> {
    let is = message.first() == Some(&ADVERTISEMENT) && message.get(8..ND_HEAD)? == ip.octets();
    let mut options = message.get(ND_HEAD..).filter(|_| is)?;
    while let [kind, units, ..] = options {
        let len = usize::from(*units) * 8;
        // One of no length would be the last that is ever looked at.
        if len == 0 {
            return None;
        }
        if *kind == OPTION_TARGET {
            return options.get(2..8)?.try_into().ok();
        }
        options = options.get(len..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    fn v4() -> Ipv4Addr {
        Ipv4Addr::new(10, 1, 0, 250)
    }

    fn v6() -> Ipv6Addr {
        "fd00::1:2:abcd:ef01".parse().expect("ip")
    }

    fn answer(ip: Ipv4Addr) -> Vec<u8> {
        let mut frame = arp(MAC, ip, v4());
        frame[20..22].copy_from_slice(&ARP_REPLY.to_be_bytes());
        // Ethernet pads it.
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn a_question_of_arp_says_nothing_and_an_answer_and_an_announcement_do() {
        let question = arp(MAC, Ipv4Addr::UNSPECIFIED, v4());
        assert_eq!(question.len(), ARP_LEN);
        assert_eq!(
            question[..14],
            [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 8, 6]
        );
        assert_eq!(arp_answer(&question, v4()), None);
        assert_eq!(arp_answer(&answer(v4()), v4()), Some(MAC));
        assert_eq!(arp_answer(&arp(MAC, v4(), v4()), v4()), Some(MAC));
        assert_eq!(
            arp_answer(&answer(Ipv4Addr::new(10, 1, 0, 251)), v4()),
            None
        );
    }

    #[test]
    fn neighbours_of_ipv6_are_asked_where_they_listen_and_their_answer_is_read() {
        assert_eq!(
            solicited(v6()).to_string(),
            "ff02::1:ff:ef01".replace("ff:ef01", "ffcd:ef01")
        );
        let said = advertisement(MAC, v6());
        assert_eq!(said.len(), 32);
        assert_eq!((said[0], said[4]), (136, 0x20));
        assert_eq!(advertised(&said, v6()), Some(MAC));
        assert_eq!(advertised(&solicitation(MAC, v6()), v6()), None);
        assert_eq!(advertised(&said, Ipv6Addr::LOCALHOST), None);
        // Another option before it, and one that never ends.
        let mut more = said[..24].to_vec();
        more.extend([14, 1, 0, 0, 0, 0, 0, 0]);
        more.extend(&said[24..]);
        assert_eq!(advertised(&more, v6()), Some(MAC));
        more[25] = 0;
        assert_eq!(advertised(&more, v6()), None);
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..61) {
            arp_answer(&bytes, v4());
            advertised(&bytes, v6());
            let frame = answer(v4());
            let whole = cut >= 32;
            prop_assert_eq!(arp_answer(&frame[..cut.min(60)], v4()).is_some(), whole);
            let said = advertisement(MAC, v6());
            prop_assert_eq!(advertised(&said[..cut.min(32)], v6()).is_some(), whole);
        }
    }
}

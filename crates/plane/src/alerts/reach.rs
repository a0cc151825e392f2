//! Where receivers of projects may be: on the internet by https, and in networks that the operator names.
//!
//! Inside, where none may be, are the networks of the plane's machine. What it cannot know to be inside is named by the
//! operator: its public address behind 1:1 NAT, or the prefix of a NAT64 other than the well-known one.
//!
//! The plane is on a network of its own, and calls what a tenant names. So a name is looked up once for each turn of a
//! receiver, what it leads to is judged, and the turn's client connects to those addresses and to no other: a name may
//! lead elsewhere a second later. Redirects are not followed, and no proxy is used, which would resolve names itself.
//!
//! A name that leads inside and one that does not exist fail alike: a tenant does not find out which names there are.
//!
//! A lookup has no deadline of its own, and holds a thread for as long as the name's servers are silent. It is part of
//! its receiver's turn (`deliver`), of which a project has few: so it has few lookups, whatever names it sets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::{Client, Url};
use rustls::ClientConfig;
use tokio::sync::Mutex;
use tokio::time::Instant;

use pf9_hostagent::host::work::{brief, long};
use pf9_hostagent::host::{interfaces, tls};

/// How long what the machine trusts is known: reading it takes some milliseconds, and it changes, or could not be read for
/// a moment.
const TRUST_KEPT: Duration = Duration::from_secs(600);
/// Why a receiver is not called.
const NOWHERE: &str = "it has no address that a project's receiver may have";

/// Not on the internet: the special-purpose registry of IANA, multicast, and what is reserved.
/// And the one that a large cloud's host answers to its machines at.
const SPECIAL_V4: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
/// All of IPv6's internet.
const UNICAST_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// What of that is not: protocols (Teredo among them), documentation, 6to4.
const SPECIAL_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];
/// Addresses of IPv4 behind a translator (NAT64).
const TRANSLATED: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// The way to receivers of projects.
#[derive(Default)]
pub(super) struct Reach {
    /// Networks that the operator allows besides the internet, also without TLS.
    named: Arc<[IpNet]>,
    /// Networks that are inside, besides those of the machine.
    inside: Arc<[IpNet]>,
    /// What the machine trusts, and since when that is known.
    trusts: Mutex<Option<(Instant, ClientConfig)>>,
}

impl Reach {
    pub(super) fn new(named: Vec<IpNet>, inside: Vec<IpNet>) -> Self {
        Self {
            named: named.into_iter().map(canonical).collect(),
            inside: inside.into_iter().map(canonical).collect(),
            trusts: Mutex::new(None),
        }
    }

    /// Why a URL can never be called; what its name leads to is judged with each turn.
    pub(super) fn fault(&self, url: &Url) -> Option<String> {
        if !is_secure(url) && self.named.is_empty() {
            return Some("url: https is needed".into());
        }
        let ip = literal(url)?;
        (!may(ip, is_secure(url), &self.named, &self.inside)).then(|| format!("url: {NOWHERE}"))
    }

    /// A client that connects to nothing but what the URL's host leads to now, of that only to what is allowed.
    pub(super) async fn client(&self, url: &Url) -> Result<Client, String> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let (named, secure, literal) = (Arc::clone(&self.named), is_secure(url), literal(url));
        let (name, inside) = (host.clone(), Arc::clone(&self.inside));
        // Where addresses of this machine cannot be had it is unknown what is inside: nothing is allowed.
        let found = long(move || {
            found(literal, &name, secure, &named, || {
                let mut all = own()?;
                all.extend_from_slice(&inside);
                Ok(all)
            })
        });
        let found = found.await.map_err(|e| e.to_string())?;
        let found = found.map_err(|e| e.to_string())?;
        let trusts = self.trusts().await?;
        let client = tls::by(trusts, |client| client.resolve_to_addrs(&host, &found));
        client.map_err(|e| e.to_string())
    }
}

impl Reach {
    async fn trusts(&self) -> Result<ClientConfig, String> {
        let mut known = self.trusts.lock().await;
        if let Some((at, config)) = known.as_ref()
            && at.elapsed() < TRUST_KEPT
        {
            return Ok(config.clone());
        }
        let read = brief(|| tls::trusting(None).map_err(|e| e.to_string()));
        let config = read.await.map_err(|e| e.to_string())??;
        *known = Some((Instant::now(), config.clone()));
        Ok(config)
    }
}

/// What a host leads to, as far as that is allowed.
fn found(
    literal: Option<IpAddr>,
    name: &str,
    secure: bool,
    named: &[IpNet],
    inside: impl FnOnce() -> io::Result<Vec<IpNet>>,
) -> io::Result<Vec<SocketAddr>> {
    let nowhere = || io::Error::other(NOWHERE);
    let all = match literal {
        Some(ip) => vec![SocketAddr::new(ip, 0)],
        None => (name, 0)
            .to_socket_addrs()
            .map_err(|_| nowhere())?
            .collect(),
    };
    let inside = inside()?;
    let good = all
        .into_iter()
        .filter(|at| may(at.ip(), secure, named, &inside));
    let good: Vec<SocketAddr> = good.collect();
    match good.is_empty() {
        true => Err(nowhere()),
        false => Ok(good),
    }
}

/// Networks and addresses of the plane's machine.
fn own() -> io::Result<Vec<IpNet>> {
    interfaces::all_networks()
        .map_err(|e| io::Error::new(e.kind(), format!("this machine's addresses: {e}")))
}

fn is_secure(url: &Url) -> bool {
    url.scheme() == "https"
}

/// The address in a URL, in whatever form it was written.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// A network of IPv4 that is written as one of IPv6: addresses are compared as what they are.
fn canonical(net: IpNet) -> IpNet {
    let of_v4 = |v6: Ipv6Net| {
        let len = v6.prefix_len().checked_sub(96)?;
        Ipv4Net::new(v6.addr().to_ipv4_mapped()?, len).ok()
    };
    match net {
        IpNet::V6(v6) => of_v4(v6).map_or(net, IpNet::V4),
        IpNet::V4(_) => net,
    }
}

/// Whether a receiver of a project may have this address, by https or not.
fn may(ip: IpAddr, secure: bool, named: &[IpNet], inside: &[IpNet]) -> bool {
    let (as_written, ip) = (ip.to_canonical(), plain(ip));
    let within = |nets: &[IpNet], ip: IpAddr| nets.iter().any(|net| net.contains(&ip));
    // A translator that is named is inside with all that is behind it.
    let is_inside = within(inside, ip) || within(inside, as_written);
    within(named, ip) || (secure && is_global(ip) && !is_inside)
}

/// An address of IPv4 that is written as one of IPv6 is judged as what it is.
fn plain(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) if is_in_v6(v6, TRANSLATED) => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        ip => ip,
    }
}

fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !SPECIAL_V4.into_iter().any(|net| is_in_v4(v4, net)),
        IpAddr::V6(v6) => {
            is_in_v6(v6, UNICAST_V6) && !SPECIAL_V6.into_iter().any(|net| is_in_v6(v6, net))
        }
    }
}

fn is_in_v4(ip: Ipv4Addr, (net, bits): (Ipv4Addr, u32)) -> bool {
    (ip.to_bits() ^ net.to_bits()).leading_zeros() >= bits
}

fn is_in_v6(ip: Ipv6Addr, (net, bits): (Ipv6Addr, u32)) -> bool {
    (ip.to_bits() ^ net.to_bits()).leading_zeros() >= bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(all: &[&str]) -> Vec<IpNet> {
        all.iter().map(|net| net.parse().expect("net")).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("ip")
    }

    fn url(text: &str) -> Url {
        Url::parse(text).expect("url")
    }

    #[test]
    fn only_the_internet_is_reached_and_never_without_tls() {
        for inside in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.0.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "4000::1",
        ] {
            assert!(!may(ip(inside), true, &[], &[]), "{inside}");
        }
        for outside in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert!(may(ip(outside), true, &[], &[]), "{outside}");
            assert!(!may(ip(outside), false, &[], &[]), "{outside} by http");
        }
    }

    #[test]
    fn the_planes_own_network_is_reached_only_if_it_is_named() {
        let own = nets(&["8.8.8.0/24", "2606:4700::/64"]);
        for text in ["8.8.8.9", "::ffff:8.8.8.9", "2606:4700::9"] {
            assert!(!may(ip(text), true, &[], &own), "{text}");
        }
        assert!(may(ip("8.8.4.4"), true, &[], &own));
        let named = nets(&["8.8.8.8/32", "127.0.0.0/8"]);
        for secure in [true, false] {
            assert!(may(ip("8.8.8.8"), secure, &named, &own));
            assert!(may(ip("127.0.0.1"), secure, &named, &own));
            assert!(!may(ip("8.8.8.9"), secure, &named, &own));
            assert!(!may(ip("10.0.0.1"), secure, &named, &own));
        }
    }

    /// The plane's address behind 1:1 NAT, and translators: the site's own, and the well-known one.
    #[tokio::test]
    async fn what_the_operator_names_as_inside_is_not_reached() {
        let inside = [
            "8.8.8.8/32",
            "::ffff:9.9.9.0/120",
            "2a00:64::/96",
            "64:ff9b::/96",
            "2606:4700::/32",
        ];
        let outside = [
            "https://8.8.8.9/",
            "https://[2a00:65::1]/",
            "https://1.1.1.1/",
        ];
        let closed = [
            "https://8.8.8.8/",
            "https://9.9.9.9/",
            "https://[::ffff:8.8.8.8]/",
            "https://[2a00:64::a00:1]/",
            "https://[2a00:64::101:101]/",
            "https://[64:ff9b::101:101]/",
            "https://[2606:4700::1111]/",
        ];
        let by_default = Reach::default();
        let reach = Reach::new(Vec::new(), nets(&inside));
        for closed in closed.map(url) {
            assert_eq!(by_default.fault(&closed), None, "{closed}");
            assert!(reach.fault(&closed).is_some(), "{closed}");
            let why = reach.client(&closed).await.expect_err("inside");
            assert_eq!(why, NOWHERE, "{closed}");
        }
        for open in outside.map(url) {
            assert_eq!(reach.fault(&open), None, "{open}");
            assert!(reach.client(&open).await.is_ok(), "{open}");
        }
        let named = Reach::new(nets(&["8.8.8.8/32"]), nets(&inside));
        assert_eq!(named.fault(&url("http://8.8.8.8/")), None);
    }

    /// All forms of an address that the parser of URLs knows.
    #[test]
    fn a_url_with_an_address_is_judged_in_every_form() {
        let reach = Reach::default();
        for inside in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.0.0.1/",
            "https://0177.0.0.1/",
            "https://127.0.0.1./",
            "https://[::1]:9/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest/meta-data/",
            "http://1.1.1.1/",
            "http://hooks.example/",
        ] {
            assert!(reach.fault(&url(inside)).is_some(), "{inside}");
        }
        for good in ["https://1.1.1.1/", "https://hooks.example/"] {
            assert_eq!(reach.fault(&url(good)), None, "{good}");
        }
        let reach = Reach::new(nets(&["10.0.0.0/8"]), Vec::new());
        assert_eq!(reach.fault(&url("http://10.0.0.1/")), None);
        assert!(reach.fault(&url("http://1.1.1.1/")).is_some());
        assert!(reach.fault(&url("https://127.0.0.1/")).is_some());
    }

    /// Every machine has this name. Which of both addresses it has differs.
    #[test]
    fn a_name_that_leads_inside_has_no_address() {
        let found = |name: &str, secure, named: &[IpNet]| found(None, name, secure, named, own);
        let refused = found("localhost", true, &[]).expect_err("inside");
        // Too long for a name: no server is asked.
        let unknown = found(&"x".repeat(70), true, &[]).expect_err("none");
        assert_eq!(refused.to_string(), unknown.to_string());
        let named = nets(&["127.0.0.0/8", "::1/128"]);
        let all = found("localhost", false, &named).expect("named");
        assert!(all.iter().all(|at| at.ip().is_loopback()), "{all:?}");
    }

    #[test]
    fn where_the_planes_own_addresses_are_unknown_nothing_is_reached() {
        let at = Some(ip("1.1.1.1"));
        found(at, "1.1.1.1", true, &[], || Ok(Vec::new())).expect("outside");
        let unknown = || Err(io::Error::from(io::ErrorKind::OutOfMemory));
        found(at, "1.1.1.1", true, &[], unknown).expect_err("unknown");
    }

    /// Whatever the interface is called: those of bridges, of VPNs and of the loopback are the machine's as well.
    #[test]
    fn all_addresses_of_this_machine_are_its_own() {
        let own = own().expect("addresses");
        assert!(
            own.contains(&"127.0.0.1/32".parse().expect("net")),
            "{own:?}"
        );
    }

    #[tokio::test]
    async fn a_client_connects_to_no_address_inside() {
        let reach = Reach::default();
        for inside in [
            "http://localhost:1/",
            "https://localhost:1/",
            "https://127.0.0.1:1/",
        ] {
            let why = reach.client(&url(inside)).await.expect_err("inside");
            assert_eq!(why, NOWHERE, "{inside}");
        }
    }

    /// What was judged is what is connected to, whatever the name leads to by then.
    #[tokio::test]
    async fn a_client_connects_to_what_was_judged() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("listen");
        let port = listener.local_addr().expect("address").port();
        let reach = Reach::new(nets(&["127.0.0.0/8"]), Vec::new());
        let url = url(&format!("http://localhost:{port}/"));
        let client = reach.client(&url).await.expect("client");
        let asked = tokio::join!(client.get(url).send(), async {
            let (stream, _) = listener.accept().await.expect("a connection");
            drop(stream);
        });
        asked.0.expect_err("closed");
        let other = Url::parse(&format!("http://127.0.0.2:{port}/")).expect("url");
        assert!(
            reach.client(&other).await.is_ok(),
            "it is in the named network"
        );
    }
}

//! The kernel's routes, from its own lists. No packet is sent and no socket is opened: callers may be confined to
//! files.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::fs::HostFs;

/// A line per route: some thirty thousand of them.
const TABLE_MAX: u64 = 4 * 1024 * 1024;
/// The route is in force.
const RTF_UP: u64 = 0x1;
/// It leads to another machine.
const RTF_GATEWAY: u64 = 0x2;
/// It says that there is no way.
const RTF_REJECT: u64 = 0x200;
/// It leads to the machine itself.
const RTF_LOCAL: u64 = 0x8000_0000;

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub net: IpNet,
    /// By which interface.
    pub interface: String,
    /// Through another machine; else who is there is a neighbour.
    pub gateway: bool,
    /// Of two routes to the same network the one with the lower metric counts.
    pub metric: u64,
}

/// All routes of the main table, of both versions; a list that cannot be read has none.
pub fn routes(fs: &HostFs) -> Vec<Route> {
    let text = |path| fs.read_text(path, TABLE_MAX).ok().flatten();
    let v4 = text("/proc/net/route").unwrap_or_default();
    let v6 = text("/proc/net/ipv6_route").unwrap_or_default();
    let v4 = v4.lines().skip(1).filter_map(v4_of);
    v4.chain(v6.lines().filter_map(v6_of)).collect()
}

/// The default route of this version that is used.
pub fn default_of(routes: &[Route], v4: bool) -> Option<&Route> {
    let all = routes.iter();
    let default = all.filter(|r| r.net.prefix_len() == 0 && r.net.network().is_ipv4() == v4);
    default.min_by_key(|r| r.metric)
}

/// The route to an address: the narrowest, of those the one with the lowest metric.
pub fn to(routes: &[Route], ip: IpAddr) -> Option<&Route> {
    let all = routes.iter().filter(|r| r.net.contains(&ip));
    all.min_by_key(|r| (u8::MAX - r.net.prefix_len(), r.metric))
}

/// `eth0 0000A8C0 00000000 0001 0 0 100 00FFFFFF …`: the bytes of addresses are as in memory.
fn v4_of(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |at: usize| {
        let number = u32::from_str_radix(fields.get(at)?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_le_bytes()))
    };
    let flags = u64::from_str_radix(fields.get(3)?, 16).ok()?;
    let net = IpNet::with_netmask(address(1)?.into(), address(7)?.into()).ok()?;
    route(net, fields.first()?, flags, fields.get(6)?.parse().ok()?)
}

/// `<destination> <length> <source> <length> <next hop> <metric> <references> <use> <flags> eth0`, all hex.
fn v6_of(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| u64::from_str_radix(fields.get(at)?, 16).ok();
    let ip = u128::from_str_radix(fields.first()?, 16).ok()?;
    let len = u8::from_str_radix(fields.get(1)?, 16).ok()?;
    let ip = Ipv6Addr::from(ip);
    if ip.is_multicast() || ip.is_unicast_link_local() {
        return None;
    }
    let net = IpNet::new(ip.into(), len).ok()?;
    route(net, fields.get(9)?, number(8)?, number(5)?)
}

fn route(net: IpNet, interface: &str, flags: u64, metric: u64) -> Option<Route> {
    let usable = flags & RTF_UP != 0 && flags & (RTF_REJECT | RTF_LOCAL) == 0;
    (usable && interface != "lo").then(|| Route {
        net: net.trunc(),
        interface: interface.to_owned(),
        gateway: flags & RTF_GATEWAY != 0,
        metric,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    #[test]
    fn routes_are_read_and_chosen_as_the_kernel_does() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        assert_eq!(routes(&fs), []);
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            br-lan\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            br-lan\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            gone\t00000000\t0100A8C0\t0002\t0\t0\t0\t00000000\t0\t0\t0\n\
            vpn\t0000140A\t0100A8C0\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        let zeros = "0".repeat(32);
        let v6 = format!(
            "fd000000000000000000000000000000 40 {zeros} 00 {zeros} 00000100 1 0 00000001 eth1\n\
             {zeros} 00 {zeros} 00 fe8000000000000000000000000000fe 00000400 1 0 00000003 eth1\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 1 0 00200200 lo\n\
             fd000000000000000000000000000002 80 {zeros} 00 {zeros} 00000000 1 0 80200001 eth1\n\
             fe800000000000000000000000000000 40 {zeros} 00 {zeros} 00000100 1 0 00000001 eth1\n\
             ff000000000000000000000000000000 08 {zeros} 00 {zeros} 00000100 1 0 00000001 eth1\n"
        );
        for (path, text) in [("/proc/net/route", v4), ("/proc/net/ipv6_route", &v6)] {
            fs.write(path, text.as_bytes(), &Attrs::mode(0o444))
                .expect("write");
        }
        let all = routes(&fs);
        assert_eq!(all.len(), 6, "{all:?}");
        let by = |route: Option<&Route>| route.map(|r| r.interface.clone());
        assert_eq!(by(default_of(&all, true)).as_deref(), Some("br-lan"));
        assert_eq!(by(default_of(&all, false)).as_deref(), Some("eth1"));
        for (ip, interface, gateway) in [
            ("192.168.0.9", "br-lan", false),
            ("10.20.3.4", "vpn", true),
            ("8.8.8.8", "br-lan", true),
            ("fd00::9", "eth1", false),
        ] {
            let found = to(&all, ip.parse().expect("ip")).expect(ip);
            assert_eq!(
                (found.interface.as_str(), found.gateway),
                (interface, gateway),
                "{ip}"
            );
        }
        assert_eq!(to(&[], "10.0.0.1".parse().expect("ip")), None);
    }
}

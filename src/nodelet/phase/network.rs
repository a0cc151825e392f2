//! Routes to the other nodes' pods, masquerade, forwarding (order 60): a one-shot unit with a small
//! script, so that a reboot needs nobody. Only for the `bridge` network.
//!
//! Rules live in chains of our own at the end of the built-in ones; routes carry a protocol number
//! of our own. So both can be found and taken away again, whatever else is on the machine.

use std::net::IpAddr;

use crate::host::ours::network::ROUTE_PROTOCOL;
use crate::model::{NetworkPeer, NetworkPlugin};

use super::render::{Inputs, PROGRAM, PUBLIC, PUBLIC_DIR, UnitText, dir, file, oneshot};
use super::{Context, Steps, layout};

pub(super) fn steps(ctx: &Context) -> Steps {
    match ctx.node.network.plugin {
        NetworkPlugin::Flannel | NetworkPlugin::None => Ok(Vec::new()),
        NetworkPlugin::Bridge => {
            let (script, unit) = (script(ctx), unit_text());
            let inputs = Inputs::new().add("unit", &unit).add("script", &script);
            Ok(vec![
                dir(layout::NETWORK_DIR, PUBLIC_DIR),
                file(layout::NETWORK_SCRIPT, script, PROGRAM),
                file(layout::unit_file(layout::NETWORK_UNIT), unit, PUBLIC),
                oneshot(layout::NETWORK_UNIT, inputs, &[layout::NETWORK_SCRIPT]),
            ])
        }
    }
}

fn unit_text() -> String {
    UnitText::new("Pod network of the Kubernetes node")
        .set("After", "network-online.target")
        .set("Wants", "network-online.target")
        .section("Service")
        .set("Type", "oneshot")
        .set("RemainAfterExit", "yes")
        .set("TimeoutStartSec", "90")
        .set("ExecStart", &format!("{} up", layout::NETWORK_SCRIPT))
        .set("ExecStop", &format!("{} down", layout::NETWORK_SCRIPT))
        .wanted_at_boot()
}

/// The values, then the same program for every node.
fn script(ctx: &Context) -> String {
    let node = &ctx.node;
    let v6 = node.pod_cidr.addr().is_ipv6();
    let (family, tool, multicast) = if v6 {
        ("-6", "ip6tables", "ff00::/8")
    } else {
        ("-4", "iptables", "224.0.0.0/4")
    };
    let mut peers: Vec<&NetworkPeer> = node
        .network
        .peers
        .iter()
        .filter(|p| matches!(p.pod_cidr.addr(), IpAddr::V6(_)) == v6)
        .collect();
    peers.sort_by_key(|p| (p.pod_cidr, p.node_ip));
    let mut routes = String::new();
    for peer in peers {
        let line = format!(
            "route replace {} via {} proto {ROUTE_PROTOCOL}
",
            peer.pod_cidr.trunc(),
            peer.node_ip
        );
        routes.push_str(&line);
    }
    format!(
        "#!/bin/sh\n\
         # Written by pf9-nodeletd; changes are undone.\n\
         set -u\n\
         PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         \n\
         family={family}\n\
         iptables={tool}\n\
         multicast={multicast}\n\
         all_pods={all}\n\
         own_pods={own}\n\
         protocol={ROUTE_PROTOCOL}\n\
         \n\
         routes() {{\n\
         ip $family -force -batch - <<'END'\n\
         {routes}END\n\
         }}\n\
         {PROGRAM_TEXT}",
        all = node.network.pods_cidr.trunc(),
        own = node.pod_cidr.trunc(),
    )
}

/// What is the same on every node.
const PROGRAM_TEXT: &str = r#"
say() { echo "pf9-network: $*" >&2; }

# Every call waits for others who change the rules at the same time.
table() { table=$1; shift; "$iptables" -w 30 -t "$table" "$@"; }

# An empty chain of our own, and one jump to it at the end of a built-in chain.
chain() {
  table "$1" -N "$3" 2>/dev/null || table "$1" -F "$3" || return 1
  table "$1" -C "$2" -m comment --comment "pf9 pod network" -j "$3" 2>/dev/null ||
    table "$1" -A "$2" -m comment --comment "pf9 pod network" -j "$3"
}

unchain() {
  table "$1" -D "$2" -m comment --comment "pf9 pod network" -j "$3" 2>/dev/null
  table "$1" -F "$3" 2>/dev/null && table "$1" -X "$3" 2>/dev/null
}

rules() {
  chain nat POSTROUTING PF9-POSTROUTING &&
    table nat -A PF9-POSTROUTING -d "$all_pods" -j RETURN &&
    table nat -A PF9-POSTROUTING -d "$multicast" -j RETURN &&
    table nat -A PF9-POSTROUTING -s "$own_pods" -j MASQUERADE &&
    chain filter FORWARD PF9-FORWARD &&
    table filter -A PF9-FORWARD -s "$all_pods" -j ACCEPT &&
    table filter -A PF9-FORWARD -d "$all_pods" -j ACCEPT
}

case "${1:-}" in
  up)
    rules || { say "cannot set the packet-filter rules"; exit 1; }
    # At boot the interface may still be on its way.
    tries=0
    until routes; do
      tries=$((tries + 1))
      [ "$tries" -lt 30 ] || { say "cannot set every route, see above"; exit 1; }
      sleep 1
    done
    ;;
  down)
    ip $family route flush proto "$protocol"
    unchain filter FORWARD PF9-FORWARD
    unchain nat POSTROUTING PF9-POSTROUTING
    exit 0
    ;;
  *)
    echo "usage: $0 up|down" >&2
    exit 64
    ;;
esac
"#;

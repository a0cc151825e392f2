//! Routes to the other nodes' pods, masquerade, forwarding (order 60): a one-shot unit with a small script, so that a
//! reboot needs no help. Only for the `bridge` network.
//!
//! Rules live in chains of our own at the end of the built-in ones, but before a rule that refuses all incoming
//! traffic: nothing after it would ever match. (First in every chain they would also override what an operator forbids
//! for good reason, and network policies.) Routes carry a protocol number of our own. So all can be found and removed
//! again, whatever else is on the machine.
//!
//! Whether they are still there is asked in every sweep: the script (`check`) knows the rules that it wrote, the kernel
//! the routes. What is missing is restored by the script, and what is there stays in force meanwhile.

use std::net::IpAddr;

use crate::host::ours::network::ROUTE_PROTOCOL;
use crate::model::{NetworkPeer, NetworkPlugin};

use crate::nodelet::step::Step;

use super::render::{Inputs, PROGRAM, PUBLIC, PUBLIC_DIR, UnitText, dir, file, oneshot};
use super::{PhaseContext, Steps, layout};

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    match ctx.node.network.plugin {
        NetworkPlugin::Flannel | NetworkPlugin::Calico | NetworkPlugin::None => Ok(Vec::new()),
        NetworkPlugin::Bridge => {
            let (script, unit) = (script(ctx), unit_text());
            let routes = peers(ctx)
                .map(|p| (p.pod_cidr.trunc(), p.node_ip))
                .collect();
            let inputs = Inputs::new().add("unit", &unit).add("script", &script);
            Ok(vec![
                dir(layout::NETWORK_DIR, PUBLIC_DIR),
                file(layout::NETWORK_SCRIPT, script, PROGRAM),
                file(layout::unit_file(layout::NETWORK_UNIT), unit, PUBLIC),
                oneshot(layout::NETWORK_UNIT, inputs, &[layout::NETWORK_SCRIPT]),
                Step::PodNetwork {
                    script: layout::NETWORK_SCRIPT.into(),
                    routes,
                },
            ])
        }
    }
}

/// Other nodes of the cluster's family, in order.
fn peers(ctx: &PhaseContext) -> impl Iterator<Item = &NetworkPeer> {
    let v6 = ctx.node.pod_cidr.addr().is_ipv6();
    let all = ctx.node.network.peers.iter();
    let mut peers: Vec<_> = all
        .filter(|p| matches!(p.pod_cidr.addr(), IpAddr::V6(_)) == v6)
        .collect();
    peers.sort_by_key(|p| (p.pod_cidr, p.node_ip));
    peers.into_iter()
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
fn script(ctx: &PhaseContext) -> String {
    let node = &ctx.node;
    let v6 = node.pod_cidr.addr().is_ipv6();
    let (family, tool, multicast) = if v6 {
        ("-6", "ip6tables", "ff00::/8")
    } else {
        ("-4", "iptables", "224.0.0.0/4")
    };
    let mut routes = String::new();
    for peer in peers(ctx) {
        let line = format!(
            "route replace {} via {} proto {ROUTE_PROTOCOL}
",
            peer.pod_cidr.trunc(),
            peer.node_ip
        );
        routes.push_str(&line);
    }
    let mut program = PROGRAM_TEXT.to_owned();
    if crate::mutant("forward-closed") {
        program = program.replace("\nclosed() {\n", "\nclosed() {\n  return 1\n");
    }
    if crate::mutant("forward-closed-returns") {
        program = program.replace(
            "\"-j ACCEPT\" | \"-j RETURN\") exit 1 ;;",
            "\"-j NOBODY\") exit 1 ;;",
        );
    }
    if crate::mutant("forward-place") {
        program = program.replace("\nplace() {\n", "\nplace() {\n  return 0\n");
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
         {program}",
        all = node.network.pods_cidr.trunc(),
        own = node.pod_cidr.trunc(),
    )
}

/// What is the same on every node.
const PROGRAM_TEXT: &str = r#"
say() { echo "pf9-network: $*" >&2; }

# Every call waits for others who change the rules at the same time.
table() { table=$1; shift; "$iptables" -w 30 -t "$table" "$@"; }

jump() { table "$1" "$2" "$3" ${5:-} -m comment --comment "pf9 pod network" -j "$4"; }

# The rules of a chain without their comments, which are no condition.
rules_of() {
  table "$1" -S "$2" 2>/dev/null | sed -E -e 's/\\"//g' -e 's/-m comment --comment ("[^"]*"|[^ ]*) //'
}

# Whether a chain refuses all that comes to it, by a rule of its own or by a chain that it hands everything to ($3: how
# many chains that is from the built-in one).
closed() {
  [ "$3" -le 4 ] || return 1
  rules_of "$1" "$2" | {
    while read -r verb _ rule; do
      [ "$verb" = -A ] || continue
      case $rule in
        "-j REJECT"* | "-j DROP"*) exit 0 ;;
        "-j ACCEPT" | "-j RETURN") exit 1 ;;
        "-j "* | "-g "*) closed "$1" "${rule#-? }" $(($3 + 1)) && exit 0 ;;
      esac
      case $rule in "-g "*) exit 1 ;; esac
    done
    exit 1
  }
}

# Where in a built-in chain our jump belongs, if it is not at the end: at the first rule that refuses all that comes to
# it, unless the jump is before that.
place() {
  rules_of "$1" "$2" | {
    n=0
    while read -r verb _ rule; do
      [ "$verb" = -A ] || continue
      n=$((n + 1))
      case $rule in
        *"-j $3") break ;;
        "-j REJECT"* | "-j DROP"*) echo "$n"; break ;;
        "-j "* | "-g "*) if closed "$1" "${rule#-? }" 1; then echo "$n"; break; fi ;;
      esac
    done
  }
}

# A chain of our own with nothing but the rules that are given (what follows -A, one a line), and one jump to it from a
# built-in chain. The rules come in one transaction: nothing is without them for a moment.
chain() {
  printf '*%s\n:%s - [0:0]\n%s\nCOMMIT\n' "$1" "$3" "$4" |
    "$iptables-restore" -w 30 --noflush || return 1
  at=$(place "$1" "$2" "$3")
  if [ -n "$at" ]; then
    while jump "$1" -D "$2" "$3" 2>/dev/null; do :; done
    jump "$1" -I "$2" "$3" "$at"
  else
    jump "$1" -C "$2" "$3" 2>/dev/null || jump "$1" -A "$2" "$3"
  fi
}

unchain() {
  while jump "$1" -D "$2" "$3" 2>/dev/null; do :; done
  table "$1" -F "$3" 2>/dev/null && table "$1" -X "$3" 2>/dev/null
}

postrouting="-A PF9-POSTROUTING -d $all_pods -j RETURN
-A PF9-POSTROUTING -d $multicast -j RETURN
-A PF9-POSTROUTING -s $own_pods -j MASQUERADE"
forward="-A PF9-FORWARD -s $all_pods -j ACCEPT
-A PF9-FORWARD -d $all_pods -j ACCEPT"

rules() {
  chain nat POSTROUTING PF9-POSTROUTING "$postrouting" &&
    chain filter FORWARD PF9-FORWARD "$forward"
}

# Whether a chain is as `chain` makes it.
is() {
  [ "$(table "$1" -S "$3" 2>/dev/null)" = "-N $3
$4" ] || { say "the rules of chain $3 are not there as they were made"; return 1; }
  jump "$1" -C "$2" "$3" 2>/dev/null || { say "chain $2 does not lead to $3"; return 1; }
  [ -z "$(place "$1" "$2" "$3")" ] ||
    { say "a rule of chain $2 refuses everything before it leads to $3"; return 1; }
}

case "${1:-}" in
  check)
    is nat POSTROUTING PF9-POSTROUTING "$postrouting" && is filter FORWARD PF9-FORWARD "$forward"
    ;;
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
    echo "usage: $0 up|check|down" >&2
    exit 64
    ;;
esac
"#;

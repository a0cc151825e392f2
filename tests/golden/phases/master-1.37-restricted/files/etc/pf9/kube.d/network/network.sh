#!/bin/sh
# Written by pf9-nodeletd; changes are undone.
set -u
PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin

family=-4
iptables=iptables
multicast=224.0.0.0/4
all_pods=10.244.0.0/16
own_pods=10.244.0.0/24
protocol=159

routes() {
ip $family -force -batch - <<'END'
route replace 10.244.1.0/24 via 10.99.0.51 proto 159
END
}

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

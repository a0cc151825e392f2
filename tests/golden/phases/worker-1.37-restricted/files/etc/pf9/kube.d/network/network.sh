#!/bin/sh
# Written by pf9-nodeletd; changes are undone.
set -u
PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin

family=-4
iptables=iptables
multicast=224.0.0.0/4
all_pods=10.244.0.0/16
own_pods=10.244.1.0/24
protocol=159

routes() {
ip $family -force -batch - <<'END'
route replace 10.244.0.0/24 via 10.99.0.11 proto 159
END
}

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

#!/bin/sh
# What of systemd the lab needs: units are loaded when their file is there; they run for real, with the files that they
# name, below this root as their own, in the machine's network. The runtime's has the kernel's file systems as well. Every call but questions is logged. Starting does not
# wait (a founder would wait for founders that the same test starts after it), and what died stays dead.
root=$(cd "$(dirname "$0")/../.." && pwd)
state=$root/run/fake-systemd
shift # --no-ask-password
verb=$1; shift
while [ $# -gt 0 ]; do case $1 in -p) shift 2 ;; --) shift; break ;; -*) shift ;; *) break ;; esac; done
[ "$verb" = show ] || echo "$verb $*" >> "$state/calls"
once() { grep -qs '^Type=oneshot' "$root/etc/systemd/system/$1"; }
running() {
  if once "$1"; then [ -e "$state/$1.up" ]; return; fi
  [ -s "$state/$1.pid" ] && kill -0 "$(cat "$state/$1.pid")" 2>/dev/null
}
stop() {
  if once "$1"; then rm -f "$state/$1.up"; return 0; fi
  running "$1" || return 0
  kill "-$2" "$(cat "$state/$1.pid")"
  while running "$1"; do sleep 0.02; done
}
start() {
  unit=$root/etc/systemd/system/$1
  running "$1" && return 0
  conditions=$(sed -n 's/^ConditionPathExists=|//p' "$unit") # one of them is enough
  met=${conditions:+no}
  for path in $conditions; do [ ! -e "$root$path" ] || met=; done
  if [ -n "$met" ]; then echo "condition $1" >> "$state/calls"; return 0; fi
  n=$(cat "$state/n" 2>/dev/null || echo 0); n=$((n + 1)); echo $n > "$state/n"
  : > "$state/$1.pid"
  echo $n > "$state/$1.up"
  # It is active because it was started: what it does, it does when the machine goes down.
  ! once "$1" || return 0
  set -a
  for file in $(sed -n 's/^EnvironmentFile=//p' "$unit"); do . "$root$file" || return 1; done
  set +a
  for setting in $(sed -n 's/^Environment="*\([^"]*\)"*$/\1/p' "$unit"); do export "$setting"; done
  program=$(sed -e ':a' -e '/\\$/{N;s/\\\n */ /;ba' -e '}' "$unit" | sed -n 's/^ExecStart=//p')
  net=$(cat "$state/namespaces")
  # Mounts of its own: what nodelet reads of a kernel here is files of the lab. And its root is one: runc wants that.
  own_mounts=
  ! grep -q '^Delegate=yes' "$unit" || own_mounts='mount --rbind $0 $0 && cd $0 && mkdir -p sys dev &&
    mount -t proc proc proc && mount --rbind /sys sys && mount --rbind /dev dev &&'
  setsid nsenter --net="$net/net" --pid="$net/pid_for_children" unshare --mount \
    sh -c "$own_mounts"' exec chroot "$0" "$@"' "$root" $program \
    < /dev/null >> "$state/$1.log" 2>&1 &
  pid=
  while [ -z "$pid" ] && [ -d "/proc/$!" ]; do read -r pid _ < "/proc/$!/task/$!/children"; done 2>/dev/null
  echo "$pid" > "$state/$1.pid"
}
case $verb in
show)
  for u in "$@"; do
    echo "Id=$u"
    if [ -e "$root/etc/systemd/system/$u" ]; then echo LoadState=loaded; else echo LoadState=not-found; fi
    if running "$u"; then echo ActiveState=active; once "$u" || echo "MainPID=$(cat "$state/$u.pid")"
    elif [ -e "$state/$u.up" ]; then echo ActiveState=failed
    else echo ActiveState=inactive; fi
    [ ! -e "$state/$u.up" ] || echo "InvocationID=$(cat "$state/$u.up")"
    [ ! -e "$state/$u.enabled" ] || echo UnitFileState=enabled
    echo SubState=x; echo Result=success; echo
  done ;;
start) start "$1" ;;
restart) stop "$1" TERM; start "$1" ;;
stop) stop "$1" TERM; rm -f "$state/$1.up" ;;
kill) stop "$1" KILL ;;
enable) : > "$state/$1.enabled" ;;
disable) rm -f "$state/$1.enabled" ;;
esac

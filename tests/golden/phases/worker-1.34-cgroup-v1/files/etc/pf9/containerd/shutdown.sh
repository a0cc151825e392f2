#!/bin/sh
# Written by pf9-nodeletd; changes are undone.
# Ends the containers when the machine goes down; does nothing when only this unit stops.
set -u
PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
[ "$(systemctl is-system-running)" = stopping ] || exit 0

ctr() { /opt/pf9/stacks/current/bin/ctr --address /run/pf9-containerd/containerd.sock --namespace k8s.io "$@"; }

# Whether kubelet starts nothing any more.
kubelet_rests() {
  case "$(systemctl is-active pf9-kubelet.service)" in inactive|failed|unknown) ;; *) return 1 ;; esac
}

# Process ids of the running containers that a filter names.
running() {
  ids=$(ctr containers list --quiet "$1")
  ctr tasks list | while read -r id pid state _; do
    case "$state:$ids" in RUNNING:*"$id"*) echo "$pid" ;; esac
  done
}

# The first process of a container does not get a SIGTERM that it does not catch.
catches() {
  while read -r key mask; do
    if [ "$key" = SigCgt: ]; then
      [ $((0x${mask#????????????} & 0x4000)) -ne 0 ]
      return
    fi
  done < "/proc/$1/status" 2>/dev/null
  return 1
}

# Asks them to end, and ends those that have not after some tenths of a second.
end() {
  tenths=$2 left=
  for pid in $(running "$1"); do
    if catches "$pid"; then
      kill -TERM "$pid" && left="$left $pid"
    else
      kill -KILL "$pid"
    fi
  done
  while [ -n "$left" ] && [ "$tenths" -gt 0 ]; do
    sleep 0.1
    tenths=$((tenths - 1))
    still=
    for pid in $left; do
      kill -0 "$pid" 2>/dev/null && still="$still $pid"
    done
    left=$still
  done
  for pid in $left; do
    kill -KILL "$pid"
  done
}

tenths=100
until kubelet_rests || [ "$tenths" -eq 0 ]; do
  sleep 0.1
  tenths=$((tenths - 1))
done
kind='labels."io.cri-containerd.kind"'
name='labels."io.kubernetes.container.name"'
end "$kind==container,$name!=kube-apiserver" 300
# It listens no more after a moment, but would wait a minute for those who watch it.
end "$kind==container" 30
end "$kind==sandbox" 10
exit 0

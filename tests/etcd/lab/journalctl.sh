#!/bin/sh
# The end of the log of the unit that is asked for last.
root=$(cd "$(dirname "$0")/../.." && pwd)
for unit in "$@"; do :; done
tail -n 50 "$root/run/fake-systemd/$unit.log"

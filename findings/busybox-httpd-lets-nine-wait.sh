#!/bin/bash
# busybox' httpd is the usual server of a test: a page, a port, nothing else. One would have guessed that connections
# wait for it as for any server, as many as net.core.somaxconn allows (4096). It calls listen() with nine: while it does
# not run for a moment (a busy machine is enough), the kernel completes ten connections and drops each further SYN
# without a word. Its client sends that again after a second, so a load of 50 connections a second sees answers that are
# exactly one second late, once in tens of thousands, and blames the network between.
set -euo pipefail
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill -KILL "$server"; wait "$server"; } 2> /dev/null || true; rm -rf "$dir"' EXIT
version=1:1.35.0-4+deb12u1+b1
cd "$dir"
mkdir get www
(cd get; apt-get download -q "busybox=$version" > /dev/null 2>&1)
dpkg-deb -x get/*.deb program
echo page > www/index.html
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
program/bin/busybox httpd -f -p "127.0.0.1:$port" -h "$dir/www" &
server=$!
python3 - "$port" "$server" <<'PYTHON'
import os, signal, socket, sys, time
port, server = int(sys.argv[1]), int(sys.argv[2])
deadline = time.monotonic() + 10
while True:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        break
    except OSError:
        assert time.monotonic() < deadline, "it does not listen"
os.kill(server, signal.SIGSTOP)
while open(f"/proc/{server}/stat").read().rsplit(") ", 1)[1][0] != "T":
    assert time.monotonic() < deadline, "it does not stop"
asked = [socket.socket() for _ in range(20)]
for one in asked:
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
# Over loopback a handshake is complete when connect() returns; half of TCP's first repetition is time enough.
time.sleep(0.5)
state = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] for one in asked]
connected, waiting = state.count(1), state.count(2)
os.kill(server, signal.SIGCONT)
print(f"somaxconn {open('/proc/sys/net/core/somaxconn').read().strip()}")
print(f"of 20 connections while it stands still: {connected} connected, {waiting} in SYN_SENT")
late = asked[-1]
late.setblocking(True)
late.settimeout(5)
began = time.monotonic()
late.connect_ex(("127.0.0.1", port))
while late.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 2:
    assert time.monotonic() < began + 5, "never connected"
    time.sleep(0.01)
print(f"the last one connected {time.monotonic() - began + 0.5:.1f} s after it was asked for")
assert (connected, waiting) == (10, 10), "its backlog has changed"
PYTHON
echo "busybox $version"

"""A network path with delay, loss or nothing at all between this host and a machine, packet by packet.

  Cable(machine, host).set(rtt_ms=80, loss=0.01)   from now on; blackhole=True drops everything silently
  Cable(machine, host).clear()                     the plain cable again

A test machine's kernel need not have netem, so a process does it, holding a TUN device at each
end: one in the machine's network namespace, one here, and a route on each side that leads into them. Every IP
packet between this host (where the plane is) and the machine goes through it; traffic between machines does not.

  python3 netpath.py LEADER HOST ADDRESS NAME CONTROL READY    the process itself; on SIGHUP it reads CONTROL again
"""
import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import proc
from common import wait_for

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
MTU = 1500
# Most bytes in flight, each direction: a router's buffer for 1 Gbit/s and 150 ms. More is dropped.
QUEUE_BYTES = 20_000_000
START_SECONDS = 10


class Cable:
    """The path between this host and one machine."""

    def __init__(self, machine, host):
        self.machine, self.host = machine, host
        self.pidfile = machine.dir / "path.pid"
        self.control = machine.dir / "path.json"

    def set(self, rtt_ms=0.0, loss=0.0, blackhole=False):
        tmp = self.control.with_suffix(".new")
        tmp.write_text(json.dumps({"rtt_ms": rtt_ms, "loss": loss, "blackhole": blackhole}))
        os.replace(tmp, self.control)
        running = proc.alive(self.pidfile)
        if running:
            proc.kill(running, signal.SIGHUP)
            return
        ready, log = self.machine.dir / "path.ready", self.machine.dir / "path.log"
        ready.unlink(missing_ok=True)
        # Interface names have at most 15 bytes.
        name = "pf9p-" + self.machine.name.replace("master", "m").replace("worker", "w")
        proc.start([sys.executable, __file__, self.machine.leader(), self.host, self.machine.address, name,
                    self.control, ready], self.pidfile, log)
        wait_for(f"{self.machine.name}: path", ready.exists, START_SECONDS, 0.05, log)

    def clear(self):
        proc.end(self.pidfile)


def enter_network(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net", "rb") as handle:
        if libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network of process {pid}")


def tun(name, peer, source):
    """A TUN device in the current network, with the route to the other end."""
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
    for command in (["ip", "link", "set", name, "mtu", str(MTU), "txqueuelen", "10000", "up"],
                    ["ip", "route", "replace", f"{peer}/32", "dev", name, "src", source]):
        subprocess.run(command, check=True)
    return handle


class Way:
    """One direction: packets wait until they are due."""

    def __init__(self, target):
        self.target, self.waiting, self.bytes, self.numbers = target, [], 0, itertools.count()

    def take(self, packet, settings, now):
        if settings["blackhole"] or random.random() < settings["loss"]:
            return
        if self.bytes + len(packet) > QUEUE_BYTES:
            return
        self.bytes += len(packet)
        heapq.heappush(self.waiting, (now + settings["rtt_ms"] / 2000, next(self.numbers), packet))

    def let_go(self, now):
        while self.waiting and self.waiting[0][0] <= now:
            _, _, packet = heapq.heappop(self.waiting)
            self.bytes -= len(packet)
            try:
                os.write(self.target, packet)
            except OSError:
                pass  # like a full queue of a router


def main(leader, host, address, name, control, ready):
    near = tun(name, address, host)
    enter_network(leader)
    far = tun("path0", host, address)
    ways = {near: Way(far), far: Way(near)}
    settings = {}

    def read_control(*_):
        settings.update(json.loads(Path(control).read_text()))
    read_control()
    signal.signal(signal.SIGHUP, read_control)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Path(ready).touch()
    while True:
        heads = [way.waiting[0][0] for way in ways.values() if way.waiting]
        wait = max(0.0, min(heads) - time.monotonic()) if heads else None
        readable, _, _ = select.select(list(ways), [], [], wait)
        now = time.monotonic()
        for handle in readable:
            for _ in range(256):
                try:
                    packet = os.read(handle, 65536)
                except BlockingIOError:
                    break
                ways[handle].take(packet, settings, now)
        for way in ways.values():
            way.let_go(time.monotonic())


if __name__ == "__main__":
    main(*sys.argv[1:])

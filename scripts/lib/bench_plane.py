"""scripts/bench plane: what a fleet costs pf9-plane, beside an older commit, in one run on this machine.

Hosts are enrolled with tokens, keys and statements of their own, and connect from addresses of their own, with the marks and
tickets that nodes have; one program plays all of them, on the same cores. First they are connected and do nothing: memory
and processor of an idle fleet. Then each does what an agent does when nothing happens (it waits for its spec and for
operations, and reports the status of a worker each minute), and the plane is killed and started again.

Memory is what the process holds beyond what it held before they came, with its store read: resident, by host. The store is
in memory unless --dir says where: disks are not measured here. The older commit has no operations and no tickets, and so
less to do. With several --counts the costs of a host at each of them are the curve: they must not grow with the fleet.
"""
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import bench_join
import tools
from bench_parts import Columns, Running, asked, free, line_with, listening, memory_kib, ticks
from common import Fail, say, tail, wait_for

# Seconds to wait for a fleet, and the seconds it has to spread its first reports over (benches/tunnel/agent.rs).
FLEET_SECONDS, FIRST_REPORTS = 240, 30
# What has just come is let settle: it is at rest when the last answers are sent.
SETTLE = 5
ENROLMENTS = 4000
# Connections of a process besides those of its hosts.
FILES_BESIDE = 500
# At this many hosts the goals hold.
GOALS_AT = 10_000
# A cost of a host may be this much larger in the largest fleet than in the smallest: two runs differ by as much.
GROWTH = 1.1
GOALS = {"memory": 16, "cpu": 3, "enrol": 5, "back": 40, "busy memory": 16}
WORDS = {
    "enrol": (f"{ENROLMENTS} enrolments, a token each", "s", 1),
    "up": ("all connected after", "s", 1),
    "up cpu": ("  plane's processor for it, a host", "ms", 2),
    "memory": ("memory of a host that is connected", "KiB", 1),
    "peak": ("  the same at most, while they came", "KiB", 1),
    "cpu": ("processor, idle fleet", "% core", 2),
    "busy memory": ("memory of a host with its polls and reports", "KiB", 1),
    "busy cpu": ("processor, the fleet with its polls and reports", "% core", 1),
    "back": ("killed and started: all back after", "s", 1),
    "back cpu": ("  plane's processor for it, a host", "ms", 2),
    "back peak": ("  memory of a host at most, while they came", "KiB", 1),
    "resident": ("resident in the end, all of it", "MiB", 0),
}
# What is counted by host when fleets of several sizes are compared.
CURVE = {"enrol each": ("an enrolment", "ms"), "memory": ("memory of a host", "KiB"),
         "cpu each": ("processor of an idle host", "us/s"), "busy memory": ("memory of a host with reports", "KiB"),
         "busy cpu each": ("processor of a host with reports", "us/s"), "back each": ("back after a kill, a host", "ms")}


def counts(words):
    return [int(word) for word in words.split(",")]


def add_arguments(verb):
    verb.add_argument("--json", action="store_true", help="one JSON object a line")
    verb.add_argument("--counts", type=counts, default=[GOALS_AT], metavar="N,...", help="fleets of these sizes; default 10000")
    verb.add_argument("--idle", type=int, default=40, help="seconds of watching a fleet")
    verb.add_argument("--against", default="530d14e", help="the older commit; empty: none")
    verb.add_argument("--only", default="new,old", help="of these")
    verb.add_argument("--dir", type=Path, help="where the stores are; default: in memory")
    verb.add_argument("--save", type=Path, help="add the figures to this file, and tell all that are in it")


class Fleet:
    """A plane of one build and its hosts. `serve`: how it is started; `whose`: hosts that it need not know."""

    def __init__(self, running, serve, tool, state, whose=None, is_old=False):
        self.running, self.serve, self.tool, self.state, self.is_old = running, serve, tool, Path(state), is_old
        self.address = free()
        self.hosts = self.state / "bench-hosts"
        self.whose = whose or ["--hosts", self.hosts]
        self.plane = self.nodes = None

    def start(self):
        """The plane, with its rows read."""
        self.plane = self.running.start([*self.serve, "--listen", self.address], "plane")
        listening(self.plane, self.address, 60)

    def stop(self, process, hard=False):
        (process.kill if hard else process.terminate)()
        process.wait()

    def enrol(self, count, first=0):
        wait_for("the plane's socket for its operators", (self.state / "admin.sock").exists, 60, 0.02)
        words = [self.tool, "enrol", "--state", self.state, "--plane", self.address, "--count", count, "--first", first,
                 "--out", self.hosts]
        return asked([*words, *(["--first-release"] if self.is_old else [])], FLEET_SECONDS)["seconds"]

    def come(self, count, *more):
        """All hosts connect. Seconds, and the plane's processor seconds."""
        cpu, began = ticks(self.plane.pid), time.monotonic()
        self.nodes = self.running.start([self.tool, "swarm", "--dir", self.state, "--plane", self.address, *self.whose,
                                         *more], "swarm", "stdout")
        return self.all_in(count) - began, (ticks(self.plane.pid) - cpu) / 100

    def come_back(self, count):
        """The plane is killed and started. The same of it."""
        began = time.monotonic()
        self.stop(self.plane, hard=True)
        # All know it before they come to the next one.
        line_with(self.nodes.lines, ["up 0"], FLEET_SECONDS)
        self.start()
        return self.all_in(count) - began, ticks(self.plane.pid) / 100

    def all_in(self, count):
        seen = line_with(self.nodes.lines, [f"up {count}"], FLEET_SECONDS)
        if seen is None:
            raise Fail(f"not all of {count} hosts came within {FLEET_SECONDS} s", tail(self.plane.log))
        return seen[0]

    def watch(self, seconds):
        """Per cent of a core."""
        cpu = ticks(self.plane.pid)
        time.sleep(seconds)
        return (ticks(self.plane.pid) - cpu) / seconds


def one(fleet, count, idle):
    """All figures of a fleet of this size."""
    found, timed = {"count": count}, min(count, ENROLMENTS)
    fleet.start()
    seconds = fleet.enrol(timed)
    found["enrol each"] = seconds * 1000 / timed
    if timed == ENROLMENTS:
        found["enrol"] = seconds
    if count > timed:
        fleet.enrol(count - timed, timed)
    # Not what enrolments left behind.
    fleet.stop(fleet.plane)
    fleet.start()
    time.sleep(SETTLE)
    before = memory_kib(fleet.plane.pid)
    found["up"], cpu = fleet.come(count)
    found["up cpu"] = cpu * 1000 / count
    time.sleep(SETTLE)
    found["cpu"] = fleet.watch(idle)
    found["cpu each"] = found["cpu"] * 1e4 / count
    found["memory"] = (memory_kib(fleet.plane.pid) - before) / count
    found["peak"] = (memory_kib(fleet.plane.pid, "VmHWM") - before) / count
    fleet.stop(fleet.nodes, hard=True)
    fleet.stop(fleet.plane, hard=True)
    fleet.start()
    time.sleep(SETTLE)
    before = memory_kib(fleet.plane.pid)
    fleet.come(count, "--agents")
    time.sleep(FIRST_REPORTS + SETTLE)
    found["busy cpu"] = fleet.watch(idle)
    found["busy cpu each"] = found["busy cpu"] * 1e4 / count
    found["busy memory"] = (memory_kib(fleet.plane.pid) - before) / count
    found["resident"] = memory_kib(fleet.plane.pid) / 1024
    found["back"], cpu = fleet.come_back(count)
    found["back each"], found["back cpu"] = found["back"] * 1000 / count, cpu * 1000 / count
    found["back peak"] = (memory_kib(fleet.plane.pid, "VmHWM") - before) / count
    fleet.stop(fleet.nodes, hard=True)
    fleet.stop(fleet.plane, hard=True)
    return found


def tell(told, figures):
    sizes = sorted({f["count"] for f in figures})

    def of(side, count, key):
        found = [f[key] for f in figures if (f["side"], f["count"]) == (side, count) and key in f]
        return found[-1] if found else None
    for count in sizes:
        for key, (words, unit, digits) in WORDS.items():
            ours, old = of("new", count, key), of("old", count, key)
            if ours is None and old is None:
                continue
            goal = ("<", GOALS[key]) if count == GOALS_AT and key in GOALS else None
            told.row(f"{count} hosts: {words}" if not words.startswith(" ") else words, unit, {"ours": ours, "older": old}, goal,
                     digits)
    if len(sizes) < 2:
        return
    for key, (words, unit) in CURVE.items():
        for count in sizes:
            told.row(f"curve, {words}, of {count}", unit, {"ours": of("new", count, key), "older": of("old", count, key)})
        few, many = (of("new", count, key) for count in (sizes[0], sizes[-1]))
        # A figure that is missing is no goal that is met: the row is told without one.
        growth = many / few if few and many is not None else None
        told.row(f"  of {sizes[-1]}, times that of {sizes[0]}", "times", growth, ("<", GROWTH))


def allow_files(number):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # Beyond what is allowed only root may go.
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(number, hard),) * 2)
    except (OSError, ValueError) as error:
        raise Fail(f"{number} open files are needed, and {hard} are allowed", str(error)) from error


def plane(args):
    allow_files(max(args.counts) + FILES_BESIDE)
    built, only = tools.release(loads=True), args.only.split(",")
    tool, sides = built / "pf9-tunnel-load", {"new": built / "pf9-plane"}
    if args.against and "old" in only:
        sides["old"] = bench_join.binary_of(args.against, "pf9-plane")
    figures = json.loads(args.save.read_text()) if args.save and args.save.exists() else []
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    for count in args.counts:
        for side in (side for side in sides if side in only):
            with tempfile.TemporaryDirectory(prefix="pf9-bench-", dir=args.dir or memory) as state, \
                    tempfile.TemporaryDirectory(prefix="pf9-bench-") as logs, Running(logs) as running:
                load = os.getloadavg()[0]
                serve = [sides[side], "serve", "--state-dir", state]
                fleet = Fleet(running, serve, tool, state, is_old=side == "old")
                figures.append({"side": side, "load": load, **one(fleet, count, args.idle)})
            say(f"{side}, {count} hosts (load average {load:.1f} before): "
                + ", ".join(f"{key} {value:.2f}" for key, value in figures[-1].items() if isinstance(value, float)))
            if args.save:
                args.save.write_text(json.dumps(figures, indent=1))
    told = Columns(args.json, ["older"])
    tell(told, figures)
    told.say_unmet()

"""scripts/bench tunnel: what the tunnel carries, beside its peers, in one run on this machine.

Everything goes over loopback: load -> plane's end == TLS 1.3 + websocket == pf9-comms -> target. CPU seconds are user
and system time of the two ends only, taken over the very stretch in which the bytes were counted at the far end.
"down" is plane to node. Peers run at their defaults on the same path; one that cannot be had is named with the reason.
Gbit/s depend on who else uses the machine (load, target and both ends share its cores): ratios and CPU seconds do not.

"part of plain rustls" compares with two threads that have the machine to themselves; on few cores load and target take
a good part of them from ours. "what these cores allow" is what a relay of no cost could carry beside them, made of
figures of the same run: cores / (CPU s/GiB of plain rustls + of two plain sockets), and no more than plain rustls.

With a round trip, a relay stands between the two ends, of peers too: between haproxy and haproxy, stunnel and stunnel,
ssh and sshd, bore and its server. TCP ends at the relay: its handshakes cost nothing there and its windows never fill,
so what is seen is what the ends make of the delay; who leaves flow control to TCP is better there than on a real path.

Only ssh has one connection that can die like ours; others have one for each stream. "dead path": ServerAliveInterval=8,
ServerAliveCountMax=2 and the same of ClientAlive (we: a ping each 8 s, by default), ssh started again after 5 s; "cut":
started again after 0.1 s, as systemd would. Our node waits at random before it comes back, so that a fleet spreads.

"allocations" counts what both ends allocate, in one thread and without the load tool: 64 MiB by frames of 32 KiB (16
where it is the protocol alone) after as many that are not counted, without TLS but where a row says so.
"""
import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import bench_gate
import bench_parts
import bench_paths
from bench_parts import (MIB, PEERS, Ours, Peers, Running, Tool, free_port, line_with, memory_kib, reader, ticks)
from common import Fail, run, say, tail, warn

SETTLE = 0.1
SWARM_SECONDS = 240
# Hosts of the real plane: each has to be enrolled first, and the time of that grows with their square.
REAL_SWARM = 2000
# name: (better, goal); `<` is at most, `>` is at least.
GOALS = {
    "ratio": (">", 0.65), "beside p50": ("<", 0.5), "beside p99": ("<", 10.0), "beside share": (">", 0.9), "opens 16": (">", 5000), "opens 40 ms": (">", 377), "150 ms": (">", 5.0),
    "idle all": ("<", 36), "idle stream": ("<", 8), "start": ("<", 15), "stalled": ("<", 64),
    "stalled p99": ("<", 10.0),
    "reconnected": ("<", 25), "noticed": ("<", 20), "storm": ("<", 120), "exact": (">", 1),
    # The longest first wait of a node, and as much again as a handshake may take beside others.
    "cut": ("<", 1.5), "allocations": ("<", 0.0),
    # Half an interval until the ping that is not answered, two and a half more, and the first wait.
    "reconnected 5 s": ("<", 12),
    # What was promised of it waits to be told, an eighth at most.
    "150 ms cap": (">", 0.85),
    "after bulk": ("<", 1.0), "stalled grown": ("<", round(bench_gate.STALLED_MIB, 1)),
}
# Of ours to a peer's figure of the same run: what only a fast machine meets is no goal. (better, times, peers: the best of
# those that are there).
TLS = ("haproxy", "stunnel", "openssh")
RATIOS = {
    "1 stream": ((">", 1.2, ("haproxy",)), (">", 0.9, ("bore (plain)",))), "8 streams": ((">", 1.1, TLS),),
    "cpu": (("<", 0.75, ("haproxy",)),), "echo": (("<", 0.85, ("haproxy",)),), "40 ms": ((">", 1.0, ("haproxy",)),),
}
# Rows that belong together, in their order.
GROUPS = ("throughput", "latency", "opens", "half-close", "memory", "round-trips", "dead-path", "cut", "allocations",
          "swarm")
# Those that ask much of a machine, or a build: the others' rows are worth having without them.
MAY_FAIL = {"allocations", "swarm"}
# A directory in memory, where there is one.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
# Files a process has open beside the sockets of its nodes.
FILES_BESIDE = 200
WITHOUT_PEERS = {"allocations", "swarm"}


class Table:
    """Rows as they come: for people in columns, or one JSON object a line."""

    def __init__(self, as_json, names):
        self.as_json, self.names, self.unmet, self.title = as_json, names, [], False

    def row(self, name, unit, ours, peers=None, goal=None, digits=2):
        self.put(name, unit, ours, peers, digits, *(GOALS[goal] if goal else (None, None)))

    def ratio(self, name, ours, better, target):
        self.put(name, "times", ours, None, 2, better, target)

    def put(self, name, unit, ours, peers, digits, better, target):
        peers = {key: shorten(value, digits) for key, value in (peers or {}).items() if value is not None}
        ours = shorten(ours, digits)
        met = None if target is None or ours is None else (ours <= target if better == "<" else ours >= target)
        if met is False:
            self.unmet.append(name)
        if self.as_json:
            say(json.dumps({"name": name, "unit": unit, "ours": ours, "peers": peers, "target": target, "met": met}))
            return
        if not self.title:
            self.title = True
            say(f"{'':<46}{'ours':>9} {'unit':<9} {'goal':<10}{'':<9}" + "".join(f"{n:>13}" for n in self.names))
        sign = {"<": "<=", ">": ">=", None: ""}[better]
        goal_words = "" if target is None else f"{sign} {target:g}"
        mark = {True: "met", False: "NOT MET", None: ""}[met]
        others = "".join(f"{peers.get(n, '-'):>13}" for n in self.names)
        say(f"{name:<46}{'-' if ours is None else ours:>9} {unit:<9} {goal_words:<10}{mark:<9}{others}")


def shorten(value, digits):
    if value is None or isinstance(value, int):
        return value
    return round(value) if digits == 0 or abs(value) >= 1000 else round(value, digits)


class Bench:
    def __init__(self, tool, table, paths, quick):
        self.tool, self.table, self.paths, self.quick = tool, table, paths, quick
        self.seconds, self.rounds, self.warm = (0.5, 1, 0.15) if quick else (1.2, 3, 0.3)
        self.broken = {}

    def ask(self, name, verb, *more, pick, **kwargs):
        """One figure of one path; None when it cannot be had there."""
        try:
            return pick(self.tool.load(verb, self.paths[name], *more, **{"warm": self.warm, **kwargs}))
        except Fail as fail:
            self.broken.setdefault(name, f"{verb} {' '.join(map(str, more))}: {fail}")
            return None
        finally:
            time.sleep(SETTLE)

    def all(self, verb, *more, picks, rounds=None, only=None, to=None, **kwargs):
        """Medians over the rounds, path by path in turns: {figure: {path: value}}."""
        got = {figure: {} for figure in picks}
        for _ in range(rounds or self.rounds):
            for name in only or self.paths:
                where = {"to": self.paths[name].bulk_to} if to == "bulk" else {}
                values = self.ask(name, verb, *more, **where, **kwargs,
                                  pick=lambda r: {f: p(r) for f, p in picks.items()})
                for figure, value in (values or {}).items():
                    if value is not None:
                        got[figure].setdefault(name, []).append(value)
        return {figure: {name: statistics.median(v) for name, v in values.items()} for figure, values in got.items()}

    def put(self, name, unit, values, goal=None, digits=2):
        peers = {n: v for n, v in values.items() if n != "ours"}
        self.table.row(name, unit, values.get("ours"), peers, goal, digits)

    def ratios(self, name, values, goal):
        """Ours to the best of the peers that a goal names, with both numbers."""
        for better, times, peers in RATIOS[goal]:
            found = {peer: values[peer] for peer in peers if values.get(peer)}
            if not found or not values.get("ours"):
                continue
            peer = (max if better == ">" else min)(found, key=found.get)
            whose = f"{shorten(values['ours'], 2)} / {shorten(found[peer], 2)} of {peer}"
            self.table.ratio(f"  {name}: {whose}", values["ours"] / found[peer], better, times)

    def on(self, paths):
        """The same on other paths."""
        return Bench(self.tool, self.table, paths, self.quick)

    # --- what is measured

    def throughput(self):
        baselines = [self.tool.tls(self.seconds) for _ in range(self.rounds)]
        baseline, cost = (statistics.median(b[what] for b in baselines) for what in ("gbit", "cpu_s_per_gib"))
        alone = {}
        costs = []
        for streams in (1, 8):
            for direction in ("down", "up"):
                # In a quick run peers show one direction of each.
                only = ["ours"] if self.quick and (direction, streams) in (("up", 1), ("down", 8)) else None
                got = self.all("bulk", "--direction", direction, "--streams", streams, to="bulk", only=only,
                               seconds=self.seconds,
                               picks={"gbit": lambda r: r["gbit"], "cpu": lambda r: r["cpu_s_per_gib"]})
                alone[direction, streams] = got["gbit"].get("ours")
                what = f"{direction}, {streams} stream{'s' if streams > 1 else ''}"
                self.put(what, "Gbit/s", {**got["gbit"], "rustls": baseline if streams == 1 else None})
                self.ratios(what, got["gbit"], "1 stream" if streams == 1 else "8 streams")
                got["cpu"].pop("direct", None)
                costs.append((what, {**got["cpu"], "rustls": cost if streams == 1 else None}))
        for what, values in costs:
            self.put(f"CPU seconds per GiB: {what}", "s/GiB", values)
            self.ratios(f"CPU {what}", values, "cpu")
        for direction in ("down", "up"):
            ours = alone[direction, 1]
            self.table.row(f"1 stream {direction}: part of plain rustls", "ratio", ours and ours / baseline,
                           goal="ratio")
        allowed = self.allowed(baseline, cost)
        self.table.row("what these cores allow a relay that costs nothing", "Gbit/s", None, {"rustls": allowed})
        for direction in ("down", "up"):
            ours = alone[direction, 1]
            self.table.row(f"1 stream {direction}: part of what these cores allow", "ratio", ours and ours / allowed)

    def allowed(self, baseline, cost):
        """Gbit/s of a relay that costs nothing. Plain rustls has the machine to itself, and its bytes come from
        nowhere and go nowhere; a relay's come from a socket and go to another one, whose other ends (load and target)
        want the same cores. So a GiB costs the rustls of both ends and two sockets, each written at one end and read
        at the other, all of it measured here; the cores give so many CPU seconds a second. No end has more than a
        thread for one stream's TLS: it cannot be faster than plain rustls either."""
        socket = statistics.median(
            self.tool.tls(self.seconds, plain=True)["cpu_s_per_gib"] for _ in range(self.rounds))
        cores = len(os.sched_getaffinity(0))
        return min(baseline, cores / (cost + 2 * socket) * 2**33 / 1e9)

    def latency(self):
        got = self.all("echo", seconds=self.seconds, picks={"p50": lambda r: r["p50_us"], "p99": lambda r: r["p99_us"]})
        self.put("echo, 64 bytes: p50", "us", got["p50"], digits=0)
        self.ratios("echo p50", got["p50"], "echo")
        self.put("echo, 64 bytes: p99", "us", got["p99"], digits=0)
        picks = {"p50": lambda r: r["p50_us"] / 1000, "p99": lambda r: r["p99_us"] / 1000, "gbit": lambda r: r["gbit"]}
        for direction, streams in (("down", 4), ("up", 4), ("down", 1)):
            bulk = ["--direction", direction, "--streams", streams]
            beside_what = f"{streams} bulk stream{'s' if streams > 1 else ''} {direction}"
            alone = self.all("bulk", *bulk, only=["ours"], to="bulk", seconds=self.seconds,
                             picks={"gbit": picks["gbit"]})
            beside = self.beside(bulk, picks)
            self.put(f"echo beside {beside_what}: p50", "ms", beside["p50"], "beside p50")
            self.put(f"echo beside {beside_what}: p99", "ms", beside["p99"], "beside p99")
            ours, base = beside["gbit"].get("ours"), alone["gbit"].get("ours")
            self.table.row(f"  {beside_what} beside the echo, part of alone", "ratio",
                           ours and base and ours / base, goal="beside share")
            same = self.all("echo", *bulk, only=["ours"], seconds=self.seconds, picks=picks)
            self.table.row(f"  same, echo and {beside_what} of one class: p99", "ms", same["p99"].get("ours"))

    def beside(self, bulk, picks):
        got = {figure: {} for figure in picks}
        for name, path in self.paths.items():
            if self.quick and "up" in bulk and name != "ours":
                continue
            one = self.all("echo", "--bulk-to", path.bulk_to, *bulk, only=[name], seconds=self.seconds, picks=picks)
            for figure, values in one.items():
                got[figure].update(values)
        return got

    def opens(self):
        for callers in (1, 16):
            only = ["ours"] if self.quick and callers == 1 else None
            got = self.all("opens", "--callers", callers, only=only, seconds=self.seconds,
                           picks={"n": lambda r: r["per_second"]})
            self.put(f"new streams, {callers} caller{'s' if callers > 1 else ''}", "1/s", got["n"],
                     "opens 16" if callers == 16 else None, 0)

    def memory(self, running):
        fresh = Ours(self.tool, running)
        self.table.row("RSS of pf9-comms, one session", "MiB", memory_kib(fresh.pids()[-1]) / MIB, goal="start")
        self.table.row("size of pf9-comms on disk", "MiB", self.tool.comms.stat().st_size / MIB**2)
        self.paths["fresh"] = fresh
        streams = 1000
        idle = self.all("idle", "--count", streams, rounds=1, only=self.with_memory("fresh"),
                        picks={"all": lambda r: sum(r["rss_kib"]) / MIB,
                               "each": lambda r: max(b - a for a, b in zip(r["before_kib"], r["rss_kib"])) / streams})
        for values in idle.values():
            values["ours"] = values.pop("fresh", None)
        self.put(f"RSS of both ends, {streams} idle streams", "MiB", idle["all"], "idle all", 1)
        self.table.row("  memory of an idle stream and side", "KiB", idle["each"].get("ours"), goal="idle stream")
        got = self.all("stalled", rounds=1, only=self.with_memory("fresh"), seconds=max(1.0, self.seconds), picks={
            "plane": lambda r: r["rss_kib"][0] / MIB, "node": lambda r: r["rss_kib"][-1] / MIB,
            "p99": lambda r: r["p99_us"] / 1000, "share": lambda r: r["gbit_beside"] / max(0.001, r["gbit_before"])})
        for values in got.values():
            values["ours"] = values.pop("fresh", None)
        self.put("50 + 50 stalled readers: RSS, plane's end", "MiB", got["plane"], "stalled", 1)
        self.put("50 + 50 stalled readers: RSS, node's end", "MiB", got["node"], "stalled", 1)
        self.put("  echo beside them: p99", "ms", got["p99"], "stalled p99")
        self.put("  1 bulk stream beside them, part of before", "ratio", got["share"])
        del self.paths["fresh"]
        self.after_bulk(running)
        bench_paths.grown_memory(self, running)

    def after_bulk(self, running):
        """What both ends keep when 8 streams moved all they could, each way."""
        self.paths["fresh"] = Ours(self.tool, running)
        kept = {}
        for name in self.with_memory("fresh"):
            moved = [self.ask(name, "bulk", "--direction", direction, "--streams", 8, to=self.paths[name].bulk_to,
                              seconds=self.seconds, pick=lambda r: r["bytes"]) for direction in ("down", "up")]
            if all(moved):
                kept[name] = sum(map(memory_kib, self.paths[name].pids())) / MIB
        kept["ours"] = kept.pop("fresh", None)
        self.put("RSS of both ends after 8 bulk streams each way", "MiB", kept, digits=1)
        del self.paths["fresh"]

    def with_memory(self, ours):
        peers = () if self.quick else tuple(n for n in self.paths if n not in ("ours", "direct", "fresh"))
        return (ours, *peers)

    def half_close(self):
        got = self.all("half-close", rounds=1, picks={"exact": lambda r: int(r["client_first"] and r["target_first"])})
        self.put("half-close exact, both ways", "yes=1", got["exact"], "exact")

    def allocations(self):
        """Both ends in one thread, 64 MiB after as many that do not count; a frame is 32 KiB (the protocol alone: 16).
        Where TLS is below, what TLS allocates by itself is beside it."""
        for what, (number, size) in bench_parts.allocations(self.tool.folder / "allocations.log").items():
            goal = None if "behind" in what or "TLS" in what else "allocations"
            self.table.row(f"allocations per frame: {what}", "", number, digits=3, goal=goal)
            self.table.row(f"  bytes of them: {what}", "bytes", size, digits=0)

    def swarm(self, running, count):
        """A plane with very many nodes: all come at once, do nothing, and come back when their plane is killed."""
        tool = self.tool
        plane, address, lines = self.big_plane(running)
        before, began = memory_kib(plane.pid), time.monotonic()
        nodes = running.start(
            [tool.program, "swarm", "--dir", tool.pki(), "--plane", address, "--count", count], "swarm")
        self.all_in(f"{count} nodes at once: all connected after", nodes, plane, lines, count, began)
        time.sleep(1)
        self.table.row(f"  plane's memory per idle node ({count})", "KiB", (memory_kib(plane.pid) - before) / count)
        cpu, seconds = ticks(plane.pid), 2 if self.quick else 17
        time.sleep(seconds)
        share = (ticks(plane.pid) - cpu) / seconds
        self.table.row(f"  plane's CPU with {count} idle nodes", "% core", share)
        began = time.monotonic()
        plane.kill()
        plane.wait()
        plane, _, lines = self.big_plane(running, "--listen", address)
        self.all_in(f"{count} nodes, plane killed and started: all back", nodes, plane, lines, count, began)
        nodes.kill()
        nodes.wait()
        self.real_swarm(running, min(REAL_SWARM, count // 2))

    def real_swarm(self, running, count):
        """The same with pf9-plane itself, which looks every node up in its store. The store is in memory: disks are
        not what is measured."""
        tool, port = self.tool, free_port()
        with tempfile.TemporaryDirectory(prefix="pf9-bench-", dir=MEMORY) as state:
            address, hosts = f"127.0.0.1:{port}", Path(state) / "hosts"
            plane = self.real_plane(running, state, address)
            run([tool.program, "enrol", "--state", state, "--plane", address, "--count", count, "--out", hosts],
                timeout=SWARM_SECONDS)
            before, began = memory_kib(plane.pid), time.monotonic()
            nodes = running.start([tool.program, "swarm", "--dir", state, "--plane", address, "--hosts", hosts], "swarm",
                                  stdout=subprocess.PIPE)
            lines = reader(nodes.stdout)
            self.all_in(f"pf9-plane, {count} nodes at once: all connected", nodes, plane, lines, count, began,
                        None)
            self.table.row(f"  its memory per idle node ({count})", "KiB", (memory_kib(plane.pid) - before) / count)
            began = time.monotonic()
            plane.kill()
            plane.wait()
            # All know: who comes back comes back to the new one.
            line_with(lines, ["up 0"], SWARM_SECONDS)
            plane = self.real_plane(running, state, address)
            self.all_in(f"pf9-plane, {count} nodes, killed and started: all", nodes, plane, lines, count, began,
                        None)
            for process in (nodes, plane):
                process.kill()
                process.wait()

    def real_plane(self, running, state, address):
        program = self.tool.program.with_name("pf9-plane")
        plane, _, _ = running.first_line([program, "serve", "--state-dir", state, "--listen", address], "pf9-plane")
        return plane

    def big_plane(self, running, *more):
        plane, (address, _, _), lines = running.first_line(
            [self.tool.program, "plane", "--many", "--dir", self.tool.pki(), *more], "plane")
        return plane, address, lines

    def all_in(self, name, nodes, plane, lines, count, began, goal="storm"):
        cpu = ticks(plane.pid)
        seen = line_with(lines, [f"up {count}"], SWARM_SECONDS)
        if seen is None:
            raise Fail(f"not all of {count} nodes came in within {SWARM_SECONDS} s", tail(nodes.log))
        self.table.row(name, "s", seen[0] - began, goal=goal, digits=1)
        self.table.row("  plane's CPU for it, per node", "ms", (ticks(plane.pid) - cpu) * 10 / count)
        self.table.row("  plane's memory meanwhile, at most", "MiB", memory_kib(plane.pid, "VmHWM") / MIB, digits=1)


def busy_cores(seconds=0.5):
    """Cores that others keep busy while we do nothing."""
    def look():
        fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        return sum(fields) - fields[3] - fields[4]
    before = look()
    time.sleep(seconds)
    return (look() - before) / seconds / os.sysconf("SC_CLK_TCK")


def tunnel(args):
    if args.gate:
        bench_gate.alone()
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="pf9-bench-") as folder, contextlib.ExitStack() as stack:
        program, comms = bench_parts.build(Path(folder) / "build.log")
        busy = busy_cores()
        load = os.getloadavg()[0]
        running = stack.enter_context(Running(folder))
        tool = Tool(folder, program, comms, running)
        only = set(args.only or GROUPS)
        peers = Peers(tool, stack, () if args.no_peers or not only - WITHOUT_PEERS else PEERS)
        beside = peers.at(None)
        table = Table(args.json, ["direct", "rustls", *beside])
        bench = Bench(tool, table, {"direct": tool.direct, "ours": Ours(tool, running), **beside}, args.quick)
        table.row("cores others kept busy before the run", "cores", busy)
        if "dead-path" in only:
            # Nobody waits for it: it is dead while the others are measured.
            dead = bench_paths.DeadPaths(bench, running, peers)
        count = min(1000 if args.quick else 10_000, hard - FILES_BESIDE)
        rows = {
            "throughput": bench.throughput, "latency": bench.latency, "opens": bench.opens,
            "half-close": bench.half_close, "memory": lambda: bench.memory(running),
            "round-trips": lambda: bench_paths.round_trips(
                bench, Ours(tool, running, rtt_ms=40), Ours(tool, running, rtt_ms=150, window_mib=256), peers),
            "dead-path": lambda: dead.rows(), "cut": lambda: bench_paths.cuts(bench, peers),
            "allocations": bench.allocations, "swarm": lambda: bench.swarm(running, count),
        }
        for group in GROUPS:
            if group in only:
                try:
                    rows[group]()
                except Fail as fail:
                    if group not in MAY_FAIL:
                        raise
                    warn(f"left out: {group}: {fail}")
        for name, why in bench.broken.items():
            warn(f"{name}: {why}")
        after = busy_cores()
    if max(busy, after) > 0.3:
        warn(f"others used this machine: {busy:.1f} cores before, {after:.1f} after (load average {load:.1f} at the "
             "start): do not compare Gbit/s and latencies with other runs, only columns and CPU seconds")
    if table.unmet:
        warn(f"{len(table.unmet)} goals not met: " + "; ".join(table.unmet))


def groups(words):
    chosen = words.split(",")
    if unknown := set(chosen) - set(GROUPS):
        raise argparse.ArgumentTypeError(f"no such rows: {', '.join(sorted(unknown))}")
    return chosen


def add_arguments(verb):
    verb.add_argument("--json", action="store_true", help="one JSON object a line")
    verb.add_argument("--quick", action="store_true", help="about a minute: short stretches, one round, fewer nodes")
    verb.add_argument("--only", type=groups, metavar="GROUP,...", help="only these rows: " + ", ".join(GROUPS))
    verb.add_argument("--gate", action="store_true", help="only what must hold on any machine; exit 1 if it does not")
    verb.add_argument("--no-peers", action="store_true", help="only our own figures")

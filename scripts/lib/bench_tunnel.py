"""scripts/bench tunnel: what the tunnel carries, beside its peers, in one run on this machine.

Everything goes over loopback: load -> plane's end == TLS 1.3 + websocket == pf9-comms -> target. CPU seconds are user
and system time of the two ends only, taken over the very stretch in which the bytes were counted at the far end.
"down" is plane to node. Peers run at their defaults on the same path; one that cannot be had is named with the reason.
Gbit/s depend on who else uses the machine (load, target and both ends share its cores): ratios and CPU seconds do not.
"""
import argparse
import contextlib
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import bench_parts
from bench_parts import PEERS, Ours, Running, Tool, line_with
from common import Fail, say, tail, warn

MIB = 1024
SETTLE = 0.1
NOTICE_SECONDS = 45
SWARM_SECONDS = 240
# name: (better, goal); `<` is at most, `>` is at least.
GOALS = {
    "1 stream": (">", 8.0), "ratio": (">", 0.65), "cpu": ("<", 1.5),
    "echo p50": ("<", 130), "echo p99": ("<", 250), "beside p50": ("<", 2.0), "beside p99": ("<", 10.0),
    "beside share": (">", 0.9), "opens 16": (">", 5000), "opens 40 ms": (">", 377), "150 ms": (">", 5.0),
    "idle all": ("<", 36), "idle stream": ("<", 8), "start": ("<", 15), "stalled": ("<", 64),
    "stalled p99": ("<", 10.0),
    "reconnected": ("<", 25), "noticed": ("<", 20), "storm": ("<", 120), "exact": (">", 1),
    # The longest first wait of a node, and as much again as a handshake may take beside others.
    "cut": ("<", 1.5), "allocations": ("<", 0.0),
}
# Rows that belong together, in their order.
GROUPS = ("throughput", "latency", "opens", "half-close", "memory", "round-trips", "dead-path", "cut", "allocations",
          "swarm")
# Those that ask much of a machine, or a build: the others' rows are worth having without them.
MAY_FAIL = {"allocations", "swarm"}
# Files a process has open beside the sockets of its nodes.
FILES_BESIDE = 200
WITH_PEERS = {"throughput", "latency", "opens", "half-close", "memory"}


class Table:
    """Rows as they come: for people in columns, or one JSON object a line."""

    def __init__(self, as_json, names):
        self.as_json, self.names, self.unmet, self.title = as_json, names, [], False

    def row(self, name, unit, ours, peers=None, goal=None, digits=2):
        peers = {key: shorten(value, digits) for key, value in (peers or {}).items() if value is not None}
        ours = shorten(ours, digits)
        better, target = GOALS[goal] if goal else (None, None)
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

    # --- what is measured

    def throughput(self):
        baseline = statistics.median(self.tool.tls(self.seconds)["gbit"] for _ in range(self.rounds))
        cost = self.tool.tls(self.seconds)["cpu_s_per_gib"]
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
                self.put(what, "Gbit/s", {**got["gbit"], "rustls": baseline if streams == 1 else None},
                         "1 stream" if streams == 1 else None)
                got["cpu"].pop("direct", None)
                costs.append((what, {**got["cpu"], "rustls": cost if streams == 1 else None}))
        for what, values in costs:
            self.put(f"CPU seconds per GiB: {what}", "s/GiB", values, "cpu")
        for direction in ("down", "up"):
            ours = alone[direction, 1]
            self.table.row(f"1 stream {direction}: part of plain rustls", "ratio", ours and ours / baseline,
                           goal="ratio")

    def latency(self):
        got = self.all("echo", seconds=self.seconds, picks={"p50": lambda r: r["p50_us"], "p99": lambda r: r["p99_us"]})
        self.put("echo, 64 bytes: p50", "us", got["p50"], "echo p50", 0)
        self.put("echo, 64 bytes: p99", "us", got["p99"], "echo p99", 0)
        picks = {"p50": lambda r: r["p50_us"] / 1000, "p99": lambda r: r["p99_us"] / 1000, "gbit": lambda r: r["gbit"]}
        for direction in ("down", "up"):
            bulk = ["--direction", direction, "--streams", 4]
            alone = self.all("bulk", *bulk, only=["ours"], to="bulk", seconds=self.seconds,
                             picks={"gbit": picks["gbit"]})
            beside = self.beside(bulk, picks)
            self.put(f"echo beside 4 bulk streams {direction}: p50", "ms", beside["p50"], "beside p50")
            self.put(f"echo beside 4 bulk streams {direction}: p99", "ms", beside["p99"], "beside p99")
            ours, base = beside["gbit"].get("ours"), alone["gbit"].get("ours")
            self.table.row(f"  bulk beside the echo, part of bulk alone ({direction})", "ratio",
                           ours and base and ours / base, goal="beside share")
            same = self.all("echo", *bulk, only=["ours"], seconds=self.seconds, picks=picks)
            self.table.row(f"  same, echo and bulk of one class ({direction}): p99", "ms", same["p99"].get("ours"))

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

    def round_trips(self, near, far):
        """Through a delay: 40 ms with defaults, 150 ms with a large window at the plane's end."""
        self.paths.update({"near": near, "far": far})
        picks = {"gbit": lambda r: r["gbit"]}
        for name, ms, warm in (("near", 40, 1.2), ("far", 150, 3.5)):
            for direction, streams in (("down", 1), ("up", 1), ("up", 8)):
                got = self.all("bulk", "--direction", direction, "--streams", streams, only=[name], to="bulk", rounds=1,
                               seconds=max(0.8, self.seconds), warm=warm, picks=picks)
                note = "" if name == "near" else (", default cap" if direction == "down" else ", cap 256 MiB")
                what = f"{streams} stream{'s' if streams > 1 else ''} {direction}{note}"
                self.table.row(f"{ms} ms round trip, {what}", "Gbit/s", got["gbit"].get(name),
                               goal="150 ms" if name == "far" and direction == "up" and streams == 1 else None)
                time.sleep(ms / 1000)
            got = self.all("opens", "--callers", 16, only=[name], rounds=1, seconds=max(1.5, self.seconds),
                           picks={"n": lambda r: r["per_second"], "p50": lambda r: r["p50_us"] / 1000})
            self.table.row(f"{ms} ms round trip, new streams, 16 callers", "1/s", got["n"].get(name),
                           goal="opens 40 ms" if ms == 40 else None, digits=0)
            self.table.row(f"{ms} ms round trip, first byte of a new stream", "ms", got["p50"].get(name), digits=0)
        del self.paths["near"], self.paths["far"]

    def cuts(self):
        """The connection is reset. A node tells apart what it waits (at random, so that a fleet spreads) from what it
        does. Each node is cut once after it was started, which is as after a healthy minute, and once more at once."""
        for ms, count in ((0, 3 if self.quick else 9), (40, 2 if self.quick else 5)):
            first, again, work = [], [], []
            with Running(tempfile.mkdtemp(dir=self.tool.folder, prefix="cut-")) as running:
                for _ in range(count):
                    ours = Ours(self.tool, running, rtt_ms=ms)
                    for times in (first, again):
                        got = self.tool.load("cut", ours, "--relay", ours.control)["first_byte_s"]
                        waited = ours.waited()
                        times.append(got)
                        if waited is not None:
                            work.append((got - waited) * 1000)
            path = "" if ms == 0 else f" ({ms} ms)"
            self.table.row(f"connection cut{path}: first byte again, median", "s", statistics.median(first))
            self.table.row(f"connection cut{path}: worst of {count} nodes", "s", max(first), goal="cut")
            if work:
                self.table.row(f"  without what the node waits{path}, median", "ms", statistics.median(work), digits=1)
            self.table.row(f"  cut again within a minute{path}, median", "s", statistics.median(again))

    def allocations(self):
        for what, number in bench_parts.allocations(self.tool.folder / "allocations.log").items():
            self.table.row(f"allocations per frame: {what}", "", number, digits=3,
                           goal=None if "behind" in what else "allocations")

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

    def big_plane(self, running, *more):
        plane, (address, _, _), lines = running.first_line(
            [self.tool.program, "plane", "--many", "--dir", self.tool.pki(), *more], "plane")
        return plane, address, lines

    def all_in(self, name, nodes, plane, lines, count, began):
        cpu = ticks(plane.pid)
        seen = line_with(lines, [f"up {count}"], SWARM_SECONDS)
        if seen is None:
            raise Fail(f"not all of {count} nodes came in within {SWARM_SECONDS} s", tail(nodes.log))
        self.table.row(name, "s", seen[0] - began, goal="storm", digits=1)
        self.table.row("  plane's CPU for it, per node", "ms", (ticks(plane.pid) - cpu) * 10 / count)


def memory_kib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


def ticks(pid):
    """User and system time in hundredths of a second: over a second, per cent of a core."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))


def dead_path(path, frozen_at, table):
    """When both ends noticed that nothing comes any more, and when the node was back."""
    node = line_with(path.words, ["tunnel-down"], NOTICE_SECONDS)
    seen = {}
    while len(seen) < 2:
        event = line_with(path.lines, ["up", "down"], NOTICE_SECONDS)
        if event is None:
            break
        seen.setdefault(event[1].split()[0], event[0])
    after = lambda at: at and at - frozen_at
    table.row("dead path: noticed by the node", "s", after(node and node[0]), goal="noticed", digits=1)
    table.row("dead path: connected again", "s", after(seen.get("up")), goal="reconnected", digits=1)
    table.row("dead path: the plane's old session over", "s", after(seen.get("down")), goal="reconnected", digits=1)


def busy_cores(seconds=0.5):
    """Cores that others keep busy while we do nothing."""
    def look():
        fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        return sum(fields) - fields[3] - fields[4]
    before = look()
    time.sleep(seconds)
    return (look() - before) / seconds / os.sysconf("SC_CLK_TCK")


def start_peers(tool, stack, folder):
    """Each in its own folder; those that cannot be had are said and left out."""
    found = {}
    for name, make in PEERS.items():
        place = Path(folder) / name.split()[0]
        place.mkdir()
        running = Running(place)
        try:
            found[name] = make(tool, running)
            stack.push(running)
        except Fail as fail:
            running.__exit__()
            warn(f"left out: {name}: {fail}")
    return found


def tunnel(args):
    if args.gate:
        gate_alone()
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
        peers = {} if args.no_peers or not only & WITH_PEERS else start_peers(tool, stack, folder)
        names = ["direct", "rustls", *peers]
        table = Table(args.json, names)
        bench = Bench(tool, table, {"direct": tool.direct, "ours": Ours(tool, running), **peers}, args.quick)
        table.row("cores others kept busy before the run", "cores", busy)
        if "dead-path" in only:
            # Nobody waits for it: it is dead while the others are measured.
            frozen = Ours(tool, running, rtt_ms=0)
            frozen_at = frozen.freeze()
        count = min(1000 if args.quick else 10_000, hard - FILES_BESIDE)
        rows = {
            "throughput": bench.throughput, "latency": bench.latency, "opens": bench.opens,
            "half-close": bench.half_close, "memory": lambda: bench.memory(running),
            "round-trips": lambda: bench.round_trips(
                Ours(tool, running, rtt_ms=40), Ours(tool, running, rtt_ms=150, window_mib=256)),
            "dead-path": lambda: dead_path(frozen, frozen_at, table), "cut": bench.cuts,
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


# What holds on any machine, idle or busy: generous beside what is usually seen, so that only a fault exceeds it.
# Usually seen: 2.3 to 3 times the CPU of plain rustls without a relay, 30 to 46 MiB.
GATES = {"cpu": 4.0, "stalled": 64.0}


def gate(tool, ours):
    """Figures that must hold; a Fail says which does not."""
    unmet = []

    def must(name, value, limit, unit):
        say(f"{name:<60} {value:8.2f} {unit:<6} at most {limit:g}")
        if value > limit:
            unmet.append(f"{name}: {value:.2f} {unit}, at most {limit:g}")
    for direction in ("down", "up"):
        # Each next to its own baseline, and the best of some: others may use the machine for a while.
        ratios = []
        for _ in range(3):
            plain = tool.tls(0.6)["cpu_s_per_gib"]
            got = tool.load("bulk", ours, "--direction", direction, to=ours.bulk_to, seconds=0.8)
            ratios.append(got["cpu_s_per_gib"] / plain)
        must(f"CPU per GiB {direction}, times that of plain rustls", min(ratios), GATES["cpu"], "times")
    stalled = tool.load("stalled", ours, seconds=1.0)
    for end, kib in (("plane", stalled["rss_kib"][0]), ("node", stalled["rss_kib"][-1])):
        must(f"50 + 50 stalled readers: memory of the {end}'s end", kib / MIB, GATES["stalled"], "MiB")
    if unmet:
        raise Fail("the tunnel costs more than it may", "\n".join(unmet))


def gate_alone():
    with tempfile.TemporaryDirectory(prefix="pf9-bench-") as folder, contextlib.ExitStack() as stack:
        program, comms = bench_parts.build(Path(folder) / "build.log")
        running = stack.enter_context(Running(folder))
        tool = Tool(folder, program, comms, running)
        gate(tool, Ours(tool, running))


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

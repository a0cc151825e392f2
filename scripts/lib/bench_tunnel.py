"""scripts/bench tunnel: what the tunnel carries, compared with its peers, in one run on this machine.

Everything goes over loopback: load -> plane's end == TLS 1.3 + websocket == pf9-comms -> target. CPU seconds are user
and system time of the two ends only, over the interval in which the bytes were counted at the far end.
"down" is plane to node. Peers run with their defaults on the same path; an unavailable one is named with the reason.
Gbit/s depend on other users of the machine (load, target and both ends share its cores): ratios and CPU seconds do not.

"part of plain rustls" compares with two threads that have the machine to themselves; on few cores load and target use
a good part of them. "what these cores allow" is what a relay of no cost could carry beside them, computed from
results of the same run: cores / (CPU s/GiB of plain rustls + of two plain sockets), and no more than plain rustls.

With a round trip, a relay is between the two ends, also for peers: between haproxy and haproxy, stunnel and stunnel,
ssh and sshd, bore and its server. TCP ends at the relay: its handshakes cost nothing there and its windows never fill,
so the result is what the ends make of the delay; a peer that leaves flow control to TCP does better there than on a real path.

Only ssh has one connection that can die like ours; others have one per stream. "dead path": ServerAliveInterval=8,
ServerAliveCountMax=2 and the same for ClientAlive (ours: a ping every 8 s, by default), ssh restarted after 5 s; "cut":
restarted after 0.1 s, as systemd would. Our node waits a random time before it reconnects, so that a fleet spreads.

"calls" counts system calls with strace, which slows both ends: compare its columns with each other only. docs/protocol.md, 11,
has what was tried to make them fewer, also what did not help.

"allocations" counts what both ends allocate, in one thread and without the load tool: 64 MiB in frames of 32 KiB (16
for the protocol alone) after as many uncounted ones, without TLS unless a row says so.
"""
import argparse
import contextlib
import itertools
import json
import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from subprocess import PIPE

from bench_parts import (MIB, PEERS, Ours, Peers, Running, Tool, allocations, free, installed, line_with, memory_kib,
                         reader, ticks)
from common import Fail, run, say, tail, wait_for, warn

SETTLE = 0.1
SWARM_SECONDS = 240
NOTICE_SECONDS = 45
# Hosts of the real plane, each of which has to be enrolled first; scripts/bench plane has more of them, and what they cost.
REAL_SWARM = 2000
# docs/protocol.md, 5 and 7: what an end may hold for one session: initial windows reduce the pool,
# and one stream alone gets 4/5 of that; data queued per stream. And the program itself.
CAP_MIB, FLOORS_MIB, SHARE, SEND_BUFFER_MIB, PROGRAM_MIB = 64, 32, 4 / 5, 96 / 1024, 15
# Readers that stall, each way, once windows have grown, which they only do behind a round trip: 60 to 64 MiB is seen.
STALLED, GROW_SECONDS = 50, 2.5
STALLED_MIB = CAP_MIB + STALLED * SEND_BUFFER_MIB + PROGRAM_MIB
# Multiple of the CPU of plain rustls without a relay, best of three: 1.6 to 2.3 was seen, idle and with both cores kept
# busy by others. While plain rustls takes up to 0.6 s/GiB this is below the 2.0 s/GiB that the tunnel must never cost.
CPU_TIMES = 3.3
# Ping intervals: the default, and the one of the row for faster detection.
PING_SECONDS, SHORT_PING_SECONDS = 8, 5
# name: (better, goal); `<` is at most, `>` is at least.
GOALS = {
    "ratio": (">", 0.65), "beside p50": ("<", 0.5), "beside p99": ("<", 10.0), "beside share": (">", 0.9),
    "opens 16": (">", 5000), "opens 40 ms": (">", 377), "150 ms": (">", 5.0), "idle all": ("<", 36),
    "idle stream": ("<", 8), "start": ("<", 15), "stalled": ("<", 64), "stalled p99": ("<", 10.0),
    "reconnected": ("<", 25), "noticed": ("<", 20), "storm": ("<", 120), "exact": (">", 1), "allocations": ("<", 0.0),
    # The longest first wait of a node, and as much again for a handshake beside others.
    "cut": ("<", 1.5),
    # The last ping until the unanswered one: half an interval on average; two and a half more, and the first wait.
    "reconnected 5 s": ("<", 12),
    # Share of the promised memory that may still be unreported: an eighth at most.
    "150 ms cap": (">", 0.85),
    "after bulk": ("<", 1.0), "stalled grown": ("<", round(STALLED_MIB, 1)),
}
# Ours relative to a peer's result of the same run: what only a fast machine meets is no goal. (better, times, peers: the
# best of the available ones).
TLS = ("haproxy", "stunnel", "openssh")
RATIOS = {
    "1 stream": ((">", 1.2, ("haproxy",)), (">", 0.9, ("bore (plain)",))), "8 streams": ((">", 1.1, TLS),),
    "cpu": (("<", 0.75, ("haproxy",)),), "echo": (("<", 0.85, ("haproxy",)),), "40 ms": ((">", 1.0, ("haproxy",)),),
}
# Groups that need much of a machine, a build or a tracer: the other rows are useful without them. No peer has the first.
WITHOUT_PEERS = {"allocations", "swarm"}
MAY_FAIL = WITHOUT_PEERS | {"calls"}
# Whose system calls are counted beside ours, and their kinds.
TRACED = ("haproxy", "stunnel")
CALLS = {
    "reads": ("read", "readv", "recvfrom", "recvmsg"), "writes": ("write", "writev", "sendto", "sendmsg"),
    "waits": ("epoll_wait", "epoll_pwait", "poll", "ppoll"), "wake-ups": ("futex",),
}
# A directory in memory, if there is one.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
# Open files of a process besides the sockets of its nodes.
FILES_BESIDE = 200
WAYS = ("down", "up")


def part(key, of=1):
    return lambda answer: answer[key] and answer[key] / of if of != 1 else answer[key]


GBIT, CPU, P50_US, P99_US = part("gbit"), part("cpu_s_per_gib"), part("p50_us"), part("p99_us")
P50_MS, P99_MS, PER_SECOND = part("p50_us", 1000), part("p99_us", 1000), part("per_second")


def counted(number, what):
    return f"{number} {what}{'s' if number > 1 else ''}"


def bulk(way, streams):
    return "--direction", way, "--streams", streams


def shorten(value, digits):
    if value is None or isinstance(value, int):
        return value
    return round(value) if digits == 0 or abs(value) >= 1000 else round(value, digits)


class Bench:
    """Runs the load tool on each path in turn; a row is in columns for people, or one JSON object per line."""

    def __init__(self, tool, paths, as_json, quick):
        self.tool, self.paths, self.as_json, self.quick = tool, paths, as_json, quick
        self.seconds, self.rounds, self.warm = (0.5, 1, 0.15) if quick else (1.2, 3, 0.3)
        self.names, self.titled, self.unmet, self.broken = [n for n in paths if n != "ours"], [], [], {}
        self.names.insert(1, "rustls")

    def on(self, paths):
        """The same on other paths."""
        other = Bench(self.tool, paths, self.as_json, self.quick)
        other.names, other.titled, other.unmet, other.broken = self.names, self.titled, self.unmet, self.broken
        return other

    def all(self, verb, *more, picks, rounds=None, only=None, bulk=False, **how):
        """Medians over the rounds, paths in turns: for each pick {path: value}, where available."""
        got = [{} for _ in picks]
        for _, name in itertools.product(range(rounds or self.rounds), only or self.paths):
            path, how = self.paths[name], {"seconds": self.seconds, "warm": self.warm, **how}
            try:
                answer = self.tool.load(verb, path, *more, to=path.bulk_to if bulk else None, **how)
                for values, value in zip(got, [pick(answer) for pick in picks]):
                    values.setdefault(name, []).extend([] if value is None else [value])
            except Fail as fail:
                self.broken.setdefault(name, f"{verb} {' '.join(map(str, more))}: {fail}")
            time.sleep(SETTLE)
        return [{name: median(found) for name, found in values.items() if found} for values in got]

    def put(self, name, unit, values, goal=None, digits=2):
        self.row(name, unit, values.get("ours"), {n: v for n, v in values.items() if n != "ours"}, goal, digits)

    def row(self, name, unit, ours, peers=None, goal=None, digits=2):
        better, target = GOALS[goal] if isinstance(goal, str) else goal or (None, None)
        peers = {key: shorten(value, digits) for key, value in (peers or {}).items() if value is not None}
        ours = shorten(ours, digits)
        met = None if target is None or ours is None else (ours <= target if better == "<" else ours >= target)
        if met is False:
            self.unmet.append(name)
        if self.as_json:
            say(json.dumps({"name": name, "unit": unit, "ours": ours, "peers": peers, "target": target, "met": met}))
            return
        if not self.titled:
            self.titled.append(True)
            say(f"{'':<46}{'ours':>9} {'unit':<9} {'goal':<10}{'':<9}" + "".join(f"{n:>13}" for n in self.names))
        goal = "" if target is None else f"{better}= {target:g}"
        mark = {True: "met", False: "NOT MET", None: ""}[met]
        others = "".join(f"{peers.get(n, '-'):>13}" for n in self.names)
        say(f"{name:<46}{'-' if ours is None else ours:>9} {unit:<9} {goal:<10}{mark:<9}{others}")

    def ratios(self, name, values, goal):
        """Ours compared with the best of the peers that a goal names, with both numbers."""
        for better, times, peers in RATIOS[goal]:
            found = {peer: values[peer] for peer in peers if values.get(peer)}
            if found and values.get("ours"):
                peer = (max if better == ">" else min)(found, key=found.get)
                whose = f"{shorten(values['ours'], 2)} / {shorten(found[peer], 2)} of {peer}"
                self.row(f"  {name}: {whose}", "times", values["ours"] / found[peer], goal=(better, times))

    def fresh(self, running):
        """On an idle new node, and with the peers' memory as it is."""
        peers = {} if self.quick else {n: path for n, path in self.paths.items() if n not in ("ours", "direct")}
        return self.on({"ours": Ours(self.tool, running), **peers})


def throughput(b):
    plain = [b.tool.tls(b.seconds) for _ in range(b.rounds)]
    rustls, cost = (median(map(pick, plain)) for pick in (GBIT, CPU))
    alone, costs = {}, []
    for streams, way in itertools.product((1, 8), WAYS):
        # In a quick run peers are measured in one direction each.
        only = ["ours"] if b.quick and (way, streams) in (("up", 1), ("down", 8)) else None
        gbit, cpu = b.all("bulk", *bulk(way, streams), bulk=True, only=only, picks=(GBIT, CPU))
        alone[way, streams] = gbit.get("ours")
        what = f"{way}, {counted(streams, 'stream')}"
        b.put(what, "Gbit/s", {**gbit, "rustls": rustls if streams == 1 else None})
        b.ratios(what, gbit, counted(streams, "stream"))
        costs.append((what, {**cpu, "direct": None, "rustls": cost if streams == 1 else None}))
    for what, values in costs:
        b.put(f"CPU seconds per GiB: {what}", "s/GiB", values)
        b.ratios(f"CPU {what}", values, "cpu")
    # A relay that costs nothing: plain rustls has the machine to itself, without real sources and sinks;
    # a relay's bytes come from one socket and go to another, whose other ends (load and target) share the same cores. So a
    # GiB costs the rustls of both ends and two sockets; no end has more than a thread for one stream's TLS either.
    socket = median(CPU(b.tool.tls(b.seconds, "--plain")) for _ in range(b.rounds))
    allowed = min(rustls, len(os.sched_getaffinity(0)) / (cost + 2 * socket) * 2**33 / 1e9)
    for of, goal, base in (("plain rustls", "ratio", rustls), ("what these cores allow", None, allowed)):
        if goal is None:
            b.row("what these cores allow a relay that costs nothing", "Gbit/s", None, {"rustls": allowed})
        for way in WAYS:
            ours = alone[way, 1]
            b.row(f"1 stream {way}: part of {of}", "ratio", ours and ours / base, goal=goal)


def latency(b):
    p50, p99 = b.all("echo", picks=(P50_US, P99_US))
    b.put("echo, 64 bytes: p50", "us", p50, digits=0)
    b.ratios("echo p50", p50, "echo")
    b.put("echo, 64 bytes: p99", "us", p99, digits=0)
    for way, streams in (("down", 4), ("up", 4), ("down", 1)):
        what = f"{counted(streams, 'bulk stream')} {way}"
        alone = b.all("bulk", *bulk(way, streams), only=["ours"], bulk=True, picks=(GBIT,))[0].get("ours")
        beside = [{}, {}, {}]
        for name, path in b.paths.items():
            if name == "ours" or not (b.quick and way == "up"):
                got = b.all("echo", "--bulk-to", path.bulk_to, *bulk(way, streams), only=[name], picks=(P50_MS, P99_MS, GBIT))
                for values, one in zip(beside, got):
                    values.update(one)
        b.put(f"echo beside {what}: p50", "ms", beside[0], "beside p50")
        b.put(f"echo beside {what}: p99", "ms", beside[1], "beside p99")
        ours = beside[2].get("ours")
        b.row(f"  {what} beside the echo, part of alone", "ratio", ours and alone and ours / alone, goal="beside share")
        same = b.all("echo", *bulk(way, streams), only=["ours"], picks=(P99_MS,))[0]
        b.row(f"  same, echo and {what} of one class: p99", "ms", same.get("ours"))


def calls(b):
    """A call that found nothing counts, too."""
    installed("strace")
    for way, streams in itertools.product(WAYS, (1, 8)):
        what = f"{counted(streams, 'stream')} {way}"
        got = {name: traced(b.tool, b.paths[name], way, streams) for name in ("ours", *TRACED) if name in b.paths}
        b.put(f"system calls for a MiB, both ends, {what}", "1/MiB", {
            name: sum(sum(end.values()) for end in ends) for name, ends in got.items()}, digits=0)
        for end, made in zip(("plane", "node"), got["ours"]):
            kinds = {kind: sum(made[call] for call in names if call in made) for kind, names in CALLS.items()}
            kinds["others"] = sum(made.values()) - sum(kinds.values())
            b.row(f"  {end}: " + ", ".join(f"{number:.0f} {kind}" for kind, number in kinds.items()), "1/MiB",
                  sum(made.values()), digits=0)


def traced(tool, path, way, streams):
    """{call: times for a MiB} of each process of a path while bulk moves."""
    with tempfile.TemporaryDirectory(dir=tool.folder) as folder:
        files = {pid: Path(folder) / str(pid) for pid in path.pids()}
        with Running(folder) as running:
            for pid, file in files.items():
                running.start(["strace", "-c", "-f", "-U", "name,calls", "-o", file, "-p", pid], "strace")
            for pid in files:
                wait_for(f"strace of {pid}", lambda: "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text(), 10, 0.01)
            mib = tool.load("bulk", path, *bulk(way, streams), to=path.bulk_to, warm=0)["bytes"] / 2**20
        rows = [[line.split() for line in file.read_text().splitlines()] for file in files.values()]
        return [{row[0]: int(row[1]) / mib for row in found if len(row) == 2 and row[1].isdigit() and row[0] != "total"}
                for found in rows]


def opens(b):
    for callers in (1, 16):
        got, = b.all("opens", "--callers", callers, only=["ours"] if b.quick and callers == 1 else None, picks=(PER_SECOND,))
        b.put(f"new streams, {counted(callers, 'caller')}", "1/s", got, "opens 16" if callers == 16 else None, 0)


def half_close(b):
    exact, = b.all("half-close", rounds=1, seconds=1, picks=(lambda r: int(r["client_first"] and r["target_first"]),))
    b.put("half-close exact, both ways", "yes=1", exact, "exact")


def memory(b, running):
    here, streams = b.fresh(running), 1000
    b.row("RSS of pf9-comms, one session", "MiB", memory_kib(here.paths["ours"].pids()[-1]) / MIB, goal="start")
    b.row("size of pf9-comms on disk", "MiB", b.tool.comms.stat().st_size / MIB**2)
    both, each = here.all("idle", "--count", streams, rounds=1, seconds=1, picks=(
        lambda r: sum(r["rss_kib"]) / MIB, lambda r: max(b - a for a, b in zip(r["before_kib"], r["rss_kib"])) / streams))
    b.put(f"RSS of both ends, {streams} idle streams", "MiB", both, "idle all", 1)
    b.row("  memory of an idle stream and side", "KiB", each.get("ours"), goal="idle stream")
    plane, node, p99, share = here.all("stalled", rounds=1, seconds=max(1.0, b.seconds), picks=(
        lambda r: r["rss_kib"][0] / MIB, lambda r: r["rss_kib"][-1] / MIB, P99_MS,
        lambda r: r["gbit_beside"] / max(0.001, r["gbit_before"])))
    b.put("50 + 50 stalled readers: RSS, plane's end", "MiB", plane, "stalled", 1)
    b.put("50 + 50 stalled readers: RSS, node's end", "MiB", node, "stalled", 1)
    b.put("  echo beside them: p99", "ms", p99, "stalled p99")
    b.put("  1 bulk stream beside them, part of before", "ratio", share)
    # What both ends retain after 8 streams moved all they could, each way.
    here, kept = b.fresh(running), {}
    for name, path in here.paths.items():
        moved = [here.all("bulk", *bulk(way, 8), only=[name], rounds=1, bulk=True, picks=(part("bytes"),))[0] for way in WAYS]
        if all(found.get(name) for found in moved):
            kept[name] = sum(map(memory_kib, path.pids())) / MIB
    b.put("RSS of both ends after 8 bulk streams each way", "MiB", kept, digits=1)
    # Each end alone, behind 40 ms: only there windows grow to their limit.
    slow = Ours(b.tool, running, rtt_ms=40)
    for way in WAYS:
        b.tool.load("bulk", slow, *bulk(way, 8), to=slow.bulk_to, warm=1.2, seconds=b.seconds)
    most = max(map(memory_kib, slow.pids())) / MIB
    b.row("40 ms, 8 bulk streams each way: RSS, larger end", "MiB", most, digits=1)
    b.row("  part of its cap of 64 MiB", "ratio", most / CAP_MIB, goal="after bulk")
    for end, mib in stalled(b.tool, Ours(b.tool, running, rtt_ms=40)):
        b.row(f"40 ms, 50 + 50 readers stop: RSS, {end}'s end", "MiB", mib, digits=1, goal="stalled grown")


def stalled(tool, slow):
    got = tool.load("stalled", slow, "--grow", GROW_SECONDS, "--each", STALLED, to=slow.bulk_to, seconds=0.5)["rss_kib"]
    return ("plane", got[0] / MIB), ("node", got[-1] / MIB)


def round_trips(b, running, peers):
    """40 ms with defaults; 150 ms with defaults down, and with a larger cap at the plane's end up."""
    for ms, window, warm, peers_warm in ((40, None, 1.2, 0.6), (150, 256, 3.5, 1.0)):
        here = b.on({"ours": Ours(b.tool, running, rtt_ms=ms, window_mib=window), **peers.at(ms)})
        others = [name for name in here.paths if name != "ours"]
        for way, streams in (("down", 1), ("up", 1), ("up", 8)):
            # Whole round trips: windows arrive in bursts, an interval may hold one more or less.
            how = {"bulk": True, "rounds": 1, "seconds": max(0.8, b.seconds, ms / 100), "picks": (GBIT,)}
            got, = here.all("bulk", *bulk(way, streams), only=["ours"], warm=warm, **how)
            if others and streams == 1 and not (b.quick and way == "up"):
                got |= here.all("bulk", *bulk(way, streams), only=others, warm=peers_warm, **how)[0]
            note = "" if ms == 40 else (", default cap" if way == "down" else ", cap 256 MiB")
            what = f"{counted(streams, 'stream')} {way}{note}"
            here.put(f"{ms} ms round trip, {what}", "Gbit/s", got, "150 ms" if (ms, way, streams) == (150, "up", 1) else None)
            if ms == 40 and streams == 1:
                here.ratios(f"40 ms, {what}", got, "40 ms")
            if ms == 150 and way == "down":
                allowed = (CAP_MIB - FLOORS_MIB) * SHARE * 2**20 * 8 / 0.150 / 1e9
                b.row("  part of what the default cap allows", "ratio", got.get("ours") and got["ours"] / allowed, goal="150 ms cap")
            time.sleep(ms / 1000)
        new, first = here.all("opens", "--callers", 16, rounds=1, seconds=max(1.5, b.seconds), picks=(PER_SECOND, P50_MS),
                              only=["ours"] if b.quick and ms == 150 else None)
        here.put(f"{ms} ms round trip, new streams, 16 callers", "1/s", new, "opens 40 ms" if ms == 40 else None, 0)
        here.put(f"{ms} ms round trip, first byte of a new stream", "ms", first, digits=0)


class DeadPaths:
    """Dead from the beginning of the run: both ends' logs are read at its end."""

    def __init__(self, b, running, peers):
        self.path = Ours(b.tool, running, rtt_ms=0)
        self.frozen = self.path.delay.freeze()
        # The handshakes of one that is restarted while its port is still taken would disturb the other rows.
        self.ssh = peers.one("openssh", 0, alive_s=PING_SECONDS, pause=5)
        self.ssh_frozen = self.ssh and self.ssh.delay.freeze()
        # The time of the last ping is random: one node for each part of the interval.
        self.short = []
        for share in (0.5,) if b.quick else (0.1, 0.3, 0.5, 0.7, 0.9):
            path, frozen = Ours(b.tool, running, rtt_ms=0, ping_s=SHORT_PING_SECONDS), []
            timer = threading.Timer(SHORT_PING_SECONDS * (1 + share), lambda p=path, f=frozen: f.append(p.delay.freeze()))
            timer.daemon = True
            timer.start()
            self.short.append((timer, path, frozen))

    def rows(self, b):
        theirs = (None, None, None)
        if self.ssh:
            gone, up, down = (line_with(lines, [words], NOTICE_SECONDS) for lines, words in (
                (self.ssh.words, "Timeout, server"), (self.ssh.words, "remote forward success"), (self.ssh.lines, "Timeout, client")))
            theirs = [found and found[0] - self.ssh_frozen for found in (gone, gone and up, down)]
        rows = (("noticed by the node", "noticed"), ("connected again", "reconnected"), ("the plane's old session over", "reconnected"))
        for (what, goal), ours, ssh in zip(rows, self.seen(self.path, self.frozen), theirs):
            b.row(f"dead path: {what}", "s", ours, {"openssh": ssh}, goal, 1)
        again = []
        for timer, path, frozen in self.short:
            timer.join(NOTICE_SECONDS)
            again += [self.seen(path, at)[1] for at in frozen]
        again = [seconds for seconds in again if seconds is not None]
        b.row("dead path, ping of 5 s: connected again, median", "s", median(again) if again else None, None, "reconnected 5 s", 1)

    @staticmethod
    def seen(path, frozen):
        """Seconds until the node noticed, was up again, and the plane noticed; None for what never happened."""
        node, seen = line_with(path.words, ["tunnel-down"], NOTICE_SECONDS), {}
        while len(seen) < 2 and (event := line_with(path.lines, ["up", "down"], NOTICE_SECONDS)):
            seen.setdefault(event[1].split()[0], event[0])
        return [at and at - frozen for at in (node and node[0], seen.get("up"), seen.get("down"))]


def cuts(b, peers):
    """The connection is reset. A node separates its wait (random, so that a fleet spreads) from its
    work. Each node is cut once after its start, as after a healthy minute, and immediately once more."""
    def cut(path):
        return b.tool.load("cut", path, "--relay", path.delay.control)["first_byte_s"]
    for ms, count in ((0, 3 if b.quick else 9), (40, 2 if b.quick else 5)):
        times, work, theirs = ([], []), [], []
        with Running(tempfile.mkdtemp(dir=b.tool.folder, prefix="cut-")) as running:
            for _ in range(count):
                ours = Ours(b.tool, running, rtt_ms=ms)
                for those in times:
                    those.append(cut(ours))
                    waited = ours.waited()
                    work += [] if waited is None else [(those[-1] - waited) * 1000]
        # Restarted 0.1 s after it ended, as systemd does by default; it never waits longer.
        ssh = peers.one("openssh", ms, pause=0.1)
        try:
            theirs += (cut(ssh) for _ in range(count if ssh else 0))
        except Fail as fail:
            b.broken["openssh"] = f"cut: {fail}"
        path, (first, again) = "" if ms == 0 else f" ({ms} ms)", times
        b.row(f"connection cut{path}: first byte again, median", "s", median(first), {"openssh": median(theirs) if theirs else None})
        b.row(f"connection cut{path}: worst of {count} nodes", "s", max(first), {"openssh": max(theirs, default=None)}, "cut")
        if work:
            b.row(f"  without what the node waits{path}, median", "ms", median(work), digits=1)
        b.row(f"  cut again within a minute{path}, median", "s", median(again))


def per_frame(b):
    """Both ends in one thread; with TLS below, TLS' own allocations are listed beside it."""
    for what, (number, size) in allocations(b.tool.folder / "allocations.log").items():
        b.row(f"allocations per frame: {what}", "", number, None, None if "behind" in what or "TLS" in what else "allocations", 3)
        b.row(f"  bytes of them: {what}", "bytes", size, digits=0)


def swarm(b, running, count):
    """A plane with very many nodes: all connect at once, stay idle, and reconnect when their plane is killed."""
    program, pki = b.tool.program, b.tool.pki

    def all_in(name, plane, lines, number, began, goal=None):
        cpu = ticks(plane.pid)
        seen = line_with(lines, [f"up {number}"], SWARM_SECONDS)
        if seen is None:
            raise Fail(f"not all of {number} nodes came in within {SWARM_SECONDS} s", tail(nodes.log))
        b.row(name, "s", seen[0] - began, None, goal, 1)
        b.row("  plane's CPU for it, per node", "ms", (ticks(plane.pid) - cpu) * 10 / number)
        b.row("  plane's memory meanwhile, at most", "MiB", memory_kib(plane.pid, "VmHWM") / MIB, digits=1)

    def over(process):
        process.kill()
        process.wait()
    many = [program, "plane", "--many", "--dir", pki]
    plane, (address, *_), lines = running.first_line(many, "plane")
    before, began = memory_kib(plane.pid), time.monotonic()
    nodes = running.start([program, "swarm", "--dir", pki, "--plane", address, "--count", count], "swarm")
    all_in(f"{count} nodes at once: all connected after", plane, lines, count, began, "storm")
    time.sleep(1)
    b.row(f"  plane's memory per idle node ({count})", "KiB", (memory_kib(plane.pid) - before) / count)
    cpu, seconds = ticks(plane.pid), 2 if b.quick else 17
    time.sleep(seconds)
    b.row(f"  plane's CPU with {count} idle nodes", "% core", (ticks(plane.pid) - cpu) / seconds)
    began = time.monotonic()
    over(plane)
    plane, _, lines = running.first_line([*many, "--listen", address], "plane")
    all_in(f"{count} nodes, plane killed and started: all back", plane, lines, count, began, "storm")
    over(nodes)
    # The same with pf9-plane itself, which looks every node up in its store. The store is in memory: disks are not
    # measured here.
    count = min(REAL_SWARM, count // 2)
    with tempfile.TemporaryDirectory(prefix="pf9-bench-", dir=MEMORY) as state:
        address, hosts = "{}:{}".format(*free()), Path(state) / "hosts"
        serve = [program.with_name("pf9-plane"), "serve", "--state-dir", state, "--listen", address]
        plane, _, _ = running.first_line(serve, "pf9-plane")
        run([program, "enrol", "--state", state, "--plane", address, "--count", count, "--out", hosts], timeout=SWARM_SECONDS)
        before, began = memory_kib(plane.pid), time.monotonic()
        nodes = running.start([program, "swarm", "--dir", state, "--plane", address, "--hosts", hosts], "swarm", stdout=PIPE)
        lines = reader(nodes.stdout)
        all_in(f"pf9-plane, {count} nodes at once: all connected", plane, lines, count, began)
        b.row(f"  its memory per idle node ({count})", "KiB", (memory_kib(plane.pid) - before) / count)
        began = time.monotonic()
        over(plane)
        # All know both: they reconnect to the new one.
        line_with(lines, ["up 0"], SWARM_SECONDS)
        plane, _, _ = running.first_line(serve, "pf9-plane")
        all_in(f"pf9-plane, {count} nodes, killed and started: all", plane, lines, count, began)
        over(nodes)
        over(plane)


def gate(b, ours, slow):
    """The few results that hold on any machine, idle or busy; a Fail says which one does not."""
    unmet = []

    def must(name, value, limit, unit):
        say(f"{name:<60} {value:8.2f} {unit:<6} at most {limit:.4g}")
        unmet.extend([f"{name}: {value:.2f} {unit}, at most {limit:.4g}"] if value > limit else [])
    for way in WAYS:
        # Each next to its own baseline, and the best of several: others may use the machine for a while.
        ratios = [CPU(b.load("bulk", ours, "--direction", way, to=ours.bulk_to, seconds=0.8)) / plain
                  for plain in (CPU(b.tls(0.6)) for _ in range(3))]
        must(f"CPU per GiB {way}, times that of plain rustls", min(ratios), CPU_TIMES, "times")
    for end, mib in stalled(b, slow):
        must(f"{STALLED} + {STALLED} readers stop, 40 ms: memory of the {end}'s end", mib, STALLED_MIB, "MiB")
    if unmet:
        raise Fail("the tunnel costs more than it may", "\n".join(unmet))


def busy_cores(seconds=0.5):
    """Cores that others keep busy while we are idle."""
    def look():
        fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        return sum(fields) - fields[3] - fields[4]
    before = look()
    time.sleep(seconds)
    return (look() - before) / seconds / os.sysconf("SC_CLK_TCK")


# Rows that belong together, in order: a function of the run's parts.
GROUPS = {
    "throughput": lambda r: throughput(r.bench), "latency": lambda r: latency(r.bench), "calls": lambda r: calls(r.bench),
    "opens": lambda r: opens(r.bench), "half-close": lambda r: half_close(r.bench), "memory": lambda r: memory(r.bench, r.running),
    "round-trips": lambda r: round_trips(r.bench, r.running, r.peers), "dead-path": lambda r: r.dead.rows(r.bench),
    "cut": lambda r: cuts(r.bench, r.peers), "allocations": lambda r: per_frame(r.bench),
    "swarm": lambda r: swarm(r.bench, r.running, r.count),
}


def tunnel(args):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="pf9-bench-") as folder, contextlib.ExitStack() as stack:
        r = argparse.Namespace(running=stack.enter_context(Running(folder)))
        tool = Tool(folder, r.running)
        if args.gate:
            gate(tool, Ours(tool, r.running), Ours(tool, r.running, rtt_ms=40))
            return
        busy, load, only = busy_cores(), os.getloadavg()[0], set(args.only or GROUPS)
        r.peers = Peers(tool, stack, () if args.no_peers or not only - WITHOUT_PEERS else PEERS)
        r.bench = Bench(tool, {"direct": tool.direct, "ours": Ours(tool, r.running), **r.peers.at(None)}, args.json, args.quick)
        r.bench.row("cores others kept busy before the run", "cores", busy)
        if "dead-path" in only:
            # Nobody waits for it: it is dead while the others are measured.
            r.dead = DeadPaths(r.bench, r.running, r.peers)
        r.count = min(1000 if args.quick else 10_000, hard - FILES_BESIDE)
        for group in filter(only.__contains__, GROUPS):
            try:
                GROUPS[group](r)
            except Fail as fail:
                if group not in MAY_FAIL:
                    raise
                warn(f"left out: {group}: {fail}")
        for name, why in r.bench.broken.items():
            warn(f"{name}: {why}")
        after = busy_cores()
    if max(busy, after) > 0.3:
        warn(f"others used this machine: {busy:.1f} cores before, {after:.1f} after (load average {load:.1f} at the "
             "start): do not compare Gbit/s and latencies with other runs, only columns and CPU seconds")
    if r.bench.unmet:
        warn(f"{len(r.bench.unmet)} goals not met: " + "; ".join(r.bench.unmet))


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

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

"swarm" is the tunnel alone with very many nodes; `scripts/bench plane` has the same of pf9-plane with its store.
"""
import argparse
import contextlib
import itertools
import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from bench_parts import MIB, PEERS, Columns, Ours, Peers, Running, Tool, allocations, installed, line_with, memory_kib, ticks
from bench_plane import FILES_BESIDE, Fleet
from common import Fail, say, wait_for, warn

SETTLE = 0.1
NOTICE_SECONDS = 45
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
RATIOS = {
    "1 stream": ((">", 1.2, ("haproxy",)), (">", 0.9, ("bore (plain)",))),
    "8 streams": ((">", 1.1, ("haproxy", "stunnel", "openssh")),), "CPU": (("<", 0.75, ("haproxy",)),),
    "echo": (("<", 0.85, ("haproxy",)),), "40 ms": ((">", 1.0, ("haproxy",)),),
}
# Whose system calls are counted beside ours, and their kinds.
TRACED = ("haproxy", "stunnel")
CALLS = {
    "reads": ("read", "readv", "recvfrom", "recvmsg"), "writes": ("write", "writev", "sendto", "sendmsg"),
    "waits": ("epoll_wait", "epoll_pwait", "poll", "ppoll"), "wake-ups": ("futex",),
}
WAYS = ("down", "up")
MS = 1000  # of us


def counted(number, what):
    return f"{number} {what}{'s' if number > 1 else ''}"


def bulk(way, streams):
    return "--direction", way, "--streams", streams


def medians(answers):
    """Of each number of the answers; of what is none, the last."""
    def one(key):
        numbers = [answer[key] for answer in answers if isinstance(answer[key], (int, float))]
        return median(numbers) if numbers else answers[-1][key]
    return {key: one(key) for key in answers[-1]}


def ours_of(got):
    return {name: answer for name, answer in got.items() if name == "ours"}


class Bench(Columns):
    """Runs the load tool on each path in turn, and tells a row of what came of it."""

    def __init__(self, args, tool, running, peers):
        self.tool, self.running, self.quick, self.peers, self.broken = tool, running, args.quick, peers, {}
        self.seconds, self.rounds, self.warm = (0.5, 1, 0.15) if self.quick else (1.2, 3, 0.3)
        self.paths = {"direct": tool.direct, "ours": Ours(tool, running), **peers.at(None)}
        super().__init__(args.json, ["direct", "rustls", *peers.names])

    def measure(self, verb, *words, only=None, on=None, to_bulk=False, rounds=None, **how):
        """{path: its answer, each number the median of its rounds}, paths in turns; without those that failed."""
        paths, got, how = on or self.paths, {}, {"seconds": self.seconds, "warm": self.warm, **how}
        for _, name in itertools.product(range(rounds or self.rounds), only or paths):
            path = paths[name]
            beside = ["--bulk-to", path.bulk_to] if to_bulk == "beside" else []
            try:
                answer = self.tool.load(verb, path, *words, *beside, to=path.bulk_to if to_bulk is True else None, **how)
                got.setdefault(name, []).append(answer)
            except Fail as fail:
                self.broken.setdefault(name, f"{verb} {' '.join(map(str, words))}: {fail}")
            time.sleep(SETTLE)
        return {name: medians(answers) for name, answers in got.items()}

    def put(self, name, unit, got, value, goal=None, digits=2, per=1, ratio=None):
        """A row of each path's `value` (a key of its answer, or a function), and one for each peer that ours is compared with."""
        values = {path: value(answer) if callable(value) else answer[value] for path, answer in got.items()}
        values = {path: each if per == 1 or each is None else each / per for path, each in values.items()}
        ours = values.pop("ours", None)
        self.row(name, unit, ours, values, GOALS.get(goal), digits)
        for better, times, names in RATIOS.get(ratio, ()):
            found = {peer: values[peer] for peer in names if values.get(peer)}
            if found and ours:
                peer = (max if better == ">" else min)(found, key=found.get)
                of = f"{self.short(ours)} / {self.short(found[peer])} of {peer}"
                self.row(f"  {name}: {of}", "times", ours / found[peer], goal=(better, times))

    def own(self, name, unit, value, goal=None, digits=2):
        self.row(name, unit, value, goal=GOALS.get(goal), digits=digits)

    def fresh(self):
        """An idle new node, and the peers with their memory as it is."""
        peers = {} if self.quick else {n: path for n, path in self.paths.items() if n not in ("ours", "direct")}
        return {"ours": Ours(self.tool, self.running), **peers}


def throughput(b):
    plain, alone = medians([b.tool.tls(b.seconds) for _ in range(b.rounds)]), {}
    for streams, way in itertools.product((1, 8), WAYS):
        what, of = f"{way}, {counted(streams, 'stream')}", {"rustls": plain} if streams == 1 else {}
        # In a quick run peers are measured in one direction each.
        only = ["ours"] if b.quick and (way, streams) in (("up", 1), ("down", 8)) else None
        got = b.measure("bulk", *bulk(way, streams), to_bulk=True, only=only)
        alone[way, streams] = got.get("ours", {}).get("gbit")
        b.put(what, "Gbit/s", {**got, **of}, "gbit", ratio=counted(streams, "stream"))
        got.pop("direct", None)
        b.put(f"CPU seconds per GiB: {what}", "s/GiB", {**got, **of}, "cpu_s_per_gib", ratio="CPU")
    # A relay that costs nothing: plain rustls has the machine to itself, without real sources and sinks;
    # a relay's bytes come from one socket and go to another, whose other ends (load and target) share the same cores. So a
    # GiB costs the rustls of both ends and two sockets; no end has more than a thread for one stream's TLS either.
    socket = medians([b.tool.tls(b.seconds, "--plain") for _ in range(b.rounds)])["cpu_s_per_gib"]
    cost = plain["cpu_s_per_gib"] + 2 * socket
    allowed = min(plain["gbit"], len(os.sched_getaffinity(0)) / cost * 2**33 / 1e9)
    b.row("what these cores allow a relay that costs nothing", "Gbit/s", None, {"rustls": allowed})
    for (of, base, goal), way in itertools.product((("plain rustls", plain["gbit"], "ratio"),
                                                    ("what these cores allow", allowed, None)), WAYS):
        ours = alone[way, 1]
        b.own(f"1 stream {way}: part of {of}", "ratio", ours and ours / base, goal)


def latency(b):
    got = b.measure("echo")
    b.put("echo, 64 bytes: p50", "us", got, "p50_us", digits=0, ratio="echo")
    b.put("echo, 64 bytes: p99", "us", got, "p99_us", digits=0)
    for way, streams in (("down", 4), ("up", 4), ("down", 1)):
        what, words = f"{counted(streams, 'bulk stream')} {way}", bulk(way, streams)
        alone = b.measure("bulk", *words, only=["ours"], to_bulk=True).get("ours", {}).get("gbit")
        got = b.measure("echo", *words, only=["ours"] if b.quick and way == "up" else None, to_bulk="beside")
        b.put(f"echo beside {what}: p50", "ms", got, "p50_us", "beside p50", per=MS)
        b.put(f"echo beside {what}: p99", "ms", got, "p99_us", "beside p99", per=MS)
        ours = got.get("ours", {}).get("gbit")
        b.own(f"  {what} beside the echo, part of alone", "ratio", ours and alone and ours / alone, "beside share")
        got = b.measure("echo", *words, only=["ours"])
        b.put(f"  same, echo and {what} of one class: p99", "ms", got, "p99_us", per=MS)


def calls(b):
    """A call that found nothing counts, too."""
    installed("strace")
    for way, streams in itertools.product(WAYS, (1, 8)):
        got = {name: traced(b.tool, b.paths[name], way, streams) for name in ("ours", *TRACED) if name in b.paths}
        b.put(f"system calls for a MiB, both ends, {counted(streams, 'stream')} {way}", "1/MiB", got,
              lambda ends: sum(sum(end.values()) for end in ends), digits=0)
        for end, made in zip(("plane", "node"), got["ours"]):
            kinds = {kind: sum(made.get(call, 0) for call in names) for kind, names in CALLS.items()}
            kinds["others"] = sum(made.values()) - sum(kinds.values())
            b.own(f"  {end}: " + ", ".join(f"{number:.0f} {kind}" for kind, number in kinds.items()), "1/MiB",
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
        got = b.measure("opens", "--callers", callers, only=["ours"] if b.quick and callers == 1 else None)
        b.put(f"new streams, {counted(callers, 'caller')}", "1/s", got, "per_second", f"opens {callers}", 0)


def half_close(b):
    b.put("half-close exact, both ways", "yes=1", b.measure("half-close", rounds=1, seconds=1),
          lambda r: int(r["client_first"] and r["target_first"]), "exact")


def memory(b):
    here, streams = b.fresh(), 1000
    b.own("RSS of pf9-comms, one session", "MiB", memory_kib(here["ours"].pids()[-1]) / MIB, "start")
    b.own("size of pf9-comms on disk", "MiB", b.tool.comms.stat().st_size / MIB**2)
    got = b.measure("idle", "--count", streams, on=here, rounds=1, seconds=1)
    b.put(f"RSS of both ends, {streams} idle streams", "MiB", got, lambda r: sum(r["rss_kib"]) / MIB, "idle all", 1)
    b.put("  memory of an idle stream and side", "KiB", ours_of(got),
          lambda r: max(now - then for then, now in zip(r["before_kib"], r["rss_kib"])) / streams, "idle stream")
    got = b.measure("stalled", on=here, rounds=1, seconds=max(1.0, b.seconds))
    for end, at in (("plane", 0), ("node", -1)):
        b.put(f"50 + 50 stalled readers: RSS, {end}'s end", "MiB", got, lambda r, at=at: r["rss_kib"][at] / MIB, "stalled", 1)
    b.put("  echo beside them: p99", "ms", got, "p99_us", "stalled p99", per=MS)
    b.put("  1 bulk stream beside them, part of before", "ratio", got, lambda r: r["gbit_beside"] / max(0.001, r["gbit_before"]))
    # What both ends retain after 8 streams moved all they could, each way.
    here = b.fresh()
    moved = [b.measure("bulk", *bulk(way, 8), on=here, rounds=1, to_bulk=True) for way in WAYS]
    b.put("RSS of both ends after 8 bulk streams each way", "MiB", {name: here[name] for name in here if all(
        found.get(name) for found in moved)}, lambda path: sum(map(memory_kib, path.pids())) / MIB, digits=1)
    # Each end alone, behind 40 ms: only there windows grow to their limit.
    slow = Ours(b.tool, b.running, rtt_ms=40)
    for way in WAYS:
        b.tool.load("bulk", slow, *bulk(way, 8), to=slow.bulk_to, warm=1.2, seconds=b.seconds)
    most = max(map(memory_kib, slow.pids())) / MIB
    b.own("40 ms, 8 bulk streams each way: RSS, larger end", "MiB", most, digits=1)
    b.own("  part of its cap of 64 MiB", "ratio", most / CAP_MIB, "after bulk")
    for end, mib in stalled(b.tool, Ours(b.tool, b.running, rtt_ms=40)):
        b.own(f"40 ms, 50 + 50 readers stop: RSS, {end}'s end", "MiB", mib, "stalled grown", 1)


def stalled(tool, slow):
    got = tool.load("stalled", slow, "--grow", GROW_SECONDS, "--each", STALLED, to=slow.bulk_to, seconds=0.5)["rss_kib"]
    return ("plane", got[0] / MIB), ("node", got[-1] / MIB)


def round_trips(b):
    """40 ms with defaults; 150 ms with defaults down, and with a larger cap at the plane's end up."""
    for ms, window, warm, peers_warm in ((40, None, 1.2, 0.6), (150, 256, 3.5, 1.0)):
        here = {"ours": Ours(b.tool, b.running, rtt_ms=ms, window_mib=window), **b.peers.at(ms)}
        others = [name for name in here if name != "ours"]
        for way, streams in (("down", 1), ("up", 1), ("up", 8)):
            # Whole round trips: windows arrive in bursts, an interval may hold one more or less.
            how = {"on": here, "to_bulk": True, "rounds": 1, "seconds": max(0.8, b.seconds, ms / 100)}
            got = b.measure("bulk", *bulk(way, streams), only=["ours"], warm=warm, **how)
            if others and streams == 1 and not (b.quick and way == "up"):
                got |= b.measure("bulk", *bulk(way, streams), only=others, warm=peers_warm, **how)
            note = "" if ms == 40 else (", default cap" if way == "down" else ", cap 256 MiB")
            b.put(f"{ms} ms round trip, {counted(streams, 'stream')} {way}{note}", "Gbit/s", got, "gbit",
                  "150 ms" if (ms, way, streams) == (150, "up", 1) else None, ratio=f"{ms} ms" if streams == 1 else None)
            if ms == 150 and way == "down":
                allowed = (CAP_MIB - FLOORS_MIB) * SHARE * 2**20 * 8 / 0.150 / 1e9
                b.put("  part of what the default cap allows", "ratio", ours_of(got), "gbit", "150 ms cap", per=allowed)
            time.sleep(ms / 1000)
        got = b.measure("opens", "--callers", 16, on=here, rounds=1, seconds=max(1.5, b.seconds),
                        only=["ours"] if b.quick and ms == 150 else None)
        b.put(f"{ms} ms round trip, new streams, 16 callers", "1/s", got, "per_second", f"opens {ms} ms", 0)
        b.put(f"{ms} ms round trip, first byte of a new stream", "ms", got, "p50_us", digits=0, per=MS)


class Dead:
    """A path that is frozen after so many seconds, while others are measured: nobody waits for it."""

    def __init__(self, path, seconds=0.0):
        self.path, self.at = path, []
        self.timer = threading.Timer(seconds, lambda: self.at.append(path.delay.freeze()))
        self.timer.daemon = True
        self.timer.start()

    def seen(self, lines, words):
        """When the path's end said any of these words, in seconds since then, and what it said; None, None: it never did."""
        self.timer.join(NOTICE_SECONDS)
        at, line = line_with(lines, words, NOTICE_SECONDS) or (None, None)
        return at and self.at and at - self.at[0], line

    def ours(self):
        """Seconds until the node noticed, was up again, and the plane noticed."""
        node, events = self.seen(self.path.words, ["tunnel-down"])[0], {}
        while len(events) < 2 and (event := self.seen(self.path.lines, ["up", "down"]))[1]:
            events.setdefault(event[1].split()[0], event[0])
        return node, events.get("up"), events.get("down")

    def ssh(self):
        gone, up, down = (self.seen(lines, [words])[0] for lines, words in (
            (self.path.words, "Timeout, server"), (self.path.words, "remote forward success"), (self.path.lines, "Timeout, client")))
        return gone, gone and up, down


def dying(b):
    """Dead from the beginning of the run: both ends' logs are read at its end. The time of the last ping is random: of those
    with a short interval one dies in each part of it."""
    own, shares = Dead(Ours(b.tool, b.running, rtt_ms=0)), (0.5,) if b.quick else (0.1, 0.3, 0.5, 0.7, 0.9)
    # The handshakes of one that is restarted while its port is still taken would disturb the other rows.
    ssh = b.peers.one("openssh", 0, alive_s=PING_SECONDS, pause=5)
    return own, ssh and Dead(ssh), [Dead(Ours(b.tool, b.running, rtt_ms=0, ping_s=SHORT_PING_SECONDS),
                                         SHORT_PING_SECONDS * (1 + share)) for share in shares]


def dead_path(b):
    own, ssh, short = b.dead
    rows = (("noticed by the node", "noticed"), ("connected again", "reconnected"), ("the plane's old session over", "reconnected"))
    for (what, goal), ours, theirs in zip(rows, own.ours(), ssh.ssh() if ssh else (None,) * 3):
        b.row(f"dead path: {what}", "s", ours, {"openssh": theirs}, GOALS[goal], 1)
    again = [seconds for dead in short if (seconds := dead.ours()[1]) is not None]
    b.own("dead path, ping of 5 s: connected again, median", "s", median(again) if again else None, "reconnected 5 s", 1)


def cuts(b):
    """The connection is reset. A node separates its wait (random, so that a fleet spreads) from its
    work. Each node is cut once after its start, as after a healthy minute, and immediately once more."""
    def cut(path):
        return b.tool.load("cut", path, "--relay", path.delay.control)["first_byte_s"]
    for ms, count, path in ((0, 3 if b.quick else 9, ""), (40, 2 if b.quick else 5, " (40 ms)")):
        first, again, work, theirs = [], [], [], []
        with Running(tempfile.mkdtemp(dir=b.tool.folder, prefix="cut-")) as running:
            for _ in range(count):
                ours = Ours(b.tool, running, rtt_ms=ms)
                for times in (first, again):
                    times.append(cut(ours))
                    waited = ours.waited()
                    work += [] if waited is None else [(times[-1] - waited) * 1000]
        # Restarted 0.1 s after it ended, as systemd does by default; it never waits longer.
        ssh = b.peers.one("openssh", ms, pause=0.1)
        try:
            theirs += (cut(ssh) for _ in range(count if ssh else 0))
        except Fail as fail:
            b.broken["openssh"] = f"cut: {fail}"
        b.row(f"connection cut{path}: first byte again, median", "s", median(first), {"openssh": median(theirs) if theirs else None})
        b.row(f"connection cut{path}: worst of {count} nodes", "s", max(first), {"openssh": max(theirs, default=None)}, GOALS["cut"])
        if work:
            b.own(f"  without what the node waits{path}, median", "ms", median(work), digits=1)
        b.own(f"  cut again within a minute{path}, median", "s", median(again))


def per_frame(b):
    """Both ends in one thread; with TLS below, TLS' own allocations are listed beside it."""
    for what, (number, size) in allocations(b.tool.folder / "allocations.log").items():
        goal = None if "behind" in what or "TLS" in what else "allocations"
        b.own(f"allocations per frame: {what}", "", number, goal, 3)
        b.own(f"  bytes of them: {what}", "bytes", size, digits=0)


class Stub(Fleet):
    """The tunnel's end of a plane alone: it knows no hosts."""

    def start(self):
        serve = [self.tool, "plane", "--many", "--dir", self.state, "--listen", self.address]
        self.plane, _, _ = self.running.first_line(serve, "plane")


def swarm(b):
    """A plane with very many nodes: all connect at once, stay idle, and reconnect when their plane is killed."""
    count, fleet = b.count, Stub(b.running, None, b.tool.program, b.tool.pki, False)
    fleet.whose = ["--count", count]

    def told(name, seconds, cpu):
        b.own(name, "s", seconds, "storm", 1)
        b.own("  plane's CPU for it, per node", "ms", cpu * 1000 / count)
        b.own("  plane's memory meanwhile, at most", "MiB", memory_kib(fleet.plane.pid, "VmHWM") / MIB, digits=1)
    fleet.start()
    before = memory_kib(fleet.plane.pid)
    told(f"{count} nodes at once: all connected after", *fleet.come(count))
    time.sleep(1)
    b.own(f"  plane's memory per idle node ({count})", "KiB", (memory_kib(fleet.plane.pid) - before) / count)
    b.own(f"  plane's CPU with {count} idle nodes", "% core", fleet.watch(2 if b.quick else 17))
    told(f"{count} nodes, plane killed and started: all back", *fleet.come_back(count))
    fleet.stop(fleet.nodes, hard=True)
    fleet.stop(fleet.plane, hard=True)


def gate(tool, ours, slow):
    """The few results that hold on any machine, idle or busy; a Fail says which one does not."""
    unmet = []

    def must(name, value, limit, unit):
        say(f"{name:<60} {value:8.2f} {unit:<6} at most {limit:.4g}")
        unmet.extend([f"{name}: {value:.2f} {unit}, at most {limit:.4g}"] if value > limit else [])
    for way in WAYS:
        # Each next to its own baseline, and the best of several: others may use the machine for a while.
        plain = [tool.tls(0.6)["cpu_s_per_gib"] for _ in range(3)]
        ratios = [tool.load("bulk", ours, "--direction", way, to=ours.bulk_to, seconds=0.8)["cpu_s_per_gib"] / cost for cost in plain]
        must(f"CPU per GiB {way}, times that of plain rustls", min(ratios), CPU_TIMES, "times")
    for end, mib in stalled(tool, slow):
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


# Rows that belong together, in order.
GROUPS = {"throughput": throughput, "latency": latency, "calls": calls, "opens": opens, "half-close": half_close,
          "memory": memory, "round-trips": round_trips, "dead-path": dead_path, "cut": cuts, "allocations": per_frame,
          "swarm": swarm}
# Groups that need much of a machine, a build or a tracer: the other rows are useful without them. No peer has the first.
WITHOUT_PEERS = {"allocations", "swarm"}
MAY_FAIL = WITHOUT_PEERS | {"calls"}


def tunnel(args):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="pf9-bench-") as folder, contextlib.ExitStack() as stack:
        running = stack.enter_context(Running(folder))
        tool, only = Tool(folder, running), set(args.only or GROUPS)
        if args.gate:
            gate(tool, Ours(tool, running), Ours(tool, running, rtt_ms=40))
            return
        busy, load = busy_cores(), os.getloadavg()[0]
        b = Bench(args, tool, running, Peers(tool, stack, () if args.no_peers or not only - WITHOUT_PEERS else PEERS))
        b.own("cores others kept busy before the run", "cores", busy)
        b.dead, b.count = "dead-path" in only and dying(b), min(1000 if args.quick else 10_000, hard - FILES_BESIDE)
        for group in filter(only.__contains__, GROUPS):
            try:
                GROUPS[group](b)
            except Fail as fail:
                if group not in MAY_FAIL:
                    raise
                warn(f"left out: {group}: {fail}")
        for name, why in b.broken.items():
            warn(f"{name}: {why}")
        after = busy_cores()
    if max(busy, after) > 0.3:
        warn(f"others used this machine: {busy:.1f} cores before, {after:.1f} after (load average {load:.1f} at the "
             "start): do not compare Gbit/s and latencies with other runs, only columns and CPU seconds")
    b.say_unmet()


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

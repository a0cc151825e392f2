"""scripts/bench tunnel: what the tunnel carries, compared with its peers, in one run on this machine.

Everything goes over loopback: load -> plane's end == TLS 1.3 + websocket == pf9-comms -> target; "down" is plane to node.
CPU seconds are those of the two ends. Peers run with their defaults on the same path; an unavailable one is named. Gbit/s
depend on other users of the machine, with which load, target and both ends share its cores: ratios and CPU seconds do not.

"part of plain rustls" compares with two threads that have the machine to themselves; "what these cores allow" is what a
relay of no cost could carry beside load and target. With a round trip, TCP ends at a relay between the ends: a peer that
leaves flow control to TCP does better there than on a real path. "dead path": ssh asks every 8 s and gives up at the third
silence (ours: a ping every 8 s), and is restarted after 5 s; "cut": after 0.1 s, as systemd would. Our node waits a random
time, so that a fleet spreads. "calls" counts with strace, which slows both ends: compare its columns with each other only.
"swarm" is the tunnel alone with very many nodes; `scripts/bench plane` has the same of pf9-plane with its store.
"""
import argparse
import contextlib
import itertools
import os
import re
import resource
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import tools
from bench_parts import MIB, PEERS, Columns, Delay, Ours, Running, Tool, installed, line_with, memory_kib
from bench_plane import FILES_BESIDE, Fleet
from common import REPO, Fail, run, say, wait_for, warn

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
# Of a row's figure, where not two.
DIGITS = {"us": 0, "1/s": 0, "1/MiB": 0, "bytes": 0, "MiB": 1}
# Whose system calls are counted beside ours, and their kinds.
TRACED = ("haproxy", "stunnel")
CALLS = {
    "reads": ("read", "readv", "recvfrom", "recvmsg"), "writes": ("write", "writev", "sendto", "sendmsg"),
    "waits": ("epoll_wait", "epoll_pwait", "poll", "ppoll"), "wake-ups": ("futex",),
}
WAYS = ("down", "up")


def counted(number, what):
    return f"{number} {what}{'s' if number > 1 else ''}"


def bulk(way, streams):
    return "--direction", way, "--streams", streams


def medians(answers):
    """Of each number of the answers; of what is none, the last."""
    numbers = {key: [answer[key] for answer in answers if isinstance(answer[key], (int, float))] for key in answers[-1]}
    return {key: median(found) if found else answers[-1][key] for key, found in numbers.items()}


class Bench(Columns):
    """Runs the load tool on each path in turn, and tells a row of what came of it."""

    def __init__(self, args, tool, running, stack, peers, nodes):
        self.tool, self.running, self.stack, self.quick, self.count = tool, running, stack, args.quick, nodes
        self.seconds, self.rounds, self.warm = (0.5, 1, 0.15) if self.quick else (1.2, 3, 0.3)
        self.names = list(peers)
        self.paths = {"direct": tool.direct, "ours": self.ours(), **self.peers()}
        super().__init__(args.json, ["direct", "rustls", *self.names])

    def ours(self, rtt_ms=None, **how):
        return Ours(self.tool, self.running, rtt_ms, **how)

    def peer(self, name, rtt_ms=None, **how):
        """The path through a peer, with this round trip between its ends; what is unavailable is named once and left out."""
        if name not in self.names:
            return None
        running = Running(tempfile.mkdtemp(dir=self.tool.folder, prefix=f"{name.split()[0]}-"))
        try:
            path = PEERS[name](self.tool, running, None if rtt_ms is None else Delay(self.tool, running, rtt_ms), **how)
        except Fail as fail:
            running.__exit__()
            warn(f"left out: {name}: {fail}")
            return None
        self.stack.push(running)
        return path

    def peers(self, rtt_ms=None):
        found = {name: self.peer(name, rtt_ms) for name in self.names}
        self.names = [name for name in self.names if found[name]]
        return {name: found[name] for name in self.names}

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
                warn(f"{name}: {verb} {' '.join(map(str, words))}: {fail}")
            time.sleep(SETTLE)
        return {name: medians(answers) for name, answers in got.items()}

    def tell(self, name, unit, values, goal=None, digits=None, ratios=()):
        """A row of each path's value, or of ours alone. `goal`: what is at most (`<`) or at least (`>`) wanted; `ratios`: the
        same of ours relative to the best of these peers, as far as they are there: what only a fast machine meets is none."""
        values = dict(values) if isinstance(values, dict) else {"ours": values}
        ours = values.pop("ours", None)
        self.row(name, unit, ours, values, goal, DIGITS.get(unit, 2) if digits is None else digits)
        for better, times, names in ratios:
            found = {peer: values[peer] for peer in names if values.get(peer)}
            if found and ours:
                peer = (max if better == ">" else min)(found, key=found.get)
                of = f"{self.short(ours)} / {self.short(found[peer])} of {peer}"
                self.row(f"  {name}: {of}", "times", ours / found[peer], goal=(better, times))

    def put(self, name, unit, got, value, *goal, **how):
        """The same of each path's answer: `value` is a function of it, or its key."""
        per = 1000 if unit == "ms" else 1
        one = value if callable(value) else lambda answer: answer[value] if per == 1 else answer[value] / per
        self.tell(name, unit, {path: one(answer) for path, answer in got.items()}, *goal, **how)


def throughput(b):
    plain, alone = medians([b.tool.tls(b.seconds) for _ in range(b.rounds)]), {}
    beside = {1: [(">", 1.2, ["haproxy"]), (">", 0.9, ["bore (plain)"])], 8: [(">", 1.1, ["haproxy", "stunnel", "openssh"])]}
    for streams, way in itertools.product((1, 8), WAYS):
        what, of = f"{way}, {counted(streams, 'stream')}", {"rustls": plain} if streams == 1 else {}
        # In a quick run peers are measured in one direction each.
        only = ["ours"] if b.quick and (way, streams) in (("up", 1), ("down", 8)) else None
        got = b.measure("bulk", *bulk(way, streams), to_bulk=True, only=only)
        alone[way, streams] = got.get("ours", {}).get("gbit")
        b.put(what, "Gbit/s", {**got, **of}, "gbit", ratios=beside[streams])
        got.pop("direct", None)
        b.put(f"CPU seconds per GiB: {what}", "s/GiB", {**got, **of}, "cpu_s_per_gib", ratios=[("<", 0.75, ["haproxy"])])
    # A relay's bytes come from one socket and go to another, whose other ends (load and target) share the same cores: a
    # GiB costs the rustls of both ends and two sockets; no end has more than a thread for one stream's TLS either.
    socket = medians([b.tool.tls(b.seconds, "--plain") for _ in range(b.rounds)])["cpu_s_per_gib"]
    cost = plain["cpu_s_per_gib"] + 2 * socket
    allowed = min(plain["gbit"], len(os.sched_getaffinity(0)) / cost * 2**33 / 1e9)
    b.tell("what these cores allow a relay that costs nothing", "Gbit/s", {"rustls": allowed})
    for of, base, goal in (("plain rustls", plain["gbit"], (">", 0.65)), ("what these cores allow", allowed, None)):
        for way in WAYS:
            b.tell(f"1 stream {way}: part of {of}", "ratio", alone[way, 1] and alone[way, 1] / base, goal)


def latency(b):
    got = b.measure("echo")
    b.put("echo, 64 bytes: p50", "us", got, "p50_us", ratios=[("<", 0.85, ["haproxy"])])
    b.put("echo, 64 bytes: p99", "us", got, "p99_us")
    for way, streams in (("down", 4), ("up", 4), ("down", 1)):
        what, words = f"{counted(streams, 'bulk stream')} {way}", bulk(way, streams)
        alone = b.measure("bulk", *words, only=["ours"], to_bulk=True).get("ours", {}).get("gbit")
        got = b.measure("echo", *words, only=["ours"] if b.quick and way == "up" else None, to_bulk="beside")
        for part, most in (("p50", 0.5), ("p99", 10.0)):
            b.put(f"echo beside {what}: {part}", "ms", got, f"{part}_us", ("<", most))
        ours = got.get("ours", {}).get("gbit")
        b.tell(f"  {what} beside the echo, part of alone", "ratio", ours and alone and ours / alone, (">", 0.9))
        b.put(f"  same, echo and {what} of one class: p99", "ms", b.measure("echo", *words, only=["ours"]), "p99_us")


def calls(b):
    """A call that found nothing counts, too."""
    installed("strace")
    for way, streams in itertools.product(WAYS, (1, 8)):
        got = {name: traced(b.tool, b.paths[name], way, streams) for name in ("ours", *TRACED) if name in b.paths}
        b.put(f"system calls for a MiB, both ends, {counted(streams, 'stream')} {way}", "1/MiB", got,
              lambda ends: sum(sum(end.values()) for end in ends))
        for end, made in zip(("plane", "node"), got["ours"]):
            kinds = {kind: sum(made.get(call, 0) for call in names) for kind, names in CALLS.items()}
            kinds["others"] = sum(made.values()) - sum(kinds.values())
            b.tell(f"  {end}: " + ", ".join(f"{number:.0f} {kind}" for kind, number in kinds.items()), "1/MiB",
                   sum(made.values()))


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
        rows = [re.findall(r"^\s*(\w+)\s+(\d+)\s*$", file.read_text(), re.M) for file in files.values()]
    return [{call: int(times) / mib for call, times in found if call != "total"} for found in rows]


def opens(b):
    for callers, goal in ((1, None), (16, (">", 5000))):
        got = b.measure("opens", "--callers", callers, only=["ours"] if b.quick and callers == 1 else None)
        b.put(f"new streams, {counted(callers, 'caller')}", "1/s", got, "per_second", goal)


def half_close(b):
    b.put("half-close exact, both ways", "yes=1", b.measure("half-close", rounds=1, seconds=1),
          lambda r: int(r["client_first"] and r["target_first"]), (">", 1))


def memory(b):
    # A new node each time; the peers with their memory as it is.
    # comms carries 448 at once (src/comms/admit.rs).
    peers, streams = {} if b.quick else {name: b.paths[name] for name in b.names}, 400
    here = {"ours": b.ours(), **peers}
    b.tell("RSS of pf9-comms, one session", "MiB", memory_kib(here["ours"].pids()[-1]) / MIB, ("<", 15), 2)
    b.tell("size of pf9-comms on disk", "MiB", b.tool.comms.stat().st_size / MIB**2, digits=2)
    got = b.measure("idle", "--count", streams, on=here, rounds=1, seconds=1)
    b.put(f"RSS of both ends, {streams} idle streams", "MiB", got, lambda r: sum(r["rss_kib"]) / MIB, ("<", 36))
    b.put("  memory of an idle stream and side", "KiB", {"ours": got["ours"]} if "ours" in got else {},
          lambda r: max(now - then for then, now in zip(r["before_kib"], r["rss_kib"])) / streams, ("<", 8))
    got = b.measure("stalled", on=here, rounds=1, seconds=max(1.0, b.seconds))
    for end, at in (("plane", 0), ("node", -1)):
        b.put(f"50 + 50 stalled readers: RSS, {end}'s end", "MiB", got, lambda r, at=at: r["rss_kib"][at] / MIB, ("<", 64))
    b.put("  echo beside them: p99", "ms", got, "p99_us", ("<", 10.0))
    b.put("  1 bulk stream beside them, part of before", "ratio", got,
          lambda r: r["gbit_beside"] / max(0.001, r["gbit_before"]))
    # What both ends retain after 8 streams moved all they could, each way.
    here = {"ours": b.ours(), **peers}
    moved = [b.measure("bulk", *bulk(way, 8), on=here, rounds=1, to_bulk=True) for way in WAYS]
    b.put("RSS of both ends after 8 bulk streams each way", "MiB", {name: here[name] for name in here if all(
        found.get(name) for found in moved)}, lambda path: sum(map(memory_kib, path.pids())) / MIB)
    # Each end alone, behind 40 ms: only there windows grow to their limit.
    slow = b.ours(40)
    for way in WAYS:
        b.tool.load("bulk", slow, *bulk(way, 8), to=slow.bulk_to, warm=1.2, seconds=b.seconds)
    most = max(map(memory_kib, slow.pids())) / MIB
    b.tell("40 ms, 8 bulk streams each way: RSS, larger end", "MiB", most)
    b.tell("  part of its cap of 64 MiB", "ratio", most / CAP_MIB, ("<", 1.0))
    for end, mib in stalled(b.tool, b.ours(40)):
        b.tell(f"40 ms, 50 + 50 readers stop: RSS, {end}'s end", "MiB", mib, ("<", round(STALLED_MIB, 1)))


def stalled(tool, slow):
    got = tool.load("stalled", slow, "--grow", GROW_SECONDS, "--each", STALLED, to=slow.bulk_to, seconds=0.5)["rss_kib"]
    return zip(("plane", "node"), (got[0] / MIB, got[-1] / MIB))


def round_trips(b):
    """40 ms with defaults; 150 ms with defaults down, and with a larger cap at the plane's end up."""
    for ms, window, warm, peers_warm in ((40, None, 1.2, 0.6), (150, 256, 3.5, 1.0)):
        here = {"ours": b.ours(ms, window_mib=window), **b.peers(ms)}
        others = [name for name in here if name != "ours"]
        for way, streams in (("down", 1), ("up", 1), ("up", 8)):
            # Whole round trips: windows arrive in bursts, an interval may hold one more or less.
            how = {"on": here, "to_bulk": True, "rounds": 1, "seconds": max(0.8, b.seconds, ms / 100)}
            got = b.measure("bulk", *bulk(way, streams), only=["ours"], warm=warm, **how)
            ours = got.get("ours", {}).get("gbit")
            if others and streams == 1 and not (b.quick and way == "up"):
                got |= b.measure("bulk", *bulk(way, streams), only=others, warm=peers_warm, **how)
            note = "" if ms == 40 else (", default cap" if way == "down" else ", cap 256 MiB")
            b.put(f"{ms} ms round trip, {counted(streams, 'stream')} {way}{note}", "Gbit/s", got, "gbit",
                  (">", 5.0) if (ms, way, streams) == (150, "up", 1) else None,
                  ratios=[(">", 1.0, ["haproxy"])] if (ms, streams) == (40, 1) else ())
            if ms == 150 and way == "down":
                allowed = (CAP_MIB - FLOORS_MIB) * SHARE * 2**20 * 8 / 0.150 / 1e9
                # An eighth of the promised memory may still be unreported.
                b.tell("  part of what the default cap allows", "ratio", ours and ours / allowed, (">", 0.85))
            time.sleep(ms / 1000)
        got = b.measure("opens", "--callers", 16, on=here, rounds=1, seconds=max(1.5, b.seconds),
                        only=["ours"] if b.quick and ms == 150 else None)
        b.put(f"{ms} ms round trip, new streams, 16 callers", "1/s", got, "per_second", (">", 377) if ms == 40 else None)
        b.put(f"{ms} ms round trip, first byte of a new stream", "ms", got, "p50_us", digits=0)


class Dead:
    """A path that is frozen after so many seconds, while others are measured: nobody waits for it. The logs of both its
    ends are read at the end of the run."""

    def __init__(self, path, seconds=0.0):
        self.path, self.at = path, []
        self.timer = threading.Timer(seconds, lambda: self.at.append(path.delay.freeze()))
        self.timer.daemon = True
        self.timer.start()

    def seen(self, lines, *words):
        """When the path's end said any of these words, in seconds since then, and what it said; None, None: it never did."""
        self.timer.join(NOTICE_SECONDS)
        at, line = line_with(lines, words, NOTICE_SECONDS) or (None, None)
        return at - self.at[0] if at and self.at else None, line

    def ours(self):
        """Seconds until the node noticed, was up again, and the plane noticed."""
        node, events = self.seen(self.path.words, "tunnel-down")[0], {}
        while len(events) < 2 and (event := self.seen(self.path.lines, "up", "down"))[1]:
            events.setdefault(event[1].split()[0], event[0])
        return node, events.get("up"), events.get("down")

    def ssh(self):
        gone = self.seen(self.path.words, "Timeout, server")[0]
        up = self.seen(self.path.words, "remote forward success")[0]
        return gone, gone and up, self.seen(self.path.lines, "Timeout, client")[0]


def dying(b):
    """The time of the last ping is random: of those with a short interval one dies in each part of it."""
    own, shares = Dead(b.ours(0)), (0.5,) if b.quick else (0.1, 0.3, 0.5, 0.7, 0.9)
    # The handshakes of one that is restarted while its port is still taken would disturb the other rows.
    ssh = b.peer("openssh", 0, alive_s=PING_SECONDS, pause=5)
    return own, ssh and Dead(ssh), [Dead(b.ours(0, ping_s=SHORT_PING_SECONDS), SHORT_PING_SECONDS * (1 + share))
                                    for share in shares]


def dead_path(b):
    own, ssh, short = b.dead
    rows = (("noticed by the node", 20), ("connected again", 25), ("the plane's old session over", 25))
    for (what, most), ours, theirs in zip(rows, own.ours(), ssh.ssh() if ssh else (None,) * 3):
        b.tell(f"dead path: {what}", "s", {"ours": ours, "openssh": theirs}, ("<", most), 1)
    # The last ping until the unanswered one: half an interval on average; two and a half more, and the first wait.
    again = [seconds for dead in short if (seconds := dead.ours()[1]) is not None]
    b.tell("dead path, ping of 5 s: connected again, median", "s", median(again) if again else None, ("<", 12), 1)


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
        ssh = b.peer("openssh", ms, pause=0.1)
        try:
            theirs += (cut(ssh) for _ in range(count if ssh else 0))
        except Fail as fail:
            warn(f"openssh: cut: {fail}")
        # At worst the longest first wait of a node, and as much again for a handshake beside others.
        for what, of, goal in (("first byte again, median", median, None), (f"worst of {count} nodes", max, ("<", 1.5))):
            b.tell(f"connection cut{path}: {what}", "s", {"ours": of(first), "openssh": of(theirs) if theirs else None}, goal)
        if work:
            b.tell(f"  without what the node waits{path}, median", "ms", median(work), digits=1)
        b.tell(f"  cut again within a minute{path}, median", "s", median(again))


def per_frame(b):
    """Of both ends in one thread, as crates/tunnel/tests/alloc.rs counts them: counting slows the load tool. The build is that
    of all tests: optimisation changes no count. With TLS below, TLS' own allocations are listed beside it."""
    tools.need_rust()
    told = run(["cargo", "test", "--locked", "--workspace", "--all-features", "--test", "alloc", "--", "--nocapture",
                "--test-threads", "1"], cwd=REPO, timeout=tools.BUILD_SECONDS).stdout
    found = re.findall(r"^allocations per frame: (.+?): ([0-9.]+)\nbytes allocated per frame: .+?: ([0-9.]+)", told, re.M)
    for what, number, size in found:
        goal = None if "behind" in what or "TLS" in what else ("<", 0.0)
        b.tell(f"allocations per frame: {what}", "", float(number), goal, 3)
        b.tell(f"  bytes of them: {what}", "bytes", float(size))


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
        b.tell(name, "s", seconds, ("<", 120), 1)
        b.tell("  plane's CPU for it, per node", "ms", cpu * 1000 / count)
        b.tell("  plane's memory meanwhile, at most", "MiB", memory_kib(fleet.plane.pid, "VmHWM") / MIB)
    fleet.start()
    before = memory_kib(fleet.plane.pid)
    told(f"{count} nodes at once: all connected after", *fleet.come(count))
    time.sleep(1)
    b.tell(f"  plane's memory per idle node ({count})", "KiB", (memory_kib(fleet.plane.pid) - before) / count)
    b.tell(f"  plane's CPU with {count} idle nodes", "% core", fleet.watch(2 if b.quick else 17))
    told(f"{count} nodes, plane killed and started: all back", *fleet.come_back(count))
    fleet.stop(fleet.nodes, hard=True)
    fleet.stop(fleet.plane, hard=True)


def gate(tool, ours, slow):
    """The few results that hold on any machine, idle or busy; a Fail says which one does not."""
    # CPU: each next to its own baseline, and the best of several: others may use the machine for a while.
    found = [(f"CPU per GiB {way}, times that of plain rustls", min(
        tool.load("bulk", ours, "--direction", way, to=ours.bulk_to, seconds=0.8)["cpu_s_per_gib"]
        / tool.tls(0.6)["cpu_s_per_gib"] for _ in range(3)), CPU_TIMES, "times") for way in WAYS]
    found += [(f"{STALLED} + {STALLED} readers stop, 40 ms: memory of the {end}'s end", mib, STALLED_MIB, "MiB")
              for end, mib in stalled(tool, slow)]
    for name, value, limit, unit in found:
        say(f"{name:<60} {value:8.2f} {unit:<6} at most {limit:.4g}")
    if unmet := [f"{name}: {value:.2f} {unit}, at most {limit:.4g}" for name, value, limit, unit in found if value > limit]:
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
MAY_FAIL = {*WITHOUT_PEERS, "calls"}


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
        b = Bench(args, tool, running, stack, () if args.no_peers or not only - WITHOUT_PEERS else PEERS,
                  min(1000 if args.quick else 10_000, hard - FILES_BESIDE))
        b.tell("cores others kept busy before the run", "cores", busy)
        b.dead = "dead-path" in only and dying(b)
        for group in filter(only.__contains__, GROUPS):
            try:
                GROUPS[group](b)
            except Fail as fail:
                if group not in MAY_FAIL:
                    raise
                warn(f"left out: {group}: {fail}")
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

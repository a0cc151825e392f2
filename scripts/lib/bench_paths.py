"""Rows of scripts/bench tunnel that need a path with a round trip, or one that breaks.

  round_trips      what is carried through 40 and 150 ms, and how soon a new stream says something
  grown_memory     memory when windows have grown: after bulk, and with readers that stopped then
  DeadPaths        paths that swallow everything from some moment on, while other rows are measured
  cuts             a connection that is reset
"""
import statistics
import tempfile
import threading
import time

import bench_gate
from bench_gate import CAP_MIB
from bench_parts import MIB, Ours, Running, line_with, memory_kib
from common import Fail

NOTICE_SECONDS = 45
# docs/protocol.md, 5: one stream alone gets 4/5 of what the cap leaves beyond the windows all streams begin with.
FLOORS_MIB, SHARE = 32, 4 / 5
# What both ends ask each other, by default and in the row for those who want to know sooner.
PING_SECONDS, SHORT_PING_SECONDS = 8, 5


def round_trips(bench, near, far, peers):
    """40 ms with defaults; 150 ms with defaults down, and with a larger cap at the plane's end up."""
    gbit = {"gbit": lambda r: r["gbit"]}
    for ms, ours, warm, peers_warm in ((40, near, 1.2, 0.6), (150, far, 3.5, 1.0)):
        here = bench.on({"ours": ours, **peers.at(ms)})
        others = [name for name in here.paths if name != "ours"]
        for direction, streams in (("down", 1), ("up", 1), ("up", 8)):
            args = ["bulk", "--direction", direction, "--streams", streams]
            # Whole round trips: windows come in bursts, a stretch may hold one more or less.
            how = {"to": "bulk", "rounds": 1, "seconds": max(0.8, bench.seconds, ms / 100), "picks": gbit}
            got = here.all(*args, only=["ours"], warm=warm, **how)["gbit"]
            if streams == 1 and not (bench.quick and direction == "up"):
                got |= here.all(*args, only=others, warm=peers_warm, **how)["gbit"]
            note = "" if ms == 40 else (", default cap" if direction == "down" else ", cap 256 MiB")
            what = f"{streams} stream{'s' if streams > 1 else ''} {direction}{note}"
            here.put(f"{ms} ms round trip, {what}", "Gbit/s", got,
                     "150 ms" if ms == 150 and direction == "up" and streams == 1 else None)
            if ms == 40 and streams == 1:
                here.ratios(f"40 ms, {what}", got, "40 ms")
            if ms == 150 and direction == "down":
                allowed = (CAP_MIB - FLOORS_MIB) * SHARE * 2**20 * 8 / 0.150 / 1e9
                bench.table.row("  part of what the default cap allows", "ratio", got.get("ours") and got["ours"] / allowed,
                                goal="150 ms cap")
            time.sleep(ms / 1000)
        got = here.all("opens", "--callers", 16, rounds=1, seconds=max(1.5, bench.seconds),
                       only=["ours"] if bench.quick and ms == 150 else None,
                       picks={"n": lambda r: r["per_second"], "p50": lambda r: r["p50_us"] / 1000})
        here.put(f"{ms} ms round trip, new streams, 16 callers", "1/s", got["n"], "opens 40 ms" if ms == 40 else None, 0)
        here.put(f"{ms} ms round trip, first byte of a new stream", "ms", got["p50"], digits=0)
        bench.broken.update(here.broken)


def grown_memory(bench, running):
    """Each end alone, behind 40 ms: only there windows grow to what they may have."""
    ours = Ours(bench.tool, running, rtt_ms=40)
    for direction in ("down", "up"):
        bench.tool.load("bulk", ours, "--direction", direction, "--streams", 8, to=ours.bulk_to, warm=1.2,
                        seconds=bench.seconds)
    most = max(map(memory_kib, ours.pids())) / MIB
    bench.table.row("40 ms, 8 bulk streams each way: RSS, larger end", "MiB", most, digits=1)
    bench.table.row("  part of its cap of 64 MiB", "ratio", most / CAP_MIB, goal="after bulk")
    ours = Ours(bench.tool, running, rtt_ms=40)
    for end, value in bench_gate.stalled(bench.tool, ours).items():
        bench.table.row(f"40 ms, 50 + 50 readers stop: RSS, {end}'s end", "MiB", value, digits=1, goal="stalled grown")


class DeadPaths:
    """Dead from the beginning of the run: what both ends said meanwhile is read at its end."""

    def __init__(self, bench, running, peers):
        self.table = bench.table
        self.path = Ours(bench.tool, running, rtt_ms=0)
        self.frozen = self.path.delay.freeze()
        # The handshakes of one that is started again while its port is still taken would disturb the other rows.
        self.ssh = peers.one("openssh", 0, alive_s=PING_SECONDS, pause=5)
        self.ssh_frozen = self.ssh and self.ssh.delay.freeze()
        # When the last ping was is a matter of luck: one node for each part of the interval.
        self.short, self.timers = [], []
        for part in (0.5,) if bench.quick else (0.1, 0.3, 0.5, 0.7, 0.9):
            path = Ours(bench.tool, running, rtt_ms=0, ping_s=SHORT_PING_SECONDS)
            frozen = []
            timer = threading.Timer(SHORT_PING_SECONDS * (1 + part), lambda p=path, f=frozen: f.append(p.delay.freeze()))
            timer.daemon = True
            timer.start()
            self.short.append((path, frozen))
            self.timers.append(timer)

    def rows(self):
        noticed, up, down = self.ours(self.path, self.frozen)
        ssh = {}
        if self.ssh:
            after = lambda found: found and found[0] - self.ssh_frozen
            gone = line_with(self.ssh.words, ["Timeout, server"], NOTICE_SECONDS)
            ssh = {"noticed": after(gone),
                   "up": after(gone and line_with(self.ssh.words, ["remote forward success"], NOTICE_SECONDS)),
                   "down": after(line_with(self.ssh.lines, ["Timeout, client"], NOTICE_SECONDS))}
        rows = (("noticed by the node", noticed, "noticed", "noticed"), ("connected again", up, "reconnected", "up"),
                ("the plane's old session over", down, "reconnected", "down"))
        for what, value, goal, key in rows:
            self.table.row(f"dead path: {what}", "s", value, {"openssh": ssh.get(key)}, goal, digits=1)
        again = []
        for timer, (path, frozen) in zip(self.timers, self.short):
            timer.join(NOTICE_SECONDS)
            again.append(self.ours(path, frozen[0])[1] if frozen else None)
        again = [seconds for seconds in again if seconds is not None]
        self.table.row("dead path, ping of 5 s: connected again, median", "s", statistics.median(again) if again else None,
                       goal="reconnected 5 s", digits=1)

    @staticmethod
    def ours(path, frozen):
        """Seconds until the node noticed, was up again, and the plane noticed; None for what never came."""
        node = line_with(path.words, ["tunnel-down"], NOTICE_SECONDS)
        seen = {}
        while len(seen) < 2:
            event = line_with(path.lines, ["up", "down"], NOTICE_SECONDS)
            if event is None:
                break
            seen.setdefault(event[1].split()[0], event[0])
        return [at and at - frozen for at in (node and node[0], seen.get("up"), seen.get("down"))]


def cuts(bench, peers):
    """The connection is reset. A node tells apart what it waits (at random, so that a fleet spreads) from what it
    does. Each node is cut once after it was started, which is as after a healthy minute, and once more at once."""
    tool, table = bench.tool, bench.table
    for ms, count in ((0, 3 if bench.quick else 9), (40, 2 if bench.quick else 5)):
        first, again, work = [], [], []
        with Running(tempfile.mkdtemp(dir=tool.folder, prefix="cut-")) as running:
            for _ in range(count):
                ours = Ours(tool, running, rtt_ms=ms)
                for times in (first, again):
                    got = cut(tool, ours)
                    waited = ours.waited()
                    times.append(got)
                    if waited is not None:
                        work.append((got - waited) * 1000)
        ssh = ssh_cuts(bench, peers, ms, count)
        path = "" if ms == 0 else f" ({ms} ms)"
        table.row(f"connection cut{path}: first byte again, median", "s", statistics.median(first),
                  {"openssh": statistics.median(ssh) if ssh else None})
        table.row(f"connection cut{path}: worst of {count} nodes", "s", max(first), {"openssh": max(ssh, default=None)},
                  goal="cut")
        if work:
            table.row(f"  without what the node waits{path}, median", "ms", statistics.median(work), digits=1)
        table.row(f"  cut again within a minute{path}, median", "s", statistics.median(again))


def ssh_cuts(bench, peers, ms, count):
    """One that is started again 0.1 s after it ended, as systemd does by default; it never waits longer."""
    ssh, times = peers.one("openssh", ms, pause=0.1), []
    try:
        for _ in range(count if ssh else 0):
            times.append(cut(bench.tool, ssh))
    except Fail as fail:
        bench.broken["openssh"] = f"cut: {fail}"
    return times


def cut(tool, way):
    return tool.load("cut", way, "--relay", way.delay.control)["first_byte_s"]

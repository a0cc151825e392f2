"""scripts/bench tunnel: what the tunnel carries, compared with its peers, in one run on this machine.

Everything goes over loopback: load -> plane's end == TLS 1.3 + websocket == pf9-comms -> target; "down" is plane to node.
CPU seconds are those of the two ends. Peers run with their defaults on the same path; an unavailable one is named. Gbit/s
depend on other users of the machine, with which load, target and both ends share its cores: ratios and CPU seconds do not.

"part of plain rustls" compares with two threads that have the machine to themselves; "what these cores allow" is what a
relay of no cost could carry beside load and target. With a round trip, TCP ends at a relay between the ends: a peer that
leaves flow control to TCP does better there than on a real path. "dead path": ssh asks every 8 s and gives up at the third
silence (ours: a ping every 8 s), and is restarted after 5 s; "cut": after 0.1 s, as systemd would. Our node waits a random
time, so that a fleet spreads. "calls" counts with strace, which slows both ends: compare its columns with each other only.
"""
import functools
import getpass
import itertools
import os
import re
import socket
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import proc
import tools
from bench_parts import START_SECONDS, Columns, Running, asked, free, line_with, listening, memory_kib
from bench_peers import AGAIN, BORE, BORE_PORT, PEERS
from bench_plane import FILES_BESIDE, Fleet, allow_files
from common import REPO, Fail, installed, run, tail, wait_for, warn

SETTLE_SECONDS, NOTICE_SECONDS = 0.1, 45
MIB = 1024  # of KiB
# docs/protocol.md, 5 and 7: what an end may hold for one session: initial windows reduce the pool,
# and one stream alone gets 4/5 of that; data queued per stream. And the program itself.
CAP_MIB, FLOORS_MIB, SHARE, SEND_BUFFER_MIB, PROGRAM_MIB = 64, 32, 4 / 5, 96 / 1024, 15
# Readers that stall, each way, once windows have grown, which they only do behind a round trip: 60 to 64 MiB is seen.
STALLED, GROW_SECONDS = 50, 2.5
STALLED_MIB = round(CAP_MIB + STALLED * SEND_BUFFER_MIB + PROGRAM_MIB, 1)
# Multiple of the CPU of plain rustls without a relay, best of three: 1.6 to 2.3 was seen, idle and with both cores kept
# busy by others. While plain rustls takes up to 0.6 s/GiB this is below the 2.0 s/GiB that the tunnel must never cost.
CPU_TIMES = 3.3
# Ping intervals: the default, and the one of the row for faster detection.
PING_SECONDS, SHORT_PING_SECONDS = 8, 5
# Kinds of system calls, and those of each.
CALLS = {"reads": "read readv recvfrom recvmsg", "writes": "write writev sendto sendmsg",
         "waits": "epoll_wait epoll_pwait poll ppoll", "wake-ups": "futex"}
WAYS, ENDS, OURS = ("down", "up"), ("plane", "node"), ("ours",)
# What the load tool is asked, of a way; an echo has bulk beside it in its own class, or in that of bulk.
BULK = "bulk --to {way.bulk} --direction %s --streams %d"
ECHO = "echo --to {way.to} --direction %s --streams %d"


def counted(number, what):
    return f"{number} {what}{'s' if number > 1 else ''}"


def middle(answers, key):
    return median(answer[key] for answer in answers)


class Way(NamedTuple):
    """Local addresses that lead to the target, the processes of the two ends between, and what controls their relay."""
    to: str
    bulk: str
    ends: tuple = ()
    relay: str = ""

    def pids(self):
        """The present processes: some peers have one per tunnel, below others."""
        found = [child.pid for child in self.ends]
        for pid in found:
            found += proc.children(pid)
        return found

    def freeze(self):
        with socket.create_connection(self.relay.split(":"), timeout=5) as control:
            control.sendall(b"f")
            control.recv(1)
        return time.monotonic()


class Lab(Running):
    """The load tool with a running target, and the ways to it. A round trip is a relay between the two ends. TCP ends at it,
    so a TCP handshake takes no time and no TCP window is ever too small: the result is what the ends make of it."""

    def __init__(self, folder):
        super().__init__(folder)
        built, self.pki = tools.release(self.folder / "build.log", loads=True), self.folder / "pki"
        self.program, self.comms = built / "pf9-tunnel-load", built / "pf9-comms"
        run([self.program, "prepare", "--dir", self.pki])

    def __enter__(self):
        _, (self.target,) = self.first_line([self.program, "target"], "target")
        return super().__enter__()

    def load(self, way, words, seconds=1.0, warm=0.3):
        pids = ["--pids", ",".join(map(str, way.pids()))] if way.ends else []
        return asked([self.program, "load", *words.format(way=way).split(), "--target", self.target,
                      "--seconds", seconds, "--warm", warm, *pids])

    def tls(self, seconds, *more):
        return asked([self.program, "tls", "--dir", self.pki, "--seconds", seconds, *more])

    def relay(self, rtt_ms, to, listen="127.0.0.1:0"):
        """An address whose connections lead to `to`, and that of its control."""
        return (to, "") if rtt_ms is None else self.first_line(
            [self.program, "relay", "--to", to, "--rtt-ms", rtt_ms, "--listen", listen], "relay")[1]

    def ours(self, rtt_ms=None, ping=(), window=()):
        """A plane, which tells its events, and a node, which tells its log."""
        plane, (tunnel, interactive, bulk) = self.first_line(
            [self.program, "plane", "--dir", self.pki, *ping, *window], "plane")
        to, relay = self.relay(rtt_ms, tunnel)
        root = Path(tempfile.mkdtemp(dir=self.folder, prefix="node-"))
        run([self.program, "prepare", "--dir", self.pki, "--node", root, "--target", self.target, *ping, "--plane", to])
        node = self.start([self.comms, "--root", root], "pf9-comms", "stderr")
        # Both ends report it: for the node a path that is frozen in between was never up.
        if not (line_with(plane.lines, ["up"], START_SECONDS) and line_with(node.lines, ["tunnel is up"], START_SECONDS)):
            raise Fail("the tunnel did not come up", tail(root / "var/log/pf9/comms/comms.log"))
        return Way(interactive, bulk, (plane, node), relay)

    def peer(self, name, rtt_ms=None, alive=0, pause=None):
        """The same through a peer, or Fail with the reason why it cannot. Of ssh alone: both ends ping each other every
        `alive` seconds; it is restarted `pause` seconds after it ended, as by systemd, and both ends tell their logs."""
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix="peer-"))
        far = free(BORE_PORT if name.startswith("bore") else 0)
        to, relay = self.relay(rtt_ms, far, far.replace("127.0.0.", "127.0.1."))  # bore wants the same port
        near = free(host=far.split(":")[0])
        words = dict(pki=self.pki, folder=folder, user=getpass.getuser(), alive=alive, level="DEBUG1" if pause else "INFO")
        for key, address in (("far", far), ("to", to), ("near", near), ("target", self.target)):
            words |= zip((key, f"{key}_host", f"{key}_port"), (address, *address.split(":")))
        if name == "openssh":
            run([installed("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"])
            run(["mkdir", "-p", "/run/sshd"], check=os.geteuid() == 0)  # only root's sshd wants it
        ends, again = [], ["sh", "-c", AGAIN, "again", pause] if pause else []
        for (package, program, arguments, text), at, before in zip(PEERS[name], (far, near), ([], again)):
            words["config"] = folder / f"{at}.conf"
            words["config"].write_text(text.format(**words))
            path = tools.tool(package, BORE, program) if program == "bore" else installed(program, package)
            ends.append(self.start([*before, path, *arguments.format(**words).split()], f"peer-{at}", pause and "stderr"))
            listening(ends[-1], at)
        return Way(near, near, tuple(ends), relay)


class Bench(Columns):
    """Asks the load tool on each way in turn, and tells rows of what came of it."""

    def __init__(self, args, lab):
        self.lab, self.quick = lab, args.quick
        self.seconds, self.rounds, self.warm = (0.5, 1, 0.15) if args.quick else (1.2, 3, 0.3)
        self.names = [] if args.no_peers or args.gate else list(PEERS)
        super().__init__(args.json, ["direct", "rustls", *self.names])

    @functools.cached_property
    def ways(self):
        return {"direct": Way(self.lab.target, self.lab.target), "ours": self.lab.ours(), **self.peers()}

    def peers(self, rtt_ms=None, names=PEERS, **how):
        """Those of these that are there, with this round trip; what is unavailable is named once and left out."""
        found = {}
        for name in [name for name in self.names if name in names]:
            try:
                found[name] = self.lab.peer(name, rtt_ms, **how)
            except Fail as fail:
                self.names.remove(name)
                warn(f"left out: {name}: {fail}")
        return found

    def measure(self, words, ways=None, names=None, rounds=None, **how):
        """{way: its answers}, ways (or those of these names) in turns; without those that failed, which ours may not."""
        ways, got = self.ways if ways is None else ways, {}
        for _, name in itertools.product(range(rounds or self.rounds), names or ways):
            try:
                answer = self.lab.load(ways[name], words, **{"seconds": self.seconds, "warm": self.warm, **how})
                got.setdefault(name, []).append(answer)
            except Fail as fail:
                if name == "ours":
                    raise
                warn(f"{name}: {words}: {fail}")
            time.sleep(SETTLE_SECONDS)
        return got

    def put(self, name, unit, got, value, *goal, of=median, **how):
        """A row of each way's answers: `value` is a function of one, or its key, microseconds there where `unit` is ms."""
        one = value if callable(value) else lambda answer: answer[value] / 1000 if unit == "ms" else answer[value]
        found = {way: [figure for figure in map(one, answers) if figure is not None] for way, answers in got.items()}
        self.row(name, unit, {way: of(figures) for way, figures in found.items() if figures}, *goal, **how)


def throughput(b):
    plain, sockets = ([b.lab.tls(b.seconds, *more) for _ in range(b.rounds)] for more in ((), ["--plain"]))
    alone = {}
    beside = {1: [(">", 1.2, ["haproxy"]), (">", 0.9, ["bore (plain)"])], 8: [(">", 1.1, ["haproxy", "stunnel", "openssh"])]}
    for streams, way in itertools.product(beside, WAYS):
        what, got = f"{way}, {counted(streams, 'stream')}", b.measure(BULK % (way, streams))
        alone[way, streams] = middle(got["ours"], "gbit")
        got |= {"rustls": plain} if streams == 1 else {}
        b.put(what, "Gbit/s", got, "gbit", ratios=beside[streams])
        got.pop("direct", None)
        b.put(f"CPU seconds per GiB: {what}", "s/GiB", got, "cpu_s_per_gib", ratios=[("<", 0.75, ["haproxy"])])
    # A relay's bytes come from one socket and go to another, whose other ends (load and target) share the same cores: a
    # GiB costs the rustls of both ends and two sockets; no end has more than a thread for one stream's TLS either.
    cost, most = middle(plain, "cpu_s_per_gib") + 2 * middle(sockets, "cpu_s_per_gib"), middle(plain, "gbit")
    allowed = min(most, len(os.sched_getaffinity(0)) / cost * 2**33 / 1e9)
    b.row("what these cores allow a relay that costs nothing", "Gbit/s", {"rustls": allowed})
    for of, base, *goal in (("plain rustls", most, (">", 0.65)), ("what these cores allow", allowed)):
        for way in WAYS:
            b.row(f"1 stream {way}: part of {of}", "ratio", alone[way, 1] / base, *goal)


def latency(b):
    got = b.measure(ECHO % ("down", 0))
    b.put("echo, 64 bytes: p50", "us", got, "p50_us", ratios=[("<", 0.85, ["haproxy"])])
    b.put("echo, 64 bytes: p99", "us", got, "p99_us")
    for way, streams in (("down", 4), ("up", 4), ("down", 1)):
        what, words = f"{counted(streams, 'bulk stream')} {way}", ECHO % (way, streams)
        alone = middle(b.measure(BULK % (way, streams), names=OURS)["ours"], "gbit")
        got = b.measure(words + " --bulk-to {way.bulk}")
        for part, most in (("p50", 0.5), ("p99", 10.0)):
            b.put(f"echo beside {what}: {part}", "ms", got, f"{part}_us", ("<", most))
        b.row(f"  {what} beside the echo, part of alone", "ratio", middle(got["ours"], "gbit") / alone, (">", 0.9))
        b.put(f"  same, echo and {what} of one class: p99", "ms", b.measure(words, names=OURS), "p99_us")


def calls(b):
    """A call that found nothing counts, too."""
    for way, streams in itertools.product(WAYS, (1, 8)):
        got = {name: [traced(b.lab, b.ways[name], BULK % (way, streams))] for name in ("ours", "haproxy", "stunnel")
               if name in b.ways}
        b.put(f"system calls for a MiB, both ends, {counted(streams, 'stream')} {way}", "1/MiB", got,
              lambda ends: sum(sum(kinds.values()) for kinds in ends))
        for end, kinds in zip(ENDS, got["ours"][0]):
            told = ", ".join(f"{number:.0f} {kind}" for kind, number in kinds.items())
            b.row(f"  {end}: {told}", "1/MiB", sum(kinds.values()))


def traced(lab, way, words):
    """{kind of call: times for a MiB} of each process of a way."""
    files, strace = {pid: lab.folder / f"calls-{pid}" for pid in way.pids()}, installed("strace")
    with Running(lab.folder) as running:
        for pid, file in files.items():
            running.start([strace, "-c", "-f", "-U", "name,calls", "-o", file, "-p", pid], "strace")
            wait_for(f"strace of {pid}", lambda: "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text(), 10, 0.01)
        mib = lab.load(way, words, warm=0)["bytes"] / 2**20
    ends = []
    for file in files.values():
        if not (file.exists() and file.read_text()):
            raise Fail(f"strace told nothing of {file.name}")
        made = {call: int(times) / mib for call, times in re.findall(r"^\s*(\w+)\s+(\d+)\s*$", file.read_text(), re.M)}
        kinds = {kind: sum(made.get(call, 0) for call in names.split()) for kind, names in CALLS.items()}
        ends.append({**kinds, "others": made.get("total", 0) - sum(kinds.values())})
    return ends


def opens(b):
    for callers, *goal in ((1,), (16, (">", 5000))):
        b.put(f"new streams, {counted(callers, 'caller')}", "1/s", b.measure(f"opens --to {{way.to}} --callers {callers}"),
              "per_second", *goal)


def half_close(b):
    b.put("half-close exact, both ways", "yes=1", b.measure("half-close --to {way.to}", rounds=1, seconds=1),
          lambda r: int(r["client_first"] and r["target_first"]), (">", 1))


def memory(b):
    """A new node each time; the peers with their memory as it is."""
    def anew():
        return {"ours": b.lab.ours(), **{name: b.ways[name] for name in PEERS if not b.quick and name in b.ways}}
    # comms carries 448 at once (src/comms/admit.rs).
    here, streams = anew(), 400
    b.row("RSS of pf9-comms, one session", "MiB", memory_kib(here["ours"].pids()[-1]) / MIB, ("<", 15), 2)
    b.row("size of pf9-comms on disk", "MiB", b.lab.comms.stat().st_size / MIB**2, digits=2)
    got = b.measure(f"idle --to {{way.to}} --count {streams}", here, rounds=1)
    b.put(f"RSS of both ends, {streams} idle streams", "MiB", got, lambda r: sum(r["rss_kib"]) / MIB, ("<", 36))
    b.put("  memory of an idle stream and side", "KiB", {"ours": got["ours"]},
          lambda r: max(now - then for then, now in zip(r["before_kib"], r["rss_kib"])) / streams, ("<", 8))
    got = b.measure("stalled --to {way.to}", here, rounds=1, seconds=max(1.0, b.seconds))
    for end, at in zip(ENDS, (0, -1)):
        b.put(f"50 + 50 stalled readers: RSS, {end}'s end", "MiB", got, lambda r, at=at: r["rss_kib"][at] / MIB, ("<", 64))
    b.put("  echo beside them: p99", "ms", got, "p99_us", ("<", 10.0))
    b.put("  1 bulk stream beside them, part of before", "ratio", got,
          lambda r: r["gbit_beside"] / max(0.001, r["gbit_before"]))
    # What both ends retain after 8 streams moved all they could, each way.
    here = anew()
    down, up = (b.measure(BULK % (way, 8), here, rounds=1) for way in WAYS)
    after = {name: [sum(map(memory_kib, way.pids())) / MIB] for name, way in here.items() if name in down and name in up}
    b.put("RSS of both ends after 8 bulk streams each way", "MiB", after, float)
    # Each end alone, behind 40 ms: only there windows grow to their limit.
    slow = b.lab.ours(40)
    for way in WAYS:
        b.lab.load(slow, BULK % (way, 8), b.seconds, 1.2)
    most = max(map(memory_kib, slow.pids())) / MIB
    b.row("40 ms, 8 bulk streams each way: RSS, larger end", "MiB", most)
    b.row("  part of its cap of 64 MiB", "ratio", most / CAP_MIB, ("<", 1.0))
    stalled(b)


def stalled(b):
    got = b.lab.load(b.lab.ours(40), f"stalled --to {{way.bulk}} --grow {GROW_SECONDS} --each {STALLED}", 0.5)["rss_kib"]
    for end, kib in zip(ENDS, (got[0], got[-1])):
        b.row(f"40 ms, {STALLED} + {STALLED} readers stop: RSS, {end}'s end", "MiB", kib / MIB, ("<", STALLED_MIB))


def round_trips(b):
    """40 ms with defaults; 150 ms with defaults down, and with a larger cap at the plane's end up."""
    for ms, window, warm, of_down, of_up in ((40, (), 1.2, "", ""),
                                             (150, ("--window-mib", 256), 3.5, ", default cap", ", cap 256 MiB")):
        ways = {"ours": b.lab.ours(ms, window=window), **b.peers(ms)}
        # Whole round trips: windows arrive in bursts, an interval may hold one more or less.
        how = {"rounds": 1, "seconds": max(0.8, b.seconds, ms / 100), "warm": warm}
        for way, streams, of in (("down", 1, of_down), ("up", 1, of_up), ("up", 8, of_up)):
            got = b.measure(BULK % (way, streams), ways, names=OURS if streams == 8 else None, **how)
            b.put(f"{ms} ms round trip, {counted(streams, 'stream')} {way}{of}", "Gbit/s", got, "gbit",
                  (">", 5.0) if (ms, way, streams) == (150, "up", 1) else None,
                  ratios=[(">", 1.0, ["haproxy"])] if ms == 40 else ())
            if (ms, way) == (150, "down"):
                allowed = (CAP_MIB - FLOORS_MIB) * SHARE * 2**20 * 8 / 0.150 / 1e9
                # An eighth of the promised memory may still be unreported.
                b.row("  part of what the default cap allows", "ratio", middle(got["ours"], "gbit") / allowed, (">", 0.85))
            time.sleep(ms / 1000)
        got = b.measure("opens --to {way.to} --callers 16", ways, rounds=1, seconds=max(1.5, b.seconds))
        b.put(f"{ms} ms round trip, new streams, 16 callers", "1/s", got, "per_second", (">", 377) if ms == 40 else None)
        b.put(f"{ms} ms round trip, first byte of a new stream", "ms", got, "p50_us", digits=0)


def seen(child, since, *words):
    """Seconds from then until a line with each of these words, which is looked for in this order; None: there was none."""
    found = {}
    while len(found) < len(words) and (told := line_with(child.lines, words, NOTICE_SECONDS)):
        if told[0] > since:
            found.setdefault(next(word for word in words if word in told[1]), told[0] - since)
    return [found.get(word) for word in words]


def dead_path(b):
    own, ssh = b.lab.ours(0), b.peers(0, ["openssh"], alive=PING_SECONDS, pause=5).get("openssh")
    # The time of the last ping is random: of those with a short interval one dies in each part of it.
    parts = (0.5,) if b.quick else (0.1, 0.3, 0.5, 0.7, 0.9)
    short, died = [b.lab.ours(0, ("--ping-s", SHORT_PING_SECONDS)) for _ in parts], []
    began, since, ssh_since = time.monotonic(), own.freeze(), ssh and ssh.freeze()
    for part, way in zip(parts, short):
        time.sleep(max(0.0, began + SHORT_PING_SECONDS * (1 + part) - time.monotonic()))
        died.append(way.freeze())
    over, again = seen(own.ends[0], since, "down", "up")
    told = {"ours": [*seen(own.ends[1], since, "tunnel-down"), again, over]}
    if ssh:
        told["openssh"] = [*seen(ssh.ends[1], ssh_since, "Timeout, server", "remote forward success"),
                           *seen(ssh.ends[0], ssh_since, "Timeout, client")]
    rows = {"noticed by the node": 20, "connected again": 25, "the plane's old session over": 25}
    for at, (what, most) in enumerate(rows.items()):
        b.row(f"dead path: {what}", "s", {way: figures[at] for way, figures in told.items()}, ("<", most), 1)
    # The last ping until the unanswered one: half an interval on average; two and a half more, and the first wait.
    again = [up for way, at in zip(short, died) if (up := seen(way.ends[0], at, "down", "up")[1]) is not None]
    if None in told["ours"] or len(again) < len(short):
        raise Fail(f"a dead path was not noticed, or not replaced, within {NOTICE_SECONDS} s", f"{told['ours']}, {again}")
    b.row("dead path, ping of 5 s: connected again, median", "s", median(again), ("<", 12), 1)


def cut(b):
    """The connection is reset. A node separates its wait (random, so that a fleet spreads) from its
    work. Each node is cut once after its start, as after a healthy minute, and immediately once more."""
    words = "cut --to {way.to} --relay {way.relay}"
    for ms, count, path in ((0, 3 if b.quick else 9, ""), (40, 2 if b.quick else 5, " (40 ms)")):
        first, again, work = [], [], []
        for _ in range(count):
            node = b.lab.ours(ms)
            for times in (first, again):
                times += b.measure(words, {"ours": node}, rounds=1)["ours"]
                down = line_with(node.ends[1].lines, ["tunnel-down"], START_SECONDS)
                waited = down and re.search(r"wait_ms=(\d+)", down[1])
                work += [times[-1]["first_byte_s"] * 1000 - int(waited[1])] if waited else []
        # Restarted 0.1 s after it ended, as systemd does by default; it never waits longer.
        got = {"ours": first, **b.measure(words, b.peers(ms, ["openssh"], pause=0.1), rounds=count)}
        b.put(f"connection cut{path}: first byte again, median", "s", got, "first_byte_s")
        # At worst the longest first wait of a node, and as much again for a handshake beside others.
        b.put(f"connection cut{path}: worst of {count} nodes", "s", got, "first_byte_s", ("<", 1.5), of=max)
        if work:
            b.row(f"  without what the node waits{path}, median", "ms", median(work), digits=1)
        b.put(f"  cut again within a minute{path}, median", "s", {"ours": again}, "first_byte_s")


def allocations(b):
    """Of both ends in one thread, as crates/tunnel/tests/alloc.rs counts them: counting slows the load tool. The build is
    that of all tests: optimisation changes no count. With TLS below, TLS' own allocations are listed beside it."""
    tools.need_rust()
    told = run(["cargo", "test", "--locked", "--workspace", "--all-features", "--test", "alloc", "--", "--nocapture",
                "--test-threads", "1"], cwd=REPO, timeout=tools.BUILD_SECONDS).stdout
    for what, number, size in re.findall(
            r"^allocations per frame: (.+?): ([0-9.]+)\nbytes allocated per frame: .+?: ([0-9.]+)", told, re.M):
        goal = None if "behind" in what or "TLS" in what else ("<", 0.0)
        b.row(f"allocations per frame: {what}", "", float(number), goal, 3)
        b.row(f"  bytes of them: {what}", "bytes", float(size))


def swarm(b):
    """A plane with very many nodes: all connect at once, stay idle, and reconnect when their plane is killed. `scripts/bench
    plane` has the same of pf9-plane with its store."""
    count = 1000 if b.quick else 10_000
    allow_files(count + FILES_BESIDE)

    def told(name, seconds, cpu):
        b.row(name, "s", seconds, ("<", 120), 1)
        b.row("  plane's CPU for it, per node", "ms", cpu * 1000 / count)
        b.row("  plane's memory meanwhile, at most", "MiB", memory_kib(fleet.plane.pid, "VmHWM") / MIB)
    with Running(b.lab.folder) as running:
        serve = [b.lab.program, "plane", "--many", "--dir", b.lab.pki]
        fleet = Fleet(running, serve, b.lab.program, b.lab.pki, ["--count", count])
        fleet.start()
        before = memory_kib(fleet.plane.pid)
        told(f"{count} nodes at once: all connected after", *fleet.come(count))
        time.sleep(1)
        b.row(f"  plane's memory per idle node ({count})", "KiB", (memory_kib(fleet.plane.pid) - before) / count)
        b.row(f"  plane's CPU with {count} idle nodes", "% core", fleet.watch(2 if b.quick else 17))
        told(f"{count} nodes, plane killed and started: all back", *fleet.come_back(count))


def gate(b):
    """The few results that hold on any machine, idle or busy."""
    for way in WAYS:
        # Each next to its own baseline, and the best of several: others may use the machine for a while.
        found = [b.lab.load(b.ways["ours"], BULK % (way, 1), 0.8)["cpu_s_per_gib"] / b.lab.tls(0.6)["cpu_s_per_gib"]
                 for _ in range(3)]
        b.row(f"CPU per GiB {way}, times that of plain rustls", "times", min(found), ("<", CPU_TIMES))
    stalled(b)


def busy_cores(seconds=0.5):
    """Cores that others keep busy while we are idle."""
    def look():
        fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        return sum(fields) - fields[3] - fields[4]
    before = look()
    time.sleep(seconds)
    return (look() - before) / seconds / os.sysconf("SC_CLK_TCK")


# Rows that belong together, in order.
GROUPS = {rows.__name__.replace("_", "-"): rows for rows in (
    throughput, latency, calls, opens, half_close, memory, round_trips, dead_path, cut, allocations, swarm)}


def tunnel(args):
    allow_files(FILES_BESIDE)
    groups, failed = {"gate": gate} if args.gate else {name: GROUPS[name] for name in GROUPS if name in args.only}, []
    with tempfile.TemporaryDirectory(prefix="pf9-bench-") as folder, Lab(folder) as lab:
        b, busy = Bench(args, lab), busy_cores()
        b.row("cores others kept busy before the run", "cores", busy)
        for name, rows in groups.items():
            try:
                rows(b)
            except Fail as fail:
                failed.append(f"{name}: {fail}")
        after = busy_cores()
    if max(busy, after) > 0.3:
        warn(f"others used this machine: {busy:.1f} cores before, {after:.1f} after: do not compare Gbit/s and latencies "
             "with other runs, only columns and CPU seconds")
    b.say_unmet()
    if args.gate and b.unmet:
        failed.append("the tunnel costs more than it may")
    if failed:
        raise Fail("these rows are missing, or not met", "\n".join(failed))


def add_arguments(verb):
    verb.add_argument("--json", action="store_true", help="one JSON object a line")
    verb.add_argument("--quick", action="store_true", help="about two minutes: short stretches, one round, fewer nodes")
    verb.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="only these rows")
    verb.add_argument("--gate", action="store_true", help="only what must hold on any machine; exit 1 if it does not")
    verb.add_argument("--no-peers", action="store_true", help="only our own figures")

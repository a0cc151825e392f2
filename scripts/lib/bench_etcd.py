"""scripts/bench etcd: backups, restores and their cost, compared with etcd's own tools, in one run on this machine.

One member with TLS, filled with incompressible objects of 8 KiB. "plain snapshot" is `etcdctl snapshot save`;
"backup" is what a master does: the stream, sealed for a key, written durably, opened once by etcdutl, with its manifest.
"plain restore" is `etcdutl snapshot restore` and etcd's start until it is healthy; "restore" is the fire drill: the seal
opened, the snapshot opened by etcdutl, restored, etcd started, its keys counted, everything removed again.

Each is run --rounds times in turns with its peer, and the median counts. Writes are those of an API server, 50 a second,
each sent on schedule however long the previous one takes; "while backups run" has one backup after the other beside it.
Memory is the peak of the process that runs the agent's own code; etcd's and etcdutl's are separate.
"""
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import matrix
import parts
from common import Fail, run, wait_for

GIB = 2**30
MIB = 2**20
# CPU weight of the agent's code relative to etcd: units give etcd ten times nodelet's weight, here niceness does.
LOW = ["nice", "-n", "10"]
GOALS = {"backup": 1.3, "p99": 2.0, "restore": 3.0, "memory": 64}
START_SECONDS = 120


def add_arguments(verb):
    verb.add_argument("--json", action="store_true")
    verb.add_argument("--mib", type=int, default=1024, help="size of the data")
    verb.add_argument("--rounds", type=int, default=3)
    verb.add_argument("--seconds", type=int, default=20, help="of writing, each time")
    verb.add_argument("--etcd", default="", help="a version that is built; otherwise the newest stack's")
    verb.add_argument("--dir", default=None, help="where the data are; on a disk as masters have it, or /dev/shm")
    verb.add_argument("--tool", default="", help="the load tool, built elsewhere")


def tool(given):
    if given:
        return Path(given)
    source = Path(__file__).resolve().parents[2]
    run(["cargo", "build", "--release", "--locked", "--package", "pf9-plane", "--bin", "pf9-etcd-load"], cwd=source)
    target = Path(os.environ.get("CARGO_TARGET_DIR", source / "target"))
    return target / "release/pf9-etcd-load"


class Bench:
    def __init__(self, args, folder):
        self.dir = Path(folder)
        version = args.etcd or matrix.stacks()[0]["etcd"]
        self.programs = parts.tested("etcd", [version])[version]
        if not (self.programs / "etcd").is_file():
            self.programs = next(Path(self.programs).rglob("etcd")).parent
        self.load, self.root = tool(args.tool), self.dir / "root"
        (self.root / "usr/bin").mkdir(parents=True)
        (self.root / "programs").symlink_to(self.programs)
        (self.root / "usr/bin/prlimit").symlink_to("/usr/bin/prlimit")
        self.client, self.peer = 23790, 23800
        self.url = f"https://127.0.0.1:{self.client}"
        self.ours("prepare")

    def ours(self, *words, low=()):
        words = [*low, self.load, "--dir", self.dir, "--url", self.url, "--root", self.root, *words]
        done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Fail(f"pf9-etcd-load {words[7 + len(low)]} failed", done.stderr.strip())
        return json.loads(done.stdout)

    def tls(self):
        return ["--cacert", self.dir / "ca.pem", "--cert", self.dir / "cert.pem", "--key", self.dir / "key.pem"]

    @contextlib.contextmanager
    def etcd(self, data):
        """A healthy member on its data."""
        files = {"cert-file": "cert.pem", "key-file": "key.pem", "trusted-ca-file": "ca.pem"}
        words = [self.programs / "etcd", "--name", "bench", "--data-dir", data, "--client-cert-auth",
                 *(f"--{flag}={self.dir / name}" for flag, name in files.items()),
                 "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
                 "--listen-peer-urls", f"http://127.0.0.1:{self.peer}", *self.alone(),
                 "--quota-backend-bytes", str(8 * GIB), "--log-level", "error"]
        with open(self.dir / "etcd.log", "ab") as log:
            process = subprocess.Popen([str(w) for w in words], stdout=log, stderr=log)
        try:
            wait_for("etcd to be healthy", self.healthy, START_SECONDS, 0.1)
            yield
        finally:
            process.terminate()
            process.wait(60)

    def alone(self):
        peer = f"http://127.0.0.1:{self.peer}"
        return ["--initial-cluster", f"bench={peer}", "--initial-advertise-peer-urls", peer,
                "--initial-cluster-token", "bench"]

    def healthy(self):
        done = subprocess.run(["curl", "-sf", "--max-time", "2", *map(str, self.tls()), f"{self.url}/health"],
                              capture_output=True, text=True, check=False)
        return done.returncode == 0 and '"true"' in done.stdout

    def plain_snapshot(self):
        target = self.dir / "plain.db"
        target.unlink(missing_ok=True)
        began = time.monotonic()
        run([self.programs / "etcdctl", "--endpoints", self.url, *self.tls(), "--command-timeout", "10m",
             "snapshot", "save", target])
        return time.monotonic() - began

    def plain_restore(self):
        data = self.dir / "restored"
        began = time.monotonic()
        run([self.programs / "etcdutl", "snapshot", "restore", self.dir / "plain.db", "--data-dir", data,
             "--name", "bench", *self.alone()])
        with self.etcd(data):
            seconds = time.monotonic() - began
        run(["rm", "-rf", data])
        return seconds

    def backup(self):
        """A backup, deleted afterwards."""
        done = self.ours("backup", low=LOW)
        names = sorted((self.root / "var/opt/pf9/etcd-backups").iterdir())
        for old in names[:-2]:
            old.unlink()
        return done


def etcd(args, report):
    with tempfile.TemporaryDirectory(prefix="pf9-bench-", dir=args.dir) as folder:
        figures(Bench(args, folder), args, report)


def ratio(report, name, ours, peer, goal):
    value = ours / peer
    report.row(name, "x", round(value, 2), goal, value <= goal)


def figures(bench, args, report):
    peaks = []
    with bench.etcd(bench.dir / "data"):
        filled = bench.ours("fill", "--bytes", str(args.mib * MIB))
        report.row("objects written", "", filled["keys"])
        plain, backups = [], []
        for _ in range(args.rounds):
            plain.append(bench.plain_snapshot())
            backups.append(bench.backup())
        peaks += [done["peak_kib"] for done in backups]
        report.row("size of a snapshot", "MiB", round(backups[-1]["bytes"] / MIB))
        peer = statistics.median(plain)
        ours = statistics.median(done["seconds"] for done in backups)
        report.row("plain snapshot", "s", round(peer, 2))
        report.row("backup", "s", round(ours, 2))
        ratio(report, "backup / plain snapshot", ours, peer, GOALS["backup"])
        writes(bench, args, report)
    restores(bench, args, report, peaks)
    peak = max(peaks) / 1024
    report.row("memory of the agent's code, at most", "MiB", round(peak, 1), GOALS["memory"], peak <= GOALS["memory"])


def writes(bench, args, report):
    words = ["writes", "--seconds", str(args.seconds)]
    alone = bench.ours(*words)
    report.row("writes, nothing beside them, p99", "ms", round(alone["p99_ms"], 1))
    for name, other in (("plain snapshots", bench.plain_snapshot), ("backups", bench.backup)):
        beside = beside_writes(bench, words, other)
        report.row(f"writes while {name} run, p99", "ms", round(beside["p99_ms"], 1))
        goal = GOALS["p99"] if name == "backups" else None
        value = beside["p99_ms"] / alone["p99_ms"]
        report.row(f"writes while {name} run / alone, p99", "x", round(value, 2), goal,
                   value <= goal if goal else None)


def beside_writes(bench, words, other):
    line = [bench.load, "--dir", bench.dir, "--url", bench.url, *words]
    with subprocess.Popen([str(w) for w in line], stdout=subprocess.PIPE, text=True) as writer:
        while writer.poll() is None:
            other()
        text = writer.stdout.read()
        if writer.returncode:
            raise Fail("the writes failed while something ran beside them", text)
        return json.loads(text)


def restores(bench, args, report, peaks):
    plain, ours = [], []
    for _ in range(args.rounds):
        plain.append(bench.plain_restore())
        ours.append(bench.ours("drill", low=LOW))
    peaks += [done["peak_kib"] for done in ours]
    peer, own = statistics.median(plain), statistics.median(done["seconds"] for done in ours)
    report.row("plain restore, until healthy", "s", round(peer, 2))
    report.row("restore of a sealed backup, counted and taken away", "s", round(own, 2))
    ratio(report, "restore / plain restore", own, peer, GOALS["restore"])

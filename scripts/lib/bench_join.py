"""scripts/bench join: a machine becomes a node, compared with an older commit and a start by hand, on this machine in turns.

Both builds get the same stack, on planes of their own, and machines like the demo's: booted, the package
installed, nothing else. "prep to Ready" starts with `pf9ctl node prep`, with token and cluster ready; it ends when
Kubernetes reports the node Ready, polled ten times a second at its API server. "to ok" ends when the agent does.
The worker joins the master made just before. "by hand" is the floor: the same programs with the same files already
in place, started by a shell script that fetches the stack, checks the same digests and waits for the same things.

Memory is the proportional set of all daemons of a machine together, ten times a second, from prep-node to ok. "on
disk" is the machine's additional disk usage. "power loss" goes from the end of every process to a new Ready from
kubelet. The older commit is built once, in a temporary worktree; its target directory stays in the cache.
"""
import contextlib
import json
import os
import shutil
import ssl
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from datetime import datetime, timezone
from pathlib import Path

import join_floor
import node
import packager
import stack
import tools
import up
from common import CACHE, REPO, Fail, need_packages, run, say, wait_for
from lifecycle import Demo
from node import Node

GOALS = {"join": 0.5, "restart": 0.7, "memory": 64}
DAEMONS = ("pf9-comms", "pf9-hostagen", "pf9-nodeletd")  # the kernel keeps 15 letters
EVERY = 0.1
READY_SECONDS = 240
DISK_SECONDS = 90
PARTS = {"stack": "opt/pf9/stacks", "staged": "var/opt/pf9/hostagent/staging", "runtime": "var/lib/pf9/containerd"}
MACHINES = {"master": "master-1", "worker": "worker-1"}


def add_arguments(verb):
    verb.add_argument("--json", action="store_true")
    verb.add_argument("--rounds", type=int, default=5)
    verb.add_argument("--against", default="530d14e", help="the older commit; empty: none")
    verb.add_argument("--kubernetes", default="1.36", help="a minor or a version of src/stack/matrix.toml")
    verb.add_argument("--roles", default="master,worker")
    verb.add_argument("--only", default="new,old,hand", help="of these")
    verb.add_argument("--no-restart", action="store_true")
    verb.add_argument("--build-only", action="store_true", help="make what is missing, measure nothing")
    verb.add_argument("--save", type=Path, help="add the figures of each round to this file, and tell all that are in it")


class Side:
    """One build: its plane, its package."""

    def __init__(self, name, binaries, package):
        self.name, self.binaries, self.package = name, binaries, package
        self.template = None


def own():
    binaries = tools.release()
    return Side("new", binaries, packager.deb(binaries, Path(tempfile.mkdtemp(prefix="pf9-package-"))))


@contextlib.contextmanager
def building(commit, *wanted):
    """Programs of the older commit, built; its sources while they are needed."""
    folder = CACHE / f"release-{commit}"
    tree = folder / "tree"
    folder.mkdir(parents=True, exist_ok=True)
    run(["git", "-C", REPO, "worktree", "add", "--force", "--detach", tree, commit])
    try:
        env = {"CARGO_TARGET_DIR": str(folder / "target")}
        say(f"building {commit} (once; log: {folder / 'build.log'})")
        run(["cargo", "build", "--release", "--locked", "--features", "plane", *wanted], cwd=tree, env=env,
            log=folder / "build.log", timeout=tools.BUILD_SECONDS)
        yield tree, env
    finally:
        run(["git", "-C", REPO, "worktree", "remove", "--force", tree], check=False)


def binary_of(commit, name):
    """One program of the older commit."""
    binary = CACHE / f"release-{commit}/target/release" / name
    if not binary.exists():
        with building(commit, "--bin", name):
            pass
    return binary


def of_commit(commit):
    folder = CACHE / f"release-{commit}"
    package = folder / "package"
    if not (folder / "is-made").exists():
        with building(commit, "--bins") as (tree, env):
            # With its own scripts: the package's content has changed, too.
            make = "import sys; sys.path.insert(0, 'scripts/lib'); import tools; from pathlib import Path; " \
                   "tools.package(Path(sys.argv[1]))"
            run([sys.executable, "-c", make, package], cwd=tree, env=env, log=folder / "build.log",
                timeout=tools.BUILD_SECONDS)
        (folder / "is-made").write_text("")
    return Side("old", folder / "target/release", next(package.glob("*.deb")))


class Bench:
    def __init__(self, args, made, sides):
        os.environ["PF9_DEMO_STATE"] = os.environ.get("PF9_BENCH_STATE", "/var/lib/pf9-bench-join")
        self.args, self.made, self.sides = args, made, sides
        self.demo = Demo()
        self.manifest = json.loads((made / "manifest.json").read_text())
        self.roles = args.roles.split(",")
        self.configs = self.demo.dir / "configs"

    # -- preparation

    def prepare(self):
        self.demo.dir.mkdir(parents=True, exist_ok=True)
        self.demo.logs.mkdir(exist_ok=True)
        self.demo.network()
        for side in self.sides:
            self.fresh_plane(side)
            self.demo.plane.admin("stack", "import", str(self.made))
            self.demo.plane.stop()
            side.template = self.demo.dir / f"plane-{side.name}"
            shutil.rmtree(side.template, ignore_errors=True)
            self.demo.plane.dir.rename(side.template)

    def fresh_plane(self, side):
        plane = self.demo.plane
        plane.stop()
        shutil.rmtree(plane.dir, ignore_errors=True)
        if side.template:
            run(["cp", "-a", "--reflink=auto", side.template, plane.dir])
        plane.install(side.binaries / "pf9-plane")
        plane.token = None
        plane.start()

    def machine(self, role, package=None):
        machine = Node(self.demo.dir, MACHINES[role])
        if machine.dir.exists():
            machine.remove()
        machine.create()
        machine.boot()
        if package:
            machine.copy_in(package, f"/root/{package.name}")
            machine.run(["apt-get", "install", "-y", f"/root/{package.name}"], timeout=180)
            (machine.root / "root" / package.name).unlink()
        run(["sync"])
        return machine

    # -- one round of one build

    def round(self, side):
        self.fresh_plane(side)
        machines = {role: self.machine(role, side.package) for role in ("master", "worker") if role in self.roles
                    or role == "master"}
        cluster = self.new_cluster()
        api = Api(machines["master"].root)
        figures = {}
        for role, machine in machines.items():
            figures[role] = self.join(machine, role, cluster, api)
        if not self.args.no_restart:
            for role, machine in machines.items():
                figures[role]["restart"] = restart(machine, api)
        if side.name == "new" or not self.configs.exists():
            join_floor.keep(machines, self.configs)
        for machine in machines.values():
            machine.remove()
        self.demo.plane.stop()
        return {role: figures[role] for role in figures if role in self.roles}

    def new_cluster(self):
        return self.demo.plane.post("/qbert/v4/{project}/clusters", {
            "name": "bench", "containersCidr": up.PODS_CIDR, "servicesCidr": up.SERVICES_CIDR,
            "networkPlugin": "bridge", "stack": self.manifest["version"]})["uuid"]

    def join(self, machine, role, cluster, api):
        plane, token = self.demo.plane, machine.root / "root/token"
        token.write_text(plane.admin("token", "create") + "\n")
        before = used(machine.root)
        with Memory(machine) as memory:
            began = time.monotonic()
            machine.run(["pf9ctl", "prep-node", "--plane", plane.url, "--token-file", "/root/token"], timeout=180)
            host = up.host_id(machine)
            wait_for("the plane to know the host", lambda: host in {h["id"] for h in plane.hosts()}, 60, 0.05)
            plane.post(f"/qbert/v4/{{project}}/clusters/{cluster}/attach",
                       [{"uuid": host, "isMaster": role == "master"}])
            wait_for(f"{machine.name} to be Ready", lambda: api.ready(machine.name), READY_SECONDS, EVERY)
            ready = time.monotonic() - began

            def ok():
                item = next(item for item in plane.nodes() if item["uuid"] == host)
                return item["pf9"] if (item.get("pf9") or {}).get("state") == "ok" else None
            report = wait_for(f"{machine.name} to say ok", ok, READY_SECONDS, EVERY)
            settled = time.monotonic() - began
        figures = {"ready": ready, "ok": settled, "memory": memory.peak, "before": before}
        figures["phases"] = {p["id"]: (p.get("took_ms") or 0) / 1000 for p in report.get("phases", [])}
        self.take_log(machine, role)
        figures.update(self.disk(machine, before))
        return figures

    def take_log(self, machine, role):
        """Where the time went: the node's story, and each step with its duration."""
        for path, name in (("var/log/pf9/kube/kube.log", f"kube-{role}.log"),
                           ("var/opt/pf9/nodelet/journal.jsonl", f"journal-{role}.jsonl")):
            if (machine.root / path).exists():
                shutil.copy(machine.root / path, self.demo.logs / name)

    @staticmethod
    def disk(machine, before):
        """Lasting disk usage; leftovers get time to be cleaned up."""
        try:
            wait_for("the staged archive to go",
                     lambda: not any((machine.root / PARTS["staged"]).glob("*.zst*")), DISK_SECONDS / 9, 0.5)
        except Fail:
            pass  # it stays, and is told
        parts = {f"disk {name}": used(machine.root / path) for name, path in PARTS.items()}
        return {"disk": used(machine.root) - before, **parts}

    # -- by hand

    def floor(self):
        figures = {}
        for role in ("master", "worker"):
            if role == "worker" and "worker" not in self.roles:
                continue
            machine = self.machine(role)
            join_floor.lay_out(machine, role, self.configs / role, self.manifest, self.made)
            # As the node itself: without an agent nobody grants the administrator rights in the cluster.
            api = Api(machine.root, "kubelet/apiserver")
            with join_floor.served(self.made) as url:
                began = time.monotonic()
                machine.run(["sh", "/root/by-hand.sh", url], timeout=READY_SECONDS, log=self.demo.logs / f"hand-{role}.log")
                wait_for(f"{machine.name} to be Ready", lambda: api.ready(machine.name), READY_SECONDS, EVERY)
            figures[role] = {"ready": time.monotonic() - began}
        for role in MACHINES:
            machine = Node(self.demo.dir, MACHINES[role])
            if machine.dir.exists():
                machine.remove()
        return {role: figures[role] for role in figures if role in self.roles}


def restart(machine, api):
    """Power loss to Ready, as reported by the kubelet started after it."""
    lost = datetime.now(timezone.utc)
    began = time.monotonic()
    machine.kill()
    machine.start()
    wait_for(f"{machine.name} to be Ready again", lambda: api.ready(machine.name, lost), READY_SECONDS, EVERY)
    seconds = time.monotonic() - began
    machine.wait_booted()
    return seconds


class Api:
    """The cluster's API server, with a certificate from this machine's disk."""

    def __init__(self, root, who="admin"):
        self.certs = root / "etc/pf9/kube.d/certs" / who
        self.url = f"https://{node.NETWORK}.{node.FIRST_ADDRESS['master']}:6443"

    def ready(self, name, since=None):
        try:
            context = ssl.create_default_context(cafile=str(self.certs / "ca.crt"))
            context.load_cert_chain(self.certs / "request.crt", self.certs / "request.key")
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                                 urllib.request.HTTPSHandler(context=context))
            with opener.open(f"{self.url}/api/v1/nodes/{name}", timeout=2) as answer:
                conditions = json.load(answer)["status"]["conditions"]
        except (OSError, KeyError, ValueError):
            return False
        ready = next((c for c in conditions if c["type"] == "Ready"), None)
        if not ready or ready["status"] != "True":
            return False
        said = datetime.fromisoformat(ready["lastHeartbeatTime"])
        return since is None or said > since


class Memory(threading.Thread):
    """Peak memory of the daemons of a machine together."""

    def __init__(self, machine):
        super().__init__(daemon=True)
        self.space = os.readlink(f"/proc/{machine.leader()}/ns/pid")
        self.peak, self.over = 0.0, threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while not self.over.wait(EVERY):
            self.peak = max(self.peak, sum(map(self.of, (e for e in Path("/proc").iterdir() if e.name.isdigit()))))

    def of(self, entry):
        try:
            if not (entry / "comm").read_text().startswith(DAEMONS) or os.readlink(entry / "ns/pid") != self.space:
                return 0.0
            text = (entry / "smaps_rollup").read_text()
        except OSError:
            return 0.0
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def used(path):
    """MiB on disk."""
    if not path.exists():
        return 0.0
    return int(run(["du", "-skx", path], check=False).stdout.split()[0]) / 1024


def join(args, report):
    need_packages(up.PACKAGES)
    made = stack.build(args.kubernetes)
    only = args.only.split(",")
    sides = [make() for name, make in (("new", own), ("old", lambda: of_commit(args.against))) if name in only
             and (name == "new" or args.against)]
    if args.build_only:
        return
    bench = Bench(args, made, sides)
    rounds = json.loads(args.save.read_text()) if args.save and args.save.exists() else []
    with bench.demo.lock():
        try:
            bench.prepare()
            for _ in range(args.rounds):
                for side in sides:
                    rounds.append({"side": side.name, **bench.round(side)})
                    keep(args, rounds)
                if "hand" in only and bench.configs.exists():
                    rounds.append({"side": "hand", **bench.floor()})
                    keep(args, rounds)
        finally:
            logs = bench.demo.logs
            if logs.exists():
                shutil.copytree(logs, CACHE / "bench-join-logs", dirs_exist_ok=True)
            bench.demo.remove_all()
    for role in bench.roles:
        tell(report, role, rounds)


def keep(args, rounds):
    latest = rounds[-1]
    for role in (r for r in MACHINES if r in latest):
        say(f"{latest['side']} {role}: " + ", ".join(f"{key} {value:.1f}" for key, value in latest[role].items()
                                                    if isinstance(value, float)))
    if args.save:
        args.save.write_text(json.dumps(rounds, indent=1))


def tell(report, role, rounds):
    def of(side, key):
        found = [r[role][key] for r in rounds if r["side"] == side and key in r.get(role, {})]
        return statistics.median(found) if found else None

    names = {"new": "this build", "old": "the older commit", "hand": "by hand"}
    for key, words in (("ready", "prep to Ready"), ("ok", "prep to ok"), ("restart", "power loss to Ready")):
        for side, name in names.items():
            count = sum(r["side"] == side and key in r.get(role, {}) for r in rounds)
            if count:
                report.row(f"{role}: {words}, {name} ({count} times)", "s", round(of(side, key), 1))
        goal = GOALS["restart" if key == "restart" else "join"]
        if of("new", key) and of("old", key):
            ratio = of("new", key) / of("old", key)
            report.row(f"{role}: {words}, this build / the older commit", "x", round(ratio, 2), goal, ratio <= goal)
    for side in ("new", "old"):
        if of(side, "memory") is None:
            continue
        peaks = [r[role]["memory"] for r in rounds if r["side"] == side and role in r]
        goal = GOALS["memory"] if side == "new" else None
        report.row(f"{role}: memory of all daemons, at most, {names[side]}", "MiB", round(max(peaks), 1), goal,
                   max(peaks) <= goal if goal else None)
        for key in ("disk", *(f"disk {name}" for name in PARTS)):
            report.row(f"{role}: on the disk{key.removeprefix('disk')}, {names[side]}".replace("disk ", "disk, "), "MiB",
                       round(of(side, key)))
        phases = [r[role]["phases"] for r in rounds if r["side"] == side and role in r]
        for phase in phases[-1]:
            seconds = statistics.median(p.get(phase, 0) for p in phases)
            if seconds >= 0.1:
                report.row(f"{role}: phase {phase}, {names[side]}", "s", round(seconds, 1))

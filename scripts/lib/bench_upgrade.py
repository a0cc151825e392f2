"""scripts/bench upgrade: a node goes from one patch release to the next by a delta, with the installed agents.

A master of its own gets the older stack like every node: the whole archive, through its tunnel. Then the newer
stack is imported on its plane, and nothing else is done: the plane makes the delta on its own. The cluster is upgraded.

"on the wire" is what the machine's network device received, from everybody and with all overhead, from the order until
the upgrade is done; for comparison, the size of the newer stack's archive. The same device
at the join shows that the counter sees an archive. Memory is each daemon's peak resident memory (VmHWM, reset
before the order), compared with its unit's limit; a daemon that restarted meanwhile is a failure. At the end every file
of the new stack on the machine is compared with the manifest. Logs are kept beside the stacks, in `bench-upgrade-logs`.
"""
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import packager
import stack
import tools
import up
from common import CACHE, Fail, need_packages, wait_for
from lifecycle import CLUSTER, Demo
from node import Node
from progress import Board

BYTES_GOAL = 0.40
MACHINE = "master-1"
DAEMONS = 3
DELTA_SECONDS = 900  # half a minute of a processor that nobody else wants
ROLL_SECONDS = 900
STACKS = "opt/pf9/stacks"
MIB = 2**20
LOGS = CACHE / "bench-upgrade-logs"
# Of the machine, for whoever reads why it failed.
TOLD = ["var/log/pf9/kube/kube.log", "var/log/pf9/hostagent/hostagent.log", "var/opt/pf9/nodelet/journal.jsonl"]


def add_arguments(verb):
    verb.add_argument("--json", action="store_true")
    verb.add_argument("--from", dest="old", default="1.36.1", help="a version of src/stack/matrix.toml")
    verb.add_argument("--to", dest="new", default="1.36.3", help="another patch release of the same minor")
    verb.add_argument("--workloads", action="store_true", help="the machine is master and worker in one")


def upgrade(args, report, pids):
    need_packages(up.PACKAGES)
    os.environ["PF9_DEMO_STATE"] = os.environ.get("PF9_BENCH_STATE", "/var/lib/pf9-bench-upgrade")
    demo = Demo()
    with demo.lock():
        if demo.dir.exists():
            demo.remove_all()  # of a run that was killed
        try:
            # First: beside another demo this is refused at once, not after a Kubernetes was compiled.
            demo.network()
            figures(demo, stack.build(args.old), stack.build(args.new), args.workloads, report, pids)
        finally:
            keep_logs(demo)
            demo.remove_all()


def keep_logs(demo):
    shutil.rmtree(LOGS, ignore_errors=True)
    if demo.logs.exists():
        shutil.copytree(demo.logs, LOGS)
    for told in TOLD:
        path = Node(demo.dir, MACHINE).root / told
        if LOGS.exists() and path.exists():
            shutil.copy(path, LOGS)


def figures(demo, old, new, workloads, report, pids):
    manifests = {made: json.loads((made / "manifest.json").read_text()) for made in (old, new)}
    archives = {made: (made / "stack.tar.zst").stat().st_size for made in (old, new)}
    machine = joined(demo, old, manifests[old]["version"], workloads)
    took = received(machine)
    report.row("join: on the wire", "MB", mega(took))
    report.row("join: the stack's archive", "MB", mega(archives[old]))
    if took < archives[old]:
        raise Fail("the counter does not see what the machine fetches", f"{took} bytes, the archive has {archives[old]}")

    began = time.monotonic()
    demo.plane.admin("stack", "import", str(new))
    version = manifests[new]["version"]
    delta = wait_for("the plane to make what differs by itself", lambda: offered(demo, version), DELTA_SECONDS, 1,
                     demo.plane.log)
    report.row("the plane makes what differs in", "s", round(time.monotonic() - began, 1))
    plan = json.loads(demo.plane.admin("cluster", "upgrade", CLUSTER, "--to", version, "--plan", "--json"))
    if not plan["begins"]:
        raise Fail("something stands against the upgrade", json.dumps(plan["findings"]))
    said = {(t["by"], t["bytes"]) for t in plan["transfers"]}
    if said != {("delta", delta)}:
        raise Fail("the plan does not say what the node fetches", json.dumps(plan["transfers"]))

    daemons = pids(machine)
    if len(daemons) < DAEMONS:
        raise Fail("not every daemon runs", f"found: {', '.join(daemons) or 'none'}")
    for pid in daemons.values():
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    before, began = received(machine), time.monotonic()
    demo.plane.admin("cluster", "upgrade", CLUSTER, "--to", version)
    ended = wait_for("the upgrade to be over", lambda: over(demo), ROLL_SECONDS, 1, demo.logs)
    if ended["state"] != "done":
        raise Fail(f"the upgrade is {ended['state']}", json.dumps(ended["why"]))
    seconds, took = time.monotonic() - began, received(machine) - before
    if pids(machine) != daemons:
        raise Fail("a daemon was started again meanwhile", f"{daemons} before, {pids(machine)} after")
    report.row("upgrade: what differs", "MB", mega(delta))
    report.row("upgrade: on the wire", "MB", mega(took))
    report.row("upgrade: the whole archive", "MB", mega(archives[new]))
    ratio = took / archives[new]
    report.row("upgrade: on the wire / the whole archive", "x", round(ratio, 3), BYTES_GOAL, ratio <= BYTES_GOAL)
    report.row("upgrade: order to done", "s", round(seconds, 1))
    for name, pid in daemons.items():
        peak, bound = peak_of(pid), bound_of(machine, name)
        report.row(f"{name}: memory, at most", "MiB", round(peak / MIB, 1), round(bound / MIB), peak <= bound)
    count = verify(machine, manifests[new])
    report.row("files that are what the manifest says", "", count, len(manifests[new]["files"]),
               count == len(manifests[new]["files"]))


def joined(demo, made, version, workloads):
    """A Ready master of this stack."""
    binaries = tools.release(demo.logs / "cargo.log")
    package = packager.deb(binaries, demo.dir / "package", demo.logs / "package.log")
    demo.take_kubectl(made)
    up.start_plane(demo, binaries, made)
    machine, board, timings = Node(demo.dir, MACHINE), Board([MACHINE]), up.Timings()
    machine.create()
    machine.boot()
    up.install(demo, machine, package)
    up.enrol(demo, machine, timings, board)
    up.write_kubeconfig(demo, up.attach(demo, [machine], version, None, workloads))
    up.follow(demo, [machine], board, timings, up.READY_SECONDS)
    board.close()
    return machine


def received(machine):
    """Bytes received by the machine's network device since it was plugged in."""
    return int(machine.out(["cat", "/sys/class/net/host0/statistics/rx_bytes"]))


def offered(demo, version):
    """Size of the delta, once it exists."""
    listed = json.loads(demo.plane.admin("stack", "list", "--json"))
    found = next(item for item in listed if item["version"] == version)["deltas"]
    return found[0]["offer"]["bytes"] if found else None


def over(demo):
    """State of the upgrade, once it no longer advances."""
    answer = json.loads(demo.plane.admin("cluster", "upgrade", CLUSTER, "status", "--json"))["upgrade"]
    if answer["state"] == "running":
        raise Fail(answer["words"], json.dumps(answer["nodes"]))
    return answer


def peak_of(pid):
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


def bound_of(machine, name):
    return int(machine.out(["systemctl", "show", "-P", "MemoryMax", f"{name}.service"]))


def verify(machine, manifest):
    """How many files of the active stack match the manifest."""
    active = machine.root / STACKS / os.readlink(machine.root / STACKS / "current")
    if active.name != f"{manifest['name']}-{manifest['version']}":
        raise Fail("the machine has another stack", active.name)
    right = 0
    for item in manifest["files"]:
        with open(active / item["path"], "rb") as source:
            right += hashlib.file_digest(source, "sha256").hexdigest() == item["sha256"]
    return right


def mega(count):
    return round(count / 1e6, 1)

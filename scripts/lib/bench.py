"""scripts/bench: figures, side by side with their goals.

  node [--json] [--idle 120]      of a running demo (made by `scripts/demo up` if there is none): prep-node to Ready,
                                  boot to Ready, an idle sweep, memory, the package's size
  tunnel [--json] [--quick]       of the tunnel on loopback, beside its peers; needs no demo

Each figure is one line: name, ours, goal, met. With --json one object a line:
{"name","unit","ours","target","met"}, with "peers" for the tunnel. Figures are reported, never asserted: this
machine may be busy.
"""
import argparse
import json
import os
import sys
import time
from pathlib import Path

import bench_tunnel
import up
from common import Fail, need_root, say, wait_for
from lifecycle import Demo

DAEMONS = ("pf9-comms", "pf9-hostagent", "pf9-nodeletd")
READY_GOAL, PSS_GOAL, CPU_GOAL = 60, 40, 0.2
CLOCK_TICKS = 100


class Report:
    def __init__(self, as_json):
        self.as_json = as_json

    def row(self, name, unit, ours, target=None, met=None):
        if self.as_json:
            say(json.dumps({"name": name, "unit": unit, "ours": ours, "target": target, "met": met}))
            return
        goal = "" if target is None else f"goal {target} {unit}"
        mark = {True: "met", False: "NOT MET", None: ""}[met]
        say(f"{name:<52} {ours:>10} {unit:<8} {goal:<18} {mark}")


def pids(machine):
    """Our daemons' processes, as this host numbers them."""
    found = {}
    space = os.readlink(f"/proc/{machine.leader()}/ns/pid")
    for name in DAEMONS:
        done = machine.run(["systemctl", "show", "-P", "MainPID", f"{name}.service"], check=False)
        inner = int(done.stdout.strip() or 0)
        for entry in Path("/proc").iterdir() if inner else ():
            if not entry.name.isdigit():
                continue
            try:
                status = (entry / "status").read_text()
                if (entry / "comm").read_text().strip() != name[:15]:
                    continue
            except OSError:
                continue
            spaces = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if int(spaces[-1]) == inner and os.readlink(entry / "ns/pid") == space:
                found[name] = int(entry.name)
    return found


def pss_mib(pid):
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid):
    """The process and the children it waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / CLOCK_TICKS


def written(pid):
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar:"):
            calls = int(line.split()[1])
        if line.startswith("write_bytes:"):
            return calls, int(line.split()[1])
    return 0, 0


def node_figures(demo, args, report):
    if not demo.done_mark.exists():
        up.up(demo, argparse.Namespace(masters=1, workers=1, stack_version=None, timeout=up.READY_SECONDS,
                                       machines_only=False))
    record = demo.dir / "timings.json"
    for name, seconds in (json.loads(record.read_text()) if record.exists() else {}).items():
        report.row(f"{name}: prep-node to Ready", "s", round(seconds, 1), READY_GOAL, seconds <= READY_GOAL)
    for machine in demo.nodes():
        began = time.monotonic()
        lost = {"seen": False}
        machine.reboot()

        def ready(name=machine.name, lost=lost):
            now = demo.kube_nodes().get(name, False)
            lost["seen"] = lost["seen"] or not now or time.monotonic() - began > 15
            return now and lost["seen"] and agent_ok(demo, name)
        wait_for(f"{machine.name} to be Ready again", lambda: quiet(ready), 300, 0.5)
        seconds = time.monotonic() - began
        report.row(f"{machine.name}: reboot to Ready", "s", round(seconds, 1), READY_GOAL, seconds <= READY_GOAL)
    time.sleep(20)  # the figure is about an idle node; this is not a test
    for machine in demo.nodes():
        idle(machine, args.idle, report)
    package = next((demo.dir / "package").glob("*.deb"))
    report.row("size of the .deb", "MiB", round(package.stat().st_size / 2**20, 1))


def agent_ok(demo, name):
    item = next(item for item in demo.plane.nodes() if item["name"] == name)
    return (item.get("pf9") or {}).get("state") == "ok"


def quiet(ask):
    """The API is away while its machine boots: that is an answer too."""
    try:
        return ask()
    except Fail:
        return False


def idle(machine, seconds, report):
    found = pids(machine)
    before = {name: (cpu_seconds(pid), *written(pid)) for name, pid in found.items()}
    time.sleep(seconds)
    total_cpu = 0.0
    for name, pid in found.items():
        cpu, chars, bytes_ = (now - then for now, then in zip((cpu_seconds(pid), *written(pid)), before[name]))
        total_cpu += cpu
        if name == "pf9-nodeletd":
            sweeps = max(1, seconds // 60)
            report.row(f"{machine.name}: nodelet, one idle sweep, CPU", "s", round(cpu / sweeps, 3))
            report.row(f"{machine.name}: nodelet, one idle sweep, to disk", "bytes", bytes_ // sweeps)
            report.row(f"{machine.name}: nodelet, one idle sweep, write calls", "bytes", chars // sweeps)
    share = 100 * total_cpu / seconds
    report.row(f"{machine.name}: idle CPU of all daemons", "% core", round(share, 2), CPU_GOAL, share <= CPU_GOAL)
    sizes = {name: pss_mib(pid) for name, pid in found.items()}
    for name, size in sizes.items():
        report.row(f"{machine.name}: {name} PSS", "MiB", round(size, 1))
    total = sum(sizes.values())
    report.row(f"{machine.name}: all daemons PSS", "MiB", round(total, 1), PSS_GOAL, total <= PSS_GOAL)


def main(argv):
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("node")
    verb.add_argument("--json", action="store_true")
    verb.add_argument("--idle", type=int, default=120, help="seconds of watching an idle node")
    bench_tunnel.add_arguments(verbs.add_parser("tunnel", description=bench_tunnel.__doc__,
                                                formatter_class=argparse.RawDescriptionHelpFormatter))
    args = parser.parse_args(argv)
    if args.verb == "tunnel":
        bench_tunnel.tunnel(args)
        return
    need_root("scripts/bench")
    node_figures(Demo(), args, Report(args.json))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"bench: {fail}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

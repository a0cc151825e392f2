"""scripts/bench: measurements, side by side with their goals.

  node [--json] [--idle 120]      of a running demo (made by `scripts/demo up` if there is none): prep-node to Ready,
                                  boot to Ready, an idle sweep, memory, the package's size. The idle window goes from
                                  one status check's line in kube.log to a later one, so it holds whole sweeps; a sweep
                                  that finds nothing to do may write that line and nothing else. The line's bytes are
                                  listed separately: on disk the kernel counts the page it is in (4096), or two
  agent [--json] [--rounds 3] [--idle 300] [--against COMMIT]   the daemons on an idle node, pf9ctl's check and status, the
                                  package, compared with an older commit in the same run; creates its own machines; needs no demo
  tunnel [--json] [--quick] [--only GROUP ...]   the tunnel on loopback, compared with its peers; needs no demo
  plane [--json] [--counts 10000] [--against COMMIT]   pf9-plane with a fleet of this many hosts, compared with an older
                                  commit in the same run; needs no demo
  join [--json] [--rounds 5] [--against COMMIT]   prep-node to Ready, compared with an older commit and a start by hand; creates
                                  its own machines; needs no demo
  upgrade [--json] [--from 1.36.1] [--to 1.36.3] [--workloads]   a node between two patch releases: bytes on the wire,
                                  memory; creates its own machine; needs no demo
  etcd [--json] [--mib 1024] [--rounds 3] [--dir DIR]   backups and restores, compared with etcd's own tools; needs no demo
  soak [--json] [--days 365] [--only PART]   disk and memory after a simulated year, compared with that after a week; needs no demo

Each result is one line: name, ours, goal, met. With --json one object per line:
{"name","unit","ours","target","met"}, with "peers" for the tunnel and the plane. Results are reported, never asserted: this
machine may be busy. Of the tunnel, rows that could not be measured and those of `--gate`, which hold on any machine, fail.
"""
import argparse
import json
import os
import sys
import time
from pathlib import Path

import bench_agent
import bench_etcd
import bench_join
import bench_soak
import bench_plane
import bench_tunnel
import bench_upgrade
import up
from common import Fail, need_root, say, wait_for
from lifecycle import Demo

DAEMONS = ("pf9-comms", "pf9-hostagent", "pf9-nodeletd")
READY_GOAL, PSS_GOAL, CPU_GOAL = 60, 40, 0.2
TRIALS_GOAL = 2  # seconds for all programs of a node, each tried with its configuration before it is started with it
CLOCK_TICKS = 100
SWEEP_SECONDS = 60  # nodelet.sweep_s, which the demo leaves as it is
DISK_GOAL = 2 * 4096  # the line in kube.log and nothing else: the page it is in, or two when it crosses a border


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
    """The process and its reaped children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / CLOCK_TICKS


def written(pid):
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar:"):
            calls = int(line.split()[1])
        if line.startswith("write_bytes:"):
            return calls, int(line.split()[1])
    return 0, 0


class Checks:
    """Results of status checks, read from the end of a machine's kube.log as they are written."""
    MARK = " status check: "

    def __init__(self, machine):
        self.name, self.path = machine.name, machine.root / "var/log/pf9/kube/kube.log"
        self.at = self.path.stat().st_size if self.path.exists() else 0

    def lines(self):
        """Complete new lines; all of them if the log was rotated."""
        try:
            with open(self.path, "rb") as log:
                if os.fstat(log.fileno()).st_size < self.at:
                    self.at = 0
                log.seek(self.at)
                text = log.read()
        except FileNotFoundError:
            return []
        text = text[:text.rfind(b"\n") + 1]
        self.at += len(text)
        return text.decode("utf-8", "replace").splitlines(keepends=True)

    def idle_one(self):
        """Waits for the next check that finds nothing to do: its line. Fails if anything else is reported before."""
        lines = wait_for(f"{self.name}: a status check", self.lines, 3 * SWEEP_SECONDS, 0.1)
        other = next((line for line in lines if f"{self.MARK}ok " not in line), None)
        if other:
            raise Fail(f"{self.name} is not idle", f"kube.log says: {other}")
        return lines


def settled(machine):
    """Waits until a status check finds nothing to do; the log from there."""
    checks = Checks(machine)
    wait_for(f"{machine.name}: a status check that finds nothing to do",
             lambda: any(f"{Checks.MARK}ok " in line for line in checks.lines()), 5 * SWEEP_SECONDS, 0.1)
    return checks


def node_figures(demo, args, report):
    if not demo.done_mark.exists():
        up.up(demo, up.Wanted())
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
    for machine in demo.nodes():
        idle(machine, args.idle, report)
        trials(machine, report)
    package = next((demo.dir / "package").glob("*.deb"))
    report.row("size of the .deb", "MiB", round(package.stat().st_size / 2**20, 1))


def agent_ok(demo, name):
    item = next(item for item in demo.plane.nodes() if item["name"] == name)
    return (item.get("pf9") or {}).get("state") == "ok"


def quiet(ask):
    """The API is down while its machine boots: that is an answer too."""
    try:
        return ask()
    except Fail:
        return False


def figures(found):
    try:
        return {name: (cpu_seconds(pid), *written(pid)) for name, pid in found.items()}
    except OSError as error:
        raise Fail("a daemon ended while it was watched", str(error)) from error


def idle(machine, seconds, report):
    """From the end of one sweep to the end of the first one after `seconds`: whole sweeps, at least one."""
    checks = settled(machine)
    found, began = pids(machine), time.monotonic()
    if set(found) != set(DAEMONS):
        raise Fail(f"{machine.name}: not every daemon runs", f"found: {', '.join(found) or 'none'}")
    before, lines = figures(found), []
    while not lines or time.monotonic() - began < seconds:
        lines += checks.idle_one()
    after, seconds = figures(found), time.monotonic() - began
    total_cpu = sum(after[name][0] - before[name][0] for name in found)
    cpu, chars, bytes_ = (now - then for now, then in zip(after["pf9-nodeletd"], before["pf9-nodeletd"]))
    sweeps, told = len(lines), sum(len(line.encode()) for line in lines)
    one = f"{machine.name}: nodelet, one idle sweep"
    report.row(f"{machine.name}: idle sweeps watched", "", sweeps)
    report.row(f"{one}, CPU", "s", round(cpu / sweeps, 3))
    report.row(f"{one}, to disk", "bytes", bytes_ // sweeps, DISK_GOAL, bytes_ // sweeps <= DISK_GOAL)
    report.row(f"{one}, its line in kube.log", "bytes", told // sweeps)
    report.row(f"{one}, other write calls (sockets, pipes)", "bytes", (chars - told) // sweeps)
    share = 100 * total_cpu / seconds
    report.row(f"{machine.name}: idle CPU of all daemons", "% core", round(share, 2), CPU_GOAL, share <= CPU_GOAL)
    sizes = {name: pss_mib(pid) for name, pid in found.items()}
    for name, size in sizes.items():
        report.row(f"{machine.name}: {name} PSS", "MiB", round(size, 1))
    total = sum(sizes.values())
    report.row(f"{machine.name}: all daemons PSS", "MiB", round(total, 1), PSS_GOAL, total <= PSS_GOAL)


def trials(machine, report):
    """The last trial of each program, by nodelet's journal."""
    took = {}
    for line in (machine.root / "var/opt/pf9/nodelet/journal.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if str(entry.get("step", "")).startswith("tried:") and "took_ms" in entry:
            took[entry["step"]] = entry["took_ms"]
    if not took:
        raise Fail(f"{machine.name}: its journal names no trial")
    seconds = sum(took.values()) / 1000
    report.row(f"{machine.name}: trials of {len(took)} programs, the last of each", "s", round(seconds, 1), TRIALS_GOAL,
               seconds <= TRIALS_GOAL)


def add_arguments(verb):
    verb.add_argument("--json", action="store_true")
    verb.add_argument("--idle", type=int, default=120, help="seconds of watching an idle node")


# verb: (what adds its arguments, whether it makes machines and so needs root, how it begins).
VERBS = {
    "node": (add_arguments, True, lambda args, report: node_figures(Demo(), args, report)),
    "tunnel": (bench_tunnel.add_arguments, False, lambda args, report: bench_tunnel.tunnel(args)),
    "etcd": (bench_etcd.add_arguments, False, bench_etcd.etcd),
    "join": (bench_join.add_arguments, True, bench_join.join),
    "upgrade": (bench_upgrade.add_arguments, True, lambda args, report: bench_upgrade.upgrade(args, report, pids)),
    "agent": (bench_agent.add_arguments, True,
              lambda args, report: bench_agent.agent(args, report, (pids, settled, sys.modules[__name__]))),
    "soak": (bench_soak.add_arguments, False, bench_soak.soak),
    "plane": (bench_plane.add_arguments, False, lambda args, report: bench_plane.plane(args)),
}


def main(argv):
    how = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, **how)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, (arguments, _, _) in VERBS.items():
        module = sys.modules[arguments.__module__]
        arguments(verbs.add_parser(name, description=None if name == "node" else module.__doc__, **how))
    args = parser.parse_args(argv)
    _, as_root, begin = VERBS[args.verb]
    if as_root:
        need_root("scripts/bench")
    begin(args, Report(args.json))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"bench: {fail}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

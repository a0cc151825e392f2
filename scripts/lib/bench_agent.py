"""scripts/bench agent: the daemons on an idle node and pf9ctl, compared with an older commit, on this machine in turns.

Each round creates a machine for each build, with that build's plane and package, and makes it a master. Then,
one build after the other, within minutes of each other: memory (proportional sets, all daemons together), CPU time over
whole idle sweeps, how long `pf9ctl node check` and `pf9ctl status` take on that node, and how long comms and hostagent
take from their start to `READY`. Median of the rounds, and this build relative to the older one: a machine that is busy
is busy for both. The goals are for an idle one.
"""
import statistics
import time
from pathlib import Path

import bench_join
import stack
from common import Fail, need_packages, say

GOALS = {"pss": 24, "cpu": 0.05, "check": 1.5, "status": 0.030, "package": 8}
# Runs of each verb per round: the first one reads its program from the disk.
ASKED = {"check": 5, "status": 21, "start": 5}
WORDS = {"pss": ("all daemons on an idle node, PSS", "MiB"), "cpu": ("all daemons on an idle node, processor", "% core"),
         "check": ("pf9ctl node check", "s"), "status": ("pf9ctl status", "s"), "start": ("comms and hostagent, start to ready", "s"),
         "package": (".deb", "MiB")}
SIDES = {"new": "this build", "old": "the older commit"}


def add_arguments(verb):
    verb.add_argument("--json", action="store_true")
    verb.add_argument("--rounds", type=int, default=3)
    verb.add_argument("--idle", type=int, default=300, help="seconds of watching an idle node, in each round")
    verb.add_argument("--against", default="530d14e", help="the older commit; empty: none")
    verb.add_argument("--kubernetes", default="1.36", help="a minor or a version of src/stack/matrix.toml")
    verb.add_argument("--build-only", action="store_true", help="make what is missing, measure nothing")
    # Arguments of bench_join for the machines.
    verb.set_defaults(roles="master", no_restart=True)


def timed(machine, words, times):
    """Median of these runs, by the machine's own clock: the cost of entering the machine is not the program's."""
    script = 'n=$1; shift; for _ in $(seq "$n"); do a=$(date +%s%N); "$@" >/dev/null 2>&1; b=$(date +%s%N); echo $((b - a)); done'
    found = machine.run(["bash", "-c", script, "timed", str(times), *words], timeout=300).stdout.split()
    if len(found) != times:
        raise Fail(f"{' '.join(words)} was not timed {times} times")
    """All measurements of a settled node. `pids`, `settled` and `look` are bench's."""


def measured(machine, idle, pids, settled, look):
    """All figures of a node that has settled. `pids`, `settled` and `look` are bench's."""
    checks = settled(machine)
    found, began = pids(machine), time.monotonic()
    if len(found) != 3:
        raise Fail(f"{machine.name}: not every daemon runs", f"found: {', '.join(found) or 'none'}")
    before, lines = {name: look.cpu_seconds(pid) for name, pid in found.items()}, []
    while not lines or time.monotonic() - began < idle:
        lines += checks.idle_one()
    seconds = time.monotonic() - began
    cpu = sum(look.cpu_seconds(pid) - before[name] for name, pid in found.items())
    sizes = {name: look.pss_mib(pid) for name, pid in found.items()}
    say(f"{machine.name}: " + ", ".join(f"{name} {size:.1f} MiB" for name, size in sizes.items()))
    figures = {"pss": sum(sizes.values()), "cpu": 100 * cpu / seconds}
    # By the names that both builds have.
    figures["check"] = timed(machine, ["pf9ctl", "check-node"], ASKED["check"])
    figures["status"] = timed(machine, ["pf9ctl", "status"], ASKED["status"])
    # `restart` of a unit of Type=notify returns when both are ready.
    figures["start"] = timed(machine, ["systemctl", "restart", "pf9-comms", "pf9-hostagent"], ASKED["start"])
    return figures


def one_round(bench, side, args, tools):
    bench.fresh_plane(side)
    machine = bench.machine("master", side.package)
    cluster = bench.new_cluster()
    bench.join(machine, "master", cluster, bench_join.Api(machine.root))
    # Without a start limit: each of these restarts counts.
    machine.run(["bash", "-c", "for u in comms hostagent; do mkdir -p /run/systemd/system/pf9-$u.service.d; "
                 "printf '[Unit]\\nStartLimitIntervalSec=0\\n' > /run/systemd/system/pf9-$u.service.d/bench.conf; done; "
                 "systemctl daemon-reload"])
    figures = measured(machine, args.idle, *tools)
    figures["package"] = Path(side.package).stat().st_size / 2**20
    machine.remove()
    bench.demo.plane.stop()
    return figures


def agent(args, report, tools):
    need_packages(bench_join.up.PACKAGES)
    made = stack.build(args.kubernetes)
    sides = [bench_join.own(), *([bench_join.of_commit(args.against)] if args.against else [])]
    if args.build_only:
        return
    bench, rounds = bench_join.Bench(args, made, sides), []
    with bench.demo.lock():
        try:
            bench.prepare()
            for number in range(args.rounds):
                # The sides take turns in going first, so that foreign load does not favour one.
                for side in sides if number % 2 == 0 else reversed(sides):
                    figures = one_round(bench, side, args, tools)
                    rounds.append({"side": side.name, **figures})
                    say(f"{SIDES[side.name]}: " + ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))
        finally:
            bench.demo.remove_all()
    tell(report, rounds)


def tell(report, rounds):
    for key, (words, unit) in WORDS.items():
        of = {side: [r[key] for r in rounds if r["side"] == side] for side in SIDES}
        middle = {side: statistics.median(found) for side, found in of.items() if found}
        for side, value in middle.items():
            goal = GOALS.get(key) if side == "new" else None
            count = f" ({len(of[side])} times)" if key != "package" else ""
            report.row(f"{words}, {SIDES[side]}{count}", unit, round(value, 3), goal, value <= goal if goal else None)
        if len(middle) == 2:
            report.row(f"{words}, this build / the older commit", "x", round(middle["new"] / middle["old"], 2))

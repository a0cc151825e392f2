"""The promises' checks, as pure functions of observations.

  group(container)                 STEADY, CONTROL or ADDONS
  started_again(before, after)     containers that were replaced
  lost(acknowledged, there)        acknowledged writes that are missing; still_wanted: those of an earlier run
  differing(specs)                 specs that do not say the same of the cluster
  Flat                             memory, descriptors, threads, tasks and disk of the agents, from their warm-up on
  bound_faults(machine, found)     what has a bound of its own and is beyond it
"""
from dataclasses import dataclass, field

from torture_schedule import ADDONS, CONTROL, STEADY

NAMESPACE = "torture"
MIB = 2**20
# A daemon's first minutes fill what it keeps for ever: certificates, pools of connections, the last documents.
WARM_UP_SECONDS = 300
# A shorter series gives no slope.
WINDOW_SECONDS = 900
SAMPLES_MIN = 20
# Allowed growth per hour, beyond noise: under accidents buffers grow to their bound, which takes a while. A connection is a
# descriptor and two tasks. On a disk one file left by every fifth accident, of some sixty in an hour, is found.
SLOPE = {"rss": 6 * MIB, "fds": 12, "threads": 4, "tasks": 24, "bytes": MIB, "files": 12}
# The absolute limit, whatever the slope. Of a disk: the state of the agent, and half of the inodes that it has here.
MOST = {"rss": 160 * MIB, "fds": 400, "threads": 96, "tasks": 1200, "bytes": 96 * MIB, "files": 2000}
# What has a bound of its own grows up to it, and is not held to be flat. Bytes: all logs of the agent on a machine (the
# bound that `pf9ctl status` shows), nodelet's journal and the one before it, events for the plane, and room that is given up.
OWN_BOUND = {"var/log/pf9": 350 * MIB, "var/opt/pf9/nodelet/journal.jsonl": MIB, "var/opt/pf9/nodelet/journal.jsonl.1": MIB,
             "var/opt/pf9/hostagent/events": MIB, "var/opt/pf9/hostagent/reserve": MIB}
# Number of entries: versions of the stack and of the agent with their links, sealed backups (48, and the newest of a former
# cluster), data that restores put aside.
KEPT = {"opt/pf9/stacks/*": 8, "opt/pf9/agent/*": 6, "var/opt/pf9/etcd-backups/*.age": 50, "var/lib/pf9/etcd/before-*": 2}


def group(container):
    if container["namespace"] == NAMESPACE:
        return STEADY
    static = ("kube-apiserver-", "kube-controller-manager-", "kube-scheduler-")
    if container["namespace"] == "kube-system" and container["pod"].startswith(static):
        return CONTROL
    return ADDONS


def started_again(before, after):
    """Containers of `before` (id → container) that are gone, each with its replacement, if there is one."""
    place = {(c["namespace"], c["pod"], c["name"]): c for c in after.values()}
    return [(c, place.get((c["namespace"], c["pod"], c["name"]))) for key, c in sorted(before.items()) if key not in after]


def lost(acknowledged, there):
    return sorted(set(acknowledged) - set(there))


def still_wanted(acknowledged, forgotten):
    """The recorded numbers that were not removed: all after the last removed one. Both as in the files."""
    return {number for number in map(int, acknowledged.split()) if number > int(forgotten.strip() or 0)}


def differing(specs):
    """`specs`: name → what this spec says about the cluster as a whole. Names those that differ from the first."""
    names = sorted(specs)
    return [name for name in names[1:] if specs[name] != specs[names[0]]]


def slope(points):
    """Least squares, per second."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    over = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / over if over else 0.0


@dataclass
class Flat:
    """Series of one process each: a restarted program begins a new one, and is warm after its warm-up. A disk is as a process
    that never ends."""
    series: dict = field(default_factory=dict)  # (machine, daemon) → (pid, born, {what: [(at, value)]})
    ended: list = field(default_factory=list)  # faults of processes that were replaced
    longest: float = 0.0  # seconds, after its warm-up, of the longest series

    def add(self, machine, daemon, pid, at, values):
        """A value that could not be read is None."""
        known = self.series.get((machine, daemon))
        if not known or known[0] != pid:
            if known:
                self.ended += faults_of(daemon, machine, *known[1:])
            known = self.series[(machine, daemon)] = (pid, at, {what: [] for what in values})
        self.longest = max(self.longest, at - known[1] - WARM_UP_SECONDS)
        for what, value in values.items():
            if value is not None:
                known[2][what].append((at, value))

    def faults(self):
        return self.ended + [fault for (machine, daemon), (_, born, values) in sorted(self.series.items())
                             for fault in faults_of(daemon, machine, born, values)]


def faults_of(daemon, machine, born, values):
    found, most = [], max(map(len, values.values()))
    for what, points in values.items():
        if most >= SAMPLES_MIN and len(points) * 2 < most:
            found.append(f"{daemon} of {machine}: {what} could be read {len(points)} times of {most}")
        top = max((value for _, value in points), default=0)
        if top > MOST[what]:
            found.append(f"{daemon} of {machine}: {what} {top:.0f}, at most {MOST[what]} are bounded")
        warm = [(at, value) for at, value in points if at >= born + WARM_UP_SECONDS]
        if len(warm) < SAMPLES_MIN or warm[-1][0] - warm[0][0] < WINDOW_SECONDS:
            continue
        rise = slope(warm) * 3600
        if rise > SLOPE[what]:
            found.append(f"{daemon} of {machine}: {what} rises by {rise:.0f} an hour, {SLOPE[what]} are allowed")
    return found


def bound_faults(machine, found):
    """`found`: path → bytes, or pattern → number."""
    return [f"{machine}: {have} of {what}, {most} are the bound"
            for what, have in sorted(found.items()) if have > (most := {**OWN_BOUND, **KEPT}[what])]

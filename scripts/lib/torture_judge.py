"""The promises' checks, as pure functions of observations.

  group(container)                 STEADY, CONTROL or ADDONS
  started_again(before, after)     containers that were replaced
  lost(acknowledged, there)        acknowledged writes that are missing; still_wanted: those of an earlier run
  differing(specs)                 masters whose cluster is not the same
  Flat                             memory, descriptors, threads and disk of the agents, from their warm-up on
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
# Allowed growth per hour, beyond noise: under accidents buffers grow to their bound, which takes a while.
SLOPE = {"rss": 6 * MIB, "fds": 12, "threads": 4}
# The absolute limit, whatever the slope.
MOST = {"rss": 160 * MIB, "fds": 400, "threads": 96}
# All logs of the agent on a machine (the bound that `pf9ctl status` shows), and its state without backups and stacks.
LOGS_MOST = 350 * MIB
STATE_MOST = 96 * MIB


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
    """`specs`: master → what its spec says about the cluster as a whole. Names those that differ from the first."""
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
    """Series of one process each: a restarted program begins a new one, and is warm after its warm-up."""
    series: dict = field(default_factory=dict)  # (machine, daemon) → (pid, born, {what: [(at, value)]})

    def add(self, machine, daemon, pid, at, values):
        known = self.series.get((machine, daemon))
        if not known or known[0] != pid:
            known = self.series[(machine, daemon)] = (pid, at, {what: [] for what in values})
        for what, value in values.items():
            known[2][what].append((at, value))

    def faults(self):
        found = []
        for (machine, daemon), (_, born, values) in sorted(self.series.items()):
            for what, points in values.items():
                top = max(value for _, value in points)
                if top > MOST[what]:
                    found.append(f"{daemon} of {machine}: {what} {top:.0f}, at most {MOST[what]} are bounded")
                warm = [(at, value) for at, value in points if at >= born + WARM_UP_SECONDS]
                if len(warm) < SAMPLES_MIN or warm[-1][0] - warm[0][0] < WINDOW_SECONDS:
                    continue
                rise = slope(warm) * 3600
                if rise > SLOPE[what]:
                    found.append(f"{daemon} of {machine}: {what} rises by {rise:.0f} an hour, {SLOPE[what]} are allowed")
        return found

    def longest(self):
        """Seconds of the longest series that counts."""
        return max((points[-1][0] - points[0][0] for _, _, values in self.series.values()
                    for points in values.values() if points), default=0)


def disk_faults(machine, logs, state):
    found = []
    if logs > LOGS_MOST:
        found.append(f"{machine}: {logs / MIB:.0f} MiB of logs, {LOGS_MOST / MIB:.0f} are the bound")
    if state > STATE_MOST:
        found.append(f"{machine}: {state / MIB:.0f} MiB of state, {STATE_MOST / MIB:.0f} are the bound")
    return found

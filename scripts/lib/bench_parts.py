"""What measurements with processes of their own have in common: scripts/bench tunnel and plane.

  Columns   rows of figures, for people or as JSON, and the goals that were not met
  Running   processes of one setup, ended by their ids only
  asked, line_with, free, listening, memory_kib, ticks   what they print, where they listen, what they cost
"""
import contextlib
import json
import queue
import re
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import proc
from common import Fail, run, say, tail, wait_for, warn

START_SECONDS = 20
# Of a row's figure, where not two.
DIGITS = {"us": 0, "1/s": 0, "1/MiB": 0, "bytes": 0, "MiB": 1}


class Columns:
    """Rows in columns for people, or one JSON object a row."""

    def __init__(self, as_json, others):
        self.as_json, self.others, self.unmet = as_json, others, []
        if not as_json:
            self.line("", "ours", "unit", "goal", "", others)

    @staticmethod
    def short(value, digits=2):
        return value if isinstance(value, int) else round(value, digits if digits and abs(value) < 1000 else None)

    def row(self, name, unit, values, goal=None, digits=None, ratios=()):
        """Each column's value, or ours alone. `goal`: what is at most (`<`) or at least (`>`) wanted; `ratios`: the same of
        ours relative to the best of these peers, as far as they are there: what only a fast machine meets is none."""
        found = values if isinstance(values, dict) else {"ours": values}
        found = {column: value for column, value in found.items() if value is not None}
        digits = DIGITS.get(unit, 2) if digits is None else digits
        others = {column: self.short(value, digits) for column, value in found.items()}
        ours, (better, target) = others.pop("ours", None), goal or (None, None)
        met = None if None in (target, ours) else ours <= target if better == "<" else ours >= target
        if met is False:
            self.unmet.append(name)
        if self.as_json:
            say(json.dumps({"name": name, "unit": unit, "ours": ours, "peers": others, "target": target, "met": met}))
        else:
            self.line(name, "-" if ours is None else ours, unit, "" if target is None else f"{better}= {target:g}",
                      {True: "met", False: "NOT MET", None: ""}[met], [others.get(other, "-") for other in self.others])
        for better, times, names in ratios:
            peers = [peer for peer in names if found.get(peer)]
            if peers and found.get("ours"):
                best = (max if better == ">" else min)(peers, key=found.get)
                of = f"{self.short(found['ours'])} / {self.short(found[best])} of {best}"
                self.row(f"  {name}: {of}", "times", found["ours"] / found[best], (better, times))

    @staticmethod
    def line(name, ours, unit, aim, mark, others):
        say(f"{name:<64}{ours:>9} {unit:<9} {aim:<10}{mark:<9}" + "".join(f"{other:>13}" for other in others))

    def say_unmet(self):
        if self.unmet:
            warn(f"{len(self.unmet)} goals not met: " + "; ".join(self.unmet))


class Running(contextlib.ExitStack):
    """Processes that end with the `with` block, newest first."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    def start(self, cmd, name, pipe=None):
        """`pipe`: this output is read and goes to `lines`, as it comes; the rest to `log`."""
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=f"{name}-", suffix=".log", delete=False) as log:
            outputs = {"stdout": log, "stderr": log} | ({pipe: subprocess.PIPE} if pipe else {})
            child = subprocess.Popen(list(map(str, cmd)), stdin=subprocess.DEVNULL, **outputs)
        child.log, child.lines = log.name, reader(getattr(child, pipe)) if pipe else None
        self.callback(end, child)
        return child

    def first_line(self, cmd, name):
        """Starts something that prints its addresses first."""
        child = self.start(cmd, name, "stdout")
        with contextlib.suppress(queue.Empty):
            return child, child.lines.get(timeout=START_SECONDS)[1].split()
        raise Fail(f"{name} did not start", tail(child.log))


def end(child):
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(3)
    child.kill()
    child.wait()


def reader(pipe):
    """Lines of a pipe with their arrival times."""
    lines = queue.Queue()

    def read():
        for line in pipe:
            lines.put((time.monotonic(), line.decode("utf-8", "replace").rstrip()))
    threading.Thread(target=read, daemon=True).start()
    return lines


def line_with(lines, words, seconds):
    """When a line with any of these words arrived, and the line; None if none did."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(queue.Empty):
        while True:
            at, line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            if any(word in line for word in words):
                return at, line


def asked(cmd, timeout=120):
    """The JSON that a program prints. Of what it says when it fails the last lines are told: its sentence, not where in the
    program it was."""
    return json.loads(run(cmd, timeout=timeout, env={"RUST_BACKTRACE": "0"}).stdout)


def free(port=0, host=None):
    """An address of the loopback network where nobody listens; with a fixed port, one where that is free."""
    for last in range(1, 255):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host or f"127.0.0.{last}", port))
            return "{}:{}".format(*probe.getsockname())
    raise Fail(f"port {port} is taken")


def listening(child, address, seconds=START_SECONDS):
    def answers():
        with socket.socket() as probe:
            host, port = address.split(":")
            return child.poll() is not None or probe.connect_ex((host, int(port))) == 0
    wait_for(f"{address} to answer", answers, seconds, 0.02)
    if child.poll() is not None:
        raise Fail(f"it ended with exit code {child.returncode}", tail(child.log))


def memory_kib(pid, what="VmRSS"):
    """Resident memory of a process; `VmHWM`: its peak."""
    return int(re.search(rf"^{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])


def ticks(pid):
    """User and system time in hundredths of a second: over a second, per cent of a core."""
    fields = proc.stat_fields(pid)
    if not fields:
        raise Fail(f"process {pid} ended while it was measured")
    return sum(map(int, fields[11:13]))

"""scripts/bench soak: what a node keeps on disk and in memory after a simulated year, compared with that after a week.

The real components on a simulated clock (tests/it/soak.rs has the picture): hostagent with a status every ten minutes, comms
with renewals and reconnects, the files of nodelet. `cargo test` runs the same for three weeks and fails when something grows.

Each figure is the most of the last week; the goal is the most of the second week and a twentieth. The first one is for what
is had once and kept: everything that happens in the year happens in it. Logs keep their history up to a bound, which a quiet
part of a node does not reach in a week: their goal is that bound or the second week's.
"""
import os
import re
import subprocess
import sys

import tests
from common import REPO, Fail, tail_text

# The test, how many steps its day has, and the bound of its logs in bytes.
PARTS = {
    # The longest period that there is, beside what each day brings; two files of 1 MiB.
    "documents": ("hostagent::soak::documents_take_after_weeks_what_a_week_takes", 144, 2 << 20),
    # Sessions that the plane ends, beside the one that the night ends; the audit has five files of 10 MiB.
    "tunnel": ("comms::soak::a_tunnel_takes_after_weeks_what_a_week_takes", 4, (2 + 50) << 20),
    # Backups, every half hour as by default.
    "files of root": ("soak::the_files_of_root_take_after_weeks_what_a_week_takes", 48, (768 + 3072) << 10),
}
SECONDS = 7200
FIGURE = re.compile(r"^soak: (.+): (bytes|files) of (state|logs|memory): (\d+) after a week, (\d+) after (\d+) days$", re.M)
OTHER = re.compile(r"^soak: (.+): (\d+) sessions, (\d+) renewals$", re.M)


def add_arguments(verb):
    verb.add_argument("--json", action="store_true")
    verb.add_argument("--days", type=int, default=365)
    verb.add_argument("--only", choices=sorted(PARTS), help="one part")


def figures(said, logs):
    """(name, unit, ours, goal, met) of each line."""
    rows = []
    for what, unit, of, week, end, days in FIGURE.findall(said):
        goal = int(week) + int(week) // 20
        goal = max(goal, logs) if of == "logs" else goal
        # A document that is being replaced is one file more at that moment, as in the test.
        goal += 1 if unit == "files" else 0
        rows.append((f"{what}: {of}, {days} days", unit, int(end), goal, int(end) <= goal))
    return rows


def soak(args, report):
    if args.days < 21:
        raise Fail("the second and the last week are compared", f"--days {args.days} is less than 21")
    program = tests.programs()["it"]
    failed = []
    for what, (test, steps, logs) in PARTS.items():
        if args.only not in (None, what):
            continue
        env = dict(os.environ, PF9_SOAK_DAYS=str(args.days), PF9_SOAK_STEPS=str(steps))
        done = subprocess.run([program, "--exact", "--nocapture", test], cwd=REPO, env=env, timeout=SECONDS + 60, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        rows = figures(done.stdout, logs)
        for row in rows:
            report.row(*row)
        for of, sessions, renewals in OTHER.findall(done.stdout):
            report.row(f"{of}: sessions", "", int(sessions))
            report.row(f"{of}: renewals", "", int(renewals))
        if not rows or done.returncode != 0 and all(row[4] for row in rows):
            failed.append(f"{what}: " + tail_text(done.stdout))
        sys.stdout.flush()
    # Each part takes an hour or so: one that fails does not take the others along.
    if failed:
        raise Fail(f"{len(failed)} parts failed", "\n".join(failed))

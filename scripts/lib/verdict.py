"""The verdict on a suite, by what is known: pure, so that it can be tested without a cluster.

  cases(junit, wanted)      the tests of a report whose names `wanted` accepts
  known(page, part)         test → reason, from a table of docs/conformance.md
  judge(cases, known)       the expected lines, and the others
  selected(areas)           one regular expression for a suite; unmatched(areas, cases): words that matched nothing

A test's name as people read it: without the suite's own tags at its end.
"""
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass

PASSED, FAILED, SKIPPED, NOT_RUN = "passed", "failed", "skipped", "not run"
# What each word of the runner's report means here. `skipped` is also its word for tests outside the focus.
STATES = {"passed": PASSED, "failed": FAILED, "panicked": FAILED, "timedout": FAILED, "aborted": FAILED,
          "interrupted": FAILED, "skipped": SKIPPED, "pending": SKIPPED}
# Without a reason nobody skipped it: its turn did not come.
UNSAID = "skipped"
TAG = re.compile(r"\s*\[[A-Za-z:.0-9]+\]$")
MARK = re.compile(r"<!-- table: (\w+) -->")
ROW = re.compile(r"^\| `(?P<name>.+)` \| (?P<why>.*\S) \|$")
WHY_MAX = 300


@dataclass(frozen=True)
class Case:
    name: str
    state: str
    why: str = ""
    seconds: float = 0.0


class Broken(Exception):
    """The suite itself failed: its tests prove nothing."""


def plain(name):
    """`[It] [sig-node] Pods should run [Conformance] [Serial]` → `[sig-node] Pods should run`."""
    name = " ".join(name.removeprefix("[It]").split())
    while TAG.search(name) and TAG.sub("", name):
        name = TAG.sub("", name)
    return name


def cases(junit, wanted):
    found = []
    for item in ElementTree.parse(junit).getroot().iter("testcase"):
        name, state = item.get("name", ""), STATES.get(item.get("status", ""), FAILED)
        if not name.startswith("[It]"):
            if state == FAILED:
                raise Broken(f"{name}: {reason(item)}")
        elif wanted(name):
            why = reason(item)
            found.append(Case(plain(name), NOT_RUN if state == SKIPPED and why == UNSAID else state, why,
                              float(item.get("time", 0))))
    return found


def reason(item):
    """The first words of a failure, or why a test skipped itself."""
    for kind in ("failure", "error", "skipped"):
        said = item.find(kind)
        if said is not None:
            text = said.get("message") or said.text or ""
            return " ".join(text.split()).removeprefix(f"{UNSAID} - ")[:WHY_MAX]
    return ""


def known(page, part):
    """The table after `<!-- table: part -->`, to the next empty line after its rows."""
    rows, inside = {}, False
    for line in page.splitlines():
        mark = MARK.search(line)
        if mark:
            inside = mark[1] == part
        row = ROW.match(line)
        if inside and row:
            rows[row["name"]] = row["why"]
        elif inside and rows and not line.strip():
            inside = False
    return rows


def judge(found, rows, everything=False):
    """(expected, unexpected): lines for people. `everything`: a row about an absent test is wrong."""
    expected, surprises = [], []
    for case in sorted(found, key=lambda case: case.name):
        row = rows.get(case.name)
        if case.state == PASSED:
            if row:
                surprises.append(f"passed, and is listed as one that does not: {case.name}")
        elif row and case.state != NOT_RUN:
            expected.append(f"{case.state}: {case.name}: {row}")
        else:
            surprises.append(f"{case.state}: {case.name}" + (f": {case.why}" if case.why and case.why != UNSAID else ""))
    if everything:
        names = {case.name for case in found}
        surprises += [f"listed, and no test of this suite: {name}" for name in sorted(rows.keys() - names)]
    return expected, surprises


def counts(found):
    """`285 passed, 18 failed, 3 skipped`, the others only if there are any."""
    numbers = Counter(case.state for case in found)
    states = [PASSED, FAILED, SKIPPED] + ([NOT_RUN] if numbers[NOT_RUN] else [])
    return ", ".join(f"{numbers[state]} {state}" for state in states)


def selected(areas):
    """Words of names, as one expression that the suite's runner and this one read alike."""
    return "|".join(re.escape(words) for names in areas.values() for words in names)


def unmatched(areas, found):
    """Words that are in no name: the suite renamed or removed it."""
    return [f"chooses no test: {area}: {words}" for area, names in areas.items() for words in names
            if not any(words in case.name for case in found)]

"""A torture's state on disk: so that it can be resumed, and its hours count.

  Journal(dir)   begin, done, failed, hours, rows; one JSON line per event in events.jsonl
  same_run(old, asked)   Fail where something else is asked for than what is resumed
  minutes(text)  of the rows of a table

A run is its seed, its machines and the kinds of events that are drawn; its progress is the number of events that
ended well. Time is recorded as it passes, so a run that was killed has its hours as well.
"""
import json
import os
import re
import time

from common import Fail


class Journal:
    def __init__(self, folder, clock=time.time):
        self.dir, self.clock = folder, clock
        self.lines, self.state = folder / "events.jsonl", folder / "run.json"
        self.run = {}
        self.last = None

    def before(self):
        """The last run of this directory, or nothing."""
        return json.loads(self.state.read_text()) if self.state.exists() else {}

    def begin(self, seed, machines, names, resume):
        """With `resume` what is None is as it was; anything else must be."""
        self.dir.mkdir(parents=True, exist_ok=True)
        old = self.before()
        if resume:
            if not old:
                raise Fail("there is no run to take up again", f"{self.state} is not there; begin one without --resume", code=64)
            same_run(old, {"seed": seed, "machines": machines, "kinds": names})
            self.run = old
        else:
            self.run = {"seed": seed, "machines": machines, "kinds": list(names), "done": 0,
                        "seconds": old.get("seconds", {})}
        self.last = self.clock()
        self.save()

    def counts_from_here(self):
        """The machines are there: what it took to make them is no hour of torture."""
        self.last = self.clock()

    @property
    def done(self):
        return self.run["done"]

    def hours(self):
        """Of all runs in this directory."""
        return sum(self.run["seconds"].values()) / 3600

    def tick(self):
        now, key = self.clock(), str(self.run["seed"])
        self.run["seconds"][key] = round(self.run["seconds"].get(key, 0) + max(0, now - self.last), 1)
        self.last = now
        self.save()

    def save(self):
        new = self.state.with_suffix(".new")
        new.write_text(json.dumps(self.run, indent=1))
        os.replace(new, self.state)

    def write(self, event, result, **more):
        self.tick()
        line = {"at": round(self.clock(), 1), "seed": self.run["seed"], **event.as_json(), "result": result, **more}
        with open(self.lines, "a", encoding="utf-8") as sink:
            # After a line that an end cut the next one is a line of its own.
            cut = sink.tell() and not self.lines.read_bytes().endswith(b"\n")
            sink.write(("\n" if cut else "") + json.dumps(line) + "\n")

    def ended_well(self, event, **more):
        self.run["done"] = event.number + 1
        self.write(event, "ok", **more)

    def failed(self, event, fail):
        self.write(event, "failed", what=str(fail))

    def events(self):
        """A line that an end cut is none."""
        found = []
        for line in self.lines.read_text().splitlines() if self.lines.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def rows(self):
        """One of each seed: the seed, events, how many failed, minutes. What docs/torture.md has is these, and adds them up."""
        rows, lines = [], self.events()
        for seed, seconds in sorted(self.run["seconds"].items(), key=lambda each: int(each[0])):
            of_it = [line for line in lines if line["seed"] == int(seed)]
            failed = sum(line["result"] != "ok" for line in of_it)
            rows.append(f"| {seed} | {len(of_it)} | {failed} | {seconds / 60:.0f} |")
        return rows


def same_run(old, asked):
    """A resumed run keeps the schedule that it began with: another seed, other machines or kinds would be another one."""
    wrong = [f"{what}: {shown(value)} was asked for, and the run has {shown(old[what])}" for what, value in asked.items()
             if value is not None and (set(value) != set(old[what]) if what == "kinds" else value != old[what])]
    if wrong:
        raise Fail("--resume continues the last run as it was begun", "\n".join(
            [*wrong, "leave these out, or begin another run without --resume"]), code=64)


def shown(value):
    return str(value) if isinstance(value, int) else ", ".join(value) or "all"


ROW = re.compile(r"^\| \d+ \|.*\| (\d+) \|$", re.M)


def minutes(text):
    return sum(map(int, ROW.findall(text)))

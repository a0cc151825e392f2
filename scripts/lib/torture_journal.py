"""A torture's state on disk: so that it can be resumed, and its hours count.

  Journal(dir)   begin, begun, done, failed, hours; one JSON line per event in events.jsonl

A run is its seed, its machines and the kinds of events that are drawn; its progress is the number of events that
ended well. Time is recorded as it passes, so a run that was killed has its hours as well.
"""
import json
import os
import time

from common import Fail


class Journal:
    def __init__(self, folder, clock=time.time):
        self.dir, self.clock = folder, clock
        self.lines, self.state = folder / "events.jsonl", folder / "run.json"
        self.run = {}
        self.last = None

    def begin(self, seed, machines, names, resume):
        self.dir.mkdir(parents=True, exist_ok=True)
        old = json.loads(self.state.read_text()) if self.state.exists() else {}
        if resume:
            if not old:
                raise Fail("there is no run to take up again", f"{self.state} is not there; begin one without --resume", code=64)
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
            sink.write(json.dumps(line) + "\n")

    def ended_well(self, event, **more):
        self.run["done"] = event.number + 1
        self.write(event, "ok", **more)

    def failed(self, event, fail):
        self.write(event, "failed", what=str(fail))

    def events(self):
        return [json.loads(line) for line in self.lines.read_text().splitlines()] if self.lines.exists() else []

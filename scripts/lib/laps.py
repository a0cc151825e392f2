"""Durations of a run's parts on this machine: forecast from the last run that passed.

  Laps(kind)   forecast() is a line for people; note(title, seconds) records a part; keep() after all of them passed
"""
import json

import golang
from common import CACHE

# Shorter parts are only summed up.
WORTH_SAYING = 30


class Laps:
    def __init__(self, kind, folder=None):
        self.path = (folder or CACHE) / f"laps-{kind}.json"
        self.parts = []

    def forecast(self):
        try:
            last = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return ("how long this takes here is not known yet: the first run compiles everything once; the time of each part "
                    "is printed, and said in advance from the next run on")
        long = ", ".join(f"{title} {golang.about(seconds)}" for title, seconds in last if seconds >= WORTH_SAYING)
        return f"about {golang.about(sum(seconds for _, seconds in last))}, as the last time: {long or 'nothing of it is long'}"

    def note(self, title, seconds):
        self.parts.append((title, round(seconds, 1)))

    def keep(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.parts))

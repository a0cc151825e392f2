"""Live progress: one line per machine, redrawn on a terminal; otherwise plain lines of changes.

  Board(names)            set(name, where, what), close()
"""
import shutil
import sys
import threading
import time


class Board:
    def __init__(self, names, stream=sys.stdout):
        self.stream = stream
        self.live = stream.isatty()
        self.started = time.monotonic()
        self.rows = {name: ("", "") for name in names}
        self.drawn = 0
        self.mutex = threading.Lock()

    def set(self, name, where, what=""):
        """`where` is the phase or state, `what` the step or message."""
        with self.mutex:
            if self.rows.get(name) == (where, what):
                return
            moved = self.rows.get(name, ("", ""))[0] != where
            self.rows[name] = (where, what)
            if self.live:
                self.draw()
            elif moved:
                self.stream.write(f"{self.clock()} {name}: {where}{' - ' + what if what else ''}\n")
                self.stream.flush()

    def note(self, text):
        with self.mutex:
            self.erase()
            self.stream.write(f"{self.clock()} {text}\n")
            if self.live:
                self.draw()
            self.stream.flush()

    def clock(self):
        return f"[{time.monotonic() - self.started:6.1f} s]"

    def erase(self):
        if self.live and self.drawn:
            self.stream.write(f"\x1b[{self.drawn}A\x1b[J")
            self.drawn = 0

    def draw(self):
        width = shutil.get_terminal_size((100, 24)).columns
        self.erase()
        for name, (where, what) in self.rows.items():
            line = f"{self.clock()} {name:<10} {where:<34} {what}".rstrip()
            self.stream.write(line[:width - 1] + "\n")
        self.drawn = len(self.rows)
        self.stream.flush()

    def close(self):
        with self.mutex:
            self.drawn = 0

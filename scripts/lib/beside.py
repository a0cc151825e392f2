"""What machines boot and run, made beside something else.

  Beside(kubernetes…)             a process of its own, from `with` on: ended when the block fails, waited for by wait()
  python3 beside.py KUBERNETES…   that process: the machines' base, the stacks, and every etcd that tests run

None of it depends on a change of the sources here, and neither this nor cargo keeps all cores busy all the time:
debootstrap unpacks, linkers link, the type checker of a large crate has one thread.
"""
import os
import signal
import subprocess
import sys
from pathlib import Path

import golang
import parts
import roots
import stack
from common import Fail, need_packages


class Beside:
    def __init__(self, *kubernetes):
        self.command = [sys.executable, str(Path(__file__).resolve()), *kubernetes]
        self.child = None

    def __enter__(self):
        self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, start_new_session=True)
        return self

    def wait(self):
        if self.child.wait() != 0:
            raise Fail("what the machines run could not be built", "its own words are above")

    def __exit__(self, *_):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGTERM)
            self.child.wait()


def main(kubernetes):
    need_packages({"zstd": "zstd"})
    roots.base()
    with golang.workshop():  # minors have many libraries in common
        for wanted in kubernetes:
            stack.build(wanted)
        parts.etcds()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"stack: {fail}", file=sys.stderr, flush=True)
        sys.exit(fail.code or 1)

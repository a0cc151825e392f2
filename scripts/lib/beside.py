"""What machines boot and run, made beside something else.

  Beside(kubernetes…, tests=…)    a process of its own, from `with` on: ended when the block fails, waited for by wait()
  python3 beside.py [--tests] KUBERNETES…   that process: the machines' base, the stacks; --tests: and what tests run by itself

None of it depends on a change of the sources here, and neither this nor cargo keeps all cores busy all the time:
debootstrap unpacks, linkers link, the type checker of a large crate has one thread.
"""
import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import golang
import matrix
import parts
import roots
import stack
from common import Fail, need_packages


class Beside:
    def __init__(self, *kubernetes, tests=False):
        self.command = [sys.executable, str(Path(__file__).resolve()), *(["--tests"] if tests else []), *kubernetes]
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


def main(argv):
    parser = argparse.ArgumentParser(prog="beside.py")
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("kubernetes", nargs="*")
    args = parser.parse_args(argv)
    need_packages({"zstd": "zstd"})
    parts.announce(parts.needed([matrix.stack(wanted) for wanted in args.kubernetes], args.tests))
    roots.base()
    with golang.workshop():  # minors have many libraries in common
        for wanted in args.kubernetes:
            stack.build(wanted)
        for part in matrix.ALONE if args.tests else ():
            parts.tested(part)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"stack: {fail}", file=sys.stderr, flush=True)
        sys.exit(fail.code or 1)

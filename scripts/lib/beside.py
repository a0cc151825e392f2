"""Long work in parallel: each a process of its own, started by `with`, ended when the block fails.

  machines(kubernetes…, tests=…)   what machines boot and run: their base, the stacks; tests: and the parts only tests run
  released()                       the release build, and the check of its packages
    .wait()                        until it is done; then its log is shown
  python3 beside.py machines|released …   those processes

None of it keeps all cores busy all the time: debootstrap unpacks, linkers link, the type checker of a large crate has
one thread.
"""
import argparse
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import cache
import golang
import matrix
import parts
import roots
import stack
import tools
from common import REPO, Fail, Stopwatch, need_packages, say, tail


# What judges packages, by program. A machine that lacks one would skip a part of their check.
JUDGES = {"systemd-analyze": "systemd", "rpm": "rpm", "rpmbuild": "rpm", "dpkg-deb": "dpkg", "lintian": "lintian",
          "rpmlint": "rpmlint", "dnf": "dnf", "createrepo_c": "createrepo-c", "gpg": "gpg"}


class Beside:
    def __init__(self, title, words, log=None):
        self.title = title
        self.command = [sys.executable, str(Path(__file__).resolve()), *words]
        self.log = log
        self.child = None
        self.watch = Stopwatch()

    def __enter__(self):
        with open(self.log, "wb") if self.log else contextlib.nullcontext() as sink:
            self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=sink,
                                          stderr=subprocess.STDOUT if sink else None, start_new_session=True)
        self.watch = Stopwatch()
        return self

    def wait(self):
        """Lines of two jobs are not mixed on the screen: a log is shown when its job is over, in full if it failed."""
        waited = Stopwatch()
        failed = self.child.wait() != 0
        if self.log:
            say(f"\n== {self.title}\n" + tail(self.log, 400 if failed else 12))
        if failed:
            raise Fail(f"{self.title}: failed with exit code {self.child.returncode}", "its own words are above")
        if self.log:
            say(f"== {self.title}: ok, {self.watch}, of them {waited} waited for")

    def __exit__(self, *_):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGTERM)
            self.child.wait()


def machines(*kubernetes, tests=False):
    return Beside("what the machines run", ["machines", *(["--tests"] if tests else []), *kubernetes])


def released():
    return Beside("release build and packages", ["released"], cache.log_of("released"))


def make_machines(kubernetes, tests):
    need_packages({"zstd": "zstd"})
    parts.announce(parts.needed([matrix.stack(wanted) for wanted in kubernetes], tests))
    roots.base()
    with golang.workshop():  # minors have many libraries in common
        for wanted in kubernetes:
            stack.build(wanted)
        for part in matrix.ALONE if tests else ():
            parts.tested(part)


def make_released():
    tools.release(loads=True)
    done = subprocess.run([REPO / "scripts/package", "--no-build", "--check"], cwd=REPO, timeout=2700, check=False,
                          env=dict(os.environ, PF9_NO_SKIP="1"))
    if done.returncode != 0:
        raise Fail(f"packages: failed with exit code {done.returncode}", "their own words are above")


def main(argv):
    parser = argparse.ArgumentParser(prog="beside.py")
    work = parser.add_subparsers(dest="work", required=True)
    made = work.add_parser("machines")
    made.add_argument("--tests", action="store_true")
    made.add_argument("kubernetes", nargs="*")
    work.add_parser("released")
    args = parser.parse_args(argv)
    if args.work == "machines":
        make_machines(args.kubernetes, args.tests)
    else:
        make_released()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"{sys.argv[1]}: {fail}", file=sys.stderr, flush=True)
        sys.exit(fail.code or 1)

"""scripts/test: every test there is, cheapest first, the first failure ends it.

  format → lints (all features, none) → documentation → packages (contents, scripts, units, sandbox)
  → unit, property, integration and machine tests → doctests → a minute of new hostile frames → the tunnel's gates

  --fast        without the machine tests and the packages, which need a release build (they count as skipped)
  --keep        leave the test's machines standing for a look: PF9_DEMO_STATE=/var/lib/pf9-tests scripts/demo status
  anything after -- goes to nextest, e.g. scripts/test -- -E 'test(reboot)'

The machine tests boot real systemd machines by scripts/demo; they need root. What is slow is built before them.
"""
import argparse
import os
import shutil
import subprocess
import sys

import matrix
import node
import tools
import up
from beside import Beside
from common import REPO, Fail, Stopwatch, need_packages, run, say
from lifecycle import Demo

# The tests' machines are not the demo's: a demo that was stopped, or that a restart of this machine ended, keeps what it
# has, and what a killed run of the tests left is nobody's and goes.
STATE = "/var/lib/pf9-tests"

# Of each kind of attack; on two cores that is a minute in all. `scripts/fuzz SECONDS` goes on for as long as one likes.
FUZZ_SECONDS = 30


def stage(title, cmd, env=None, timeout=2700):
    watch = Stopwatch()
    say(f"\n== {title}")
    try:
        code = subprocess.run([str(word) for word in cmd], cwd=REPO, env=dict(os.environ, **(env or {})),
                              timeout=timeout, check=False).returncode
    except subprocess.TimeoutExpired as error:
        raise Fail(f"{title}: not done within {timeout} s") from error
    if code != 0:
        raise Fail(f"{title}: failed with exit code {code}")
    say(f"== {title}: ok, {watch}")


def need_components():
    tools.need_rust()
    for name in ("fmt", "clippy"):
        if run(["cargo", name, "--version"], check=False).returncode != 0:
            component = "rustfmt" if name == "fmt" else name
            run(["rustup", "component", "add", component], timeout=600)
    # A test looks at the system calls of a program.
    need_packages({"strace": "strace"})


def prepare_machines(rest):
    """Everything slow, so that no test's deadline pays for it."""
    say("\n== what the machine tests need")
    tools.release()
    rest.wait()


def check_packages():
    """The .deb and the .rpm of the release build; without these tools parts of the check would be skipped."""
    need_packages({"systemd-analyze": "systemd", "rpm": "rpm", "dpkg-deb": "dpkg"})
    stage("packages", [REPO / "scripts/package", "--no-build", "--check"])


def why_no_machines(fast):
    if fast:
        return "--fast was given"
    if os.geteuid() != 0:
        return "they need root"
    if not shutil.which("apt-get"):
        return "they need a Debian machine"
    os.environ.setdefault("PF9_DEMO_STATE", STATE)
    if Demo().dir.exists():
        say(f"an earlier run left its machines in {Demo().dir}: they go")
        Demo().down()
    if node.network_owner():
        raise Fail(f"a demo is on this machine, in {node.network_owner()}",
                   "the machine tests use the same network: scripts/demo down first")
    return ""


def main(argv):
    parser = argparse.ArgumentParser(prog="scripts/test", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("nextest", nargs="*")
    args = parser.parse_args(argv)
    need_components()
    skipped = why_no_machines(args.fast)
    if skipped:
        return check(args, skipped)
    need_packages(up.PACKAGES)
    with Beside(*matrix.minors()) as rest:
        return check(args, skipped, rest)


def check(args, skipped, rest=None):
    watch = Stopwatch()
    stage("format", ["cargo", "fmt", "--check"])
    stage("lints, all features", ["cargo", "clippy", "--locked", "--all-targets", "--all-features", "--",
                                  "-D", "warnings"])
    stage("lints, no features", ["cargo", "clippy", "--locked", "--all-targets", "--", "-D", "warnings"])
    stage("documentation", ["cargo", "doc", "--locked", "--no-deps", "--all-features", "--document-private-items"],
          {"RUSTDOCFLAGS": "-D warnings"})
    profile = "default" if skipped else "machines"
    tests = [tools.nextest(), "nextest", "run", "--locked", "--all-features", "--profile", profile, *args.nextest]
    if skipped:
        say(f"\nmachine tests and packages are SKIPPED: {skipped}")
    else:
        prepare_machines(rest)
        check_packages()
    try:
        stage("tests" if not skipped else "tests (machine tests skipped)", tests)
    finally:
        if not skipped and not args.keep and Demo().dir.exists():
            Demo().down()
    stage("documentation tests", ["cargo", "test", "--locked", "--all-features", "--doc", "--quiet"])
    stage("hostile frames, new ones", [REPO / "scripts/fuzz", FUZZ_SECONDS])
    if not skipped:
        stage("figures that every machine shows", [REPO / "scripts/bench", "tunnel", "--gate"])
    say(f"\nall of scripts/test passed in {watch.seconds() / 60:.1f} min"
        + (f"; machine tests and packages were SKIPPED: {skipped}" if skipped else ""))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"test: {fail}", file=sys.stderr)
        sys.exit(fail.code if fail.code != 77 else 1)
    except KeyboardInterrupt:
        sys.exit(130)

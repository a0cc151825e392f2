"""scripts/test: all tests, cheapest first, stopping at the first failure.

  format → the scripts' own tests → lints (all features, none) → documentation → beside them the release build and packages
  (contents, scripts, units, sandbox) → unit, property, integration and machine tests → upstream's own suite, its quick part, in full runs where its programs
  are built (scripts/conformance --build) → doctests → a minute of new hostile frames → the tunnel's gates

  --full        every slow test in full; otherwise a sample, and what was left out is listed at the end
  --seed N      the sample that this number picks; without it a new one each time, printed
  --fast        without the machine tests and the packages, which need a release build (they count as skipped)
  --kept        from a clean clone: in a checkout that stays in the cache, so that only changes are compiled (.ci/run)
  --keep        leave the test's machines running for inspection: PF9_DEMO_STATE=/var/lib/pf9-tests scripts/demo status
  WORD…         only tests with one of these in their names, e.g. scripts/test reboot

The machine tests boot real systemd machines with scripts/demo; they need root. Everything slow is built before them.
"""
import argparse
import os
import random
import shutil
import signal
import subprocess
import sys

import beside
import checkout
import crates
import matrix
import node
import openstack
import suite
import tests
import tools
import up
from common import REPO, Fail, Stopwatch, need_packages, run, say
from laps import Laps
from lifecycle import Demo

# The tests' machines are not the demo's: a demo that was stopped, or ended by a restart of this machine, keeps its
# state, and leftovers of a killed test run belong to nobody and are removed.
STATE = "/var/lib/pf9-tests"

# Per kind of attack; on two cores the sample takes a minute in all. `scripts/fuzz SECONDS` runs for as long as
# wanted.
FUZZ_SECONDS = {"sample": 30, "full": 600}


def stage(laps, title, cmd, env=None, timeout=2700):
    watch = Stopwatch()
    say(f"\n== {title}")
    try:
        code = subprocess.run([str(word) for word in cmd], cwd=REPO, env=dict(os.environ, **(env or {})),
                              timeout=timeout, check=False).returncode
    except subprocess.TimeoutExpired as error:
        raise Fail(f"{title}: not done within {timeout} s") from error
    if code != 0:
        raise Fail(f"{title}: failed with exit code {code}")
    laps.note(title, watch.seconds())
    say(f"== {title}: ok, {watch}")


def need_components():
    tools.need_rust()
    for name in ("fmt", "clippy"):
        if run(["cargo", name, "--version"], check=False).returncode != 0:
            component = "rustfmt" if name == "fmt" else name
            run(["rustup", "component", "add", component], timeout=600)
    # Tools of tests: for system calls, for hosts over ssh, for the plane's page, and for alerts, rules and
    # queries.
    need_packages({"strace": "strace", "ssh": "openssh-client", "sshd": "openssh-server",
                   "chromium": "chromium", "chromedriver": "chromium-driver",
                   "prometheus-alertmanager": "prometheus-alertmanager", "promtool": "prometheus"})
    tools.axe()
    os.environ["PF9_CLOUD_INIT"] = str(tools.cloud_init())


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
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("word", nargs="*")
    args = parser.parse_args(argv)
    if args.seed not in range(2**64):
        parser.error("--seed is a number from 0 to 2^64-1")
    # Background runs have sessions of their own: a signal to this process has to end them as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    need_components()
    if args.kept:
        checkout.enter(argv)
    crates.bring()
    skipped = why_no_machines(args.fast)
    if skipped:
        return check(args, skipped)
    need_packages(up.PACKAGES)
    need_packages(beside.JUDGES)
    with beside.machines(*matrix.minors(), tests=True) as machines, beside.released() as released:
        return check(args, skipped, [released, machines])


def check(args, skipped, others=()):
    watch = Stopwatch()
    laps = Laps("fast" if skipped else "full" if args.full else "sample")
    say("everything in full" if args.full else f"a sample: scripts/test --seed {args.seed} repeats it")
    if not args.word:
        say(laps.forecast())
    stage(laps, "format", ["cargo", "fmt", "--all", "--check"])
    for name in ("check_tests", "check_conformance", "check_libraries", "check_packager", "check_stack", "check_torture",
                 "check_checkout", "check_lines", "check_bench_plane", "check_bench_tunnel"):
        stage(laps, f"the scripts' own tests, {name}", [sys.executable, REPO / f"scripts/lib/{name}.py"])
    stage(laps, "lints, all features", ["cargo", "clippy", "--locked", "--workspace", "--all-targets", "--all-features", "--",
                                  "-D", "warnings"])
    # As released: without what only tests have of them.
    stage(laps, "lints, no features", ["cargo", "clippy", "--locked", "--workspace", "--", "-D", "warnings"])
    stage(laps, "rules for Prometheus", ["promtool", "check", "rules", *sorted(REPO.glob("packaging/prometheus/*.rules.yml"))])
    stage(laps, "rules for Prometheus, what they tell of",
          ["promtool", "test", "rules", *sorted(REPO.glob("tests/prometheus/*.test.yml"))])
    # Without features too: what it needs of the libraries is there.
    stage(laps, "documentation", ["cargo", "doc", "--locked", "--workspace", "--no-deps", "--document-private-items"],
          {"RUSTDOCFLAGS": "-D warnings"})
    try:
        left_out = run_tests(laps, args, skipped, others)
        left_out += conformance(laps, args, skipped)
    finally:
        if not skipped and not args.keep and Demo().dir.exists():
            Demo().down()
    stage(laps, "documentation tests", ["cargo", "test", "--locked", "--workspace", "--all-features", "--doc", "--quiet"])
    stage(laps, "hostile frames, new ones", [REPO / "scripts/fuzz", FUZZ_SECONDS["full" if args.full else "sample"]],
          {"PF9_TEST_SEED": str(args.seed)})
    if not skipped:
        stage(laps, "figures that every machine shows", [REPO / "scripts/bench", "tunnel", "--gate"])
        left_out += packages_in_full(laps, args.full)
    if not args.word:
        laps.keep()
    if left_out:
        say(f"\nleft out of what scripts/test --full runs, seed {args.seed}:")
        for line in left_out:
            say(f"  {line}")
    say(f"\n{'all' if args.full and not left_out else 'this sample'} of scripts/test passed in "
        f"{watch.seconds() / 60:.1f} min"
        + (f"; machine tests and packages were SKIPPED: {skipped}" if skipped else ""))


def packages_in_full(laps, full):
    """Each compiles everything once or twice, or uses another distribution."""
    checks = {"packages for arm64, and that their programs start": [REPO / "scripts/package", "--arch", "arm64", "--check"],
              "packages, built twice": [sys.executable, REPO / "scripts/lib/twice.py"],
              "units, by the next release's systemd": [sys.executable, REPO / "scripts/lib/newer_systemd.py"]}
    if not full:
        return [f"{title}: only with --full" for title in checks]
    for title, cmd in checks.items():
        stage(laps, title, cmd, timeout=2 * tools.BUILD_SECONDS)
    return []


def run_tests(laps, args, skipped, others):
    watch = Stopwatch()
    say("\n== tests, compiled")
    openstack.client()
    programs = tests.programs()
    laps.note("tests, compiled", watch.seconds())
    say(f"== tests, compiled: ok, {watch}")
    # No test's deadline includes slow builds, and nothing runs beside the tests.
    waited = Stopwatch()
    for other in others:
        other.wait()
    laps.note("the builds beside them", waited.seconds())
    watch = Stopwatch()
    say("\n== tests" + (f"; machine tests and packages are SKIPPED: {skipped}" if skipped else ""))
    if not skipped:  # else the release build is not there
        crates.keep()
    left_out = tests.run(programs, args.seed, args.full, not skipped, args.word)
    laps.note("tests", watch.seconds())
    say(f"== tests: ok, {watch}")
    return left_out


def conformance(laps, args, skipped):
    """Eight more minutes: a sample has no room for them, and a machine without their programs would compile for
    ten. Returns lines that say what did not run."""
    missing = [] if skipped else suite.missing(matrix.stack())
    why = (skipped or ("tests were named" if args.word else "")
           or ("" if args.full else "only with --full")
           or (f"{', '.join(missing)}: not built, see scripts/conformance --build" if missing else ""))
    if why:
        return [f"upstream's own suite, scripts/conformance --quick: {why}"]
    if Demo().dir.exists():  # what the tests left is no cluster to judge
        Demo().down()
    stage(laps, "upstream's own suite, its quick part", [REPO / "scripts/conformance", "--quick"])
    return []


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"test: {fail}", file=sys.stderr)
        sys.exit(fail.code if fail.code != 77 else 1)
    except KeyboardInterrupt:
        sys.exit(130)

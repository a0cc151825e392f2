"""scripts/conformance: the cluster judged by upstream's own suites, through the plane as people use it.

  --quick      at most eight minutes, four tests at a time: some of everything a cluster must do (lib/quick.py)
  --full       every test tagged [Conformance], including serial ones; needs two schedulable nodes
  --cri        critest against the runtime of a worker, whose agent and kubelet are stopped meanwhile
  --build      only their prerequisites: the suites, and the images of their tests
  --test WORDS only conformance tests with these words in their names; with --cri those of critest

They use the running demo, or bring one up. Test images come from a registry that this program serves meanwhile, as a
mirror in the cluster's spec. What does not pass has to be listed with its reason in docs/conformance.md: an unlisted
failure, and a listed test that passes, are errors. JUnit, logs and a summary stay in $PF9_CONFORMANCE_OUT (default
/var/lib/pf9-conformance), by the suite's name.
"""
import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import golang
import lifecycle
import matrix
import node
import parts
import quick
import registry
import suite
import testimages
import up
import verdict
from common import REPO, Fail, Stopwatch, need_root, say, tail, wait_for
from lifecycle import Demo

OUT = Path(os.environ.get("PF9_CONFORMANCE_OUT", "/var/lib/pf9-conformance"))
PAGE = REPO / "docs/conformance.md"
AT_ONCE = 4
FULL_SECONDS = 5400
CRI_SECONDS = 1800
# Time for the runner to end and write its report after its own limit.
GRACE_SECONDS = 180
# A line of progress while nothing else is printed.
EVERY_SECONDS = 60
MIRRORED = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"]
MIRRORS_DIR = "etc/pf9/containerd/certs.d"
MIRROR_SECONDS = 60
TARGET = 420
CONFORMANCE = re.compile(r"\[Conformance\]")
SOCKET = "unix:///run/pf9-containerd/containerd.sock"
# Plugins are allowed while critest runs: it tests them as well.
PLUGINS = {"nri": True}
PLUGIN_SOCKET = "/run/pf9-containerd/nri.sock"
# In this order: the keeper would restart what is stopped before it.
RESTING = ["pf9-nodeletd.socket", "pf9-nodeletd.service", "pf9-kubelet.service"]
IN_NODE = "/root/critest"
# The API's address at the plane has a path, which `kubectl proxy` leaves out unless it is told to.
KUBERC = """apiVersion: kubectl.config.k8s.io/v1beta1
kind: Preference
defaults:
- command: proxy
  options:
  - {name: append-server-path, default: "true"}
"""


def parse(argv):
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    for name in ("quick", "full", "cri", "build"):
        what.add_argument(f"--{name}", dest="what", action="store_const", const=name)
    parser.add_argument("--test", metavar="WORDS", help="only tests with these words in their names")
    parser.add_argument("--node", default="worker-1", help="whose runtime --cri asks")
    return parser.parse_args(argv)


# -- prerequisites

class Judges:
    """The suites' programs and the store of their images, for a demo's Kubernetes version."""

    def __init__(self, stack):
        self.made = suite.build(stack)
        etcd = golang.build(parts.etcd(stack["etcd"]))
        self.store = testimages.store(stack, self.made, etcd)
        self.absent = json.loads((self.store / "absent.json").read_text())

    def program(self, part, name):
        return self.made[part] / name


def bring_up(demo, workers):
    """Unchanged, if it has everything needed."""
    names = demo.names()
    if demo.done_mark.exists() and demo.plane.running() and sum(name.startswith("worker") for name in names) >= workers:
        with contextlib.suppress(Fail):
            ready = demo.kube_nodes()
            if all(ready.get(name) for name in names):
                return
    cmd = [REPO / "scripts/demo", "up", "--workers", str(workers)]
    if subprocess.run([str(word) for word in cmd], check=False).returncode != 0:
        raise Fail("there is no cluster to judge", "scripts/demo up failed; its words are above")


@contextlib.contextmanager
def mirrored(demo, url, more):
    """Every node pulls from us while the block runs, with these settings of its runtime."""
    mirrors = {name: [url] for name in MIRRORED}
    up.settings(demo, {"runtime": {**up.RUNTIME, **more, "mirrors": mirrors}})
    try:
        wait_for("every node to have the mirror", lambda: all(has_mirror(machine, url) for machine in demo.nodes()),
                 MIRROR_SECONDS)
        yield
    finally:
        up.settings(demo, {"runtime": up.RUNTIME})


def has_mirror(machine, url):
    files = [machine.root / MIRRORS_DIR / name / "hosts.toml" for name in MIRRORED]
    return all(path.is_file() and url in path.read_text() for path in files)


# -- the suite of Kubernetes

def suite_command(judges, demo, folder, focus, seconds):
    runner = [judges.program("e2e", "ginkgo"), f"--procs={AT_ONCE}", f"--timeout={seconds}s", "--no-color", "--succinct",
              f"--focus={focus}", judges.program("e2e", "e2e.test"), "--"]
    return [*runner, f"--kubeconfig={demo.kubeconfig}", f"--kubectl-path={demo.tools / 'kubectl'}", "--provider=skeleton",
            f"--report-dir={folder}", f"--e2e-output-dir={folder}", "--disable-log-dump"]


def run_suite(judges, demo, what, words):
    seconds = quick.SECONDS if what == "quick" else FULL_SECONDS
    chosen = re.escape(words) if words else verdict.selected(quick.AREAS) if what == "quick" else ""
    focus = f"({chosen}).*{CONFORMANCE.pattern}"
    if what == "quick" and not words:
        focus += f"|{verdict.selected(quick.BESIDE)}"
    folder = fresh(what)
    (folder / "kuberc").write_text(KUBERC)
    follow(suite_command(judges, demo, folder, focus, seconds), folder, seconds + GRACE_SECONDS,
           {"KUBERC": str(folder / "kuberc")})
    expression = re.compile(focus)
    found = read(folder / "junit_01.xml", expression.search, folder)
    more = verdict.unmatched({**quick.AREAS, **quick.BESIDE}, found) if what == "quick" and not words else []
    return found, folder, more


def follow(command, folder, seconds, env=None):
    """The runner's own output goes to a log; the progress is printed here. Its exit code says less than its report."""
    log = folder / "output.log"
    watch = Stopwatch()
    with open(log, "wb") as sink:
        child = subprocess.Popen([str(word) for word in command], cwd=folder, stdin=subprocess.DEVNULL, stdout=sink,
                                 stderr=subprocess.STDOUT, env={**lifecycle.clean_env(), **(env or {})},
                                 start_new_session=True)
    try:
        while True:
            try:
                child.wait(EVERY_SECONDS)
                return
            except subprocess.TimeoutExpired:
                said = log.read_text(errors="replace")
                say(f"  {watch.seconds():5.0f} s: {said.count('•')} tests ended; {log}")
            if watch.seconds() > seconds:
                raise Fail(f"the suite did not end within {seconds} s", tail(log), log)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, 9)
            child.wait()


def read(junit, wanted, folder):
    if not junit.is_file():
        raise Fail("the suite wrote no report", tail(folder / "output.log"), folder / "output.log")
    try:
        return verdict.cases(junit, wanted)
    except verdict.Broken as broken:
        raise Fail("the suite could not begin, or not end", str(broken), folder / "output.log") from broken


# -- the suite of the runtime

@contextlib.contextmanager
def resting(machine):
    """Nobody but us uses the runtime: kubelet kills what it did not start."""
    machine.run(["systemctl", "stop", *RESTING], timeout=120)
    try:
        yield
    finally:
        machine.run(["systemctl", "start", *reversed(RESTING)], timeout=120)


def run_cri(judges, demo, name, words):
    machine = demo.node(name)
    folder = fresh("cri")
    machine.run(["mkdir", "-p", IN_NODE])
    machine.copy_in(judges.program("cri-tools", "critest"), f"{IN_NODE}/critest")
    wait_for(f"plugins to be let in on {name}",
             lambda: machine.run(["test", "-S", PLUGIN_SOCKET], check=False).returncode == 0, MIRROR_SECONDS)
    flags = [f"-runtime-endpoint={SOCKET}", f"-image-endpoint={SOCKET}", f"-nri-socket={PLUGIN_SOCKET}",
             "-ginkgo.no-color", "-ginkgo.succinct",
             f"-ginkgo.timeout={CRI_SECONDS}s", f"-ginkgo.junit-report={IN_NODE}/junit.xml"]
    focus = [f"-ginkgo.focus={re.escape(words)}"] if words else []
    expression = re.compile(re.escape(words or ""))
    try:
        with resting(machine):
            follow(machine.enter([f"{IN_NODE}/critest", *flags, *focus]), folder, CRI_SECONDS + GRACE_SECONDS)
        report = machine.root / IN_NODE.lstrip("/") / "junit.xml"
        if report.is_file():
            shutil.copyfile(report, folder / "junit_01.xml")
        found = read(folder / "junit_01.xml", lambda case: "benchmark" not in case and expression.search(case), folder)
    finally:
        machine.run(["rm", "-rf", IN_NODE])
    wait_for(f"{name} to be Ready again", lambda: demo.kube_nodes().get(name), up.READY_SECONDS)
    return found, folder, []


# -- the end

def fresh(what):
    folder = OUT / what
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def told(what, found, more, folder, everything, began):
    """Prints the summary; returns whether all of it was expected."""
    rows = verdict.known(PAGE.read_text(encoding="utf-8"), "cri" if what == "cri" else "e2e")
    expected, surprises = verdict.judge(found, rows, everything)
    surprises += more
    if everything and what == "full":
        passed = sum(case.state == verdict.PASSED for case in found)
        if passed < TARGET:
            surprises.append(f"only {passed} tests passed, and {TARGET} are to")
    lines = [f"{verdict.counts(found)} of {len(found)} in {(time.monotonic() - began) / 60:.1f} min"]
    lines += [f"  as {PAGE.relative_to(REPO)} says: {line}" for line in expected]
    lines += [f"  UNEXPECTED: {line}" for line in surprises]
    slow = sorted(found, key=lambda case: -case.seconds)[:10]
    (folder / "summary.txt").write_text("\n".join([*lines, "the longest:", *(
        f"  {case.seconds:7.1f} s  {case.name}" for case in slow)]) + "\n", encoding="utf-8")
    say("\n".join(lines) + f"\nreport: {folder}/junit_01.xml")
    return not surprises


def main(argv):
    args = parse(argv)
    need_root("scripts/conformance")
    demo = Demo()
    stack = matrix.stack(demo.kubernetes())
    judges = Judges(stack)
    if args.what == "build":
        return 0
    bring_up(demo, 2 if args.what == "full" else 1)
    with registry.serving(judges.store, node.HOST) as server:
        more = PLUGINS if args.what == "cri" else {}
        with mirrored(demo, f"http://{node.HOST}:{server.server_address[1]}", more):
            began = time.monotonic()
            if args.what == "cri":
                found, folder, more = run_cri(judges, demo, args.node, args.test)
            else:
                found, folder, more = run_suite(judges, demo, args.what, args.test)
        absent = sorted({path for path in server.refused if "/manifests/" in path})
    if not found:
        raise Fail("no test was chosen", "their names have other words", folder / "output.log")
    for path in absent:
        say(f"  an image that is not here was asked for: {path}")
    good = told(args.what, found, more, folder, not args.test and args.what != "quick", began)
    if not good:
        raise Fail("not as it should be", f"what does not pass and cannot is listed, with its reason, in {PAGE}",
                   folder / "output.log")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Fail as fail:
        print(f"conformance: {fail}", file=sys.stderr)
        sys.exit(fail.code)
    except KeyboardInterrupt:
        sys.exit(130)

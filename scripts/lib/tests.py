"""Runs the tests: each in a process of its own, with a deadline, its time printed, and omissions counted.

  programs()                     compiles the test programs: name → path
  run(programs, …)               the tests of all of them, machine tests last and one at a time

cargo's own runner has no deadline, prints no times and runs the tests of one program in one process, where one that
hangs or changes the environment affects all. cargo-nextest does all that and takes seven minutes to compile on a new
machine, a tenth of the limit of a first run, and could not count the tests' samples.

Two kinds of sample, by one seed: a test takes some of its cases (tests/support/sample.rs) and says so; and of the slow tests
that need machines, or an etcd each, and run alone, some are drawn. --full runs everything.
"""
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from common import REPO, Fail, run as run_program, say, tail_text

COMPILE_SECONDS = 2700
# Deadline of one test in seconds, by its program; several times its duration.
DEADLINES = {"node": 900, "etcd": 300, "clients": 600}
DEADLINE = 120
# Three control planes on two cores.
LONGER = {"ag_masters_that_move": 1800,
          "h_a_dead_master": 1800, "j_masters_share": 1800, "k_a_cluster_goes": 2700, "ka_three_masters": 2700,
          "kb_a_step": 2700, "kc_an_upgrade": 2700,
          # With a release build of its own.
          "l_the_agent": 2700, "m_the_machines_patches": 1800,
          # Machines of their own, and eleven waits for a sweep.
          "gb_machines_that": 1800,
          # Six minutes of accidents in full, and the end of the last one.
          "n_accidents": 1800,
          # Leases expire in them, with an etcd of three members each.
          "a_plane_without_the_seat": 300, "a_seat_that_was": 300, "a_plane_that_is_killed": 300, "a_plane_whose_store": 300,
          "dying_etcd_members": 300, "any_plane_answers": 300, "generations_of_specs": 300,
          # Every break of a walk through the seam's points, in full.
          "install_broken": 3600, "a_look_broken": 1800, "a_repair_broken": 3600, "a_change_broken": 3600,
          "detaching_broken": 3600, "a_restore_broken": 3600, "the_way_back_broken": 3600, "a_switch_broken": 3600,
          "a_backup_broken": 1800, "a_renewal_broken": 1800,
          "another_stack_made_ready_broken": 3600, "a_version_that_shows_nothing_broken": 3600,
          # The same of whole programs, each case with two or three lives of one.
          "hostagent_broken": 7200, "comms_broken": 7200, "nodelet_broken": 7200,
          "a_preparation_that": 3600}
# Programs whose tests need machines or services of their own: one test at a time, and nothing beside it.
ALONE = ["etcd", "node"]
# A slower test reports that it is still running.
SLOW = 60
# Lines shown of a failed test, and of a machine test that passed.
SHOWN = {"failed": 400, "passed": 60}

# Tests of the programs that run alone, by the beginning of their names, with their seconds on two cores.
# `None`: never left out, because they are the promise itself: a machine becomes a node, every minor does, and none of it
# is left over; data that every member lost are restored, and a backup is tested. The others are drawn.
TAKES = {
    "node": {
        "a_up": None, "f_decommission": None, "g_each_minor": None,
        "ab_services": 110, "ac_a_broken": 290, "ad_what_hangs": 560, "ae_a_proxy": 150, "af_a_renamed": 120, "ag_masters_that_move": 420,
        "b_reboot": 150, "ba_a_join": 150, "c_killed": 95, "ca_what": 70,
        "cb_policies": 90, "cc_who_reaches": 200, "d_detached": 135,
        "da_a_stolen": 30, "dc_a_stack": 60, "dd_another": 80, "e_files": 390, "e_people": 85, "ea_certificates": 300,
        "eb_a_drop_in": 120, "fa_a_budget": 480, "ga_machines_of": 110, "gb_machines_that": 420, "h_a_dead_master": 240, "i_the_data": 65,
        "j_masters_share": 130,
        "k_a_cluster_goes": 660, "ka_three_masters": 900, "kb_a_step": 600, "kc_an_upgrade": 500, "l_the_agent": 600,
        "m_the_machines_patches": 900,
        "n_accidents": 290,
    },
    "etcd": {
        "the_data_of_all_three": None, "the_newest_backup": None,
        "three_masters_go": 38, "five_of_which": 34, "without_a_quorum_everybody": 33, "who_insists": 33,
        "the_data_of_all_five": 28, "while_one_is_dead": 27, "a_new_list": 16, "a_full_database": 14,
        "others_that_run": 13, "without_a_quorum_of_the_others": 13, "one_minor_at_a_time": 12,
        # A member that lost its quorum gets half a minute before it is restarted.
        "a_master_with_another_address": 86, "a_lone_master_with_another": 13,
        "one_of_two_that_moved": 60, "two_of_three_that_moved": 90, "masters_that_all_moved": 70,
        "a_founder_that_lost_its_data": 10, "the_time_of_the_disk": 9, "a_leader_whose_host": 8,
    },
}
# For one that is not in the table: a new machine test takes minutes, one of etcd's a few seconds.
TAKES_ELSE = {"node": 120, "etcd": 6}
# What the drawn ones of a program may take together. One that takes longer by itself is left to --full: with a first turn for
# it a run on a machine that has nothing took 76 minutes, of them 12 for the walk of an upgrade.
DRAWN_SECONDS = {"node": 300, "etcd": 150}

SAMPLED = re.compile(r"^.*?sampled: (\d+) of (\d+) (\S.*)$", re.M)


class Test:
    def __init__(self, program, path, name):
        self.program, self.path, self.name = program, path, name
        self.title = f"{program} {name}"
        self.said, self.seconds, self.why = "", 0.0, ""

    @property
    def own_name(self):
        return self.name.rsplit("::", 1)[-1]

    @property
    def deadline(self):
        longer = [seconds for start, seconds in LONGER.items() if self.own_name.startswith(start)]
        return longer[0] if longer else DEADLINES.get(self.program, DEADLINE)

    def takes(self):
        table = TAKES.get(self.program, {})
        found = [seconds for start, seconds in table.items() if self.own_name.startswith(start)]
        return found[0] if found else TAKES_ELSE.get(self.program)

    def run(self, env):
        """Sets `why` if it failed. Everything it started in its session ends with it on a timeout."""
        begun = time.monotonic()
        with tempfile.TemporaryFile() as sink:
            child = subprocess.Popen([self.path, "--exact", self.name, "--nocapture"], cwd=REPO, env=env, stdout=sink,
                                     stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True)
            code = self.wait(child)
            sink.seek(0)
            self.said = sink.read().decode("utf-8", "replace")
        self.seconds = time.monotonic() - begun
        if code is None:
            self.why = f"not done within {self.deadline} s"
        elif code != 0:
            self.why = f"exit code {code}"
        elif "test result: ok. 1 passed" not in self.said:
            self.why = "it did not run"
        return self

    def wait(self, child):
        begun = time.monotonic()
        try:
            while True:
                left = begun + self.deadline - time.monotonic()
                try:
                    return child.wait(max(0.0, min(SLOW, left)))
                except subprocess.TimeoutExpired:
                    if left <= SLOW:
                        return None
                    say(f"  slow  {time.monotonic() - begun:8.1f} s  {self.title}")
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def programs():
    """The compiled test programs."""
    cmd = ["cargo", "test", "--no-run", "--locked", "--workspace", "--all-features", "--message-format",
           "json-render-diagnostics"]
    done = subprocess.run(cmd, cwd=REPO, stdout=subprocess.PIPE, text=True, timeout=COMPILE_SECONDS, check=False)
    if done.returncode != 0:
        raise Fail("the tests do not compile", "cargo's words are above")
    found = {}
    for line in done.stdout.splitlines():
        item = json.loads(line) if line.startswith("{") else {}
        if item.get("reason") == "compiler-artifact" and item["profile"]["test"] and item.get("executable"):
            target = item["target"]
            found[title(target)] = item["executable"]
    return found


def title(target):
    """`lib` of the agent, `tunnel` of its crate's own library; otherwise the name."""
    if "lib" not in target["kind"]:
        return target["name"]
    return "lib" if target["name"] == "pf9_hostagent" else target["name"].removeprefix("pf9_")


def listed(found):
    tests = []
    for program, path in found.items():
        lines = run_program([path, "--list", "--format", "terse"], cwd=REPO, timeout=60).stdout.splitlines()
        names = [line.removesuffix(": test") for line in lines if line.endswith(": test")]
        tests += [Test(program, path, name) for name in names]
    if not tests:
        raise Fail("no program has a test")
    return tests


def drawn(tests, seed):
    """Of the tests that run alone those that stay, and those that a sample leaves out: by the seed, or for their length."""
    out, long = [], []
    for program, left in DRAWN_SECONDS.items():
        some = [test for test in tests if test.program == program and test.takes() is not None]
        long += [test for test in some if test.takes() > left]
        some = [test for test in some if test not in long]
        some.sort(key=lambda test: test.title)
        random.Random(seed).shuffle(some)
        for test in some:
            if test.takes() > left:
                out.append(test)
            else:
                left -= test.takes()
    return [test for test in tests if test not in out + long], out, long


def environment(seed, full):
    """The environment of tests/support/sample.rs, and of proptest for the fast property tests."""
    env = dict(os.environ, PF9_TEST_SEED=str(seed), PROPTEST_RNG_SEED=str(seed))
    if full:
        env.update(PF9_TEST_FULL="1", PROPTEST_CASES="2048")
    else:
        env.pop("PF9_TEST_FULL", None)
    return env


def run(found, seed, full=False, machines=False, words=()):
    """`words`: only tests with one of these in their names. Returns lines that say what did not run."""
    every = listed(found)
    tests = [test for test in every if not words or any(word in test.title for word in words)]
    if not tests:
        raise Fail("no test has one of these words in its name: " + " ".join(words))
    left_out = []
    if len(tests) < len(every):
        left_out.append(f"{len(every) - len(tests)} of {len(every)} tests: not asked for")
    # Programs whose tests may take long come first: the last test would have one core, and the others would wait for it.
    quick = sorted((test for test in tests if test.program not in ALONE), key=lambda test: -DEADLINES.get(test.program, DEADLINE))
    alone = sorted((test for test in tests if test.program in ALONE), key=lambda test: (test.program, test.own_name))
    if not machines:
        left_out += gone(alone, "they need machines")
        alone = []
    elif not full and not words:  # who names a test wants it
        alone, out, long = drawn(alone, seed)
        left_out += gone(out, f"not drawn by seed {seed}") + gone(long, "only in --full, for their length")
    env = environment(seed, full)
    say(f"{len(quick) + len(alone)} tests in {len(found)} programs; seed {seed}")
    begun = time.monotonic()
    work(quick, at_once(), env)
    work(alone, 1, env)
    ran = quick + alone
    left_out += sampled(ran, seed)
    say(f"{len(ran)} tests passed in {time.monotonic() - begun:.0f} s; the longest:")
    for test in sorted(ran, key=lambda test: -test.seconds)[:10]:
        say(f"  {test.seconds:8.1f} s  {test.title}")
    return left_out


def at_once():
    """Half of the time of all tests is waiting: for a lease, a retry, a peer that is slow on purpose."""
    cores = os.cpu_count() or 2
    return cores + cores // 2


def gone(tests, why):
    return [f"{len(tests)} tests: {why}: " + ", ".join(test.title for test in tests)] if tests else []


def work(tests, beside, env):
    """The first failure ends it: running tests finish, waiting ones do not start."""
    waiting, running, failed, spared = list(tests), set(), [], 0
    with ThreadPoolExecutor(beside) as pool:
        while running or waiting:
            while waiting and len(running) < beside:
                running.add(pool.submit(waiting.pop(0).run, env))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for test in (future.result() for future in done):
                told(test)
                if test.why:
                    failed.append(test)
                    spared, waiting = spared + len(waiting), []
    if failed:
        also = f"; {spared} tests did not start" if spared else ""
        raise Fail(f"{len(failed)} of the tests failed{also}", "\n".join(f"{t.title}: {t.why}" for t in failed))


def told(test):
    say(f"  {'FAIL' if test.why else 'pass'}  {test.seconds:8.3f} s  {test.title}")
    if test.why:
        say(tail_text(test.said, SHOWN["failed"]))
    elif test.program in ALONE:
        lines = [line for line in test.said.splitlines() if line.strip() and not line.startswith(("running 1", "test "))]
        say("\n".join(f"        {line}" for line in lines[-SHOWN["passed"]:]))


def sampled(tests, seed):
    """The tests' own lines about their samples."""
    said = [(test, *found) for test in tests for found in SAMPLED.findall(test.said)]
    return [f"{int(of) - int(few)} of {of} {what}, by seed {seed}: {test.title}" for test, few, of, what in said]

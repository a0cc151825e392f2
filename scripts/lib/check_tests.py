"""The test runner, tested with programs that fail, hang, do not run the requested test, and take samples; measured
build costs are kept and used; and the policies' image writes only its own chains of the packet filter."""
import io
import json
import os
import subprocess
import tempfile
import tomllib
import unittest
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import cache
import crates
import golang
import netfilter
import parts
import stack
import tests
from common import Fail, wait_for
from laps import Laps

# A cargo test program, as far as the runner uses it.
PROGRAM = """#!/bin/sh
if [ "$1" = --list ]; then for name in {names}; do echo "$name: test"; done; exit; fi
case $2 in
  *good*) echo "running 1 test"; echo "sampled: 3 of 10 cases"; echo "$2 seed=$PF9_TEST_SEED full=$PF9_TEST_FULL" ;;
  *bad*) echo "it is broken"; exit 101 ;;
  *hangs*) echo $$ > "$0.pid"; sleep 1000 & wait ;;
  *none*) echo "test result: ok. 0 passed; 0 failed"; exit ;;
esac
echo "test result: ok. 1 passed; 0 failed"
"""
MACHINES = ["x::a_up_x", "x::b_reboot_x", "x::c_killed_x", "x::d_detached_x", "x::e_files_x", "x::zz_new"]


class Runner(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def program(self, *names):
        path = Path(self.dir.name) / f"program-{names[0].replace(':', '-')}"
        path.write_text(PROGRAM.format(names=" ".join(names)), encoding="ascii")
        path.chmod(0o755)
        return str(path)

    def run_all(self, found, **asked):
        """What did not run, and the screen."""
        with redirect_stdout(io.StringIO()) as screen:
            left_out = tests.run(found, 7, **asked)
        return left_out, screen.getvalue()

    def refused(self, found, **asked):
        with redirect_stdout(io.StringIO()) as screen, self.assertRaises(Fail) as raised:
            tests.run(found, 7, **asked)
        return str(raised.exception), screen.getvalue()

    def test_what_was_left_of_samples_is_counted(self):
        left_out, _ = self.run_all({"lib": self.program("good_one", "good_two")})
        self.assertEqual(left_out, ["7 of 10 cases, by seed 7: lib good_one", "7 of 10 cases, by seed 7: lib good_two"])

    def test_a_failure_ends_it_with_its_words(self):
        said, screen = self.refused({"lib": self.program("bad", "good")})
        self.assertIn("lib bad: exit code 101", said)
        self.assertIn("it is broken", screen)
        said, _ = self.refused({"node": self.program("a_bad", "b_good", "c_good")}, machines=True, words=["node"])
        self.assertIn("2 tests did not start", said)

    def test_what_did_not_run_did_not_pass(self):
        said, _ = self.refused({"lib": self.program("none")})
        self.assertIn("lib none: it did not run", said)

    def test_who_is_late_ends_with_all_he_started(self):
        path = self.program("hangs")
        with mock.patch.object(tests, "DEADLINE", 1):
            said, _ = self.refused({"lib": path})
        self.assertIn("lib hangs: not done within 1 s", said)
        group = Path(f"{path}.pid").read_text(encoding="ascii").strip()
        wait_for("the group is gone", lambda: group not in running_groups(), 10)

    def test_machine_tests_are_drawn_by_the_seed_and_the_rest_is_named(self):
        found = {"node": self.program(*MACHINES)}
        left_out, screen = self.run_all(found, machines=True)
        self.assertEqual((left_out, passed(screen)), (self.run_all(found, machines=True)[0], passed(screen)))
        ran = passed(screen)
        self.assertIn("node x::a_up_x", ran)
        self.assertLess(len(ran), len(MACHINES))
        for name in MACHINES:
            self.assertNotEqual(f"node {name}" in ran, any(name in line for line in left_out), name)
        every = tests.listed(found)
        draws = {tuple(t.name for t in tests.drawn(every, seed)[0]) for seed in range(50)}
        long = {t.name for t in tests.drawn(every, 0)[2]}
        self.assertEqual(long, {t.name for t in every if (t.takes() or 0) > tests.DRAWN_SECONDS["node"]})
        self.assertTrue(long, "one of them is long")
        self.assertTrue(all(any(f"{name}" in line and "--full" in line for line in left_out) for name in long))
        self.assertEqual({name for draw in draws for name in draw} | long, set(MACHINES), "each has its turn")

    def test_every_name_with_a_deadline_or_a_length_of_its_own_is_a_test(self):
        code = "".join(path.read_text(encoding="utf-8") for top in ("src", "crates", "tests") for path in (tests.REPO / top).rglob("*.rs"))
        for name in [*tests.LONGER, *(name for table in tests.TAKES.values() for name in table)]:
            self.assertIn(f"fn {name}", code)

    def test_of_etcd_s_tests_the_core_always_runs_and_the_others_are_drawn(self):
        core = ["x::the_data_of_all_three_x", "x::the_newest_backup_x"]
        short = [f"x::a_new_one_{number}" for number in range(30)]
        long = [f"x::{start}_x" for start, seconds in tests.TAKES["etcd"].items() if seconds]
        found = {"etcd": self.program(*core, *short, *long), "node": self.program(*MACHINES)}
        every = tests.listed(found)
        seen = set()
        for seed in range(200):
            stay, out, _ = tests.drawn(every, seed)
            kept = {test.name for test in stay if test.program == "etcd"}
            self.assertLessEqual(set(core), kept)
            some = [test for test in stay if test.program == "etcd" and test.takes()]
            self.assertLessEqual(sum(t.takes() for t in some), tests.DRAWN_SECONDS["etcd"])
            self.assertTrue([test for test in out if test.program == "etcd"])
            seen |= kept
        self.assertEqual(seen, {*core, *short, *long}, "each has its turn")
        left_out, _ = self.run_all(found, machines=True, full=True)
        self.assertEqual(left_out, [])

    def test_everything_runs_in_full_and_who_is_named_is_not_drawn(self):
        found = {"node": self.program(*MACHINES)}
        left_out, screen = self.run_all(found, machines=True, full=True)
        self.assertEqual((left_out, len(passed(screen))), ([], len(MACHINES)))
        for word in MACHINES:
            left_out, screen = self.run_all(found, machines=True, words=[word])
            self.assertEqual(passed(screen), {f"node {word}"})
            self.assertEqual(left_out, ["5 of 6 tests: not asked for"])
        self.assertEqual(len(passed(self.run_all(found, machines=True, words=["x::"])[1])), len(MACHINES))
        left_out, _ = self.run_all({**found, "lib": self.program("good")})
        self.assertIn("6 tests: they need machines: node x::a_up_x", left_out[0])

    def test_programs_whose_tests_may_take_long_come_first(self):
        found = {"lib": self.program("good_one", "good_two"), "clients": self.program("good_client")}
        with mock.patch.object(tests, "at_once", lambda: 1):
            _, screen = self.run_all(found)
        ran = [line.split(maxsplit=3)[-1] for line in screen.splitlines() if line.startswith("  pass  ")]
        self.assertEqual(ran, ["clients good_client", "lib good_one", "lib good_two"])

    def test_no_program_that_cargo_makes_no_test_of_has_any(self):
        of_all = {path: tomllib.loads(path.read_text()).get("bin", [])
                  for path in (tests.REPO / "Cargo.toml", *sorted(tests.REPO.glob("crates/*/Cargo.toml")))}
        mains = [path.parent / program["path"] for path, programs in of_all.items() for program in programs if not program.get("test", True)]
        self.assertTrue(mains, "there are some")
        for main in mains:
            # Its modules are the files beside it; those beside a library's are the library's.
            beside = [main] if (main.parent / "lib.rs").exists() else sorted(main.resolve().parent.rglob("*.rs"))
            for path in beside:
                self.assertNotRegex(path.read_text(encoding="utf-8"), r"#\[(tokio::)?test\b|cfg\(test\)", path)

    def test_no_test_is_no_success(self):
        self.refused({"lib": self.program("good")}, words=["nobody"])
        self.refused({})

    def test_tests_are_told_the_seed_and_whether_everything_is_wanted(self):
        env = tests.environment(7, False)
        self.assertEqual((env["PF9_TEST_SEED"], env["PROPTEST_RNG_SEED"], env.get("PF9_TEST_FULL")), ("7", "7", None))
        self.assertEqual(tests.environment(7, True)["PF9_TEST_FULL"], "1")


class Costs(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        where = mock.patch.object(cache, "CACHE", Path(self.dir.name))
        where.start()
        self.addCleanup(where.stop)

    def make(self, key, text):
        with redirect_stdout(io.StringIO()):
            return cache.artefact("part-1.2.3", key, lambda tmp: cache.log_of("part-1.2.3").write_text(text))

    def test_what_an_artefact_took_is_kept_with_it_and_the_newest_counts(self):
        self.assertIsNone(cache.cost("part-1.2.3"))
        first = self.make("0" * 16, "$ a step\n0m0.100000s 0m0.000000s\n1m20.500000s 0m9.400000s\nits words 1m2s\n")
        self.assertEqual(cache.cost("part-1.2.3").cpu_seconds, 90.0)
        self.assertEqual(cache.cost("part-1.2.3").cores, os.cpu_count())
        self.assertIsNone(cache.cost("part-1.2"), "another part's")
        os.utime(first / cache.COST, (1, 1))
        self.make("1" * 16, "0m1.000000s 0m0.000000s\n")
        self.assertEqual(cache.cost("part-1.2.3").cpu_seconds, 1.0)
        self.make("2" * 16, "no shell\n")
        self.assertLess(cache.cost("part-1.2.3").cpu_seconds, 1.0, "the clock's, where no step says its own")

    def test_what_is_forecast_is_what_was_measured_else_the_table(self):
        program = golang.Program("part", "1.2.3", "m", [], 3)
        self.assertEqual(golang.seconds([program]) * os.cpu_count(), 180)
        other = golang.Program("part", "1.2.4", "m", [], 3)
        self.assertEqual(golang.seconds([program, other]) * os.cpu_count(), 180 + 72, "the second has most of it")
        self.make(golang.identity(program)[1], "2m0.000000s 0m6.000000s\n")
        self.assertEqual(golang.seconds([program, program]) * os.cpu_count(), 252)
        self.assertEqual(golang.about(126), "2 min")
        with redirect_stdout(io.StringIO()) as screen:
            parts.announce([program])
            self.assertEqual(screen.getvalue(), "", "it is there")
            parts.announce([golang.Program("part", "1.2.4", "m", [], 3)])
        self.assertIn("part 1.2.4", screen.getvalue())


class Times(unittest.TestCase):
    def test_the_next_run_says_what_the_last_one_that_passed_took(self):
        with tempfile.TemporaryDirectory() as folder:
            first = Laps("sample", Path(folder))
            self.assertIn("not known yet", first.forecast())
            for title, seconds in (("format", 2), ("lints", 100), ("tests", 500)):
                first.note(title, seconds)
            self.assertIn("not known yet", Laps("sample", Path(folder)).forecast(), "a run that failed says nothing")
            first.keep()
            self.assertEqual(Laps("sample", Path(folder)).forecast(), "about 10 min, as the last time: lints 2 min, tests 8 min")
            self.assertIn("not known yet", Laps("full", Path(folder)).forecast())


class Crates(unittest.TestCase):
    def test_what_others_wrote_is_brought_to_the_next_checkout_and_what_is_ours_is_not(self):
        with tempfile.TemporaryDirectory() as room:
            cached, first, second = (Path(room) / name for name in ("cache", "first", "second"))
            hashed = "0123456789abcdef"
            theirs = [f"debug/deps/libserde-{hashed}.rlib", f"debug/build/pf9-like-{hashed}/out/it-{hashed}.rs",
                      f"release/.fingerprint/serde-{hashed}/lib-serde"]
            ours = [f"debug/deps/libpf9_hostagent-{hashed}.rmeta", f"debug/deps/it-{hashed}",
                    f"debug/.fingerprint/pf9-hostagent-{hashed}/dep-lib-pf9_hostagent", "debug/incremental/x", "release/pf9ctl"]
            for path in (first / name for name in theirs + ours):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("x")
                os.utime(path, (1, 1))
            at = lambda path: mock.patch.object(crates.tools, "target_dir", lambda: path)
            with (mock.patch.object(cache, "CACHE", cached), mock.patch.object(crates, "CACHE", cached),
                  redirect_stdout(io.StringIO())):
                cached.mkdir()
                with at(first):
                    crates.keep()
                with at(second):
                    crates.bring()
                files = lambda: sorted(path for path in second.rglob("*") if path.is_file())
                self.assertEqual([str(path.relative_to(second)) for path in files()], sorted(theirs))
                self.assertEqual({path.stat().st_mtime for path in files()}, {1}, "cargo goes by times")
                (second / theirs[0]).unlink()
                with at(second):
                    crates.bring()
                self.assertEqual(len(files()), len(theirs) - 1, "who has begun is left alone")
                with at(first), mock.patch.object(crates, "compiler", lambda: "another"):
                    crates.keep()
                self.assertEqual(len(list(cached.glob("crates-*"))), 1, "one copy")
                with at(Path(room) / "third"):
                    crates.bring()
                self.assertFalse((Path(room) / "third").exists(), "another compiler's")


class Marks(unittest.TestCase):
    def test_a_stack_is_marked_and_what_is_kept_for_everybody_is_not(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "manifest.json"
            path.write_text('{"name": "pf9-kube"}', encoding="ascii")
            stack.mark_security(Path(folder))
            self.assertEqual(json.loads(path.read_text()), {"name": "pf9-kube", "security": True})
            self.assertEqual(os.listdir(folder), ["manifest.json"])
        with self.assertRaises(Fail) as refused:
            stack.main(["build", "--security"])
        self.assertEqual(refused.exception.code, 2)


class Restore(unittest.TestCase):
    """iptables-restore of the image, with tools that keep the table in a file."""
    SAVED = """*filter
:FORWARD DROP [0:0]
:MINE - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-POD-FW-OLD - [0:0]
-A FORWARD -j KUBE-ROUTER-FORWARD
-A KUBE-ROUTER-FORWARD -j KUBE-POD-FW-OLD
COMMIT
"""
    WANTED = """*filter
:FORWARD DROP [0:0] - [0:0]
:KUBE-ROUTER-FORWARD - [0:0] - [0:0]
:KUBE-NWPLCY-A
-A FORWARD -j LOST-MEANWHILE
-A KUBE-ROUTER-FORWARD -m comment --comment "of pod a" -j KUBE-NWPLCY-A
-I KUBE-NWPLCY-A 1 -j REJECT
COMMIT
"""

    def restored(self, save):
        with tempfile.TemporaryDirectory() as folder:
            tools = {"iptables-save": save, "iptables-restore": f'echo "$@" > {folder}/args; cat > {folder}/table'}
            for name, does in tools.items():
                path = Path(folder) / name
                path.write_text(f"#!/bin/sh\n{does}\n", encoding="ascii")
                path.chmod(0o755)
            (Path(folder) / "saved").write_text(self.SAVED, encoding="ascii")
            own = Path(folder) / "own"
            own.mkdir()
            script = own / "iptables-restore"
            script.write_text(netfilter.RESTORE.replace("/usr/sbin", folder), encoding="ascii")
            done = subprocess.run(["bash", script, "-T", "filter"], input=self.WANTED, text=True, check=False,
                                  capture_output=True)
            table, args = ((Path(folder) / name).read_text() for name in ("table", "args"))
            return done.returncode, table.splitlines(), args.split()

    def test_only_chains_of_policies_are_written_and_those_left_out_go(self):
        code, table, args = self.restored('cat "${0%/*}/saved"')
        self.assertEqual((code, args), (0, ["--noflush", "-T", "filter"]))
        self.assertEqual(table[0], "*filter")
        self.assertEqual(set(table[1:4]), {f":KUBE-{name} - [0:0]" for name in ("ROUTER-FORWARD", "NWPLCY-A", "POD-FW-OLD")})
        self.assertEqual(table[4:], ['-A KUBE-ROUTER-FORWARD -m comment --comment "of pod a" -j KUBE-NWPLCY-A',
                                     "-I KUBE-NWPLCY-A 1 -j REJECT", "-X KUBE-POD-FW-OLD", "COMMIT"])

    def test_what_cannot_be_read_is_a_failure(self):
        for save in ("exit 4", 'cat "${0%/*}/saved"; exit 4'):
            code, table, _ = self.restored(save)
            self.assertNotEqual(code, 0)
            self.assertEqual(table, [], "nothing is opened")


def running_groups():
    """Process group of every live process."""
    groups = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rsplit(") ", 1)[1].split()[:3]
        except OSError:
            continue
        if state != "Z":
            groups.add(group)
    return groups


def passed(screen):
    """Titles of the parts that passed, from the screen."""
    lines = (line.split(maxsplit=3) for line in screen.splitlines() if line.startswith("  pass  "))
    return {title for _, _, _, title in lines}


if __name__ == "__main__":
    unittest.main()

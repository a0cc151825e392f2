"""A torture's schedule follows from its seed; its cost from the table; and the observer finds violations of
the promises."""
import io
import json
import os
import random
import re
import subprocess
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from itertools import islice
from pathlib import Path
from unittest import mock

import torture
import torture_events
import torture_judge as judge
import torture_observer
import torture_schedule as schedule
from common import REPO, Fail
from torture_journal import Journal, minutes
from torture_schedule import ADDONS, CONTROL, KINDS, STEADY, event, events, may_touch

MACHINES = ["master-1", "worker-1", "worker-2"]


def first(count, seed=7, machines=MACHINES, **more):
    return list(islice(events(seed, machines, **more), count))


def happened(kind, machine, variant):
    return schedule.Event(0, kind, machine, variant, "", 0, 0, ())


class Schedule(unittest.TestCase):
    def test_the_same_seed_is_the_same_schedule_and_another_is_another(self):
        random.seed(1)
        one = first(300)
        random.seed(2)
        self.assertEqual(one, first(300))
        self.assertNotEqual(one, first(300, seed=8))

    def test_taken_up_again_it_goes_on_as_it_would_have(self):
        self.assertEqual(first(40)[25:], list(islice(events(7, MACHINES, begin=25), 15)))

    def test_every_kind_and_variant_has_its_turn_and_only_where_it_can_happen(self):
        seen = {(e.kind, e.variant) for e in first(6000)}
        for name, kind in KINDS.items():
            wanted = {(name, variant) for variant in kind.variants + kind.masters}
            if name in schedule.ONLY_WHEN_NAMED:
                self.assertFalse(wanted & seen, name)
            else:
                self.assertLessEqual(wanted, seen)
        for e in first(6000):
            kind = KINDS[e.kind]
            self.assertTrue(kind.on in (schedule.ANY, e.machine.split("-")[0]), e)
            self.assertIn(e.variant, schedule.variants(kind, e.machine), e)
            self.assertTrue(kind.lasts[0] <= e.lasts <= kind.lasts[1], e)
        self.assertEqual({e.kind for e in first(50, names=("upgrade", "kill"))}, {"upgrade", "kill"})
        self.assertEqual({e.kind for e in first(9, names=("agent-upgrade",))}, {"agent-upgrade"})

    def test_what_cannot_be_drawn_is_said(self):
        with self.assertRaisesRegex(ValueError, "no such kind: earthquake"):
            event(1, 0, MACHINES, ("earthquake",))
        with self.assertRaisesRegex(ValueError, "no machine"):
            event(1, 0, ["master-1"], ("detach",))

    def test_each_kind_is_something_that_can_be_done(self):
        self.assertEqual(set(torture_events.EFFECTS), set(KINDS))

    def test_a_brief_run_draws_what_takes_no_minutes_and_begins_nothing_that_would_not_end(self):
        names = schedule.brief(MACHINES)
        self.assertIn("kill", names)
        self.assertIn("cut-off", names)
        for long in ("short-lives", "hang", "restore", "detach", *schedule.ONLY_WHEN_NAMED):
            self.assertNotIn(long, names)
        args = torture.parse(["--minutes", "2", "--brief"])
        self.assertEqual(args.names, schedule.brief(torture.machines_of(args.nodes)))
        self.assertEqual(torture.parse(["--minutes", "2"]).names, [])
        for bad in (["--minutes", "1", "--brief"], ["--minutes", "2", "--brief", "--only", "kill"]):
            with self.assertRaises(SystemExit), redirect_stderr(io.StringIO()):
                torture.parse(bad)

    def test_a_brief_run_ends_in_its_time_whatever_is_drawn(self):
        names = tuple(schedule.brief(torture.machines_of(2)))
        for seed in range(50):
            ran, over = brief_run(seed, names, 120)
            self.assertTrue(ran, seed)
            self.assertLessEqual(over, 0, (seed, [e.line() for e in ran]))

    def test_machines(self):
        self.assertEqual(torture.machines_of(2), ["master-1", "worker-1"])
        self.assertEqual(torture.machines_of(4), ["master-1", "master-2", "master-3", "worker-1"])
        with self.assertRaises(Fail):
            torture.machines_of(1)


class Clock:
    """Time that passes as events say."""
    now = 0.0

    def monotonic(self):
        return self.now


class Quiet:
    """A journal and an observer that note nothing."""
    done = 0

    def __init__(self, seed):
        self.run = {"seed": seed}

    def counts_from_here(self):
        pass

    start = stop = tick = counts_from_here

    def ended_well(self, *_args, **_more):
        pass


def brief_run(seed, names, seconds):
    """What the run's own loop begins in that time, and by how much its last event ends late."""
    clock, ran = Clock(), []
    run = object.__new__(torture.Torture)
    run.journal, run.machines, run.names = Quiet(seed), torture.machines_of(2), names
    run.observer = Quiet(seed)

    def pass_by(seconds):
        clock.now += seconds

    def one(happened):
        ran.append(happened)
        pass_by(happened.needs - happened.pause)
        return {"well_after": 0, "writes_there": 0}
    run.run_one = one
    with mock.patch.object(torture, "time", clock), mock.patch.object(torture, "hold", pass_by), \
            mock.patch.object(torture, "say"):
        run.run(seconds, 10**6, in_time=True)
    return ran, clock.now - seconds


class Touch(unittest.TestCase):
    def test_nothing_of_ours_that_is_killed_or_changed_touches_a_pod(self):
        quiet = [(kind, variant) for kind in ("kill", "hang", "restart", "rotate", "short-lives", "order", "disk-full", "plane-killed",
                                                     "agent-upgrade")
                 for variant in KINDS[kind].variants]
        for kind, variant in quiet:
            for where in MACHINES:
                for group in (STEADY, CONTROL, ADDONS):
                    self.assertFalse(may_touch(happened(kind, "master-1", variant), where, group), (kind, variant, group))

    def test_the_workload_ends_with_its_machine_and_with_nothing_else(self):
        for kind, what in KINDS.items():
            ends = kind in ("power-loss", "reboot", "detach")
            machine = "worker-1" if what.on == schedule.WORKER else "master-1"
            for variant in schedule.variants(what, machine):
                one = happened(kind, machine, variant)
                self.assertEqual(may_touch(one, machine, STEADY), ends, kind)
                self.assertFalse(may_touch(one, "worker-2", STEADY), kind)

    def test_who_loses_etcd_or_the_api_may_end(self):
        for variant in ("pf9-etcd", "kube-apiserver"):
            self.assertTrue(may_touch(happened("kill", "master-1", variant), "worker-1", ADDONS))
            self.assertTrue(may_touch(happened("kill", "master-1", variant), "master-1", CONTROL))


def container(pod, namespace=judge.NAMESPACE):
    return {"namespace": namespace, "pod": pod, "name": "main"}


class Judge(unittest.TestCase):
    def test_another_container_is_found_and_named(self):
        before = {"a": container("steady-x"), "b": container("steady-y"), "c": container("gone")}
        after = {"a": before["a"], "d": container("steady-y")}
        self.assertEqual(judge.started_again(before, after), [(before["b"], after["d"]), (before["c"], None)])
        self.assertEqual(judge.started_again(before, before), [])

    def test_groups(self):
        self.assertEqual(judge.group(container("steady-x")), STEADY)
        self.assertEqual(judge.group(container("kube-apiserver-master-1", "kube-system")), CONTROL)
        self.assertEqual(judge.group(container("coredns-1", "kube-system")), ADDONS)
        self.assertFalse(torture.moved(container("steady-x"), None), "the workload goes for no reason of its own")
        self.assertTrue(torture.moved(container("job", "other"), None))

    def test_lost_writes_and_different_masters(self):
        self.assertEqual(judge.lost([1, 2, 3], [3, 1, 9]), [2])
        self.assertEqual(judge.still_wanted("1\n2\n3\n", "2"), {3}, "those taken away are not lost")
        self.assertEqual(judge.still_wanted("1\n2\n", ""), {1, 2})
        self.assertEqual(judge.differing({"m1": {"a": 1}, "m2": {"a": 2}, "m3": {"a": 1}}), ["m2"])
        self.assertEqual(judge.differing({"m1": {"a": 1}}), [])

    def flat(self, value, pid=lambda n: 1, count=120):
        flat = judge.Flat()
        for n in range(count):
            flat.add("master-1", "pf9-comms", pid(n), n * 15.0, {"rss": value(n), "fds": 20, "threads": 5})
        return flat.faults()

    def test_what_grows_is_found_and_what_is_noisy_or_warms_up_is_not(self):
        mib = judge.MIB
        self.assertIn("rss rises by", self.flat(lambda n: 20 * mib + n * 60_000)[0])
        self.assertEqual(self.flat(lambda n: 20 * mib + (n % 7) * 200_000), [])
        self.assertEqual(self.flat(lambda n: min(n, 15) * mib), [], "it is warm after its first minutes")
        self.assertEqual(self.flat(lambda n: 20 * mib + n * 60_000, count=30), [], "too short to say")
        self.assertEqual(self.flat(lambda n: 20 * mib + n % 40 * 60_000, pid=lambda n: n // 40), [], "each process by itself")
        self.assertIn("at most", self.flat(lambda n: 500 * mib, count=1)[0])

    def test_disks(self):
        self.assertEqual(judge.disk_faults("m", judge.LOGS_MOST, judge.STATE_MOST), [])
        self.assertEqual(len(judge.disk_faults("m", judge.LOGS_MOST + 1, judge.STATE_MOST + 1)), 2)


class Kept(unittest.TestCase):
    def setUp(self):
        room = tempfile.TemporaryDirectory()
        self.addCleanup(room.cleanup)
        self.dir, self.now = Path(room.name) / "torture", 1000.0

    def journal(self):
        return Journal(self.dir, lambda: self.now)

    def test_a_run_is_taken_up_where_it_was_and_its_hours_count(self):
        one, journal = first(2), self.journal()
        journal.begin(7, MACHINES, (), False)
        self.now += 1800
        journal.ended_well(one[0], well_after=2.5)
        self.now += 1800
        journal.failed(one[1], Fail("it broke", "because"))
        later = self.journal()
        self.now += 86400
        later.begin(8, ["other-1"], ("kill",), True)
        self.assertEqual((later.run["seed"], later.run["machines"], later.done), (7, MACHINES, 1))
        self.assertEqual(later.hours(), 1.0, "the time between two runs is nobody's")
        self.assertEqual([line["result"] for line in later.events()], ["ok", "failed"])
        self.assertIn("because", later.events()[1]["what"])
        later.begin(8, MACHINES, (), False)
        self.now += 1200  # machines are made
        later.counts_from_here()
        self.now += 3600
        later.tick()
        self.assertEqual((later.done, later.hours()), (0, 2.0))
        json.loads((self.dir / "run.json").read_text())

    def test_a_line_that_an_end_cut_is_none_and_the_next_one_is_whole(self):
        one, journal = first(2), self.journal()
        journal.begin(7, MACHINES, (), False)
        journal.ended_well(one[0])
        journal.lines.write_text(journal.lines.read_text() + '{"at": 1')
        self.now += 120
        journal.failed(one[1], Fail("it broke"))
        self.assertEqual([line["number"] for line in journal.events()], [0, 1])
        self.assertEqual(journal.rows(), ["| 7 | 2 | 1 | 2 |"])

    def test_the_page_has_the_rows_that_are_printed_and_their_sum(self):
        text = (REPO / "docs/torture.md").read_text(encoding="utf-8")
        said = re.search(r"^(\d+) minutes in all", text, re.M)
        self.assertEqual(minutes(text), int(said[1]))
        self.assertEqual(minutes("| 4294967295 | 12 | 0 | 61 |\n| seed | 2 |\n| 3 | – | – | 4 |\n"), 65)

    def test_what_waiting_does_not_change_is_a_failure_of_its_event_and_the_run_goes_on(self):
        journal = self.journal()
        journal.begin(7, MACHINES, (), False)
        one = torture.Torture(mock.Mock(), journal, MACHINES, ())
        one.observer = mock.Mock()
        ends = [torture.Stop("the upgrade stopped", "it says why"), {"well_after": 1.0, "writes_there": 3}, IndexError("none")]
        with mock.patch.object(one, "run_one", side_effect=ends), mock.patch.object(one, "told"), \
                mock.patch.object(one, "all_well"), mock.patch.object(torture, "hold"), redirect_stdout(io.StringIO()):
            failures = one.run(float("inf"), 3, go_on=True)
        self.assertEqual([event.number for event in failures], [0, 2])
        self.assertEqual([line["result"] for line in journal.events()], ["failed", "ok", "failed"])
        self.assertEqual(journal.done, 3)

    def test_nothing_is_taken_up_that_is_not_there(self):
        with self.assertRaises(Fail):
            self.journal().begin(7, MACHINES, (), True)


class Watches(unittest.TestCase):
    def test_a_process_that_has_ended_and_is_not_taken_away_yet_has_no_figures(self):
        with subprocess.Popen(["true"]) as ended:
            os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
            with self.assertRaises(Fail):
                torture_observer.figures(ended.pid)

    def test_an_observer_of_which_a_part_ended_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            seen = torture_observer.Observer(mock.Mock(**{"nodes.return_value": []}), Path(folder))
            with mock.patch.object(seen, "write_on"), mock.patch.object(seen, "measure_on", lambda: seen.end.wait(60)):
                seen.write_on.__name__ = "write_on"
                seen.start()
                seen.threads[0].join(60)
                self.assertEqual(seen.faults(), ["the observer's write_on ended"])
                seen.stop()


class Writes(unittest.TestCase):
    def test_small_disks_are_named_after_what_they_hold(self):
        names = {path.strip("/").replace("/", "-") for path in schedule.SMALL}
        self.assertEqual(len(names), len(schedule.SMALL))
        self.assertEqual(set(torture_events.SMALL_BYTES), set(schedule.SMALL))


if __name__ == "__main__":
    unittest.main()

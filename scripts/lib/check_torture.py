"""A torture's schedule follows from its seed; its cost from the table; and the observer finds violations of
the promises."""
import base64
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
        self.assertEqual(asked("--brief", "--seed", "7"), (7, ["master-1", "worker-1"], schedule.brief(torture.machines_of(2))))
        self.assertEqual(asked("--seed", "7"), (7, ["master-1", "worker-1"], []))
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


def asked(*words, old=()):
    return torture.asked(torture.parse(["--minutes", "2", *words]), dict(old))


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
        return self.flat_of(lambda n: {"rss": value(n), "fds": 20, "threads": 5, "tasks": 30}, pid, count)

    def flat_of(self, values, pid=lambda n: 1, count=120):
        flat = judge.Flat()
        for n in range(count):
            flat.add("master-1", "pf9-comms", pid(n), n * 15.0, values(n))
        return flat.faults()

    def test_what_grows_is_found_and_what_is_noisy_or_warms_up_is_not(self):
        mib = judge.MIB
        self.assertIn("rss rises by", self.flat(lambda n: 20 * mib + n * 60_000)[0])
        self.assertEqual(self.flat(lambda n: 20 * mib + (n % 7) * 200_000), [])
        self.assertEqual(self.flat(lambda n: min(n, 15) * mib), [], "it is warm after its first minutes")
        self.assertEqual(self.flat(lambda n: 20 * mib + n * 60_000, count=30), [], "too short to say")
        self.assertEqual(self.flat(lambda n: 20 * mib + n % 40 * 60_000, pid=lambda n: n // 40), [], "each process by itself")
        self.assertIn("at most", self.flat(lambda n: 500 * mib, count=1)[0])

    def test_tasks_and_files_that_are_left_are_found(self):
        for what, step in (("tasks", 0.2), ("files", 0.1), ("bytes", 8000)):
            self.assertIn(f"{what} rises by", self.flat_of(lambda n, step=step: {what: 30 + n * step})[0])
            self.assertEqual(self.flat_of(lambda n: {what: 30 + n % 3}), [])
            self.assertIn("at most", self.flat_of(lambda n: {what: judge.MOST[what] + 1}, count=1)[0])

    def test_what_can_not_be_read_is_not_flat(self):
        read = self.flat_of(lambda n: {"rss": 1, "tasks": None})
        self.assertEqual(read, ["pf9-comms of master-1: tasks could be read 0 times of 120"])
        self.assertEqual(self.flat_of(lambda n: {"rss": 1, "tasks": None if n % 3 == 0 else 5}), [], "now and then it is hung")

    def test_a_process_that_was_replaced_keeps_its_faults_and_its_time_counts(self):
        mib, flat = judge.MIB, judge.Flat()
        for n in range(121):
            flat.add("m", "pf9-comms", 1 if n < 120 else 2, n * 15.0, {"rss": 500 * mib if n == 110 else mib})
        self.assertIn("at most", flat.faults()[0])
        self.assertEqual(flat.longest, 119 * 15 - judge.WARM_UP_SECONDS)

    def test_bounds(self):
        all_of = {**judge.OWN_BOUND, **judge.KEPT}
        self.assertEqual(judge.bound_faults("m", all_of), [])
        found = judge.bound_faults("m", {what: most + 1 for what, most in all_of.items()})
        self.assertEqual(len(found), len(all_of))
        self.assertIn("m: 3 of var/lib/pf9/etcd/before-*, 2 are the bound", found)


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
        later.begin(None, None, None, True)
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

    def test_a_run_is_resumed_only_as_it_was_begun(self):
        journal = self.journal()
        journal.begin(7, torture.machines_of(2), ["kill", "hang"], False)
        old = journal.before()
        for words in ([], ["--seed", "7"], ["--nodes", "2", "--only", "hang,kill"]):
            journal.begin(*asked("--resume", *words, old=old), True)
            self.assertEqual(journal.run, old)
        for words, why in ((["--seed", "8"], "seed: 8 was asked for, and the run has 7"),
                           (["--nodes", "3"], "machines: master-1, worker-1, worker-2 was asked for"),
                           (["--only", "kill"], "kinds: kill was asked for, and the run has kill, hang"),
                           (["--brief"], "kinds:")):
            with self.assertRaisesRegex(Fail, why) as refused:
                journal.begin(*asked("--resume", *words, old=old), True)
            self.assertEqual(refused.exception.code, 64)
            self.assertIn("leave these out", str(refused.exception))
            self.assertEqual(journal.before(), old)

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


class Machine:
    """A machine's directory, and what its programs print."""
    role = "master"

    def __init__(self, root, name="master-1", said=""):
        self.root, self.name, self.said, self.asked = Path(root), name, said, []

    def run(self, cmd, **_how):
        self.asked.append(cmd[-1])
        return mock.Mock(stdout=self.said)

    def leader(self):
        return os.getpid()

    def put(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


class Writes(unittest.TestCase):
    def setUp(self):
        room = tempfile.TemporaryDirectory()
        self.addCleanup(room.cleanup)
        self.machines = [Machine(f"{room.name}/{name}", name) for name in ("master-1", "master-2")]
        self.seen = torture_observer.Observer(mock.Mock(**{"nodes.return_value": self.machines}), Path(room.name))
        patch = mock.patch.object(torture_observer, "AT_REST_SECONDS", 0)
        patch.start()
        self.addCleanup(patch.stop)

    def test_small_disks_are_named_after_what_they_hold(self):
        names = {path.strip("/").replace("/", "-") for path in schedule.SMALL}
        self.assertEqual(len(names), len(schedule.SMALL))
        self.assertEqual(set(torture_events.SMALL_BYTES), set(schedule.SMALL))

    def answers(self, numbers):
        """The API of each master has these."""
        def ask(method, _path, body=None, masters=None):
            if method == "GET":
                have = numbers[(masters or self.machines)[0].name]
                return 200, {"metadata": {}, "items": [{"metadata": {"name": f"n{n}"}, "data": {"number": str(n)}} for n in have]}
            return (200, None) if method == "DELETE" else (403, {"reason": "Forbidden"})
        self.seen.api.ask = ask

    def test_a_write_that_one_master_lacks_is_lost_and_a_removed_one_that_is_back_is_told(self):
        self.seen.acknowledged, self.seen.removed = {3, 4}, {1, 2}
        self.answers({"master-1": [3, 4, 5], "master-2": [3, 4]})
        self.assertEqual(self.seen.all_there(), 2)
        self.answers({"master-1": [3, 4], "master-2": [3]})
        with self.assertRaisesRegex(Fail, "1 acknowledged writes are lost at master-2"):
            self.seen.all_there()
        self.answers({"master-1": [2, 3, 4], "master-2": [3, 4]})
        with self.assertRaisesRegex(Fail, "1 acknowledged removals are undone at master-1"):
            self.seen.all_there()
        self.answers({"master-1": [3, 4], "master-2": [3, 4]})
        with mock.patch.object(torture_observer, "MANY", 1):
            self.seen.all_there()
        self.assertEqual((self.seen.removed, self.seen.acknowledged), ({1, 2, 3, 4}, set()))

    def test_a_writer_that_is_refused_for_ever_is_told(self):
        self.answers({})
        self.assertFalse(self.seen.write(1))
        with self.assertRaisesRegex(Fail, "403.*Forbidden"):
            self.seen.writes_go_on()

    def specs(self, **other):
        text = {key: [] if key == "service_account_keys" else {} for key in torture_observer.OF_ALL}
        text |= {"etcd": {"members": [1]}, "network": {"peers": [1]}, "host_id": "x"}
        for machine in self.machines:
            for name in torture_observer.SPECS:
                mine = {**text, "network": {"peers": [machine.name]}, **other.get(f"{machine.name}/{name}", {})}
                payload = base64.b64encode(json.dumps({"assignment": mine}).encode()).decode()
                machine.put(f"var/opt/pf9/{name}", json.dumps({"schema": 1, "document": {"payload": payload}}))

    def test_masters_agree_on_what_is_obeyed_too_and_none_is_left_out(self):
        self.specs()
        self.seen.specs_agree()
        for path, change in (("master-2/hostagent/spec.json", {"stack": "other"}), ("master-2/nodelet/spec.json", {"api": "other"}),
                             ("master-1/nodelet/spec.json", {"service_account_keys": ["k"]}),
                             ("master-2/nodelet/spec.json", {"refused_uids": ["u"]})):
            self.specs(**{path: change})
            with self.assertRaisesRegex(Fail, "masters have different specs|not within"):
                self.seen.specs_agree()
        self.specs()
        (self.machines[1].root / "var/opt/pf9/nodelet/spec.json").unlink()
        with self.assertRaises(OSError):
            self.seen.specs_agree()
        with self.assertRaises(KeyError):
            torture_observer.of_the_cluster({"payload": base64.b64encode(b'{"assignment": {"role": "none"}}')})

    def test_the_plane_says_that_each_is_well(self):
        well = {"state": "ok", "connected": True}
        nodes = self.seen.demo.plane.nodes
        nodes.return_value = [{"name": name, "pf9": well} for name in ("master-1", "master-2")]
        self.assertTrue(self.seen.known_to_plane())
        for other in ({**well, "connected": False}, {**well, "state": "converging"}, None):
            nodes.return_value = [{"name": "master-1", "pf9": well}, {"name": "master-2", "pf9": other}]
            with self.assertRaisesRegex(Fail, "master-2 is not well"):
                self.seen.known_to_plane()


class Figures(unittest.TestCase):
    def setUp(self):
        room = tempfile.TemporaryDirectory()
        self.addCleanup(room.cleanup)
        self.machine = Machine(room.name)
        self.seen = torture_observer.Observer(mock.Mock(**{"nodes.return_value": [self.machine]}), Path(room.name))

    def test_each_daemon_says_its_own_tasks(self):
        self.machine.said = "pf9-comms 31\npf9-nodeletd 12\n"
        self.assertEqual(torture_observer.tasks(self.machine, torture_observer.DAEMONS), {"pf9-comms": 31, "pf9-nodeletd": 12})
        for socket in re.findall(r"--unix-socket (\S+)", self.machine.asked[0]):
            self.assertIn(f'= "{socket}";', (REPO / "src/model/paths.rs").read_text())
        self.assertIn('"pf9_tasks"', (REPO / "src/telemetry/vitals.rs").read_text())

    def test_while_all_is_well_every_daemon_has_all_its_figures(self):
        def rests(found, said):
            self.machine.said = said
            with mock.patch.object(torture_observer, "pids", lambda _machine: found), \
                    mock.patch.object(torture_observer, "figures", lambda pid: {"rss": pid, "threads": 1, "fds": 3}):
                return self.seen.rests(self.machine)
        pids = {name: 7 for name in torture_observer.DAEMONS}
        said = "".join(f"{name} 30\n" for name in pids)
        self.assertTrue(rests(pids, said))
        self.assertEqual(set(self.seen.disks.series), {("master-1", "disk")})
        self.assertEqual(self.seen.flat.series["master-1", "pf9-comms"][2]["tasks"][0][1], 30)
        with self.assertRaisesRegex(Fail, "pf9-hostagent"):
            rests({name: 7 for name in pids if name != "pf9-hostagent"}, said)
        with self.assertRaisesRegex(Fail, "pf9-nodeletd"):
            rests(pids, said.replace("pf9-nodeletd", "pf9-other"))

    def test_a_disk_is_what_has_no_bound_of_its_own(self):
        before, bounded = torture_observer.on_disk(self.machine.root)
        self.assertEqual((before, set(bounded.values())), ({"bytes": 0, "files": 0}, {0}))
        self.machine.put("var/opt/pf9/nodelet/ledger.json", "x" * 10)
        self.machine.put("etc/pf9/a", "x" * 5)
        for apart in ("var/opt/pf9/.torture/much", "var/log/pf9/.torture/much", "var/opt/pf9/etcd-backups/a.db.age"):
            self.machine.put(apart, "x" * 1000)
        self.machine.put("var/opt/pf9/nodelet/journal.jsonl", "x" * 100)
        self.machine.put("var/log/pf9/comms/comms.log", "x" * 200)
        self.machine.put("opt/pf9/stacks/.incoming-x/bin", "x" * 300)
        self.machine.put("var/opt/pf9/hostagent/staging/a.part", "x" * 400)
        found, bounded = torture_observer.on_disk(self.machine.root)
        # Directories are entries: /etc/pf9, /var/opt/pf9, and nodelet, hostagent, staging below it.
        self.assertEqual(found, {"bytes": 15, "files": 2 + 1 + 5})
        self.assertEqual({what: have for what, have in bounded.items() if have},
                         {"var/opt/pf9/nodelet/journal.jsonl": 100, "var/log/pf9": 200, "opt/pf9/stacks/*": 1,
                          "var/opt/pf9/etcd-backups/*.age": 1})

    def test_what_was_beyond_its_bound_for_a_moment_is_told_once(self):
        self.machine.put("var/opt/pf9/nodelet/journal.jsonl", "x" * (judge.MIB + 1))
        with mock.patch.object(torture_observer, "pids", lambda _machine: {}):
            self.seen.measure(self.machine)
            self.machine.put("var/opt/pf9/nodelet/journal.jsonl", "")
            self.seen.measure(self.machine)
        self.assertIn("journal.jsonl", self.seen.faults()[0])
        self.assertEqual(self.seen.faults(), [])

    def test_a_container_that_the_runtime_does_not_describe_is_not_left_out(self):
        self.machine.said = "TASK PID STATUS\nabc 7 RUNNING\n"
        with mock.patch.object(torture_observer, "documents", lambda _text: []), self.assertRaisesRegex(Fail, "abc"):
            torture_observer.running(self.machine, {})


class Checks(unittest.TestCase):
    def run_with(self, broken=None, runs=({}, {})):
        """An event that ends well, where this check of the observer finds something."""
        one = torture.Torture(mock.Mock(**{"nodes.return_value": []}), mock.Mock(), MACHINES, ())
        one.observer = mock.Mock(**{"faults.return_value": [], "all_there.return_value": 5, "containers.side_effect": list(runs)})
        if broken:
            getattr(one.observer, broken).side_effect = Fail(f"{broken} found it")
        one.seen = {"worker-1": {"a": container("steady-x")}} if runs[0] else {}
        quiet = mock.MagicMock(**{"__enter__.return_value": torture_events.Seen()})
        with mock.patch.object(torture_events, "happens", lambda *_: quiet), mock.patch.object(torture, "hold"), \
                mock.patch.object(torture, "wait_for", lambda _what, ask, *_how: ask()):
            return one.run_one(happened("kill", "master-1", "pf9-comms"))

    def test_each_promise_is_checked_after_each_event(self):
        self.assertEqual(self.run_with()["writes_there"], 5)
        for check in ("known_to_plane", "writes_go_on", "all_there", "specs_agree", "at_rest"):
            with self.assertRaisesRegex(Fail, f"{check} found it"):
                self.run_with(check)

    def test_what_restarted_before_the_event_is_told_though_it_runs(self):
        steady = [{"worker-1": {name: container("steady-x")}} for name in ("a", "b")]
        self.run_with(runs=(steady[0], steady[0]))
        for runs in ((steady[1], steady[1]), (steady[0], steady[1])):
            with self.assertRaisesRegex(Fail, "nothing had a reason to touch"):
                self.run_with(runs=runs)


class Pauses(unittest.TestCase):
    def test_what_restarts_between_two_events_is_told(self):
        one = torture.Torture(mock.Mock(), mock.Mock(), MACHINES, ())
        before = {"master-1": {"a": container("steady-x"), "b": container("coredns-1", "kube-system")}}
        other = {"master-1": {"a": before["master-1"]["a"], "c": container("coredns-1", "kube-system")}}
        steady = {"master-1": {"d": container("steady-x"), "b": before["master-1"]["b"]}}
        one.nobody_started_again({}, before)
        one.nobody_started_again(before, before)
        for after in (other, steady):
            with self.assertRaisesRegex(Fail, "nothing had a reason to touch"):
                one.nobody_started_again(before, after)
        one.nobody_started_again(before, before, happened("power-loss", "master-1", "power"))
        one.nobody_started_again(before, other)
        with self.assertRaisesRegex(Fail, "steady-x"):
            one.nobody_started_again(before, steady)


if __name__ == "__main__":
    unittest.main()

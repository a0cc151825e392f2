"""scripts/torture: random accidents on real machines with the real stack, for hours, with the promises checked against them.

  --hours H | --minutes M | --events N     how long; N events: exactly the first N of the schedule
  --seed S        the schedule: the same seed, the same events (without one: a new seed each time, printed)
  --nodes N       machines: the first is the master, the others are workers (2); from 4 on three of them are masters
  --resume        continue the last run where it was, with its seed, machines and kinds; others given with it are refused
  --only KIND,…   draw these kinds of events only; `upgrade`, which makes the machines with the older of two stacks, and
                  `agent-upgrade`, which builds the agent once more under another version, are drawn only when named
  --brief         only kinds that take no minutes by their nature, and no event that would not end in the time given
  --schedule      print the events and do nothing
  --go-on         after a failure continue as soon as all is well again: the end says how many there were
  --shrink        a failure is repeated, on new machines, with fewer and fewer events: the fewest that show it
  --down          a run without a failure takes its machines down, and not its hours; otherwise they stay for the next
                  one, and for --resume

  demo up → a workload and small disks → event, its cause removed, all well again within its bound → the next
            meanwhile an observer writes, checks and measures (torture_observer.py)

After each event: every acknowledged write is there at every master, and no removed one; only containers that the event may
touch were replaced (torture_schedule.py says which), and none between two events; masters have the same specs; the node is
`ok` and Ready in time, and so the plane says; while the cause lasts the status reports it; memory, descriptors, threads,
tasks, logs and state of the agents stay within bounds and do not grow.
A failure prints the seed and the number of events that show it.

State is in the demo's ($PF9_DEMO_STATE, here /var/lib/pf9-torture), below torture/: run.json (seed, how many events are
done, seconds of every seed), events.jsonl, samples.jsonl. The end prints a row of each seed for docs/torture.md. Clock steps are left out: what a release takes its time from is
the machine's clock, and these machines share it; tests through the seam step it (docs/torture.md).
"""
import argparse
import json
import os
import random
import re
import signal
import sys
import time
from contextlib import contextmanager

import matrix
import packager
import stack
import tools
import torture_events
import torture_judge
import up
from common import REPO, Fail, Stopwatch, need_root, run, say, wait_for
from lifecycle import CLUSTER, Demo
from torture_journal import Journal
from torture_observer import Observer
from torture_schedule import STEADY, WELL_SECONDS, brief, events, may_touch

STATE = "/var/lib/pf9-torture"
BEGIN_SECONDS = 300
# Longest until a status shows the problem: a sweep, a report, a poll.
SAYS_SECONDS = 150
TICK = 1.0
NODES = 2
# How much later a process may still end that lost a lease, or whose probe failed while the API was down.
LATE_SECONDS = 90
# After a recorded failure: longer than any event gets.
AGAIN_SECONDS = 900


class Torture:
    def __init__(self, demo, journal, machines, names):
        self.demo, self.journal, self.names = demo, journal, tuple(names)
        self.machines = machines
        self.observer = None
        self.lately = []  # events of the last moments, and when each was over
        self.seen = {}  # what ran when the last event was over

    # -- machines

    def older(self):
        return matrix.stack(matrix.minors()[1])["kubernetes"] if "upgrade" in self.names else ""

    def newer(self):
        """The version of the newer stack, imported into the plane."""
        made = stack.build(matrix.minors()[0])
        listed = self.demo.plane.admin("stack", "list")
        version = re.search(r'"version": *"([^"]+)"', (made / "manifest.json").read_text())[1]
        if version not in listed:
            self.demo.plane.admin("stack", "import", str(made))
        return version

    def rolled(self):
        said = self.demo.plane.admin("cluster", "upgrade", CLUSTER, "status")
        if "stopped" in said:
            raise Stop("the upgrade stopped", said)
        if ": done;" not in said:
            raise Fail("the upgrade goes on", said)
        return True

    def agents(self):
        """The agent's version, and another one, both imported into the plane. The other is built once."""
        now, demo = packager.version(), self.demo
        *front, last = now.split(".")
        other = ".".join((*front, str(int(last) + 1)))
        folder = demo.dir / "other-version"
        if not list(folder.glob("*.deb")):
            built = tools.target_dir() / "other-version"
            run([REPO / "scripts/package", "--deb-only", folder], timeout=tools.BUILD_SECONDS,
                env={"PF9_AGENT_VERSION": other, "CARGO_TARGET_DIR": str(built)})
        listed = demo.plane.admin("agent", "list").split()
        for version, place in ((now, demo.dir / "package"), (other, folder)):
            if version not in listed:
                demo.plane.admin("agent", "import", next(place.glob("*.deb")))
        return now, other

    def agents_are(self, version):
        said = self.demo.plane.admin("agent", "upgrade", "status", "--json")
        upgrade = json.loads(said)["upgrade"]
        if upgrade["state"] == "stopped":
            raise Stop("the agents' upgrade stopped", said)
        if upgrade["state"] != "done" or any(host["runs"] != version for host in upgrade["hosts"]):
            raise Fail("the agents' upgrade goes on", said)
        return True

    def stands(self):
        """The machines of a run that is resumed: as they are, without a new build."""
        running = {machine.name for machine in self.demo.nodes() if machine.running()}
        return self.demo.done_mark.exists() and running == set(self.machines)

    def make(self, resume):
        """The demo of these machines, each with small disks, and a workload."""
        masters = len([name for name in self.machines if name.startswith("master")])
        wanted = up.Wanted(masters=masters, workers=len(self.machines) - masters, kubernetes=self.older(),
                           timeout=up.READY_SECONDS * 2, api_address=up.API_ADDRESS if masters > 1 else None)
        for machine in self.demo.nodes():
            # Booted without them, a machine would find its state from before it had them.
            if torture_events.has_small_disks(machine) and not machine.running():
                torture_events.small_disks(machine)
        if resume and self.stands():
            self.demo.plane.start()
        else:
            up.up(self.demo, wanted)
        # Pods without a controller: a drain would end them.
        gone = ("delete", "pod", *(f"hello-{name}" for name in self.machines), "--ignore-not-found", "--now")
        wait_for("the cluster to be reached through the plane", lambda: self.demo.kubectl(*gone), BEGIN_SECONDS, 2)
        for machine in self.demo.nodes():
            torture_events.nothing_in_the_way(machine)
            torture_events.allow_operations(machine)
            if not torture_events.has_small_disks(machine):
                machine.kill()
                torture_events.small_disks(machine)
                machine.boot()
        self.observer = Observer(self.demo, self.journal.dir)
        wait_for("every machine to be well before it begins", self.tools_answer, BEGIN_SECONDS, 2)
        self.observer.prepare()
        self.all_well("before it begins", BEGIN_SECONDS)

    def tools_answer(self):
        return len(self.observer.containers()) == len(self.machines)

    # -- one event

    def all_well(self, when, seconds, more=None):
        """Every machine, and what else the event needs, in one poll: the last error is the failure's."""
        def well():
            for machine in self.demo.nodes():
                self.observer.settled(machine)
            self.observer.known_to_plane()
            return more() if more else True
        wait_for(f"all is well {when}", well, seconds, TICK)

    def run_one(self, event):
        watch = Stopwatch()
        before = self.observer.containers()
        self.nobody_started_again(self.seen, before)
        with torture_events.happens(self, event) as seen:
            also_killed(self.demo, event)
            self.said(event, seen.says)
            hold(event.lasts)
        took = watch.seconds()
        self.all_well(f"after {event.kind}", event.within, seen.healed)
        well_after = watch.seconds() - took
        self.seen = self.observer.containers()
        self.nobody_started_again(before, self.seen, event)
        self.observer.writes_go_on()
        written = self.observer.all_there()
        self.observer.specs_agree()
        self.observer.at_rest()
        faults = self.observer.faults()
        if faults:
            raise Fail("an agent is not within its bounds", "\n".join(faults))
        return {"took": round(took, 1), "well_after": round(well_after, 1), "writes_there": written}

    def said(self, event, words):
        """While the cause lasts `pf9ctl status` reports it."""
        if not words:
            return
        machine, last = self.demo.node(event.machine), ""

        def told():
            nonlocal last
            done = machine.run(["pf9ctl", "status", "--json"], check=False, timeout=40)
            last = done.stdout + done.stderr
            return re.search(words, last)
        try:
            wait_for(f"pf9ctl status of {machine.name} to say why", told, SAYS_SECONDS, TICK)
        except Fail as fail:
            raise Fail(fail.what, f"no word of {words}; it says {shown(last)}") from fail

    def nobody_started_again(self, before, after, event=None):
        """Without an event: in the pause before it, which begins when the last one is over, however long it lasts."""
        if event:
            self.lately = [(other, over) for other, over in self.lately if time.monotonic() < over + LATE_SECONDS]
        reasons = [event] if event else []
        late = [other for other, _ in self.lately]
        self.lately += [(each, time.monotonic()) for each in reasons]
        wrong = []
        for name, containers in before.items():
            for gone, now in torture_judge.started_again(containers, after.get(name, {})):
                group = torture_judge.group(gone)
                may = any(may_touch(each, name, group) for each in reasons + (late if group != STEADY else []))
                if not may and not moved(gone, now):
                    place = "another one" if now else "nothing"
                    wrong.append(f"{name}: {gone['namespace']}/{gone['pod']} {gone['name']}: {place}")
        if wrong:
            raise Fail("containers were started again that nothing had a reason to touch", "\n".join(wrong))

    # -- the run

    def run(self, seconds, count, go_on=False, in_time=False):
        """The failures, all of them; without `go_on` the first ends it. With `in_time` no event that would not end in time."""
        failures = []
        self.journal.counts_from_here()
        self.observer.start()
        begun, ran = time.monotonic(), False
        try:
            for event in events(self.journal.run["seed"], self.machines, self.names, self.journal.done):
                if time.monotonic() - begun >= seconds or event.number >= count:
                    return failures
                if in_time and time.monotonic() - begun + event.needs > seconds:
                    if ran:
                        return failures
                    continue
                ran = True
                hold(event.pause)
                say(f"{clock(begun)} {event.line()}")
                try:
                    result = self.run_one(event)
                # A file or a row that is not there is an answer, too; without it hours would end with a traceback.
                except (Fail, Stop, OSError, LookupError) as fail:
                    self.seen = {}
                    self.journal.failed(event, fail)
                    self.told(event, fail)
                    failures.append(event)
                    if not go_on:
                        return failures
                    self.all_well("again after a failure", AGAIN_SECONDS)
                    self.journal.run["done"] = event.number + 1
                    continue
                self.journal.ended_well(event, **result)
                say(f"{clock(begun)}   well after {result['well_after']} s; {result['writes_there']} writes are there")
        finally:
            self.observer.stop()
            self.journal.tick()

    def told(self, event, fail):
        for machine in self.demo.nodes():
            up.save_logs(self.demo, machine.name)
        count = event.number + 1
        say(f"\ntorture: {fail}\n\nseed {self.journal.run['seed']}, event {event.line()}\nthe first {count} events show it; "
            f"from the beginning:\n  {again(self.journal, count)}\nlogs: {self.demo.logs}\n")


class Stop(Exception):
    """Failures that waiting does not change."""

    def __init__(self, what, why):
        super().__init__(f"{what}: {why}")


def shown(text):
    """The part of a status that a person reads first."""
    try:
        status = json.loads(text)
    except ValueError:
        return text[-2000:]
    node = status.get("node") or {}
    return json.dumps({"state": status.get("state"), "reason": status.get("reason"), "node": node.get("state"),
                       "warnings": status.get("warnings")})


def moved(gone, now):
    """A completed Job, a pod removed by its controller: a regular end, and no restart. The workload has none of these."""
    return now is None and torture_judge.group(gone) == torture_judge.ADDONS


def also_killed(demo, event):
    if not event.also:
        return
    machine, unit, after = event.also
    hold(after)
    try:
        torture_events.kill(demo.node(machine), unit)
    except Fail:
        pass  # the machine is off just then


def hold(seconds):
    """The schedule's own time: how long an accident lasts, and the gap between two of them. No condition is awaited."""
    time.sleep(seconds)


def clock(begun):
    return f"[{(time.monotonic() - begun) / 60:6.1f} min]"


def machines_of(number):
    if number is None:
        return None
    if number < 2:
        raise Fail("--nodes is 2 at least: a master and a worker", code=64)
    masters = 3 if number >= 4 else 1
    return [f"master-{i + 1}" for i in range(masters)] + [f"worker-{i + 1}" for i in range(number - masters)]


def parse(argv):
    parser = argparse.ArgumentParser(prog="scripts/torture", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    long = parser.add_mutually_exclusive_group()
    long.add_argument("--hours", type=float)
    long.add_argument("--minutes", type=float)
    parser.add_argument("--events", type=int, default=None)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--nodes", type=int, default=None)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--only", default="", metavar="KIND,…")
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--schedule", action="store_true")
    last = parser.add_mutually_exclusive_group()
    last.add_argument("--go-on", action="store_true")
    last.add_argument("--shrink", action="store_true")
    parser.add_argument("--down", action="store_true")
    args = parser.parse_args(argv)
    args.names = [word for word in args.only.split(",") if word]
    args.seconds = (args.hours or 0) * 3600 + (args.minutes or 0) * 60
    if not args.seconds and args.events is None:
        parser.error("say for how long: --hours, --minutes or --events")
    args.seconds = args.seconds or float("inf")
    args.count = args.events if args.events is not None else sys.maxsize
    if args.brief and args.names:
        parser.error("--brief chooses the kinds itself")
    if args.brief and args.seconds < 2 * WELL_SECONDS:
        parser.error(f"--brief needs {2 * WELL_SECONDS} seconds: nothing would be begun")
    return args


def asked(args, old):
    """Seed, machines and kinds of the run. `old`: the one to continue, of which what is not said is left to it (None)."""
    machines = machines_of(args.nodes)
    kinds = args.names or (brief(machines or old.get("machines") or machines_of(NODES)) if args.brief else None)
    if old:
        return args.seed, machines, kinds
    return random.randrange(2**32) if args.seed is None else args.seed, machines or machines_of(NODES), kinds or []


def summary(journal, failures, observer):
    lines = journal.events()
    kinds = {}
    for line in lines:
        kinds.setdefault(line["kind"], []).append(line)
    say(f"\n{'kind':<20} {'events':>6} {'failed':>6} {'well after, at most':>20}")
    for kind, some in sorted(kinds.items()):
        longest = max((line.get("well_after", 0) for line in some), default=0)
        say(f"{kind:<20} {len(some):>6} {sum(line['result'] != 'ok' for line in some):>6} {longest:>18.1f} s")
    say(f"{journal.hours():.2f} hours in all, {len(lines)} events; this run: seed {journal.run['seed']}, "
        f"{journal.done} events done, {len(failures)} of this call failed")
    masters = len(observer.api.masters)
    say(f"growth: the longest series of one process has {max(0, observer.flat.longest) / 60:.0f} minutes after its warm-up, "
        f"{torture_judge.WINDOW_SECONDS // 60} are needed; specs of {masters} master{'s' if masters > 1 else ', with no other'} compared")
    say("\n".join(["for docs/torture.md:", *journal.rows()]))


def again(journal, count):
    run = journal.run
    only = f" --only {','.join(run['kinds'])}" if run["kinds"] else ""
    return (f"PF9_DEMO_STATE={os.environ['PF9_DEMO_STATE']} scripts/torture --seed {run['seed']} "
            f"--nodes {len(run['machines'])}{only} --events {count}")


def one_run(args, demo, journal):
    """The events that failed."""
    torture = Torture(demo, journal, journal.run["machines"], journal.run["kinds"])
    torture.make(args.resume)
    failures = torture.run(args.seconds, args.count, args.go_on, args.brief)
    summary(journal, failures, torture.observer)
    return failures


def fewest(args, demo, journal, failures):
    """Fewer and fewer of the first events, each on new machines, while they still show it."""
    shows, hides = failures[0].number + 1, 0
    seed, machines, names = (journal.run[key] for key in ("seed", "machines", "kinds"))
    while shows - hides > 1:
        args.count, args.resume = (shows + hides) // 2, False
        with kept(journal):
            demo.down()
        journal.begin(seed, machines, names, False)
        if one_run(args, demo, journal):
            shows = args.count
        else:
            hides = args.count
    say(f"\nthe fewest events that show it: {shows}\n  {again(journal, shows)}")


@contextmanager
def kept(journal):
    """The hours and lines of this state, kept across the removal of the machines beside them."""
    texts = {path: path.read_text() for path in (journal.lines, journal.state) if path.exists()}
    yield
    journal.dir.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text)


def main(argv):
    args = parse(argv)
    os.environ.setdefault("PF9_DEMO_STATE", STATE)
    demo = Demo()
    journal = Journal(demo.dir / "torture")
    if args.schedule:
        for event in events(*asked(args, {})):
            if event.number >= min(args.count, 1000):
                return 0
            say(event.line())
    need_root("scripts/torture")
    journal.begin(*asked(args, journal.before() if args.resume else {}), args.resume)
    say(f"seed {journal.run['seed']}, {', '.join(journal.run['machines'])}; {journal.done} events are done")
    failures = one_run(args, demo, journal)
    if failures and args.shrink:
        fewest(args, demo, journal, failures)
    if args.down and not failures:
        with kept(journal):
            demo.down()
    return 1 if failures else 0


def terminate(_number, _frame):
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, terminate)
    try:
        sys.exit(main(sys.argv[1:]) or 0)
    except (Fail, Stop) as fail:
        print(f"torture: {fail}", file=sys.stderr)
        sys.exit(getattr(fail, "code", 1))
    except ValueError as error:
        print(f"torture: {error}", file=sys.stderr)
        sys.exit(64)
    except KeyboardInterrupt:
        print("torture: interrupted; --resume goes on with it", file=sys.stderr)
        sys.exit(130)

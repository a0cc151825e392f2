"""The observer: writes all the time, checks what runs, and measures; it does not know what happens to the machines.

  Api(machines)         Kubernetes' API, called on a master itself with the administrator's certificate: without plane and tunnel
  Observer(demo, dir)   start, stop; settled(machine), known_to_plane(), containers(), writes_go_on(), all_there(),
                        specs_agree(), at_rest(), faults()

Two threads: one writes numbered objects, one after the other, and records on disk those that were acknowledged; one
measures the agents. Both continue through every event. A write accepted twice, because its first answer was lost, counts.
An observer that looks at nothing finds nothing: once all is well again a write must be acknowledged, and each figure be read.
"""
import base64
import http.client
import json
import os
import re
import ssl
import stat
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import stack
from common import Fail, wait_for
from torture_events import FILLER
from torture_judge import KEPT, MOST, NAMESPACE, OWN_BOUND, Flat, bound_faults, differing, lost, still_wanted

CERTS, KUBECONFIG = "etc/pf9/kube.d/certs/admin", "etc/pf9/kube.d/kubeconfigs/admin.yaml"
# The stack has no crictl; its pods' identity is in containerd's own labels.
CTR = "/opt/pf9/stacks/current/bin/ctr -a /run/pf9-containerd/containerd.sock -n k8s.io"
ASK_SECONDS = 5
# Once all is well: until the API takes a write, shows all of them, and every figure is read.
AT_REST_SECONDS = 60
WRITE_EVERY, MEASURE_EVERY = 0.5, 15
PAGE = 500
# Verified objects are removed beyond this number: the database is not what is tested.
MANY = 2000
DAEMONS = ("pf9-comms", "pf9-hostagent", "pf9-nodeletd")
SOCKETS = {name: f"/run/pf9/{name.removeprefix('pf9-').removesuffix('d')}.sock" for name in DAEMONS}
STATE = "var/opt/pf9"
# Where the agents write, in a machine. Beside it: /run/pf9, which is in memory, and programs (torture_judge.KEPT).
WRITTEN = (STATE, "etc/pf9")
# Of these the bytes are not counted, but the files: packages and stacks in transit, which are large for a moment.
IN_TRANSIT = tuple(f"{STATE}/{name}" for name in ("nodelet/etcd-scratch", "hostagent/staging", "hostagent/agent"))
# Neither is counted.
OTHERS = (f"{STATE}/etcd-backups", f"{STATE}/{FILLER}", f"var/log/pf9/{FILLER}")
# The spec that hostagent accepted, and the one that nodelet obeys.
SPECS = ("hostagent/spec.json", "nodelet/spec.json")

WORKLOAD = """apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: steady, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: steady}}}}
  template:
    metadata: {{labels: {{app: steady}}}}
    spec:
      tolerations: [{{operator: Exists}}]
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: {image}
        imagePullPolicy: Never
        command: ["/bin/sh", "-c", "exec sleep 1000000"]
"""


class Api:
    def __init__(self, machines):
        self.masters = [machine for machine in machines if machine.role == "master"]

    def context(self, master):
        folder = master.root / CERTS
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        context.load_cert_chain(folder / "request.crt", folder / "request.key")
        return context

    def port(self, master):
        return int(re.search(r'server: *"?https://[^"\s]+:(\d+)', (master.root / KUBECONFIG).read_text())[1])

    def ask(self, method, path, body=None, masters=None):
        """The first master that answers, of all or of these; (status, value)."""
        why = "there is no master"
        for master in masters or self.masters:
            connection = None
            try:
                connection = http.client.HTTPSConnection(master.address, self.port(master), timeout=ASK_SECONDS,
                                                         context=self.context(master))
                connection.request(method, path, None if body is None else json.dumps(body),
                                   {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
                if answer.status < 500:
                    return answer.status, json.loads(text or b"null")
                why = f"{answer.status}: {text[:300]!r}"
            except (OSError, ValueError, TypeError, http.client.HTTPException) as error:
                why = f"{type(error).__name__}: {error}"
            finally:
                if connection:
                    connection.close()
        raise Fail(f"no API server answers {method} {path}", why)

    def get(self, path, masters=None):
        status, value = self.ask("GET", path, masters=masters)
        if status != 200:
            raise Fail(f"GET {path}: {status}", json.dumps(value)[:300])
        return value


class Observer:
    def __init__(self, demo, folder):
        self.demo, self.folder = demo, folder
        self.machines = demo.nodes()
        self.api = Api(self.machines)
        self.flat, self.disks = Flat(), Flat()
        self.acknowledged, self.removed = set(), set()
        self.number, self.refused = 0, "no write was tried"
        self.mutex, self.quiet, self.end = threading.Lock(), threading.Lock(), threading.Event()
        self.beyond = {}  # (machine, bound) → message, until it is told
        self.threads = []
        # Acknowledged numbers, one per line; and up to which of them were removed again.
        self.noted, self.forgotten = folder / "acknowledged", folder / "forgotten"

    # -- life

    def prepare(self):
        image = f"pf9.local/busybox:{stack.TAGS['busybox']}"
        text = WORKLOAD.format(namespace=NAMESPACE, image=image)
        wait_for("the workload to be taken", lambda: self.demo.kubectl("apply", "-f", "-", stdin=text), 60, 1)

        def runs():
            there = self.containers()
            bare = [name for name, all_of in there.items() if not any(c["namespace"] == NAMESPACE for c in all_of.values())]
            if bare:
                raise Fail("the workload does not run on " + ", ".join(bare))
            return True
        wait_for("the workload to run", runs, 120, 1)
        # Writes of an earlier run count as well, and its numbers are not reused.
        self.acknowledged = still_wanted(*(path.read_text() if path.exists() else "" for path in (self.noted, self.forgotten)))
        self.number = max([*self.acknowledged, *self.there(), 0]) + 1

    def start(self):
        for work in (self.write_on, self.measure_on):
            thread = threading.Thread(target=work, name=work.__name__, daemon=True)
            thread.start()
            self.threads.append(thread)

    def stop(self):
        self.end.set()
        for thread in self.threads:
            thread.join(60)

    # -- writes

    def write_on(self):
        with open(self.noted, "a", encoding="ascii") as noted:
            while not self.end.wait(WRITE_EVERY):
                with self.quiet:
                    if self.write(self.number):
                        noted.write(f"{self.number}\n")
                        noted.flush()
                        self.number += 1

    def write(self, number):
        """True if the API acknowledged it."""
        body = {"metadata": {"name": f"n{number}"}, "data": {"number": str(number)}}
        try:
            status, value = self.api.ask("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", body)
        except Fail as fail:
            status, value = 0, str(fail)
        # 409: an earlier attempt with this number, whose answer was lost.
        taken = status in (201, 409)
        with self.mutex:
            if taken:
                self.acknowledged.add(number)
            else:
                self.refused = f"{status}: {str(value)[:300]}"
        return taken

    def writes_go_on(self):
        """A writer that the API refuses would lose nothing, for ever."""
        before = self.number

        def one_more():
            if self.number == before:
                raise Fail("none was acknowledged", self.refused)
            return True
        wait_for("the API to take a write", one_more, AT_REST_SECONDS, 0.1)

    @contextmanager
    def nobody_writes(self):
        """For a restore: writes between a backup and it are lost by design."""
        with self.quiet:
            yield

    def there(self, masters=None):
        numbers, go_on = set(), ""
        while True:
            page = self.api.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps?limit={PAGE}{go_on}", masters)
            numbers |= {int(item["metadata"]["name"][1:]) for item in page["items"] if "number" in (item.get("data") or {})
                        and item["data"]["number"] == item["metadata"]["name"][1:]}
            token = page["metadata"].get("continue")
            if not token:
                return numbers
            go_on = f"&continue={token}"

    def all_there(self):
        """Fails if an acknowledged one is missing, or one whose removal was acknowledged is back, at any master: each has data
        of its own. Returns how many there are."""
        with self.mutex:
            wanted = set(self.acknowledged)
        for master in self.api.masters:
            (there,) = wait_for(f"the API of {master.name} to answer", lambda one=master: [self.there([one])], AT_REST_SECONDS, 1)
            for what, wrong in (("acknowledged writes are lost", lost(wanted, there)),
                                ("acknowledged removals are undone", sorted(self.removed & there))):
                if wrong:
                    raise Fail(f"{len(wrong)} {what} at {master.name}", "numbers " + ", ".join(map(str, wrong[:20])))
        if len(wanted) > MANY:
            self.forget(sorted(wanted)[:len(wanted) - MANY // 2])
        return len(wanted)

    def forget(self, numbers):
        """The oldest: from here on nobody asks for them."""
        new = self.forgotten.with_suffix(".new")
        new.write_text(str(max(numbers)))
        os.replace(new, self.forgotten)
        with self.mutex:
            self.acknowledged -= set(numbers)
        for number in numbers:
            status, _ = self.api.ask("DELETE", f"/api/v1/namespaces/{NAMESPACE}/configmaps/n{number}")
            if status == 200:
                self.removed.add(number)

    # -- what runs

    def containers(self):
        return {machine.name: wait_for(f"{machine.name}: its containers", lambda one=machine: [running(one)], AT_REST_SECONDS, 1)[0]
                for machine in self.machines if machine.running()}

    def settled(self, machine):
        """Fails, with the message, unless the machine's agent reports ok and Kubernetes reports its node Ready."""
        status = says(machine)
        report = status.get("node") or {}
        if (status.get("state"), report.get("state")) != ("ok", "ok"):
            reason = status.get("reason") or report.get("reason") or {}
            raise Fail(f"{machine.name} is {status.get('state')}, its node {report.get('state')}",
                       f"{reason.get('what')}: {reason.get('why')}; {report.get('current_step') or ''}")
        if status.get("generation") != report.get("generation"):
            raise Fail(f"{machine.name} works on spec {report.get('generation')}", f"{status.get('generation')} is accepted")
        # Asked of systemd now: what was just killed may be down although no status says so yet.
        bad = [each["name"] for each in status.get("agent", []) + status.get("services", []) if not each["good"]]
        if bad:
            raise Fail(f"{machine.name}: {', '.join(bad)} not running")
        node = self.api.get(f"/api/v1/nodes/{machine.name}")
        boot = machine.out(["cat", "/proc/sys/kernel/random/boot_id"], timeout=20)
        ready = {c["type"]: c["status"] for c in node["status"].get("conditions", [])}.get("Ready")
        if ready != "True" or node["status"]["nodeInfo"]["bootID"] != boot:
            raise Fail(f"{machine.name} is not Ready ({ready})")
        if node["spec"].get("unschedulable"):
            raise Fail(f"{machine.name} is left cordoned")
        steady = [c for c in running(machine).values() if c["namespace"] == NAMESPACE]
        if len(steady) != 1:
            raise Fail(f"{machine.name}: {len(steady)} containers of the workload run", json.dumps(steady))
        return True

    def known_to_plane(self):
        """Fails unless the plane says of every machine that it is connected, and ok with the newest spec made for it."""
        said = {item["name"]: item["pf9"] for item in self.demo.plane.nodes() if item.get("pf9")}
        for machine in self.machines:
            its = said.get(machine.name, {})
            if (its.get("state"), its.get("connected")) != ("ok", True):
                raise Fail(f"the plane says that {machine.name} is not well", json.dumps(its)[:500])
        return True

    def specs_agree(self):
        """What the masters' specs say about the cluster as a whole: those accepted, and those obeyed. None may be missing. New
        ones reach them one after the other."""
        def agree():
            specs = {f"{machine.name}: {name}": of_the_cluster(json.loads((machine.root / STATE / name).read_text()))
                     for machine in self.api.masters for name in SPECS}
            others = differing(specs)
            if others:
                raise Fail("masters have different specs", ", ".join(others))
            return True
        wait_for("all masters to have the same spec", agree, AT_REST_SECONDS, 1)

    # -- figures

    def measure_on(self):
        with open(self.folder / "samples.jsonl", "a", encoding="utf-8") as sink:
            while not self.end.wait(MEASURE_EVERY):
                for machine in self.machines:
                    try:
                        sample = self.measure(machine)
                    except (Fail, OSError):
                        continue  # off, or just about to be
                    sink.write(json.dumps({"at": round(time.time(), 1), "machine": machine.name, **sample}) + "\n")
                    sink.flush()

    def measure(self, machine):
        at, seen, found = time.time(), {}, pids(machine)
        counts = tasks(machine, found)
        for name, pid in found.items():
            seen[name] = {"pid": pid, **figures(pid), "tasks": counts.get(name)}
            values = {key: value for key, value in seen[name].items() if key != "pid"}
            with self.mutex:
                self.flat.add(machine.name, name, pid, at, values)
        disk, bounded = on_disk(machine.root, Path(f"/proc/{machine.leader()}/root/run/pf9"))
        with self.mutex:
            for fault in bound_faults(machine.name, bounded):
                self.beyond[machine.name, fault] = fault
            if disk["bytes"] > MOST["bytes"]:
                self.beyond[machine.name, "bytes"] = f"{machine.name}: {disk['bytes']} bytes of state, {MOST['bytes']} are the bound"
        return {"daemons": seen, "disk": disk, "bounded": bounded}

    def at_rest(self):
        """While all is well each figure can be read; a disk is compared only as it is then, without what comes and goes."""
        for machine in self.machines:
            wait_for(f"{machine.name}: all figures of all daemons", lambda one=machine: self.rests(one), AT_REST_SECONDS, 1)

    def rests(self, machine):
        try:
            seen = self.measure(machine)
        except OSError as error:
            raise Fail(f"{machine.name} cannot be measured", str(error)) from error
        unread = [name for name in DAEMONS if None in seen["daemons"].get(name, {"": None}).values()]
        if unread:
            raise Fail(f"nothing, or no tasks, of {', '.join(unread)}")
        with self.mutex:
            self.disks.add(machine.name, "disk", 0, time.time(), seen["disk"])
        return True

    def faults(self):
        """Each once. Also of the observer itself: who no longer writes or measures finds nothing."""
        ended = [thread.name for thread in self.threads if not thread.is_alive()]
        with self.mutex:
            found = self.flat.faults() + self.disks.faults() + list(self.beyond.values())
            self.beyond.clear()
            if found:
                self.flat, self.disks = Flat(longest=self.flat.longest), Flat()
            return found + [f"the observer's {name} ended" for name in ended]


# -- queries to a machine

def says(machine):
    """`pf9ctl status`, whatever its exit code."""
    done = machine.run(["pf9ctl", "status", "--json"], check=False, timeout=40)
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise Fail(f"{machine.name}: pf9ctl status says nothing", done.stderr + done.stdout) from error


def running(machine, known={}):
    """Container id → container, as the runtime knows it. `known`: labels, which no container changes."""
    listed = machine.run(["sh", "-c", f"{CTR} tasks ls"], timeout=30).stdout.splitlines()[1:]
    ids = [words[0] for words in map(str.split, listed) if words[2] == "RUNNING"]
    new = [each for each in ids if each not in known]
    if new:
        text = machine.run(["sh", "-c", f"for i in {' '.join(new)}; do {CTR} containers info $i || :; done"], timeout=60).stdout
        known.update({item["ID"]: item["Labels"] for item in documents(text)})
    unknown = [each for each in ids if each not in known]
    if unknown:  # what is not compared is not missed either
        raise Fail(f"{machine.name}: the runtime does not describe what it runs", ", ".join(unknown))
    return {each: {"namespace": labels["io.kubernetes.pod.namespace"], "pod": labels["io.kubernetes.pod.name"],
                   "name": labels["io.kubernetes.container.name"]}
            for each, labels in ((each, known[each]) for each in ids) if labels.get("io.cri-containerd.kind") == "container"}


def documents(text):
    """JSON values, one after the other."""
    decoder, at = json.JSONDecoder(), 0
    while (at := at + len(text[at:]) - len(text[at:].lstrip())) < len(text):
        value, at = decoder.raw_decode(text, at)
        yield value


# The part of a spec about the whole cluster, and not about one host; what is left out where it is empty.
OF_ALL = ("cluster_id", "cluster_name", "stack", "authorities", "api", "network", "etcd", "service_account_keys", "runtime",
          "kubelet", "kube_proxy", "allow_workloads_on_master", "feature_gates")
OF_ALL_OR_NONE = ("refused_uids", "addons_off")


def of_the_cluster(envelope):
    """A key that is not there is an error: nothing would be compared with nothing."""
    while "payload" not in envelope:
        envelope = next(value for value in envelope.values() if isinstance(value, dict))
    assignment = json.loads(base64.b64decode(envelope["payload"]))["assignment"]
    whole = {key: assignment[key] for key in OF_ALL} | {key: assignment.get(key, []) for key in OF_ALL_OR_NONE}
    whole["network"] = {key: value for key, value in whole["network"].items() if key != "peers"}
    whole["etcd"] = whole["etcd"]["members"]
    whole["service_account_keys"] = sorted(whole["service_account_keys"])
    return whole


def pids(machine):
    """The daemons' processes, as this host numbers them."""
    shown = machine.run(["systemctl", "show", "-P", "MainPID", *(f"{name}.service" for name in DAEMONS)], timeout=20).stdout
    inner = dict(zip(DAEMONS, (int(word) for word in shown.split())))
    leader = machine.leader()
    if not leader:
        raise Fail(f"{machine.name} is not running")
    space, found = os.readlink(f"/proc/{leader}/ns/pid"), {}
    names = {name[:15]: name for name, pid in inner.items() if pid}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name = names.get((entry / "comm").read_text().strip())
            if not name or os.readlink(entry / "ns/pid") != space:
                continue
            status = (entry / "status").read_text().splitlines()
        except OSError:
            continue
        own = next(line for line in status if line.startswith("NSpid:")).split()[-1]
        if int(own) == inner[name]:
            found[name] = int(entry.name)
    return found


def figures(pid):
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    if "RssAnon" not in status:
        raise Fail(f"process {pid} has ended", "it has no memory")
    return {"rss": int(status["RssAnon"].split()[0]) * 1024, "threads": int(status["Threads"]),
            "fds": len(os.listdir(f"/proc/{pid}/fd"))}


def tasks(machine, names):
    """The number of tasks of each of these daemons, as it says itself; one that does not answer is left out."""
    ask = "curl --silent --fail --max-time {} --unix-socket {} http://local/metrics | sed -n 's/^pf9_tasks /{} /p'"
    script = "\n".join(ask.format(ASK_SECONDS, SOCKETS[name], name) for name in names)
    said = machine.run(["sh", "-c", script], check=False, timeout=ASK_SECONDS * (len(DAEMONS) + 1)).stdout
    return {name: int(number) for name, number in map(str.split, said.splitlines())}


def on_disk(root, *more):
    """Bytes and files of what has no bound of its own, and each thing that has one."""
    own = {root / path for path in (*OWN_BOUND, *OTHERS)}
    places = [root / path for path in WRITTEN] + list(more)
    found = {"bytes": sum(tree(place, own | {root / path for path in IN_TRANSIT})[0] for place in places),
             "files": sum(tree(place, own)[1] for place in places)}
    bounded = {path: tree(root / path, own)[0] for path in OWN_BOUND}
    return found, bounded | {pattern: len(list(root.glob(pattern))) for pattern in KEPT}


def tree(root, without=()):
    """Bytes, and entries, of a directory or a file."""
    size, count, left = 0, 0, [root]
    while left:
        path = left.pop()
        try:
            what = path.lstat()
            if stat.S_ISDIR(what.st_mode):
                left += [each for each in path.iterdir() if each not in without]
            else:
                size += what.st_size
            count += 1
        except OSError:
            pass  # gone meanwhile
    return size, count

"""scripts/demo up: from a checkout to Ready nodes.

  builds → stack → plane → machines → .deb and prep-node on each → cluster and roles → Ready → proof → timings

Every stage first checks whether it is already done, so a second `up` changes nothing that is right.
Ctrl-C before the first success takes everything down again; an error leaves it for inspection.
"""
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import beside
import files
import matrix
import packager
import roots
import stack
import tools
from common import Fail, Stopwatch, need_packages, run, say, tail, wait_for
from lifecycle import CLUSTER
from node import Node
from plane import digest
from progress import Board

READY_SECONDS = 300
PROOF_SECONDS = 90
API_ADDRESS = "10.99.0.250"  # of the demo's own network, and no machine's
DETACH_SECONDS = 180
LINE_MAX = 120
PACKAGE = "pf9-hostagent"
PACKAGES = {"systemd-nspawn": "systemd-container", "ip": "iproute2", "iptables": "iptables", "nsenter": "util-linux",
            "modprobe": "kmod", "zstd": "zstd"}
PODS_CIDR, SERVICES_CIDR = "10.244.0.0/16", "10.96.0.0/16"
# Runtime settings of the cluster at creation.
RUNTIME = {"dropIns": "/etc/containerd/conf.d"}


@dataclass
class Wanted:
    """What `up` should create. `scripts/demo up` has a flag for each; other callers name what differs."""
    masters: int | None = None  # those that there are, or one
    workers: int | None = None
    kubernetes: str = ""  # the newest of the matrix
    api_address: str | None = None
    debian: str = roots.SUITE
    rhel_like: bool = False
    timeout: int = READY_SECONDS
    machines_only: bool = False
    workloads: bool = False

    @classmethod
    def of(cls, flags):
        return cls(**{field.name: getattr(flags, field.name) for field in fields(cls)})

    def of_one_kind(self, demo):
        """As the existing machines are, which decide the package."""
        there = any(roots.is_rhel_like(demo.node(name).root) for name in demo.names())
        return replace(self, rhel_like=self.rhel_like or there)

    def base(self):
        """The root file system of new machines."""
        return roots.rhel_like() if self.rhel_like else roots.base(self.debian)


def up(demo, args):
    with demo.lock():
        try:
            run_all(demo, args)
        except KeyboardInterrupt:
            if demo.done_mark.exists():
                raise
            print("\ninterrupted: taking everything down again", file=sys.stderr, flush=True)
            release_and_remove(demo)
            raise
    return 0


def release_and_remove(demo):
    try:
        demo.remove_all()
    except Fail as fail:
        print(f"demo: {fail}", file=sys.stderr)


def run_all(demo, args):
    watch = Stopwatch()
    need_packages(PACKAGES)
    names = wanted(demo, args)
    args = args.of_one_kind(demo)
    demo.dir.mkdir(parents=True, exist_ok=True)
    demo.logs.mkdir(exist_ok=True)
    kubernetes = which(demo, args)
    with beside.machines(kubernetes) as rest:
        binaries = tools.release(demo.logs / "cargo.log")
        pack = packager.rpm if args.rhel_like else packager.kept_deb
        package = pack(binaries, demo.dir / "package", demo.logs / "package.log")
        rest.wait()
    made = stack.build(kubernetes)
    demo.take_kubectl(made)
    demo.network()
    start_plane(demo, binaries, made)
    say(f"built after {watch}; the plane is at {demo.plane.url}")
    board = Board(names)
    machines = [Node(demo.dir, name) for name in names]
    each(machines, board, "booting", lambda machine: (machine.create(args.base), machine.boot()))
    if args.machines_only:
        board.close()
        return
    timings = Timings()
    each(machines, board, "installing", lambda machine: install(demo, machine, package))
    each(machines, board, "enrolling", lambda machine: enrol(demo, machine, timings, board))
    version = json.loads((made / "manifest.json").read_text())["version"]
    cluster = attach(demo, machines, version, args.api_address, args.workloads)
    write_kubeconfig(demo, cluster)
    follow(demo, machines, board, timings, args.timeout)
    prove(demo, machines, board)
    board.close()
    demo.done_mark.write_text("")
    say("")
    say(demo.kubectl("get", "nodes", "-o", "wide").stdout.rstrip())
    timings.print()
    timings.save(demo.dir / "timings.json")
    say(f"up in {watch}\n\ntry: scripts/demo kubectl get pods -A\n     scripts/demo shell worker-1 pf9ctl status\n"
        "     scripts/demo plane stop; scripts/demo reboot worker-1\n     scripts/demo down")


def wanted(demo, args):
    """Existing machines stay; numbers that were not given come from them."""
    there = demo.names()
    counts = {}
    for role, given in (("master", args.masters), ("worker", args.workers)):
        have = len([name for name in there if name.startswith(role)])
        counts[role] = max(have, given if given is not None else (0 if there else 1))
    return [f"{role}-{i}" for role in ("master", "worker") for i in range(1, counts[role] + 1)]


def which(demo, args):
    """The Kubernetes of the existing cluster, or the requested one, or the newest."""
    there = demo.kubernetes()
    if there and args.kubernetes and matrix.stack(args.kubernetes)["kubernetes"] != there:
        raise Fail(f"the demo runs Kubernetes {there}, and {args.kubernetes} was asked for",
                   "scripts/demo down removes it; the next up may have another", code=64)
    return there or args.kubernetes


def each(machines, board, word, action):
    """The same on all machines at once; the first failure names its machine."""
    def one(machine):
        board.set(machine.name, word)
        try:
            action(machine)
        except Fail as fail:
            board.set(machine.name, f"{word}: failed")
            fail.what = f"{machine.name}: {word}: {fail.what}"
            raise
        board.set(machine.name, f"{word}: done")
    with ThreadPoolExecutor(max_workers=max(4, len(machines))) as pool:
        for future in [pool.submit(one, machine) for machine in machines]:
            future.result()


# -- stages

def start_plane(demo, binaries, made):
    demo.plane.install(binaries / "pf9-plane")
    demo.plane.start()
    manifest = json.loads((made / "manifest.json").read_text())
    listed = json.loads(demo.plane.admin("stack", "list", "--json") or "[]")
    if not any(item["name"] == manifest["name"] and item["version"] == manifest["version"] for item in listed):
        demo.plane.admin("stack", "import", str(made))


def install(demo, machine, package):
    """What an operator does: copy the package, have the package manager install it."""
    mark = machine.dir / "package.sha256"
    if package.suffix == ".rpm":
        # What it needs is installed, by packages that its database does not know.
        words = ["rpm", "-U", "--nodeps", "--replacepkgs", "--oldpackage"]
        installed = machine.run(["rpm", "-q", PACKAGE], check=False, timeout=60).returncode == 0
    else:
        words = ["apt-get", "install", "-y", "--reinstall", "--allow-downgrades"]
        installed = (machine.root / f"var/lib/dpkg/info/{PACKAGE}.list").exists()
    if installed and mark.exists() and mark.read_text() == digest(package):
        return
    listing = machine.dir / "files-before.json"
    if not listing.exists():
        listing.write_text(json.dumps(files.listing(machine.root)))
    machine.copy_in(package, f"/root/{package.name}")
    log = demo.logs / f"{machine.name}-install.log"
    machine.run([*words, f"/root/{package.name}"], log=log, timeout=180)
    mark.write_text(digest(package))


def enrol(demo, machine, timings, board):
    timings.prep[machine.name] = time.monotonic()
    if host_id(machine) and machine.run(["systemctl", "is-active", "pf9-comms"], check=False).returncode == 0:
        timings.prep.pop(machine.name)
        return
    token = machine.root / "root/token"
    log = demo.logs / f"{machine.name}-prep-node.log"
    token.write_text(demo.plane.admin("token", "create") + "\n")
    token.chmod(0o600)
    try:
        # Workers' operators have a shell that lets nobody else read new files.
        umask = "077" if machine.role == "worker" else "022"
        machine.run(["sh", "-c", f'umask {umask}; exec "$@"', "sh", "pf9ctl", "prep-node", "--plane", demo.plane.host_url,
                     "--token-file", "/root/token"], log=log, timeout=180)
    finally:
        token.unlink(missing_ok=True)
    board.set(machine.name, "enrolled", f"{time.monotonic() - timings.prep[machine.name]:.1f} s")


def host_id(machine):
    path = machine.root / "etc/pf9/host_id.conf"
    for line in path.read_text().splitlines() if path.exists() else []:
        key, _, value = line.partition("=")
        if key.strip() == "host_id":
            return value.strip()
    return None


def attach(demo, machines, stack_version, api_address, workloads=False):
    """The plane's operator creates a cluster and gives every host its role. `workloads`: masters are workers, too."""
    plane = demo.plane
    cluster = plane.cluster(CLUSTER)
    if not cluster:
        made = plane.post("/qbert/v4/{project}/clusters", {
            "name": CLUSTER, "containersCidr": PODS_CIDR, "servicesCidr": SERVICES_CIDR, "networkPlugin": "bridge",
            "stack": stack_version, "runtime": RUNTIME, "allowWorkloadsOnMaster": workloads,
            "masterIp": api_address, "masterVipEnabled": api_address is not None})
        cluster = {"uuid": made["uuid"], "name": CLUSTER}
    ids = {machine.name: host_id(machine) for machine in machines}
    missing = [name for name, value in ids.items() if not value]
    if missing:
        raise Fail(f"{', '.join(missing)}: no host id after enrolment")
    wait_for("the plane to know every host", lambda: set(ids.values()) <= {host["id"] for host in plane.hosts()}, 60)
    attached = {item["uuid"] for item in plane.nodes() if item.get("clusterUuid") == cluster["uuid"]}
    todo = [{"uuid": ids[machine.name], "isMaster": machine.role == "master"}
            for machine in machines if ids[machine.name] not in attached]
    if todo:
        plane.post(f"/qbert/v4/{{project}}/clusters/{cluster['uuid']}/attach", todo)
    return cluster


def detach(demo, names):
    """Waits until the machines report that nothing of the role is left."""
    ids = {name: host_id(demo.node(name)) for name in names}
    cluster = demo.plane.cluster(CLUSTER)
    if not cluster:
        raise Fail("there is no cluster to detach from")
    demo.plane.post(f"/qbert/v4/{{project}}/clusters/{cluster['uuid']}/detach",
                    [{"uuid": value} for value in ids.values()])

    def bare():
        for host in demo.plane.hosts():
            report = (host.get("pf9") or {}).get("node") or {}
            if host["id"] in ids.values() and (report.get("role", "none") != "none" or report.get("state") != "ok"):
                raise Fail(f"{host['info'].get('hostname')}: {words({'pf9': report})}", str(report.get("reason") or ""))
        return True
    wait_for("every machine to be clean", bare, DETACH_SECONDS, 0.5, str(demo.logs))
    return 0


def settings(demo, body):
    cluster = demo.plane.cluster(CLUSTER)
    if not cluster:
        raise Fail("there is no cluster whose settings could change")
    demo.plane.call("PATCH", f"/qbert/v4/{{project}}/clusters/{cluster['uuid']}", body)
    return 0


def attach_one(demo, name, master):
    """Waits until the machine reports that it has converged, and Kubernetes that its node is Ready."""
    cluster = demo.plane.cluster(CLUSTER)
    if not cluster:
        raise Fail("there is no cluster to attach to")
    demo.plane.post(f"/qbert/v4/{{project}}/clusters/{cluster['uuid']}/attach",
                    [{"uuid": host_id(demo.node(name)), "isMaster": master}])

    def settled():
        item = next(item for item in demo.plane.nodes() if item["name"] == name)
        state = (item.get("pf9") or {}).get("state")
        return item if state == "failed" or state == "ok" and demo.kube_nodes().get(name) else None
    item = wait_for(f"{name} to be Ready", settled, READY_SECONDS, 0.7, str(demo.logs))
    if item["pf9"]["state"] == "failed":
        raise stuck(demo, [item])
    return 0


def write_kubeconfig(demo, cluster):
    # Programs that run for hours use it, on machines that have no pf9ctl.
    demo.plane.admin("kubeconfig", cluster["uuid"], "--long-lived", "30d", "--note", "the demo", "--out", str(demo.kubeconfig))
    demo.kubeconfig.chmod(0o600)


# -- watching

def follow(demo, machines, board, timings, seconds):
    """Until Kubernetes reports every node Ready; a host that gave up ends it early."""
    deadline = time.monotonic() + seconds
    names = {machine.name for machine in machines}
    ready, last, why = set(), {}, ""
    while True:
        try:
            last = {item["name"]: item for item in demo.plane.nodes() if item["name"] in names}
            for name in sorted(names - ready):
                board.set(name, *words(last.get(name)))
            settled = all((item.get("pf9") or {}).get("state") == "ok" for item in last.values())
            failed = [item for item in last.values() if (item.get("pf9") or {}).get("state") == "failed"]
            why = ""
            if len(last) == len(names):
                for name, is_ready in demo.kube_nodes().items():
                    if is_ready and name in names - ready:
                        ready.add(name)
                        timings.ready[name] = time.monotonic()
                        board.set(name, "Ready", timings.text(name))
            if ready == names and settled:
                return
            if failed:
                raise stuck(demo, failed)
        except Fail as fail:
            if isinstance(fail, Stuck):
                raise
            why = str(fail)
        if time.monotonic() >= deadline:
            waiting = [item for name, item in last.items()
                       if name not in ready or (item.get("pf9") or {}).get("state") != "ok"]
            raise stuck(demo, waiting, f"not Ready within {seconds} s", why)
        time.sleep(0.7)


def words(item):
    """Phase and step of a host, as short as a line allows."""
    report = (item or {}).get("pf9") or {}
    if not report.get("state"):
        return "waiting for its report", ""
    phases = report.get("phases") or []
    at = next((phase for phase in phases if phase["state"] != "running"), None)
    done = sum(phase["state"] == "running" for phase in phases)
    reason = report.get("reason") or {}
    step = report.get("current_step") or (at or {}).get("message") or reason.get("what") or ""
    step = " ".join(step.split())[:LINE_MAX]
    if not at:
        return report["state"], step
    return f"{report['state']} {done}/{len(phases)} {at['id']}", step


class Stuck(Fail):
    pass


def stuck(demo, items, headline="cannot become Ready", extra=""):
    """The failure in the host's own words: host, phase, step, why; and where the log is."""
    lines = []
    for item in items:
        report = item.get("pf9") or {}
        reason = report.get("reason") or {}
        phase, step = words(item)
        name = item["name"]
        lines.append(f"{name}: {phase}" + (f", step: {step}" if step else ""))
        if reason:
            lines.append(f"  {reason.get('what')}: {reason.get('why')}" +
                         (f"; to do: {reason['fix']}" if reason.get("fix") else ""))
        log = save_logs(demo, name)
        lines.append(f"  log: {log}")
    if extra:
        lines.append(extra)
    hosts = ", ".join(item["name"] for item in items) or "the cluster"
    return Stuck(f"{hosts}: {headline}", "\n".join(lines) or extra, str(demo.logs))


def save_logs(demo, name):
    """Everything a person needs, kept outside the machine."""
    target = demo.logs / f"{name}-failure.log"
    script = ("pf9ctl status; for f in /var/log/pf9/*/*.log; do echo \"==> $f\"; tail -n 300 \"$f\"; done; "
              "echo '==> journal'; journalctl --no-pager -n 400 -o short-iso")
    try:
        done = Node(demo.dir, name).run(["sh", "-c", script], check=False, timeout=60)
        target.write_text(done.stdout + done.stderr)
    except Fail as fail:
        target.write_text(str(fail))
    return target


# -- proof

POD = """apiVersion: v1
kind: Pod
metadata: {{name: {pod}, namespace: default, labels: {{app: pf9-demo}}}}
spec:
  nodeName: {node}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: {image}
      imagePullPolicy: Never
      command: ["/bin/sh", "-c", "echo hello from {node}; exec sleep 1000000"]
"""


def prove(demo, machines, board):
    """A pod on each worker answers logs and exec, through the plane."""
    workers = [machine.name for machine in machines if machine.role == "worker"]
    image = f"pf9.local/busybox:{stack.TAGS['busybox']}"
    for name in workers:
        board.set(name, "Ready", "starting a test pod")
        manifest = POD.format(pod=f"hello-{name}", node=name, image=image)
        wait_for(f"{name}: the test pod to be accepted",  # the default service account comes a moment after Ready
                 lambda text=manifest: demo.kubectl("apply", "-f", "-", stdin=text), PROOF_SECONDS, 1)
    for name in workers:
        pod = f"hello-{name}"
        wait_for(f"{name}: logs of pod {pod}",
                 lambda: f"hello from {name}" in demo.kubectl("logs", pod, "--request-timeout=20s").stdout,
                 PROOF_SECONDS, 0.7, str(demo.logs))
        answer = wait_for(f"{name}: exec in pod {pod}",
                          lambda: demo.kubectl("exec", pod, "--", "/bin/sh", "-c", "echo exec-$((40+2))").stdout,
                          PROOF_SECONDS, 0.7, str(demo.logs))
        if answer.strip() != "exec-42":
            raise Fail(f"{name}: exec in pod {pod} answered {answer!r}")
        board.set(name, "Ready", "test pod answers logs and exec")


class Timings:
    def __init__(self):
        self.prep, self.ready = {}, {}

    def text(self, name):
        if name not in self.prep or name not in self.ready:
            return ""
        return f"{self.ready[name] - self.prep[name]:.1f} s after prep-node"

    def print(self):
        for name in sorted(self.ready):
            if self.text(name):
                say(f"{name}: Ready {self.text(name)}")

    def save(self, path):
        """For `scripts/bench`; a second `up` measures nothing and keeps the first one's."""
        seconds = {name: self.ready[name] - self.prep[name] for name in self.ready if name in self.prep}
        if seconds:
            path.write_text(json.dumps(seconds))

"""What the demo consists of, and its removal.

  Demo           state directory, plane, machines, lock; down() removes all of it and checks that it is gone
  status, logs, metrics   queries to a running demo
"""
import contextlib
import fcntl
import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cgroups
import node
from common import CACHE, Fail, run, say, warn
from node import Node
from plane import Plane

CLUSTER = "demo"


class Demo:
    def __init__(self):
        self.dir = Path(os.environ.get("PF9_DEMO_STATE", "/var/lib/pf9-demo"))
        self.plane = Plane(self.dir)
        self.logs = self.dir / "logs"
        self.kubeconfig = self.dir / "kubeconfig"
        self.tools = self.dir / "tools"
        self.done_mark = self.dir / "up-is-done"

    # -- state

    @contextlib.contextmanager
    def lock(self):
        """One command changes the demo at a time. The lock is in the cache: `down` removes the state."""
        CACHE.mkdir(parents=True, exist_ok=True)
        path = CACHE / ".lock-demo"
        with open(path, "w", encoding="ascii") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Fail("another scripts/demo command is at work", f"it holds {path}", code=75) from error
            yield

    def must_exist(self):
        if not self.dir.is_dir():
            raise Fail("there is no demo", "scripts/demo up makes one")

    def names(self):
        folder = self.dir / "nodes"
        found = [path.name for path in folder.iterdir() if (path / "root").is_dir()] if folder.is_dir() else []
        return sorted(found, key=lambda name: (name.split("-")[0], int(name.split("-")[1])))

    def nodes(self):
        return [Node(self.dir, name) for name in self.names()]

    def node(self, name):
        if name not in self.names():
            raise Fail(f"no such machine: {name}", "there are: " + (", ".join(self.names()) or "none"), code=64)
        return Node(self.dir, name)

    def network(self):
        self.logs.mkdir(parents=True, exist_ok=True)
        node.kernel_save(self.dir / "kernel.json")
        node.network_up(self.dir)

    # -- Kubernetes through the plane

    def take_kubectl(self, made):
        """The stack's own, as an operator of that version has it; and its version."""
        manifest = json.loads((made / "manifest.json").read_text())
        self.tools.mkdir(parents=True, exist_ok=True)
        if self.kubernetes() != manifest["kubernetes"]:
            run(["tar", "-C", self.tools, "--zstd", "--strip-components=1", "-xf", made / "stack.tar.zst", "bin/kubectl"],
                timeout=120)
            (self.tools / "kubernetes").write_text(manifest["kubernetes"])

    def kubernetes(self):
        """Version of the cluster's stack; empty before there is one."""
        path = self.tools / "kubernetes"
        return path.read_text() if path.exists() else ""

    def kubectl_command(self, args):
        if not self.kubeconfig.exists():
            raise Fail("there is no cluster yet", "scripts/demo up makes one")
        return [str(self.tools / "kubectl"), f"--kubeconfig={self.kubeconfig}",
                f"--cache-dir={self.dir / 'kubectl-cache'}", *args]

    def kubectl(self, *args, **kwargs):
        kwargs.setdefault("timeout", 60)
        return run(self.kubectl_command(args), new_env=clean_env(), **kwargs)

    def kube_nodes(self):
        """From Kubernetes: node name → Ready."""
        text = self.kubectl("get", "nodes", "-o", "json", "--request-timeout=10s", timeout=20).stdout
        return {item["metadata"]["name"]: any(c["type"] == "Ready" and c["status"] == "True"
                                              for c in item["status"].get("conditions", []))
                for item in json.loads(text)["items"]}

    # -- the end

    def down(self):
        with self.lock():
            previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                return self.remove_all()
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)

    def remove_all(self):
        faults = []

        def attempt(what, action):
            try:
                action()
            except (Fail, OSError) as error:
                faults.append(f"{what}: {error}")

        attempt("plane", self.plane.stop)
        folder = self.dir / "nodes"
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda name: attempt(name, Node(self.dir, name).remove), names))
        attempt("kernel settings", lambda: node.kernel_restore(self.dir / "kernel.json"))
        if node.network_owner() in ("", str(self.dir)):
            attempt("network", node.network_down)
            cgroups.remove()
        if not faults and self.dir.exists():
            attempt("files", lambda: shutil.rmtree(self.dir))
        faults += leftovers(self.dir)
        if faults:
            raise Fail("something is left of the demo", "\n".join(faults))
        return 0


def leftovers(state):
    """What of the demo is still visible on this machine."""
    found = []
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [f"mount {line.split()[1]}" for line in mounts if line.split()[1].startswith(f"{state}/")]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                root = os.readlink(entry / "root")
            except OSError:
                continue
            if root.startswith(f"{state}/"):
                found.append(f"process {entry.name} in {root}")
    if node.network_owner() not in ("", str(state)):
        return found  # bridge and cgroups are another demo's
    if node.network_owner():
        found.append(f"bridge {node.BRIDGE}")
    found += [f"cgroup {path}" for hierarchy in cgroups.hierarchies()
              for path in [hierarchy / cgroups.PARENT] if path.exists()]
    if state.exists():
        found.append(f"files in {state}")
    return found


def clean_env():
    """kubectl must talk to the plane directly, whatever proxy this machine has."""
    return {key: value for key, value in os.environ.items() if key.lower() not in ("http_proxy", "https_proxy",
                                                                                   "all_proxy", "kubeconfig")}


def status(demo, as_json):
    plane = bool(demo.plane.running())
    known, kube, why = {}, {}, ""
    if plane:
        try:
            known = {item["name"]: item for item in demo.plane.nodes()}
            kube = demo.kube_nodes()
        except Fail as fail:
            why = fail.what
    rows = [{"name": machine.name, "address": machine.address, "running": bool(machine.running()),
             "state": (known.get(machine.name, {}).get("pf9") or {}).get("state"),
             "reason": (known.get(machine.name, {}).get("pf9") or {}).get("reason"),
             "ready": kube.get(machine.name)} for machine in demo.nodes()]
    if as_json:
        say(json.dumps({"plane": plane, "url": demo.plane.url, "nodes": rows, "fault": why or None}, indent=1))
        return 0
    say(f"plane     {demo.plane.url}  {'running' if plane else 'stopped'}")
    for row in rows:
        ready = {True: "Ready", False: "NotReady", None: "-"}[row["ready"]]
        say(f"{row['name']:<9} {row['address']:<12} {'running' if row['running'] else 'stopped':<8} "
            f"agent {row['state'] or '-':<11} kubernetes {ready}")
        if row["reason"]:
            say(f"          {row['reason'].get('what')}: {row['reason'].get('why')}")
    if why:
        warn(f"could not ask everything: {why}")
    return 0


# What Prometheus needs to find and scrape every host through its tunnel, kubelets and API server too.
PROMETHEUS = """\
scrape_configs:
- job_name: pf9
  http_sd_configs:
  - url: {url}/metrics/targets
    refresh_interval: 30s
    authorization: &token {{type: Bearer, credentials_file: {token}}}
    tls_config: &plane {{ca_file: {ca}}}
  authorization: *token
  tls_config: *plane
- job_name: apiserver
  scheme: https
  metrics_path: {api}/metrics
  static_configs: [{{targets: ["{address}"]}}]
  authorization: *token
  tls_config: *plane
"""


def metrics(demo, name, source):
    targets = demo.plane.get("/metrics/targets")
    if name:
        paths = [t["labels"]["__metrics_path__"] for t in targets
                 if (t["labels"]["instance"], t["labels"]["source"]) == (name, source)]
        if not paths:
            known = ", ".join(f"{t['labels']['instance']} {t['labels']['source']}" for t in targets)
            raise Fail(f"no {source} numbers of {name}", f"there are: {known or 'none, no host is connected'}", code=64)
        say(demo.plane.get(paths[0]).rstrip())
        return 0
    for target in targets:
        labels = target["labels"]
        say(f"{labels['instance']:<9} {labels['source']:<7} {demo.plane.url}{labels['__metrics_path__']}")
    kubeconfig = {line.split()[0]: line.split()[1].strip('"')
                  for line in demo.kubeconfig.read_text().splitlines() if len(line.split()) == 2}
    server, token, config = kubeconfig["server:"], demo.dir / "prometheus.token", demo.dir / "prometheus.yml"
    token.touch(0o600)
    token.write_text(kubeconfig["token:"])
    config.write_text(PROMETHEUS.format(url=demo.plane.url, token=token, ca=demo.plane.dir / "ca.pem",
                                        address=demo.plane.url.split("://")[1],
                                        api=server.removeprefix(demo.plane.url)))
    say(f"\nprometheus --config.file={config}")
    return 0


def logs(demo, name):
    machine = demo.node(name)
    script = ("for f in /var/log/pf9/*/*.log /var/log/pf9/*.log; do [ -f \"$f\" ] || continue; echo \"==> $f\"; "
              "tail -n 200 \"$f\"; done; echo '==> journal'; journalctl --no-pager -n 200 -o short-iso -u 'pf9-*'")
    done = run(machine.enter(["sh", "-c", script]), check=False, timeout=60)
    say(done.stdout)
    return 0

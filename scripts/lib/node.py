"""A machine: a systemd container with its own address, init, package database and network namespace.

  Node(state, name)     one machine; create, boot, reboot, crash, stop, remove, run (a command in it), leader
  network_up / _down    the machines' bridge, and our two firewall rules if the host needs them
  kernel_save/_restore  kernel settings shared by all containers of a host, which kubelet changes

The root is a plain copy of the base (containerd's overlay cannot be on an overlay). Nothing of the product
is in it: the machine's own address and console setup come from one unit, as in a data centre's image.
"""
import json
import os
import shutil
import signal
from pathlib import Path

import cgroups
import proc
import roots
from common import Fail, out, run, tail, wait_for

BRIDGE = "pf9demo0"
NETWORK = "10.99.0"
HOST = f"{NETWORK}.1"
# The machines know the plane by this name; without one by its address.
PLANE_NAME = os.environ.get("PF9_DEMO_PLANE_NAME", "")
BOOT_SECONDS = 60
FIRST_ADDRESS = {"master": 11, "worker": 51}

SETUP_UNIT = """[Unit]
Description=address and device set-up of this machine
DefaultDependencies=no
Before=network-pre.target sysinit.target
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/machine-setup

[Install]
WantedBy=sysinit.target
"""

# Version 1 controllers are read-only in a container; only this container's view of them is changed.
SETUP = """#!/bin/sh
set -u
while read -r _ where type options _; do
  case "$type:$where" in cgroup:/sys/fs/cgroup/*) mount -o remount,bind,rw "$where" || : ;; esac
done < /proc/mounts
[ -e /dev/kmsg ] || ln -s /dev/null /dev/kmsg
ip link set lo up
ip address replace @ADDRESS@/24 dev host0
ip link set host0 up
ip route replace default via @HOST@
"""


class Node:
    def __init__(self, state, name):
        self.name = name
        self.role, _, number = name.partition("-")
        if self.role not in FIRST_ADDRESS or not number.isdigit() or not 1 <= int(number) <= 30:
            raise Fail(f"no such machine: {name}", "names are master-1 … and worker-1 …")
        self.address = f"{NETWORK}.{FIRST_ADDRESS[self.role] + int(number) - 1}"
        self.dir = Path(state) / "nodes" / name
        self.root = self.dir / "root"
        self.console = self.dir / "console.log"
        self.pidfile = self.dir / "pid"
        self.machine = f"pf9demo-{name}"

    # -- life

    def create(self, base=roots.base):
        """A bare machine with the root file system of `base`; an existing one is unchanged."""
        if self.root.exists():
            return
        self.dir.mkdir(parents=True, exist_ok=True)
        tmp = self.dir / "root.new"
        roots.copy(base(), tmp)
        (tmp / "etc/hostname").write_text(self.name + "\n")
        plane = f"{HOST} {PLANE_NAME}\n" if PLANE_NAME else ""
        (tmp / "etc/hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n{plane}")
        # Nobody answers there, but a machine has a resolver: the cluster's DNS does not start without one.
        (tmp / "etc/resolv.conf").write_text(f"nameserver {HOST}\n")
        setup = tmp / "usr/local/sbin/machine-setup"
        setup.write_text(SETUP.replace("@ADDRESS@", self.address).replace("@HOST@", HOST))
        setup.chmod(0o755)
        unit = tmp / "etc/systemd/system/machine-setup.service"
        unit.write_text(SETUP_UNIT)
        wants = tmp / "etc/systemd/system/sysinit.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / unit.name).symlink_to(f"../{unit.name}")
        tmp.rename(self.root)

    def boot(self):
        self.start()
        self.wait_booted()

    def start(self):
        if self.running():
            return
        nspawn = ["systemd-nspawn", "-D", self.root, "-M", self.machine, f"--hostname={self.name}", "--boot",
                  "--register=no", "--keep-unit", "--settings=no", "--resolv-conf=off", "--timezone=off",
                  "--link-journal=no", "--console=read-only", f"--network-bridge={BRIDGE}", "--capability=all",
                  "--system-call-filter=@keyring bpf @mount @module"]
        command = nspawn
        if os.path.isdir("/run/systemd/system"):
            command = ["systemd-run", "--quiet", "--scope", f"--unit={self.machine}-{os.getpid()}",
                       "--property=Delegate=yes", "--collect", "--", *nspawn]
        join = "" if cgroups.is_v2() and command is not nspawn else cgroups.join_script(self.name)
        proc.start(["sh", "-c", join + 'exec "$@"', "sh", *command], self.pidfile, self.console,
                   {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1", "SYSTEMD_NSPAWN_LOCK": "0"})

    def wait_booted(self):
        def up():
            if not self.running():
                raise Fail("the container ended", tail(self.console))
            leader = self.leader()
            if not leader:
                return False
            state = self.run(["systemctl", "is-system-running"], check=False, timeout=20).stdout.strip()
            return state in ("running", "degraded")
        wait_for(f"{self.name}: boot", up, BOOT_SECONDS, 0.3, self.console)

    def running(self):
        return proc.alive(self.pidfile)

    def leader(self):
        """Process 1 of the machine, as this host numbers it."""
        supervisor = self.running()
        queue = proc.children(supervisor) if supervisor else []
        while queue:
            pid = queue.pop()
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
            if len(numbers) > 1 and numbers[-1] == "1" and proc.running(pid):
                return pid
            queue += proc.children(pid)
        return None

    def reboot(self):
        """An orderly reboot by the machine's own init."""
        supervisor = self.running()
        if not supervisor:
            raise Fail(f"{self.name} is not running")
        # Its device in the machine disappears with the machine; the route on this side would lead nowhere.
        proc.end(self.dir / "path.pid")
        self.run(["systemctl", "reboot", "--no-block"], check=False, timeout=20)
        try:
            wait_for(f"{self.name}: shutdown", lambda: not self.running(), 100, 0.2, self.console)
        except Fail:
            self.kill()
            raise
        self.boot()

    def crash(self):
        """Power loss: the whole machine stops at once, then it boots again."""
        self.kill()
        self.boot()

    def kill(self):
        proc.end(self.dir / "path.pid")
        supervisor = self.running()
        if supervisor:
            leader = self.leader()
            if leader:
                proc.kill(leader, signal.SIGKILL)  # the end of a pid name space's first process ends them all
            proc.kill(supervisor, signal.SIGKILL)
            wait_for(f"{self.name}: death", lambda: not proc.running(supervisor), 20, 0.05)
            if leader:
                wait_for(f"{self.name}: death", lambda: not proc.running(leader), 30, 0.05)
        self.pidfile.unlink(missing_ok=True)
        for link in host_links(self.name):
            run(["ip", "link", "delete", link], check=False)
        try:
            wait_for("empty cgroups", lambda: not cgroups.remove(self.name), 10, 0.2)
        except Fail:
            pass  # reported by `down`, which looks again

    def remove(self):
        self.kill()
        for place in mounts_below(self.dir):
            run(["umount", place], timeout=60)
        shutil.rmtree(f"/run/systemd/nspawn/propagate/{self.machine}", ignore_errors=True)
        run(["chattr", "-R", "-i", self.root / "var/empty"], check=False)
        shutil.rmtree(self.dir, ignore_errors=False)

    # -- inside

    def enter(self, cmd):
        leader = self.leader()
        if not leader:
            raise Fail(f"{self.name} is not running", f"scripts/demo up starts it; its console: {self.console}")
        clean = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                 "LC_ALL=C.UTF-8", f"TERM={os.environ.get('TERM', 'dumb')}", "DEBIAN_FRONTEND=noninteractive"]
        return ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--", *clean, *cmd]

    def run(self, cmd, **kwargs):
        return run(self.enter([str(c) for c in cmd]), **kwargs)

    def out(self, cmd, **kwargs):
        return self.run(cmd, **kwargs).stdout.strip()

    def copy_in(self, source, target):
        """Writes a file from this host atomically."""
        goal = self.root / str(target).lstrip("/")
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, f"{goal}.part")
        os.replace(f"{goal}.part", goal)


def mounts_below(folder):
    """File systems mounted for a machine's directories; the innermost first."""
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return sorted((place for place in places if place.startswith(f"{folder}/")), reverse=True)


# -- the network of the machines

def host_links(name=""):
    """Our ends of the machines' cables: everything plugged into our bridge."""
    done = run(["ip", "-j", "link", "show", "master", BRIDGE], check=False)
    links = json.loads(done.stdout or "[]") if done.returncode == 0 else []
    want = f"vb-pf9demo-{name}" if name else ""
    return [link["ifname"] for link in links
            if not want or want in [link["ifname"], *link.get("altnames", [])]]


# Kernel modules that Kubernetes and the machines' cables need. A machine here is a container: it cannot load
# modules like a real one, so this host loads them, if its kernel has them as modules at all.
MODULES = ["overlay", "br_netfilter", "nf_conntrack", "nf_nat", "ip_tables", "iptable_filter", "iptable_nat",
           "iptable_mangle", "ip6_tables", "ip6table_filter", "ip6table_nat", "ip6table_mangle", "xt_comment", "xt_mark",
           "xt_conntrack", "xt_MASQUERADE", "xt_statistic", "xt_addrtype", "xt_nat", "nft_compat", "veth", "bridge", "tun"]


def load_modules():
    if shutil.which("modprobe") and Path("/lib/modules", os.uname().release).is_dir():
        run(["modprobe", "-a", "-q", *MODULES], check=False, timeout=60)


FIREWALL = [["FORWARD", "-i", BRIDGE, "-o", BRIDGE], ["INPUT", "-i", BRIDGE]]


def network_owner():
    """The state directory of the demo that owns the network; "" if nobody does. The bridge itself records it
    (its alias), so a restart of this machine, which removes the bridge, cannot leave a claim behind."""
    done = run(["ip", "-j", "link", "show", BRIDGE], check=False)
    return json.loads(done.stdout)[0].get("ifalias", "") if done.returncode == 0 else ""


def network_up(state):
    load_modules()
    owner = network_owner()
    if owner not in ("", str(state)):
        raise Fail(f"a demo is on this machine, in {owner}", f"PF9_DEMO_STATE={owner} scripts/demo down")
    if run(["ip", "link", "show", BRIDGE], check=False).returncode != 0:
        taken = out(["ip", "-4", "route", "show", f"{NETWORK}.0/24"])
        if taken:
            raise Fail(f"the network {NETWORK}.0/24 is in use on this machine", taken)
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "link", "set", BRIDGE, "alias", str(state)])
    run(["ip", "address", "replace", f"{HOST}/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    for rule in FIREWALL:
        chain = run(["iptables", "-w", "-S", rule[0]], check=False).stdout
        if chain.strip() == f"-P {rule[0]} ACCEPT":
            continue  # nothing in the way, nothing to add
        full = [*rule, "-m", "comment", "--comment", "pf9demo", "-j", "ACCEPT"]
        if run(["iptables", "-w", "-C", *full], check=False).returncode != 0:
            run(["iptables", "-w", "-I", *full])


def network_down():
    for rule in FIREWALL:
        full = [*rule, "-m", "comment", "--comment", "pf9demo", "-j", "ACCEPT"]
        while run(["iptables", "-w", "-D", *full], check=False).returncode == 0:
            pass
    for link in host_links():
        run(["ip", "link", "delete", link], check=False)
    run(["ip", "link", "delete", BRIDGE], check=False)


# -- settings shared by all containers of a kernel; kubelet writes some of them

SHARED = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
          "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "vm/swappiness", "vm/max_map_count",
          "fs/inotify/max_user_instances", "fs/inotify/max_user_watches", "fs/file-max", "kernel/pid_max"]


def kernel_save(path):
    if not path.exists():
        values = {key: Path("/proc/sys", key).read_text().strip()
                  for key in SHARED if Path("/proc/sys", key).exists()}
        path.write_text(json.dumps(values, indent=1))
    raise_inotify()


def raise_inotify():
    """All systemds and kubelets share the root user's limit on inotify instances."""
    for key, least in (("fs/inotify/max_user_instances", 1024), ("fs/inotify/max_user_watches", 262144)):
        knob = Path("/proc/sys", key)
        if knob.exists() and int(knob.read_text()) < least:
            try:
                knob.write_text(str(least))
            except OSError:
                pass


def kernel_restore(path):
    if path.exists():
        for key, value in json.loads(path.read_text()).items():
            knob = Path("/proc/sys", key)
            if knob.read_text().strip() != value:
                try:
                    knob.write_text(value)
                except OSError:
                    pass

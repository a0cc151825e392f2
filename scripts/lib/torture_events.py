"""What each kind of event does to a machine, and how it is reverted.

  happens(torture, event)   a context: the accident on entry, its cause removed on exit; it gives a Seen
  Seen(says, healed)        what `pf9ctl status` must report while it lasts; what else must hold in the end
  small_disks(machine)      the file systems that are filled: small ones, below a machine's root; removed with it
  nothing_in_the_way(machine)   what a run that was killed left of an accident is removed

Each accident is what a person, a disk or a network does, by the machine's own means; none needs the product's cooperation.
"""
import os
import re
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

import proc
import up
from common import Fail, run, wait_for
from lifecycle import CLUSTER
from netpath import Cable
from node import HOST
from torture_schedule import NODE, OURS, PODS, SMALL

ROLL_SECONDS = 900
# Of a certificate, where lives are minutes; half a minute of its last third is what a component takes to restart.
LIFE_SECONDS = 180
DAY_SECONDS = 24 * 3600
SMALL_BYTES = {"/var/log/pf9": 768 * 2**20, "/var/opt/pf9": 3 * 2**30}
SMALL_INODES = 4096
FILLER = ".torture"
OFFLINE = r'"state": *"offline"|the plane cannot be reached'
FULL = r'"disk-full"|[Nn]o space left'
READ_ONLY = r"[Rr]ead-only"
CONFIG = r"config-invalid|cannot use the configuration"
TABLE = "pf9_torture"
CERTS = "etc/pf9/kube.d/certs"
SETTLED = "/etc/pf9/operations.toml"
CONFIGURATION, WRONG = "etc/pf9/hostagent.toml", b"\n[nodelet]\nsweeps = 1\n"


@dataclass
class Seen:
    says: Optional[str] = None
    healed: Optional[Callable] = None


EFFECTS = {}


def effect(*kinds):
    def keep(function):
        for kind in kinds:
            EFFECTS[kind] = contextmanager(function)
        return function
    return keep


def happens(torture, event):
    return EFFECTS[event.kind](torture, torture.demo.node(event.machine), event)


def shell(machine, script, check=True, timeout=60):
    return machine.run(["sh", "-c", script], check=check, timeout=timeout).stdout.strip()


# -- processes

def kill(machine, unit, number="KILL"):
    """A unit's own program, without what else is in its control group (the shims of pods are in containerd's), or a static
    pod's; the comm of a process has 15 letters."""
    if unit in PODS:
        shell(machine, f"pkill -{number} -x {unit[:15]}", check=False)
    else:
        shell(machine, f"systemctl kill --kill-whom=main -s {number} {unit}.service", check=False)


@effect("kill")
def killed(_torture, machine, event):
    kill(machine, event.variant)
    yield Seen()


@effect("kill-all")
def all_killed(_torture, machine, event):
    units = OURS if event.variant == "agent" else (*NODE, *(("pf9-etcd",) if machine.role == "master" else ()))
    shell(machine, "systemctl kill --kill-whom=main -s KILL " + " ".join(f"{unit}.service" for unit in units), check=False)
    yield Seen()


@effect("hang", "hang-of-the-node")
def hangs(_torture, machine, event):
    pid = shell(machine, f"systemctl show -P MainPID {event.variant}.service")
    if pid == "0":  # nodelet with nothing to do is not there
        yield Seen()
        return
    shell(machine, f"kill -STOP {pid}", check=False)

    def another():
        now = shell(machine, f"systemctl show -P MainPID {event.variant}.service")
        if now == pid and shell(machine, f"ps -o stat= -p {pid}", check=False).startswith("T"):
            raise Fail(f"{event.variant} hangs, and nobody started it again")
        return True
    yield Seen(healed=another)


@effect("restart")
def restarted(_torture, machine, event):
    units = OURS if event.variant == "agent" else (event.variant,)
    machine.run(["systemctl", "restart", *(f"{unit}.service" for unit in units)], timeout=180)
    yield Seen()


@effect("power-loss")
def power_lost(_torture, machine, _event):
    machine.crash()
    yield Seen()


@effect("reboot")
def rebooted(_torture, machine, _event):
    machine.reboot()
    yield Seen()


@effect("plane-killed")
def plane_away(torture, _machine, event):
    plane = torture.demo.plane
    if event.variant == "killed":
        pid = plane.running()
        if pid:
            proc.kill(pid, signal.SIGKILL)
            wait_for("the plane's death", lambda: not proc.running(pid), 20, 0.05)
    else:
        plane.stop()
    try:
        yield Seen()
    finally:
        plane.start()


# -- the network

def drops(machine, rules):
    """Rules of our own table, before all others, in the machine's own network."""
    chains = {"in": "type filter hook input priority -350;", "out": "type filter hook output priority -350;",
              "through": "type filter hook forward priority -350;"}
    text = "".join(f"chain {name} {{ {head} {' '.join(rule + ' drop;' for at, rule in rules if at == name)} }}\n"
                   for name, head in chains.items())
    machine.run(["nft", "-f", "-"], stdin=f"table inet {TABLE} {{\n{text}}}\n", timeout=20)


def drops_nothing(machine):
    machine.run(["nft", "delete", "table", "inet", TABLE], check=False, timeout=20)


def rules(event, others):
    """(chain, match): what is dropped, as this machine sees it."""
    others = ", ".join(others)
    to_it = [("in", f"ip saddr {{ {others} }}"), ("through", f"iifname host0 ip saddr {{ {others} }}")]
    from_it = [("out", f"ip daddr {{ {others} }}"), ("through", f"oifname host0 ip daddr {{ {others} }}")]
    return {"both-ways": to_it + from_it, "to-it": to_it, "to-them": from_it, "from-them": to_it,
            "from-it": from_it}[event.variant]


@effect("cut-from-plane", "cut-from-nodes", "cut-off")
def cut(torture, machine, event):
    peers = [other.address for other in torture.demo.nodes() if other.name != machine.name]
    who = {"cut-from-plane": [HOST], "cut-from-nodes": peers, "cut-off": [HOST, *peers]}[event.kind]
    says = OFFLINE if HOST in who else None
    try:
        if event.variant == "black-hole":
            Cable(machine, HOST).set(blackhole=True)
        else:
            drops(machine, rules(event, who))
        yield Seen(says)
    finally:
        Cable(machine, HOST).clear() if event.variant == "black-hole" else drops_nothing(machine)


@effect("slow")
def slow(_torture, machine, event):
    try:
        Cable(machine, HOST).set(**({"rtt_ms": 500} if event.variant == "far" else {"rtt_ms": 60, "loss": 0.08}))
        yield Seen()
    finally:
        Cable(machine, HOST).clear()


# -- disks

def image(machine, path):
    return machine.dir / "small" / (path.strip("/").replace("/", "-") + ".img")


def mounted(path):
    return any(line.split()[1] == str(path) for line in Path("/proc/self/mounts").read_text().splitlines())


def small_disks(machine):
    """For a machine that is off: the content of these directories moves to a small file system each, mounted at its boot."""
    for path in SMALL:
        place, disk = machine.root / path.strip("/"), image(machine, path)
        if mounted(place):
            continue
        if not disk.exists():
            disk.parent.mkdir(exist_ok=True)
            new = disk.with_suffix(".new")
            with open(new, "wb") as sink:
                sink.truncate(SMALL_BYTES[path])
            run(["mkfs.ext4", "-q", "-m", "0", "-N", str(SMALL_INODES), new], timeout=60)
            moved = disk.with_suffix(".d")
            moved.mkdir(exist_ok=True)
            run(["mount", "-o", "loop", new, moved])
            try:
                (moved / "lost+found").rmdir()
                run(["cp", "-a", f"{place}/.", moved], timeout=120)
            finally:
                run(["umount", moved])
            moved.rmdir()
            new.rename(disk)
        run(["mount", "-o", "loop", disk, place])


def has_small_disks(machine):
    return all(image(machine, path).exists() for path in SMALL)


def in_the_way(event):
    return f"{event.variant}/{FILLER}"


@effect("disk-full")
def full(_torture, machine, event):
    path = in_the_way(event)
    try:
        # The last block as well: preallocation uses large pieces.
        shell(machine, f"mkdir -p {path}; fallocate -l $(df -B1 --output=avail {event.variant} | tail -n 1) {path}/much || :; "
                       f"dd if=/dev/zero of={path}/rest bs=4096 2>/dev/null; :", timeout=120)
        yield Seen(FULL)
    finally:
        shell(machine, f"rm -rf {path}", timeout=120)


@effect("no-inodes")
def no_inodes(_torture, machine, event):
    path = in_the_way(event)
    try:
        shell(machine, f"mkdir -p {path}; cd {path}; seq {SMALL_INODES} | xargs touch 2>/dev/null; :", timeout=120)
        yield Seen(FULL)
    finally:
        shell(machine, f"rm -rf {path}", timeout=120)


@effect("read-only")
def read_only(_torture, machine, event):
    """The file system itself, as after a disk error: every process sees it, whatever its own view of the mounts."""
    place = machine.root / event.variant.strip("/")
    # Refused at the moment of a write.
    wait_for(f"{event.variant} to be read-only", lambda: run(["mount", "-o", "remount,ro", place]), 20, 0.1)
    try:
        yield Seen(READ_ONLY)
    finally:
        run(["mount", "-o", "remount,rw", place])


def nothing_in_the_way(machine):
    """Accidents end with their cause removed, but not where the run itself was killed; the next one would never begin."""
    for path in SMALL:
        place = machine.root / path.strip("/")
        if mounted(place):
            run(["mount", "-o", "remount,rw", place])
        shell(machine, f"rm -rf {path}/{FILLER}", timeout=120)
    drops_nothing(machine)
    Cable(machine, HOST).clear()
    shell(machine, "while iptables -D FORWARD -j REJECT; do :; done", check=False)
    path = machine.root / CONFIGURATION
    if path.exists() and path.read_bytes().endswith(WRONG):
        path.write_bytes(path.read_bytes().removesuffix(WRONG))


# -- files and rules

@effect("edited")
def edited(_torture, machine, event):
    path = machine.root / event.variant.strip("/")
    if not path.exists():
        raise Fail(f"{machine.name} has no {event.variant}")
    before = path.read_bytes()
    {"a-line-more": lambda: path.write_bytes(before + b"\n# by hand\n"), "emptied": lambda: os.truncate(path, 0),
     "removed": path.unlink}[event.how]()

    def same():
        if not path.exists() or path.read_bytes() != before:
            raise Fail(f"{event.variant} is not what it was")
        return True
    yield Seen(healed=same)


@effect("wrong-configuration")
def wrong_configuration(_torture, machine, _event):
    path = machine.root / CONFIGURATION
    before = path.read_bytes()
    try:
        path.write_bytes(before + WRONG)
        kill(machine, "pf9-nodeletd")
        yield Seen(CONFIG)
    finally:
        path.write_bytes(before)


FLUSHES = {
    "iptables": "iptables -F && iptables -t nat -F",
    "nftables": "nft flush ruleset",
    "routes": "ip route flush proto 159; nft delete table ip kube-proxy",
    "refuse": "iptables -I FORWARD -j REJECT",
}


@effect("flushed")
def flushed(_torture, machine, event):
    def works():
        shell(machine, "/etc/pf9/kube.d/network/network.sh check")
        if "jump services" not in shell(machine, "nft list chain ip kube-proxy nat-prerouting"):
            raise Fail("kube-proxy has no rules")
        return True
    shell(machine, FLUSHES[event.variant], check=False)
    try:
        yield Seen(healed=works)
    finally:
        if event.variant == "refuse":  # a person's rule stays until the person removes it
            shell(machine, "iptables -D FORWARD -j REJECT", check=False)


# -- operators' actions

def allow_operations(machine):
    machine.root.joinpath(SETTLED.strip("/")).write_text('allow = ["ping", "restart", "rotate", "backup", "run-checks"]\n')


@effect("rotate")
def rotated(torture, machine, event):
    path = machine.root / CERTS / event.variant / "request.crt"
    before = path.read_bytes()
    order(torture, machine, "rotate", event.variant)

    def renewed():
        if path.read_bytes() == before:
            raise Fail(f"{event.variant} was not renewed")
        return True
    yield Seen(healed=renewed)


@contextmanager
def plane_with(plane, *options):
    """The plane restarted with these options, and without them at the end."""
    usual = plane.extra
    try:
        plane.stop()
        plane.extra = [*usual, *options]
        plane.start()
        yield
    finally:
        plane.stop()
        plane.extra = usual
        plane.start()


@effect("short-lives")
def short_lives(torture, machine, event):
    """A certificate that lives for minutes: it is renewed before it ends, by itself, and again to one of a year."""
    path = machine.root / CERTS / event.variant / "request.crt"

    def another(than):
        if path.read_bytes() == than:
            raise Fail(f"{event.variant} was not renewed")
        return True

    def long_lived():
        run(["openssl", "x509", "-noout", "-checkend", DAY_SECONDS, "-in", path])
        return True
    with plane_with(torture.demo.plane, "--node-certificate-seconds", LIFE_SECONDS):
        before = path.read_bytes()
        order(torture, machine, "rotate", event.variant)
        wait_for(f"{event.variant} of minutes", lambda: another(before), LIFE_SECONDS, 1)
        short = path.read_bytes()
        wait_for(f"{event.variant} to be renewed before it ends", lambda: another(short), LIFE_SECONDS, 1)
        run(["openssl", "x509", "-noout", "-checkend", 0, "-in", path])
    yield Seen(healed=long_lived)


@effect("order")
def ordered(torture, machine, event):
    order(torture, machine, "restart", event.variant)
    yield Seen()


def order(torture, machine, *words):
    """The host accepts one operation in ten seconds: one refused for that is ordered again."""
    def taken():
        plane = torture.demo.plane
        return run([plane.binary, "host", "order", "--state-dir", plane.dir, up.host_id(machine), *words], timeout=120)
    wait_for(f"{machine.name}: {' '.join(words)}", taken, 90, 2)


@effect("backup")
def backed_up(_torture, machine, event):
    # Beside another one, which nodelet makes on its own, it is busy.
    wait_for(f"{machine.name}: {event.variant}",
             lambda: machine.run(["pf9ctl", "etcd", event.variant], timeout=240), 280, 3)
    yield Seen()


@effect("restore")
def restored(torture, machine, _event):
    with torture.observer.nobody_writes():
        wait_for(f"{machine.name}: backup", lambda: machine.run(["pf9ctl", "etcd", "backup"], timeout=240), 280, 3)
        listed = shell(machine, "ls /var/opt/pf9/etcd-backups")
        newest = sorted(re.findall(r"^(\S+)\.db\.age$", listed, re.M))[-1]
        machine.run(["pf9ctl", "etcd", "restore", newest, "--yes"], timeout=300)
        wait_for("the API after a restore", lambda: torture.observer.api.get("/version"), 180, 1)
    yield Seen()


@effect("detach")
def detached(torture, machine, _event):
    up.detach(torture.demo, [machine.name])
    up.attach_one(torture.demo, machine.name, False)
    yield Seen()


@effect("upgrade")
def upgraded(torture, _machine, _event):
    plane = torture.demo.plane
    plane.admin("cluster", "upgrade", CLUSTER, "--to", torture.newer())
    wait_for("the upgrade", lambda: torture.rolled(), ROLL_SECONDS, 2, torture.demo.logs)
    plane.admin("cluster", "upgrade", CLUSTER, "back")
    wait_for("the way back", lambda: torture.rolled(), ROLL_SECONDS, 2, torture.demo.logs)
    yield Seen()


@effect("agent-upgrade")
def agent_upgraded(torture, _machine, _event):
    now, other = torture.agents()
    for version in (other, now):
        torture.demo.plane.admin("agent", "upgrade", "--to", version, "--percent", "100", "--max-unavailable", "1",
                                 "--prove", "60")
        wait_for(f"the agents to be {version}", lambda: torture.agents_are(version), ROLL_SECONDS, 2, torture.demo.logs)
    yield Seen()

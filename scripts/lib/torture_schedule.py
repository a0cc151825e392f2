"""What happens to the machines, and when: drawn from the seed, and from nothing else.

  events(seed, machines, names)   endless; the same arguments, the same events
  KINDS                           each kind of accident: how often, where, for how long, what it may cost

An event is drawn whole from a random number of its own (seed and number), so the tenth one is the same whether or not
the nine before it were run: a run can be resumed at any of them, and a prefix of a schedule is a schedule.
"""
import random
from dataclasses import asdict, dataclass

MASTER, WORKER, ANY = "master", "worker", "any"

# Containers that may be replaced for an event. HERE: on the affected machine; ELSEWHERE: on others.
# STEADY is the workload of the test, CONTROL the static pods of masters, ADDONS those of the stack.
STEADY, CONTROL, ADDONS = "steady", "control", "addons"
HERE, ELSEWHERE = "here", "elsewhere"
NOBODY = frozenset()
# Add-ons and the control plane's own programs exit when they lose a lease for want of the API.
API_GOES = frozenset({(HERE, CONTROL), (ELSEWHERE, CONTROL), (HERE, ADDONS), (ELSEWHERE, ADDONS)})
MACHINE_GOES = API_GOES | {(HERE, STEADY)}

OURS = ("pf9-comms", "pf9-hostagent", "pf9-nodeletd")
NODE = ("pf9-containerd", "pf9-kubelet", "pf9-kube-proxy")
PODS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
OF_MASTERS = ("pf9-etcd", *PODS)
SMALL = ("/var/log/pf9", "/var/opt/pf9")
KUBE = "/etc/pf9/kube.d"


@dataclass(frozen=True)
class Kind:
    """`variants` of every machine, `masters` of masters as well."""
    weight: int
    variants: tuple
    lasts: tuple = (0, 0)
    within: int = 240
    on: str = ANY
    masters: tuple = ()
    may: frozenset = NOBODY
    masters_may: frozenset = NOBODY


KINDS = {
    "kill": Kind(10, OURS + NODE, masters=OF_MASTERS, masters_may=API_GOES),
    "kill-all": Kind(2, ("agent", "node"), masters_may=API_GOES),
    "hang": Kind(2, OURS, lasts=(0, 0), within=420),
    "hang-of-the-node": Kind(1, NODE, within=480, may=API_GOES),
    "restart": Kind(2, ("agent", *OURS)),
    "power-loss": Kind(3, ("power",), within=300, may=MACHINE_GOES),
    "reboot": Kind(1, ("orderly",), within=300, may=MACHINE_GOES),
    "plane-killed": Kind(2, ("killed", "stopped"), lasts=(5, 90)),
    "cut-from-plane": Kind(3, ("both-ways", "to-it", "from-it", "black-hole"), lasts=(45, 100), masters_may=API_GOES),
    "cut-from-nodes": Kind(2, ("both-ways", "to-them", "from-them"), lasts=(10, 120), may=API_GOES),
    "cut-off": Kind(2, ("both-ways",), lasts=(45, 120), may=API_GOES),
    "slow": Kind(2, ("far", "lossy"), lasts=(20, 90)),
    "disk-full": Kind(3, SMALL, lasts=(5, 60)),
    "no-inodes": Kind(2, SMALL, lasts=(5, 60)),
    "read-only": Kind(2, SMALL[1:], lasts=(5, 60)),  # logs are open for writing, and a file system that is stays writable
    "edited": Kind(4, ("/etc/systemd/system/pf9-kubelet.service", "/etc/systemd/system/pf9-containerd.service",
                       f"{KUBE}/kubelet/config.yaml", f"{KUBE}/kube-proxy/config.yaml",
                       f"{KUBE}/kubeconfigs/kubelet.yaml", "/etc/pf9/containerd/config.toml",
                       "/etc/pf9/cni/net.d/10-pf9.conflist", "/etc/pf9/crictl.yaml"),
                   masters=(f"{KUBE}/manifests/kube-scheduler.yaml", f"{KUBE}/manifests/kube-apiserver.yaml",
                            f"{KUBE}/etcd/etcd.env"),
                   masters_may=API_GOES),
    "wrong-configuration": Kind(1, ("hostagent.toml",), lasts=(5, 30)),
    "flushed": Kind(2, ("iptables", "nftables", "routes", "refuse"), may=API_GOES),
    "rotate": Kind(3, ("kubelet/apiserver", "kubelet/server", "kube-proxy/apiserver", "nodelet/apiserver"),
                   masters=("apiserver", "apiserver/etcd", "apiserver/kubelet", "etcd/client", "etcd/peer", "admin",
                            "kube-scheduler/apiserver")),
    "short-lives": Kind(2, ("kubelet/apiserver", "kube-proxy/apiserver", "nodelet/apiserver"), within=420),
    "order": Kind(2, ("kubelet", "kube-proxy", "containerd", "comms", "hostagent")),
    "backup": Kind(2, ("backup", "drill"), on=MASTER, within=300),
    "restore": Kind(1, ("newest",), on=MASTER, within=420, may=API_GOES),
    "detach": Kind(1, ("and-back",), on=WORKER, within=420, may=MACHINE_GOES),
    "upgrade": Kind(1, ("and-back",), on=MASTER, within=900, may=API_GOES),
    "agent-upgrade": Kind(1, ("and-back",), on=MASTER, within=600),
}
# Only where it was made ready: machines with the older of two stacks, and without pods that a drain would end; a second
# build of the agent, under another version.
ONLY_WHEN_NAMED = ("upgrade", "agent-upgrade")
# How a file is edited.
EDITS = ("a-line-more", "emptied", "removed")
# In this percentage of events something else is killed while the first is still in progress.
ALSO = 35
PAUSE = (0, 25)
# A kind whose end is waited for longer than this takes minutes by its nature (half the life of a certificate, twice; a
# watchdog; a role made anew): no part of a run of two minutes.
BRIEF_SECONDS = 300
# After an event of another kind all is mostly well within this.
WELL_SECONDS = 40


@dataclass(frozen=True)
class Event:
    number: int
    kind: str
    machine: str
    variant: str
    how: str
    lasts: float
    pause: float
    also: tuple  # (machine, unit, after so many seconds), or ()

    @property
    def within(self):
        return KINDS[self.kind].within

    @property
    def needs(self):
        """Seconds that it mostly takes, from its pause to the end."""
        return self.pause + self.lasts + (self.also[2] if self.also else 0) + WELL_SECONDS

    def line(self):
        also = f", and {self.also[1]} of {self.also[0]} killed after {self.also[2]} s" if self.also else ""
        lasts = f" for {self.lasts} s" if self.lasts else ""
        return f"{self.number}: {self.kind} {self.variant} {self.how}".rstrip() + f" on {self.machine}{lasts}{also}"

    def as_json(self):
        return asdict(self)


def is_master(machine):
    return machine.startswith(MASTER)


def fits(kind, machines):
    return [m for m in machines if kind.on == ANY or is_master(m) == (kind.on == MASTER)]


def variants(kind, machine):
    return kind.variants + (kind.masters if is_master(machine) else ())


def drawable(machines, names=()):
    """The kinds that may be drawn: those named, or all default ones."""
    unknown = sorted(set(names) - set(KINDS))
    if unknown:
        raise ValueError(f"no such kind: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    wanted = names or [name for name in KINDS if name not in ONLY_WHEN_NAMED]
    return [name for name in KINDS if name in wanted and fits(KINDS[name], machines)]


def brief(machines):
    """The kinds of a run of a few minutes."""
    return [name for name in drawable(machines) if KINDS[name].within <= BRIEF_SECONDS]


def event(seed, number, machines, names=()):
    dice = random.Random(f"{seed} {number}")
    able = drawable(machines, names)
    if not able:
        raise ValueError("no machine that any of these could happen to")
    name = dice.choices(able, [KINDS[each].weight for each in able])[0]
    kind = KINDS[name]
    machine = dice.choice(fits(kind, machines))
    variant = dice.choice(variants(kind, machine))
    how = dice.choice(EDITS) if name == "edited" else ""
    lasts = round(dice.uniform(*kind.lasts), 1)
    pause = round(dice.uniform(*PAUSE), 1)
    other = dice.choice(machines)
    unit = dice.choice(OURS + NODE)
    also = (other, unit, round(dice.uniform(0, 5), 1)) if dice.randrange(100) < ALSO else ()
    return Event(number, name, machine, variant, how, lasts, pause, also)


def events(seed, machines, names=(), begin=0):
    number = begin
    while True:
        yield event(seed, number, machines, names)
        number += 1


def may_touch(happened, where, group):
    """Whether a container of this group, on machine `where`, may be replaced by the event."""
    kind = KINDS[happened.kind]
    allowed = kind.may | (kind.masters_may if is_master(happened.machine) else NOBODY)
    if happened.kind in ("kill", "edited") and happened.variant in kind.variants:
        allowed = kind.may  # what any machine has is no part of the control plane
    return (HERE if where == happened.machine else ELSEWHERE, group) in allowed

"""The two ends of scripts/bench tunnel, those of its peers, and the load tool.

  Columns   rows of figures, for people or as JSON, and the goals that were not met
  Running   processes of one setup, ended by their ids only
  Lab       the load tool with a running target, and the ways to it: through our two ends, or through a peer
  PEERS     both ends of each peer: its program, arguments and configuration
"""
import contextlib
import dataclasses
import getpass
import json
import os
import queue
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import proc
import tools
from common import Fail, need_packages, run, say, tail, wait_for, warn

BORE, BORE_PORT = "0.6.0", 7835  # the port is fixed in bore
START_SECONDS = 20
# Of a row's figure, where not two.
DIGITS = {"us": 0, "1/s": 0, "1/MiB": 0, "bytes": 0, "MiB": 1}


class Columns:
    """Rows in columns for people, or one JSON object a row."""

    def __init__(self, as_json, others):
        self.as_json, self.others, self.unmet = as_json, others, []
        if not as_json:
            self.line("", "ours", "unit", "goal", "", others)

    @staticmethod
    def short(value, digits=2):
        return value if isinstance(value, int) else round(value, digits if digits and abs(value) < 1000 else None)

    def row(self, name, unit, values, goal=None, digits=None, ratios=()):
        """Each column's value, or ours alone. `goal`: what is at most (`<`) or at least (`>`) wanted; `ratios`: the same of
        ours relative to the best of these peers, as far as they are there: what only a fast machine meets is none."""
        found = values if isinstance(values, dict) else {"ours": values}
        found = {column: value for column, value in found.items() if value is not None}
        digits = DIGITS.get(unit, 2) if digits is None else digits
        others = {column: self.short(value, digits) for column, value in found.items()}
        ours, (better, target) = others.pop("ours", None), goal or (None, None)
        met = None if None in (target, ours) else ours <= target if better == "<" else ours >= target
        if met is False:
            self.unmet.append(name)
        if self.as_json:
            say(json.dumps({"name": name, "unit": unit, "ours": ours, "peers": others, "target": target, "met": met}))
        else:
            self.line(name, "-" if ours is None else ours, unit, "" if target is None else f"{better}= {target:g}",
                      {True: "met", False: "NOT MET", None: ""}[met], [others.get(other, "-") for other in self.others])
        for better, times, names in ratios:
            peers = [peer for peer in names if found.get(peer)]
            if peers and found.get("ours"):
                best = (max if better == ">" else min)(peers, key=found.get)
                of = f"{self.short(found['ours'])} / {self.short(found[best])} of {best}"
                self.row(f"  {name}: {of}", "times", found["ours"] / found[best], (better, times))

    @staticmethod
    def line(name, ours, unit, aim, mark, others):
        say(f"{name:<64}{ours:>9} {unit:<9} {aim:<10}{mark:<9}" + "".join(f"{other:>13}" for other in others))

    def say_unmet(self):
        if self.unmet:
            warn(f"{len(self.unmet)} goals not met: " + "; ".join(self.unmet))


class Running(contextlib.ExitStack):
    """Processes that end with the `with` block, newest first."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    def start(self, cmd, name, pipe=None):
        """`pipe`: this output is read and goes to `lines`, as it comes; the rest to `log`."""
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=f"{name}-", suffix=".log", delete=False) as log:
            outputs = {"stdout": log, "stderr": log} | ({pipe: subprocess.PIPE} if pipe else {})
            child = subprocess.Popen(list(map(str, cmd)), stdin=subprocess.DEVNULL, **outputs)
        child.log, child.lines = log.name, reader(getattr(child, pipe)) if pipe else None
        self.callback(end, child)
        return child

    def first_line(self, cmd, name):
        """Starts something that prints its addresses first."""
        child = self.start(cmd, name, "stdout")
        with contextlib.suppress(queue.Empty):
            return child, child.lines.get(timeout=START_SECONDS)[1].split()
        raise Fail(f"{name} did not start", tail(child.log))


def end(child):
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(3)
    child.kill()
    child.wait()


def reader(pipe):
    """Lines of a pipe with their arrival times."""
    lines = queue.Queue()

    def read():
        for line in pipe:
            lines.put((time.monotonic(), line.decode("utf-8", "replace").rstrip()))
    threading.Thread(target=read, daemon=True).start()
    return lines


def line_with(lines, words, seconds):
    """When a line with any of these words arrived, and the line; None if none did."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(queue.Empty):
        while True:
            at, line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            if any(word in line for word in words):
                return at, line


def free(port=0, host=None):
    """An address of the loopback network where nobody listens; with a fixed port, one where that is free."""
    for last in range(1, 255):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host or f"127.0.0.{last}", port))
            return "{}:{}".format(*probe.getsockname())
    raise Fail(f"port {port} is taken")


def listening(child, address, seconds=START_SECONDS):
    def answers():
        with socket.socket() as probe:
            host, port = address.split(":")
            return child.poll() is not None or probe.connect_ex((host, int(port))) == 0
    wait_for(f"{address} to answer", answers, seconds, 0.02)
    if child.poll() is not None:
        raise Fail(f"it ended with exit code {child.returncode}", tail(child.log))


def installed(package, program):
    need_packages({program: package})
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Fail(f"package {package} has no program {program}")
    return path


@dataclasses.dataclass(frozen=True)
class Way:
    """From a local address, bulk perhaps from another, to the target: the processes of its two ends, and the address that
    controls the relay between them."""
    to: str
    bulk: str
    ends: tuple = ()
    relay: str = ""

    def pids(self):
        """The present processes: some peers have one per tunnel, below others."""
        found = [child.pid for child in self.ends]
        for pid in found:
            found += proc.children(pid)
        return found

    def freeze(self):
        with socket.create_connection(self.relay.split(":"), timeout=5) as control:
            control.sendall(b"f")
            control.recv(1)
        return time.monotonic()


class Lab(Running):
    """The load tool with a running target, and the ways to it. A round trip is a relay between the two ends. TCP ends at it,
    so a TCP handshake takes no time and no TCP window is ever too small: the result is what the ends make of it."""

    def __init__(self, folder):
        super().__init__(folder)
        built, self.pki = tools.release(self.folder / "build.log", loads=True), self.folder / "pki"
        self.program, self.comms = built / "pf9-tunnel-load", built / "pf9-comms"
        run([self.program, "prepare", "--dir", self.pki])

    def __enter__(self):
        _, (self.target,) = self.first_line([self.program, "target"], "target")
        return super().__enter__()

    def ask(self, *words):
        # Of what it says when it fails the last lines are told: its sentence, not where in the program it was.
        return json.loads(run([self.program, *words], timeout=120, env={"RUST_BACKTRACE": "0"}).stdout)

    def load(self, way, words, seconds=1.0, warm=0.3):
        pids = ["--pids", ",".join(map(str, way.pids()))] if way.ends else []
        return self.ask("load", *words.format(way=way).split(), "--target", self.target,
                        "--seconds", seconds, "--warm", warm, *pids)

    def tls(self, seconds, *more):
        return self.ask("tls", "--dir", self.pki, "--seconds", seconds, *more)

    def relay(self, rtt_ms, to, listen):
        """An address whose connections lead to `to`, and that of its control."""
        return (to, "") if rtt_ms is None else self.first_line(
            [self.program, "relay", "--to", to, "--rtt-ms", rtt_ms, "--listen", listen], "relay")[1]

    def ours(self, rtt_ms=None, ping=(), window=()):
        """A plane, which tells its events, and a node, which tells its log."""
        plane, (tunnel, interactive, bulk) = self.first_line(
            [self.program, "plane", "--dir", self.pki, *ping, *window], "plane")
        to, relay = self.relay(rtt_ms, tunnel, free())
        root = Path(tempfile.mkdtemp(dir=self.folder, prefix="node-"))
        run([self.program, "prepare", "--dir", self.pki, "--node", root, "--target", self.target, *ping, "--plane", to])
        node = self.start([self.comms, "--root", root], "pf9-comms", "stderr")
        # Both ends report it: for the node a path that is frozen in between was never up.
        if not (line_with(plane.lines, ["up"], START_SECONDS) and line_with(node.lines, ["tunnel is up"], START_SECONDS)):
            raise Fail("the tunnel did not come up", tail(root / "var/log/pf9/comms/comms.log"))
        return Way(interactive, bulk, (plane, node), relay)

    def peer(self, name, rtt_ms=None, alive=0, pause=None):
        """The same through a peer, or Fail with the reason why it cannot. Of ssh alone: both ends ping each other every
        `alive` seconds; it is restarted `pause` seconds after it ended, as by systemd, and both ends tell their logs."""
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix="peer-"))
        words = {"pki": self.pki, "folder": folder, "alive": alive, "level": "DEBUG1" if pause else "INFO"}
        if name == "openssh":
            run([installed("openssh-client", "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"])
            words["user"] = getpass.getuser()
            if os.geteuid() == 0:
                Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

        def start(which, before=(), **addresses):
            package, program, arguments, text = PEERS[name][which]
            for key, address in addresses.items():
                words.update(zip((key, f"{key}_host", f"{key}_port"), (address, *address.split(":"))))
            words["config"] = folder / f"{which}.conf"
            words["config"].write_text(text.format(**words))
            path = tools.tool(package, BORE, program) if program == "bore" else installed(package, program)
            child = self.start([*before, path, *arguments.format(**words).split()], f"peer-{which}", pause and "stderr")
            listening(child, addresses["at"])
            return child
        fixed = BORE_PORT if name.startswith("bore") else 0
        server = free(fixed)
        far = start(0, at=server, to=self.target, target=self.target)
        to, relay = self.relay(rtt_ms, server, free(fixed))
        local = free(host=server.split(":")[0])
        near = start(1, ["sh", "-c", AGAIN, "again", pause] if pause else [], at=local, to=to)
        return Way(local, local, (far, near), relay)


HAPROXY = ("global\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n"
           "  timeout server 1h\nlisten l\n  bind {at} %s\n  server s {to} %s\n")
STUNNEL = "foreground = yes\npid =\nsyslog = no\nsslVersionMin = TLSv1.3\n%s\n[s]\naccept = {at}\nconnect = {to}\n"
SSHD = ("ListenAddress {at}\nHostKey {folder}/key\nAuthorizedKeysFile {folder}/key.pub\nPidFile none\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nAllowTcpForwarding yes\n"
        "ClientAliveInterval {alive}\nClientAliveCountMax 2\n")
SSH = ("Port {to_port}\nIdentityFile {folder}/key\nUserKnownHostsFile /dev/null\nStrictHostKeyChecking no\nBatchMode yes\n"
       "ExitOnForwardFailure yes\nRemoteForward {at} {target}\nServerAliveInterval {alive}\nServerAliveCountMax 2\n"
       "LogLevel {level}\n")
# The end at the target, then the other one: package, program, arguments, configuration.
PEERS = {
    "haproxy": [("haproxy", "haproxy", "-db -f {config}", HAPROXY % words) for words in (
        ("ssl crt {pki}/server.pem ssl-min-ver TLSv1.3", ""), ("", "ssl verify none"))],
    "stunnel": [("stunnel4", "stunnel4", "{config}", STUNNEL % words) for words in (
        "cert = {pki}/server.pem", "client = yes")],
    "openssh": [("openssh-server", "sshd", "-D -e -f {config}", SSHD),
                ("openssh-client", "ssh", "-N -F {config} {user}@{to_host}", SSH)],
    "bore (plain)": [("bore-cli", "bore", words, "") for words in (
        "server --bind-addr {at_host} --min-port 1024",
        "local {target_port} --local-host {target_host} --to {to_host} --port {at_port}")],
}
# A peer that lives as long as its connection, restarted after each end, after a pause.
AGAIN = 'trap "kill \\$!; exit" TERM; pause=$1; shift; while :; do "$@" & wait $!; sleep "$pause"; done'


def memory_kib(pid, what="VmRSS"):
    """Resident memory of a process; `VmHWM`: its peak."""
    return int(re.search(rf"^{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])


def ticks(pid):
    """User and system time in hundredths of a second: over a second, per cent of a core."""
    fields = proc.stat_fields(pid)
    if not fields:
        raise Fail(f"process {pid} ended while it was measured")
    return sum(map(int, fields[11:13]))

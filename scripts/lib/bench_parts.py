"""The two ends of scripts/bench tunnel, those of its peers, and the load tool.

  Running   processes of one setup, ended by their ids only
  Tool      the load tool, with a running target
  Way       from a local address to the target; Ours: a plane, a pf9-comms and (if wanted) a delay between them
  Delay     a round trip between the two ends of a path; can be frozen and cut
  PEERS     name -> function that starts the same path through that peer, or Fail with the reason why it cannot
  Columns   rows of figures, for people or as JSON, and the goals that were not met
"""
import contextlib
import functools
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

BORE, BORE_CONTROL = "0.6.0", 7835  # the port is fixed in bore
START_SECONDS = 20
MIB = 1024  # of KiB
LOOPBACK = "127.0.0.1"


class Columns:
    """Rows in columns for people, or one JSON object a row."""

    def __init__(self, as_json, others):
        self.as_json, self.others, self.unmet = as_json, others, []
        if not as_json:
            self.line("", "ours", "unit", "goal", "", others)

    @staticmethod
    def short(value, digits=2):
        if value is None or isinstance(value, int):
            return value
        return round(value) if digits == 0 or abs(value) >= 1000 else round(value, digits)

    def row(self, name, unit, ours, others=None, goal=None, digits=2):
        """`goal`: `<` (at most) or `>` (at least), and a number."""
        better, target = goal or (None, None)
        others = {key: self.short(value, digits) for key, value in (others or {}).items() if value is not None}
        ours = self.short(ours, digits)
        met = None if target is None or ours is None else (ours <= target if better == "<" else ours >= target)
        if met is False:
            self.unmet.append(name)
        if self.as_json:
            say(json.dumps({"name": name, "unit": unit, "ours": ours, "peers": others, "target": target, "met": met}))
            return
        self.line(name, "-" if ours is None else ours, unit, "" if target is None else f"{better}= {target:g}",
                  {True: "met", False: "NOT MET", None: ""}[met], [others.get(name, "-") for name in self.others])

    @staticmethod
    def line(name, ours, unit, aim, mark, others):
        say(f"{name:<64}{ours:>9} {unit:<9} {aim:<10}{mark:<9}" + "".join(f"{other:>13}" for other in others))

    def say_unmet(self):
        if self.unmet:
            warn(f"{len(self.unmet)} goals not met: " + "; ".join(self.unmet))


class Running:
    """Processes that end with the `with` block, newest first."""

    def __init__(self, folder):
        self.folder, self.children = Path(folder), []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        deadline = time.monotonic() + 3
        for child in reversed(self.children):
            child.terminate()
        for child in reversed(self.children):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, deadline - time.monotonic()))
            child.kill()
            child.wait()

    def start(self, cmd, name, **pipes):
        log = self.folder / f"{name}-{len(self.children)}.log"
        with open(log, "wb") as sink:
            child = subprocess.Popen(list(map(str, cmd)), stdin=subprocess.DEVNULL,
                                     **{"stdout": sink, "stderr": sink, **pipes})
        child.log = log
        self.children.append(child)
        return child

    def first_line(self, cmd, name):
        """Starts something that prints its addresses first; the rest of its lines come from the queue."""
        child = self.start(cmd, name, stdout=subprocess.PIPE)
        lines = reader(child.stdout)
        try:
            return child, lines.get(timeout=START_SECONDS)[1].split(), lines
        except queue.Empty:
            raise Fail(f"{name} did not start", tail(child.log)) from None


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


class Way:
    """A path from a local address to the target: where to connect, and the processes in between."""

    def __init__(self, to, pids, bulk_to=None, delay=None):
        self.to, self.bulk_to, self.ends, self.delay = to, bulk_to or to, pids, delay

    def pids(self):
        """The present processes: some peers have one per tunnel, below others."""
        found = list(self.ends)
        for pid in found:
            found += proc.children(pid)
        return found


class Tool:
    """The load tool, with a running target."""

    def __init__(self, folder, running):
        self.folder, self.pki = Path(folder), Path(folder) / "pki"
        built = tools.release(self.folder / "build.log")
        self.program, self.comms = built / "pf9-tunnel-load", built / "pf9-comms"
        _, (self.target,), _ = running.first_line([self.program, "target"], "target")
        self.direct = Way(self.target, [])
        run([self.program, "prepare", "--dir", self.pki])

    def load(self, verb, path, *more, seconds=1.0, warm=0.3, to=None):
        pids = path.pids()
        more = [*more, "--pids", ",".join(map(str, pids))] if pids else more
        # Of what it says when it fails the last lines are told: its sentence, not where in the program it was.
        return json.loads(run([self.program, "load", verb, "--to", to or path.to, "--target", self.target,
                               "--seconds", seconds, "--warm", warm, *more], timeout=120, env={"RUST_BACKTRACE": "0"}).stdout)

    def tls(self, seconds, *more):
        return json.loads(run([self.program, "tls", "--dir", self.pki, "--seconds", seconds, *more], timeout=60).stdout)


class Delay:
    """A relay between the ends of a path. TCP ends at it, so a TCP handshake takes no time and no TCP window
    is ever too small there: the result is what the two ends make of a round trip."""

    def __init__(self, tool, running, rtt_ms):
        self.tool, self.running, self.rtt_ms = tool, running, rtt_ms

    def before(self, to, listen=f"{LOOPBACK}:0"):
        """An address whose connections lead to `to`."""
        _, (address, self.control), _ = self.running.first_line(
            [self.tool.program, "relay", "--to", to, "--rtt-ms", self.rtt_ms, "--listen", listen], "relay")
        return address

    def freeze(self):
        host, port = self.control.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=5) as control:
            control.sendall(b"f")
            control.recv(1)
        return time.monotonic()


class Ours(Way):
    """A plane and a node. `lines` are the plane's events, `words` the node's log."""

    def __init__(self, tool, running, rtt_ms=None, window_mib=None, ping_s=None):
        ping = ["--ping-s", ping_s] if ping_s else []
        window = ["--window-mib", window_mib] if window_mib else []
        plane, (tunnel, interactive, bulk), self.lines = running.first_line(
            [tool.program, "plane", "--dir", tool.pki, *ping, *window], "plane")
        delay = None if rtt_ms is None else Delay(tool, running, rtt_ms)
        root = Path(tempfile.mkdtemp(dir=tool.folder, prefix="node-"))
        run([tool.program, "prepare", "--dir", tool.pki, "--node", root, "--target", tool.target, *ping,
             "--plane", delay.before(tunnel) if delay else tunnel])
        node = running.start([tool.comms, "--root", root], "pf9-comms", stderr=subprocess.PIPE)
        self.words = reader(node.stderr)
        super().__init__(interactive, [plane.pid, node.pid], bulk, delay)
        # Both ends report it: for the node a path that is frozen in between was never up.
        if not (line_with(self.lines, ["up"], START_SECONDS) and line_with(self.words, ["tunnel is up"], START_SECONDS)):
            raise Fail("the tunnel did not come up", tail(root / "var/log/pf9/comms/comms.log"))

    def waited(self):
        """Seconds the node chose to wait after the session that just ended; None if it does not report it."""
        down = line_with(self.words, ["tunnel-down"], START_SECONDS)
        drawn = re.search(r"wait_ms=(\d+)", down[1]) if down else None
        return drawn and int(drawn.group(1)) / 1000


def free(port=0):
    """A host and port of the loopback network where nobody listens; with a fixed port, if it is free."""
    for last in range(1, 255):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((f"127.0.0.{last}", port))
            return probe.getsockname()
    raise Fail(f"port {port} is taken")


def listening(child, port, host=LOOPBACK):
    def ask():
        if child.poll() is not None:
            raise Fail(f"it ended with exit code {child.returncode}", tail(child.log))
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=1).close()
            return True
    wait_for(f"port {port} to answer", ask, START_SECONDS, 0.05)
    return child.pid


def installed(package, probe=None):
    need_packages({probe or package: package})
    path = shutil.which(probe or package, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Fail(f"package {package} has no program {probe or package}")
    return path


def through(running, delay, far, near, control=0, **heard):
    """A path through a peer: `far(host, port)` is the command of its end at the target, `near(host, port, to)` that of the
    other. `heard`: both ends' logs are read from their pipes."""
    host, port = free(control)
    server = running.start(far(host, port), "far", **heard)
    listening(server, port, host)
    to = delay.before(f"{host}:{port}", f"{free(control)[0]}:{control}") if delay else f"{host}:{port}"
    local = free()[1]
    client = running.start(near(host, local, to), "near", **heard)
    way = Way(f"{host}:{local}", [server.pid, client.pid], delay=delay)
    if heard:
        way.lines, way.words = reader(server.stderr), reader(client.stderr)
    listening(client, local, host)
    return way


# Two of one program with TLS between them: its package, flags, configuration, and the words of each end in that.
CONFIGURED = {
    "haproxy": ("haproxy", ["-db", "-f"],
                "global\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n"
                "  timeout server 1h\nlisten l\n  bind {at} {0}\n  server s {to} {1}\n",
                {"far": ("ssl crt {pki}/server.pem ssl-min-ver TLSv1.3", ""), "near": ("", "ssl verify none")}),
    "stunnel": ("stunnel4", [],
                "foreground = yes\npid =\nsyslog = no\nsslVersionMin = TLSv1.3\n{0}\n[s]\naccept = {at}\nconnect = {to}\n",
                {"far": ("cert = {pki}/server.pem",), "near": ("client = yes",)}),
}


def configured(name, tool, running, delay=None):
    package, flags, text, words = CONFIGURED[name]
    program = installed(package)

    def end(which, host, port, to):
        config = running.folder / f"{which}.conf"
        config.write_text(text.format(*(word.format(pki=tool.pki) for word in words[which]), at=f"{host}:{port}", to=to))
        return [program, *flags, config]
    return through(running, delay, lambda *at: end("far", *at, tool.target), lambda *at_to: end("near", *at_to))


# A peer that lives as long as its connection, restarted after each end, after a pause.
AGAIN = 'trap "kill \\$!; exit" TERM; pause=$1; shift; while :; do "$@" & wait $!; sleep "$pause"; done'


def openssh(tool, running, delay=None, alive_s=None, pause=None):
    """One connection of ssh. `alive_s`: both ends ping each other that often and give up at the third silence;
    `pause`: ssh is restarted that many seconds after it ended, as a systemd unit would be."""
    sshd = installed("openssh-server", "/usr/sbin/sshd")
    ssh, keygen = (installed("openssh-client", name) for name in ("ssh", "ssh-keygen"))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    host_key, user_key = (running.folder / name for name in ("host", "user"))
    for key in (host_key, user_key):
        run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", key])

    def options(side, *words):
        alive = (f"{side}AliveInterval={alive_s}", f"{side}AliveCountMax=2") if alive_s else ()
        return [word for option in (*words, *alive) for word in ("-o", option)]

    def far(host, port):
        return [sshd, "-D", "-e", "-f", "/dev/null", *options(
            "Client", f"ListenAddress={host}:{port}", f"HostKey={host_key}", f"AuthorizedKeysFile={user_key}.pub",
            "PidFile=none", "StrictModes=no", "UsePAM=no", "PasswordAuthentication=no",
            "PermitRootLogin=prohibit-password", "AllowTcpForwarding=yes")]

    def near(host, port, to):
        return [*(["sh", "-c", AGAIN, "again", pause] if pause else []), ssh, "-N", "-F", "none", "-i", user_key,
                "-p", to.rsplit(":", 1)[1], *options(
                    "Server", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ExitOnForwardFailure=yes",
                    "BatchMode=yes", *(["LogLevel=DEBUG1"] if pause else [])),
                "-R", f"{host}:{port}:{tool.target}", f"{getpass.getuser()}@{host}"]
    # Of a persistent one is read when its ends give up, and when the port listens again.
    return through(running, delay, far, near, **({"stderr": subprocess.PIPE} if pause else {}))


def bore(tool, running, delay=None):
    program = tools.tool("bore-cli", BORE, "bore")
    return through(running, delay, lambda host, _: [program, "server", "--bind-addr", host, "--min-port", 1024],
                   lambda _, port, to: [program, "local", tool.target.rsplit(":", 1)[1], "--local-host", LOOPBACK,
                                        "--to", to.rsplit(":", 1)[0], "--port", port], BORE_CONTROL)


PEERS = {**{name: functools.partial(configured, name) for name in CONFIGURED}, "openssh": openssh, "bore (plain)": bore}


def memory_kib(pid, what="VmRSS"):
    """Resident memory of a process; `VmHWM`: its peak."""
    return int(re.search(rf"^{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])


def ticks(pid):
    """User and system time in hundredths of a second: over a second, per cent of a core."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))

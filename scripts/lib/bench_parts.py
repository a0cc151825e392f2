"""The two ends of scripts/bench tunnel, those of its peers, and the load tool.

  Running   processes of one setup, ended by their ids only
  Tool      the load tool, with a running target
  Way       from a local address to the target; Ours: a plane, a pf9-comms and (if wanted) a delay between them
  Delay     a round trip between the two ends of a path; can be frozen and cut
  PEERS     name -> function that starts the same path through that peer, or Fail with the reason why it cannot
  Columns   rows of figures, for people or as JSON, and the goals that were not met
"""
import contextlib
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

import tools
from common import REPO, Fail, need_packages, run, say, tail, wait_for, warn

BORE, BORE_CONTROL = "0.6.0", 7835  # the port is fixed in bore
START_SECONDS = 20
MIB = 1024  # of KiB
LOOPBACK = "127.0.0.1"


class Columns:
    """Rows in columns for people, or one JSON object a row."""

    def __init__(self, as_json, others):
        self.as_json, self.others, self.titled, self.unmet = as_json, others, False, []

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
        if not self.titled:
            self.titled = True
            say(f"{'':<64}{'ours':>9} {'unit':<9} {'goal':<10}{'':<9}" + "".join(f"{name:>13}" for name in self.others))
        aim = "" if target is None else f"{better}= {target:g}"
        mark = {True: "met", False: "NOT MET", None: ""}[met]
        beside = "".join(f"{others.get(name, '-'):>13}" for name in self.others)
        say(f"{name:<64}{'-' if ours is None else ours:>9} {unit:<9} {aim:<10}{mark:<9}{beside}")

    def say_unmet(self):
        if self.unmet:
            warn(f"{len(self.unmet)} goals not met: " + "; ".join(self.unmet))


def allocations(log):
    """{what: (allocations, their bytes)} per frame, both ends, as crates/tunnel/tests/alloc.rs counts them: not the load
    tool's work, since counting slows both. The build is that of all tests: optimisation changes no count."""
    tools.need_rust()
    done = run(["cargo", "test", "--locked", "--workspace", "--all-features", "--test", "alloc", "--", "--nocapture",
                "--test-threads", "1"], cwd=REPO, timeout=tools.BUILD_SECONDS)
    log.write_text(done.stdout)
    counted = re.findall(r"^(allocations|bytes allocated) per frame: (.+?): ([0-9.]+)", done.stdout, re.M)
    sizes = {what: float(value) for kind, what, value in counted if kind != "allocations"}
    return {what: (float(value), sizes[what]) for kind, what, value in counted if kind == "allocations"}


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
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def start(self, cmd, name, **pipes):
        log = self.folder / f"{name}-{len(self.children)}.log"
        with open(log, "wb") as sink:
            try:
                child = subprocess.Popen(list(map(str, cmd)), stdin=subprocess.DEVNULL,
                                         **{"stdout": sink, "stderr": sink, **pipes})
            except OSError as error:
                raise Fail(f"cannot start {name}", str(error)) from error
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

    def __init__(self, to, pids, bulk_to=None, trees=False):
        self.to, self.bulk_to, self._pids, self.trees = to, bulk_to or to, pids, trees

    def pids(self):
        """The present processes: some peers have one per tunnel."""
        found = list(self._pids)
        for pid in found if self.trees else ():
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
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
        return json.loads(run([self.program, "load", verb, "--to", to or path.to, "--target", self.target,
                               "--seconds", seconds, "--warm", warm, *more], timeout=120).stdout)

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
        if rtt_ms is not None:
            self.delay = Delay(tool, running, rtt_ms)
            tunnel = self.delay.before(tunnel)
        root = Path(tempfile.mkdtemp(dir=tool.folder, prefix="node-"))
        run([tool.program, "prepare", "--dir", tool.pki, "--node", root, "--plane", tunnel, "--target", tool.target, *ping])
        node = running.start([tool.comms, "--root", root], "pf9-comms", stderr=subprocess.PIPE)
        self.words = reader(node.stderr)
        super().__init__(interactive, [plane.pid, node.pid], bulk)
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
    probe = probe or package
    try:
        need_packages({probe: package})
    except Fail as fail:
        raise Fail(f"{package} cannot be installed", fail.why) from fail
    return shutil.which(probe, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or probe


def pair(tool, running, delay, program, flags, text):
    """Two of one program, TLS between them; `text` writes the configuration of one: its name, its port, its target."""
    program, (near, far) = installed(program), (free()[1] for _ in range(2))
    between = delay.before(f"{LOOPBACK}:{far}") if delay else f"{LOOPBACK}:{far}"
    pids = []
    for name, port, to in (("far", far, tool.target), ("near", near, between)):
        config = running.folder / f"{name}.conf"
        config.write_text(text(name, port, to))
        pids.append(listening(running.start([program, *flags, config], name), port))
    return Way(f"{LOOPBACK}:{near}", pids)


def haproxy(tool, running, delay=None):
    tls = {"far": (f"ssl crt {tool.pki}/server.pem ssl-min-ver TLSv1.3", ""), "near": ("", "ssl verify none")}
    return pair(tool, running, delay, "haproxy", ["-db", "-f"], lambda name, port, to: (
        "global\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
        f"listen {name}\n  bind {LOOPBACK}:{port} {tls[name][0]}\n  server s {to} {tls[name][1]}\n"))


def stunnel(tool, running, delay=None):
    side = {"far": f"cert = {tool.pki}/server.pem", "near": "client = yes"}
    return pair(tool, running, delay, "stunnel4", [], lambda name, port, to: (
        f"foreground = yes\npid =\nsyslog = no\nsslVersionMin = TLSv1.3\n{side[name]}\n"
        f"[{name}]\naccept = {LOOPBACK}:{port}\nconnect = {to}\n"))


# A peer that lives as long as its connection, restarted after each end, after a pause.
AGAIN = 'trap "kill \\$!; exit" TERM; pause=$1; shift; while :; do "$@" & wait $!; sleep "$pause"; done'


def openssh(tool, running, delay=None, alive_s=None, pause=None):
    """One connection of ssh. `alive_s`: both ends ping each other that often and give up at the third silence;
    `pause`: ssh is restarted that many seconds after it ended, as a systemd unit would be."""
    sshd = installed("openssh-server", "/usr/sbin/sshd")
    ssh, keygen = (installed("openssh-client", name) for name in ("ssh", "ssh-keygen"))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    folder, (_, server), (_, near) = running.folder, free(), free()
    for name in ("host", "user"):
        run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name])

    def alive(side):
        return [f"{side}AliveInterval={alive_s}", f"{side}AliveCountMax=2"] if alive_s else []

    def options(*words):
        return [word for option in words for word in ("-o", option)]
    # For a persistent one both ends' logs are read: when they give up, and when the port listens again.
    heard = {"stderr": subprocess.PIPE} if pause else {}
    daemon = running.start(
        [sshd, "-D", "-e", "-f", "/dev/null", *options(
            f"ListenAddress={LOOPBACK}:{server}", f"HostKey={folder}/host", f"AuthorizedKeysFile={folder}/user.pub",
            "PidFile=none", "StrictModes=no", "UsePAM=no", "PasswordAuthentication=no",
            "PermitRootLogin=prohibit-password", "AllowTcpForwarding=yes", *alive("Client"))], "sshd", **heard)
    listening(daemon, server)
    port = delay.before(f"{LOOPBACK}:{server}").rsplit(":", 1)[1] if delay else server
    client = running.start(
        [*(["sh", "-c", AGAIN, "again", pause] if pause else []), ssh, "-N", "-F", "none", "-i", folder / "user",
         "-p", port, *options("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ExitOnForwardFailure=yes",
                              "BatchMode=yes", *(["LogLevel=DEBUG1"] if pause else []), *alive("Server")),
         "-R", f"{LOOPBACK}:{near}:{tool.target}", f"{getpass.getuser()}@{LOOPBACK}"], "ssh", **heard)
    way = Way(f"{LOOPBACK}:{near}", [daemon.pid, client.pid], trees=True)
    way.delay = delay
    if pause:
        way.lines, way.words = reader(daemon.stderr), reader(client.stderr)
    listening(client, near)
    return way


def bore(tool, running, delay=None):
    program, (_, near) = tools.tool("bore-cli", BORE, "bore"), free()
    at = to = free(BORE_CONTROL)[0]
    server = running.start([program, "server", "--bind-addr", at, "--min-port", 1024], "bore-server")
    listening(server, BORE_CONTROL, at)
    if delay:
        to = free(BORE_CONTROL)[0]
        delay.before(f"{at}:{BORE_CONTROL}", f"{to}:{BORE_CONTROL}")
    client = running.start([program, "local", tool.target.rsplit(":", 1)[1], "--local-host", LOOPBACK, "--to", to,
                            "--port", near], "bore-local")
    listening(client, near, at)
    return Way(f"{at}:{near}", [server.pid, client.pid])


PEERS = {"haproxy": haproxy, "stunnel": stunnel, "openssh": openssh, "bore (plain)": bore}


class Peers:
    """Peers by name; unavailable ones are reported once and left out. Each path has a directory of its own."""

    def __init__(self, tool, stack, names):
        self.tool, self.stack, self.names = tool, stack, list(names)

    def at(self, rtt_ms):
        """All of them with this round trip between their ends; None: none."""
        found = {name: self.one(name, rtt_ms) for name in self.names}
        self.names = [name for name in self.names if found[name]]
        return {name: found[name] for name in self.names}

    def one(self, name, rtt_ms=None, **more):
        if name not in self.names:
            return None
        running = Running(tempfile.mkdtemp(dir=self.tool.folder, prefix=f"{name.split()[0]}-"))
        try:
            way = PEERS[name](self.tool, running, None if rtt_ms is None else Delay(self.tool, running, rtt_ms), **more)
        except Fail as fail:
            running.__exit__()
            warn(f"left out: {name}: {fail}")
            return None
        self.stack.push(running)
        return way


def memory_kib(pid, what="VmRSS"):
    """Resident memory of a process; `VmHWM`: its peak."""
    return int(re.search(rf"^{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])


def ticks(pid):
    """User and system time in hundredths of a second: over a second, per cent of a core."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))

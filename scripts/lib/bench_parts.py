"""Parts of the tunnel benchmark: our two ends, the peers, and what the load tool can be asked.

  Tool      the load tool and pf9-comms, built; runs measurements
  Running   processes of one set-up, ended by their ids only
  Delay     a round trip between the two ends of a path; can be frozen and cut
  Ours      a plane, a pf9-comms and (if wanted) a delay between them
  PEERS     name -> function that starts the same path through that peer, or Fail with the reason it cannot
  Peers     those that can be had here; each path of them is started once
"""
import contextlib
import getpass
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import tools
from common import REPO, Fail, need_packages, run, tail, wait_for, warn

BORE = "0.6.0"
BORE_CONTROL = 7835  # fixed in bore
START_SECONDS = 20
MIB = 1024  # of KiB
TUNNEL_UP = "tunnel is up"


def allocations(log):
    """What crates/tunnel/tests/alloc.rs counts, of both ends: {what: (allocations, bytes of them)} for a frame. Not the load tool's work: whatever counts allocations
    makes each of them slower. The build is the one all tests use; how often something is allocated does not depend on
    optimisation."""
    tools.need_rust()
    done = run(["cargo", "test", "--locked", "--workspace", "--all-features", "--test", "alloc", "--", "--nocapture",
                "--test-threads", "1"], cwd=REPO, timeout=tools.BUILD_SECONDS)
    log.write_text(done.stdout)
    counted = {"allocations per frame": {}, "bytes allocated per frame": {}}
    for line in done.stdout.splitlines():
        words = line.split(": ")
        if words[0] in counted:
            counted[words[0]][words[1]] = float(words[2])
    each, sizes = counted.values()
    return {what: (number, sizes[what]) for what, number in each.items()}


def build(log):
    """The load tool and pf9-comms, release build."""
    folder = tools.release(log)
    return folder / "pf9-tunnel-load", folder / "pf9-comms"


class Running:
    """Processes that end with the `with` block, newest first."""

    def __init__(self, folder):
        self.folder, self.children, self.logs = Path(folder), [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in reversed(self.children):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 3
        for child in reversed(self.children):
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            for pipe in (child.stdout, child.stderr):
                if pipe:
                    pipe.close()

    def start(self, cmd, name, **kwargs):
        log = self.folder / f"{name}-{len(self.children)}.log"
        with open(log, "wb") as sink:
            kwargs = {"stdout": sink, "stderr": sink, **kwargs}
            try:
                child = subprocess.Popen([str(word) for word in cmd], stdin=subprocess.DEVNULL, **kwargs)
            except OSError as error:
                raise Fail(f"cannot start {name}", str(error)) from error
        child.log = log
        self.children.append(child)
        return child

    def first_line(self, cmd, name):
        """Start something that prints its addresses first; the rest of its lines come from the queue."""
        child = self.start(cmd, name, stdout=subprocess.PIPE)
        lines = reader(child.stdout)
        try:
            return child, lines.get(timeout=START_SECONDS)[1].split(), lines
        except queue.Empty:
            raise Fail(f"{name} did not start", tail(child.log)) from None


def reader(pipe):
    """Lines of a pipe with the time they came."""
    lines = queue.Queue()

    def read():
        with contextlib.suppress(ValueError):
            for line in pipe:
                lines.put((time.monotonic(), line.decode("utf-8", "replace").rstrip()))
    threading.Thread(target=read, daemon=True).start()
    return lines


def line_with(lines, words, seconds):
    """When a line with any of these words came, and the line; None when none came."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            at, line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None
        if any(word in line for word in words):
            return at, line


class Way:
    """A way from a local address to the target: where to connect, and the processes in between."""

    def __init__(self, to, pids, bulk_to=None, trees=False):
        self.to, self.bulk_to, self._pids, self.trees = to, bulk_to or to, pids, trees

    def pids(self):
        """The processes now: some peers have one for each tunnel."""
        found = list(self._pids)
        for pid in found if self.trees else ():
            with contextlib.suppress(OSError):
                found += [int(w) for w in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found


class Tool:
    """The load tool, with a target that runs."""

    def __init__(self, folder, program, comms, running):
        self.program, self.comms, self.folder = program, comms, Path(folder)
        _, (self.target,), _ = running.first_line([program, "target"], "target")
        self.direct = Way(self.target, [])

    def load(self, verb, path, *more, seconds=1.0, warm=0.3, to=None):
        pids = path.pids()
        cmd = [self.program, "load", verb, "--to", to or path.to, "--target", self.target,
               "--seconds", seconds, "--warm", warm, *more]
        if pids:
            cmd += ["--pids", ",".join(map(str, pids))]
        return json.loads(run(cmd, timeout=120).stdout)

    def tls(self, seconds, plain=False):
        cmd = [self.program, "tls", "--dir", self.pki(), "--seconds", seconds, *(["--plain"] if plain else [])]
        return json.loads(run(cmd, timeout=60).stdout)

    def pki(self):
        folder = self.folder / "pki"
        if not folder.exists():
            run([self.program, "prepare", "--dir", folder])
        return folder


class Delay:
    """A relay between the ends of a path. TCP ends at it, so a handshake of TCP takes no time and no window of TCP
    is ever too small there: what is seen is what the two ends make of a round trip."""

    def __init__(self, tool, running, rtt_ms):
        self.tool, self.running, self.rtt_ms = tool, running, rtt_ms

    def before(self, to, listen="127.0.0.1:0"):
        """The address whose connections lead to `to`."""
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
        more = ping + (["--window-mib", window_mib] if window_mib else [])
        plane, (tunnel, interactive, bulk), self.lines = running.first_line(
            [tool.program, "plane", "--dir", tool.pki(), *more], "plane")
        if rtt_ms is not None:
            self.delay = Delay(tool, running, rtt_ms)
            tunnel = self.delay.before(tunnel)
        root = Path(tempfile.mkdtemp(dir=tool.folder, prefix="node-"))
        run([tool.program, "prepare", "--dir", tool.pki(), "--node", root, "--plane", tunnel, "--target", tool.target,
             *ping])
        node = running.start([tool.comms, "--root", root], "pf9-comms", stderr=subprocess.PIPE)
        self.words = reader(node.stderr)
        super().__init__(interactive, [plane.pid, node.pid], bulk)
        # Both ends say so: a path that is frozen in between is one that was never up for the node.
        if not (line_with(self.lines, ["up"], START_SECONDS) and line_with(self.words, [TUNNEL_UP], START_SECONDS)):
            raise Fail("the tunnel did not come up", tail(root / "var/log/pf9/comms/comms.log"))

    def waited(self):
        """Seconds the node drew to wait after the session that just ended; None when it does not say."""
        down = line_with(self.words, ["tunnel-down"], START_SECONDS)
        drawn = re.search(r"wait_ms=(\d+)", down[1]) if down else None
        return drawn and int(drawn.group(1)) / 1000


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_host(port):
    """An address of the loopback network where nobody has this port yet."""
    for last in range(1, 255):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((f"127.0.0.{last}", port))
            return f"127.0.0.{last}"
    raise Fail(f"port {port} is taken")


def listening(port, child, host="127.0.0.1"):
    def ask():
        if child.poll() is not None:
            raise Fail(f"it ended with exit code {child.returncode}", tail(child.log))
        try:
            socket.create_connection((host, port), timeout=1).close()
            return True
        except OSError:
            return False
    wait_for(f"port {port} to answer", ask, START_SECONDS, 0.05)


def installed(probe, package):
    try:
        need_packages({probe: package})
    except Fail as fail:
        raise Fail(f"{package} cannot be installed", fail.why) from fail
    return shutil.which(probe, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or probe


def haproxy(tool, running, delay=None):
    program, near, far = installed("haproxy", "haproxy"), free_port(), free_port()
    between = delay.before(f"127.0.0.1:{far}") if delay else f"127.0.0.1:{far}"
    common = ("global\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n"
              "  timeout server 1h\n")
    hops = {
        "far": (far, f"ssl crt {tool.pki()}/server.pem ssl-min-ver TLSv1.3", f"server s {tool.target}"),
        "near": (near, "", f"server s {between} ssl verify none"),
    }
    pids = []
    for name, (port, bind, server) in hops.items():
        config = running.folder / f"haproxy-{name}.cfg"
        config.write_text(f"{common}listen {name}\n  bind 127.0.0.1:{port} {bind}\n  {server}\n")
        child = running.start([program, "-db", "-f", config], f"haproxy-{name}")
        listening(port, child)
        pids.append(child.pid)
    return Way(f"127.0.0.1:{near}", pids)


def stunnel(tool, running, delay=None):
    program, near, far = installed("stunnel4", "stunnel4"), free_port(), free_port()
    between = delay.before(f"127.0.0.1:{far}") if delay else f"127.0.0.1:{far}"
    hops = {
        "far": f"cert = {tool.pki()}/server.pem\n[far]\naccept = 127.0.0.1:{far}\nconnect = {tool.target}\n",
        "near": f"client = yes\n[near]\naccept = 127.0.0.1:{near}\nconnect = {between}\n",
    }
    pids = []
    for name, text in hops.items():
        config = running.folder / f"stunnel-{name}.conf"
        config.write_text(f"foreground = yes\npid =\nsyslog = no\nsslVersionMin = TLSv1.3\n{text}")
        child = running.start([program, config], f"stunnel-{name}")
        listening(far if name == "far" else near, child)
        pids.append(child.pid)
    return Way(f"127.0.0.1:{near}", pids)


# A peer that lives as long as its connection, started again whenever it ended, after a pause.
AGAIN = 'trap "kill \\$!; exit" TERM; pause=$1; shift; while :; do "$@" & wait $!; sleep "$pause"; done'


def openssh(tool, running, delay=None, alive_s=None, pause=None):
    """One connection of ssh. `alive_s`: both ends ask each other that often and give up at the third silence;
    `pause`: ssh is started again that many seconds after it ended, as a unit of systemd would be."""
    sshd = installed("/usr/sbin/sshd", "openssh-server")
    ssh, keygen = installed("ssh", "openssh-client"), installed("ssh-keygen", "openssh-client")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    folder, server, near = running.folder, free_port(), free_port()
    for name in ("host", "user"):
        if not (folder / name).exists():
            run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name])
    (folder / "sshd.conf").write_text(
        f"ListenAddress 127.0.0.1:{server}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        "AllowTcpForwarding yes\n" + (f"ClientAliveInterval {alive_s}\nClientAliveCountMax 2\n" if alive_s else ""))
    # Of one that is kept, it is read what both ends say: when they give up, and when the port listens again.
    heard = {"stderr": subprocess.PIPE} if pause else {}
    daemon = running.start([sshd, "-D", "-e", "-f", folder / "sshd.conf"], "sshd", **heard)
    listening(server, daemon)
    port = delay.before(f"127.0.0.1:{server}").rsplit(":", 1)[1] if delay else server
    more = ["-o", f"ServerAliveInterval={alive_s}", "-o", "ServerAliveCountMax=2"] if alive_s else []
    again, loud = (["sh", "-c", AGAIN, "again", pause], ["-o", "LogLevel=DEBUG1"]) if pause else ([], [])
    client = running.start(
        [*again, ssh, "-N", "-F", "none", "-i", folder / "user", "-p", port, "-o", "StrictHostKeyChecking=no",
         "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes",
         *loud, *more, "-R", f"127.0.0.1:{near}:{tool.target}", f"{getpass.getuser()}@127.0.0.1"], "ssh", **heard)
    way = Way(f"127.0.0.1:{near}", [daemon.pid, client.pid], trees=True)
    way.delay = delay
    if pause:
        way.lines, way.words = reader(daemon.stderr), reader(client.stderr)
    listening(near, client)
    return way


def bore(tool, running, delay=None):
    program, near = tools.tool("bore-cli", BORE, "bore"), free_port()
    # Its port is fixed, its address is not.
    at = free_host(BORE_CONTROL)
    server = running.start([program, "server", "--bind-addr", at, "--min-port", 1024], "bore-server")
    listening(BORE_CONTROL, server, at)
    to = at
    if delay:
        to = free_host(BORE_CONTROL)
        delay.before(f"{at}:{BORE_CONTROL}", f"{to}:{BORE_CONTROL}")
    client = running.start([program, "local", tool.target.rsplit(":", 1)[1], "--local-host", "127.0.0.1",
                            "--to", to, "--port", near], "bore-local")
    listening(near, client, at)
    return Way(f"{at}:{near}", [server.pid, client.pid])


PEERS = {"haproxy": haproxy, "stunnel": stunnel, "openssh": openssh, "bore (plain)": bore}


class Peers:
    """Peers by name; those that cannot be had are said once and left out. Each path has a folder of its own."""

    def __init__(self, tool, stack, names):
        self.tool, self.stack, self.names, self.made = tool, stack, list(names), {}

    def at(self, rtt_ms):
        """All of them with this round trip between their ends; None: none."""
        if rtt_ms not in self.made:
            found = {name: self.one(name, rtt_ms) for name in self.names}
            self.names = [name for name in self.names if found[name]]
            self.made[rtt_ms] = {name: found[name] for name in self.names}
        return {name: way for name, way in self.made[rtt_ms].items() if name in self.names}

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
    """Resident memory of a process; `VmHWM`: the most it ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(f"{what}:")).split()[1])


def ticks(pid):
    """User and system time in hundredths of a second: over a second, per cent of a core."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))

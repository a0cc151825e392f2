"""Parts of the tunnel benchmark: our two ends, the peers, and what the load tool can be asked.

  Tool      the load tool and pf9-comms, built; runs measurements
  Running   processes of one set-up, ended by their ids only
  ours      a plane, a pf9-comms and (if wanted) a delay between them
  PEERS     name -> function that starts the same path through that peer, or Fail with the reason it cannot
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
from common import REPO, Fail, need_packages, run, say, tail, wait_for

BORE = "0.6.0"
BORE_CONTROL = 7835  # fixed in bore
START_SECONDS = 20
TUNNEL_UP = "tunnel is up"


def allocations(log):
    """What tests/alloc.rs counts: {what: allocations per frame}. Not the load tool's work: whatever counts allocations
    makes each of them slower. The build is the one all tests use; how often something is allocated does not depend on
    optimisation."""
    tools.need_rust()
    done = run(["cargo", "test", "--locked", "--all-features", "--test", "alloc", "--", "--nocapture",
                "--test-threads", "1"], cwd=REPO, timeout=tools.BUILD_SECONDS)
    log.write_text(done.stdout)
    lines = (line.split(": ") for line in done.stdout.splitlines() if line.startswith("allocations per frame: "))
    return {what: float(number) for _, what, number in lines}


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

    def tls(self, seconds):
        return json.loads(run([self.program, "tls", "--dir", self.pki(), "--seconds", seconds], timeout=60).stdout)

    def pki(self):
        folder = self.folder / "pki"
        if not folder.exists():
            run([self.program, "prepare", "--dir", folder])
        return folder


class Ours(Way):
    """A plane and a node. `lines` are the plane's events, `words` the node's log."""

    def __init__(self, tool, running, rtt_ms=None, window_mib=None):
        more = ["--window-mib", window_mib] if window_mib else []
        plane, (tunnel, interactive, bulk), self.lines = running.first_line(
            [tool.program, "plane", "--dir", tool.pki(), *more], "plane")
        if rtt_ms is not None:
            _, (tunnel, self.control), _ = running.first_line(
                [tool.program, "relay", "--to", tunnel, "--rtt-ms", rtt_ms], "relay")
        root = Path(tempfile.mkdtemp(dir=tool.folder, prefix="node-"))
        run([tool.program, "prepare", "--dir", tool.pki(), "--node", root, "--plane", tunnel, "--target", tool.target])
        node = running.start([tool.comms, "--root", root], "pf9-comms", stderr=subprocess.PIPE)
        self.words = reader(node.stderr)
        super().__init__(interactive, [plane.pid, node.pid], bulk)
        if line_with(self.lines, ["up"], START_SECONDS) is None:
            raise Fail("the tunnel did not come up", tail(root / "var/log/pf9/comms/comms.log"))

    def freeze(self):
        host, port = self.control.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=5) as control:
            control.sendall(b"f")
            control.recv(1)
        return time.monotonic()

    def waited(self):
        """Seconds the node drew to wait after the session that just ended; None when it does not say."""
        down = line_with(self.words, ["tunnel-down"], START_SECONDS)
        drawn = re.search(r"wait_ms=(\d+)", down[1]) if down else None
        return drawn and int(drawn.group(1)) / 1000


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listening(port, child):
    def ask():
        if child.poll() is not None:
            raise Fail(f"it ended with exit code {child.returncode}", tail(child.log))
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
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


def haproxy(tool, running):
    program, near, far = installed("haproxy", "haproxy"), free_port(), free_port()
    common = ("global\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n"
              "  timeout server 1h\n")
    hops = {
        "far": (far, f"ssl crt {tool.pki()}/server.pem ssl-min-ver TLSv1.3", f"server s {tool.target}"),
        "near": (near, "", f"server s 127.0.0.1:{far} ssl verify none"),
    }
    pids = []
    for name, (port, bind, server) in hops.items():
        config = running.folder / f"haproxy-{name}.cfg"
        config.write_text(f"{common}listen {name}\n  bind 127.0.0.1:{port} {bind}\n  {server}\n")
        child = running.start([program, "-db", "-f", config], f"haproxy-{name}")
        listening(port, child)
        pids.append(child.pid)
    return Way(f"127.0.0.1:{near}", pids)


def stunnel(tool, running):
    program, near, far = installed("stunnel4", "stunnel4"), free_port(), free_port()
    hops = {
        "far": f"cert = {tool.pki()}/server.pem\n[far]\naccept = 127.0.0.1:{far}\nconnect = {tool.target}\n",
        "near": f"client = yes\n[near]\naccept = 127.0.0.1:{near}\nconnect = 127.0.0.1:{far}\n",
    }
    pids = []
    for name, text in hops.items():
        config = running.folder / f"stunnel-{name}.conf"
        config.write_text(f"foreground = yes\npid =\nsyslog = no\nsslVersionMin = TLSv1.3\n{text}")
        child = running.start([program, config], f"stunnel-{name}")
        listening(far if name == "far" else near, child)
        pids.append(child.pid)
    return Way(f"127.0.0.1:{near}", pids)


def openssh(tool, running):
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
        "AllowTcpForwarding yes\n")
    daemon = running.start([sshd, "-D", "-e", "-f", folder / "sshd.conf"], "sshd")
    listening(server, daemon)
    client = running.start(
        [ssh, "-N", "-F", "none", "-i", folder / "user", "-p", server, "-o", "StrictHostKeyChecking=no",
         "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes",
         "-R", f"127.0.0.1:{near}:{tool.target}", f"{getpass.getuser()}@127.0.0.1"], "ssh")
    listening(near, client)
    return Way(f"127.0.0.1:{near}", [daemon.pid, client.pid], trees=True)


def bore(tool, running):
    program, near = tools.tool("bore-cli", BORE, "bore"), free_port()
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", BORE_CONTROL))
        except OSError as error:
            raise Fail(f"bore's fixed port {BORE_CONTROL} is taken") from error
    server = running.start([program, "server", "--bind-addr", "127.0.0.1", "--min-port", 1024], "bore-server")
    listening(BORE_CONTROL, server)
    client = running.start([program, "local", tool.target.rsplit(":", 1)[1], "--local-host", "127.0.0.1",
                            "--to", "127.0.0.1", "--port", near], "bore-local")
    listening(near, client)
    return Way(f"127.0.0.1:{near}", [server.pid, client.pid])


PEERS = {"haproxy": haproxy, "stunnel": stunnel, "openssh": openssh, "bore (plain)": bore}

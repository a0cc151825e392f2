"""Basis of the scripts: running programs, waiting, printing, distribution packages.

  run / out        run a program; Fail with its last lines if it fails
  wait_for         poll a condition until a deadline (never a blind sleep)
  need_packages    install distribution packages that this machine lacks; installed: one program's
  apt_mirror       the main archive this machine already uses
  Fail             an error for people: what, why, where the log is; exit code
"""
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("PF9_CACHE", "/var/cache/pf9-build"))
DEFAULT_MIRROR = "http://deb.debian.org/debian"


class Fail(Exception):
    """A failure a person can act on."""

    def __init__(self, what, why="", log="", code=1):
        super().__init__(what)
        self.what, self.why, self.log, self.code = what, why, log, code

    def __str__(self):
        lines = [self.what]
        if self.why:
            lines.append("  why: " + self.why.strip().replace("\n", "\n       "))
        if self.log:
            lines.append(f"  log: {self.log}")
        return "\n".join(lines)


def say(text):
    print(text, flush=True)


def warn(text):
    print(text, file=sys.stderr, flush=True)


def run(cmd, *, log=None, check=True, env=None, cwd=None, stdin=None, timeout=None, new_env=None):
    """Run cmd. Output goes to `log` (a path, appended) or is captured; returns CompletedProcess."""
    cmd = [str(c) for c in cmd]
    full_env = dict(os.environ if new_env is None else new_env, **(env or {}))
    what = " ".join(shlex.quote(c) for c in cmd)
    kwargs = dict(env=full_env, cwd=cwd, timeout=timeout, text=True)
    if stdin is None:
        kwargs["stdin"] = subprocess.DEVNULL
    else:
        kwargs["input"] = stdin
    try:
        if log:
            with open(log, "a", encoding="utf-8") as sink:
                sink.write(f"$ {what}\n")
                sink.flush()
                done = subprocess.run(cmd, stdout=sink, stderr=subprocess.STDOUT, **kwargs)
        else:
            done = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)
    except FileNotFoundError as error:
        raise Fail(f"cannot run {cmd[0]}", str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise Fail(f"{what}: no answer within {timeout} s", log=log or "") from error
    if check and done.returncode != 0:
        why = tail(log) if log else tail_text((done.stderr or "") + (done.stdout or ""))
        raise Fail(f"`{what}` failed with exit code {done.returncode}", why, log or "")
    return done


def out(cmd, **kwargs):
    return run(cmd, **kwargs).stdout.strip()


def tail_text(text, lines=12):
    return "\n".join(text.rstrip().splitlines()[-lines:])


def tail(path, lines=12):
    try:
        with open(path, "rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(0, source.tell() - 16384))
            return tail_text(source.read().decode("utf-8", "replace"), lines)
    except OSError as error:
        return str(error)


def wait_for(what, condition, timeout, interval=0.5, log=""):
    """Poll `condition` until it returns something true. Its last Fail is the reason of a timeout."""
    deadline = time.monotonic() + timeout
    reason = ""
    while True:
        try:
            value = condition()
            if value:
                return value
        except Fail as fail:
            reason = str(fail)
        if time.monotonic() >= deadline:
            raise Fail(f"{what}: not within {timeout} s", reason, log)
        time.sleep(interval)


def need_root(what):
    if os.geteuid() != 0:
        raise Fail(f"{what} needs root", "it makes network bridges and systemd containers; run it with sudo", code=77)


def place_of(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def installed(program, package=None):
    """Where it is; the package of that name, or this one, is installed where it is not."""
    need_packages({program: package or program})
    if not (place := place_of(program)):
        raise Fail(f"package {package or program} has no program {program}")
    return place


def need_packages(packages):
    """`packages` maps a program (looked up in PATH) or an absolute file to its Debian package."""
    missing = sorted({package for probe, package in packages.items()
                      if not (os.path.exists(probe) if probe.startswith("/") else place_of(probe))})
    if not missing:
        return
    if os.geteuid() != 0:
        raise Fail("missing packages: " + " ".join(missing), "install them, or run this as root")
    say("installing: " + " ".join(missing))
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / ".lock-apt", "w", encoding="ascii") as handle:  # what is built side by side asks side by side
        fcntl.flock(handle, fcntl.LOCK_EX)
        run(["apt-get", "update", "-q"], env=env, check=False, timeout=300)
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing], env=env, timeout=900)


def apt_mirror():
    """The main Debian archive in this machine's apt sources, or the default one."""
    found = []
    folder = Path("/etc/apt/sources.list.d")
    for path in sorted(folder.glob("*.sources")) if folder.is_dir() else []:
        for stanza in re.split(r"\n\s*\n", path.read_text(errors="replace")):
            fields = dict(re.findall(r"^([A-Za-z-]+):\s*(.+)$", stanza, re.M))
            if fields.get("Enabled", "yes").strip() != "no" and "main" in fields.get("Components", "").split():
                found += fields.get("URIs", "").split()
    for path in [Path("/etc/apt/sources.list"), *sorted(folder.glob("*.list"))]:
        if path.is_file():
            found += re.findall(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+\S+\s+.*\bmain\b",
                                path.read_text(errors="replace"), re.M)
    for uri in found:
        if uri.startswith(("http://", "https://")) and uri.rstrip("/").endswith("/debian"):
            return uri.rstrip("/")
    return DEFAULT_MIRROR


def apt_settings():
    """The proxy and validity settings of this machine's apt, for the roots made here."""
    dump = out(["apt-config", "dump"])
    keep = re.compile(r'^Acquire::(https?::Proxy|Check-Valid-Until|Check-Date)\b.*;$')
    return "".join(line + "\n" for line in dump.splitlines() if keep.match(line))


class Stopwatch:
    def __init__(self):
        self.start = time.monotonic()

    def seconds(self):
        return time.monotonic() - self.start

    def __str__(self):
        return f"{self.seconds():.1f} s"

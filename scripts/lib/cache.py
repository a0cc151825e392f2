"""Slow artefacts, kept outside the checkout: one directory per content key.

  artefact(name, key, make)   returns the directory; calls make(tmp) once if it is missing; has(name, key) checks
  cost(name)                  cost of making it here the last time: Cost, or None
  key_of(...)                 sha256 over everything the artefact is made from
  in_root(root, script)       runs a shell script in a root, with private mounts that vanish with it; given additional
                              directories to mount, the root itself is read-only and can be shared

A directory with its final name is complete: it is built under a temporary name and renamed; its cost is stored in it.
Builders of the same artefact wait for each other (flock); leftovers of a killed builder are removed by the next.
"""
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass

from common import CACHE, Fail, Stopwatch, run, say, tail

UNUSED_SECONDS = 7 * 24 * 3600
COST = "cost.json"
# Output of a shell's `times` for itself and its children.
TIMES = re.compile(r"^(\d+)m([\d.]+)s (\d+)m([\d.]+)s$", re.M)

# Everything is mounted in a namespace of its own, so a killed build leaves no mount behind.
IN_ROOT = r"""
set -eu
root=$1; shift
script=$SCRIPT; unset SCRIPT SETUP
mount --make-rprivate /
mount --bind "$root" "$root"
for pair; do mount --bind "${pair%%=*}" "$root${pair#*=}"; done
[ $# = 0 ] || mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 dev "$root/dev"
for n in null zero full random urandom tty; do : > "$root/dev/$n"; mount --bind "/dev/$n" "$root/dev/$n"; done
ln -s /proc/self/fd "$root/dev/fd"
mkdir -p "$root/dev/shm"
if [ ! -e /etc/resolv.conf ]; then :
elif [ $# = 0 ]; then cat /etc/resolv.conf > "$root/etc/resolv.conf"
else mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
fi
chroot "$root" /bin/sh -euc "$script"
times
"""


def key_of(*parts):
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Cost:
    seconds: float      # with whatever else was built beside it
    cpu_seconds: float  # of that, on whichever core; what a step does outside of roots counts as one core's
    cores: int          # that this machine had

    @classmethod
    def of(cls, seconds, log):
        used = [60 * (int(user) + int(kernel)) + float(user_part) + float(kernel_part)
                for user, user_part, kernel, kernel_part in TIMES.findall(log)]
        return cls(round(seconds, 1), round(sum(used) if used else seconds, 1), os.cpu_count() or 1)


def cost(name):
    """Of the newest existing one, whatever it was made from: a changed script takes about as long."""
    found = [path for path in CACHE.glob(f"{name}-*/{COST}") if re.fullmatch("[0-9a-f]+", path.parent.name[len(name) + 1:])]
    if not found:
        return None
    return Cost(**json.loads(max(found, key=lambda path: path.stat().st_mtime).read_text()))


def artefact(name, key, make, about=""):
    CACHE.mkdir(parents=True, exist_ok=True)
    final = CACHE / f"{name}-{key}"
    with lock(f"{name}-{key}", f"waiting for another build of {name}"):
        if final.is_dir():
            os.utime(final)  # for clear_old
            return final
        clear_old(name, key)
        tmp = CACHE / f".making-{name}-{key}"
        tmp.mkdir()
        watch = Stopwatch()
        say(f"building {name} (once{', about ' + about if about else ''}; log: {log_of(name)})")
        log_of(name).write_text("")
        make(tmp)
        took = Cost.of(watch.seconds(), log_of(name).read_text(errors="replace"))
        (tmp / COST).write_text(json.dumps(asdict(took)) + "\n")
        tmp.rename(final)
        say(f"built {name} in {watch}")
    return final


def clear_old(name, key):
    """Before `name` is rebuilt: removes leftovers of killed builders, and what nobody used for a week."""
    shutil.rmtree(CACHE / f".making-{name}-{key}", ignore_errors=True)
    any_key = "[0-9a-f]" * len(key)
    for path in [*CACHE.glob(f".making-{name}-{any_key}"), *CACHE.glob(f"{name}-{any_key}")]:
        begun = path.name.startswith(".making-")
        with open(CACHE / f".lock-{path.name.removeprefix('.making-')}", "w", encoding="utf-8") as handle:
            with contextlib.suppress(BlockingIOError):  # somebody is making or taking it
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if begun or time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                    shutil.rmtree(path)


def has(name, key):
    return (CACHE / f"{name}-{key}").is_dir()


def log_of(name):
    return CACHE / f"{name}.log"


@contextlib.contextmanager
def lock(name, message):
    with open(CACHE / f".lock-{name}", "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(message)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def in_root(root, script, log, timeout, mounts=(), env=None):
    """Runs a shell script inside `root`, at low priority: others may be compiling on this machine."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
           "DEBIAN_FRONTEND": "noninteractive", **(env or {}), "SETUP": IN_ROOT, "SCRIPT": script}
    with open(log, "a", encoding="utf-8") as sink:
        sink.write(script)
    done = run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "nice", "-n", "5",
                "sh", "-c", 'eval "$SETUP"', "sh", root, *(f"{source}={target}" for source, target in mounts)],
               log=log, check=False, new_env=env, timeout=timeout)
    if done.returncode != 0:
        raise Fail(f"a build step in {root} failed", tail(log), log)

"""Slow artefacts, kept outside the checkout: one directory per content key.

  artefact(name, key, make)   returns the directory; calls make(tmp) once if it is missing
  key_of(...)                 sha256 over whatever the artefact is made from
  in_root(root, script)       run a shell script in a root, with private mounts that vanish with it

A directory with its final name is complete: it is built under a temporary name and renamed. Builders of the
same artefact wait for each other (flock); a temporary left by a killed builder is removed by the next.
"""
import contextlib
import fcntl
import hashlib
import json
import shutil

from common import CACHE, Fail, Stopwatch, run, say, tail

# Everything is mounted in a namespace of its own, so a killed build leaves no mount behind.
IN_ROOT = r"""
set -eu
root=$1; script=$2
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 dev "$root/dev"
for n in null zero full random urandom tty; do : > "$root/dev/$n"; mount --bind "/dev/$n" "$root/dev/$n"; done
ln -s /proc/self/fd "$root/dev/fd"
mkdir -p "$root/dev/shm"
[ ! -e /etc/resolv.conf ] || cat /etc/resolv.conf > "$root/etc/resolv.conf"
exec chroot "$root" /bin/sh -euc "$script"
"""


def key_of(*parts):
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def artefact(name, key, make):
    CACHE.mkdir(parents=True, exist_ok=True)
    final = CACHE / f"{name}-{key}"
    with lock(f"{name}-{key}", f"waiting for another build of {name}"):
        if final.is_dir():
            return final
        tmp = CACHE / f".making-{name}-{key}"
        if tmp.exists():
            shutil.rmtree(tmp)
        tmp.mkdir()
        watch = Stopwatch()
        say(f"building {name} (once; log: {log_of(name)})")
        log_of(name).write_text("")
        make(tmp)
        tmp.rename(final)
        say(f"built {name} in {watch}")
    return final


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


def in_root(root, script, log, timeout):
    """Run a shell script inside `root`, gently: others may be compiling on this machine."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
           "DEBIAN_FRONTEND": "noninteractive"}
    done = run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "nice", "-n", "5",
                "sh", "-c", IN_ROOT, "sh", root, script],
               log=log, check=False, new_env=env, timeout=timeout)
    if done.returncode != 0:
        raise Fail(f"a build step in {root} failed", tail(log), log)

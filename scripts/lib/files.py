"""The files of a machine: path → kind, mode, owner, and the target or digest.

  listing(root)              everything except what an operating system changes on its own
  python3 files.py ROOT OLD  prints what differs from a listing taken earlier; exit 1 if anything does
"""
import hashlib
import json
import os
import stat
import sys

# The system's own bookkeeping. Nothing of the product lives below these names.
OTHERS = ("/proc", "/sys", "/dev", "/run", "/tmp", "/root/.bash_history", "/var/cache/apt", "/var/cache/ldconfig",
          "/var/lib/apt", "/var/lib/dpkg", "/var/lib/rpm", "/var/log/apt", "/var/log/dpkg.log", "/var/log/alternatives.log",
          "/var/log/journal", "/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog", "/var/log/faillog",
          "/var/lib/systemd/timers", "/var/lib/systemd/random-seed", "/var/lib/systemd/catalog",
          "/var/lib/systemd/credential.secret", "/var/lib/systemd/coredump", "/var/lib/logrotate", "/var/lib/private",
          "/var/cache/private", "/var/log/private", "/etc/machine-id", "/etc/.updated", "/var/.updated",
          "/etc/ld.so.cache", "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock",
          "/etc/resolv.conf", "/etc/mtab", "/var/cache/man", "/var/backups", "/var/lib/dbus")

# Private directories of the system's services: new names at every boot.
OTHERS_BEGIN = "/var/tmp/systemd-private-"


# dpkg removes an empty unowned directory after the last script of the package that had files below it:
# so does each vendor's package with this one. Only the directory itself: its content is compared.
ONLY_BELOW = "/opt"


def ours_to_watch(path):
    return path not in OTHERS and not path.startswith(OTHERS_BEGIN)


def listing(root):
    root = str(root).rstrip("/")
    found = {}
    for folder, folders, names in os.walk(root):
        inner = folder[len(root):]
        folders[:] = [name for name in folders if ours_to_watch(f"{inner}/{name}")]
        for name in folders + names:
            path = f"{inner}/{name}"
            if ours_to_watch(path) and path != ONLY_BELOW:
                found[path] = describe(f"{folder}/{name}")
    return found


def describe(path):
    info = os.lstat(path)
    words = [stat.filemode(info.st_mode), str(info.st_uid), str(info.st_gid)]
    if stat.S_ISLNK(info.st_mode):
        words.append(os.readlink(path))
    elif stat.S_ISREG(info.st_mode):
        with open(path, "rb") as source:
            words.append(hashlib.file_digest(source, "sha256").hexdigest()[:16])
    return " ".join(words)


def differences(old, new):
    return ([f"added: {path}" for path in sorted(new.keys() - old.keys())] +
            [f"gone: {path}" for path in sorted(old.keys() - new.keys())] +
            [f"changed: {path}: {old[path]} -> {new[path]}" for path in sorted(old.keys() & new.keys())
             if old[path] != new[path]])


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as source:
        lines = differences(json.load(source), listing(sys.argv[1]))
    print("\n".join(lines))
    sys.exit(bool(lines))

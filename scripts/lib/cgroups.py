"""One cgroup per machine in every hierarchy of this host, so that machines do not share a namespace.

  join_script(name)   shell lines that move the calling shell there (before it becomes the container)
  remove()            all of them, leaves first

Version 1 and hybrid hosts have a hierarchy per controller; version 2 hosts one. The host's own mounts are
only used, never changed. Under systemd on version 2 a delegated scope does the same, see node.py.
"""
import os
from pathlib import Path

PARENT = "pf9demo"
ROOT = Path("/sys/fs/cgroup")


def is_v2():
    return (ROOT / "cgroup.controllers").exists()


def hierarchies():
    if is_v2():
        return [ROOT]
    return [path for path in sorted(ROOT.iterdir()) if path.is_dir() and not path.is_symlink()]


def make(name):
    """Create the machine's groups; returns the directories a process has to join."""
    made = []
    for hierarchy in hierarchies():
        group = hierarchy
        for part in (PARENT, name):
            parent, group = group, group / part
            try:
                if is_v2():
                    enable_all(parent)
                group.mkdir(exist_ok=True)
                for knob in ("cpuset.cpus", "cpuset.mems"):  # empty in a new v1 group: nothing could join
                    if not is_v2() and (group / knob).exists() and not (group / knob).read_text().strip():
                        (group / knob).write_text((parent / knob).read_text())
            except OSError:
                group = None
                break
        if group:
            made.append(group)
    return made


def enable_all(group):
    for controller in (group / "cgroup.controllers").read_text().split():
        try:
            (group / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            pass  # processes in the root of a container's own hierarchy: then it has no limits, which is fine


def join_script(name):
    return "".join(f"echo $$ > {group}/cgroup.procs 2>/dev/null || :\n" for group in make(name))


def remove(name=""):
    """Remove the groups of one machine, or of all. Returns those that are still busy."""
    busy = []
    for hierarchy in hierarchies():
        top = hierarchy / PARENT / name if name else hierarchy / PARENT
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                """Remove the groups of one machine, or of all. Returns those that are still busy."""
            except OSError as error:
                busy.append(f"{folder}: {error.strerror}")
    return busy

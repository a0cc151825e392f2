"""Long-running processes of the demo: started detached from the terminal, found again, ended.

  start(cmd, pidfile, log)   in a session of its own; the pid file holds pid and start time
  alive(pidfile)             the pid, if that very process still runs
  end(pidfile)               SIGTERM, then SIGKILL, each with a deadline; removes the pid file
"""
import os
import signal
import subprocess

from common import Fail, wait_for


def start(cmd, pidfile, log, env=None):
    with open(log, "ab") as sink:
        child = subprocess.Popen([str(c) for c in cmd], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                                 start_new_session=True, close_fds=True, env=dict(os.environ, **(env or {})))
    pidfile.write_text(f"{child.pid} {start_time(child.pid)}\n")
    return child.pid


def stat_fields(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as source:
            return source.read().rsplit(")", 1)[1].split()
    except OSError:
        return None


def start_time(pid):
    fields = stat_fields(pid)
    return fields[19] if fields else "0"


def running(pid):
    reap(pid)
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def reap(pid):
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def alive(pidfile):
    try:
        pid, started = pidfile.read_text().split()
    except (OSError, ValueError):
        return None
    pid = int(pid)
    return pid if running(pid) and start_time(pid) == started else None


def kill(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as source:
            return [int(word) for word in source.read().split()]
    except OSError:
        return []


def end(pidfile, patience=10):
    pid = alive(pidfile)
    if pid:
        kill(pid, signal.SIGTERM)
        try:
            wait_for("the process to end", lambda: not running(pid), patience, 0.1)
        except Fail:
            kill(pid, signal.SIGKILL)
            wait_for(f"process {pid} to die", lambda: not running(pid), 10, 0.1)
    pidfile.unlink(missing_ok=True)

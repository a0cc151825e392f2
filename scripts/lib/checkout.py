"""The persistent checkout: a build server's next clean clone reuses what cargo compiled for the previous one.

  enter(words)   checks out this clone's commit in the cache and continues the same command there, if possible

Cargo compares the mtimes of our files, and a clone creates all of them anew: 20 minutes of two cores for sources that were
compiled already. git writes only the files that differ. Nothing else of the previous commit stays: untracked files are
removed, except cargo's output, and cargo's own record says for each piece which files it is from. A compiler cache was
rejected: it keeps neither checked crates (lints) nor linked programs, which are most of those minutes.
"""
import fcntl
import os
import shutil
import sys
from pathlib import Path

import crates
from common import CACHE, REPO, Fail, out, run, say

PLACE = CACHE / "checkout"
# One tree takes 8 GiB: lints, tests and release. Output of other lock files and compilers is never pruned piecemeal.
TARGET_MAX = 24 * 2**30
# What cargo keeps of our own crates to compile a part of them is larger than all the rest, grows with each commit, and costs
# a first run a tenth of its time: the next clone compiles the crates that changed.
WITHOUT = {"CARGO_INCREMENTAL": "0"}


def enter(words):
    """Does not return, unless already there, or for a reason not to switch: then everything is compiled here."""
    if REPO == PLACE.resolve():
        return
    why = reason_to_stay()
    if why:
        say(f"the tests stay in {REPO}: {why}")
        return
    say(f"the tests go on in {PLACE}, where the last commit was compiled")
    sys.stdout.flush()
    os.environ.pop("CARGO_TARGET_DIR", None)
    os.environ.update(WITHOUT)
    program = PLACE / "scripts/test"
    os.chdir(PLACE)
    os.execv(program, [str(program), *words])


def reason_to_stay():
    """None: the commit is checked out there, and this process holds the lock."""
    status = run(["git", "-C", REPO, "status", "--porcelain"], check=False)
    if status.returncode != 0:
        return f"git reads no commit of it: {status.stderr.strip()}"
    if status.stdout.strip():
        return "something in it is not committed, and would not be tested"
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        hold()
        bring(REPO, PLACE)
        trim(PLACE / "target")
    except (Fail, OSError) as error:
        return f"its commit cannot be checked out in {PLACE}: {error}"
    return None


def hold():
    """Until the command that continues there has ended, however it ends: the lock belongs to the open file."""
    handle = os.open(CACHE / ".lock-checkout", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for the tests of another clone")
        fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)


def bring(repo, place):
    """Leftovers of an interrupted run in git's own files are no reason to fail: then all of it is recreated."""
    try:
        update(repo, place)
    except Fail:
        if not place.exists():
            raise
        shutil.rmtree(place)
        update(repo, place)


def update(repo, place):
    if not (place / ".git").exists():
        run(["git", "init", "--quiet", place])
    git = ["git", "-C", place]
    run([*git, "fetch", "--quiet", "--no-tags", "--depth", "1", Path(repo).as_uri(), "HEAD"], timeout=300)
    # A copied cache has other inodes and change times: without this refresh all files would be rewritten.
    run([*git, "update-index", "-q", "--refresh"], check=False, timeout=300)
    run([*git, "reset", "--quiet", "--hard", "FETCH_HEAD"], timeout=300)
    run([*git, "clean", "--quiet", "-ffdx", "--exclude", "/target"], timeout=300)


def trim(target, most=TARGET_MAX):
    """A build directory is kept while it is from this compiler and within its size limit."""
    for kind in target.glob("*/incremental"):
        shutil.rmtree(kind)
    note = target / crates.COMPILER
    of_this = note.is_file() and note.read_text() == crates.compiler()
    if target.exists() and not (of_this and size(target) <= most):
        say(f"{target} is of another compiler, or larger than {most >> 30} GiB: it is made anew")
        shutil.rmtree(target)
    if not target.exists():
        target.mkdir()
        note.write_text(crates.compiler())


def size(folder):
    """Bytes on disk, hard links counted once."""
    return int(out(["du", "--summarize", "--block-size=1", folder]).split()[0])

"""Same sources, same bytes: the packages are built twice, from two checkouts in two directories, and compared.

  python3 twice.py [--keep DIR]   of what is committed

Both builds share this machine: its
compiler and its C compiler. Each has a Cargo home of its own.
"""
import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import tools
from common import REPO, Fail, Stopwatch, run, say


def build(folder, name):
    """Packages from a checkout of its own, compiled in a directory of its own."""
    checkout = folder / name / ("deeper/" * len(name)) / "checkout"
    checkout.parent.mkdir(parents=True)
    run(["git", "clone", "--quiet", "--no-hardlinks", REPO, checkout], timeout=300)
    where, home = folder / f"compiled-{name}", folder / f"home-{name}"
    home.mkdir()
    for path in Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo").iterdir():
        (home / path.name).symlink_to(path)
    run([checkout / "scripts/package", folder / f"packages-{name}"], log=folder / f"{name}.log",
        env={"CARGO_TARGET_DIR": str(where), "CARGO_HOME": str(home)}, timeout=tools.BUILD_SECONDS)
    # Two of them are gigabytes.
    shutil.rmtree(where)
    return folder / f"packages-{name}"


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def program_of(packages):
    with tempfile.TemporaryDirectory() as tmp:
        run(["dpkg-deb", "-x", next(packages.glob("*.deb")), tmp])
        return next(Path(tmp).glob("opt/pf9/agent/*/bin/pf9-agent")).read_bytes()


def differing(one, two, folder):
    """The differences inside the packages, to find out why."""
    lines = []
    for path in sorted(one.glob("*.deb")):
        trees = [folder / "inside" / name for name in "ab"]
        for tree, package in zip(trees, (path, two / path.name)):
            tree.mkdir(parents=True, exist_ok=True)
            run(["dpkg-deb", "-R", package, tree])
        lines += run(["diff", "-r", "-q", *trees], check=False).stdout.splitlines()
    return lines


def check(keep=None):
    tools.need_rust()
    watch = Stopwatch()
    with tempfile.TemporaryDirectory(prefix="pf9-twice-", dir=keep) as tmp:
        folder = Path(tmp)
        one, two = (build(folder, name) for name in ("a", "bbb"))
        first, second = digests(one), digests(two)
        told = [name for name in (str(folder), str(Path.home() / ".cargo")) if name.encode() in program_of(one)]
        if told:
            raise Fail("the program says where it was built", ", ".join(told))
        if not first or first != second:
            raise Fail("two builds of the same sources are not the same", "\n".join(differing(one, two, folder)) or f"{first} {second}")
    for name, digest in first.items():
        say(f"{digest}  {name}")
    say(f"built twice, the same bytes, in {watch}")


def main(argv):
    parser = argparse.ArgumentParser(prog="twice.py")
    parser.add_argument("--keep", metavar="DIR", help="work below this directory")
    args = parser.parse_args(argv)
    check(args.keep)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"twice: {fail}", file=sys.stderr)
        sys.exit(fail.code or 1)

"""The units of packages and roles, checked with the systemd of the distribution's next release.

  newer_systemd.py [DIR]    DIR: where the .deb is; default: target/packages

systemd 258 and newer does not start on machines with control groups of version 1, like those here: it is not booted. Its
own `systemd-analyze verify`, in its own root file system, reports what it does not know or would ignore; known reports
are listed below with their reasons, and everything else is a failure. The roles' units are those of the golden tests.
"""
import re
import shutil
import sys
import tempfile
from pathlib import Path

import cache
import roots
import tools
from common import REPO, Fail, need_root, run, say

FIRST = 258
UNITS = "usr/lib/systemd/system"
# Its reports about our units, and why they are right.
KNOWN = {
    "CPUAccounting=": "systemd 258 counts processor time always and ignores the setting; older ones need it",
}
# Programs of units, which only have to exist.
PROGRAM = re.compile(r"^Exec\w+=[-+!@:]*(/\S+)", re.M)
VERIFY = """
systemctl --version | head -n 1
for unit in /units/usr/lib/systemd/system/pf9-*; do
    systemd-analyze verify --man=no --root=/units "${unit##*/}" 2>&1 | sed "s|^|said: |" || :
done
"""


def gathered(package, tree):
    """The package's files and the roles' units in one tree, with something at each program's path."""
    run(["dpkg-deb", "-x", package, tree])
    folder = tree / UNITS
    for unit in sorted(REPO.glob("tests/golden/phases/*/files/etc/systemd/system/*")):
        shutil.copy(unit, folder / unit.name)
    for target in Path("/usr/lib/systemd/system").glob("*.target"):
        if not (folder / target.name).exists():
            shutil.copy(target, folder / target.name)
    for unit in folder.glob("pf9-*"):
        for program in PROGRAM.findall(unit.read_text(encoding="utf-8")):
            place = tree / program.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists() and not place.is_symlink():
                place.write_text("#!/bin/sh\n", encoding="utf-8")
                place.chmod(0o755)
    return sorted(unit.name for unit in folder.glob("pf9-*"))


def main(argv):
    need_root("newer_systemd.py")
    folder = Path(argv[0]) if argv else tools.target_dir() / "packages"
    package = next(iter(folder.glob("pf9-hostagent_*.deb")), None)
    if package is None:
        raise Fail(f"there is no .deb in {folder}", "scripts/package makes it")
    root = roots.newest()
    with tempfile.TemporaryDirectory(prefix="pf9-units-") as tmp:
        tree = Path(tmp) / "tree"
        units, log = gathered(package, tree), Path(tmp) / "log"
        cache.in_root(root, VERIFY, log, timeout=300, mounts=[(tree, "/units")])
        lines = log.read_text(encoding="utf-8").splitlines()
    version = next((line for line in lines if re.match(r"systemd \d", line)), "systemd 0")
    if int(version.split()[1].split(".")[0]) < FIRST:
        raise Fail(f"{version} is not new enough", f"what is to be looked at begins with {FIRST}")
    said = [line.removeprefix("said: ") for line in lines if line.startswith("said: ") and "pf9-" in line]
    unknown = [line for line in said if not any(word in line for word in KNOWN)]
    if unknown:
        raise Fail(f"{version} has something to say of units of ours", "\n".join(unknown))
    for word, why in KNOWN.items():
        if not any(word in line for line in said):
            raise Fail(f"{version} says nothing of {word} any more", f"take it out of the list; it was there because {why}")
    say(f"{len(units)} units are good for {version}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        sys.exit(f"newer_systemd: {fail}")

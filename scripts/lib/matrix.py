"""What is built and tested together: the tables of src/stack/matrix.toml.

  stacks()          every pinned stack, the default first
  stack(wanted)     the one meant by "", "1.37" or "1.37.2"
  minors()          the minors that are tested, newest first
  around(version)   the stack that a release of a supported minor gets its other parts from
  ALONE             part → versions that tests run by themselves, in no stack
  SUPPLIED          component → the image that somebody has to bring
  GO                the Go that compiles them
"""
import tomllib

from common import REPO, Fail

PATH = REPO / "src/stack/matrix.toml"
DATA = tomllib.loads(PATH.read_text())
GO = DATA["build"]["go"]
ALONE = DATA["alone"]
SUPPLIED = DATA["supplied"]


def stacks():
    return DATA["stack"]


def minor_of(kubernetes):
    return ".".join(kubernetes.split(".")[:2])


def minors():
    return list(dict.fromkeys(minor_of(item["kubernetes"]) for item in stacks()))


def around(version):
    """The table of its minor, or of the nearest one after it, with this Kubernetes; and whether a minor was tested so."""
    minor = minor_of(version)
    known = [row["minor"] for row in DATA["kubernetes"]]
    if minor not in known:
        raise Fail(f"Kubernetes {minor} is not supported, {known[-1]} to {known[0]} are", f"they are listed in {PATH}", code=2)
    newer = known[:known.index(minor) + 1]
    found = [item for name in reversed(newer) for item in stacks() if minor_of(item["kubernetes"]) == name]
    return {**found[0], "kubernetes": version}, minor_of(found[0]["kubernetes"]) == minor


def stack(wanted=""):
    """The first that matches: the file lists the default first, and for a minor the one that its name means."""
    for item in stacks():
        if wanted in ("", item["kubernetes"], minor_of(item["kubernetes"])):
            return item
    known = ", ".join(item["kubernetes"] for item in stacks())
    raise Fail(f"no stack of Kubernetes {wanted} is known here", f"there are {known}; they are listed in {PATH}", code=2)

"""What is built and tested together: the tables of src/stack/matrix.toml.

  stacks()          every pinned stack, the default first
  stack(wanted)     the one meant by "", "1.37" or "1.37.2"
  minors()          the minors that are tested, newest first
  ALONE             part → versions that tests run on their own, in no stack
  SUPPLIED          component → the image that the user has to provide
  GO                the Go version that compiles them
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


def stack(wanted=""):
    """The first that matches: the file lists the default first, and for a minor the one that its name means."""
    for item in stacks():
        if wanted in ("", item["kubernetes"], minor_of(item["kubernetes"])):
            return item
    known = ", ".join(item["kubernetes"] for item in stacks())
    raise Fail(f"no stack of Kubernetes {wanted} is known here", f"there are {known}; they are listed in {PATH}", code=2)

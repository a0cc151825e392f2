"""Rust tools and builds.

  cargo_deb() / cargo_generate_rpm() / nextest()    pinned tools, compiled into the cache when it has none
  release()                  the release binaries; returns their directory
  package()                  the .deb made from them
"""
import os
import shutil
from pathlib import Path

import cache
from common import REPO, Fail, need_packages, run, say

CARGO_DEB = "3.8.0"
CARGO_GENERATE_RPM = "0.21.1"
NEXTEST = "0.9.143"
BUILD_SECONDS = 2700


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


def cargo_deb():
    return tool("cargo-deb", CARGO_DEB, "cargo-deb")


def cargo_generate_rpm():
    return tool("cargo-generate-rpm", CARGO_GENERATE_RPM, "cargo-generate-rpm")


def nextest():
    """The machine's own if it has one: any version that knows our configuration will do."""
    own = shutil.which("cargo-nextest")
    return Path(own) if own else tool("cargo-nextest", NEXTEST, "cargo-nextest")


def target_dir():
    return Path(os.environ.get("CARGO_TARGET_DIR") or REPO / "target").resolve()


def release(log=None):
    need_rust()
    say("building the release binaries")
    run(["cargo", "build", "--release", "--locked", "--features", "plane", "--bins"],
        cwd=REPO, log=log, timeout=BUILD_SECONDS)
    return target_dir() / "release"


def package(folder, log=None):
    """The Debian package of the binaries just built, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.deb"):
        old.unlink()
    run([cargo_deb(), "--no-build", "--locked", "--output", folder], cwd=REPO, log=log, timeout=300)
    made = sorted(folder.glob("pf9-hostagent_*.deb"))
    if len(made) != 1:
        raise Fail("cargo-deb did not make exactly one package", " ".join(str(path) for path in made), log or "")
    return made[0]

"""Rust tools and builds.

  tool()        a program of crates.io, compiled into the cache when it has none
  release()     the release binaries; returns their directory
"""
import os
import shutil
from pathlib import Path

import cache
from common import REPO, Fail, need_packages, run, say

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


def target_dir():
    return Path(os.environ.get("CARGO_TARGET_DIR") or REPO / "target").resolve()


def release(log=None):
    need_rust()
    say("building the release binaries")
    run(["cargo", "build", "--release", "--locked", "--features", "plane", "--bins"],
        cwd=REPO, log=log, timeout=BUILD_SECONDS)
    return target_dir() / "release"

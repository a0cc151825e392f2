"""Rust tools and builds.

  tool()        a program of crates.io, compiled into the cache when it has none
  release()     the release binaries; returns their directory
  cloud_init()  the distribution's cloud-init, unpacked and not installed: installed it would do something at the next boot
"""
import os
import shutil
from pathlib import Path

import cache
from common import REPO, Fail, need_packages, run, say

BUILD_SECONDS = 2700
NAMES = ("pf9-comms", "pf9-hostagent", "pf9-nodeletd", "pf9ctl")


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
    folder = target_dir() / "release"
    # Which of a node's programs it is says the name it is called by, as in the packages.
    for name in NAMES:
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to("pf9-agent")
    return folder


def cloud_init():
    modules = {"yaml": "python3-yaml", "jsonschema": "python3-jsonschema", "jinja2": "python3-jinja2",
               "configobj": "python3-configobj", "requests": "python3-requests", "oauthlib": "python3-oauthlib",
               "jsonpatch.py": "python3-jsonpatch"}
    need_packages({f"/usr/lib/python3/dist-packages/{probe}": package for probe, package in modules.items()})

    def make(tmp):
        run(["apt-get", "update", "-q"], check=False, timeout=300)
        run(["apt-get", "download", "-q", "cloud-init"], cwd=tmp, timeout=300)
        package = next(tmp.glob("cloud-init_*.deb"))
        run(["dpkg-deb", "-x", package, tmp / "root"])
        package.unlink()

    return cache.artefact("cloud-init", cache.key_of("cloud-init", 1), make) / "root/usr"

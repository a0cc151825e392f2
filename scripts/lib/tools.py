"""Rust tools and builds, and third-party tools of tests.

  tool()        a program of crates.io, compiled into the cache if missing
  release()     the release binaries; returns their directory
  axe()         axe-core, which finds accessibility faults of a page; `tools.py axe` prints its path
  cloud_init()  the distribution's cloud-init, unpacked and not installed: installed it would act at the next boot
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
# The distribution has no axe-core; this Python package has 4.12.1 in one file.
AXE = ("axe-playwright-python", "0.1.8", "axe_playwright_python/axe.min.js",
       "84494fec757e4710dc751c8d7a636e457f4532f08f85c86dc9070133fbff53bc")
PROGRAMS = ("pf9-agent", "pf9-plane")
# What benches and the build server measure with: nobody needs them for a cluster.
LOADS = ("pf9-tunnel-load", "pf9-etcd-load")
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


def no_place():
    """No paths of the build machine in a program. Panics name their lines, and without this the builder's home."""
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    folders = sorted(home.glob("registry/src/*"))
    # Our own files are named relative to the checkout: flags with its path would recompile every crate in each.
    flags = [*os.environ.get("RUSTFLAGS", "").split(), *(f"--remap-path-prefix={path}=/crates" for path in folders)]
    return {"RUSTFLAGS": " ".join(flags)}


def release(log=None, loads=False):
    need_rust()
    say("building the release binaries: about four minutes on two cores where nothing of them is compiled yet"
        + (f"; tail -f {log}" if log else ""))
    # The first build of all has no sources of libraries yet, and the compiler gets their future path.
    run(["cargo", "fetch", "--locked", "--quiet"], cwd=REPO, log=log, timeout=BUILD_SECONDS)
    wanted = [word for name in (*PROGRAMS, *(LOADS if loads else ())) for word in ("--bin", name)]
    run(["cargo", "build", "--release", "--locked", "--package", "pf9-hostagent", "--package", "pf9-plane", *wanted], cwd=REPO,
        env=no_place(), log=log, timeout=BUILD_SECONDS)
    folder = target_dir() / "release"
    # The name it is called by selects the node's program, as in the packages.
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


def kubectl():
    import parts  # which needs this file

    version = max(parts.tested_versions("kubernetes"), key=lambda text: [int(part) for part in text.split(".")])
    return parts.tested("kubernetes", [version])[version] / "kubectl"


if __name__ == "__main__":
    asked = {"axe": axe, "flags": lambda: no_place()["RUSTFLAGS"], "kubectl": kubectl}
    if len(sys.argv) != 2 or sys.argv[1] not in asked:
        sys.exit(f"usage: tools.py {'|'.join(asked)}")
    sys.stdout, shown = sys.stderr, sys.stdout
    try:
        print(asked[sys.argv[1]](), file=shown)
    except Fail as fail:
        sys.exit(f"tools: {fail}")

"""Compiled third-party crates: kept between checkouts, so that a clean clone compiles only our own.

  bring()   into the target directory of this checkout, if nothing was compiled there yet
  keep()    from it, once everything is compiled

Cargo relies on what it finds: crates of a registry never change, so it uses their files as they are, and compiles those
that another lock file or another set of features needs. Ours depend on paths and times of this checkout and are not kept.
One copy is kept, of the last build: it saves time and nothing else.
"""
import json
import os
import shutil

import cache
import tools
from common import CACHE, REPO, out, run, say

NAME = "crates"
PROFILES = ("debug", "release")
KINDS = ("deps", "build", ".fingerprint")
COMPILER = "rustc.txt"


def compiler():
    return out(["rustc", "-vV"], cwd=REPO)


def key():
    return cache.key_of(compiler(), os.environ.get("RUSTFLAGS", ""),
                        *(path.read_text() for path in (REPO / "Cargo.lock", REPO / "Cargo.toml", *sorted(REPO.glob("crates/*/Cargo.toml")))))


def bring():
    target = tools.target_dir()
    if any((target / profile).exists() for profile in PROFILES):
        return
    with cache.lock(NAME, "waiting for somebody who keeps compiled crates"):
        kept = [path for path in CACHE.glob(f"{NAME}-*") if (path / COMPILER).is_file()
                and (path / COMPILER).read_text() == compiler()]
        if kept:
            say(f"crates of others are compiled already: {kept[0]}")
            target.mkdir(parents=True, exist_ok=True)
            run(["cp", "-a", *(path for path in kept[0].iterdir() if path.name in PROFILES), target], timeout=600)


def keep():
    with cache.lock(NAME, "waiting for somebody who takes compiled crates"):
        if cache.has(NAME, key()):
            return
        for path in CACHE.glob(f"{NAME}-*"):
            shutil.rmtree(path)
        ours = own()
        cache.artefact(NAME, key(), lambda tmp: copy(tools.target_dir(), tmp, ours))


def copy(target, to, ours):
    for folder in (target / profile / kind for profile in PROFILES for kind in KINDS):
        for path in folder.iterdir() if folder.is_dir() else ():
            if not is_ours(path.name, ours):
                place = to / path.relative_to(target)
                place.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, place)
    (to / COMPILER).write_text(compiler())


def is_ours(name, ours):
    """`libpf9_hostagent-0123456789abcdef.rmeta`, `pf9-hostagent-0123456789abcdef`: by the part before the hash."""
    stem = name.split(".")[0].rsplit("-", 1)[0].replace("-", "_")
    return stem in ours or stem.removeprefix("lib") in ours


def own():
    """The file names of our packages and of everything built from them."""
    packages = json.loads(out(["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"], cwd=REPO))["packages"]
    names = [name for package in packages for name in (package["name"], *(t["name"] for t in package["targets"]))]
    return {name.replace("-", "_") for name in names}

"""A signed apt and dnf repository of the agent's packages.

  make(folder, key, packages)   folder/apt, folder/rpm and folder/pf9-packages.asc, replacing previous ones

The lists are made by the distributions' own tools: dpkg-scanpackages, createrepo_c. The lists are signed (InRelease,
repomd.xml.asc), and each .rpm itself, because dnf checks both; a .deb's digest is in its list.

The new tree is built beside the old one and replaces it with two renames: a server of the folder sees a complete one, or
for an instant none, and never a partial one.
apt's lists are also available by digest (by-hash): a client with the previous InRelease still finds them.
"""
import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from common import Fail, need_packages, out, run

NAME = "pf9-hostagent"
SUITE, COMPONENT = "stable", "main"
KEY_FILE = "pf9-packages.asc"
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
TOOLS = {"gpg": "gnupg", "dpkg-scanpackages": "dpkg-dev", "createrepo_c": "createrepo-c", "rpmsign": "rpm"}
# Validity of apt's lists: a stale list, shown to a machine to withhold a fix, is detected.
VALID_DAYS = 366


def gpg(key, *words, **kwargs):
    return run(["gpg", "--batch", "--yes", "--local-user", f"{key}!", "--digest-algo", "SHA512", *words], timeout=120, **kwargs)


def known(key):
    """The key's public half, in the form a machine needs."""
    shown = out(["gpg", "--batch", "--armor", "--export-options", "export-minimal", "--export", key])
    if "BEGIN PGP PUBLIC KEY BLOCK" not in shown:
        raise Fail(f"gpg has no key {key}", "see: gpg --list-secret-keys; docs/packages.md says how one is made")
    return shown + "\n"


def packages_of(paths, ending):
    found = [path for path in paths if path.suffix == ending]
    names = [path.name for path in found]
    if len(set(names)) != len(names):
        raise Fail(f"two {ending} packages have the same name", " ".join(sorted(names)))
    return found


def release(dist, when):
    """The list of the lists: the content of each, by digest."""
    files = sorted(path for path in dist.rglob("*") if path.is_file() and "by-hash" not in path.parts)
    rows = []
    for path in files:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        by_hash = path.parent / "by-hash/SHA256"
        by_hash.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, by_hash / digest)
        rows.append(f" {digest} {len(data)} {path.relative_to(dist)}")
    stamp = "%a, %d %b %Y %H:%M:%S UTC"
    until = datetime.fromtimestamp(when.timestamp() + VALID_DAYS * 86400, timezone.utc)
    fields = {"Origin": NAME, "Label": NAME, "Suite": SUITE, "Codename": SUITE, "Date": when.strftime(stamp),
              "Valid-Until": until.strftime(stamp), "Acquire-By-Hash": "yes",
              "Architectures": " ".join(ARCHITECTURES), "Components": COMPONENT}
    return "".join(f"{key}: {value}\n" for key, value in fields.items()) + "SHA256:\n" + "\n".join(rows) + "\n"


def apt(folder, key, debs, when):
    pool = folder / "pool" / COMPONENT
    pool.mkdir(parents=True)
    for deb in debs:
        shutil.copyfile(deb, pool / deb.name)
    dist = folder / "dists" / SUITE
    for arch in ARCHITECTURES:
        lists = dist / COMPONENT / f"binary-{arch}"
        lists.mkdir(parents=True)
        # Every version: older ones stay available.
        text = out(["dpkg-scanpackages", "--multiversion", "--arch", arch, f"pool/{COMPONENT}"], cwd=folder, timeout=300)
        text += "\n" if text else ""
        (lists / "Packages").write_text(text)
        (lists / "Packages.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    (dist / "Release").write_text(release(dist, when))
    gpg(key, "--clearsign", "--output", dist / "InRelease", dist / "Release")
    gpg(key, "--armor", "--detach-sign", "--output", dist / "Release.gpg", dist / "Release")


def dnf(folder, key, rpms, when):
    folder.mkdir(parents=True)
    for rpm in rpms:
        shutil.copyfile(rpm, folder / rpm.name)
        macros = {"_gpg_name": key, "_gpg_digest_algo": "sha512", "__gpg": shutil.which("gpg")}
        run(["rpmsign", *(word for name, value in macros.items() for word in ("--define", f"{name} {value}")),
             "--addsign", folder / rpm.name], timeout=120)
    seconds = str(int(when.timestamp()))
    run(["createrepo_c", "--quiet", "--no-database", "--revision", seconds, "--set-timestamp-to-revision", "--simple-md-filenames",
         folder], timeout=300)
    gpg(key, "--armor", "--detach-sign", "--output", folder / "repodata/repomd.xml.asc", folder / "repodata/repomd.xml")


def make(folder, key, paths):
    need_packages(TOOLS)
    folder, paths = Path(folder).resolve(), [Path(path) for path in paths]
    debs, rpms = packages_of(paths, ".deb"), packages_of(paths, ".rpm")
    others = [path for path in paths if path not in debs + rpms]
    if others or not paths:
        raise Fail("no packages: " + " ".join(map(str, others)) if others else "no packages were named",
                   "name .deb and .rpm files")
    public = known(key)
    given = os.environ.get("SOURCE_DATE_EPOCH")
    when = datetime.fromtimestamp(int(given), timezone.utc) if given else datetime.now(timezone.utc)
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir(parents=True)
    (new / KEY_FILE).write_text(public)
    if debs:
        apt(new / "apt", key, debs, when)
    if rpms:
        dnf(new / "rpm", key, rpms, when)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def main(argv):
    parser = argparse.ArgumentParser(prog="scripts/repository", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key", required=True)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("package", nargs="+")
    args = parser.parse_args(argv)
    make(args.folder, args.key, args.package)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Fail, subprocess.SubprocessError) as fail:
        print(f"repository: {fail}", file=sys.stderr)
        sys.exit(getattr(fail, "code", 1))

"""The .deb and the .rpm from one list, packaging/package.toml, by the distribution's own dpkg-deb and rpmbuild.

  deb(binaries, folder) / rpm(binaries, folder)     makes the package from a directory of release binaries
  kept_deb(binaries, folder)                        the .deb, from the cache if it was made of the same before
  python3 packager.py BINARIES FOLDER [--deb-only]  both, replacing previous ones

Same sources, same bytes: the package's times are the last commit's, or $SOURCE_DATE_EPOCH. $PF9_AGENT_VERSION, which the
programs are then built with as well, overrides the version in Cargo.toml. $PF9_AGENT_ARCH (amd64 or arm64) is what the
programs were built for, if not this machine. $DEBFULLNAME and $DEBEMAIL, as Debian's own tools read them, name the
maintainer of the packages.
"""
import gzip
import hashlib
import os
import re
import shutil
import sys
import tempfile
import tomllib
from datetime import datetime, timezone
from pathlib import Path

import cache
import golang
import sbom
from common import REPO, Fail, need_packages, out, run

LIST = REPO / "packaging/package.toml"
DATA = tomllib.loads(LIST.read_text())
# Architecture names of the GNU tools.
GNU = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
DEB_SCRIPTS, RPM_SCRIPTS = ["preinst", "postinst", "prerm", "postrm"], {"post": "post.sh", "preun": "preun.sh", "postun": "postun.sh"}


def version():
    return os.environ.get("PF9_AGENT_VERSION") or tomllib.loads((REPO / "Cargo.toml").read_text())["package"]["version"]


def epoch():
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return given or run(["git", "-C", REPO, "log", "-1", "--format=%ct"], check=False).stdout.strip() or "0"


def arch():
    wanted = os.environ.get("PF9_AGENT_ARCH") or golang.arch()
    if wanted not in sbom.TARGETS:
        raise Fail(f"no package for {wanted}", "there are: " + ", ".join(sbom.TARGETS))
    return wanted


def maintainer():
    """The maintainer, from the variables of Debian's tools (DEBFULLNAME, DEBEMAIL). Without them there is none, and
    the address is invalid by design (RFC 2606)."""
    name, address = os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")
    if not address:
        return DATA["maintainer"]
    if not re.fullmatch(r"[A-Za-z0-9.+_-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", address):
        raise Fail(f"DEBEMAIL is no address: {address!r}")
    name = name or DATA["maintainer"].partition(" <")[0]
    if re.search(r"[<>\n\r]", name):
        raise Fail(f"DEBFULLNAME is no name: {name!r}")
    return f"{name} <{address}>"


def is_config(path):
    return path.startswith("/etc/")


def at(path):
    """Its installed path."""
    return path.replace("{version}", version())


def packed(data):
    return gzip.compress(data, 9, mtime=0)


def debian_changelog():
    """The changelog that Debian's tools need: this version. The rest is in changelog.gz."""
    when = datetime.fromtimestamp(int(epoch()), timezone.utc).strftime("%a, %d %b %Y %H:%M:%S +0000")
    return (f"{DATA['name']} ({version()}-{DATA['release']}) stable; urgency=medium\n\n"
            f"  * Version {version()}: see changelog.gz.\n\n -- {maintainer()}  {when}\n").encode()


def rpm_changelog():
    """The same for rpm."""
    when = datetime.fromtimestamp(int(epoch()), timezone.utc).strftime("%a %b %d %Y")
    return f"* {when} {maintainer()} - {version()}-{DATA['release']}\n- Version {version()}: see CHANGELOG.md of its sources."


def made_of():
    """The libraries linked into the programs: for machines, and for people."""
    own, crates = sbom.of_program(arch())
    sbom.refuse_others(crates, DATA["licences"]["accepted"])
    about = {"name": DATA["name"], "version": version(), "license": DATA["license"]}
    when = datetime.fromtimestamp(int(epoch()), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    texts = {"sbom.cdx.json": sbom.cyclonedx(own, crates, about, when).encode(),
             "licences.txt": sbom.licences(crates).encode()}
    return {f"/usr/share/doc/{DATA['name']}/{name}": (text, 0o644) for name, text in texts.items()}


# Present in every program that a test could break through its environment (src/seam/fault.rs).
BREAKABLE = b"PF9_FAULT"


def program(path):
    data = path.read_bytes()
    if BREAKABLE in data:
        raise Fail(f"{path} was built with the feature fault", "build it without: such a program ends at the word of its environment")
    return data


def contents(binaries, kind):
    """Installed path → bytes and mode; for a link, its target and no mode. `kind`: deb or rpm."""
    found = {}
    for folder, names in DATA["programs"].items():
        for name in names:
            found[at(f"{folder}/{name}")] = (program(binaries / name), 0o755)
    for path, source in {**DATA["files"], **DATA[f"files_{kind}"]}.items():
        data = (REPO / source).read_bytes()
        found[at(path)] = (packed(data) if path.endswith(".gz") else data, 0o644)
    return found | made_of() | {at(path): (target, None) for path, target in DATA["links"].items()}


def lay_out(root, files):
    seconds = int(epoch())
    for path, (data, mode) in files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode is None:
            target.symlink_to(data)
        else:
            target.write_bytes(data)
            target.chmod(mode)
    for path in [root, *root.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def script(name):
    return at((REPO / "packaging" / name).read_text())


def objdump():
    """Debian's own tool only reads programs of this machine's architecture."""
    return "objdump" if arch() == golang.arch() else f"{GNU[arch()]}-objdump"


def c_library(binaries):
    """The newest C library symbol version that a program uses: what it needs at least."""
    programs = [binaries / name for names in DATA["programs"].values() for name in names]
    names = re.findall(r"GLIBC_(\d+(?:\.\d+)+)", "".join(out([objdump(), "-T", program]) for program in programs))
    if not names:
        raise Fail("the programs name no version of the C library", "they were not built for glibc")
    return max(names, key=lambda name: [int(part) for part in name.split(".")])


def fresh(folder, pattern):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(pattern):
        old.unlink()


def deb(binaries, folder, log=None):
    fresh(folder, f"{DATA['name']}_*.deb")
    return deb_of(deb_tree(binaries), folder, log)


def kept_deb(binaries, folder, log=None):
    """Packing takes ten seconds, and a cluster is brought up many times with the same programs."""
    tree = deb_tree(binaries)
    parts = {path: [data if mode is None else hashlib.sha256(data).hexdigest(), mode] for path, (data, mode) in tree.items()}
    key = cache.key_of(parts, epoch(), Path(__file__).read_text())
    kept = cache.artefact("package", key, lambda tmp: deb_of(tree, tmp, cache.log_of("package")))
    fresh(folder, f"{DATA['name']}_*.deb")
    package = only(kept.glob(f"{DATA['name']}_*.deb"), "dpkg-deb", log)
    return Path(shutil.copyfile(package, folder / package.name))


def deb_tree(binaries):
    """All that dpkg-deb is given, as of `contents`."""
    need_packages({"dpkg-deb": "dpkg", objdump(): "binutils" if objdump() == "objdump" else f"binutils-{GNU[arch()]}"})
    files = contents(binaries, "deb")
    files[f"/usr/share/doc/{DATA['name']}/changelog.Debian.gz"] = (packed(debian_changelog()), 0o644)
    needs = sorted([*DATA["needs"]["deb"], f"libc6 (>= {c_library(binaries)})"])
    text = DATA["description"].strip().splitlines()
    control = "".join(f"{key}: {value}\n" for key, value in {
        "Package": DATA["name"], "Version": f"{version()}-{DATA['release']}", "Architecture": arch(),
        "Section": "admin", "Priority": "optional", "Maintainer": maintainer(),
        "Installed-Size": sum(-(-len(data) // 1024) for data, _ in files.values()), "Depends": ", ".join(needs),
        "Description": DATA["summary"] + "".join(f"\n {line or '.'}" for line in text)}.items())
    about = {"control": (control, 0o644), "conffiles": ("".join(f"{path}\n" for path in files if is_config(path)), 0o644)}
    about |= {name: (script(f"deb/{name}"), 0o755) for name in DEB_SCRIPTS}
    return {**files, **{f"/DEBIAN/{name}": (data.encode(), mode) for name, (data, mode) in about.items()}}


def deb_of(tree, folder, log):
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as tmp:
        lay_out(Path(tmp), tree)
        # A machine with the C library that the programs need has a dpkg that reads zstd.
        run(["dpkg-deb", "--root-owner-group", "-Zzstd", "-z19", "--build", tmp, folder], log=log, timeout=300,
            env={"SOURCE_DATE_EPOCH": epoch()})
    return only(folder.glob(f"{DATA['name']}_*.deb"), "dpkg-deb", log)


SPEC = """Name: {name}
Version: {version}
Release: {release}
Summary: {summary}
License: {license}
Group: System Environment/Daemons
Packager: {maintainer}
AutoReqProv: no
{requires}

%description
{description}

%install
cp -a "{tree}/." %{{buildroot}}/

%files
{files}

{scripts}

%changelog
{changelog}
"""
RPM_ARCH = {"amd64": "x86_64", "arm64": "aarch64"}
RPM_OPTIONS = {"debug_package": "%{nil}", "__os_install_post": "%{nil}", "_build_id_links": "none",
               "_binary_payload": "w19.zstdio", "use_source_date_epoch_as_buildtime": "1",
               "clamp_mtime_to_source_date_epoch": "1", "_buildhost": "localhost"}


def rpm(binaries, folder, log=None):
    need_packages({"rpmbuild": "rpm"})
    fresh(folder, f"{DATA['name']}-*.rpm")
    files = contents(binaries, "rpm")
    lines = [f"%attr({'-' if mode is None else format(mode, 'o')},root,root) {'%config(noreplace) ' if is_config(path) else ''}{path}"
             for path, (_, mode) in files.items()]
    lines += [f"%dir %attr(755,root,root) {at(path)}" for path in DATA["directories"]["own"]]
    scripts = "\n".join(f"%{section}\n" + script(f"rpm/{name}").replace("%", "%%")
                        for section, name in RPM_SCRIPTS.items())
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as tmp:
        top = Path(tmp)
        lay_out(top / "tree", files)
        (top / "package.spec").write_text(SPEC.format(
            **{key: DATA[key] for key in ("name", "release", "summary", "license")}, version=version(), maintainer=maintainer(),
            requires="\n".join(f"Requires: {need}" for need in DATA["needs"]["rpm"]),
            description=DATA["description"].strip(), tree=top / "tree", files="\n".join(lines), scripts=scripts,
            changelog=rpm_changelog()))
        options = {**RPM_OPTIONS, "_topdir": str(top), "_rpmdir": str(folder), "_tmppath": str(top),
                   "_rpmfilename": "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm"}
        run(["rpmbuild", "-bb", "--target", f"{RPM_ARCH[arch()]}-linux", *(word for key, value in options.items() for word in ("--define", f"{key} {value}")),
             top / "package.spec"], log=log, timeout=300, env={"SOURCE_DATE_EPOCH": epoch()})
    return only(folder.glob(f"{DATA['name']}-*.rpm"), "rpmbuild", log)


def only(found, tool, log):
    found = sorted(found)
    if len(found) != 1:
        raise Fail(f"{tool} did not make exactly one package", " ".join(map(str, found)), log or "")
    return found[0]


if __name__ == "__main__":
    try:
        for make in (deb,) if "--deb-only" in sys.argv[3:] else (deb, rpm):
            make(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
    except Fail as fail:
        print(f"package: {fail}", file=sys.stderr)
        sys.exit(fail.code)

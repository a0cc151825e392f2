"""scripts/stack: assembles a stack. Prints the directory with stack.tar.zst and manifest.json last.

  build [--version 1.20.2-1] [--out DIR]                 from the distribution alone, no other site is needed
  upstream VERSION [--out DIR]                           from the projects' release files (internet)
  from-dir DIR --version V [--kubernetes K] [--out DIR]  from a directory: bin/ cni/ images/*.tar addons/*.yaml

Add-ons come from scripts/addons, in the order of their names: @STACK@, @COMPONENTS@ and @BUSYBOX@/@COREDNS@ (images) are
filled in here, and one that needs an image the stack lacks is left out. __DNS__SERVER__ and __DNS__DOMAIN__ stay: each
master puts the cluster's in.

The same input gives the same bytes: sorted, time 0, owner root. The management plane signs, not this program.
"""
import argparse
import hashlib
import json
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import cache
import images
import kubernetes
import upstream
from common import REPO, Fail, need_packages, run, say

NAME = "pf9-kube"
CONTROL_PLANE = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"]
BOTH = ["master", "worker"]
LIBRARY_DIRS = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib/x86_64-linux-gnu",
                "/lib/aarch64-linux-gnu", "/usr/lib64", "/lib64"]
TOOL_DIRS = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]


def needs(package, names, dirs):
    return {"package": package, "any_of": [f"{folder}/{name}" for folder in dirs for name in names]}


# kubelet and kube-proxy call these; Debian's runc is linked to libseccomp.
REQUIRES = [needs("conntrack", ["conntrack"], TOOL_DIRS), needs("iptables", ["iptables"], TOOL_DIRS),
            needs("nftables", ["nft"], TOOL_DIRS),
            needs("mount", ["mount"], TOOL_DIRS)]
REQUIRES_RUNC = needs("libseccomp2", ["libseccomp.so.2"], LIBRARY_DIRS)

CNI_PLUGINS = ["bandwidth", "bridge", "firewall", "host-local", "loopback", "portmap", "ptp", "static", "tuning"]
TAGS = {"pause": "3.6", "busybox": "1"}  # every other image: v and its component's version


# -- the three sources

def build(version):
    """kubelet and the rest compiled from Debian's source package; the runtime and etcd from Debian's packages."""
    kube_version = version.split("-")[0]
    if not re.fullmatch(r"1\.20\.\d+", kube_version):
        raise Fail(f"cannot build Kubernetes {kube_version} from the distribution",
                   "its source package holds 1.20; use `scripts/stack upstream` for others", code=2)
    binaries, packages = kubernetes.binaries(kube_version), kubernetes.packages()
    recipe = [Path(__file__).read_text(), Path(images.__file__).read_text(), addon_sources()]

    def make(tmp):
        tree = tmp / "tree"
        versions = {name: kube_version for name in kubernetes.COMPONENTS}
        place(tree / "bin", [binaries / name for name in ("kubelet", "kube-proxy", "kubectl")])
        files = {"containerd": "usr/bin/containerd", "containerd-shim-runc-v2": "usr/bin/containerd-shim-runc-v2",
                 "ctr": "usr/bin/ctr", "runc": "usr/sbin/runc", "etcd": "usr/bin/etcd", "etcdctl": "usr/bin/etcdctl"}
        place(tree / "bin", [packages / path for path in files.values()])
        place(tree / "cni", [packages / "usr/lib/cni" / name for name in CNI_PLUGINS
                             if (packages / "usr/lib/cni" / name).exists()])
        for package, component in (("containerd", "containerd"), ("runc", "runc"), ("etcd-server", "etcd"),
                                   ("containernetworking-plugins", "cni-plugins"), ("busybox-static", "busybox")):
            versions[component] = debian_version(packages, package)
        make_images(tree, {name: binaries / name for name in CONTROL_PLANE}, packages / "bin/busybox", versions)
        make_addons(tree, version, versions)
        assemble(tree, tmp, version, kube_version, versions, [*REQUIRES, REQUIRES_RUNC])
        shutil.rmtree(tree)

    return cache.artefact("stack", cache.key_of(version, binaries.name, packages.parent.name, recipe), make)


def from_upstream(version):
    """Release files with their published sums. VERSION is `1.30.4-1`, or `1.30.4`."""
    kube_version = version.split("-")[0]
    version = version if "-" in version else f"{version}-1"

    def make(tmp):
        tree = tmp / "tree"
        versions = upstream.fetch(tmp / "download", kube_version, arch())
        place(tree / "bin", sorted((tmp / "download/bin").iterdir()))
        place(tree / "cni", sorted((tmp / "download/cni").iterdir()))
        packages = kubernetes.packages()
        versions["busybox"] = debian_version(packages, "busybox-static")
        make_images(tree, {name: tmp / "download/images" / name for name in [*CONTROL_PLANE, "coredns"]},
                    packages / "bin/busybox", versions)
        make_addons(tree, version, versions)
        assemble(tree, tmp, version, kube_version, versions, REQUIRES)
        shutil.rmtree(tree)
        shutil.rmtree(tmp / "download")

    key = cache.key_of(version, Path(upstream.__file__).read_text(), Path(__file__).read_text(), addon_sources())
    return cache.artefact("stack-upstream", key, make)


def from_dir(source, version, kube_version, target):
    """`components.json` in the directory may name versions: {"etcd": "3.5.16", …}."""
    for folder in ("bin", "cni", "images"):
        if not (source / folder).is_dir():
            raise Fail(f"{source} is no stack directory", f"{source / folder} is missing", code=2)
    listed = source / "components.json"
    versions = json.loads(listed.read_text()) if listed.exists() else {}
    versions = {"kubelet": kube_version, **versions}
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".making-") as tmp:
        tree = Path(tmp) / "tree"
        for folder in ("bin", "cni", "images", "addons"):
            if (source / folder).is_dir():
                place(tree / folder, sorted((source / folder).iterdir()))
        assemble(tree, Path(tmp), version, kube_version, versions, REQUIRES)
        publish(Path(tmp), target)
    return target


# -- parts

def place(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        if not path.is_file():
            raise Fail(f"a part of the stack is missing: {path}")
        shutil.copyfile(path, folder / path.name)


def debian_version(packages, name):
    for line in (packages / "packages").read_text().splitlines():
        words = dict(part.split(": ", 1) for part in line.split("|") if ": " in part)
        if words.get("Package") == name:
            return re.split(r"[-+~]", words["Version"].split(":")[-1])[0]
    raise Fail(f"no package {name} was unpacked")


def make_images(tree, components, busybox, versions):
    folder = tree / "images"
    folder.mkdir(parents=True)
    versions["pause"] = TAGS["pause"]
    images.pause_image(folder / "pause.tar", reference("pause", versions), busybox)
    images.busybox_image(folder / "busybox.tar", reference("busybox", versions), busybox)
    for name, binary in components.items():
        images.component_image(folder / f"{name}.tar", reference(name, versions), binary)


def reference(name, versions):
    return f"pf9.local/{name}:{TAGS.get(name) or 'v' + versions[name]}"


def addon_sources():
    return {path.name: path.read_text() for path in sorted((REPO / "scripts/addons").glob("*.yaml"))}


def make_addons(tree, version, versions):
    folder = tree / "addons"
    folder.mkdir()
    table = "\n".join(f"    {name} {versions[name]}" for name in sorted(versions))
    for name, text in addon_sources().items():
        if "@COREDNS@" in text and "coredns" not in versions:
            continue
        text = text.replace("@STACK@", f"{NAME} {version}").replace("@COMPONENTS@", table)
        text = text.replace("@BUSYBOX@", reference("busybox", versions))
        if "coredns" in versions:
            text = text.replace("@COREDNS@", reference("coredns", versions))
        (folder / name).write_text(text)


def arch():
    machine = run(["uname", "-m"]).stdout.strip()
    known = {"x86_64": "amd64", "aarch64": "arm64"}
    if machine not in known:
        raise Fail(f"no stack for {machine}", "amd64 and arm64 are known", code=2)
    return known[machine]


# -- the two files

def assemble(tree, target, version, kube_version, versions, requires):
    """Writes stack.tar.zst and manifest.json into target, from everything below tree."""
    paths = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
    tar_path, packed = target / "stack.tar", target / "stack.tar.zst"
    files = []
    with tarfile.open(tar_path, "w", format=tarfile.GNU_FORMAT) as tar:
        for folder in sorted({str(Path(path).parent) for path in paths}):
            tar.addfile(images.entry(folder, tarfile.DIRTYPE, 0o755))
        for path in paths:
            size = (tree / path).stat().st_size
            mode = 0o755 if path.startswith(("bin/", "cni/")) else 0o644
            with open(tree / path, "rb") as source:
                tar.addfile(images.entry(path, mode=mode, size=size), source)
            files.append({"path": path, "mode": f"{mode:04o}", "sha256": digest(tree / path), "size": size,
                          "component": component_of(path)})
    run(["zstd", "-q", "-f", "-6", "-T0", "--rm", tar_path, "-o", packed], timeout=1800)
    manifest = {
        "schema": 1, "name": NAME, "version": version, "kubernetes": kube_version, "arch": arch(),
        "archive": {"sha256": digest(packed), "size": packed.stat().st_size},
        "components": [{"name": name, "version": versions[name]} for name in sorted(versions)],
        "files": files,
        "images": [image_entry(tree, path) for path in paths if path.startswith("images/")],
        "addons": [path for path in paths if path.startswith("addons/")],
        "requires": requires,
    }
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def digest(path):
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def component_of(path):
    folder, _, name = path.partition("/")
    if folder == "cni":
        return "cni-plugins"
    if folder == "addons":
        return "addons"
    stem = name.removesuffix(".tar")
    return {"containerd-shim-runc-v2": "containerd", "ctr": "containerd", "etcdctl": "etcd",
            "etcdutl": "etcd"}.get(stem, stem)


def image_entry(tree, path):
    with tarfile.open(tree / path) as tar:
        tags = json.load(tar.extractfile("manifest.json"))[0]["RepoTags"]
    component = component_of(path)
    return {"reference": tags[0], "path": path, "component": component,
            "roles": ["master"] if component in CONTROL_PLANE else BOTH}


def publish(source, target):
    target.mkdir(parents=True, exist_ok=True)
    for name in ("stack.tar.zst", "manifest.json"):
        shutil.copyfile(source / name, target / f".{name}.part")
        (target / f".{name}.part").replace(target / name)
    return target


def main(argv):
    parser = argparse.ArgumentParser(prog="scripts/stack", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("build")
    verb.add_argument("--version", default=f"{kubernetes.UPSTREAM}-1")
    verb.add_argument("--out", type=Path)
    verb = verbs.add_parser("upstream")
    verb.add_argument("version")
    verb.add_argument("--out", type=Path)
    verb = verbs.add_parser("from-dir")
    verb.add_argument("dir", type=Path)
    verb.add_argument("--version", required=True)
    verb.add_argument("--kubernetes", help="Kubernetes version; else the part of --version before the dash")
    verb.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    need_packages({"zstd": "zstd"})
    if args.verb == "from-dir":
        made = from_dir(args.dir, args.version, args.kubernetes or args.version.split("-")[0],
                        args.out or args.dir / "out")
    else:
        made = build(args.version) if args.verb == "build" else from_upstream(args.version)
        if args.out:
            made = publish(made, args.out)
    say(str(made.resolve()))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"stack: {fail}", file=sys.stderr)
        sys.exit(fail.code)

"""scripts/stack: assembles a stack. Prints the directory with stack.tar.zst and manifest.json last.

  build [--kubernetes 1.37] [--out DIR]                  from public Go modules, by the names in src/stack/matrix.toml
  upstream VERSION [--out DIR]                           from the projects' release files (internet)
  from-dir DIR --version V [--kubernetes K] [--out DIR]  from a directory: bin/ cni/ images/*.tar addons/*.yaml
  … --security                                           marked as mending a fault of security (see `upgrade.patches`)
  cost [--kubernetes 1.37]                               builds nothing: what each part of the tested stacks takes to build

Add-ons come from scripts/addons, in the order of their names: @STACK@, @COMPONENTS@ and, for each of OF_ADDONS, its name
(@COREDNS@, @METRICS_SERVER@ …: the image) are filled in here, and one that needs an image the stack lacks is left out.
Words like __DNS__SERVER__ stay: each master puts the cluster's in. A directory brings its own; calico's comes with its images.

The same input gives the same bytes: sorted, time 0, owner root. The management plane signs, not this program.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import cache
import golang
import images
import matrix
import netfilter
import parts
import upstream
from common import REPO, Fail, need_packages, run, say

NAME = "pf9-kube"
REVISION = "1"  # after the dash of a stack's version: the same components, put together in another way
BOTH = ["master", "worker"]
TOOL_DIRS = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]


def needs(package, names, dirs):
    return {"package": package, "any_of": [f"{folder}/{name}" for folder in dirs for name in names]}


# kubelet and kube-proxy call these. Every program of ours is static.
REQUIRES = [needs("conntrack", ["conntrack"], TOOL_DIRS), needs("iptables", ["iptables"], TOOL_DIRS),
            needs("nftables", ["nft"], TOOL_DIRS),
            needs("mount", ["mount"], TOOL_DIRS)]

# Programs on the node, by part; what is in nobody's list here is an image.
ON_NODES = {"kubernetes": ["kubelet", "kube-proxy", "kubectl"],
            "containerd": ["containerd", "containerd-shim-runc-v2", "ctr"],
            "runc": ["runc"], "etcd": ["etcd", "etcdctl", "etcdutl"]}
IN_IMAGES = {"kubernetes": parts.CONTROL_PLANE, "coredns": ["coredns"], "metrics-server": ["metrics-server"],
             "local-path-provisioner": ["local-path-provisioner"], "kube-router": ["kube-router"], "pause": ["pause"],
             "metallb": [f"metallb-{name}" for name in parts.METALLB]}
OF_ADDONS = ["busybox", "coredns", "metrics-server", "local-path-provisioner", "kube-router", *IN_IMAGES["metallb"],
             *matrix.SUPPLIED]
COMPILED = ["metrics_server", "local_path_provisioner", "kube_router", "metallb", "pause"]  # also for a stack of release files
CALICO = "50-calico.yaml"
TAGS = {"busybox": "1"}  # every other image: its component's version, with a v but for pause, as its project does


# -- the three sources

def build(wanted=""):
    """Each part is compiled from its module, or comes from the cache."""
    item = matrix.stack(wanted)
    version = f"{item['kubernetes']}-{REVISION}"
    made = parts.build(item)
    busybox, busybox_version = parts.busybox()
    recipe = [Path(__file__).read_text(), Path(images.__file__).read_text(), addon_sources(), tools_recipe()]

    def make(tmp):
        tree = tmp / "tree"
        for part, names in ON_NODES.items():
            place(tree / "bin", [made[part] / name for name in names])
        place(tree / "cni", sorted(made["cni-plugins"].iterdir()))
        versions = {**versions_of(item), "busybox": busybox_version}
        binaries = {name: made[part] / name for part, names in IN_IMAGES.items() for name in names}
        finish(tmp, version, item["kubernetes"], versions, binaries, busybox)

    key = cache.key_of(item, {name: path.parent.name for name, path in made.items()}, busybox_version, recipe)
    return cache.artefact(f"stack-{version}", key, make)


def versions_of(item):
    """Every component of a table of the matrix by the name that it has in a manifest."""
    others = {name.replace("_", "-"): version for name, version in item.items() if name != "kubernetes"}
    others |= dict.fromkeys(IN_IMAGES["metallb"], others.pop("metallb"))
    return {**{name: item["kubernetes"] for name in parts.KUBERNETES}, **others}


def from_upstream(version):
    """Release files with their published sums. VERSION is `1.37.2-1`, or `1.37.2`; the rest is its minor's, or that of the
    minor after it where none is tested with its own."""
    kube_version = version.split("-")[0]
    version = version if "-" in version else f"{version}-{REVISION}"
    if not re.fullmatch(r"\d+\.\d+\.\d+", kube_version):
        raise Fail(f"{kube_version} is no version of Kubernetes", "one looks like 1.37.2", code=2)
    item, tested = matrix.around(kube_version)
    if not tested:
        say(f"no test runs Kubernetes {matrix.minor_of(kube_version)}: planes and nodes take this stack with a warning that says so")
    busybox, busybox_version = parts.busybox()

    def make(tmp):
        fetched = tmp / "download"
        upstream.fetch(fetched, item, golang.arch())
        tree = tmp / "tree"
        place(tree / "bin", sorted((fetched / "bin").iterdir()))
        place(tree / "cni", sorted((fetched / "cni").iterdir()))
        # Their projects publish no program, only an image in a registry.
        compiled = [parts.MAKERS[name](item[name]) for name in COMPILED]
        binaries = {name: fetched / "images" / name for name in [*parts.CONTROL_PLANE, "coredns"]}
        finish(tmp, version, kube_version, {**versions_of(item), "busybox": busybox_version},
               {**binaries, **{name: golang.build(part) / name for part in compiled for name in IN_IMAGES[part.name]}},
               busybox)
        shutil.rmtree(fetched)

    key = cache.key_of(version, item, Path(upstream.__file__).read_text(), Path(__file__).read_text(), addon_sources(),
                       tools_recipe())
    return cache.artefact("stack-upstream", key, make)


def finish(tmp, version, kube_version, versions, binaries, busybox):
    """What both of these have in common once tree/bin and tree/cni are there."""
    tree = tmp / "tree"
    make_images(tree, binaries, busybox, versions)
    make_addons(tree, version, versions)
    assemble(tree, tmp, version, kube_version, versions, REQUIRES)
    shutil.rmtree(tree)


def from_dir(source, version, kube_version, target):
    """`components.json` in the directory may name versions: {"etcd": "3.7.3", …}."""
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
        make_calico(tree)
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


def make_images(tree, components, busybox, versions):
    folder = tree / "images"
    folder.mkdir(parents=True)
    images.busybox_image(folder / "busybox.tar", reference("busybox", versions), busybox)
    for name, binary in components.items():
        path, tag = folder / f"{name}.tar", reference(name, versions)
        if name == "pause":
            images.pause_image(path, tag, binary)
        elif name == "kube-router":
            images.policy_image(path, tag, binary, busybox, netfilter.tools())
        else:
            images.component_image(path, tag, binary)


def reference(name, versions):
    return f"pf9.local/{name}:{TAGS.get(name) or ('' if name == 'pause' else 'v') + versions[name]}"


def tools_recipe():
    return [Path(netfilter.__file__).read_text(), netfilter.tools()[-1]]


def addon_sources():
    return {path.name: path.read_text() for path in sorted((REPO / "scripts/addons").glob("*.yaml"))}


def make_addons(tree, version, versions):
    folder = tree / "addons"
    folder.mkdir()
    table = "\n".join(f"    {name} {versions[name]}" for name in sorted(versions))
    images_of = {word_of(name): name for name in OF_ADDONS}
    for name, text in addon_sources().items():
        wanted = {word: component for word, component in images_of.items() if word in text}
        if not set(wanted.values()) <= versions.keys():
            continue
        text = text.replace("@STACK@", f"{NAME} {version}").replace("@COMPONENTS@", table)
        for word, component in wanted.items():
            text = text.replace(word, reference(component, versions))
        (folder / name).write_text(text)


def word_of(component):
    return f"@{component.upper().replace('-', '_')}@"


def make_calico(tree):
    """Its add-on beside the images that somebody brought, unless he brought his own: it is written for one minor of it."""
    text, path = addon_sources()[CALICO], tree / "addons" / CALICO
    needed = {name: tree / "images" / f"{name}.tar" for name in matrix.SUPPLIED if word_of(name) in text}
    missing = [f"images/{tar.name} ({matrix.SUPPLIED[name]})" for name, tar in needed.items() if not tar.exists()]
    if len(missing) == len(needed) or list(path.parent.glob("*-calico.yaml")):
        return
    if missing:
        raise Fail(f"calico is not whole: {', '.join(missing)}", "bring all of its images, or none", code=2)
    for name, tar in needed.items():
        brought = image_entry(tree, f"images/{tar.name}")["reference"]
        meant = matrix.SUPPLIED[name]
        if matrix.minor_of(brought.rpartition(":")[2]) != matrix.minor_of(meant.rpartition(":")[2]):
            raise Fail(f"images/{tar.name} is {brought}, and scripts/addons/{CALICO} is written for {meant}",
                       f"bring that minor, or addons/{CALICO} for the one that is brought", code=2)
        text = text.replace(word_of(name), brought)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


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
        "schema": 1, "name": NAME, "version": version, "kubernetes": kube_version, "arch": golang.arch(),
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
            "roles": ["master"] if component in parts.CONTROL_PLANE else BOTH}


def publish(source, target):
    target.mkdir(parents=True, exist_ok=True)
    for name in ("stack.tar.zst", "manifest.json"):
        shutil.copyfile(source / name, target / f".{name}.part")
        (target / f".{name}.part").replace(target / name)
    return target


def mark_security(folder):
    """Says of a stack that it mends a fault of security: clusters whose policy says so go to it by themselves."""
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), "security": True}
    part = folder / ".manifest.json.part"
    part.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    part.replace(path)


def cost(wanted=""):
    """CPU time counts: parts are built side by side, and the time that one takes depends on what is beside it."""
    found = [matrix.stack(minor) for minor in ([wanted] if wanted else matrix.minors())]
    wanted = parts.needed(found, tests=not wanted)
    for program, measured, cpu in golang.expected(wanted):
        how = f"measured: {measured.seconds:.0f} s on {measured.cores} cores" if measured else "by the table"
        kept = "kept" if golang.is_made(program) else "to be compiled"
        say(f"{program.name + ' ' + program.version:<24} {cpu:6.0f} CPU s  {how:<32} {kept}")
    missing = [program for program in wanted if not golang.is_made(program)]
    say(f"with nothing kept about {golang.about(golang.seconds(wanted))} on the {os.cpu_count()} cores of this machine, "
        f"now {golang.about(golang.seconds(missing))}")


def main(argv):
    parser = argparse.ArgumentParser(prog="scripts/stack", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("build")
    verb.add_argument("--kubernetes", default="", help="a minor or a version of src/stack/matrix.toml; else the newest")
    verb.add_argument("--out", type=Path)
    verb = verbs.add_parser("upstream")
    verb.add_argument("version")
    verb.add_argument("--out", type=Path)
    verb = verbs.add_parser("from-dir")
    verb.add_argument("dir", type=Path)
    verb.add_argument("--version", required=True)
    verb.add_argument("--kubernetes", help="Kubernetes version; else the part of --version before the dash")
    verb.add_argument("--out", type=Path)
    verb = verbs.add_parser("cost")
    verb.add_argument("--kubernetes", default="")
    for name in ("build", "upstream", "from-dir"):
        verbs.choices[name].add_argument("--security", action="store_true",
                                         help="it mends a fault of security: clusters that patch at once go to it")
    args = parser.parse_args(argv)
    if args.verb == "cost":
        cost(args.kubernetes)
        return
    if args.security and args.verb != "from-dir" and not args.out:
        raise Fail("--security needs --out", "what is kept among the built parts is the same stack for everybody", code=2)
    need_packages({"zstd": "zstd"})
    if args.verb == "from-dir":
        made = from_dir(args.dir, args.version, args.kubernetes or args.version.split("-")[0],
                        args.out or args.dir / "out")
    else:
        made = build(args.kubernetes) if args.verb == "build" else from_upstream(args.version)
        if args.out:
            made = publish(made, args.out)
    if args.security:
        mark_security(made)
    say(str(made.resolve()))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"stack: {fail}", file=sys.stderr)
        sys.exit(fail.code)

"""Container images without a registry: a docker-archive tar with one layer, the same bytes every time.

  image(path, reference, files, links, config)   writes one archive
  busybox_image / pause_image / component_image / policy_image  the images of the offline stack
  python3 images.py DIR      pause.tar and busybox.tar with the tag `tests`, for tests of a runtime without a stack
  python3 images.py again ARCHIVE   built again by the same name with one more file, for tests of names that prove nothing
"""
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import golang
import matrix
import parts

LAYER_DIRS = ["bin", "etc", "tmp", "usr", "usr/bin", "usr/local", "usr/local/bin", "var", "root"]
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"


def entry(name, kind=tarfile.REGTYPE, mode=0o644, size=0, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, size, link
    info.mtime = info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def layer(files, links):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        above = {str(folder) for name in [*files, *links] for folder in Path(name).parents if str(folder) != "."}
        for name in [*LAYER_DIRS, *sorted(above - set(LAYER_DIRS))]:
            tar.addfile(entry(name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755))
        for name, (data, mode) in sorted({**files, "etc/passwd": (PASSWD.encode(), 0o644)}.items()):
            tar.addfile(entry(name, mode=mode, size=len(data)), io.BytesIO(data))
        for name, target in sorted(links.items()):
            tar.addfile(entry(name, tarfile.SYMTYPE, 0o777, link=target))
    return buffer.getvalue()


def image(path, reference, files, links, config):
    data = layer(files, links)
    digest = hashlib.sha256(data).hexdigest()
    document = json.dumps({"architecture": golang.arch(), "os": "linux", "created": "1970-01-01T00:00:00Z",
                           "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "WorkingDir": "/", **config},
                           "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
                           "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "scripts/stack"}]},
                          sort_keys=True).encode()
    name = hashlib.sha256(document).hexdigest()
    manifest = json.dumps([{"Config": f"{name}.json", "RepoTags": [reference],
                            "Layers": [f"{digest}/layer.tar"]}]).encode()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for inner, content in ((f"{name}.json", document), (f"{digest}/layer.tar", data), ("manifest.json", manifest)):
            tar.addfile(entry(inner, size=len(content)), io.BytesIO(content))


def busybox_files(busybox):
    applets = subprocess.run([str(busybox), "--list"], check=True, capture_output=True, text=True).stdout.split()
    links = {f"bin/{name}": "busybox" for name in applets if name != "busybox"}
    return {"bin/busybox": (busybox.read_bytes(), 0o755)}, links


def busybox_image(path, reference, busybox):
    files, links = busybox_files(busybox)
    image(path, reference, files, links, {"Cmd": ["/bin/sh"]})


def pause_image(path, reference, binary):
    image(path, reference, {"pause": (binary.read_bytes(), 0o755)}, {}, {"Entrypoint": ["/pause"], "User": "65535:65535"})


def component_image(path, reference, binary):
    """A control-plane component: its static binary where the upstream image has it, and nothing else."""
    image(path, reference, {f"usr/local/bin/{binary.name}": (binary.read_bytes(), 0o755)},
          {f"usr/bin/{binary.name}": f"../local/bin/{binary.name}"},
          {"Entrypoint": [f"/usr/local/bin/{binary.name}"]})


def policy_image(path, reference, binary, busybox, tools):
    """The controller of network policies calls iptables and ipset, and a shell between them: netfilter.RESTORE."""
    files, links, _ = tools
    shell = {"bin/sh": "busybox", "bin/awk": "busybox", "bin/cat": "busybox"}
    image(path, reference, {**files, "bin/busybox": (busybox.read_bytes(), 0o755),
                            f"usr/local/bin/{binary.name}": (binary.read_bytes(), 0o755)}, {**links, **shell},
          {"Entrypoint": [f"/usr/local/bin/{binary.name}"]})


def again(path):
    with tarfile.open(path) as archive:
        about = json.load(archive.extractfile("manifest.json"))[0]
        document = json.load(archive.extractfile(about["Config"]))
        with tarfile.open(fileobj=archive.extractfile(about["Layers"][0])) as inner:
            members = list(inner)
            files = {member.name: (inner.extractfile(member).read(), member.mode) for member in members if member.isfile()}
            links = {member.name: member.linkname for member in members if member.issym()}
    image(path, about["RepoTags"][0], {**files, "built-again": (b"yes\n", 0o644)}, links, document["config"])


def main(argv):
    if argv[0] == "again":
        again(Path(argv[1]))
        return
    program, _ = parts.busybox()
    pause = golang.build(parts.pause(matrix.stack()["pause"])) / "pause"
    pause_image(Path(argv[0]) / "pause.tar", "pf9.local/pause:tests", pause)
    busybox_image(Path(argv[0]) / "busybox.tar", "pf9.local/busybox:tests", program)


if __name__ == "__main__":
    main(sys.argv[1:])

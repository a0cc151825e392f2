"""Release files of the projects, each checked against the sum its project publishes beside it.

  fetch(target, item, arch)   fills bin/ cni/ images/ with the versions of `item`, a table of src/stack/matrix.toml
"""
import hashlib
import io
import tarfile
import urllib.error
import urllib.request

import parts
from common import Fail, say

KUBERNETES = "https://dl.k8s.io/release/v{v}/bin/linux/{arch}/{name}"
GITHUB = "https://github.com/{repo}/releases/download/v{v}/{name}"
SECONDS = 600


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise Fail(f"cannot download {url}", f"{error}; without internet use `scripts/stack build`") from error


def checked(url, sums_url):
    """The file at url; its sum must be in the text at sums_url (alone, or on a line with the file's name)."""
    say(f"downloading {url}")
    sums = get(sums_url).decode("utf-8", "replace").split("\n")
    name = url.rsplit("/", 1)[1]
    lines = [line.split() for line in sums if line.strip()]
    wanted = next((words[0] for words in lines
                   if len(words) == 1 or words[-1].lstrip("*").removeprefix("./").rsplit("/", 1)[-1] == name), None)
    data = get(url)
    if wanted is None or hashlib.sha256(data).hexdigest() != wanted.lower():
        raise Fail(f"{url} is not what its project published", f"published sha256: {wanted}")
    return data


def store(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def unpack(data, names):
    """The regular files called `names` of a tar archive: base name → bytes."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {member.name.rsplit("/", 1)[-1]: tar.extractfile(member).read() for member in tar if member.isfile()}
    missing = set(names) - set(files)
    if missing:
        raise Fail(f"an upstream archive lacks {', '.join(sorted(missing))}")
    return {name: files[name] for name in names}


def fetch(target, item, arch):
    for name in parts.KUBERNETES:
        url = KUBERNETES.format(v=item["kubernetes"], arch=arch, name=name)
        folder = "images" if name in parts.CONTROL_PLANE else "bin"
        store(target / folder / name, checked(url, url + ".sha256"))

    def release(component, repo, name, sums, names):
        fill = {"v": item[component], "arch": arch}
        name, sums = name.format(**fill), sums.format(**fill)
        data = checked(GITHUB.format(repo=repo, name=name, **fill), GITHUB.format(repo=repo, name=sums, **fill))
        return {names[0]: data} if len(names) == 1 and not name.endswith("gz") else unpack(data, names)

    for folder, files in (
            ("bin", release("containerd", "containerd/containerd", "containerd-{v}-linux-{arch}.tar.gz",
                            "containerd-{v}-linux-{arch}.tar.gz.sha256sum",
                            ["containerd", "containerd-shim-runc-v2", "ctr"])),
            ("bin", release("runc", "opencontainers/runc", "runc.{arch}", "runc.sha256sum", ["runc"])),
            ("bin", release("etcd", "etcd-io/etcd", "etcd-v{v}-linux-{arch}.tar.gz", "SHA256SUMS",
                            ["etcd", "etcdctl", "etcdutl"])),
            ("cni", release("cni_plugins", "containernetworking/plugins", "cni-plugins-linux-{arch}-v{v}.tgz",
                            "cni-plugins-linux-{arch}-v{v}.tgz.sha256",
                            [name for names in parts.CNI.values() for name in names])),
            ("images", release("coredns", "coredns/coredns", "coredns_{v}_linux_{arch}.tgz",
                               "coredns_{v}_linux_{arch}.tgz.sha256", ["coredns"]))):
        for name, data in files.items():
            store(target / folder / name, data)

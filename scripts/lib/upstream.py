"""Release files of the projects, each checked against the sum its project publishes beside it.

  fetch(target, kubernetes version, arch)   fills bin/ cni/ images/, returns the versions

Which runtime, etcd, CNI and DNS versions go with it is one table: what was tested together.
"""
import hashlib
import io
import tarfile
import urllib.error
import urllib.request

from common import Fail, say

TOGETHER = {"containerd": "1.7.24", "runc": "1.2.3", "etcd": "3.5.16", "cni-plugins": "1.6.1", "coredns": "1.11.4"}
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
    """The regular files called `names` (all, if None) of a tar archive: base name → bytes."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {member.name.rsplit("/", 1)[-1]: tar.extractfile(member).read() for member in tar if member.isfile()}
    missing = set(names or []) - set(files)
    if missing:
        raise Fail(f"an upstream archive lacks {', '.join(sorted(missing))}")
    return {name: files[name] for name in (names or files)}


def fetch(target, version, arch):
    for name in ("kubelet", "kube-proxy", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        url = KUBERNETES.format(v=version, arch=arch, name=name)
        folder = "bin" if name in ("kubelet", "kube-proxy", "kubectl") else "images"
        store(target / folder / name, checked(url, url + ".sha256"))

    def release(component, repo, name, sums, names):
        fill = {"v": TOGETHER[component], "arch": arch}
        name, sums = name.format(**fill), sums.format(**fill)
        data = checked(GITHUB.format(repo=repo, name=name, **fill), GITHUB.format(repo=repo, name=sums, **fill))
        return {names[0]: data} if len(names or []) == 1 and not name.endswith("gz") else unpack(data, names)

    for folder, files in (
            ("bin", release("containerd", "containerd/containerd", "containerd-{v}-linux-{arch}.tar.gz",
                            "containerd-{v}-linux-{arch}.tar.gz.sha256sum",
                            ["containerd", "containerd-shim-runc-v2", "ctr"])),
            ("bin", release("runc", "opencontainers/runc", "runc.{arch}", "runc.sha256sum", ["runc"])),
            ("bin", release("etcd", "etcd-io/etcd", "etcd-v{v}-linux-{arch}.tar.gz", "SHA256SUMS",
                            ["etcd", "etcdctl"])),
            ("cni", {name: data for name, data in
                     release("cni-plugins", "containernetworking/plugins", "cni-plugins-linux-{arch}-v{v}.tgz",
                             "cni-plugins-linux-{arch}-v{v}.tgz.sha256", None).items() if "." not in name
                     and name != "LICENSE"}),
            ("images", release("coredns", "coredns/coredns", "coredns_{v}_linux_{arch}.tgz",
                               "coredns_{v}_linux_{arch}.tgz.sha256", ["coredns"]))):
        for name, data in files.items():
            store(target / folder / name, data)
    kube = ["kubelet", "kube-proxy", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
    return {**{name: version for name in kube}, **TOGETHER}

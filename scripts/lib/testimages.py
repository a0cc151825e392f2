"""The images that the suites ask for, made here: a store that lib/registry.py serves.

  store(stack, made)      the directory: blobs/sha256/…, names.json (reference → digest), absent.json (asked for, not made)

The suite itself says which names it uses (`e2e.test --list-images`); for critest, which has them in its source, they are
named here. An image is made from what its project makes it from where that is a Go module, from the distribution's
programs where it is curl or nginx, and under the name and tag that the suite asks for. Layers are plain tar, the same
bytes each time, and what images have in common is one layer.
"""
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import cache
import golang
import images
import suite
from common import run

E2E = "registry.k8s.io/e2e-test-images"
CRI = "gcr.io/k8s-staging-cri-tools"

# By the path of the image below its registry, of what `--list-images` says.
RECIPES = {"pause": "pause", "etcd": "etcd", **{f"e2e-test-images/{name}": name for name in (
    "agnhost", "busybox", "glibc-dns-testing", "kitten", "nautilus", "nginx", "nonewprivs", "nonroot", "sample-apiserver")}}

# What critest has in its source: reference → recipe.
OF_CRITEST = {
    "registry.k8s.io/pause:3.9": "pause", "k8s.gcr.io/pause:3.9": "pause",
    f"{E2E}/busybox:1.29-2": "busybox", f"{E2E}/nginx:1.14-2": "nginx", f"{E2E}/httpd:2.4.39-4": "httpd",
    f"{E2E}/nonewprivs:1.3": "nonewprivs", f"{CRI}/hostnet-nginx-amd64:latest": "hostnet-nginx",
    f"{CRI}/hostnet-nginx-arm64:latest": "hostnet-nginx",
    f"{CRI}/test-image-user-uid:latest": "user-uid", f"{CRI}/test-image-user-username:latest": "user-name",
    f"{CRI}/test-image-user-uid-group:latest": "user-uid-group",
    f"{CRI}/test-image-user-username-group:latest": "user-name-group",
    f"{CRI}/test-image-predefined-group:latest": "predefined-group",
    f"{CRI}/test-image-latest:latest": "test-latest", f"{CRI}/test-image-tag:test": "test-tag",
    f"{CRI}/test-image-tag:all": "test-tag", **{f"{CRI}/test-image-tags:{n}": "test-tags" for n in (1, 2, 3)},
    **{f"{CRI}/test-image-{n}:latest": f"test-{n}" for n in (1, 2, 3)},
}
# Nobody but its project can make an image of a given digest.
DIGEST_ONLY = f"{CRI}/test-image-digest@sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"

PATH_LINE = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USERS = ("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n"
         "nobody:x:65534:65534:nobody:/:/bin/false\n")
# A test looks for the name of the system that its project builds on.
SYSTEM = 'NAME="busybox, in the place of Alpine Linux"\nID=busybox\n'
GROUPS = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"

# Programs of the distribution that tests start in the image where the project has Alpine's: path there → links to it.
TOOLS = {"usr/bin/bash": ["bin/bash"], "usr/bin/curl": [], "usr/bin/dig": [], "usr/bin/getent": [],
         "usr/bin/ipcs": [], "usr/bin/nc.openbsd": ["usr/bin/nc"], "usr/bin/socat": [], "usr/bin/ss": ["usr/sbin/ss"]}

NGINX = """worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
    access_log /dev/stdout;
    default_type text/html;
    server {
        listen @PORT@;
        root /usr/share/nginx/html;
    }
}
"""
WELCOME = "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n"


@dataclass
class Image:
    layers: list
    config: dict = field(default_factory=dict)

    def on(self, layer=None, **config):
        """One that begins with this one, as FROM does."""
        return Image([*self.layers, *([layer] if layer else [])], {**self.config, **config})


# -- layers

def layer(files, links=None, folders=(), names=None):
    """files: path → (bytes, mode); links: path → target; folders: path → mode; names: path → file that has this name as
    well. Parents are made where they are missing."""
    folders = dict(folders)
    for path in [*files, *(links or {}), *folders, *(names or {})]:
        for parent in list(Path(path).parents)[:-1]:
            folders.setdefault(str(parent), 0o755)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, mode in sorted(folders.items()):
            tar.addfile(images.entry(path, tarfile.DIRTYPE, mode))
        for path, (data, mode) in sorted(files.items()):
            tar.addfile(images.entry(path, mode=mode, size=len(data)), io.BytesIO(data))
        for path, target in sorted((links or {}).items()):
            tar.addfile(images.entry(path, tarfile.SYMTYPE, 0o777, link=target))
        for path, file in sorted((names or {}).items()):
            tar.addfile(images.entry(path, tarfile.LNKTYPE, 0o755, link=file))
    return buffer.getvalue()


def text(content, mode=0o644):
    return content.encode(), mode


def closure(root, programs):
    """The programs of a root, and the libraries that they are linked with."""
    said = run(["chroot", root, "ldd", *(f"/{path}" for path in programs)]).stdout
    words = {word.lstrip("/") for line in said.splitlines() for word in line.split() if word.startswith("/")}
    libraries = {word for word in words if ".so" in word}
    return {path: ((root / path).read_bytes(), 0o755) for path in [*programs, *sorted(libraries)]}


def base_layer(root):
    files, links = images.busybox_files(root / "usr/local/bin/busybox")
    # As in the project's image, not links: a test that masks one of them masks that one.
    names = dict.fromkeys(links, "bin/busybox")
    files |= {"etc/os-release": text(SYSTEM), "etc/passwd": text(USERS), "etc/group": text(GROUPS),
              "etc/nsswitch.conf": text("hosts: files dns\n")}
    folders = {"tmp": 0o1777, "root": 0o700, "var/www": 0o755, "usr/bin": 0o755, "usr/sbin": 0o755, "usr/local/bin": 0o755,
               "run": 0o755, "home": 0o755, "sbin": 0o755, "var/tmp": 0o1777}
    return layer(files, {"var/run": "/run"}, folders, names)


def tools_layer(root):
    links = {link: f"/{path}" for path, others in TOOLS.items() for link in others}
    return layer(closure(root, list(TOOLS)), links)


def nginx_layer(root, port):
    files = {**closure(root, ["usr/sbin/nginx"]), "etc/nginx/nginx.conf": text(NGINX.replace("@PORT@", str(port))),
             "usr/share/nginx/html/index.html": text(WELCOME)}
    return layer(files, {}, {"var/lib/nginx": 0o755, "var/log/nginx": 0o755, "run": 0o755})


def agnhost_layer(folder):
    users = USERS + "user-defined-in-image:x:1000:1000::/home:/bin/sh\n"
    groups = GROUPS + "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"
    files = {"agnhost": binary(folder / "agnhost"), "etc/passwd": text(users), "etc/group": text(groups),
             **{name: text((folder / name).read_text()) for name in ("localhost.crt", "localhost.key")}}
    return layer(files, {"agnhost-2": "agnhost"}, {"uploads": 0o755})


def binary(path, mode=0o755):
    return path.read_bytes(), mode


def folder_layer(folder):
    return layer({path.name: (path.read_bytes(), 0o644) for path in sorted(folder.iterdir())})


def recipes(made, etcd, root):
    """name → Image: all that can be made."""
    base = Image([base_layer(root)], {"Env": [PATH_LINE], "WorkingDir": "/", "Cmd": ["sh"]})
    tools = base.on(tools_layer(root))
    agnhost = tools.on(agnhost_layer(made["agnhost"]), Entrypoint=["/agnhost"], Cmd=["pause"])
    nginx = {"Cmd": ["nginx", "-g", "daemon off;"], "StopSignal": "SIGQUIT"}
    users = USERS + "default-user:x:1000:1000::/home:/bin/sh\n"
    groups = GROUPS + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"
    httpd = layer({"usr/local/bin/httpd-foreground": text(
        "#!/bin/sh\necho \"httpd: serving /var/www on port 80\" >&2\nexec /bin/httpd -f -vv -p 80 -h /var/www\n", 0o755),
        "var/www/index.html": text("<html><body><h1>It works!</h1></body></html>\n")})
    tagged = {f"test-{name}": base.on(layer({f"test-image-{name}": text(f"{name}\n")}))
              for name in ("latest", "tag", "tags", "1", "2", "3")}
    return {
        "pause": Image([layer({"pause": binary(made["pause"] / "pause")})],
                       {"Entrypoint": ["/pause"], "User": "65535:65535", "WorkingDir": "/", "Env": [PATH_LINE]}),
        "busybox": base, "glibc-dns-testing": tools, "agnhost": agnhost,
        **{name: agnhost.on(folder_layer(made["agnhost"] / name), Cmd=["test-webserver"]) for name in ("kitten", "nautilus")},
        "nginx": base.on(nginx_layer(root, 80), **nginx), "hostnet-nginx": base.on(nginx_layer(root, 12003), **nginx),
        "httpd": base.on(httpd, Cmd=["httpd-foreground"]),
        "nonroot": base.on(User="1234"),
        "nonewprivs": base.on(layer({"usr/local/bin/nnp": binary(made["agnhost"] / "nonewprivs", 0o6755)}), Cmd=["nnp"]),
        "sample-apiserver": base.on(layer({"sample-apiserver": binary(made["agnhost"] / "sample-apiserver")}),
                                    Entrypoint=["/sample-apiserver"]),
        "etcd": base.on(layer({f"usr/local/bin/{name}": binary(etcd / name) for name in ("etcd", "etcdctl", "etcdutl")}),
                        Cmd=["etcd"]),
        "user-uid": base.on(User="1002"), "user-name": base.on(User="www-data"),
        "user-uid-group": base.on(User="1003:1004"), "user-name-group": base.on(User="www-data:1004"),
        "predefined-group": base.on(layer({"etc/passwd": text(users), "etc/group": text(groups)}), User="1000"),
        **tagged,
    }


# -- the store

class Store:
    def __init__(self, folder):
        self.folder = folder / "blobs/sha256"
        self.folder.mkdir(parents=True)

    def put(self, data):
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def image(self, image):
        """The digest of its manifest."""
        layers = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **self.put(data)} for data in image.layers]
        config = {"architecture": golang.arch(), "os": "linux", "created": "1970-01-01T00:00:00Z", "config": image.config,
                  "rootfs": {"type": "layers", "diff_ids": [item["digest"] for item in layers]}}
        described = self.put(json.dumps(config, sort_keys=True).encode())
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **described}, "layers": layers}
        return self.put(json.dumps(manifest, sort_keys=True).encode())["digest"]


def asked_for(e2e_test):
    """References of the suite → recipe, None where there is none. Its first lines are of its own log."""
    said = run([e2e_test, "--list-images"], timeout=120).stdout.split()
    found = {}
    for reference in (word for word in said if "/" in word and ":" in word.rsplit("/", 1)[-1]):
        path = reference.split("/", 1)[1].rsplit(":", 1)[0]
        found[reference] = RECIPES.get(path)
    return found


def store(stack, made, etcd):
    """`made`: suite.build's; `etcd`: the directory with its programs."""
    def make(tmp):
        root = suite.tools()
        known = recipes(made, etcd, root)
        wanted = {**asked_for(made["e2e"] / "e2e.test"), **OF_CRITEST}
        target, digests = Store(tmp), {}
        for name in sorted({name for name in wanted.values() if name}):
            digests[name] = target.image(known[name])
        names = {reference: digests[name] for reference, name in wanted.items() if name}
        absent = sorted([reference for reference, name in wanted.items() if not name] + [DIGEST_ONLY])
        (tmp / "names.json").write_text(json.dumps(names, indent=1, sort_keys=True) + "\n")
        (tmp / "absent.json").write_text(json.dumps(absent, indent=1) + "\n")

    key = cache.key_of([path.parent.name for path in made.values()], etcd.parent.name, suite.TOOLS, suite.FINISH_TOOLS,
                       Path(__file__).read_text(), Path(images.__file__).read_text())
    return cache.artefact(f"test-images-{stack['kubernetes']}", key, make, "1 min")

"""The floor of scripts/bench join: what the agent starts, started by a person who already has every file.

  keep(machines, folder)     copies the configuration, certificates and units of nodes made by the agent
  lay_out(machine, …)        puts them on a new machine, with the script that starts everything
  served(made)               the stack, by plain HTTP
"""
import contextlib
import functools
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import node
from common import run

FILES = ["etc/pf9/kube.d", "etc/pf9/containerd", "etc/pf9/cni", "etc/pf9/crictl.yaml", "etc/pf9/node.env", "opt/pf9/cni"]
UNITS = ["containerd", "etcd", "network", "kubelet", "kube-proxy"]
PORT = 8444

SCRIPT = r"""
set -eu
url=$1 dir=/opt/pf9/stacks/@DIR@
mkdir -p $dir
curl -sf $url/stack.tar.zst -o /var/tmp/stack.tar.zst
echo "@SHA@  /var/tmp/stack.tar.zst" | sha256sum --quiet -c
zstd -dcq /var/tmp/stack.tar.zst | tar -x -C $dir
(cd $dir && sha256sum --quiet -c /root/files.sha256)
rm /var/tmp/stack.tar.zst
for link in @LINKS@; do ln -s @DIR@ /opt/pf9/stacks/$link; done
for program in containerd runc kubelet kube-proxy @MASTER_PROGRAMS@; do $dir/bin/$program --version > /dev/null; done
for file in /etc/sysctl.d/*pf9*; do [ ! -e "$file" ] || sysctl -q -e -p "$file" || :; done
systemctl daemon-reload
systemctl start pf9-containerd
for image in @IMAGES@; do
  $dir/bin/ctr --address /run/pf9-containerd/containerd.sock -n k8s.io images import $dir/$image > /dev/null
done
for unit in @BEFORE@ pf9-network; do systemctl start $unit; done
systemctl start pf9-kubelet
systemctl start pf9-kube-proxy
"""


def keep(machines, folder):
    for role, machine in machines.items():
        target = folder / role
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        found = [path for path in FILES if (machine.root / path).exists()]
        found += [f"etc/systemd/system/pf9-{unit}.service" for unit in UNITS
                  if (machine.root / f"etc/systemd/system/pf9-{unit}.service").exists()]
        found += [str(p.relative_to(machine.root)) for p in (machine.root / "etc/sysctl.d").glob("*pf9*")]
        for path in found:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            run(["cp", "-a", machine.root / path, target / path])


def lay_out(machine, role, configs, manifest, made):
    run(["cp", "-a", f"{configs}/.", machine.root])
    for path, mode in (("var/lib/pf9", 0o755), ("var/lib/pf9/containerd", 0o700), ("var/lib/pf9/kubelet", 0o750),
                       ("opt/pf9/stacks", 0o755), ("var/log/pods", 0o755), ("var/log/containers", 0o755),
                       *([("var/lib/pf9/etcd", 0o700)] if role == "master" else [])):
        (machine.root / path).mkdir(parents=True, exist_ok=True)
        (machine.root / path).chmod(mode)
    if role == "master":  # it founds again
        settings = machine.root / "etc/pf9/kube.d/etcd/cluster.env"
        settings.write_text(settings.read_text().replace("existing", "new"))
        (machine.root / "etc/pf9/kube.d/etcd/begins").write_text("")
    listed = [f"{f['sha256']}  {f['path']}\n" for f in manifest["files"]]
    (machine.root / "root/files.sha256").write_text("".join(listed))
    machine.copy_in(shutil.which("zstd"), "/usr/local/bin/zstd")
    words = {"DIR": f"{manifest['name']}-{manifest['version']}", "SHA": manifest["archive"]["sha256"],
             "IMAGES": " ".join(i["path"] for i in manifest["images"] if role in i["roles"]),
             "LINKS": "current etcd-current" if role == "master" else "current",
             "BEFORE": "pf9-etcd" if role == "master" else "", "MASTER_PROGRAMS": "etcd" if role == "master" else ""}
    script = SCRIPT
    for word, value in words.items():
        script = script.replace(f"@{word}@", value)
    (machine.root / "root/by-hand.sh").write_text(script)
    run(["sync"])


@contextlib.contextmanager
def served(made):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass
    server = ThreadingHTTPServer((node.HOST, PORT), functools.partial(Quiet, directory=str(made)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{node.HOST}:{PORT}"
    finally:
        server.shutdown()
        server.server_close()

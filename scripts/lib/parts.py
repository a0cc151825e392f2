"""The parts of a stack as programs of Go modules, and where their files go.

  build(stack)       for a table of src/stack/matrix.toml: part → directory with its programs; build_all(programs)
  busybox()          the distribution's static one: path and version
  tested(part)       every etcd, every containerd that tests run on their own: version → directory with its programs
  needed(stacks, tests)   all programs of these stacks, and those that tests run on their own
  announce(programs) prints which of them are missing, and how long each will take
  python3 parts.py PART [VERSION…] [--made]    these versions of etcd, containerd, runc …, or all tested ones; prints
                                               the directories. --made: fails if one is missing

Each part is an artefact of its own: a new etcd builds etcd.
"""
import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import golang
import matrix
import roots
from common import Fail, out, say
from golang import Program

# Compiling one part keeps all cores busy, except for its downloads, its linker and its last packages: two at a time fill
# these gaps, and more would only need more memory.
AT_ONCE = 2

KUBERNETES = ["kubelet", "kube-proxy", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
CONTROL_PLANE = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"]
CNI = {"main": ["bridge", "loopback", "ptp"], "meta": ["bandwidth", "firewall", "portmap", "tuning"],
       "ipam": ["host-local", "static"]}
# The plugins that scripts/addons/05-coredns.yaml uses. All of its plugins would add the libraries of three clouds,
# two thirds of what has to be compiled.
COREDNS = ["cache", "errors", "forward", "health", "kubernetes", "loadbalance", "loop", "metrics", "ready", "reload"]
KUBE_ROUTER = Path(__file__).with_name("kube-router.go")
METALLB = ["controller", "speaker"]


def kubernetes(version):
    """All from one module together: most of their code is shared."""
    major, minor, _ = version.split(".", 2)
    package = "k8s.io/component-base/version"
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "archive"}
    return Program(
        "kubernetes", version, "k8s.io/kubernetes", [f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES], 16,
        ldflags=" ".join(f"-X {package}.{name}={value}" for name, value in values.items()),
        siblings=golang.siblings(version))


def beside():
    """Add-ons are compiled with the libraries of the newest Kubernetes in the table, instead of with five releases of the same
    client. What is compiled already depends on what else they require: local-path-provisioner takes 12 s of a processor
    (146 with its own), while coredns and kube-router, which require newer libraries below the client, still take 100 and
    134. What it costs: their projects tried them with older ones. Every stack of the table has the same, tried with it.
    (metallb 0.15 has its own: its controller-runtime does not compile with them.)"""
    return matrix.stack()["kubernetes"]


def containerd(version):
    module = "github.com/containerd/containerd/v2"
    return Program(
        "containerd", version, module,
        [f"{module}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")], 3,
        ldflags=f"-X {module}/version.Version=v{version}", tags="no_btrfs,no_devmapper,no_zfs,urfave_cli_no_docs")


def etcd(version):
    module = "go.etcd.io/etcd/{}/v3"
    more = {module.format(name): version for name in ("etcdctl", "etcdutl")}
    # 3.5 and 3.6 exclude modules by pointing them at a missing directory. 3.5's `client/v2` is
    # published under a version of its own, the one it requires.
    lines = {"3.5": r"FORBIDDEN_DEPENDENCY\|client\/v2 =>", "3.6": "FORBIDDEN_DEPENDENCY"}
    forbidden = lines.get(matrix.minor_of(version), "")
    return Program("etcd", version, module.format("server"), [module.format("server"), *more], 1, more=more,
                   without=forbidden, rename={"server": "etcd"})


def runc(version):
    """Static, so that neither the C library nor libseccomp of a machine matter."""
    return Program("runc", version, "github.com/opencontainers/runc", ["github.com/opencontainers/runc"], 0.3,
                   ldflags='-linkmode external -extldflags "-static"', tags="seccomp,netgo,osusergo,urfave_cli_no_docs",
                   cgo=True)


def cni_plugins(version):
    module = "github.com/containernetworking/plugins"
    return Program("cni-plugins", version, module,
                   [f"{module}/plugins/{kind}/{name}" for kind, names in CNI.items() for name in names], 0.2,
                   ldflags=f"-X {module}/pkg/utils/buildversion.BuildVersion=v{version}")


def coredns(version):
    module = "github.com/coredns/coredns"
    lines = "".join(f'\t_ "{module}/plugin/{name}"\n' for name in COREDNS)
    source = f'package main\n\nimport (\n\t"{module}/coremain"\n{lines})\n\nfunc main() {{ coremain.Run() }}\n'
    return Program("coredns", version, module, ["."], 0.7, source=source, rename={"build": "coredns"}, beside=beside())


def metrics_server(version):
    """Its own version of the OpenAPI library, compiled with Go 1.27, writes Go's type names into its description, which the
    API server then cannot serve to kubectl as protobuf: another reason for `beside`."""
    module = "sigs.k8s.io/metrics-server"
    return Program("metrics-server", version, module, [f"{module}/cmd/metrics-server"], 0.6,
                   ldflags=f"-X {module}/pkg/version.gitVersion=v{version}", beside=beside())


def local_path_provisioner(version):
    module = "github.com/rancher/local-path-provisioner"
    return Program("local-path-provisioner", version, module, [module], 0.3, ldflags=f"-X main.VERSION=v{version}",
                   beside=beside())


def kube_router(version):
    """Only its controller of network policies: kube-router.go says why."""
    module = "github.com/cloudnativelabs/kube-router/v2"
    return Program("kube-router", version, module, ["."], 0.3, source=KUBE_ROUTER.read_text(),
                   rename={"build": "kube-router"}, beside=beside())


def metallb(version):
    """Its announcer answers for addresses (ARP, NDP); its BGP part is another project's, and not in the stack."""
    module = "go.universe.tf/metallb"
    return Program("metallb", version, module, [f"{module}/{name}" for name in METALLB], 4,
                   ldflags=f"-X {module}/internal/version.release=v{version}",
                   # The version it names was never published; only types of it are used, by what is not in the stack.
                   instead={"github.com/metallb/frr-k8s": "0.0.21"},
                   rename={name: f"metallb-{name}" for name in METALLB})


# For each version of the image: a release whose source has it. It is a C program, which keeps a pod's namespaces and
# reaps the orphans of a shared process namespace.
PAUSE_OF = {"3.10.2": "1.37.2"}


def pause(version):
    if version not in PAUSE_OF:
        raise Fail(f"no release of Kubernetes is named that has pause {version}", f"{__file__} names them", code=2)
    return Program("pause", PAUSE_OF[version], "k8s.io/kubernetes", [], 0.2, siblings=golang.siblings(PAUSE_OF[version]),
                   after=f'gcc -Os -Wall -Werror -static -DVERSION=v{version} -o out/pause "$from/build/pause/linux/pause.c"')


# The slowest first.
MAKERS = {maker.__name__: maker for maker in
          (kubernetes, containerd, metrics_server, coredns, kube_router, metallb, local_path_provisioner, etcd, runc,
           pause, cni_plugins)}


def programs(stack):
    return [maker(stack[part]) for part, maker in MAKERS.items()]


def needed(stacks, tests):
    """Without duplicates."""
    every = [program for stack in stacks for program in programs(stack)]
    if tests:
        every += [MAKERS[part](version) for part in matrix.ALONE for version in tested_versions(part)]
    return list({golang.identity(program): program for program in every}.values())


def announce(wanted):
    missing = [program for program in wanted if not golang.is_made(program)]
    if missing:
        cores = os.cpu_count() or 1
        names = ", ".join(f"{program.name} {program.version} {golang.about(cpu / cores)}"
                          for program, _, cpu in golang.expected(missing))
        say(f"to be compiled, once: {names}; about {golang.about(golang.seconds(missing))} in all on the "
            f"{cores} cores of this machine")
    return missing


def build(stack):
    return build_all(programs(stack))


def build_all(wanted):
    """Name → directory with its programs. What has the libraries of a Kubernetes comes after it: they are compiled once."""
    missing = announce(wanted)
    if missing:
        golang.toolchain()  # both lanes wait for it
    with golang.workshop() if missing else nullcontext(), ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        made = {}
        for program in sorted(wanted, key=lambda program: bool(program.beside)):
            others = [future for other, future in made.values() if (other.name, other.version) == ("kubernetes", program.beside)]
            made[golang.identity(program)] = program, pool.submit(build_after, others, program)
        try:
            return {program.name: future.result() for program, future in made.values()}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def build_after(others, program):
    for other in others:
        other.result()
    return golang.build(program)


def busybox():
    root = roots.builder()
    text = out(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f=${Version}", "busybox-static"])
    return root / "bin/busybox", text.split(":")[-1].split("-")[0]


def tested_versions(part):
    return list(dict.fromkeys([*(stack[part] for stack in matrix.stacks()), *matrix.ALONE.get(part, [])]))


def tested(part, versions=(), made=False):
    """Built if missing; with `made` that is a failure."""
    wanted = {version: MAKERS[part](version) for version in versions or tested_versions(part)}
    missing = [version for version, program in wanted.items() if not golang.is_made(program)]
    if missing and made:
        raise Fail(f"{part} {', '.join(missing)} is not built", f"python3 {__file__} {part} {' '.join(missing)}")
    return {version: golang.build(program) for version, program in wanted.items()}


def main(argv):
    parser = argparse.ArgumentParser(prog="parts.py")
    parser.add_argument("part", choices=MAKERS)
    parser.add_argument("version", nargs="*")
    parser.add_argument("--made", action="store_true")
    args = parser.parse_args(argv)
    for folder in tested(args.part, args.version, args.made).values():
        say(str(folder))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fail as fail:
        print(f"parts: {fail}", file=sys.stderr, flush=True)
        sys.exit(fail.code)

"""Upstream's own judges as programs: of Kubernetes the e2e suite of the very release, of the runtime critest.

  programs(stack)         what a table of src/stack/matrix.toml is judged by, as golang.Programs
  build(stack)            part → directory with its programs
  missing(stack)          names of those that would have to be compiled first
  tools()                 a root of the distribution: what the test images have beside Go programs, and busybox

Each is an artefact of its own, like the parts of a stack: a new cri-tools builds cri-tools.
"""
import golang
import matrix
import parts
import roots
from common import Fail
from golang import Program

# Of each minor of Kubernetes: the cri-tools that its projects test it with.
CRI_TOOLS = {"1.37": "1.37.0", "1.36": "1.36.0"}

TOOLS = ("gcc libc6-dev make bzip2 bash bind9-dnsutils curl iproute2 libc-bin netcat-openbsd nginx-light socat "
         "util-linux").split()

# Busybox as its project releases it: the distribution's drops variables from the environment whose names are no names for
# a shell, and a ConfigMap's keys need not be any.
FINISH_TOOLS = """
sed 's/^deb /deb-src /' /etc/apt/sources.list > /etc/apt/sources.list.d/source.list
apt-get update -q
cd /usr/src
apt-get source --download-only -q busybox
mkdir busybox && tar -C busybox --strip-components=1 -xf busybox_*.orig.tar.*
cd busybox
make -s defconfig
sed -i 's/.*CONFIG_STATIC[ =].*/CONFIG_STATIC=y/' .config
yes '' | make -s oldconfig > /dev/null
make -s -j2
install busybox /usr/local/bin/busybox
cd / && rm -rf /usr/src/busybox*
"""


def version_flags(version):
    """As hack/lib/version.sh names them: the suite asks the server whether it is of the same release."""
    major, minor, _ = version.split(".", 2)
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "archive"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {package}.{name}={value}" for package in packages for name, value in values.items())


def of_kubernetes(name, version, packages, cpu_minutes, **more):
    return Program(name, version, "k8s.io/kubernetes", packages, cpu_minutes, ldflags=version_flags(version),
                   siblings=golang.siblings(version), **more)


ASSETS = """\
for name in kitten nautilus; do cp -r "$from/test/images/$name/html" out/$name; done
cp "$from"/test/images/agnhost/porter/localhost.* out/
chmod -R u+w out"""


def e2e(version):
    """The suite, and the runner of the version that the suite was written with."""
    return of_kubernetes("e2e", version, ["github.com/onsi/ginkgo/v2/ginkgo"], 14,
                         tests={"k8s.io/kubernetes/test/e2e": "e2e.test"})


def agnhost(version):
    """What test images are made from, with the files that are beside it in the source. The sample of an API server is the
    release's own: the older one that the suite means is not to be had, and serves the same groups."""
    packages = [f"k8s.io/kubernetes/test/images/{name}" for name in ("agnhost", "nonewprivs")]
    return of_kubernetes("agnhost", version, [*packages, "k8s.io/sample-apiserver"], 5, after=ASSETS)


def critest(version):
    cri_tools = CRI_TOOLS.get(matrix.minor_of(version))
    if not cri_tools:
        raise Fail(f"no cri-tools are named for Kubernetes {version}", f"{__file__} names them", code=2)
    module = "sigs.k8s.io/cri-tools"
    return Program("cri-tools", cri_tools, module, [f"{module}/cmd/crictl"], 2.5,
                   ldflags=f"-X {module}/pkg/version.Version={cri_tools}", tests={f"{module}/cmd/critest": "critest"})


def programs(stack):
    """Those that take longest come first."""
    return [*(maker(stack["kubernetes"]) for maker in (e2e, agnhost, critest)), parts.pause(stack["pause"])]


def missing(stack):
    return [f"{program.name} {program.version}" for program in programs(stack) if not golang.is_made(program)]


def build(stack):
    return parts.build_all(programs(stack))


def tools():
    return roots.derived("test-tools", TOOLS, FINISH_TOOLS)

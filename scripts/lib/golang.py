"""Programs of public Go modules, by name and version.

  toolchain()        Go itself: the distribution's go command fetches the wanted version from the module proxy
  build(program)     compiles a Program; returns the directory with its files; is_made(program): already done
  expected(programs) their measured cost here (cache.Cost), or the expected one; seconds(programs): all of them

A program is built as a dependency of a module made from its own go.mod, so it gets exactly the versions that its project
released it with, and every module is checked against the public sum database. Common dependencies are
compiled once: programs share a build cache, which lives as long as somebody builds. A program with `beside` gets at least
the versions of that release of Kubernetes, whose libraries are then compiled for both, but for those that depend on
something of which the program requires a newer version.
"""
import contextlib
import fcntl
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import cache
import matrix
import roots
from common import CACHE, Fail, run

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# How this machine reaches modules is up to its owner; the build must not depend on it.
PASSED_ON = ["GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
             "http_proxy", "https_proxy", "no_proxy"]
WORKSHOP = CACHE / ".go-build"
RUBBISH = ".go-rubbish-"
BUILD_SECONDS = 5400
# The compiler and the linker are Go programs themselves: memory for less work. Not part of any key.
COMPILER_GOGC = "300"
# Cost of another version of a program after the first: most of its libraries are compiled.
AGAIN = 0.4

# The module proxy does not preserve executable modes: they are restored.
FETCH = """
cd /build
GOPATH=/build/go GOFLAGS= /usr/lib/go-1.19/bin/go mod download golang.org/toolchain@@VERSION@
mv /build/go/pkg/mod/golang.org/toolchain@@VERSION@ /build/root
chmod -R u+w /build/root
chmod 755 /build/root/bin/* /build/root/pkg/tool/*/*
chmod -R u+w /build/go && rm -rf /build/go
/build/root/bin/go version
"""

# The directories that a go.mod points at beside itself are modules of their own, published with the same tag.
BUILD = """
cd /build
mkdir src out && cd src
go mod download -json @MODULE@@v@VERSION@ > found.json || { cat found.json; exit 1; }
from=$(sed -n 's/^\\t"Dir": "\\(.*\\)",$/\\1/p' found.json)
sed -e 's,^module .*,module build,' -e '/^toolchain /d'@WITHOUT@ \\
  -e 's,^\\(replace\\)*\\([ \\t]*\\)\\([^ ]*\\) => \\.\\.*/.*,\\1\\2\\3 => \\3 v@SIBLINGS@,' "$from/go.mod" > go.mod
go mod edit -json | sed -n '/"Tool": \\[/,/\\]/s/.*"Path": "\\(.*\\)".*/\\1/p' | while read -r tool; do
  go mod edit -droptool="$tool"
done
cp "$from/go.sum" .
go mod edit @REQUIRE@@BESIDE@
@SOURCE@
go build -o ../out/ -tags '@TAGS@' -gcflags=all=-dwarf=false -ldflags '-s -w @LDFLAGS@' @PACKAGES@
cd ..
@RENAME@
rm -rf src
"""

# The modules of its own repository are required as v0.0.0, and named by directory.
OF_KUBERNETES = r""" -e '/^\t*\(replace \)*k8s\.io\/[^ ]* => \.\//d' -e 's,^\(\t*\(require \)*k8s\.io/[^ ]* v\)0\.0\.0\( \|$\),\1@SIBLINGS@\3,'"""

# It and the modules of its own repository that it needs, in the versions that it is built with itself: what was compiled is
# found again only by the version that is required. `go` takes the higher version of each other module.
BESIDE = """
go mod download -json k8s.io/kubernetes@v@VERSION@ > beside.json || { cat beside.json; exit 1; }
go mod edit -require=k8s.io/kubernetes@v@VERSION@ $(sed -n \\
  's,^[ \\t]*\\(k8s.io/[^ ]*\\) v0\\.0\\.0\\( .*\\)*$,-dropreplace=\\1 -require=\\1@v@SIBLINGS@,p' \\
  "$(sed -n 's/^\\t"GoMod": "\\(.*\\)",$/\\1/p' beside.json)")
go get k8s.io/kubernetes@v@VERSION@  # requirements of what is required count only once somebody asks for them
"""


@dataclass
class Program:
    """One module's programs, built together."""
    name: str
    version: str
    module: str
    packages: list                                 # none: `after` makes all there is
    cpu_minutes: float                             # about, with nothing in the build cache
    ldflags: str = ""
    tags: str = ""
    cgo: bool = False
    siblings: str = ""                             # version of the modules that its go.mod names by directory
    without: str = ""                              # lines of its go.mod that are not taken over: a regular expression
    beside: str = ""                               # the Kubernetes whose libraries it is compiled with
    more: dict = field(default_factory=dict)       # further modules: path → version
    instead: dict = field(default_factory=dict)    # modules of its go.mod in a version that it does not name
    rename: dict = field(default_factory=dict)
    source: str = ""                               # a main.go of our own, where the project's links too much
    tests: dict = field(default_factory=dict)      # packages whose tests are a program: path → its name
    after: str = ""                                # shell, in the directory of out/; $from is the project's source


@contextlib.contextmanager
def workshop():
    """The shared build and module cache; the last user removes it, also after one that was killed."""
    WORKSHOP.mkdir(parents=True, exist_ok=True)
    with open(CACHE / ".lock-go-build", "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        try:
            for folder in ("build", "path"):
                (WORKSHOP / folder).mkdir(parents=True, exist_ok=True)
            yield WORKSHOP
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                WORKSHOP.rename(Path(tempfile.mkdtemp(dir=CACHE, prefix=RUBBISH)) / WORKSHOP.name)
                # Some hundred thousand small files: nobody waits for their deletion. If interrupted, the next run continues.
                subprocess.Popen(["nice", "-n", "19", "rm", "-rf", *CACHE.glob(f"{RUBBISH}*")], start_new_session=True,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def outside():
    """What a build step gets from this machine: how to reach modules, and the trusted certificates."""
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    mounts = [(CERTIFICATES, CERTIFICATES)] if CERTIFICATES.is_file() else []
    return env, mounts


def arch():
    machine = run(["uname", "-m"]).stdout.strip()
    known = {"x86_64": "amd64", "aarch64": "arm64"}
    if machine not in known:
        raise Fail(f"no stack for {machine}", "amd64 and arm64 are known", code=2)
    return known[machine]


def toolchain():
    script = FETCH.replace("@VERSION@", f"v0.0.1-go{matrix.GO}.linux-{arch()}")
    builder = roots.builder()

    def make(tmp):
        env, mounts = outside()
        cache.in_root(builder, script, cache.log_of("go"), 900, [*mounts, (tmp, "/build")], env)

    return cache.artefact("go", cache.key_of(script), make, "10 s") / "root"


def script_of(program):
    mod = "".join(f" -require={path}@v{version}" for path, version in
                  {program.module: program.version, **program.more}.items())
    mod += "".join(f" -replace={path}={path}@v{version}" for path, version in program.instead.items())
    without = f" -e '/{program.without}/d'" if program.without else ""
    # Required and not replaced, as `beside` requires them: a replaced module is compiled for each version it stands for.
    without += OF_KUBERNETES.replace("@SIBLINGS@", program.siblings) if program.siblings else ""
    fill = {"WITHOUT": without, "MODULE": program.module, "VERSION": program.version, "SIBLINGS": program.siblings or program.version,
            "REQUIRE": mod.strip(), "BESIDE": beside(program.beside), "TAGS": program.tags, "LDFLAGS": program.ldflags,
            "SOURCE": f"cat > main.go <<'END'\n{program.source}END" if program.source else "",
            "PACKAGES": " ".join(program.packages),
            "RENAME": "\n".join(finish(program))}
    text = BUILD if program.packages else re.sub("(?m)^go build .*\n", "", BUILD)
    for word, value in fill.items():
        text = text.replace(f"@{word}@", value)
    return text


def beside(kubernetes):
    if not kubernetes:
        return ""
    return BESIDE.replace("@VERSION@", kubernetes).replace("@SIBLINGS@", siblings(kubernetes)).rstrip()


def siblings(kubernetes):
    """The version of what Kubernetes publishes of its own repository with a release."""
    return "0." + kubernetes.split(".", 1)[1]


def finish(program):
    """Steps after the build of the packages. Empty for most, whose script and key it must not change. Tests are not
    vetted: that reads every library too, and takes about as long as compiling them."""
    flags = f"-tags '{program.tags}' -gcflags=all=-dwarf=false -ldflags '-s -w {program.ldflags}'"
    tests = [f"(cd src && go test -c -vet=off {flags} -o ../out/{name} {path})" for path, name in program.tests.items()]
    return [*(f"mv out/{old} out/{new}" for old, new in program.rename.items()), *tests,
            *([program.after] if program.after else [])]


def identity(program):
    """Name and key. Nearly everything a program is made from is in the script that makes it."""
    return (f"{program.name}-{program.version}",
            cache.key_of(script_of(program), program.cgo, matrix.GO, roots.SUITE, arch()))


def about(seconds):
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def is_made(program):
    return cache.has(*identity(program))


def expected(programs):
    """For each the measured cost, or None, and the CPU seconds to expect: measured, or from the table."""
    found, names = [], set()
    for program in programs:
        measured = cache.cost(identity(program)[0])
        table = 60 * program.cpu_minutes * (AGAIN if program.name in names else 1)
        found.append((program, measured, measured.cpu_seconds if measured else table))
        names.add(program.name)
    return found


def seconds(programs):
    """Until all of these are built, side by side: they keep every core busy."""
    return sum(cpu for _, _, cpu in expected(programs)) / (os.cpu_count() or 1)


def build(program):
    name, key = identity(program)

    def make(tmp):
        go, builder = toolchain(), roots.builder()
        env, mounts = outside()
        env |= {"GOCACHE": "/cache/build", "GOPATH": "/cache/path", "GOFLAGS": "-trimpath -buildvcs=false -mod=mod",
                "GOTOOLCHAIN": "local", "CGO_ENABLED": "1" if program.cgo else "0", "GOTMPDIR": "/build/tmp",
                "GOGC": COMPILER_GOGC, "PATH": "/go/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        (tmp / "tmp").mkdir()
        with workshop() as shared:
            cache.in_root(builder, script_of(program), cache.log_of(name), BUILD_SECONDS,
                          [*mounts, (tmp, "/build"), (go, "/go"), (shared, "/cache")], env)
        (tmp / "tmp").rmdir()

    return cache.artefact(name, key, make, about(seconds([program]))) / "out"

"""Kubernetes, etcd, containerd, runc and the CNI plugins from the distribution's own packages.

  binaries()     kubelet, kube-*, kubectl compiled from Debian's source package (all of upstream is in it)
  packages()     containerd, runc, etcd, CNI plugins, busybox unpacked from Debian's binary packages

Both end in the cache; the Go build cache lives only as long as the build.
"""
import cache
import roots

UPSTREAM = "1.20.2"
COMPONENTS = ["kubelet", "kube-proxy", "kubectl", "kube-controller-manager", "kube-scheduler", "kube-apiserver"]
PACKAGES = ["containerd", "runc", "etcd-server", "etcd-client", "containernetworking-plugins", "busybox-static"]

# GOPATH mode: Go 1.19 refuses the old go.mod. The API server needs one generated package: OpenAPI definitions
# of every package tagged for it, staging packages named by their vendored path.
BUILD = r"""
export PATH=/usr/lib/go-1.19/bin:$PATH
export GOPATH=/build/go GOCACHE=/build/gocache GO111MODULE=off GOFLAGS= CGO_ENABLED=0 GOTOOLCHAIN=local
export TMPDIR=/build/tmp
mkdir -p /build/tmp /build/src /build/bin $GOPATH/src/k8s.io
cd /build/src
apt-get update -q
apt-get source -q kubernetes
mv /build/src/kubernetes-*/ $GOPATH/src/k8s.io/kubernetes
K=k8s.io/kubernetes
cd $GOPATH/src/$K
LD="-s -w"
for p in $K/vendor/k8s.io/component-base/version $K/vendor/k8s.io/client-go/pkg/version; do
  LD="$LD -X $p.gitVersion=v@VERSION@ -X $p.gitMajor=1 -X $p.gitMinor=20 -X $p.gitTreeState=archive"
done
build() {
  echo "building $1 $(date +%T)"
  go build -trimpath -ldflags "$LD" -o /build/bin/$1 $K/cmd/$1
}
for c in @EARLY@; do build $c; done
go build -trimpath -o /build/tmp/openapi-gen $K/vendor/k8s.io/kube-openapi/cmd/openapi-gen
packages=$(
  grep -rl --include=*.go '+k8s:openapi-gen=true' pkg cmd plugin staging/src/k8s.io 2>/dev/null |
    grep -v -e _test.go -e /testdata/ -e '^staging/src/k8s.io/[^/]*/vendor/' | xargs -n1 dirname | sort -u |
    sed -e "s,^staging/src/,$K/vendor/," -e t -e "s,^,$K/,")
echo "$packages" | wc -l
/build/tmp/openapi-gen -O zz_generated.openapi -p $K/pkg/generated/openapi \
  -h hack/boilerplate/boilerplate.generatego.txt -r /build/tmp/violations \
  -o $GOPATH/src -i "$(echo "$packages" | paste -sd,)"
build kube-apiserver
"""

FETCH = r"""
mkdir -p /build/debs /build/files
cd /build/debs
apt-get update -q
apt-get download -q @PACKAGES@
for deb in *.deb; do
  dpkg-deb -x $deb /build/files
  dpkg-deb -f $deb Package Version Depends | paste -sd'|' >> /build/files/packages
done
"""


def binaries(version=UPSTREAM):
    script = BUILD.replace("@VERSION@", version).replace("@EARLY@", " ".join(COMPONENTS[:-1]))

    def make(tmp):
        root = tmp / "root"
        roots.copy(roots.builder(), root)
        cache.in_root(root, script, cache.log_of("kubernetes"), timeout=5400)
        for name in COMPONENTS:
            (root / "build/bin" / name).rename(tmp / name)
        cache.shutil.rmtree(root)

    return cache.artefact("kubernetes", cache.key_of(script, roots.SUITE), make)


def packages():
    script = FETCH.replace("@PACKAGES@", " ".join(PACKAGES))

    def make(tmp):
        root = tmp / "root"
        roots.copy(roots.builder(), root)
        cache.in_root(root, script, cache.log_of("packages"), timeout=900)
        (root / "build/files").rename(tmp / "files")
        cache.shutil.rmtree(root)

    return cache.artefact("packages", cache.key_of(script, roots.SUITE), make) / "files"

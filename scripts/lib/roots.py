"""Root file systems from the distribution: a small bootstrap, the machines' base, the builder.

  bootstrap()   debootstrap --variant=minbase
  base()        what a freshly installed small server has: systemd, dbus, iproute2, iptables …
  rhel_like()   the same as on RHEL and its relatives, as far as Debian's packages allow
  builder()     the distribution's Go and C compiler, so that the release of this machine does not matter
  netfilter()   its packet filter tools, for an image
  newest()      systemd of the distribution's next release, to check units that no machine here can boot with it
"""
import shutil
from pathlib import Path

import cache
from common import apt_mirror, apt_settings, need_packages, run

SUITE = "bookworm"
SUITES = [SUITE, "trixie"]  # that machines may have
NEXT_SUITE = "forky"
BASE_PACKAGES = ("systemd systemd-sysv dbus iproute2 iptables nftables conntrack kmod procps ca-certificates curl jq less "
                 "ethtool socat logrotate").split()
# The package manager and the firewall of RHEL and its relatives, and a clock for single programs.
RHEL_PACKAGES = ["rpm", "firewalld", "libfaketime"]
RHEL_RELEASE = r"""NAME="Rocky Linux"
VERSION="9.6 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.6"
PRETTY_NAME="Rocky Linux 9.6 (Blue Onyx)"
"""
BUILDER_PACKAGES = "golang-1.19-go gcc libc6-dev libseccomp-dev pkg-config busybox-static ca-certificates".split()
NETFILTER_PACKAGES = ["iptables", "ipset"]
RECIPE = 3  # raise when the steps below change


def bootstrap(suite=SUITE):
    need_packages({"debootstrap": "debootstrap", "unshare": "util-linux",
                   "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring"})
    mirror, name = apt_mirror(), "bootstrap" if suite == SUITE else f"bootstrap-{suite}"
    # An old debootstrap does not know the next release by name; it is made like the current one.
    script = [] if Path(f"/usr/share/debootstrap/scripts/{suite}").exists() else ["/usr/share/debootstrap/scripts/sid"]

    def make(tmp):
        log = cache.log_of(name)
        root = tmp / "root"
        run(["unshare", "--mount", "debootstrap", "--variant=minbase",
             "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg", suite, root, mirror, *script],
            log=log, timeout=1200)
        (root / "etc/apt/sources.list").write_text(
            f"deb {mirror} {suite} main\n")
        (root / "etc/apt/apt.conf.d/90pf9-build").write_text(
            apt_settings() + 'APT::Install-Recommends "false";\nAcquire::Languages "none";\n')
        (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (root / "usr/sbin/policy-rc.d").chmod(0o755)

    return cache.artefact(name, cache.key_of(RECIPE, suite), make)


def derived(name, packages, finish, suite=SUITE):
    source = bootstrap(suite)

    def make(tmp):
        run(["cp", "-a", "--reflink=auto", source / "root", tmp / "root"], timeout=300)
        cache.in_root(tmp / "root", "apt-get update -q && apt-get install -q -y " + " ".join(packages) +
                      " && apt-get clean" + finish, cache.log_of(name), timeout=1800)

    return cache.artefact(name, cache.key_of(RECIPE, suite, packages, finish), make) / "root"


# A new machine: package lists dropped, no machine id.
AS_NEW = (" && rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d /var/log/*.log /var/log/apt"
          " && rm -rf /usr/share/doc /usr/share/man /usr/share/locale"
          " && rm -f /etc/apt/apt.conf.d/90pf9-build /etc/hostname && : > /etc/machine-id"
          " && : > /etc/resolv.conf")


def base(suite=SUITE):
    """A new machine, with nothing of ours."""
    return derived("base", BASE_PACKAGES, AS_NEW, suite)


def rhel_like():
    """A machine called Rocky Linux, with rpm and its database in their usual places, and with firewalld, which does not
    run. The rest is Debian's: no other distribution's packages are available where these machines are made."""
    release = RHEL_RELEASE.replace("\n", "\\n")
    return derived("rhel-like", BASE_PACKAGES + RHEL_PACKAGES,
                   f" && printf '{release}' > /usr/lib/os-release && mkdir -p /etc/rpm /var/lib/rpm"
                   " && echo '%_dbpath /var/lib/rpm' > /etc/rpm/macros && rpm --initdb && systemctl disable -q firewalld"
                   # Of RHEL's package `filesystem`.
                   + AS_NEW + " && mkdir -p /usr/share/doc /usr/share/man/man5 /usr/share/man/man8")


def is_rhel_like(root):
    return (root / "etc/rpm/macros").exists()


def builder():
    """Read-only for its users; their files are mounted at the directories created here."""
    return derived("builder", BUILDER_PACKAGES, " && mkdir -p /build /cache /go && : >> /etc/resolv.conf")


def netfilter():
    """Read-only."""
    return derived("netfilter", NETFILTER_PACKAGES, "")


def newest():
    """Read-only; its users mount their files at `/units`."""
    return derived("newest", ["systemd"], " && mkdir -p /units", NEXT_SUITE)


def copy(source, target):
    if target.exists():
        shutil.rmtree(target)
    run(["cp", "-a", "--reflink=auto", source, target], timeout=600)

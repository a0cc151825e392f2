"""The tools of the packet filter, from the distribution, for the image of the controller of network policies.

  tools()     what goes into the image: path → (bytes, mode), links, and the version that says which they are

The image brings them along: which packet filter a machine's own `iptables` writes to, and whether it has `ipset` at all,
is the machine's business. Programs are taken with the libraries that they are linked with, and iptables' own extensions.
"""
import re

import roots
from common import out

# By nftables, as every kernel has it that kube-proxy's nftables mode runs on.
IPTABLES = "usr/sbin/xtables-nft-multi"
IPSET = "usr/sbin/ipset"
NAMES = [f"{family}{verb}" for family in ("iptables", "ip6tables") for verb in ("", "-save", "-restore")]

# The controller writes the whole table again from what it read a moment before, so what others changed meanwhile would be
# lost. Here only its own chains are written, in one transaction, and those that it left out are deleted. Where either table is not whole nothing is written: it would open what is closed.
RESTORE = r"""#!/bin/sh
# Written when the stack was made: iptables-restore that touches the chains of network policies and no others.
set -eu -o pipefail
name=${0##*/}
case " $* " in *" --help "*) exec "/usr/sbin/$name" "$@" ;; esac
{ "/usr/sbin/${name%-restore}-save" -t filter; echo '= wanted'; cat; } | awk '
  function own(name) { return name ~ /^KUBE-(ROUTER|POD-FW|NWPLCY)-/ }
  /^= wanted/ { wanted = 1; next }
  /^:/ { name = substr($1, 2); if (own(name)) { if (wanted) keep[name] = 1; else had[name] = 1 } next }
  wanted && /^COMMIT/ { whole = 1 }
  wanted && /^-[AI] / && own($2) { rules[++count] = $0 }
  END {
    if (!whole) exit 1
    print "*filter"
    for (name in keep) print ":" name " - [0:0]"
    for (name in had) if (!(name in keep)) print ":" name " - [0:0]"
    for (i = 1; i <= count; i++) print rules[i]
    for (name in had) if (!(name in keep)) print "-X " name
    print "COMMIT"
  }' | "/usr/sbin/$name" --noflush "$@"
"""


def tools():
    root = roots.netfilter()
    libraries = {}
    for program in (IPTABLES, IPSET):
        for path in re.findall(r"(/\S+) \(0x", out(["chroot", root, "ldd", f"/{program}"])):
            libraries[path.lstrip("/")] = (root / path.lstrip("/")).resolve()
    extensions = next((root / "usr/lib").glob("*-linux-gnu/xtables"))
    paths = {IPTABLES: root / IPTABLES, IPSET: root / IPSET, **libraries,
             **{str(path.relative_to(root)): path for path in extensions.glob("*.so") if not path.is_symlink()}}
    files = {path: (source.read_bytes(), 0o755) for path, source in paths.items()}
    links = {str(path.relative_to(root)): path.readlink().name for path in extensions.glob("*.so") if path.is_symlink()}
    links |= {f"usr/sbin/{name}": "xtables-nft-multi" for name in NAMES}
    links |= {f"usr/bin/{name}": f"../sbin/{name}" for name in [*NAMES, "ipset"] if not name.endswith("-restore")}
    files |= {f"usr/local/bin/{name}": (RESTORE.encode(), 0o755) for name in NAMES if name.endswith("-restore")}
    query = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f=${Package} ${Version}\n", *roots.NETFILTER_PACKAGES]
    return files, links, out(query)

#!/bin/bash
# `dpkg --dry-run -i FILE` says what an installation would do; one would have guessed: and that it would fail, with its exit
# code, where a dependency is not there. It ends with 0 and without a word about it, for what needs a package that does not
# exist; the same command without `--dry-run` unpacks, leaves it unconfigured and ends with 1. To know before a
# change whether a package can be configured, ask the resolver: `apt-get --simulate install ./FILE` refuses it.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
version=1.21.23
cd "$dir"
mkdir get
(cd get; apt-get download -q "dpkg=$version" > /dev/null 2>&1)
dpkg-deb -x get/*.deb program
mkdir -p one/DEBIAN one/opt/one root/var/lib/dpkg/{info,updates} root/etc root/var/log
cat > one/DEBIAN/control <<'TEXT'
Package: one
Version: 1
Architecture: all
Maintainer: Nobody <nobody@example.org>
Depends: a-package-that-nobody-made
Description: needs what does not exist
TEXT
touch one/opt/one/file root/var/lib/dpkg/status root/var/lib/dpkg/available
dpkg-deb --root-owner-group -b one one.deb > /dev/null
run() { LC_ALL=C program/usr/bin/dpkg --root="$dir/root" --force-not-root --log=/dev/null "$@" 2>&1; }

echo "dpkg $version"
dry=0; said=$(run --dry-run -i one.deb) || dry=$?
echo "dry run: exit code $dry"
echo "${said//$dir/}"
real=0; done=$(run -i one.deb) || real=$?
echo "for real: exit code $real"
echo "${done//$dir/}"
[ "$dry" = 0 ] && [ "$real" = 1 ]
[[ $said != *a-package-that-nobody-made* && $done == *"depends on a-package-that-nobody-made"* ]]

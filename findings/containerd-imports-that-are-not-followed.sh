#!/bin/bash
# containerd's default configuration has `imports = ['/etc/containerd/conf.d/*.toml']`, and `containerd config dump` prints
# that line whatever the file says: one would have guessed that drop-ins in that directory are read. They are only where
# the file itself names them. With a file that says nothing of imports, or that there are none, the line is printed and
# not followed; with the very output of that dump as the file, it is, and the same command says something else. So a
# dump does not say what is in force, and a file made of one lets in everybody who can write to that directory.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
version=v2.4.2
cd "$dir"
cat > tools.go <<'GO'
//go:build tools

package tools

import _ "github.com/containerd/containerd/v2/cmd/containerd"
GO
{
  go mod init finding
  go get "github.com/containerd/containerd/v2@$version"
  CGO_ENABLED=0 go build -mod=mod -tags no_btrfs,no_devmapper,no_zfs -o containerd github.com/containerd/containerd/v2/cmd/containerd
} > log 2>&1 || { cat log; exit 1; }
cat > see.sh <<'SH'
mount -t tmpfs none /etc
mkdir -p /etc/containerd/conf.d
printf 'version = 4\noom_score = -7\n' > /etc/containerd/conf.d/drop-in.toml
see() {
  "$1/containerd" --config /etc/containerd/config.toml config dump > "$1/dump" 2>> "$1/log"
  echo "$2: it prints $(grep '^imports' "$1/dump"), and $(grep '^oom_score' "$1/dump")"
}
printf 'version = 4\n' > /etc/containerd/config.toml
see "$1" "a file without imports"
printf 'version = 4\nimports = []\n' > /etc/containerd/config.toml
see "$1" "a file with no imports"
cp "$1/dump" /etc/containerd/config.toml
see "$1" "what it printed, as the file"
SH
unshare --map-root-user --mount bash -eu see.sh "$dir" > out
echo "containerd $version, with a drop-in that says oom_score = -7:"
cat out
diff out - <<'SEEN'
a file without imports: it prints imports = ['/etc/containerd/conf.d/*.toml'], and oom_score = 0
a file with no imports: it prints imports = ['/etc/containerd/conf.d/*.toml'], and oom_score = 0
what it printed, as the file: it prints imports = ['/etc/containerd/conf.d/*.toml'], and oom_score = -7
SEEN

#!/bin/bash
# A backup of etcd that was taken of a newer release than the one that is to have it. One would have guessed that the
# nearer release takes more than one further back, and that who cannot have it says so when it is restored. The
# tools of all three releases restore it and say that all is well. Then etcd 3.5 starts with it and has the data; 3.6,
# between the two, refuses to start: it reads the version that 3.7 wrote into the file, which 3.5 does not look for. So
# that a restore ended well, or that an old release came up with a backup, says nothing of a release between.
set -euo pipefail
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || :; wait; rm -rf "$dir"' EXIT
cd "$dir"
versions="3.5.35 3.6.16 3.7.3"
for version in $versions; do
  mkdir "$version"
  cd "$version"
  cat > tools.go <<'GO'
//go:build tools

package tools

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/etcdutl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
GO
  {
    go mod init finding
    go get "go.etcd.io/etcd/server/v3@v$version" "go.etcd.io/etcd/etcdutl/v3@v$version" "go.etcd.io/etcd/etcdctl/v3@v$version"
    go build -mod=mod -o . go.etcd.io/etcd/server/v3 go.etcd.io/etcd/etcdutl/v3
  } > log 2>&1 || { cat log; exit 1; }
  cd ..
done
(cd 3.7.3 && go build -mod=mod -o . go.etcd.io/etcd/etcdctl/v3)
port=$((20000 + RANDOM % 10000))
client=http://127.0.0.1:$port
peer=http://127.0.0.1:$((port + 1))
start() { # RELEASE DATA: whether it answers
  "$1/server" --name m --data-dir "$2" --listen-client-urls "$client" --advertise-client-urls "$client" --log-level warn \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "m=$peer" > log 2>&1 &
  pid=$!
  for _ in $(seq 200); do
    ! curl -sf --max-time 5 "$client/health" > answer || return 0
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  pid=
  return 1
}
stop() { kill "$pid"; wait "$pid" || :; pid=; }
ctl() { 3.7.3/etcdctl --endpoints "$client" "$@"; }
start 3.7.3 data || { cat log; exit 1; }
ctl put key value > answer
ctl snapshot save backup > answer 2>&1
stop
for version in $versions; do
  "$version/etcdutl" snapshot restore backup --data-dir "data-$version" --name m --initial-cluster "m=$peer" \
    --initial-advertise-peer-urls "$peer" > answer 2>&1 && echo "$version restores it"
  if start "$version" "data-$version"; then
    echo "$version starts: key is $(ctl get key --print-value-only)"
    stop
  else
    echo "$version does not start: $(grep -o 'version .\{,3\}3.7.0.\{,3\} is not supported' log | tr -d '\\"' | head -n 1)"
  fi
done > out
echo "a backup of etcd 3.7.3:"
cat out
diff out - <<'SEEN'
3.5.35 restores it
3.5.35 starts: key is value
3.6.16 restores it
3.6.16 does not start: version 3.7.0 is not supported
3.7.3 restores it
3.7.3 starts: key is value
SEEN

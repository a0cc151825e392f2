#!/bin/bash
# How many bytes of its database etcd has in use is among what each member says of itself (`dbSizeInUse`). One would have
# guessed that all of them say less once the cluster was compacted, and etcd waited for that (`physical`): each member
# forgets the same. Only the one that was asked does. The others go on with the number of before for as long as nobody
# writes, which in a database that is full nobody can: by their numbers it is full of what is needed. The next write puts
# them right. A decision by the number takes the least of those that have the whole log.
set -euo pipefail
dir=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || :; wait; rm -rf "$dir"' EXIT
version=v3.7.3
cd "$dir"
cat > tools.go <<'GO'
//go:build tools

package tools

import _ "go.etcd.io/etcd/server/v3"
GO
{ go mod init finding && go get "go.etcd.io/etcd/server/v3@$version" && go build -mod=mod -o etcd go.etcd.io/etcd/server/v3; } > log 2>&1 || { cat log; exit 1; }
first=$((20000 + RANDOM % 10000))
client() { echo "http://127.0.0.1:$((first + $1))"; }
peer() { echo "http://127.0.0.1:$((first + 10 + $1))"; }
for n in 1 2 3; do
  ./etcd --name "m$n" --data-dir "d$n" --listen-client-urls "$(client $n)" --advertise-client-urls "$(client $n)" \
    --listen-peer-urls "$(peer $n)" --initial-advertise-peer-urls "$(peer $n)" --log-level error \
    --initial-cluster "m1=$(peer 1),m2=$(peer 2),m3=$(peer 3)" > "m$n.log" 2>&1 &
  pids+=($!)
done
ask() { curl -sf --max-time 10 "$(client "$1")$2" -d "$3"; }
number() { grep -o "\"$1\":\"[0-9]*\"" | head -n 1 | tr -dc 0-9; }
for n in 1 2 3; do
  for _ in $(seq 100); do curl -sf "$(client $n)/health" > /dev/null && continue 2; sleep 0.1; done
  cat "m$n.log"; exit 1
done
value=$(head -c 120000 /dev/zero | base64 -w 0)
put() { printf '{"key":"YQ==","value":"%s"}' "$value" > body; ask 1 /v3/kv/put @body | number revision; }
for _ in $(seq 100); do revision=$(put); done
shown() {
  for n in 1 2 3; do
    bytes=$(ask $n /v3/maintenance/status '{}' | number dbSizeInUse)
    echo "$1, member $n: $( ((bytes > 6000000)) && echo "most of it is in use" || echo "little of it is in use")"
  done
}
caught_up() { for n in 1 2 3; do until [ "$(ask $n /v3/maintenance/status '{}' | number raftAppliedIndex)" = "$1" ]; do sleep 0.1; done; done; }
{
  shown "100 versions of one key"
  ask 1 /v3/kv/compaction "{\"revision\":\"$revision\",\"physical\":true}" > answer
  caught_up "$(ask 1 /v3/maintenance/status '{}' | number raftAppliedIndex)"
  sleep 5  # not to wait for something: to show that nothing comes
  shown "compacted, 5 s later"
  put > answer
  caught_up "$(ask 1 /v3/maintenance/status '{}' | number raftAppliedIndex)"
  sleep 1
  shown "after one more write"
} > out
echo "etcd $version:"
cat out
diff out - <<'SEEN'
100 versions of one key, member 1: most of it is in use
100 versions of one key, member 2: most of it is in use
100 versions of one key, member 3: most of it is in use
compacted, 5 s later, member 1: little of it is in use
compacted, 5 s later, member 2: most of it is in use
compacted, 5 s later, member 3: most of it is in use
after one more write, member 1: little of it is in use
after one more write, member 2: little of it is in use
after one more write, member 3: little of it is in use
SEEN

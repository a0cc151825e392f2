#!/bin/bash
# A go.mod requires two modules, one of which requires a newer version of the other. One would have guessed that the newer
# one is built, as minimal version selection says: the highest version that anything required requires. So it is as soon as
# a package of the first is imported. While none is, `go build` does not read what the first requires (modules since
# go 1.17 are loaded lazily), and builds the older version without a word, also with -mod=mod; `go list -m all` and
# `go get` of the first, which name the newer one, change what the next build of the same go.mod gives.
# Whoever adds a requirement to get the versions of another project (scripts/lib/golang.py adds Kubernetes' to add-ons)
# gets its own modules and not what they need, and a compile error at best.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
export GOTOOLCHAIN=go1.27.3 GOFLAGS=-mod=mod
cobra=v1.8.1 pflag=v1.0.3
mkdir "$dir/program" && cd "$dir/program"
cat > main.go <<'GO'
package main

import "github.com/spf13/pflag"

func main() { println(pflag.NArg()) }
GO
begin() {
    rm -f go.mod go.sum
    printf 'module finding\n\ngo 1.27\n\nrequire (\n\tgithub.com/spf13/cobra %s\n\tgithub.com/spf13/pflag %s\n)\n' "$cobra" "$pflag" > go.mod
}
built() {
    go build -o ../finding . > ../log 2>&1 || { cat ../log; exit 1; }
    go version -m ../finding | awk '$2 == "github.com/spf13/pflag" { print $3 }'
}
begin
alone=$(built)
go list -m all > /dev/null 2>&1
listed=$(built)
begin
go get "github.com/spf13/cobra@$cobra" > /dev/null 2>&1
got=$(built)
begin
sed -i 's,^import .*,import (\n\t_ "github.com/spf13/cobra"\n\t"github.com/spf13/pflag"\n),' main.go
go mod download github.com/inconshreveable/mousetrap@v1.1.0
imported=$(built)
needs=$(sed -n 's,.*spf13/pflag \(v[^ ]*\).*,\1,p' "$(go env GOMODCACHE)/cache/download/github.com/spf13/cobra/@v/$cobra.mod")
printf '%s: cobra %s requires pflag %s; go.mod requires cobra %s and pflag %s. Built with pflag:\n' \
    "$(go env GOVERSION)" "$cobra" "$needs" "$cobra" "$pflag"
printf 'cobra is not imported: %s\nthe same after go list -m all: %s\nthe same after go get of cobra: %s\ncobra is imported: %s\n' \
    "$alone" "$listed" "$got" "$imported"
[ "$needs $alone $listed $got $imported" = 'v1.0.5 v1.0.3 v1.0.5 v1.0.5 v1.0.5' ]

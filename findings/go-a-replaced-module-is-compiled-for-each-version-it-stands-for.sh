#!/bin/bash
# Two programs have the same version of a module by `replace`; the version that each requires, and which is not used, is
# another. They are built with -trimpath and one build cache, with the same flags. One would have guessed that its packages,
# the same files compiled by the same commands, are compiled once. They are compiled for each version that is required: with
# -trimpath the required version, not that of the code, is in what the cache is asked by (and in the paths of the program).
# Without -trimpath, where the directory of the code stands for it, the second program finds them. Both programs requiring
# the version itself, without a replace, share them either way.
# Add-ons of a cluster that are built beside Kubernetes, whose go.mod requires its own libraries as v0.0.0, therefore
# require them in the version of the release and replace nothing (scripts/lib/golang.py).
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
export GOTOOLCHAIN=go1.27.3 GOCACHE="$dir/cache"
code=v0.21.0
program() {
    mkdir "$dir/$1" && cd "$dir/$1"
    printf 'package main\n\nimport "golang.org/x/text/width"\n\nfunc main() { println(width.Narrow.String("x")) }\n' > main.go
    printf 'module %s\n\ngo 1.27\n\nrequire golang.org/x/text %s\n%s\n' "$1" "$2" "$3" > go.mod
}
# Packages of the module that this build compiles.
compiles() {
    cd "$dir/$1"
    GOFLAGS="-mod=mod $2" go build -x -o ../out . 2> ../log
    grep -c 'tool/.*/compile .* -p golang.org/x/text/' ../log || :
}
by="replace golang.org/x/text => golang.org/x/text $code"
program first v0.14.0 "$by"
program second v0.15.0 "$by"
program third "$code" ""
program fourth "$code" ""
trimmed="$(compiles first -trimpath) $(compiles second -trimpath) $(compiles third -trimpath) $(compiles fourth -trimpath)"
go clean -cache
plain="$(compiles first "") $(compiles second "") $(compiles third "") $(compiles fourth "")"
printf '%s: packages of x/text %s that are compiled for a program that requires v0.14.0 (replaced), then one that requires\n' "$(go env GOVERSION)" "$code"
printf 'v0.15.0 (replaced), then two that require %s: with -trimpath %s; without %s\n' "$code" "$trimmed" "$plain"
[ "$trimmed" = '2 2 2 0' ] && [ "$plain" = '2 0 0 0' ]

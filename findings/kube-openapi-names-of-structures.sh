#!/bin/bash
# What a library writes as JSON depends on the release of Go that compiles it: one would have guessed that this shows when it
# is compiled, or not at all. k8s.io/kube-openapi of May 2026 (what metrics-server 0.9.0 asks for) compiled by Go 1.27 writes
# a schema with the names of its own Go structures in it, without an error; compiled by Go 1.26 it is right, as are the ones
# of March and of July with both. An API server that merges such a description (1.37.2) has no more to give as protobuf, and
# kubectl, which asks for that when it is given a `List`, can apply none.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
cat > main.go <<'GO'
package main

import (
	"encoding/json"
	"fmt"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

func main() {
	text, err := json.Marshal(spec.StringProperty())
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
}
GO
said=
for library in v0.0.0-20260317180543-43fb72c5454a v0.0.0-20260520065146-aa012df4f4af v0.0.0-20260721132016-d427ff9ee9ad; do
  rm -f go.sum
  printf 'module finding\n\ngo 1.26.0\n' > go.mod
  { GOTOOLCHAIN=go1.27.3 go get "k8s.io/kube-openapi@$library" && GOTOOLCHAIN=go1.27.3 go mod tidy; } > log 2>&1 || { cat log; exit 1; }
  for go in go1.26.0 go1.27.3; do
    said+="${library:7:8} $go $(GOTOOLCHAIN=$go go run .)"$'\n'
  done
done
printf 'k8s.io/kube-openapi, by the day of its commit, and what it writes:\n%s' "$said"
right='{"type":"string"}'
[ "$said" = "20260317 go1.26.0 $right
20260317 go1.27.3 $right
20260520 go1.26.0 $right
20260520 go1.27.3 {\"ArbitraryKeys\":{},\"SchemaProps\":$right,\"SwaggerSchemaProps\":{}}
20260721 go1.26.0 $right
20260721 go1.27.3 $right
" ]

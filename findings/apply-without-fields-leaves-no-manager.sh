#!/bin/bash
# The creator of an object by server-side apply is named in its `managedFields`; one would have guessed: always, so that an
# installer can tell its own objects by its name there. An object that says nothing but what it is (a ServiceAccount of a
# name and a namespace) has no field that anybody could manage, and is created with nobody's name. One label is enough.
# Seen the same on a whole API server, 1.37.2. To recognise one's own objects later, give each at least one field.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
version=v0.36.3
cd "$dir"
cat > main.go <<'GO'
package main

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/managedfields/managedfieldstest"
)

func managers(metadata map[string]any) int {
	kind := schema.GroupVersionKind{Version: "v1", Kind: "ServiceAccount"}
	server := managedfieldstest.NewTestFieldManager(managedfields.NewDeducedTypeConverter(), kind)
	object := map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
	if err := server.Apply(&unstructured.Unstructured{Object: object}, "an-installer", false); err != nil {
		panic(err)
	}
	return len(server.ManagedFields())
}

func main() {
	fmt.Println("name and namespace alone:", managers(map[string]any{"name": "a", "namespace": "b"}))
	labels := map[string]any{"of": "us"}
	fmt.Println("and a label:", managers(map[string]any{"name": "a", "namespace": "b", "labels": labels}))
}
GO
{ go mod init finding && go get "k8s.io/apimachinery@$version" && go mod tidy && go build -o finding .; } > log 2>&1 || { cat log; exit 1; }
said=$(./finding)
printf 'k8s.io/apimachinery %s, managers after an apply:\n%s\n' "$version" "$said"
[ "$said" = 'name and namespace alone: 0
and a label: 1' ]

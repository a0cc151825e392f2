#!/bin/bash
# serde_ignored tells of every field that a type does not know. One would have guessed: of every one, whatever
# the type. It is silent about all that lies inside an internally tagged enum (#[serde(tag = "…")]): serde reads
# the whole object into a buffer of its own to find the tag, and what is read from that buffer the wrapper does
# not see. A program that reports "ignored fields" by it reports none for the largest part of such a document.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat > "$dir/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
serde = { version = "=1.0.228", features = ["derive"] }
serde_json = "=1.0.145"
serde_ignored = "=0.1.14"
TOML
cat > "$dir/src/main.rs" <<'RUST'
use serde::Deserialize;

#[derive(Deserialize)]
struct Inner {
    #[allow(dead_code)]
    name: String,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Internal {
    #[allow(dead_code)]
    Crate(Inner),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum External {
    #[allow(dead_code)]
    Crate(Inner),
}

fn ignored<T: for<'de> Deserialize<'de>>(text: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let mut json = serde_json::Deserializer::from_str(text);
    let read: Result<T, _> = serde_ignored::deserialize(&mut json, |path| seen.push(path.to_string()));
    assert!(read.is_ok());
    seen
}

fn main() {
    println!("struct: {:?}", ignored::<Inner>(r#"{"name":"a","new":1}"#));
    println!("externally tagged: {:?}", ignored::<External>(r#"{"crate":{"name":"a","new":1}}"#));
    println!("internally tagged: {:?}", ignored::<Internal>(r#"{"kind":"crate","name":"a","new":1}"#));
}
RUST
cd "$dir"
echo "serde 1.0.228, serde_json 1.0.145, serde_ignored 0.1.14: fields told of as ignored"
seen=$(cargo run --quiet)
echo "$seen"
want='struct: ["new"]
externally tagged: ["?.new"]
internally tagged: []'
[ "$seen" = "$want" ] || { echo "it behaves otherwise now" >&2; exit 1; }

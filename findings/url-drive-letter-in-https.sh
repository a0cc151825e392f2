#!/bin/bash
# `..` in a relative address goes one directory up. In the crate url it does not where that directory is named like a
# drive (one letter and a colon): one would have guessed that drives exist in `file:` addresses alone, as the URL
# standard says ("shorten a url's path"), but an https address keeps `/a:/` whatever follows it. The letter counts, not
# its position: `/ab:/` and `/1:/` are left. Who turns addresses round by this crate comes to another path than a browser.
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
url = "=2.5.8"
TOML
cat > "$dir/src/main.rs" <<'RUST'
fn main() {
    for base in ["https://h/x/ab:/", "https://h/x/1:/", "https://h/x/a:/", "https://h/a:/", "https://h/x/a:/c/"] {
        let joined = url::Url::parse(base).unwrap().join("../t").unwrap();
        println!("{base} + ../t = {joined}");
    }
}
RUST
cd "$dir"
cargo run --quiet > out 2> log || { cat log; exit 1; }
echo "url 2.5.8:"
cat out
diff out - <<'SEEN'
https://h/x/ab:/ + ../t = https://h/x/t
https://h/x/1:/ + ../t = https://h/x/t
https://h/x/a:/ + ../t = https://h/x/a:/t
https://h/a:/ + ../t = https://h/a:/t
https://h/x/a:/c/ + ../t = https://h/x/a:/t
SEEN

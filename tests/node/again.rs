//! A stack in which an image was built again: another content by a name that the stack before has, too. Each node has the
//! content of the stack that it is of.

use std::process::Command;

use serde_json::{Map, Value};

use crate::demo::{Outcome, plane};
use crate::hangs::content;
use crate::upgrade::built;

/// Both stacks have it by this name, on every node, and no add-on runs from it.
const IMAGE: &str = "pf9.local/busybox:1";

/// Another stack, below `$2`, from the files of the one in `$1`, of Kubernetes `$3`.
const MAKE: &str = r#"
set -e
tar -C "$2/files" --zstd -xf "$1/stack.tar.zst"
python3 -B scripts/lib/images.py again "$2/files/images/busybox.tar"
scripts/stack from-dir "$2/files" --version "$3-again" --kubernetes "$3" --out "$2/out"
"#;

/// The stack of a minor with that image built again, imported; returns its version.
pub(crate) fn imported(minor: &str) -> Outcome<String> {
    let (made, manifest) = built(minor)?;
    let kubernetes = manifest["kubernetes"].as_str().ok_or("no version")?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let files = dir.path().join("files");
    std::fs::create_dir(&files).map_err(|e| e.to_string())?;
    let listed = manifest["components"].as_array().ok_or("no components")?;
    let versions: Map<String, Value> = listed
        .iter()
        .filter_map(|c| Some((c["name"].as_str()?.to_owned(), c["version"].clone())))
        .collect();
    let versions = Value::Object(versions).to_string();
    std::fs::write(files.join("components.json"), versions).map_err(|e| e.to_string())?;
    let output = Command::new("sh")
        .args(["-c", MAKE, "sh"])
        .arg(&made)
        .arg(dir.path())
        .arg(kubernetes)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    plane(&["stack", "import", &dir.path().join("out").to_string_lossy()])?;
    Ok(format!("{kubernetes}-again"))
}

/// What the runtime of each of these nodes has by that name.
pub(crate) fn contents(nodes: &[&str]) -> Outcome<Vec<String>> {
    nodes.iter().map(|node| content(node, IMAGE)).collect()
}

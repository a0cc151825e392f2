//! Small tools for writing texts: steps of files, YAML, systemd units, digests of inputs.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::model::{Digest, Hasher};
use crate::nodelet::step::{DirStep, Encoding, FileStep, Probe, ProbeStep, Step, UnitStep};

use super::layout;

/// Readable by everyone.
pub(super) const PUBLIC: u32 = 0o644;
/// Readable by root only.
pub(super) const PRIVATE: u32 = 0o600;
/// A program or script.
pub(super) const PROGRAM: u32 = 0o755;
/// A directory everyone may enter.
pub(super) const PUBLIC_DIR: u32 = 0o755;
/// A directory only root may enter.
pub(super) const PRIVATE_DIR: u32 = 0o700;

const ROOT: &str = "root:root";

/// A file that root owns.
pub(super) fn file(path: impl Into<String>, content: impl Into<String>, mode: u32) -> Step {
    Step::File(FileStep {
        path: path.into(),
        content: content.into(),
        encoding: Encoding::Text,
        mode,
        owner: ROOT.into(),
    })
}

/// A file that root owns and everyone may read, whose bytes are not its content's.
pub(super) fn file_as(encoding: Encoding, path: &str, content: &str) -> Step {
    Step::File(FileStep {
        path: path.into(),
        content: content.into(),
        encoding,
        mode: PUBLIC,
        owner: ROOT.into(),
    })
}

/// A directory of the role: removed with everything in it.
pub(super) fn dir(path: impl Into<String>, mode: u32) -> Step {
    dir_step(path, mode, true)
}

/// A directory that others may use too: removed only when empty.
pub(super) fn shared_dir(path: impl Into<String>, mode: u32) -> Step {
    dir_step(path, mode, false)
}

fn dir_step(path: impl Into<String>, mode: u32, remove_with_content: bool) -> Step {
    Step::Dir(DirStep {
        path: path.into(),
        mode,
        owner: ROOT.into(),
        remove_with_content,
    })
}

/// A probe with its patience.
pub(super) fn probe(probe: Probe, within: Duration) -> Step {
    Step::Probe(ProbeStep { probe, within })
}

/// A unit that runs; `files` beside the unit's own file are those it has read at start.
pub(super) fn unit(name: &str, inputs: Inputs, files: &[&str]) -> Step {
    unit_step(name, inputs, files, false)
}

/// A unit that ran once and holds.
pub(super) fn oneshot(name: &str, inputs: Inputs, files: &[&str]) -> Step {
    unit_step(name, inputs, files, true)
}

fn unit_step(name: &str, inputs: Inputs, files: &[&str], oneshot: bool) -> Step {
    let mut restart_on = vec![layout::unit_file(name)];
    restart_on.extend(files.iter().map(|f| (*f).to_owned()));
    Step::Unit(UnitStep {
        unit: name.into(),
        inputs: inputs.digest(),
        restart_on,
        oneshot,
    })
}

/// An address as it stands in a URL.
pub(super) fn url_host(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        Ok(IpAddr::V4(_)) | Err(_) => host.to_owned(),
    }
}

/// Everything a process must be restarted for, folded into one digest.
pub(super) struct Inputs(Hasher);

impl Inputs {
    pub(super) fn new() -> Self {
        Self(Hasher::new())
    }

    /// Takes in a text under a label; lengths are part of it, so no two lists look the same.
    pub(super) fn add(mut self, label: &str, text: &str) -> Self {
        self.0
            .update(format!("{label} {}\n", text.len()).as_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Takes in the digest of something that is not text, or that it is not there.
    pub(super) fn add_digest(self, label: &str, digest: Option<Digest>) -> Self {
        self.add(label, &digest.map(|d| d.to_string()).unwrap_or_default())
    }

    pub(super) fn digest(self) -> Digest {
        self.0.finish()
    }
}

/// A systemd unit, written section by section.
pub(super) struct UnitText(String);

impl UnitText {
    pub(super) fn new(description: &str) -> Self {
        Self(format!(
            "# Written by pf9-nodeletd; changes are undone. Use a drop-in for your own settings.\n\
             [Unit]\nDescription={description}\n"
        ))
    }

    pub(super) fn section(mut self, name: &str) -> Self {
        self.0.push_str(&format!("\n[{name}]\n"));
        self
    }

    pub(super) fn set(mut self, key: &str, value: &str) -> Self {
        self.0.push_str(&format!("{key}={value}\n"));
        self
    }

    /// Sets it only where it applies.
    pub(super) fn set_if(self, applies: bool, key: &str, value: &str) -> Self {
        if applies { self.set(key, value) } else { self }
    }

    /// One command with one argument a line.
    pub(super) fn command(mut self, program: &str, args: &[String]) -> Self {
        self.0.push_str(&format!("ExecStart={program}"));
        for arg in args {
            // `%` and `$` are systemd's.
            let arg = arg.replace('%', "%%").replace('$', "$$");
            self.0.push_str(&format!(" \\\n    {arg}"));
        }
        self.0.push('\n');
        self
    }

    /// Started at boot; ends the unit.
    pub(super) fn wanted_at_boot(self) -> String {
        self.section("Install")
            .set("WantedBy", "multi-user.target")
            .0
    }
}

/// A JSON value as block YAML that every YAML reader understands alike.
///
/// Names come first as people expect (`apiVersion`, `kind`, `metadata`, `name`), the rest in
/// alphabetical order; a text is plain only where no reader can take it for something else.
pub(super) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    node(&mut out, value, 0, false);
    out
}

/// Keys that come first, in this order.
const FIRST: [&str; 4] = ["apiVersion", "kind", "metadata", "name"];

fn node(out: &mut String, value: &Value, indent: usize, in_list: bool) {
    match value {
        Value::Object(map) => {
            let first = FIRST.iter().filter_map(|k| map.get_key_value(*k));
            let rest = map.iter().filter(|(k, _)| !FIRST.contains(&k.as_str()));
            for (i, (key, item)) in first.chain(rest).enumerate() {
                // The first key of a list's entry stands behind its dash.
                if !(in_list && i == 0) {
                    pad(out, indent);
                }
                out.push_str(&scalar_text(key));
                out.push(':');
                below(out, item, indent);
            }
        }
        Value::Array(items) => {
            for item in items {
                pad(out, indent);
                out.push_str("- ");
                match item {
                    Value::Object(map) if !map.is_empty() => node(out, item, indent + 2, true),
                    Value::Object(_)
                    | Value::Array(_)
                    | Value::Null
                    | Value::Bool(_)
                    | Value::Number(_)
                    | Value::String(_) => {
                        out.push_str(&inline(item));
                        out.push('\n');
                    }
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&inline(value));
            out.push('\n');
        }
    }
}

/// The value of a key.
fn below(out: &mut String, item: &Value, indent: usize) {
    match item {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            node(out, item, indent + 2, false);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            node(out, item, indent, false);
        }
        Value::Object(_)
        | Value::Array(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_) => {
            out.push(' ');
            out.push_str(&inline(item));
            out.push('\n');
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar_text(text),
        // Empty, or nested lists: JSON is YAML.
        Value::Object(_) | Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {
            value.to_string()
        }
    }
}

fn scalar_text(text: &str) -> String {
    const WORDS: [&str; 12] = [
        "true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf", "none",
    ];
    let flag = text.strip_prefix("--").unwrap_or(text);
    let plain = flag
        .starts_with(|c: char| c.is_ascii_alphabetic() || (c == '/' && flag.len() == text.len()))
        && flag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_./:@=,-".contains(&b))
        && !text.ends_with(':')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn yaml_reads_as_people_write_it() {
        let text = yaml(&json!({
            "kind": "Pod",
            "apiVersion": "v1",
            "spec": {"args": ["--v=2", "-x"], "on": true, "empty": {}, "list": [],
                     "containers": [{"image": "a/b:1", "name": "c", "env": [{"name": "A"}]}]},
            "port": "6443",
        }));
        assert_eq!(
            text,
            "apiVersion: v1\nkind: Pod\nport: \"6443\"\nspec:\n  args:\n  - --v=2\n  - \"-x\"\n  \
             containers:\n  - name: c\n    env:\n    - name: A\n    image: a/b:1\n  empty: {}\n  \
             list: []\n  \"on\": true\n"
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
            prop_oneof![
                Just("yes"),
                Just("0x1"),
                Just("1e3"),
                Just("a: b"),
                Just("#x"),
                Just("12:30")
            ]
            .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn yaml_reads_back_as_the_same_value(map in proptest::collection::btree_map("[a-zA-Z/.]{1,8}", any_json(), 1..4)) {
            let value = Value::Object(map.into_iter().collect());
            let back: Value = serde_saphyr::from_str(&yaml(&value)).expect("valid YAML");
            prop_assert_eq!(back, value);
        }
    }

    #[test]
    fn inputs_do_not_run_together() {
        let a = Inputs::new().add("x", "ab").add("y", "c").digest();
        let b = Inputs::new().add("x", "a").add("y", "bc").digest();
        assert_ne!(a, b);
    }
}

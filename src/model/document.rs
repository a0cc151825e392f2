//! Documents between versions: what an older reader may ignore, and what it must refuse.
//!
//! * A field that a reader does not know is ignored: most additions (a hint, a number to show) do no
//!   harm when they are not heeded. Which ones were ignored is said once ([`ignored`]).
//! * A writer that uses an addition which must be heeded puts [`NEEDS_AGENT`] into the document: the
//!   version of the agent from which on it is. An older reader looks at that before anything else
//!   and refuses in words a person can act on.
//! * A word that a closed list does not have, and another `schema`, are refused.
//!
//! Refusing every unknown field instead would make each addition to the plane a flag day for the
//! whole fleet; ignoring every one would let a node silently not do what it was told.

use std::collections::BTreeMap;

use semver::Version;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of this program.
pub const AGENT_VERSION: &str = match option_env!("PF9_AGENT_VERSION") {
    // A build that is the same but for what it is called.
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
/// Name of the field that says from which agent version on a document can be read, e.g. `"0.5"`.
pub const NEEDS_AGENT: &str = "needs_agent";
/// Most ignored fields that are named; the rest is a number.
const IGNORED_NAMED: usize = 16;
/// Longest name of an ignored field, in characters: a peer chose it.
const FIELD_NAME_MAX: usize = 80;
/// Longest version that is read: `18446744073709551615` three times, and an ending.
const VERSION_MAX: usize = 96;

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It says that this program is too old for it; the version it asks for.
    Newer(String),
    /// It is not the JSON that was expected; names the field.
    Malformed(String),
}

/// What every document may say before anything else of it is looked at.
#[derive(Deserialize)]
struct Head {
    needs_agent: Option<Value>,
}

/// Reads a document as this program.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unread> {
    read_as(bytes, AGENT_VERSION)
}

/// Whether this program may read a document at all, for readers that parse it themselves.
pub fn readable(bytes: &[u8]) -> Result<(), Unread> {
    readable_by(bytes, AGENT_VERSION)
}

/// Reads a document as a program of this version.
fn read_as<T: DeserializeOwned>(bytes: &[u8], reader: &str) -> Result<T, Unread> {
    readable_by(bytes, reader)?;
    serde_json::from_slice(bytes).map_err(|e| Unread::Malformed(e.to_string()))
}

fn readable_by(bytes: &[u8], reader: &str) -> Result<(), Unread> {
    // What is no object has no head; whether it may be one is for `T` to say. (A list would be read
    // as the fields in order, its first element as the version.)
    if bytes.trim_ascii_start().starts_with(b"{")
        && let Ok(Head {
            needs_agent: Some(needs),
        }) = serde_json::from_slice(bytes)
    {
        may_read(&needs, reader)?;
    }
    Ok(())
}

fn may_read(needs: &Value, reader: &str) -> Result<(), Unread> {
    let text = match needs {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match (version(&text), version(reader)) {
        (Some(needs), Some(reader)) if needs <= reader => Ok(()),
        // What cannot be compared is a way of writing that came after this program.
        _ => Err(Unread::Newer(text.chars().take(32).collect())),
    }
}

/// A version with one to three numbers: `1`, `0.5`, `0.5.2`.
pub(super) fn version(text: &str) -> Option<Version> {
    if text.len() > VERSION_MAX {
        return None;
    }
    let numbers = text.split(['-', '+']).next()?.split('.').count();
    let missing = 3usize.checked_sub(numbers)?;
    let (numbers, rest) = match text.find(['-', '+']) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    format!("{numbers}{}{rest}", ".0".repeat(missing))
        .parse()
        .ok()
}

/// Names of the fields in `bytes` that `read` knows nothing of; bounded.
///
/// Found by writing again what was read. (A reader that listens while serde skips does not hear of
/// what is inside a tagged enum, and a node's whole assignment is one.) What serde leaves out when
/// it writes is always empty, so an empty value is never taken for an unknown one.
pub fn ignored<T: Serialize>(bytes: &[u8], read: &T) -> Vec<String> {
    let (Ok(there), Ok(known)) = (serde_json::from_slice(bytes), serde_json::to_value(read)) else {
        return Vec::new();
    };
    let mut names = BTreeMap::new();
    compare(&there, &known, String::new(), &mut names);
    names.remove(NEEDS_AGENT);
    let more = names.len().saturating_sub(IGNORED_NAMED);
    let mut named: Vec<String> = names.into_keys().take(IGNORED_NAMED).collect();
    named.extend((more > 0).then(|| format!("and {more} more")));
    named
}

fn compare(there: &Value, known: &Value, at: String, names: &mut BTreeMap<String, ()>) {
    match (there, known) {
        (Value::Object(there), Value::Object(known)) => {
            for (name, value) in there {
                let dot = if at.is_empty() { "" } else { "." };
                let path = format!("{at}{dot}{name}");
                match known.get(name) {
                    Some(known) => compare(value, known, path, names),
                    None if is_empty(value) => {}
                    None => {
                        names.insert(path.chars().take(FIELD_NAME_MAX).collect(), ());
                    }
                }
            }
        }
        (Value::Array(there), Value::Array(known)) => {
            // All entries under one name: a list of a thousand is no thousand fields.
            for (value, known) in there.iter().zip(known) {
                compare(value, known, format!("{at}[]"), names);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Number(_) => false,
    }
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Newer(needs) => {
                write!(f, "needs agent {needs} or newer (this is {AGENT_VERSION})")
            }
            Self::Malformed(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Doc {
        a: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        b: Option<Inner>,
        #[serde(default)]
        list: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        x: u32,
    }

    #[test]
    fn a_list_has_no_head() {
        let one: Vec<BTreeMap<String, u8>> = read(br#"[{"a": 1}]"#).expect("read");
        assert_eq!(one[0]["a"], 1);
    }

    #[test]
    fn the_head_is_looked_at_before_the_rest() {
        // The meaning of the rest is unknown here, so it is not looked at.
        let newer = br#"{"a": {"now": "a table"}, "needs_agent": "0.5"}"#;
        let refused = read_as::<Doc>(newer, "0.1.0").expect_err("newer");
        assert_eq!(refused, Unread::Newer("0.5".into()));
        assert_eq!(
            refused.to_string(),
            format!("needs agent 0.5 or newer (this is {AGENT_VERSION})")
        );
        let malformed = read_as::<Doc>(newer, "0.5.0");
        assert!(matches!(malformed, Err(Unread::Malformed(why)) if why.contains("u32")));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let reads = |needs: &str, reader: &str| {
            let text = format!(r#"{{"a": 1, "needs_agent": {needs}}}"#);
            read_as::<Doc>(text.as_bytes(), reader).is_ok()
        };
        for (needs, reader, may) in [
            (r#""0.5""#, "0.5.0", true),
            (r#""0.5""#, "0.10.0", true),
            (r#""0.10""#, "0.9.9", false),
            (r#""1""#, "0.99.0", false),
            (r#""0.5""#, "0.5.0-rc1", false),
            (r#""0.5.1""#, "0.5.0", false),
            ("null", "0.1.0", true),
            // Never seen here: from later.
            ("5", "9.0.0", true),
            (r#""1.2.3.4""#, "9.0.0", false),
            (r#""newest""#, "9.0.0", false),
            ("{}", "9.0.0", false),
        ] {
            assert_eq!(reads(needs, reader), may, "{needs} read by {reader}");
        }
    }

    #[test]
    fn ignored_fields_are_named_wherever_they_are() {
        let text = br#"{"a": 1, "new": true, "off": false, "needs_agent": "0.1",
                        "b": {"x": 1, "y": 2}, "list": [{"x": 1}, {"x": 2, "z": 3}]}"#;
        let doc: Doc = read(text).expect("doc");
        assert_eq!(ignored(text, &doc), ["b.y", "list[].z", "new"]);
    }

    proptest! {
        #[test]
        fn names_are_bounded(names in prop::collection::btree_set("[a-z]{1,200}", 0..60)) {
            let mut map = serde_json::Map::new();
            map.insert("a".into(), 1.into());
            map.extend(names.iter().filter(|n| *n != "a" && *n != "b" && *n != "list")
                .map(|n| (n.clone(), 1.into())));
            let text = serde_json::to_vec(&map).expect("json");
            let doc: Doc = read(&text).expect("doc");
            let said = ignored(&text, &doc);
            prop_assert!(said.len() <= IGNORED_NAMED + 1);
            prop_assert!(said.iter().all(|n| n.chars().count() <= FIELD_NAME_MAX));
            prop_assert_eq!(said.is_empty(), map.len() == 1);
        }

        #[test]
        fn nothing_a_peer_sends_panics(bytes in prop::collection::vec(any::<u8>(), 0..200),
                                       needs in "\\PC{0,200}") {
            drop(read::<Doc>(&bytes));
            drop(may_read(&Value::String(needs), "0.1.0"));
        }
    }
}

//! Operators' extensions: what a program of theirs may say, and the bounds of it. Pure.
//!
//! ```text
//! /etc/pf9/check.d/raid      {"schema": 1, "checks": [{"name": "md0", "ok": false, "found": "1 of 2 disks", "fix": "…"}]}
//! /etc/pf9/inventory.d/rack  {"schema": 1, "facts": {"rack": "r12", "slots": 4, "leased": false}}
//! ```
//!
//! What stands here leaves the host: a flat list of short values, whatever the operator chose to tell. What looks like
//! a secret is refused, whole, with the name of the field: it is a net under a mistake, not a promise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the documents that extensions write.
pub const EXTENSION_SCHEMA: u32 = 1;
/// Programs of one directory.
pub const EXTENSIONS_MAX: usize = 8;
/// Checks, or facts, of one program.
pub const EXTENSION_ENTRIES_MAX: usize = 32;
/// Longest name.
pub const EXTENSION_NAME_MAX: usize = 64;
/// Longest text, in bytes.
pub const EXTENSION_TEXT_MAX: usize = 256;
/// Most bytes that a program may say.
pub const EXTENSION_OUTPUT_MAX: usize = 16 * 1024;
/// Beyond this a number is not the same in every program that reads it.
const NUMBER_MAX: f64 = 9_007_199_254_740_992.0;

/// What all extensions said last, in nodelet's status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExtensionsStatus {
    /// Checks, by `program/name`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<String, ExtensionCheck>,
    /// Facts of the inventory, by program and name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, BTreeMap<String, FactValue>>,
    /// Programs that count for nothing, and why; by directory and program.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bad: BTreeMap<String, String>,
}

/// One check of an operator's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionCheck {
    /// It is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What helps.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

/// A value of the inventory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FactValue {
    /// Yes or no.
    Flag(bool),
    /// A number that every program reads alike.
    Number(f64),
    /// A short text.
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SaidChecks {
    schema: u32,
    checks: Vec<SaidCheck>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SaidCheck {
    name: String,
    ok: bool,
    #[serde(default)]
    found: String,
    #[serde(default)]
    fix: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SaidFacts {
    schema: u32,
    facts: BTreeMap<String, FactValue>,
}

/// The checks that a program said, by name; or why nothing of it counts.
pub fn extension_checks(bytes: &[u8]) -> Result<BTreeMap<String, ExtensionCheck>, String> {
    let said: SaidChecks = read(bytes)?;
    schema(said.schema)?;
    count(said.checks.len())?;
    let mut checks = BTreeMap::new();
    for SaidCheck {
        name,
        ok,
        found,
        fix,
    } in said.checks
    {
        named(&name)?;
        text(&name, &found)?;
        text(&name, &fix)?;
        let check = ExtensionCheck { ok, found, fix };
        if checks.insert(name.clone(), check).is_some() {
            return Err(format!("{name} occurs twice"));
        }
    }
    Ok(checks)
}

/// The facts that a program said; or why nothing of it counts.
pub fn extension_facts(bytes: &[u8]) -> Result<BTreeMap<String, FactValue>, String> {
    let said: SaidFacts = read(bytes)?;
    schema(said.schema)?;
    count(said.facts.len())?;
    for (name, value) in &said.facts {
        named(name)?;
        match value {
            FactValue::Flag(_) => {}
            FactValue::Number(n) if n.abs() <= NUMBER_MAX => {}
            FactValue::Number(n) => {
                return Err(format!(
                    "{name} is {n}: integers above 2^53 are not exact in JSON"
                ));
            }
            FactValue::Text(value) => text(name, value)?,
        }
    }
    Ok(said.facts)
}

/// A program's name, from which the names of its checks are made.
pub fn is_extension_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=EXTENSION_NAME_MAX).contains(&name.len())
        && name.chars().all(plain)
        && !name.starts_with('.')
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    if bytes.len() > EXTENSION_OUTPUT_MAX {
        return Err(format!("it printed more than {EXTENSION_OUTPUT_MAX} bytes"));
    }
    serde_json::from_slice(bytes).map_err(|e| format!("its output is not the expected JSON: {e}"))
}

fn schema(schema: u32) -> Result<(), String> {
    match schema {
        EXTENSION_SCHEMA => Ok(()),
        other => Err(format!("schema {other} is not {EXTENSION_SCHEMA}")),
    }
}

fn count(n: usize) -> Result<(), String> {
    match n {
        0..=EXTENSION_ENTRIES_MAX => Ok(()),
        _ => Err(format!("{n} entries, at most {EXTENSION_ENTRIES_MAX}")),
    }
}

fn named(name: &str) -> Result<(), String> {
    if !is_extension_name(name) {
        let short: String = name.chars().take(EXTENSION_NAME_MAX).collect();
        return Err(format!(
            "{short:?} is not a valid name: 1 to {EXTENSION_NAME_MAX} letters, digits, dots and dashes"
        ));
    }
    let lower = name.to_ascii_lowercase();
    let secret = [
        "password",
        "passwd",
        "secret",
        "token",
        "credential",
        "private",
        "apikey",
        "api_key",
        "api-key",
    ];
    match secret.iter().any(|s| lower.contains(s)) {
        true => Err(format!(
            "{name} has the name of a secret, and these facts leave the host"
        )),
        false => Ok(()),
    }
}

fn text(name: &str, value: &str) -> Result<(), String> {
    if value.len() > EXTENSION_TEXT_MAX {
        return Err(format!(
            "{name} has {} bytes, at most {EXTENSION_TEXT_MAX}",
            value.len()
        ));
    }
    if value.chars().any(char::is_control) {
        return Err(format!("{name} is not one line of text"));
    }
    if looks_secret(value) {
        return Err(format!(
            "{name} looks like a secret, and these facts leave the host"
        ));
    }
    Ok(())
}

/// Keys and tokens in the forms that tools print them in.
fn looks_secret(value: &str) -> bool {
    const MARKS: [&str; 7] = [
        "-----BEGIN",
        "AGE-SECRET-KEY-",
        "AKIA",
        "ghp_",
        "xox",
        "eyJhbGciOi",
        "pf9t1.",
    ];
    let long_word = value.split_whitespace().any(|w| {
        w.len() >= 40
            && w.chars()
                .all(|c| c.is_ascii_alphanumeric() || "+/=_-".contains(c))
            && is_mixed(w)
    });
    MARKS.iter().any(|m| value.contains(m)) || long_word
}

/// Letters of both cases and digits: what is random, and no path, digest or serial number.
fn is_mixed(word: &str) -> bool {
    let any = |f: fn(&char) -> bool| word.chars().any(|c| f(&c));
    any(char::is_ascii_uppercase) && any(char::is_ascii_lowercase) && any(char::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_it_should_be_is_taken() {
        let checks = extension_checks(
            br#"{"schema": 1, "checks": [{"name": "md0", "ok": false, "found": "1 of 2", "fix": "replace sdb"},
                {"name": "md1", "ok": true}]}"#,
        );
        let checks = checks.expect("checks");
        assert!(!checks["md0"].ok && checks["md1"].ok);
        let facts = extension_facts(
            br#"{"schema": 1, "facts": {"rack": "r12", "slots": 4, "leased": false,
                "wwn": "5000c500a1b2c3d4", "image": "0123456789abcdef0123456789abcdef01234567"}}"#,
        );
        let facts = facts.expect("facts");
        assert_eq!(facts["slots"], FactValue::Number(4.0));
        assert_eq!(facts["leased"], FactValue::Flag(false));
    }

    #[test]
    fn whatever_is_too_much_or_not_meant_is_refused_whole() {
        let fact = |value: &str| format!(r#"{{"schema": 1, "facts": {{"a": {value}}}}}"#);
        let many: Vec<String> = (0..=EXTENSION_ENTRIES_MAX)
            .map(|n| format!("\"f{n}\": 1"))
            .collect();
        let bad = [
            String::new(),
            "[".repeat(10_000),
            "{}".into(),
            r#"{"schema": 2, "facts": {}}"#.into(),
            r#"{"schema": 1, "facts": {}, "more": 1}"#.into(),
            r#"{"schema": 1, "facts": {"a b": 1}}"#.into(),
            r#"{"schema": 1, "facts": {"db_password": "x"}}"#.into(),
            format!(r#"{{"schema": 1, "facts": {{{}}}}}"#, many.join(", ")),
            fact("1e300"),
            fact("9007199254740994"),
            fact("null"),
            fact("{\"b\": 1}"),
            fact("[1]"),
            fact(&format!("{:?}", "x".repeat(EXTENSION_TEXT_MAX + 1))),
            fact("\"two\\nlines\""),
            fact("\"-----BEGIN PRIVATE KEY-----\""),
            fact("\"wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY12\""),
            fact(&" ".repeat(EXTENSION_OUTPUT_MAX)),
        ];
        for said in bad {
            let short: String = said.chars().take(80).collect();
            extension_facts(said.as_bytes()).expect_err(&short);
        }
        let twice =
            br#"{"schema": 1, "checks": [{"name": "a", "ok": true}, {"name": "a", "ok": false}]}"#;
        extension_checks(twice).expect_err("twice");
    }
}

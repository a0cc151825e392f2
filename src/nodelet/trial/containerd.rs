//! What `containerd config dump` says, compared key by key with the files it read.
//!
//! containerd drops a key that it does not know with a warning and starts; a section that moved is
//! ignored without one. So each key that we (and drop-ins) wrote must stand in the dump, at the same
//! place and with the same value. Nothing else in the dump is looked at: it prints sections without
//! effect, and imports that are not followed.
//!
//! Settings of a plugin that it does not have (another name, left out when it was built) are printed
//! as they were written. So each plugin that is named is given one more setting in the trial, which
//! every plugin drops that there is: where it is printed, nobody reads the rest either.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use toml::{Table, Value};

use super::TrialRefusal;
use crate::host::exec::{ProgramEnd, ProgramOutput};
use crate::nodelet::step::TrialStep;
use crate::nodelet::step::trial::{CONTAINERD_ASKS, NOBODY_READS};

/// Our own file; the others are drop-ins.
pub(in crate::nodelet) const CONFIG: &str = "config.toml";
/// The oldest schema that a drop-in may be of: those before it have other places for everything.
const OLDEST: i64 = 3;
/// The section of plugins.
const PLUGINS: &str = "plugins";
/// The section of runtimes.
const RUNTIMES: [&str; 4] = [
    PLUGINS,
    "io.containerd.cri.v1.runtime",
    "containerd",
    "runtimes",
];
/// Sections that a file for a reader of schema 4 must not have: they became plugins, are ignored in
/// silence, and are printed anyway.
const MOVED_IN_4: [&str; 3] = ["grpc", "ttrpc", "metrics"];
/// Part of this section became a plugin; its level and format still count.
const DEBUG: &str = "debug";
const DEBUG_MOVED_IN_4: [&str; 3] = ["address", "uid", "gid"];
/// Most keys that a refusal names.
const NAMED_MAX: usize = 5;
/// What is no setting, but about the files.
const OF_THE_FILE: [&str; 2] = ["version", "imports"];

/// What to do when no drop-in is the cause.
const NEWER: &str = "use a stack whose containerd this agent knows, or a newer agent; until then the previous stack \
    keeps running";

/// Where a key stands.
type Path = Vec<String>;

/// Whether it takes everything that was meant.
pub(super) fn verdict(
    trial: &TrialStep,
    schema: i64,
    unread: &[String],
    said: &ProgramOutput,
) -> Result<(), TrialRefusal> {
    if !unread.is_empty() {
        return Err(of_a_drop_in(unread.join("; ")));
    }
    let (ours, drop_ins) = read(trial, schema)?;
    let dump = dumped(said)?;
    let version = dump.get("version").and_then(Value::as_integer);
    if version != Some(schema) {
        return Err(TrialRefusal {
            why: format!(
                "it reads configurations of version {}, and the stack's manifest says that it \
                 reads version {schema}",
                version.map_or("?".to_owned(), |v| v.to_string()),
            ),
            fix: "build the stack again: its manifest names another containerd than it contains"
                .to_owned(),
        });
    }
    let has = leaves(&dump);
    let absent = absent(&dump);
    let is_absent = |key: &Path| match key.as_slice() {
        [plugins, plugin, ..] if plugins == PLUGINS => absent.get(plugin),
        _ => None,
    };
    let mut lost: Vec<String> = ours
        .iter()
        .filter_map(|(key, meant)| match is_absent(key) {
            Some(words) => Some(words.clone()),
            None => loss(key, meant, &has, Some(&drop_ins)),
        })
        .collect();
    lost.dedup();
    if !lost.is_empty() {
        let by_drop_in = drop_ins.iter().any(|(key, _)| ours.contains_key(key));
        return Err(if by_drop_in {
            of_a_drop_in(named(&lost))
        } else {
            TrialRefusal {
                why: named(&lost),
                fix: NEWER.to_owned(),
            }
        });
    }
    let mut lost: Vec<String> = drop_ins
        .iter()
        .filter_map(|(key, (file, meant))| {
            let words = match is_absent(key) {
                Some(words) => words.clone(),
                None => loss(key, meant, &has, None)?,
            };
            Some(format!("{file}: {words}"))
        })
        .collect();
    lost.dedup();
    if lost.is_empty() {
        Ok(())
    } else {
        Err(of_a_drop_in(named(&lost)))
    }
}

fn of_a_drop_in(why: String) -> TrialRefusal {
    TrialRefusal {
        why,
        fix: "correct the drop-in, or remove it; until then the runtime keeps running without the change"
            .to_owned(),
    }
}

/// What our file says, and what drop-ins say beside it, with the name of the last that says it.
type Meant = (BTreeMap<Path, Value>, BTreeMap<Path, (String, Value)>);

fn read(trial: &TrialStep, schema: i64) -> Result<Meant, TrialRefusal> {
    let mut ours = BTreeMap::new();
    let mut theirs = BTreeMap::new();
    for (name, text) in &trial.files {
        if name == CONTAINERD_ASKS {
            continue;
        }
        if name == CONFIG {
            let table: Table = text.parse().map_err(|e: toml::de::Error| TrialRefusal {
                why: format!("{name} is not valid TOML: {}", e.message()),
                fix: "report this as a bug (pf9ctl bundle): this agent wrote it".to_owned(),
            })?;
            if let Some(section) = ignored(&table, schema) {
                return Err(TrialRefusal {
                    why: format!("it ignores the section [{section}], although it prints it"),
                    fix: NEWER.to_owned(),
                });
            }
            ours = leaves(&table);
            continue;
        }
        let table = drop_in(name, text, schema).map_err(of_a_drop_in)?;
        for (key, value) in leaves(&table) {
            theirs.insert(key, (name.clone(), value));
        }
    }
    Ok((ours, theirs))
}

/// A drop-in, as far as it can be judged without the program.
fn drop_in(name: &str, text: &str, schema: i64) -> Result<Table, String> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| {
        format!("drop-in {name} is not valid TOML: {}", e.message())
    })?;
    match table.get("version").and_then(Value::as_integer) {
        Some(version) if version > schema => {
            return Err(format!(
                "drop-in {name} is of version {version}, this containerd reads {schema} and older"
            ));
        }
        Some(version) if version >= OLDEST => {}
        Some(version) => {
            return Err(format!(
                "drop-in {name} is of version {version}; version {OLDEST} to {schema} is taken over \
                 (`containerd config migrate` converts an old file)"
            ));
        }
        None => {
            return Err(format!(
                "drop-in {name} names no version; this one reads {schema}"
            ));
        }
    }
    if table.contains_key("imports") {
        return Err(format!(
            "drop-in {name} imports other files, which would not be checked"
        ));
    }
    if let Some(section) = ignored(&table, schema) {
        return Err(format!(
            "drop-in {name} has a section [{section}], which this containerd ignores"
        ));
    }
    let runtimes = RUNTIMES
        .iter()
        .try_fold(&table, |at, name| at.get(*name)?.as_table());
    for (runtime, says) in runtimes.into_iter().flatten() {
        let kind = says.get("runtime_type").and_then(Value::as_str);
        if kind.unwrap_or_default().is_empty() {
            return Err(format!(
                "drop-in {name}: runtime {runtime} has no runtime_type"
            ));
        }
    }
    Ok(table)
}

/// A section of a file that has no effect, although the dump prints it.
fn ignored(table: &Table, schema: i64) -> Option<&'static str> {
    let moved = MOVED_IN_4.iter().filter(|_| schema >= 4);
    let section = moved.copied().find(|section| table.contains_key(*section));
    // An older file is written anew by containerd, as far as this goes.
    let is_newest = table.get("version").and_then(Value::as_integer) == Some(schema);
    let debug = table.get(DEBUG).and_then(Value::as_table);
    let debug = debug.filter(|_| schema >= 4 && is_newest);
    let debug = debug.filter(|debug| DEBUG_MOVED_IN_4.iter().any(|key| debug.contains_key(*key)));
    section.or_else(|| debug.map(|_| DEBUG))
}

/// Plugins that are named and that it does not have, as text.
fn absent(dump: &Table) -> BTreeMap<String, String> {
    let plugins = dump.get(PLUGINS).and_then(Value::as_table);
    let printed = |(name, section): (&String, &Value)| {
        let has = section.as_table()?.contains_key(NOBODY_READS);
        let words =
            format!("it has no plugin {name}: it prints its settings, and nobody reads them");
        has.then(|| (name.clone(), words))
    };
    plugins.into_iter().flatten().filter_map(printed).collect()
}

/// The dump, if it made one.
fn dumped(said: &ProgramOutput) -> Result<Table, TrialRefusal> {
    let refused = |why: String| TrialRefusal {
        why,
        fix: NEWER.to_owned(),
    };
    match said.ended {
        ProgramEnd::Code(0) => {}
        ProgramEnd::Code(_) | ProgramEnd::Signal(_) => {
            // Warnings come first, the reason last.
            let last = said.stderr.lines().rev().find(|l| !l.trim().is_empty());
            return Err(refused(
                last.unwrap_or("it ended without a reason").to_owned(),
            ));
        }
        ProgramEnd::Late => {
            return Err(refused(
                "it did not print its configuration in time".to_owned(),
            ));
        }
    }
    said.stdout.parse().map_err(|e: toml::de::Error| {
        refused(format!("its output cannot be read: {}", e.message()))
    })
}

/// How a key is lost, if it is.
fn loss(
    key: &Path,
    meant: &Value,
    has: &BTreeMap<Path, Value>,
    drop_ins: Option<&BTreeMap<Path, (String, Value)>>,
) -> Option<String> {
    let shown = shown(key);
    match has.get(key) {
        Some(value) if same(meant, value, drop_ins.is_none()) => None,
        Some(value) => {
            let by = drop_ins.and_then(|d| d.get(key));
            let by = by.map_or(String::new(), |(file, _)| format!(" ({file} says so)"));
            Some(format!("{shown} is {value} for it, not {meant}{by}"))
        }
        None => {
            let moved = has.iter().find(|(other, value)| {
                other.last() == key.last() && *value == meant && !matches!(value, Value::Boolean(_))
            });
            Some(match moved {
                Some((other, _)) => {
                    format!("{shown} is not read there, but at {}", self::shown(other))
                }
                None => format!("{shown} is dropped"),
            })
        }
    }
}

/// Lists of several drop-ins are put together; times are printed in another way than people write
/// them (`5m` is `5m0s`).
fn same(meant: &Value, value: &Value, joined: bool) -> bool {
    match (meant, value) {
        (Value::Array(meant), Value::Array(all)) if joined => meant.iter().all(|v| all.contains(v)),
        (Value::String(meant), Value::String(value)) => {
            let times = duration(meant).zip(duration(value));
            meant == value || times.is_some_and(|(a, b)| (a - b).abs() < 1e-9)
        }
        _ => meant == value,
    }
}

/// Seconds of a time as Go writes it, e.g. `1h30m` or `1.5s`.
fn duration(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 6] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(end);
        // The longest unit that fits: `ms` is no `m`.
        let unit = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        seconds += number.parse::<f64>().ok()? * unit.1;
        rest = after.get(unit.0.len()..)?;
    }
    (!text.is_empty()).then_some(seconds)
}

fn named(lost: &[String]) -> String {
    let mut text = lost
        .iter()
        .take(NAMED_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join("; ");
    if lost.len() > NAMED_MAX {
        // Writing to a text cannot fail.
        write!(text, "; and {} more", lost.len() - NAMED_MAX).ok();
    }
    text
}

/// Every setting of a file, by its full path.
fn leaves(table: &Table) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    walk(table, &mut Vec::new(), &mut found);
    found
}

fn walk(table: &Table, at: &mut Path, found: &mut BTreeMap<Path, Value>) {
    for (key, value) in table {
        if at.is_empty() && OF_THE_FILE.contains(&key.as_str()) {
            continue;
        }
        at.push(key.clone());
        match value {
            Value::Table(inner) => walk(inner, at, found),
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => {
                found.insert(at.clone(), value.clone());
            }
        }
        at.pop();
    }
}

/// A key as people write it.
fn shown(key: &[String]) -> String {
    let bare = |part: &str| {
        part.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let parts = key.iter().map(|part| {
        if bare(part) {
            part.clone()
        } else {
            format!("\"{part}\"")
        }
    });
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests;

//! The published schemas against what is really written.

use std::collections::BTreeSet;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::model::{
    AgentStage, Authority, CertPurpose, LinkEvent, MaintenanceBy, NodeState, PhaseState, ProxyMode,
    RestoreState, Role, ServiceState, UpgradeStage, UpgradeState,
};

#[path = "../../../tests/support/schema.rs"]
mod fits;

/// Documents that leave a host: with all that each can say (`model::golden`), and their part of the schema.
const REPORTS: [(&str, &str); 7] = [
    ("backup-manifest", "backup_manifest"),
    ("certificate-order", "certificates"),
    ("events", "events"),
    ("facts-report", "facts"),
    ("operation-result", "operations"),
    ("status", "status"),
    ("unwrap-order", "unwrap"),
];

/// A file of this repository.
fn read(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(path).expect("a file");
    serde_json::from_str(&text).expect("json")
}

/// A value against a file of `docs/schemas`; every fault with its place.
pub(super) fn check(name: &str, value: &Value) {
    let faults = fits::faults(&read(&format!("docs/schemas/{name}")), "", value);
    assert!(faults.is_empty(), "{name}: {faults:#?}\n{value:#}");
}

/// Names of fields, at any depth.
fn names(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(all) => {
            for (key, value) in all {
                into.insert(key.clone());
                names(value, into);
            }
        }
        Value::Array(all) => all.iter().for_each(|value| names(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Names of fields that a schema has, at any depth; each object that has some is closed.
fn properties(schema: &Value, into: &mut BTreeSet<String>) {
    if let Some(known) = schema.get("properties").and_then(Value::as_object) {
        let closed = schema.get("additionalProperties");
        assert_eq!(closed, Some(&Value::Bool(false)), "{schema:#}");
        into.extend(known.keys().cloned());
    }
    match schema {
        Value::Object(all) => all.values().for_each(|inner| properties(inner, into)),
        Value::Array(all) => all.iter().for_each(|inner| properties(inner, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A new field of a document is refused by the schema until it is published, and one that is gone is taken out of it.
#[test]
fn what_leaves_a_host_is_what_its_schema_says() {
    let schema = read("docs/schemas/report.json");
    // The shape is that of an operation that failed; `said` is of one that was done.
    let mut sent = BTreeSet::from(["said".to_owned()]);
    for (file, part) in REPORTS {
        let document = read(&format!("src/model/golden/shapes/{file}.json"));
        let part = format!("/$defs/{part}");
        let faults = fits::faults(&schema, &part, &document);
        assert!(faults.is_empty(), "{file}: {faults:#?}");
        names(&document, &mut sent);
        let mut more = document.clone();
        more["password"] = json!("x");
        let faults = fits::faults(&schema, &part, &more);
        assert_eq!(faults, [": password is not in the schema"], "{file}");
    }
    let mut published = BTreeSet::new();
    properties(&schema, &mut published);
    let gone: Vec<_> = published.difference(&sent).collect();
    assert!(gone.is_empty(), "no document has it: {gone:?}");
}

/// All words of an enumeration, as its reader lists them.
fn words<T: DeserializeOwned>() -> BTreeSet<String> {
    let read = serde_json::from_value::<T>(json!("no such word"));
    let said = read.err().expect("it is none").to_string();
    // The first in quotes is the one above.
    let words = said.split('`').skip(3).step_by(2);
    words.map(str::to_owned).collect()
}

#[test]
fn the_schema_of_reports_knows_every_word() {
    let schema = read("docs/schemas/report.json");
    for (part, words) in [
        ("agent_stage", words::<AgentStage>()),
        ("authority", words::<Authority>()),
        ("cert_purpose", words::<CertPurpose>()),
        ("link_event", words::<LinkEvent>()),
        ("maintenance_by", words::<MaintenanceBy>()),
        ("node_state", words::<NodeState>()),
        ("phase_state", words::<PhaseState>()),
        ("proxy_mode", words::<ProxyMode>()),
        ("restore_state", words::<RestoreState>()),
        ("role", words::<Role>()),
        ("service_state", words::<ServiceState>()),
        ("upgrade_stage", words::<UpgradeStage>()),
        ("upgrade_state", words::<UpgradeState>()),
    ] {
        let known = schema["$defs"][part]["enum"].as_array().expect(part);
        let known = known.iter().filter_map(Value::as_str).map(str::to_owned);
        assert_eq!(known.collect::<BTreeSet<_>>(), words, "{part}");
        assert!(words.len() > 1, "{part}");
    }
}

#[test]
fn what_does_not_fit_is_found() {
    let good = serde_json::json!({"schema": 2, "verdict": "ok", "checks": []});
    check("check-node.json", &good);
    let bad = [
        serde_json::json!({"schema": 1, "verdict": "ok", "checks": []}),
        serde_json::json!({"schema": 2, "verdict": "good", "checks": []}),
        serde_json::json!({"schema": 2, "verdict": "ok"}),
        serde_json::json!({"schema": 2, "verdict": "ok", "checks": [], "more": 1}),
        serde_json::json!({"schema": 2, "verdict": "ok", "checks": [{"id": 1}]}),
    ];
    for value in bad {
        let said = std::panic::catch_unwind(|| check("check-node.json", &value));
        assert!(said.is_err(), "{value}");
    }
}

//! The published schemas against what is really written. Supports as much of JSON Schema as these files use; an unknown
//! keyword fails the test, so nothing in them goes unchecked.

use serde_json::Value;

/// A value against a file of `docs/schemas`; every fault with its place.
pub(super) fn check(name: &str, value: &Value) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/schemas")
        .join(name);
    let text = std::fs::read_to_string(path).expect("schema");
    let root: Value = serde_json::from_str(&text).expect("json");
    let mut faults = Vec::new();
    walk(&root, &root, value, "", &mut faults);
    assert!(faults.is_empty(), "{name}: {faults:#?}\n{value:#}");
}

fn walk(root: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let rules = schema.as_object().expect("a schema is an object");
    for (word, rule) in rules {
        match word.as_str() {
            "$schema" | "$defs" | "title" | "description" | "additionalProperties" => {}
            "$ref" => {
                let pointer = rule.as_str().expect("ref").trim_start_matches('#');
                let to = root.pointer(pointer).expect(pointer);
                walk(root, to, value, at, faults);
            }
            "const" if rule != value => faults.push(format!("{at}: {value} is not {rule}")),
            "enum" if !rule.as_array().expect("enum").contains(value) => {
                faults.push(format!("{at}: {value} is none of {rule}"));
            }
            "const" | "enum" => {}
            "oneOf" => {
                let fits = |schema: &&Value| {
                    let mut faults = Vec::new();
                    walk(root, schema, value, at, &mut faults);
                    faults.is_empty()
                };
                let all = rule.as_array().expect("oneOf");
                if all.iter().filter(fits).count() != 1 {
                    faults.push(format!("{at}: {value} fits not exactly one"));
                }
            }
            "type" => {
                let words: Vec<&str> = match rule {
                    Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
                    one => one.as_str().into_iter().collect(),
                };
                if !words.iter().any(|word| is_a(value, word)) {
                    faults.push(format!("{at}: {value} is no {words:?}"));
                }
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    walk(root, rule, item, &format!("{at}/{n}"), faults);
                }
            }
            "required" => {
                for key in rule.as_array().expect("required") {
                    let key = key.as_str().expect("key");
                    if value.as_object().is_some_and(|v| !v.contains_key(key)) {
                        faults.push(format!("{at}: {key} is missing"));
                    }
                }
            }
            "properties" => {
                let known = rule.as_object().expect("properties");
                for (key, inner) in value.as_object().into_iter().flatten() {
                    match known.get(key) {
                        Some(schema) => walk(root, schema, inner, &format!("{at}/{key}"), faults),
                        None if rules.get("additionalProperties") == Some(&Value::Bool(false)) => {
                            faults.push(format!("{at}: {key} is not in the schema"));
                        }
                        None => {}
                    }
                }
            }
            other => panic!("{other}: this test does not know that word"),
        }
    }
}

fn is_a(value: &Value, word: &str) -> bool {
    match word {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other}: this test does not know that type"),
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

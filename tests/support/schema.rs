//! What a value has that its published schema (`docs/schemas`) has not. Supports as much of JSON Schema as those files use;
//! an unknown keyword fails the test, so nothing in them goes unchecked.

use serde_json::Value;

/// Each fault of a value with its place, by the part of the schema at this JSON pointer; the empty one is all of it.
pub(crate) fn faults(root: &Value, part: &str, value: &Value) -> Vec<String> {
    let schema = root.pointer(part);
    let schema = schema.unwrap_or_else(|| panic!("{part} is not in the schema"));
    let mut faults = Vec::new();
    walk(root, schema, value, "", &mut faults);
    faults
}

fn walk(root: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let rules = schema.as_object().expect("a schema is an object");
    for (word, rule) in rules {
        match word.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
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
            "oneOf" => one_of(root, rule, value, at, faults),
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
                    if let Some(schema) = known.get(key) {
                        walk(root, schema, inner, &format!("{at}/{key}"), faults);
                    }
                }
            }
            "additionalProperties" => {
                let known = rules.get("properties").and_then(Value::as_object);
                for (key, inner) in value.as_object().into_iter().flatten() {
                    if known.is_some_and(|known| known.contains_key(key)) {
                        continue;
                    }
                    match rule {
                        Value::Bool(false) => {
                            faults.push(format!("{at}: {key} is not in the schema"));
                        }
                        schema => walk(root, schema, inner, &format!("{at}/{key}"), faults),
                    }
                }
            }
            other => panic!("{other}: this test does not know that word"),
        }
    }
}

/// What keeps it from the form that it comes closest to is told, of equals the last: "null, or this" is what they are.
fn one_of(root: &Value, forms: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let forms = forms.as_array().expect("oneOf").iter();
    let tried = forms.map(|form| {
        let mut faults = Vec::new();
        walk(root, form, value, at, &mut faults);
        faults
    });
    let (fit, unfit): (Vec<_>, Vec<_>) = tried.partition(Vec::is_empty);
    match fit.len() {
        0 => {
            let closest = unfit.into_iter().rev().min_by_key(Vec::len);
            faults.extend(closest.unwrap_or_default());
        }
        1 => {}
        _ => faults.push(format!("{at}: {value} fits more than one")),
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

//! Documents as the next version may write them.

use serde_json::{Value, json};

/// A field of the next version that this one does not know.
pub(crate) const NEW: &str = "zz_new";
/// Objects whose keys are the operator's, not the program's.
const MAPS: [&str; 6] = [
    "extensions",
    "labels",
    "extra_args",
    "feature_gates",
    "required_claims",
    "mirrors",
];

/// The document with an unknown field in each of its objects, of a different type each time.
pub(crate) fn newer(mut document: Value) -> Value {
    add(&mut document, &mut 0);
    document
}

fn add(value: &mut Value, count: &mut usize) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                if !MAPS.contains(&name.as_str()) {
                    add(field, count);
                }
            }
            let shapes = [
                json!({"now": "a table"}),
                json!([1, "two"]),
                json!(null),
                json!(1e300),
            ];
            fields.insert(NEW.into(), shapes[*count % shapes.len()].clone());
            *count += 1;
        }
        Value::Array(all) => all.iter_mut().for_each(|v| add(v, count)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

//! Lists as Keystone writes them: sorted by id, filtered, in pages, with links; one thing with its own; a change that has
//! nothing to show.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};

use crate::http::{Path, escaped};
use crate::refusal::{Answer, Refusal};
use crate::state::{Change, Plane};
use pf9_hostagent::model::FaultCode;

/// The query string.
pub(crate) type Query = crate::http::Query<BTreeMap<String, String>>;

/// The plane, as a handler is given it.
pub(crate) type ThePlane = State<Arc<Plane>>;
/// The one name in a path.
pub(crate) type Id = Path<String>;

/// Most things of one page, and the default.
const PAGE_MAX: usize = 10_000;

/// Where Keystone is.
pub(crate) fn root(plane: &Plane) -> String {
    format!("{}/keystone/v3", plane.public_url)
}

/// Changes something, and has nothing to show.
pub(crate) async fn done(
    plane: &Arc<Plane>,
    work: impl FnOnce(&mut Change<'_>) -> Answer<()> + Send + 'static,
) -> Answer<StatusCode> {
    plane.change(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One thing that was made.
pub(crate) fn made(
    plane: &Plane,
    kind: &str,
    plural: &str,
    row: Value,
) -> (StatusCode, Json<Value>) {
    (StatusCode::CREATED, one(plane, kind, plural, row))
}

/// One thing, under its name.
pub(crate) fn one(plane: &Plane, kind: &str, plural: &str, row: Value) -> Json<Value> {
    Json(json!({kind: linked(plane, plural, row)}))
}

fn linked(plane: &Plane, plural: &str, mut row: Value) -> Value {
    let id = row["id"].as_str().unwrap_or_default();
    row["links"] = json!({"self": format!("{}/{plural}/{id}", root(plane))});
    row
}

/// A page of a list. Filters are those fields of the rows that the query names; `limit` and `marker` say which page.
pub(crate) fn list(
    plane: &Plane,
    plural: &str,
    path: &str,
    query: &BTreeMap<String, String>,
    rows: Vec<Value>,
) -> Answer<Json<Value>> {
    let mut rows = filtered(query, rows);
    rows.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
    if let Some(marker) = query.get("marker") {
        rows.retain(|row| row["id"].as_str() > Some(marker));
    }
    let limit = match query.get("limit") {
        None => PAGE_MAX,
        Some(said) => {
            let number = said.parse::<usize>().ok().filter(|n| *n > 0);
            let bad = || {
                Refusal::bad(
                    FaultCode::QueryInvalid,
                    "request refused",
                    "limit: a number from 1 on",
                )
            };
            number.ok_or_else(bad)?.min(PAGE_MAX)
        }
    };
    let goes_on = rows.len() > limit;
    rows.truncate(limit);
    let here = format!("{}/{path}", root(plane));
    let next = rows.last().filter(|_| goes_on).map(|last| {
        let others = query
            .iter()
            .filter(|(k, _)| !matches!(k.as_str(), "marker" | "limit"));
        let others: String = others
            .map(|(k, v)| format!("&{}={}", escaped(k), escaped(v)))
            .collect();
        let last = last["id"].as_str().unwrap_or_default();
        format!("{here}?limit={limit}&marker={last}{others}")
    });
    let kind = plural.rsplit('/').next().unwrap_or(plural);
    let rows: Vec<Value> = rows
        .into_iter()
        .map(|row| linked(plane, plural, row))
        .collect();
    Ok(Json(json!({
        kind: rows,
        "links": {"self": here, "previous": null, "next": next},
    })))
}

/// Those rows that have what the query says, of the fields that they have.
fn filtered(query: &BTreeMap<String, String>, rows: Vec<Value>) -> Vec<Value> {
    let fits = |row: &Value| {
        let wrong = query.iter().any(|(field, wanted)| match row.get(field) {
            None => false,
            Some(Value::String(has)) => has != wanted,
            Some(Value::Bool(has)) => {
                let said = wanted.to_ascii_lowercase();
                *has == matches!(said.as_str(), "false" | "0")
            }
            Some(Value::Null) => true,
            Some(_) => false,
        });
        !wrong
    };
    rows.into_iter().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_of_a_field_that_rows_have() {
        let rows = || {
            vec![
                json!({"id": "1", "name": "a", "enabled": true}),
                json!({"id": "2", "name": "b", "enabled": false}),
            ]
        };
        let ids = |query: &[(&str, &str)]| {
            let query = query
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            let left = filtered(&query, rows());
            left.iter()
                .map(|r| r["id"].as_str().expect("id").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(&[]), ["1", "2"]);
        assert_eq!(ids(&[("name", "a")]), ["1"]);
        assert_eq!(ids(&[("name", "c")]), [""; 0]);
        assert_eq!(ids(&[("enabled", "False")]), ["2"]);
        assert_eq!(ids(&[("enabled", "1"), ("of-the-future", "x")]), ["1"]);
    }
}

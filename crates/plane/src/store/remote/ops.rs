//! A write's changes, split into transactions that etcd accepts. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::StoreError;

/// Changed rows in one transaction: etcd's `--max-txn-ops` is 128, and a step has a few of its own.
pub(super) const OPS_MAX: usize = 100;
/// Bytes of one transaction: etcd's `--max-request-bytes` is 1.5 MiB.
pub(super) const BYTES_MAX: usize = 1024 * 1024;

/// Changes of a write, the last for each row; `None`: removed.
#[derive(Debug, Default)]
pub(crate) struct Changes(BTreeMap<Name, Option<Vec<u8>>>);

/// Identifies a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) rows: String,
    pub(super) key: String,
}

/// The new value of one row. As JSON: an entry of a long write.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Op {
    pub(super) rows: String,
    pub(super) key: String,
    pub(super) row: Option<Box<RawValue>>,
}

impl Changes {
    pub(crate) fn put(&mut self, rows: &str, key: &str, row: Vec<u8>) {
        self.set(rows, key, Some(row));
    }

    pub(crate) fn remove(&mut self, rows: &str, key: &str) {
        self.set(rows, key, None);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn set(&mut self, rows: &str, key: &str, row: Option<Vec<u8>>) {
        let (rows, key) = (rows.to_owned(), key.to_owned());
        self.0.insert(Name { rows, key }, row);
    }
}

impl Op {
    /// Its size in a transaction.
    fn bytes(&self) -> usize {
        let row = self.row.as_ref().map_or(0, |row| row.get().len());
        self.rows.len() + self.key.len() + row
    }
}

/// Sorted by name.
pub(super) fn of(changes: Changes) -> Result<Vec<Op>, StoreError> {
    let op = |(name, row): (Name, Option<Vec<u8>>)| {
        let row = row.map(|bytes| serde_json::from_slice(&bytes)).transpose();
        match row {
            Ok(row) => Ok(Op {
                rows: name.rows,
                key: name.key,
                row,
            }),
            Err(e) => Err(StoreError::Etcd(format!(
                "row {} is not valid JSON: {e}",
                name.key
            ))),
        }
    };
    changes.0.into_iter().map(op).collect()
}

/// As few as possible in this order, each within etcd's limits.
pub(super) fn batches(ops: Vec<Op>) -> Result<Vec<Vec<Op>>, StoreError> {
    let mut all: Vec<Vec<Op>> = Vec::new();
    let mut bytes = 0;
    for op in ops {
        let more = op.bytes();
        if more > BYTES_MAX {
            return Err(StoreError::TooLong {
                rows: op.rows,
                key: op.key,
                bytes: more,
                most: BYTES_MAX,
            });
        }
        match all.last_mut() {
            Some(last) if last.len() < OPS_MAX && bytes + more <= BYTES_MAX => {
                bytes += more;
                last.push(op);
            }
            Some(_) | None => {
                bytes = more;
                all.push(vec![op]);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// For any write: nothing is lost or duplicated, the order is kept, and etcd accepts each part.
        #[test]
        fn every_change_is_in_one_part_that_etcd_takes(
            rows in prop::collection::vec((0u32..400, prop::option::of(0usize..300_000)), 0..260),
        ) {
            let mut changes = Changes::default();
            let mut last = BTreeMap::new();
            for (key, size) in rows {
                let key = format!("k{key:04}");
                match size {
                    Some(size) => changes.put("rows", &key, format!("\"{}\"", "x".repeat(size)).into_bytes()),
                    None => changes.remove("rows", &key),
                }
                last.insert(key, size);
            }
            let cut = batches(of(changes).expect("JSON")).expect("cut");
            let mut found = Vec::new();
            for part in &cut {
                prop_assert!(!part.is_empty() && part.len() <= OPS_MAX);
                prop_assert!(part.iter().map(Op::bytes).sum::<usize>() <= BYTES_MAX);
                let text = serde_json::to_vec(part).expect("JSON");
                let again: Vec<Op> = serde_json::from_slice(&text).expect("the same");
                for op in again {
                    found.push((op.key, op.row.map(|row| row.get().len() - 2)));
                }
            }
            prop_assert_eq!(found, last.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_row_that_etcd_never_takes_is_refused_with_its_name() {
        let mut changes = Changes::default();
        let long = format!("\"{}\"", "x".repeat(BYTES_MAX));
        changes.put("reports", "one", long.into_bytes());
        let refused = batches(of(changes).expect("JSON")).expect_err("too long");
        let said = refused.to_string();
        assert!(said.contains("one of reports"), "{said}");
    }
}

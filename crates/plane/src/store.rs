//! The embedded store: typed rows in redb, one file, crash-safe.
//!
//! Rows are JSON under text keys. Every write transaction is all or nothing and durable when
//! [`Store::write`] returns. One process owns the file; command-line verbs ask that process.

#[cfg(feature = "fault")]
mod backend;
mod schema;

use std::collections::BTreeSet;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// redb's page cache; its default of a gigabyte is not for a stub.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The store.
pub(super) struct Store {
    db: Database,
}

/// A kind of rows: its name in the file and its type.
pub(super) struct Rows<T> {
    name: &'static str,
    row: PhantomData<fn() -> T>,
}

/// A part of a list, from one of its ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    /// Keys begin with it.
    pub(super) prefix: &'a str,
    /// The last key of the part before it.
    pub(super) beyond: Option<&'a str>,
    pub(super) backwards: bool,
    pub(super) most: usize,
}

/// Rows can be read from it: a snapshot or an open write.
pub(super) trait Read {
    /// One row.
    fn get<T: DeserializeOwned>(&self, rows: &Rows<T>, key: &str) -> Result<Option<T>, StoreError>;
    /// Every row whose key starts with `prefix`, in order of key.
    fn with_prefix<T: DeserializeOwned>(
        &self,
        rows: &Rows<T>,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, StoreError>;
    /// So many of them from one end, beyond a key; others are not read.
    fn page<T: DeserializeOwned>(
        &self,
        rows: &Rows<T>,
        page: Page<'_>,
    ) -> Result<Vec<(String, T)>, StoreError>;
    /// Every row, in order of key.
    fn all<T: DeserializeOwned>(&self, rows: &Rows<T>) -> Result<Vec<(String, T)>, StoreError> {
        self.with_prefix(rows, "")
    }
}

/// A consistent view.
pub(super) struct Snapshot(ReadTransaction);

/// An open write.
pub(super) struct Write(WriteTransaction);

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The file cannot be opened or made.
    #[error("cannot open the store {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: redb::Error,
    },
    /// The store was written by a newer program.
    #[error("the store has schema {found}, this program knows up to {knows}")]
    Newer {
        found: u64,
        knows: u64,
        /// What it was before it went to that schema.
        copy: Option<PathBuf>,
    },
    /// It is no newer than this program, so nothing of before is wanted.
    #[error("the store is of schema {knows} or older, which this program knows")]
    NotNewer { knows: u64 },
    /// A copy of the store cannot be made or read.
    #[error("cannot copy the store: {to}")]
    Copy {
        to: PathBuf,
        #[source]
        source: io::Error,
    },
    /// redb failed.
    #[error("the store failed")]
    Redb(#[source] Box<redb::Error>),
    /// A row is not what it should be.
    #[error("row {key} of {rows} cannot be read")]
    Row {
        rows: &'static str,
        key: String,
        #[source]
        source: serde_json::Error,
    },
}

type Bytes = &'static [u8];

const META: Rows<u64> = Rows::new("meta");

// === impl Rows ===

impl<T> Rows<T> {
    pub(super) const fn new(name: &'static str) -> Self {
        Self {
            name,
            row: PhantomData,
        }
    }

    /// The same rows, of which less is read.
    pub(super) const fn as_type<U>(&self) -> Rows<U> {
        Rows::new(self.name)
    }

    fn table(&self) -> TableDefinition<'static, &'static str, Bytes> {
        TableDefinition::new(self.name)
    }
}

// === impl Store ===

impl Store {
    /// Opens or makes the store; `tables` are all kinds of rows. One of an older schema goes forward, after a copy.
    pub(super) fn open(path: &Path, tables: &BTreeSet<&'static str>) -> Result<Self, StoreError> {
        Self::open_as(path, tables, schema::STEPS)
    }

    fn open_as(
        path: &Path,
        tables: &BTreeSet<&'static str>,
        steps: &[schema::Step],
    ) -> Result<Self, StoreError> {
        let store = Self {
            db: schema::ready(path, steps)?,
        };
        store.write(|write| {
            for name in tables.iter().copied().chain([META.name]) {
                // Opened once, so that later reads never meet a table that does not exist.
                write
                    .0
                    .open_table(Rows::<()>::new(name).table())
                    .map(drop)
                    .map_err(redb_failed)?;
            }
            schema::step_on(write, steps)
        })?;
        Ok(store)
    }

    /// Puts what a newer store was copied from before in its place; answers where the newer one is then.
    pub(super) fn put_back(path: &Path) -> Result<PathBuf, StoreError> {
        schema::put_back(path, schema::STEPS)
    }

    /// A consistent view of now.
    pub(super) fn read(&self) -> Result<Snapshot, StoreError> {
        self.db.begin_read().map(Snapshot).map_err(redb_failed)
    }

    /// Runs `work` in one transaction. Durable when this returns `Ok`; when `work` fails nothing
    /// has happened.
    pub(super) fn write<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&mut Write) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut write = Write(self.db.begin_write().map_err(redb_failed)?);
        // Dropping the transaction on failure rolls it back.
        let out = work(&mut write)?;
        write.0.commit().map_err(redb_failed)?;
        Ok(out)
    }
}

// === impl StoreError ===

impl StoreError {
    /// What to do, where that is known.
    pub(super) fn fix(&self) -> Option<String> {
        match self {
            Self::Newer { copy, .. } => Some(match copy {
                Some(copy) => format!(
                    "run the plane that wrote it; or restore the earlier store, {}, with pf9-plane put-back, and \
                     then pf9-plane recover for hosts that got newer specs since",
                    copy.display()
                ),
                None => {
                    "run the plane that wrote it; there is no copy of the earlier store beside it"
                        .into()
                }
            }),
            Self::NotNewer { .. } => Some("start the plane".into()),
            Self::Copy { .. } => {
                Some("free some space, or fix its directory; the store is unchanged".into())
            }
            Self::Open { .. } | Self::Redb(_) | Self::Row { .. } => None,
        }
    }
}

// === impl Write ===

impl Write {
    /// Puts a row, replacing one that is there.
    pub(super) fn put<T: Serialize>(
        &mut self,
        rows: &Rows<T>,
        key: &str,
        row: &T,
    ) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(row).map_err(|e| unreadable(rows.name, key, e))?;
        let mut table = self.0.open_table(rows.table()).map_err(redb_failed)?;
        table
            .insert(key, bytes.as_slice())
            .map(drop)
            .map_err(redb_failed)
    }

    /// How many rows there are; nothing is read for it.
    pub(super) fn count<T>(&self, rows: &Rows<T>) -> Result<u64, StoreError> {
        let table = self.0.open_table(rows.table()).map_err(redb_failed)?;
        table.len().map_err(redb_failed)
    }

    /// Removes a row; nothing there is fine.
    pub(super) fn remove<T>(&mut self, rows: &Rows<T>, key: &str) -> Result<(), StoreError> {
        let mut table = self.0.open_table(rows.table()).map_err(redb_failed)?;
        table.remove(key).map(drop).map_err(redb_failed)
    }
}

impl Read for Write {
    fn get<T: DeserializeOwned>(&self, rows: &Rows<T>, key: &str) -> Result<Option<T>, StoreError> {
        let table = self.0.open_table(rows.table()).map_err(redb_failed)?;
        get_row(&table, rows.name, key)
    }
    fn with_prefix<T: DeserializeOwned>(
        &self,
        rows: &Rows<T>,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let table = self.0.open_table(rows.table()).map_err(redb_failed)?;
        rows_from(&table, rows.name, prefix)
    }
    fn page<T: DeserializeOwned>(
        &self,
        rows: &Rows<T>,
        page: Page<'_>,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let table = self.0.open_table(rows.table()).map_err(redb_failed)?;
        page_from(&table, rows.name, page)
    }
}

impl Read for Snapshot {
    fn get<T: DeserializeOwned>(&self, rows: &Rows<T>, key: &str) -> Result<Option<T>, StoreError> {
        let table = self.0.open_table(rows.table()).map_err(redb_failed)?;
        get_row(&table, rows.name, key)
    }
    fn with_prefix<T: DeserializeOwned>(
        &self,
        rows: &Rows<T>,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let table = self.0.open_table(rows.table()).map_err(redb_failed)?;
        rows_from(&table, rows.name, prefix)
    }
    fn page<T: DeserializeOwned>(
        &self,
        rows: &Rows<T>,
        page: Page<'_>,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let table = self.0.open_table(rows.table()).map_err(redb_failed)?;
        page_from(&table, rows.name, page)
    }
}

fn get_row<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, Bytes>,
    rows: &'static str,
    key: &str,
) -> Result<Option<T>, StoreError> {
    let Some(found) = table.get(key).map_err(redb_failed)? else {
        return Ok(None);
    };
    serde_json::from_slice(found.value())
        .map(Some)
        .map_err(|e| unreadable(rows, key, e))
}

fn rows_from<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, Bytes>,
    rows: &'static str,
    prefix: &str,
) -> Result<Vec<(String, T)>, StoreError> {
    let mut out = Vec::new();
    for entry in table.range(prefix..).map_err(redb_failed)? {
        let (key, value) = entry.map_err(redb_failed)?;
        let key = key.value();
        if !key.starts_with(prefix) {
            break;
        }
        let row = serde_json::from_slice(value.value()).map_err(|e| unreadable(rows, key, e))?;
        out.push((key.to_owned(), row));
    }
    Ok(out)
}

fn page_from<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, Bytes>,
    rows: &'static str,
    page: Page<'_>,
) -> Result<Vec<(String, T)>, StoreError> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    // No key is longer than what follows a prefix in it: the greatest character there is stands behind all of them.
    let end = format!("{}\u{10ffff}", page.prefix);
    let (from, to) = match (page.backwards, page.beyond) {
        (false, Some(beyond)) if beyond >= page.prefix => (Excluded(beyond), Unbounded),
        (false, _) => (Included(page.prefix), Unbounded),
        (true, Some(beyond)) if beyond < end.as_str() => (Included(page.prefix), Excluded(beyond)),
        (true, _) => (Included(page.prefix), Excluded(end.as_str())),
    };
    if matches!((from, to), (Included(from), Excluded(to)) if to <= from) {
        return Ok(Vec::new());
    }
    let mut range = table.range::<&str>((from, to)).map_err(redb_failed)?;
    let mut out = Vec::new();
    while out.len() < page.most {
        let next = match page.backwards {
            true => range.next_back(),
            false => range.next(),
        };
        let Some(entry) = next else { break };
        let (key, value) = entry.map_err(redb_failed)?;
        let key = key.value();
        if !key.starts_with(page.prefix) {
            break;
        }
        let row = serde_json::from_slice(value.value()).map_err(|e| unreadable(rows, key, e))?;
        out.push((key.to_owned(), row));
    }
    Ok(out)
}

fn redb_failed(e: impl Into<redb::Error>) -> StoreError {
    StoreError::Redb(Box::new(e.into()))
}

fn unreadable(rows: &'static str, key: &str, source: serde_json::Error) -> StoreError {
    StoreError::Row {
        rows,
        key: key.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Rows<u32> = Rows::new("numbers");

    fn open(dir: &Path) -> Store {
        Store::open(&dir.join("s.redb"), &[NUMBERS.name].into()).expect("open")
    }

    #[test]
    fn what_is_written_is_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = open(dir.path());
        store
            .write(|w| {
                w.put(&NUMBERS, "a/1", &1)?;
                w.put(&NUMBERS, "a/2", &2)?;
                w.put(&NUMBERS, "b/1", &3)
            })
            .expect("write");
        drop(store);
        let read = open(dir.path()).read().expect("read");
        assert_eq!(read.get(&NUMBERS, "a/2").expect("get"), Some(2));
        let a = read.with_prefix(&NUMBERS, "a/").expect("prefix");
        assert_eq!(a, [("a/1".to_owned(), 1), ("a/2".to_owned(), 2)]);
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = open(dir.path());
        let failed: Result<(), StoreError> = store.write(|w| {
            w.put(&NUMBERS, "x", &1)?;
            Err(StoreError::NotNewer { knows: 9 })
        });
        assert!(failed.is_err());
        let read = store.read().expect("read");
        assert_eq!(read.get(&NUMBERS, "x").expect("get"), None);
    }

    #[test]
    fn only_the_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("tempdir");
        drop(open(dir.path()));
        let found = std::fs::metadata(dir.path().join("s.redb")).expect("metadata");
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_page_is_a_part_from_either_end_and_of_its_prefix_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = open(dir.path());
        let put: Result<(), StoreError> = store.write(|w| {
            for (n, key) in ["a/9", "b/1", "b/2", "b/3", "b/4", "c/1"]
                .iter()
                .enumerate()
            {
                w.put(&NUMBERS, key, &u32::try_from(n).expect("few"))?;
            }
            Ok(())
        });
        put.expect("rows");
        let read = store.read().expect("read");
        let page = |beyond, backwards, most| {
            let page = Page {
                prefix: "b/",
                beyond,
                backwards,
                most,
            };
            let rows = read.page(&NUMBERS, page).expect("page");
            rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(page(None, false, 2), ["b/1", "b/2"]);
        assert_eq!(page(Some("b/2"), false, 9), ["b/3", "b/4"]);
        assert_eq!(page(Some("a/0"), false, 1), ["b/1"], "of another prefix");
        assert_eq!(page(Some("c/1"), false, 9), Vec::<String>::new());
        assert_eq!(page(None, true, 2), ["b/4", "b/3"]);
        assert_eq!(page(Some("b/3"), true, 9), ["b/2", "b/1"]);
        assert_eq!(page(Some("c/1"), true, 1), ["b/4"]);
        assert_eq!(page(Some("a/0"), true, 9), Vec::<String>::new());
        assert_eq!(page(None, true, 0), Vec::<String>::new());
    }
}

//! The store: typed rows, JSON under text keys. Every write transaction is all or nothing and durable when
//! [`Store::write`] returns.
//!
//! | kind | durable means | who owns it |
//! |---|---|---|
//! | embedded | on the disk: redb, one file, crash-safe | one process owns the file; command-line verbs ask that process |
//! | in etcd (`remote`) | in etcd, by its quorum | the plane that has the seat; reads are from a redb file that is its copy |

#[cfg(feature = "fault")]
mod backend;
mod file;
mod moving;
mod remote;
mod schema;
#[cfg(any(test, feature = "fault"))]
pub(crate) mod testing;

use std::collections::BTreeSet;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redb::{
    Durability, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use self::file::StoreFile;
use self::remote::Changes;
use pf9_hostagent::host::fs::FsError;

pub(super) use self::moving::{to_embedded, to_etcd};
pub use self::remote::EtcdPlace;
pub(super) use self::remote::{Away, Holder, Remote, Standing, glance};

/// redb's page cache; its default of a gigabyte is too much for a stub.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Writes to the copy between two that wait for the disk: it is rebuilt at every start, but redb reuses freed pages
/// only after such a sync.
const COPY_SYNC: u32 = 256;

/// The store.
pub(super) struct Store {
    file: StoreFile,
    /// Where the rows really are; none: in this file.
    remote: Option<Remote>,
    writes: AtomicU32,
}

/// A kind of rows: its name in the file and its type.
pub(super) struct Rows<T> {
    name: &'static str,
    row: PhantomData<fn() -> T>,
}

/// A part of a list, from one of its ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    /// Prefix of its keys.
    pub(super) prefix: &'a str,
    /// The last key of the previous part.
    pub(super) beyond: Option<&'a str>,
    pub(super) backwards: bool,
    pub(super) most: usize,
}

/// A source of rows: a snapshot or an open write.
pub(super) trait Read {
    /// One row.
    fn get<T: DeserializeOwned>(&self, rows: &Rows<T>, key: &str) -> Result<Option<T>, StoreError>;
    /// Every row whose key starts with `prefix`, in order of key.
    fn with_prefix<T: DeserializeOwned>(
        &self,
        rows: &Rows<T>,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, StoreError>;
    /// This many of them from one end, beyond a key; others are not read.
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
pub(super) struct Write {
    txn: WriteTransaction,
    /// Its changes, if they are recorded.
    changes: Option<Changes>,
}

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The file cannot be opened or made.
    #[error("cannot open the store {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: redb::Error,
    },
    /// The store was written by a newer version.
    #[error("the store has schema {found}, this program knows up to {knows}")]
    Newer {
        found: u64,
        knows: u64,
        /// The copy made before that schema.
        copy: Option<PathBuf>,
    },
    /// It is not newer than this version, so there is nothing to put back.
    #[error("the store is of schema {knows} or older, which this program knows")]
    NotNewer { knows: u64 },
    /// A copy of the store cannot be made or read.
    #[error("cannot copy the store: {to}")]
    Copy {
        to: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The disk does not take the change.
    #[error("the store's file does not take it")]
    Disk(#[source] FsError),
    /// A write was refused before: redb writes no more.
    #[error("an earlier write to the store failed, and none is made until the plane starts again")]
    Closed,
    /// redb failed.
    #[error("the store failed")]
    Redb(#[source] Box<redb::Error>),
    /// Nothing was written: etcd does not answer.
    #[error("the store (etcd) has not answered since {}: {}", .0.since, .0.why)]
    Away(Away),
    /// Another plane holds the store.
    #[error("another plane has the store: {0}")]
    Lost(String),
    /// etcd refuses, or its client cannot be made.
    #[error("{0}")]
    Etcd(String),
    /// A row is too long for etcd.
    #[error("row {key} of {rows} has {bytes} bytes, and etcd takes {most}")]
    TooLong {
        rows: String,
        key: String,
        bytes: usize,
        most: usize,
    },
    /// The plane stops.
    #[error("the plane stops")]
    Stopped,
    /// The rows are in the wrong place for this.
    #[error("{0}")]
    Place(String),
    /// A row is invalid.
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

    /// The same rows, read as a smaller type.
    pub(super) const fn as_type<U>(&self) -> Rows<U> {
        Rows::new(self.name)
    }

    fn table(&self) -> TableDefinition<'static, &'static str, Bytes> {
        TableDefinition::new(self.name)
    }
}

// === impl Store ===

impl Store {
    /// Opens or creates the store; `tables` are all kinds of rows. One of an older schema is copied, then upgraded.
    pub(super) fn open(path: &Path, tables: &BTreeSet<&'static str>) -> Result<Self, StoreError> {
        moving::not_moved(path)?;
        Self::open_as(path, tables, schema::STEPS)
    }

    fn open_as(
        path: &Path,
        tables: &BTreeSet<&'static str>,
        steps: &[schema::Step],
    ) -> Result<Self, StoreError> {
        let file = StoreFile::new(path, schema::ready(path, steps)?);
        Self::with(file, None, tables, steps)
    }

    /// Opens the store behind the seat: reads everything into `copy`, a file that is rebuilt. A new one is not created
    /// beside an `embedded` one. Blocks.
    pub(super) fn open_remote(
        remote: Remote,
        copy: &Path,
        embedded: &Path,
        tables: &BTreeSet<&'static str>,
    ) -> Result<Self, StoreError> {
        if let Err(e) = moving::begins(&remote, copy, embedded) {
            remote.leave_now();
            return Err(e);
        }
        let db = schema::ready(copy, schema::STEPS).map_err(|e| match e {
            // A copy's file name must not suggest the verb for embedded stores.
            StoreError::Newer { found, knows, .. } => StoreError::Newer {
                found,
                knows,
                copy: None,
            },
            other => other,
        })?;
        let file = StoreFile::new(copy, db);
        Self::with(file, Some(remote), tables, schema::STEPS)
    }

    fn with(
        file: StoreFile,
        remote: Option<Remote>,
        tables: &BTreeSet<&'static str>,
        steps: &[schema::Step],
    ) -> Result<Self, StoreError> {
        let store = Self {
            file,
            remote,
            writes: AtomicU32::new(0),
        };
        let made = |write: &mut Write| {
            for name in tables.iter().copied().chain([META.name]) {
                // Opened once, so that later reads never meet a table that does not exist.
                write
                    .txn
                    .open_table(Rows::<()>::new(name).table())
                    .map(drop)
                    .map_err(redb_failed)?;
            }
            schema::step_on(write, steps)
        };
        // A plane begins on a full disk, too, to be read.
        let done = match store.remote {
            Some(_) => store.write(made),
            None => store.transact(made),
        };
        done.map(|()| store)
    }

    /// Replaces the store with the copy made before the newer schema; returns where the newer one is moved to.
    pub(super) fn put_back(path: &Path) -> Result<PathBuf, StoreError> {
        schema::put_back(path, schema::STEPS)
    }

    /// A consistent view of the present rows.
    pub(super) fn read(&self) -> Result<Snapshot, StoreError> {
        self.file.begin_read().map(Snapshot)
    }

    /// Runs `work` in one transaction. Durable when this returns `Ok`; if `work` fails nothing has happened.
    pub(super) fn write<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&mut Write) -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(remote) = &self.remote else {
            self.file.has_room()?;
            return self.transact(work);
        };
        let _turn = remote.turn()?;
        let mut write = Write::of(self.file.begin_write()?);
        write.changes = Some(Changes::default());
        let out = work(&mut write)?;
        let Write { mut txn, changes } = write;
        remote.commit(changes.unwrap_or_default())?;
        let copied = (|| {
            let before = self.writes.fetch_add(1, Ordering::Relaxed);
            if !before.is_multiple_of(COPY_SYNC) {
                txn.set_durability(Durability::None).map_err(redb_failed)?;
            }
            txn.commit().map_err(redb_failed)
        })();
        if let Err(e) = &copied {
            // etcd has the change and the copy does not: a full read repairs that.
            remote.give_up(&format!("its copy of the store failed: {e}"));
        }
        copied?;
        Ok(out)
    }

    /// The same in the file alone.
    fn transact<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&mut Write) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut write = Write::of(self.file.begin_write()?);
        // Dropping the transaction on failure rolls it back.
        let out = work(&mut write)?;
        self.file.commit(write.txn)?;
        Ok(out)
    }

    /// State of the connection to the store; none: it is embedded.
    pub(super) fn standing(&self) -> Option<watch::Receiver<Standing>> {
        self.remote.as_ref().map(Remote::standing)
    }

    /// Where the rows are; none: they are embedded.
    pub(super) fn place(&self) -> Option<&EtcdPlace> {
        self.remote.as_ref().map(Remote::place)
    }

    /// Whether a write is possible now, as far as is known.
    pub(super) fn answers(&self) -> bool {
        let Some(standing) = self.standing() else {
            return true;
        };
        matches!(&*standing.borrow(), Standing::Ours { away: None, .. })
    }

    /// How long the caller of a write waits for the outcome; none: it always comes.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.remote.as_ref().map(|_| Remote::patience())
    }

    /// Releases the store for another plane immediately.
    pub(super) async fn leave(&self) {
        if let Some(remote) = &self.remote {
            remote.leave().await;
        }
    }
}

// === impl StoreError ===

impl StoreError {
    /// The remedy, if known.
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
            Self::Away(_) => {
                Some("check etcd; the plane continues automatically when it answers".into())
            }
            Self::Lost(_) => Some(
                "nothing to do: this plane exits, and waits for its turn when it is started again"
                    .into(),
            ),
            Self::Etcd(_) => Some("check etcd and the --etcd options".into()),
            Self::Closed => Some("mend the disk, then start the plane again".into()),
            Self::Open { .. }
            | Self::Disk(_)
            | Self::Redb(_)
            | Self::Row { .. }
            | Self::TooLong { .. }
            | Self::Stopped
            | Self::Place(_) => None,
        }
    }
}

// === impl Write ===

impl Write {
    fn of(txn: WriteTransaction) -> Self {
        Self { txn, changes: None }
    }

    /// Puts a row, replacing an existing one.
    pub(super) fn put<T: Serialize>(
        &mut self,
        rows: &Rows<T>,
        key: &str,
        row: &T,
    ) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(row).map_err(|e| unreadable(rows.name, key, e))?;
        let mut table = self.txn.open_table(rows.table()).map_err(redb_failed)?;
        let put = table.insert(key, bytes.as_slice()).map(drop);
        put.map_err(redb_failed)?;
        if let Some(changes) = &mut self.changes {
            changes.put(rows.name, key, bytes);
        }
        Ok(())
    }

    /// The number of rows, without reading them.
    pub(super) fn count<T>(&self, rows: &Rows<T>) -> Result<u64, StoreError> {
        let table = self.txn.open_table(rows.table()).map_err(redb_failed)?;
        table.len().map_err(redb_failed)
    }

    /// Removes a row; a missing one is fine.
    pub(super) fn remove<T>(&mut self, rows: &Rows<T>, key: &str) -> Result<(), StoreError> {
        let mut table = self.txn.open_table(rows.table()).map_err(redb_failed)?;
        table.remove(key).map(drop).map_err(redb_failed)?;
        if let Some(changes) = &mut self.changes {
            changes.remove(rows.name, key);
        }
        Ok(())
    }
}

impl Read for Write {
    fn get<T: DeserializeOwned>(&self, rows: &Rows<T>, key: &str) -> Result<Option<T>, StoreError> {
        let table = self.txn.open_table(rows.table()).map_err(redb_failed)?;
        get_row(&table, rows.name, key)
    }
    fn with_prefix<T: DeserializeOwned>(
        &self,
        rows: &Rows<T>,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let table = self.txn.open_table(rows.table()).map_err(redb_failed)?;
        rows_from(&table, rows.name, prefix)
    }
    fn page<T: DeserializeOwned>(
        &self,
        rows: &Rows<T>,
        page: Page<'_>,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let table = self.txn.open_table(rows.table()).map_err(redb_failed)?;
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
    // The greatest character sorts after any continuation of the prefix.
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
mod tests;

//! Moving rows: from etcd into the local copy, and, only on the operator's order, between the embedded store and etcd.
//!
//! A source is never left behind to be served by mistake: an embedded store's file is renamed ([`IN_ETCD`]), one in
//! etcd is marked. A plane that is started with it says where the rows are.

use std::io;
use std::path::{Path, PathBuf};

use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};

use pf9_hostagent::seam::disk;

use super::remote::{Changes, Remote};
use super::{Bytes, META, StoreError, redb_failed, schema};

/// Suffix of an embedded store whose rows are in etcd.
const IN_ETCD: &str = ".in-etcd";

/// Suffix of a file that is not whole yet.
const PART: &str = ".part";

/// Where an embedded store is once its rows are in etcd.
pub(super) fn in_etcd(store: &Path) -> PathBuf {
    beside(store, IN_ETCD)
}

/// Refuses to create a new store where an embedded one was moved.
pub(super) fn not_moved(store: &Path) -> Result<(), StoreError> {
    let moved = in_etcd(store);
    if !store.exists() && moved.exists() {
        return Err(StoreError::Place(format!(
            "its rows were copied to etcd ({} is the store as it was then); start the plane with --store etcd, or copy them \
             back with pf9-plane store copy --to embedded",
            moved.display()
        )));
    }
    Ok(())
}

/// Reads everything in etcd into a file that is rebuilt. Blocks.
pub(super) fn fill(remote: &Remote, copy: &Path) -> Result<usize, StoreError> {
    if let Some(to) = remote.moved()?
        && !crate::mutant("moved-mark")
    {
        return Err(StoreError::Place(format!(
            "the rows below this prefix of etcd were copied to an embedded store ({to}); start that plane, or remove the \
             key \"moved\" below the prefix if the copy is not used"
        )));
    }
    gone(copy)?;
    let db = schema::open_file(copy)?;
    let txn = db.begin_write().map_err(redb_failed)?;
    let mut count = 0;
    remote.read_all(|rows, key, value| {
        let kind: TableDefinition<'_, &str, Bytes> = TableDefinition::new(rows);
        let mut table = txn.open_table(kind).map_err(redb_failed)?;
        table.insert(key, value).map(drop).map_err(redb_failed)?;
        count += 1;
        Ok(())
    })?;
    txn.commit().map_err(redb_failed)?;
    Ok(count)
}

/// Reads everything for a plane that starts. An empty etcd would make it a new plane, with other keys, beside an embedded
/// store that hosts know, or in place of the fleet whose rows were in etcd when this directory's copy was made.
pub(super) fn begins(remote: &Remote, copy: &Path, embedded: &Path) -> Result<(), StoreError> {
    let part = beside(copy, PART);
    if fill(remote, &part)? == 0 {
        let was = match embedded.exists() {
            true => Some(format!(
                "and there is an embedded store, {}: copy it with pf9-plane store copy --to etcd, or move it away",
                embedded.display()
            )),
            false => had_fleet(copy, embedded)?.map(|file| {
                format!(
                    "and had some, of which {} is a copy: restore etcd from its snapshot, or correct --etcd-endpoint and \
                     --etcd-prefix; to begin a new fleet, move that file away",
                    file.display()
                )
            }),
        };
        if let Some(was) = was.filter(|_| !crate::mutant("moved-prefix")) {
            gone(&part)?;
            return Err(StoreError::Place(format!(
                "etcd has no rows of a plane, {was}"
            )));
        }
    }
    renamed(&part, copy)
}

/// The file that shows that etcd had the rows of a fleet: the copy with more than what every new store begins with, or what
/// was copied there.
fn had_fleet(copy: &Path, embedded: &Path) -> Result<Option<PathBuf>, StoreError> {
    if copy.exists() {
        let all = rows(&schema::open_file(copy)?)?;
        if all.iter().any(|(rows, ..)| rows != META.name) {
            return Ok(Some(copy.to_owned()));
        }
    }
    Ok(Some(in_etcd(embedded)).filter(|kept| kept.exists()))
}

/// Copies an embedded store's rows to an empty place in etcd, verifies them there, and renames the file. Returns how
/// many, and where it is. Blocks.
pub(crate) fn to_etcd(store: &Path, remote: &Remote) -> Result<(usize, PathBuf), StoreError> {
    if !store.exists() {
        return Err(StoreError::Place(format!(
            "there is no embedded store at {}",
            store.display()
        )));
    }
    // Held open to the end: a running plane would have it locked.
    let db = schema::open_file(store)?;
    let all = rows(&db)?;
    remote.read_all(|rows, key, _| {
        Err(StoreError::Place(format!(
            "etcd already has a store below this prefix (row {key} of {rows}); use another prefix"
        )))
    })?;
    let mut changes = Changes::default();
    for (rows, key, value) in &all {
        changes.put(rows, key, value.clone());
    }
    remote.commit(changes)?;
    let mut same = 0;
    let mut ours = all.iter();
    remote.read_all(|rows, key, value| match ours.next() {
        Some((r, k, v)) if r == rows && k == key && v == value => {
            same += 1;
            Ok(())
        }
        _ => Err(StoreError::Place(format!(
            "row {key} of {rows} differs in etcd; the embedded store is unchanged"
        ))),
    })?;
    if same != all.len() {
        return Err(StoreError::Place(format!(
            "etcd has only {same} of {} rows; the embedded store is unchanged",
            all.len()
        )));
    }
    let kept = in_etcd(store);
    renamed(store, &kept)?;
    drop(db);
    Ok((same, kept))
}

/// Copies etcd's rows to a new embedded store, and marks them in etcd. Returns how many. Blocks.
pub(crate) fn to_embedded(remote: &Remote, store: &Path) -> Result<usize, StoreError> {
    if store.exists() {
        return Err(StoreError::Place(format!(
            "an embedded store exists at {}; move it away first",
            store.display()
        )));
    }
    let part = beside(store, PART);
    let count = fill(remote, &part)?;
    if count == 0 {
        gone(&part)?;
        return Err(StoreError::Place(
            "etcd has no rows below this prefix".into(),
        ));
    }
    // The mark first: at no instant may both be usable.
    remote.mark_moved(&store.display().to_string())?;
    renamed(&part, store)?;
    Ok(count)
}

/// A stored row: its kind, key and value.
type Row = (String, String, Vec<u8>);

/// Every row of every kind, in etcd's order.
fn rows(db: &redb::Database) -> Result<Vec<Row>, StoreError> {
    let read = db.begin_read().map_err(redb_failed)?;
    let mut all = Vec::new();
    for table in read.list_tables().map_err(redb_failed)? {
        let kind: TableDefinition<'_, &str, Bytes> = TableDefinition::new(table.name());
        let open = read.open_table(kind).map_err(redb_failed)?;
        for entry in open.iter().map_err(redb_failed)? {
            let (key, value) = entry.map_err(redb_failed)?;
            all.push((
                table.name().to_owned(),
                key.value().to_owned(),
                value.value().to_vec(),
            ));
        }
    }
    all.sort_by_cached_key(name);
    Ok(all)
}

fn name((rows, key, _): &Row) -> String {
    format!("{rows}/{key}")
}

fn gone(path: &Path) -> Result<(), StoreError> {
    match disk::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::Copy {
            to: path.to_path_buf(),
            source: e,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn renamed(from: &Path, to: &Path) -> Result<(), StoreError> {
    let done = disk::rename(from, to).and_then(|()| disk::sync_dir(to.parent().unwrap_or(to)));
    done.map_err(|source| StoreError::Copy {
        to: to.to_path_buf(),
        source,
    })
}

fn beside(store: &Path, what: &str) -> PathBuf {
    let mut name = store.file_name().unwrap_or_default().to_owned();
    name.push(what);
    store.with_file_name(name)
}

#!/bin/bash
# A database whose commit fails has not committed, one would have guessed: what the caller was told is refused is not
# there when the file is opened again. In redb a commit ends with one sync of the file, and where that sync fails the
# new root is already in it. Opened again by the same machine, which reads what the kernel still has, the database has
# the refused row; so a program that reopens its file after an error, without reading everything anew, believes one thing
# and stores another. With two-phase commits it depends on which of the two syncs fails. (Until it is opened again the
# database refuses every further write; reads go on.)
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat > "$dir/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
redb = "=4.4.0"
TOML
cat > "$dir/src/main.rs" <<'RUST'
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

const ROWS: TableDefinition<&str, u64> = TableDefinition::new("rows");

/// A file as the kernel has it in memory; its sync fails when the count has come down to 0.
#[derive(Clone, Debug, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    until_it_fails: Arc<AtomicI64>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self.bytes.lock().unwrap()[at as usize..][..out.len()]);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        match self.until_it_fails.fetch_sub(1, Ordering::SeqCst) {
            1 => Err(io::Error::other("the disk failed")),
            _ => Ok(()),
        }
    }
    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.bytes.lock().unwrap()[at as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn open(disk: &Disk) -> Database {
    Database::builder().create_with_backend(disk.clone()).unwrap()
}

fn put(db: &Database, key: &str, two_phases: bool) -> String {
    let mut txn = match db.begin_write() {
        Ok(txn) => txn,
        Err(e) => return format!("refused: {e}"),
    };
    txn.set_two_phase_commit(two_phases);
    txn.open_table(ROWS).unwrap().insert(key, 1).unwrap();
    match txn.commit() {
        Ok(()) => "committed".into(),
        Err(e) => format!("refused: {e}"),
    }
}

fn keys(db: &Database) -> Vec<String> {
    let txn = db.begin_read().unwrap();
    let rows = txn.open_table(ROWS).unwrap();
    rows.iter().unwrap().map(|row| row.unwrap().0.value().to_owned()).collect()
}

fn main() {
    for (two_phases, failing) in [(false, 1), (true, 1), (true, 2)] {
        let disk = Disk::default();
        let db = open(&disk);
        println!("two phases: {two_phases}; sync {failing} of the commit fails");
        println!("  a: {}", put(&db, "a", two_phases));
        disk.until_it_fails.store(failing, Ordering::SeqCst);
        println!("  b: {}", put(&db, "b", two_phases));
        println!("  c: {}", put(&db, "c", two_phases));
        println!("  has {:?}", keys(&db));
        drop(db);
        println!("  opened again it has {:?}", keys(&open(&disk)));
    }
}
RUST
cd "$dir"
cargo run --quiet > out 2> log || { cat log; exit 1; }
echo "redb 4.4.0:"
cat out
diff out - <<'SEEN'
two phases: false; sync 1 of the commit fails
  a: committed
  b: refused: I/O error: the disk failed
  c: refused: Previous I/O error occurred. Please close and re-open the database.
  has ["a"]
  opened again it has ["a", "b"]
two phases: true; sync 1 of the commit fails
  a: committed
  b: refused: I/O error: the disk failed
  c: refused: Previous I/O error occurred. Please close and re-open the database.
  has ["a"]
  opened again it has ["a"]
two phases: true; sync 2 of the commit fails
  a: committed
  b: refused: I/O error: the disk failed
  c: refused: Previous I/O error occurred. Please close and re-open the database.
  has ["a"]
  opened again it has ["a", "b"]
SEEN

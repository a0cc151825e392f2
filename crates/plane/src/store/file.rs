//! The file of an embedded store, as long as its disk is good and again when it is.
//!
//! ```text
//! a change begins ─► is there room? ─► redb ─► a write is refused: redb does nothing more with this file
//!        the next one ─► does the disk take a small file? ─► the file is opened anew, with what was committed last
//! ```
//!
//! Reads go on from memory meanwhile, which is why the file is not closed before the disk takes something. The copy of a
//! store in etcd is not opened anew: it is rebuilt.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use redb::{Database, ReadTransaction, ReadableDatabase, TransactionError, WriteTransaction};

use pf9_hostagent::host::fs::{Attrs, FsError, HostFs};
use pf9_hostagent::host::space;

use super::{StoreError, redb_failed, schema};

/// Without so much free space no change begins: a transaction takes what it changes, and pages up to the root.
const ROOM_BYTES: u64 = 4 * 1024 * 1024;
/// What is written to see whether the disk takes anything.
const TRIAL: &str = "/store-trial";

/// See the module.
pub(super) struct StoreFile {
    path: PathBuf,
    heals: bool,
    open: RwLock<Opened>,
    /// Held by the one who opens it anew. Nobody waits for `open` while a change is under way on a file that is good: that
    /// change may read, and one that waits for its turn holds `open` for reading.
    anew: Mutex<()>,
}

struct Opened {
    /// None: it could not be opened anew.
    db: Option<Database>,
    /// How often it was: who finds that it failed names the one that did.
    times: u64,
}

impl StoreFile {
    pub(super) fn new(path: &Path, db: Database, heals: bool) -> Self {
        let file = Self {
            path: path.to_owned(),
            heals,
            open: RwLock::new(Opened {
                db: Some(db),
                times: 0,
            }),
            anew: Mutex::new(()),
        };
        let dir = file.dir();
        if dir.at(TRIAL).exists() {
            // Of a plane that was killed in its trial. What the disk does not let go of goes with the next one.
            drop(dir.remove_file(TRIAL));
        }
        file
    }

    fn dir(&self) -> HostFs {
        HostFs::new(self.path.parent().unwrap_or(Path::new("/")))
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.begin(|db| db.begin_read())
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        self.begin(Database::begin_write)
    }

    pub(super) fn commit(&self, txn: WriteTransaction) -> Result<(), StoreError> {
        txn.commit().map_err(|e| self.failed(e.into()))
    }

    /// A disk that is not filled to the brim refuses no write.
    pub(super) fn has_room(&self) -> Result<(), StoreError> {
        // What does not tell its size has a size of 0.
        match space::of(&self.path) {
            Ok(space) if space.total > 0 && space.free < ROOM_BYTES => {
                Err(self.refused("write", io::ErrorKind::StorageFull.into()))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn begin<T>(
        &self,
        begin: impl Fn(&Database) -> Result<T, TransactionError>,
    ) -> Result<T, StoreError> {
        let (failed, times) = match self.try_to(&begin) {
            Ok(begun) => return Ok(begun),
            Err(failed) => failed,
        };
        let closed = matches!(
            failed,
            redb::Error::PreviousIo | redb::Error::DatabaseClosed
        );
        if !closed || !self.heals {
            return Err(self.failed(failed));
        }
        self.open_anew(times)?;
        self.try_to(&begin).map_err(|(e, _)| self.failed(e))
    }

    fn try_to<T>(
        &self,
        begin: impl Fn(&Database) -> Result<T, TransactionError>,
    ) -> Result<T, (redb::Error, u64)> {
        let opened = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let begun = match &opened.db {
            Some(db) => begin(db).map_err(redb::Error::from),
            None => Err(redb::Error::DatabaseClosed),
        };
        begun.map_err(|e| (e, opened.times))
    }

    fn open_anew(&self, failed: u64) -> Result<(), StoreError> {
        let _turn = self.anew.lock().unwrap_or_else(PoisonError::into_inner);
        let times = || {
            let opened = self.open.read().unwrap_or_else(PoisonError::into_inner);
            opened.times
        };
        if times() != failed {
            return Ok(());
        }
        self.try_the_disk().map_err(StoreError::Disk)?;
        let mut opened = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Closed first: it holds the file's lock.
        drop(opened.db.take());
        let db = schema::open_file(&self.path).map_err(|e| match e {
            StoreError::Open {
                source: redb::Error::Io(e),
                ..
            } => self.refused("open", e),
            other => other,
        })?;
        opened.db = Some(db);
        opened.times += 1;
        tracing::warn!(path = %self.path.display(), "the store's file was opened anew after its disk had refused a write");
        Ok(())
    }

    fn try_the_disk(&self) -> Result<(), FsError> {
        let dir = self.dir();
        dir.write(TRIAL, b"1\n", &Attrs::mode(0o600))?;
        dir.remove_file(TRIAL)
    }

    fn failed(&self, e: redb::Error) -> StoreError {
        match e {
            redb::Error::Io(e) => self.refused("write", e),
            other => redb_failed(other),
        }
    }

    fn refused(&self, action: &'static str, source: io::Error) -> StoreError {
        StoreError::Disk(FsError {
            action,
            path: self.path.clone(),
            source,
        })
    }
}

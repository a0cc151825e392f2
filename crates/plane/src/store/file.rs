//! The file of an embedded store, and what its disk says.
//!
//! ```text
//! a change begins ─► is there room? ─► redb ─► a write is refused: redb does nothing more with this file
//! ```
//!
//! Without room no change begins, so a full disk costs the changes alone, and only until there is room. Where a write is
//! refused all the same redb keeps the file closed for writing until the plane starts again; reads go on from memory. It is
//! not opened anew in the same process: a commit whose last sync failed may be in the file although it was refused, and
//! what the plane has in memory would no longer be what the file says.

use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use pf9_hostagent::host::fs::FsError;
use pf9_hostagent::host::space;

use super::{StoreError, redb_failed};

/// Without so much free space no change begins: a transaction takes what it changes, and pages up to the root.
const ROOM_BYTES: u64 = 4 * 1024 * 1024;

/// See the module.
pub(super) struct StoreFile {
    path: PathBuf,
    db: Database,
}

impl StoreFile {
    pub(super) fn new(path: &Path, db: Database) -> Self {
        Self {
            path: path.to_owned(),
            db,
        }
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.db.begin_read().map_err(|e| self.failed(e.into()))
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        self.db.begin_write().map_err(|e| self.failed(e.into()))
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

    fn failed(&self, e: redb::Error) -> StoreError {
        match e {
            redb::Error::Io(e) => self.refused("write", e),
            redb::Error::PreviousIo => StoreError::Closed,
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

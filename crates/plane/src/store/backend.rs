//! The store's file with fault injection for tests: redb's disk calls, each behind a point of the seam.

use std::fs::File;
use std::io;
use std::ops::Bound;

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

use pf9_hostagent::seam::disk::Others;

#[derive(Debug)]
pub(super) struct Points {
    file: FileBackend,
    points: Others,
}

impl Points {
    pub(super) fn of(file: File) -> Result<Self, DatabaseError> {
        let points = Others::of(&file).map_err(redb::StorageError::Io)?;
        Ok(Self {
            file: FileBackend::new(file)?,
            points,
        })
    }
}

type Range = Bound<u64>;

impl StorageBackend for Points {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read(at, into)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.points.changes()?;
        self.file.set_len(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.points.syncs(|| self.file.sync_data())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.points.changes()?;
        self.file.write(at, bytes)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, from: Range, to: Range) -> Result<bool, BackendError> {
        self.file.try_lock_range(from, to)
    }

    fn try_lock_shared_range(&self, from: Range, to: Range) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(from, to)
    }

    fn lock_range(&self, from: Range, to: Range) -> Result<(), BackendError> {
        self.file.lock_range(from, to)
    }

    fn lock_shared_range(&self, from: Range, to: Range) -> Result<(), BackendError> {
        self.file.lock_shared_range(from, to)
    }

    fn unlock_range(&self, from: Range, to: Range) -> Result<(), BackendError> {
        self.file.unlock_range(from, to)
    }

    fn query_lock_range(&self, from: Range, to: Range) -> Result<bool, BackendError> {
        self.file.query_lock_range(from, to)
    }
}

//! Without the feature `fault`: nothing breaks, and nothing is remembered.

use std::fs::File;
use std::io;
use std::path::Path;

use jiff::Timestamp;

/// What kind of call it is.
#[derive(Clone, Copy)]
pub(crate) enum CallKind {
    Open,
    Write,
    Length,
    Attributes,
    Sync,
    SyncDir,
    Rename,
    Link,
    Remove,
    MakeDir,
    Spawn,
    Exit,
    Reply,
    Clock,
}

pub(crate) struct Verdict;
pub(crate) struct Stash;
pub(crate) struct Current;
pub(crate) struct Entered;

#[inline]
pub(crate) fn verdict(_: CallKind, _: &'static str, _: &Path) -> Verdict {
    Verdict
}

impl Verdict {
    #[inline]
    pub(crate) fn carried_out(self) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    pub(crate) fn carried_out_soon(self) -> std::future::Ready<io::Result<()>> {
        std::future::ready(Ok(()))
    }

    #[inline]
    pub(crate) fn tears(&self) -> bool {
        false
    }
}

#[inline]
pub(crate) fn shown(now: Timestamp) -> Timestamp {
    now
}

#[inline]
pub(crate) fn current() -> Current {
    Current
}

impl Current {
    #[inline]
    pub(crate) fn enter(&self) -> Entered {
        Entered
    }
}

/// Which life of a process this is: there is one.
#[inline]
pub(crate) fn life() -> Option<u64> {
    None
}

#[inline]
pub(crate) fn made(_: &Path) {}
#[inline]
pub(crate) fn begun(_: &File) {}
#[inline]
pub(crate) fn changes(_: &File) {}
#[inline]
pub(crate) fn overwrites(_: &Path) {}
#[inline]
pub(crate) fn synced(_: &File) {}
#[inline]
pub(crate) fn synced_dir(_: &Path) {}
#[inline]
pub(crate) fn kept(_: &Path) -> Stash {
    Stash
}
#[inline]
pub(crate) fn renamed(_: &Path, _: &Path, _: Stash) {}
#[inline]
pub(crate) fn exchanged(_: &Path, _: &Path) {}
#[inline]
pub(crate) fn removed(_: &Path, _: Stash) {}
/// Whether a tree was put aside instead of deleted.
#[inline]
pub(crate) fn tree_put_aside(_: &Path) -> bool {
    false
}

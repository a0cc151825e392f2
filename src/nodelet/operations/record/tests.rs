//! An operation that is done once, broken at every point: see [`crate::seam::walk`].

use std::collections::BTreeMap;

use super::*;
use crate::host::ours::paths::WRITTEN_BY_ROOT;
use crate::host::temps;
use crate::model::{HostId, OperationKind};
use crate::seam::clock;
use crate::seam::walk::{Scenario, files, walk};

struct Once;

struct Desk {
    fs: HostFs,
    operation: Operation,
    /// How often it was carried out.
    times: u32,
    _dir: tempfile::TempDir,
}

fn operation(number: u64) -> Operation {
    Operation {
        schema: OPERATION_SCHEMA,
        id: Uuid::from_u128(number.into()),
        host_id: HostId(Uuid::from_u128(7)),
        number,
        issued_at: Timestamp::UNIX_EPOCH,
        expires_at: Timestamp::MAX,
        what: OperationKind::Ping,
    }
}

fn result(operation: &Operation) -> OperationResult {
    OperationResult {
        schema: OPERATION_SCHEMA,
        id: operation.id,
        at: Timestamp::UNIX_EPOCH,
        outcome: Outcome::Done {
            said: "done".into(),
        },
    }
}

impl Scenario for Once {
    const NAME: &'static str = "operation of the plane";
    type World = Desk;

    async fn begin(&self) -> Desk {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let before = operation(1);
        let mut book = Book::of(&fs);
        book.note(&before, None).expect("begun");
        book.note(&before, Some(&result(&before))).expect("ended");
        Desk {
            fs,
            operation: operation(2),
            times: 0,
            _dir: dir,
        }
    }

    /// As nodelet does it: what was started is never started over.
    async fn life(&self, desk: &mut Desk, starts: bool) -> bool {
        let Desk { fs, operation, .. } = desk;
        if starts {
            temps::collect(fs, WRITTEN_BY_ROOT);
            Book::of(fs).note_cut_off(clock::now());
        }
        let mut book = Book::of(fs);
        if book.result(operation.id).is_some() {
            return true;
        }
        if book.note(operation, None).is_err() {
            return false;
        }
        desk.times += 1;
        // One that cannot be noted was interrupted, as far as anybody can tell later.
        book.note(operation, Some(&result(operation))).ok();
        Book::of(fs).result(operation.id).is_some()
    }

    async fn end(&self, desk: &mut Desk) -> BTreeMap<String, String> {
        assert!(desk.times <= 1, "carried out {} times", desk.times);
        let book = Book::of(&desk.fs);
        assert!(book.result(desk.operation.id).is_some());
        assert_eq!(book.last(), 2);
        // The next start removes that of a write that never returned.
        temps::collect(&desk.fs, WRITTEN_BY_ROOT);
        // The one before is a spare copy: a disk that refuses it refuses nothing else.
        let mut end = files(&desk.fs, |path| path.contains("operations"));
        end.retain(|path, _| !path.ends_with(".prev"));
        end
    }
}

#[tokio::test]
async fn an_operation_broken_anywhere_is_done_once_at_most_and_answered() {
    walk(&Once, 60).await;
}

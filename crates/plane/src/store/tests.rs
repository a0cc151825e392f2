use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::testing::{self as contract, Place};
use super::*;

const NUMBERS: Rows<u32> = Rows::new("numbers");

struct Embedded(PathBuf);

impl Place for Embedded {
    fn open(&mut self) -> Store {
        Store::open(&self.0.join("s.redb"), &contract::TABLES.into()).expect("open")
    }

    fn close(&mut self, store: Store) {
        drop(store);
    }
}

#[test]
fn the_embedded_store_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("tempdir");
    contract::keep(&mut Embedded(dir.path().into()));
}

#[test]
fn only_the_owner_can_read_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    drop(Embedded(dir.path().into()).open());
    let found = std::fs::metadata(dir.path().join("s.redb")).expect("metadata");
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_was_moved_to_etcd_is_not_begun_anew() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("s.redb");
    let store = Store::open(&path, &[NUMBERS.name].into()).expect("open");
    drop(store);
    std::fs::rename(&path, moving::in_etcd(&path)).expect("moved");
    let refused = Store::open(&path, &[NUMBERS.name].into()).err();
    let said = refused.expect("refused").to_string();
    assert!(said.contains("--store etcd"), "{said}");
    assert!(!path.exists(), "nothing was made in its place");
}

/// A disk that refuses a write: what was committed is read, nothing more is written, and the next start has it all.
#[cfg(feature = "fault")]
#[test]
fn a_store_whose_disk_failed_is_read_and_goes_on_with_the_next_start() {
    use pf9_hostagent::host::refusals;
    use pf9_hostagent::model::FaultCode;
    use pf9_hostagent::seam::fault::Scope;

    for (errno, code) in [
        (nix::errno::Errno::EIO, FaultCode::DiskFailed),
        (nix::errno::Errno::ENOSPC, FaultCode::DiskFull),
        (nix::errno::Errno::EROFS, FaultCode::DiskFailed),
    ] {
        let dir = tempfile::tempdir().expect("tempdir");
        let scope = Scope::with_a_clock();
        let _here = scope.enter();
        let path = dir.path().join("s.redb");
        let store = Store::open(&path, &[NUMBERS.name].into()).expect("open");
        let put = |store: &Store, key: &str| store.write(|w| w.put(&NUMBERS, key, &1));
        let keys = |store: &Store| -> Vec<String> {
            let rows = store.read().expect("read").all(&NUMBERS).expect("rows");
            rows.into_iter().map(|(key, _)| key).collect()
        };
        put(&store, "kept").expect("room");
        assert_eq!(keys(&store), ["kept"], "and in memory from now on");
        scope.refuse(Some((Path::new("store"), errno)));
        let refused = put(&store, "lost").expect_err("the disk fails");
        assert_eq!(refusals::of(&refused).map(|(code, _)| code), Some(code));
        scope.refuse(None);
        for _ in 0..2 {
            let refused = put(&store, "lost").expect_err("redb closed it");
            assert!(matches!(refused, StoreError::Closed), "{refused}");
            assert!(
                refused
                    .fix()
                    .is_some_and(|fix| fix.contains("start the plane"))
            );
            assert_eq!(keys(&store), ["kept"], "{errno}: reads go on");
        }
        drop(store);
        let store = Store::open(&path, &[NUMBERS.name].into()).expect("open");
        assert_eq!(keys(&store), ["kept"]);
        put(&store, "last").expect("it is well again");
        assert_eq!(keys(&store), ["kept", "last"]);
    }
}

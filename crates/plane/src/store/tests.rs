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

/// A disk that refuses a write, and takes the next one: the file is opened anew, and has what was committed.
#[cfg(feature = "fault")]
#[test]
fn a_store_whose_disk_failed_goes_on_when_it_no_longer_does() {
    use pf9_hostagent::host::refusals;
    use pf9_hostagent::model::FaultCode;
    use pf9_hostagent::seam::fault::Scope;

    let dir = tempfile::tempdir().expect("tempdir");
    let scope = Scope::with_a_clock();
    let _here = scope.enter();
    let path = dir.path().join("s.redb");
    let store = Store::open(&path, &[NUMBERS.name].into()).expect("open");
    let put = |key: &str| store.write(|w| w.put(&NUMBERS, key, &1));
    let keys = || -> Vec<String> {
        let rows = store.read().expect("read").all(&NUMBERS).expect("rows");
        rows.into_iter().map(|(key, _)| key).collect()
    };
    let mut kept: Vec<String> = Vec::new();
    let causes = [
        (nix::errno::Errno::EIO, FaultCode::DiskFailed),
        (nix::errno::Errno::ENOSPC, FaultCode::DiskFull),
        (nix::errno::Errno::EROFS, FaultCode::DiskFailed),
    ];
    for (n, (errno, code)) in causes.into_iter().enumerate() {
        let key = format!("key-{n}");
        put(&key).expect("room");
        kept.push(key);
        assert_eq!(keys(), kept, "and in memory from now on");
        scope.refuse(Some((Path::new("store"), errno)));
        let refused = put("lost").expect_err("the disk fails");
        assert_eq!(refusals::of(&refused).map(|(code, _)| code), Some(code));
        assert_eq!(keys(), kept, "{errno}: reads go on");
        // Not of the file's own bytes alone.
        scope.refuse(Some((dir.path(), errno)));
        for _ in 0..2 {
            let refused = put("lost").expect_err("the disk fails");
            assert_eq!(refusals::of(&refused).map(|(code, _)| code), Some(code));
            assert_eq!(keys(), kept, "{errno}: reads go on");
        }
        scope.refuse(None);
    }
    put("last").expect("it is well again");
    kept.push("last".to_owned());
    assert_eq!(keys(), kept);
    drop(store);
    let store = Store::open(&path, &[NUMBERS.name].into()).expect("open");
    let rows = store.read().expect("read").all(&NUMBERS).expect("rows");
    assert_eq!(rows.len(), kept.len());
    assert!(!dir.path().join("store-trial").exists());
}

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

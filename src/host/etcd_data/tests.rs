//! What was written is read; what is truncated or odd is reported and never trusted.

use proptest::prelude::*;

use super::testing::{Record, Sample};
use super::*;

fn look_at(sample: &Sample) -> DataSeen {
    let dir = tempfile::tempdir().expect("directory");
    sample.write(&dir.path().join("etcd"));
    look(&HostFs::new(dir.path()), "/etcd")
        .expect("readable")
        .expect("data")
}

#[test]
fn files_say_versions_members_and_whose_they_are() {
    let seen = look_at(&Sample {
        storage: Some("3.5.0"),
        lowering: Some("3.5.0"),
        members: vec![(0x8e9e_05c5_2164_694d, "one", false), (2, "", true)],
        counted: Some((vec![0x8e9e_05c5_2164_694d], vec![2])),
        ..Sample::default()
    });
    assert_eq!(seen.cluster, Some(Version::new(3, 6, 0)));
    assert_eq!(seen.storage, Some(Version::new(3, 5, 0)));
    assert_eq!(seen.lowering_to, Some(Version::new(3, 5, 0)));
    assert_eq!(seen.members.len(), 2);
    assert_eq!(seen.learner().map(MemberSeen::named).as_deref(), Some("2"));
    assert_eq!(
        (seen.log.member_id, seen.log.cluster_id),
        (Some(0xabc), Some(0xdef))
    );
    assert_eq!(seen.disagreement(), None);
    assert_eq!(seen.members[0].named(), "8e9e05c52164694d (one)");
}

#[test]
fn where_database_and_log_count_otherwise_it_is_said() {
    let said = |members, counted| {
        let sample = Sample {
            members,
            counted,
            ..Sample::default()
        };
        look_at(&sample).disagreement()
    };
    let three = || vec![(1, "one", false), (2, "two", true), (3, "three", true)];
    let stale = said(three(), Some((vec![1, 2], vec![3]))).expect("said");
    assert_eq!(
        stale,
        "member 2 (two) has a vote and is recorded as a learner"
    );
    let zombie = said(three(), Some((vec![1], vec![3]))).expect("said");
    assert_eq!(zombie, "member 2 (two) was removed and is still recorded");
    let other = said(vec![(1, "one", false)], Some((vec![], vec![1]))).expect("said");
    assert!(other.contains("is a learner"), "{other}");
    assert_eq!(said(three(), Some((vec![1], vec![2, 3]))), None);
    assert_eq!(said(three(), None), None);
}

#[test]
fn old_entries_count_until_a_snapshot_of_the_log_that_was_agreed_on() {
    use Record::{Committed, Entry, Old, Snapshot};
    let log = |log: Vec<Record>| {
        let sample = Sample {
            log,
            ..Sample::default()
        };
        look_at(&sample).log
    };
    let old = |records: Vec<Record>| log(records).old_entries;
    assert_eq!(old(vec![Old(4), Entry(5), Old(6), Committed(6)]), 2);
    let after = log(vec![
        Old(4),
        Entry(5),
        Old(6),
        Snapshot(7),
        Entry(9),
        Committed(9),
    ]);
    assert_eq!(after.old_entries, 0);
    assert_eq!(after.snapshot, Some(LogSnapshot { term: 2, index: 7 }));
    assert_eq!(old(vec![Old(4), Snapshot(5), Old(6), Committed(6)]), 1);
    // Not agreed on: etcd goes by the one before it.
    assert_eq!(old(vec![Old(4), Old(6), Snapshot(7), Committed(6)]), 2);
    // Rewritten by another leader.
    assert_eq!(
        old(vec![Entry(3), Old(4), Old(5), Entry(4), Committed(4)]),
        0
    );
}

#[test]
fn half_of_the_files_and_what_is_no_database_are_faults() {
    let dir = tempfile::tempdir().expect("directory");
    let fs = HostFs::new(dir.path());
    assert_eq!(look(&fs, "/etcd").expect("readable"), None);
    Sample::default().write(&dir.path().join("etcd"));
    let database = dir.path().join("etcd/member/snap/db");
    let whole = std::fs::read(&database).expect("database");
    std::fs::write(&database, &whole[..PAGE * 3]).expect("write");
    let fault = look(&fs, "/etcd").expect_err("cut off").to_string();
    assert!(fault.contains("truncated"), "{fault}");
    std::fs::write(&database, vec![0; PAGE * 4]).expect("write");
    let fault = look(&fs, "/etcd").expect_err("not a database").to_string();
    assert!(fault.contains("damaged"), "{fault}");
    std::fs::remove_file(&database).expect("remove");
    assert!(matches!(look(&fs, "/etcd"), Err(DataError::Half { .. })));
}

const PAGE: usize = 4096;

/// A commit that was interrupted left its beginning damaged: the one before it counts.
#[test]
fn a_damaged_beginning_leaves_the_one_before_it() {
    let dir = tempfile::tempdir().expect("directory");
    Sample::default().write(&dir.path().join("etcd"));
    let database = dir.path().join("etcd/member/snap/db");
    for page in [0, 1] {
        let mut bytes = Sample::default().database();
        bytes[page * PAGE + 40] ^= 0xff;
        std::fs::write(&database, &bytes).expect("write");
        let seen = look(&HostFs::new(dir.path()), "/etcd")
            .expect("readable")
            .expect("data");
        assert_eq!(seen.cluster, Some(Version::new(3, 6, 0)), "page {page}");
    }
}

#[test]
fn the_last_record_may_be_cut_off_and_no_other() {
    let dir = tempfile::tempdir().expect("directory");
    let etcd = dir.path().join("etcd");
    Sample::default().write(&etcd);
    let first = etcd.join(format!("member/wal/{:016x}-{:016x}.wal", 0, 0));
    let whole = std::fs::read(&first).expect("log");
    let end = whole.len() - 4096 - 4;
    std::fs::write(&first, &whole[..end]).expect("write");
    let fs = HostFs::new(dir.path());
    assert!(look(&fs, "/etcd").is_ok());
    std::fs::write(
        etcd.join(format!("member/wal/{:016x}-{:016x}.wal", 1, 6)),
        &whole,
    )
    .expect("write");
    let fault = look(&fs, "/etcd")
        .expect_err("cut off in the middle")
        .to_string();
    assert!(fault.contains("a record is truncated"), "{fault}");
}

proptest! {
    /// Whatever stands in the files: an answer, no panic, no loop.
    #[test]
    fn any_damage_ends(at in 0_usize..16_384, with in proptest::collection::vec(any::<u8>(), 1..64), wal in any::<bool>()) {
        let dir = tempfile::tempdir().expect("directory");
        let etcd = dir.path().join("etcd");
        Sample::default().write(&etcd);
        let name = if wal {
            format!("member/wal/{:016x}-{:016x}.wal", 0, 0)
        } else {
            "member/snap/db".into()
        };
        let path = etcd.join(name);
        let mut bytes = std::fs::read(&path).expect("file");
        let at = at % bytes.len();
        for (place, byte) in bytes[at..].iter_mut().zip(&with) {
            *place = *byte;
        }
        std::fs::write(&path, &bytes).expect("write");
        let _answer = look(&HostFs::new(dir.path()), "/etcd");
    }
}

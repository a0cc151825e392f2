//! What the gate says of data as they were seen with the real programs. The steps themselves are made in
//! `tests/etcd`.

use proptest::prelude::*;

use super::*;
use crate::host::etcd_data::testing::{Record, Sample};

fn v(text: &str) -> Version {
    text.parse().expect("a version")
}

fn judged(sample: &Sample, has: Option<&str>, wants: &str) -> Gate {
    let dir = tempfile::tempdir().expect("directory");
    sample.write(&dir.path().join("etcd"));
    let data = etcd_data::look(&HostFs::new(dir.path()), "/etcd");
    let data = data.expect("readable").expect("data");
    gate(Matrix::ours(), has.map(v).as_ref(), &data, &v(wants))
}

fn of_35() -> Sample {
    Sample {
        cluster: "3.5.0",
        storage: None,
        log: vec![Record::Old(3), Record::Entry(4), Record::Committed(4)],
        ..Sample::default()
    }
}

fn to(minor: u64) -> Gate {
    Gate::Prepare(Lowering::To(Version::new(3, minor, 0)))
}

fn refusal(gate: Gate) -> String {
    match gate {
        Gate::Refused(fault) => {
            assert!(!fault.fix.is_empty(), "no way round: {fault}");
            format!("{fault} / {}", fault.fix)
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn from_35_to_36_when_database_and_log_agree_about_the_members() {
    assert_eq!(judged(&of_35(), Some("3.5.35"), "3.6.16"), Gate::Open);
    let members = || vec![(1, "one", false), (2, "two", true)];
    let stale = Sample {
        members: members(),
        counted: Some((vec![1, 2], vec![])),
        ..of_35()
    };
    let said = refusal(judged(&stale, Some("3.5.35"), "3.6.16"));
    assert!(
        said.contains("member 2 (two) has a vote") && said.contains("restart etcd 3.5.35"),
        "{said}"
    );
    let learner = Sample {
        members: members(),
        counted: Some((vec![1], vec![2])),
        ..of_35()
    };
    let said = refusal(judged(&learner, Some("3.5.35"), "3.6.16"));
    assert!(said.contains("member 2 (two) has no vote yet"), "{said}");
    let said = refusal(judged(&of_35(), Some("3.5.21"), "3.6.16"));
    assert!(said.contains("a newer etcd 3.5"), "{said}");
}

#[test]
fn to_37_only_with_a_snapshot_of_the_log_that_36_took() {
    let log = |log| Sample {
        log,
        ..Sample::default()
    };
    let came_from_35 = || log(vec![Record::Old(3), Record::Entry(5), Record::Committed(5)]);
    // Founded by 3.6: there is nothing that 3.7 could not read.
    assert_eq!(
        judged(&Sample::default(), Some("3.6.16"), "3.7.3"),
        Gate::Open
    );
    assert_eq!(judged(&came_from_35(), Some("3.6.16"), "3.7.3"), to(5));
    // While that is under way, and when it has been noted.
    let noted = Sample {
        cluster: "3.5.0",
        lowering: Some("3.5.0"),
        log: vec![
            Record::Old(3),
            Record::Entry(5),
            Record::Snapshot(6),
            Record::Committed(6),
        ],
        ..Sample::default()
    };
    assert_eq!(
        judged(&noted, Some("3.6.16"), "3.7.3"),
        Gate::Prepare(Lowering::Off)
    );
    let done = log(vec![
        Record::Old(3),
        Record::Snapshot(6),
        Record::Entry(7),
        Record::Committed(7),
    ]);
    assert_eq!(judged(&done, Some("3.6.16"), "3.7.3"), Gate::Open);
    // Another master still has 3.5: no snapshot helps yet.
    let mixed = Sample {
        cluster: "3.5.0",
        storage: Some("3.6.0"),
        ..came_from_35()
    };
    let said = refusal(judged(&mixed, Some("3.6.16"), "3.7.3"));
    assert!(
        said.contains("works as 3.5 until every master has 3.6"),
        "{said}"
    );
}

#[test]
fn minors_are_not_skipped_whatever_the_active_stack_says() {
    let said = refusal(judged(&of_35(), Some("3.5.35"), "3.7.3"));
    assert!(said.contains("a stack with etcd 3.6 first"), "{said}");
    // No stack is active: the files alone speak.
    let said = refusal(judged(&of_35(), None, "3.7.3"));
    assert!(said.contains("a stack with etcd 3.6 first"), "{said}");
    assert_eq!(judged(&of_35(), None, "3.6.16"), Gate::Open);
    let said = refusal(judged(&Sample::default(), Some("3.6.10"), "3.7.3"));
    assert!(said.contains("a newer etcd 3.6"), "{said}");
}

#[test]
fn back_only_with_data_that_were_lowered() {
    let of_37 = Sample {
        cluster: "3.7.0",
        storage: Some("3.7.0"),
        ..Sample::default()
    };
    assert_eq!(judged(&of_37, Some("3.7.3"), "3.6.16"), to(6));
    let half = Sample {
        cluster: "3.6.0",
        lowering: Some("3.6.0"),
        ..of_37
    };
    assert_eq!(judged(&half, Some("3.7.3"), "3.6.16"), to(6));
    let lowered = Sample {
        lowering: Some("3.6.0"),
        ..Sample::default()
    };
    assert_eq!(judged(&lowered, Some("3.7.3"), "3.6.16"), Gate::Open);
    // 3.5's layout has no version.
    let of_35 = Sample {
        cluster: "3.5.0",
        storage: None,
        lowering: Some("3.5.0"),
        ..Sample::default()
    };
    assert_eq!(judged(&of_35, Some("3.6.16"), "3.5.35"), Gate::Open);
    let said = refusal(judged(&Sample::default(), Some("3.7.3"), "3.5.35"));
    assert!(said.contains("a stack with etcd 3.6 first"), "{said}");
}

#[tokio::test]
async fn without_data_all_may_come_and_within_a_minor_nothing_is_read() {
    let dir = tempfile::tempdir().expect("directory");
    let fs = HostFs::new(dir.path());
    assert_eq!(look(&fs, Some(&v("3.5.35")), &v("3.7.3")).await, Gate::Open);
    let etcd = fs.at(paths::ETCD_DATA);
    std::fs::create_dir_all(etcd.join("member/wal")).expect("directory");
    std::fs::create_dir_all(etcd.join("member/snap")).expect("directory");
    std::fs::write(etcd.join("member/snap/db"), "not a database").expect("write");
    let said = refusal(look(&fs, Some(&v("3.6.16")), &v("3.7.3")).await);
    assert!(said.contains("member/wal does not"), "{said}");
    assert_eq!(look(&fs, Some(&v("3.7.1")), &v("3.7.3")).await, Gate::Open);
}

fn versions() -> impl Strategy<Value = Version> {
    (4_u64..9, 0_u64..40).prop_map(|(minor, patch)| Version::new(3, minor, patch))
}

proptest! {
    /// Whatever the files say: a program comes to data of the minor before it at most, and only when
    /// nothing stands in the log that it cannot read.
    #[test]
    fn the_gate_is_open_for_neighbours_alone(
        has in proptest::option::of(versions()),
        cluster in proptest::option::of(versions()),
        storage in proptest::option::of(versions()),
        lowering in proptest::option::of(versions()),
        old_entries in 0_usize..3,
        wants in versions(),
    ) {
        let mut data = DataSeen { cluster, storage, lowering_to: lowering, ..DataSeen::default() };
        data.log.old_entries = old_entries;
        if gate(Matrix::ours(), has.as_ref(), &data, &wants) == Gate::Open {
            let layout = data.laid_out_for().expect("known").clone();
            let from = has.unwrap_or_else(|| layout.clone());
            let same = from.minor == wants.minor || layout.minor == wants.minor;
            prop_assert!(same || from.minor + 1 == wants.minor);
            prop_assert!(same || wants.minor < 7 || old_entries == 0);
        }
    }
}

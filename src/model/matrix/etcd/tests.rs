//! The rows say what was seen with the real programs, and every refusal has a way round.

use proptest::prelude::*;

use super::*;

fn v(text: &str) -> Version {
    loose_version(text).expect("a version")
}

fn way(from: &str, to: &str) -> Result<EtcdWay, String> {
    let way = Matrix::ours().etcd_way(&v(from), &v(to));
    way.map_err(|fault| format!("{fault} / {}", fault.fix))
}

#[test]
fn a_step_is_one_minor_from_the_release_that_prepared_it() {
    use EtcdDemand::{LogReadable, Lowered, MembersAgree};
    for (from, to, demand) in [
        ("3.5.26", "3.6.16", MembersAgree),
        ("3.5.35", "3.6.0", MembersAgree),
        ("3.6.11", "3.7.0", LogReadable),
        ("3.6.16", "3.7.3", LogReadable),
        ("3.7.3", "3.6.16", Lowered),
        ("3.6.16", "3.5.35", Lowered),
    ] {
        assert_eq!(way(from, to), Ok(EtcdWay::Step(demand)), "{from} to {to}");
    }
    for (from, to) in [("3.5.35", "3.5.21"), ("3.7.0", "3.7.3"), ("3.9.1", "3.9.0")] {
        assert_eq!(way(from, to), Ok(EtcdWay::Same), "{from} to {to}");
    }
}

#[test]
fn what_may_not_follow_is_refused_with_the_way_round() {
    for (from, to, why, fix) in [
        ("3.5.25", "3.6.16", "learners", "a newer etcd 3.5"),
        (
            "3.6.10",
            "3.7.3",
            "3.5 wrote into the log",
            "a newer etcd 3.6",
        ),
        (
            "3.5.35",
            "3.7.3",
            "one minor to the next",
            "a stack with etcd 3.6 first",
        ),
        (
            "3.5.21",
            "3.7.3",
            "one minor to the next",
            "a stack with etcd 3.6 first",
        ),
        ("3.4.23", "3.6.16", "one minor to the next", "a backup"),
        ("3.4.23", "3.5.35", "one minor to the next", "a backup"),
        (
            "3.7.3",
            "3.5.35",
            "one minor to the next",
            "a stack with etcd 3.6 first",
        ),
        (
            "3.7.3",
            "3.8.0",
            "one minor to the next",
            "use a stack with etcd 3.7",
        ),
        (
            "3.7.3",
            "4.0.0",
            "one minor to the next",
            "use a stack with etcd 3.7",
        ),
    ] {
        let said = way(from, to).expect_err("refused");
        assert!(
            said.contains(why) && said.contains(fix),
            "{from} to {to}: {said}"
        );
    }
}

#[test]
fn a_backup_is_restored_by_what_starts_with_it() {
    let may = |of: &str, by: &str| Matrix::ours().etcd_restores(&v(of), &v(by));
    for (of, by) in [
        ("3.5.35", "3.5.35"),
        ("3.5.35", "3.6.16"),
        ("3.5.35", "3.7.3"),
        ("3.6.16", "3.6.13"),
        ("3.6.16", "3.7.3"),
        ("3.7.3", "3.7.0"),
    ] {
        assert!(may(of, by).is_ok(), "{of} by {by}");
    }
    let refused = may("3.7.3", "3.6.16").expect_err("refused");
    assert!(
        refused.why.contains("not start") && refused.fix.contains("etcd 3.7"),
        "{refused}"
    );
    for (of, by) in [
        ("3.6.16", "3.5.35"),
        ("3.4.23", "3.5.35"),
        ("3.8.0", "3.8.0"),
    ] {
        let fault = may(of, by).expect_err("refused");
        assert!(!fault.fix.is_empty(), "{fault}");
    }
}

#[test]
fn the_rows_are_well_formed() {
    let matrix = Matrix::ours();
    assert!(!matrix.etcd_step.is_empty() && !matrix.etcd_restore.is_empty());
    for row in &matrix.etcd_step {
        assert!(loose_version(&row.to).is_some(), "{row:?}");
        assert!(
            row.source.starts_with("https://") && !row.why.is_empty(),
            "{row:?}"
        );
    }
    for row in &matrix.etcd_restore {
        assert!(row.by.contains(&row.of), "{row:?}: not by itself");
    }
}

proptest! {
    /// Whatever meets: one step is one minor, and a refusal says what to do.
    #[test]
    fn no_step_skips_a_minor(from in 3_u64..10, a in 0_u64..50, to in 3_u64..10, b in 0_u64..50) {
        let (old, new) = (Version::new(3, from, a), Version::new(3, to, b));
        match Matrix::ours().etcd_way(&old, &new) {
            Ok(EtcdWay::Same) => prop_assert_eq!(from, to),
            Ok(EtcdWay::Step(demand)) => {
                prop_assert_eq!(from.abs_diff(to), 1);
                prop_assert_eq!(demand == EtcdDemand::Lowered, to < from);
            }
            Err(fault) => prop_assert!(from != to && !fault.fix.is_empty()),
        }
    }
}

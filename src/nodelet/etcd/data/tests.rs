use proptest::prelude::*;

use super::*;

fn id(member: &str) -> DataId {
    DataId {
        cluster_id: "c".into(),
        member_id: member.into(),
    }
}

fn on(point: &str) -> Option<Mount> {
    Some(Mount {
        point: point.into(),
        source: "/dev/sdb1".into(),
        fs_type: "xfs".into(),
    })
}

fn record(point: &str, expected: bool) -> Known {
    Known::Member(EtcdRecord {
        schema: 1,
        data: id("a"),
        began: Began::Founded,
        since: Timestamp::UNIX_EPOCH,
        mount: on(point),
        expected,
    })
}

fn seen(known: Known, found: DataDirContent, point: &str) -> EtcdSeen {
    EtcdSeen {
        known,
        found,
        mount: on(point),
        changed_at: Some(Timestamp::UNIX_EPOCH),
    }
}

fn word(verdict: &DataVerdict<'_>) -> &'static str {
    match verdict {
        DataVerdict::Fresh => "fresh",
        DataVerdict::Present => "present",
        DataVerdict::MountMissing { .. } => "mount missing",
        DataVerdict::Gone { .. } => "gone",
        DataVerdict::Foreign { .. } => "foreign",
    }
}

const DISK: &str = "/var/lib/pf9/etcd";

#[test]
fn the_table() {
    let own = || DataDirContent::Data(id("a"));
    let other = || DataDirContent::Data(id("b"));
    let broken = || DataDirContent::Unreadable { why: "x".into() };
    let lost = || Known::Lost { why: "x".into() };
    for (known, found, point, verdict) in [
        (Known::Never, DataDirContent::Nothing, "/", "fresh"),
        (Known::Never, own(), "/", "present"),
        (Known::Never, broken(), "/", "foreign"),
        (record("/", true), DataDirContent::Nothing, "/", "fresh"),
        (record("/", true), own(), "/", "present"),
        (record("/", true), other(), "/", "foreign"),
        (record("/", false), DataDirContent::Nothing, "/", "gone"),
        (record("/", false), own(), "/", "present"),
        (record("/", false), other(), "/", "foreign"),
        (
            record(DISK, false),
            DataDirContent::Nothing,
            "/",
            "mount missing",
        ),
        (
            record(DISK, false),
            DataDirContent::Nothing,
            "/var",
            "mount missing",
        ),
        // An older copy below the disk.
        (record(DISK, false), own(), "/", "mount missing"),
        (record(DISK, false), DataDirContent::Nothing, DISK, "gone"),
        (record(DISK, false), own(), DISK, "present"),
        (
            record(DISK, true),
            DataDirContent::Nothing,
            "/",
            "mount missing",
        ),
        // A person moved them to a disk.
        (record("/", false), own(), DISK, "present"),
        (lost(), DataDirContent::Nothing, "/", "gone"),
        (lost(), own(), "/", "present"),
        (lost(), broken(), "/", "foreign"),
    ] {
        let seen = seen(known, found, point);
        assert_eq!(word(&seen.verdict()), verdict, "{seen:?}");
    }
}

#[test]
fn what_holds_etcd_back_is_said_with_the_ways_out() {
    let held = seen(record(DISK, false), DataDirContent::Nothing, "/").held();
    let held = held.expect("the disk is missing");
    for word in ["/dev/sdb1", "xfs", DISK, "member a of cluster c"] {
        assert!(held.why.contains(word), "{held:?}");
    }
    for word in ["mount it", "rejoin", "restore"] {
        assert!(held.fix.contains(word), "{held:?}");
    }
    let held = seen(record("/", false), DataDirContent::Nothing, "/").held();
    let held = held.expect("gone");
    assert!(held.why.contains("since 1970-01-01"), "{held:?}");
    assert!(!held.why.contains("mount"), "{held:?}");
}

fn any_found() -> impl Strategy<Value = DataDirContent> {
    prop_oneof![
        Just(DataDirContent::Nothing),
        Just(DataDirContent::Data(id("a"))),
        Just(DataDirContent::Data(id("b"))),
        Just(DataDirContent::Unreadable { why: "x".into() }),
    ]
}

fn any_point() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("/"), Just("/var"), Just(DISK)]
}

fn any_known() -> impl Strategy<Value = Known> {
    prop_oneof![
        Just(Known::Never),
        Just(Known::Lost { why: "x".into() }),
        (any_point(), any::<bool>()).prop_map(|(point, expected)| record(point, expected)),
    ]
}

proptest! {
    /// A former member founds nothing: only a host that never was one, or that the others expect, is fresh. And
    /// etcd runs on the member's own data only.
    #[test]
    fn only_who_was_none_begins(known in any_known(), found in any_found(), point in any_point()) {
        let seen = seen(known, found, point);
        let may_begin = match &seen.known {
            Known::Never => true,
            Known::Member(record) => record.expected,
            Known::Lost { .. } => false,
        };
        match seen.verdict() {
            DataVerdict::Fresh => prop_assert!(may_begin && seen.found == DataDirContent::Nothing),
            DataVerdict::Present => {
                let own = seen.record().is_none_or(|r| seen.found == DataDirContent::Data(r.data.clone()));
                prop_assert!(own && matches!(seen.found, DataDirContent::Data(_)));
            }
            DataVerdict::MountMissing { .. } | DataVerdict::Gone { .. } | DataVerdict::Foreign { .. } => {
                prop_assert!(seen.held().is_some());
            }
        }
    }
}

/// What the files of a machine without data say of the past: these, beside an empty list of mounts.
fn seen_of(files: &[(&str, &str)]) -> EtcdSeen {
    let dir = tempfile::tempdir().expect("directory");
    let fs = HostFs::new(dir.path());
    let attrs = crate::host::fs::Attrs::mode(0o600);
    for (path, text) in files.iter().chain(&[("/proc/self/mountinfo", "")]) {
        fs.write(path, text.as_bytes(), &attrs).expect("write");
    }
    look(&fs).expect("a look")
}

#[test]
fn a_past_that_cannot_be_read_is_one_all_the_same() {
    let note = "/var/opt/pf9/nodelet/etcd.json";
    let joins = (
        phase::layout::ETCD_CLUSTER_ENV,
        "ETCD_INITIAL_CLUSTER_STATE=existing\n",
    );
    let permit = (phase::layout::ETCD_BEGINS, "it may");
    assert_eq!(seen_of(&[]).verdict(), DataVerdict::Fresh);
    // An invalid note; no note, and the settings of a member that has started.
    for files in [&[(note, "half a no")][..], &[joins]] {
        let seen = seen_of(files);
        assert!(matches!(seen.known, Known::Lost { .. }), "{seen:?}");
        assert!(seen.is_gone() && seen.held().is_some());
    }
    // The same settings, and it has not started.
    assert_eq!(seen_of(&[joins, permit]).verdict(), DataVerdict::Fresh);
}

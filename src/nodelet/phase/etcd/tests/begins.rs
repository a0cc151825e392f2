//! How a master starts, by what is known of its member and its data directory.

use super::super::super::samples;
use super::super::*;
use crate::host::etcd_data::DataId;
use crate::host::mounts::Mount;
use crate::model::Timestamp;
use crate::nodelet::etcd::data::{DataDirContent, EtcdSeen, Known};
use crate::nodelet::etcd::record::EtcdRecord;

fn id() -> DataId {
    DataId {
        cluster_id: "1".into(),
        member_id: "2".into(),
    }
}

fn mount(point: &str) -> Mount {
    Mount {
        point: point.into(),
        source: "/dev/x".into(),
        fs_type: "ext4".into(),
    }
}

/// A master, alone or with another one, that was a member; with its data, or without.
fn was_a_member(alone: bool, data: bool) -> PhaseContext {
    let mut ctx = samples::master("1.37.2");
    if !alone {
        let mut other = ctx.node.etcd.members[0].clone();
        other.host_id = samples::host(2);
        other.ip = "10.99.0.12".parse().expect("address");
        ctx.node.etcd.members.push(other);
    }
    let record = EtcdRecord {
        schema: 1,
        data: id(),
        began: Began::Founded,
        since: Timestamp::UNIX_EPOCH,
        mount: Some(mount("/var/lib/pf9")),
        expected: false,
    };
    ctx.etcd = EtcdSeen {
        known: Known::Member(record),
        found: match data {
            true => DataDirContent::Data(id()),
            false => DataDirContent::Nothing,
        },
        mount: Some(mount("/var/lib/pf9")),
        changed_at: None,
    };
    ctx
}

fn keys(steps: Steps) -> Vec<String> {
    steps.expect("steps").iter().map(Step::key).collect()
}

/// What its settings say of its cluster: there, or new.
fn state(ctx: &PhaseContext) -> Option<bool> {
    let steps = configure(ctx).expect("steps");
    let file = steps.into_iter().find_map(|step| match step {
        Step::File(f) if f.path == layout::ETCD_CLUSTER_ENV => Some(f.content),
        _ => None,
    });
    file.map(|text| settings_join(&text))
}

fn permits(ctx: &PhaseContext) -> bool {
    keys(configure(ctx)).contains(&format!("file:{}", layout::ETCD_BEGINS))
}

#[test]
fn with_its_data_it_goes_on_and_nothing_permits_a_beginning() {
    for alone in [true, false] {
        let ctx = was_a_member(alone, true);
        assert_eq!(state(&ctx), Some(true), "its cluster is there");
        let keys = keys(configure(&ctx));
        assert!(
            keys.contains(&format!("absent:{}", layout::ETCD_BEGINS)),
            "{keys:?}"
        );
        assert!(!permits(&ctx));
        assert!(!start(&ctx).expect("steps").is_empty());
    }
    // Only one that never was a member founds.
    let fresh = samples::master("1.37.2");
    assert_eq!((state(&fresh), permits(&fresh)), (Some(false), true));
}

#[test]
fn alone_and_without_its_data_it_does_not_begin() {
    let ctx = was_a_member(true, false);
    let keys = keys(configure(&ctx));
    assert!(keys.contains(&"probe:etcd-data".to_owned()), "{keys:?}");
    assert!(
        !keys.contains(&format!("dir:{}", paths::ETCD_DATA)),
        "nothing in its place"
    );
    assert_eq!((state(&ctx), permits(&ctx)), (None, false));
    assert!(start(&ctx).expect("steps").is_empty());
}

#[test]
fn with_others_it_joins_them_and_with_a_disk_that_is_missing_it_waits() {
    let joins = |ctx: &PhaseContext| {
        keys(configure(ctx))
            .iter()
            .any(|k| k.starts_with("etcd-joined:"))
    };
    let ctx = was_a_member(false, false);
    assert!(joins(&ctx) && permits(&ctx));
    // The disk has the data.
    let mut ctx = was_a_member(false, false);
    ctx.etcd.mount = Some(mount("/"));
    assert!(!joins(&ctx) && !permits(&ctx));
    assert!(start(&ctx).expect("steps").is_empty());
    // The others expect it, under an id that it did not start with.
    let mut ctx = was_a_member(false, false);
    let Known::Member(record) = &mut ctx.etcd.known else {
        panic!("a member");
    };
    record.expected = true;
    assert!(joins(&ctx), "it founds nothing beside them");
}

//! What a host says of its etcd.

use super::*;

pub(super) fn status() -> EtcdStatus {
    EtcdStatus {
        seen_at: Some(at()),
        fault: Some(fault()),
        warnings: vec![fault()],
        cluster_id: "cafe".into(),
        member_id: "beef".into(),
        leader: Some("beef".into()),
        term: 2,
        revision: 3,
        version: "3.7.3".into(),
        storage_version: Some("3.7.0".into()),
        db_bytes: 4,
        db_in_use_bytes: 3,
        quota_bytes: 5,
        fsync_p99_us: Some(6),
        members: vec![EtcdMemberStatus {
            id: "beef".into(),
            name: host().to_string(),
            peer_urls: vec!["https://10.1.2.3:2380".into()],
            learner: true,
            healthy: Some(true),
        }],
        alarms: vec![EtcdAlarm {
            member: "beef".into(),
            alarm: "NOSPACE".into(),
        }],
        backups: BackupsStatus {
            last: Some(BackupInfo {
                name: "19700101T000000Z-r3".into(),
                taken_at: at(),
                revision: 3,
                keys: 2,
                sealed_bytes: 7,
                sealed_sha256: digest(),
                etcd_version: "3.7.3".into(),
            }),
            count: 1,
            bytes: 7,
            next_at: Some(at()),
            failing: Some(fault()),
            archive: Some(ArchiveStatus {
                place: "/mnt/nas".into(),
                last: Some("19700101T000000Z-r3".into()),
                seen_at: Some(at()),
                count: 1,
                bytes: 7,
                failing: Some(fault()),
            }),
            stale: true,
        },
        drill: Some(DrillReport {
            backup: "19700101T000000Z-r3".into(),
            at: at(),
            took_ms: 8,
            keys: 2,
            behind: 1,
            fault: Some(fault()),
        }),
        drill_failing: Some(fault()),
        restore: Some(RestoreStatus {
            id: uuid::Uuid::from_u128(1),
            state: RestoreState::Ready,
            fault: Some(fault()),
            warnings: vec!["its API was elsewhere".into()],
        }),
        chore: Some("a backup".into()),
    }
}

pub(crate) fn backup_manifest() -> BackupManifest {
    BackupManifest {
        schema: BACKUP_SCHEMA,
        name: "19700101T000000Z-r3".into(),
        taken_at: at(),
        host_id: host(),
        cluster_id: cluster(),
        etcd_cluster_id: "cafe".into(),
        member_id: "beef".into(),
        revision: 3,
        keys: 2,
        hash: 4,
        plain_bytes: 6,
        sealed_bytes: 7,
        sealed_sha256: digest(),
        etcd_version: "3.7.3".into(),
        storage_version: Some("3.7.0".into()),
        kubernetes_version: "1.37.2".into(),
        recipients: vec!["age1qpz".into()],
        settings: BackupSettings {
            cluster_name: "c".into(),
            api_host: "10.1.2.3".into(),
            api_port: 6443,
            pods_cidr: "10.20.0.0/16".parse().expect("net"),
            services_cidr: "10.21.0.0/16".parse().expect("net"),
            cluster_domain: "cluster.local".into(),
            stack: stack_ref(),
        },
    }
}

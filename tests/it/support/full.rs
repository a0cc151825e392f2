//! A node's status with every field set.

use pf9_hostagent::model::{
    ApiAddressStatus, ArchiveStatus, Authority, BackupInfo, BackupsStatus, CertPurpose,
    CertificateRequest, CertificateStatus, ClusterId, Digest, DrillReport, EtcdAlarm,
    EtcdMemberStatus, EtcdStatus, ExtensionsStatus, FactValue, Fault, FaultCode, Generation,
    MaintenanceBy, MaintenanceStatus, NodeState, NodeStatus, OsReport, PhaseId, PhaseState,
    PhaseStatus, RepairStatus, RestoreState, RestoreStatus, Role, RollId, ServiceState,
    ServiceStatus, StackRef, Timestamp, UpgradeStage, UpgradeState, UpgradeStatus,
};

/// Sets every field.
pub(crate) fn status(s: &mut NodeStatus, cluster: ClusterId) {
    let fault: fn() -> Fault =
        || Fault::new(FaultCode::Unit, "cannot start etcd", "no space").fix("make room");
    let at = Timestamp::UNIX_EPOCH;
    s.generation = Generation(1);
    s.role = Role::Master;
    s.cluster_id = Some(cluster);
    s.state = NodeState::Retrying;
    s.reason = Some(fault().next_try(at));
    s.current_step = Some("start etcd".into());
    s.last_sweep_at = Some(at);
    s.phases = vec![PhaseStatus {
        id: PhaseId::Certs,
        name: PhaseId::Certs.name().into(),
        order: 1,
        state: PhaseState::Failed,
        message: Some("no space".into()),
        started_at: Some(at),
        took_ms: Some(1),
    }];
    s.certificate_requests = vec![CertificateRequest {
        purpose: CertPurpose::Nodelet,
        csr: "csr".into(),
    }];
    s.service_account_key = Some("public".into());
    s.etcd = Some(etcd(at, fault));
    s.api_address = Some(ApiAddressStatus {
        address: "10.1.0.250".parse().expect("ip"),
        here: true,
        interface: Some("eth0".into()),
        holder: Some("n1".into()),
        since: Some(at),
        fault: Some(fault().next_try(at)),
    });
    s.upgrade = Some(UpgradeStatus {
        roll: RollId(uuid::Uuid::from_u128(1)),
        stage: UpgradeStage::Node,
        stack: StackRef {
            name: "pf9-kube".into(),
            version: "1".into(),
            manifest: Digest::of(b"m"),
        },
        state: UpgradeState::PutBack,
        attempts: 1,
        fault: Some(fault().next_try(at)),
        since: at,
        os: Some(OsReport {
            available: 3,
            security: 1,
            updated: 2,
            held: 1,
            reboot_needed: true,
            rebooted: true,
        }),
    });
    s.maintenance = Some(MaintenanceStatus {
        by: MaintenanceBy::Root,
        reason: "a disk is replaced".into(),
        since: at,
        until: at,
    });
    s.services = vec![ServiceStatus {
        unit: "pf9-kubelet.service".into(),
        state: ServiceState::Silent,
        since: at,
        why: Some("no answer".into()),
    }];
    s.repairs = vec![RepairStatus {
        number: 1,
        at,
        what: "start kubelet".into(),
        why: "it is not running".into(),
    }];
    // Facts that operators chose to report, under a name of their own.
    let facts = [("rack".to_owned(), FactValue::Text("r12".into()))];
    s.extensions = Some(ExtensionsStatus {
        facts: [("rack".to_owned(), facts.into())].into(),
        ..ExtensionsStatus::default()
    });
    s.certificates = vec![CertificateStatus {
        name: "kubelet/server".into(),
        authority: Authority::Cluster,
        not_before: at,
        not_after: at,
        digest: Digest::of(b"a"),
        issuer: Digest::of(b"b"),
    }];
}

fn etcd(at: Timestamp, fault: fn() -> Fault) -> EtcdStatus {
    EtcdStatus {
        seen_at: Some(at),
        fault: Some(fault().next_try(at)),
        warnings: vec![fault().next_try(at)],
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
            name: "m".into(),
            peer_urls: vec!["https://10.0.0.1:2380".into()],
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
                taken_at: at,
                revision: 3,
                keys: 2,
                sealed_bytes: 7,
                sealed_sha256: Digest::of(b"b"),
                etcd_version: "3.7.3".into(),
            }),
            count: 1,
            bytes: 7,
            next_at: Some(at),
            failing: Some(fault().next_try(at)),
            stale: true,
            archive: Some(ArchiveStatus {
                place: "s3://b".into(),
                last: Some("19700101T000000Z-r3".into()),
                seen_at: Some(at),
                count: 1,
                bytes: 7,
                failing: Some(fault().next_try(at)),
            }),
        },
        drill: Some(DrillReport {
            backup: "19700101T000000Z-r3".into(),
            at,
            took_ms: 8,
            keys: 2,
            behind: 1,
            fault: Some(fault().next_try(at)),
        }),
        drill_failing: Some(fault().next_try(at)),
        restore: Some(RestoreStatus {
            id: uuid::Uuid::from_u128(1),
            state: RestoreState::Refused,
            fault: Some(fault().next_try(at)),
            warnings: vec!["its API was elsewhere".into()],
        }),
        chore: Some("a backup".into()),
    }
}

//! Backups of etcd as the plane knows them: the operator's policy, the cluster's key, and what masters have reported.
//!
//! The plane stores no backup and needs none: each master reports its newest. The key is made with the cluster and
//! never leaves the store; specs carry the public half, and [`unwrap()`] lets a master open a backup with it.
//!
//! | call | does |
//! |---|---|
//! | `POST`, `PATCH …/clusters` (`etcdBackup`)        | sets the policy, field by field |
//! | `GET /clusters/{name}/backups` (administrator)   | the policy, and the masters' backups |
//! | `POST` of it                                     | sets the policy |
//! | `GET /metrics/hosts/{id}/etcd-backup`            | the same as metrics, and the health of its etcd (`numbers`) |
//! | `POST …/backups/forget` (administrator)          | stops trusting a signing key (`signers`) |
//! | `POST /v1/hosts/self/unwrap` (a master's root)   | the key of one backup |

mod numbers;
mod signers;
mod unwrap;
mod wanted;

use std::sync::Arc;

use age::secrecy::ExposeSecret;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::fleet;
use super::http::{Doc, Path};
use super::kubeconfig;
use super::records::{CLUSTERS, Cluster};
use super::refusal::{Answer, Refusal};
use super::state::Plane;
use super::view::Known;
use pf9_hostagent::model::{BackupPolicy, EtcdStatus, Fault, FaultCode, Role, Secret};

pub(super) use numbers::numbers;
pub(super) use signers::{Forgotten, forget, signs, signs_anew};
pub(super) use unwrap::post as unwrap;
pub(super) use wanted::{NewArchive, NewBackups, Said};

/// A new key for a cluster.
pub(super) fn new_key() -> Secret<String> {
    let identity = age::x25519::Identity::generate();
    Secret::new(identity.to_string().expose_secret().to_owned())
}

/// The part of a spec about backups: the operator's policy, and the cluster's public key.
pub(super) fn policy(cluster: &Cluster) -> BackupPolicy {
    let identity = key_of(cluster);
    BackupPolicy {
        plane_recipient: identity.map(|i| i.to_public().to_string()),
        ..cluster.settings.etcd_backup.clone()
    }
}

fn key_of(cluster: &Cluster) -> Option<age::x25519::Identity> {
    cluster.backup_key.expose().parse().ok()
}

/// `GET /clusters/{name}/backups`: the policy, and each master's newest backup.
pub(super) async fn list(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let cluster = kubeconfig::find(&rows, &name)?;
    let masters: Vec<Value> = fleet::nodes_of(&plane, &rows, &cluster)?
        .iter()
        .filter_map(|known| row(&cluster, known))
        .collect();
    Ok(Json(json!({
        "policy": policy(&cluster),
        "masters": masters,
        "signers": signers::shown(&cluster),
    })))
}

/// `POST /clusters/{name}/backups`: changes the named fields of the policy.
pub(super) async fn set(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    Doc(wanted): Doc<NewBackups>,
) -> Answer<Json<Value>> {
    let refused = |(field, why): (String, String)| {
        let why = format!("{field}: {why}");
        Refusal::bad(
            FaultCode::ClusterInvalid,
            "the backup settings are unchanged",
            why,
        )
    };
    let shown = plane
        .change(move |change| {
            let mut cluster = kubeconfig::find(&**change, &name)?;
            let had = &cluster.settings.etcd_backup;
            cluster.settings.etcd_backup = wanted.clone().over(had).map_err(refused)?;
            change.put(&CLUSTERS, &cluster.id.to_string(), &cluster)?;
            change.touch_cluster(&cluster);
            Ok(json!({"policy": policy(&cluster)}))
        })
        .await?;
    Ok(Json(shown))
}

fn row(cluster: &Cluster, known: &Known) -> Option<Value> {
    let member = cluster.member(known.host.id)?;
    let etcd = etcd_of(known);
    let backups = etcd.map(|e| &e.backups);
    (member.role == Role::Master).then(|| {
        json!({
            "host": known.host.id,
            "hostname": known.host.hostname,
            "last": backups.and_then(|b| b.last.as_ref()),
            "count": backups.map_or(0, |b| b.count),
            "bytes": backups.map_or(0, |b| b.bytes),
            "failing": backups.and_then(|b| b.failing.as_ref()),
            "archive": backups.and_then(|b| b.archive.as_ref()),
            "drill": etcd.and_then(|e| e.drill.as_ref()),
            "drillFailing": etcd.and_then(|e| e.drill_failing.as_ref()),
            "stale": stale(cluster, known),
        })
    })
}

/// A host's last report about its etcd.
pub(super) fn etcd_of(known: &Known) -> Option<&EtcdStatus> {
    known.status.as_ref()?.status.node.as_ref()?.etcd.as_ref()
}

/// Why a person should look at a master's backups: by the plane's clock, so that a master that is away, or has made
/// none since it was attached, is reported as well.
pub(super) fn stale(cluster: &Cluster, known: &Known) -> Option<Fault> {
    let attached = cluster.member(known.host.id)?.attached_at;
    let backups = etcd_of(known).map(|e| &e.backups);
    let last = backups.and_then(|b| b.last.as_ref()).map(|l| l.taken_at);
    let policy = &cluster.settings.etcd_backup;
    if !policy.is_stale(known.now, last.unwrap_or(attached)) {
        return None;
    }
    let newest = match last {
        Some(at) => format!("the newest is from {at}"),
        None => format!("there is none, and it has been a master since {attached}"),
    };
    let why = match backups.and_then(|b| b.failing.as_ref()) {
        Some(failing) => format!("{newest}: {}", failing.why),
        None => newest,
    };
    Some(
        Fault::new(FaultCode::EtcdBackupStale, "etcd has no new backup", why)
            .fix("on the master: pf9ctl etcd status, pf9ctl etcd backup"),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::compute::tests::{add, cluster, host};
    use crate::records::ReceivedStatus;
    use crate::recover::tests::{known, reports};
    use pf9_hostagent::model::{BackupInfo, BackupsStatus, Digest, DrillReport, HostId};

    /// A master with this report about its backups, so long after it was attached.
    pub(super) fn master(minutes: i64, last: Option<i64>) -> (Cluster, Known) {
        let mut c = cluster();
        add(&mut c, &[(1, true)]).expect("attach");
        let attached = c.members[0].attached_at;
        let later = |m| attached + SignedDuration::from_mins(m);
        let mut status = reports(1, Some((Role::Master, c.id)));
        let backup = last.map(|m| BackupInfo {
            name: "b".into(),
            taken_at: later(m),
            revision: 7,
            keys: 3,
            sealed_bytes: 99,
            sealed_sha256: Digest::of(b"b"),
            etcd_version: "3.7.3".into(),
        });
        if let Some(node) = &mut status.node {
            node.etcd = Some(EtcdStatus {
                backups: BackupsStatus {
                    count: u32::from(backup.is_some()),
                    bytes: 99,
                    last: backup,
                    ..BackupsStatus::default()
                },
                drill: Some(DrillReport {
                    backup: "b".into(),
                    at: later(0),
                    took_ms: 1,
                    keys: 3,
                    behind: 0,
                    fault: None,
                }),
                ..EtcdStatus::default()
            });
        }
        let mut known = known(1);
        known.host.id = host(1);
        known.now = later(minutes);
        known.status = Some(ReceivedStatus {
            received_at: attached,
            status,
        });
        (c, known)
    }

    #[test]
    fn old_and_missing_backups_are_reported_by_the_planes_clock() {
        let code = |minutes, last| {
            let (cluster, known) = master(minutes, last);
            stale(&cluster, &known).map(|f| f.code)
        };
        assert_eq!(code(80, None), None, "there is time for the first");
        assert_eq!(code(200, None), Some(FaultCode::EtcdBackupStale));
        assert_eq!(code(200, Some(150)), None);
        assert_eq!(code(300, Some(150)), Some(FaultCode::EtcdBackupStale));
        // It never reported a backup, and it is away: an alert all the same.
        let (cluster, mut known) = master(300, None);
        known.status = None;
        assert!(stale(&cluster, &known).is_some());
        let mut never = cluster.clone();
        never.settings.etcd_backup.every_minutes = 0;
        assert!(stale(&never, &known).is_none(), "none are wanted");
        known.host.id = HostId::random();
        assert!(stale(&cluster, &known).is_none(), "no member");
    }

    #[test]
    fn specs_carry_the_public_half_and_the_policy() {
        let mut c = cluster();
        let recipient = policy(&cluster()).plane_recipient;
        let wanted = NewBackups {
            keep: Some(Some(3)),
            recovery_recipient: Some(recipient),
            ..NewBackups::default()
        };
        c.settings.etcd_backup = wanted.over(&c.settings.etcd_backup).expect("good");
        let told = policy(&c);
        assert_eq!((told.keep, told.recipients().len()), (3, 2));
        let key = c.backup_key.expose();
        let text = serde_json::to_string(&told).expect("json");
        assert!(!text.contains("SECRET") && !text.contains(key.as_str()));
    }
}

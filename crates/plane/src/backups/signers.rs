//! Whose backups of a cluster are trusted: the order keys of its masters, kept longer than the masters themselves,
//! because a backup outlives the machine that made it. Specs of masters carry them, and so does the file that an
//! operator keeps beside the recovery key.
//!
//! A key is added when its host is attached, and when an enrolment replaces the host's key. It stays when the host is
//! detached, replaced or removed: that is when its backups are needed. A stolen key is removed by hand ([`forget`]).
//! Accepting a key only until its host left would not stop a thief, who can write any time into a manifest.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::http::{Doc, Path};
use crate::kubeconfig;
use crate::records::{CLUSTERS, Cluster, Host};
use crate::refusal::{Answer, Refusal};
use crate::state::{Change, Plane};
use crate::store::Read;
use pf9_hostagent::model::{
    BACKUP_SIGNERS_MAX, BackupSigner, ClusterId, FaultCode, HostId, TrustedKey,
};

/// A host signs backups of this cluster from now on, if it is a master. Returns whether the key is new.
pub(crate) fn signs(cluster: &mut Cluster, host: HostId, key: &TrustedKey) -> bool {
    let signer = BackupSigner {
        host_id: host,
        key: key.clone(),
    };
    if !cluster.is_master(host) || cluster.backup_signers.contains(&signer) {
        return false;
    }
    cluster.backup_signers.push(signer);
    while cluster.backup_signers.len() > BACKUP_SIGNERS_MAX {
        // The oldest key of a former master; without one, the oldest of all.
        let gone = |s: &BackupSigner| !cluster.is_master(s.host_id);
        let oldest = cluster.backup_signers.iter().position(gone);
        cluster.backup_signers.remove(oldest.unwrap_or(0));
    }
    true
}

/// A host enrolled with another key.
pub(crate) fn signs_anew(change: &mut Change<'_>, cluster: ClusterId, host: &Host) -> Answer<()> {
    let row = cluster.to_string();
    let Some(mut cluster) = change.get(&CLUSTERS, &row)? else {
        return Ok(());
    };
    if signs(&mut cluster, host.id, &host.order_key) {
        change.put(&CLUSTERS, &row, &cluster)?;
        change.touch_cluster(&cluster);
    }
    Ok(())
}

/// For people, in the form of the line in their file.
pub(super) fn shown(cluster: &Cluster) -> Vec<Value> {
    let shown = |s: &BackupSigner| {
        json!({
            "host": s.host_id,
            "key": s.key.id,
            "line": s.line(),
            "isMaster": cluster.is_master(s.host_id),
        })
    };
    cluster.backup_signers.iter().map(shown).collect()
}

/// The key to remove.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forgotten {
    /// Its id.
    pub(crate) key: String,
}

/// `POST /clusters/{name}/backups/forget`: backups signed with this key are no longer trusted.
pub(crate) async fn forget(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    Doc(wanted): Doc<Forgotten>,
) -> Answer<Json<Value>> {
    let left = plane
        .change(move |change| {
            let mut cluster = kubeconfig::find(&**change, &name)?;
            let host = forgotten(&mut cluster, &wanted.key)?;
            tracing::warn!(cluster = %cluster.id, key = wanted.key, %host,
                "backups signed with this key are no longer trusted");
            change.put(&CLUSTERS, &cluster.id.to_string(), &cluster)?;
            change.touch_cluster(&cluster);
            Ok(json!({"signers": shown(&cluster)}))
        })
        .await?;
    Ok(Json(left))
}

/// Removes a key, and returns its host.
fn forgotten(cluster: &mut Cluster, key: &str) -> Answer<HostId> {
    let what = "the key is not removed";
    let known = cluster
        .backup_signers
        .iter()
        .position(|s| s.key.id == key)
        .ok_or_else(|| {
            let why = format!("cluster {} does not trust key {key:.32?}", cluster.name);
            Refusal::bad(FaultCode::NotFound, what, why)
                .fix("pf9-plane cluster backups NAME signers shows them")
        })?;
    let signer = cluster.backup_signers.remove(known);
    let host = signer.host_id;
    let signs_on = cluster.backup_signers.iter().any(|s| s.host_id == host);
    if cluster.is_master(host) && !signs_on {
        cluster.backup_signers.insert(known, signer);
        let why = format!("host {host} is a master and signs with it");
        return Err(
            Refusal::conflict(FaultCode::HostAttached, what, why).fix(format!(
                "give it another one first: pf9-plane host allow-reenrol {host}, then pf9ctl node prep --force \
                 there; or detach it"
            )),
        );
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::assignment;
    use crate::compute::tests::{add, cluster, host, now};
    use pf9_hostagent::model::SigningKey;

    fn key() -> TrustedKey {
        SigningKey::generate().expect("key").0.trusted()
    }

    fn hosts(cluster: &Cluster) -> Vec<HostId> {
        cluster.backup_signers.iter().map(|s| s.host_id).collect()
    }

    #[test]
    fn signing_keys_stay_after_renewal_and_removal() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true), (3, false)]).expect("attach");
        let (old, new) = (key(), key());
        assert!(signs(&mut c, host(1), &old));
        assert!(!signs(&mut c, host(1), &old), "no news");
        assert!(signs(&mut c, host(2), &key()));
        assert!(!signs(&mut c, host(3), &key()), "a worker makes none");
        assert!(!signs(&mut c, host(9), &key()), "nor does a stranger");
        assert!(signs(&mut c, host(1), &new));
        crate::departures::leave(&mut c, host(1), now(), true);
        assert_eq!(hosts(&c), [host(1), host(2), host(1)]);
        // The remaining masters' specs carry the keys, workers' do not.
        let of = |n| {
            let a = assignment(host(n), Some(&c)).expect("assignment");
            a.node().expect("node").etcd.backup_signers.clone()
        };
        assert_eq!(of(2), c.backup_signers);
        assert_eq!(of(3), []);
    }

    #[test]
    fn signing_keys_are_bounded_and_masters_keep_theirs() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true)]).expect("attach");
        signs(&mut c, host(1), &key());
        for _ in 0..BACKUP_SIGNERS_MAX {
            signs(&mut c, host(2), &key());
        }
        assert_eq!(c.backup_signers.len(), BACKUP_SIGNERS_MAX);
        assert_eq!(hosts(&c)[0], host(2), "all are masters': the oldest went");
        crate::departures::leave(&mut c, host(2), now(), true);
        signs(&mut c, host(1), &key());
        signs(&mut c, host(1), &key());
        assert_eq!(hosts(&c)[BACKUP_SIGNERS_MAX - 2..], [host(1), host(1)]);
    }

    #[test]
    fn a_stolen_key_is_forgotten_unless_a_master_signs_with_it() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true)]).expect("attach");
        let (stolen, other) = (key(), key());
        signs(&mut c, host(1), &stolen);
        signs(&mut c, host(2), &other);
        let code = |c: &mut Cluster, id: &str| forgotten(c, id).map_err(|r| r.fault.code);
        assert_eq!(code(&mut c, "0000"), Err(FaultCode::NotFound));
        assert_eq!(code(&mut c, &stolen.id), Err(FaultCode::HostAttached));
        assert_eq!(hosts(&c), [host(1), host(2)]);
        signs(&mut c, host(1), &key());
        assert_eq!(code(&mut c, &stolen.id), Ok(host(1)));
        crate::departures::leave(&mut c, host(2), now(), true);
        assert_eq!(code(&mut c, &other.id), Ok(host(2)));
        assert_eq!(hosts(&c), [host(1)]);
    }
}

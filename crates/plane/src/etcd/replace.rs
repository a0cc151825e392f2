//! Replaces a dead master with another one, in one request: `"replaces"` of an attach.
//!
//! A replaced master has to be dead: one that reports is detached, and leaves on its own. And etcd has to survive its
//! removal, as with every master that leaves. Then it is no longer trusted, the others remove its member, and the new
//! one joins.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::leave;
use crate::departures;
use crate::records::{Cluster, HOSTS, STATUSES};
use crate::refusal::{Answer, Refusal};
use crate::state::{Change, Plane};
use crate::store::Read;
use pf9_hostagent::model::{FaultCode, HostId};

/// Refuses unless all of these are dead masters, and etcd works without them.
pub(crate) async fn allow(
    plane: &Arc<Plane>,
    cluster: &Cluster,
    replaced: &BTreeSet<HostId>,
) -> Answer<()> {
    let rows = plane.read()?;
    for host in replaced {
        let heard = rows.get(&STATUSES, &host.to_string())?;
        // While the plane was down it received no reports.
        let heard = heard.map_or(plane.started, |h| h.received_at.max(plane.started));
        is_gone(cluster, *host, heard, pf9_hostagent::seam::clock::now())?;
    }
    drop(rows);
    somebody_stays(cluster, replaced)?;
    leave::allow(plane, cluster, replaced, false)
        .await
        .map(drop)
}

/// Refuses unless a master remains to remove their members and for the new one to join.
fn somebody_stays(cluster: &Cluster, replaced: &BTreeSet<HostId>) -> Answer<()> {
    if cluster.masters().all(|m| replaced.contains(&m.host)) {
        let what = format!("the masters of cluster {} cannot be replaced", cluster.name);
        let why = "there is no other master to remove their members, and to join";
        return Err(Refusal::conflict(FaultCode::LastMaster, what, why)
            .fix("restore a backup of etcd on the new one"));
    }
    Ok(())
}

fn is_gone(cluster: &Cluster, host: HostId, heard: Timestamp, now: Timestamp) -> Answer<()> {
    let what = |name: String| format!("{name} cannot be replaced in cluster {}", cluster.name);
    let Some(master) = cluster.masters().find(|m| m.host == host) else {
        let why = "it is not a master of it";
        let what = what(format!("host {host}"));
        return Err(Refusal::conflict(FaultCode::HostNotAttached, what, why));
    };
    let patience = SignedDuration::from_secs(cluster.settings.etcd_replace_after_s.into());
    let silent = now.duration_since(heard.max(master.attached_at));
    if silent >= patience {
        return Ok(());
    }
    let why = format!(
        "it reported {} s ago, and counts as gone after {} s of silence",
        silent.as_secs().max(0),
        patience.as_secs()
    );
    let what = what(master.node_name.to_string());
    Err(Refusal::conflict(FaultCode::MasterNotGone, what, why).fix(
        "detach it, or remove its host if it will not come back; or wait \
         (etcd.replaceAfterSeconds of the cluster)",
    ))
}

/// They are no longer members, and no longer trusted.
pub(crate) fn take_out(
    change: &mut Change<'_>,
    cluster: &mut Cluster,
    replaced: &BTreeSet<HostId>,
) -> Answer<()> {
    for host in replaced {
        departures::leave(cluster, *host, change.now, true);
        let key = host.to_string();
        if let Some(mut row) = change.get(&HOSTS, &key)? {
            // If it comes back, nobody will tell it that it may leave.
            (row.cluster, row.forced) = (None, true);
            change.put(&HOSTS, &key, &row)?;
            change.touch(*host);
        }
        tracing::info!(%host, cluster = %cluster.id, "master replaced");
    }
    match replaced.is_empty() {
        true => Ok(()),
        false => departures::sign_revoked(cluster, change.now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add, cluster, host, now};

    #[test]
    fn only_a_master_that_was_silent_for_long_is_replaced() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true), (3, false)]).expect("attach");
        let patience = SignedDuration::from_secs(c.settings.etcd_replace_after_s.into());
        let judge = |n, heard, at| {
            let no = is_gone(&c, host(n), heard, at).err();
            no.map(|no| no.fault.code)
        };
        let late = now() + patience;
        assert_eq!(judge(2, now(), late), None);
        let soon = Some(FaultCode::MasterNotGone);
        assert_eq!(judge(2, late, late), soon);
        // A report from before it was attached does not count.
        assert_eq!(judge(2, now() - patience, now()), soon);
        let none = Some(FaultCode::HostNotAttached);
        assert_eq!(judge(3, now(), late), none, "a worker");
        assert_eq!(judge(9, now(), late), none);
    }

    #[test]
    fn a_master_has_to_stay_for_new_ones_to_join() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true), (3, false)]).expect("attach");
        let judge = |hosts: &[u8]| {
            let replaced = hosts.iter().map(|n| host(*n)).collect();
            somebody_stays(&c, &replaced).map_err(|no| no.fault.code)
        };
        assert_eq!(judge(&[1]), Ok(()));
        assert_eq!(judge(&[2]), Ok(()));
        assert_eq!(judge(&[1, 2]), Err(FaultCode::LastMaster));
        // A worker has no etcd to join.
        assert_eq!(judge(&[1, 2, 3]), Err(FaultCode::LastMaster));
    }

    #[test]
    fn a_replaced_master_is_no_longer_trusted_and_its_member_is_removed() {
        use crate::ca::Authority;
        use crate::compute::tests::host_row;
        use crate::etcd::seats;
        use crate::records::tables;
        use crate::store::Store;

        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
        let mut c = cluster();
        let (ca, key) = Authority::generate("etcd", now()).expect("authority");
        (c.authorities.etcd, c.keys.etcd) = (ca.pem().to_owned(), key);
        add(&mut c, &[(1, true), (2, true)]).expect("attach");
        let done: Answer<()> = store.write(|w| {
            w.put(&HOSTS, &host(2).to_string(), &host_row(2, Some(c.id)))?;
            take_out(&mut Change::new(w, now()), &mut c, &[host(2)].into())
        });
        done.expect("taken out");
        let row = store
            .read()
            .expect("read")
            .get(&HOSTS, &host(2).to_string());
        let row = row.expect("row").expect("a host");
        assert_eq!(row.cluster, None);
        assert!(row.forced, "nobody would tell it that it may go");
        assert!(!c.is_master(host(2)) && c.departed[0].ended && c.etcd_revoked.is_some());
        let gone = seats::gone(&c);
        assert_eq!(gone.first().map(|g| g.host_id), Some(host(2)));
        add(&mut c, &[(3, true)]).expect("the substitute");
        assert!(c.member(host(3)).expect("member").joins);
    }
}

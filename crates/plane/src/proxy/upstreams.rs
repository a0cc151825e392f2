//! What the plane presents to and trusts from the API servers of a cluster, and their order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::ca::{self, Authority, Leaf};
use crate::records::{Cluster, Member};
use crate::refusal::{Answer, Refusal};
use crate::{rolls, rotation};
use pf9_hostagent::model::{Authority as Signer, ClusterId, Digest, HostId, PLANE_USER};

/// Lifetime of the plane's own certificate, which cannot be revoked; a new one is signed after half of it.
const OWN_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// TLS configurations for the clusters, made on first use.
#[derive(Default)]
pub(crate) struct Upstreams {
    // One entry per cluster.
    ready: Mutex<HashMap<ClusterId, Upstream>>,
    /// The master that answered last, preferred until it fails. One entry per cluster.
    answered: Mutex<HashMap<ClusterId, HostId>>,
}

#[derive(Clone)]
struct Upstream {
    config: Arc<ClientConfig>,
    renew_at: Timestamp,
    /// The issuing and trusted authorities when it was made.
    authorities: Digest,
}

// === impl Upstreams ===

impl Upstreams {
    /// The cluster is gone.
    pub(crate) fn forget(&self, cluster: ClusterId) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.remove(&cluster);
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.remove(&cluster);
    }

    /// Records that this master answered.
    pub(super) fn answers(&self, cluster: ClusterId, master: HostId) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.insert(cluster, master);
    }

    /// Its masters, in the order in which they are tried.
    pub(super) fn in_order<'a>(&self, cluster: &'a Cluster) -> Vec<&'a Member> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        in_order(cluster, answered.get(&cluster.id).copied())
    }

    /// What the plane currently presents and trusts there.
    pub(super) fn of(&self, cluster: &Cluster, now: Timestamp) -> Answer<Arc<ClientConfig>> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let authorities = authorities(cluster);
        let good = |u: &&Upstream| now < u.renew_at && u.authorities == authorities;
        if let Some(found) = ready.get(&cluster.id).filter(good) {
            return Ok(Arc::clone(&found.config));
        }
        let config = Arc::new(client_config(cluster, now)?);
        let renew_at = now + OWN_LIFE / 2;
        let made = Upstream {
            config: Arc::clone(&config),
            renew_at,
            authorities,
        };
        ready.insert(cluster.id, made);
        Ok(config)
    }
}

/// Its masters, the one that answered last first; but one that a roll has ordered to change after all others. Its API
/// server accepts connections while its machine's etcd is restarted, which is the only one it uses, and then fails the
/// requests. The plane knows that before the master does, from its own order.
///
/// Rejected: all etcds in each API server's arguments. Its client uses them in rotation, however near they are, each
/// membership change would restart every API server, and other clients would only gain the second of a restart.
fn in_order(cluster: &Cluster, last: Option<HostId>) -> Vec<&Member> {
    let mut masters: Vec<&Member> = cluster.masters().collect();
    masters.sort_by_key(|m| (rolls::is_changing(cluster, m.host), Some(m.host) != last));
    masters
}

/// Trusts only the cluster's authority and its successor; presents a certificate of the plane signed by the one that
/// currently signs.
fn client_config(cluster: &Cluster, now: Timestamp) -> Answer<ClientConfig> {
    let failed = |e: &(dyn std::error::Error + 'static)| Refusal::internal("cannot prepare TLS", e);
    let (pem, key) = rotation::own_signer(cluster, Signer::Cluster);
    let signer = Authority::load(pem, key)?;
    let key = KeyPair::generate().map_err(ca::CaError::from)?;
    let leaf = Leaf::client(PLANE_USER, &[], OWN_LIFE);
    let issued = signer.issue(&key, &leaf, now)?;
    let mut roots = rustls::RootCertStore::empty();
    for pem in rotation::own_believed(cluster, Signer::Cluster) {
        let der = ca::der_of(pem).ok_or(ca::CaError::Damaged)?;
        roots
            .add(CertificateDer::from(der))
            .map_err(|e| failed(&e))?;
    }
    ClientConfig::builder_with_provider(pf9_hostagent::tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from(issued.der)],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .map_err(|e| failed(&e))
}

/// Digest of the cluster's authorities as the plane uses them.
fn authorities(cluster: &Cluster) -> Digest {
    let signs = rotation::own_signer(cluster, Signer::Cluster).0;
    let believed = rotation::own_believed(cluster, Signer::Cluster);
    Digest::of(
        [signs]
            .into_iter()
            .chain(believed)
            .collect::<String>()
            .as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use pf9_hostagent::model::UpgradeStage;

    /// What the plane presents and trusts is never older than half its lifetime, nor from a replaced authority.
    #[test]
    fn the_planes_certificate_is_renewed_with_age_and_authorities() {
        let now = pf9_hostagent::seam::clock::now();
        let mut cluster = crate::compute::tests::cluster();
        let authority = |cluster: &mut Cluster, name| {
            let (made, key) = Authority::generate(name, now).expect("authority");
            cluster.authorities.cluster = made.pem().to_owned();
            cluster.keys.cluster = key;
        };
        authority(&mut cluster, "one");
        let upstreams = Upstreams::default();
        let of = |cluster: &Cluster, now| upstreams.of(cluster, now).expect("configuration");
        let first = of(&cluster, now);
        assert!(Arc::ptr_eq(&first, &of(&cluster, now)));
        let later = now + OWN_LIFE / 2;
        let second = of(&cluster, later);
        assert!(!Arc::ptr_eq(&first, &second), "it is old");
        authority(&mut cluster, "two");
        assert!(!Arc::ptr_eq(&second, &of(&cluster, later)), "another signs");
    }

    #[test]
    fn the_master_that_answered_last_is_asked_first() {
        use crate::compute::tests::{add, cluster, host};
        let mut cluster = cluster();
        add(&mut cluster, &[(1, true), (2, true), (3, true)]).expect("attach");
        let upstreams = Upstreams::default();
        let order = |u: &Upstreams| -> Vec<HostId> {
            u.in_order(&cluster).iter().map(|m| m.host).collect()
        };
        assert_eq!(order(&upstreams), [host(1), host(2), host(3)]);
        upstreams.answers(cluster.id, host(2));
        assert_eq!(order(&upstreams), [host(2), host(1), host(3)]);
        upstreams.forget(cluster.id);
        assert_eq!(order(&upstreams), [host(1), host(2), host(3)]);
    }

    proptest! {
        /// For any orders of a roll: all are tried, none that may be changing before one that is not, and among equals
        /// the one that answered last first.
        #[test]
        fn a_master_that_a_roll_changes_is_asked_last(
            told in prop::collection::vec((prop::option::of(stages()), any::<bool>(), any::<bool>()), 1..6),
            last in prop::option::of(1u8..8),
        ) {
            use crate::compute::tests::{add, cluster, host};
            let mut cluster = cluster();
            let masters: Vec<(u8, bool)> = (1..).zip(&told).map(|(n, _)| (n, true)).collect();
            add(&mut cluster, &masters).expect("attach");
            let parts = masters.iter().map(|(n, _)| host(*n)).zip(told);
            rolls::testing::told(&mut cluster, parts);
            let last = last.map(host);
            let order: Vec<HostId> = in_order(&cluster, last).iter().map(|m| m.host).collect();
            let mut all = order.clone();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(all.len(), masters.len());
            let changing = |host: &HostId| rolls::is_changing(&cluster, *host);
            let first_changing = order.iter().position(changing).unwrap_or(order.len());
            prop_assert!(order[first_changing..].iter().all(changing), "{order:?}");
            if let Some(last) = last.filter(|last| order.contains(last)) {
                let place = order.iter().position(|host| *host == last);
                let alike = if changing(&last) { first_changing } else { 0 };
                prop_assert_eq!(place, Some(alike));
            }
        }
    }

    fn stages() -> impl Strategy<Value = UpgradeStage> {
        prop::sample::select(vec![
            UpgradeStage::Prepare,
            UpgradeStage::Etcd,
            UpgradeStage::Node,
            UpgradeStage::Os,
        ])
    }
}

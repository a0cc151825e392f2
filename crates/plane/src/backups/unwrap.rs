//! `POST /v1/hosts/self/unwrap`: the key of one backup, for root of a master.
//!
//! Only root's signature counts, as with certificates: a compromised comms or hostagent opens no backup. A file key
//! that the cluster's key does not unwrap is not from a backup of this cluster, nor is a backup that none of its
//! masters signed: a person who knows better has the recovery key. Every order is audited.

use std::io::Write as _;
use std::sync::Arc;

use age::Identity as _;
use age::secrecy::ExposeSecret;
use age_core::format::{FileKey, Stanza};
use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::hostapi::Caller;
use crate::http::Doc;
use crate::orders::{answers, envelope, open, said_by};
use crate::records::Cluster;
use crate::refusal::{Answer, Refusal};
use crate::state::{self, Change, Plane};
use pf9_hostagent::model::{
    BackupTrust, DocumentKind, FaultCode, FoundManifest, Role, UnwrapAnswer, UnwrapOrder,
    WrappedKey,
};

const WHAT: &str = "the backup is not opened";

/// Answers an order.
pub(crate) async fn post(
    Caller(host): Caller,
    State(plane): State<Arc<Plane>>,
    Doc(said): Doc<Value>,
) -> Answer<Json<UnwrapAnswer>> {
    let shared = Arc::clone(&plane);
    let work = move |change: &mut Change<'_>| {
        let envelope = envelope(WHAT, said)?;
        let row = state::host(&**change, host)?;
        let order: UnwrapOrder = open(WHAT, DocumentKind::Unwrap, &envelope, &row.order_key)?;
        said_by(WHAT, host, order.schema, order.host_id)?;
        answers(WHAT, &shared, host, order.nonce)?;
        if let Some(why) = order.fault() {
            return Err(Refusal::bad(FaultCode::OrderMalformed, WHAT, why));
        }
        let cluster = state::cluster(&**change, order.cluster_id)?;
        if cluster.member(host).is_none_or(|m| m.role != Role::Master) {
            let why = format!("this host is not a master of cluster {}", order.cluster_id);
            return Err(Refusal::forbidden(FaultCode::ClusterForeign, WHAT, why));
        }
        let backup = backup(&cluster, &order)?;
        let key = super::key_of(&cluster).ok_or_else(|| {
            let why = "the cluster's key for backups cannot be read";
            Refusal::conflict(FaultCode::KeyInvalid, WHAT, why)
        })?;
        Ok((unwrapped(&key, &order)?, backup))
    };
    let (answer, backup) = plane.refused.told(host, plane.change(work).await)?;
    tracing::warn!(%host, backup, "the key of a backup of etcd was given to a master");
    Ok(Json(answer))
}

/// The name of the backup to open; it must be signed by a master of this cluster, for this cluster.
fn backup(cluster: &Cluster, order: &UnwrapOrder) -> Answer<String> {
    let found = FoundManifest::of(order.manifest.clone())
        .map_err(|e| Refusal::bad(FaultCode::OrderMalformed, WHAT, e.to_string()))?;
    let trust = BackupTrust::Signers(cluster.backup_signers.clone());
    let believed = found.believed(&trust).map_err(|fault| {
        Refusal::forbidden(fault.code, WHAT, fault.why).fix(
            "use another one, or open it with the recovery key if you know where it comes from",
        )
    })?;
    let manifest = believed.manifest();
    if manifest.cluster_id != cluster.id {
        let why = format!("it is a backup of cluster {}", manifest.cluster_id);
        return Err(Refusal::forbidden(FaultCode::ClusterForeign, WHAT, why));
    }
    Ok(manifest.name.clone())
}

/// The file key, sealed for the order's recipient.
fn unwrapped(key: &age::x25519::Identity, order: &UnwrapOrder) -> Answer<UnwrapAnswer> {
    let stanzas: Vec<Stanza> = order.stanzas.iter().filter_map(stanza).collect();
    let file_key = match key.unwrap_stanzas(&stanzas) {
        Some(Ok(file_key)) => file_key,
        Some(Err(_)) | None => {
            let why = "it was not sealed for this cluster's key, or its head is damaged";
            return Err(Refusal::conflict(FaultCode::KeyRefused, WHAT, why)
                .fix("open it with the recovery key of its time"));
        }
    };
    let sealed = seal(&file_key, &order.recipient).map_err(|why| {
        Refusal::bad(FaultCode::KeyInvalid, WHAT, format!("its recipient: {why}"))
    })?;
    Ok(UnwrapAnswer {
        sealed: BASE64.encode(sealed),
    })
}

fn stanza(wrapped: &WrappedKey) -> Option<Stanza> {
    Some(Stanza {
        tag: wrapped.tag.clone(),
        args: wrapped.args.clone(),
        body: BASE64.decode(&wrapped.body).ok()?,
    })
}

fn seal(file_key: &FileKey, recipient: &str) -> Result<Vec<u8>, String> {
    let recipient: age::x25519::Recipient = recipient.parse()?;
    let only = std::iter::once(&recipient as &dyn age::Recipient);
    let sealer = age::Encryptor::with_recipients(only).map_err(|e| e.to_string())?;
    let mut sealed = Vec::new();
    let mut writer = sealer.wrap_output(&mut sealed).map_err(|e| e.to_string())?;
    let written = writer.write_all(file_key.expose_secret());
    written
        .and_then(|()| writer.finish())
        .map_err(|e| e.to_string())?;
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use pf9_hostagent::backup::seal::{self, Sealer};
    use pf9_hostagent::backup::unwrap::Asking;
    use pf9_hostagent::host::fs::{Attrs, HostFs};
    use pf9_hostagent::model::{
        BackupManifest, BelievedManifest, ClusterId, Digest, DocumentKind, HostId, Nonce, Secret,
        SigningKey,
    };

    struct Sealed {
        fs: HostFs,
        key: Secret<String>,
        _dir: tempfile::TempDir,
    }

    /// A backup sealed for a cluster's key and a recovery key.
    fn sealed() -> Sealed {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        let key = super::super::new_key();
        let identity: age::x25519::Identity = key.expose().parse().expect("key");
        let both = [identity.to_public().to_string(), seal::new_key().1];
        let file = fs.begin("/b.db.age", &Attrs::mode(0o600)).expect("file");
        let mut sealer = Sealer::new(file, &seal::recipients(&both).expect("keys")).expect("head");
        sealer.write_all(b"all there is").expect("write");
        sealer.finish().expect("finish").0.place().expect("place");
        Sealed { fs, key, _dir: dir }
    }

    fn manifest() -> BackupManifest {
        let digest = Digest::of(b"x");
        let said = serde_json::json!({
            "schema": 1, "name": "19700101T000001Z-r7", "taken_at": "1970-01-01T00:00:01Z",
            "host_id": HostId::random(), "cluster_id": ClusterId::random(),
            "etcd_cluster_id": "cafe", "member_id": "beef", "revision": 7, "keys": 3, "hash": 1,
            "plain_bytes": 10, "sealed_bytes": 1, "sealed_sha256": digest,
            "etcd_version": "3.7.3", "kubernetes_version": "1.37.2", "recipients": [],
            "settings": {
                "cluster_name": "c", "api_host": "10.1.2.3", "api_port": 6443,
                "pods_cidr": "10.20.0.0/16", "services_cidr": "10.21.0.0/16",
                "cluster_domain": "cluster.local",
                "stack": {"name": "s", "version": "1", "manifest": digest},
            },
        });
        serde_json::from_value(said).expect("a manifest")
    }

    /// A manifest signed by this key, naming this host and this cluster.
    fn noted(key: &SigningKey, host_id: HostId, cluster_id: ClusterId) -> BelievedManifest {
        let manifest = BackupManifest {
            host_id,
            cluster_id,
            ..manifest()
        };
        let bytes = serde_json::to_vec(&manifest).expect("json");
        let found = FoundManifest::of(key.sign(DocumentKind::Backup, &bytes)).expect("a manifest");
        found.believed(&BackupTrust::Unchecked).expect("taken")
    }

    fn order(asking: &Asking) -> UnwrapOrder {
        let key = SigningKey::generate().expect("key").0;
        let noted = noted(&key, HostId::random(), ClusterId::random());
        asking.order(HostId::random(), &noted, Nonce(Digest::of(b"n")))
    }

    #[test]
    fn a_backup_that_no_master_signed_is_not_opened() {
        use crate::compute::tests::{add, cluster, host};
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true)]).expect("attach");
        let key = || SigningKey::generate().expect("key").0;
        let (own, before, other) = (key(), key(), key());
        super::super::signs(&mut c, host(1), &before.trusted());
        super::super::signs(&mut c, host(1), &own.trusted());
        super::super::signs(&mut c, host(2), &other.trusted());
        let kept = sealed();
        let asking = Asking::of(&kept.fs.at("/b.db.age")).expect("head");
        let code = |c: &Cluster, noted: &BelievedManifest| {
            let order = asking.order(host(2), noted, Nonce(Digest::of(b"n")));
            backup(c, &order).map(drop).map_err(|r| r.fault.code)
        };
        for key in [&own, &before] {
            assert_eq!(code(&c, &noted(key, host(1), c.id)), Ok(()));
        }
        let untrusted = Err(FaultCode::BackupUntrusted);
        assert_eq!(code(&c, &noted(&key(), host(1), c.id)), untrusted);
        assert_eq!(code(&c, &noted(&other, host(1), c.id)), untrusted);
        assert_eq!(code(&c, &noted(&own, host(9), c.id)), untrusted);
        let elsewhere = noted(&own, host(1), ClusterId::random());
        assert_eq!(code(&c, &elsewhere), Err(FaultCode::ClusterForeign));
        // Also after its master has left.
        crate::departures::leave(&mut c, host(1), crate::compute::tests::now(), true);
        assert_eq!(code(&c, &noted(&own, host(1), c.id)), Ok(()));
        // Not a manifest at all.
        let mut order = asking.order(host(2), &elsewhere, Nonce(Digest::of(b"n")));
        order.manifest.payload = "e30=".into();
        let none = backup(&c, &order).map(drop).map_err(|r| r.fault.code);
        assert_eq!(none, Err(FaultCode::OrderMalformed));
        order.manifest.payload = "x".repeat(pf9_hostagent::model::SIGNED_MANIFEST_MAX + 1);
        assert!(order.fault().is_some());
    }

    #[test]
    fn a_master_opens_a_backup_and_the_clusters_key_stays_where_it_is() {
        let Sealed { fs, key, _dir } = sealed();
        let identity = key.expose().parse().expect("key");
        let path = fs.at("/b.db.age");
        let asking = Asking::of(&path).expect("head");
        let order = order(&asking);
        assert_eq!(order.fault(), None);
        let answer = unwrapped(&identity, &order)
            .map_err(|r| r.fault)
            .expect("unwrapped");
        let opens = asking.opened(&answer).expect("opened");
        let mut plain = String::new();
        let opens: [seal::Opener; 1] = [Box::new(opens)];
        let mut reader = seal::open(&path, &opens).expect("opens");
        reader.read_to_string(&mut plain).expect("read");
        assert_eq!(plain, "all there is");
        // The carrier of the answer cannot use it: it is sealed for the one-time recipient.
        let other = Asking::of(&path).expect("head");
        assert!(other.opened(&answer).is_err());
        // It does not open another backup either.
        let another = sealed_again(&fs);
        assert!(seal::open(&another, &opens).is_err());
    }

    fn sealed_again(fs: &HostFs) -> std::path::PathBuf {
        let file = fs.begin("/c.db.age", &Attrs::mode(0o600)).expect("file");
        let keys = seal::recipients(&[seal::new_key().1]).expect("keys");
        let sealer = Sealer::new(file, &keys).expect("head");
        sealer.finish().expect("finish").0.place().expect("place");
        fs.at("/c.db.age")
    }

    #[test]
    fn what_was_not_sealed_for_the_cluster_is_not_opened() {
        let kept = sealed();
        let asking = Asking::of(&kept.fs.at("/b.db.age")).expect("head");
        let stranger = seal::new_key().0.expose().parse().expect("key");
        let mut order = order(&asking);
        let refused = unwrapped(&stranger, &order)
            .map(drop)
            .expect_err("another cluster's");
        assert_eq!(refused.fault.code, FaultCode::KeyRefused);
        order.stanzas = vec![order.stanzas[0].clone(); pf9_hostagent::model::STANZAS_MAX + 1];
        assert!(order.fault().is_some());
        order.stanzas.truncate(1);
        order.recipient = "AGE-SECRET-KEY-1".into();
        assert!(order.fault().is_some());
    }
}

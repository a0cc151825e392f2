//! A rotation of a cluster's authorities, as its nodes and the administrator see it.

use http::Method;
use jiff::{SignedDuration, Timestamp};
use pf9_hostagent::model::{Authority, CertPurpose, ClusterId, Digest, Spec, certificates};
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::bed::Bed;
use super::node::Node;

const LIFE: std::time::Duration = std::time::Duration::from_secs(90);

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("pem")
}

/// Digests of an authority's certificates in a spec; the first one signs.
fn believed(spec: &Spec, which: Authority) -> Vec<Digest> {
    let node = spec.assignment.node().expect("node");
    let all = certificates(node.authorities.of(which));
    all.into_iter().map(|pem| Digest::of(&der(pem))).collect()
}

/// A node that has one certificate from the cluster's authority, and follows its specs.
struct Obedient<'a> {
    node: &'a Node,
    name: &'static str,
    ip: &'static str,
    cluster: ClusterId,
    key: KeyPair,
    certificate: Vec<u8>,
}

impl<'a> Obedient<'a> {
    async fn new(node: &'a Node, name: &'static str, ip: &'static str, cluster: ClusterId) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut obedient = Self {
            node,
            name,
            ip,
            cluster,
            key,
            certificate: Vec::new(),
        };
        obedient.renew().await;
        obedient
    }

    async fn renew(&mut self) {
        let wanted = [CertPurpose::KubeletClient];
        let order = self.node.order(self.cluster, &self.key, &wanted).await;
        let (status, batch) = self.node.bring(&self.node.signed_order(&order)).await;
        assert_eq!(status, 200, "{batch}");
        let pem = batch["certificates"][0]["certificate"].as_str();
        self.certificate = der(pem.expect("pem")).to_vec();
    }

    fn signed_by(&self, authority: &[u8]) -> bool {
        let (_, leaf) = X509Certificate::from_der(&self.certificate).expect("x509");
        let (_, parent) = X509Certificate::from_der(authority).expect("x509");
        leaf.verify_signature(Some(parent.public_key())).is_ok()
    }

    /// Follows its spec and reports it.
    async fn report(&mut self) -> Spec {
        let spec = self.node.current().await;
        let pem = &spec.assignment.node().expect("node").authorities.cluster;
        let all: Vec<_> = certificates(pem).into_iter().map(der).collect();
        if !self.signed_by(&all[0]) {
            self.renew().await;
        }
        let issuer = all.iter().find(|ca| self.signed_by(ca));
        let issuer = Digest::of(issuer.expect("what it shows is believed"));
        let row = |name: &str, authority: Authority, digest: Digest, issuer: Digest| {
            json!({"name": name, "authority": authority, "digest": digest, "issuer": issuer,
                   "not_before": Timestamp::now(), "not_after": Timestamp::now()})
        };
        let mut rows = vec![row(
            "kubelet/apiserver",
            Authority::Cluster,
            Digest::of(&self.certificate),
            issuer,
        )];
        for which in Authority::ALL {
            let all = believed(&spec, *which).into_iter();
            rows.extend(all.map(|digest| row("authority", *which, digest, digest)));
        }
        let mut status = self.node.status(self.name, self.ip);
        status["observed_generation"] = json!(spec.generation);
        status["node"] = json!({
            "schema": 1, "revision": 1, "generation": spec.generation,
            "role": spec.assignment.role(), "cluster_id": self.cluster, "state": "ok",
            "reason": null, "attempts": 0, "phases": [], "current_step": null,
            "last_sweep_at": null, "stack": null, "wants_stack": null,
            "certificate_requests": [], "service_account_key": null, "certificates": rows,
        });
        let path = "/v1/hosts/self/status";
        let (code, said) = self.node.call(Method::POST, path, &status).await;
        assert_eq!(code, 204, "{said}");
        spec
    }
}

fn stage(shown: &Value) -> Option<&str> {
    shown["rotation"]["stage"].as_str()
}

#[tokio::test]
async fn a_rotation_survives_a_restart_of_the_plane() {
    let bed = Bed::with(|config| config.certificate_life = Some(LIFE)).await;
    bed.stack("1").await;
    let (m, w) = (
        bed.host("m1", "10.1.0.1").await,
        bed.host("w1", "10.1.0.2").await,
    );
    let cluster = bed.cluster("c").await;
    bed.attach(cluster, &[(&m, true), (&w, false)]).await;
    let mut master = Obedient::new(&m, "m1", "10.1.0.1", cluster).await;
    let mut worker = Obedient::new(&w, "w1", "10.1.0.2", cluster).await;
    a_short_life_is_a_life_from_now_on(&master.certificate);
    let old = believed(&master.report().await, Authority::Cluster);
    assert_eq!(old.len(), 1);

    let wanted = json!({"authorities": ["cluster"], "hold_s": 0});
    let at = "/clusters/c/authorities";
    let (status, shown) = bed.admin(&format!("{at}/rotate"), wanted.clone()).await;
    assert_eq!((status, stage(&shown)), (200, Some("announced")), "{shown}");
    assert_eq!(shown["rotation"]["waits_for"][0]["node"], json!("m1"));
    assert_eq!(shown["rotation"]["after_them"], json!(["w1"]));
    let (status, said) = bed.admin(&format!("{at}/rotate"), wanted.clone()).await;
    assert_eq!(
        (status, said["code"].as_str()),
        (409, Some("rotation-under-way"))
    );
    let spec = m.current().await;
    let both = believed(&spec, Authority::Cluster);
    assert_eq!((both.len(), both[0]), (2, old[0]), "the old one signs");
    assert_eq!(believed(&spec, Authority::Etcd).len(), 1);
    let new = both[1];
    let of_the_worker = believed(&w.current().await, Authority::Cluster);
    assert_eq!(of_the_worker, old, "it comes after the masters");
    master.report().await;
    assert_eq!(believed(&w.current().await, Authority::Cluster), both);
    worker.report().await;
    assert_eq!(
        believed(&m.current().await, Authority::Cluster),
        [new, old[0]]
    );

    // The plane ends here, and another one starts with what it stored.
    let bed = bed.restart().await;
    let (mut m, mut w) = (m, w);
    m.connect(&bed).await.expect("connected");
    w.connect(&bed).await.expect("connected");
    let mut master = Obedient::new(&m, "m1", "10.1.0.1", cluster).await;
    let mut worker = Obedient::new(&w, "w1", "10.1.0.2", cluster).await;
    for _ in 0..2 {
        master.report().await;
        worker.report().await;
    }
    let ends = [master.report().await, worker.report().await];
    for spec in ends {
        assert_eq!(believed(&spec, Authority::Cluster), [new]);
    }
    let (status, said) = bed.admin(&format!("{at}/abort"), json!(null)).await;
    assert_eq!(
        (status, said["code"].as_str()),
        (409, Some("rotation-none"))
    );
    // The next one, aborted.
    let (status, _) = bed.admin(&format!("{at}/rotate"), wanted).await;
    assert_eq!(status, 200);
    master.report().await;
    let (_, shown) = bed.admin(&format!("{at}/abort"), json!(null)).await;
    assert_eq!(stage(&shown), Some("old"), "{shown}");
    for _ in 0..2 {
        master.report().await;
        worker.report().await;
    }
    for node in [&m, &w] {
        assert_eq!(believed(&node.current().await, Authority::Cluster), [new]);
    }
}

/// Its notBefore is so little in the past that two thirds of its life are not over immediately.
fn a_short_life_is_a_life_from_now_on(der: &[u8]) {
    let (_, leaf) = X509Certificate::from_der(der).expect("x509");
    let at = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).expect("time");
    let life = leaf.validity();
    let (begin, end, now) = (at(life.not_before), at(life.not_after), Timestamp::now());
    let planned = SignedDuration::try_from(LIFE).expect("life");
    assert!(end.duration_since(now) <= planned, "{end}");
    assert!(
        end.duration_since(now) > planned - SignedDuration::from_secs(30),
        "{end}"
    );
    let two_thirds = begin + end.duration_since(begin) * 2 / 3;
    assert!(two_thirds > now, "{begin} to {end}");
}

#[cfg(feature = "fault")]
mod walk;

use super::*;
use crate::model::IssuedCertificate;
use crate::nodelet::testing::{Cas, node};

fn fixture() -> (tempfile::TempDir, HostFs, Cas, NodeSpec) {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    let cas = Cas::new();
    let node = node(cas.authorities.clone());
    (dir, fs, cas, node)
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("time")
}

fn batch(node: &NodeSpec, purpose: CertPurpose, pem: String) -> CertificateBatch {
    CertificateBatch {
        cluster_id: node.cluster_id,
        certificates: vec![IssuedCertificate {
            purpose,
            certificate: pem,
        }],
    }
}

fn csr(fs: &HostFs, purpose: CertPurpose, node: &NodeSpec) -> String {
    make_key(fs, purpose, node).expect("key");
    material(fs, Role::Master, node).expect("material")[&purpose]
        .request
        .clone()
        .expect("request")
        .csr
}

#[test]
fn every_purpose_goes_from_key_to_accepted_certificate() {
    let (_dir, fs, cas, node) = fixture();
    for purpose in CertPurpose::ALL {
        let csr = csr(&fs, *purpose, &node);
        assert!(has_key(&fs, *purpose).expect("has"));
        let pem = cas.sign(&csr, *purpose, &node, |_| ());
        accept(
            &fs,
            Role::Master,
            &node,
            &batch(&node, *purpose, pem),
            now(),
        )
        .unwrap_or_else(|e| panic!("{}: {e}", purpose.dir()));
    }
    let all = material(&fs, Role::Master, &node).expect("material");
    assert!(all.values().all(|m| m.certificate.is_some()));
    // A key is made once.
    let path = path_of(CertPurpose::Admin, paths::CERT_KEY_FILE);
    let before = fs.read(&path, PEM_MAX).expect("read");
    make_key(&fs, CertPurpose::Admin, &node).expect("again");
    assert_eq!(fs.read(&path, PEM_MAX).expect("read"), before);
}

#[test]
fn what_the_profile_does_not_say_is_refused() {
    let (_dir, fs, cas, node) = fixture();
    let purpose = CertPurpose::KubeletClient;
    let csr = csr(&fs, purpose, &node);
    let refused = |pem: String| {
        let fault = accept(&fs, Role::Worker, &node, &batch(&node, purpose, pem), now())
            .expect_err("must be refused");
        fault.why
    };
    let why = refused(cas.sign(&csr, purpose, &node, |p| {
        p.distinguished_name
            .push(DnType::OrganizationName, "system:masters");
    }));
    assert!(why.contains("organisation"), "{why}");
    let why = refused(cas.sign(&csr, purpose, &node, |p| {
        p.subject_alt_names = vec![rcgen::SanType::DnsName("x".try_into().expect("dns"))];
    }));
    assert!(why.contains("alternative names"), "{why}");
    let why = refused(cas.sign(&csr, purpose, &node, |p| {
        p.extended_key_usages
            .push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    }));
    assert!(why.contains("extended key usage"), "{why}");
    let why = refused(Cas::new().sign(&csr, purpose, &node, |_| ()));
    assert!(why.contains("cluster authority"), "{why}");
    let why = refused(cas.sign(&csr, purpose, &node, |p| {
        p.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }));
    assert!(why.contains("valid from"), "{why}");
    assert_eq!(refused("nonsense".into()), "it is not a certificate");
    let other = KeyPair::generate().expect("key");
    let foreign = CertificateParams::default()
        .serialize_request(&other)
        .expect("csr")
        .pem()
        .expect("pem");
    let why = refused(cas.sign(&foreign, purpose, &node, |_| ()));
    assert!(why.contains("does not belong to the key"), "{why}");
    assert_eq!(
        fs.read(path_of(purpose, paths::CERT_FILE), PEM_MAX)
            .expect("read"),
        None,
        "nothing refused may be stored"
    );
}

#[test]
fn a_certificate_counts_for_every_authority_that_is_believed() {
    let (_dir, fs, cas, node) = fixture();
    let purpose = CertPurpose::Nodelet;
    let csr = csr(&fs, purpose, &node);
    let pem = cas.sign(&csr, purpose, &node, |p| {
        p.not_before = rcgen::date_time_ymd(2026, 1, 1);
        p.not_after = rcgen::date_time_ymd(2026, 4, 1);
    });
    accept(&fs, Role::Worker, &node, &batch(&node, purpose, pem), now()).expect("accept");
    let seen = |node: &NodeSpec| {
        let all = material(&fs, Role::Worker, node).expect("material");
        all[&purpose].certificate.clone()
    };
    let signing = |node: &NodeSpec| {
        let mut all = authorities(node).into_iter();
        let found = all.find(|a| a.authority == Authority::Cluster && a.signs);
        found.expect("one signs").digest
    };
    let first = seen(&node).expect("it counts");
    assert_eq!(first.issuer, signing(&node));
    assert_eq!(
        first.not_after,
        "2026-04-01T00:00:00Z".parse().expect("time")
    );
    // Another one signs, and the first is still trusted.
    let new = Cas::new();
    let mut both = node.clone();
    both.authorities.cluster = format!("{}{}", new.authorities.cluster, node.authorities.cluster);
    assert_eq!(seen(&both), Some(first.clone()));
    assert_ne!(first.issuer, signing(&both));
    // What the new one signs is taken, beside the authorities that are trusted.
    let next = batch(&node, purpose, new.sign(&csr, purpose, &node, |_| ()));
    let foreign = accept(&fs, Role::Worker, &node, &next, now()).expect_err("not announced");
    assert!(foreign.why.contains("cluster authority"), "{foreign}");
    accept(&fs, Role::Worker, &both, &next, now()).expect("announced");
    assert_eq!(seen(&both).expect("counts").issuer, signing(&both));
    let ca = fs.read_text(path_of(purpose, paths::CERT_CA_FILE), PEM_MAX);
    let believed = both.authorities.believed(Authority::Cluster);
    assert_eq!(ca.expect("read"), Some(believed));
    let mut moved = node.clone();
    moved.authorities = Cas::new().authorities;
    assert_eq!(seen(&moved), None);
}

#[test]
fn a_certificate_of_another_time_as_a_node_does_not_count() {
    let (_dir, fs, cas, node) = fixture();
    let mut again = node.clone();
    again.uid = Some(crate::nodelet::testing::uid(2));
    for purpose in [CertPurpose::KubeletClient, CertPurpose::Nodelet] {
        let csr = csr(&fs, purpose, &node);
        let pem = cas.sign(&csr, purpose, &node, |_| ());
        let batch = batch(&node, purpose, pem);
        accept(&fs, Role::Worker, &node, &batch, now()).expect("accept");
        let seen = |node| material(&fs, Role::Worker, node).expect("material")[&purpose].clone();
        assert!(seen(&node).certificate.is_some());
        // The API server refuses it: it is asked for again.
        assert_eq!(seen(&again).certificate, None);
        let refused = accept(&fs, Role::Worker, &again, &batch, now()).expect_err("of before");
        assert!(refused.why.starts_with("its user id is "), "{refused}");
    }
}

#[test]
fn the_service_account_pair_is_whole_or_made_again() {
    let (_dir, fs, ..) = fixture();
    assert_eq!(service_account_key(&fs).expect("read"), None);
    make_service_account_key(&fs).expect("make");
    let public = service_account_key(&fs).expect("read").expect("there");
    fs.write(paths::SERVICE_ACCOUNT_PUBLIC, b"?", &Attrs::mode(0o644))
        .expect("break");
    assert_eq!(service_account_key(&fs).expect("read"), None);
    make_service_account_key(&fs).expect("repair");
    assert_eq!(service_account_key(&fs).expect("read"), Some(public));
}

/// What the status and the orders carry: no line of a private key is in it.
#[test]
fn nothing_that_is_told_holds_a_private_key() {
    let (_dir, fs, _cas, node) = fixture();
    make_service_account_key(&fs).expect("pair");
    let public = service_account_key(&fs).expect("read").expect("key");
    let mut told = vec![(paths::SERVICE_ACCOUNT_KEY.to_owned(), public)];
    for purpose in CertPurpose::ALL {
        let key = path_of(*purpose, paths::CERT_KEY_FILE);
        told.push((key, csr(&fs, *purpose, &node)));
    }
    for (path, told) in told {
        let key = fs.read_text(&path, PEM_MAX).expect("read").expect("key");
        let mut secret = key.lines().filter(|l| !l.starts_with("-----"));
        assert!(
            key.contains("PRIVATE KEY") && !told.contains("PRIVATE"),
            "{path}"
        );
        // The last line may be of the public half, which a key's file holds as well.
        let first = secret.next().expect("a line");
        assert!(first.len() == 64 && !told.contains(first), "{path}");
    }
}

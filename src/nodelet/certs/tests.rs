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
    material(fs, Role::Master, node, now()).expect("material")[&purpose]
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
    let all = material(&fs, Role::Master, &node, now()).expect("material");
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
    assert_eq!(refused("nonsense".into()), "it is no certificate");
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
fn a_certificate_counts_until_its_end_and_for_its_authority() {
    let (_dir, fs, cas, node) = fixture();
    let purpose = CertPurpose::Nodelet;
    let csr = csr(&fs, purpose, &node);
    let pem = cas.sign(&csr, purpose, &node, |p| {
        p.not_before = rcgen::date_time_ymd(2026, 1, 1);
        p.not_after = rcgen::date_time_ymd(2026, 4, 1);
    });
    accept(&fs, Role::Worker, &node, &batch(&node, purpose, pem), now()).expect("accept");
    let counts = |at: &str, node: &NodeSpec| {
        let at = at.parse().expect("time");
        let all = material(&fs, Role::Worker, node, at).expect("material");
        all[&purpose].certificate.is_some()
    };
    assert!(counts("2026-02-20T00:00:00Z", &node));
    assert!(!counts("2027-01-01T00:00:00Z", &node));
    let mut moved = node.clone();
    moved.authorities = Cas::new().authorities;
    assert!(!counts("2026-02-20T00:00:00Z", &moved));
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

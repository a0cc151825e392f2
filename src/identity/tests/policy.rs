//! What an operator may ask of TLS with the plane.

use crate::model::FaultCode;
use rcgen::{Certificate, PublicKeyData};
use rustls::SupportedProtocolVersion;
use rustls::pki_types::CertificateDer;

use super::*;
use crate::host::fs::Attrs;
use crate::tls::{KeyPin, MinVersion, TlsConfig};

/// A server's key and certificate for 127.0.0.1.
fn leaf(ca: &Authority) -> (KeyPair, Certificate) {
    let key = KeyPair::generate().expect("key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("params");
    let cert = params.signed_by(&key, &ca.0).expect("sign");
    (key, cert)
}

fn acceptor(
    key: &KeyPair,
    chain: Vec<CertificateDer<'static>>,
    version: &'static SupportedProtocolVersion,
) -> TlsAcceptor {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(&[version])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("config");
    TlsAcceptor::from(Arc::new(config))
}

fn pin(key: &KeyPair) -> KeyPin {
    KeyPin::of(&key.subject_public_key_info())
}

/// A policy out of a configuration; `bundle` is what its `ca_file` holds.
fn policy(config: TlsConfig, bundle: Option<&str>) -> Result<TlsPolicy, Fault> {
    policy_with_mode(config, bundle, 0o644)
}

fn policy_with_mode(
    mut config: TlsConfig,
    bundle: Option<&str>,
    mode: u32,
) -> Result<TlsPolicy, Fault> {
    let (_dir, fs) = host();
    if let Some(pem) = bundle {
        config.ca_file = Some("/etc/corp.pem".to_owned());
        fs.write("/etc/corp.pem", pem.as_bytes(), &Attrs::mode(mode))
            .expect("write");
    }
    TlsPolicy::load(&fs, &config)
}

/// The code with which enrolment ends; `ok` when it does not fail.
async fn outcome(ca: &Arc<Authority>, server: TlsAcceptor, tls: &TlsPolicy) -> String {
    let url = serve_once(server, honest(ca, |_| {})).await;
    let token = ca.token();
    let host_id = HostId::random();
    let (_dir, fs) = host();
    let (root, _) = order_key::ensure(&fs, host_id).expect("order key");
    let enrolled = enrol(&EnrolOrder {
        plane: &url,
        token: &token,
        host_id,
        present: None,
        machine: MachineMarks::default(),
        facts: &NodeFacts::new("n1", &[]),
        root: &root,
        egress: &Egress::direct(),
        tls,
        deadline: Duration::from_secs(10),
    })
    .await;
    enrolled.map_or_else(|e| e.fault().code.to_string(), |_| "ok".to_owned())
}

const FOREIGN: &str = "plane-foreign-certificate";

#[tokio::test]
async fn a_pinned_key_must_have_signed_and_not_only_be_shown() {
    let v = &rustls::version::TLS13;
    let (ca, other) = (Arc::new(authority()), authority());
    let (key, cert) = leaf(&ca);
    let chain = vec![cert.der().clone(), ca.0.der().clone()];
    let mut decorated = chain.clone();
    decorated.push(other.0.der().clone());
    let rows = [
        (pin(&key), chain.clone(), "ok"),
        (pin(ca.0.key()), chain.clone(), "ok"),
        (pin(other.0.key()), chain.clone(), FOREIGN),
        (pin(other.0.key()), decorated, FOREIGN),
    ];
    for (pin, chain, want) in rows {
        let config = TlsConfig {
            // One of several is enough.
            pin_sha256: vec![KeyPin::of(b"old"), pin],
            ..TlsConfig::default()
        };
        let tls = policy(config, None).expect("policy");
        assert_eq!(outcome(&ca, acceptor(&key, chain, v), &tls).await, want);
    }
}

#[tokio::test]
async fn further_authorities_are_believed_when_named_and_pins_hold_for_them_too() {
    let v = &rustls::version::TLS13;
    let (ca, corp) = (Arc::new(authority()), authority());
    let (key, cert) = leaf(&corp);
    // An anchor that everybody has need not be shown.
    let server = || acceptor(&key, vec![cert.der().clone()], v);
    let with = |config| policy(config, Some(&corp.0.pem())).expect("policy");
    assert_eq!(outcome(&ca, server(), &TlsPolicy::default()).await, FOREIGN);
    assert_eq!(
        outcome(&ca, server(), &with(TlsConfig::default())).await,
        "ok"
    );
    for (key, want) in [(corp.0.key(), "ok"), (ca.0.key(), FOREIGN)] {
        let config = TlsConfig {
            pin_sha256: vec![pin(key)],
            ..TlsConfig::default()
        };
        assert_eq!(outcome(&ca, server(), &with(config)).await, want);
    }
    // The plane's own is trusted beside them.
    let own = ca.server("127.0.0.1");
    assert_eq!(outcome(&ca, own, &with(TlsConfig::default())).await, "ok");
}

#[tokio::test]
async fn an_old_version_is_spoken_only_when_asked_for() {
    let ca = Arc::new(authority());
    let (key, cert) = leaf(&ca);
    let chain = vec![cert.der().clone(), ca.0.der().clone()];
    let old = || acceptor(&key, chain.clone(), &rustls::version::TLS12);
    let lenient = TlsConfig {
        min_version: MinVersion::V1_2,
        ..TlsConfig::default()
    };
    let lenient = policy(lenient, None).expect("policy");
    assert_eq!(outcome(&ca, old(), &lenient).await, "ok");
    assert_eq!(outcome(&ca, ca.server("127.0.0.1"), &lenient).await, "ok");
    let strict = outcome(&ca, old(), &TlsPolicy::default()).await;
    assert_eq!(strict, "plane-garbage");
}

#[test]
fn a_bundle_that_is_none_is_a_fault_of_the_configuration() {
    let gone = TlsConfig {
        ca_file: Some("/etc/gone.pem".to_owned()),
        ..TlsConfig::default()
    };
    let key = KeyPair::generate().expect("key").serialize_pem();
    for result in [
        policy(gone, None),
        policy(TlsConfig::default(), Some("not PEM")),
        policy(TlsConfig::default(), Some(&key)),
        policy_with_mode(TlsConfig::default(), Some(&authority().0.pem()), 0o664),
    ] {
        let fault = result.map(drop).expect_err("refused");
        assert_eq!(fault.code, FaultCode::ConfigInvalid);
        assert!(fault.why.contains("comms.tls.ca_file"), "{fault}");
    }
}

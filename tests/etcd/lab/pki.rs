//! The authorities of the lab's cluster, and its nodes' specs.

use std::fs;
use std::net::IpAddr;

use pf9_hostagent::host::fs::{Attrs, HostFs};
use pf9_hostagent::model::{CertPurpose, Digest, EtcdMember, HostId, NodeSpec, paths};
use pf9_hostagent::nodelet::certs;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, RevokedCertParams, SanType, SerialNumber,
};
use serde_json::json;

/// One authority in place of all three.
pub(crate) struct Pki {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub(crate) authority: String,
}

impl Pki {
    pub(super) fn new() -> Self {
        pf9_hostagent::tls::install();
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "lab authority");
        let authority = params.self_signed(&key).expect("authority").pem();
        Self {
            issuer: Issuer::new(params, key),
            authority,
        }
    }

    /// The spec of this node, the only master so far. From JSON: optional fields are omitted.
    pub(super) fn spec(&self, host_id: HostId, ip: IpAddr, n: u8) -> NodeSpec {
        let stack =
            json!({"name": "pf9-kube", "version": "1.37.2-1", "manifest": Digest::of(b"lab")});
        let pem = &self.authority;
        let said = json!({
            "host_id": host_id,
            "cluster_id": "11111111-2222-4333-8444-555555555555",
            "cluster_name": "lab",
            "node_name": format!("m{n}"),
            "node_ip": ip,
            "pod_cidr": format!("10.20.{n}.0/24"),
            "stack": stack,
            "authorities": {"cluster": pem, "etcd": pem, "front_proxy": pem},
            "api": {"host": ip, "port": 6443},
            "network": {"plugin": "bridge", "pods_cidr": "10.20.0.0/16", "services_cidr": "10.21.0.0/16"},
            "etcd": {"members": founders(&[(host_id, ip)])},
        });
        serde_json::from_value(said).expect("a spec")
    }

    /// A revocation list with the client certificates of the machines below these roots.
    pub(crate) fn revoked(&self, of: &[&HostFs]) -> String {
        let at = |year| rcgen::date_time_ymd(year, 1, 1);
        let revoked = |fs: &&HostFs| RevokedCertParams {
            serial_number: serial(fs, CertPurpose::EtcdClient),
            revocation_time: at(2024),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: at(2024),
            next_update: at(2099),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: of.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("list");
        list.pem().expect("PEM")
    }

    /// Gives the machine below `fs` a key and a certificate, as the plane would.
    pub(super) fn certify(&self, fs: &HostFs, purpose: CertPurpose, spec: &NodeSpec) {
        let dir = fs.at(format!("{}/{}", paths::KUBE_CERTS, purpose.dir()));
        fs::create_dir_all(dir).expect("directory");
        certs::make_key(fs, purpose, spec).expect("key");
        let path = |name| certs::path_of(purpose, name);
        let csr = fs::read_to_string(fs.at(path(paths::CERT_CSR_FILE))).expect("request");
        let profile = purpose.profile(spec);
        let mut request = CertificateSigningRequestParams::from_pem(&csr).expect("request");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, &profile.common_name);
        params.extended_key_usages = [
            (profile.server, ExtendedKeyUsagePurpose::ServerAuth),
            (profile.client, ExtendedKeyUsagePurpose::ClientAuth),
        ]
        .into_iter()
        .filter_map(|(wanted, usage)| wanted.then_some(usage))
        .collect();
        params.serial_number = Some(serial(fs, purpose));
        let name = |san: &String| match san.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(san.as_str().try_into().expect("a name")),
        };
        params.subject_alt_names = profile.sans.iter().map(name).collect();
        request.params = params;
        let certificate = request.signed_by(&self.issuer).expect("certificate").pem();
        for (name, text) in [
            (paths::CERT_FILE, &certificate),
            (paths::CERT_CA_FILE, &self.authority),
        ] {
            fs.write(path(name), text.as_bytes(), &Attrs::mode(0o644))
                .expect("write");
        }
    }
}

/// Serial of the machine's certificate for this purpose.
fn serial(fs: &HostFs, purpose: CertPurpose) -> SerialNumber {
    let of = format!("{} {}", fs.at("/").display(), purpose.dir());
    // A positive number.
    let digest = Digest::of(of.as_bytes()).to_string();
    let digits = digest.rsplit(':').next().and_then(|d| d.get(..15));
    let digits = digits.expect("digits of a digest");
    SerialNumber::from(u64::from_str_radix(digits, 16).expect("a number"))
}

/// Members that found etcd together.
pub(super) fn founders(all: &[(HostId, IpAddr)]) -> Vec<EtcdMember> {
    let member = |(host_id, ip): &(HostId, IpAddr)| EtcdMember {
        host_id: *host_id,
        ip: *ip,
        joins: false,
    };
    all.iter().map(member).collect()
}

//! A node's certificate renewed by another authority, and keys made, broken at every point: see [`crate::seam::walk`].

use std::collections::BTreeMap;

use super::*;
use crate::host::ours::paths::WRITTEN_BY_ROOT;
use crate::host::temps;
use crate::seam::walk::{Scenario, files, walk};

const RENEWED: CertPurpose = CertPurpose::KubeletClient;
const NEW: CertPurpose = CertPurpose::Admin;

struct Certificates {
    fs: HostFs,
    node: NodeSpec,
    renewed: CertificateBatch,
    _dir: tempfile::TempDir,
}

struct NextAuthority;

impl Scenario for NextAuthority {
    const NAME: &'static str = "certificate renewal";
    type World = Certificates;

    async fn begin(&self) -> Certificates {
        let (dir, fs, cas, old) = fixture();
        let csr = csr(&fs, RENEWED, &old);
        let pem = cas.sign(&csr, RENEWED, &old, |_| ());
        accept(&fs, Role::Master, &old, &batch(&old, RENEWED, pem), now()).expect("the first");
        let next = Cas::new();
        let node = node(next.authorities.clone());
        let pem = next.sign(&csr, RENEWED, &node, |_| ());
        Certificates {
            renewed: batch(&node, RENEWED, pem),
            fs,
            node,
            _dir: dir,
        }
    }

    async fn life(&self, world: &mut Certificates, starts: bool) -> bool {
        let (fs, node) = (&world.fs, &world.node);
        if starts {
            temps::collect(fs, WRITTEN_BY_ROOT);
        }
        accept(fs, Role::Master, node, &world.renewed, now()).is_ok()
            && make_key(fs, NEW, node).is_ok()
            && make_service_account_key(fs).is_ok()
    }

    async fn end(&self, world: &mut Certificates) -> BTreeMap<String, String> {
        let (fs, node) = (&world.fs, &world.node);
        let all = material(fs, Role::Master, node).expect("material");
        assert!(all[&RENEWED].certificate.is_some(), "it belongs to its key");
        assert!(all[&NEW].request.is_some());
        assert!(service_account_key(fs).expect("read").is_some());
        // Each world has keys of its own.
        files(fs, |_| true)
    }
}

#[tokio::test]
async fn a_renewal_broken_anywhere_ends_with_the_new_certificate_and_its_authority() {
    walk(&NextAuthority, 60).await;
}

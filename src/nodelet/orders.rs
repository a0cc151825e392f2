//! What root of this host says to the plane, signed with the host's order key.
//!
//! Its carrier chooses a number of fixed length and the moment, nothing else: every field
//! of what is signed is this host's own id, the spec that is in force, keys made here, or what the
//! kernel says of the machine. So a stolen hostagent can have signed only what would have been
//! ordered anyway.

use super::context;
use super::inbox;
use super::job::Work;
use super::phase;
use crate::host::Host;
use crate::host::fs::HostFs;
use crate::host::interfaces::node_facts;
use crate::identity::order_key;
use crate::model::{
    CertificateOrder, CertificateRequest, DocumentKind, Envelope, FactsReport, Fault, FaultCode,
    HostId, NodeStatus, Nonce, ORDER_SCHEMA,
};
use crate::telemetry::chain;

const NO_ORDER: &str = "no certificate is ordered";
const NO_FACTS: &str = "cannot report this machine's name and addresses";

/// What a node wants that only the plane can give.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wanted {
    requests: Vec<CertificateRequest>,
    /// For a master.
    service_account_key: Option<String>,
}

/// Orders what this node wants now.
pub fn order(
    host: &Host,
    work: Option<&Work>,
    status: &NodeStatus,
    nonce: Nonce,
) -> Result<Envelope, Fault> {
    let (trust, host_id) = inbox::trust_anchors(&host.fs)?;
    let wanted = match work {
        None => Wanted::default(),
        Some(Work { role, node, .. }) => {
            let now = crate::seam::clock::now();
            let (ctx, _) = context::gather(host, &trust, host_id, *role, node, None, now)?;
            Wanted {
                requests: phase::wanted_certificates(&ctx),
                service_account_key: ctx.service_account_key,
            }
        }
    };
    let order = draft(host_id, work, status, wanted, nonce)?;
    sign(&host.fs, host_id, NO_ORDER, DocumentKind::Order, &order)
}

/// Says what this machine is.
pub fn facts(fs: &HostFs, nonce: Nonce) -> Result<Envelope, Fault> {
    let (_, host_id) = inbox::trust_anchors(fs)?;
    let facts = node_facts(fs).map_err(|e| Fault::new(FaultCode::Facts, NO_FACTS, chain(&e)))?;
    let report = FactsReport {
        schema: ORDER_SCHEMA,
        host_id,
        nonce,
        facts,
    };
    sign(fs, host_id, NO_FACTS, DocumentKind::Facts, &report)
}

/// What a person should know before the first order fails.
pub fn warnings(fs: &HostFs) -> Vec<Fault> {
    let host_id = crate::identity::host_id(fs).ok().flatten();
    host_id
        .and_then(|host_id| order_key::fault(fs, host_id))
        .into_iter()
        .collect()
}

/// The order, if there is anything to order.
fn draft(
    host_id: HostId,
    work: Option<&Work>,
    status: &NodeStatus,
    wanted: Wanted,
    nonce: Nonce,
) -> Result<CertificateOrder, Fault> {
    let Some(Work {
        generation,
        role,
        node,
    }) = work
    else {
        return Err(Fault::new(
            FaultCode::OrderEmpty,
            NO_ORDER,
            "this host has no role",
        ));
    };
    // Until the loop works on this spec, the keys here may be those of a node this host was before.
    let begun = status.generation == *generation
        && status.role == *role
        && status.cluster_id == Some(node.cluster_id);
    if !begun {
        let why = format!("spec generation {generation} is not being reconciled yet");
        return Err(Fault::new(FaultCode::OrderEarly, NO_ORDER, why));
    }
    let key = &wanted.service_account_key;
    let untold = key
        .as_ref()
        .is_some_and(|k| !node.service_account_keys.contains(k));
    if wanted.requests.is_empty() && !untold {
        let why = "every certificate of this node is valid, and its keys are known";
        return Err(Fault::new(FaultCode::OrderEmpty, NO_ORDER, why));
    }
    Ok(CertificateOrder {
        schema: ORDER_SCHEMA,
        host_id,
        cluster_id: node.cluster_id,
        generation: *generation,
        nonce,
        requests: wanted.requests,
        service_account_key: wanted.service_account_key,
    })
}

fn sign<T: serde::Serialize>(
    fs: &HostFs,
    host_id: HostId,
    what: &str,
    kind: DocumentKind,
    document: &T,
) -> Result<Envelope, Fault> {
    let key =
        order_key::load(fs, host_id).map_err(|e| e.fault(what).fix(order_key::remedy(host_id)))?;
    key.sign(kind, document)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::fs::Attrs;
    use crate::model::{
        CertPurpose, CertificateBatch, Digest, Generation, IssuedCertificate, Role, TrustStore,
        paths,
    };
    use crate::nodelet::certs;
    use crate::nodelet::status::NodeBoard;
    use crate::nodelet::testing::{Cas, enrolled, host_id, node};

    struct World {
        host: Host,
        work: Option<Work>,
        status: NodeStatus,
        trust: TrustStore,
        cas: Cas,
        _dir: tempfile::TempDir,
    }

    impl World {
        fn new(role: Role) -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            let fs = HostFs::new(dir.path());
            enrolled(&fs);
            let (key, _) = order_key::ensure(&fs, host_id()).expect("order key");
            fs.write("/proc/sys/kernel/hostname", b"n1\n", &Attrs::mode(0o644))
                .expect("name");
            let cas = Cas::new();
            let node = node(cas.authorities.clone());
            let (mut board, status) = NodeBoard::new(&fs);
            board.spec(Generation(3), role, Some(node.cluster_id));
            let status = status.borrow().clone();
            Self {
                host: Host::new(fs),
                work: Some(Work {
                    generation: Generation(3),
                    role,
                    node: Arc::new(node),
                }),
                status,
                trust: TrustStore::new([key.public()]).expect("trust"),
                cas,
                _dir: dir,
            }
        }

        fn order(&self) -> Result<CertificateOrder, String> {
            let signed = order(&self.host, self.work.as_ref(), &self.status, nonce());
            let signed = signed.map_err(|f| f.code.to_string())?;
            Ok(signed
                .open(DocumentKind::Order, &self.trust)
                .expect("signed"))
        }

        /// The key of a purpose is made, as the loop does.
        fn make(&self, purpose: CertPurpose) {
            let work = self.work.as_ref().expect("node");
            certs::make_key(&self.host.fs, purpose, &work.node).expect("key");
        }
    }

    fn nonce() -> Nonce {
        Nonce(Digest::of(b"n"))
    }

    #[test]
    fn what_is_wanted_now_is_ordered_and_nothing_else() {
        let world = World::new(Role::Worker);
        assert_eq!(
            world.order().map(drop),
            Err("order-empty".into()),
            "no key is made"
        );
        world.make(CertPurpose::KubeletClient);
        // Somebody's key for a purpose that a worker has not.
        world.make(CertPurpose::Admin);
        let order = world.order().expect("order");
        let purposes: Vec<_> = order.requests.iter().map(|r| r.purpose).collect();
        assert_eq!(purposes, [CertPurpose::KubeletClient]);
        let Work { role, node, .. } = world.work.clone().expect("node");
        assert_eq!(
            (
                order.host_id,
                order.cluster_id,
                order.generation,
                order.nonce
            ),
            (host_id(), node.cluster_id, Generation(3), nonce())
        );
        assert_eq!(order.service_account_key, None);
        // With the certificate there is nothing left to order.
        let csr = &order.requests[0].csr;
        let pem = world
            .cas
            .sign(csr, CertPurpose::KubeletClient, &node, |_| ());
        let batch = CertificateBatch {
            cluster_id: node.cluster_id,
            certificates: vec![IssuedCertificate {
                purpose: CertPurpose::KubeletClient,
                certificate: pem,
            }],
        };
        certs::accept(
            &world.host.fs,
            role,
            &node,
            &batch,
            crate::seam::clock::now(),
        )
        .expect("accept");
        assert_eq!(world.order().map(drop), Err("order-empty".into()));
    }

    #[test]
    fn a_masters_key_is_told_until_the_spec_knows_it() {
        let mut world = World::new(Role::Master);
        certs::make_service_account_key(&world.host.fs).expect("key");
        let order = world.order().expect("order");
        assert!(order.requests.is_empty());
        let key = order.service_account_key.expect("key");
        if let Some(work) = &mut world.work {
            Arc::make_mut(&mut work.node).service_account_keys = vec![key];
        }
        assert_eq!(world.order().map(drop), Err("order-empty".into()));
    }

    #[test]
    fn keys_of_another_node_are_not_ordered_for() {
        let mut world = World::new(Role::Worker);
        world.make(CertPurpose::KubeletClient);
        world.order().expect("order");
        let good = world.status.clone();
        world.status.generation = Generation(2);
        assert_eq!(world.order().map(drop), Err("order-early".into()));
        world.status = good.clone();
        world.status.cluster_id = None;
        assert_eq!(world.order().map(drop), Err("order-early".into()));
        world.status = good;
        world.work = None;
        assert_eq!(world.order().map(drop), Err("order-empty".into()));
    }

    #[test]
    fn the_kernels_word_is_what_the_machine_is() {
        let world = World::new(Role::Worker);
        let signed = facts(&world.host.fs, nonce()).expect("facts");
        let report: FactsReport = signed
            .open(DocumentKind::Facts, &world.trust)
            .expect("signed");
        assert_eq!((report.host_id, report.nonce), (host_id(), nonce()));
        assert_eq!(report.facts.hostname, "n1");
        // One document is never taken for another.
        assert!(signed.verify(DocumentKind::Order, &world.trust).is_err());
    }

    #[test]
    fn without_its_key_nothing_is_signed() {
        let world = World::new(Role::Worker);
        world.make(CertPurpose::KubeletClient);
        world.host.fs.remove_file(paths::ORDER_KEY).expect("remove");
        let fault = facts(&world.host.fs, nonce()).expect_err("no key");
        assert_eq!(fault.code, FaultCode::IdentityIncomplete);
        assert!(fault.fix.contains("node prep --force"), "{fault}");
        assert_eq!(world.order().map(drop), Err("identity-incomplete".into()));
    }
}

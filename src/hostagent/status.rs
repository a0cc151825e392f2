//! The status document from the facts: pure.

use std::collections::BTreeSet;

use super::board::{Delivery, Gathered};
use crate::model::document::AGENT_VERSION;
use crate::model::{
    AgentStatus, Expiry, ExtensionsStatus, Fault, FaultCode, Generation, HostId, HostStatus,
    NodeState, NodeStatus, Role, STATUS_SCHEMA, Timestamp,
};

/// What the machine says about itself at the moment of assembly.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) now: Timestamp,
    pub(super) uptime_s: u64,
}

/// What never changes while the process runs.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) host_id: HostId,
    pub(super) boot_id: String,
}

/// Puts the document together.
pub(super) fn assemble(origin: &Origin, facts: &Gathered, moment: &Moment) -> HostStatus {
    let (state, reason) = node_state(facts);
    let mut node = facts.node.as_deref().cloned();
    let (mut health, mut inventory) = (facts.health.clone(), facts.inventory.clone());
    if let Some(node) = &mut node {
        health.warnings.append(&mut node.warnings);
        health.disks.append(&mut node.disks);
        if let Some(extensions) = node.extensions.take() {
            health.warnings.extend(of_operators(&extensions));
            inventory.extensions = extensions.facts;
        }
        let address = node.api_address.as_ref();
        health
            .warnings
            .extend(address.and_then(|a| a.fault.clone()));
    }
    let faults = [
        &facts.spool_fault,
        &facts.plane_fault,
        &facts.facts_fault,
        &facts.trust_fault,
        &facts.machine_fault,
    ];
    for fault in faults {
        health.warnings.extend(fault.clone());
    }
    health.warnings.extend(facts.notices.iter().cloned());
    let certificates = certificates(facts);
    let ends = certificates.iter().filter_map(|c| c.warning(moment.now));
    health.warnings.extend(ends);
    HostStatus {
        schema: STATUS_SCHEMA,
        host_id: origin.host_id,
        agent_version: AGENT_VERSION.to_owned(),
        boot_id: origin.boot_id.clone(),
        uptime_s: moment.uptime_s,
        sent_at: moment.now,
        acknowledged_at: facts.acknowledged_at,
        accepted_generation: facts.generation(),
        observed_generation: observed(facts),
        state,
        reason,
        refused: facts.refused.clone(),
        node,
        download: facts.download.clone(),
        certificates,
        inventory,
        health,
        trust: facts.trust.clone(),
        agent: facts.agent.clone().unwrap_or_else(|| AgentStatus {
            version: AGENT_VERSION.parse().ok(),
            ..AgentStatus::default()
        }),
    }
}

/// Operators' checks that are not as they should be, and programs that count for nothing.
fn of_operators(said: &ExtensionsStatus) -> impl Iterator<Item = Fault> {
    let checks = said.checks.iter().filter(|(_, check)| !check.ok);
    let checks = checks.map(|(name, check)| {
        let what = format!("the operator's check {name} fails");
        Fault::new(FaultCode::ExtensionCheck, what, check.found.clone()).fix(check.fix.clone())
    });
    let bad = said.bad.iter().map(|(name, why)| {
        let what = format!("the operator's program {name} is ignored");
        Fault::new(FaultCode::ExtensionBad, what, why.clone())
            .fix("pf9ctl node check runs it and reports the same; see docs/extensions.md")
    });
    checks.chain(bad)
}

/// The certificates of the tunnel and of the node.
fn certificates(facts: &Gathered) -> Vec<Expiry> {
    let node = facts.node.iter().flat_map(|n| &n.certificates);
    let wanted = facts.node.iter().flat_map(|n| &n.certificate_requests);
    let wanted: BTreeSet<&str> = wanted.map(|r| r.purpose.dir()).collect();
    // What is asked for again and cannot be had says why.
    let of_node = |certificate| {
        let mut expiry = Expiry::from(certificate);
        if wanted.contains(expiry.name.as_str()) {
            expiry.fault.clone_from(&facts.relay_fault);
        }
        expiry
    };
    let tunnel = facts.tunnel.iter().cloned();
    tunnel.chain(node.map(of_node)).collect()
}

/// What must be different for a status to be sent before its time: everything but clocks, and
/// numbers that always move.
pub(super) fn essence(status: &HostStatus) -> HostStatus {
    let mut essence = status.clone();
    essence.sent_at = Timestamp::UNIX_EPOCH;
    essence.acknowledged_at = None;
    essence.uptime_s = 0;
    essence.health.load1 = 0.0;
    essence.health.memory_available_bytes = 0;
    essence.health.pressure = None;
    for disk in &mut essence.health.disks {
        disk.available_bytes = 0;
    }
    for daemon in &mut essence.health.daemons {
        daemon.memory_bytes = 0;
    }
    // The words of a warning hold such numbers; that there is one is its code.
    for warning in &mut essence.health.warnings {
        warning.why = String::new();
        warning.next_try = None;
    }
    for fault in essence
        .certificates
        .iter_mut()
        .filter_map(|c| c.fault.as_mut())
    {
        fault.next_try = None;
    }
    let faults = essence
        .reason
        .iter_mut()
        .chain(essence.download.iter_mut().filter_map(|d| d.fault.as_mut()))
        .chain(essence.agent.why.as_mut());
    for fault in faults {
        fault.next_try = None;
    }
    if let Some(node) = &mut essence.node {
        node.revision = 0;
        node.last_sweep_at = None;
        if let Some(reason) = &mut node.reason {
            reason.next_try = None;
        }
    }
    essence
}

/// State and reason of the host: nodelet's word, unless something before nodelet is in the way.
fn node_state(facts: &Gathered) -> (NodeState, Option<Fault>) {
    match &facts.delivery {
        Delivery::Refused(generation, fault) if *generation == facts.generation() => {
            return (NodeState::Retrying, Some(fault.clone()));
        }
        Delivery::Unreachable(fault) => return (NodeState::Retrying, Some(fault.clone())),
        Delivery::Idle | Delivery::Taken(..) | Delivery::Refused(..) => {}
    }
    let needed = facts.nodelet_needed || facts.role() != Role::None || facts.rests();
    let Some(node) = facts.node.as_ref().filter(|_| needed) else {
        return match (needed, &facts.node_fault) {
            (false, _) => (NodeState::Ok, None),
            (true, Some(fault)) => (NodeState::Retrying, Some(fault.clone())),
            (true, None) => (NodeState::Converging, Some(on_its_way(facts.generation()))),
        };
    };
    if let Some(fault) = &facts.node_fault {
        return (NodeState::Retrying, Some(fault.clone()));
    }
    // What nodelet holds on to says why, whatever it knows of the newest spec.
    if node.generation < facts.generation() && !node.wants_spec {
        return (NodeState::Converging, Some(on_its_way(facts.generation())));
    }
    behind_nodelet(facts, node).unwrap_or_else(|| (node.state, node.reason.clone()))
}

/// When nodelet waits for something this process is to bring, its failure is the reason.
fn behind_nodelet(facts: &Gathered, node: &NodeStatus) -> Option<(NodeState, Option<Fault>)> {
    let waits = match node.state {
        NodeState::Converging | NodeState::Retrying => true,
        NodeState::Ok | NodeState::Failed | NodeState::Maintenance => false,
    };
    let stack = facts
        .download
        .as_ref()
        .filter(|_| node.wants_stack.is_some())
        .and_then(|d| d.fault.as_ref());
    let certificates = facts
        .relay_fault
        .as_ref()
        .filter(|_| !node.certificate_requests.is_empty());
    let fault = stack.or(certificates).filter(|_| waits)?;
    Some((NodeState::Retrying, Some(fault.clone())))
}

fn on_its_way(generation: Generation) -> Fault {
    Fault::new(
        FaultCode::SpecOnItsWay,
        format!("spec generation {generation} is not being reconciled yet"),
        "nodelet has just received it",
    )
}

/// The spec the state speaks of.
fn observed(facts: &Gathered) -> Generation {
    let needed = facts.nodelet_needed || facts.role() != Role::None;
    match &facts.node {
        Some(node) if needed => node.generation.min(facts.generation()),
        None if needed => Generation::default(),
        Some(_) | None => facts.generation(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::{
        Accepted, Assignment, CertPurpose, CertificateRequest, Digest, DocumentKind,
        DownloadStatus, ExtensionCheck, FactValue, LinkChange, LinkEvent, Pressure, SigningKey,
        Spec, StackRef,
    };

    fn origin() -> Origin {
        Origin {
            host_id: HostId::random(),
            boot_id: "boot".into(),
        }
    }

    fn moment(s: i64) -> Moment {
        Moment {
            now: Timestamp::from_second(s).expect("time"),
            uptime_s: s.unsigned_abs(),
        }
    }

    fn facts(generation: u64) -> Gathered {
        let spec = Spec {
            schema: 1,
            host_id: HostId::random(),
            generation: Generation(generation),
            issued_at: Timestamp::UNIX_EPOCH,
            assignment: Assignment::None,
            force: false,
            agent: None,
            maintenance: None,
        };
        let key = SigningKey::generate().expect("key").0;
        Gathered {
            spec: Some(Arc::new(Accepted {
                envelope: key.sign(DocumentKind::Spec, b"{}"),
                spec,
            })),
            nodelet_needed: true,
            ..Gathered::default()
        }
    }

    pub(in crate::hostagent) fn node(generation: u64, state: NodeState) -> NodeStatus {
        NodeStatus {
            revision: 1,
            generation: Generation(generation),
            state,
            ..NodeStatus::default()
        }
    }

    fn fault(code: FaultCode) -> Fault {
        Fault::new(code, "cannot x", "y")
    }

    fn judged(facts: &Gathered) -> (NodeState, Option<String>, u64) {
        let status = assemble(&origin(), facts, &moment(1));
        let code = status.reason.map(|r| r.code.to_string());
        (status.state, code, status.observed_generation.0)
    }

    #[test]
    fn a_host_without_a_role_is_ok_and_needs_no_nodelet() {
        let mut idle = facts(3);
        idle.nodelet_needed = false;
        assert_eq!(judged(&idle), (NodeState::Ok, None, 3));
        assert_eq!(judged(&Gathered::default()), (NodeState::Ok, None, 0));
    }

    #[test]
    fn nodelets_word_counts_when_it_is_about_this_spec() {
        let mut f = facts(3);
        let code = |c: &str| Some(c.to_owned());
        assert_eq!(
            judged(&f),
            (NodeState::Converging, code("spec-on-its-way"), 0)
        );
        f.node = Some(Arc::new(node(2, NodeState::Ok)));
        assert_eq!(
            judged(&f),
            (NodeState::Converging, code("spec-on-its-way"), 2)
        );
        f.node = Some(Arc::new(node(3, NodeState::Failed)));
        assert_eq!(judged(&f), (NodeState::Failed, None, 3));
        f.node_fault = Some(fault(FaultCode::LocalUnreachable));
        assert_eq!(
            judged(&f),
            (NodeState::Retrying, code("local-unreachable"), 3)
        );
    }

    #[test]
    fn what_operators_programs_report_is_in_the_document_under_their_names() {
        let mut f = facts(3);
        let mut n = node(3, NodeState::Ok);
        let check = |ok| ExtensionCheck {
            ok,
            found: "1 of 2 disks".into(),
            fix: "replace /dev/sdb".into(),
        };
        let of_rack = BTreeMap::from([("slots".to_owned(), FactValue::Number(4.0))]);
        let said = BTreeMap::from([("rack".to_owned(), of_rack)]);
        n.extensions = Some(ExtensionsStatus {
            checks: BTreeMap::from([
                ("raid/md0".to_owned(), check(false)),
                ("raid/md1".to_owned(), check(true)),
            ]),
            facts: said.clone(),
            bad: BTreeMap::from([("check.d/open".to_owned(), "not run".to_owned())]),
        });
        f.node = Some(Arc::new(n));
        let status = assemble(&origin(), &f, &moment(1));
        assert_eq!((status.state, status.reason), (NodeState::Ok, None));
        assert_eq!(status.inventory.extensions, said);
        let shown = |w: &Fault| (w.code, w.what.clone(), w.why.clone());
        let shown: Vec<_> = status.health.warnings.iter().map(shown).collect();
        let want = [
            (FaultCode::ExtensionCheck, "raid/md0 fails", "1 of 2 disks"),
            (
                FaultCode::ExtensionBad,
                "check.d/open is ignored",
                "not run",
            ),
        ];
        assert_eq!(shown.len(), want.len(), "{shown:#?}");
        for ((code, what, why), (want, end, words)) in shown.iter().zip(want) {
            assert_eq!((*code, why.as_str()), (want, words));
            assert!(what.ends_with(end), "{what}");
        }
    }

    #[test]
    fn what_keeps_nodelet_waiting_is_the_reason() {
        let mut f = facts(3);
        let mut n = node(3, NodeState::Converging);
        n.wants_stack = Some(StackRef {
            name: "a".into(),
            version: "1".into(),
            manifest: Digest::of(b""),
        });
        f.download = n.wants_stack.clone().map(|stack| DownloadStatus {
            stack,
            have: 1,
            total: 2,
            fault: Some(fault(FaultCode::DiskFull)),
        });
        f.node = Some(Arc::new(n.clone()));
        assert_eq!(judged(&f).1.as_deref(), Some("disk-full"));

        n.wants_stack = None;
        n.certificate_requests.push(CertificateRequest {
            purpose: CertPurpose::Admin,
            csr: String::new(),
        });
        f.node = Some(Arc::new(n));
        f.relay_fault = Some(fault(FaultCode::PlaneAway));
        assert_eq!(judged(&f).1.as_deref(), Some("plane-away"));
    }

    #[test]
    fn a_spec_nodelet_refuses_is_said_with_its_words() {
        let mut f = facts(3);
        f.node = Some(Arc::new(node(2, NodeState::Ok)));
        f.delivery = Delivery::Refused(Generation(3), fault(FaultCode::DocumentUntrusted));
        assert_eq!(judged(&f).1.as_deref(), Some("document-untrusted"));
        f.delivery = Delivery::Refused(Generation(2), fault(FaultCode::DocumentUntrusted));
        assert_eq!(judged(&f).1.as_deref(), Some("spec-on-its-way"));
    }

    #[test]
    fn a_renewal_of_the_nodes_that_fails_says_why() {
        let at = |s| Timestamp::from_second(s).expect("time");
        let mut n = node(3, NodeState::Ok);
        for name in ["kubelet/server", "nodelet/apiserver"] {
            n.certificates.push(crate::model::CertificateStatus {
                name: name.into(),
                authority: crate::model::Authority::Cluster,
                not_before: at(0),
                not_after: at(500),
                digest: crate::model::Digest::of(b"leaf"),
                issuer: crate::model::Digest::of(b"authority"),
            });
        }
        n.certificate_requests.push(CertificateRequest {
            purpose: CertPurpose::Nodelet,
            csr: String::new(),
        });
        let mut f = facts(3);
        f.node = Some(Arc::new(n));
        let warned = |f: &Gathered| {
            let warnings = assemble(&origin(), f, &moment(50)).health.warnings;
            warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            warned(&f),
            Vec::<String>::new(),
            "it was only just asked for"
        );
        f.relay_fault = Some(Fault::new(
            FaultCode::EtcdCertificatesFull,
            "the certificate is not signed",
            "the plane's authority has ended",
        ));
        let [said] = &warned(&f)[..] else {
            panic!("{:?}", warned(&f));
        };
        assert!(
            said.starts_with("certificate nodelet/apiserver is not renewed"),
            "{said}"
        );
        assert!(said.contains("the plane's authority has ended"), "{said}");
    }

    #[test]
    fn certificates_are_told_of_and_warned_of_until_they_are_renewed() {
        let at = |s| Timestamp::from_second(s).expect("time");
        let mut f = facts(3);
        f.tunnel = vec![Expiry {
            renew_at: Some(at(60)),
            ..Expiry::new("host", at(90))
        }];
        let mut n = node(3, NodeState::Ok);
        n.certificates.push(crate::model::CertificateStatus {
            name: "kubelet/server".into(),
            authority: crate::model::Authority::Cluster,
            not_before: at(0),
            not_after: at(500),
            digest: crate::model::Digest::of(b"leaf"),
            issuer: crate::model::Digest::of(b"authority"),
        });
        f.node = Some(Arc::new(n));
        let told = |f: &Gathered, now| {
            let status = assemble(&origin(), f, &moment(now));
            let names: Vec<_> = status.certificates.iter().map(|c| c.name.clone()).collect();
            assert_eq!(names, ["host", "kubelet/server"]);
            let warnings = status.health.warnings.into_iter();
            warnings.map(|w| w.code.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(told(&f, 50), Vec::<String>::new());
        assert_eq!(told(&f, 80), ["certificate-not-renewed"]);
        assert_eq!(told(&f, 90), ["certificate-expired"]);
        f.tunnel = vec![Expiry {
            renew_at: Some(at(150)),
            ..Expiry::new("host", at(180))
        }];
        assert_eq!(told(&f, 95), Vec::<String>::new());
    }

    #[test]
    fn what_nodelet_warns_of_is_told_with_what_else_is_wrong() {
        let mut f = facts(3);
        let mut n = node(3, NodeState::Ok);
        n.warnings = vec![fault(FaultCode::OrderKeyUnusable)];
        f.node = Some(Arc::new(n));
        f.machine_fault = Some(fault(FaultCode::MachineUnknown));
        let status = assemble(&origin(), &f, &moment(1));
        assert_eq!(status.state, NodeState::Ok, "the role is as it should be");
        let codes: Vec<_> = status.health.warnings.iter().map(|w| w.code).collect();
        assert_eq!(
            codes,
            [FaultCode::OrderKeyUnusable, FaultCode::MachineUnknown]
        );
        assert_eq!(status.node.expect("node").warnings, [], "once is enough");
    }

    #[test]
    fn clocks_and_moving_numbers_are_not_news() {
        let origin = origin();
        let mut f = facts(3);
        f.health.daemons = vec![crate::model::DaemonHealth {
            unit: "pf9-comms.service".into(),
            memory_bytes: 7,
            limit_bytes: 100,
        }];
        let before = assemble(&origin, &f, &moment(1));
        f.health.load1 = 7.5;
        f.health.daemons[0].memory_bytes = 99;
        f.health.pressure = Some(Pressure::default());
        f.acknowledged_at = Some(Timestamp::MAX);
        let after = assemble(&origin, &f, &moment(99));
        assert_ne!(before, after);
        assert_eq!(essence(&before), essence(&after));
        f.health.warnings.push(fault(FaultCode::DiskFull));
        let news = assemble(&origin, &f, &moment(99));
        assert_ne!(essence(&after), essence(&news));
        f.health.link_changes.push(LinkChange {
            at: Timestamp::UNIX_EPOCH,
            name: "eth0".into(),
            what: LinkEvent::Down,
        });
        let more = assemble(&origin, &f, &moment(99));
        assert_ne!(essence(&news), essence(&more), "a link that is down is");
    }
}

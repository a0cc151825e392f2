//! Hosts, nodes and clusters as operators see them: JSON from rows, pure.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::machines::Copy;
use super::maintenance;
use super::records::{Cluster, Host, IssuedSpec, Member, ReceivedStatus, Stack};
use super::shared_address;
use super::stacks;
use super::zones;
use pf9_hostagent::model::{Fault, Fit, Generation, HostStatus, NodeState, OidcIssuer, Role};

/// A host silent for longer counts as not responding; the figure operators know.
const RESPONDING: SignedDuration = SignedDuration::from_secs(210);
/// The same while it converges.
const RESPONDING_BUSY: SignedDuration = SignedDuration::from_secs(300);
/// The role of a host that may be a node.
pub(super) const ROLE: &str = "pf9-kube";

/// The host of this status reports often enough.
pub(super) fn is_responding(said: &ReceivedStatus, now: Timestamp) -> bool {
    is_heard(said.status.state, said.received_at, now)
}

/// The same, from the state and the time of the last report.
pub(super) fn is_heard(state: NodeState, at: Timestamp, now: Timestamp) -> bool {
    let patience = match state {
        NodeState::Ok | NodeState::Failed | NodeState::Maintenance => RESPONDING,
        NodeState::Converging | NodeState::Retrying => RESPONDING_BUSY,
    };
    now.duration_since(at) < patience
}

/// The state of a host whose newest spec is `wanted`.
pub(super) fn state_of(status: &HostStatus, wanted: Generation) -> NodeState {
    let behind = wanted > status.observed_generation;
    match status.state {
        NodeState::Ok if behind => NodeState::Converging,
        NodeState::Ok
        | NodeState::Converging
        | NodeState::Retrying
        | NodeState::Failed
        | NodeState::Maintenance => status.state,
    }
}

/// All that is known about one host.
pub(super) struct Known {
    pub(super) host: Host,
    pub(super) status: Option<ReceivedStatus>,
    pub(super) spec: Option<IssuedSpec>,
    pub(super) copy: Option<Copy>,
    pub(super) connected: bool,
    pub(super) now: Timestamp,
}

impl Known {
    /// It reported recently.
    pub(super) fn responding(&self) -> bool {
        let status = self.status.as_ref();
        status.is_some_and(|s| is_responding(s, self.now))
    }

    /// The host's state, if its report is about the spec in force.
    pub(super) fn state(&self) -> Option<NodeState> {
        let status = &self.status.as_ref()?.status;
        Some(state_of(status, self.wanted()))
    }

    fn wanted(&self) -> Generation {
        self.spec.as_ref().map(|s| s.generation).unwrap_or_default()
    }

    fn word(&self) -> &'static str {
        match self.state() {
            Some(_) if !self.responding() => "disconnected",
            Some(state) => state.as_str(),
            None => "converging",
        }
    }

    /// As resmgr shows it.
    pub(super) fn host_json(&self) -> Value {
        let status = self.status.as_ref();
        let inventory = status.map(|s| &s.status.inventory);
        let warnings: Vec<Value> = status
            .iter()
            .flat_map(|s| &s.status.health.warnings)
            .map(|f| json!({"code": f.code, "message": f.to_string()}))
            .collect();
        let mut pf9 = status
            .and_then(|s| serde_json::to_value(&s.status).ok())
            .unwrap_or_else(|| json!({}));
        pf9["received_at"] = json!(status.map(|s| s.received_at));
        pf9["connected"] = json!(self.connected);
        pf9["facts"] = json!(self.host.facts);
        pf9["generation"] = json!(self.wanted());
        pf9["copy"] = json!(self.copy);
        pf9["maintenance"] = json!(self.host.maintenance.as_ref().map(maintenance::shown));
        json!({
            "id": self.host.id,
            "roles": if self.host.authorised { vec![ROLE] } else { Vec::new() },
            "role_status": self.host.authorised.then(|| self.word()),
            "info": {
                "hostname": inventory.map_or(&self.host.hostname, |i| &i.hostname),
                "os_family": "Linux",
                "arch": inventory.map(|i| &i.arch),
                "os_info": inventory.map(|i| &i.os),
                "cpu_info": inventory.map(|i| json!({"cpu_cores": i.cpus, "cpu_model": i.cpu_model})),
                "responding": self.responding(),
                "last_response_time": status.map(|s| s.received_at),
            },
            "message": {"warn": warnings},
            "extensions": {
                "interfaces": inventory.map(|i| &i.interfaces),
                "ip_address": inventory.map(|i| &i.addresses),
            },
            "cluster": self.host.cluster,
            "project": self.host.project,
            "enrolled_at": self.host.enrolled_at,
            "certificate_not_after": self.host.renewal.ends,
            "reenrol_allowed_until": self.host.renewal.allowed_until,
            "pf9": pf9,
        })
    }

    /// As qbert shows it.
    pub(super) fn node_json(&self, cluster: Option<&Cluster>) -> Value {
        let member = cluster.and_then(|c| c.member(self.host.id));
        let report = self.status.as_ref().map(|s| &s.status);
        let node = report.and_then(|s| s.node.as_ref());
        let hostname = report.map_or(&self.host.hostname, |s| &s.inventory.hostname);
        let name = member.map_or_else(|| hostname.to_lowercase(), |m| m.node_name.to_string());
        let address = report.and_then(|s| s.inventory.addresses.first().copied());
        json!({
            "uuid": self.host.id,
            "name": name,
            "clusterUuid": cluster.map(|c| c.id),
            "clusterName": cluster.map(|c| &c.name),
            "primaryIp": member.map(|m| m.ip).or(address),
            "isMaster": u8::from(member.is_some_and(is_master)),
            "status": self.word(),
            "startKube": u8::from(member.is_some()),
            "api_responding": u8::from(self.api_responding(member)),
            "podCidr": member.map(|m| m.pod_cidr),
            "zone": member.and_then(|m| m.zone.as_ref()),
            "region": member.and_then(|m| m.region.as_ref()),
            "pf9": {
                "state": self.state(),
                "reason": report.and_then(|s| s.reason.as_ref()),
                "refused": report.and_then(|s| s.refused.as_ref()),
                "phases": node.map(|n| &n.phases),
                "current_step": node.and_then(|n| n.current_step.as_ref()),
                "attempts": node.map(|n| n.attempts),
                "download": report.and_then(|s| s.download.as_ref()),
                "generation": self.wanted(),
                "observed_generation": report.map(|s| s.observed_generation),
                "connected": self.connected,
            },
        })
    }

    fn api_responding(&self, member: Option<&Member>) -> bool {
        member.is_some_and(is_master)
            && self.connected
            && self.responding()
            && self.state() == Some(NodeState::Ok)
    }
}

fn is_master(member: &Member) -> bool {
    member.role == Role::Master
}

/// A cluster as qbert shows it, with its nodes; `patch`: why the patch that its policy asks for does not start.
pub(super) fn cluster_json(cluster: &Cluster, nodes: &[Known], patch: Option<&Fault>) -> Value {
    let s = &cluster.settings;
    let masters = cluster.masters().count();
    let under_way = cluster.roll.as_ref().filter(|r| r.is_under_way());
    json!({
        "uuid": cluster.id,
        "name": cluster.name,
        "projectId": cluster.project,
        "status": cluster_status(cluster, nodes),
        "created_at": cluster.created_at,
        "containersCidr": s.pods_cidr,
        "servicesCidr": s.services_cidr,
        "networkPlugin": s.network_plugin,
        "networkPolicies": s.network_policies,
        "loadBalancer": {"addresses": s.load_balancer},
        "addonsOff": s.addons_off,
        "dnsZone": s.cluster_domain,
        "mtuSize": s.mtu,
        "k8sApiPort": s.api_port,
        "masterIp": s.master_ip,
        "masterVipEnabled": s.master_vip,
        "masterVipHolder": shared_address::holder(cluster, nodes).map(|m| &m.node_name),
        "externalDnsName": s.external_dns_name,
        "allowWorkloadsOnMaster": s.allow_workloads_on_master,
        "labels": s.labels,
        "runtime": s.runtime,
        "kubelet": s.kubelet,
        "oidc": s.oidc.iter().map(issuer_json).collect::<Vec<_>>(),
        "podSecurity": {
            "enforce": s.pod_security.enforce,
            "warn": s.pod_security.warn(),
            "audit": s.pod_security.audit(),
            "version": s.pod_security.version(),
            "exemptNamespaces": s.pod_security.exempt(),
        },
        "audit": {
            "off": s.audit.off,
            "keepDays": (!s.audit.off).then(|| s.audit.keep_days()),
        },
        "etcdReplaceAfterSeconds": s.etcd_replace_after_s,
        "stack": cluster.stack.version,
        "stackManifest": cluster.stack.manifest,
        "kubeRoleVersion": cluster.stack.version,
        "upgradingTo": under_way.map(|r| &r.to.version),
        "upgrade": {"window": s.upgrade.window, "patches": s.upgrade.patches},
        "warnings": cluster_warnings(cluster, nodes, patch),
        "numMasters": masters,
        "numWorkers": cluster.members.len() - masters,
    })
}

fn cluster_warnings(cluster: &Cluster, nodes: &[Known], patch: Option<&Fault>) -> Vec<String> {
    let zones = zones::fault(cluster).map(|why| format!("zones: {why}"));
    zones
        .into_iter()
        .chain(shared_address::warnings(cluster, nodes))
        .chain(patch.map(ToString::to_string))
        .collect()
}

/// Without its authority: nobody reads that.
fn issuer_json(issuer: &OidcIssuer) -> Value {
    json!({
        "url": issuer.url,
        "audiences": issuer.audiences,
        "username": issuer.username,
        "groups": issuer.groups,
        "requiredClaims": issuer.required_claims,
    })
}

fn cluster_status(cluster: &Cluster, nodes: &[Known]) -> &'static str {
    if cluster.members.is_empty() {
        return "pending";
    }
    if cluster.masters().next().is_none() {
        return "failed";
    }
    let words: Vec<&str> = nodes.iter().map(Known::word).collect();
    if words.contains(&"failed") {
        "failed"
    } else if words.iter().all(|w| *w == "ok") {
        "ok"
    } else if words.contains(&"disconnected") {
        "degraded"
    } else {
        "converging"
    }
}

/// Known issues of a stack; for one imported by an older version, why it would be refused now.
fn warnings(fit: &Fit) -> Vec<String> {
    match fit {
        Fit::Tested => Vec::new(),
        Fit::Warned(words) => words.clone(),
        Fit::Refused(fault) => vec![fault.to_string()],
    }
}

/// A stack, for lists.
pub(super) fn stack_json(stack: &Stack) -> Value {
    json!({
        "name": stack.reference.name,
        "version": stack.reference.version,
        "manifest": stack.reference.manifest,
        "kubernetes": stack.kubernetes,
        "imported_at": stack.imported_at,
        "archive": stack.archive,
        "archive_size": stack.archive_size,
        "deltas": stack.deltas,
        "warnings": warnings(&stacks::fit(stack, None)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add, cluster};

    /// What became uneven because a master left is no longer refused.
    #[test]
    fn zones_that_became_uneven_are_said_in_one_sentence() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true), (3, true)]).expect("attach");
        assert_eq!(cluster_warnings(&c, &[], None), [""; 0]);
        c.members[0].zone = Some("a".into());
        let zones =
            "zones: 1 of 3 masters has a zone (node-1: \"a\"), and node-2, node-3 have none";
        assert_eq!(cluster_warnings(&c, &[], None), [zones]);
    }
}

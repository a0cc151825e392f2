//! Desired state of every host: a pure function of a cluster and a host.
//!
//! Nothing here reads a clock, a store or a key. [`assignment`] computes the content of a host's spec; whether that is
//! a new generation is decided by comparing it with the last issued one (`specs`).

use std::collections::BTreeMap;

use pf9_hostagent::model::{
    ApiSpec, Assignment, EtcdMember, EtcdSpec, HostId, NetworkPeer, NetworkPlugin, NetworkSpec,
    NodeSpec, Role,
};

use super::backups;
use super::departures;
use super::etcd::seats;
use super::records::{Cluster, Member};
use super::rolls;
use super::rotation;
use super::shared_address;
use super::zones::{REGION_LABEL, ZONE_LABEL};

/// Desired state of `host` in its cluster; `None` if there is none to state: a cluster that lost its last master leaves
/// its workers as they are.
pub(super) fn assignment(host: HostId, cluster: Option<&Cluster>) -> Option<Assignment> {
    let Some(cluster) = cluster else {
        return Some(Assignment::None);
    };
    let Some(member) = cluster.member(host) else {
        return Some(Assignment::None);
    };
    let node = Box::new(node_spec(cluster, member)?);
    Some(match member.role {
        Role::None => Assignment::None,
        Role::Master => Assignment::Master(node),
        Role::Worker => Assignment::Worker(node),
    })
}

fn node_spec(cluster: &Cluster, member: &Member) -> Option<NodeSpec> {
    let settings = &cluster.settings;
    let master = member.role == Role::Master;
    Some(NodeSpec {
        host_id: member.host,
        cluster_id: cluster.id,
        cluster_name: cluster.name.clone(),
        node_name: member.node_name.clone(),
        node_ip: member.ip,
        pod_cidr: member.pod_cidr,
        uid: Some(member.uid),
        // Only masters' API servers use it; what workers do not need must not change their spec.
        refused_uids: if master {
            departures::refused_uids(cluster)
        } else {
            Vec::new()
        },
        labels: labels(cluster, member),
        stack: rolls::stack_of(cluster, member).clone(),
        upgrade: rolls::order(cluster, member.host),
        // Workers apply none.
        addons: rolls::addons_of(cluster).filter(|_| master),
        addons_off: match master {
            true => settings.addons_off.iter().cloned().collect(),
            false => Vec::new(),
        },
        authorities: rotation::authorities(cluster, member.host),
        api: ApiSpec {
            // Workers have no API server.
            ..api(cluster, master)?
        },
        network: NetworkSpec {
            plugin: settings.network_plugin,
            pods_cidr: settings.pods_cidr,
            services_cidr: settings.services_cidr,
            cluster_domain: settings.cluster_domain.clone(),
            mtu: settings.mtu,
            peers: peers(cluster, member),
            policies: settings.network_policies,
            load_balancer: settings.load_balancer.clone(),
        },
        // Workers run no etcd and verify no service-account token: what they do not need must not change their spec.
        etcd: if master {
            etcd(cluster)
        } else {
            EtcdSpec::default()
        },
        service_account_keys: if master {
            service_account_keys(cluster)
        } else {
            Vec::new()
        },
        runtime: settings.runtime.clone(),
        kubelet: settings.kubelet.clone(),
        kube_proxy: settings.kube_proxy.clone(),
        allow_workloads_on_master: settings.allow_workloads_on_master,
        feature_gates: settings.feature_gates.clone(),
    })
}

/// Where nodes reach the API server: the shared address or name if there is one, otherwise the master attached first.
/// And how masters run it.
fn api(cluster: &Cluster, master: bool) -> Option<ApiSpec> {
    let settings = &cluster.settings;
    let first_master = cluster.masters().next()?;
    let shared = settings.master_ip.map(|ip| ip.to_string());
    let named = settings.external_dns_name.clone();
    let host = shared
        .clone()
        .or_else(|| named.clone())
        .unwrap_or_else(|| first_master.ip.to_string());
    Some(ApiSpec {
        host,
        port: settings.api_port,
        extra_sans: shared.into_iter().chain(named).collect(),
        extra_args: if_master(master, &settings.api_server_args),
        oidc: if_master(master, &settings.oidc),
        pod_security: if_master(master, &settings.pod_security),
        audit: if_master(master, &settings.audit),
        shared: master && shared_address::of(cluster).is_some(),
    })
}

/// Labels of a node other than those of its role.
pub(super) fn labels(cluster: &Cluster, member: &Member) -> BTreeMap<String, String> {
    let places = [(ZONE_LABEL, &member.zone), (REGION_LABEL, &member.region)];
    let places = places
        .into_iter()
        .filter_map(|(label, place)| Some((label.to_owned(), place.clone()?)));
    let own = cluster.settings.labels.clone();
    own.into_iter().chain(places).collect()
}

/// Workers have no API server: what they do not need must not change their spec.
fn if_master<T: Clone + Default>(master: bool, value: &T) -> T {
    match master {
        true => value.clone(),
        false => T::default(),
    }
}

fn peers(cluster: &Cluster, me: &Member) -> Vec<NetworkPeer> {
    match cluster.settings.network_plugin {
        NetworkPlugin::Flannel | NetworkPlugin::Calico | NetworkPlugin::None => Vec::new(),
        NetworkPlugin::Bridge => {
            let mut peers: Vec<NetworkPeer> = cluster
                .members
                .iter()
                .filter(|m| m.host != me.host)
                .map(|m| NetworkPeer {
                    node_ip: m.ip,
                    pod_cidr: m.pod_cidr,
                })
                .collect();
            peers.sort_by_key(|p| p.node_ip);
            peers
        }
    }
}

fn etcd(cluster: &Cluster) -> EtcdSpec {
    EtcdSpec {
        members: cluster
            .masters()
            .map(|m| EtcdMember {
                host_id: m.host,
                ip: m.ip,
                joins: m.joins,
            })
            .collect(),
        heartbeat_ms: cluster.settings.etcd_heartbeat_ms,
        election_ms: cluster.settings.etcd_election_ms,
        quota_bytes: cluster.settings.etcd_quota_bytes,
        revoked: cluster.etcd_revoked.clone(),
        backup: backups::policy(cluster),
        gone: seats::gone(cluster),
        restore: cluster.etcd_restore.clone(),
        backup_signers: cluster.backup_signers.clone(),
    }
}

fn service_account_keys(cluster: &Cluster) -> Vec<String> {
    cluster
        .masters()
        .filter_map(|m| m.service_account_key.clone())
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::membership::{Candidate, attach, detach};
    use crate::people::ProjectId;
    use crate::records::{AuthorityKeys, Host, Settings};
    use pf9_hostagent::model::{
        Authorities, ClusterId, Digest, FaultCode, Generation, KubeletSpec, NodeFacts, RuntimeSpec,
        SPEC_SCHEMA, Secret, SigningKey, Spec, StackRef, Timestamp,
    };

    pub(crate) fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).expect("time")
    }

    pub(crate) fn host(n: u8) -> HostId {
        HostId(uuid::Uuid::from_u128(u128::from(n) + 1))
    }

    pub(crate) fn facts(n: u8) -> NodeFacts {
        NodeFacts::new(&format!("Node-{n}"), &[Ipv4Addr::new(10, 1, 0, n).into()])
    }

    pub(crate) fn project() -> ProjectId {
        ProjectId::of("p").expect("an id")
    }

    pub(crate) fn host_row(n: u8, cluster: Option<ClusterId>) -> Host {
        let (key, _) = SigningKey::generate().expect("key");
        Host {
            id: host(n),
            project: project(),
            hostname: "h".into(),
            enrolled_at: now(),
            key: Digest::of(b"k"),
            certificate: Digest::of(b"c"),
            order_key: key.trusted(),
            facts: Some(facts(n)),
            authorised: true,
            cluster,
            forced: false,
            agent: None,
            agent_pinned: false,
            maintenance: None,
            renewal: Default::default(),
        }
    }

    pub(crate) fn cluster() -> Cluster {
        let pem = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".to_owned();
        let key = || Secret::new(String::new());
        Cluster {
            id: ClusterId(uuid::Uuid::from_u128(99)),
            project: project(),
            name: "c".into(),
            created_at: now(),
            stack: StackRef {
                name: "pf9-kube".into(),
                version: "1".into(),
                manifest: Digest::of(b"m"),
            },
            settings: Settings {
                pods_cidr: "10.20.0.0/16".parse().expect("cidr"),
                services_cidr: "10.21.0.0/22".parse().expect("cidr"),
                network_plugin: NetworkPlugin::Bridge,
                network_policies: Default::default(),
                load_balancer: Vec::new(),
                addons_off: Default::default(),
                cluster_domain: "cluster.local".into(),
                mtu: None,
                api_port: 6443,
                master_ip: None,
                master_vip: false,
                external_dns_name: None,
                allow_workloads_on_master: false,
                labels: Default::default(),
                runtime: RuntimeSpec::default(),
                kubelet: KubeletSpec::default(),
                kube_proxy: Default::default(),
                feature_gates: Default::default(),
                api_server_args: Default::default(),
                oidc: Vec::new(),
                pod_security: Default::default(),
                audit: Default::default(),
                etcd_heartbeat_ms: None,
                etcd_quota_bytes: None,
                etcd_election_ms: None,
                etcd_replace_after_s: crate::settings::replace_after(),
                etcd_backup: Default::default(),
                upgrade: Default::default(),
            },
            authorities: Authorities {
                cluster: pem.clone(),
                etcd: pem.clone(),
                front_proxy: pem,
            },
            keys: AuthorityKeys {
                cluster: key(),
                etcd: key(),
                front_proxy: key(),
            },
            backup_key: backups::new_key(),
            rotation: None,
            roll: None,
            patch_blocked: None,
            members: Vec::new(),
            departed: Vec::new(),
            etcd_revoked: None,
            etcd_restore: None,
            backup_signers: Vec::new(),
        }
    }

    pub(crate) fn add(cluster: &mut Cluster, hosts: &[(u8, bool)]) -> Result<(), String> {
        add_at(cluster, hosts, now())
    }

    pub(crate) fn add_at(
        cluster: &mut Cluster,
        hosts: &[(u8, bool)],
        at: Timestamp,
    ) -> Result<(), String> {
        let all: Vec<NodeFacts> = hosts.iter().map(|(n, _)| facts(*n)).collect();
        let candidates: Vec<Candidate<'_>> = hosts
            .iter()
            .zip(&all)
            .map(|((n, master), facts)| Candidate {
                host: host(*n),
                master: *master,
                zone: None,
                region: None,
                facts: Some(facts),
                seen: None,
            })
            .collect();
        attach(cluster, &candidates, [], at).map_err(|r| r.fault.code.to_string())
    }

    fn spec(n: u8, cluster: &Cluster) -> Spec {
        Spec {
            schema: SPEC_SCHEMA,
            host_id: host(n),
            generation: Generation(1),
            issued_at: now(),
            assignment: assignment(host(n), Some(cluster)).expect("assignment"),
            force: false,
            agent: None,
            maintenance: None,
        }
    }

    #[test]
    fn a_cluster_of_three_masters_and_a_worker() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, true), (3, true), (4, false)]).expect("attach");
        let master = spec(1, &c);
        let node = master.assignment.node().expect("node");
        assert_eq!(node.node_name.as_str(), "node-1");
        assert_eq!(node.etcd.members.len(), 3);
        assert_eq!(node.api.host, "10.1.0.1");
        assert_eq!(node.network.peers.len(), 3);
        assert!(node.etcd.members.iter().all(|m| !m.joins), "they found it");
        let mut grown = c.clone();
        add(&mut grown, &[(5, true)]).expect("attach");
        let late = spec(1, &grown);
        let joins: Vec<bool> = late
            .assignment
            .node()
            .expect("node")
            .etcd
            .members
            .iter()
            .map(|m| m.joins)
            .collect();
        assert_eq!(joins, [false, false, false, true]);
        let worker = spec(4, &c);
        let node = worker.assignment.node().expect("node");
        assert_eq!(worker.assignment.role(), Role::Worker);
        assert_eq!(node.etcd, EtcdSpec::default());
        assert_eq!(node.pod_cidr.to_string(), "10.20.3.0/24");
        c.settings.external_dns_name = Some("k8s.example".into());
        c.settings.master_ip = Some(Ipv4Addr::new(10, 1, 0, 250).into());
        let api = spec(4, &c).assignment.node().expect("node").api.clone();
        assert_eq!((api.host.as_str(), api.extra_sans.len()), ("10.1.0.250", 2));
    }

    #[test]
    fn membership_refuses_what_cannot_work() {
        let mut c = cluster();
        assert_eq!(add(&mut c, &[(1, false)]), Err("no-master".into()));
        assert_eq!(add(&mut c, &[]), Err("attach-empty".into()));
        add(&mut c, &[(1, true), (2, false)]).expect("attach");
        let before = c.clone();
        // All or none: the valid host of a rejected request stays out.
        assert_eq!(
            add(&mut c, &[(3, false), (1, true)]),
            Err("host-attached".into())
        );
        assert_eq!(
            add(&mut c, &[(3, false), (3, false)]),
            Err("host-attached".into())
        );
        let code = |r: Result<(), crate::refusal::Refusal>| r.map_err(|r| r.fault.code.to_string());
        assert_eq!(
            code(detach(&mut c, &[host(9)], now())),
            Err("host-not-attached".into())
        );
        let taken = host_row(9, None);
        let outcome = |c: &mut Cluster, facts: Option<&NodeFacts>| {
            let candidate = Candidate {
                host: host(7),
                master: false,
                zone: None,
                region: None,
                facts,
                seen: None,
            };
            code(attach(c, &[candidate], [&taken], now()))
        };
        assert_eq!(outcome(&mut c, None), Err("host-silent".into()));
        for (name, ip, expected) in [
            ("a_b", "10.1.0.7", "node-name-invalid"),
            ("NODE-1", "10.1.0.7", "node-name-taken"),
            ("kubernetes.default.svc", "10.1.0.7", "node-name-taken"),
            // Not in the cluster, but it may join it.
            ("node-9", "10.1.0.7", "node-name-taken"),
            ("n7", "fd00::1", "no-address"),
            ("n7", "10.1.0.1", "address-taken"),
            ("n7", "10.1.0.9", "address-taken"),
            ("n7", "10.21.0.1", "address-taken"),
        ] {
            let facts = NodeFacts::new(name, &[ip.parse().expect("ip")]);
            assert_eq!(
                outcome(&mut c, Some(&facts)),
                Err(expected.into()),
                "{name} {ip}"
            );
        }
        let two = ["10.1.0.7", "10.20.0.7"].map(|ip| ip.parse().expect("ip"));
        let second = NodeFacts::new("n7", &two);
        assert_eq!(outcome(&mut c, Some(&second)), Err("networks-meet".into()));
        assert_eq!(c, before);
        detach(&mut c, &[host(1), host(2)], now()).expect("all together");
        assert!(c.members.is_empty());
    }

    #[test]
    fn the_last_pod_network_is_assigned_and_no_more() {
        let mut c = cluster();
        c.settings.pods_cidr = "10.20.0.0/23".parse().expect("cidr");
        add(&mut c, &[(1, true), (2, false)]).expect("two fit");
        assert_eq!(add(&mut c, &[(3, false)]), Err("pods-cidr-full".into()));
        detach(&mut c, &[host(2)], now()).expect("detach");
        add(&mut c, &[(3, false)]).expect("the place is free again");
        assert_eq!(c.members[1].pod_cidr.to_string(), "10.20.1.0/24");
    }

    #[test]
    fn masters_come_in_zones_that_may_each_be_lost() {
        let all: Vec<NodeFacts> = (1..=4).map(facts).collect();
        let come = |c: &mut Cluster, hosts: &[(u8, bool, Option<&'static str>)]| {
            let candidate = |(n, master, zone): &(u8, bool, Option<&'static str>)| Candidate {
                host: host(*n),
                master: *master,
                zone: *zone,
                region: zone.map(|_| "north"),
                facts: Some(&all[usize::from(*n) - 1]),
                seen: None,
            };
            let candidates: Vec<_> = hosts.iter().map(candidate).collect();
            attach(c, &candidates, [], now()).map_err(|r| r.fault)
        };
        let mut c = cluster();
        let before = c.clone();
        let uneven = [
            (1, true, Some("a")),
            (2, true, Some("a")),
            (3, true, Some("b")),
        ];
        let fault = come(&mut c, &uneven).expect_err("a quorum in one zone");
        assert_eq!(fault.code, FaultCode::ZonesUneven);
        assert!(
            fault
                .why
                .starts_with("zone: \"a\" has 2 of 3 masters (node-1, node-2)"),
            "{fault}"
        );
        assert_eq!(c, before, "all or none");
        let even = [
            (1, true, Some("a")),
            (2, true, Some("b")),
            (3, true, Some("c")),
        ];
        come(&mut c, &even).expect("even");
        let node = spec(2, &c).assignment.node().expect("node").clone();
        let zone = node.labels.get("topology.kubernetes.io/zone");
        assert_eq!(zone.map(String::as_str), Some("b"));
        let region = node.labels.get("topology.kubernetes.io/region");
        assert_eq!(region.map(String::as_str), Some("north"));
        // What an older attach left unbalanced must not block a worker.
        c.members[1].zone = None;
        come(&mut c, &[(4, false, Some("d"))]).expect("a worker");
    }

    #[test]
    fn workers_of_a_cluster_without_master_are_left_alone() {
        let mut c = cluster();
        add(&mut c, &[(1, true), (2, false)]).expect("attach");
        c.members.retain(|m| m.role == Role::Worker);
        assert_eq!(assignment(host(2), Some(&c)), None);
        assert_eq!(assignment(host(1), Some(&c)), Some(Assignment::None));
        assert_eq!(assignment(host(1), None), Some(Assignment::None));
    }

    proptest! {
        /// For any sequence of attach and detach: every spec is valid for its host, every node sees every other, no two
        /// nodes share pods, and unchanged input computes the same.
        #[test]
        fn every_spec_is_valid(ops in proptest::collection::vec(
            (any::<bool>(), 0u8..12, any::<bool>()), 1..40)
        ) {
            let mut c = cluster();
            for (attach_it, n, master) in ops {
                let before = c.clone();
                let done = if attach_it {
                    add(&mut c, &[(n, master)]).is_ok()
                } else {
                    detach(&mut c, &[host(n)], now()).is_ok()
                };
                if c.masters().next().is_none() && !c.members.is_empty() {
                    // Forced: its workers are left as they are.
                    prop_assert!((0..12).all(|n| c.member(host(n)).is_none()
                        || assignment(host(n), Some(&c)).is_none()));
                    c = before;
                    continue;
                }
                prop_assert_eq!(done, c != before);
                let mut pods = std::collections::BTreeSet::new();
                for n in 0..12 {
                    let spec = spec(n, &c);
                    prop_assert_eq!(spec.validate(host(n)), Ok(()));
                    prop_assert_eq!(spec.assignment.node().is_some(), c.member(host(n)).is_some());
                    if let Some(node) = spec.assignment.node() {
                        prop_assert!(pods.insert(node.pod_cidr));
                        prop_assert_eq!(node.network.peers.len(), c.members.len() - 1);
                    }
                    // A host that was a node before and still is has a new spec exactly when the cluster changed: with
                    // a bridge every node routes to every other.
                    if before.member(host(n)).is_some() && c.member(host(n)).is_some() {
                        let old = assignment(host(n), Some(&before));
                        prop_assert_eq!(old != Some(spec.assignment), done);
                    }
                }
            }
        }
    }
}

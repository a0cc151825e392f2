//! Settings of a new cluster, checked field by field. `networks`: its networks and addresses; `access`: its users,
//! their audit, and its pods' privileges; `addons`: addresses of its services.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::backups::NewBackups;
use super::records::Settings;
use super::refusal::{Answer, Refusal};
use super::rolls::UpgradeSettings;
use super::zones::{REGION_LABEL, ZONE_LABEL};
use pf9_hostagent::host::ours::ports;
use pf9_hostagent::model::{
    BackupPolicy, CgroupDriverChoice, FaultCode, HostId, KubeProxySpec, KubeletSpec, NetworkPlugin,
    NetworkPolicies, NodeName, ProxyModeChoice, RuntimeSpec, drop_in_dir_fault, kubernetes,
    quota_fault,
};

mod access;
mod addons;
mod networks;

use access::{NewAudit, NewIssuer, NewPodSecurity};
use addons::NewLoadBalancer;
use networks::OneNet;

/// Most labels and mirrors of a cluster.
const LIST_MAX: usize = 64;
/// How long a removed master may be silent by default before the others remove its member from etcd: five reports, and
/// the time a machine takes to boot.
const REPLACE_AFTER_S: u32 = 300;
/// Shortest: a host reports every minute, and one lost report is no silence.
const REPLACE_AFTER_MIN_S: u32 = 120;
/// Longest: a month is a mistake of units.
const REPLACE_AFTER_MAX_S: u32 = 30 * 24 * 3600;
/// Longest cluster name; it is for people.
const NAME_MAX: usize = 63;

/// Body of `POST …/clusters`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NewCluster {
    pub(super) name: String,
    containers_cidr: OneNet,
    services_cidr: OneNet,
    network_plugin: NetworkPlugin,
    #[serde(default)]
    network_policies: NetworkPolicies,
    #[serde(default)]
    load_balancer: NewLoadBalancer,
    #[serde(default)]
    k8s_api_port: Option<u16>,
    #[serde(default)]
    allow_workloads_on_master: bool,
    #[serde(default)]
    master_ip: Option<IpAddr>,
    #[serde(default)]
    master_vip_enabled: bool,
    #[serde(default)]
    external_dns_name: Option<String>,
    #[serde(default)]
    pub(super) stack: Option<String>,
    #[serde(default)]
    dns_zone: Option<String>,
    #[serde(default)]
    mtu_size: Option<u32>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    runtime: NewRuntime,
    #[serde(default)]
    kubelet: NewKubelet,
    #[serde(default)]
    kube_proxy: NewKubeProxy,
    #[serde(default)]
    feature_gates: BTreeMap<String, bool>,
    #[serde(default)]
    api_server_args: BTreeMap<String, String>,
    #[serde(default)]
    oidc: Vec<NewIssuer>,
    #[serde(default)]
    pod_security: NewPodSecurity,
    #[serde(default)]
    audit: NewAudit,
    #[serde(default)]
    etcd_heartbeat_interval_ms: Option<u32>,
    #[serde(default)]
    etcd_election_timeout_ms: Option<u32>,
    #[serde(default)]
    etcd: NewEtcd,
    #[serde(default)]
    etcd_quota_bytes: Option<u64>,
    #[serde(default)]
    etcd_backup: NewBackups,
    #[serde(default)]
    upgrade: UpgradeSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewEtcd {
    #[serde(default)]
    replace_after_seconds: Option<u32>,
}

impl NewEtcd {
    fn replace_after(&self) -> Answer<u32> {
        let seconds = self.replace_after_seconds.unwrap_or(REPLACE_AFTER_S);
        let bounds = REPLACE_AFTER_MIN_S..=REPLACE_AFTER_MAX_S;
        require(
            bounds.contains(&seconds),
            "etcd.replaceAfterSeconds",
            || format!("must be {REPLACE_AFTER_MIN_S} to {REPLACE_AFTER_MAX_S}"),
        )?;
        Ok(seconds)
    }
}

/// The default for a cluster.
pub(super) fn replace_after() -> u32 {
    REPLACE_AFTER_S
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewRuntime {
    #[serde(default)]
    cgroup_driver: CgroupDriverChoice,
    #[serde(default)]
    mirrors: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    drop_ins: Option<String>,
    #[serde(default)]
    cdi: bool,
    #[serde(default)]
    nri: bool,
}

/// Runtime settings that may change while a cluster runs: all but the cgroup driver, which running containers depend
/// on.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TunedRuntime {
    #[serde(default)]
    mirrors: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    drop_ins: Option<String>,
    #[serde(default)]
    cdi: bool,
    #[serde(default)]
    nri: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewKubelet {
    #[serde(default)]
    max_pods: Option<u32>,
    #[serde(default)]
    allow_swap: bool,
    #[serde(default)]
    pods_swap: bool,
    #[serde(default)]
    seccomp_unconfined: bool,
    #[serde(default)]
    ids_per_pod: Option<u32>,
}

/// Body of `PATCH …/clusters/{uuid}`: settings that may change while a cluster runs. An absent field is unchanged; a
/// present one replaces the whole value, except `etcdBackup`, which is merged field by field.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Tuning {
    /// Version of a stack: starts an upgrade, with the usual policy.
    #[serde(default, alias = "kubeRoleVersion")]
    stack: Option<String>,
    #[serde(default)]
    runtime: Option<TunedRuntime>,
    #[serde(default)]
    kubelet: Option<NewKubelet>,
    #[serde(default)]
    kube_proxy: Option<NewKubeProxy>,
    #[serde(default)]
    feature_gates: Option<BTreeMap<String, bool>>,
    #[serde(default)]
    api_server_args: Option<BTreeMap<String, String>>,
    #[serde(default)]
    oidc: Option<Vec<NewIssuer>>,
    #[serde(default)]
    pod_security: Option<NewPodSecurity>,
    #[serde(default)]
    audit: Option<NewAudit>,
    #[serde(default)]
    network_policies: Option<NetworkPolicies>,
    #[serde(default)]
    load_balancer: Option<NewLoadBalancer>,
    #[serde(default)]
    etcd: Option<NewEtcd>,
    #[serde(default)]
    etcd_quota_bytes: Option<u64>,
    #[serde(default)]
    etcd_backup: Option<NewBackups>,
    #[serde(default)]
    upgrade: Option<UpgradeSettings>,
}

impl Tuning {
    /// The requested stack. It comes alone: unlike the other settings it may be refused, or stop half-way, when they
    /// would already be in force.
    pub(super) fn stack(&self) -> Answer<Option<&str>> {
        let alone = matches!(
            self,
            Self {
                stack: _,
                runtime: None,
                kubelet: None,
                kube_proxy: None,
                feature_gates: None,
                api_server_args: None,
                oidc: None,
                pod_security: None,
                audit: None,
                network_policies: None,
                load_balancer: None,
                etcd: None,
                etcd_quota_bytes: None,
                etcd_backup: None,
                upgrade: None,
            }
        );
        require(alone || self.stack.is_none(), "stack", || {
            "another stack starts an upgrade (pf9-plane cluster upgrade NAME --to VERSION); change other settings separately".into()
        })?;
        Ok(self.stack.as_deref())
    }

    /// Replaces what it names, if all of it is valid.
    pub(super) fn apply(self, settings: &mut Settings) -> Answer<()> {
        if let Some(runtime) = self.runtime {
            let cgroup_driver = settings.runtime.cgroup_driver;
            settings.runtime = runtime.with(cgroup_driver).spec()?;
        }
        if let Some(kubelet) = &self.kubelet {
            let had = settings.kubelet.ids_per_pod;
            let stays = kubelet.ids_per_pod.is_none_or(|ids| Some(ids) == had);
            // kubelet exits if a pod with a user namespace of another size exists.
            require(stays, "kubelet.idsPerPod", || {
                "it is chosen when the cluster is made, and stays".into()
            })?;
            settings.kubelet = KubeletSpec {
                ids_per_pod: had,
                ..kubelet.spec()?
            };
        }
        if let Some(kube_proxy) = &self.kube_proxy {
            settings.kube_proxy = kube_proxy.spec()?;
        }
        if let Some(gates) = self.feature_gates {
            check_gates(&gates)?;
            settings.feature_gates = gates;
        }
        if let Some(backups) = self.etcd_backup {
            settings.etcd_backup = backup_policy(backups, &settings.etcd_backup)?;
        }
        if let Some(args) = self.api_server_args {
            check_api_server_args(&args)?;
            settings.api_server_args = args;
        }
        if let Some(issuers) = &self.oidc {
            settings.oidc = access::issuers(issuers, &settings.cluster_domain)?;
        }
        if let Some(level) = &self.pod_security {
            settings.pod_security = level.spec()?;
        }
        if let Some(audit) = &self.audit {
            settings.audit = audit.spec()?;
        }
        if let Some(policies) = self.network_policies {
            addons::check_policies(settings.network_plugin, policies)?;
            settings.network_policies = policies;
        }
        if let Some(wanted) = &self.load_balancer {
            let (pods, services) = (settings.pods_cidr, settings.services_cidr);
            settings.load_balancer = wanted.pool(pods, services, settings.master_ip)?;
        }
        if let Some(etcd) = &self.etcd {
            settings.etcd_replace_after_s = etcd.replace_after()?;
        }
        if let Some(quota) = self.etcd_quota_bytes {
            check_quota(Some(quota))?;
            settings.etcd_quota_bytes = Some(quota);
        }
        if let Some(upgrade) = self.upgrade {
            settings.upgrade = upgrade;
        }
        Ok(())
    }
}

impl TunedRuntime {
    fn with(self, cgroup_driver: CgroupDriverChoice) -> NewRuntime {
        NewRuntime {
            cgroup_driver,
            mirrors: self.mirrors,
            drop_ins: self.drop_ins,
            cdi: self.cdi,
            nri: self.nri,
        }
    }
}

impl NewRuntime {
    fn spec(&self) -> Answer<RuntimeSpec> {
        require(self.mirrors.len() <= LIST_MAX, "runtime.mirrors", || {
            format!("at most {LIST_MAX}")
        })?;
        for (registry, urls) in &self.mirrors {
            let ok = !urls.is_empty()
                && urls.len() <= LIST_MAX
                && urls
                    .iter()
                    .all(|u| u.starts_with("http://") || u.starts_with("https://"));
            require(ok, "runtime.mirrors", || {
                format!("{:?}: a mirror is a list of http(s) URLs", clip(registry))
            })?;
        }
        let drop_ins = self.drop_ins.as_deref().and_then(drop_in_dir_fault);
        require(drop_ins.is_none(), "runtime.dropIns", || {
            drop_ins.clone().unwrap_or_default()
        })?;
        Ok(RuntimeSpec {
            cgroup_driver: self.cgroup_driver,
            mirrors: self.mirrors.clone(),
            drop_ins: self.drop_ins.clone(),
            cdi: self.cdi,
            nri: self.nri,
        })
    }
}

impl NewKubelet {
    fn spec(&self) -> Answer<KubeletSpec> {
        let spec = KubeletSpec {
            max_pods: self.max_pods.unwrap_or(KubeletSpec::default().max_pods),
            allow_swap: self.allow_swap,
            pods_swap: self.pods_swap,
            seccomp_unconfined: self.seccomp_unconfined,
            ids_per_pod: self.ids_per_pod,
        };
        require(
            (1..=1000).contains(&spec.max_pods),
            "kubelet.maxPods",
            || "must be 1 to 1000".into(),
        )?;
        kubernetes::kubelet(&spec).map_err(|(field, why)| {
            let field = match field {
                "pods_swap" => "kubelet.podsSwap",
                _ => "kubelet.idsPerPod",
            };
            refused(field, &why)
        })?;
        Ok(spec)
    }
}

fn backup_policy(wanted: NewBackups, had: &BackupPolicy) -> Answer<BackupPolicy> {
    wanted
        .over(had)
        .map_err(|(field, why)| refused(&field, &why))
}

fn check_gates(gates: &BTreeMap<String, bool>) -> Answer<()> {
    kubernetes::gates(gates).map_err(|why| refused("featureGates", &why))
}

fn check_api_server_args(args: &BTreeMap<String, String>) -> Answer<()> {
    // Nodes pass over these, for clusters that had them before `audit` was a setting.
    let audits = |name: &&String| kubernetes::API_SERVER_AUDIT.contains(&name.as_str());
    if let Some(name) = args.keys().find(audits) {
        let why = format!("--{name}: the audit is the setting audit");
        return Err(refused("apiServerArgs", &why));
    }
    kubernetes::extra_args(args).map_err(|why| refused("apiServerArgs", &why))
}

fn check_quota(quota: Option<u64>) -> Answer<()> {
    match quota_fault(quota) {
        Some(why) => Err(refused("etcdQuotaBytes", &why)),
        None => Ok(()),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewKubeProxy {
    #[serde(default)]
    mode: ProxyModeChoice,
    #[serde(default)]
    node_port_networks: Vec<IpNet>,
}

impl NewKubeProxy {
    fn spec(&self) -> Answer<KubeProxySpec> {
        let networks = &self.node_port_networks;
        let spec = KubeProxySpec {
            mode: self.mode,
            node_port_networks: networks.iter().map(IpNet::trunc).collect(),
        };
        match spec.fault() {
            Some((_, why)) => Err(refused("kubeProxy.nodePortNetworks", &why)),
            None => Ok(spec),
        }
    }
}

impl NewCluster {
    /// The settings, if they are consistent.
    pub(super) fn settings(&self) -> Answer<Settings> {
        self.check_name()?;
        self.check_networks()?;
        self.check_addresses()?;
        self.check_rest()?;
        check_gates(&self.feature_gates)?;
        check_api_server_args(&self.api_server_args)?;
        check_quota(self.etcd_quota_bytes)?;
        let cluster_domain = self.dns_zone.as_deref().unwrap_or("cluster.local");
        Ok(Settings {
            pods_cidr: self.containers_cidr.0.trunc(),
            services_cidr: self.services_cidr.0.trunc(),
            network_plugin: self.network_plugin,
            network_policies: {
                addons::check_policies(self.network_plugin, self.network_policies)?;
                self.network_policies
            },
            load_balancer: self.load_balancer.pool(
                self.containers_cidr.0.trunc(),
                self.services_cidr.0.trunc(),
                self.master_ip,
            )?,
            addons_off: Default::default(),
            cluster_domain: cluster_domain.to_owned(),
            mtu: self.mtu_size,
            api_port: self.k8s_api_port.unwrap_or(ports::API),
            master_ip: self.master_ip,
            master_vip: self.master_vip_enabled,
            external_dns_name: self.external_dns_name.clone(),
            allow_workloads_on_master: self.allow_workloads_on_master,
            labels: self.labels.clone(),
            runtime: self.runtime.spec()?,
            kubelet: self.kubelet.spec()?,
            kube_proxy: self.kube_proxy.spec()?,
            feature_gates: self.feature_gates.clone(),
            api_server_args: self.api_server_args.clone(),
            oidc: access::issuers(&self.oidc, cluster_domain)?,
            pod_security: self.pod_security.spec()?,
            audit: self.audit.spec()?,
            etcd_heartbeat_ms: self.etcd_heartbeat_interval_ms,
            etcd_election_ms: self.etcd_election_timeout_ms,
            etcd_replace_after_s: self.etcd.replace_after()?,
            etcd_backup: backup_policy(self.etcd_backup.clone(), &BackupPolicy::default())?,
            etcd_quota_bytes: self.etcd_quota_bytes,
            upgrade: self.upgrade.clone(),
        })
    }

    fn check_name(&self) -> Answer<()> {
        let ok = !self.name.is_empty()
            && self.name.len() <= NAME_MAX
            && self
                .name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            && self.name.starts_with(|c: char| c.is_ascii_alphanumeric());
        require(ok, "name", || {
            format!("must be 1 to {NAME_MAX} letters, digits, '-', '.' or '_'")
        })
    }

    fn check_rest(&self) -> Answer<()> {
        require(self.labels.len() <= LIST_MAX, "labels", || {
            format!("at most {LIST_MAX}")
        })?;
        for (key, value) in &self.labels {
            for (label, field) in [(ZONE_LABEL, "zone"), (REGION_LABEL, "region")] {
                require(key != label, "labels", || {
                    format!("{key}: a {field} is given with the attach of a host (\"{field}\")")
                })?;
            }
            require(is_label(key, value), "labels", || {
                format!(
                    "{:?}: {:?} is not a Kubernetes label",
                    clip(key),
                    clip(value)
                )
            })?;
        }
        require(
            self.mtu_size.is_none_or(|n| (1280..=65535).contains(&n)),
            "mtuSize",
            || "must be 1280 to 65535".into(),
        )?;
        let beat = self.etcd_heartbeat_interval_ms.unwrap_or(100);
        let election = self
            .etcd_election_timeout_ms
            .unwrap_or(1000.max(beat.saturating_mul(10)));
        // etcd refuses an election timeout below five heartbeats, or above 50 s.
        let sane = beat > 0 && election >= beat.saturating_mul(5) && election <= 50_000;
        require(sane, "etcdElectionTimeoutMs", || {
            format!("{election} does not fit etcdHeartbeatIntervalMs {beat}: 5 times to 50000")
        })
    }
}

/// A zone or region (`field`) must be a valid label value.
pub(super) fn check_place(field: &str, host: HostId, place: Option<&str>) -> Answer<()> {
    let good = |place: &str| !place.is_empty() && is_label(ZONE_LABEL, place);
    match place {
        Some(place) if !good(place) => Err(Refusal::bad(
            FaultCode::ClusterInvalid,
            "attach refused",
            format!(
                "{field} of host {host}: {:?} is not 1 to 63 letters, digits, '-', '.' or '_'",
                clip(place)
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

fn is_label(key: &str, value: &str) -> bool {
    let word = |w: &str, may_be_empty: bool| {
        (may_be_empty || !w.is_empty())
            && w.len() <= 63
            && w.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            && !w.starts_with(['-', '.', '_'])
            && !w.ends_with(['-', '.', '_'])
    };
    let key_ok = match key.split_once('/') {
        Some((prefix, name)) => prefix.parse::<NodeName>().is_ok() && word(name, false),
        None => word(key, false),
    };
    key_ok && word(value, true)
}

fn require(ok: bool, field: &str, why: impl FnOnce() -> String) -> Answer<()> {
    if ok {
        return Ok(());
    }
    Err(refused(field, &why()))
}

fn refused(field: &str, why: &str) -> Refusal {
    Refusal::bad(
        FaultCode::ClusterInvalid,
        "cluster refused",
        format!("{field}: {why}"),
    )
}

fn clip(text: &str) -> String {
    const SHOWN: usize = 80;
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests;

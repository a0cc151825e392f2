//! What an operator may say about a new cluster, checked field by field.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::membership::node_prefix;
use super::records::Settings;
use super::refusal::{Answer, Refusal};
use crate::model::{
    CgroupDriverChoice, FaultCode, KubeletSpec, NetworkPlugin, NodeName, RuntimeSpec,
};

/// Port of the API server unless told otherwise.
const API_PORT: u16 = 6443;
/// Most labels and mirrors of a cluster.
const LIST_MAX: usize = 64;
/// Longest cluster name; it is for people.
const NAME_MAX: usize = 63;
/// The DNS service has the tenth address, so a services network needs a few bits.
const SERVICE_HOST_BITS_MIN: u8 = 4;

/// Body of `POST …/clusters`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NewCluster {
    pub(super) name: String,
    containers_cidr: IpNet,
    services_cidr: IpNet,
    network_plugin: NetworkPlugin,
    #[serde(default)]
    k8s_api_port: Option<u16>,
    #[serde(default)]
    allow_workloads_on_master: bool,
    #[serde(default)]
    master_ip: Option<IpAddr>,
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
    etcd_heartbeat_interval_ms: Option<u32>,
    #[serde(default)]
    etcd_election_timeout_ms: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewRuntime {
    #[serde(default)]
    cgroup_driver: CgroupDriverChoice,
    #[serde(default)]
    mirrors: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewKubelet {
    #[serde(default)]
    max_pods: Option<u32>,
    #[serde(default)]
    allow_swap: bool,
}

impl NewCluster {
    /// The settings, if all of them make sense together.
    pub(super) fn settings(&self) -> Answer<Settings> {
        self.check_name()?;
        self.check_networks()?;
        self.check_addresses()?;
        self.check_rest()?;
        let kubelet = KubeletSpec::default();
        Ok(Settings {
            pods_cidr: self.containers_cidr.trunc(),
            services_cidr: self.services_cidr.trunc(),
            network_plugin: self.network_plugin,
            cluster_domain: self
                .dns_zone
                .clone()
                .unwrap_or_else(|| "cluster.local".into()),
            mtu: self.mtu_size,
            api_port: self.k8s_api_port.unwrap_or(API_PORT),
            master_ip: self.master_ip,
            external_dns_name: self.external_dns_name.clone(),
            allow_workloads_on_master: self.allow_workloads_on_master,
            labels: self.labels.clone(),
            runtime: RuntimeSpec {
                cgroup_driver: self.runtime.cgroup_driver,
                mirrors: self.runtime.mirrors.clone(),
            },
            kubelet: KubeletSpec {
                max_pods: self.kubelet.max_pods.unwrap_or(kubelet.max_pods),
                allow_swap: self.kubelet.allow_swap,
            },
            etcd_heartbeat_ms: self.etcd_heartbeat_interval_ms,
            etcd_election_ms: self.etcd_election_timeout_ms,
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

    fn check_networks(&self) -> Answer<()> {
        let (pods, services) = (self.containers_cidr, self.services_cidr);
        let node = node_prefix(pods);
        require(pods.prefix_len() <= node, "containersCidr", || {
            format!("{pods} is too small: every node gets a /{node} of it")
        })?;
        let same_version = matches!(
            (pods, services),
            (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_))
        );
        require(same_version, "servicesCidr", || {
            format!("{services} is not of the same IP version as containersCidr {pods}")
        })?;
        let overlap = pods.contains(&services.network()) || services.contains(&pods.network());
        require(!overlap, "servicesCidr", || {
            format!("{services} overlaps containersCidr {pods}")
        })?;
        let host_bits = services.max_prefix_len() - services.prefix_len();
        require(host_bits >= SERVICE_HOST_BITS_MIN, "servicesCidr", || {
            format!("{services} is too small")
        })
    }

    fn check_addresses(&self) -> Answer<()> {
        require(self.k8s_api_port != Some(0), "k8sApiPort", || {
            "0 is no port".into()
        })?;
        if let Some(ip) = self.master_ip {
            let inside = self.containers_cidr.contains(&ip) || self.services_cidr.contains(&ip);
            let usable = !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
            require(usable && !inside, "masterIp", || {
                format!("{ip} is no address that nodes can reach")
            })?;
        }
        for (field, name) in [
            ("externalDnsName", &self.external_dns_name),
            ("dnsZone", &self.dns_zone),
        ] {
            if let Some(name) = name {
                let ok = name.parse::<NodeName>().is_ok();
                require(ok, field, || format!("{:?} is no DNS name", clip(name)))?;
            }
        }
        Ok(())
    }

    fn check_rest(&self) -> Answer<()> {
        require(self.labels.len() <= LIST_MAX, "labels", || {
            format!("at most {LIST_MAX}")
        })?;
        for (key, value) in &self.labels {
            require(is_label(key, value), "labels", || {
                format!("{:?}: {:?} is no Kubernetes label", clip(key), clip(value))
            })?;
        }
        let mirrors = &self.runtime.mirrors;
        require(mirrors.len() <= LIST_MAX, "runtime.mirrors", || {
            format!("at most {LIST_MAX}")
        })?;
        for (registry, urls) in mirrors {
            let ok = !urls.is_empty()
                && urls.len() <= LIST_MAX
                && urls
                    .iter()
                    .all(|u| u.starts_with("http://") || u.starts_with("https://"));
            require(ok, "runtime.mirrors", || {
                format!("{:?}: a mirror is a list of http(s) URLs", clip(registry))
            })?;
        }
        let pods = self.kubelet.max_pods;
        require(
            pods.is_none_or(|n| (1..=1000).contains(&n)),
            "kubelet.maxPods",
            || "must be 1 to 1000".into(),
        )?;
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
    Err(Refusal::bad(
        FaultCode::ClusterInvalid,
        "cluster refused",
        format!("{field}: {}", why()),
    ))
}

fn clip(text: &str) -> String {
    const SHOWN: usize = 80;
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::http::parse;
    use serde_json::{Value, json};

    fn good() -> Value {
        json!({"name": "demo", "containersCidr": "10.20.0.0/16", "servicesCidr": "10.21.0.0/22",
               "networkPlugin": "bridge"})
    }

    fn judge(body: &Value) -> Result<Settings, String> {
        let bytes = serde_json::to_vec(body).expect("json");
        parse::<NewCluster>(&bytes)
            .and_then(|c| c.settings())
            .map_err(|r| format!("{} {}", r.status.as_u16(), r.fault))
    }

    #[test]
    fn every_bad_field_is_named() {
        assert_eq!(judge(&good()).expect("good").api_port, 6443);
        for (field, value, word) in [
            ("name", json!(""), "name"),
            ("name", json!("a b"), "name"),
            ("containersCidr", json!("10.20.0.0/28"), "containersCidr"),
            ("containersCidr", json!("nonsense"), "containersCidr"),
            ("containersCidr", json!(7), "containersCidr"),
            ("servicesCidr", json!("10.20.4.0/22"), "servicesCidr"),
            ("servicesCidr", json!("10.0.0.0/8"), "servicesCidr"),
            ("servicesCidr", json!("10.21.0.0/30"), "servicesCidr"),
            ("servicesCidr", json!("fd00::/112"), "servicesCidr"),
            ("networkPlugin", json!("calico"), "networkPlugin"),
            ("k8sApiPort", json!(0), "k8sApiPort"),
            ("k8sApiPort", json!(70000), "k8sApiPort"),
            ("masterIp", json!("127.0.0.1"), "masterIp"),
            ("externalDnsName", json!("-x"), "externalDnsName"),
            ("labels", json!({"a b": "c"}), "labels"),
            (
                "runtime",
                json!({"cgroupDriver": "none"}),
                "runtime.cgroupDriver",
            ),
            (
                "runtime",
                json!({"mirrors": {"docker.io": ["ftp://x"]}}),
                "runtime.mirrors",
            ),
            ("kubelet", json!({"maxPods": 0}), "kubelet.maxPods"),
            ("mtuSize", json!(100), "mtuSize"),
            ("etcdElectionTimeoutMs", json!(100), "etcdElectionTimeoutMs"),
            ("colour", json!("red"), "colour"),
        ] {
            let mut body = good();
            body[field] = value.clone();
            let said = judge(&body).expect_err(&format!("{field} {value}"));
            assert!(
                said.starts_with("400 ") && said.contains(word),
                "{field} {value}: {said}"
            );
        }
        let mut short = good();
        short
            .as_object_mut()
            .expect("object")
            .remove("servicesCidr");
        assert!(judge(&short).expect_err("short").contains("servicesCidr"));
    }
}

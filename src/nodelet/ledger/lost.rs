//! A ledger that is lost, and root says that the role goes: what is ours is known by its name.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::{Artefact, ArtefactKind, Before, Installed, LedgerFile, UnitRecord};
use crate::host::fs::{Found, FsError};
use crate::host::ours;
use crate::model::{
    ApiSpec, Authorities, ClusterId, Digest, EtcdSpec, Generation, HostId, KubeProxySpec,
    KubeletSpec, NetworkPlugin, NetworkSpec, NodeName, NodeSpec, Role, RuntimeSpec, StackRef,
};
use crate::nodelet::phase::layout;

impl LedgerFile {
    /// Adopts for removal whatever on the machine is ours by its name ([`ours::paths`]), because the ledger is lost.
    /// What was there before is unknown: a system file that we replaced, or a kernel parameter that we set, stays as it
    /// is.
    pub fn assume(&mut self, known: Option<Installed>, last: Generation) -> Result<(), FsError> {
        let exists = |path: &str| !matches!(self.fs.found(path), Ok(Found::Nothing));
        let made = |path: &str| match self.fs.found(path) {
            Ok(Found::Dir { .. }) => ArtefactKind::Tree { path: path.into() },
            Ok(_) | Err(_) => ArtefactKind::File { path: path.into() },
        };
        let all = ours::paths::of_the_role_all().into_iter();
        let there = all.filter(|path| exists(path)).map(|path| made(&path));
        self.ledger.artefacts = there
            .map(|what| Artefact {
                what,
                before: Before::Nothing,
            })
            .collect();
        // Where the node is known, its pods are moved away and its member leaves etcd, as ever.
        let units = layout::UNITS.iter().filter(|_| known.is_some());
        let units = units.map(|unit| ((*unit).to_owned(), UnitRecord::default()));
        self.ledger.units = units.collect();
        // An unknown node cannot be rolled back to.
        self.ledger.removing = known.is_none();
        self.ledger.installed = Some(known.unwrap_or_else(|| Installed::unknown(last)));
        self.save()
    }
}

impl Installed {
    /// A node known only to exist.
    fn unknown(generation: Generation) -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        let nowhere = IpNet::from(Ipv4Net::default());
        let id = uuid::Uuid::nil();
        Self {
            role: Role::Worker,
            generation,
            node: NodeSpec {
                host_id: HostId(id),
                cluster_id: ClusterId(id),
                cluster_name: "unknown".to_owned(),
                node_name: NodeName::unknown(),
                node_ip: none.into(),
                pod_cidr: nowhere,
                uid: None,
                refused_uids: Vec::new(),
                labels: BTreeMap::new(),
                upgrade: None,
                addons: None,
                addons_off: Vec::new(),
                stack: StackRef {
                    name: "unknown".to_owned(),
                    version: "0".to_owned(),
                    manifest: Digest([0; 32]),
                },
                authorities: Authorities {
                    cluster: String::new(),
                    etcd: String::new(),
                    front_proxy: String::new(),
                },
                api: ApiSpec {
                    host: none.to_string(),
                    port: 0,
                    extra_sans: Vec::new(),
                    shared: false,
                    extra_args: BTreeMap::new(),
                    oidc: Vec::new(),
                    pod_security: Default::default(),
                    audit: Default::default(),
                },
                network: NetworkSpec {
                    plugin: NetworkPlugin::None,
                    pods_cidr: nowhere,
                    services_cidr: nowhere,
                    cluster_domain: "unknown".to_owned(),
                    mtu: None,
                    peers: Vec::new(),
                    policies: Default::default(),
                    load_balancer: Vec::new(),
                },
                etcd: EtcdSpec::default(),
                service_account_keys: Vec::new(),
                runtime: RuntimeSpec::default(),
                kubelet: KubeletSpec::default(),
                kube_proxy: KubeProxySpec::default(),
                feature_gates: BTreeMap::new(),
                allow_workloads_on_master: false,
            },
        }
    }
}

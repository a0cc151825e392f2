//! What phases ask of a [`PhaseContext`].

use crate::model::{
    Authority, CgroupDriverChoice, Digest, NodeSpec, Role, StackImage, StackManifest, StackRef,
    paths, role_taints,
};

use super::render::{Inputs, url_host};
use super::{EtcdOf, PhaseContext, Wait, layout};

impl Wait {
    /// Waits; nothing can be done meanwhile.
    pub(super) fn for_what(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            meanwhile: Vec::new(),
        }
    }
}

impl PhaseContext {
    /// The stack's manifest, once it is known.
    pub(super) fn stack(&self) -> Result<&StackManifest, Wait> {
        self.manifest
            .as_ref()
            .ok_or_else(|| Wait::for_what(format!("download of stack {}", self.node.stack)))
    }

    /// Reference of a component's image.
    pub(super) fn image(&self, component: &str) -> Result<&str, Wait> {
        Ok(&self.image_of(component)?.reference)
    }

    /// A component's image.
    pub(super) fn image_of(&self, component: &str) -> Result<&StackImage, Wait> {
        let stack = self.stack()?;
        stack.image(component).ok_or_else(|| {
            Wait::for_what(format!(
                "a stack with an image of {component}: {} {} has none",
                stack.name, stack.version
            ))
        })
    }

    /// Digest of a component's image, whatever its name.
    pub(super) fn build(&self, component: &str) -> Result<Option<Digest>, Wait> {
        Ok(self.program(&self.image_of(component)?.path))
    }

    /// Digest of one of the stack's programs, e.g. `bin/kubelet`.
    pub(super) fn program(&self, path: &str) -> Option<Digest> {
        let files = &self.manifest.as_ref()?.files;
        files.iter().find(|f| f.path == path).map(|f| f.sha256)
    }

    /// What etcd is of.
    pub(super) fn etcd_of(&self) -> EtcdOf {
        let own = |stack: &StackManifest| EtcdOf::of(self.node.stack.clone(), stack);
        let own = || match &self.manifest {
            Some(manifest) => own(manifest),
            None => EtcdOf {
                stack: self.node.stack.clone(),
                program: None,
                version: None,
            },
        };
        self.etcd_of.clone().unwrap_or_else(own)
    }

    /// Where a file of the wanted stack is once it is unpacked, active or not.
    pub(super) fn unpacked(&self, path: &str) -> String {
        format!("{}/{}/{path}", paths::STACKS, self.node.stack.dir_name())
    }

    /// The certificates of an authority, as programs get them.
    pub(super) fn believed(&self, which: Authority) -> String {
        self.node.authorities.believed(which)
    }

    /// Taints of the role, as `key=value:Effect`: what kubelet registers with, so that no pod slips
    /// in before the plane has looked.
    pub(super) fn taints(&self) -> Vec<String> {
        role_taints(self.role, self.node.allow_workloads_on_master)
    }

    pub(super) fn is_master(&self) -> bool {
        self.role == Role::Master
    }

    /// The driver kubelet and runc share.
    pub(super) fn cgroup_driver(&self) -> CgroupDriver {
        match self.node.runtime.cgroup_driver {
            CgroupDriverChoice::Systemd => CgroupDriver::Systemd,
            CgroupDriverChoice::Cgroupfs => CgroupDriver::Cgroupfs,
            CgroupDriverChoice::Auto if self.facts.cgroup_v2 || self.facts.systemd_cgroups => {
                CgroupDriver::Systemd
            }
            CgroupDriverChoice::Auto => CgroupDriver::Cgroupfs,
        }
    }

    /// Where this node's own programs reach the API server: a master asks its own.
    pub(super) fn api_url(&self) -> String {
        api_url(self.role, &self.node)
    }

    /// Every address of this node, in the family of its own.
    pub(super) fn any_address(&self) -> &'static str {
        if self.node.node_ip.is_ipv6() {
            "::"
        } else {
            "0.0.0.0"
        }
    }

    /// `wanted` where a process may lower its score, else what it has anyway.
    pub(super) fn oom_score(&self, wanted: i32) -> i32 {
        if self.facts.can_lower_oom_score {
            wanted
        } else {
            0
        }
    }

    /// Inputs that every service of Kubernetes has: its unit, its program, the cluster's authority.
    pub(super) fn service_inputs(&self, unit_text: &str, program: &str) -> Inputs {
        Inputs::new()
            .add("unit", unit_text)
            .add_digest("program", self.program(program))
            .add("authority", &self.believed(Authority::Cluster))
    }

    /// `PATH` of services: the stack's programs first, then the distribution's.
    pub(super) fn service_path() -> String {
        format!(
            "PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            layout::bin("").trim_end_matches('/')
        )
    }
}

impl EtcdOf {
    /// From this stack.
    pub fn of(stack: StackRef, content: &StackManifest) -> Self {
        let mut files = content.files.iter();
        Self {
            stack,
            program: files.find(|f| f.path == "bin/etcd").map(|f| f.sha256),
            version: content.etcd(),
        }
    }
}

/// Which cgroup driver is used, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CgroupDriver {
    Systemd,
    Cgroupfs,
}

impl CgroupDriver {
    /// The word in KubeletConfiguration.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Cgroupfs => "cgroupfs",
        }
    }
}
/// Where a node's own programs reach the API server: a master asks its own.
pub fn api_url(role: Role, node: &NodeSpec) -> String {
    let host = match role {
        Role::Master => "127.0.0.1".to_owned(),
        Role::Worker | Role::None => url_host(&node.api.host),
    };
    format!("https://{host}:{}", node.api.port)
}

//! What a spec may say of the container runtime.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Container runtime choices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeSpec {
    /// Which cgroup driver kubelet and runc use.
    #[serde(default)]
    pub cgroup_driver: CgroupDriverChoice,
    /// Registry mirrors: registry host → endpoint URLs, tried in order.
    #[serde(default)]
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Directory of the host whose `*.toml` containerd reads beside its own file, e.g.
    /// `/etc/containerd/conf.d`; absent: none. Root of the host decides with it what runs pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_ins: Option<String>,
    /// Pods may be given devices that `/etc/cdi` and `/var/run/cdi` describe (CDI).
    #[serde(default)]
    pub cdi: bool,
    /// Plugins may connect to the runtime and change containers (NRI).
    #[serde(default)]
    pub nri: bool,
}

/// Which cgroup driver to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriverChoice {
    /// What the host can do: `systemd` where systemd owns a writable hierarchy, else `cgroupfs`.
    #[default]
    Auto,
    /// systemd slices and scopes.
    Systemd,
    /// Plain directories.
    Cgroupfs,
}

/// Longest path of a directory of drop-ins.
const DROP_IN_DIR_MAX: usize = 200;

/// Why a directory cannot be that of the runtime's drop-ins. What this software writes itself is
/// does not get it from anybody else.
pub fn drop_in_dir_fault(dir: &str) -> Option<String> {
    let clean = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let parts = dir
        .strip_prefix('/')
        .map(|rest| rest.split('/').collect::<Vec<_>>());
    let good = dir.len() <= DROP_IN_DIR_MAX && parts.is_some_and(|p| p.iter().all(|p| clean(p)));
    if !good {
        return Some(format!(
            "{dir:?} is not a plain absolute path of a directory"
        ));
    }
    let own = [
        "/etc/pf9",
        "/var/opt/pf9",
        "/opt/pf9",
        "/run/pf9",
        "/run/pf9-containerd",
        "/var/lib/pf9",
    ];
    let own = own
        .iter()
        .find(|own| dir == **own || dir.starts_with(&format!("{own}/")));
    own.map(|own| format!("{dir} is below {own}, which is the agent's own"))
}

//! Which entries a bundle has: small and informative ones first, since the size bound may cut off the end.

use crate::cli::context::{AGENT_UNITS, NODE_UNITS, NODELET_UNIT};
use crate::host::fs::HostFs;
use crate::model::paths;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Its name in the archive.
    pub(super) name: String,
    /// Where it is from, for people.
    pub(super) source: String,
    /// How to get it.
    pub(super) kind: Kind,
}

/// How to get an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A document of this program's own.
    Own(Own),
    /// Something said of the machine.
    Machine(Machine),
    /// A small text file.
    Text(String),
    /// A file of the agent's configuration.
    Settings(String),
    /// A file of the tunnel's allow-list.
    Services(String),
    /// A log of ours: its newest part, as far as the time asked for goes.
    Log(String),
    /// What systemd's journal has of a unit.
    Journal(&'static str),
    /// What those before it have against the node's programs.
    Complaints,
}

impl Kind {
    /// What a component logged, and nothing that was asked of the machine.
    pub(super) fn is_a_log(&self) -> bool {
        match self {
            Self::Log(_) | Self::Journal(_) | Self::Complaints => true,
            Self::Own(_)
            | Self::Machine(_)
            | Self::Text(_)
            | Self::Settings(_)
            | Self::Services(_) => false,
        }
    }
}

/// Documents of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// As `node check --output json`.
    Check,
    /// As `status --json`.
    Status,
    /// As `version --json`.
    Version,
}

/// What is said of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    /// Who issued each certificate, and when it ends; never a key.
    Certificates,
    /// Room and inodes of file systems; what is mounted where.
    Disks,
    /// Addresses, routes, name servers.
    Network,
    /// Kernel, memory, load.
    Kernel,
    /// Our files, by name, owner, mode and size.
    Listing,
}

/// Directories of logs, each its daemon's own. Directories below them are left out: the API server's audit
/// ([`paths::API_AUDIT_DIR`]) names people and what they looked at, and no redaction makes that support's to know.
const LOGS: [&str; 5] = ["comms", "hostagent", "nodelet", "agent", "kube"];
/// Most files of one directory: a daemon keeps eleven.
const FILES_MAX: usize = 32;

/// Everything there is on this machine.
pub(super) fn plan(host: &HostFs) -> Vec<Item> {
    let own = |name: &str, own, source: &str| item(name, source, Kind::Own(own));
    let machine = |name: &str, m, source: &str| item(name, source, Kind::Machine(m));
    let mut all = vec![
        own("check.json", Own::Check, "pf9ctl node check"),
        own("status.json", Own::Status, "pf9ctl status"),
        own("version.json", Own::Version, "pf9ctl version"),
        machine("system/kernel.txt", Machine::Kernel, "/proc"),
        machine(
            "system/disks.txt",
            Machine::Disks,
            "file systems and mounts",
        ),
        machine(
            "system/network.txt",
            Machine::Network,
            "addresses, routes, name servers",
        ),
        machine(
            "system/certificates.txt",
            Machine::Certificates,
            "certificates below /etc/pf9, without their keys",
        ),
        machine(
            "system/files.txt",
            Machine::Listing,
            "names, owners, modes and sizes of the agent's files",
        ),
        // Below /etc it is a link.
        text("system/os-release", "/usr/lib/os-release"),
        text("state/kube_status.json", paths::KUBE_STATUS),
        text("state/agent-switch.json", "/var/opt/pf9/agent/switch.json"),
        text("state/host_id.conf", paths::HOST_ID),
        text("state/endpoints.json", paths::ENDPOINTS),
        item(
            "config/hostagent.toml",
            paths::CONFIG,
            Kind::Settings(paths::CONFIG.to_owned()),
        ),
    ];
    for (dir, below, kind) in [
        (
            paths::CONFIG_DIR,
            "config/conf.d",
            Kind::Settings as fn(String) -> Kind,
        ),
        (paths::SERVICES_DIR, "config/services.d", Kind::Services),
    ] {
        for name in names(host, dir, |n| n.ends_with(".toml")) {
            let path = format!("{dir}/{name}");
            all.push(item(&format!("{below}/{name}"), &path, kind(path.clone())));
        }
    }
    let node = NODE_UNITS.iter().copied();
    let units = AGENT_UNITS
        .iter()
        .copied()
        .filter(|u| u.ends_with(".service"));
    for unit in units.chain([NODELET_UNIT]).chain(node) {
        let name = format!("journal/{}.log", unit.trim_end_matches(".service"));
        all.push(item(
            &name,
            &format!("journalctl -u {unit}"),
            Kind::Journal(unit),
        ));
    }
    all.push(item(
        "journal/complaints.txt",
        "errors in the journals above, without those of every start",
        Kind::Complaints,
    ));
    for part in LOGS {
        let dir = format!("{}/{part}", paths::LOG_DIR);
        for name in names(host, &dir, |n| n.contains(".log")) {
            let path = format!("{dir}/{name}");
            all.push(item(
                &format!("logs/{part}/{name}"),
                &path,
                Kind::Log(path.clone()),
            ));
        }
    }
    all
}

fn item(name: &str, source: &str, kind: Kind) -> Item {
    Item {
        name: name.to_owned(),
        source: source.to_owned(),
        kind,
    }
}

fn text(name: &str, path: &str) -> Item {
    item(name, path, Kind::Text(path.to_owned()))
}

/// Names in a directory that may be another user's: none that could mislead tar when unpacked.
fn names(host: &HostFs, dir: &str, wanted: fn(&str) -> bool) -> Vec<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let all = host.list(dir).unwrap_or_default().into_iter();
    all.filter(|n| wanted(n) && n.len() <= 100 && n.chars().all(plain) && !n.starts_with('.'))
        .take(FILES_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_of_the_api_server_is_in_no_bundle() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        let audit = host.at(paths::API_AUDIT_DIR);
        std::fs::create_dir_all(&audit).expect("directory");
        for name in ["audit.log", "audit-2999-01-01T00-00-00.000.log"] {
            std::fs::write(audit.join(name), "Default/anna").expect("written");
        }
        std::fs::write(host.at(paths::KUBE_LOG), "a story").expect("written");
        let all = plan(&host);
        let is_read = |path: &str| all.iter().any(|item| item.source.starts_with(path));
        assert!(is_read(paths::KUBE_LOG) && !is_read(paths::API_AUDIT_DIR));
    }
}

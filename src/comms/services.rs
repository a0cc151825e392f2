//! The allow-list: what the plane may reach on this machine, by name. Default deny.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::host::fs::HostFs;
use crate::model::{Fault, paths};
use crate::wire::limits::{SERVICE_MAX, STREAMS_MAX};

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it is.
    pub target: Target,
    /// Streams at once.
    pub max_streams: u32,
}

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// All services, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services(BTreeMap<String, Service>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    service: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    connect: String,
    #[serde(default = "default_streams")]
    max_streams: u32,
    /// How its streams are scheduled is the opener's choice; kept so that a list says it.
    #[serde(default)]
    #[expect(
        dead_code,
        reason = "documented key; read so that a typo in it is found"
    )]
    class: EntryClass,
    /// The target is not this machine: must be said in so many words.
    #[serde(default)]
    allow_beyond_loopback: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum EntryClass {
    #[default]
    Interactive,
    Bulk,
}

/// Largest file of the list.
const FILE_MAX: u64 = 64 * 1024;
/// Most services.
const SERVICES_MAX: usize = 256;

fn default_streams() -> u32 {
    128
}

// === impl Services ===

impl Services {
    /// Reads `/etc/pf9/services.d/*.toml`. Every fault of every file is reported at once.
    pub fn load(host: &HostFs) -> Result<Self, Fault> {
        let mut all = BTreeMap::new();
        let mut faults = Vec::new();
        let names = host
            .list(paths::SERVICES_DIR)
            .map_err(|e| bad(crate::telemetry::chain(&e)))?;
        for name in names {
            if Path::new(&name).extension().is_none_or(|e| e != "toml") {
                continue;
            }
            let path = format!("{}/{name}", paths::SERVICES_DIR);
            if let Err(why) = only_owner_writes(&host.at(&path)) {
                faults.push(format!("{path}: {why}"));
                continue;
            }
            let text = match host.read_text(&path, FILE_MAX) {
                Ok(text) => text.unwrap_or_default(),
                Err(e) => {
                    faults.push(crate::telemetry::chain(&e));
                    continue;
                }
            };
            match toml::from_str::<File>(&text) {
                Ok(file) => file
                    .service
                    .into_iter()
                    .for_each(|entry| add(&mut all, &path, entry, &mut faults)),
                Err(e) => faults.push(format!("{path}: {}", e.to_string().replace('\n', " "))),
            }
        }
        if all.len() > SERVICES_MAX {
            faults.push(format!("{} services, at most {SERVICES_MAX}", all.len()));
        }
        if faults.is_empty() {
            Ok(Self(all))
        } else {
            Err(bad(faults.join("; ")))
        }
    }

    /// The service of that name.
    pub fn get(&self, name: &str) -> Option<&Service> {
        self.0.get(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all: the plane reaches nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and services, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Service)> {
        self.0.iter()
    }
}

fn add(all: &mut BTreeMap<String, Service>, path: &str, entry: Entry, faults: &mut Vec<String>) {
    let mut fault = |why: String| faults.push(format!("{path}: service {:?}: {why}", entry.name));
    if entry.name.is_empty() || entry.name.len() > SERVICE_MAX {
        fault(format!("the name must have 1 to {SERVICE_MAX} bytes"));
    } else if entry.max_streams == 0 || entry.max_streams > STREAMS_MAX {
        fault(format!("max_streams must be 1 to {STREAMS_MAX}"));
    } else {
        match target(&entry.connect, entry.allow_beyond_loopback) {
            Ok(target) => {
                let service = Service {
                    target,
                    max_streams: entry.max_streams,
                };
                if all.insert(entry.name.clone(), service).is_some() {
                    fault("the name stands twice".into());
                }
            }
            Err(why) => fault(why),
        }
    }
}

/// Only loopback and Unix sockets, unless the entry says otherwise. Link-local addresses are where
/// clouds keep their metadata services: never.
fn target(connect: &str, beyond: bool) -> Result<Target, String> {
    if let Some(path) = connect.strip_prefix("unix:") {
        if !path.starts_with('/') {
            return Err(format!("{path:?} is no absolute path"));
        }
        return Ok(Target::Unix(path.into()));
    }
    let address: SocketAddr = connect
        .parse()
        .map_err(|_| format!("connect {connect:?} is neither IP:PORT nor unix:/path"))?;
    let link_local = match address.ip() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if link_local || address.ip().is_unspecified() || address.port() == 0 {
        return Err(format!("{address} may not be reached through the tunnel"));
    }
    if !address.ip().is_loopback() && !beyond {
        return Err(format!(
            "{address} is not this machine; say allow_beyond_loopback = true if that is meant"
        ));
    }
    Ok(Target::Tcp(address))
}

/// The list decides what the plane may reach: a file that someone else can write is no list.
fn only_owner_writes(path: &Path) -> Result<(), String> {
    let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
    let me = nix::unistd::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != me {
        return Err(format!("it belongs to user {}, must be root's", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        let mode = meta.mode() & 0o777;
        return Err(format!("mode {mode:04o} lets others write it; chmod go-w"));
    }
    Ok(())
}

fn bad(why: String) -> Fault {
    Fault::new("config-invalid", "cannot use the tunnel's allow-list", why)
        .fix("correct /etc/pf9/services.d and restart pf9-comms")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    fn load(mode: u32, text: &str) -> Result<Services, Fault> {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        host.write(
            "/etc/pf9/services.d/a.toml",
            text.as_bytes(),
            &Attrs::mode(mode),
        )
        .expect("write");
        Services::load(&host)
    }

    #[test]
    fn the_shipped_list_is_valid() {
        let text = include_str!("../../packaging/etc/services.d/kubernetes.toml");
        let services = load(0o644, text).expect("shipped list");
        let api = services.get("kube-apiserver").expect("kube-apiserver");
        assert_eq!(api.target, Target::Tcp(([127, 0, 0, 1], 6443).into()));
        assert_eq!(services.get("ssh"), None);
    }

    #[test]
    fn what_could_reach_beyond_is_refused() {
        let entry = |connect: &str, more: &str| {
            format!("[[service]]\nname = \"x\"\nconnect = \"{connect}\"\n{more}\n")
        };
        for bad in [
            entry("169.254.169.254:80", "allow_beyond_loopback = true"),
            entry("10.0.0.1:80", ""),
            entry("localhost:80", ""),
            entry("0.0.0.0:80", "allow_beyond_loopback = true"),
            entry("unix:relative", ""),
            entry("127.0.0.1:80", "max_streams = 0"),
            entry("127.0.0.1:80", "typo = 1"),
        ] {
            assert!(load(0o644, &bad).is_err(), "{bad}");
        }
        assert!(load(0o644, &entry("10.0.0.1:80", "allow_beyond_loopback = true")).is_ok());
    }

    #[test]
    fn a_list_others_may_write_is_refused() {
        let fault = load(0o666, "").expect_err("refused");
        assert!(fault.why.contains("chmod go-w"), "{fault}");
    }
}

//! The allow-list: what the plane may reach on this machine, by name. Default deny.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::host::fs::HostFs;
use crate::model::{Fault, FaultCode, paths};
use crate::wire::limits::{META_TEXT_MAX, SERVICE_MAX, STREAMS_MAX};

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it is.
    pub target: Target,
    /// Streams at once.
    pub max_streams: u32,
    /// Callers that are let in, by the plane's names; empty: all that the plane admits.
    pub who: Vec<String>,
    /// Streams opened a second, and as many at once.
    pub opens_per_s: Option<u32>,
    /// A stream over which no byte passed for so long is ended.
    pub idle: Option<Duration>,
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
    #[serde(default)]
    who: Vec<String>,
    opens_per_s: Option<u32>,
    /// None by default: `logs -f` may say nothing for an hour.
    idle_s: Option<u64>,
    /// The target is not this machine: must be said in so many words.
    #[serde(default)]
    allow_beyond_loopback: bool,
    /// The target is where clouds keep their metadata services: in so many words as well.
    #[serde(default)]
    allow_link_local: bool,
}

/// Largest file of the list.
const FILE_MAX: u64 = 64 * 1024;
/// Most services.
const SERVICES_MAX: usize = 256;
/// Most callers one service names.
const WHO_MAX: usize = 32;
/// Highest limit on opens: no stream is opened faster than a thousand a second.
const OPENS_MAX: u32 = 1000;
/// Longest silence that can be allowed: a day. Longer is none at all.
const IDLE_MAX_S: u64 = 86_400;

fn default_streams() -> u32 {
    128
}

// === impl Services ===

impl Services {
    /// Reads `/etc/pf9/services.d/*.toml`. Every fault of every file is reported at once.
    pub fn load(host: &HostFs) -> Result<Self, Fault> {
        let mut all = BTreeMap::new();
        let mut faults = Vec::new();
        let (dir, machine) = (host.at(paths::SERVICES_DIR), is_machine(host));
        // Write access to the directory is write access to the list.
        if dir.exists()
            && let Err(why) = only_root_writes(&dir, machine)
        {
            faults.push(format!("{}: {why}", paths::SERVICES_DIR));
        }
        let names = host
            .list(paths::SERVICES_DIR)
            .map_err(|e| bad(crate::telemetry::chain(&e)))?;
        for name in names {
            if Path::new(&name).extension().is_none_or(|e| e != "toml") {
                continue;
            }
            let path = format!("{}/{name}", paths::SERVICES_DIR);
            if let Err(why) = only_root_writes(&host.at(&path), machine) {
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
    } else if let Err(why) = limits(&entry) {
        fault(why);
    } else {
        match target(&entry) {
            Ok(target) => {
                let service = Service {
                    target,
                    max_streams: entry.max_streams,
                    who: entry.who,
                    opens_per_s: entry.opens_per_s,
                    idle: entry.idle_s.map(Duration::from_secs),
                };
                if all.insert(entry.name.clone(), service).is_some() {
                    fault("the name occurs twice".into());
                }
            }
            Err(why) => fault(why),
        }
    }
}

fn limits(entry: &Entry) -> Result<(), String> {
    let bad_name = |w: &String| w.is_empty() || w.len() > META_TEXT_MAX;
    if entry.who.len() > WHO_MAX || entry.who.iter().any(bad_name) {
        return Err(format!(
            "who must be at most {WHO_MAX} names of 1 to {META_TEXT_MAX} bytes"
        ));
    }
    if entry
        .opens_per_s
        .is_some_and(|n| !(1..=OPENS_MAX).contains(&n))
    {
        return Err(format!("opens_per_s must be 1 to {OPENS_MAX}"));
    }
    if entry.idle_s.is_some_and(|s| !(1..=IDLE_MAX_S).contains(&s)) {
        return Err(format!("idle_s must be 1 to {IDLE_MAX_S}"));
    }
    Ok(())
}

/// Only loopback and Unix sockets, unless the entry says otherwise. Link-local addresses are where
/// clouds keep their metadata services, credentials included: they have a word of their own.
fn target(entry: &Entry) -> Result<Target, String> {
    let connect = entry.connect.as_str();
    if let Some(path) = connect.strip_prefix("unix:") {
        if !path.starts_with('/') {
            return Err(format!("{path:?} is not an absolute path"));
        }
        return Ok(Target::Unix(path.into()));
    }
    let address: SocketAddr = connect
        .parse()
        .map_err(|_| format!("connect {connect:?} is neither IP:PORT nor unix:/path"))?;
    // An IPv4 address in IPv6 clothes is the IPv4 address.
    let ip = address.ip().to_canonical();
    if ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
        return Err(format!("{address} may not be reached through the tunnel"));
    }
    if is_metadata(ip) {
        if !entry.allow_link_local {
            return Err(format!(
                "{address} is a cloud metadata address; set allow_link_local = true to allow it"
            ));
        }
    } else if !ip.is_loopback() && !entry.allow_beyond_loopback {
        return Err(format!(
            "{address} is not this machine; set allow_beyond_loopback = true to allow it"
        ));
    }
    Ok(Target::Tcp(address))
}

/// Link-local, and the one metadata address that is not: AWS has it in its own IPv6 range.
fn is_metadata(ip: IpAddr) -> bool {
    const AWS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == AWS,
    }
}

/// The list decides what the plane may reach: a file that someone else than root can write is no
/// list. `machine`: it is the machine's own.
fn only_root_writes(path: &Path, machine: bool) -> Result<(), String> {
    let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
    let me = nix::unistd::geteuid().as_raw();
    if !may_own(meta.uid(), me, machine) {
        return Err(format!(
            "it belongs to user {}, must be root's; chown root",
            meta.uid()
        ));
    }
    if meta.mode() & 0o022 != 0 {
        let mode = meta.mode() & 0o777;
        return Err(format!("mode {mode:04o} lets others write it; chmod go-w"));
    }
    Ok(())
}

/// Root; not the user this runs as, who could then grant the plane more than root did. Below a directory that was named
/// at the start (`--root`) nothing belongs to the machine, and the user running the program may own all of it.
fn may_own(owner: u32, me: u32, machine: bool) -> bool {
    owner == 0 || (!machine && owner == me)
}

fn is_machine(host: &HostFs) -> bool {
    host.at("/") == Path::new("/")
}

fn bad(why: String) -> Fault {
    Fault::new(
        FaultCode::ConfigInvalid,
        "cannot use the tunnel's allow-list",
        why,
    )
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
            entry("[fd00:ec2::254]:80", "allow_beyond_loopback = true"),
            entry(
                "[::ffff:169.254.169.254]:80",
                "allow_beyond_loopback = true",
            ),
            entry("[::ffff:10.0.0.1]:80", ""),
            entry("10.0.0.1:80", "allow_link_local = true"),
            entry("0.0.0.0:80", "allow_link_local = true"),
            entry("127.0.0.1:80", "who = [\"\"]"),
            entry("127.0.0.1:80", "opens_per_s = 0"),
            entry("127.0.0.1:80", "opens_per_s = 1001"),
            entry("127.0.0.1:80", "idle_s = 0"),
        ] {
            assert!(load(0o644, &bad).is_err(), "{bad}");
        }
        for good in [
            entry("10.0.0.1:80", "allow_beyond_loopback = true"),
            entry("169.254.169.254:80", "allow_link_local = true"),
            entry("[fe80::1]:80", "allow_link_local = true"),
            entry(
                "127.0.0.1:80",
                "who = [\"a\"]\nopens_per_s = 5\nidle_s = 60",
            ),
        ] {
            assert!(load(0o644, &good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_list_is_roots() {
        const SOMEBODY: u32 = 1000;
        assert!(is_machine(&HostFs::real()));
        let file = tempfile::NamedTempFile::new().expect("file");
        assert!(!is_machine(&HostFs::new(file.path())));
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(file.path(), Some(SOMEBODY), None).expect("chown");
        }
        let why = only_root_writes(file.path(), true).expect_err("refused");
        assert!(why.contains("must be root's"), "{why}");
        for (owner, machine, wanted) in [
            (0, true, true),
            (0, false, true),
            (SOMEBODY, true, false),
            (SOMEBODY, false, true),
            (SOMEBODY + 1, false, false),
        ] {
            assert_eq!(
                may_own(owner, SOMEBODY, machine),
                wanted,
                "{owner} {machine}"
            );
        }
    }

    #[test]
    fn a_list_others_may_write_is_refused() {
        let fault = load(0o666, "").expect_err("refused");
        assert!(fault.why.contains("chmod go-w"), "{fault}");

        let dir = tempfile::tempdir().expect("tempdir");
        let host = HostFs::new(dir.path());
        host.make_dir(paths::SERVICES_DIR, &Attrs::mode(0o777))
            .expect("directory");
        let fault = Services::load(&host).expect_err("refused");
        assert!(fault.why.contains("services.d: mode 0777"), "{fault}");
    }
}

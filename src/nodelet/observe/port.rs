//! Who listens on a TCP port, from `/proc`: no program is run for it.

use crate::host::Host;
use crate::model::paths;

/// A full connection table of a busy master.
const TABLE_MAX: u64 = 64 * 1024 * 1024;
/// `LISTEN` in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// The process behind a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// e.g. `nginx (process 17)`.
    pub(super) name: String,
    /// One of our own services or containers, perhaps of an earlier start.
    pub(super) ours: bool,
}

/// Who listens on `port`; `None` when nobody does.
pub(super) fn holder(host: &Host, port: u16) -> Option<Holder> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| host.fs.read_text(table, TABLE_MAX).ok().flatten())
        .flat_map(|text| listeners(&text, port))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let found = host
        .fs
        .list("/proc")
        .unwrap_or_default()
        .into_iter()
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .find(|pid| has_socket(host, pid, &inodes));
    Some(match found {
        Some(pid) => describe(host, &pid),
        None => Holder {
            name: "a process of another namespace".into(),
            ours: false,
        },
    })
}

/// Inodes of the sockets that listen on `port`.
fn listeners(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(3) == Some(&LISTEN) && fields.get(1)?.ends_with(&suffix);
            listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
        })
        .collect()
}

fn has_socket(host: &Host, pid: &str, inodes: &[String]) -> bool {
    let Ok(entries) = std::fs::read_dir(host.fs.at(format!("/proc/{pid}/fd"))) else {
        return false;
    };
    entries.filter_map(Result::ok).any(|entry| {
        std::fs::read_link(entry.path())
            .is_ok_and(|link| inodes.iter().any(|i| link.as_os_str() == i.as_str()))
    })
}

fn describe(host: &Host, pid: &str) -> Holder {
    let read = |file: &str| {
        host.fs
            .read_text(format!("/proc/{pid}/{file}"), TABLE_MAX)
            .ok()
            .flatten()
            .unwrap_or_default()
    };
    let program = std::fs::read_link(host.fs.at(format!("/proc/{pid}/exe")));
    let from_stack = program.is_ok_and(|p| p.starts_with(host.fs.at(paths::STACKS)));
    let in_container = read("mountinfo").contains(paths::CONTAINERD_ROOT);
    Holder {
        name: format!("{} (process {pid})", read("comm").trim()),
        ours: from_stack || in_container,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::HostFs;

    #[test]
    fn a_listener_is_found_by_its_port_and_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let host = Host::new(HostFs::real());
        let holder = holder(&host, port).expect("somebody listens");
        let me = format!("process {}", std::process::id());
        assert!(holder.name.contains(&me), "{holder:?}");
        assert!(!holder.ours);
        drop(listener);
        assert_eq!(super::holder(&host, port), None);
    }
}

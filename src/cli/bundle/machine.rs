//! Facts about the machine: never other programs' files as they are, only what is known to be harmless in them.

use std::os::unix::fs::MetadataExt;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::plan::Machine;
use crate::cli::words;
use crate::host::fs::HostFs;
use crate::host::interfaces::interfaces;
use crate::host::ours;
use crate::host::resolver::Resolver;
use crate::host::routes::routes;
use crate::host::{mounts, space};
use crate::model::{Digest, paths};

/// A list of the kernel's.
const PROC_MAX: u64 = 64 * 1024;
/// A chain of certificates.
const PEM_MAX: u64 = 256 * 1024;
/// Most lines of a listing: a master has some hundreds of files of ours beside containers.
const LINES_MAX: usize = 5000;
/// Levels below a directory of ours; what containers keep is deeper.
const DEPTH_MAX: usize = 5;

/// In words, a line each.
pub(super) fn said(host: &HostFs, what: Machine) -> String {
    let lines = match what {
        Machine::Kernel => kernel(host),
        Machine::Disks => disks(host),
        Machine::Network => network(host),
        Machine::Certificates => certificates(host),
        Machine::Listing => listing(host),
    };
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn text(host: &HostFs, path: &str) -> String {
    host.read_text(path, PROC_MAX)
        .ok()
        .flatten()
        .unwrap_or_default()
}

fn kernel(host: &HostFs) -> Vec<String> {
    let mut lines = Vec::new();
    for path in [
        "/proc/sys/kernel/osrelease",
        "/proc/sys/kernel/version",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/pressure/cpu",
        "/proc/pressure/io",
        "/proc/pressure/memory",
        "/proc/meminfo",
        "/proc/swaps",
    ] {
        let text = text(host, path);
        if !text.is_empty() {
            lines.push(format!("== {path}"));
            lines.extend(text.trim_end().lines().map(str::to_owned));
        }
    }
    lines
}

fn disks(host: &HostFs) -> Vec<String> {
    let mut lines = Vec::new();
    for path in [
        "/",
        "/opt/pf9",
        "/var/lib/pf9",
        "/var/opt/pf9",
        paths::LOG_DIR,
        paths::ETCD_DATA,
    ] {
        let Ok(space) = space::of(&host.at(path)) else {
            continue;
        };
        let on = mounts::under(host, path).ok().flatten();
        // Its source may be a share with a name and a password in it.
        let on = on.map_or_else(String::new, |m| format!(" on {} ({})", m.point, m.fs_type));
        let (free, total) = (words::size(space.free), words::size(space.total));
        lines.push(format!("{path}: {free} free of {total}{on}"));
    }
    lines.push("== mount points".to_owned());
    let points = mounts::points(host).unwrap_or_default();
    lines.extend(points.into_iter().take(LINES_MAX));
    lines
}

fn network(host: &HostFs) -> Vec<String> {
    let mut lines = vec!["== addresses".to_owned()];
    for interface in interfaces(host) {
        let addresses: Vec<String> = interface
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        lines.push(format!(
            "{} {} {}",
            interface.name,
            interface.mac,
            addresses.join(" ")
        ));
    }
    lines.push("== routes".to_owned());
    lines.extend(routes(host).into_iter().take(LINES_MAX).map(|r| {
        let via = if r.gateway { " by a gateway" } else { "" };
        format!("{} dev {} metric {}{via}", r.net, r.interface, r.metric)
    }));
    lines.push("== name servers".to_owned());
    if let Ok(resolver) = Resolver::of(host) {
        lines.extend(resolver.servers.iter().map(ToString::to_string));
    }
    lines
}

fn certificates(host: &HostFs) -> Vec<String> {
    let mut files = vec![paths::HOST_CERT.to_owned(), paths::PLANE_CA.to_owned()];
    let mut dirs = vec![paths::KUBE_CERTS.to_owned()];
    while let Some(dir) = dirs.pop() {
        for name in host.list(&dir).unwrap_or_default() {
            let path = format!("{dir}/{name}");
            let is_dir = std::fs::symlink_metadata(host.at(&path)).is_ok_and(|m| m.is_dir());
            if is_dir && path.matches('/').count() < 12 {
                dirs.push(path);
            } else if name.ends_with(".crt") && files.len() < LINES_MAX {
                files.push(path);
            }
        }
    }
    files.sort_unstable();
    let mut lines = Vec::new();
    for path in files {
        let Some(bytes) = read_plain(host, &path) else {
            continue;
        };
        for der in CertificateDer::pem_slice_iter(&bytes).flatten() {
            let digest = Digest::of(&der).short();
            let Ok((_, cert)) = X509Certificate::from_der(&der) else {
                lines.push(format!("{path}: cannot be read"));
                continue;
            };
            let validity = cert.validity();
            lines.push(format!(
                "{path}: {digest}… subject {:?} issuer {:?} from {} until {}",
                cert.subject().to_string(),
                cert.issuer().to_string(),
                validity.not_before,
                validity.not_after
            ));
        }
    }
    lines
}

fn read_plain(host: &HostFs, path: &str) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = host.open_plain(path).ok()?;
    file.take(PEM_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn listing(host: &HostFs) -> Vec<String> {
    let roots = ours::paths::PLACES.iter().map(|(path, _)| *path);
    let roots = [ours::paths::CONFIG_ROOT, paths::AGENT_PROGRAMS]
        .into_iter()
        .chain(roots);
    let mut lines = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for root in roots {
        walk(host, root, 0, &mut seen, &mut lines);
    }
    if lines.len() >= LINES_MAX {
        lines.push(format!("… more than {LINES_MAX}"));
    }
    lines
}

fn walk(
    host: &HostFs,
    path: &str,
    depth: usize,
    seen: &mut std::collections::BTreeSet<String>,
    lines: &mut Vec<String>,
) {
    let Ok(meta) = std::fs::symlink_metadata(host.at(path)) else {
        return;
    };
    if lines.len() >= LINES_MAX || !seen.insert(path.to_owned()) {
        return;
    }
    let name: String = path
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    let to = match meta.is_symlink() {
        true => std::fs::read_link(host.at(path)).map_or_else(
            |_| String::new(),
            |to| format!(" -> {}", to.display().to_string().escape_debug()),
        ),
        false => String::new(),
    };
    lines.push(format!(
        "{:06o} {}:{} {:>10} {} {name}{to}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.len(),
        meta.mtime()
    ));
    if !meta.is_dir() || depth >= DEPTH_MAX || lines.len() >= LINES_MAX {
        return;
    }
    for name in host.list(path).unwrap_or_default() {
        walk(host, &format!("{path}/{name}"), depth + 1, seen, lines);
    }
}

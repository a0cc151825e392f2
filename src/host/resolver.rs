//! The file that tells pods who answers DNS, and whether it is of use to them.
//!
//! kubelet gives pods what is in it, and the cluster's own DNS asks who is named there. A loopback address means
//! another one in every pod: the cluster's DNS would ask itself, see that, and end.

use std::net::{IpAddr, Ipv4Addr};

use super::fs::{Found, FsError, HostFs};

const PLAIN: &str = "/etc/resolv.conf";
/// systemd-resolved's list of its own upstream servers.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
/// Where systemd-resolved answers (systemd-resolved.service(8)).
const STUBS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54)),
];
/// A few lines.
const FILE_MAX: u64 = 256 * 1024;

/// The DNS servers, by the file that pods get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// The file.
    pub path: String,
    /// The addresses in it.
    pub servers: Vec<IpAddr>,
    /// Where it leads, if there is nothing; absent too when there is no file at all.
    pub missing: Option<String>,
}

/// Why pods get no DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoDns {
    /// What is wrong.
    pub why: String,
    /// What a person can do.
    pub fix: &'static str,
    /// Pods work without; else none that asks for DNS starts, or the cluster's DNS does not, or it knows no names of others
    /// although somebody answers for them.
    pub harmless: bool,
}

impl Resolver {
    /// systemd-resolved's upstream file when `/etc/resolv.conf` names its local stub, alone or beside others. Where
    /// another program is the machine's own server, and others are named, resolved may run and know no server.
    pub fn of(fs: &HostFs) -> Result<Self, FsError> {
        let plain = Self::named_in(fs, PLAIN)?;
        let stub = plain.servers.iter().any(|ip| STUBS.contains(ip));
        if !plain.only_loopback() && !stub {
            return Ok(plain);
        }
        let upstream = match fs.found(UPSTREAM)? {
            Found::File { .. } => Self::named_in(fs, UPSTREAM)?,
            Found::Nothing | Found::Dir { .. } | Found::Link(_) | Found::Other => return Ok(plain),
        };
        match upstream.servers.is_empty() && !plain.only_loopback() {
            true => Ok(plain),
            false => Ok(upstream),
        }
    }

    fn named_in(fs: &HostFs, path: &str) -> Result<Self, FsError> {
        let text = fs.read(path, FILE_MAX)?;
        let missing = match (&text, fs.found(path)?) {
            (Some(_), _) => None,
            (None, Found::Link(target)) => Some(format!(
                "it points to {}, which does not exist",
                target.display()
            )),
            (None, _) => Some("there is no such file".to_owned()),
        };
        let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
        let lines = text
            .lines()
            .filter_map(|l| l.trim().strip_prefix("nameserver"));
        // The interface behind an address (`fe80::1%eth0`) is not part of it.
        let servers = lines.filter_map(|l| l.trim().split('%').next()?.parse().ok());
        Ok(Self {
            path: path.to_owned(),
            servers: servers.collect(),
            missing,
        })
    }

    fn only_loopback(&self) -> bool {
        !self.servers.is_empty() && self.servers.iter().all(IpAddr::is_loopback)
    }

    /// Whether it is of no use to pods.
    pub fn no_dns(&self) -> Option<NoDns> {
        let path = &self.path;
        if let Some(missing) = &self.missing {
            return Some(NoDns {
                why: format!("{path}: {missing}: no pod that asks for the machine's DNS starts"),
                fix: "start what writes it (systemctl enable --now systemd-resolved), or write the machine's DNS \
                      servers into a file there, one line \"nameserver ADDRESS\" each",
                harmless: false,
            });
        }
        if self.only_loopback() {
            return Some(NoDns {
                why: format!(
                    "{path} names only this machine itself, which for a pod is the pod: the cluster's DNS would query itself"
                ),
                fix: "write the addresses of the DNS servers that the local one asks into /etc/resolv.conf, one line \
                      \"nameserver ADDRESS\" each",
                harmless: false,
            });
        }
        // The cluster's DNS asks one of them at random.
        if self.servers.iter().any(IpAddr::is_loopback) {
            return Some(NoDns {
                why: format!(
                    "{path} names this machine itself among others, which for a pod is the pod: the cluster's DNS queries \
                     itself at times, detects that, and exits"
                ),
                fix: "remove the lines \"nameserver\" with an address of this machine itself (127.0.0.1, ::1) from \
                      /etc/resolv.conf",
                harmless: true,
            });
        }
        let of_a_link = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if !self.servers.is_empty() && self.servers.iter().all(of_a_link) {
            return Some(NoDns {
                why: format!(
                    "{path} names only link-local addresses, which a pod cannot reach: pods resolve only names of the cluster"
                ),
                fix: "write servers with other addresses into /etc/resolv.conf, one line \"nameserver ADDRESS\" each, or \
                      have the network's router announce them",
                harmless: false,
            });
        }
        self.servers.is_empty().then(|| NoDns {
            why: format!("{path} names no server: pods resolve only names of the cluster"),
            fix: "if pods should resolve other names: write a line \"nameserver ADDRESS\" into /etc/resolv.conf",
            harmless: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Attrs;

    fn said(before: impl FnOnce(&HostFs)) -> (Resolver, Option<NoDns>) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fs = HostFs::new(dir.path());
        std::fs::create_dir(fs.at("/etc")).expect("directory");
        before(&fs);
        let resolver = Resolver::of(&fs).expect("read");
        let no_dns = resolver.no_dns();
        (resolver, no_dns)
    }

    fn put(fs: &HostFs, path: &str, text: &str) {
        fs.write(path, text.as_bytes(), &Attrs::mode(0o644))
            .expect("write");
    }

    #[test]
    fn what_is_of_no_use_to_pods_is_told_with_a_remedy() {
        type Before = fn(&HostFs);
        let cases: [(Before, &str, bool); 8] = [
            (|_| (), "there is no such file", false),
            (
                |fs| fs.link(PLAIN, "../run/nowhere/stub.conf").expect("link"),
                "points to ../run/nowhere/stub.conf, which does not exist",
                false,
            ),
            (
                |fs| put(fs, PLAIN, "nameserver 127.0.0.53\n"),
                "only this machine itself",
                false,
            ),
            (
                |fs| put(fs, PLAIN, "nameserver ::1\nnameserver 127.0.0.1\n"),
                "only this machine itself",
                false,
            ),
            (
                |fs| put(fs, PLAIN, "nameserver 127.0.0.1\nnameserver 10.0.0.1\n"),
                "among others",
                true,
            ),
            (
                |fs| put(fs, PLAIN, "nameserver 10.0.0.1\nnameserver ::1\n"),
                "among others",
                true,
            ),
            (
                |fs| put(fs, PLAIN, "nameserver fe80::1%eth0\n"),
                "only link-local addresses",
                false,
            ),
            (
                |fs| put(fs, PLAIN, "# nobody\nsearch example\n"),
                "names no server",
                true,
            ),
        ];
        for (before, words, harmless) in cases {
            let (_, no_dns) = said(before);
            let no_dns = no_dns.expect(words);
            assert!(no_dns.why.contains(words), "{}", no_dns.why);
            assert_eq!(no_dns.harmless, harmless, "{words}");
            assert!(!no_dns.fix.is_empty());
        }
        for text in [
            "nameserver 10.0.0.1\n",
            "nameserver 10.0.0.1\n nameserver fe80::1%eth0\n",
        ] {
            assert_eq!(said(|fs| put(fs, PLAIN, text)).1, None, "{text}");
        }
        // The remedy.
        let (after, no_dns) = said(|fs| {
            fs.link(PLAIN, "../run/systemd/resolve/stub-resolv.conf")
                .expect("link");
            put(
                fs,
                "/run/systemd/resolve/stub-resolv.conf",
                "nameserver 127.0.0.53\n",
            );
            put(fs, UPSTREAM, "nameserver 10.0.0.1\n");
        });
        assert_eq!((after.path.as_str(), no_dns), (UPSTREAM, None));
        // Its stub with another one beside it.
        let (after, no_dns) = said(|fs| {
            put(fs, PLAIN, "nameserver 127.0.0.53\nnameserver 10.0.0.2\n");
            put(fs, UPSTREAM, "nameserver 10.0.0.1\n");
        });
        assert_eq!((after.path.as_str(), no_dns), (UPSTREAM, None));
        // A server of the machine's own that is not resolved's, and a resolved that knows none.
        for (own, known) in [
            ("127.0.0.1", "nameserver 10.0.0.1\n"),
            ("127.0.0.53", "# none\n"),
        ] {
            let (after, _) = said(|fs| {
                put(
                    fs,
                    PLAIN,
                    &format!("nameserver {own}\nnameserver 10.0.0.2\n"),
                );
                put(fs, UPSTREAM, known);
            });
            assert_eq!(after.path, PLAIN, "{own}");
        }
    }
}

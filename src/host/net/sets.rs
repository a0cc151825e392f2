//! Sets of addresses in the kernel (ipset), and whether the kernel has what network policies are kept with.
//!
//! Asked by netlink: the program `ipset` is in the image of who makes the sets, and a machine need not have it. Nothing
//! is asked where the kernel's own files do not say that there is something to ask.

use std::io;

use super::Net;
use super::netlink::{ACK, DUMP, IPV4, NETLINK, Netlink, attr, text, words};

/// Is there where the kernel has sets, as a module or built in: they have a parameter.
const SETS: &str = "/sys/module/ip_set";

const IPSET: u16 = 6 << 8;
const IPSET_DESTROY: u16 = IPSET | 3;
const IPSET_LIST: u16 = IPSET | 7;
const IPSET_TYPE: u16 = IPSET | 13;
/// The oldest that kernels still take.
const IPSET_PROTOCOL: u8 = 6;
const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_TYPENAME: u16 = 3;
const ATTR_FAMILY: u16 = 5;
const ATTR_FLAGS: u16 = 6 | NET_BYTEORDER;
const NET_BYTEORDER: u16 = 1 << 14;
/// Names only.
const LIST_SETNAME: u32 = 1 << 1;

const COMPAT_GET: u16 = 11 << 8;
const COMPAT_NAME: u16 = 1;
const COMPAT_REVISION: u16 = 2;
const COMPAT_TYPE: u16 = 3;

/// Kinds of sets that policies are kept with.
const SET_TYPES: [&str; 2] = ["hash:ip", "hash:net"];
/// Matches and targets (true) of iptables that they are kept with.
const EXTENSIONS: [(&str, bool); 10] = [
    ("set", false),
    ("comment", false),
    ("mark", false),
    ("conntrack", false),
    ("addrtype", false),
    ("physdev", false),
    ("limit", false),
    ("MARK", true),
    ("REJECT", true),
    ("NFLOG", true),
];

impl Net {
    /// Names of the sets that start with one of `prefixes`.
    pub fn sets(&self, prefixes: &[String]) -> io::Result<Vec<String>> {
        if prefixes.is_empty() || self.without(SETS) {
            return Ok(Vec::new());
        }
        let attrs = [
            attr(ATTR_PROTOCOL, &[IPSET_PROTOCOL]),
            attr(ATTR_FLAGS, &LIST_SETNAME.to_be_bytes()),
        ];
        let answers = Netlink::open()?.ask(IPSET_LIST, DUMP, &attrs.concat())?;
        let names = answers.iter().filter_map(|a| text(a, ATTR_SETNAME));
        let ours = |name: &String| prefixes.iter().any(|p| name.starts_with(p.as_str()));
        Ok(names.filter(ours).collect())
    }

    /// Removes the sets that start with one of `prefixes`; rules that use them are gone before.
    pub fn delete_sets(&self, prefixes: &[String]) -> io::Result<()> {
        let found = self.sets(prefixes)?;
        for name in &found {
            let attrs = [
                attr(ATTR_PROTOCOL, &[IPSET_PROTOCOL]),
                attr(ATTR_SETNAME, &words(name)),
            ];
            Netlink::open()?.ask(IPSET_DESTROY, ACK, &attrs.concat())?;
        }
        Ok(())
    }

    /// What this kernel lacks for keeping network policies. Where it cannot be asked, nothing is known to be.
    pub fn lacking_for_policies(&self) -> Vec<String> {
        if self.without(NETLINK) {
            return Vec::new();
        }
        let Ok(netlink) = Netlink::open() else {
            return Vec::new();
        };
        let sets = SET_TYPES
            .iter()
            .filter(|name| netlink.set_type(name) == Has::No);
        let sets = sets.map(|name| format!("sets of addresses ({name})"));
        let rules = EXTENSIONS
            .iter()
            .filter(|(name, target)| netlink.extension(name, *target) == Has::No);
        let rules = rules.map(|(name, _)| format!("rules with {name}"));
        sets.chain(rules).collect()
    }
}

/// What the kernel says to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    Yes,
    No,
    /// It may not be asked, or did not answer.
    Unknown,
}

impl Netlink {
    fn set_type(&self, name: &str) -> Has {
        let attrs = [
            attr(ATTR_PROTOCOL, &[IPSET_PROTOCOL]),
            attr(ATTR_TYPENAME, &words(name)),
            attr(ATTR_FAMILY, &[IPV4]),
        ];
        has(self.ask(IPSET_TYPE, ACK, &attrs.concat()))
    }

    fn extension(&self, name: &str, target: bool) -> Has {
        let attrs = [
            attr(COMPAT_NAME, &words(name)),
            attr(COMPAT_REVISION, &0u32.to_be_bytes()),
            attr(COMPAT_TYPE, &u32::from(target).to_be_bytes()),
        ];
        has(self.ask(COMPAT_GET, ACK, &attrs.concat()))
    }
}

/// A revision that it does not have is one of an extension that it has.
fn has(answer: io::Result<Vec<Vec<u8>>>) -> Has {
    let Err(e) = answer else {
        return Has::Yes;
    };
    match e.raw_os_error() {
        Some(code) if code == nix::errno::Errno::EPROTONOSUPPORT as i32 => Has::Yes,
        Some(code)
            if [
                nix::errno::Errno::ENOENT,
                nix::errno::Errno::EINVAL,
                nix::errno::Errno::EOPNOTSUPP,
            ]
            .iter()
            .any(|no| code == *no as i32) =>
        {
            Has::No
        }
        Some(_) | None => Has::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::HostFs;

    #[test]
    fn what_the_kernel_refuses_is_told_apart() {
        let refusal = |code: i32| match code {
            0 => Ok(Vec::new()),
            _ => Err(io::Error::from_raw_os_error(code)),
        };
        assert_eq!(has(refusal(0)), Has::Yes);
        let code = |e: nix::errno::Errno| has(refusal(e as i32));
        assert_eq!(code(nix::errno::Errno::EPROTONOSUPPORT), Has::Yes);
        assert_eq!(code(nix::errno::Errno::ENOENT), Has::No);
        assert_eq!(code(nix::errno::Errno::EINVAL), Has::No);
        assert_eq!(code(nix::errno::Errno::EPERM), Has::Unknown);
    }

    #[test]
    fn a_machine_whose_kernel_says_nothing_of_it_is_not_asked() {
        let dir = tempfile::tempdir().expect("tempdir");
        let net = Net::new(HostFs::new(dir.path()));
        let all = [String::new()];
        assert_eq!(net.sets(&all).expect("not asked"), [""; 0]);
        net.delete_sets(&all).expect("nothing to do");
        assert_eq!(net.lacking_for_policies(), [""; 0]);
    }
}

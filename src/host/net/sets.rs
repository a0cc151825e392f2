//! Sets of addresses in the kernel (ipset), and whether the kernel has what network policies are kept with.
//!
//! Asked by netlink: the program `ipset` is in the image of who makes the sets, and a machine need not have it. Nothing
//! is asked where the kernel's own files do not say that there is something to ask.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Net;
use crate::host::fs::Found;

/// Is there where the kernel has sets, as a module or built in: they have a parameter.
const SETS: &str = "/sys/module/ip_set";
/// Is there where the kernel speaks netlink.
const NETLINK: &str = "/proc/net/netlink";
/// The kernel answers at once; one that loads a module for it, soon.
const PATIENCE_S: i64 = 5;
/// A part of an answer: the kernel sends at most 32 KiB at once.
const PART: usize = 64 * 1024;
/// Most parts of an answer: names of the sets of 65 534, which is all that the kernel has, fit.
const PARTS_MAX: usize = 1024;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const IPV4: u8 = 2;

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

    fn without(&self, path: &str) -> bool {
        matches!(self.fs.found(path), Ok(Found::Nothing))
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

struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(fd))
    }

    /// The attributes of each message of the answer.
    fn ask(&self, kind: u16, flags: u16, attrs: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let request = message(kind, flags | REQUEST, attrs);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.0.as_raw_fd(), &request, &kernel, MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut part = vec![0; PART];
        for _ in 0..PARTS_MAX {
            let len = recv(self.0.as_raw_fd(), &mut part, MsgFlags::empty())?;
            let read = part.get(..len).unwrap_or_default();
            if take(read, &mut answers)? {
                return Ok(answers);
            }
        }
        Err(io::Error::other("the kernel's answer has no end"))
    }

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

/// Takes the messages of one part; true at the end of the answer.
fn take(mut part: &[u8], answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    const HEADER: usize = 16;
    const GENERIC: usize = 4;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "not a netlink message");
    while !part.is_empty() {
        let len = u32_at(part, 0).ok_or_else(broken)? as usize;
        let kind = u16_at(part, 4).ok_or_else(broken)?;
        let body = part.get(HEADER..len).ok_or_else(broken)?;
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = u32_at(body, 0).ok_or_else(broken)?.cast_signed();
                return match code {
                    0 => Ok(true),
                    _ => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                };
            }
            _ => answers.push(body.get(GENERIC..).unwrap_or_default().to_vec()),
        }
        part = part.get(padded(len)..).unwrap_or_default();
    }
    Ok(false)
}

fn message(kind: u16, flags: u16, attrs: &[u8]) -> Vec<u8> {
    let len = u32::try_from(20 + attrs.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(20 + attrs.len());
    out.extend(len.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(1u32.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend([IPV4, 0, 0, 0]);
    out.extend(attrs);
    out
}

fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = 4 + value.len();
    let mut out = Vec::with_capacity(padded(len));
    out.extend(u16::try_from(len).unwrap_or(u16::MAX).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(padded(len), 0);
    out
}

/// A text as attributes have it.
fn words(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// The text of an attribute.
fn text(mut attrs: &[u8], wanted: u16) -> Option<String> {
    while let (Some(len), Some(kind)) = (u16_at(attrs, 0), u16_at(attrs, 2)) {
        let value = attrs.get(4..usize::from(len))?;
        if kind == wanted {
            let value = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(value).into_owned());
        }
        attrs = attrs.get(padded(len.into())..)?;
    }
    None
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(two.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::fs::HostFs;

    fn named(name: &str) -> Vec<u8> {
        let attrs = [attr(ATTR_PROTOCOL, &[7]), attr(ATTR_SETNAME, &words(name))];
        message(IPSET_LIST, 2, &attrs.concat())
    }

    #[test]
    fn names_of_sets_are_read_out_of_the_parts_of_an_answer() {
        let mut answers = Vec::new();
        let first = [named("KUBE-SRC-ABC"), named("mine")].concat();
        assert!(!take(&first, &mut answers).expect("read"));
        let second = [named("KUBE-DST-X"), message(DONE, 2, &[])].concat();
        assert!(take(&second, &mut answers).expect("read"));
        let names: Vec<_> = answers
            .iter()
            .filter_map(|a| text(a, ATTR_SETNAME))
            .collect();
        assert_eq!(names, ["KUBE-SRC-ABC", "mine", "KUBE-DST-X"]);
    }

    #[test]
    fn what_the_kernel_refuses_is_told_apart() {
        let refusal = |code: i32| {
            let mut bytes = message(ERROR, 0, &[]);
            bytes[16..20].copy_from_slice(&(-code).to_ne_bytes());
            take(&bytes, &mut Vec::new()).map(|_| Vec::new())
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

    proptest! {
        #[test]
        fn no_answer_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut answers = Vec::new();
            let end = take(&bytes, &mut answers);
            prop_assert!(end.is_ok() || end.is_err());
            for answer in answers.iter().chain([&bytes]) {
                text(answer, ATTR_SETNAME);
            }
        }
    }
}

//! The kernel's netfilter, asked by netlink: one question, all of its answer.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Is there where the kernel speaks netlink.
pub(super) const NETLINK: &str = "/proc/net/netlink";
/// The kernel answers at once; one that loads a module for it, soon.
const PATIENCE_S: i64 = 5;
/// A part of an answer: the kernel sends at most 32 KiB at once.
const PART: usize = 64 * 1024;
/// Most parts of an answer: names of the sets of 65 534, which is all that the kernel has, fit.
const PARTS_MAX: usize = 1024;

const REQUEST: u16 = 0x1;
/// The kernel ends its answer with a word that this was all.
pub(super) const ACK: u16 = 0x4;
/// All that there are of a kind.
pub(super) const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
pub(super) const IPV4: u8 = 2;

/// A socket to the kernel.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
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
    pub(super) fn ask(&self, kind: u16, flags: u16, attrs: &[u8]) -> io::Result<Vec<Vec<u8>>> {
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

/// An attribute as messages have it.
pub(super) fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = 4 + value.len();
    let mut out = Vec::with_capacity(padded(len));
    out.extend(u16::try_from(len).unwrap_or(u16::MAX).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(padded(len), 0);
    out
}

/// A text as attributes have it.
pub(super) fn words(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// The text of an attribute.
pub(super) fn text(attrs: &[u8], wanted: u16) -> Option<String> {
    let value = value(attrs, wanted)?;
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The number of an attribute, in the order of the network.
pub(super) fn number(attrs: &[u8], wanted: u16) -> Option<u32> {
    let four = value(attrs, wanted)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

fn value(mut attrs: &[u8], wanted: u16) -> Option<&[u8]> {
    while let (Some(len), Some(kind)) = (u16_at(attrs, 0), u16_at(attrs, 2)) {
        let value = attrs.get(4..usize::from(len))?;
        if kind == wanted {
            return Some(value);
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

    const KIND: u16 = 6 << 8;
    const NAME: u16 = 2;

    fn named(name: &str) -> Vec<u8> {
        let attrs = [attr(1, &[7]), attr(NAME, &words(name))];
        message(KIND, 2, &attrs.concat())
    }

    #[test]
    fn names_are_read_out_of_the_parts_of_an_answer() {
        let mut answers = Vec::new();
        let first = [named("KUBE-SRC-ABC"), named("mine")].concat();
        assert!(!take(&first, &mut answers).expect("read"));
        let second = [named("KUBE-DST-X"), message(DONE, 2, &[])].concat();
        assert!(take(&second, &mut answers).expect("read"));
        let names: Vec<_> = answers.iter().filter_map(|a| text(a, NAME)).collect();
        assert_eq!(names, ["KUBE-SRC-ABC", "mine", "KUBE-DST-X"]);
    }

    #[test]
    fn a_number_is_four_bytes_and_nothing_else() {
        let attrs = [attr(NAME, &words("x")), attr(1, &[0, 0, 1, 2])].concat();
        assert_eq!(number(&attrs, 1), Some(258));
        assert_eq!(number(&attrs, NAME), None);
        assert_eq!(number(&attrs, 3), None);
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error_with_its_number() {
        let refusal = |code: i32| {
            let mut bytes = message(ERROR, 0, &[]);
            bytes[16..20].copy_from_slice(&(-code).to_ne_bytes());
            take(&bytes, &mut Vec::new())
        };
        assert!(refusal(0).expect("the end"));
        let refused = refusal(nix::errno::Errno::EPERM as i32).expect_err("refused");
        assert_eq!(
            refused.raw_os_error(),
            Some(nix::errno::Errno::EPERM as i32)
        );
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut answers = Vec::new();
            let end = take(&bytes, &mut answers);
            prop_assert!(end.is_ok() || end.is_err());
            for answer in answers.iter().chain([&bytes]) {
                text(answer, NAME);
                number(answer, NAME);
            }
        }
    }
}

//! Names of things. Each is its own type, so that a host id can never stand where a cluster id is
//! meant.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A machine with the agent; the same UUID is in `/etc/pf9/host_id.conf` and in the host
/// certificate's common name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostId(pub Uuid);

/// A cluster, as the plane names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Uuid);

/// Rising number of a host's spec. A host accepts only a greater one than it has.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// A SHA-256 digest; 64 lower-case hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The UID of a node's user in Kubernetes: another one each time a host becomes a node, so
/// that the certificates of an earlier time can be told from today's and be refused. Sixteen
/// lower-case hex digits in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeUid(u64);

/// A Kubernetes node name: a DNS-1123 subdomain of at most 253 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct NodeName(String);

/// Why a text is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a {kind}: {want}")]
pub struct BadName {
    kind: &'static str,
    value: String,
    want: &'static str,
}

// === impl HostId, ClusterId ===

impl HostId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl ClusterId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

macro_rules! uuid_text {
    ($t:ty, $kind:literal) => {
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
        impl FromStr for $t {
            type Err = BadName;
            fn from_str(s: &str) -> Result<Self, BadName> {
                Uuid::parse_str(s).map(Self).map_err(|_| BadName {
                    kind: $kind,
                    value: clip(s),
                    want: "a UUID such as 6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11",
                })
            }
        }
    };
}
uuid_text!(HostId, "host id");
uuid_text!(ClusterId, "cluster id");

// === impl Generation ===

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl NodeUid ===

impl NodeUid {
    /// Length of its text.
    pub const TEXT: usize = 16;

    /// The UID of `host` as a node of `cluster` from `at` on.
    pub fn of(cluster: ClusterId, host: HostId, at: jiff::Timestamp) -> Self {
        let seed = format!("{cluster} {host} {}", at.as_nanosecond());
        let [a, b, c, d, e, f, g, h, ..] = Digest::of(seed.as_bytes()).0;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for NodeUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<NodeUid> for String {
    fn from(uid: NodeUid) -> Self {
        uid.to_string()
    }
}

impl TryFrom<String> for NodeUid {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let number = (text.len() == Self::TEXT && text.bytes().all(digit))
            .then(|| u64::from_str_radix(&text, 16).ok());
        number.flatten().map(Self).ok_or_else(|| BadName {
            kind: "UID of a node",
            value: clip(&text),
            want: "16 lower-case hex digits",
        })
    }
}

// === impl Digest ===

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The first twelve hex digits: enough for a person to tell two apart.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = BadName;
    fn from_str(s: &str) -> Result<Self, BadName> {
        let bad = || BadName {
            kind: "SHA-256 digest",
            value: clip(s),
            want: "64 hex digits",
        };
        let s = s.as_bytes();
        if s.len() != 64 {
            return Err(bad());
        }
        let mut out = [0u8; 32];
        for (byte, pair) in out.iter_mut().zip(s.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(out))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Incremental SHA-256, for what is too large to hold.
pub struct Hasher(aws_lc_rs::digest::Context);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }
    /// Takes in `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        let mut out = [0u8; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        Digest(out)
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Hashes what is read through it.
pub struct Hashing<R> {
    /// What is read.
    pub inner: R,
    /// What was read of it so far.
    pub hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(buf.get(..n).unwrap_or_default());
        Ok(n)
    }
}

// === impl NodeName ===

impl NodeName {
    /// For a node whose name is unknown.
    pub fn unknown() -> Self {
        Self("unknown".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl NodeName {
    /// Longest name of a node: it is the value of a label of its own (`kubernetes.io/hostname`), and those end at 63
    /// bytes. A DNS name may be longer, and the kernel takes a host name of 64.
    pub const NODE_MAX: usize = 63;

    /// The name of the node that a machine of this host name becomes.
    pub fn of_host(host_name: &str) -> Result<Self, BadName> {
        let name: Self = host_name.to_lowercase().parse()?;
        if name.0.len() > Self::NODE_MAX {
            return Err(BadName {
                kind: "node name",
                value: clip(host_name),
                want: "at most 63 bytes in all: Kubernetes makes a label of it",
            });
        }
        Ok(name)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = BadName;
    fn from_str(s: &str) -> Result<Self, BadName> {
        let label_ok = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if s.len() <= 253 && s.split('.').all(label_ok) {
            return Ok(Self(s.to_owned()));
        }
        Err(BadName {
            kind: "node name",
            value: clip(s),
            want: "lower-case letters, digits, '-' and '.', each label at most 63 bytes",
        })
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// An error shows at most this much of what a peer sent.
fn clip(s: &str) -> String {
    const SHOWN_CHARS: usize = 80;
    s.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_text_round_trips() {
        let d = Digest::of(b"abc");
        assert_eq!(
            d.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(d.to_string().parse::<Digest>(), Ok(d));
        assert!("zz".parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn node_names_follow_dns_1123() {
        for good in ["a", "master-1", "n1.example.com"] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a..b", "a_b", &"x".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
        let long = |len: usize| format!("{}.{}", "a".repeat(31), "b".repeat(len - 32));
        assert_eq!(
            NodeName::of_host("Node-1").expect("name").as_str(),
            "node-1"
        );
        assert!(NodeName::of_host(&long(63)).is_ok());
        assert!(long(64).parse::<NodeName>().is_ok(), "a DNS name");
        assert!(NodeName::of_host(&long(64)).is_err(), "no node's");
    }
}

//! Destinations that are reached without the proxy, as in `NO_PROXY`. Pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A list of targets that are reached straight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NoProxy(Vec<BypassRule>);

/// One entry of the list.
///
/// Names are compared as written, never resolved: a network matches targets that are given by
/// address, and a name rule those that are given by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BypassRule {
    /// `*`
    Everything,
    /// `plane.example`: the name and everything below it.
    Name {
        /// In lower case, without a final dot.
        name: String,
        /// Only on this port.
        port: Option<u16>,
    },
    /// `.corp.example` or `*.corp.example`: what is below the name, not the name itself.
    Below {
        /// Without the leading dot.
        name: String,
        /// Only on this port.
        port: Option<u16>,
    },
    /// `10.1.2.3`, `fd00::1`, `[fd00::1]:443`
    Address {
        /// The address.
        address: IpAddr,
        /// Only on this port.
        port: Option<u16>,
    },
    /// `10.0.0.0/8`
    Network(IpNet),
}

// === impl NoProxy ===

impl NoProxy {
    /// True when one of the rules is about `host:port`.
    pub fn names(&self, host: &str, port: u16) -> bool {
        let host = plain(host);
        let address = host.parse::<IpAddr>().ok().map(|a| a.to_canonical());
        self.0
            .iter()
            .any(|rule| rule.is_about(&host, address, port))
    }

    /// No rule at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A comma-separated list, as `NO_PROXY` has it.
impl FromStr for NoProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let entries = text.split(',').map(str::trim).filter(|t| !t.is_empty());
        entries.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for NoProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
    }
}

// === impl Rule ===

impl BypassRule {
    fn is_about(&self, host: &str, target: Option<IpAddr>, on: u16) -> bool {
        let fits = |port: &Option<u16>| port.is_none_or(|p| p == on);
        match self {
            Self::Everything => true,
            Self::Name { name, port } => {
                fits(port) && target.is_none() && (host == name || is_below(host, name))
            }
            Self::Below { name, port } => fits(port) && target.is_none() && is_below(host, name),
            Self::Address { address, port } => fits(port) && target == Some(*address),
            Self::Network(network) => target.is_some_and(|a| network.contains(&a)),
        }
    }
}

fn is_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// As names are compared.
fn plain(host: &str) -> String {
    host.trim().trim_end_matches('.').to_lowercase()
}

impl FromStr for BypassRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{text:?} {why}");
        let entry = plain(text);
        if entry == "*" {
            return Ok(Self::Everything);
        }
        if entry.contains('/') {
            let network: IpNet = entry
                .parse()
                .map_err(|_| bad("is not a network like 10.0.0.0/8 (those have no port)"))?;
            return Ok(Self::Network(network.trunc()));
        }
        let bare = entry.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            let address = address.to_canonical();
            return Ok(Self::Address {
                address,
                port: None,
            });
        }
        if let Ok(both) = entry.parse::<SocketAddr>() {
            return Ok(Self::Address {
                address: both.ip().to_canonical(),
                port: Some(both.port()),
            });
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) => (
                name,
                Some(port.parse().map_err(|_| bad("has an invalid port"))?),
            ),
            None => (entry.as_str(), None),
        };
        let below = name.strip_prefix("*.").or_else(|| name.strip_prefix('.'));
        let known = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
        let labels = below.unwrap_or(name).split('.');
        if !labels
            .clone()
            .all(|l| !l.is_empty() && l.chars().all(known))
        {
            return Err(bad(
                "is not a valid name, .suffix, address, network or * (the list is of entries, each perhaps with \
                 :port)",
            ));
        }
        Ok(match below {
            Some(name) => Self::Below {
                name: name.to_owned(),
                port,
            },
            None => Self::Name {
                name: name.to_owned(),
                port,
            },
        })
    }
}

impl TryFrom<String> for BypassRule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<BypassRule> for String {
    fn from(rule: BypassRule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for BypassRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = |f: &mut fmt::Formatter<'_>, name: &str, port: &Option<u16>| match port {
            Some(port) => write!(f, "{name}:{port}"),
            None => f.write_str(name),
        };
        match self {
            Self::Everything => f.write_str("*"),
            Self::Name { name, port } => with(f, name, port),
            Self::Below { name, port } => with(f, &format!(".{name}"), port),
            Self::Address {
                address,
                port: Some(port),
            } => SocketAddr::new(*address, *port).fmt(f),
            Self::Address {
                address,
                port: None,
            } => address.fmt(f),
            Self::Network(network) => network.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(list: &str, host: &str, port: u16) -> bool {
        list.parse::<NoProxy>().expect(list).names(host, port)
    }

    #[test]
    fn lists_are_read_as_no_proxy_is_known() {
        let rows = [
            ("*", "anything", true),
            ("plane.example", "plane.example", true),
            ("plane.example", "PLANE.example.", true),
            ("plane.example", "a.plane.example", true),
            ("plane.example", "xplane.example", false),
            (".corp.example", "a.corp.example", true),
            (".corp.example", "corp.example", false),
            ("*.corp.example", "a.b.corp.example", true),
            ("plane.example:443", "plane.example", true),
            ("plane.example:80", "plane.example", false),
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.0/8", "plane.example", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3:80", "10.1.2.3", false),
            ("fd00::/8", "fd00::1", true),
            ("[fd00::1]:443", "fd00::1", true),
            ("fd00::1", "fd00::1", true),
            ("3.4", "1.2.3.4", false),
            ("a, ,plane.example,", "plane.example", true),
            ("", "plane.example", false),
        ];
        for (list, host, want) in rows {
            assert_eq!(names(list, host, 443), want, "{list} about {host}");
        }
    }

    #[test]
    fn what_is_no_entry_is_said_to_be_none() {
        for bad in [
            "10.0.0.0/33",
            "10.0.0.0/8:443",
            "a:b",
            "http://x",
            "a b",
            "a..b",
            ".",
            "a*",
        ] {
            assert!(bad.parse::<BypassRule>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_entry_is_written_as_it_is_read(text in "[a-z0-9.:/*\\[\\]-]{0,20}") {
            if let Ok(rule) = text.parse::<BypassRule>() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }

        #[test]
        fn a_name_is_not_the_end_of_another_name(
            name in "[a-z]{1,8}\\.example", more in "[a-z-]{1,8}", port: u16
        ) {
            prop_assert!(names(&name, &name, port));
            prop_assert!(!names(&name, &[more.as_str(), &name].concat(), port));
            let below = format!("{more}.{name}");
            prop_assert!(names(&name, &below, port));
        }
    }
}

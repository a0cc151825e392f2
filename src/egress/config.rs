//! `[comms.proxy]`.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use serde::{Deserialize, Deserializer, Serialize};

use super::bypass::NoProxy;

/// `[comms.proxy]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// The proxy; absent or empty: connections go straight.
    #[serde(deserialize_with = "url_or_none")]
    pub url: Option<ProxyUrl>,
    /// Destinations that are reached without it.
    pub no_proxy: NoProxy,
    /// The names under which people look for a place for the password.
    #[serde(
        skip_serializing,
        alias = "pass",
        alias = "user",
        alias = "username",
        alias = "credentials"
    )]
    password: Misplaced,
}

/// `http://host:port` of a proxy; never with a password in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxyUrl {
    host: String,
    port: u16,
}

/// A key that must not be there: configuration is for everybody to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Misplaced;

const WHERE_CREDENTIALS_GO: &str = "credentials do not belong in the configuration, which everybody can read: \
     run pf9ctl proxy set URL --user USER --password-file FILE, \
     or put user:password into /etc/pf9/proxy-credentials (owner pf9-comms, mode 0600)";

// === impl ProxyConfig ===

impl ProxyConfig {
    /// A proxy for everything that `no_proxy` does not name.
    pub fn new(url: ProxyUrl, no_proxy: NoProxy) -> Self {
        Self {
            url: Some(url),
            no_proxy,
            password: Misplaced,
        }
    }
}

// === impl ProxyUrl ===

impl ProxyUrl {
    /// Name or address, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ProxyUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Looked at first: the words of other errors must never carry a password.
        if text.contains('@') {
            return Err(WHERE_CREDENTIALS_GO);
        }
        let uri: Uri = text.trim().parse().map_err(|_| "is not a URL")?;
        if uri.scheme_str() != Some("http") {
            return Err(
                "must begin with http://: the connection to the proxy is plain HTTP CONNECT, TLS goes through it end to end",
            );
        }
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err("must be http://host:port without a path");
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err("names no host");
        }
        // No default: 80, 3128 and 8080 are all usual, and a guess fails late.
        let port = uri
            .port_u16()
            .ok_or("names no port; 3128 and 8080 are usual")?;
        Ok(Self {
            host: host.to_lowercase(),
            port,
        })
    }
}

impl TryFrom<String> for ProxyUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ProxyUrl> for String {
    fn from(url: ProxyUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", super::authority(&self.host, self.port))
    }
}

impl<'de> Deserialize<'de> for Misplaced {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom(WHERE_CREDENTIALS_GO))
    }
}

fn url_or_none<'de, D: Deserializer<'de>>(d: D) -> Result<Option<ProxyUrl>, D::Error> {
    let text = String::deserialize(d)?;
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ProxyConfig, String> {
        toml::from_str::<toml::Table>(text)
            .and_then(ProxyConfig::deserialize)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_proxy_is_a_plain_http_url_with_a_port() {
        for (text, shown) in [
            ("http://Proxy.corp:3128", "http://proxy.corp:3128"),
            ("http://10.0.0.1:80/", "http://10.0.0.1:80"),
            ("http://[fd00::1]:3128", "http://[fd00::1]:3128"),
        ] {
            let url: ProxyUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), shown);
            assert_eq!(shown.parse(), Ok(url));
        }
        for bad in [
            "",
            "proxy:3128",
            "https://proxy:3128",
            "socks5://proxy:1080",
            "http://proxy",
            "http://:3128",
            "http://proxy:3128/x",
            "http://proxy:3128?x",
            "http://proxy:99999",
        ] {
            assert!(bad.parse::<ProxyUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_refused_wherever_it_is_put_and_never_repeated() {
        for text in [
            "url = \"http://u:hunter2@proxy:3128\"",
            "url = \"u:hunter2@proxy\"",
            "password = \"hunter2\"",
            "user = \"hunter2\"",
            "username = \"hunter2\"",
        ] {
            let why = read(text).expect_err(text);
            assert!(why.contains("/etc/pf9/proxy-credentials"), "{why}");
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn nothing_said_means_no_proxy_and_what_is_written_is_read_again() {
        assert_eq!(read(""), Ok(ProxyConfig::default()));
        assert_eq!(
            read("url = \"\"\nno_proxy = []"),
            Ok(ProxyConfig::default())
        );
        let url = "http://proxy:3128".parse().expect("url");
        let no_proxy = "10.0.0.0/8,.corp.example".parse().expect("list");
        let config = ProxyConfig::new(url, no_proxy);
        let text = toml::to_string(&config).expect("toml");
        assert_eq!(read(&text), Ok(config));
    }
}

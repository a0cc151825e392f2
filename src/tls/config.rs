//! `[comms.tls]`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::SupportedProtocolVersion;
use serde::{Deserialize, Deserializer, Serialize};

/// `[comms.tls]`: the connection to the plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Oldest version that is spoken.
    pub min_version: MinVersion,
    /// PEM file of authorities that are trusted beside the one enrolment pinned; empty: none.
    #[serde(deserialize_with = "path_or_none")]
    pub ca_file: Option<String>,
    /// When there are any: one of these keys must be in the plane's chain.
    pub pin_sha256: Vec<KeyPin>,
}

/// Oldest TLS version that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MinVersion {
    /// For middle boxes that know no newer one; TLS 1.3 is still spoken where the other side can.
    #[serde(rename = "1.2")]
    V1_2,
    /// The default.
    #[default]
    #[serde(rename = "1.3")]
    V1_3,
}

/// SHA-256 of a certificate's public key (SubjectPublicKeyInfo, DER), written in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyPin([u8; 32]);

const V1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
const V1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

// === impl MinVersion ===

impl MinVersion {
    /// The versions that are spoken.
    pub fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::V1_2 => V1_2,
            Self::V1_3 => V1_3,
        }
    }
}

// === impl KeyPin ===

impl KeyPin {
    /// The pin of a public key, DER.
    pub fn of(spki: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki);
        let mut pin = [0; 32];
        // SHA-256 has 32 bytes.
        pin.copy_from_slice(digest.as_ref());
        Self(pin)
    }
}

impl FromStr for KeyPin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = BASE64_STANDARD.decode(text.trim()).unwrap_or_default();
        bytes.try_into().map(Self).map_err(|_| {
            "is not a pin: it must be the base64 of the SHA-256 of a public key (see the comments in \
             /etc/pf9/hostagent.toml)"
        })
    }
}

impl TryFrom<String> for KeyPin {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<KeyPin> for String {
    fn from(pin: KeyPin) -> Self {
        pin.to_string()
    }
}

impl fmt::Display for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

fn path_or_none<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(d)?;
    if text.is_empty() {
        return Ok(None);
    }
    match text.starts_with('/') {
        true => Ok(Some(text)),
        false => Err(serde::de::Error::custom("must be an absolute path")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_what_openssl_prints() {
        // printf abc | openssl dgst -sha256 -binary | base64
        let text = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        assert_eq!(KeyPin::of(b"abc").to_string(), text);
        assert_eq!(text.parse(), Ok(KeyPin::of(b"abc")));
        for bad in ["", "abc", &text[..40], "ba7816bf8f01cfea414140de5dae2223"] {
            assert!(bad.parse::<KeyPin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_default_is_written_out_and_read_again() {
        let read = |text: &str| {
            toml::from_str::<toml::Table>(text)
                .and_then(TlsConfig::deserialize)
                .map_err(|e| e.to_string())
        };
        let written = "min_version = \"1.3\"\nca_file = \"\"\npin_sha256 = []\n";
        assert_eq!(read(written), Ok(TlsConfig::default()));
        assert!(read("min_version = \"1.1\"").is_err());
        assert!(read("ca_file = \"ca.pem\"").is_err());
        let older = read("min_version = \"1.2\"").expect("1.2");
        assert_eq!(older.min_version.versions().len(), 2);
    }
}

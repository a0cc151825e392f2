//! What an operator asks of TLS with the plane (`[comms.tls]`), read and ready to use.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use super::material;
use super::verify::Verifier;
use crate::host::fs::HostFs;
use crate::model::{Fault, FaultCode};
use crate::tls::{KeyPin, MinVersion, TlsConfig};

/// TLS with the plane, for enrolment and for the tunnel.
#[derive(Clone, Debug, Default)]
pub struct TlsPolicy {
    min_version: MinVersion,
    /// Trusted beside the plane's own authority.
    pub(super) extra: Vec<CertificateDer<'static>>,
    pins: Vec<KeyPin>,
}

/// Largest bundle of authorities; the whole of Mozilla's has 250 KiB.
const BUNDLE_MAX: u64 = 1024 * 1024;

// === impl TlsPolicy ===

impl TlsPolicy {
    /// As configured; reads the bundle.
    pub fn load(host: &HostFs, config: &TlsConfig) -> Result<Self, Fault> {
        let extra = match &config.ca_file {
            Some(path) => authorities(host, path).map_err(|why| {
                let why = format!("comms.tls.ca_file: {path}: {why}");
                Fault::new(FaultCode::ConfigInvalid, "cannot use the configuration", why)
                    .fix("name a PEM file of certificates that user pf9-comms may read and only root may write")
            })?,
            None => Vec::new(),
        };
        Ok(Self {
            min_version: config.min_version,
            extra,
            pins: config.pin_sha256.clone(),
        })
    }

    /// A configuration up to the client's own certificate: `verifier` decides, and then the pins do, one of which must
    /// be in a chain that ends at `anchors` or is shown.
    pub(super) fn client(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
        anchors: Vec<CertificateDer<'static>>,
    ) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
        let verifier: Arc<dyn ServerCertVerifier> = match self.pins.is_empty() {
            true => verifier,
            false => Arc::new(Verifier::keys(verifier, self.pins.clone(), anchors)),
        };
        self.builder(verifier)
    }

    /// Without pins and for [`super::look()`] alone, which has no trust anchors.
    pub(super) fn unverified(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
    ) -> Result<ClientConfig, rustls::Error> {
        Ok(self.builder(verifier)?.with_no_client_auth())
    }

    fn builder(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
    ) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
        Ok(ClientConfig::builder_with_provider(crate::tls::provider())
            .with_protocol_versions(self.min_version.versions())?
            .dangerous()
            .with_custom_certificate_verifier(verifier))
    }
}

fn authorities(host: &HostFs, path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = host
        .read_text(path, BUNDLE_MAX)
        .map_err(|e| crate::telemetry::chain(&e))?
        .ok_or("there is no such file")?;
    // Write access here decides who the plane is. A link to the distribution's bundle is fine.
    let meta = std::fs::metadata(host.at(path)).map_err(|e| e.to_string())?;
    if meta.mode() & 0o022 != 0 {
        return Err(format!(
            "others may write it (mode {:04o})",
            meta.mode() & 0o7777
        ));
    }
    let all = material::parse_all(&text)?;
    // Each alone, so that the broken one of a bundle is named.
    for (n, one) in all.iter().enumerate() {
        let mut roots = RootCertStore::empty();
        roots
            .add(one.clone())
            .map_err(|e| format!("certificate {}: {e}", n + 1))?;
    }
    Ok(all)
}

//! The one TLS stack: rustls with aws-lc-rs.
//!
//! | file | holds |
//! |---|---|
//! | `config` | [`TlsConfig`]: `[comms.tls]`, what an operator may ask of the connection to the plane |

mod config;

pub use config::{KeyPin, MinVersion, TlsConfig};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// Makes aws-lc-rs the process-wide provider. Idempotent: libraries that build their own TLS
/// configuration (reqwest) look there.
pub fn install() {
    // The only error is "already installed", which is what is wanted.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// The provider itself, for configurations built by hand.
pub fn provider() -> Arc<CryptoProvider> {
    install();
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

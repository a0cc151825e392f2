//! Each way not to get out, by hop, as text a person can act on.

use std::io;

use http::StatusCode;

use crate::model::{Fault, FaultCode};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// DNS does not know the plane.
    #[error("the name {host} cannot be resolved")]
    Unresolvable {
        /// Which name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No address of the plane answered.
    #[error("{address} does not accept connections")]
    Refused {
        /// The last address that was tried.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// DNS does not know the proxy.
    #[error("the name of the proxy {proxy} cannot be resolved")]
    ProxyUnresolvable {
        /// Which proxy.
        proxy: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No address of the proxy answered.
    #[error("the proxy {proxy} does not accept connections at {address}")]
    ProxyRefused {
        /// Which proxy.
        proxy: String,
        /// The last address that was tried.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The proxy wants credentials, and there are none.
    #[error("the proxy {proxy} requires user and password, and none are configured")]
    ProxyWantsCredentials {
        /// Which proxy.
        proxy: String,
    },
    /// The proxy does not take the credentials there are.
    #[error("the proxy {proxy} rejects the password of user {user:?}")]
    ProxyRejects {
        /// Which proxy.
        proxy: String,
        /// The user name.
        user: String,
    },
    /// The proxy wants a kind of credentials that cannot be given.
    #[error("the proxy {proxy} requires another kind of credentials: {offered}")]
    ProxyScheme {
        /// Which proxy.
        proxy: String,
        /// What it would take.
        offered: String,
    },
    /// The proxy does not connect to this target.
    #[error("the proxy {proxy} does not connect to {target}: it answered {status}")]
    ProxyDenied {
        /// Which proxy.
        proxy: String,
        /// The plane.
        target: String,
        /// What it said.
        status: StatusCode,
    },
    /// The server at that address is no HTTP proxy.
    #[error("{proxy} does not answer like an HTTP proxy: {why}")]
    ProxyGarbage {
        /// Which proxy.
        proxy: String,
        /// In which way.
        why: String,
    },
    /// The proxy said yes, and closed the connection.
    #[error("the proxy {proxy} said that {target} is connected, and closed the connection")]
    ProxyClosed {
        /// Which proxy.
        proxy: String,
        /// The plane.
        target: String,
    },
}

// === impl ReachError ===

impl ReachError {
    /// Stable word and remedy.
    pub fn code_and_fix(&self) -> (FaultCode, &'static str) {
        match self {
            Self::Unresolvable { .. } => (
                FaultCode::PlaneUnresolvable,
                "check the plane's name and this machine's DNS; \
                 if only a proxy leads out: pf9ctl proxy set URL",
            ),
            Self::Refused { .. } => (
                FaultCode::PlaneRefused,
                "check the plane's name and port, that it runs, and that firewalls let this host out to it; \
                 if only a proxy leads out: pf9ctl proxy set URL",
            ),
            Self::ProxyUnresolvable { .. } => (
                FaultCode::ProxyUnresolvable,
                "check the proxy's name in [comms.proxy] and this machine's DNS",
            ),
            Self::ProxyRefused { .. } => (
                FaultCode::ProxyRefused,
                "check host and port in [comms.proxy] and that the proxy runs",
            ),
            Self::ProxyWantsCredentials { .. } => (
                FaultCode::ProxyCredentialsWanted,
                "run pf9ctl proxy set URL --user USER --password-file FILE",
            ),
            Self::ProxyRejects { .. } => (
                FaultCode::ProxyCredentialsRejected,
                "ask for the right password, then pf9ctl proxy set URL --user USER --password-file FILE",
            ),
            Self::ProxyScheme { .. } => (
                FaultCode::ProxyCredentialsKind,
                "only Basic can be given: have the proxy let this host through to the plane without a password",
            ),
            Self::ProxyDenied { status, .. } => denied(*status),
            Self::ProxyGarbage { .. } => (
                FaultCode::ProxyGarbage,
                "check host and port in [comms.proxy]: it must be an HTTP proxy that takes CONNECT",
            ),
            Self::ProxyClosed { .. } => (
                FaultCode::ProxyClosed,
                "check the proxy's log: it cannot reach the plane, forbids it, or inspects TLS and rejects it",
            ),
        }
    }

    /// The error as a fault about `what`.
    pub fn fault(&self, what: impl Into<String>) -> Fault {
        let (code, fix) = self.code_and_fix();
        Fault::new(code, what, crate::telemetry::chain(self)).fix(fix)
    }
}

fn denied(status: StatusCode) -> (FaultCode, &'static str) {
    if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
        return (
            FaultCode::ProxyCannotReach,
            "the proxy itself does not get through: check the plane's name and port, and the proxy's own DNS and firewall",
        );
    }
    (
        FaultCode::ProxyDenies,
        "have the proxy's administrator allow CONNECT to the plane's name and port",
    )
}

//! The hops of one try, with their times: what `pf9ctl proxy test` prints, and what a deadline
//! that strikes is named after.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// One hop of the way to the plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hop {
    /// DNS of the plane.
    Resolve,
    /// TCP to the plane.
    Connect,
    /// DNS of the proxy.
    ProxyResolve,
    /// TCP to the proxy.
    ProxyConnect,
    /// The proxy's answer to CONNECT.
    ProxyTunnel,
    /// The TLS handshake with the plane.
    Tls,
    /// The plane's answer on its tunnel endpoint.
    Websocket,
}

/// A hop that went well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// Which.
    pub hop: Hop,
    /// How long it took, microseconds.
    pub took_us: u64,
    /// What was found there, for people.
    pub found: String,
}

/// The hops of one try so far.
#[derive(Debug, Default)]
pub struct Journey {
    passed: Vec<Passed>,
    now: Option<(Hop, Instant)>,
}

// === impl Hop ===

impl Hop {
    /// The proxy is to blame when it takes too long here.
    pub fn is_the_proxys(self) -> bool {
        match self {
            Self::ProxyResolve | Self::ProxyConnect | Self::ProxyTunnel => true,
            Self::Resolve | Self::Connect | Self::Tls | Self::Websocket => false,
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "DNS of the plane",
            Self::Connect => "TCP to the plane",
            Self::ProxyResolve => "DNS of the proxy",
            Self::ProxyConnect => "TCP to the proxy",
            Self::ProxyTunnel => "the proxy's CONNECT",
            Self::Tls => "TLS with the plane",
            Self::Websocket => "the plane's answer",
        })
    }
}

// === impl Journey ===

impl Journey {
    /// The next hop begins.
    pub fn begin(&mut self, hop: Hop) {
        self.now = Some((hop, Instant::now()));
    }

    /// The hop that began went well.
    pub fn end(&mut self, found: impl Into<String>) {
        if let Some((hop, since)) = self.now.take() {
            let took = since.elapsed().as_micros();
            self.passed.push(Passed {
                hop,
                took_us: u64::try_from(took).unwrap_or(u64::MAX),
                found: found.into(),
            });
        }
    }

    /// The hop that has started and not succeeded, and for how long it has been tried.
    pub fn at(&self) -> Option<(Hop, Duration)> {
        self.now.map(|(hop, since)| (hop, since.elapsed()))
    }

    /// Hops that went well, in their order.
    pub fn passed(&self) -> &[Passed] {
        &self.passed
    }
}

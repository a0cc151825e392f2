//! The way out of the customer's network: straight, or through an HTTP proxy.
//!
//! ```text
//!                      ┌─ no_proxy names it, or there is no proxy ─► DNS ─► race of addresses ─► TCP
//! reach(host, port) ───┤
//!                      └─ otherwise ─► DNS of the proxy ─► race ─► CONNECT host:port ─► the same TCP
//! ```
//!
//! Enrolment and the tunnel both go this way, so what works for one works for the other. Behind a
//! proxy the plane's name is never asked of the local name server: many networks with a proxy
//! resolve nothing outside.
//!
//! | file | holds |
//! |---|---|
//! | `config`      | [`ProxyConfig`]: `[comms.proxy]`; a password there is an error that says where it belongs |
//! | `bypass`      | [`NoProxy`]: who is reached without the proxy; pure |
//! | `credentials` | [`Credentials`]: the one file they may be in, and who may read it |
//! | `race`        | several addresses, each with a head start over the next |
//! | `connect`     | HTTP CONNECT; the answer is hostile input |
//! | `journey`     | [`Journey`]: hops and their times |
//! | `error`       | [`ReachError`]: each hop that can fail, as text |

mod bypass;
mod config;
mod connect;
mod credentials;
mod error;
mod journey;
mod race;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use bypass::{BypassRule, NoProxy};
pub use config::{ProxyConfig, ProxyUrl};
pub use credentials::Credentials;
pub use error::ReachError;
pub use journey::{Hop, Journey, Passed};

use std::io;

use tokio::net::TcpStream;

use crate::host::fs::HostFs;
use crate::model::Fault;

/// How connections leave this machine.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    proxy: Option<Proxy>,
}

#[derive(Clone, Debug)]
struct Proxy {
    url: ProxyUrl,
    no_proxy: NoProxy,
    credentials: Option<Credentials>,
}

// === impl Egress ===

impl Egress {
    /// Without a proxy.
    pub fn direct() -> Self {
        Self::default()
    }

    /// The proxy on the way, if there is one.
    pub fn proxy(&self) -> Option<&ProxyUrl> {
        self.proxy.as_ref().map(|proxy| &proxy.url)
    }

    /// As configured; reads the credentials when there is a proxy to show them to.
    pub fn load(host: &HostFs, config: &ProxyConfig) -> Result<Self, Fault> {
        let Some(url) = config.url.clone() else {
            return Ok(Self::direct());
        };
        Ok(Self {
            proxy: Some(Proxy {
                url,
                no_proxy: config.no_proxy.clone(),
                credentials: Credentials::load(host)?,
            }),
        })
    }

    /// The proxy that stands between this machine and `host:port`, if one does.
    pub fn via(&self, host: &str, port: u16) -> Option<&ProxyUrl> {
        self.between(host, port).map(|p| &p.url)
    }

    /// Has a client of HTTP go the same way.
    pub fn on(&self, client: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        let Some(proxy) = self.proxy.clone() else {
            return client;
        };
        let shown = proxy.credentials.as_ref().and_then(Credentials::header);
        let way = reqwest::Proxy::custom(move |url| {
            let host = url.host_str()?.trim_matches(['[', ']']);
            let names = proxy.no_proxy.names(host, url.port_or_known_default()?);
            (!names).then(|| proxy.url.to_string())
        });
        client.proxy(match shown {
            Some(header) => way.custom_http_auth(header),
            None => way,
        })
    }

    fn between(&self, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = self.proxy.as_ref()?;
        (!proxy.no_proxy.names(host, port)).then_some(proxy)
    }

    /// A connection to `host:port` (an IPv6 address without brackets). Has no deadline of its own:
    /// the caller's covers TLS too, and `journey` tells at which hop it struck.
    pub async fn reach(
        &self,
        host: &str,
        port: u16,
        journey: &mut Journey,
    ) -> Result<TcpStream, ReachError> {
        let Some(proxy) = self.between(host, port) else {
            journey.begin(Hop::Resolve);
            let addresses =
                race::lookup(host, port)
                    .await
                    .map_err(|source| ReachError::Unresolvable {
                        host: host.to_owned(),
                        source,
                    })?;
            journey.end(race::words(&addresses));
            journey.begin(Hop::Connect);
            let tcp = race::connect(addresses)
                .await
                .map_err(|lost| ReachError::Refused {
                    address: lost.address.to_string(),
                    source: lost.source,
                })?;
            journey.end(race::peer(&tcp));
            return Ok(tcp);
        };
        let name = proxy.url.to_string();
        journey.begin(Hop::ProxyResolve);
        let addresses = race::lookup(proxy.url.host(), proxy.url.port())
            .await
            .map_err(|source| ReachError::ProxyUnresolvable {
                proxy: name.clone(),
                source,
            })?;
        journey.end(race::words(&addresses));
        journey.begin(Hop::ProxyConnect);
        let tcp = race::connect(addresses)
            .await
            .map_err(|lost| ReachError::ProxyRefused {
                proxy: name,
                address: lost.address.to_string(),
                source: lost.source,
            })?;
        journey.end(race::peer(&tcp));
        journey.begin(Hop::ProxyTunnel);
        let tcp = connect::through(tcp, proxy, host, port).await?;
        journey.end(format!("to {}", authority(host, port)));
        Ok(tcp)
    }

    /// What a TLS handshake with `host:port` that broke off means, when a proxy stands between:
    /// one that cannot reach the plane, or may not, often says yes first and then closes.
    pub fn cut(&self, host: &str, port: u16, error: &io::Error) -> Option<ReachError> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let proxy = self.via(host, port)?;
        let broken = [
            BrokenPipe,
            ConnectionAborted,
            ConnectionReset,
            UnexpectedEof,
        ];
        broken
            .contains(&error.kind())
            .then(|| ReachError::ProxyClosed {
                proxy: proxy.to_string(),
                target: authority(host, port),
            })
    }
}

/// `host:port`, an IPv6 address in brackets.
pub fn authority(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

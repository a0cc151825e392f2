//! One call to the plane: `POST /v1/enrol`.
//!
//! The steps are taken by hand (resolve, connect, TLS, HTTP) so that each failure can say what it
//! was: an operator reads "refused the connection" or "shows a foreign certificate", not "error
//! sending request".

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::material::{self, Identity};
use super::order_key::OrderKey;
use super::pair;
use super::policy::TlsPolicy;
use super::verify::Verifier;
use crate::egress::{self, Egress, Hop, Journey, ReachError};
use crate::host::fs::HostFs;
use crate::model::{
    Digest, DocumentKind, EnrolAnswer, EnrolRequest, EnrolToken, Enrolment, Envelope, Fault,
    FaultCode, HostId, MachineMarks, NodeFacts, ORDER_SCHEMA, authority_hints, document,
};

/// What is needed to enrol.
#[derive(Clone)]
pub struct EnrolOrder<'a> {
    /// `https://host[:port]` of the plane.
    pub plane: &'a str,
    /// The one-time token.
    pub token: &'a EnrolToken,
    /// The id this host has, or takes.
    pub host_id: HostId,
    /// Where the key is that this host has now, if it has one: with it a host that is known stays
    /// what it is.
    pub present: Option<&'a HostFs>,
    /// The machine, as root sees it; its digests are salted with `host_id`.
    pub machine: MachineMarks,
    /// What the machine is.
    pub facts: &'a NodeFacts,
    /// What root signs that with; its public half is pinned by the plane.
    pub root: &'a OrderKey,
    /// The way out, the same that the tunnel will take.
    pub egress: &'a Egress,
    /// What the operator asks of TLS.
    pub tls: &'a TlsPolicy,
    /// Longest the whole call may take.
    pub deadline: Duration,
}

/// Why a host was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The plane's URL is no such URL.
    #[error("{url:?} {why}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no connection to the plane.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The other side is not the plane the token names.
    #[error("the certificate of {host} is not trusted: {why}")]
    ForeignCertificate {
        /// The name.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// This machine's clock is behind.
    #[error("{}", early(host, *by))]
    Early {
        /// The name.
        host: String,
        /// How far, at least.
        by: Duration,
    },
    /// What answered is no plane.
    #[error("{host} does not answer like a management plane: {why}")]
    Garbage {
        /// The name.
        host: String,
        /// In which way.
        why: String,
    },
    /// It took too long.
    #[error("no answer from {host} within {} s: the time went into {hop}", after.as_secs())]
    Timeout {
        /// The name.
        host: String,
        /// Where it hung.
        hop: Hop,
        /// The deadline.
        after: Duration,
    },
    /// The plane said no, in its own words.
    #[error("{0}")]
    Said(Fault),
    /// It says that something is wrong at its side: whether it took what it was sent is not known.
    #[error("{0}")]
    Unsure(Fault),
    /// The machine cannot make a key.
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
}

/// What helps where a certificate is not valid yet.
pub const SET_THE_CLOCK: &str = "set the clock: timedatectl set-ntp true, or chronyc makestep; what is tried by itself continues automatically";

/// Largest answer: certificates, keys and endpoints are a few KiB.
const ANSWER_MAX: usize = 1024 * 1024;

/// Makes a key, asks the plane for a certificate, checks the answer. Nothing is written.
pub async fn enrol(order: &EnrolOrder<'_>) -> Result<Identity, EnrolError> {
    let target = Target::parse(order.plane)?;
    let (key, csr) = material::key_and_request(order.host_id).map_err(EnrolError::Key)?;
    let proof = order
        .present
        .and_then(|fs| pair::possession(fs, &order.token.secret, order.host_id, &csr));
    let body = EnrolRequest {
        schema: 1,
        token: order.token.secret.clone(),
        host_id: order.host_id,
        order_key: order.root.public(),
        statement: statement(order, &csr).map_err(EnrolError::Said)?,
        csr,
        machine: Some(order.machine.clone()).filter(|m| !m.is_empty()),
        proof,
    };
    let mut journey = Journey::default();
    let call = async {
        let stream = target.connect(order, &mut journey).await?;
        journey.begin(Hop::Websocket);
        target.post(stream, &body).await
    };
    let answer = tokio::time::timeout(order.deadline, call).await;
    let answer = answer.map_err(|_| EnrolError::Timeout {
        host: target.host.clone(),
        hop: journey.at().map_or(Hop::Resolve, |(hop, _)| hop),
        after: order.deadline,
    })??;
    let machine = order.machine.clone();
    Identity::assemble(order.host_id, &key, answer, order.token.ca, machine)
        .map_err(|why| target.garbage(why))
}

/// Root's word that this tunnel key is this host's, good with this token.
fn statement(order: &EnrolOrder<'_>, csr: &str) -> Result<Envelope, Fault> {
    let said = Enrolment {
        schema: ORDER_SCHEMA,
        host_id: order.host_id,
        token: Digest::of(order.token.secret.expose().as_bytes()),
        csr: Digest::of(csr.as_bytes()),
        facts: order.facts.clone(),
    };
    order.root.sign(DocumentKind::Enrolment, &said)
}

pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, EnrolError> {
        let bad = |why| EnrolError::Url {
            url: url.chars().take(200).collect(),
            why,
        };
        let uri: Uri = url.trim().parse().map_err(|_| bad("is not a URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("does not begin with https://"));
        }
        let authority = uri.authority().ok_or_else(|| bad("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("must not hold a user name"));
        }
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err(bad("must be https://host:port without a path"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(bad("names no host"));
        }
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(443),
        })
    }

    pub(super) fn garbage(&self, why: impl Into<String>) -> EnrolError {
        EnrolError::Garbage {
            host: self.host.clone(),
            why: why.into(),
        }
    }

    async fn connect(
        &self,
        order: &EnrolOrder<'_>,
        journey: &mut Journey,
    ) -> Result<TlsStream<TcpStream>, EnrolError> {
        let tcp = order.egress.reach(&self.host, self.port, journey).await?;
        let name = ServerName::try_from(self.host.clone()).map_err(|_| EnrolError::Url {
            url: self.host.clone(),
            why: "is not a host name",
        })?;
        journey.begin(Hop::Tls);
        TlsConnector::from(Arc::new(self.tls(order)?))
            .connect(name, tcp)
            .await
            .map_err(|e| match order.egress.cut(&self.host, self.port, &e) {
                Some(cut) => cut.into(),
                None => self.handshake_failed(&e),
            })
    }

    fn tls(&self, order: &EnrolOrder<'_>) -> Result<ClientConfig, EnrolError> {
        let policy = order.tls;
        let verifier = Verifier::authority(order.token.ca, policy.extra.clone());
        let mut config = policy
            .client(Arc::new(verifier), policy.extra.clone())
            .map_err(|e| self.garbage(e.to_string()))?
            .with_no_client_auth();
        config.alpn_protocols = authority_hints([order.token.ca]);
        Ok(config)
    }

    pub(super) fn handshake_failed(&self, error: &io::Error) -> EnrolError {
        match (not_believed(error), tls_error(error)) {
            (Some(Distrust::Early(by)), _) => EnrolError::Early {
                host: self.host.clone(),
                by,
            },
            (Some(Distrust::Foreign(why)), _) => EnrolError::ForeignCertificate {
                host: self.host.clone(),
                why,
            },
            (None, Some(other)) => self.garbage(other.to_string()),
            (None, None) => self.garbage(format!("it ended the TLS handshake: {error}")),
        }
    }

    async fn post(
        &self,
        stream: TlsStream<TcpStream>,
        body: &EnrolRequest,
    ) -> Result<EnrolAnswer, EnrolError> {
        let broken = |e: hyper::Error| self.garbage(e.to_string());
        let json = serde_json::to_vec(body).map_err(|e| self.garbage(e.to_string()))?;
        let authority = egress::authority(&self.host, self.port);
        let request = Request::post("/v1/enrol")
            .header(http::header::HOST, authority)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::CONNECTION, "close")
            .body(Full::new(Bytes::from(json)))
            .map_err(|e| self.garbage(e.to_string()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(broken)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            drop(sender);
            let status = response.status();
            let bytes = Limited::new(response.into_body(), ANSWER_MAX)
                .collect()
                .await
                .map_err(|e| self.garbage(format!("its answer was interrupted: {e}")))?
                .to_bytes();
            Ok::<_, EnrolError>((status, bytes))
        };
        // The connection is driven beside the call; its own error shows up in the call.
        let (answer, _) = tokio::join!(exchange, connection);
        let (status, bytes) = answer?;
        self.read(status, &bytes)
    }

    fn read(&self, status: StatusCode, bytes: &[u8]) -> Result<EnrolAnswer, EnrolError> {
        if status.is_success() {
            return document::read(bytes)
                .map_err(|e| self.garbage(format!("its answer cannot be read: {e}")));
        }
        match serde_json::from_slice(bytes) {
            Ok(fault) if status.is_client_error() => Err(EnrolError::Said(fault)),
            Ok(fault) => Err(EnrolError::Unsure(fault)),
            Err(_) => Err(self.garbage(format!("it answered {status}"))),
        }
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Why the other side's certificate is not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// It begins so much later than this machine's clock says: the clock is behind.
    Early(Duration),
    /// Whatever else, as text.
    Foreign(String),
}

/// [`Distrust::Early`] in words.
pub fn early(host: &str, by: Duration) -> String {
    let minutes = by.as_secs().div_ceil(60);
    format!(
        "by this machine's clock the certificate of {host} begins in {minutes} min: the clock is behind"
    )
}

/// The same, if that is why a handshake failed.
pub fn not_believed(error: &io::Error) -> Option<Distrust> {
    let Some(rustls::Error::InvalidCertificate(why)) = tls_error(error) else {
        return None;
    };
    Some(match why {
        CertificateError::NotValidYetContext { time, not_before } => {
            let early = not_before.as_secs().saturating_sub(time.as_secs());
            Distrust::Early(Duration::from_secs(early))
        }
        CertificateError::UnknownIssuer => {
            Distrust::Foreign("it is not issued by the authority that the token named".to_owned())
        }
        CertificateError::Other(why) => Distrust::Foreign(why.to_string()),
        // rustls' own; each in its words.
        why => Distrust::Foreign(why.to_string()),
    })
}

impl EnrolError {
    /// The plane may have taken what it was sent: its answer did not come. Where it said no, or was not reached, it has not.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::Garbage { .. } | Self::Unsure(_) => true,
            Self::Timeout { hop, .. } => matches!(hop, Hop::Websocket),
            Self::Said(_)
            | Self::Url { .. }
            | Self::Reach(_)
            | Self::ForeignCertificate { .. }
            | Self::Early { .. }
            | Self::Key(_) => false,
        }
    }

    /// The error as a fault with a stable code.
    pub fn fault(&self) -> Fault {
        let (code, fix) = match self {
            Self::Said(fault) | Self::Unsure(fault) => return fault.clone(),
            Self::Url { .. } => (
                FaultCode::Usage,
                "give the URL of the plane as https://host:port",
            ),
            Self::Reach(why) => why.code_and_fix(),
            Self::ForeignCertificate { .. } => (
                FaultCode::PlaneForeignCertificate,
                "check the plane's URL, use a token of that plane, a new one if it has another authority now, check \
                 this machine's clock; a proxy that inspects TLS cannot be used",
            ),
            Self::Early { .. } => (FaultCode::ClockOff, SET_THE_CLOCK),
            Self::Garbage { .. } => (
                FaultCode::PlaneGarbage,
                "check host and port of the plane's URL",
            ),
            Self::Timeout { hop, .. } if hop.is_the_proxys() => (
                FaultCode::ProxyTimeout,
                "check the proxy in [comms.proxy] and that it gets through to the plane, then try again",
            ),
            Self::Timeout { .. } => (
                FaultCode::PlaneTimeout,
                "check the plane's URL and firewalls in between, then try again",
            ),
            Self::Key(_) => (FaultCode::IdentityKey, ""),
        };
        Fault::new(
            code,
            "cannot enrol this host",
            crate::telemetry::chain(self),
        )
        .fix(fix)
    }
}

//! Whether a plane can be reached, before this host has trust anchors.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::enrol::{EnrolError, Target};
use super::policy::TlsPolicy;
use super::verify::Verifier;
use crate::egress::{self, Egress, Hop, Journey};
use crate::model::Timestamp;

/// Longest that is shown of an issuer: it is the other side's text.
const ISSUER_MAX: usize = 80;
/// An answer's head; a server's own has less than a page.
const HEAD_MAX: usize = 16 * 1024;

/// Goes to `plane` (`https://host[:port]`) as enrolment does, up to the end of the TLS handshake.
/// Nothing is sent over it. Whose certificate it is cannot be known yet: the token says that.
pub async fn look(
    plane: &str,
    egress: &Egress,
    tls: &TlsPolicy,
    longest: Duration,
    journey: &mut Journey,
) -> Result<(), EnrolError> {
    let target = Target::parse(plane)?;
    let done = tokio::time::timeout(longest, go(&target, egress, tls, journey)).await;
    done.map_err(|_| late(&target, longest, journey))?.map(drop)
}

/// The same, and asks what time it is there: a question that says nothing of this machine. Whose clock it is cannot be
/// known yet either. `None`: the server does not say.
pub async fn look_at_clock(
    plane: &str,
    egress: &Egress,
    tls: &TlsPolicy,
    longest: Duration,
    journey: &mut Journey,
) -> Result<Option<ClockAnswer>, EnrolError> {
    let target = Target::parse(plane)?;
    let work = async {
        let stream = go(&target, egress, tls, journey).await?;
        Ok(clock(stream, &target).await)
    };
    let done = tokio::time::timeout(longest, work).await;
    done.map_err(|_| late(&target, longest, journey))?
}

/// The time of an unauthenticated clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockAnswer {
    /// Our time when it was asked.
    pub sent: Timestamp,
    /// Our time when the answer was there.
    pub got: Timestamp,
    /// The answer's time, as HTTP writes it.
    pub date: String,
}

fn late(target: &Target, longest: Duration, journey: &Journey) -> EnrolError {
    EnrolError::Timeout {
        host: target.host.clone(),
        hop: journey.at().map_or(Hop::Resolve, |(hop, _)| hop),
        after: longest,
    }
}

/// One question and the head of its answer. What goes wrong here is no failure of the way: it went to the end.
async fn clock(mut stream: TlsStream<TcpStream>, target: &Target) -> Option<ClockAnswer> {
    let host = egress::authority(&target.host, target.port);
    let ask = format!("HEAD / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let sent = crate::seam::clock::now();
    stream.write_all(ask.as_bytes()).await.ok()?;
    let (mut head, mut got) = (Vec::new(), None);
    let mut part = [0; 1024];
    while head.len() < HEAD_MAX && !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut part).await.ok()?;
        got.get_or_insert_with(crate::seam::clock::now);
        head.extend_from_slice(part.get(..n).filter(|p| !p.is_empty())?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let date = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date")
            .then(|| value.trim().to_owned())
    });
    Some(ClockAnswer {
        sent,
        got: got?,
        date: date?,
    })
}

async fn go(
    target: &Target,
    egress: &Egress,
    tls: &TlsPolicy,
    journey: &mut Journey,
) -> Result<TlsStream<TcpStream>, EnrolError> {
    let tcp = egress.reach(&target.host, target.port, journey).await?;
    journey.begin(Hop::Tls);
    let name = ServerName::try_from(target.host.clone()).map_err(|_| EnrolError::Url {
        url: target.host.clone(),
        why: "is not a host name",
    })?;
    let config = tls
        .unverified(Arc::new(Verifier::any()))
        .map_err(|e| target.garbage(e.to_string()))?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|e| match egress.cut(&target.host, target.port, &e) {
            Some(cut) => cut.into(),
            None => target.handshake_failed(&e),
        })?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let issuer = shown.first().and_then(|leaf| {
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        Some(leaf.issuer().to_string())
    });
    let issuer: String = issuer
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(ISSUER_MAX)
        .collect();
    journey.end(format!(
        "issued by {issuer:?}; the token will tell whether that is right"
    ));
    Ok(stream)
}

//! What Prometheus scrapes from the plane: the hosts' own metrics, fetched through their tunnels on each scrape.
//!
//! | path below `/metrics` | answers |
//! |---|---|
//! | `GET /targets` | every source of every connected host, for Prometheus' `http_sd_configs` |
//! | `GET /hosts/{id}/{source}` | the host's metrics |
//! | `GET /plane` | whether the plane's own store answers (`standing`) |
//! | `GET /agents` | progress of the newest roll of the agent, if there ever was one |
//!
//! | source | service of the node | of |
//! |---|---|---|
//! | `tunnel` | `agent-metrics` | every host |
//! | `etcd`   | `etcd-metrics`  | masters |
//! | `etcd-backup` | none: from its last status | masters that reported their etcd |
//! | `certificates` | none: from its last status | hosts that reported certificates of a node |
//! | `api-address` | none: from its last status | masters that share the API's address |
//! | `host` | none: from its last status | hosts that ever reported |
//! | `upgrade` | none: the plane's own | the first master of a cluster that was ever upgraded |
//!
//! kubelets and API servers answer at their usual paths below `/k8s/clusters/{uuid}`. A cluster's token sees the hosts
//! of that cluster; the whole fleet's metrics are for operators.

mod of_host;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{Request, StatusCode, header};
use http_body_util::Limited;
use serde_json::{Value, json};

use super::access::{Action, Owner};
use super::agents;
use super::backups;
use super::fleet;
use super::guard::{Person, Who};
use super::http::Path;
use super::logins::Scope;
use super::proxy;
use super::records::{CLUSTERS, Cluster, Host};
use super::refusal::{Answer, Refusal, chain};
use super::resmgr::host_id;
use super::rolls;
use super::shared_address;
use super::state::{self, Plane};
use super::store::Read;
use super::trace::Trace;
use super::view::Known;
use super::ways::{self, Failed};
use pf9_hostagent::model::{Expiry, Fault, FaultCode, Role};
use pf9_hostagent::telemetry::{METRICS_TYPE, MetricsText};
use pf9_hostagent::wire::{Class, Meta};

/// Prefix of these paths.
pub(super) const PREFIX: &str = "/metrics";
/// Most bytes of one answer: an etcd sends about 200 KiB.
const NUMBERS_MAX: usize = 16 * 1024 * 1024;
/// Most certificates of one node that are exported: fourteen purposes, three authorities twice, and some spare.
const CERTIFICATES_MAX: usize = 64;

/// A source of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Tunnel,
    Etcd,
    /// The certificates of a node. The plane has them from the status, so that the node needs no further service, and a
    /// host that is away still raises a warning. (The expiry of the tunnel's certificate is among the tunnel's metrics,
    /// more recent.)
    Certificates,
    /// The backups of a master, from the status for the same reason.
    Backups,
    /// The masters' shared address, likewise: it matters most while its holder is away.
    Address,
    /// Progress of the cluster's upgrade: only the plane knows it.
    Upgrade,
    /// Health of the machine and the node, from its status: for one that is away the last known values, and their age.
    Host,
}

impl Source {
    const ALL: [Self; 7] = [
        Self::Tunnel,
        Self::Etcd,
        Self::Certificates,
        Self::Backups,
        Self::Address,
        Self::Upgrade,
        Self::Host,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Etcd => "etcd",
            Self::Certificates => "certificates",
            Self::Backups => "etcd-backup",
            Self::Address => "api-address",
            Self::Upgrade => "upgrade",
            Self::Host => "host",
        }
    }

    /// The node's service and its path; none: the plane has the values.
    fn place(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Tunnel => Some(("agent-metrics", "/v1/metrics")),
            Self::Etcd => Some(("etcd-metrics", "/metrics")),
            Self::Certificates | Self::Backups | Self::Address | Self::Upgrade | Self::Host => None,
        }
    }

    fn is_on(self, known: &Known, cluster: Option<&Cluster>) -> bool {
        let host = known.host.id;
        let role = cluster.and_then(|c| c.member(host)).map(|m| m.role);
        match self {
            Self::Tunnel => known.connected,
            Self::Etcd => known.connected && role == Some(Role::Master),
            Self::Certificates => !of_the_node(known).is_empty(),
            Self::Backups => role == Some(Role::Master) && backups::etcd_of(known).is_some(),
            Self::Address => role == Some(Role::Master) && shared_address::said(known).is_some(),
            Self::Upgrade => cluster.is_some_and(|c| rolls::numbers::are_there(c, host)),
            Self::Host => known.status.is_some(),
        }
    }
}

/// `GET /metrics/targets`.
pub(super) async fn targets(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
) -> Answer<Json<Value>> {
    let rows = plane.read()?;
    let mut out = Vec::new();
    for known in fleet::of(&plane, &rows, |host| sees(&who, host))? {
        let cluster = match known.host.cluster {
            Some(id) => rows.get(&CLUSTERS, &id.to_string())?,
            None => None,
        };
        out.extend(targets_of(&plane.public_url, &known, cluster.as_ref()));
    }
    let sees_fleet = who.may(Action::SeeFleet, &Owner::Plane);
    if sees_fleet && agents::numbers::of(&rows)?.is_some() {
        out.push(fleet_target(&plane.public_url));
    }
    Ok(Json(out.into()))
}

/// `GET /metrics/agents`.
pub(super) async fn of_the_fleet(_: Person, State(plane): State<Arc<Plane>>) -> Answer<Response> {
    let text = agents::numbers::of(&plane.read()?)?.unwrap_or_default();
    let kind = [(header::CONTENT_TYPE, METRICS_TYPE)];
    Ok((kind, String::from(text)).into_response())
}

/// `GET /metrics/hosts/{id}/{source}`.
pub(super) async fn numbers(
    Person(who): Person,
    State(plane): State<Arc<Plane>>,
    Path((id, source)): Path<(String, String)>,
    Extension(trace): Extension<Trace>,
) -> Answer<Response> {
    let id = host_id(&id)?;
    let known = {
        let rows = plane.read()?;
        fleet::known(&plane, &rows, state::host(&rows, id)?)?
    };
    if !sees(&who, &known.host) {
        return Err(state::no_host(id));
    }
    let Some(source) = Source::ALL.into_iter().find(|s| s.name() == source) else {
        let why = "use tunnel, etcd, etcd-backup, certificates, api-address, upgrade or host";
        return Err(Refusal::missing(
            FaultCode::SourceUnknown,
            "no such metrics",
            why,
        ));
    };
    let away = |why: String| {
        let what = format!("no {} metrics of host {id}", source.name());
        let fault = Fault::new(FaultCode::HostAway, what, why);
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, fault)
    };
    let Some((service, path)) = source.place() else {
        let text = known_numbers(&plane, &known, source)?;
        let kind = [(header::CONTENT_TYPE, METRICS_TYPE)];
        return Ok((kind, String::from(text)).into_response());
    };
    let who = ("who".to_owned(), "prometheus".to_owned());
    let meta = Meta::from([who, trace.entry()]);
    // Fetching metrics twice changes nothing.
    let ask = async |stream| {
        let request = Request::get(path).header(header::HOST, service);
        let request = request.body(Body::empty());
        let request = request.map_err(|e| Failed::Host(chain(&e)))?;
        let mut sender = proxy::speak(&plane, stream, id).await?;
        let answer = sender.send_request(request).await;
        answer.map_err(|e| Failed::of(&e))
    };
    let answer = ways::reach(&plane, id, (service, Class::Bulk, &meta), ask).await;
    let answer = answer.unwrap_or_else(|| Err("it is not connected".to_owned()));
    let answer = answer.map_err(away)?;
    let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = Response::new(());
    *response.status_mut() = answer.status();
    response
        .headers_mut()
        .extend(kind.map(|kind| (header::CONTENT_TYPE, kind)));
    Ok(response.map(|()| Body::new(Limited::new(answer.into_body(), NUMBERS_MAX))))
}

/// Metrics from the plane's own rows.
fn known_numbers(plane: &Plane, known: &Known, source: Source) -> Answer<MetricsText> {
    let mut text = MetricsText::default();
    let cluster = || -> Answer<Option<Cluster>> {
        let id = known.host.cluster.map(|id| id.to_string());
        let rows = plane.read()?;
        Ok(id.map_or(Ok(None), |id| rows.get(&CLUSTERS, &id))?)
    };
    match source {
        Source::Backups => {
            if let Some(cluster) = cluster()? {
                text = backups::numbers(&cluster, known);
            }
        }
        Source::Upgrade => {
            if let Some(cluster) = cluster()? {
                text = rolls::numbers::of(&cluster);
            }
        }
        Source::Address => text = shared_address::numbers(known),
        Source::Host => text = of_host::numbers(known),
        Source::Certificates | Source::Tunnel | Source::Etcd => {
            text.certificates(&of_the_node(known), known.now);
        }
    }
    Ok(text)
}

/// Whether a token may see this host.
fn sees(who: &Who, host: &Host) -> bool {
    let in_scope = match who.login.scope {
        Scope::Cluster(id) => host.cluster == Some(id),
        Scope::Nothing | Scope::Project(_) | Scope::Domain(_) | Scope::Plane => true,
    };
    in_scope && who.rights.sees(&host.project)
}

/// Expiry of its node's certificates, from its last status; each name once, and only known names: a host may report
/// anything.
fn of_the_node(known: &Known) -> Vec<Expiry> {
    let Some(received) = &known.status else {
        return Vec::new();
    };
    let node = received.status.node.iter().flat_map(|n| &n.certificates);
    let names: BTreeSet<&str> = node.map(|c| c.name.as_str()).collect();
    let mut told: BTreeMap<&str, &Expiry> = BTreeMap::new();
    for expiry in &received.status.certificates {
        if names.contains(expiry.name.as_str()) && told.len() < CERTIFICATES_MAX {
            told.insert(&expiry.name, expiry);
        }
    }
    told.into_values().cloned().collect()
}

/// The target of the fleet's roll.
fn fleet_target(url: &str) -> Value {
    let (scheme, address) = url.split_once("://").unwrap_or(("https", url));
    json!({"targets": [address], "labels": {
        "__scheme__": scheme,
        "__metrics_path__": format!("{PREFIX}/agents"),
        "instance": "fleet",
        "host_id": "",
        "source": "agents",
        "cluster": "",
    }})
}

/// One host's targets, in the form of `http_sd_configs`.
fn targets_of(url: &str, known: &Known, cluster: Option<&Cluster>) -> Vec<Value> {
    let member = cluster.and_then(|c| c.member(known.host.id));
    let (scheme, address) = url.split_once("://").unwrap_or(("https", url));
    let name = member.map_or_else(|| known.host.hostname.clone(), |m| m.node_name.to_string());
    let target = |source: Source| {
        json!({"targets": [address], "labels": {
            "__scheme__": scheme,
            "__metrics_path__": format!("{PREFIX}/hosts/{}/{}", known.host.id, source.name()),
            "instance": name,
            "host_id": known.host.id,
            "source": source.name(),
            "cluster": cluster.map_or("", |c| c.name.as_str()),
        }})
    };
    Source::ALL
        .into_iter()
        .filter(|s| s.is_on(known, cluster))
        .map(target)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::ReceivedStatus;
    use crate::recover::tests::{known, reports};
    use pf9_hostagent::model::{
        Authority, CertificateStatus, Digest, HostStatus, NodeStatus, Timestamp,
    };

    fn told(status: HostStatus) -> Known {
        let mut known = known(1);
        known.connected = false;
        known.now = Timestamp::from_second(80).expect("time");
        known.status = Some(ReceivedStatus {
            received_at: known.now,
            status,
        });
        known
    }

    #[test]
    fn certificates_are_exported_for_an_absent_node() {
        let at = |s| Timestamp::from_second(s).expect("time");
        let mut status = reports(
            1,
            Some((Role::Worker, pf9_hostagent::model::ClusterId::random())),
        );
        let certificate = CertificateStatus {
            name: "kubelet/server".into(),
            authority: Authority::Cluster,
            not_before: at(0),
            not_after: at(90),
            digest: Digest::of(b"leaf"),
            issuer: Digest::of(b"authority"),
        };
        if let Some(NodeStatus { certificates, .. }) = &mut status.node {
            certificates.push(certificate.clone());
        }
        let expiry = Expiry::from(&certificate);
        // Certificates of others, and duplicates, are not exported.
        status.certificates = vec![expiry.clone(), Expiry::new("host", at(1)), expiry];
        let known = told(status);
        let targets = targets_of("https://plane", &known, None);
        let paths: Vec<&str> = targets
            .iter()
            .filter_map(|t| t["labels"]["__metrics_path__"].as_str())
            .collect();
        assert_eq!(
            paths,
            ["certificates", "host"].map(|s| format!("/metrics/hosts/{}/{s}", known.host.id))
        );
        let mut text = MetricsText::default();
        text.certificates(&of_the_node(&known), known.now);
        let text = String::from(text);
        let samples: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "pf9_certificate_not_after_seconds{name=\"kubelet/server\"} 90",
                "pf9_certificate_not_renewed{name=\"kubelet/server\"} 1",
            ]
        );
        let quiet = told(reports(1, None));
        let targets = targets_of("https://plane", &quiet, None);
        assert_eq!(targets.len(), 1, "how the machine is: {targets:?}");
        let mut silent = quiet;
        silent.status = None;
        assert!(targets_of("https://plane", &silent, None).is_empty());
    }
}

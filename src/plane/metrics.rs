//! What Prometheus scrapes on the plane's side: the hosts' own numbers, fetched through their
//! tunnels when it asks.
//!
//! | path below `/metrics` | answers |
//! |---|---|
//! | `GET /targets` | every source of every host that is connected, for Prometheus' `http_sd_configs` |
//! | `GET /hosts/{id}/{source}` | the numbers, as the host says them |
//!
//! | source | service of the node | of |
//! |---|---|---|
//! | `tunnel` | `agent-metrics` | every host |
//! | `etcd`   | `etcd-metrics`  | masters |
//!
//! kubelets and API servers answer at their usual paths below `/k8s/clusters/{uuid}`. A cluster's
//! token sees the hosts of that cluster.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::Limited;
use serde_json::{Value, json};

use super::fleet;
use super::keystone;
use super::proxy;
use super::records::{CLUSTERS, Cluster, Scope};
use super::refusal::{Answer, Refusal, chain};
use super::resmgr::host_id;
use super::state::{self, Plane};
use super::store::Read;
use super::trace::Trace;
use super::view::Known;
use super::ways::{self, Failed};
use crate::model::{Fault, FaultCode, Role};
use crate::wire::{Class, Meta};

/// Where these paths are.
pub(super) const PREFIX: &str = "/metrics";
/// Most bytes of one answer: an etcd says about 200 KiB.
const NUMBERS_MAX: usize = 16 * 1024 * 1024;

/// Whose numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Tunnel,
    Etcd,
}

impl Source {
    const ALL: [Self; 2] = [Self::Tunnel, Self::Etcd];

    fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Etcd => "etcd",
        }
    }

    /// The node's service and the path there.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Tunnel => ("agent-metrics", "/v1/metrics"),
            Self::Etcd => ("etcd-metrics", "/metrics"),
        }
    }

    fn is_on(self, role: Option<Role>) -> bool {
        match self {
            Self::Tunnel => true,
            Self::Etcd => role == Some(Role::Master),
        }
    }
}

/// `GET /metrics/targets`.
pub(super) async fn targets(
    State(plane): State<Arc<Plane>>,
    headers: HeaderMap,
) -> Answer<Json<Value>> {
    let scope = keystone::scope_of(&plane, keystone::shown(&headers)?)?;
    let rows = plane.read()?;
    let mut out = Vec::new();
    for known in fleet::all(&plane, &rows)? {
        if known.connected && sees(scope, &known) {
            let cluster = match known.host.cluster {
                Some(id) => rows.get(&CLUSTERS, &id.to_string())?,
                None => None,
            };
            out.extend(targets_of(&plane.public_url, &known, cluster.as_ref()));
        }
    }
    Ok(Json(out.into()))
}

/// `GET /metrics/hosts/{id}/{source}`.
pub(super) async fn numbers(
    State(plane): State<Arc<Plane>>,
    Path((id, source)): Path<(String, String)>,
    Extension(trace): Extension<Trace>,
    headers: HeaderMap,
) -> Answer<Response> {
    let scope = keystone::scope_of(&plane, keystone::shown(&headers)?)?;
    let id = host_id(&id)?;
    let known = {
        let rows = plane.read()?;
        fleet::known(&plane, &rows, state::host(&rows, id)?)?
    };
    if !sees(scope, &known) {
        let why = "the token is good for another cluster";
        return Err(Refusal::forbidden(
            FaultCode::TokenScope,
            "request refused",
            why,
        ));
    }
    let Some(source) = Source::ALL.into_iter().find(|s| s.name() == source) else {
        let why = "there are tunnel and etcd";
        return Err(Refusal::missing(
            FaultCode::SourceUnknown,
            "no such numbers",
            why,
        ));
    };
    let away = |why: String| {
        let what = format!("no {} numbers of host {id}", source.name());
        let fault = Fault::new(FaultCode::HostAway, what, why);
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, fault)
    };
    let (service, path) = source.place();
    let who = ("who".to_owned(), "prometheus".to_owned());
    let meta = Meta::from([who, trace.entry()]);
    // To ask for numbers twice changes nothing.
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

/// Whether a token shows this host.
fn sees(scope: Scope, known: &Known) -> bool {
    match scope {
        Scope::Everything => true,
        Scope::Cluster(id) => known.host.cluster == Some(id),
    }
}

/// The entries of one host, as `http_sd_configs` wants them.
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
        .filter(|s| s.is_on(member.map(|m| m.role)))
        .map(target)
        .collect()
}

//! A kubeconfig that leads through the plane.

use crate::model::FaultCode;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::keystone::{self, KUBECONFIG_LIFE};
use super::proxy::PREFIX;
use super::records::{CLUSTERS, Cluster, Scope};
use super::refusal::{Answer, Refusal};
use super::state::Plane;
use super::store::Read;

/// A kubeconfig with a fresh token, good for this cluster only.
pub(super) async fn make(plane: &Arc<Plane>, wanted: &str) -> Answer<String> {
    let cluster = find(&plane.read()?, wanted)?;
    let scope = Scope::Cluster(cluster.id);
    let (token, _) = plane
        .change(move |change| keystone::new_login(change, scope, KUBECONFIG_LIFE))
        .await?;
    let server = format!("{}{PREFIX}{}", plane.public_url, cluster.id);
    let ca = BASE64.encode(plane.ca.pem());
    let (name, token) = (&cluster.name, token.expose());
    // Names are letters, digits, '-', '.' and '_'; quoted, so that "1.0" stays text.
    Ok(format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: \"{name}\"\n  \
           cluster:\n    \
             server: {server}\n    \
             certificate-authority-data: {ca}\n\
         users:\n\
         - name: \"{name}-admin\"\n  \
           user:\n    \
             token: {token}\n\
         contexts:\n\
         - name: \"{name}\"\n  \
           context:\n    \
             cluster: \"{name}\"\n    \
             user: \"{name}-admin\"\n\
         current-context: \"{name}\"\n"
    ))
}

/// A cluster by name or id.
pub(super) fn find(rows: &impl Read, wanted: &str) -> Answer<Cluster> {
    let clusters = rows.all(&CLUSTERS)?;
    let found = clusters
        .into_iter()
        .map(|(_, c)| c)
        .find(|c| c.name == wanted || c.id.to_string() == wanted);
    found.ok_or_else(|| {
        let wanted: String = wanted.chars().take(80).collect();
        Refusal::missing(
            FaultCode::ClusterUnknown,
            format!("no cluster {wanted}"),
            "no name or id is that",
        )
        .fix("see pf9-plane cluster list")
    })
}

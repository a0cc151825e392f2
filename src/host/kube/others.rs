//! What of a namespace is somebody else's: an add-on's namespace does not go with the add-on while such a thing is in it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{APPLY_PATCH, FIELD_MANAGER, Kube, KubeError, is_ours, resources};

/// Most kinds that are looked for: several times what an API server with many extensions has.
const KINDS_MAX: usize = 1000;
/// Objects of one kind that are looked at: the first that is somebody else's decides, and Kubernetes itself makes few.
const LOOKED_AT: usize = 500;
/// What Kubernetes makes in every namespace, or of what others made there: it goes with the rest.
const MADE_BY_ITSELF: [&str; 5] = [
    "events",
    "endpoints",
    "endpointslices",
    "leases",
    "pods.metrics.k8s.io",
];

impl Kube {
    /// Deletes a namespace of ours. One in which something of somebody else's is stays, and is not ours any more: it is
    /// asked of every kind that the API server has.
    pub(super) async fn forget_namespace(
        &self,
        path: &str,
        object: &Value,
    ) -> Result<(), KubeError> {
        match self.others(path).await? {
            None => match self.raw(Method::DELETE, path, None).await {
                Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
                answer => answer.map(drop),
            },
            Some(whose) => {
                tracing::warn!(
                    namespace = path,
                    object = whose,
                    "namespace stays: an object in it was not made by this add-on"
                );
                self.disown(path, object).await
            }
        }
    }

    /// Takes back every field that we applied, and with that our name.
    async fn disown(&self, path: &str, object: &Value) -> Result<(), KubeError> {
        let bare = json!({
            "apiVersion": object["apiVersion"],
            "kind": object["kind"],
            "metadata": {"name": object["metadata"]["name"]},
        });
        let path = format!("{path}?fieldManager={FIELD_MANAGER}&force=true");
        self.json(Method::PATCH, &path, Some((APPLY_PATCH, bare)))
            .await
            .map(drop)
    }

    /// The first object of the namespace at `path` that neither we nor Kubernetes made.
    async fn others(&self, path: &str) -> Result<Option<String>, KubeError> {
        let namespace = path.rsplit('/').next().unwrap_or_default();
        for (root, plural) in self.namespaced().await? {
            let path = format!("{root}/namespaces/{namespace}/{plural}?limit={LOOKED_AT}");
            // An extension that is down, or has no list of it.
            let Some(list) = self.listed(&path).await? else {
                continue;
            };
            let items = list.get("items").and_then(Value::as_array);
            let mut items = items.into_iter().flatten();
            if let Some(found) = items.find(|item| is_anothers(&plural, item)) {
                let name = found["metadata"]["name"].as_str().unwrap_or_default();
                return Ok(Some(format!("{plural}/{name}")));
            }
        }
        Ok(None)
    }

    /// Where kinds of namespaces are: the root of their API, and their name there.
    async fn namespaced(&self) -> Result<Vec<(String, String)>, KubeError> {
        let groups = self.listed("/apis").await?.unwrap_or_default();
        let groups = groups.get("groups").and_then(Value::as_array);
        let preferred = |group: &Value| {
            let version = group.pointer("/preferredVersion/groupVersion");
            version.and_then(Value::as_str).map(str::to_owned)
        };
        let mut versions = vec!["v1".to_owned()];
        versions.extend(groups.into_iter().flatten().filter_map(preferred));
        let mut kinds = Vec::new();
        for version in versions {
            let root = super::api_root(&version);
            let Some(list) = self.listed(&root).await? else {
                continue;
            };
            let its = resources(&version, &list).into_iter();
            let its = its.filter(|(_, resource)| resource.namespaced);
            kinds.extend(its.map(|(_, resource)| (root.clone(), resource.plural)));
        }
        kinds.truncate(KINDS_MAX);
        Ok(kinds)
    }

    /// What is at a path; `None` where nothing is, or nothing that can be listed, or its own server is away: what cannot be
    /// listed cannot be deleted with a namespace either.
    async fn listed(&self, path: &str) -> Result<Option<Value>, KubeError> {
        const AWAY: [StatusCode; 3] = [
            StatusCode::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        match self.json(Method::GET, path, None).await {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.status().is_some_and(|status| AWAY.contains(&status)) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Whether an object of this kind is somebody else's: not ours, not made of another object, not what is in every namespace,
/// and not on its way out.
fn is_anothers(plural: &str, item: &Value) -> bool {
    let name = item["metadata"]["name"].as_str().unwrap_or_default();
    let everywhere = match plural {
        "configmaps" => name == "kube-root-ca.crt",
        "serviceaccounts" => name == "default",
        _ => MADE_BY_ITSELF.contains(&plural),
    };
    let has = |field: &str| item.pointer(field).is_some_and(|v| !v.is_null());
    let owned = item.pointer("/metadata/ownerReferences");
    let owned = owned
        .and_then(Value::as_array)
        .is_some_and(|o| !o.is_empty());
    !everywhere && !owned && !has("/metadata/deletionTimestamp") && !is_ours(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_put_there_is_anothers_and_what_comes_by_itself_is_not() {
        let named = |name: &str| json!({"metadata": {"name": name}});
        for (plural, name, anothers) in [
            ("configmaps", "mine", true),
            ("configmaps", "kube-root-ca.crt", false),
            ("serviceaccounts", "default", false),
            ("serviceaccounts", "kube-root-ca.crt", true),
            ("events", "x", false),
            ("endpointslices", "x", false),
            ("persistentvolumeclaims", "data", true),
        ] {
            assert_eq!(
                is_anothers(plural, &named(name)),
                anothers,
                "{plural} {name}"
            );
        }
        let mut made = named("x-5d8");
        made["metadata"]["ownerReferences"] = json!([{"kind": "ReplicaSet"}]);
        assert!(!is_anothers("pods", &made));
        made["metadata"]["ownerReferences"] = json!([]);
        assert!(is_anothers("pods", &made));
        let mut ours = named("x");
        ours["metadata"]["managedFields"] = json!([{"manager": FIELD_MANAGER}]);
        assert!(!is_anothers("deployments", &ours));
        let mut leaves = named("x");
        leaves["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(!is_anothers("pods", &leaves));
    }
}

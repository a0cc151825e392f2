//! Foreign objects in a namespace: an add-on's namespace is not deleted with the add-on while it holds one.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{APPLY_PATCH, FIELD_MANAGER, Kube, KubeError, is_ours, resources};

/// Most kinds that are looked for: several times what an API server with many extensions has. With more of them the
/// namespace stays.
const KINDS_MAX: usize = 1000;
/// Objects of one kind that are inspected: the first foreign one decides, and Kubernetes itself creates few. With more
/// than this the namespace stays.
const LOOKED_AT: usize = 500;
/// What Kubernetes makes in every namespace, or of what others made there: it goes with the rest.
const MADE_BY_ITSELF: [&str; 4] = ["events", "endpoints", "endpointslices", "leases"];
/// Groups of metrics about objects, which are not stored: `metrics.k8s.io`, `custom.metrics.k8s.io`,
/// `external.metrics.k8s.io`. Their server is often away, and itself an add-on.
const NUMBERS: &str = "metrics.k8s.io";

impl Kube {
    /// Deletes a namespace of ours. One that holds a foreign object stays, and stops being ours: every kind that the
    /// API server knows and stores is checked.
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

    /// The first object of the namespace at `path` that neither we nor Kubernetes created; where not everything could
    /// be inspected, what that was: it may be foreign data.
    async fn others(&self, path: &str) -> Result<Option<String>, KubeError> {
        let namespace = path.rsplit('/').next().unwrap_or_default();
        let mut kinds = 0;
        for version in self.versions().await? {
            let root = super::api_root(&version);
            let its = match self.listed(&root).await? {
                Listed::Is(list) => resources(&version, &list),
                Listed::Not => continue,
                Listed::Away => {
                    return Ok(Some(format!("objects of {version}, whose server is down")));
                }
            };
            for (_, resource) in its.into_iter().filter(|(_, its)| its.namespaced) {
                kinds += 1;
                if kinds > KINDS_MAX {
                    return Ok(Some(format!("more than {KINDS_MAX} kinds")));
                }
                let plural = resource.plural;
                let path = format!("{root}/namespaces/{namespace}/{plural}?limit={LOOKED_AT}");
                let found = match self.listed(&path).await? {
                    Listed::Is(list) => anothers_in(&plural, &list),
                    Listed::Not => None,
                    Listed::Away => Some(format!("{plural} of {version}, whose server is down")),
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// The preferred version of every group that stores objects.
    async fn versions(&self) -> Result<Vec<String>, KubeError> {
        let groups = self.json(Method::GET, "/apis", None).await?;
        Ok(versions_in(&groups))
    }

    async fn listed(&self, path: &str) -> Result<Listed, KubeError> {
        match self.json(Method::GET, path, None).await {
            Ok(value) => Ok(Listed::Is(value)),
            Err(e) => match e.status() {
                Some(StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => Ok(Listed::Not),
                Some(StatusCode::SERVICE_UNAVAILABLE) => Ok(Listed::Away),
                Some(_) | None => Err(e),
            },
        }
    }
}

/// What is at a path.
enum Listed {
    Is(Value),
    /// Nothing, or nothing that can be listed.
    Not,
    /// The extension's own server does not answer.
    Away,
}

/// From the answer of `/apis`; the core group's is not in it.
fn versions_in(groups: &Value) -> Vec<String> {
    let groups = groups.get("groups").and_then(Value::as_array);
    let stored = groups.into_iter().flatten().filter(|group| {
        let name = group.get("name").and_then(Value::as_str);
        !name.is_some_and(|name| name == NUMBERS || name.ends_with(&format!(".{NUMBERS}")))
    });
    let preferred = stored.filter_map(|group| {
        let version = group.pointer("/preferredVersion/groupVersion");
        version.and_then(Value::as_str).map(str::to_owned)
    });
    std::iter::once("v1".to_owned()).chain(preferred).collect()
}

/// The first foreign object of a list, or that there are more than were inspected.
fn anothers_in(plural: &str, list: &Value) -> Option<String> {
    let items = list.get("items").and_then(Value::as_array);
    let mut items = items.into_iter().flatten();
    if let Some(found) = items.find(|item| is_anothers(plural, item)) {
        let name = found["metadata"]["name"].as_str().unwrap_or_default();
        return Some(format!("{plural}/{name}"));
    }
    let more = list.pointer("/metadata/continue").and_then(Value::as_str);
    let more = more.is_some_and(|more| !more.is_empty());
    more.then(|| format!("more than {LOOKED_AT} {plural}"))
}

/// Whether an object of this kind is foreign: not ours, not created from another object, not part of every namespace,
/// and not being deleted.
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
    fn what_was_not_looked_at_is_taken_for_somebody_elses() {
        let ours =
            json!({"metadata": {"name": "x", "managedFields": [{"manager": FIELD_MANAGER}]}});
        let list = |more: &str| json!({"metadata": {"continue": more}, "items": [ours]});
        assert_eq!(anothers_in("pods", &list("")), None);
        let more = anothers_in("pods", &list("abc")).expect("there are more");
        assert!(more.contains("more than 500 pods"), "{more}");
        let theirs = json!({"items": [ours, {"metadata": {"name": "data"}}]});
        let found = anothers_in("persistentvolumeclaims", &theirs);
        assert_eq!(found.as_deref(), Some("persistentvolumeclaims/data"));
    }

    /// With metrics-server every pod has an object of that group, with the pod's name and without an owner.
    #[test]
    fn numbers_about_objects_are_nobodys() {
        let group = |name: &str| json!({"name": name, "preferredVersion": {"groupVersion": format!("{name}/v1")}});
        let groups = [
            "apps",
            "metrics.k8s.io",
            "custom.metrics.k8s.io",
            "mymetrics.k8s.io",
        ];
        let groups = json!({"groups": groups.map(group)});
        assert_eq!(
            versions_in(&groups),
            ["v1", "apps/v1", "mymetrics.k8s.io/v1"]
        );
    }

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

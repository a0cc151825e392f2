//! What the API server counts the changes of objects by: of all of one kind in one question.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{Kube, KubeError, api_root};

/// Without what the objects consist of; who does not know that form sends them whole.
const METADATA: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// By name: the versions of the objects that have it, one a namespace.
pub type Versions = BTreeMap<String, Vec<String>>;

#[derive(Deserialize)]
struct List {
    /// Of no objects some servers write `null`. That it is not there at all is no list.
    #[serde(deserialize_with = "Option::deserialize")]
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    uid: String,
    resource_version: String,
}

impl Kube {
    /// Of all objects of this one's kind that have a label of this name. The server answers from memory: what changed in
    /// this instant may not be in it.
    pub async fn versions_like(&self, object: &Value, label: &str) -> Result<Versions, KubeError> {
        let text = |p: &str| object.pointer(p).and_then(Value::as_str).unwrap_or("");
        let (api, kind) = (text("/apiVersion"), text("/kind"));
        let resource = self.resource(api, kind).await?;
        let resource = resource.ok_or_else(|| KubeError::NoSuchKind(format!("{api} {kind}")))?;
        let (root, plural) = (api_root(api), resource.plural);
        let path = format!("{root}/{plural}?labelSelector={label}&resourceVersion=0");
        let bytes = self.accepted(METADATA, Method::GET, &path, None).await?;
        read(&bytes).map_err(|e| KubeError::Malformed {
            call: format!("GET {path}"),
            why: e.to_string(),
        })
    }
}

/// No two objects that there ever were have the same one, nor one before and after a change.
pub fn version(live: &Value) -> Option<String> {
    let text = |p: &str| live.pointer(p).and_then(Value::as_str);
    let (uid, version) = (text("/metadata/uid")?, text("/metadata/resourceVersion")?);
    Some(format!("{uid} {version}"))
}

fn read(bytes: &[u8]) -> serde_json::Result<Versions> {
    let list: List = serde_json::from_slice(bytes)?;
    let mut all = Versions::new();
    for Item { metadata } in list.items.into_iter().flatten() {
        let version = format!("{} {}", metadata.uid, metadata.resource_version);
        all.entry(metadata.name).or_default().push(version);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_and_an_object_say_the_same_version() {
        let object = |uid: &str, version: &str| {
            json!({"metadata": {"name": "a", "namespace": uid, "uid": uid, "resourceVersion": version,
                "managedFields": [{"manager": "x"}]}})
        };
        let (one, other) = (object("u1", "7"), object("u2", "9"));
        let list = json!({"kind": "PartialObjectMetadataList", "items": [one, other]});
        let all = read(list.to_string().as_bytes()).expect("list");
        let versions = [&one, &other].map(|o| version(o).expect("version"));
        assert_eq!(all["a"], versions);
        assert_eq!(versions, ["u1 7", "u2 9"]);
        assert_eq!(version(&json!({"metadata": {"uid": "u"}})), None);
        let none = read(br#"{"kind": "PartialObjectMetadataList", "items": null}"#);
        assert_eq!(none.expect("a list"), Versions::new());
        read(b"{}").expect_err("no list");
    }
}

//! Objects of the stack's manifests in the cluster: those that should be there, and those that should not.
//!
//! Each is a question to the API server, and a master has a hundred, in a cluster where nothing of them changes for
//! days. So what was found as it should be is remembered with the version that the server counts it by. While the
//! versions are the same so are the objects, and those of a whole kind are one question.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::cluster::{covers, digest, not_shown, version_of};
use super::{Sweep, differs};
use crate::host::kube::{self, KubeError, Versions};
use crate::model::{ADDON_LABEL, Digest};
use crate::nodelet::step::Observed;

/// Every object is asked for by itself so often, whatever the versions say: what has lost its label is not among them.
const WHOLE_EVERY: Duration = Duration::from_secs(600);

/// What was found as it should be, by the key of its step.
#[derive(Debug, Default)]
pub struct Objects {
    began: Option<Instant>,
    by: HashMap<String, Found>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// What was looked for.
    objects: Digest,
    /// The version of each; none of one that is not there, as it should be.
    versions: Vec<Option<String>>,
}

/// What the server said of kinds in one sweep; `None`: it did not say.
pub(super) type Listed = HashMap<(String, String), Option<Versions>>;

impl Objects {
    /// The versions by which these objects were as they should be.
    fn find(&mut self, key: &str, objects: &Digest, now: Instant) -> Option<Vec<Option<String>>> {
        let began = *self.began.get_or_insert(now);
        if now.duration_since(began) >= WHOLE_EVERY {
            *self = Self {
                began: Some(now),
                ..Self::default()
            };
        }
        let found = self.by.get(key).filter(|f| f.objects == *objects)?;
        Some(found.versions.clone())
    }

    fn keep(&mut self, key: &str, objects: Digest, versions: Vec<Option<String>>) {
        let found = Found { objects, versions };
        self.by.insert(key.to_owned(), found);
    }
}

impl Sweep<'_> {
    pub(super) async fn object(&mut self, key: &str, desired: &Value) -> Observed {
        let kube = match self.admin() {
            Ok(kube) => kube,
            Err(why) => return Observed::Unknown { why },
        };
        let wanted = digest(desired);
        let listed = desired["metadata"]["labels"][ADDON_LABEL].is_string();
        if listed && self.is_as_before(key, &wanted, &[desired]).await {
            return Observed::Same;
        }
        match kube.live(desired).await {
            Ok(None) => Observed::Missing,
            Ok(Some(live)) => {
                let known = self.memory.applied.get(key);
                let untouched =
                    known.is_some_and(|k| k.desired == wanted && k.version == version_of(&live));
                if untouched || covers(desired, &live) {
                    if let version @ Some(_) = kube::version(&live) {
                        self.memory.objects.keep(key, wanted, vec![version]);
                    }
                    Observed::Same
                } else {
                    differs("its content differs")
                }
            }
            Err(e) => not_shown(&e),
        }
    }

    /// Whether all of them are gone, or about to. Each is asked for: a removal that was cut off may have left any of them,
    /// and an object without a field of ours (see [`ADDON_LABEL`]) says nothing of the others.
    pub(super) async fn addon_gone(&mut self, key: &str, objects: &[Value]) -> Observed {
        let kube = match self.admin() {
            Ok(kube) => kube,
            Err(why) => return Observed::Unknown { why },
        };
        let all: Vec<&Value> = objects.iter().rev().collect();
        let wanted = Digest::of(Value::from(objects).to_string().as_bytes());
        if self.is_as_before(key, &wanted, &all).await {
            return Observed::Same;
        }
        for object in &all {
            match kube.live(object).await {
                Ok(Some(live)) if kube::is_ours(&live) => return differs("it is in the cluster"),
                Ok(Some(_) | None) | Err(KubeError::NoSuchKind(_)) => {}
                Err(e) => return not_shown(&e),
            }
        }
        self.memory
            .objects
            .keep(key, wanted, vec![None; objects.len()]);
        Observed::Same
    }

    /// Whether none of these changed, came or went since they were as they should be.
    async fn is_as_before(&mut self, key: &str, wanted: &Digest, objects: &[&Value]) -> bool {
        let found = self.memory.objects.find(key, wanted, Instant::now());
        let Some(versions) = found else {
            return false;
        };
        for (object, version) in objects.iter().zip(&versions) {
            let Some(all) = self.listed(object).await else {
                return false;
            };
            if !is_still(all, object, version.as_deref()) {
                return false;
            }
        }
        true
    }

    /// Versions of the objects of this one's kind that are of an add-on; asked once a sweep.
    async fn listed(&mut self, object: &Value) -> Option<&Versions> {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let kind = (text("apiVersion"), text("kind"));
        if !self.listed.contains_key(&kind) {
            let said = match self.admin() {
                Ok(kube) => kube.versions_like(object, ADDON_LABEL).await,
                Err(_) => return None,
            };
            let all = match said {
                Ok(all) => Some(all),
                Err(KubeError::NoSuchKind(_)) => Some(Versions::new()),
                // Each is asked for, and says why.
                Err(_) => None,
            };
            self.listed.insert(kind.clone(), all);
        }
        self.listed.get(&kind)?.as_ref()
    }
}

/// Whether an object has this version; or, where it should have none, that none of its name is there.
fn is_still(all: &Versions, object: &Value, version: Option<&str>) -> bool {
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    let there = name.and_then(|name| all.get(name));
    match version {
        Some(version) => there.is_some_and(|all| all.iter().any(|v| v == version)),
        None => there.is_none(),
    }
}

#[cfg(test)]
mod tests;

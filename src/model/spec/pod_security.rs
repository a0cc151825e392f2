//! What pods may be in a namespace that says nothing of it: the levels of Kubernetes' own pod-security
//! standards.
//!
//! By default a cluster is as upstream's: privileged, without a warning. Rejected: to warn of
//! what the baseline forbids as a default. It stops nothing, and `kubectl` would print lines that no other
//! cluster prints to people who did not ask. Who enforces a level is warned of the same one: pods are
//! refused, but of a Deployment only its pods are, much later and somewhere else.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::NodeName;

/// Namespaces of this software's own: its add-ons need what a level forbids (addresses and directories
/// of the node). Who may make pods there is above the level.
const OWN_NAMESPACES: [&str; 3] = ["kube-system", "local-path-storage", "pf9-info"];
/// Most namespaces that a cluster exempts itself: a person wrote them.
const EXEMPT_MAX: usize = 64;
/// Longest name of a namespace, and so of one label.
const NAMESPACE_MAX: usize = 63;
/// The level as the newest release that the API server knows has it.
const LATEST: &str = "latest";

/// A level of the pod-security standards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodSecurityLevel {
    /// Everything.
    #[default]
    Privileged,
    /// Nothing that is known to lead out of a pod.
    Baseline,
    /// As little as pods can do with.
    Restricted,
}

/// What pods may be in a namespace that has no label about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSecurity {
    /// Pods that are more are refused.
    #[serde(default)]
    pub enforce: PodSecurityLevel,
    /// Pods beyond this level get a warning; absent: as `enforce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn: Option<PodSecurityLevel>,
    /// What is more is noted in the audit log, where there is one; absent: as `enforce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<PodSecurityLevel>,
    /// The release whose levels these are, e.g. `v1.36`; absent: `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Namespaces where nothing of this is asked, beside this software's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt_namespaces: Vec<String>,
}

// === impl PodSecurity ===

impl PodSecurity {
    /// Nothing was said: the cluster is as upstream's.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The level beyond which a pod gets a warning.
    pub fn warn(&self) -> PodSecurityLevel {
        self.warn.unwrap_or(self.enforce)
    }

    /// What is noted in the audit log.
    pub fn audit(&self) -> PodSecurityLevel {
        self.audit.unwrap_or(self.enforce)
    }

    /// The release whose levels these are.
    pub fn version(&self) -> &str {
        self.version.as_deref().unwrap_or(LATEST)
    }

    /// Every namespace that is exempt, once.
    pub fn exempt(&self) -> BTreeSet<&str> {
        let told = self.exempt_namespaces.iter().map(String::as_str);
        OWN_NAMESPACES.into_iter().chain(told).collect()
    }

    /// What is wrong with it: the field, and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if let Some(version) = self.version.as_deref()
            && !is_version(version)
        {
            let shown: String = version.chars().take(NAMESPACE_MAX).collect();
            let why = format!("{shown:?} is neither {LATEST} nor a release like v1.36");
            return Some(("version", why));
        }
        let count = self.exempt_namespaces.len();
        if count > EXEMPT_MAX {
            let why = format!("{count} namespaces, at most {EXEMPT_MAX}");
            return Some(("exempt_namespaces", why));
        }
        let bad = self.exempt_namespaces.iter().find(|n| !is_namespace(n))?;
        let shown: String = bad.chars().take(NAMESPACE_MAX).collect();
        Some((
            "exempt_namespaces",
            format!("{shown:?} is not a valid name of a namespace"),
        ))
    }
}

impl PodSecurityLevel {
    /// The word, as Kubernetes has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

fn is_version(text: &str) -> bool {
    let minor = text.strip_prefix("v1.");
    let number = |m: &str| m.len() <= 3 && m.parse::<u16>().is_ok_and(|n| n.to_string() == m);
    text == LATEST || minor.is_some_and(number)
}

fn is_namespace(name: &str) -> bool {
    name.len() <= NAMESPACE_MAX && !name.contains('.') && name.parse::<NodeName>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_warned_of_follows_what_is_refused() {
        let mut told = PodSecurity::default();
        assert!(told.is_default());
        assert_eq!(told.warn(), PodSecurityLevel::Privileged);
        told.enforce = PodSecurityLevel::Restricted;
        assert_eq!(told.warn(), PodSecurityLevel::Restricted);
        assert_eq!(told.audit(), PodSecurityLevel::Restricted);
        told.warn = Some(PodSecurityLevel::Baseline);
        assert_eq!(told.warn(), PodSecurityLevel::Baseline);
        assert_eq!(told.version(), "latest");
        assert!(!told.is_default());
    }

    #[test]
    fn add_ons_are_exempt_whatever_is_told() {
        let told = PodSecurity {
            exempt_namespaces: vec!["ci".into(), "kube-system".into()],
            ..PodSecurity::default()
        };
        let all = ["ci", "kube-system", "local-path-storage", "pf9-info"];
        assert!(told.exempt().into_iter().eq(all));
    }

    #[test]
    fn versions_and_namespaces_are_such() {
        let of = |version: &str, namespaces: &[&str]| PodSecurity {
            version: Some(version.to_owned()),
            exempt_namespaces: namespaces.iter().map(|n| (*n).to_owned()).collect(),
            ..PodSecurity::default()
        };
        for good in ["latest", "v1.0", "v1.36"] {
            assert_eq!(of(good, &["a-b"]).fault(), None, "{good}");
        }
        for bad in ["", "v1.", "v1.07", "v2.1", "1.36", "v1.36.1", "newest"] {
            let field = of(bad, &[]).fault().map(|(field, _)| field);
            assert_eq!(field, Some("version"), "{bad}");
        }
        for bad in ["", "a.b", "A", "a b", "*", &"x".repeat(NAMESPACE_MAX + 1)] {
            let field = of("latest", &[bad]).fault().map(|(field, _)| field);
            assert_eq!(field, Some("exempt_namespaces"), "{bad:?}");
        }
        assert!(of("latest", &["a"; EXEMPT_MAX + 1]).fault().is_some());
    }
}

//! Add-ons of a stack that a cluster may have or not have: which file is theirs, which images they need.
//!
//! Asked by the plane before a setting is taken, and by nodelet before it applies or removes anything.

use serde::{Deserialize, Serialize};

use super::{AddressRange, Matrix, NetworkPlugin, NetworkPolicies, NetworkSpec, StackManifest};

/// An add-on that is a setting of the cluster. Those that are none come with the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Addon {
    /// Keeps NetworkPolicy objects.
    NetworkPolicies,
    /// Gives services of type LoadBalancer addresses, and answers for them.
    LoadBalancer,
    /// The pod network. It has no file: its objects are made of the cluster's networks.
    Flannel,
    /// The pod network, and it keeps NetworkPolicy objects.
    Calico,
}

/// The label of every object that an add-on of the stack makes in a cluster: its value is the add-on's name. It also gives
/// an object without any other field of ours one, so that the API server notes whose it is.
pub const ADDON_LABEL: &str = "pf9.io/addon";

/// Whether a cluster wants an add-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// No: it is removed where it is.
    No,
    /// Where the stack has it.
    IfThere,
    /// Somebody asked for it: a stack without it is refused, or said.
    Must,
}

// === impl Addon ===

impl Addon {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::NetworkPolicies,
        Self::LoadBalancer,
        Self::Flannel,
        Self::Calico,
    ];

    /// Whose manifest file this is: `addons/30-network-policies.yaml`.
    pub fn of_file(path: &str) -> Option<Self> {
        let word = Self::word_of(path)?;
        let mut all = Self::ALL.into_iter();
        all.find(|addon| addon.has_file() && addon.word() == word)
    }

    /// The cluster cannot do without it, or have it later: it is chosen when the cluster is made.
    pub fn is_network(self) -> bool {
        match self {
            Self::Flannel | Self::Calico => true,
            Self::NetworkPolicies | Self::LoadBalancer => false,
        }
    }

    /// What a manifest file's add-on is called, a setting or not.
    pub fn word_of(path: &str) -> Option<&str> {
        let name = path.rsplit('/').next()?.strip_suffix(".yaml")?;
        name.split_once('-').map(|(_, word)| word)
    }

    /// A file of this name for an add-on without one is foreign, and applied like every other file.
    fn has_file(self) -> bool {
        match self {
            Self::NetworkPolicies | Self::LoadBalancer | Self::Calico => true,
            Self::Flannel => false,
        }
    }

    /// Which add-on runs images of this component.
    pub fn of_component(component: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|addon| addon.components().contains(&component))
    }

    /// Its name in the stack.
    pub fn word(self) -> &'static str {
        match self {
            Self::NetworkPolicies => "network-policies",
            Self::LoadBalancer => "load-balancer",
            Self::Flannel => "flannel",
            Self::Calico => "calico",
        }
    }

    /// The components whose images it runs.
    pub fn components(self) -> &'static [&'static str] {
        match self {
            Self::NetworkPolicies => &["kube-router"],
            Self::LoadBalancer => &["metallb-controller", "metallb-speaker"],
            Self::Flannel => &["flannel", "flannel-cni-plugin"],
            Self::Calico => &["calico-node", "calico-cni", "calico-kube-controllers"],
        }
    }

    /// What this stack lacks of it, as text: every image, and which one an operator has to supply.
    pub fn lacking(self, manifest: &StackManifest) -> Option<String> {
        let lacks = |name: &&&str| !manifest.images.iter().any(|i| i.component == ***name);
        let named = |name: &&str| match Matrix::ours().supplied(name) {
            Some(image) => format!("{name} ({image})"),
            None => (*name).to_owned(),
        };
        let lacking: Vec<String> = self.components().iter().filter(lacks).map(named).collect();
        if !lacking.is_empty() {
            return Some(format!("no image of {}", lacking.join(", ")));
        }
        let is = |f: &String| Self::of_file(f) == Some(self);
        let file = !self.has_file() || manifest.addons.iter().any(is);
        (!file).then(|| format!("no add-on {}", self.word()))
    }

    /// Whether a cluster with these settings wants it.
    pub fn want(
        self,
        plugin: NetworkPlugin,
        policies: NetworkPolicies,
        pool: &[AddressRange],
    ) -> Want {
        match self {
            Self::NetworkPolicies => match (policies, policies.wanted(plugin)) {
                (_, false) => Want::No,
                (NetworkPolicies::On, true) => Want::Must,
                (NetworkPolicies::Auto | NetworkPolicies::Off, true) => Want::IfThere,
            },
            Self::LoadBalancer if pool.is_empty() => Want::No,
            Self::LoadBalancer => Want::Must,
            Self::Flannel if plugin == NetworkPlugin::Flannel => Want::Must,
            Self::Calico if plugin == NetworkPlugin::Calico => Want::Must,
            Self::Flannel | Self::Calico => Want::No,
        }
    }
}

impl std::fmt::Display for Addon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

impl NetworkSpec {
    /// Whether this node's cluster wants an add-on.
    pub fn wants(&self, addon: Addon) -> Want {
        addon.want(self.plugin, self.policies, &self.load_balancer)
    }

    /// Whether the add-on runs in a cluster with this stack.
    pub fn has(&self, addon: Addon, manifest: &StackManifest) -> bool {
        self.wants(addon) != Want::No && addon.lacking(manifest).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_name_behind_the_number() {
        let of = Addon::of_file;
        assert_eq!(
            of("addons/30-network-policies.yaml"),
            Some(Addon::NetworkPolicies)
        );
        assert_eq!(of("addons/7-load-balancer.yaml"), Some(Addon::LoadBalancer));
        assert_eq!(of("addons/50-calico.yaml"), Some(Addon::Calico));
        for other in [
            "addons/05-coredns.yaml",
            "addons/load-balancer.yaml",
            "addons/50-flannel.yaml",
            "x",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn policies_are_kept_unless_told_and_services_have_addresses_only_when_told() {
        use NetworkPlugin::{Bridge, Calico, Flannel, None as Own};
        use NetworkPolicies::{Auto, Off, On};
        let pool: Vec<AddressRange> = vec!["10.1.2.3".parse().expect("range")];
        for (plugin, policies, want) in [
            (Bridge, Auto, Want::IfThere),
            (Flannel, Auto, Want::IfThere),
            (Own, Auto, Want::No),
            (Bridge, On, Want::Must),
            (Own, On, Want::Must),
            (Bridge, Off, Want::No),
            // It keeps them itself.
            (Calico, Auto, Want::No),
            (Calico, On, Want::No),
        ] {
            let found = Addon::NetworkPolicies.want(plugin, policies, &pool);
            assert_eq!(found, want, "{plugin:?} {policies:?}");
        }
        assert_eq!(Addon::LoadBalancer.want(Bridge, Auto, &pool), Want::Must);
        assert_eq!(Addon::LoadBalancer.want(Bridge, Auto, &[]), Want::No);
        for (addon, its) in [(Addon::Flannel, Flannel), (Addon::Calico, Calico)] {
            for plugin in [Bridge, Flannel, Calico, Own] {
                let want = if plugin == its { Want::Must } else { Want::No };
                assert_eq!(addon.want(plugin, Auto, &[]), want, "{addon} {plugin:?}");
            }
        }
    }
}

//! The stack: a signed, versioned set of components that were tested together.
//!
//! ```text
//! stack.tar.zst          bin/… cni/… images/… addons/…
//! manifest (signed)      every file with mode, size and sha256; images; add-ons; what it needs
//! ```

use serde::{Deserialize, Serialize};

use super::{Digest, Fault, FaultCode, Role, loose_version};

/// Version of the manifest document.
pub const STACK_SCHEMA: u32 = 1;
/// Most files of one stack.
pub const STACK_FILES_MAX: usize = 4096;
/// Most bytes of one stack, packed or unpacked: a full control plane is about 1 GiB.
pub const STACK_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// In a text of an add-on: the address of the cluster's DNS service, the tenth of the services
/// network of the signed spec; the same that kubelet tells every pod. The placeholders are those of
/// Kubernetes' own add-on manifests.
pub const ADDON_DNS_SERVER: &str = "__DNS__SERVER__";
/// The same of the cluster's services network.
pub const ADDON_SERVICES: &str = "__SERVICES__CIDR__";
/// `true` where the cluster is of IPv4, else `false`.
pub const ADDON_IPV4: &str = "__IPV4__";
/// `true` where the cluster is of IPv6, else `false`.
pub const ADDON_IPV6: &str = "__IPV6__";
/// The pods' network where it is of IPv4, else `none`.
pub const ADDON_PODS_V4: &str = "__PODS__IPV4__";
/// The pods' network where it is of IPv6, else `none`.
pub const ADDON_PODS_V6: &str = "__PODS__IPV6__";
/// `autodetect` where the cluster is of IPv4, else `none`.
pub const ADDON_NODE_V4: &str = "__NODE__IPV4__";
/// `autodetect` where the cluster is of IPv6, else `none`.
pub const ADDON_NODE_V6: &str = "__NODE__IPV6__";
/// The cluster's MTU for pods; `0` where it has none: the reader takes the machine's.
pub const ADDON_MTU: &str = "__PODS__MTU__";
/// In a text of an add-on: the DNS suffix of the cluster, e.g. `cluster.local`.
pub const ADDON_DNS_DOMAIN: &str = "__DNS__DOMAIN__";

/// Which stack a spec asks for. The digest of the signed manifest says exactly which bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackRef {
    /// e.g. `pf9-kube`.
    pub name: String,
    /// e.g. `1.37.2-1`.
    pub version: String,
    /// SHA-256 of the manifest's signed bytes.
    pub manifest: Digest,
}

/// Table of contents of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackManifest {
    /// [`STACK_SCHEMA`].
    pub schema: u32,
    /// e.g. `pf9-kube`.
    pub name: String,
    /// e.g. `1.37.2-1`.
    pub version: String,
    /// Kubernetes version without `v`, e.g. `1.37.2`.
    pub kubernetes: semver::Version,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// The archive.
    pub archive: StackArchive,
    /// What is inside, for people.
    pub components: Vec<StackComponent>,
    /// Every regular file.
    pub files: Vec<StackFile>,
    /// Container images.
    pub images: Vec<StackImage>,
    /// Manifests to be kept applied, in this order; paths inside the stack. [`ADDON_DNS_SERVER`] and
    /// [`ADDON_DNS_DOMAIN`] in them stand for what only the cluster's spec says.
    #[serde(default)]
    pub addons: Vec<String>,
    /// What the distribution must have.
    #[serde(default)]
    pub requires: Vec<StackRequirement>,
    /// It mends a fault of security: clusters whose policy says so go to it at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub security: bool,
}

/// The packed stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackArchive {
    /// SHA-256 of `stack.tar.zst`.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What the plane has of the way from one stack to another. Not signed: what is made by it is compared with the
/// signed manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaOffer {
    /// SHA-256 of the delta.
    pub sha256: Digest,
    /// Its size in bytes.
    pub bytes: u64,
}

/// One component, for people and for the status document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackComponent {
    /// e.g. `kubelet`.
    pub name: String,
    /// e.g. `1.37.2`.
    pub version: String,
}

/// One file of the stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackFile {
    /// Relative, without `..`; e.g. `bin/kubelet`.
    pub path: String,
    /// Permission bits; `0o755` or `0o644`, written as octal text.
    #[serde(with = "octal")]
    pub mode: u32,
    /// Its digest.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Which component it belongs to.
    pub component: String,
}

/// One container image, a docker archive inside the stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackImage {
    /// Reference after import, e.g. `pf9.local/kube-apiserver:v1.37.2`.
    pub reference: String,
    /// Archive inside the stack, e.g. `images/kube-apiserver.tar`.
    pub path: String,
    /// What it is, e.g. `kube-apiserver`, `pause`.
    pub component: String,
    /// Which roles import it.
    pub roles: Vec<Role>,
}

/// Something of the distribution that a component needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackRequirement {
    /// Package, as Debian names it.
    pub package: String,
    /// Any of these present means: it is there (e.g. library paths of several distributions).
    pub any_of: Vec<String>,
}

// === impl StackManifest ===

impl StackManifest {
    /// Checks what types cannot say. The fault names the entry.
    pub fn validate(&self) -> Result<(), Fault> {
        let bad = |why: String| {
            Fault::new(
                FaultCode::StackManifestInvalid,
                format!("stack {} {} refused", self.name, self.version),
                why,
            )
            .fix("build the stack again")
        };
        if self.schema != STACK_SCHEMA {
            return Err(bad(format!("schema {} is not {STACK_SCHEMA}", self.schema)));
        }
        for (field, word) in [("name", &self.name), ("version", &self.version)] {
            let ok = !word.is_empty()
                && word.len() <= 64
                && word
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._+".contains(&b))
                && !word.starts_with('.');
            if !ok {
                return Err(bad(format!("{field} {word:?} cannot be a directory name")));
            }
        }
        if self.files.len() > STACK_FILES_MAX {
            return Err(bad(format!(
                "{} files, at most {STACK_FILES_MAX}",
                self.files.len()
            )));
        }
        let mut total = 0u64;
        for file in &self.files {
            if !is_clean_relative(&file.path) {
                return Err(bad(format!(
                    "{:?} is not a path inside the stack",
                    file.path
                )));
            }
            if file.mode & !0o755 != 0 {
                return Err(bad(format!(
                    "{}: mode {:o} is not allowed",
                    file.path, file.mode
                )));
            }
            total = total.saturating_add(file.size);
        }
        if total > STACK_BYTES_MAX || self.archive.size > STACK_BYTES_MAX {
            return Err(bad(format!("larger than {STACK_BYTES_MAX} bytes")));
        }
        let known = |path: &str| self.files.iter().any(|f| f.path == path);
        for path in self.images.iter().map(|i| &i.path).chain(&self.addons) {
            if !known(path) {
                return Err(bad(format!("{path:?} is not among its files")));
            }
        }
        Ok(())
    }

    /// Bytes of the unpacked stack.
    pub fn unpacked_size(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }

    /// Bytes of its images, as they lie in it.
    pub fn images_size(&self) -> u64 {
        let is_image = |f: &&StackFile| self.images.iter().any(|i| i.path == f.path);
        self.files.iter().filter(is_image).map(|f| f.size).sum()
    }

    /// Directory name below `/opt/pf9/stacks`.
    pub fn dir_name(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// The image of a component, e.g. `pause`.
    pub fn image(&self, component: &str) -> Option<&StackImage> {
        self.images.iter().find(|i| i.component == component)
    }

    /// The version of a component, e.g. `etcd`.
    pub fn component(&self, name: &str) -> Option<&str> {
        self.components
            .iter()
            .find(|c| c.name == name)
            .map(|c| c.version.as_str())
    }

    /// Its etcd; `None`: it has none, or does not say which.
    pub fn etcd(&self) -> Option<semver::Version> {
        loose_version(self.component("etcd")?)
    }
}

impl StackRef {
    /// Directory name below `/opt/pf9/stacks`.
    pub fn dir_name(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }
}

impl std::fmt::Display for StackRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// A path that leads nowhere but below where it is joined.
pub(super) fn is_clean_relative(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 255
        && !path.contains(['\0', '\\'])
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Permission bits as octal text (`"0755"`), as people write them.
mod octal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(mode: &u32, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
        let text = String::deserialize(d)?;
        u32::from_str_radix(&text, 8).map_err(serde::de::Error::custom)
    }
}

//! [`Matrix`]: what was tested together, what is refused, and what is untested.
//!
//! ```text
//! src/stack/matrix.toml ──► Matrix ─┐
//! a stack's manifest ───────────────┼─ fits ─► Fit: Tested, Warned(words) or Refused(fault)
//! what is known of the machine ─────┘
//! ```
//!
//! Pure, and one answer for everybody who asks: the plane when a stack comes or is chosen, hostagent
//! before it downloads one, nodelet before it changes anything, `check-node` for the machine alone.
//!
//! A minor of Kubernetes that is newer than the table is refused rather than tried: its flags and files are unknown.
//! That cannot strand a node, because only what is *about to come* is judged: the plane is upgraded first and knows
//! more than its agents, an agent that refuses keeps the stack it has, and the active stack is never judged.
//!
//! | file | what |
//! |---|---|
//! | `containerd` | which containerd may follow which |
//! | `etcd` | which etcd may continue with the data of which other version, and restore its backups |
//! | `table` | the matrix as the README shows it |

mod containerd;
mod etcd;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use semver::{Version, VersionReq};
use serde::Deserialize;

use super::{Fault, FaultCode, Inventory, StackManifest};
use etcd::{EtcdRestore, EtcdStep};

pub use etcd::{EtcdDemand, EtcdWay, newest_of};

/// The data; part of every program, so that they agree as far as they are of one version.
const DATA: &str = include_str!("../stack/matrix.toml");

/// Programs of a stack whose minors matter to each other, as manifests call them.
const PARTS: [&str; 4] = ["containerd", "etcd", "runc", "cni-plugins"];
/// The same name in rules as in manifests' own field.
const KUBERNETES: &str = "kubernetes";
const SYSTEMD: &str = "systemd";
const CGROUP: &str = "cgroup";
const KERNEL: &str = "kernel";

/// What goes with what.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Matrix {
    kubernetes: Vec<Minor>,
    skew: BTreeMap<String, u64>,
    #[serde(default)]
    rule: Vec<Rule>,
    #[serde(default)]
    ran: Vec<Ran>,
    /// Versions of a part that tests run by themselves. For information: a part is tested with others.
    #[serde(default)]
    alone: BTreeMap<String, Vec<String>>,
    /// Images that are not built here, by component: an operator who wants the component brings them.
    #[serde(default)]
    supplied: BTreeMap<String, String>,
    #[serde(default)]
    etcd_step: Vec<EtcdStep>,
    #[serde(default)]
    etcd_restore: Vec<EtcdRestore>,
    #[serde(default)]
    containerd: Containerd,
}

/// Lines of containerd.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Containerd {
    long_term: Vec<String>,
}

/// A supported minor of Kubernetes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Minor {
    /// e.g. `1.37`.
    minor: String,
    /// False: only as the start of an upgrade.
    #[serde(default = "yes")]
    new: bool,
}

/// What is known of versions that meet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    when: BTreeMap<String, VersionReq>,
    says: Says,
    why: String,
    fix: String,
    source: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Says {
    Refused,
    Warned,
}

/// What a machine test brought to Ready.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ran {
    test: String,
    kubernetes: String,
    containerd: String,
    etcd: String,
    runc: String,
    cni_plugins: String,
    systemd: String,
    cgroup: u8,
}

/// What is known of a machine; what is not is not judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// `amd64`, `arm64`.
    pub arch: Option<String>,
    /// e.g. `252`.
    pub systemd: Option<String>,
    /// Version of the control groups: 1 (and hybrid) or 2.
    pub cgroup: Option<u8>,
    /// Kernel release, e.g. `6.1.0-40-amd64`.
    pub kernel: Option<String>,
}

/// Whether a stack may come onto a machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Fit {
    /// A test ran it.
    Tested,
    /// It may, with these warnings.
    Warned(Vec<String>),
    /// It may not.
    Refused(Box<Fault>),
}

/// Versions by what they are of.
type Versions = BTreeMap<&'static str, Version>;

impl Matrix {
    /// The one that this program was built with.
    pub fn ours() -> &'static Self {
        static OURS: LazyLock<Matrix> = LazyLock::new(|| {
            // A test reads it: what is built in is well formed.
            Matrix::read(DATA).unwrap_or_default()
        });
        &OURS
    }

    /// The image that an operator has to supply, where a component of a stack is one.
    pub fn supplied(&self, component: &str) -> Option<&str> {
        self.supplied.get(component).map(String::as_str)
    }

    fn read(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Whether this stack may come onto this machine.
    pub fn fits(&self, stack: &StackManifest, machine: &Machine) -> Fit {
        let name = format!("{} {}", stack.name, stack.version);
        let versions = versions(stack, machine);
        let refused = other_arch(stack, machine)
            .or_else(|| self.unknown_minor(&stack.kubernetes))
            .or_else(|| self.skewed(stack))
            .or_else(|| self.rules(&versions, Says::Refused).into_iter().next());
        if let Some(words) = refused {
            return words.refuse(format!("stack {name} is refused"));
        }
        let ending = self.ending(&stack.kubernetes);
        let mut words: Vec<String> = ending
            .map(|why| format!("{why}; upgrade it"))
            .into_iter()
            .collect();
        words.extend(
            self.rules(&versions, Says::Warned)
                .iter()
                .map(Words::sentence),
        );
        words.extend(self.untried(stack, &versions));
        words.extend(self.untried_machine(machine));
        Fit::of(words)
    }

    /// Findings about a machine, whatever stack comes.
    pub fn of_machine(&self, machine: &Machine) -> Fit {
        let versions = machine_versions(machine);
        if let Some(words) = self.rules(&versions, Says::Refused).into_iter().next() {
            return words.refuse("this machine cannot run a stack".to_owned());
        }
        let warned = self.rules(&versions, Says::Warned);
        let mut words: Vec<String> = warned.iter().map(Words::sentence).collect();
        words.extend(self.untried_machine(machine));
        Fit::of(words)
    }

    /// Whether a cluster may be made with this Kubernetes: one that is only left is for clusters that have it.
    pub fn may_begin(&self, stack: &StackManifest) -> Result<(), Box<Fault>> {
        let Some(why) = self.ending(&stack.kubernetes) else {
            return Ok(());
        };
        let newest = self.kubernetes.first().map_or("?", |m| m.minor.as_str());
        let what = format!(
            "no cluster is made with stack {} {}",
            stack.name, stack.version
        );
        let fix = format!("use a stack of Kubernetes {newest}");
        Err(Box::new(
            Fault::new(FaultCode::StackUnfit, what, why).fix(fix),
        ))
    }

    fn unknown_minor(&self, kubernetes: &Version) -> Option<Words> {
        if self.minor(kubernetes).is_some() {
            return None;
        }
        let known = |m: Option<&Minor>| m.map_or("?", |m| m.minor.as_str()).to_owned();
        let (oldest, newest) = (
            known(self.kubernetes.last()),
            known(self.kubernetes.first()),
        );
        let is_newer = loose_version(&newest).is_some_and(|n| *kubernetes > n);
        let minor = minor_of(kubernetes);
        Some(if is_newer {
            let why = format!(
                "Kubernetes {minor} is newer than this release knows, which is {oldest} to {newest}"
            );
            Words::unfit(
                why,
                "upgrade the plane first, then the agents, then the stack",
            )
        } else {
            let why = format!("Kubernetes {minor} is not supported, {oldest} to {newest} are");
            Words::unfit(why, format!("use a stack of Kubernetes {newest}"))
        })
    }

    fn minor(&self, kubernetes: &Version) -> Option<&Minor> {
        let minor = minor_of(kubernetes);
        self.kubernetes.iter().find(|m| m.minor == minor)
    }

    fn ending(&self, kubernetes: &Version) -> Option<String> {
        let minor = self.minor(kubernetes).filter(|m| !m.new)?;
        Some(format!(
            "Kubernetes {} is supported only as the start of an upgrade",
            minor.minor
        ))
    }

    /// A part of Kubernetes that does not go with the API server.
    fn skewed(&self, stack: &StackManifest) -> Option<Words> {
        let api = &stack.kubernetes;
        self.skew.iter().find_map(|(part, most)| {
            let own = loose_version(stack.component(part)?)?;
            let newer = (own.major, own.minor) > (api.major, api.minor);
            let older = own.major != api.major || own.minor + most < api.minor;
            let why = if newer {
                format!("{part} {own} is newer than its API server, {api}")
            } else if older {
                format!("{part} {own} is more than {most} minors older than its API server, {api}")
            } else {
                return None;
            };
            Some(Words::unfit(
                why,
                "build the stack with one version of Kubernetes",
            ))
        })
    }

    fn rules(&self, versions: &Versions, says: Says) -> Vec<Words> {
        let matches = |rule: &&Rule| {
            rule.says == says
                && rule.when.iter().all(|(part, wanted)| {
                    let own = versions.get(part.as_str());
                    own.is_some_and(|own| wanted.matches(own))
                })
        };
        let words = |rule: &Rule| {
            let parts = rule.when.keys();
            let named: Vec<String> = parts
                .filter_map(|part| Some(spoken(part, versions.get(part.as_str())?)))
                .collect();
            Words {
                why: format!("{}: {} ({})", named.join(" with "), rule.why, rule.source),
                fix: rule.fix.clone(),
                code: FaultCode::StackUnfit,
            }
        };
        self.rule.iter().filter(matches).map(words).collect()
    }

    /// Parts that no test ran with this minor of Kubernetes.
    fn untried(&self, stack: &StackManifest, versions: &Versions) -> Option<String> {
        let kubernetes = minor_of(&stack.kubernetes);
        let ran: Vec<&Ran> = self
            .ran
            .iter()
            .filter(|r| is_minor(&r.kubernetes, &kubernetes))
            .collect();
        let untried: Vec<String> = PARTS
            .iter()
            .filter_map(|part| match versions.get(part) {
                None => Some(format!("a {part} of unknown version")),
                Some(own) => {
                    let minor = minor_of(own);
                    let tried = ran.iter().any(|r| is_minor(r.part(part), &minor));
                    (!tried).then(|| format!("{part} {minor}"))
                }
            })
            .collect();
        (!untried.is_empty()).then(|| {
            format!(
                "no test ran Kubernetes {kubernetes} with {}",
                untried.join(", ")
            )
        })
    }

    /// A machine that no test ran on.
    fn untried_machine(&self, machine: &Machine) -> Option<String> {
        let (systemd, cgroup) = (machine.systemd.as_ref()?, machine.cgroup?);
        let tried = |r: &&Ran| r.systemd == *systemd && r.cgroup == cgroup;
        match self.ran.iter().find(tried) {
            Some(_) => None,
            None => Some(format!(
                "no test ran on systemd {systemd} with control groups of version {cgroup}"
            )),
        }
    }
}

/// What is wrong, and the way out.
struct Words {
    code: FaultCode,
    why: String,
    fix: String,
}

impl Words {
    fn unfit(why: String, fix: impl Into<String>) -> Self {
        Self {
            code: FaultCode::StackUnfit,
            why,
            fix: fix.into(),
        }
    }

    fn refuse(self, what: String) -> Fit {
        Fit::Refused(Box::new(
            Fault::new(self.code, what, self.why).fix(self.fix),
        ))
    }

    fn sentence(&self) -> String {
        format!("{}; {}", self.why, self.fix)
    }
}

impl Ran {
    fn part(&self, name: &str) -> &str {
        match name {
            "containerd" => &self.containerd,
            "etcd" => &self.etcd,
            "runc" => &self.runc,
            "cni-plugins" => &self.cni_plugins,
            _ => "",
        }
    }
}

impl Fit {
    fn of(words: Vec<String>) -> Self {
        if words.is_empty() {
            Self::Tested
        } else {
            Self::Warned(words)
        }
    }

    /// Warnings, one sentence each.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::Warned(words) => words,
            Self::Tested | Self::Refused(_) => &[],
        }
    }

    /// Why not.
    pub fn refusal(self) -> Option<Fault> {
        match self {
            Self::Refused(fault) => Some(*fault),
            Self::Tested | Self::Warned(_) => None,
        }
    }
}

impl Machine {
    /// What the plane knows of one.
    pub fn of(inventory: &Inventory) -> Self {
        let known = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            arch: known(&inventory.arch),
            kernel: known(&inventory.kernel),
            systemd: known(&inventory.systemd),
            cgroup: inventory.cgroup,
        }
    }
}

fn other_arch(stack: &StackManifest, machine: &Machine) -> Option<Words> {
    let arch = machine.arch.as_ref().filter(|arch| **arch != stack.arch)?;
    Some(Words {
        code: FaultCode::StackOtherArch,
        why: format!("it is built for {}, this machine is {arch}", stack.arch),
        fix: "give this host a stack of its architecture".to_owned(),
    })
}

fn versions(stack: &StackManifest, machine: &Machine) -> Versions {
    let mut all = machine_versions(machine);
    all.insert(KUBERNETES, release(&stack.kubernetes));
    let parts = PARTS
        .iter()
        .filter_map(|part| Some((*part, loose_version(stack.component(part)?)?)));
    all.extend(parts);
    all
}

fn machine_versions(machine: &Machine) -> Versions {
    let cgroup = machine.cgroup.map(|v| Version::new(v.into(), 0, 0));
    let read = |text: &Option<String>| text.as_deref().and_then(loose_version);
    let known = [
        (SYSTEMD, read(&machine.systemd)),
        (CGROUP, cgroup),
        (KERNEL, read(&machine.kernel)),
    ];
    known
        .into_iter()
        .filter_map(|(part, version)| Some((part, version?)))
        .collect()
}

/// Without what comes before a release: a candidate of 1.38 is judged as 1.38.
fn release(version: &Version) -> Version {
    Version::new(version.major, version.minor, version.patch)
}

/// The numbers at the head of a version as its project, or a distribution, writes it: `v2.4.2`,
/// `1.6.20~ds1-1`, `252`, `6.1.0-40-amd64`.
pub fn loose_version(text: &str) -> Option<Version> {
    let text = text.trim().trim_start_matches('v');
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let mut numbers = text.get(..end)?.split('.').filter(|n| !n.is_empty());
    let major = numbers.next()?.parse().ok()?;
    let mut next = || numbers.next().map_or(Some(0), |n| n.parse().ok());
    Some(Version::new(major, next()?, next()?))
}

fn minor_of(version: &Version) -> String {
    format!("{}.{}", version.major, version.minor)
}

fn is_minor(version: &str, minor: &str) -> bool {
    loose_version(version).is_some_and(|v| minor_of(&v) == minor)
}

fn spoken(part: &str, version: &Version) -> String {
    match part {
        KUBERNETES => format!("Kubernetes {}", minor_of(version)),
        CGROUP => format!("control groups of version {}", version.major),
        SYSTEMD => format!("systemd {}", version.major),
        KERNEL => format!("Linux {version}"),
        part => format!("{part} {version}"),
    }
}

fn yes() -> bool {
    true
}

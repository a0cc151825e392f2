//! Everything the phases decide by, gathered from the host.

mod drop_ins;

use std::sync::Arc;

use semver::Version;

use crate::host::facts::os_release;
use crate::host::fs::{Found, FsError, HostFs};
use crate::host::net::Nftables;
use crate::host::resolver::Resolver;
use crate::host::unchanged::Unchanged;
use crate::host::{Host, kernel};
use crate::model::{
    CertificateRequest, CertificateStatus, Fault, FaultCode, HostId, NodeSpec, Role, StackManifest,
    StackRef, Timestamp, TrustStore, paths,
};
use crate::stack::{self, Depth, Manifest, StackError, Staged};
use crate::telemetry::chain;

use super::certs;
use super::etcd;
use super::phase::{self, AddonFile, DropIns, EtcdOf, HostFacts, PhaseContext};
use super::rotate;
use super::status::SweepFindings;

/// Largest add-on manifest.
const ADDON_MAX: u64 = 4 * 1024 * 1024;
/// Most objects of all add-ons of a stack.
const ADDON_OBJECTS_MAX: usize = 1000;

/// What add-on manifests say, as JSON: that is read faster, and takes less room than the objects.
static ADDONS: Unchanged<Arc<str>> = Unchanged::new();

/// The stack of a node, as far as it is here.
#[derive(Clone, Debug, Default)]
pub struct StackSeen {
    /// Its verified manifest.
    pub manifest: Option<StackManifest>,
    /// Installed, or staged: whole, or what there is while the rest comes.
    pub at_hand: bool,
    /// Installed and whole.
    pub installed: bool,
    /// The active one.
    pub active: bool,
    /// Why what is staged cannot be used.
    pub fault: Option<Fault>,
}

/// A staged stack that turned out not to be what its manifest says: it has to be staged again.
#[derive(Clone, Debug, PartialEq)]
pub struct RefusedStack {
    /// Which.
    pub stack: StackRef,
    /// Why.
    pub fault: Fault,
}

/// Gathers the context of a node.
pub fn gather(
    host: &Host,
    trust: &TrustStore,
    host_id: HostId,
    role: Role,
    node: &NodeSpec,
    refused: Option<&RefusedStack>,
    now: Timestamp,
) -> Result<(PhaseContext, StackSeen), Fault> {
    let fail = |e: &(dyn std::error::Error + 'static)| {
        Fault::new(FaultCode::Facts, "cannot inspect this machine", chain(e))
    };
    let mut stack = stack_of(&host.fs, trust, &node.stack);
    if let Some(refused) = refused.filter(|r| r.stack == node.stack && !stack.installed) {
        stack.at_hand = false;
        stack.fault = Some(refused.fault.clone());
    }
    let addons = match (&stack.manifest, stack.installed, role) {
        (Some(manifest), true, Role::Master) => addons(&host.fs, manifest)?,
        (_, _, Role::Master | Role::Worker | Role::None) => Vec::new(),
    };
    let context = PhaseContext {
        host_id,
        role,
        node: node.clone(),
        facts: facts(host, node).map_err(|e| fail(&*e))?,
        manifest: stack.manifest.clone(),
        stack_at_hand: stack.at_hand,
        material: certs::material(&host.fs, role, node).map_err(|e| fail(&e))?,
        authorities: certs::authorities(node),
        service_account_key: service_account_key(&host.fs, role).map_err(|e| fail(&e))?,
        etcd: match role {
            Role::Master => etcd::data::look(&host.fs).map_err(|e| fail(&e))?,
            Role::Worker | Role::None => etcd::data::EtcdSeen::default(),
        },
        drop_ins: drop_ins::look(&host.fs, node.runtime.drop_ins.as_deref())
            .map_err(|e| fail(&e))?,
        etcd_of: match role {
            Role::Master => other_etcd(&host.fs, node, stack.manifest.as_ref()),
            Role::Worker | Role::None => None,
        },
        cordoned: false,
        rotate: rotate::wanted(&host.fs),
        addons,
        now,
    };
    Ok((context, stack))
}

/// What takes a program to find out; for contexts that steps are made of.
pub async fn look_further(host: &Host, ctx: &mut PhaseContext) {
    ctx.facts.nftables = host.net.nftables().await;
}

/// What the status shows beside the plan.
pub fn findings(fs: &HostFs, ctx: &PhaseContext, seen: &StackSeen) -> SweepFindings {
    let leaves = ctx.material.iter().filter_map(|(purpose, m)| {
        let seen = m.certificate.as_ref()?;
        Some(CertificateStatus {
            name: purpose.dir().to_owned(),
            authority: purpose.profile(&ctx.node).authority,
            not_before: seen.not_before,
            not_after: seen.not_after,
            digest: seen.own,
            issuer: seen.issuer,
        })
    });
    let authorities = ctx.authorities.iter().map(|a| CertificateStatus {
        name: format!("{} authority", a.authority),
        authority: a.authority,
        not_before: a.not_before,
        not_after: a.not_after,
        digest: a.digest,
        issuer: a.digest,
    });
    SweepFindings {
        stack: stack::current(fs).ok().flatten(),
        wants_stack: (!seen.at_hand).then(|| ctx.node.stack.clone()),
        requests: phase::wanted_certificates(ctx),
        certificates: leaves.chain(authorities).collect(),
        service_account_key: ctx.service_account_key.clone(),
        kube_proxy: phase::proxy_mode(ctx).ok(),
    }
}

/// The certificates that are wanted and this master's service-account key, by what is on the disk now.
pub fn requests(
    fs: &HostFs,
    ctx: &PhaseContext,
) -> Result<(Vec<CertificateRequest>, Option<String>), FsError> {
    let ctx = PhaseContext {
        material: certs::material(fs, ctx.role, &ctx.node)?,
        service_account_key: service_account_key(fs, ctx.role)?,
        ..ctx.clone()
    };
    Ok((phase::wanted_certificates(&ctx), ctx.service_account_key))
}

fn service_account_key(fs: &HostFs, role: Role) -> Result<Option<String>, FsError> {
    match role {
        Role::Master => certs::service_account_key(fs),
        Role::Worker | Role::None => Ok(None),
    }
}

/// The drop-ins that the runtime has, in place of those that lie where they come from.
pub fn kept_drop_ins(fs: &HostFs) -> Result<DropIns, Fault> {
    drop_ins::kept(fs)
        .map_err(|e| Fault::new(FaultCode::Facts, "cannot inspect this machine", chain(&e)))
}

pub(super) fn stack_of(fs: &HostFs, trust: &TrustStore, want: &StackRef) -> StackSeen {
    if let Ok(manifest) = stack::verify_installed(fs, want, trust, Depth::Cheap) {
        return StackSeen {
            manifest: Some(manifest.content().clone()),
            at_hand: true,
            installed: true,
            active: stack::current(fs).ok().flatten().as_ref() == Some(want),
            fault: None,
        };
    }
    match Manifest::open_staged(fs, want, trust) {
        Ok(manifest) => {
            let content = manifest.content().clone();
            // What has come so far is unpacked while the rest comes.
            let at_hand = match stack::staged(fs, want, &content) {
                Staged::Whole | Staged::Comes => true,
                Staged::Nothing => false,
            };
            StackSeen {
                manifest: Some(content),
                at_hand,
                installed: false,
                active: false,
                fault: None,
            }
        }
        Err(StackError::NotStaged { .. }) => StackSeen::default(),
        Err(e) => StackSeen {
            fault: Some(e.fault(want)),
            ..StackSeen::default()
        },
    }
}

/// The stack that etcd is of, while that is another minor than the node's own has: within a minor etcd goes
/// with the node, from one to another only when that is ordered. (What it says of itself is enough to stay: a
/// damaged file in it is no reason to go.)
fn other_etcd(fs: &HostFs, node: &NodeSpec, own: Option<&StackManifest>) -> Option<EtcdOf> {
    let has = stack::current_etcd(fs).ok().flatten()?;
    if has == node.stack {
        return None;
    }
    let seen = stack::etcd_content(fs)?;
    let other = stays_apart(seen.etcd(), own?.etcd());
    other.then(|| EtcdOf::of(has, &seen))
}

fn stays_apart(has: Option<Version>, own: Option<Version>) -> bool {
    let minor = |v: Option<Version>| v.map(|v| (v.major, v.minor));
    minor(has) != minor(own)
}

/// The same of a stack that a roll names.
pub(super) fn etcd_of(fs: &HostFs, trust: &TrustStore, stack: &StackRef) -> Option<EtcdOf> {
    let seen = stack_of(fs, trust, stack);
    Some(EtcdOf::of(
        stack.clone(),
        &seen.manifest.filter(|_| seen.installed)?,
    ))
}

fn facts(host: &Host, node: &NodeSpec) -> Result<HostFacts, Box<dyn std::error::Error>> {
    let kernel = &host.kernel;
    let interface = kernel::interface_of(node.node_ip);
    let mtu = match &interface {
        Some(name) => kernel.mtu(name)?,
        None => None,
    };
    Ok(HostFacts {
        cgroup_v2: kernel.cgroup_v2()?,
        systemd_cgroups: kernel.systemd_cgroups()?,
        can_lower_oom_score: kernel.can_lower_oom_score()?,
        os_id: os_release(&host.fs)?.id,
        mtu,
        interface,
        resolv_conf: Resolver::of(&host.fs)?.path,
        cpus: kernel.cpus()?,
        conntrack_tunable: kernel.conntrack_tunable(),
        kernel_modules: kernel.has_modules()?,
        // The kernel is asked with a program: see `look_further`.
        nftables: Nftables::default(),
        client_manifests: client_manifests(&host.fs)?,
    })
}

fn client_manifests(fs: &HostFs) -> Result<bool, FsError> {
    for path in phase::client_manifests() {
        if !matches!(fs.found(path)?, Found::Nothing) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The stack's add-on files, in order. They are the stack's: their bytes are in the signed manifest.
fn addons(fs: &HostFs, manifest: &StackManifest) -> Result<Vec<AddonFile>, Fault> {
    let mut files = Vec::new();
    let mut sum = 0;
    for file in &manifest.addons {
        let path = format!("{}/{}/{file}", paths::STACKS, manifest.dir_name());
        let bad = |why: String| {
            Fault::new(FaultCode::Addon, format!("cannot read add-on {file}"), why)
                .fix("build the stack again")
        };
        let json = ADDONS.get(&[fs.at(&path)], None, || -> Result<_, Fault> {
            let text = fs
                .read_text(&path, ADDON_MAX)
                .map_err(|e| bad(chain(&e)))?
                .ok_or_else(|| bad("it is missing".into()))?;
            let documents: Vec<serde_json::Value> =
                serde_saphyr::from_multiple(&text).map_err(|e| bad(e.to_string()))?;
            let objects = documents.into_iter().filter(|d| !d.is_null());
            let json = serde_json::Value::from_iter(objects).to_string();
            Ok(Arc::from(json))
        })?;
        let objects: Vec<serde_json::Value> =
            serde_json::from_str(&json).map_err(|e| bad(e.to_string()))?;
        sum += objects.len();
        if sum > ADDON_OBJECTS_MAX {
            return Err(bad(format!("more than {ADDON_OBJECTS_MAX} objects")));
        }
        files.push(AddonFile {
            path: file.clone(),
            objects,
        });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcd_goes_with_the_node_within_a_minor_and_from_one_to_another_on_its_own() {
        let version = |text: &str| Some(text.parse().expect("version"));
        for (has, own, apart) in [
            ("3.6.16", "3.6.17", false),
            ("3.6.17", "3.6.16", false),
            ("3.6.16", "3.7.3", true),
            ("3.7.3", "3.6.16", true),
        ] {
            assert_eq!(
                stays_apart(version(has), version(own)),
                apart,
                "{has} {own}"
            );
        }
        assert!(
            stays_apart(version("3.6.16"), None),
            "it is not without one"
        );
    }
}

//! What a spec allows and this machine lacks: pods run without it, and a warning says so.

use ipnet::IpNet;

use super::context;
use super::inbox;
use super::job::Job;
use crate::host::Host;
use crate::host::fs::HostFs;
use crate::host::interfaces::networks;
use crate::host::kernel::Kernel;
use crate::host::ours::network::{POLICY_ENTRY, policy_chain_prefixes};
use crate::host::resolver::Resolver;
use crate::model::{Addon, AddressRange, Fault, FaultCode, NodeSpec, StackManifest, Want, paths};

/// The warnings of the node that is reconciled or held.
pub(super) async fn warnings(host: &Host, job: &Job) -> Vec<Fault> {
    let node = match job {
        Job::Node(work) => Some(&work.node),
        Job::Hold(hold) => hold.keeps.as_ref().map(|work| &work.node),
        Job::Nothing(_) | Job::Remove(..) => None,
    };
    let Some(node) = node else {
        return Vec::new();
    };
    // What cannot be read is left out here.
    let old = Kernel::new(host.fs.clone()).cgroup_v1().unwrap_or(false);
    let mut said: Vec<Fault> = pods_swap(node, old).into_iter().collect();
    said.extend(super::ground::warning(&host.fs, node));
    said.extend(no_dns(&host.fs));
    said.extend(csi_elsewhere(&host.fs));
    let Ok((trust, _)) = inbox::trust_anchors(&host.fs) else {
        return said;
    };
    let seen = context::stack_of(&host.fs, &trust, &node.stack);
    if let Some(manifest) = &seen.manifest {
        said.extend(addons_lacking(node, manifest));
        if seen.active && node.network.has(Addon::NetworkPolicies, manifest) {
            said.extend(policies(host).await);
        }
    }
    said.extend(pool_elsewhere(node, &networks(&host.fs)));
    said
}

/// The state of the machine's DNS file. A cluster that knows no other names is intended.
fn no_dns(fs: &HostFs) -> Option<Fault> {
    let no_dns = Resolver::of(fs).ok()?.no_dns()?;
    let what = "pods of this node get no DNS";
    (!no_dns.harmless).then(|| Fault::new(FaultCode::NoDns, what, no_dns.why).fix(no_dns.fix))
}

/// Storage drivers without a setting for kubelet's directory look at the usual place. It would show them its own
/// directory and nothing else, so a link between the two does not help.
fn csi_elsewhere(fs: &HostFs) -> Option<Fault> {
    const USUAL: &str = "/var/lib/kubelet/plugins_registry";
    let names = fs.list(USUAL).unwrap_or_default();
    let name = names.first()?;
    let what = "volumes of a storage driver (CSI) cannot be mounted on this node";
    let why = format!(
        "{name:?} is in {USUAL}, but this node's kubelet only looks in {}/plugins_registry",
        paths::KUBELET_ROOT
    );
    let fix = format!(
        "tell the driver kubelet's directory, {} (its chart's kubeletDir or kubeletRootDir); then delete what is left in {USUAL}",
        paths::KUBELET_ROOT
    );
    Some(Fault::new(FaultCode::CsiElsewhere, what, why).fix(fix))
}

/// A client resolves a service's address in the network that the address is in.
fn pool_elsewhere(node: &NodeSpec, networks: &[IpNet]) -> Option<Fault> {
    let here = |range: &&AddressRange| networks.iter().any(|net| range.is_within(*net));
    let mut pool = node.network.load_balancer.iter();
    let range = pool.find(|range| !here(range))?;
    let shown: Vec<String> = networks.iter().map(ToString::to_string).collect();
    let what = "services with an address of the pool may not be reached";
    let why = format!(
        "loadBalancer.addresses: {range} is in no network of this machine ({})",
        shown.join(", ")
    );
    let fix = "give services addresses of a network that the nodes are in, or route them to it";
    Some(Fault::new(FaultCode::PoolElsewhere, what, why).fix(fix))
}

/// Somebody asked for it, and the stack came without it after that.
fn addons_lacking(node: &NodeSpec, manifest: &StackManifest) -> Vec<Fault> {
    let asked = Addon::ALL
        .into_iter()
        .filter(|a| node.network.wants(*a) == Want::Must);
    let lacking = asked.filter_map(|addon| Some((addon, addon.lacking(manifest)?)));
    lacking
        .map(|(addon, lacking)| {
            let what =
                format!("the cluster has no add-on {addon}, although its settings ask for it");
            let why = format!("stack {} {} has {lacking}", manifest.name, manifest.version);
            let fix = "choose a stack that has it, or revert the setting";
            Fault::new(FaultCode::AddonMissing, what, why).fix(fix)
        })
        .collect()
}

/// Where all that pods send goes by their rules, they are kept; what the kernel lacks is asked where not.
async fn policies(host: &Host) -> Option<Fault> {
    // A failure to look is reported where the packet filter is reconciled.
    let chains = host.net.chains(&policy_chain_prefixes()).await.ok()?;
    let kept = chains.iter().any(|chain| chain == POLICY_ENTRY);
    not_kept(kept, || host.net.lacking_for_policies())
}

fn not_kept(kept: bool, lacking: impl FnOnce() -> Vec<String>) -> Option<Fault> {
    if kept {
        return None;
    }
    let what = "network policies are not enforced on this node: its pods are open to all";
    let lacking = lacking();
    let fault = match lacking.is_empty() {
        true => Fault::new(
            FaultCode::PoliciesNotKept,
            what,
            "their controller has not written its rules yet",
        )
        .fix("kubectl -n kube-system logs -l k8s-app=network-policies, if it persists"),
        false => Fault::new(
            FaultCode::PoliciesNotKept,
            what,
            format!("the kernel has no {}", lacking.join(", ")),
        )
        .fix("boot a kernel that has it, or set networkPolicies to off"),
    };
    Some(fault)
}

/// kubelet would not start with the policy on such a machine, so it is not set there.
fn pods_swap(node: &NodeSpec, cgroup_v1: bool) -> Option<Fault> {
    (node.kubelet.pods_swap && cgroup_v1).then(|| {
        let why = "kubelet allows it with control groups of version 2 only, and this machine has version 1";
        let fix = "boot with systemd.unified_cgroup_hierarchy=1, or set kubelet.podsSwap to false";
        Fault::new(FaultCode::CgroupV1NoSwap, "pods use no swap, although the cluster allows it", why).fix(fix)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Generation, Role};
    use crate::nodelet::job::{Hold, Work};
    use crate::nodelet::phase::samples;

    #[test]
    fn policies_that_are_not_kept_are_said_with_what_the_kernel_lacks() {
        let lacks = || {
            vec![
                "sets of addresses (hash:net)".to_owned(),
                "rules with set".into(),
            ]
        };
        assert_eq!(not_kept(true, lacks), None, "whatever it lacks");
        let said = not_kept(false, lacks).expect("said");
        assert_eq!(said.code, FaultCode::PoliciesNotKept);
        assert!(
            said.why
                .contains("no sets of addresses (hash:net), rules with set")
        );
        let soon = not_kept(false, Vec::new).expect("said");
        assert!(soon.why.contains("yet"), "{soon}");
    }

    #[test]
    fn a_pool_that_nobody_asks_for_here_is_said() {
        let node = samples::with_addons(samples::master("1.37.2")).node;
        let said = |nets: &[&str]| {
            let nets: Vec<IpNet> = nets.iter().map(|n| n.parse().expect("net")).collect();
            pool_elsewhere(&node, &nets).map(|f| f.why)
        };
        assert_eq!(said(&["127.0.0.0/8", "10.99.0.0/16"]), None);
        assert_eq!(said(&["10.99.0.0/24", "10.99.1.0/24"]), None);
        let why = said(&["10.99.0.0/24"]).expect("said");
        assert!(
            why.contains("10.99.1.0-10.99.1.15 is in no network"),
            "{why}"
        );
        assert!(why.contains("(10.99.0.0/24)"), "{why}");
        assert_eq!(pool_elsewhere(&samples::worker("1.37.2").node, &[]), None);
    }

    #[test]
    fn an_add_on_that_the_stack_lacks_is_said_and_one_that_is_optional_is_not() {
        let ctx = samples::with_addons(samples::master("1.37.2"));
        let (mut node, whole) = (ctx.node, ctx.manifest.expect("manifest"));
        assert_eq!(addons_lacking(&node, &whole), []);
        let bare = samples::manifest("1.37.2");
        let said = addons_lacking(&node, &bare);
        assert_eq!(said.len(), 1, "policies are kept where they can be");
        assert!(said[0].why.contains("no image of metallb-controller"));
        node.network.policies = crate::model::NetworkPolicies::On;
        assert_eq!(addons_lacking(&node, &bare).len(), 2);
    }

    #[tokio::test]
    async fn swap_that_pods_may_use_and_do_not_get_is_said() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = Host::new(HostFs::new(dir.path()));
        let fs = &host.fs;
        let said = async |pods_swap| {
            let mut node = samples::worker("1.37.2").node;
            node.kubelet.pods_swap = pods_swap;
            let work = Work {
                generation: Generation(1),
                role: Role::Worker,
                node: Arc::new(node),
            };
            let kept = Hold {
                generation: Generation(2),
                fault: Fault::new(FaultCode::Internal, "a", "b"),
                keeps: Some(work.clone()),
                wants_spec: false,
            };
            let mut codes = [const { Vec::new() }; 2];
            for (job, codes) in [Job::Node(work), Job::Hold(Box::new(kept))]
                .iter()
                .zip(&mut codes)
            {
                codes.extend(warnings(&host, job).await.into_iter().map(|f| f.code));
            }
            codes
        };
        let none = [const { Vec::new() }; 2];
        std::fs::create_dir_all(fs.at("/sys/fs/cgroup/memory")).expect("version 1");
        assert!(said(true).await[0].contains(&FaultCode::NoDns));
        let attrs = crate::host::fs::Attrs::mode(0o644);
        fs.write("/etc/resolv.conf", b"nameserver 10.0.0.1\n", &attrs)
            .expect("write");
        assert_eq!(
            said(true).await,
            [[FaultCode::CgroupV1NoSwap], [FaultCode::CgroupV1NoSwap]]
        );
        assert_eq!(said(false).await, none);
        // What a driver's registrar makes without a setting for the directory.
        let usual = fs.at("/var/lib/kubelet/plugins_registry");
        std::fs::create_dir_all(&usual).expect("directory");
        assert_eq!(said(false).await, none, "a directory says nothing");
        let socket = usual.join("driver.example.com-reg.sock");
        let registrar = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
        let csi = [FaultCode::CsiElsewhere];
        assert_eq!(said(false).await, [csi, csi]);
        drop(registrar);
        std::fs::remove_file(socket).expect("remove");
        std::fs::write(fs.at("/sys/fs/cgroup/cgroup.controllers"), "memory\n").expect("version 2");
        assert_eq!(said(true).await, none);
    }
}

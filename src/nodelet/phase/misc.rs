//! Kernel modules and parameters (order 75).

use crate::nodelet::step::Step;

use super::render::{PUBLIC, file};
use super::{PhaseContext, Steps, layout};

/// Modules by name. All are optional: a kernel that has the function built in knows no module of
/// that name, and one that lacks the function says so when it is used, in better words.
const MODULES: [&str; 3] = ["overlay", "br_netfilter", "nf_conntrack"];

/// Forwarding, the packet filter's view of bridged packets, and what kubelet would otherwise set
/// itself (`protectKernelDefaults`). A leading `-` in the file: no fault at boot where it is absent.
const SYSCTLS: [(&str, &str); 9] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.bridge.bridge-nf-call-iptables", "1"),
    ("net.bridge.bridge-nf-call-ip6tables", "1"),
    ("vm.overcommit_memory", "1"),
    ("vm.panic_on_oom", "0"),
    ("kernel.panic", "10"),
    ("kernel.panic_on_oops", "1"),
    ("kernel.keys.root_maxkeys", "1000000"),
    ("kernel.keys.root_maxbytes", "25000000"),
];

const V6_FORWARDING: (&str, &str) = ("net.ipv6.conf.all.forwarding", "1");

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    let mut steps = Vec::new();
    if ctx.facts.kernel_modules {
        let names: String = MODULES.iter().map(|m| format!("{m}\n")).collect();
        let text = format!("# Written by pf9-nodeletd; changes are undone.\n{names}");
        steps.push(file(layout::MODULES_FILE, text, PUBLIC));
    }
    steps.extend(MODULES.map(|name| Step::Module {
        name: name.into(),
        optional: true,
    }));
    let v6 = ctx.node.pod_cidr.addr().is_ipv6() || ctx.node.node_ip.is_ipv6();
    let values: Vec<_> = SYSCTLS
        .into_iter()
        .chain(v6.then_some(V6_FORWARDING))
        .collect();
    let lines: String = values
        .iter()
        .map(|(key, value)| format!("-{key} = {value}\n"))
        .collect();
    let text = format!("# Written by pf9-nodeletd; changes are undone.\n{lines}");
    steps.push(file(layout::SYSCTL_FILE, text, PUBLIC));
    steps.extend(values.into_iter().map(|(key, value)| Step::Sysctl {
        key: key.into(),
        value: value.into(),
    }));
    Ok(steps)
}

//! Steps in plain words: for the log, the status, `kube.log` and the dry run.

use super::step::{Probe, Step};
use crate::host::ours::units;
use crate::model::FaultCode;
use crate::os::Goal;

/// What is done, e.g. `write /etc/x`.
pub fn doing(step: &Step) -> String {
    match step {
        Step::File(f) => format!("write {}", f.path),
        Step::Dir(d) => format!("make directory {}", d.path),
        Step::Link { path, target } => format!("link {path} to {target}"),
        Step::Absent { path } => format!("remove {path}"),
        Step::Key { purpose } => format!("make the private key for {}", purpose.dir()),
        Step::ServiceAccountKey => "make the service-account key".into(),
        Step::Unpacked { stack } => format!("unpack stack {stack}"),
        Step::Tried(t) => format!("let {} read the configuration it is to run with", t.program),
        Step::EtcdDataReady { wants, .. } => format!("make etcd's data ready for etcd {wants}"),
        Step::Stack { stack } => format!("activate stack {stack}"),
        Step::Module { name, .. } => format!("load kernel module {name}"),
        Step::Sysctl { key, value } => format!("set kernel parameter {key} to {value}"),
        Step::Image { reference, .. } => format!("import image {reference}"),
        Step::Unit(u) => format!("start {}", u.unit),
        Step::Probe(p) => match &p.probe {
            // It is held back, not waited for.
            Probe::EtcdData { .. } => "start etcd".into(),
            Probe::RuntimeReady
            | Probe::RuntimeAsMeant { .. }
            | Probe::EtcdHealthy
            | Probe::KubeletHealthy
            | Probe::KubeProxyHealthy
            | Probe::ApiHealthy { .. }
            | Probe::StaticPodCurrent { .. }
            | Probe::NodeReady { .. }
            | Probe::SwapOff
            | Probe::PortFree { .. }
            | Probe::AnyPath { .. } => format!("wait until {}", asking(&p.probe)),
        },
        Step::Object { object } => {
            let text = |p: &str| object.pointer(p).and_then(|v| v.as_str()).unwrap_or("?");
            format!("apply {} {}", text("/kind"), text("/metadata/name"))
        }
        Step::AddonGone { addon, .. } => format!("take add-on {addon} away"),
        Step::Uncordon { node } => format!("make node {node} schedulable"),
        Step::Drain { node } => format!("move pods away from node {node}"),
        Step::EtcdMemberGone { .. } => "take this host's member out of etcd".into(),
        Step::EtcdJoined { .. } => "join the etcd of the other masters".into(),
        Step::EtcdFounds { .. } => "found etcd together with the other masters".into(),
        Step::EtcdAddress { .. } => "tell the others where this member of etcd is".into(),
        Step::EtcdNoted => "note what this member of etcd is".into(),
        Step::EtcdStack { stack } => format!("take etcd from stack {stack}"),
        Step::StackOnDisk { stack } => format!("see stack {stack} on the disk"),
        Step::EtcdMemberOut { .. } => "take members of hosts that are gone out of etcd".into(),
        Step::EtcdVotes { .. } => "catch up with etcd and get a vote in it".into(),
        Step::UnitGone { unit } => format!("stop and remove {unit}"),
        Step::ContainersGone => "end all containers and their mounts".into(),
        Step::NetworkGone { .. } => "remove pod network links and packet-filter chains".into(),
        Step::PodNetwork { .. } => "put rules and routes of the pod network back".into(),
        Step::HostPorts { .. } => "put ports of the machine that lead to pods back".into(),
        Step::TunnelledBy { ip } => format!("let flannel tunnel by {ip}"),
        Step::ProxyRules { .. } => "let kube-proxy write its rules anew".into(),
        Step::PolicyRulesGone => "remove what kept network policies".into(),
        Step::ProxyRulesGone { of } => format!("remove what kube-proxy left in {of}"),
        Step::OsUpdate { run } => match run.goal {
            Goal::Fetch => "have the distribution's updates fetched".into(),
            Goal::Install => "have the distribution's updates installed".into(),
        },
        Step::Reboot { .. } => "start the machine anew".into(),
    }
}

/// What is asked, e.g. `etcd is healthy`.
pub fn asking(probe: &Probe) -> String {
    match probe {
        Probe::RuntimeReady => "the container runtime answers".into(),
        Probe::RuntimeAsMeant { .. } => {
            "the container runtime says that it works by its configuration".into()
        }
        Probe::EtcdHealthy => "etcd is healthy".into(),
        Probe::EtcdData { .. } => "the data of etcd are where they should be".into(),
        Probe::KubeletHealthy => "kubelet is healthy".into(),
        Probe::KubeProxyHealthy => "kube-proxy is healthy".into(),
        Probe::ApiHealthy { url } => format!("the API server {url} is ready"),
        Probe::StaticPodCurrent { pod, .. } => format!("{pod} runs as its manifest says"),
        Probe::NodeReady { node } => format!("node {node} is Ready"),
        Probe::SwapOff => "swap is off".into(),
        Probe::PortFree { port, .. } => format!("port {port} is free"),
        Probe::AnyPath { package, .. } => format!("package {package} is installed"),
    }
}

/// The code of a failed step's fault, for programs.
pub fn code(step: &Step) -> FaultCode {
    match step {
        Step::File(_) | Step::Dir(_) | Step::Link { .. } | Step::Absent { .. } => FaultCode::File,
        Step::Key { .. } | Step::ServiceAccountKey => FaultCode::Key,
        Step::Unpacked { .. } | Step::Stack { .. } | Step::EtcdStack { .. } => FaultCode::Stack,
        Step::Tried(_) => FaultCode::ConfigRefused,
        Step::Module { .. } => FaultCode::KernelModule,
        Step::Sysctl { .. } => FaultCode::KernelParameter,
        Step::Image { .. } => FaultCode::Image,
        Step::Unit(_) => FaultCode::Unit,
        Step::Probe(p) => match &p.probe {
            Probe::RuntimeReady => FaultCode::RuntimeNotReady,
            Probe::RuntimeAsMeant { .. } => FaultCode::RuntimeNotAsMeant,
            Probe::EtcdHealthy => FaultCode::EtcdNotHealthy,
            Probe::EtcdData { .. } => FaultCode::EtcdData,
            Probe::KubeletHealthy => FaultCode::KubeletNotHealthy,
            Probe::KubeProxyHealthy => FaultCode::KubeProxyNotHealthy,
            Probe::ApiHealthy { .. } => FaultCode::ApiNotReady,
            Probe::StaticPodCurrent { .. } => FaultCode::StaticPodNotCurrent,
            Probe::NodeReady { .. } => FaultCode::NodeNotReady,
            Probe::SwapOff => FaultCode::SwapOn,
            Probe::PortFree { .. } => FaultCode::PortTaken,
            Probe::AnyPath { .. } => FaultCode::PackageMissing,
        },
        Step::Object { .. } | Step::AddonGone { .. } => FaultCode::Object,
        Step::Uncordon { .. } => FaultCode::Uncordon,
        Step::Drain { .. } => FaultCode::Drain,
        Step::EtcdMemberGone { .. } => FaultCode::EtcdMemberLeft,
        Step::EtcdDataReady { .. } => FaultCode::EtcdNotPrepared,
        Step::EtcdJoined { .. } | Step::EtcdFounds { .. } => FaultCode::EtcdNotJoined,
        Step::EtcdNoted => FaultCode::State,
        Step::EtcdAddress { .. } => FaultCode::EtcdElsewhere,
        Step::StackOnDisk { .. } => FaultCode::StackIo,
        Step::EtcdMemberOut { .. } => FaultCode::EtcdMemberStays,
        Step::EtcdVotes { .. } => FaultCode::EtcdNoVote,
        Step::UnitGone { .. } => FaultCode::UnitRemoval,
        Step::ContainersGone => FaultCode::ContainersLeft,
        Step::NetworkGone { .. } => FaultCode::NetworkLeft,
        Step::PodNetwork { .. } | Step::HostPorts { .. } | Step::TunnelledBy { .. } => {
            FaultCode::PodNetworkRules
        }
        Step::ProxyRules { .. } => FaultCode::ProxyRulesLost,
        Step::PolicyRulesGone => FaultCode::PolicyRulesLeft,
        Step::ProxyRulesGone { .. } => FaultCode::ProxyRulesLeft,
        Step::OsUpdate { .. } | Step::Reboot { .. } => FaultCode::OsUpdateFailed,
    }
}

/// What a person can do about a failed step; empty when trying again is all there is.
pub fn remedy(step: &Step) -> String {
    match step {
        Step::Probe(p) => match &p.probe {
            Probe::SwapOff => "turn swap off (swapoff -a; and where it comes from at boot: /etc/fstab, or \
                               for /dev/zram* /etc/systemd/zram-generator.conf or the package zram-tools), or \
                               allow it in the cluster's settings"
                .into(),
            Probe::PortFree { .. } => "stop what uses it".into(),
            Probe::AnyPath { package, .. } => format!("install package {package}"),
            Probe::EtcdData { held } => held.fix.clone(),
            Probe::RuntimeReady
            | Probe::RuntimeAsMeant { .. }
            | Probe::EtcdHealthy
            | Probe::KubeletHealthy
            | Probe::StaticPodCurrent { .. }
            | Probe::NodeReady { .. }
            | Probe::KubeProxyHealthy => log_of(step).map(see).unwrap_or_default(),
            Probe::ApiHealthy { .. } => {
                "see the API server's log in /var/log/pods, or on a worker whether the master is up"
                    .into()
            }
        },
        Step::Unit(_) | Step::EtcdVotes { .. } | Step::OsUpdate { .. } => log_of(step).map(see).unwrap_or_default(),
        Step::EtcdMemberGone { member, .. } => format!(
            "on another master: etcdctl member list, then etcdctl member remove with the ID of {}",
            member.host_id
        ),
        Step::EtcdJoined { .. } | Step::EtcdFounds { .. } => {
            "see whether etcd on the other masters is healthy; one that will \
                                    not come back is to be detached"
                .into()
        }
        Step::PodNetwork { .. } | Step::HostPorts { .. } | Step::ProxyRules { .. } => {
            "look for another program that flushes the packet filter or drops routes".into()
        }
        Step::ProxyRulesGone { .. } => {
            "look for another program that runs kube-proxy on this machine".into()
        }
        Step::EtcdMemberOut { .. } | Step::EtcdAddress { .. } => {
            "see whether etcd is healthy on every master that is there".into()
        }
        Step::File(_)
        | Step::Dir(_)
        | Step::Link { .. }
        | Step::Absent { .. }
        | Step::Key { .. }
        | Step::ServiceAccountKey
        | Step::Unpacked { .. }
        | Step::Tried(_)
        | Step::EtcdDataReady { .. }
        | Step::Stack { .. }
        | Step::Module { .. }
        | Step::Sysctl { .. }
        | Step::Image { .. }
        | Step::Object { .. }
        | Step::AddonGone { .. }
        | Step::Uncordon { .. }
        | Step::Drain { .. }
        | Step::TunnelledBy { .. }
        | Step::EtcdNoted
        | Step::EtcdStack { .. }
        | Step::StackOnDisk { .. }
        | Step::UnitGone { .. }
        | Step::ContainersGone
        | Step::PolicyRulesGone
        | Step::Reboot { .. }
        | Step::NetworkGone { .. } => String::new(),
    }
}

/// The unit whose log may tell why a step was not done.
pub fn log_of(step: &Step) -> Option<&str> {
    match step {
        Step::Unit(u) => Some(&u.unit),
        Step::EtcdVotes { .. } => Some(units::ETCD),
        Step::ProxyRules { .. } | Step::ProxyRulesGone { .. } => Some(units::KUBE_PROXY),
        Step::PodNetwork { .. } | Step::Reboot { .. } => None,
        Step::OsUpdate { .. } => Some(units::OS_UPDATE),
        Step::Probe(p) => match &p.probe {
            Probe::RuntimeReady | Probe::RuntimeAsMeant { .. } => Some(units::CONTAINERD),
            Probe::EtcdHealthy => Some(units::ETCD),
            Probe::EtcdData { .. } => None,
            Probe::KubeletHealthy | Probe::StaticPodCurrent { .. } | Probe::NodeReady { .. } => {
                Some(units::KUBELET)
            }
            Probe::KubeProxyHealthy => Some(units::KUBE_PROXY),
            Probe::ApiHealthy { .. }
            | Probe::SwapOff
            | Probe::PortFree { .. }
            | Probe::AnyPath { .. } => None,
        },
        Step::File(_)
        | Step::Dir(_)
        | Step::Link { .. }
        | Step::Absent { .. }
        | Step::Key { .. }
        | Step::ServiceAccountKey
        | Step::Unpacked { .. }
        | Step::Tried(_)
        | Step::EtcdDataReady { .. }
        | Step::Stack { .. }
        | Step::Module { .. }
        | Step::Sysctl { .. }
        | Step::Image { .. }
        | Step::Object { .. }
        | Step::AddonGone { .. }
        | Step::Uncordon { .. }
        | Step::Drain { .. }
        | Step::EtcdMemberGone { .. }
        | Step::EtcdJoined { .. }
        | Step::EtcdFounds { .. }
        | Step::EtcdNoted
        | Step::EtcdStack { .. }
        | Step::StackOnDisk { .. }
        | Step::EtcdMemberOut { .. }
        | Step::EtcdAddress { .. }
        | Step::HostPorts { .. }
        | Step::TunnelledBy { .. }
        | Step::UnitGone { .. }
        | Step::ContainersGone
        | Step::PolicyRulesGone
        | Step::NetworkGone { .. } => None,
    }
}

fn see(unit: &str) -> String {
    format!("see journalctl -u {unit}")
}

//! Steps in plain words: for the log, the status, `kube.log` and the dry run.

use super::step::{DirStep, FileStep, Probe, Step};
use crate::host::ours::units;
use crate::model::{ADDON_LABEL, FaultCode};
use crate::os::OsGoal;

/// What is done, e.g. `write /etc/x`.
pub fn doing(step: &Step) -> String {
    match step {
        Step::File(f) => format!("write {}", f.path),
        Step::Dir(d) => format!("make directory {}", d.path),
        Step::Link { path, target } => format!("link {path} to {target}"),
        Step::Absent { path } => format!("remove {path}"),
        Step::Key { purpose } => format!("generate the private key for {}", purpose.dir()),
        Step::ServiceAccountKey => "generate the service-account key".into(),
        Step::Unpacked { stack } => format!("unpack stack {stack}"),
        Step::Tried(t) => format!("have {} validate its new configuration", t.program),
        Step::EtcdDataReady { wants, .. } => format!("prepare etcd's data for etcd {wants}"),
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
            let said = format!("apply {} {}", text("/kind"), text("/metadata/name"));
            match object["metadata"]["labels"][ADDON_LABEL].as_str() {
                Some(addon) => format!("{said} of add-on {addon}"),
                None => said,
            }
        }
        Step::AddonGone { addon, .. } => format!("remove add-on {addon}"),
        Step::Uncordon { node } => format!("uncordon node {node}"),
        Step::Drain { node } => format!("drain node {node}"),
        Step::EtcdMemberGone { .. } => "remove this host's member from etcd".into(),
        Step::EtcdJoined { .. } => "join the etcd of the other masters".into(),
        Step::EtcdFounds { .. } => "bootstrap etcd with the other masters".into(),
        Step::EtcdAddress { .. } => "update this member's address in etcd".into(),
        Step::EtcdNoted => "record which member of etcd this is".into(),
        Step::EtcdStack { stack } => format!("take etcd from stack {stack}"),
        Step::StackOnDisk { stack } => format!("sync stack {stack} to disk"),
        Step::EtcdMemberOut { .. } => "remove etcd members of hosts that are gone".into(),
        Step::EtcdVotes { .. } => "promote this etcd member from learner to voter".into(),
        Step::UnitGone { unit } => format!("stop and remove {unit}"),
        Step::ContainersGone => "stop all containers and unmount their file systems".into(),
        Step::NetworkGone { .. } => "remove pod network links and packet-filter chains".into(),
        Step::PodNetwork { .. } => "restore rules and routes of the pod network".into(),
        Step::HostPorts { .. } => "restore host ports of pods".into(),
        Step::TunnelledBy { ip } => format!("have flannel tunnel over {ip}"),
        Step::ProxyRules { .. } => "have kube-proxy rewrite its rules".into(),
        Step::PolicyRulesGone => "remove rules of network policies".into(),
        Step::ProxyRulesGone { of } => format!("remove rules that kube-proxy left in {of}"),
        Step::OsUpdate { run } => match run.goal {
            OsGoal::Fetch => "download the distribution's updates".into(),
            OsGoal::Install => "install the distribution's updates".into(),
        },
        Step::Reboot { .. } => "reboot the machine".into(),
    }
}

/// What is asked, e.g. `etcd is healthy`.
pub fn asking(probe: &Probe) -> String {
    match probe {
        Probe::RuntimeReady => "the container runtime answers".into(),
        Probe::RuntimeAsMeant { .. } => {
            "the container runtime reports the configured settings".into()
        }
        Probe::EtcdHealthy => "etcd is healthy".into(),
        Probe::EtcdData { .. } => "etcd's data are in place".into(),
        Probe::KubeletHealthy => "kubelet is healthy".into(),
        Probe::KubeProxyHealthy => "kube-proxy is healthy".into(),
        Probe::ApiHealthy { url } => format!("the API server {url} is ready"),
        Probe::StaticPodCurrent { pod, .. } => format!("{pod} matches its manifest"),
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
                "read the API server's log in /var/log/pods; on a worker check that the master is up"
                    .into()
            }
        },
        Step::Unit(_) | Step::EtcdVotes { .. } | Step::OsUpdate { .. } => log_of(step).map(see).unwrap_or_default(),
        Step::EtcdMemberGone { member, .. } => format!(
            "on another master: etcdctl member list, then etcdctl member remove with the ID of {}",
            member.host_id
        ),
        Step::EtcdJoined { .. } | Step::EtcdFounds { .. } => {
            "check that etcd is healthy on the other masters; detach one that will not come back"
                .into()
        }
        Step::PodNetwork { .. } | Step::HostPorts { .. } | Step::ProxyRules { .. } => {
            "find the program that flushes the packet filter or drops routes".into()
        }
        Step::ProxyRulesGone { .. } => {
            "find the other program that runs kube-proxy on this machine".into()
        }
        Step::EtcdMemberOut { .. } | Step::EtcdAddress { .. } => {
            "check that etcd is healthy on every master".into()
        }
        Step::File(FileStep { path, .. })
        | Step::Dir(DirStep { path, .. })
        | Step::Link { path, .. }
        | Step::Absent { path } => {
            format!("check {path} (ls -ld, findmnt -T, dmesg); it is retried automatically")
        }
        Step::Key { .. }
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

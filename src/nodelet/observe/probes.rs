//! Probes. Each is asked once; the runner does the waiting.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Sweep, differs};
use crate::host::fs::Found;
use crate::host::ours::{ports, processes};
use crate::host::runtime::cri;
use crate::nodelet::step::{Observed, Probe};
use crate::telemetry::chain;

/// Compares what the runtime says of itself with what was meant; names the first that is otherwise.
fn as_meant(meant: &BTreeMap<String, Value>, says: &cri::Status) -> Result<(), String> {
    // A pod network that is not there yet is kubelet's to tell.
    match says.condition("RuntimeReady") {
        Some(ready) if ready.holds => {}
        Some(ready) => return Err(format!("it is not ready: {}", ready.message)),
        None => return Err("it does not report whether it is ready".into()),
    }
    let config = says
        .info
        .get("config")
        .map(String::as_str)
        .unwrap_or_default();
    let config: Value = serde_json::from_str(config)
        .map_err(|e| format!("the configuration it reports cannot be parsed: {e}"))?;
    for (pointer, meant) in meant {
        match config.pointer(pointer) {
            Some(is) if is == meant => {}
            Some(is) => return Err(format!("its {pointer} is {is}, not {meant}")),
            None => {
                return Err(format!(
                    "it does not report {pointer}, which should be {meant}"
                ));
            }
        }
    }
    Ok(())
}

impl Sweep<'_> {
    pub(super) async fn probe(&mut self, probe: &Probe) -> Observed {
        let verdict = match probe {
            Probe::RuntimeReady => self.images().await.map(drop),
            Probe::RuntimeAsMeant { meant } => match self.host.runtime.says().await {
                Ok(says) => as_meant(meant, &says),
                Err(e) => Err(chain(&e)),
            },
            Probe::EtcdHealthy => self.etcd().await,
            // What phases got from the look before.
            Probe::EtcdData { held } => Err(held.why.clone()),
            Probe::KubeletHealthy => self.memory.peers.healthz(ports::KUBELET_HEALTH).await,
            Probe::KubeProxyHealthy => self.memory.peers.healthz(ports::KUBE_PROXY_HEALTH).await,
            Probe::ApiHealthy { .. } => self.api().await,
            Probe::StaticPodCurrent { pod, inputs } => return self.static_pod(pod, inputs).await,
            Probe::NodeReady { node } => return self.node_ready(node).await,
            Probe::SwapOff => match self.host.kernel.swaps() {
                Ok(on) if on.is_empty() => Ok(()),
                Ok(on) => Err(format!("swap is on: {}", on.join(", "))),
                Err(e) => return Observed::Unknown { why: chain(&e) },
            },
            Probe::PortFree { port, unit } => self.port_free(*port, unit),
            Probe::AnyPath { package, paths } => {
                let there = |p: &String| !matches!(self.host.fs.found(p), Ok(Found::Nothing));
                if paths.iter().any(there) {
                    Ok(())
                } else {
                    Err(format!(
                        "none of {} is there; install package {package}",
                        paths.join(", ")
                    ))
                }
            }
        };
        match verdict {
            Ok(()) => Observed::Same,
            Err(how) => differs(&how),
        }
    }

    async fn etcd(&mut self) -> Result<(), String> {
        let fs = &self.host.fs;
        let etcd = self.memory.peers.etcd(fs, &self.ctx.node)?;
        etcd.healthy().await.map_err(|e| e.to_string())
    }

    /// The API server's verdict, asked once a sweep: when it does not answer, nothing else is
    /// asked of it.
    pub(super) async fn api(&mut self) -> Result<(), String> {
        if let Some(known) = &self.api {
            return known.clone();
        }
        let fs = &self.host.fs;
        let asked = match self.memory.peers.kube(fs, self.ctx.role, &self.ctx.node) {
            Ok(kube) => kube.ready().await.map_err(|e| e.to_string()),
            Err(why) => Err(why),
        };
        self.api.insert(asked).clone()
    }

    fn port_free(&self, port: u16, unit: &str) -> Result<(), String> {
        if self.units.get(unit).is_some_and(|u| u.active.is_up()) {
            return Ok(());
        }
        let held = self.host.proc.listeners(|p| p == port);
        // One of our own services or containers may hold it, perhaps of an earlier start.
        let ours = |holder: &processes::Process| processes::process(holder).is_some();
        let foreign = held
            .into_iter()
            .find(|l| !l.holder.as_ref().is_some_and(ours));
        let Some(foreign) = foreign else {
            return Ok(());
        };
        let who = match foreign.holder {
            Some(holder) => holder.to_string(),
            None => "a process of another namespace".to_owned(),
        };
        Err(format!(
            "port {port} is taken by {who}; stop it, or choose another port"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::runtime::cri::{Condition, Status};
    use crate::model::PhaseId;
    use crate::nodelet::phase::{self, samples};
    use crate::nodelet::step::Step;

    /// The status of a runtime with the configuration of `samples`.
    fn says(config: &str, holds: bool) -> Status {
        let condition = Condition {
            kind: "RuntimeReady".into(),
            holds,
            message: "still loading".into(),
        };
        Status {
            conditions: vec![condition],
            info: [("config".to_owned(), config.to_owned())].into(),
        }
    }

    #[test]
    fn a_runtime_that_works_by_something_else_is_named_with_the_setting() {
        let ctx = samples::ordinary(samples::worker("1.37.2"));
        let steps = phase::steps(PhaseId::RuntimeStart, &ctx).expect("steps");
        let meant = steps.into_iter().find_map(|s| match s {
            Step::Probe(p) => match p.probe {
                Probe::RuntimeAsMeant { meant } => Some(meant),
                _ => None,
            },
            _ => None,
        });
        let meant = meant.expect("it is asked after the start");
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/containerd/2.4/cri-config.json");
        let real = std::fs::read_to_string(golden).expect("what it says");
        as_meant(&meant, &says(&real, true)).expect("what 2.4.2 says with our file");
        let lost = real.replace(phase::layout::CNI_BIN, "/opt/cni/bin");
        assert_ne!(lost, real);
        let why = as_meant(&meant, &says(&lost, true)).expect_err("another directory");
        assert!(
            why.contains("/cni/binDirs") && why.contains("/opt/cni/bin"),
            "{why}"
        );
        let why = as_meant(&meant, &says("{}", true)).expect_err("nothing");
        assert!(why.contains("does not report"), "{why}");
        let why = as_meant(&meant, &says(&real, false)).expect_err("not ready");
        assert!(why.contains("still loading"), "{why}");
        as_meant(&meant, &Status::default()).expect_err("no condition");
    }
}

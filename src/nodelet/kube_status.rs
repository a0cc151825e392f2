//! `/var/opt/pf9/kube_status`: JSON with the keys that operators' tools know. Written only when
//! something in it but its time stamp changed.

use serde_json::{Value, json};

use crate::host::fs::{Attrs, HostFs};
use crate::model::{NodeState, NodeStatus, PhaseState, Timestamp, paths};

/// The file, and what it says.
pub struct KubeStatusFile {
    fs: HostFs,
    written: Option<Value>,
    failed: Option<(String, Timestamp)>,
}

impl KubeStatusFile {
    /// The file of this host; what an earlier life wrote is rewritten once.
    pub fn new(fs: HostFs) -> Self {
        Self {
            fs,
            written: None,
            failed: None,
        }
    }

    /// Writes what changed.
    pub fn update(&mut self, status: &NodeStatus) {
        let now = crate::seam::clock::now();
        let failed = status
            .phases
            .iter()
            .find(|p| p.state == PhaseState::Failed)
            .map(|p| p.name.clone());
        if let Some(name) = failed
            && self.failed.as_ref().is_none_or(|(n, _)| *n != name)
        {
            self.failed = Some((name, now));
        }
        let body = render(status, self.failed.as_ref());
        if self.written.as_ref() == Some(&body) {
            return;
        }
        let mut dated = body.clone();
        dated["status_check_timestamp"] = json!(now.as_second());
        let text = format!("{dated:#}\n");
        let attrs = Attrs::mode(0o644);
        match self.fs.write(paths::KUBE_STATUS, text.as_bytes(), &attrs) {
            Ok(()) => self.written = Some(body),
            // For other tools only; tried again with the next change.
            Err(e) => tracing::warn!(error = %crate::telemetry::chain(&e), "kube_status"),
        }
    }

    /// Takes the file away.
    pub fn remove(&mut self) {
        self.written = None;
        if let Err(e) = self.fs.remove_file(paths::KUBE_STATUS) {
            tracing::warn!(error = %crate::telemetry::chain(&e), "kube_status");
        }
    }
}

fn render(status: &NodeStatus, failed: Option<&(String, Timestamp)>) -> Value {
    let names = |keep: fn(PhaseState) -> bool| -> Vec<&str> {
        status
            .phases
            .iter()
            .filter(|p| keep(p.state))
            .map(|p| p.name.as_str())
            .collect()
    };
    let current = names(|s| s == PhaseState::Executing);
    let current = current.first().copied().unwrap_or("");
    let all = names(|_| true);
    let failed_name = failed.map_or("", |(name, _)| name.as_str());
    let up = status.state == NodeState::Ok && status.cluster_id.is_some();
    json!({
        "pf9_kube_service_state": up.to_string(),
        "pf9_kube_node_state": status.state.as_str(),
        "pf9_kube_start_attempt": status.attempts,
        "pf9_cluster_id": status.cluster_id.map(|c| c.to_string()).unwrap_or_default(),
        "pf9_cluster_role": status.role.as_str(),
        "all_status_checks": all,
        "all_tasks": all,
        "completed_tasks": names(|s| s == PhaseState::Running),
        "current_status_check": "",
        "current_task": current,
        "last_failed_status_check": failed_name,
        "last_failed_task": failed_name,
        "last_failed_status_time": failed.map_or(0, |(_, at)| at.as_second()),
        "status_check_timestamp": 0,
    })
}

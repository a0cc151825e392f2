//! What guards the machine, and what the kernel gives away.

use super::facts::{Limits, SeLinux};
use super::{Finding, MachineFacts, Thresholds};

pub(super) fn selinux(facts: &MachineFacts) -> Finding {
    let found = match facts.selinux {
        SeLinux::Absent => "not there",
        SeLinux::Permissive => "permissive",
        SeLinux::Enforcing => "enforcing",
    };
    Finding::new(found, "any: the agent works with each")
}

pub(super) fn apparmor(facts: &MachineFacts) -> Finding {
    let found = if facts.apparmor { "there" } else { "not there" };
    Finding::new(found, "any: the agent works with each")
}

pub(super) fn limits(facts: &MachineFacts) -> Finding {
    let wanted = facts.limits.rows();
    let wanted = wanted.map(|(key, _, want)| format!("{key} ≥ {want}"));
    let low = facts.limits.too_low();
    let said: Vec<String> = low
        .iter()
        .map(|(k, have, _)| format!("{k} is {have}"))
        .collect();
    let found = match said.as_slice() {
        [] => "enough of each".to_owned(),
        some => some.join("; "),
    };
    let finding = Finding::new(found, wanted.join(", "));
    if low.is_empty() {
        return finding;
    }
    let set: Vec<String> = low.iter().map(|(k, _, w)| format!("{k}={w}")).collect();
    finding.warn(
        "pods, their logs and their watches use them up",
        format!("sysctl -w {}, and the same in /etc/sysctl.d", set.join(" ")),
    )
}

impl Limits {
    /// Each with its key, what there is, and what should be.
    fn rows(self) -> [(&'static str, Option<u64>, u64); 4] {
        let least = &Thresholds::ours().limits;
        [
            ("kernel.pid_max", self.pid_max, least.pid_max_least),
            ("fs.file-max", self.file_max, least.file_max_good),
            (
                "fs.inotify.max_user_instances",
                self.inotify_instances,
                least.inotify_instances_good,
            ),
            (
                "fs.inotify.max_user_watches",
                self.inotify_watches,
                least.inotify_watches_good,
            ),
        ]
    }

    /// Those that give too little away: key, what there is, what should be.
    pub fn too_low(self) -> Vec<(&'static str, u64, u64)> {
        let rows = self.rows().into_iter();
        rows.filter_map(|(key, have, want)| Some((key, have.filter(|h| *h < want)?, want)))
            .collect()
    }
}

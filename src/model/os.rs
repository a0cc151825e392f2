//! The updates of a node's own distribution: what is ordered, and what came of it.
//!
//! An order says when, how long, and whether the machine may be restarted; never which program, which package or which
//! argument: those are the node's own, in `crate::os`. A report is numbers: what is installed on a machine concerns its
//! owner only.

use serde::{Deserialize, Serialize};

/// Seconds that one run of the package manager may take: less than a minute fetches nothing, and what takes
/// longer than two hours does not end.
const WITHIN_S: std::ops::RangeInclusive<u32> = 60..=7200;
/// Hundreds of packages on a slow disk, behind a slow line.
const DEFAULT_WITHIN_S: u32 = 3600;

/// How the distribution's updates are brought in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsOrder {
    /// Whether the machine may be restarted for them.
    #[serde(default)]
    pub reboot: OsReboot,
    /// Seconds that one run of the package manager may take.
    #[serde(default = "default_within_s")]
    pub within_s: u32,
}

/// Whether the machine may be restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OsReboot {
    /// Where it says that it needs to be.
    #[default]
    WhenNeeded,
    /// Not for this: what it says is in the report.
    Never,
}

/// What the package manager found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsReport {
    /// Packages that had an update, or come along with one.
    pub available: u32,
    /// Those of them that mend a security fault, as far as the distribution says so.
    pub security: u32,
    /// Packages that were brought in.
    pub updated: u32,
    /// Packages that have an update and stay what they are: held by a person, or by what they would take away.
    pub held: u32,
    /// The machine says that it has to be restarted.
    pub reboot_needed: bool,
    /// It was, for this.
    pub rebooted: bool,
}

impl Default for OsOrder {
    fn default() -> Self {
        Self {
            reboot: OsReboot::default(),
            within_s: DEFAULT_WITHIN_S,
        }
    }
}

impl OsOrder {
    /// What is wrong with it: the field, and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let (least, most) = (WITHIN_S.start(), WITHIN_S.end());
        let why = || format!("{} s, between {least} and {most}", self.within_s);
        (!WITHIN_S.contains(&self.within_s)).then(|| ("os.within_s", why()))
    }

    /// The machine has to restart after this.
    pub fn restarts(&self, report: &OsReport) -> bool {
        match self.reboot {
            OsReboot::WhenNeeded => report.reboot_needed,
            OsReboot::Never => false,
        }
    }
}

impl OsReport {
    /// In words, for people.
    pub fn words(&self) -> String {
        let reboot = match (self.rebooted, self.reboot_needed) {
            (_, true) => ", a reboot is needed",
            (true, false) => ", the machine was rebooted",
            (false, false) => "",
        };
        let held = match self.held {
            0 => String::new(),
            n => format!(", {n} held back"),
        };
        let (updated, available, security) = (self.updated, self.available, self.security);
        format!("{updated} of {available} packages updated ({security} for security){held}{reboot}")
    }
}

fn default_within_s() -> u32 {
    DEFAULT_WITHIN_S
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_a_bound() {
        for (within_s, good) in [(59, false), (60, true), (7200, true), (7201, false)] {
            let order = OsOrder {
                within_s,
                ..OsOrder::default()
            };
            assert_eq!(order.fault().is_none(), good, "{within_s}");
        }
    }

    #[test]
    fn a_machine_is_restarted_when_it_says_so_and_may_be() {
        let says = |reboot_needed| OsReport {
            reboot_needed,
            ..OsReport::default()
        };
        let may = OsOrder::default();
        let never = OsOrder {
            reboot: OsReboot::Never,
            ..may
        };
        assert!(may.restarts(&says(true)) && !may.restarts(&says(false)));
        assert!(!never.restarts(&says(true)));
    }
}

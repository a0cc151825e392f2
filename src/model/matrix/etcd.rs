//! Which etcd may continue with the data of which other version, in place, and restore its backups. By versions alone;
//! what else the data has to show is named ([`EtcdDemand`]) and checked by the holder of the data.

use semver::{Version, VersionReq};
use serde::Deserialize;

use super::{Matrix, loose_version, minor_of};
use crate::model::{Fault, FaultCode};

/// A step from some releases to the minor that may follow.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EtcdStep {
    from: VersionReq,
    to: String,
    data: EtcdDemand,
    why: String,
    pub(super) source: String,
}

/// Versions that may restore the backups of a minor.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EtcdRestore {
    of: String,
    by: Vec<String>,
}

/// What the data themselves have to show before the next etcd may have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EtcdDemand {
    /// The database remembers the members, with a vote or as learners, that the log counts.
    MembersAgree,
    /// No entry of the old kind is left in the log after the newest snapshot of it.
    LogReadable,
    /// They were brought down to the older minor before, by etcd's own procedure.
    Lowered,
}

/// How one etcd comes to the data of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtcdWay {
    /// They are of one minor: there is nothing to look at.
    Same,
    /// By one step, when the data show this.
    Step(EtcdDemand),
}

impl Matrix {
    /// Whether `to` may go on with the data that `from` had.
    pub fn etcd_way(&self, from: &Version, to: &Version) -> Result<EtcdWay, Box<Fault>> {
        let minor = minor_of(to);
        if minor_of(from) == minor {
            return Ok(EtcdWay::Same);
        }
        let mut rows = self.etcd_step.iter().filter(|row| row.to == minor);
        if let Some(row) = rows.clone().find(|row| row.from.matches(from)) {
            return Ok(EtcdWay::Step(row.data));
        }
        // A later release of the same minor may do it.
        let later = rows.find(|row| row.from.matches(&newest_of(from)));
        let (why, fix) = match later {
            Some(row) => (
                format!(
                    "etcd {minor} may follow {}: {} ({})",
                    row.from, row.why, row.source
                ),
                format!(
                    "first use a stack with a newer etcd {}, and wait until every master is ok with it",
                    minor_of(from)
                ),
            ),
            None => self.no_step(from, to),
        };
        Err(refuse(
            FaultCode::EtcdStepUnfit,
            format!("etcd {to} may not follow etcd {}", shown(from)),
            why,
            fix,
        ))
    }

    /// No row allows it: the next minor on the way, or a backup.
    fn no_step(&self, from: &Version, to: &Version) -> (String, String) {
        let next = if to > from {
            self.next(from, |a, b| a > b)
        } else {
            self.next(from, |a, b| a < b)
        };
        let why = "etcd goes from one minor to the next, and no step is known from here to there";
        let fix = match next.filter(|next| (*next > *from) == (*to > *next)) {
            Some(next) => format!(
                "upgrade through a stack with etcd {} first, and wait until every master is ok with it",
                minor_of(&next)
            ),
            None => format!(
                "use a stack with etcd {}; a cluster on another etcd is created from a backup that \
                 it can restore",
                minor_of(from)
            ),
        };
        (why.to_owned(), fix)
    }

    /// The minor that a row leads to from here, if it lies that way.
    fn next(&self, from: &Version, lies: fn(&Version, &Version) -> bool) -> Option<Version> {
        let newest = newest_of(from);
        self.etcd_step
            .iter()
            .filter(|row| row.from.matches(&newest))
            .filter_map(|row| loose_version(&row.to))
            .find(|to| lies(to, from))
    }

    /// Whether `by` may restore a backup with data of `of`: of the etcd that made it or, where the data
    /// were lowered then, of the lower one.
    pub fn etcd_restores(&self, of: &Version, by: &Version) -> Result<(), Box<Fault>> {
        let minor = minor_of(of);
        let row = self.etcd_restore.iter().find(|row| row.of == minor);
        let (why, fix) = match row {
            Some(row) if row.by.contains(&minor_of(by)) => return Ok(()),
            Some(row) => (
                format!(
                    "a backup of etcd {minor} is restored by etcd {}; another one may accept it \
                     and then not start",
                    row.by.join(", ")
                ),
                format!(
                    "use a stack with etcd {}, or an older backup",
                    row.by.join(" or ")
                ),
            ),
            None => (
                format!("no test restored a backup of etcd {minor}"),
                "choose another backup, or a release that knows this etcd".to_owned(),
            ),
        };
        Err(refuse(
            FaultCode::EtcdRestoreUnfit,
            format!("etcd {by} may not restore a backup of etcd {of}"),
            why,
            fix,
        ))
    }

    /// What the README says of both.
    pub(super) fn etcd_table(&self) -> Vec<String> {
        let mut lines = vec![
            "\nWhich etcd can use the data of which (within a minor each may follow each; other \
             steps are refused):\n"
                .to_owned(),
            "| from | to | when |".to_owned(),
            "|---|---|---|".to_owned(),
        ];
        lines.extend(self.etcd_step.iter().map(|row| {
            format!(
                "| etcd {} | {} | {} ([source]({})) |",
                row.from,
                row.to,
                row.data.words(),
                row.source
            )
        }));
        lines.push("\nWhich etcd can restore the backups of which:\n".to_owned());
        let restores = self.etcd_restore.iter();
        lines.extend(restores.map(|row| format!("* of {}: {}", row.of, row.by.join(", "))));
        lines
    }
}

impl EtcdDemand {
    /// What the data show then, as text.
    pub fn words(self) -> &'static str {
        match self {
            Self::MembersAgree => {
                "the database records the members, and their votes, as in the log"
            }
            Self::LogReadable => {
                "no entry specific to 3.5 is left in the log after its newest snapshot, which \
                 nodelet makes if it is missing"
            }
            Self::Lowered => "the data were downgraded by etcd's own procedure, which nodelet runs",
        }
    }
}

/// The release, or the minor where only that is known.
fn shown(version: &Version) -> String {
    if version.patch == u64::MAX {
        minor_of(version)
    } else {
        version.to_string()
    }
}

/// The last release that this minor could have.
pub fn newest_of(version: &Version) -> Version {
    Version::new(version.major, version.minor, u64::MAX)
}

fn refuse(code: FaultCode, what: String, why: String, fix: String) -> Box<Fault> {
    Box::new(Fault::new(code, what, why).fix(fix))
}

#[cfg(test)]
mod tests;

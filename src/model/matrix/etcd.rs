//! Which etcd may restore the backups of which.

use semver::Version;
use serde::Deserialize;

use super::{Matrix, minor_of};
use crate::model::{Fault, FaultCode};

/// Who may restore the backups of a minor.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EtcdRestore {
    of: String,
    by: Vec<String>,
}

impl Matrix {
    /// Whether `by` may restore a backup with data of `of`: of the etcd that made it or, where the data
    /// were lowered then, of the lower one.
    pub fn etcd_restores(&self, of: &Version, by: &Version) -> Result<(), Box<Fault>> {
        let minor = minor_of(of);
        let row = self.etcd_restore.iter().find(|row| row.of == minor);
        let (why, fix) = match row {
            Some(row) if row.by.contains(&minor_of(by)) => return Ok(()),
            Some(row) => (
                format!(
                    "a backup of etcd {minor} is restored by etcd {}; another one may take it and \
                     then not start",
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
        let what = format!("etcd {by} may not restore a backup of etcd {of}");
        let fault = Fault::new(FaultCode::EtcdRestoreUnfit, what, why).fix(fix);
        Err(Box::new(fault))
    }
}

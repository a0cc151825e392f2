//! Whether a snapshot may be restored here: pure, from what was seen of it and of the machine. Asked
//! before anything is made, stopped or moved.

use std::path::Path;

use semver::Version;

use super::snapshot::Content;
use crate::host::space::{self, Space};
use crate::model::{ClusterId, Fault, FaultCode, Matrix};

/// etcd makes its log in pieces of this size, before it writes a word into it.
const LOG_PIECE: u64 = 64 * 1000 * 1000;
/// The release whose databases do not say which one wrote them. Those before it are restored alike.
const SAYS_NOTHING: Version = Version::new(3, 5, 0);

/// What was seen.
#[derive(Clone, Debug)]
pub struct SnapshotFacts<'a> {
    /// What is in the snapshot.
    pub content: &'a Content,
    /// The release of the programs that are to have it.
    pub etcd: &'a Version,
    /// Whose it is, where something says that.
    pub of: Option<ClusterId>,
    /// Whose it has to be.
    pub here: ClusterId,
    /// It may be another cluster's.
    pub any_cluster: bool,
    /// Nobody has to vouch for it.
    pub unsigned: bool,
    /// Room where the new data are made.
    pub space: Space,
    /// Where that is.
    pub place: &'a Path,
}

/// Whether it may.
pub fn restorable(facts: &SnapshotFacts<'_>, matrix: &Matrix) -> Result<(), Fault> {
    let content = facts.content;
    if content.keys == 0 || content.revision <= 1 {
        return Err(unusable(
            "nothing was ever written into it".into(),
            "choose another backup",
        ));
    }
    match facts.of {
        Some(of) => whose(of, facts.here, facts.any_cluster)?,
        None => anybodys(facts.unsigned)?,
    }
    let made_by = content.storage.clone().unwrap_or(SAYS_NOTHING);
    matrix
        .etcd_restores(&made_by, facts.etcd)
        .map_err(|fault| *fault)?;
    let need = content.bytes.saturating_add(LOG_PIECE);
    facts
        .space
        .require(facts.place, need)
        .map_err(|e| Fault::new(FaultCode::DiskFull, WHAT, e.to_string()).fix(space::FIX))
}

/// Whether it is this cluster's, or may be another one's.
pub(super) fn whose(of: ClusterId, here: ClusterId, any: bool) -> Result<(), Fault> {
    if any || of == here {
        return Ok(());
    }
    let why = format!("it is of cluster {of}, this master is of {here}");
    let fix = "use --any-cluster if it is the right one all the same";
    Err(Fault::new(FaultCode::EtcdRestoreForeign, WHAT, why).fix(fix))
}

/// A plain snapshot names neither its author nor its cluster.
fn anybodys(unsigned: bool) -> Result<(), Fault> {
    if unsigned {
        return Ok(());
    }
    let why = "its origin and cluster are unknown: a plain snapshot is not signed";
    let fix = "use --unsigned if you trust its origin, or name a sealed backup: pf9ctl etcd list";
    Err(Fault::new(FaultCode::BackupUntrusted, WHAT, why).fix(fix))
}

pub(super) const WHAT: &str = "the snapshot is not restored, and nothing was changed";

/// Why this file is none.
pub(super) fn unusable(why: String, fix: &str) -> Fault {
    Fault::new(FaultCode::EtcdRestoreUnfit, WHAT, why).fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn content(storage: Option<&str>) -> Content {
        Content {
            bytes: 100 * MIB,
            revision: 7,
            keys: 3,
            hash: 1,
            storage: storage.map(|v| v.parse().expect("version")),
        }
    }

    fn verdict(
        change: impl FnOnce(&mut SnapshotFacts<'_>, &mut Content),
        etcd: &str,
    ) -> Result<(), String> {
        let etcd: Version = etcd.parse().expect("version");
        let own = ClusterId::random();
        let mut content = content(Some("3.7.0"));
        let mut other = content.clone();
        let mut facts = SnapshotFacts {
            content: &content.clone(),
            etcd: &etcd,
            of: Some(own),
            here: own,
            any_cluster: false,
            unsigned: false,
            space: Space {
                total: 1000 * MIB,
                free: 500 * MIB,
            },
            place: Path::new("/var/lib/pf9/etcd"),
        };
        change(&mut facts, &mut other);
        content = other;
        facts.content = &content;
        restorable(&facts, Matrix::ours()).map_err(|fault| format!("{fault}"))
    }

    #[test]
    fn what_is_whole_ours_fitting_and_has_room_is_restored() {
        assert_eq!(verdict(|_, _| {}, "3.7.3"), Ok(()));
    }

    /// What may be restored by what; what no test restored is refused.
    #[test]
    fn releases_go_by_the_table() {
        for (made_by, etcd, may) in [
            (None, "3.5.35", true),
            (None, "3.6.16", true),
            (None, "3.7.3", true),
            (Some("3.6.0"), "3.6.16", true),
            (Some("3.6.0"), "3.7.3", true),
            (Some("3.6.0"), "3.5.35", false),
            (Some("3.7.0"), "3.7.3", true),
            // Its tool takes it, and etcd does not start with it.
            (Some("3.7.0"), "3.6.16", false),
            (Some("3.8.0"), "3.8.0", false),
        ] {
            let said = verdict(
                |_, c| c.storage = made_by.map(|v| v.parse().expect("version")),
                etcd,
            );
            assert_eq!(said.is_ok(), may, "{made_by:?} by {etcd}: {said:?}");
        }
    }

    #[test]
    fn anothers_snapshot_is_restored_only_when_told() {
        let said = verdict(|f, _| f.of = Some(ClusterId::random()), "3.7.3");
        assert!(said.is_err_and(|e| e.contains("it is of cluster")));
        let told = |f: &mut SnapshotFacts<'_>, _: &mut Content| {
            (f.of, f.any_cluster) = (Some(ClusterId::random()), true);
        };
        assert_eq!(verdict(told, "3.7.3"), Ok(()));
        // A plain one: that it may be another cluster's says nothing of who made it.
        for (any_cluster, unsigned) in [(false, false), (true, false), (false, true)] {
            let plain = |f: &mut SnapshotFacts<'_>, _: &mut Content| {
                (f.of, f.any_cluster, f.unsigned) = (None, any_cluster, unsigned);
            };
            let said = verdict(plain, "3.7.3");
            assert_eq!(said.is_ok(), unsigned, "{said:?}");
        }
    }

    #[test]
    fn one_without_room_or_without_a_key_is_refused() {
        let said = verdict(|f, _| f.space.free = 200 * MIB, "3.7.3");
        assert!(said.is_err_and(|e| e.contains("are needed")));
        let said = verdict(|_, c| (c.keys, c.revision) = (0, 1), "3.7.3");
        assert!(said.is_err_and(|e| e.contains("nothing was ever written")));
    }
}
